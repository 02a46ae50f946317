"""Patches of the sky: the number of the patch of every pixel, from a file or an array."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

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


def clustered_patches(
    number: int,
    values: Any = None,
    spread: float | None = None,
    mask: Any = None,
    seed: int = 0,
    nest: bool = False,
) -> NDArray[np.int64]:
    """Patches of pixels that are near each other and, if asked for, alike, by k-means.

    Parameters
    ----------
    number : int
        Of patches, at most.
    values : array_like, shape (n_pix,), optional
        What is to be alike in a patch, such as a map of a spectral index from another survey or a
        smoothed one of `fit`: the noise of single pixels would tear patches apart. NaN, UNSEEN or
        masked where it is not known.
    spread : float, optional
        The difference of values that counts as much as the size of a patch on the sky, in their
        unit; needed with `values`.
    mask : array_like, shape (n_pix,), optional
        Where above zero pixels have patches; by default everywhere, at the Nside of `values`.
    seed : int
    nest : bool
        Whether `values`, `mask` and what is returned are NESTED.

    Returns
    -------
    ndarray, int64, shape (n_pix,)
        Number of each pixel's patch, from 0; -1 where there is none. What `fit` takes as `patches`.

    Raises
    ------
    ShapeError
        If values and mask are no maps of one Nside.
    MapError
        If there are more patches than pixels, or the spread is missing or not above zero.

    References
    ----------
    Puglisi et al. 2022 (patches of spectral indices by clustering); Arthur & Vassilvitskii 2007
    (where clusters begin).
    """
    shapes = {np.shape(one) for one in (values, mask) if one is not None}
    if not shapes:
        raise MapError("expected values or a mask, of the Nside of the patches, got neither")
    n_pix = int(np.prod(next(iter(shapes))))
    if shapes != {(n_pix,)} or not hp.isnpixok(n_pix):
        raise ShapeError(f"expected maps of one Nside, shape (n_pix,), got {sorted(shapes)}")
    if isinstance(number, bool) or not isinstance(number, int | np.integer):
        raise MapError(f"expected the number of patches as a whole number, got {number!r}")
    if values is None and spread is not None:
        raise MapError("expected values beside spread, got none; give them, or leave spread out")
    kept = np.ones(n_pix, bool) if mask is None else np.nan_to_num(np.asarray(mask, float)) > 0
    features = np.stack(hp.pix2vec(hp.npix2nside(n_pix), np.arange(n_pix), nest=nest), 1)
    if values is not None:
        if not isinstance(spread, int | float | np.number) or not spread > 0:
            raise MapError(
                "expected spread above zero, the difference of values that counts as much as the "
                f"size of a patch, got {spread!r}"
            )
        known, hidden = split_mask(values)
        known = known.astype(float)
        kept &= np.isfinite(known) & (known != hp.UNSEEN)
        kept &= True if hidden is None else ~hidden
        radius = 2 * np.sqrt(kept.mean() / max(number, 1))  # of a patch, rad
        features = np.column_stack([features, known * radius / spread])
    if not 1 <= number <= kept.sum():
        raise MapError(f"expected patches from 1 to the {kept.sum()} pixels to share, got {number}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One of the clusters is empty")
        draws = np.random.default_rng(seed)
        _, found = kmeans2(features[kept], number, minit="++", rng=draws)
    patches = np.full(n_pix, -1)
    patches[kept] = np.unique(found, return_inverse=True)[1]
    return patches
