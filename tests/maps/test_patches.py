"""Patches that follow the signal; `tests/recognition/test_fit_maps.py` has those of a user."""

import healpy as hp
import numpy as np
import pytest

from foreglow.errors import MapError, ShapeError
from foreglow.maps.patches import adaptive_patches, clustered_patches

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


def test_clusters_are_round_without_values_and_follow_them_with():
    lon, lat = hp.pix2ang(16, np.arange(N_PIX), lonlat=True)
    mask = np.abs(lat) > 20
    plain = clustered_patches(40, mask=mask)
    assert (plain[~mask] == -1).all()
    size = np.bincount(plain[mask])
    assert len(size) == 40
    assert size.max() < 3 * size.mean()
    vectors = np.stack(hp.pix2vec(16, np.arange(N_PIX)), 1)
    middle = np.stack([vectors[plain == k].mean(0) for k in range(40)])
    assert np.linalg.norm(middle, axis=1).min() > 0.9  # none is torn apart
    stripes = np.where(lon % 60 < 30, -3.1, -2.9)
    alike = clustered_patches(40, stripes, spread=0.02)
    both = np.array([np.ptp(stripes[alike == k]) for k in range(alike.max() + 1)])
    assert (both == 0).all()
    apart = clustered_patches(40, stripes, spread=5.0)
    assert any(np.ptp(stripes[apart == k]) > 0 for k in range(40))


def test_clusters_in_both_orderings_and_where_values_are_missing():
    values = np.random.default_rng(1).normal(-3, 0.1, N_PIX)
    values[5], values[6] = np.nan, hp.UNSEEN
    ring = clustered_patches(12, values, spread=0.3)
    assert np.flatnonzero(ring < 0).tolist() == [5, 6]
    np.testing.assert_array_equal(ring, clustered_patches(12, values, spread=0.3))
    nested = clustered_patches(12, hp.reorder(values, r2n=True), spread=0.3, nest=True)
    assert nested.max() == ring.max() == 11
    assert clustered_patches(1, values, spread=0.3).max() == 0


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"number": 5}, MapError, "values or a mask, .* got neither"),
        ({"number": 5, "values": np.ones(7)}, ShapeError, "maps of one Nside"),
        ({"number": 5, "values": np.ones(48), "mask": np.ones(12)}, ShapeError, "maps of one"),
        ({"number": 5, "values": np.ones(48)}, MapError, "spread above zero, .* got None"),
        ({"number": 5, "values": np.ones(48), "spread": 0}, MapError, "got 0"),
        ({"number": 5, "values": np.ones(48), "spread": "wide"}, MapError, "got 'wide'"),
        ({"number": 2.5, "mask": np.ones(48)}, MapError, "a whole number, got 2.5"),
        ({"number": 5, "mask": np.ones(48), "spread": 1.0}, MapError, "values beside spread"),
        ({"number": 0, "mask": np.ones(48)}, MapError, "patches from 1 to the 48 pixels"),
        ({"number": 49, "mask": np.ones(48)}, MapError, "to share, got 49"),
        ({"number": 1, "mask": np.zeros(48)}, MapError, "the 0 pixels"),
    ],
)
def test_clusters_that_cannot_be(arguments, kind, message):
    with pytest.raises(kind, match=message):
        clustered_patches(**arguments)
