"""A user's Q,U maps and intensity maps, found in their files and checked at the door."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from astropy.io import fits

from foreglow.errors import MapError
from foreglow.maps.arrays import GivenArray
from foreglow.maps.blocks import PixelBlock
from foreglow.maps.columns import (
    find_intensity,
    find_named,
    find_named_pair,
    find_one_stokes,
    find_stokes,
)
from foreglow.maps.conventions import (
    UNITS,
    canonical_convention,
    canonical_frame,
    canonical_unit,
    unit_agrees,
    unit_is_understood,
    warn_assumed,
)
from foreglow.maps.given import GivenFile, split_column
from foreglow.maps.stored import FilePart, StoredMap
from foreglow.maps.table import Column, Table, open_table

_OF_SEVERAL = "; of several maps, state it for those alone that lack one (BAND='FILE in UNIT')"
_CONVENTION = ("POLCCONV", "POLCONV")  # the HEALPix card, and as it is often misspelt


@dataclass(frozen=True, eq=False)
class PolarisationMap(StoredMap):
    """A Q,U map opened for streaming; attributes as in `StoredMap`, and two more.

    Attributes
    ----------
    flip_u : bool
        The file is in the IAU convention, so `read` changes the sign of U.
    zero_is_unobserved : bool
        Pixels where Q and U are both exactly 0 read as unobserved.
    """

    flip_u: bool
    zero_is_unobserved: bool = False

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
        if self.zero_is_unobserved:
            qu[:, (qu == 0).all(axis=0)] = np.nan
        if self.flip_u:
            np.negative(qu[1], out=qu[1])
        return qu


class IntensityMap(StoredMap):
    """An intensity map opened for streaming; attributes as in `StoredMap`."""

    def read(self, pixels: np.ndarray | PixelBlock) -> np.ndarray:
        """Intensity of some pixels, shape (n,); all else as `PolarisationMap.read`."""
        return self._read(pixels)[0]


def open_polarisation_map(
    given: str | Path | GivenFile | GivenArray,
    unit: str | None = None,
    *,
    frame: str | None = None,
    convention: str | None = None,
    argument: str = "unit",
) -> PolarisationMap:
    """Open a FITS file of Q,U, or an array of them, for streaming.

    Q and U are found by column name, else are the last two of a 2- or 3-column table without
    names; `map.fits[Q_COLUMN,U_COLUMN]` names them, `q.fits,u.fits` are files of their own, and
    `map.fits in mK_CMB` states the unit.

    Parameters
    ----------
    given : path, str, GivenFile or GivenArray
        FITS, plain (memory-mapped) or gzipped (loaded); full sky or partial.
    unit : str, optional
        Needed where the header has none, or a bare kelvin; where it states another it is refused.
    frame, convention : str, optional
        "G", "C" or "E", "COSMO" or "IAU", of a file whose header states none; where it states
        another it is refused. A `GivenArray` has its own.
    argument : str
        What messages call the argument that states the unit.

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
        If COORDSYS (taken as Galactic) or POLCCONV (taken as COSMO) is absent, or Q and U are
        taken by their places.
    """
    if isinstance(given, GivenArray):
        table = given.table("QU")
        part = FilePart.of(table, [0, 1])
        unit = signal_unit(table.path, part.columns, unit, argument)
        return PolarisationMap((part,), unit, is_iau(table))
    given = GivenFile.of(given)
    if given.kind:
        raise MapError(
            f"expected a map of Q and U, got {str(given)!r}; leave out `as {given.kind}`, which is "
            "for noise"
        )
    pairs = zip(given.paths, given.columns, strict=True)
    tables = [_with_words(open_table(path, names), frame, convention) for path, names in pairs]
    if len(tables) == 1:
        names = given.columns[0]
        numbers = [find_named_pair(tables[0], names) if names else find_stokes(tables[0])]
    else:
        numbers = [
            [find_named(table, names[0]) if len(names) == 1 else find_one_stokes(table, letter)]
            for table, names, letter in zip(tables, given.columns, "QU", strict=True)
        ]
    parts = tuple(FilePart.of(table, one) for table, one in zip(tables, numbers, strict=True))
    columns = [column for part in parts for column in part.columns]
    validate_numbers(given.paths[0], columns)
    unit = signal_unit(given.paths[0], columns, given.unit or unit, argument)
    return PolarisationMap(parts, unit, is_iau(tables[-1]))  # the sign is that of U


def open_intensity_map(path: str | Path, unit: str | None = None) -> IntensityMap:
    """Open the intensity column of a FITS file for streaming.

    It is found by its name (I_STOKES, TEMPERATURE, I, ...), else is the only one, or the first of
    three without names; `dust.fits[I_ML_FULL]` names another. Parameters, errors and warnings are
    those of `open_polarisation_map`; POLCCONV is not read.

    Returns
    -------
    IntensityMap
    """
    part = _intensity_part(path)
    validate_numbers(part.table.path, part.columns)
    return IntensityMap((part,), signal_unit(part.table.path, part.columns, unit))


def open_plain_map(path: str | Path) -> IntensityMap:
    """Open one column whatever its unit, such as a mask; see `open_intensity_map`.

    Truth values, as healpy writes a boolean mask, read as 0 and 1.

    Returns
    -------
    IntensityMap
        Its unit is that of the header, any text, or "".
    """
    part = _intensity_part(path)
    return IntensityMap((part,), part.columns[0].unit)


def validate_numbers(path: Path, columns: Sequence[Column]) -> None:
    """Check that columns are no truth values.

    Raises
    ------
    MapError
        If one is.
    """
    logical = [column.name for column in columns if column.logical]
    if logical:
        raise MapError(
            f"{path}: expected numbers, got truth values in column {', '.join(logical)} (TFORM L), "
            "which make a mask; give the file of the map"
        )


def signal_unit(
    path: Path, columns: Sequence[Column], unit: str | None, argument: str = "unit"
) -> str:
    """The unit of a map, one of `UNITS`: of its header, or as it was given by an `argument`.

    Raises
    ------
    MapError
        If there is none, or two that differ.
    """
    if unit is not None:
        unit = canonical_unit(f"{path}: {argument}=", unit, None)
        validate_unit(path, columns, unit, argument)
        return unit
    for column in columns:
        if not column.unit:
            raise MapError(
                f"{path}: expected a unit (TUNIT) for column {column.name}, got none; pass "
                f"{argument}= as one of {', '.join(UNITS)}"
            )
    units = [canonical_unit(f"{path}: TUNIT of {c.name}", c.unit, argument) for c in columns]
    if len(set(units)) > 1:
        raise MapError(
            f"{path}: expected one unit for Q and U, got {units[0]} for {columns[0].name} and "
            f"{units[1]} for {columns[1].name}; correct TUNIT"
        )
    return units[0]


def validate_unit(path: Path, columns: Sequence[Column], unit: str, argument: str = "unit") -> None:
    """Check that a unit given by an `argument`, any text, is not another than the header states.

    Raises
    ------
    MapError
        If it is.

    Warns
    -----
    MapWarning
        If the header states something that is no unit.
    """
    for column in columns:
        if not unit_agrees(column.unit, unit):
            given, of_several = f"{argument}=", ""
            if argument == "unit":
                given, of_several = "unit= or sky.toml", _OF_SEVERAL
            raise MapError(
                f"{path}: expected the unit {unit}, as given ({given}), got "
                f"{column.unit!r} in the header (TUNIT of {column.name}); correct the one that "
                f"is wrong, or leave the unit out{of_several}"
            )
        if column.unit and not unit_is_understood(column.unit):
            warn_assumed(
                f"{path}: TUNIT of {column.name}, {column.unit!r}, is no unit that foreglow knows; "
                f"taken as {unit}, as given"
            )


def _with_words(table: Table, frame: str | None, convention: str | None) -> Table:
    """A table that states the frame and the convention that were given, where it is silent.

    Raises
    ------
    MapError
        If it states others.
    """
    said = fits.Header()
    if frame is not None:
        said["COORDSYS"] = canonical_frame("frame=", frame)
        stated = table.keyword("COORDSYS")
        if stated and canonical_frame(f"{table.path}: COORDSYS", stated) != said["COORDSYS"]:
            raise _contradicts(table, f"frame={frame!r}", f"COORDSYS = {stated!r}")
    if convention is not None:
        wanted = canonical_convention("convention=", convention)
        for key in _CONVENTION:
            stated = table.keyword(key)
            if stated and stated != wanted:
                raise _contradicts(table, f"convention={convention!r}", f"{key} = {stated!r}")
        if not any(table.keyword(key) for key in _CONVENTION):
            said["POLCCONV"] = wanted
    return replace(table, other_headers=(*table.other_headers, said))


def _contradicts(table: Table, given: str, stated: str) -> MapError:
    return MapError(
        f"{table.path}: expected a header that agrees with {given}, got {stated}; correct the one "
        "that is wrong, or leave the argument out"
    )


def _intensity_part(path: str | Path) -> FilePart:
    file, column = split_column(Path(path))
    table = open_table(file, () if column is None else (column,))
    number = find_intensity(table) if column is None else find_named(table, column)
    return FilePart.of(table, [number])


def is_iau(table: Table) -> bool:
    """Whether U, and so QU, has the sign of the IAU convention, by the header.

    Raises
    ------
    MapError
        If the header states something else than COSMO or IAU, or both.

    Warns
    -----
    MapWarning
        If it states none: taken as COSMO.
    """
    stated = {key: text for key in _CONVENTION if (text := table.keyword(key))}
    if len(set(stated.values()) | {"COSMO", "IAU"}) > 2 or len(set(stated.values())) > 1:
        listing = ", ".join(f"{key} = {text!r}" for key, text in stated.items())
        raise MapError(
            f"{table.path}: expected POLCCONV COSMO or IAU, got {listing}; correct the header"
        )
    if not stated:
        warn_assumed(
            f"{table.path}: no POLCCONV in the header, taken as COSMO; set it to silence this"
        )
    return "IAU" in stated.values()
