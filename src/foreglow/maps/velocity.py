"""The velocity axis of an HI cube: read from a header, checked, in km/s, ascending.

Read here and not by wcslib, which takes VELO-LSR without VELREF for optical velocity (surveys that
write it mean radio velocity) and stops at CUNIT3 = 'M/S' (which the GASS server writes).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreglow.errors import MapError
from foreglow.maps.cube_store import validate_velocity

_TO_KMS = {"": 1e-3, "M/S": 1e-3, "M S-1": 1e-3, "KM/S": 1.0, "KM S-1": 1.0}  # absent: SI
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
_UNEVEN = 0.01  # of a step, by which the steps of a table may differ


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


def velocity_axis(path: Path, header: Mapping[str, Any], axis: int, n_channel: int) -> VelocityAxis:
    """Velocity axis number `axis` (FITS counts from 1) of a header.

    VRAD, and VELO or VELOCITY taken as radio velocity unless VELREF says optical (at 100 km/s the
    two differ by 33 m/s); the unit of CUNIT, m/s where it is absent; LSRK by SPECSYS, by VELO-LSR
    or by VELREF.

    Raises
    ------
    MapError
        If the axis is of frequency, optical velocity, another rest frame or none, or not linear.
    """
    ctype = str(header.get(f"CTYPE{axis}", "")).strip().upper()
    _validate_kind(path, header, axis, ctype)
    _validate_frame(path, header, axis, ctype)
    unit = str(header.get(f"CUNIT{axis}", "")).strip()
    factor = _TO_KMS.get(re.sub(r"\s+", " ", unit.upper()))
    if factor is None:
        raise MapError(
            f"{path}: expected CUNIT{axis} m/s or km/s on the velocity axis, got {unit!r}; correct "
            f"it with astropy.io.fits.setval({str(path)!r}, 'CUNIT{axis}', value='m/s')"
        )
    step = _step(path, header, axis)
    first = 1 - float(header.get(f"CRPIX{axis}", 0.0))
    start = float(header.get(f"CRVAL{axis}", 0.0))
    kms = factor * (start + step * (np.arange(n_channel, dtype=np.float64) + first))
    flipped = step < 0
    stated = ", ".join(
        f"{key} = {header[key]}"
        for key in (f"CTYPE{axis}", f"CUNIT{axis}", "SPECSYS", "VELREF")
        if key in header
    )
    return VelocityAxis(kms[::-1].copy() if flipped else kms, flipped, stated)


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
    return channel_velocities(path, kms, f"table {path.name}")


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


def _validate_kind(path: Path, header: Mapping[str, Any], axis: int, ctype: str) -> None:
    kind = ctype.split("-")[0]
    velref = int(header.get("VELREF", 0) or 0)
    convert = (
        "convert it with spectral-cube: SpectralCube.read(FILE).with_spectral_unit(u.km / u.s, "
        "velocity_convention='radio', rest_value=1420.405751768 * u.MHz).write(NEW)"
    )
    if kind in _NOT_VELOCITY:
        raise MapError(
            f"{path}: expected an axis of velocity (CTYPE{axis} = VRAD or VELO-LSR), got one of "
            f"{_NOT_VELOCITY[kind]} ({ctype}); {convert}"
        )
    if kind in _OPTICAL or (kind in _RADIO[1:] and 0 < velref <= 256):
        why = ctype if kind in _OPTICAL else f"{ctype} with VELREF = {velref}"
        raise MapError(
            f"{path}: expected radio velocity (CTYPE{axis} = VRAD or VELO-LSR), got optical "
            f"velocity ({why}); {convert}"
        )
    if kind not in _RADIO:
        raise MapError(
            f"{path}: expected an axis of radio velocity (CTYPE{axis} = VRAD or VELO-LSR), got "
            f"{ctype or 'none'!r}; correct CTYPE{axis} if it is one"
        )
    if re.search(r"-[A-Z]2[A-Z]$", ctype):
        raise MapError(
            f"{path}: expected velocity channels in even steps, got CTYPE{axis} = {ctype}, which "
            f"is not linear; {convert}"
        )


def _validate_frame(path: Path, header: Mapping[str, Any], axis: int, ctype: str) -> None:
    """Check that every word of the header about the rest frame says LSRK, and that there is one."""
    suffix = ctype.partition("-")[2].strip("-")
    velref = int(header.get("VELREF", 0) or 0) % 256
    stated = {
        "SPECSYS": str(header.get("SPECSYS", "")).strip().upper(),
        f"CTYPE{axis}": _SUFFIX.get(suffix, suffix),
        "VELREF": _VELREF.get(velref, ""),
    }
    stated = {key: frame for key, frame in stated.items() if frame}
    if not stated:
        raise MapError(
            f"{path}: expected velocities from the local standard of rest (SPECSYS = LSRK), got a "
            "header that does not say from what; if they are, say so with "
            f"astropy.io.fits.setval({str(path)!r}, 'SPECSYS', value='LSRK')"
        )
    if set(stated.values()) != {"LSRK"}:
        listing = ", ".join(f"{key} says {frame}" for key, frame in stated.items())
        raise MapError(
            f"{path}: expected velocities from the local standard of rest (LSRK), got {listing}; "
            "the shift differs over the sky (by up to 20 km/s from the barycentre), so regrid the "
            "spectra to LSRK first, or correct the header if it is wrong"
        )


def _step(path: Path, header: Mapping[str, Any], axis: int) -> float:
    """CDELT of an axis, whichever way it is written; nought and coupled axes are refused."""
    for other in range(1, int(header.get("NAXIS", axis)) + 1):
        pairs = ((axis, other), (other, axis))
        names = [f"{kind}{i}_{j}" for kind in ("PC", "CD") for i, j in pairs]
        if other != axis and any(float(header.get(name, 0.0)) for name in names):
            raise MapError(
                f"{path}: expected a velocity axis of its own, got one coupled to axis {other} "
                f"(PC or CD matrix); resample the cube on separate axes"
            )
    step = float(header.get(f"CDELT{axis}", 0.0)) * float(header.get(f"PC{axis}_{axis}", 1.0))
    step = float(header.get(f"CD{axis}_{axis}", step))
    if not step or not np.isfinite(step):
        raise MapError(
            f"{path}: expected the width of a channel in CDELT{axis}, got "
            f"{header.get(f'CDELT{axis}', 'none')}; correct the header"
        )
    return step
