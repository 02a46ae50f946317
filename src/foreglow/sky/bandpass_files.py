"""Bandpasses in files: text tables, WMAP's among them, and the FITS tables of Planck's RIMO.

What is said of a file is written behind it: `FILE[WHICH] as RESPONSE in UNIT`. WHICH is an
extension of a FITS file, or the numbers of the columns that respond in a text file, each a
detector; several such files, with commas between, are averaged.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from foreglow.errors import InstrumentError, warn
from foreglow.sky.bandpass import Nodes, Response, measure, nodes_of

LIGHT_GHZ_CM = 29.9792458  # of a wavenumber of 1 / cm
_UNITS = {"Hz": 1e-9, "MHz": 1e-3, "GHz": 1.0, "THz": 1e3, "cm^-1": LIGHT_GHZ_CM}
_SPELLED = {"1/cm": "cm^-1", "cm-1": "cm^-1", "cm**-1": "cm^-1", "cm^{-1}": "cm^-1"}
_RESPONSES: dict[str | None, Response] = {"power": "power", "temperature": "temperature"}
_FREQUENCY = ("FREQUENCY", "FREQ", "NU", "WAVENUMBER")
_RESPONSE = ("TRANSMISSION", "RESPONSE", "BANDPASS")
_GIVEN = re.compile(
    r"(?P<files>.+?)(?:\s+as\s+(?P<of>power|temperature))?(?:\s+in\s+(?P<unit>\S+))?"
)
_WAYS = (
    "'as power' if it answers to intensity (HFI's RIMO, PySM's weights), 'as temperature' if to "
    "Rayleigh-Jeans temperature (LFI's RIMO, WMAP)"
)


class BandpassWarning(UserWarning):
    """A bandpass is not quite as it should be."""


@dataclass(frozen=True)
class _Table:
    """Columns of a file.

    Attributes
    ----------
    path : Path
    frequency : ndarray, shape (n,)
        In `unit`, which is None where the file does not say.
    responses : tuple of ndarray, shape (n,)
        A detector each.
    unit : str or None
    """

    path: Path
    frequency: NDArray
    responses: tuple[NDArray, ...]
    unit: str | None


def read_bandpass(said: str, folder: Path = Path()) -> Nodes:
    """A bandpass from what was said of its files.

    Parameters
    ----------
    said : str
        `band.txt` (GHz and response in power units), `HFI_RIMO.fits[BANDPASS_F100] as power`,
        `K11.cbp[2,3],K12.cbp[2,3] as temperature in GHz`.
    folder : Path
        From which paths count.

    Raises
    ------
    InstrumentError
        If a file is none, its unit or what it responds to is neither stated nor said, or the
        response makes no sense.

    Warns
    -----
    BandpassWarning
        If a response is below zero somewhere, which is taken as zero, or columns are left out.
    """
    given = _GIVEN.fullmatch(said.strip())
    assert given is not None  # whatever has a character fits
    unit = None if given["unit"] is None else _unit(given["unit"], said)
    detectors = []
    for name in re.split(r",(?![^\[]*\])", given["files"]):
        table = _read(name.strip(), folder)
        of: Response = _RESPONSES.get(given["of"]) or _of_text(table.path)
        scale = _UNITS[_agreed(table, unit)]
        detectors += [_measured(table, scale, one, of) for one in table.responses]
    return nodes_of(detectors)


def validate_centre(band: str, frequency_ghz: float, nodes: Nodes) -> None:
    """Check that the frequency of a band lies within its bandpass.

    Raises
    ------
    InstrumentError
        If not: as a rule one of them is in another unit.
    """
    low, high = nodes[0][0], nodes[-1][0]
    if not low < frequency_ghz < high:
        raise InstrumentError(
            f"expected the frequency of band {band} within its bandpass, but it is "
            f"{frequency_ghz:g} GHz and the response lies about {low:g} to {high:g} GHz; check the "
            "unit of both, and that it is the response of this band."
        )


def _read(name: str, folder: Path) -> _Table:
    named = re.fullmatch(r"(.+)\[([^\[\]]+)\]", name)
    path = folder / (named[1] if named else name)
    if not path.is_file():
        raise InstrumentError(
            f"expected a file with a bandpass, but {path} does not exist; its path counts from "
            f"{folder.absolute()}."
        )
    which = named[2] if named else None
    with path.open("rb") as stream:
        begins = stream.read(9)
    if begins.startswith((b"SIMPLE", b"\x1f\x8b")):
        return _read_fits(path, which)
    return _read_text(path, which)


def _read_text(path: Path, which: str | None) -> _Table:
    try:
        columns = np.loadtxt(path, comments=("#", "%", "!"), ndmin=2)
    except (ValueError, UnicodeDecodeError) as error:
        raise InstrumentError(
            f"{path}: expected columns of numbers, frequency in GHz and response ({error})."
        ) from error
    n = columns.shape[1] if columns.size else 0
    if n < 2:
        raise InstrumentError(
            f"{path}: expected two columns, frequency in GHz and response, got a table of shape "
            f"{columns.shape}."
        )
    wanted = [2] if which is None else [int(k) for k in which.split(",") if k.strip().isdigit()]
    if not wanted or not all(2 <= k <= n for k in wanted):
        raise InstrumentError(
            f"{path}: expected numbers of columns from 2 to {n}, such as {path.name}[2], got "
            f"[{which}]."
        )
    if which is None and n > 2:
        warn(
            f"{path}: of {n} columns the second is taken as the response; name those of all "
            f"detectors, as {path.name}[2,3], or the one, {path.name}[2], to silence this.",
            BandpassWarning,
        )
    return _Table(path, columns[:, 0], tuple(columns[:, k - 1] for k in wanted), "GHz")


def _read_fits(path: Path, which: str | None) -> _Table:
    with fits.open(path) as hdus:
        tables = {hdu.name: hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)}
        some = [name for name in tables if name.startswith("BANDPASS")] or list(tables)
        if which is None or which.upper() not in tables:
            raise InstrumentError(
                f"{path}: expected the extension of a band, as {path.name}[NAME], got "
                f"{which or 'none'}; it has {', '.join(some) or 'no table'}."
            )
        hdu = tables[which.upper()]
        head = hdu.header
        names = [str(v).strip().upper() for card, v in head.items() if card.startswith("TTYPE")]
        places = [
            next((names.index(name) for name in known if name in names), None)
            for known in (_FREQUENCY, _RESPONSE)
        ]
        if None in places:
            raise InstrumentError(
                f"{path}[{which}]: expected columns {' or '.join(_FREQUENCY)} and "
                f"{' or '.join(_RESPONSE)}, got {', '.join(names)}."
            )
        nu, gain = (np.asarray(hdu.data.field(k), np.float64).ravel() for k in places)
        unit = str(head.get(f"TUNIT{(places[0] or 0) + 1}", "")).strip()
    there = ~((nu == 0) & np.isfinite(gain))  # a spectrometer's first row is of no frequency
    return _Table(path, nu[there], (gain[there],), unit or None)


def _of_text(path: Path) -> Response:
    """What a file responds to of which it was not said: a text file, by its contract, to power."""
    if path.suffix.lower() in (".fits", ".fit", ".gz"):
        raise InstrumentError(
            f"{path}: expected to be told what the transmission answers to, which the file does "
            f"not state; write {_WAYS}."
        )
    return "power"


def _agreed(table: _Table, said: str | None) -> str:
    """The unit of the frequencies, stated or said."""
    if table.path.suffix.lower() not in (".fits", ".fit", ".gz"):
        return said or "GHz"
    stated = None if table.unit is None else _unit(table.unit, str(table.path))
    if stated is None and said is None:
        raise InstrumentError(
            f"{table.path}: expected a unit of the frequencies, got a column without TUNIT; write "
            "'in GHz' (LFI's RIMO) or 'in cm^-1' (HFI's) behind it."
        )
    if stated and said and stated != said:
        raise InstrumentError(
            f"{table.path}: expected frequencies in {said}, as given, got TUNIT {stated}; leave "
            "one out."
        )
    return said or stated or "GHz"


def _unit(text: str, of: str) -> str:
    found = _SPELLED.get(text, text)
    known = {name.lower(): name for name in _UNITS}
    if found.lower() not in known:
        raise InstrumentError(
            f"{of}: expected frequencies in {', '.join(_UNITS)}, got {text!r}; name one of them."
        )
    return known[found.lower()]


def _measured(
    table: _Table, scale: float, response: NDArray, of: Response
) -> tuple[NDArray, NDArray]:
    """A detector's frequencies [GHz] and weights; what is below zero is said."""
    below, top = response < 0, np.nanmax(response, initial=0.0)
    if below.any() and top > 0:
        warn(
            f"{table.path}: the response is below zero in {below.sum()} of {len(response)} rows, "
            f"down to {response.min() / top:.2g} of its peak: noise, and taken as zero.",
            BandpassWarning,
        )
    nu = table.frequency * scale
    backwards = len(nu) > 1 and (np.diff(nu) < 0).all()
    step = -1 if backwards else 1
    try:
        return measure(nu[::step], response[::step], of)
    except InstrumentError as error:
        raise InstrumentError(f"{table.path}: {error}") from error
