"""The map that is learned: any unit, as it is stated; and a word where it cannot be dust."""

import re
import warnings

import healpy as hp
import numpy as np
import pytest

from foreglow.dust.target import (
    describe_sky,
    open_target,
    question_mask,
    question_slope,
    question_target,
    same_unit,
    validate_varies,
    with_unit,
)
from foreglow.errors import MapError
from foreglow.maps.conventions import MapWarning
from foreglow.maps.write import write_maps

NSIDE = 16
N_PIX = hp.nside2npix(NSIDE)
LAT = hp.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)[1]


def write(folder, stated, column="DUST"):
    write_maps(folder / "dust.fits", {column: (np.arange(N_PIX, dtype="f4"), stated)}, frame="G")
    return folder / "dust.fits"


@pytest.mark.parametrize(
    ("stated", "given", "unit"),
    [
        ("mag", None, "mag"),
        ("mag", "mag", "mag"),
        ("W/m2/sr", None, "W/m2/sr"),
        ("W/m2/sr", "W m-2 sr-1", "W m-2 sr-1"),
        ("10^20 cm^-2", None, "10^20 cm^-2"),
        ("arbitrary", None, "arbitrary"),
        ("muK_{RJ}", None, "uK_RJ"),
        ("", "1", "1"),
        ("", "none", "1"),
        ("", "dimensionless", "1"),
        ("", "muK_RJ", "uK_RJ"),
        ("", "K km/s", "K km/s"),
        ("mK", "mK_CMB", "mK_CMB"),
    ],
)
def test_any_unit_is_good(tmp_path, stated, given, unit):
    found, said = open_target(write(tmp_path, stated), given)
    assert said == unit
    np.testing.assert_array_equal(found.read(np.arange(5)), np.arange(5))


@pytest.mark.parametrize(
    ("stated", "given", "message"),
    [
        (
            "",
            None,
            "dust.fits: expected a unit (TUNIT) for column TAU353, got none; pass dust_unit=, any "
            "text, such as mag or W/m2/sr; 1 for a number without a unit, such "
            "as an optical depth",
        ),
        (
            "mag",
            "uK_RJ",
            "dust.fits: expected the unit uK_RJ, as given (unit= or sky.toml), got 'mag' "
            "in the header (TUNIT of TAU353); correct the one that is wrong",
        ),
        ("MJy/sr", "uK_RJ", "got 'MJy/sr' in the header"),
        ("uK_CMB", "uK_RJ", "got 'uK_CMB' in the header"),
        ("K", "mK_CMB", "got 'K' in the header"),
        ("mag", "1", "got 'mag' in the header"),
        ("uK", None, "does not say thermodynamic (_CMB) or Rayleigh-Jeans (_RJ); pass dust_unit="),
    ],
)
def test_what_a_unit_cannot_be(tmp_path, stated, given, message):
    with pytest.raises(MapError, match=re.escape(message)):
        open_target(write(tmp_path, stated, "TAU353"), given)


def test_units_in_two_spellings():
    assert same_unit("W/m2/sr", "W m-2 sr-1")
    assert same_unit("1", "dimensionless")
    assert same_unit("no unit of ours", "no unit of ours")
    assert not same_unit("mag", "1")
    assert not same_unit("uK_RJ", "uK_CMB")
    assert not same_unit("MJy/sr", "Jy/sr")
    assert (with_unit("3", "mag"), with_unit("3", "1")) == ("3 mag", "3")


@pytest.mark.parametrize("value", [0.0, 3.0, -7e-7])
def test_a_map_that_does_not_vary(tmp_path, value):
    dust = np.full(300, value, np.float32)
    dust[7] = np.nan
    message = (
        f"dust.fits: expected a dust map that varies over the sky, got {value:g} mag in all 299 "
        "pixels that count; check that it is the dust, and its column (dust.fits[COLUMN] names "
        "another)"
    )
    with pytest.raises(MapError, match=re.escape(message)):
        validate_varies(tmp_path / "dust.fits", dust, "mag")
    dust[3] += 1e-9 if value == 0 else 1e-3 * value
    validate_varies(tmp_path / "dust.fits", dust, "mag")


def said(question, *arguments):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        question(*arguments)
    assert all(w.category is MapWarning for w in caught)
    return [str(w.message) for w in caught]


def test_dust_and_gas(tmp_path):
    rng = np.random.default_rng(0)
    gas = rng.lognormal(size=5000)
    dust, path = gas * rng.lognormal(sigma=0.5, size=5000), tmp_path / "d.fits"
    assert said(question_target, path, dust, gas) == []
    (text,) = said(question_target, path, -dust, gas)
    assert re.fullmatch(
        r"expected dust that rises with the gas, but the rank correlation of \S+d.fits with the "
        r"integrated cube is -0\.\d\d: the map falls where there is more gas; check its sign",
        text,
    )
    (text,) = said(question_target, path, rng.permutation(dust), gas)
    assert "hardly follows the gas; check that both show one sky (ORDERING, COORDSYS)" in text
    (text,) = said(question_target, path, dust, 0 * gas)
    assert "is 0.00: the map hardly follows the gas" in text
    assert said(question_slope, "d.fits", 0.4) == []
    assert "d.fits falls where it rises (slope -2)" in said(question_slope, "d.fits", -2.0)[0]


def test_masks(tmp_path):
    """An inverted one is told by the gas, wherever the sky is observed."""
    gas = 3 / (0.05 + np.abs(np.sin(np.radians(LAT))))
    gas *= np.random.default_rng(0).lognormal(sigma=0.5, size=N_PIX)
    open_sky, path = np.abs(LAT) > 25, tmp_path / "mask.fits"
    assert said(question_mask, path, gas, open_sky) == []
    assert said(question_mask, path, gas, np.ones(N_PIX, bool)) == []
    sources = np.random.default_rng(1).random(N_PIX) > 0.02
    assert said(question_mask, path, gas, sources) == []
    (text,) = said(question_mask, path, gas, ~open_sky)
    assert re.fullmatch(
        r"\S+mask.fits keeps 44% of the sky that is observed, and that is the bright part: there "
        r"is more gas than where it leaves the sky out in 9\d% of all pairs of pixels \(mean \|b\| "
        r"13 deg and 48 deg\)\. The sky counts where a mask is above zero; if this one marks what "
        "to leave out, invert it",
        text,
    )
    part = np.where((LAT > 10) & (LAT < 60), gas, np.nan)
    assert len(said(question_mask, path, part, ~open_sky)) == 1
    assert said(question_mask, path, part, LAT < 70) == []  # all that is observed counts


def test_how_much_of_the_sky(tmp_path):
    path = tmp_path / "d.fits"
    assert describe_sky(path, "mag", LAT > 30) == (
        f"dust of {path} [mag]: 736 of 3072 pixels count (24.0% of the sky), mean |b| 52 deg"
    )
    assert "[no unit]: 3072 of 3072 pixels count (100.0%" in describe_sky(path, "1", LAT > -99)
