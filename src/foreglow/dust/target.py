"""The map that dust is predicted as: its unit, and whether it is dust, on the sky that was meant.

A model gives the unit of its target, whatever that is: E(B-V), an optical depth, a radiance.
"""

import logging
import re
import warnings
from pathlib import Path

import astropy.units as u
import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu, spearmanr

from foreglow.errors import MapError, warn
from foreglow.maps import healpix as hp
from foreglow.maps.conventions import (
    UNITS,
    MapWarning,
    canonical_unit,
    unit_agrees,
)
from foreglow.maps.io import IntensityMap, open_plain_map, validate_numbers, validate_unit

log = logging.getLogger("foreglow")

NO_UNIT = "1"
_DIMENSIONLESS = ("1", "none", "dimensionless", "unitless")
_LEAST_CORRELATION = 0.1  # of dust and gas by rank; on the sky it is .5 to .95
_INVERTED = 0.75  # share of pairs with more gas where a mask keeps than where it leaves out
_ANY_TEXT = (
    ", any text, such as mag or W/m2/sr; 1 for a number without a unit, such as an optical depth"
)
_SAMPLE = 50_000  # pixels that tell it
_FLAT = 1e-6  # of the values: float32 rounding


def open_target(path: Path, unit: str | None) -> tuple[IntensityMap, str]:
    """Open a dust map, in any unit.

    Parameters
    ----------
    path : Path
        FITS, of one column or `FILE[COLUMN]`.
    unit : str, optional
        Where its header states none: any text; "1" for a number without unit.

    Returns
    -------
    IntensityMap, str
        Its unit: one of `UNITS` in that spelling, "1", or the text as it stands.

    Raises
    ------
    MapError
        If the file cannot be read, no unit is stated or a kelvin that does not say which, or the
        header states another than `unit`.
    """
    unit = None if unit is None else str(unit)
    found = open_plain_map(path)
    validate_numbers(path, found.columns)
    stated = found.columns[0].unit
    if unit is None and not stated:
        raise MapError(
            f"{path}: expected a unit (TUNIT) for column {found.columns[0].name}, got none; pass "
            f"dust_unit={_ANY_TEXT}"
        )
    if unit is not None and not same_unit(stated, unit):
        validate_unit(path, found.columns, _spelled(path, unit))
    return found, _spelled(path, stated if unit is None else unit)


def array_unit(stated: str, unit: str | None) -> str:
    """The unit of a dust map in memory, as `open_target` finds that of a file.

    Parameters
    ----------
    stated : str
        Of a Quantity; "" for a plain array.
    unit : str, optional
        The argument `dust_unit`, where the array states none, or a kelvin that does not say which.

    Raises
    ------
    MapError
        If neither says it, or they disagree.
    """
    unit = None if unit is None else str(unit)
    if unit is None and not stated:
        raise MapError(f"dust: expected its unit, got a plain array; pass dust_unit={_ANY_TEXT}")
    if unit is not None and not (same_unit(stated, unit) or unit_agrees(stated, unit)):
        raise MapError(
            f"dust_unit: expected the unit of the dust map, {stated}, got {unit}; leave it out, or "
            "convert the map"
        )
    return _spelled(Path("dust"), stated if unit is None else unit)


def same_unit(one: str, other: str) -> bool:
    """Whether two texts mean one unit.

    Examples
    --------
    >>> same_unit("W/m2/sr", "W m-2 sr-1"), same_unit("muK_RJ", "uK_RJ"), same_unit("mag", "K_CMB")
    (True, True, False)
    """
    return _meaning(one) == _meaning(other)


def with_unit(number: str, unit: str) -> str:
    """A number and its unit, as a reader expects them.

    Examples
    --------
    >>> with_unit("0.3", "mag"), with_unit("1e-06", "1")
    ('0.3 mag', '1e-06')
    """
    return number if unit == NO_UNIT else f"{number} {unit}"


def validate_varies(name: str | Path, values: NDArray, unit: str) -> None:
    """Check that a dust map varies where it counts; NaN where it does not.

    Raises
    ------
    MapError
        If it does not.
    """
    values = values[np.isfinite(values)]
    low, high = float(values.min(initial=np.inf)), float(values.max(initial=-np.inf))
    if values.size and high - low <= _FLAT * max(abs(low), abs(high)):
        column = ""
        if isinstance(name, Path):
            column = f", and its column ({name.name}[COLUMN] names another)"
        raise MapError(
            f"{name}: expected a dust map that varies over the sky, got "
            f"{with_unit(f'{low:g}', unit)} in all {values.size} pixels that count; check that it "
            f"is the dust{column}"
        )


def question_target(path: str | Path, dust: NDArray, gas: NDArray) -> None:
    """Warn of a dust map that does not rise with the gas.

    Parameters
    ----------
    path : str or Path
        What to call the map.
    dust, gas : ndarray, shape (n,)
        Where the sky counts; the gas summed over its channels.

    Warns
    -----
    MapWarning
    """
    one, other = _some(dust), _some(gas)
    r = float(spearmanr(one, other)[0]) if np.ptp(other) > 0 else 0.0  # pyright: ignore[reportArgumentType]
    told = f"the rank correlation of {path} with the integrated cube is {r:.2f}"
    if r < -_LEAST_CORRELATION:
        advice = "the map falls where there is more gas; check its sign"
    elif r < _LEAST_CORRELATION:
        advice = (
            "the map hardly follows the gas; check that both show one sky (ORDERING, COORDSYS), "
            "the column and the range of velocities"
        )
    else:
        return
    warn(f"expected dust that rises with the gas, but {told}: {advice}", MapWarning)


def question_mask(path: str | Path, gas: NDArray, kept: NDArray[np.bool_]) -> None:
    """Warn of a mask that keeps the bright sky and leaves out the faint one.

    Parameters
    ----------
    path : str or Path
        What to call the mask.
    gas : ndarray, shape (n_pix,)
        RING, Galactic, summed over its channels; NaN where it is not observed.
    kept : ndarray of bool, shape (n_pix,)
        Where the mask is above zero.

    Warns
    -----
    MapWarning
    """
    seen = np.isfinite(gas)
    inside, outside = np.flatnonzero(seen & kept), np.flatnonzero(seen & ~kept)
    if not (inside.size and outside.size):
        return
    one, other = _some(gas[inside]), _some(gas[outside])
    brighter = float(mannwhitneyu(one, other).statistic) / (one.size * other.size)
    if brighter > _INVERTED:
        latitude = [f"{mean_latitude(where, gas.size):.0f} deg" for where in (inside, outside)]
        warn(
            f"{path} keeps {inside.size / seen.sum():.0%} of the sky that is observed, and that is "
            f"the bright part: there is more gas than where it leaves the sky out in "
            f"{brighter:.0%} of all pairs of pixels (mean |b| {latitude[0]} and {latitude[1]}). "
            "The sky counts where a mask is above zero; if this one marks what to leave out, "
            "invert it",
            MapWarning,
        )


def question_slope(name: str, slope: float) -> None:
    """Warn of a dust map that falls where the prediction rises.

    Warns
    -----
    MapWarning
    """
    if slope <= 0:
        warn(
            f"expected a dust map that rises with the prediction, but {name} falls where it rises "
            f"(slope {slope:.3g}), and the map that is written follows it; check the sign of the "
            "dust map, and that it shows the sky of the cube",
            MapWarning,
        )


def mean_latitude(pixels: NDArray[np.integer], n_pix: int) -> float:
    """Mean |b| [deg] of RING pixels of a Galactic map."""
    latitude = hp.pix2ang(hp.npix2nside(n_pix), pixels, lonlat=True)[1]
    return float(np.abs(latitude).mean())


def describe_sky(path: str | Path, unit: str, counts: NDArray[np.bool_]) -> str:
    """How much of the sky counts, and where it lies."""
    pixels = np.flatnonzero(counts)
    stated = "no unit" if unit == NO_UNIT else unit
    return (
        f"dust of {path} [{stated}]: {pixels.size} of {counts.size} pixels count "
        f"({counts.mean():.1%} of the sky), mean |b| {mean_latitude(pixels, counts.size):.0f} deg"
    )


def _some(values: NDArray) -> NDArray:
    return values[:: max(1, values.size // _SAMPLE)]


def _spelled(path: Path, text: str) -> str:
    """The one spelling of a unit that foreglow knows; any other text as it stands."""
    text = text.strip()
    if text.lower() in ("", *_DIMENSIONLESS):
        return NO_UNIT
    kelvin = re.fullmatch(r"(?i)[muµμ]?K", text) is not None
    try:
        return canonical_unit(str(path), text, "dust_unit")
    except MapError:
        if kelvin:
            raise
        return text


def _meaning(text: str) -> str | u.UnitBase:
    """What can be compared: one of `UNITS`, what astropy understands, or the text."""
    try:
        text = _spelled(Path(), text)
    except MapError:
        return text
    if text in UNITS:
        return text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", u.UnitsWarning)  # of a second slash
            return u.Unit(text)
    except ValueError:
        return text
