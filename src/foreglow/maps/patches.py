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


def adaptive_patches(
    error: Any, target: float, coarsest: int = 1, nest: bool = False
) -> NDArray[np.int64]:
    """Patches as small as a target for the error of their mean allows.

    Pixels of Nside `coarsest` are split in four for as long as each quarter that was observed has
    an error, by the inverse variances of its pixels, no larger than the target.

    Parameters
    ----------
    error : array_like, shape (n_pix,)
        Of what is to be shared, pixel by pixel: `found.beta_s_error` of `fit`. NaN, infinite,
        UNSEEN or zero where it is not known.
    target : float
        In the same unit.
    coarsest : int
        Nside of the largest patches, which stay whole if they miss the target.
    nest : bool
        Whether `error` is NESTED, and what is returned.

    Returns
    -------
    ndarray, int64, shape (n_pix,)
        Number of each pixel's patch, from 0; -1 where the error is not known. What `fit` takes as
        `patches`.

    Raises
    ------
    ShapeError
        If the error is no map.
    MapError
        If `coarsest` is no Nside of at most that of the map, the target is not above zero, or no
        error is known.
    """
    values, hidden = split_mask(error)
    if values.ndim != 1 or not hp.isnpixok(values.size):
        raise ShapeError(f"expected a map of errors of shape (n_pix,), got shape {values.shape}")
    nside = hp.npix2nside(values.size)
    if not (hp.isnsideok(coarsest, nest=True) and coarsest <= nside):
        raise MapError(
            f"expected coarsest as a power of 2 up to the Nside of the errors, {nside}, got "
            f"{coarsest}"
        )
    if not target > 0:
        raise MapError(f"expected a target above zero, got {target:g}")
    order = np.arange(values.size) if nest else hp.nest2ring(nside, np.arange(values.size))
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.where(values > 0, values.astype(float) ** -2.0, 0.0)
    weight = np.where(np.isfinite(weight) & (values != hp.UNSEEN), weight, 0.0)
    weight = np.where(False if hidden is None else hidden, 0.0, weight)[order]
    if not weight.any():
        raise MapError("expected errors above zero in some pixel, got none")
    number = np.arange(weight.size) // (nside // coarsest) ** 2 * (nside // coarsest) ** 2
    split, size = np.ones(12 * coarsest**2, bool), coarsest
    while size < nside:  # number: of the first pixel of the patch
        size *= 2
        quarters = weight.reshape(12 * size**2, -1).sum(1).reshape(-1, 4)
        good = ((quarters == 0) | (quarters >= target**-2)).all(1)
        split = split & good & quarters.any(1)
        pixels = (nside // size) ** 2
        finer = np.arange(weight.size) // pixels * pixels
        number = np.where(np.repeat(split, 4 * pixels), finer, number)
        split = np.repeat(split, 4)
    found = np.unique(np.where(weight > 0, number, -1), return_inverse=True)[1]
    found = found - int((weight == 0).any())
    patches = np.empty(values.size, np.int64)
    patches[order] = found
    return patches
