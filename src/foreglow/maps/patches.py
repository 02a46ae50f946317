"""Patches of the sky: the number of the patch of every pixel, from a file or an array."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreglow.errors import MapError, ShapeError
from foreglow.maps import healpix as hp
from foreglow.maps.arrays import split_mask
from foreglow.maps.io import open_plain_map

_EXACT = 1 << 24  # whole numbers up to this are read from a file as they are


def patch_numbers(given: Any, nside: int, frame: str, nest: bool = False) -> NDArray[np.int64]:
    """Number of the patch of every pixel of maps of some Nside and frame.

    Parameters
    ----------
    given : path, str or array_like, shape (n_pix,)
        FITS, as `open_plain_map` takes it, in any ordering; or an array, in the frame of the maps.
        Negative, NaN, UNSEEN or masked where a pixel has no patch.
    nside : int
    frame : str
        "G", "C" or "E".
    nest : bool
        Whether an array is NESTED.

    Returns
    -------
    ndarray, int64, shape (n_pix,)
        RING; -1 where there is no patch.

    Raises
    ------
    MapError
        If a file is of another Nside or frame or cannot be used, there is no patch at all, or the
        numbers are not whole.
    ShapeError
        If an array is no map of this Nside.
    """
    n_pix = hp.nside2npix(nside)
    if isinstance(given, str | Path):
        stored = open_plain_map(given)
        name = str(stored.path)
        if (stored.nside, stored.frame) != (nside, frame):
            raise MapError(
                f"{name}: expected patches of Nside {nside} in frame {frame}, as the maps, got "
                f"Nside {stored.nside}, frame {stored.frame}; make them for the maps' pixels"
            )
        values = np.asarray(stored.read(np.arange(n_pix)), np.float64)
        if np.nanmax(values, initial=0) >= _EXACT:
            raise MapError(
                f"{name}: expected patches numbered below {_EXACT}, got one of "
                f"{np.nanmax(values):.0f}; number them from 0 without gaps (numpy.unique, "
                "return_inverse=True)"
            )
    else:
        name = "patches"
        values, hidden = split_mask(given)
        if values.shape != (n_pix,):
            raise ShapeError(
                f"expected patches of shape ({n_pix},), a number for each pixel of Nside {nside}, "
                f"got shape {values.shape}"
            )
        values = np.where(False if hidden is None else hidden, -1, values)
        values = values[hp.ring2nest(nside, np.arange(n_pix))] if nest else values
    known = np.isfinite(values) & (values >= 0)
    whole = np.where(known, values, -1).astype(np.int64)
    if (whole[known] != values[known]).any():
        wrong = values[known][whole[known] != values[known]][0]
        raise MapError(f"{name}: expected whole numbers, got {wrong:g}; give patches their numbers")
    if not known.any():
        raise MapError(f"{name}: expected patches numbered from 0, got none such pixel")
    return np.where(known, np.unique(whole, return_inverse=True)[1] - int(not known.all()), -1)
