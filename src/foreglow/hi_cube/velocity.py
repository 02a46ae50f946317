"""The velocity axis of an HI cube: read from a header, checked, in km/s, ascending.

Read here and not by wcslib, which takes VELO-LSR without VELREF for optical velocity (surveys that
write it mean radio velocity) and stops at CUNIT3 = 'M/S' (which the GASS server writes).
"""

import contextlib
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreglow.errors import MapError
from foreglow.hi_cube.cards import Cards, unit_factor
from foreglow.hi_cube.store import validate_velocity
from foreglow.maps.conventions import warn_assumed

_RADIO = ("VRAD", "VELO", "VELOCITY")
_OPTICAL = ("VOPT", "FELO", "ZOPT")
_NOT_VELOCITY = {
    "FREQ": "frequency",
    "WAVE": "wavelength",
    "AWAV": "wavelength",
    "WAVN": "wave number",
    "ENER": "energy",
    "BETA": "v/c",
}
_SUFFIX = {
    "LSR": "LSRK",
    "LSRK": "LSRK",
    "LSD": "LSRD",
    "LSRD": "LSRD",
    "HEL": "BARYCENT",
    "BAR": "BARYCENT",
    "HELO": "BARYCENT",
    "OBS": "TOPOCENT",
    "TOPO": "TOPOCENT",
    "GEO": "GEOCENTR",
    "GAL": "GALACTOC",
}
_VELREF = {1: "LSRK", 2: "BARYCENT", 3: "TOPOCENT", 4: "LSRD", 5: "GEOCENTR"}
_UNEVEN = 0.05  # of a step, by which the steps of a table may differ: optical ones do by 1%
_NARROWEST_KMS, _WIDEST_KMS = 0.05, 100.0  # channels of an HI survey
_SAME = 0.01  # of a step, by which a table and a header that agree may differ
_REST_HZ = 1420405751.768
_TABLE = (
    "write the radio velocity of each channel into a text file, km/s LSRK, one a line, and pass "
    "velocity_table="
)


@dataclass(frozen=True, eq=False)
class VelocityAxis:
    """Velocity channels of a file.

    Attributes
    ----------
    kms : ndarray of float64, shape (n_channel,)
        LSRK, radio convention, ascending.
    flipped : bool
        The file has them descending.
    stated : str
        What the file says of the axis, for the record.
    """

    kms: NDArray[np.float64]
    flipped: bool
    stated: str


def velocity_axis(cards: Cards, axis: int, n_channel: int) -> VelocityAxis:
    """Velocity axis number `axis` (FITS counts from 1) of a header.

    VRAD, and VELO or VELOCITY taken as radio velocity unless VELREF says optical (at 100 km/s the
    two differ by 33 m/s); the unit of CUNIT, m/s where it is absent and that can be, with a
    warning; LSRK by SPECSYS, by VELO-LSR or by VELREF.

    Raises
    ------
    MapError
        If the axis is of frequency, optical velocity, another rest frame or none, or not linear,
        or its channels are too narrow or too wide for its unit to be right.
    """
    _validate_kind(cards, axis, n_channel)
    _validate_frame(cards, axis)
    step = _step(cards, axis)
    factor = _to_kms(cards, axis, step)
    first = 1 - cards.number(f"CRPIX{axis}")
    start = cards.number(f"CRVAL{axis}")
    kms = factor * (start + step * (np.arange(n_channel, dtype=np.float64) + first))
    flipped = step < 0
    stated = ", ".join(
        f"{key} = {cards.text(key)}"
        for key in (f"CTYPE{axis}", f"CUNIT{axis}", "SPECSYS", "VELREF")
        if key in cards
    )
    return VelocityAxis(kms[::-1].copy() if flipped else kms, flipped, stated)


def stated_velocity(
    cards: Cards, axis: int, n_channel: int, table: Path | None = None
) -> VelocityAxis:
    """Velocities by the axis of a header, or by a table in place of that.

    Raises
    ------
    MapError
        As `velocity_axis`, or, with a table, as `read_velocity_table` and if the header states
        another rest frame.
    """
    if table is None:
        return velocity_axis(cards, axis, n_channel)
    _validate_frame(cards, axis, by_table=True)
    given = read_velocity_table(table, n_channel)
    with contextlib.suppress(MapError):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said = velocity_axis(cards, axis, n_channel)
        _warn_if_other(cards.path, said, given, table)
    return given


def _warn_if_other(path: Path, said: VelocityAxis, given: VelocityAxis, table: Path) -> None:
    """Say that a table disagrees with a header that can be read."""
    away = np.abs(said.kms - given.kms).max()
    if said.flipped != given.flipped or away > _SAME * _width(said.kms):
        warn_assumed(
            f"{path}: the header has its first channel at {_first(said):.6g} km/s and its last at "
            f"{_last(said):.6g} km/s, {table} at {_first(given):.6g} and {_last(given):.6g} km/s: "
            "the table is taken"
        )


def read_velocity_table(path: Path, n_channel: int) -> VelocityAxis:
    """Velocities of channels from a text file: km/s LSRK, one a line, # begins a comment.

    Raises
    ------
    MapError
        If it cannot be read, has another number of lines, or they do not go up (or down) in even
        steps.
    """
    try:
        kms = np.loadtxt(path, dtype=np.float64, ndmin=1)
    except (OSError, ValueError) as error:
        raise MapError(
            f"{path}: expected a velocity in km/s on each line, got {error}; write one number a "
            "channel, in the order of the columns or files"
        ) from error
    if kms.shape != (n_channel,):
        raise MapError(
            f"{path}: expected {n_channel} velocities, one a channel, got an array of shape "
            f"{kms.shape}; write one number a line, in the order of the columns or files"
        )
    velocity = channel_velocities(path, kms, f"table {path.name}")
    width = _width(velocity.kms)
    if not _is_likely(width):
        warn_assumed(
            f"{path}: channels {width:.4g} km/s wide, where surveys have {_NARROWEST_KMS:g} to "
            f"{_WIDEST_KMS:g}: taken as they are; check that the numbers are km/s"
        )
    return velocity


def card_velocities(files: Sequence[Cards]) -> VelocityAxis:
    """Velocities of a file a channel, by the card VELO-LSR (m/s) of each.

    Raises
    ------
    MapError
        As `channel_velocities`, or if a card is no number, or of another unit by the width of the
        channels.
    """
    kms = 1e-3 * np.array([cards.number("VELO-LSR") for cards in files])
    velocity = channel_velocities(files[0].path, kms, "VELO-LSR (m/s)")
    width = _width(velocity.kms)
    if not _is_likely(width):
        raise MapError(
            f"{files[0].path}: expected channels {_NARROWEST_KMS:g} to {_WIDEST_KMS:g} km/s wide, "
            f"got {width:.4g} km/s by VELO-LSR, which is in m/s; correct the cards, or {_TABLE}"
        )
    return velocity


def channel_velocities(path: Path, kms: NDArray[np.float64], stated: str) -> VelocityAxis:
    """Velocities given one by one, checked to be even; descending ones are flipped.

    Raises
    ------
    MapError
        If they are not.
    """
    flipped = len(kms) > 1 and kms[0] > kms[-1]
    kms = validate_velocity(str(path), kms[::-1].copy() if flipped else kms)
    steps = np.diff(kms)
    if len(kms) > 2 and np.ptp(steps) > _UNEVEN * np.median(steps):
        k = int(np.abs(steps - np.median(steps)).argmax())
        raise MapError(
            f"{path}: expected velocities in even steps, got {steps[k]:.4g} km/s from {kms[k]:.6g} "
            f"to {kms[k + 1]:.6g} km/s, where most steps are {np.median(steps):.4g} km/s; add the "
            "channel that lacks or correct the velocities"
        )
    return VelocityAxis(kms, bool(flipped), stated)


def find_velocity_axis(path: Path, header: Mapping[str, Any], axes: list[int]) -> int:
    """The one of `axes` (FITS numbers) with more than one element, else the one of velocity.

    Raises
    ------
    MapError
        If there is none, or several.
    """
    kinds = {a: str(header.get(f"CTYPE{a}", "")).strip() for a in axes}
    known = (*_RADIO, *_OPTICAL, *_NOT_VELOCITY)
    spectral = [a for a, kind in kinds.items() if kind.upper()[:4] in {k[:4] for k in known}]
    long = [a for a in axes if int(header[f"NAXIS{a}"]) > 1]
    found = spectral if len(spectral) == 1 else long
    others = [a for a in long if a not in found]
    if len(found) != 1 or others:
        listing = ", ".join(f"CTYPE{a} = {kinds[a]!r} ({header[f'NAXIS{a}']})" for a in axes)
        raise MapError(
            f"{path}: expected two axes of the sky, then one of velocity, all others of length 1, "
            f"got {listing or 'no third axis'}; choose one plane of what is more, or bring the "
            "axes into this order"
        )
    return found[0]


def _validate_kind(cards: Cards, axis: int, n_channel: int) -> None:
    """Check that an axis is of radio velocity, in even steps."""
    ctype = cards.text(f"CTYPE{axis}").upper()
    kind = ctype.split("-")[0]
    velref = int(cards.number("VELREF"))
    wanted = f"expected an axis of radio velocity (CTYPE{axis} = VRAD or VELO-LSR)"
    if kind in _NOT_VELOCITY:
        came = f"one of {_NOT_VELOCITY[kind]} ({ctype})"
    elif kind in _OPTICAL:
        came = f"one of optical velocity ({ctype})"
    elif kind in _RADIO[1:] and 0 < velref <= 256:
        came = f"one of optical velocity ({ctype} with VELREF = {velref})"
    elif kind not in _RADIO:
        raise MapError(
            f"{cards.path}: {wanted}, got {ctype or 'none'!r}; if it is one, say so with "
            f"{cards.setting(f'CTYPE{axis}', repr('VRAD'))}"
        )
    elif _is_linear(ctype):
        return
    else:
        came = f"one that is not linear ({ctype})"
    raise MapError(f"{cards.path}: {wanted}, got {came}; {_TABLE}{_by_astropy(cards, n_channel)}")


def _is_linear(ctype: str) -> bool:
    """Whether a CTYPE has no algorithm, or one of a variable that it is linear in: VRAD-F2F."""
    algorithm = re.search(r"-([A-Z])2([A-Z])$", ctype)
    return algorithm is None or algorithm[1] == algorithm[2]


def _by_astropy(cards: Cards, n_channel: int) -> str:
    """The lines of Python that write such a file, for messages."""
    return (
        ". Python makes it: import numpy; from astropy import units, wcs; from astropy.io import "
        f"fits; header = fits.getheader({str(cards.path)!r}, ext={cards.ext}); header['RESTFRQ'] = "
        f"{_REST_HZ}; axis = wcs.WCS(header).spectral.pixel_to_world(range({n_channel})); "
        "numpy.savetxt('velocities.txt', axis.to('km/s', doppler_convention='radio', "
        f"doppler_rest={_REST_HZ} * units.Hz).value)"
    )


def _validate_frame(cards: Cards, axis: int, by_table: bool = False) -> None:
    """Check that every word of the header about the rest frame says LSRK, and that there is one.

    With a table of velocities, which are from the LSRK, the header need not say anything.
    """
    suffix = cards.text(f"CTYPE{axis}").upper().partition("-")[2].strip("-")
    suffix = re.sub(r"(^|-)[A-Z]2[A-Z]$", "", suffix)
    velref = 0 if by_table and not cards.text("VELREF").isdecimal() else cards.number("VELREF")
    stated = {
        "SPECSYS": cards.text("SPECSYS").upper(),
        f"CTYPE{axis}": _SUFFIX.get(suffix, suffix),
        "VELREF": _VELREF.get(int(velref) % 256, ""),
    }
    stated = {key: frame for key, frame in stated.items() if frame}
    if not stated and not by_table:
        raise MapError(
            f"{cards.path}: expected velocities from the local standard of rest (SPECSYS = LSRK), "
            "got a header that does not say from what; if they are, say so with "
            f"{cards.setting('SPECSYS', repr('LSRK'))}"
        )
    if not set(stated.values()) <= {"LSRK"}:
        listing = ", ".join(f"{key} says {frame}" for key, frame in stated.items())
        raise MapError(
            f"{cards.path}: expected velocities from the local standard of rest (LSRK), got "
            f"{listing}; the shift differs over the sky (by up to 20 km/s from the barycentre), so "
            "regrid the spectra to LSRK first, or correct the header if it is wrong"
        )


def _to_kms(cards: Cards, axis: int, step: float) -> float:
    """Factor to km/s from the unit of an axis, checked by the width that it gives channels."""
    key = f"CUNIT{axis}"
    text = cards.text(key)
    likely = [unit for unit, factor in (("m/s", 1e-3), ("km/s", 1.0)) if _is_likely(step * factor)]
    if not text and likely == ["m/s"]:
        warn_assumed(
            f"{cards.path}: no unit of velocity in the header ({key}), taken as m/s, as the "
            f"standard has it: channels {1e-3 * abs(step):.4g} km/s wide"
        )
        return 1e-3
    setting = cards.setting(key, repr(likely[0]) if len(likely) == 1 else "UNIT")
    factor = unit_factor(text, "km/s")
    if factor is None:
        raise MapError(
            f"{cards.path}: expected the unit of velocity in {key}, m/s or km/s, got "
            f"{text or 'none'!r} for channels {abs(step):.6g} wide; correct it with {setting} if "
            f"that is what the numbers have, or {_TABLE}"
        )
    if not _is_likely(factor * step):
        correct = f"correct it with {setting} if they have that unit, or else " if likely else ""
        raise MapError(
            f"{cards.path}: expected channels {_NARROWEST_KMS:g} to {_WIDEST_KMS:g} km/s wide, got "
            f"{factor * abs(step):.4g} km/s by {key} = {text!r}; {correct}{_TABLE}"
        )
    return factor


def _step(cards: Cards, axis: int) -> float:
    """CDELT of an axis, whichever way it is written; nought and coupled axes are refused."""
    for other in range(1, int(cards.number("NAXIS", axis)) + 1):
        pairs = ((axis, other), (other, axis))
        names = [f"{kind}{i}_{j}" for kind in ("PC", "CD") for i, j in pairs]
        if other != axis and any(map(cards.number, names)):
            raise MapError(
                f"{cards.path}: expected a velocity axis of its own, got one coupled to axis "
                f"{other} (PC or CD matrix); resample the cube on separate axes"
            )
    step = cards.number(f"CDELT{axis}") * cards.number(f"PC{axis}_{axis}", 1.0)
    step = cards.number(f"CD{axis}_{axis}", step)
    if not step:
        raise MapError(
            f"{cards.path}: expected the width of a channel in CDELT{axis}, got "
            f"{cards.text(f'CDELT{axis}') or 'none'}; correct it with "
            f"{cards.setting(f'CDELT{axis}', 'WIDTH')}"
        )
    return step


def _width(kms: NDArray[np.float64]) -> float:
    """Of a channel (km/s), 1 where there is one channel."""
    return float(np.median(np.diff(kms))) if len(kms) > 1 else 1.0


def _is_likely(width_kms: float) -> bool:
    return _NARROWEST_KMS <= abs(width_kms) <= _WIDEST_KMS


def _first(velocity: VelocityAxis) -> float:
    return velocity.kms[-1 if velocity.flipped else 0]


def _last(velocity: VelocityAxis) -> float:
    return velocity.kms[0 if velocity.flipped else -1]
