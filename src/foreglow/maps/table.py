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

import healpy as hp
import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning

from foreglow.errors import MapError
from foreglow.maps.memory import release_pages

_STORED_TYPES = {"E": ">f4", "D": ">f8", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8"}
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

    def take(self, positions: np.ndarray | slice) -> np.ndarray:
        """Native float values at flat positions, NaN where unobserved; NaN or Inf become Inf."""
        stored = self._stored(positions)
        scaled = (self.scale, self.zero) != (1.0, 0.0)
        keeps_type = stored.dtype.kind == "f" and not scaled
        values = stored.astype(stored.dtype.newbyteorder("=") if keeps_type else np.float64)
        if scaled:
            values = values * self.scale + self.zero
        # one look at the extremes spares most blocks the search; a NaN is the least of all
        if not (values.size and values.min() > 0.9 * hp.UNSEEN and values.max() < np.inf):
            # NaN is what unobserved pixels become, so a stored NaN must leave as something else.
            values[np.isnan(values)] = np.inf
            unseen = np.abs(values - hp.UNSEEN) <= 1e-5 * abs(hp.UNSEEN)  # healpy's tolerance
            values[unseen] = np.nan
        if self.null is not None:
            values[stored == self.null] = np.nan
        return values

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

    @property
    def listing(self) -> str:
        """Column names, for messages."""
        return ", ".join(c.name or "(unnamed)" for c in self.columns)

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
        """A header card as upper-case text, "" where absent."""
        return _keyword(self.header, key)

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
            unit=(column.unit or "").strip(),
            cells=cells.view(_STORED_TYPES[code]),
            scale=_number(column.bscale, 1.0),
            zero=_number(column.bzero, 0.0),
            null=column.null if isinstance(column.null, int) else None,
        )

    def pixel_index(self, nside: int) -> PixelIndex | None:
        """Pixel numbers of a partial map, loaded and sorted; None for a full-sky map."""
        if not self._is_partial:
            return None
        column = None if self.pixel_column is None else self.column(self.pixel_column)
        if column is None or column.cells.dtype.kind == "f" or column.scale != 1:
            raise MapError(
                f"{self.path}: expected an integer column PIXEL, as INDXSCHM is EXPLICIT, got "
                f"columns {self.listing}; name it PIXEL"
            )
        n_pix = hp.nside2npix(nside)
        pixels = _as_pixels(column, n_pix)
        order = None if (pixels[1:] > pixels[:-1]).all() else np.argsort(pixels)
        pixels = pixels if order is None else pixels[order]
        repeated = (pixels[1:] == pixels[:-1]).sum()
        if pixels[0] < 0 or pixels[-1] >= n_pix or repeated:
            raise MapError(
                f"{self.path}: expected distinct pixel numbers below {n_pix} (NSIDE = {nside}), "
                f"got {pixels[0]} to {pixels[-1]}, {repeated} of them repeated; correct NSIDE or "
                "the PIXEL column"
            )
        self.release()
        return PixelIndex(pixels, order)

    @property
    def _is_partial(self) -> bool:
        scheme = self.keyword("INDXSCHM")
        if scheme:
            return scheme == "EXPLICIT"
        return self.keyword("OBJECT") == "PARTIAL" or self.pixel_column is not None


def open_table(path: Path) -> Table:
    """Open the first binary table of a FITS file.

    Raises
    ------
    MapError
        If the file cannot be read, is truncated or holds no table.
    """
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
    named = [i for i, c in enumerate(columns) if (c.name or "").upper() in _PIXEL_NUMBERS]
    return Table(path, header, columns, rows, named[0] if named else None)


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


def _as_pixels(column: Column, n_pix: int) -> np.ndarray:
    """Pixel numbers of a table, in 4 bytes each where all that are stored fit."""
    zero = int(column.zero)
    low, high = int(column.cells.min()), int(column.cells.max())
    small = not zero and low >= -(2**31) and high < 2**31 and n_pix < 2**31
    return column.cells.astype(np.int32 if small else np.int64).reshape(-1) + zero


def _keyword(header: fits.Header, key: str) -> str:
    return str(header.get(key, "")).strip().upper()


def _number(value: Any, absent: float) -> float:
    return absent if value in (None, "") else float(value)
