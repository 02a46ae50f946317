"""Maps on disk, opened for streaming and checked: what all kinds of them have in common.

Maps are never loaded whole: `read` touches only the pixels asked for.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
from astropy import units as u

from foreglow.errors import MapError, ShapeError
from foreglow.maps import healpix as hp
from foreglow.maps.blocks import PixelBlock, ring_numbers
from foreglow.maps.conventions import canonical_frame, warn_assumed
from foreglow.maps.table import Column, PixelIndex, Table

ORDERINGS = {"RING": "RING", "NESTED": "NESTED", "NEST": "NESTED"}
_ANGLES = {
    "arcmin": "arcmins?|arcminutes?|amin",
    "deg": "deg|degs|degrees?",
    "arcsec": "arcsecs?|arcseconds?",
    "rad": "rad|radians?",
}


@dataclass(frozen=True, eq=False)
class FilePart:
    """What a map takes of one file.

    Attributes
    ----------
    table : Table
    columns : tuple of Column
    nside : int
    ordering : str
        "RING" or "NESTED", as stored.
    frame : str
        "G", "C" or "E", as stored.
    index : PixelIndex or None
        Of a partial map, its pixel numbers.
    """

    table: Table
    columns: tuple[Column, ...]
    nside: int
    ordering: str
    frame: str
    index: PixelIndex | None

    @classmethod
    def of(cls, table: Table, numbers: Sequence[int]) -> "FilePart":
        """Some columns of a table, and what its header says of their pixels.

        Raises
        ------
        MapError
            If the header does not state what the pixels mean.

        Warns
        -----
        MapWarning
            If COORDSYS (taken as Galactic) is absent.
        """
        path, columns = table.path, tuple(table.column(i) for i in numbers)
        ordering = ORDERINGS.get(table.keyword("ORDERING"))
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
                    f"{path}: expected {expected} pixels in column {column.name} (NSIDE = "
                    f"{nside}), got {column.cells.size}; correct NSIDE, or mark a partial map "
                    "INDXSCHM = EXPLICIT"
                )
        frame = canonical_frame(f"{path}: COORDSYS", frame or "G")
        return cls(table, columns, nside, ordering, frame, index)

    def read(self, pixels: np.ndarray | PixelBlock) -> np.ndarray:
        """All columns at some pixels, (column, n), NaN where unobserved.

        What that leaves of a mapped file in memory goes at once: else all of it would stay there.
        """
        if isinstance(pixels, PixelBlock):
            stored = pixels.numbers(self.ordering)
        else:
            stored = hp.ring2nest(self.nside, pixels) if self.ordering == "NESTED" else pixels
        positions, present = (stored, None) if self.index is None else self.index.find(stored)
        values = np.stack([column.take(positions) for column in self.columns])  # (column, n)
        self.table.release()
        if present is not None:
            values[:, ~present] = np.nan
        if not np.isfinite(values).all():
            self._validate_finite(values, pixels)
        return values

    def _validate_finite(self, values: np.ndarray, pixels: np.ndarray | PixelBlock) -> None:
        bad = np.isinf(values).any(axis=0)
        if bad.any():
            raise MapError(
                f"{self.table.path}: expected finite values, got NaN or Inf in {bad.sum()} of "
                f"{bad.size} pixels of this block, the first at RING pixel "
                f"{ring_numbers(pixels)[bad.argmax()]}; mark unobserved pixels as UNSEEN "
                f"({hp.UNSEEN})"
            )

    def sample(self, size: int) -> np.ndarray:
        """All columns at about so many pixels spread over the file, (column, n)."""
        n = self.columns[0].cells.size
        positions = np.unique(np.linspace(0, n - 1, min(size, n)).astype(np.int64))
        values = np.stack([column.take(positions) for column in self.columns])
        self.table.release()
        return values


@dataclass(frozen=True, eq=False)
class StoredMap:
    """A map opened for streaming; nothing but a partial map's pixel numbers is in memory.

    Attributes
    ----------
    parts : tuple of FilePart
        Of one file, or of one of Q and one of U.
    unit : str
        One of `foreglow.maps.conventions.UNITS`.
    """

    parts: tuple[FilePart, ...] = field(repr=False)
    unit: str

    def __post_init__(self) -> None:
        check_same_sky({str(part.table.path): part for part in self.parts})

    @property
    def path(self) -> Path:
        """The file, or the first of two."""
        return self.parts[0].table.path

    @property
    def nside(self) -> int:
        """Of its pixels."""
        return self.parts[0].nside

    @property
    def frame(self) -> str:
        """As stored: "G", "C" or "E"."""
        return self.parts[0].frame

    @property
    def ordering(self) -> str:
        """NESTED if all of it is, else RING."""
        return "NESTED" if all(p.ordering == "NESTED" for p in self.parts) else "RING"

    @property
    def columns(self) -> tuple[Column, ...]:
        """As stored, with the unit that the header states."""
        return tuple(column for part in self.parts for column in part.columns)

    @property
    def beam_arcmin(self) -> float | None:
        """FWHM that the header states (FWHM, with a unit such as [arcmin] in its comment)."""
        return stated_beam(self.parts[0].table)

    def share_of_zeros(self, size: int) -> float:
        """Share of pixels where all columns are exactly 0, of about `size` spread over the map."""
        samples = [part.sample(size) for part in self.parts]
        if len({values.shape[1] for values in samples}) > 1:
            return 0.0  # partial maps that differ in their pixels
        return float((np.concatenate(samples) == 0).all(axis=0).mean())

    def sharing_index(self, others: Sequence["StoredMap"]) -> Self:
        """Itself, its pixel numbers held together with those of maps of the same coverage."""
        held = [p.index for other in others for p in other.parts if p.index is not None]
        parts = []
        for part in self.parts:
            same = [i for i in held if part.index is not None and i.same_as(part.index)]
            parts.append(replace(part, index=same[0]) if same else part)
            held += [part.index] if part.index is not None and not same else []
        return replace(self, parts=tuple(parts))

    def _read(self, pixels: np.ndarray | PixelBlock) -> np.ndarray:
        """All columns at some pixels, (column, n), NaN in all where one is unobserved."""
        if not isinstance(pixels, PixelBlock):
            pixels = self._validate_pixels(pixels)
        read = [part.read(pixels) for part in self.parts]
        values = read[0] if len(read) == 1 else np.concatenate(read)
        missing = np.isnan(values).any(axis=0)
        if missing.any():
            values[:, missing] = np.nan
        return values

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


def bytes_loaded(maps: Iterable[StoredMap]) -> int:
    """Memory taken as long as maps are open: gzipped files, pixel numbers of partial maps."""
    parts = [part for one in maps for part in one.parts]
    numbers = {id(part.index): part.index.nbytes for part in parts if part.index is not None}
    return sum(numbers.values()) + sum(part.table.bytes_loaded for part in parts)


def check_same_sky(maps: Mapping[str, StoredMap] | Mapping[str, FilePart]) -> None:
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


def stated_beam(table: Table) -> float | None:
    """FWHM [arcmin] of the header, if it states a number and its unit.

    The unit stands behind the number, in brackets in the card's comment, or there as a word.
    """
    text = re.fullmatch(r"\s*([0-9.E+-]+)\s*([A-Z]*)\s*", table.keyword("FWHM"))
    comment = table.comment("FWHM")
    bracketed = re.findall(r"\[\s*(.*?)\s*\]", comment)
    said = _angles([text[2] if text else "", *bracketed])
    said = said or _angles(re.findall(r"[A-Za-z]+", comment))
    try:
        value = float(text[1]) if text else np.nan
    except ValueError:
        return None
    if len(said) != 1 or not (np.isfinite(value) and value >= 0):
        return None
    return float(np.asarray(u.Quantity(value, said.pop()).to_value("arcmin")))


def _angles(words: Iterable[str]) -> set[str]:
    """The units of angle among some words."""
    return {
        unit for word in words for unit, spelt in _ANGLES.items() if re.fullmatch(spelt, word, re.I)
    }


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
