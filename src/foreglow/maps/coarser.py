"""Maps brought to a lower Nside: each pixel is the mean over those that lie in it."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from foreglow.errors import MapError
from foreglow.maps import healpix as hp
from foreglow.maps.blocks import PixelBlock
from foreglow.maps.io import IntensityMap
from foreglow.maps.mask import above_zero

_PIXELS = 1 << 20  # of the fine map, read together
_HALF = 0.5  # of a pixel must be observed, or open, for it to count


def mean_map(
    stored: IntensityMap,
    nside: int,
    holes: IntensityMap | None = None,
    zero_is_unobserved: bool = False,
) -> NDArray[np.floating]:
    """A map at a lower Nside, or its own.

    Parameters
    ----------
    stored : IntensityMap
    nside : int
    holes : IntensityMap, optional
        A mask of the Nside of the map: where it is not above zero, as at point sources, the map is
        left out of the means.
    zero_is_unobserved : bool, optional
        Pixels that are exactly 0 are left out, too.

    Returns
    -------
    ndarray, shape (n_pix,)
        RING, in the frame and unit of the map; NaN where less than half of a pixel is left. At its
        own Nside as precise as the file, else float32.

    Raises
    ------
    MapError
        If the map has larger pixels.
    """

    def read(block: PixelBlock) -> NDArray:
        values = stored.read(block)
        if zero_is_unobserved:
            values = np.where(values == 0, np.nan, values)
        return values if holes is None else np.where(above_zero(holes.read(block)), values, np.nan)

    if stored.nside == nside:
        return read(PixelBlock(nside, "RING", 0, hp.nside2npix(nside)))
    means, shares = _averaged(stored, nside, read)
    return np.where(shares >= _HALF, means, np.nan).astype(np.float32)


def open_share(mask: IntensityMap, nside: int) -> NDArray[np.float32]:
    """How much of each pixel of a lower Nside a mask leaves open: RING, from 0 to 1."""
    means, _ = _averaged(mask, nside, lambda block: above_zero(mask.read(block)).astype(float))
    return means.astype(np.float32)


def open_mask_at(mask: IntensityMap, nside: int) -> NDArray[np.bool_]:
    """Pixels of a lower Nside of which a mask leaves at least half open, RING."""
    return open_share(mask, nside) >= _HALF


def mean_of_children(values: NDArray, nside: int) -> tuple[NDArray[np.float32], NDArray]:
    """A NESTED map in memory at a lower Nside.

    Parameters
    ----------
    values : ndarray, shape (n_pix,)
        NESTED, of a higher Nside; NaN where not observed.
    nside : int
        A power of two.

    Returns
    -------
    means : ndarray, float32
        NESTED; NaN where less than half of a pixel is observed.
    shares : ndarray
        How much of each pixel is observed.
    """
    return mean_of_groups(values, values.size // hp.nside2npix(nside))


def mean_of_groups(values: NDArray, inside: int) -> tuple[NDArray[np.float32], NDArray]:
    """As `mean_of_children`, of a part of the sky: groups of `inside` pixels in a row."""
    means, shares = _of_children(values, inside)
    return np.where(shares >= _HALF, means, np.nan).astype(np.float32), shares


def _of_children(values: NDArray, inside: int) -> tuple[NDArray, NDArray]:
    """Means over what is finite of each `inside` values that follow each other, and its share."""
    values = values.reshape(-1, inside).astype(np.float64)
    seen = np.isfinite(values)
    counts = seen.sum(axis=1)
    total = np.where(seen, values, 0).sum(axis=1)
    return np.where(counts > 0, total / np.maximum(counts, 1), np.nan), counts / inside


def _averaged(
    stored: IntensityMap, nside: int, read: Callable[[PixelBlock], NDArray]
) -> tuple[NDArray, NDArray]:
    """Means over what is finite, and its share, by coarse pixel; RING."""
    if stored.nside < nside or not (hp.isnsideok(stored.nside, nest=True) and nside > 0):
        raise MapError(
            f"{stored.path}: expected a map of Nside {nside} or a higher power of two, got Nside "
            f"{stored.nside}; prepare the cube at that Nside, or give a finer map"
        )
    inside = (stored.nside // nside) ** 2
    at_once = max(1, _PIXELS // inside)
    n_pix = hp.nside2npix(nside)
    means, shares = np.empty(n_pix), np.empty(n_pix)
    for first in range(0, n_pix, at_once):
        last = min(first + at_once, n_pix)
        block = PixelBlock(stored.nside, "NESTED", first * inside, last * inside)
        means[first:last], shares[first:last] = _of_children(read(block), inside)
    nested = hp.ring2nest(nside, np.arange(n_pix))
    return means[nested], shares[nested]
