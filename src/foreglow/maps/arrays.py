"""Maps that a user has in memory, made to look like those of a file.

An array becomes the table that a FITS file of it would hold, so that both are read by the same
code, to the same bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.io import fits

from foreglow.errors import MapError, ShapeError
from foreglow.maps import healpix as hp
from foreglow.maps.conventions import canonical_convention, canonical_frame, warn_assumed
from foreglow.maps.table import Table

# of an array of which so many rows are taken: what to say, and how many it may have
_SHAPES = {
    1: ("(n_pix,)", (1,)),
    2: ("(2, n_pix) of Q and U or (3, n_pix) of I, Q and U", (2, 3)),
    3: ("(3, n_pix) of QQ, QU and UU", (3,)),
}


@dataclass(frozen=True, eq=False)
class GivenArray:
    """An array, and what a user says of its pixels.

    Attributes
    ----------
    name : str
        What messages call it.
    values : ndarray, masked array or Quantity, shape (row, n_pix) or (n_pix,)
        NaN, `healpy.UNSEEN` or masked where not observed.
    nest : bool
        Whether its pixels are NESTED.
    frame : str
        "G", "C" or "E".
    convention : str
        "COSMO" or "IAU".
    said : str
        What the numbers are, of noise: "hits of 1.2 mK_CMB"; "" where it was not said.
    """

    name: str
    values: Any
    nest: bool
    frame: str
    convention: str
    said: str = ""

    def table(self, names: Sequence[str]) -> Table:
        """The table of a file with these values, a column for each of the last rows.

        Raises
        ------
        ShapeError
            If the array is no map, or has fewer rows than names.
        MapError
            If it holds no numbers.
        """
        rows = self._rows(len(names))
        code = "E" if rows.dtype.itemsize == 4 else "D"
        stored = np.dtype([(name, f">f{rows.dtype.itemsize}") for name in names])
        records = np.empty(rows.shape[1], stored)
        for name, row in zip(names, rows, strict=True):
            records[name] = row
        unit = str(self.values.unit) if isinstance(self.values, u.Quantity) else None
        columns = [fits.Column(name=name, format=code, unit=unit) for name in names]
        header = fits.Header(
            {
                "NSIDE": hp.npix2nside(rows.shape[1]),
                "ORDERING": "NESTED" if self.nest else "RING",
                "COORDSYS": self.frame,
                "POLCCONV": self.convention,
                "INDXSCHM": "IMPLICIT",
            }
        )
        table = records.view(np.uint8).reshape(len(records), -1)
        return Table(Path(self.name), header, columns, table, None)

    def write(self, path: Path, names: Sequence[str]) -> None:
        """Write that table as a FITS file, from which the same bits are read.

        Raises
        ------
        ShapeError, MapError
            As `table`.
        """
        table = self.table(names)
        columns = [
            fits.Column(c.name, c.format, c.unit, array=table.column(k).cells.reshape(-1))
            for k, c in enumerate(table.columns)
        ]
        fits.BinTableHDU.from_columns(columns, header=table.header).writeto(path)

    def _rows(self, n: int) -> np.ndarray:
        """The last `n` rows as float32 or float64, UNSEEN where not observed."""
        bare, hidden = split_mask(self.values)
        values = np.atleast_2d(bare)
        if values.dtype.kind not in "fiu":
            raise MapError(
                f"{self.name}: expected numbers, got {values.dtype}; give an array of float32 or "
                "float64"
            )
        expected, allowed = _SHAPES[n]
        if values.ndim != 2 or values.shape[0] not in allowed:
            raise ShapeError(
                f"{self.name}: expected an array of shape {expected}, got {np.shape(bare)}; give "
                "one map for each Stokes parameter, pixels last"
            )
        if not hp.isnpixok(values.shape[1]):
            raise ShapeError(
                f"{self.name}: expected 12 Nside^2 pixels, got {values.shape[1]}; fill a partial "
                "map up with healpy.UNSEEN"
            )
        if self.nest and not hp.isnsideok(hp.npix2nside(values.shape[1]), nest=True):
            raise ShapeError(
                f"{self.name}: expected an Nside that is a power of two, as NESTED pixels have, "
                f"got {hp.npix2nside(values.shape[1])}; leave nest=True out"
            )
        rows = values[-n:].astype(np.float32 if values.dtype == np.float32 else np.float64)
        unknown = np.isnan(rows)
        if hidden is not None:
            unknown |= np.broadcast_to(np.atleast_2d(hidden), values.shape)[-n:]
        rows[unknown] = hp.UNSEEN
        return rows


def split_mask(given: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Split an array, masked by NumPy or by astropy or not at all, into numbers and mask.

    Returns
    -------
    values : ndarray
        Of a Quantity without its unit.
    mask : ndarray of bool or None
        True where hidden; of the same shape.
    """
    bare = given.value if isinstance(given, u.Quantity) else np.asanyarray(given)
    mask = getattr(bare, "mask", None)
    values = np.asarray(getattr(bare, "unmasked", np.ma.getdata(bare)))
    return values, None if mask is None else np.broadcast_to(mask, values.shape)


def state_conventions(values: u.Quantity, frame: str, convention: str) -> u.Quantity:
    """Let a Quantity state frame and convention, where `given_array` looks; returns it."""
    info: Any = values.info
    info.meta = {"frame": frame, "convention": convention}
    return values


def given_array(
    name: str, values: Any, nest: bool, frame: str | None, convention: str | None
) -> GivenArray:
    """An array with what was said of it, or what it states; what neither says is assumed aloud.

    Parameters
    ----------
    name : str
        What messages call it.
    values : array_like, or (array_like, str)
        A Quantity may state `frame` and `convention` in its `info.meta`.
    nest : bool
    frame, convention : str or None
        As in `GivenArray`; they go before what the array states.

    Raises
    ------
    MapError
        If it states a frame or convention that is none.

    Warns
    -----
    MapWarning
        If the frame (taken as Galactic) or the polarisation convention (taken as COSMO) was not
        said.
    """
    values, said = values if _has_words(values) else (values, "")
    stated = stated_conventions(values)
    if frame is None and "frame" in stated:
        frame = canonical_frame(f"{name}: frame of its info.meta", str(stated["frame"]))
    if convention is None and "convention" in stated:
        where = f"{name}: convention of its info.meta"
        convention = canonical_convention(where, str(stated["convention"]))
    silent = {"frame='G'": frame is None, "convention='COSMO'": convention is None}
    if assumed := " and ".join(text for text, missing in silent.items() if missing):
        warn_assumed(
            "an array states neither its frame nor its polarisation convention: taken as "
            f"{assumed}; say so to silence this"
        )
    return GivenArray(name, values, nest, frame or "G", convention or "COSMO", said)


def stated_conventions(values: Any) -> dict[str, Any]:
    """What a Quantity states of itself beside its unit; astropy lets arithmetic drop it."""
    info = vars(values).get("info") if isinstance(values, u.Quantity) else None
    return dict(getattr(info, "meta", None) or {})


def is_array(value: Any) -> bool:
    """Whether a user gave pixels, and not the name of a file or a single number."""
    if _has_words(value):
        return True
    return isinstance(value, np.ndarray | list | tuple) and np.ndim(value) > 0


def _has_words(value: Any) -> bool:
    """Whether an array came with words of what it holds."""
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], str)
