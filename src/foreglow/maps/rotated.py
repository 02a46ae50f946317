"""Maps of another frame brought onto Galactic pixels, those of a part of the sky too."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from foreglow.maps import healpix as hp
from foreglow.maps.conventions import turn

_BLOCK = 1 << 18  # pixels brought over together
_LEAST_SEEN = 0.5  # weight of what is observed around a pixel that is itself observed


def polarisation_to_galactic(qu: NDArray[np.floating], frame: str) -> NDArray[np.floating]:
    """Q,U of another frame, at Galactic pixel centres and referred to Galactic meridians.

    Each pixel is the bilinear mean of the four around it, as of `healpy.Rotator.rotate_map_pixel`;
    but each of the four is first carried along the great circle to the centre, for near a pole
    the meridians of neighbours point anywhere, and what is not observed has no part in it.

    Parameters
    ----------
    qu : ndarray, shape (2, n_pix)
        RING, COSMO, NaN in both where not observed.
    frame : str
        "G", "C" or "E".

    Returns
    -------
    ndarray, shape (2, n_pix), dtype of `qu`
        `qu` itself if `frame` is "G"; NaN where less than half of the weight is observed. The mean
        smooths: of the power about a twentieth is lost at ell = Nside / 2, a fifth at Nside and
        half at 2 Nside.
    """
    if frame == "G":
        return qu
    found = np.empty_like(qu)
    for block, centre, pixels, weight in _neighbours(qu.shape[1], frame):
        angle = _angle_between(qu.shape[1], frame, block, centre, pixels)
        values = turn(qu[:, pixels.ravel()], 2 * angle.ravel()).reshape(2, *pixels.shape)
        found[:, block] = _mean(values, weight)
    return found


def scalar_to_galactic(values: NDArray[np.floating], frame: str) -> NDArray[np.floating]:
    """A map without direction, such as an intensity, (n_pix,); as `polarisation_to_galactic`."""
    if frame == "G":
        return values
    found = np.empty_like(values)
    for block, _, pixels, weight in _neighbours(values.size, frame):
        found[block] = _mean(values[pixels], weight)
    return found


def _neighbours(
    n_pix: int, frame: str
) -> Iterator[tuple[slice, NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]]:
    """Galactic pixels by blocks, their centres in a frame (3, n), pixels and weights (4, n)."""
    nside, to_frame = hp.npix2nside(n_pix), hp.Rotator(coord=["G", frame]).mat
    for first in range(0, n_pix, _BLOCK):
        block = slice(first, min(first + _BLOCK, n_pix))
        centre = to_frame @ np.stack(hp.pix2vec(nside, np.arange(block.start, block.stop)))
        theta, phi = hp.vec2ang(centre.T)
        yield block, centre, *hp.get_interp_weights(nside, theta, phi)


def _angle_between(
    n_pix: int, frame: str, block: slice, centre: NDArray, pixels: NDArray
) -> NDArray[np.float64]:
    """From Galactic south towards east, at centres (3, n), of what is south at pixels (4, n)."""
    nside = hp.npix2nside(n_pix)
    at = np.stack(hp.pix2vec(nside, pixels))  # (3, 4, n)
    south, _ = _south_and_east(*hp.pix2ang(nside, pixels))
    to = centre[:, None]
    along = (to * south).sum(0) / (1 + (to * at).sum(0))
    carried = south - along * (at + to)  # parallel, along the great circle
    to_frame = hp.Rotator(coord=["G", frame]).mat
    galactic = _south_and_east(*hp.pix2ang(nside, np.arange(block.start, block.stop)))
    south_here, east_here = ((to_frame @ axis)[:, None] for axis in galactic)
    return np.arctan2((carried * east_here).sum(0), (carried * south_here).sum(0))


def _south_and_east(theta: NDArray, phi: NDArray) -> tuple[NDArray, NDArray]:
    """Unit vectors, (3, ...) each."""
    cos, sin, zero = np.cos(phi), np.sin(phi), np.zeros_like(phi)
    return (
        np.stack([np.cos(theta) * cos, np.cos(theta) * sin, -np.sin(theta)]),
        np.stack([-sin, cos, zero]),
    )


def _mean(values: NDArray, weight: NDArray) -> NDArray:
    """Mean of (..., 4, n) over what is observed."""
    seen = np.isfinite(values)
    counted = np.where(seen, weight, 0.0)
    total = counted.sum(-2)
    mean = (np.where(seen, values, 0.0) * counted).sum(-2) / np.where(total > 0, total, 1.0)
    return np.where(total >= _LEAST_SEEN, mean, np.nan)
