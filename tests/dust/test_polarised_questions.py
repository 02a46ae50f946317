"""What is said of Q,U maps that cannot be polarised dust; of those that can be, nothing."""

import warnings

import astropy.units as u
import healpy as hp
import numpy as np
import pytest

from foreglow.dust.polarised_questions import measure_parity, question_polarisation
from foreglow.dust.polarised_target import read_polarised
from foreglow.errors import MapError
from foreglow.hi_cube.arrays import as_cube
from foreglow.maps.conventions import MapWarning
from foreglow.sky.galaxy import mock_galaxy

NSIDE = 64
N_PIX = hp.nside2npix(NSIDE)
LAT = hp.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)[1]
OPEN = np.abs(LAT) > 20
NEST = hp.nest2ring(NSIDE, np.arange(N_PIX))


@pytest.fixture(scope="module", params=[0])
def sky(request):
    """I, Q, U of the mock's dust; I stands for the gas too."""
    return mock_galaxy(NSIDE, request.param).dust.astype(float)


def said(qu, gas, kept=OPEN, **words):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        question_polarisation("m.fits", qu, gas, kept, **words)
    assert all(one.category is MapWarning for one in caught)
    return [str(one.message) for one in caught]


@pytest.mark.parametrize("kept", [OPEN, LAT > -91, LAT > 20, LAT < -20, LAT > 60])
def test_nothing_is_said_of_dust(sky, kept):
    words = {"unit": "uK_RJ", "intensity": sky[0]}
    assert said(sky[1:], sky[0], kept, **words) == []
    assert said(sky[1:], None, kept, **words) == []


TURNED = {
    "U": (lambda q, v: (q, -v), "U seems to have the wrong sign; check the convention (POLCCONV"),
    "Q": (lambda q, v: (-q, v), "Q seems to have the wrong sign; negate it"),
    "swapped": (lambda q, v: (v, q), "Q and U seem to be in each other's place; check the columns"),
    "negated": (lambda q, v: (-q, -v), "Q and U both seem to have the wrong sign, as those of the"),
    "swapped and negated": (lambda q, v: (-v, -q), "give Q first and negate both"),
    "45": (lambda q, v: (-v, q), "turned by 45 deg, as if Q stood in the place of U and -U in"),
    "-45": (lambda q, v: (v, -q), "turned by 45 deg, as if -Q stood in the place of U and U in"),
}


@pytest.mark.parametrize("how", TURNED)
def test_signs_and_places_are_told_with_the_gas(sky, how):
    change, advice = TURNED[how]
    (message,) = said(np.stack(change(*sky[1:])), sky[0])
    assert message.startswith(
        "m.fits: expected polarised dust, with twice as much power in E as in B, got EE - BB of "
    )
    assert advice in message


@pytest.mark.parametrize(
    ("how", "told"),
    [("U", "U"), ("Q", "U"), ("swapped", "swapped"), ("45", "45"), ("-45", "45"), ("negated", "")],
)
def test_without_gas_both_negated_cannot_be_told_nor_which_of_the_two_is(sky, how, told):
    messages = said(np.stack(TURNED[how][0](*sky[1:])), None)
    assert [TURNED[told][1] in one for one in messages] == ([True] if told else [])


def test_advice_undoes_what_was_done(sky):
    """What was said to be done leaves nothing to say."""
    q, v = sky[1:]
    given = -np.stack([q, v])
    assert said(-given, sky[0]) == []
    given = np.stack([-v, q])  # turned by 45 deg: Q stands in the place of U, -U in that of Q
    assert said(np.stack([given[1], -given[0]]), sky[0]) == []


def test_a_wrong_sign_makes_e_and_b_alike_and_not_b_the_greater(sky):
    right = measure_parity(sky[1:], sky[0], OPEN)
    wrong = measure_parity(sky[1:] * [[1], [-1]], sky[0], OPEN)
    assert right.asymmetry > 0.2
    assert abs(right.mirrored_asymmetry) < 0.1
    assert wrong.asymmetry == pytest.approx(right.mirrored_asymmetry)
    assert (wrong.mirrored_te, wrong.te) == pytest.approx((right.te, right.mirrored_te))
    assert right.te > 0.4
    assert max(map(abs, (right.tb, right.mirrored_tb))) < 0.15


def test_of_little_sky_nothing_is_told(sky):
    small = np.asarray(hp.ang2vec(30, 50, lonlat=True)) @ hp.pix2vec(NSIDE, np.arange(N_PIX)) > 0.95
    for change, _ in TURNED.values():
        assert said(np.stack(change(*sky[1:])), sky[0], small) == []


@pytest.mark.parametrize("kept", [OPEN, LAT > -91, LAT > 20, LAT > 60])
def test_pixels_in_another_order(sky, kept):
    """A NESTED array given as RING, and the reverse."""
    (message,) = said(sky[1:, NEST], sky[0], kept)
    assert "expected polarised dust that is brighter where there is more gas, got a rank" in message
    assert "check the ordering (ORDERING in the header, nest=True for an array)" in message
    (message,) = said(sky[1:, hp.ring2nest(NSIDE, np.arange(N_PIX))], sky[0], kept)
    assert "nest=False for an array" in message


def test_noise_is_not_taken_for_a_wrong_sign(sky):
    noise = np.random.default_rng(0).normal(size=(2, N_PIX))
    assert said(noise, None) == []
    (message,) = said(noise, sky[0])
    assert "E and B alike; check that both show one sky (COORDSYS" in message
    level = 0.5 * np.median(np.hypot(*sky[1:, OPEN]))
    assert said(sky[1:] + level * noise, sky[0]) == []


def test_polarised_by_more_than_all(sky):
    (message,) = said(sky[1:], sky[0], intensity=sky[0] / 50)
    assert "expected polarised intensity below the intensity, got more in" in message
    assert "check that I, Q and U are in one unit" in message


@pytest.mark.parametrize(("unit", "factor"), [("K_CMB", 1), ("uK_RJ", 1e-8), ("mK_RJ", 1e4)])
def test_a_unit_that_no_sky_has(sky, unit, factor):
    (message,) = said(factor * 1e2 * sky[1:], sky[0], unit=unit)
    assert message.startswith(
        "m.fits: expected polarised dust of micro- to millikelvins, got a med"
    )
    assert message.endswith("check the unit (TUNIT in the header, dust_unit=)")
    assert said(sky[1:], sky[0], unit="MJy/sr") == []


def test_intensity_or_p_in_the_place_of_q(sky):
    p, psi = np.hypot(*sky[1:]), 0.5 * np.arctan2(sky[2], sky[1])
    for given in ([sky[0], sky[1]], [p, psi], [p, np.degrees(psi)]):
        (message,) = said(np.stack(given), sky[0])
        assert "expected Q of both signs, got none below zero; check that the two are Q" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, v: (q, 0 * v), r"m.fits, U: expected a dust map that varies .*, got 0 uK_RJ in"),
        (lambda q, v: (0 * q + 3, v), "m.fits, Q: expected a dust map that varies .*, got 3 uK_RJ"),
        (lambda q, v: (q, np.nan * v), "m.fits: expected Q and U somewhere in the sky that counts"),
    ],
)
def test_what_cannot_be_learned(sky, change, message):
    with pytest.raises(MapError, match=message):
        question_polarisation("m.fits", np.stack(change(*sky[1:])), None, OPEN, unit="uK_RJ")


def test_an_iau_file_that_does_not_say_so_and_what_is_to_be_done(sky, tmp_path):
    """Of another Nside too; both pieces of advice are followed to the letter."""
    velocity = np.arange(4) * u.km / u.s
    cube = as_cube(np.zeros((4, N_PIX), "f4"), velocity, "K", frame="G")
    fine = hp.ud_grade(sky, 2 * NSIDE) * np.array([[1], [1], [-1]])
    fine[:, :50] = hp.UNSEEN
    usual = {"coord": "G", "column_units": "uK_RJ", "dtype": np.float64}
    names = ["Q_STOKES", "U_STOKES"]
    hp.write_map(tmp_path / "fine.fits", fine, **usual)
    hp.write_map(
        tmp_path / "silent.fits", hp.ud_grade(fine, NSIDE)[1:], column_names=names, **usual
    )
    with pytest.raises(
        MapError, match=r"healpy\.ud_grade of Q and of U, with NaN as healpy\.UNSEEN"
    ):
        read_polarised(tmp_path / "fine.fits", None, cube, False, convention="COSMO")
    with pytest.warns(MapWarning, match="no POLCCONV in the header, taken as COSMO"):
        found = read_polarised(tmp_path / "silent.fits", None, cube, False)
    (message,) = said(found.qu, sky[0], unit=found.unit)
    assert "or convention='IAU' for what states none" in message
    again = read_polarised(tmp_path / "silent.fits", None, cube, False, convention="IAU")
    assert said(again.qu, sky[0], unit=again.unit) == []


def test_coarse_maps_have_too_few_modes_to_tell():
    coarse = np.random.default_rng(0).normal(size=(4, hp.nside2npix(16)))
    everywhere = np.ones(coarse.shape[1], bool)
    assert measure_parity(coarse[1:3], coarse[0], everywhere) is None
    assert measure_parity(coarse[1:3, :768], None, everywhere[:768]) is None  # no ell at all
