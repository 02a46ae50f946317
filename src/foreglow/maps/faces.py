"""HEALPix as twelve square faces, so that a map can go through convolutions.

Positions count face, x, y of the NESTED scheme; a border of one pixel around every face is read
from its neighbours on the sphere.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from foreglow.maps import healpix as hp

# x, y of the neighbours in healpy's order: SW, W, NW, N, NE, E, SE, S
_NEIGHBOURS = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))


@cache
def face_order(nside: int) -> Tensor:
    """RING pixel at each position, int64, shape (12 nside^2,)."""
    n_pix = hp.nside2npix(nside)
    x, y, face = hp.pix2xyf(nside, np.arange(n_pix))
    order = np.empty(n_pix, np.int64)
    order[(face * nside + x) * nside + y] = np.arange(n_pix)
    return _kept(order)


@cache
def bordered_faces(nside: int) -> Tensor:
    """Position of each pixel of the faces with their borders, int64.

    Returns
    -------
    Tensor, shape (12 (nside + 2)^2,)
        Where three faces meet a corner has no neighbour: there the pixel itself stands.
    """
    pixel = np.arange(hp.nside2npix(nside))
    x, y, face = hp.pix2xyf(nside, pixel)
    position = (face * nside + x) * nside + y
    table = np.empty((12, nside + 2, nside + 2), np.int64)
    table[face, x + 1, y + 1] = position
    around = hp.get_all_neighbours(nside, pixel)
    for (dx, dy), neighbour in zip(_NEIGHBOURS, around, strict=True):
        to_x, to_y = x + 1 + dx, y + 1 + dy
        beyond_x, beyond_y = (to_x % (nside + 1) == 0), (to_y % (nside + 1) == 0)
        # the edge of a border from a straight neighbour, its corner from a diagonal one
        at = (beyond_x & beyond_y) if dx and dy else (beyond_x | beyond_y)
        found = np.where(neighbour < 0, pixel, neighbour)[at]
        table[face[at], to_x[at], to_y[at]] = position[found]
    return _kept(table.reshape(-1))


def halve(values: Tensor) -> Tensor:
    """Mean over the four children of each pixel: (n, 12 m^2, c) to (n, 3 m^2, c), face order."""
    n, pixels, c = values.shape
    m = _side(pixels) // 2
    # one axis after the other: both at once take four times as long on a processor
    return values.reshape(n * 12 * m, 2, m, 2, c).mean(1).mean(2).view(n, 12 * m * m, c)


def double(values: Tensor) -> Tensor:
    """Every pixel four times: (n, 12 m^2, c) to (n, 48 m^2, c), face order."""
    n, pixels, c = values.shape
    m = _side(pixels)
    # one axis after the other, for the sake of the gradient, as in `halve`
    wide = values.reshape(n * pixels, 1, c).expand(-1, 2, -1).reshape(n * 12 * m, 1, 2 * m * c)
    return wide.expand(-1, 2, -1).reshape(n, 4 * pixels, c)


def with_borders(values: Tensor) -> Tensor:
    """Faces as images with a border of one pixel: (n, 12 m^2, c) to (12 n, c, m + 2, m + 2)."""
    n, pixels, c = values.shape
    m = _side(pixels)
    index = bordered_faces(m).to(values.device)
    return values.index_select(1, index).view(12 * n, m + 2, m + 2, c).permute(0, 3, 1, 2)


def without_borders(images: Tensor) -> Tensor:
    """Images of faces (12 n, c, m, m) as a map in face order (n, 12 m^2, c)."""
    faces, c, m, _ = images.shape
    return images.permute(0, 2, 3, 1).reshape(faces // 12, 12 * m * m, c)


def _kept(index: np.ndarray) -> Tensor:
    """A tensor for the cache: made in inference mode it could not serve a training later."""
    with torch.inference_mode(False):
        return torch.from_numpy(index)


def _side(pixels: int) -> int:
    return round((pixels / 12) ** 0.5)
