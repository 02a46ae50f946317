"""The binary table of a HEALPix FITS file: columns as stored, never loaded whole.

astropy reads the header; the table stays a memory map (a gzipped file, which cannot be mapped,
is loaded).
"""

import gzip
import io
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning

from foreglow.errors import MapError
from foreglow.maps import healpix as hp
from foreglow.maps.conventions import what_says_a_unit
from foreglow.maps.memory import release_pages

_STORED_TYPES = {
    "E": ">f4", "D": ">f8", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "L": "u1",
}  # fmt: skip
_TRUE, _FALSE = b"TF"  # of a logical column (L), where a byte 0 says nothing
_UNSIGNED_64 = 2**63  # TZERO of unsigned 64 bits
_PIXEL_NUMBERS = ("PIXEL", "HPXINDEX")  # of healpy and of HI4PI
# What gzip and the disk raise, then what astropy raises on a damaged header.
_UNREADABLE = (OSError, EOFError, zlib.error, fits.VerifyError, ValueError, KeyError, TypeError)


@dataclass(frozen=True, eq=False)
class Column:
    """One table column as stored; `cells` (row, element) is a big-endian view of the file."""

    name: str
    unit: str
    cells: np.ndarray
    scale: float
    zero: float
    null: int | None
    bad: float | None = None  # BAD_DATA of the header, which marks unobserved pixels
    logical: bool = False

    def take(self, positions: np.ndarray | slice) -> np.ndarray:
        """Native float values at flat positions, NaN where unobserved; NaN or Inf become Inf."""
        stored = self._stored(positions)
        values = self._numbers(stored)
        bad = None if self.bad is None else _equals(values, self.bad)
        # one look at the extremes spares most blocks the search; a NaN is the least of all
        if not (values.size and values.min() > 0.9 * hp.UNSEEN and values.max() < np.inf):
            # NaN is what unobserved pixels become, so a stored NaN must leave as something else.
            values[np.isnan(values)] = np.inf
            unseen = np.abs(values - hp.UNSEEN) <= 1e-5 * abs(hp.UNSEEN)  # healpy's tolerance
            values[unseen] = np.nan
        if self.null is not None:
            values[stored == self.null] = np.nan
        if bad is not None:
            values[bad] = np.nan
        if self.logical:
            values[(stored != _TRUE) & (stored != _FALSE)] = np.nan
        return values

    @property
    def is_integer(self) -> bool:
        """Whether it holds whole numbers, signed or not."""
        whole = self.scale == 1 and self.zero == int(self.zero) and self.zero <= _UNSIGNED_64
        return self.cells.dtype.kind in "iu" and whole and not self.logical

    def _numbers(self, stored: np.ndarray) -> np.ndarray:
        """Floats of what is stored; those of integers are as exact as they can be."""
        if self.logical:
            return (stored == _TRUE).astype(np.float64)
        if (self.scale, self.zero) == (1.0, 0.0):
            keeps_type = stored.dtype.kind == "f"
            return stored.astype(stored.dtype.newbyteorder("=") if keeps_type else np.float64)
        if self.is_integer:
            return _integers(stored, int(self.zero)).astype(np.float64)
        return stored.astype(np.float64) * self.scale + self.zero

    def _stored(self, positions: np.ndarray | slice) -> np.ndarray:
        width = self.cells.shape[1]
        if not isinstance(positions, slice):
            return self.cells[np.divmod(positions, width)]
        first = positions.start // width
        rows = self.cells[first : -(-positions.stop // width)].reshape(-1)
        return rows[positions.start - first * width : positions.stop - first * width]


@dataclass(frozen=True, eq=False)
class PixelIndex:
    """Where the pixels of a partial map lie: sorted pixel numbers and their table positions."""

    pixels: np.ndarray
    order: np.ndarray | None

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        return self.pixels.nbytes + (0 if self.order is None else self.order.nbytes)

    def same_as(self, other: "PixelIndex") -> bool:
        """Whether another file has the same pixels in the same order."""
        return np.array_equal(self.pixels, other.pixels) and (
            self.order is other.order
            or (
                self.order is not None
                and other.order is not None
                and np.array_equal(self.order, other.order)
            )
        )

    def find(self, pixels: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray]:
        """Table positions of `pixels` (meaningless where absent) and whether each is present."""
        if isinstance(pixels, slice):
            return self._find_stretch(pixels)
        slot = np.searchsorted(self.pixels, pixels.astype(self.pixels.dtype))
        slot = np.minimum(slot, len(self.pixels) - 1)
        present = self.pixels[slot] == pixels
        return (slot if self.order is None else self.order[slot]), present

    def _find_stretch(self, pixels: slice) -> tuple[np.ndarray, np.ndarray]:
        first, last = np.searchsorted(self.pixels, [pixels.start, pixels.stop])
        at = self.pixels[first:last] - pixels.start
        positions = np.zeros(pixels.stop - pixels.start, np.int64)
        positions[at] = np.arange(first, last) if self.order is None else self.order[first:last]
        present = np.zeros(len(positions), bool)
        present[at] = True
        return positions, present


@dataclass(frozen=True, eq=False)
class Table:
    """The binary table of a file: header, column definitions and its bytes (row, byte)."""

    path: Path
    header: fits.Header
    columns: Sequence[Any]  # astropy.io.fits.Column
    rows: np.ndarray
    pixel_column: int | None
    other_headers: Sequence[fits.Header] = ()  # of the file, where this one is silent
    other_columns: Sequence[str] = ()  # of further tables in the file

    @property
    def listing(self) -> str:
        """Column names, for messages."""
        names = ", ".join(c.name or "(unnamed)" for c in self.columns)
        return names + "".join(f"; in a further table: {more}" for more in self.other_columns)

    @property
    def sky_columns(self) -> list[int]:
        """Numbers of the columns that are maps."""
        return [i for i in range(len(self.columns)) if i != self.pixel_column]

    @property
    def bytes_loaded(self) -> int:
        """What a gzipped file, which cannot be mapped, takes in memory."""
        return 0 if isinstance(self.rows, np.memmap) else self.rows.nbytes

    def release(self) -> None:
        """Let the pages go that reading a mapped file left in memory, where the system can."""
        release_pages(self.rows)

    def keyword(self, key: str) -> str:
        """A card as upper-case text, of the table's header or else of the file's; "" if absent."""
        texts = (_keyword(header, key) for header in (self.header, *self.other_headers))
        return next((text for text in texts if text), "")

    def comment(self, key: str) -> str:
        """What stands beside the card that `keyword` finds."""
        for header in (self.header, *self.other_headers):
            if _keyword(header, key):
                return str(header.comments[key])
        return ""

    def column(self, number: int) -> Column:
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
        return Column(
            name=column.name or f"column {number + 1}",
            unit=what_says_a_unit(column.unit or ""),
            cells=cells.view(_STORED_TYPES[code]),
            scale=_number(column.bscale, 1.0),
            zero=_number(column.bzero, 0.0),
            null=column.null if isinstance(column.null, int) else None,
            bad=self._bad_data(),
            logical=code == "L",
        )

    def _bad_data(self) -> float | None:
        text = self.keyword("BAD_DATA")
        try:
            value = float(text) if text else None
        except ValueError:
            value = np.inf
        if value is not None and np.isinf(value):
            raise MapError(
                f"{self.path}: expected a number in BAD_DATA, which marks unobserved pixels, got "
                f"{text!r}; correct the card, or delete it"
            )
        return value

    def pixel_index(self, nside: int) -> PixelIndex | None:
        """Pixel numbers of a partial map, loaded and sorted; None for a full-sky map."""
        if not self._is_partial:
            return None
        column = None if self.pixel_column is None else self.column(self.pixel_column)
        if column is None or not column.is_integer:
            raise MapError(
                f"{self.path}: expected an integer column PIXEL, as INDXSCHM is EXPLICIT, got "
                f"columns {self.listing}; name it PIXEL"
            )
        n_pix = hp.nside2npix(nside)
        pixels = _as_pixels(column, n_pix)
        if pixels is None:
            low, high = (int(end) for end in _ends(column))
            raise MapError(
                f"{self.path}: expected distinct pixel numbers below {n_pix} (NSIDE = {nside}), "
                f"got {low} to {high}; correct NSIDE or the PIXEL column"
            )
        order = None if (pixels[1:] > pixels[:-1]).all() else np.argsort(pixels)
        pixels = pixels if order is None else pixels[order]
        repeated = (pixels[1:] == pixels[:-1]).sum()
        if repeated:
            raise MapError(
                f"{self.path}: expected distinct pixel numbers, got {pixels[0]} to {pixels[-1]}, "
                f"{repeated} of them repeated; correct the PIXEL column"
            )
        self.release()
        return PixelIndex(pixels, order)

    @property
    def _is_partial(self) -> bool:
        scheme = self.keyword("INDXSCHM")
        if scheme:
            return scheme == "EXPLICIT"
        return self.keyword("OBJECT") == "PARTIAL" or self.pixel_column is not None


def open_table(path: Path, names: Sequence[str] = ()) -> Table:
    """Open a binary table of a FITS file: the first, or the first that has all columns named.

    Raises
    ------
    MapError
        If the file cannot be read, is truncated or holds no table.
    """
    try:
        with _open_bytes(path) as (stream, content):
            found, others, primary = _find_table(path, stream, names)
        header, columns = found.header, found.columns
        rows = _table_rows(path, header, content[found.offset :])
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
    named = [i for i, c in enumerate(columns) if (c.name or "").upper() in _PIXEL_NUMBERS]
    return Table(
        path,
        header,
        columns,
        rows,
        named[0] if named else None,
        (primary, *(other.header for other in others)),
        tuple(", ".join(other.names) for other in others),
    )


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


@dataclass(frozen=True, eq=False)
class _Extension:
    header: fits.Header
    columns: list[Any]
    offset: int  # of its data in the file

    @property
    def names(self) -> list[str]:
        return [c.name or "(unnamed)" for c in self.columns]


def _find_table(
    path: Path, stream: BinaryIO, names: Sequence[str]
) -> tuple[_Extension, list[_Extension], fits.Header]:
    """The table that has all columns named, or the first; the others; the primary header."""
    tables: list[_Extension] = []
    primary = fits.Header()
    # astropy only warns of a broken extension and ends the file there; the rest is checked later
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always", AstropyWarning)
        with fits.open(stream, memmap=False) as hdus:
            for k, hdu in enumerate(hdus):
                if k == 0:
                    primary = hdu.header
                if isinstance(hdu, fits.BinTableHDU):
                    table: Any = hdu
                    offset = table.fileinfo()["datLoc"]
                    tables.append(_Extension(table.header, list(table.columns), offset))
    if not tables:
        reason = f" ({' '.join(str(complaints[-1].message).split())})" if complaints else ""
        raise MapError(
            f"{path}: no binary table{reason}; expected a HEALPix map as healpy.write_map makes "
            "it, check that the file is a map and complete"
        )
    wanted = {name.strip().upper() for name in names}
    having = [t for t in tables if wanted <= {name.upper() for name in t.names}]
    found = having[0] if having else tables[0]
    return found, [t for t in tables if t is not found], primary


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


def _integers(stored: np.ndarray, zero: int) -> np.ndarray:
    """Stored integers and TZERO, without a float between: 2^63 + 5 has no place in one."""
    if zero == _UNSIGNED_64:
        return stored.astype(np.int64).view(np.uint64) ^ np.uint64(_UNSIGNED_64)
    return stored.astype(np.int64) + zero


def _ends(column: Column) -> tuple[int, int]:
    """Least and greatest of a column of integers."""
    zero = int(column.zero)
    return int(column.cells.min()) + zero, int(column.cells.max()) + zero


def _as_pixels(column: Column, n_pix: int) -> np.ndarray | None:
    """Pixel numbers of a table, in 4 bytes each where they fit; None where some are no pixels."""
    low, high = _ends(column)
    if low < 0 or high >= n_pix:
        return None
    kind = np.int32 if n_pix < 2**31 else np.int64
    if column.zero == 0:
        return column.cells.astype(kind).reshape(-1)
    return _integers(column.cells, int(column.zero)).astype(kind).reshape(-1)


def _equals(values: np.ndarray, bad: float) -> np.ndarray:
    """Where values are BAD_DATA, which a card may state to fewer digits than they have."""
    return np.isnan(values) if np.isnan(bad) else np.abs(values - bad) <= 1e-6 * abs(bad)


def _keyword(header: fits.Header, key: str) -> str:
    return str(header.get(key, "")).strip().upper()


def _number(value: Any, absent: float) -> float:
    return absent if value in (None, "") else float(value)
