"""HI cubes that are HEALPix maps already: a column or a file a channel, or a spectrum a row."""

import contextlib
import mmap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from foreglow.errors import MapError
from foreglow.hi_cube.brightness import PLACEHOLDERS, OddValues, take_out_odd
from foreglow.hi_cube.cards import Cards, kelvin_factor, read_cards
from foreglow.hi_cube.image_cube import is_gzipped
from foreglow.hi_cube.store import PixelChunks
from foreglow.hi_cube.survey import blank_channels
from foreglow.hi_cube.velocity import (
    VelocityAxis,
    card_velocities,
    read_velocity_table,
    stated_velocity,
)
from foreglow.maps import healpix as hp
from foreglow.maps.conventions import canonical_frame
from foreglow.maps.table import Column, PixelIndex, Table, open_table

_ORDERINGS = {"RING": "RING", "NESTED": "NESTED", "NEST": "NESTED"}
_BATCH = 1 << 20  # pixels at a time
_MAPPED = 1 << 26  # bytes of a file that may be mapped at a time
_SAMPLE = 1 << 12  # pixels that are looked at before the work


@dataclass(frozen=True, eq=False)
class HealpixCube:
    """Maps of channels, opened for reading channel by channel.

    Attributes
    ----------
    paths : tuple of Path
    nside : int
    ordering : str
        "RING" or "NESTED", as stored.
    velocity : VelocityAxis
    """

    paths: tuple[Path, ...]
    nside: int
    ordering: str
    velocity: VelocityAxis
    channels: tuple["_Channel", ...] = field(repr=False)

    @property
    def chunks(self) -> PixelChunks:
        """Chunks of pixels that some channel has."""
        lists = [c.index.pixels for c in self.channels if c.index is not None]
        if len(lists) < len(self.channels):
            return PixelChunks.of_all(self.nside)
        if self.ordering == "RING":
            lists = [hp.ring2nest(self.nside, pixels.astype(np.int64)) for pixels in lists]
        return PixelChunks.around(self.nside, lists)

    def fill(self, chunks: PixelChunks, block: NDArray[np.float32], first: int) -> None:
        """Fill (channel, pixel of `chunks`) with channels from `first` on; K, NaN elsewhere."""
        n_pix = hp.nside2npix(self.nside)
        channels = [self._channel(first + k) for k in range(len(block))]
        step = max(1024, min(_BATCH, _MAPPED // max(_bytes_a_pixel(c.column) for c in channels)))
        # in the order of the files, whose pages are let go after each step
        for start in range(0, n_pix, step):
            stored = np.arange(start, min(start + step, n_pix))
            nested = hp.ring2nest(self.nside, stored) if self.ordering == "RING" else stored
            places = chunks.places(nested)
            stored, places = stored[places >= 0], places[places >= 0]
            for k, channel in enumerate(channels):
                block[k, places] = channel.take(stored)
            for channel in channels:
                channel.table.release()

    def validate(self, part: slice) -> None:
        """Check before the work that channels hold data, and say what values are taken as none.

        A sample of pixels is read, and all of those channels that have nothing in it.

        Raises
        ------
        MapError
        """
        odd, blank, numbers = OddValues(), [], range(part.start, part.stop)
        for place, channel in enumerate(map(self._channel, numbers)):
            n_stored = channel.column.cells.size
            sample = np.unique(np.linspace(0, n_stored - 1, _SAMPLE).astype(np.int64))
            values, found = channel.take_stored(sample)
            odd.add(found)
            if not np.isfinite(values).any() and channel.is_blank():
                blank.append(place)
            channel.table.release()
        where = str(self.paths[0])
        odd.validate(where)
        odd.warn(where)
        if blank:
            raise blank_channels(where, blank, self.velocity.kms[part])

    @property
    def bytes_loaded(self) -> int:
        """What gzipped files, which cannot be mapped, take."""
        tables = {id(c.table): c.table for c in self.channels}.values()
        return sum(t.rows.nbytes for t in tables if not isinstance(t.rows, np.memmap))

    def record(self) -> dict[str, Any]:
        """What the files said, for the attributes of the cube made from them."""
        return {
            "file": self.paths[0].name + (f" to {self.paths[-1].name}" if self.paths[1:] else ""),
            "velocity": self.velocity.stated + (", flipped" if self.velocity.flipped else ""),
            "unit": self.channels[0].column.unit or "none",
            "projection": f"HEALPix {self.ordering}, Nside {self.nside}",
        }

    def _channel(self, k: int) -> "_Channel":
        return self.channels[len(self.channels) - 1 - k if self.velocity.flipped else k]


@dataclass(frozen=True, eq=False)
class _Channel:
    """One column of a table, or one element of its rows."""

    table: Table
    column: Column
    index: PixelIndex | None
    factor: float

    def take(self, pixels: NDArray[np.integer]) -> NDArray[np.float32]:
        """K at pixels as the table numbers them."""
        positions, present = (pixels, None) if self.index is None else self.index.find(pixels)
        values, _ = self.take_stored(positions)
        if present is not None:
            values[~present] = np.nan
        return values

    def take_stored(self, positions: NDArray[np.integer]) -> tuple[NDArray[np.float32], OddValues]:
        """K at positions of the table, and what was taken as not observed."""
        stored = self.column.take(positions)
        stored[np.isinf(stored)] = np.nan  # `Column.take` makes NaN infinite; here: not observed
        values = stored * self.factor
        placeholders = PLACEHOLDERS if self.column.cells.dtype.kind == "f" else ()
        odd = take_out_odd(values, stored, placeholders)
        return values.astype(np.float32), odd

    def is_blank(self) -> bool:
        """Whether no pixel has a value."""
        n_stored = self.column.cells.size
        return not any(
            np.isfinite(self.take_stored(np.arange(k, min(k + _BATCH, n_stored)))[0]).any()
            for k in range(0, n_stored, _BATCH)
        )


def is_healpix(path: Path) -> bool:
    """Whether a FITS file holds a HEALPix table; False too if it cannot be read."""
    unreadable = (OSError, EOFError, ValueError, KeyError, TypeError)
    with warnings.catch_warnings(), contextlib.suppress(*unreadable):
        warnings.simplefilter("ignore", AstropyWarning)
        with fits.open(path, memmap=False) as hdus:
            for hdu in hdus:
                if isinstance(hdu, fits.CompImageHDU) or getattr(hdu, "is_image", False):
                    if getattr(hdu, "shape", ()):
                        return False
                elif isinstance(hdu, fits.BinTableHDU):
                    return True
    return False


def open_healpix_cube(
    paths: Sequence[Path], unit: str | None, velocity_table: Path | None, memory: int
) -> HealpixCube:
    """Open one table with a column a channel or a spectrum a row, or several of one channel each.

    Velocities are those of `velocity_table`; else, of one file, of a velocity axis in the header
    of its table, written as the third axis of an image cube (CTYPE3, CRVAL3, CRPIX3, CDELT3,
    SPECSYS); else, of a file a channel, of a card VELO-LSR in each (m/s, as CLASS writes it).

    Parameters
    ----------
    paths : sequence of Path
    unit : str or None
        Where TUNIT is absent.
    velocity_table : Path or None
        See `read_velocity_table`.
    memory : int
        Bytes; a gzipped file, which has to be loaded, must fit in them.

    Raises
    ------
    MapError
        If the maps are not of one Nside, ordering and Galactic, or state no unit or velocity.
    """
    for path in paths:
        _validate_gzipped(path, memory)
    tables = _by_velocity([open_table(path) for path in paths])
    nside, ordering = _common_grid(tables)
    channels = [c for table in tables for c in _channels(table, nside, unit, len(tables) > 1)]
    velocity = _velocities(tables, len(channels), velocity_table)
    return HealpixCube(tuple(t.path for t in tables), nside, ordering, velocity, tuple(channels))


def _by_velocity(tables: list[Table]) -> list[Table]:
    """Tables in the order of their VELO-LSR, where all have it: a shell sorts 10 before 2."""
    if any("VELO-LSR" not in table.header for table in tables):
        return tables
    return sorted(tables, key=lambda t: _cards(t).number("VELO-LSR"))


def _cards(table: Table) -> Cards:
    return read_cards(table.path, table.header, 1)


def spectrum_length(table: Table) -> int:
    """Channels of a table whose one column has a spectrum in each row, one row a pixel; else 1."""
    with contextlib.suppress(MapError):
        numbers, (nside, _) = table.sky_columns, _common_grid([table])
        index = table.pixel_index(nside)
        n_pix = hp.nside2npix(nside) if index is None else len(index.pixels)
        rows, length = table.column(numbers[0]).cells.shape
        return length if len(numbers) == 1 and rows == n_pix else 1
    return 1


def _channels(table: Table, nside: int, unit: str | None, alone: bool) -> list[_Channel]:
    """Columns of a table, or elements of its rows, checked to be one if it is to be `alone`."""
    numbers, index = table.sky_columns, table.pixel_index(nside)
    expected = hp.nside2npix(nside) if index is None else len(index.pixels)
    found = []
    for column in map(table.column, numbers):
        rows, length = column.cells.shape
        if column.cells.size == expected:
            parts = [column]
        elif rows == expected:
            parts = [replace(column, cells=column.cells[:, k : k + 1]) for k in range(length)]
        else:
            raise MapError(
                f"{table.path}: expected {expected} pixels in column {column.name} (NSIDE = "
                f"{nside}), or as many rows with a spectrum in each, got {column.cells.size} "
                f"values in {rows} rows; correct NSIDE, or mark a partial map INDXSCHM = EXPLICIT"
            )
        if len(parts) > 1 < len(numbers):
            raise MapError(
                f"{table.path}: expected one column of spectra alone, got columns {table.listing}; "
                "give a table that has no other than this and PIXEL"
            )
        factor = kelvin_factor(table.path, f"TUNIT of {column.name}", column.unit, unit)
        found += [_Channel(table, part, index, factor) for part in parts]
    if alone and len(found) != 1:
        raise MapError(
            f"{table.path}: expected one channel in each of several files, got {len(found)}, "
            f"columns {table.listing}; give one file of all channels, or a file a channel"
        )
    return found


def _common_grid(tables: Sequence[Table]) -> tuple[int, str]:
    """Nside and ordering of all tables, checked to be Galactic."""
    grids = {}
    for table in tables:
        text = table.keyword("NSIDE").removesuffix(".0")
        nside = int(text) if text.isdecimal() else 0
        ordering = _ORDERINGS.get(table.keyword("ORDERING"))
        if ordering is None or not hp.isnsideok(nside, nest=True):
            raise MapError(
                f"{table.path}: expected NSIDE, a power of two, and ORDERING RING or NESTED in the "
                f"header, got {text or 'none'} and {table.keyword('ORDERING') or 'none'}; correct "
                "the header"
            )
        frame = table.keyword("COORDSYS") or "G"
        if canonical_frame(f"{table.path}: COORDSYS", frame) != "G":
            raise MapError(
                f"{table.path}: expected maps in Galactic coordinates (COORDSYS = G), got {frame}; "
                "turn them with healpy.Rotator(coord=['C', 'G']).rotate_map_pixel"
            )
        grids.setdefault((nside, ordering), table.path)
    if len(grids) > 1:
        listing = "; ".join(f"Nside {n} {o} in {path}" for (n, o), path in grids.items())
        raise MapError(
            f"expected channels of one Nside and ordering, got {listing}; bring them to one with "
            "healpy.ud_grade"
        )
    return next(iter(grids))


def _velocities(
    tables: Sequence[Table], n_channel: int, velocity_table: Path | None
) -> VelocityAxis:
    first = tables[0]
    if len(tables) == 1 and "CTYPE3" in first.header:
        return stated_velocity(_cards(first), 3, n_channel, velocity_table)
    if velocity_table is not None:
        return read_velocity_table(velocity_table, n_channel)
    if len(tables) == n_channel and all("VELO-LSR" in table.header for table in tables):
        return card_velocities([_cards(table) for table in tables])
    came = f"{n_channel} channel{'s' * (n_channel > 1)}"
    raise MapError(
        f"{first.path}: expected the velocity of each channel, a velocity axis (CTYPE3, CRVAL3, "
        "CRPIX3, CDELT3, SPECSYS) in the header of the table, or a card VELO-LSR (m/s) in each of "
        f"several files, got none for {came}; write them into a text file, km/s LSRK, one a line, "
        "and pass velocity_table="
    )


def _validate_gzipped(path: Path, memory: int) -> None:
    """Check that a gzipped table, which is loaded whole, leaves room."""
    if not (path.exists() and is_gzipped(path)):
        return
    with fits.open(path, memmap=False) as hdus:
        size = max((hdu.size for hdu in hdus if isinstance(hdu, fits.BinTableHDU)), default=0)
    if size > memory // 2:
        raise MapError(
            f"{path}: expected a gzipped table, which has to be loaded, to take at most half of "
            f"the memory allowed, got {size / 2**20:.0f} MiB of {memory / 2**20:.0f} MiB; gunzip "
            "it, or give more memory="
        )


def _bytes_a_pixel(column: Column) -> int:
    """Of the file, mapped to read one pixel of one column: of all columns, if rows are short."""
    in_row = column.cells.shape[1] * column.cells.itemsize
    return column.cells.itemsize if in_row >= mmap.PAGESIZE else column.cells.strides[0]
