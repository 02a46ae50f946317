"""A real cube of the GASS survey, as its server writes them, prepared."""

import healpy as hp
import numpy as np
import pytest
from astropy.io import fits

from foreglow.hi_cube.prepare import prepare

FIRST = 528  # channel of the file from -60 km/s on


@pytest.fixture(scope="module")
def gass(real_data):
    return real_data / "hi" / "gass_295_-41.fits.gz"


@pytest.fixture(scope="module")
def cube(gass, tmp_path_factory):
    return prepare([gass], tmp_path_factory.mktemp("gass") / "c.zarr", low_kms=-60, high_kms=60)


def test_axis_beam_and_grid(cube):
    """VELO-LSRK in 'M/S' is radio velocity in m/s; RESOL is the beam; the pixel gives Nside."""
    header_step = 0.8245000243187
    assert cube.nside == 1024
    assert cube.beam_arcmin == pytest.approx(60 * 0.2649, abs=0.01)
    np.testing.assert_allclose(np.diff(cube.velocity_kms), header_step, rtol=1e-6)
    assert cube.velocity_kms[0] == pytest.approx(-494.7000122 + FIRST * header_step, abs=1e-3)
    assert cube.n_channel == 145


def test_spectra_are_those_of_the_file(cube, gass):
    """At each grid point, within what bilinear interpolation to and fro changes."""
    maps = np.stack(list(cube.channels(slice(0, None, 36))))
    planes = fits.getdata(gass)[FIRST : FIRST + 145 : 36]
    for row in range(2, 11):
        for column in range(2, 11):
            # a plate carree whose reference point is on the equator: l and b are the axes
            lon, lat = 295 - 0.1060028 * (column - 6), 0.08 * (row + 1 - 519.5)
            pixel, weight = hp.get_interp_weights(1024, lon, lat, lonlat=True)
            found = (weight[:, None] * maps[:, pixel].T).sum(0)
            scatter = np.ptp(planes[:, row - 1 : row + 2, column - 1 : column + 2], axis=(1, 2))
            assert (np.abs(found - planes[:, row, column]) < 0.5 * scatter + 1e-3).all()


def test_only_the_tile_is_observed(cube):
    seen = np.flatnonzero(np.isfinite(cube.channel(0)))
    lon, lat = hp.pix2ang(1024, seen, lonlat=True)
    assert 294.3 < lon.min() < lon.max() < 295.7
    assert -41.52 < lat.min() < lat.max() < -40.48
    area = seen.size * hp.nside2pixarea(1024, degrees=True)
    expected = 13 * 0.08 * 13 * 0.1060028 * np.cos(np.radians(lat.mean()))
    assert area == pytest.approx(expected, rel=0.03)


def test_emission_lies_where_hydrogen_is(cube):
    """Bright near rest, none at 50 km/s."""
    chosen = np.arange(0, 145, 24)
    mean = np.array([np.nanmean(channel) for channel in cube.channels(chosen)])
    assert abs(cube.velocity_kms[chosen[mean.argmax()]]) < 12
    assert mean.max() > 2
    assert np.abs(mean[np.abs(cube.velocity_kms[chosen]) > 45]).max() < 0.3


def test_workers_make_the_same_bytes(cube, gass, pool, tmp_path):
    made = prepare([gass], tmp_path / "c.zarr", low_kms=-60, high_kms=60, pool=pool)
    mine, theirs = (
        {p.relative_to(c.path): p.read_bytes() for p in c.path.rglob("*") if p.is_file()}
        for c in (cube, made)
    )
    assert mine == theirs
