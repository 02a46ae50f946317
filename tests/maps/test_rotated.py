"""Q,U of another frame on Galactic pixels: the angle, the poles, the edges, and what is lost."""

import astropy.units as u
import healpy as hp
import numpy as np
import pytest
from astropy.coordinates import SkyCoord

from foreglow.maps.rotated import polarisation_to_galactic, scalar_to_galactic

NSIDE = 32
N_PIX = hp.nside2npix(NSIDE)
L_MAX = 3 * NSIDE - 1
CENTRES = np.stack(hp.pix2vec(NSIDE, np.arange(N_PIX)))


@pytest.fixture(scope="module")
def sky():
    """E and B modes smooth to 6 degrees in the Galactic and the celestial frame, by harmonics."""
    ell = np.arange(L_MAX + 1)
    cl = np.where(ell > 1, hp.gauss_beam(np.radians(6), lmax=L_MAX) ** 2 / np.maximum(ell, 1), 0)
    shape, rng = hp.Alm.getsize(L_MAX), np.random.default_rng(0)
    noise = rng.normal(size=(2, 2, shape))
    alm = [np.zeros(shape, complex)]
    alm += [hp.almxfl(re + 1j * im, np.sqrt(cl / 2)) for re, im in noise]
    for one in alm[1:]:
        one[: L_MAX + 1] = np.sqrt(2) * one[: L_MAX + 1].real
    turned = [one.copy() for one in alm]
    hp.Rotator(coord=["G", "C"]).rotate_alm(turned, inplace=True)
    return hp.alm2map(alm, NSIDE)[1:], hp.alm2map(turned, NSIDE)[1:]


def test_it_is_the_sky_turned_at_the_poles_of_both_frames_too(sky):
    galactic, celestial = sky
    found = polarisation_to_galactic(celestial, "C")
    rms = galactic.std()
    assert np.sqrt(np.mean((found - galactic) ** 2)) < 0.07 * rms
    pole = np.array(hp.Rotator(coord=["C", "G"])([0.0, 0.0, 1.0]))
    for centre in (pole, -pole, [0, 0, 1], [0, 0, -1]):
        near = np.asarray(centre) @ CENTRES > np.cos(np.radians(4))
        assert np.abs(found - galactic)[:, near].max() < 0.2 * rms


def test_healpys_own_is_wrong_at_the_poles_of_the_old_frame(sky):
    """Which is why it is not used: neighbours there have other meridians."""
    galactic, celestial = sky
    (_, *theirs) = hp.Rotator(coord=["C", "G"]).rotate_map_pixel([celestial[0] * 0, *celestial])
    pole = np.array(hp.Rotator(coord=["C", "G"])([0.0, 0.0, 1.0]))
    near = pole @ CENTRES > np.cos(np.radians(4))
    assert np.abs(theirs - galactic)[:, near].max() > galactic.std()
    far = np.abs(pole @ CENTRES) < np.cos(np.radians(20))
    np.testing.assert_allclose(
        polarisation_to_galactic(celestial, "C")[:, far],
        np.asarray(theirs)[:, far],
        atol=0.1 * galactic.std(),
    )


def test_the_angle_is_that_of_the_north_poles_by_astropy():
    """Q = 1 along celestial meridians lies, seen from the Galactic, at the parallactic angle."""
    found = polarisation_to_galactic(np.stack([np.ones(N_PIX), np.zeros(N_PIX)]), "C")
    lon, lat = hp.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)
    here = SkyCoord(lon * u.deg, lat * u.deg, frame="galactic")
    pole = SkyCoord(0 * u.deg, 90 * u.deg, frame="icrs").galactic
    angle = here.position_angle(pole).rad  # from north towards east; COSMO: Q + iU = exp(-2i angle)
    expected = np.stack([np.cos(2 * angle), -np.sin(2 * angle)])
    away = np.abs(here.icrs.dec.deg) < 70  # where meridians of neighbours hardly differ
    np.testing.assert_allclose(found[:, away], expected[:, away], atol=0.01)


def test_what_is_not_observed_stays_so_and_spoils_nothing(sky):
    _, celestial = sky
    lon, lat = hp.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)
    part = np.where(lat > 20, celestial, np.nan)
    found = polarisation_to_galactic(part, "C")
    dec = SkyCoord(lon * u.deg, lat * u.deg, frame="galactic").icrs.dec.deg
    assert not np.isfinite(found[:, dec < 18]).any()
    whole, inside = polarisation_to_galactic(celestial, "C"), dec > 22
    np.testing.assert_array_equal(found[:, inside], whole[:, inside])
    assert np.isfinite(found).mean() == pytest.approx(np.isfinite(part).mean(), rel=0.02)
    np.testing.assert_array_equal(np.isfinite(found[0]), np.isfinite(found[1]))


def test_there_is_nothing_to_do_in_the_galactic_frame():
    qu = np.ones((2, 48))
    assert polarisation_to_galactic(qu, "G") is qu
    values = qu[0]
    assert scalar_to_galactic(values, "G") is values


def test_a_scalar_is_healpys_interpolation():
    values = np.random.default_rng(1).normal(size=N_PIX)
    theirs = hp.Rotator(coord=["E", "G"]).rotate_map_pixel(values)
    np.testing.assert_allclose(scalar_to_galactic(values, "E"), theirs, atol=1e-10)


def test_how_much_the_mean_smooths():
    """Of the power at ell = Nside / 2 a twentieth is lost, at Nside a fifth, at 2 Nside half."""
    values = np.random.default_rng(2).normal(size=N_PIX)
    values = hp.alm2map(hp.map2alm(values, lmax=2 * NSIDE), NSIDE)
    power = hp.anafast(scalar_to_galactic(values, "C")) / hp.anafast(values)
    kept = [power[at - 4 : at + 5].mean() for at in (NSIDE // 2, NSIDE, 2 * NSIDE - 5)]
    np.testing.assert_allclose(kept, [0.95, 0.8, 0.5], atol=0.1)
