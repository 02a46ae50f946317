"""Full-sky HEALPix maps written to FITS, a block at a time and atomically."""

import contextlib
import gzip
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from foreglow.errors import MapError, ShapeError
from foreglow.files import new_file
from foreglow.maps import healpix as hp
from foreglow.maps.conventions import canonical_frame, canonical_unit

_WRITTEN_CODES = {"f4": "E", "f8": "D", "i2": "I", "i4": "J", "i8": "K"}
_RESERVED = re.compile(
    r"XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TFIELDS|T(TYPE|FORM|UNIT|NULL|SCAL|ZERO|DIM)\d+"
    r"|PIXTYPE|ORDERING|COORDSYS|NSIDE|FIRSTPIX|LASTPIX|INDXSCHM|OBJECT|POLCCONV|END"
)
_FITS_BLOCK = 2880


Columns = Mapping[str, tuple[np.ndarray, str]]


def write_maps(
    path: str | Path,
    columns: Columns,
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
        float32, float64, int16, int32 or int64. NaN is stored as UNSEEN, and so is what a masked
        array masks; in integer maps -1 means masked (TNULL). An empty unit writes no TUNIT.
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
    sizes = [np.size(values) for values, _ in columns.values()]
    for name, size in zip(columns, sizes, strict=True):
        if size != sizes[0] or not hp.isnpixok(size):
            raise MapError(
                f"{path}: expected full-sky maps of one Nside, shape (12 Nside^2,), got "
                f"{np.shape(columns[name][0])} for {name}; fill missing pixels with NaN"
            )
    nside = hp.npix2nside(sizes[0]) if sizes else 1
    write_map_blocks(
        path, [columns], nside, frame=frame, ordering=ordering, header=header, overwrite=overwrite
    )


def write_map_blocks(
    path: str | Path,
    blocks: Iterable[Columns],
    nside: int,
    *,
    frame: str,
    ordering: str = "RING",
    header: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write full-sky maps a block of pixels at a time, as they come; see `write_maps`.

    Parameters
    ----------
    blocks : iterable of mapping of name to (values, unit)
        Of pixels that follow each other in `ordering`, the same columns in each; together the
        sky. The number of pixels of a block is a multiple of 1024 where that of the sky is.
    nside : int
    path, frame, ordering, header, overwrite
        As `write_maps` takes them.

    Raises
    ------
    MapError
        As `write_maps` does. What `blocks` raises goes through; then nothing is written.
    ShapeError
        If the blocks are not the sky, or not of whole rows.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise MapError(f"{path}: exists already; choose another name or pass overwrite=True")
    coming = iter(blocks)
    first = {name: (_plain(a), unit) for name, (a, unit) in next(coming, {}).items()}
    _validate_columns(path, first)
    n_pix = hp.nside2npix(nside)
    # 1024 pixels a row is HEALPix custom; it does not divide the smallest and odd Nsides.
    width = 1024 if n_pix % 1024 == 0 else 1
    table = _table_header(path, first, n_pix // width, width)
    _add_healpix_cards(table, path, nside, ordering, frame)
    _add_user_cards(table, path, header or {})
    with _new_file(path) as stream:
        stream.write(fits.PrimaryHDU().header.tostring().encode("ascii"))
        stream.write(table.tostring().encode("ascii"))
        row = _row_type(first, width)
        pixels = _write_rows(stream, path, itertools.chain([first], coming), row)
        if pixels != n_pix:
            raise ShapeError(f"{path}: expected {n_pix} pixels in all blocks, got {pixels}")
        stream.write(bytes(-n_pix // width * row.itemsize % _FITS_BLOCK))


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[Any]:
    """A file beside `path` to write to, that gets this name when all went well."""
    with new_file(path) as temporary, temporary.open("wb") as stream:
        if path.suffix != ".gz":
            yield stream
            return
        # no name and no time inside: the same maps are the same bytes
        with gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as packed:
            yield packed


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
    unit = canonical_unit(str(path), unit)
    columns = {"Q_STOKES": (qu[0], unit), "U_STOKES": (qu[1], unit)}
    write_maps(path, columns, frame=frame, ordering=ordering, header=header, overwrite=overwrite)


def _validate_columns(path: Path, columns: Columns) -> None:
    names = list(columns)
    if not names or len({name.strip().upper() for name in names}) < len(names):
        raise MapError(f"{path}: expected distinct column names, at least one, got {names}")
    for name, (array, _) in columns.items():
        if not re.fullmatch(r"\w{1,68}", name, re.ASCII):
            raise MapError(
                f"{path}: expected column names of letters, digits and underscores, got {name!r}"
            )
        if array.dtype.str[1:] not in _WRITTEN_CODES:
            raise MapError(
                f"{path}: expected float32, float64, int16, int32 or int64, got {array.dtype} "
                f"for {name}; convert it"
            )


def _table_header(path: Path, columns: Columns, n_row: int, width: int) -> fits.Header:
    try:
        definitions = [
            fits.Column(
                name=name,
                format=f"{width}{_WRITTEN_CODES[array.dtype.str[1:]]}",
                unit=unit or None,
                null=-1 if array.dtype.kind == "i" else None,
            )
            for name, (array, unit) in columns.items()
        ]
        header = fits.BinTableHDU.from_columns(definitions, nrows=0).header
    except (ValueError, AssertionError) as error:
        raise MapError(
            f"{path}: expected units in plain ASCII text, got "
            f"{[unit for _, unit in columns.values()]} ({error}); write u for micro"
        ) from error
    header["NAXIS2"] = n_row
    return header


def _add_healpix_cards(
    table: fits.Header, path: Path, nside: int, ordering: str, frame: str
) -> None:
    if ordering not in ("RING", "NESTED"):
        raise MapError(f"{path}: expected ordering RING or NESTED, got {ordering!r}; name one")
    table["PIXTYPE"] = ("HEALPIX", "HEALPIX pixelisation")
    table["ORDERING"] = (ordering, "Pixel ordering scheme, either RING or NESTED")
    table["COORDSYS"] = (canonical_frame(str(path), frame), "Galactic, celestial or ecliptic")
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


def _plain(values: Any) -> np.ndarray:
    """An array whose masked pixels, if it has a mask, are marked as such in the file."""
    if not isinstance(values, np.ma.MaskedArray):
        return np.asarray(values)
    return values.filled(np.nan if values.dtype.kind == "f" else -1)


def _row_type(columns: Columns, width: int) -> np.dtype:
    """A row of the table: so many big-endian pixels of each column."""
    types = [array.dtype.newbyteorder(">") for array, _ in columns.values()]
    return np.dtype([(f"c{i}", one, (width,)) for i, one in enumerate(types)])


def _write_rows(stream: Any, path: Path, blocks: Iterable[Columns], row: np.dtype) -> int:
    """Write all blocks; the number of their pixels."""
    pixels, width = 0, row[0].shape[0]
    for columns in blocks:
        arrays = [_plain(values) for values, _ in columns.values()]
        size = arrays[0].size
        if len(arrays) != len(row.names or ()) or any(a.shape != (size,) for a in arrays):
            raise ShapeError(f"{path}: expected the same columns of shape (n,) in each block")
        if size % width:
            raise ShapeError(f"{path}: expected blocks of a multiple of {width} pixels, got {size}")
        _write_block(stream, path, arrays, row)
        pixels += size
    return pixels


def _write_block(stream: Any, path: Path, arrays: Sequence[np.ndarray], row: np.dtype) -> None:
    """Interleave the maps a few rows at a time, so that no second copy of them is made."""
    width = row[0].shape[0]
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
