"""Frames and units: agreement with rotated alms and with PySM3, and what bad ones are told."""

import healpy as hp
import numpy as np
import pytest

from foreglow.errors import MapError, ShapeError
from foreglow.maps.conventions import UNITS, rotate_to_galactic, to_uk_rj_factor, unit_agrees

NSIDE = 4
N_PIX = hp.nside2npix(NSIDE)


@pytest.mark.parametrize("frame", ["C", "E"])
def test_rotation_agrees_with_rotated_alms(frame):
    nside, lmax = 64, 6
    rng = np.random.default_rng(3)
    size = hp.Alm.getsize(lmax)
    alm = rng.normal(size=(3, size)) + 1j * rng.normal(size=(3, size))
    alm[:, : lmax + 1] = alm[:, : lmax + 1].real  # m = 0
    alm[1:, hp.Alm.getlm(lmax)[0] < 2] = 0
    stored = hp.alm2map(alm, nside, lmax=lmax)
    rotator = hp.Rotator(coord=[frame, "G"])
    galactic = rotator.rotate_map_alms(stored, use_pixel_weights=False, lmax=lmax)
    pixels = np.arange(hp.nside2npix(nside))
    theta, phi = rotator(*hp.pix2ang(nside, pixels))
    away = (theta > 0.2) & (theta < np.pi - 0.2)  # a spin-2 field cannot be interpolated at a pole
    expected = np.stack([hp.get_interp_val(m, theta[away], phi[away]) for m in galactic[1:]])
    rotated = rotate_to_galactic(stored[1:], pixels, nside, frame)
    difference = (rotated[:, away] - expected).std() / expected.std()
    assert difference < 2e-3
    # and not by the accident of a small angle
    assert (stored[1:, away] - expected).std() > 0.5 * expected.std()


def test_rotation_is_by_the_angle_of_the_meridians():
    pixels = np.arange(N_PIX)
    rotator = hp.Rotator(coord=["C", "G"])
    theta, phi = hp.pix2ang(NSIDE, pixels)
    # polarised along the meridian of C: in COSMO, psi = 0. By finite difference, the Galactic
    # direction of a step south; psi grows from south towards east.
    step = 1e-6
    here, there = (np.array(rotator(t, phi)) for t in (theta, theta + step))
    south = (there[0] - here[0]) / step
    east = np.angle(np.exp(1j * (there[1] - here[1]))) * np.sin(here[0]) / step
    psi = np.arctan2(east, south)
    rotated = rotate_to_galactic(np.stack([np.ones(N_PIX), np.zeros(N_PIX)]), pixels, NSIDE, "C")
    np.testing.assert_allclose(rotated, [np.cos(2 * psi), np.sin(2 * psi)], atol=1e-4)


def test_rotation_keeps_intensity_dtype_and_galactic_maps():
    pixels = np.array([5, 70, 191])
    qu = np.array([[1, 2, np.nan], [0.5, -1, np.nan]], dtype=np.float32)
    rotated = rotate_to_galactic(qu, pixels, NSIDE, "E")
    assert rotated.dtype == np.float32
    np.testing.assert_allclose(np.hypot(*rotated), np.hypot(*qu), rtol=1e-6)
    assert rotate_to_galactic(qu, pixels, NSIDE, "G") is qu
    with pytest.raises(ShapeError, match=r"expected Q,U of shape \(2, 2\), got \(2, 3\)"):
        rotate_to_galactic(qu, pixels[:2], NSIDE, "C")
    with pytest.raises(MapError, match="got 'B1950'"):
        rotate_to_galactic(qu, pixels, NSIDE, "B1950")


@pytest.mark.parametrize("frequency_ghz", [0.408, 11.0, 30, 143.0, 353.0, 857.0])
@pytest.mark.parametrize("unit", UNITS)
def test_units_agree_with_pysm(unit, frequency_ghz):
    import pysm3.units as pu

    frequency = frequency_ghz * pu.GHz
    expected = (1 * pu.Unit(unit)).to_value(pu.uK_RJ, pu.cmb_equivalencies(frequency))
    assert to_uk_rj_factor(unit, frequency_ghz) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("frequency_ghz", [0, -30.0, np.nan, np.inf])
def test_units_need_a_frequency(frequency_ghz):
    with pytest.raises(MapError, match="a frequency above 0 GHz"):
        to_uk_rj_factor("K_CMB", frequency_ghz)


def test_units_need_a_known_unit():
    with pytest.raises(MapError, match=r"expected one of K_CMB, .* got unit 'Jy/beam'"):
        to_uk_rj_factor("Jy/beam", 30.0)


@pytest.mark.parametrize(
    ("stated", "unit", "agrees"),
    [
        ("", "K_CMB", True),
        ("K", "K_CMB", True),
        ("K", "K_RJ", True),
        ("mK", "uK_RJ", False),
        ("Kcmb", "K_CMB", True),
        ("K_CMB", "K_RJ", False),
        ("mK,thermodynamic", "mK_CMB", True),
        ("MJy/sr", "MJy/sr", True),
        ("K", "MJy/sr", False),
        ("MJy/sr", "uK_RJ", False),
        ("n/a", "uK_RJ", True),
        ("furlong", "uK_RJ", True),  # nobody knows it
        ("mag", "uK_RJ", False),
        ("mag", "mag", True),
        ("W/m2/sr", "W m-2 sr-1", True),
        ("cm-2", "mag", False),
        ("mK_CMB", "mag", False),
    ],
)
def test_units_that_can_be_meant(stated, unit, agrees):
    assert unit_agrees(stated, unit) is agrees
