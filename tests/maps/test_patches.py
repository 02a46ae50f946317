"""Patches that follow the signal; `tests/recognition/test_fit_maps.py` has those of a user."""

import healpy as hp
import numpy as np
import pytest

from foreglow.errors import MapError, ShapeError
from foreglow.maps.patches import adaptive_patches

N_PIX = hp.nside2npix(16)


def errors(seed=0):
    """Steep in latitude, as signal to noise is."""
    lat = hp.pix2ang(16, np.arange(N_PIX), lonlat=True)[1]
    return 0.05 * (1 + np.abs(lat) / 10) * np.random.default_rng(seed).lognormal(0, 0.3, N_PIX)


def error_of(patches, error):
    weight = np.bincount(patches[patches >= 0], np.square(1 / error[patches >= 0]))
    return weight**-0.5


def test_they_meet_the_target_and_could_not_be_split():
    error = errors()
    patches = adaptive_patches(error, 0.1, coarsest=2)
    found = error_of(patches, error)
    size = np.bincount(patches)
    assert set(size) <= {1, 4, 16, 64}
    assert found[size < 64].max() <= 0.1
    assert len(set(size)) > 2
    nested = hp.reorder(patches, r2n=True)
    for k in np.flatnonzero(size > 1)[:40]:
        pixels = np.flatnonzero(nested == k)
        assert (np.diff(pixels) == 1).all()
        quarters = hp.reorder(error, r2n=True)[pixels].reshape(4, -1)
        assert (np.square(1 / quarters).sum(1) ** -0.5).max() > 0.1


def test_both_orderings_give_the_same():
    error = errors()
    ring = adaptive_patches(error, 0.1)
    nested = adaptive_patches(hp.reorder(error, r2n=True), 0.1, nest=True)
    np.testing.assert_array_equal(hp.reorder(ring, r2n=True), nested)


def test_the_ends():
    error = np.full(N_PIX, 0.1)
    np.testing.assert_array_equal(adaptive_patches(error, 0.1), hp.ring2nest(16, np.arange(N_PIX)))
    assert adaptive_patches(error, 1e-6, coarsest=1).max() == 11
    assert adaptive_patches(error, 0.1, coarsest=16).max() == N_PIX - 1


def test_where_nothing_is_known_there_is_no_patch():
    error = np.ma.array(errors(), mask=np.arange(N_PIX) == 7)
    error[3], error[4], error[5], error[6] = np.nan, hp.UNSEEN, np.inf, 0
    patches = adaptive_patches(error, 0.1)
    assert np.flatnonzero(patches < 0).tolist() == [3, 4, 5, 6, 7]
    assert sorted(set(patches)) == list(range(-1, patches.max() + 1))


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((np.ones(5), 0.1), ShapeError, "a map of errors of shape"),
        ((np.ones(N_PIX), 0.1, 3), MapError, "a power of 2 up to the Nside of the errors, 16"),
        ((np.ones(N_PIX), 0.1, 32), MapError, "got 32"),
        ((np.ones(N_PIX), 0.0), MapError, "a target above zero, got 0"),
        ((np.full(N_PIX, np.nan), 0.1), MapError, "errors above zero in some pixel, got none"),
    ],
)
def test_wrong_arguments(arguments, kind, message):
    with pytest.raises(kind, match=message):
        adaptive_patches(*arguments)
