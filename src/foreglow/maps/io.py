"""HEALPix maps on disk, opened for streaming and checked: Q,U, intensity and noise.

Maps are never loaded whole: `read` touches only the pixels asked for.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import healpy as hp
import numpy as np

from foreglow.errors import MapError, ShapeError
from foreglow.maps.blocks import PixelBlock, ring_numbers
from foreglow.maps.conventions import UNITS, canonical_frame, canonical_unit, warn_assumed
from foreglow.maps.table import Column, PixelIndex, Table, open_table

_ORDERINGS = {"RING": "RING", "NESTED": "NESTED", "NEST": "NESTED"}
_STOKES_NAMES = (
    "{}", "{}_STOKES", "STOKES_{}", "{}_POLARISATION", "{}_POLARIZATION", "{}_ML_FULL",
)  # fmt: skip
_RMS_NAMES = ("{}_RMS", "RMS_{}", "{}_SIGMA", "SIGMA_{}", "{}_NOISE", "NOISE_{}", "{}_NOISE_RMS")
_Q_AND_U = [{p.format(letter) for p in _STOKES_NAMES} for letter in "QU"]
_Q_AND_U_RMS = [{p.format(letter) for p in _STOKES_NAMES + _RMS_NAMES} for letter in "QU"]
_INTENSITY = {"I", "T", "I_STOKES", "STOKES_I", "TEMPERATURE", "INTENSITY", "I_ML_FULL"}
_COUNTS = {"HITS", "N_OBS", "NOBS"}


@dataclass(frozen=True, eq=False)
class StoredMap:
    """A map opened for streaming; nothing but a partial map's pixel numbers is in memory.

    Attributes
    ----------
    path : Path
    nside : int
    ordering : str
        "RING" or "NESTED", as stored.
    frame : str
        "G", "C" or "E", as stored.
    unit : str
        One of `foreglow.maps.conventions.UNITS`.
    columns : tuple of Column
        As stored, with the unit that the header states.
    beam_arcmin : float, optional
        FWHM that the header states (FWHM, with [arcmin] or [deg] in the card's comment).
    """

    path: Path
    nside: int
    ordering: str
    frame: str
    unit: str
    columns: tuple[Column, ...] = field(repr=False)
    table: Table = field(repr=False)
    index: PixelIndex | None = field(repr=False)
    beam_arcmin: float | None

    def release(self) -> None:
        """Let go what reading left of the file in memory."""
        self.table.release()

    def _read(self, pixels: np.ndarray | PixelBlock) -> np.ndarray:
        """All columns at some pixels, (column, n), NaN in all where one is unobserved."""
        if isinstance(pixels, PixelBlock):
            stored = pixels.numbers(self.ordering)
        else:
            pixels = self._validate_pixels(pixels)
            stored = hp.ring2nest(self.nside, pixels) if self.ordering == "NESTED" else pixels
        positions, present = (stored, None) if self.index is None else self.index.find(stored)
        values = np.stack([column.take(positions) for column in self.columns])  # (column, n)
        if present is not None:
            values[:, ~present] = np.nan
        if not np.isfinite(values).all():
            self._validate_finite(values, pixels)
            values[:, np.isnan(values).any(axis=0)] = np.nan
        return values

    def _validate_finite(self, values: np.ndarray, pixels: np.ndarray | PixelBlock) -> None:
        bad = np.isinf(values).any(axis=0)
        if bad.any():
            raise MapError(
                f"{self.path}: expected finite values, got NaN or Inf in {bad.sum()} of "
                f"{bad.size} pixels of this block, the first at RING pixel "
                f"{ring_numbers(pixels)[bad.argmax()]}; mark unobserved pixels as UNSEEN "
                f"({hp.UNSEEN})"
            )

    def _validate_pixels(self, pixels: np.ndarray) -> np.ndarray:
        pixels = np.asarray(pixels)
        if pixels.ndim != 1 or pixels.dtype.kind not in "iu":
            raise ShapeError(
                f"expected pixel indices, integers of shape (n,), got {pixels.dtype} of shape "
                f"{pixels.shape}; a mask becomes indices with numpy.flatnonzero"
            )
        n_pix = hp.nside2npix(self.nside)
        if pixels.size and (pixels.min() < 0 or pixels.max() >= n_pix):
            raise MapError(
                f"{self.path}: expected pixels from 0 to {n_pix - 1} (Nside {self.nside}), got "
                f"{pixels.min()} to {pixels.max()}; bring them to the map's Nside"
            )
        return pixels.astype(np.int64, copy=False)


@dataclass(frozen=True, eq=False)
class PolarisationMap(StoredMap):
    """A Q,U map opened for streaming; attributes as in `StoredMap`, and one more.

    Attributes
    ----------
    flip_u : bool
        The file is in the IAU convention, so `read` changes the sign of U.
    """

    flip_u: bool

    def read(self, pixels: np.ndarray | PixelBlock) -> np.ndarray:
        """Q and U of some pixels.

        Parameters
        ----------
        pixels : ndarray of int, shape (n,), or PixelBlock
            RING indices in the map's own frame, whatever the ordering of the file; or a block, in
            its own order.

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
        qu = self._read(pixels)
        if self.flip_u:
            np.negative(qu[1], out=qu[1])
        return qu


class IntensityMap(StoredMap):
    """An intensity map opened for streaming; attributes as in `StoredMap`."""

    def read(self, pixels: np.ndarray | PixelBlock) -> np.ndarray:
        """Intensity of some pixels, shape (n,); all else as `PolarisationMap.read`."""
        return self._read(pixels)[0]


class NoiseMap(StoredMap):
    """A map of noise rms per pixel opened for streaming; attributes as in `StoredMap`."""

    def read(self, pixels: np.ndarray | PixelBlock) -> np.ndarray:
        """Noise rms of Q and U of some pixels; a one-column file gives both the same.

        Parameters and shapes are those of `PolarisationMap.read`.

        Raises
        ------
        MapError
            As `PolarisationMap.read`, and if an observed rms is zero or negative.
        """
        rms = self._read(pixels)
        bad = (rms <= 0).any(axis=0)
        if bad.any():
            first = ring_numbers(pixels)[bad.argmax()]
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
    table = open_table(Path(path))
    stored = _describe(table, _find_stokes(table, _Q_AND_U), unit)
    return PolarisationMap(**stored, flip_u=_is_iau(table))


def open_intensity_map(path: str | Path, unit: str | None = None) -> IntensityMap:
    """Open the intensity column of a FITS file for streaming.

    It is found by its name (I_STOKES, TEMPERATURE, I, ...), else is the first of a 1- or 3-column
    table; `mask.fits[GAL070]` names another. Parameters, errors and warnings are those of
    `open_polarisation_map`; POLCCONV is not read.

    Returns
    -------
    IntensityMap
    """
    file, column = split_column(Path(path))
    table = open_table(file)
    number = _find_intensity(table) if column is None else find_named(table, column)
    return IntensityMap(**_describe(table, [number], unit))


def open_noise_map(path: str | Path, unit: str | None = None) -> NoiseMap:
    """Open a FITS file of noise rms per pixel: one column for Q and U alike, or one for each.

    Parameters, errors and warnings are those of `open_polarisation_map`; POLCCONV is not read.

    Returns
    -------
    NoiseMap
    """
    table = open_table(Path(path))
    only = table.sky_columns
    found = only * 2 if len(only) == 1 else _find_stokes(table, _Q_AND_U_RMS)
    return NoiseMap(**_describe(table, found, unit))


def check_same_sky(maps: Mapping[str, StoredMap]) -> None:
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


def _sky_names(table: Table) -> dict[int, str]:
    """Names of the columns that are maps, in one spelling."""
    columns = table.columns
    return {
        i: re.sub(r"[-\s.]", "_", (columns[i].name or "").strip().upper())
        for i in table.sky_columns
    }


def _find_stokes(table: Table, spellings: Sequence[set[str]]) -> list[int]:
    """Column numbers of Q and U, by name, else by position."""
    names = _sky_names(table)
    hits = [[i for i, name in names.items() if name in spelling] for spelling in spellings]
    if len(hits[0]) == len(hits[1]) == 1:
        return [hits[0][0], hits[1][0]]
    last = list(names)[-2:]
    by_position = len(names) in (2, 3) and not any(hits)
    if by_position and not (_INTENSITY | _COUNTS) & {names[i] for i in last}:
        return last
    raise MapError(
        f"{table.path}: expected one column Q_STOKES and one U_STOKES (or Q_POLARISATION, Q, ...), "
        f"got columns {table.listing}; rename them (TTYPE)"
    )


def split_column(path: Path) -> tuple[Path, str | None]:
    """The file and the column of `file.fits[COLUMN]`; None where no column is named."""
    named = re.fullmatch(r"(.+)\[([^\[\]]+)\]", path.name)
    if named is None or path.exists():
        return path, None
    return path.with_name(named[1]), named[2]


def find_named(table: Table, column: str) -> int:
    """Number of a column by its own name."""
    wanted = column.strip().upper()
    hits = [i for i in table.sky_columns if (table.columns[i].name or "").upper() == wanted]
    if len(hits) == 1:
        return hits[0]
    raise MapError(
        f"{table.path}: expected one column {column}, got columns {table.listing}; name one of them"
    )


def _find_intensity(table: Table) -> int:
    """Column number of the intensity, by name, else by position."""
    names = _sky_names(table)
    hits = [i for i, name in names.items() if name in _INTENSITY]
    if len(hits) == 1:
        return hits[0]
    by_position = len(names) in (1, 3) and not hits
    first = next(iter(names), 0)
    if by_position and names[first] not in _COUNTS.union(*_Q_AND_U_RMS):
        return first
    raise MapError(
        f"{table.path}: expected one column I_STOKES (or TEMPERATURE, I, ...), got columns "
        f"{table.listing}; rename it (TTYPE), or name the one to take, {table.path.name}[COLUMN]"
    )


def _describe(table: Table, numbers: Sequence[int], unit: str | None) -> dict[str, Any]:
    """Everything of a map but its polarisation convention, checked."""
    path, columns = table.path, tuple(table.column(i) for i in numbers)
    unit = _stated_unit(path, columns, unit)
    ordering = _ORDERINGS.get(table.keyword("ORDERING"))
    if ordering is None:
        raise MapError(
            f"{path}: expected ORDERING RING or NESTED in the header, got "
            f"{table.keyword('ORDERING') or 'none'}; set ORDERING to the one it was made in"
        )
    frame = table.keyword("COORDSYS")
    if not frame:
        warn_assumed(
            f"{path}: no COORDSYS in the header, taken as Galactic; set it to silence this"
        )
    nside = _stored_nside(table, ordering)
    index = table.pixel_index(nside)
    expected = hp.nside2npix(nside) if index is None else len(index.pixels)
    for column in columns:
        if column.cells.size != expected:
            raise MapError(
                f"{path}: expected {expected} pixels in column {column.name} (NSIDE = {nside}), "
                f"got {column.cells.size}; correct NSIDE, or mark a partial map INDXSCHM = EXPLICIT"
            )
    return {
        "path": path,
        "nside": nside,
        "ordering": ordering,
        "frame": canonical_frame(f"{path}: COORDSYS", frame or "G"),
        "unit": unit,
        "columns": columns,
        "table": table,
        "index": index,
        "beam_arcmin": _stated_beam(table),
    }


def _stated_beam(table: Table) -> float | None:
    """FWHM [arcmin] of the header, if it states a number and its unit."""
    comment = str(table.header.comments["FWHM"]) if "FWHM" in table.header else ""
    unit = re.search("arcmin|deg", comment)
    try:
        value = float(table.keyword("FWHM"))
    except ValueError:
        return None
    if unit is None or not (np.isfinite(value) and value >= 0):
        return None
    return value * (60 if unit[0] == "deg" else 1)


def _is_iau(table: Table) -> bool:
    convention = table.keyword("POLCCONV")
    if convention not in ("", "COSMO", "IAU"):
        raise MapError(
            f"{table.path}: expected POLCCONV COSMO or IAU, got {convention!r}; correct the header"
        )
    if not convention:
        warn_assumed(
            f"{table.path}: no POLCCONV in the header, taken as COSMO; set it to silence this"
        )
    return convention == "IAU"


def _stored_nside(table: Table, ordering: str) -> int:
    # PySM stores it as a string, some as a float
    text = table.keyword("NSIDE").removesuffix(".0")
    nside = int(text) if text.isdecimal() else 0
    if not hp.isnsideok(nside, nest=ordering == "NESTED"):
        raise MapError(
            f"{table.path}: expected NSIDE in the header, a power of two for NESTED, got "
            f"{text or 'none'}; set NSIDE to that of the map"
        )
    return nside


def _stated_unit(path: Path, columns: Sequence[Column], unit: str | None) -> str:
    if unit is not None:
        return canonical_unit(f"{path}: unit=", unit)
    for column in columns:
        if not column.unit:
            raise MapError(
                f"{path}: expected a unit (TUNIT) for column {column.name}, got none; pass unit= "
                f"(command line: --unit), one of {', '.join(UNITS)}"
            )
    units = [canonical_unit(f"{path}: TUNIT of {c.name}", c.unit) for c in columns]
    if len(set(units)) > 1:
        raise MapError(
            f"{path}: expected one unit for Q and U, got {units[0]} for {columns[0].name} and "
            f"{units[1]} for {columns[1].name}; correct TUNIT or pass unit= (command line: --unit)"
        )
    return units[0]
