"""Polarised HEALPix maps on disk: opened for streaming, checked, rotated, converted, written.

Maps are never loaded whole: astropy reads the header, the table itself stays a memory map and
`read` touches only the pixels asked for (a gzipped file, which cannot be mapped, is loaded).
"""

import gzip
import io
import os
import re
import uuid
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import astropy.units as u
import healpy as hp
import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning

from foreglow.errors import MapError, ShapeError

UNITS = ("K_CMB", "mK_CMB", "uK_CMB", "K_RJ", "mK_RJ", "uK_RJ", "MJy/sr")
T_CMB_K = 2.7255  # Fixsen 2009, as in pysm3.units
_H_OVER_K_B = 6.62607015e-34 * 1e9 / 1.380649e-23  # K/GHz; both exact in the SI

_FRAMES = {
    "G": ("G", "GAL", "GALACTIC"),
    "C": ("C", "CEL", "CELESTIAL", "EQU", "EQUATORIAL", "ICRS"),
    "E": ("E", "ECL", "ECLIPTIC"),
}
_ORDERINGS = {"RING": "RING", "NESTED": "NESTED", "NEST": "NESTED"}
_STOKES_NAMES = ("{}", "{}_STOKES", "STOKES_{}", "{}_POLARISATION", "{}_POLARIZATION")
_RMS_NAMES = ("{}_RMS", "RMS_{}", "{}_SIGMA", "SIGMA_{}", "{}_NOISE", "NOISE_{}", "{}_NOISE_RMS")
# Columns that position alone must never turn into Q or U.
_NEVER_STOKES = {"I", "T", "I_STOKES", "TEMPERATURE", "INTENSITY", "HITS", "N_OBS", "NOBS"}
_STORED_TYPES = {"E": ">f4", "D": ">f8", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8"}
_WRITTEN_CODES = {"f4": "E", "f8": "D", "i2": "I", "i4": "J", "i8": "K"}
_RESERVED = re.compile(
    r"XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TFIELDS|T(TYPE|FORM|UNIT|NULL|SCAL|ZERO|DIM)\d+"
    r"|PIXTYPE|ORDERING|COORDSYS|NSIDE|FIRSTPIX|LASTPIX|INDXSCHM|OBJECT|POLCCONV|END"
)
_FITS_BLOCK = 2880
# What gzip and the disk raise, then what astropy raises on a damaged header.
_UNREADABLE = (OSError, EOFError, zlib.error, fits.VerifyError, ValueError, KeyError, TypeError)


# ---- conventions -----------------------------------------------------------------------------


class MapWarning(UserWarning):
    """A convention that a map does not state and that was assumed."""


def rotate_to_galactic(qu: np.ndarray, pixels: np.ndarray, nside: int, frame: str) -> np.ndarray:
    """Refer Q,U to the Galactic meridians, without resampling.

    Pixel centres stay those of the stored frame; only the polarisation basis turns.

    Parameters
    ----------
    qu : ndarray, shape (2, n)
        COSMO, any unit.
    pixels : ndarray of int, shape (n,)
        RING indices in `frame`.
    nside : int
    frame : str
        "G", "C" or "E".

    Returns
    -------
    ndarray, shape (2, n), dtype of `qu`; `qu` itself if `frame` is "G".

    Raises
    ------
    MapError
        If the frame is unknown.
    ShapeError
        If `qu` is not (2, n).
    """
    frame = _canonical_frame("rotate_to_galactic", frame)
    if np.shape(qu) != (2, len(pixels)):
        raise ShapeError(f"expected Q,U of shape (2, {len(pixels)}), got {np.shape(qu)}")
    if frame == "G":
        return qu
    theta, phi = hp.pix2ang(nside, pixels)
    angle = 2 * hp.Rotator(coord=[frame, "G"]).angle_ref(theta, phi)
    cos, sin = np.cos(angle).astype(qu.dtype), np.sin(angle).astype(qu.dtype)
    return np.stack([qu[0] * cos - qu[1] * sin, qu[0] * sin + qu[1] * cos])


def to_uk_rj_factor(unit: str, frequency_ghz: float) -> float:
    """Factor from `unit` to uK_RJ at a frequency, for a delta-function band.

    Parameters
    ----------
    unit : str
        One of `UNITS`, or another spelling of it.
    frequency_ghz : float

    Returns
    -------
    float

    Raises
    ------
    MapError
        If the unit is unknown or the frequency is not a positive number.
    """
    unit = _canonical_unit("to_uk_rj_factor", unit)
    if not (np.isfinite(frequency_ghz) and frequency_ghz > 0):
        raise MapError(f"expected a frequency above 0 GHz, got {frequency_ghz}")
    if unit == "MJy/sr":
        rayleigh_jeans = u.brightness_temperature(u.Quantity(frequency_ghz, "GHz"))
        return float(np.asarray(u.Quantity(1.0, "MJy/sr").to_value("uK", rayleigh_jeans)))
    prefix, scale = unit.split("_")
    factor = {"K": 1e6, "mK": 1e3, "uK": 1.0}[prefix]
    if scale == "RJ":
        return factor
    x = _H_OVER_K_B * frequency_ghz / T_CMB_K
    return factor * float(x**2 * np.exp(-x) / np.expm1(-x) ** 2)  # x^2 e^x / (e^x - 1)^2


def _canonical_frame(where: str, text: str) -> str:
    for frame, spellings in _FRAMES.items():
        if text.strip().upper() in spellings:
            return frame
    raise MapError(
        f"{where}: expected a frame G (Galactic), C (celestial, ICRS) or E (ecliptic), "
        f"got {text!r}; name one of them"
    )


def _canonical_unit(where: str, text: str) -> str:
    compact = re.sub(r"[\s{}()_,.-]", "", text)
    # The case of M is not ours to guess: mJy/sr is not MJy/sr and MK is not mK.
    if re.fullmatch(r"M[Jj][Yy](/[Ss][Rr]|\*?[Ss][Rr](\^|\*\*)?1)", compact):
        return "MJy/sr"
    kelvin = re.fullmatch(
        r"(?P<prefix>m|[uUµμ]|mu|micro)?[Kk](?i:elvin)?"
        r"(?i:(?P<cmb>cmb|thermo(dynamic)?)|(?P<rj>rj|antenna))?",
        compact,
    )
    expected = f"expected one of {', '.join(UNITS)}"
    if kelvin is None:
        raise MapError(f"{where}: {expected}, got unit {text!r}; pass unit= (command line: --unit)")
    if not kelvin["cmb"] and not kelvin["rj"]:
        raise MapError(
            f"{where}: {expected}, got unit {text!r}, which does not say thermodynamic (_CMB) or "
            "Rayleigh-Jeans (_RJ); pass unit= (command line: --unit)"
        )
    prefix = {"": "", "m": "m"}.get(kelvin["prefix"] or "", "u")
    return f"{prefix}K_{'CMB' if kelvin['cmb'] else 'RJ'}"


# ---- reading ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Column:
    """One table column as stored; `cells` (row, element) is a big-endian view of the file."""

    name: str
    unit: str
    cells: np.ndarray
    scale: float
    zero: float
    null: int | None

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Native float values at flat positions, NaN where unobserved; NaN or Inf become Inf."""
        row, element = np.divmod(positions, self.cells.shape[1])
        stored = self.cells[row, element]
        scaled = (self.scale, self.zero) != (1.0, 0.0)
        keeps_type = stored.dtype.kind == "f" and not scaled
        values = stored.astype(stored.dtype.newbyteorder("=") if keeps_type else np.float64)
        if scaled:
            values = values * self.scale + self.zero
        # NaN is what unobserved pixels become, so a stored NaN must leave as something else.
        values[np.isnan(values)] = np.inf
        values[np.abs(values - hp.UNSEEN) <= 1e-5 * abs(hp.UNSEEN)] = np.nan  # healpy's tolerance
        if self.null is not None:
            values[stored == self.null] = np.nan
        return values


@dataclass(frozen=True, eq=False)
class _PixelIndex:
    """Where the pixels of a partial map lie: sorted pixel numbers and their table positions."""

    pixels: np.ndarray
    order: np.ndarray | None

    def find(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Table positions of `pixels` (meaningless where absent) and whether each is present."""
        slot = np.searchsorted(self.pixels, pixels.astype(self.pixels.dtype))
        slot = np.minimum(slot, len(self.pixels) - 1)
        present = self.pixels[slot] == pixels
        return (slot if self.order is None else self.order[slot]), present


@dataclass(frozen=True, eq=False)
class PolarisationMap:
    """A Q,U map opened for streaming; nothing but a partial map's pixel numbers is in memory.

    Attributes
    ----------
    path : Path
    nside : int
    ordering : str
        "RING" or "NESTED", as stored.
    frame : str
        "G", "C" or "E", as stored.
    unit : str
        One of `UNITS`.
    flip_u : bool
        The file is in the IAU convention, so `read` changes the sign of U.
    """

    path: Path
    nside: int
    ordering: str
    frame: str
    unit: str
    flip_u: bool
    columns: tuple[_Column, _Column] = field(repr=False)
    index: _PixelIndex | None = field(repr=False)

    def read(self, pixels: np.ndarray) -> np.ndarray:
        """Q and U of some pixels.

        Parameters
        ----------
        pixels : ndarray of int, shape (n,)
            RING indices in the map's own frame, whatever the ordering of the file.

        Returns
        -------
        ndarray, shape (2, n), float32 or float64 in native byte order
            Q,U in COSMO and in `unit`; both NaN where either is UNSEEN or the pixel is absent.

        Raises
        ------
        MapError
            If a pixel is out of range, or the file holds NaN or Inf there.
        ShapeError
            If `pixels` is not a one-dimensional array of integers.
        """
        qu = _read_columns(self, pixels)
        if self.flip_u:
            np.negative(qu[1], out=qu[1])
        return qu


@dataclass(frozen=True, eq=False)
class NoiseMap:
    """A map of noise rms per pixel opened for streaming; attributes as in `PolarisationMap`."""

    path: Path
    nside: int
    ordering: str
    frame: str
    unit: str
    columns: tuple[_Column, _Column] = field(repr=False)
    index: _PixelIndex | None = field(repr=False)

    def read(self, pixels: np.ndarray) -> np.ndarray:
        """Noise rms of Q and U of some pixels; a one-column file gives both the same.

        Parameters and shapes are those of `PolarisationMap.read`.

        Raises
        ------
        MapError
            As `PolarisationMap.read`, and if an observed rms is zero or negative.
        """
        rms = _read_columns(self, pixels)
        bad = (rms <= 0).any(axis=0)
        if bad.any():
            first = np.asarray(pixels)[bad.argmax()]
            raise MapError(
                f"{self.path}: expected a noise rms above zero in every observed pixel, got "
                f"{bad.sum()} of {bad.size} at or below zero in this block, the first at RING "
                f"pixel {first}; mark unobserved pixels as UNSEEN ({hp.UNSEEN})"
            )
        return rms


def open_polarisation_map(path: str | Path, unit: str | None = None) -> PolarisationMap:
    """Open a FITS file of Q,U for streaming.

    Q and U are found by column name, else are the last two of a 2- or 3-column table.

    Parameters
    ----------
    path : path
        FITS, plain (memory-mapped) or gzipped (loaded); full sky or partial.
    unit : str, optional
        Overrides TUNIT; needed where the header has none, or a bare kelvin.

    Returns
    -------
    PolarisationMap

    Raises
    ------
    MapError
        If the file cannot be read, is truncated, or does not state what its pixels mean.

    Warns
    -----
    MapWarning
        If COORDSYS (taken as Galactic) or POLCCONV (taken as COSMO) is absent.
    """
    table = _open_table(Path(path))
    names = _find_stokes(table, _STOKES_NAMES)
    columns = (table.column(names[0]), table.column(names[1]))
    unit = _stated_unit(table.path, columns, unit)
    return PolarisationMap(**_describe_sky(table, columns), unit=unit, flip_u=_is_iau(table))


def open_noise_map(path: str | Path, unit: str | None = None) -> NoiseMap:
    """Open a FITS file of noise rms per pixel: one column for Q and U alike, or one for each.

    Parameters, errors and warnings are those of `open_polarisation_map`; POLCCONV is not read.

    Returns
    -------
    NoiseMap
    """
    table = _open_table(Path(path))
    only = [i for i in range(len(table.columns)) if i != table.pixel_column]
    found = only * 2 if len(only) == 1 else _find_stokes(table, _STOKES_NAMES + _RMS_NAMES)
    columns = (table.column(found[0]), table.column(found[1]))
    return NoiseMap(**_describe_sky(table, columns), unit=_stated_unit(table.path, columns, unit))


def check_same_sky(maps: Mapping[str, PolarisationMap | NoiseMap]) -> None:
    """Check that maps of several bands share pixels: same Nside and frame, any ordering.

    Raises
    ------
    MapError
        Naming what each band has.
    """
    if len({(m.nside, m.frame) for m in maps.values()}) > 1:
        listing = "; ".join(f"{k}: Nside {m.nside}, frame {m.frame}" for k, m in maps.items())
        raise MapError(
            f"expected one Nside and one frame for all bands, got {listing}; bring them to a "
            "common beam and Nside (healpy.ud_grade after smoothing) and to one frame "
            "(healpy.Rotator.rotate_map_alms)"
        )


@dataclass(frozen=True, eq=False)
class _Table:
    """The binary table of a file: header, column definitions and its bytes (row, byte)."""

    path: Path
    header: fits.Header
    columns: Sequence[Any]  # astropy.io.fits.Column
    rows: np.ndarray
    pixel_column: int | None

    @property
    def listing(self) -> str:
        return ", ".join(c.name or "(unnamed)" for c in self.columns)

    def column(self, number: int) -> _Column:
        """View one numerical column."""
        column = self.columns[number]
        code = column.format.format
        if code not in _STORED_TYPES or column.format.repeat < 1:
            raise MapError(
                f"{self.path}: expected numbers in column {column.name!r}, got TFORM "
                f"{column.format!s}; write the map as E or D"
            )
        start = sum(c.format.dtype.itemsize for c in self.columns[:number])
        cells = self.rows[:, start : start + column.format.dtype.itemsize]
        return _Column(
            name=column.name or f"column {number + 1}",
            unit=(column.unit or "").strip(),
            cells=cells.view(_STORED_TYPES[code]),
            scale=_number(column.bscale, 1.0),
            zero=_number(column.bzero, 0.0),
            null=column.null if isinstance(column.null, int) else None,
        )


def _open_table(path: Path) -> _Table:
    try:
        with _open_bytes(path) as (stream, content):
            header, columns, offset = _find_table(path, stream)
        rows = _table_rows(path, header, content[offset:])
    except FileNotFoundError as error:
        raise MapError(f"{path}: no such file; check the path") from error
    except _UNREADABLE as error:
        raise MapError(
            f"{path}: expected a HEALPix FITS file, got one that cannot be read ({error}); "
            "check that it is FITS and complete"
        ) from error
    row_size = sum(c.format.dtype.itemsize for c in columns)
    if row_size != rows.shape[1]:
        raise MapError(
            f"{path}: damaged header: the columns (TFORM) take {row_size} bytes a row, NAXIS1 "
            f"says {rows.shape[1]}; write the file again"
        )
    named = [i for i, c in enumerate(columns) if (c.name or "").upper() == "PIXEL"]
    return _Table(path, header, columns, rows, named[0] if named else None)


@contextmanager
def _open_bytes(path: Path) -> Iterator[tuple[BinaryIO, np.ndarray]]:
    """The file as a stream, for its header, and as bytes: mapped, or loaded if gzipped."""
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        if not packed:
            yield stream, np.memmap(path, np.uint8, "r")
            return
        with gzip.open(stream) as unpacked:
            content = unpacked.read()
        yield io.BytesIO(content), np.frombuffer(content, np.uint8)


def _find_table(path: Path, stream: BinaryIO) -> tuple[fits.Header, list, int]:
    """Header, columns and data offset of the first binary table."""
    # astropy only warns of a broken extension and ends the file there; the rest is checked later
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always", AstropyWarning)
        with fits.open(stream, memmap=False) as hdus:
            for hdu in hdus:
                if isinstance(hdu, fits.BinTableHDU):
                    table: Any = hdu
                    return table.header, list(table.columns), table.fileinfo()["datLoc"]
    reason = f" ({' '.join(str(complaints[-1].message).split())})" if complaints else ""
    raise MapError(
        f"{path}: no binary table{reason}; expected a HEALPix map as healpy.write_map makes it, "
        "check that the file is a map and complete"
    )


def _table_rows(path: Path, header: fits.Header, content: np.ndarray) -> np.ndarray:
    n_row, row_size = int(_keyword(header, "NAXIS2")), int(_keyword(header, "NAXIS1"))
    wanted = n_row * row_size
    if wanted == 0:
        raise MapError(f"{path}: the binary table is empty; expected a map, check how it was made")
    if content.size < wanted:
        raise MapError(
            f"{path}: truncated: the header promises {wanted} bytes of data, the file has "
            f"{content.size}; copy or download it again"
        )
    return content[:wanted].reshape((n_row, row_size))


def _find_stokes(table: _Table, patterns: Sequence[str]) -> Sequence[int]:
    """Column numbers of Q and U, by name, else by position."""
    names = [re.sub(r"[-\s.]", "_", (c.name or "").strip().upper()) for c in table.columns]
    sky = [i for i in range(len(names)) if i != table.pixel_column]
    hits = [[i for i in sky if names[i] in {p.format(s) for p in patterns}] for s in "QU"]
    if len(hits[0]) == len(hits[1]) == 1:
        return [hits[0][0], hits[1][0]]
    by_position = len(sky) in (2, 3) and not any(hits)
    if by_position and not _NEVER_STOKES & {names[i] for i in sky[-2:]}:
        return sky[-2:]
    raise MapError(
        f"{table.path}: expected one column Q_STOKES and one U_STOKES (or Q_POLARISATION, Q, ...), "
        f"got columns {table.listing}; rename them (TTYPE)"
    )


def _describe_sky(table: _Table, columns: Sequence[_Column]) -> dict[str, Any]:
    """Everything of a map but its unit and polarisation convention, checked."""
    path, header = table.path, table.header
    ordering = _ORDERINGS.get(_keyword(header, "ORDERING"))
    if ordering is None:
        raise MapError(
            f"{path}: expected ORDERING RING or NESTED in the header, got "
            f"{_keyword(header, 'ORDERING') or 'none'}; set ORDERING to the one it was made in"
        )
    frame = _keyword(header, "COORDSYS")
    if not frame:
        _warn(f"{path}: no COORDSYS in the header, taken as Galactic; set it to silence this")
    nside = _stored_nside(path, header, ordering)
    index = _index_of(table, nside) if _is_partial(table) else None
    for column in columns:
        expected = hp.nside2npix(nside) if index is None else len(index.pixels)
        if column.cells.size != expected:
            raise MapError(
                f"{path}: expected {expected} pixels in column {column.name} (NSIDE = {nside}), "
                f"got {column.cells.size}; correct NSIDE, or mark a partial map INDXSCHM = EXPLICIT"
            )
    return {
        "path": path,
        "nside": nside,
        "ordering": ordering,
        "frame": _canonical_frame(f"{path}: COORDSYS", frame or "G"),
        "columns": tuple(columns),
        "index": index,
    }


def _is_iau(table: _Table) -> bool:
    convention = _keyword(table.header, "POLCCONV")
    if convention not in ("", "COSMO", "IAU"):
        raise MapError(
            f"{table.path}: expected POLCCONV COSMO or IAU, got {convention!r}; correct the header"
        )
    if not convention:
        _warn(f"{table.path}: no POLCCONV in the header, taken as COSMO; set it to silence this")
    return convention == "IAU"


def _stored_nside(path: Path, header: fits.Header, ordering: str) -> int:
    # PySM stores it as a string, some as a float
    text = _keyword(header, "NSIDE").removesuffix(".0")
    nside = int(text) if text.isdecimal() else 0
    if not hp.isnsideok(nside, nest=ordering == "NESTED"):
        raise MapError(
            f"{path}: expected NSIDE in the header, a power of two for NESTED, got "
            f"{text or 'none'}; set NSIDE to that of the map"
        )
    return nside


def _is_partial(table: _Table) -> bool:
    scheme = _keyword(table.header, "INDXSCHM")
    if scheme:
        return scheme == "EXPLICIT"
    return _keyword(table.header, "OBJECT") == "PARTIAL" or table.pixel_column is not None


def _index_of(table: _Table, nside: int) -> _PixelIndex:
    """Load and sort the pixel numbers of a partial map."""
    column = None if table.pixel_column is None else table.column(table.pixel_column)
    if column is None or column.cells.dtype.kind == "f" or column.scale != 1:
        raise MapError(
            f"{table.path}: expected an integer column PIXEL, as INDXSCHM is EXPLICIT, got "
            f"columns {table.listing}; name it PIXEL"
        )
    n_pix = hp.nside2npix(nside)
    pixels = column.cells.astype(np.int64).ravel() + int(column.zero)
    order = None if (np.diff(pixels) > 0).all() else np.argsort(pixels)
    pixels = pixels if order is None else pixels[order]
    if pixels[0] < 0 or pixels[-1] >= n_pix or (np.diff(pixels) == 0).any():
        raise MapError(
            f"{table.path}: expected distinct pixel numbers below {n_pix} (NSIDE = {nside}), got "
            f"{pixels[0]} to {pixels[-1]}, {(np.diff(pixels) == 0).sum()} of them repeated; "
            "correct NSIDE or the PIXEL column"
        )
    return _PixelIndex(pixels.astype(np.int32) if n_pix < 2**31 else pixels, order)


def _stated_unit(path: Path, columns: Sequence[_Column], unit: str | None) -> str:
    if unit is not None:
        return _canonical_unit(f"{path}: unit=", unit)
    for column in columns:
        if not column.unit:
            raise MapError(
                f"{path}: expected a unit (TUNIT) for column {column.name}, got none; pass unit= "
                f"(command line: --unit), one of {', '.join(UNITS)}"
            )
    units = [_canonical_unit(f"{path}: TUNIT of {c.name}", c.unit) for c in columns]
    if units[0] != units[1]:
        raise MapError(
            f"{path}: expected one unit for Q and U, got {units[0]} for {columns[0].name} and "
            f"{units[1]} for {columns[1].name}; correct TUNIT or pass unit= (command line: --unit)"
        )
    return units[0]


def _read_columns(sky: PolarisationMap | NoiseMap, pixels: np.ndarray) -> np.ndarray:
    """Both columns at RING pixels, shape (2, n), both NaN where either is unobserved."""
    pixels = np.asarray(pixels)
    n_pix = hp.nside2npix(sky.nside)
    if pixels.ndim != 1 or pixels.dtype.kind not in "iu":
        raise ShapeError(
            f"expected pixel indices, integers of shape (n,), got {pixels.dtype} of shape "
            f"{pixels.shape}; a mask becomes indices with numpy.flatnonzero"
        )
    if pixels.size and (pixels.min() < 0 or pixels.max() >= n_pix):
        raise MapError(
            f"{sky.path}: expected pixels from 0 to {n_pix - 1} (Nside {sky.nside}), got "
            f"{pixels.min()} to {pixels.max()}; bring them to the map's Nside"
        )
    pixels = pixels.astype(np.int64, copy=False)
    stored = hp.ring2nest(sky.nside, pixels) if sky.ordering == "NESTED" else pixels
    positions, present = (stored, None) if sky.index is None else sky.index.find(stored)
    values = np.stack([column.take(positions) for column in sky.columns])  # (2, n)
    if present is not None:
        values[:, ~present] = np.nan
    bad = np.isinf(values).any(axis=0)
    if bad.any():
        raise MapError(
            f"{sky.path}: expected finite values, got NaN or Inf in {bad.sum()} of {bad.size} "
            f"pixels of this block, the first at RING pixel {pixels[bad.argmax()]}; mark "
            f"unobserved pixels as UNSEEN ({hp.UNSEEN})"
        )
    values[:, np.isnan(values).any(axis=0)] = np.nan
    return values


def _keyword(header: fits.Header, key: str) -> str:
    return str(header.get(key, "")).strip().upper()


def _number(value: Any, absent: float) -> float:
    return absent if value in (None, "") else float(value)


def _warn(message: str) -> None:
    # 4: past here, the helper and `open_*`, to the line of the user
    warnings.warn(message, MapWarning, stacklevel=4)


# ---- writing ---------------------------------------------------------------------------------


def write_maps(
    path: str | Path,
    columns: Mapping[str, tuple[np.ndarray, str]],
    *,
    frame: str,
    ordering: str = "RING",
    header: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write full-sky maps as one FITS table that `healpy.read_map(path, field=None)` reads.

    The file appears whole or not at all, and is gzipped if its name ends in ``.gz``.

    Parameters
    ----------
    path : path
    columns : mapping of name to (map of shape (n_pix,), unit)
        float32, float64, int16, int32 or int64. NaN is stored as UNSEEN; in integer maps -1
        means masked (TNULL). An empty unit writes no TUNIT.
    frame : str
        "G", "C" or "E".
    ordering : str
        That of the arrays, "RING" or "NESTED".
    header : mapping, optional
        More cards; long or lower-case keys become HIERARCH cards.
    overwrite : bool

    Raises
    ------
    MapError
        If the file exists and `overwrite` is not set, or cannot be written, or if the maps or
        the header cards cannot go in a HEALPix FITS file.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise MapError(f"{path}: exists already; choose another name or pass overwrite=True")
    arrays = [np.asarray(values) for values, _ in columns.values()]
    nside = _validate_maps(path, list(columns), arrays)
    # 1024 pixels a row is HEALPix custom; it does not divide the smallest and odd Nsides.
    width = 1024 if arrays[0].size % 1024 == 0 else 1
    table = _table_header(path, columns, arrays, width)
    _add_healpix_cards(table, path, nside, ordering, frame)
    _add_user_cards(table, path, header or {})
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with (gzip.open if path.suffix == ".gz" else open)(temporary, "xb") as stream:
            stream.write(fits.PrimaryHDU().header.tostring().encode("ascii"))
            stream.write(table.tostring().encode("ascii"))
            _write_rows(stream, path, arrays, width)
        os.replace(temporary, path)
    except OSError as error:
        raise MapError(f"{path}: cannot be written ({error}); check folder and space") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_polarisation_map(
    path: str | Path,
    qu: np.ndarray,
    unit: str,
    frame: str = "G",
    *,
    ordering: str = "RING",
    header: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write Q,U (COSMO, shape (2, n_pix)) as columns Q_STOKES and U_STOKES; see `write_maps`."""
    if np.ndim(qu) != 2 or len(qu) != 2:
        raise ShapeError(f"expected Q,U of shape (2, n_pix), got {np.shape(qu)}")
    unit = _canonical_unit(str(path), unit)
    columns = {"Q_STOKES": (qu[0], unit), "U_STOKES": (qu[1], unit)}
    write_maps(path, columns, frame=frame, ordering=ordering, header=header, overwrite=overwrite)


def _validate_maps(path: Path, names: Sequence[str], arrays: Sequence[np.ndarray]) -> int:
    """Nside of the arrays."""
    if not arrays or len({name.strip().upper() for name in names}) < len(names):
        raise MapError(f"{path}: expected distinct column names, at least one, got {names}")
    for name, array in zip(names, arrays, strict=True):
        if array.ndim != 1 or array.shape != arrays[0].shape or not hp.isnpixok(array.size):
            raise MapError(
                f"{path}: expected full-sky maps of one Nside, shape (12 Nside^2,), got "
                f"{array.shape} for {name}; fill missing pixels with NaN"
            )
        if not re.fullmatch(r"\w{1,68}", name, re.ASCII):
            raise MapError(
                f"{path}: expected column names of letters, digits and underscores, got {name!r}"
            )
        if array.dtype.str[1:] not in _WRITTEN_CODES:
            raise MapError(
                f"{path}: expected float32, float64, int16, int32 or int64, got {array.dtype} "
                f"for {name}; convert it"
            )
    return hp.npix2nside(arrays[0].size)


def _table_header(
    path: Path,
    columns: Mapping[str, tuple[np.ndarray, str]],
    arrays: Sequence[np.ndarray],
    width: int,
) -> fits.Header:
    try:
        definitions = [
            fits.Column(
                name=name,
                format=f"{width}{_WRITTEN_CODES[array.dtype.str[1:]]}",
                unit=unit or None,
                null=-1 if array.dtype.kind == "i" else None,
            )
            for (name, (_, unit)), array in zip(columns.items(), arrays, strict=True)
        ]
        header = fits.BinTableHDU.from_columns(definitions, nrows=0).header
    except (ValueError, AssertionError) as error:
        raise MapError(
            f"{path}: expected units in plain ASCII text, got "
            f"{[unit for _, unit in columns.values()]} ({error}); write u for micro"
        ) from error
    header["NAXIS2"] = arrays[0].size // width
    return header


def _add_healpix_cards(
    table: fits.Header, path: Path, nside: int, ordering: str, frame: str
) -> None:
    if ordering not in ("RING", "NESTED"):
        raise MapError(f"{path}: expected ordering RING or NESTED, got {ordering!r}; name one")
    table["PIXTYPE"] = ("HEALPIX", "HEALPIX pixelisation")
    table["ORDERING"] = (ordering, "Pixel ordering scheme, either RING or NESTED")
    table["COORDSYS"] = (_canonical_frame(str(path), frame), "Galactic, celestial or ecliptic")
    table["NSIDE"] = (nside, "Resolution parameter of HEALPIX")
    table["FIRSTPIX"] = (0, "First pixel # (0 based)")
    table["LASTPIX"] = (hp.nside2npix(nside) - 1, "Last pixel # (0 based)")
    table["INDXSCHM"] = ("IMPLICIT", "Indexing: IMPLICIT or EXPLICIT")
    table["OBJECT"] = ("FULLSKY", "Sky coverage, either FULLSKY or PARTIAL")
    table["POLCCONV"] = ("COSMO", "Sign of U: COSMO or IAU")


def _add_user_cards(table: fits.Header, path: Path, cards: Mapping[str, Any]) -> None:
    for key, value in cards.items():
        if _RESERVED.fullmatch(key.upper()):
            raise MapError(f"{path}: header card {key} is written by foreglow; leave it out")
        plain = re.fullmatch(r"[A-Z0-9_-]{1,8}", key)
        try:
            table[key if plain else f"HIERARCH {key}"] = value
        except ValueError as error:
            raise MapError(
                f"{path}: header card {key} = {value!r} does not go in FITS ({error}); use a "
                "number, a truth value or plain ASCII text"
            ) from error


def _write_rows(stream: Any, path: Path, arrays: Sequence[np.ndarray], width: int) -> None:
    """Interleave the maps a few rows at a time, so that no second copy of them is made."""
    row = np.dtype([(f"c{i}", a.dtype.newbyteorder(">"), (width,)) for i, a in enumerate(arrays)])
    n_row, step = arrays[0].size // width, max(1, 2**22 // row.itemsize)
    for first in range(0, n_row, step):
        block = np.empty(min(step, n_row - first), row)
        for i, array in enumerate(arrays):
            values = array[first * width : (first + len(block)) * width]
            if values.dtype.kind == "f":
                if np.isinf(values).any():
                    raise MapError(
                        f"{path}: expected finite values or NaN (masked), got Inf in column "
                        f"{i + 1}; set such pixels to NaN"
                    )
                values = np.where(np.isnan(values), hp.UNSEEN, values)
            block[f"c{i}"] = values.reshape(-1, width)
        stream.write(block.tobytes())
    stream.write(bytes(-n_row * row.itemsize % _FITS_BLOCK))
