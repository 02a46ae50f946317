"""A cube averaged to a lower Nside, against healpy."""

import healpy as hp
import numpy as np
import pytest

from foreglow.errors import MapError
from foreglow.hi_cube.cube import write_cube
from foreglow.hi_cube.lower import lower_cube

FINE, LOW = 8, 2
N_PIX = hp.nside2npix(FINE)


@pytest.fixture
def cube(tmp_path):
    """Ten channels, more than a chunk; a part of the sky is not observed."""
    maps = np.random.default_rng(0).normal(size=(10, N_PIX)).astype(np.float32)
    maps[:, hp.nest2ring(FINE, np.arange(100))] = np.nan
    maps[:, hp.nest2ring(FINE, np.arange(200, 205))] = np.nan
    return write_cube(tmp_path / "c.zarr", np.arange(10.0), maps, FINE, 16.2, "a test"), maps


def test_means_are_those_of_healpy(cube, tmp_path):
    opened, maps = cube
    made = lower_cube(opened, tmp_path / "low.zarr", LOW)
    assert (made.nside, made.beam_arcmin) == (LOW, 16.2)
    assert made.source == "a test, averaged from Nside 8"
    np.testing.assert_array_equal(made.velocity_kms, opened.velocity_kms)
    filled = np.where(np.isnan(maps), hp.UNSEEN, maps)
    for k, channel in enumerate(made.channels()):
        expected = hp.ud_grade(filled[k].astype(float), LOW)
        seen = np.isfinite(channel)
        np.testing.assert_allclose(channel[seen], expected[seen], rtol=1e-5, atol=1e-6)
        nested = seen[hp.nest2ring(LOW, np.arange(48))]
        # of pixels 6 and 12 a quarter and a third are missing, which is less than half
        np.testing.assert_array_equal(np.flatnonzero(~nested), np.arange(6))


@pytest.mark.parametrize("nside", [8, 16, 3, 0])
def test_an_nside_that_is_not_lower(cube, tmp_path, nside):
    with pytest.raises(MapError, match=f"below that of the cube, 8, .* got {nside}"):
        lower_cube(cube[0], tmp_path / "low.zarr", nside)
