"""Parts of the sphere with the pixels around them, for work on maps larger than memory."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreglow.maps import healpix as hp

SIDES, CORNERS = (0, 2, 4, 6), (1, 3, 5, 7)  # columns of `Tile.neighbour`


@dataclass(frozen=True)
class Tile:
    """A square of pixels, and those around it ring by ring, with who is whose neighbour.

    Parameters
    ----------
    pixel : ndarray of int64, shape (n,)
        NESTED: those of the square, then each ring.
    within : tuple of int
        How many of them are within 0, 1, ... steps of the square.
    neighbour : ndarray of int64, shape (within[-2], 8)
        Places in `pixel`, in healpy's order: SW, W, NW, N, NE, E, SE, S. Where three faces meet
        a corner has no neighbour: there the pixel itself stands, as in `faces.bordered_faces`.
    """

    pixel: NDArray[np.int64]
    within: tuple[int, ...]
    neighbour: NDArray[np.int64]


def tile_with_rings(nside: int, first: int, size: int, rings: int) -> Tile:
    """Make a tile of the `size` NESTED pixels from `first` on, and `rings` rings around it.

    Parameters
    ----------
    nside : int
        A power of two.
    first, size : int
        `size` is a power of four and divides `first`.
    rings : int
        1 or more.
    """
    parts, around, halo = [np.arange(first, first + size)], [], np.empty(0, np.int64)
    for _ in range(rings):
        found = hp.get_all_neighbours(nside, parts[-1], nest=True).T
        around.append(np.where(found < 0, parts[-1][:, None], found))
        outside = (around[-1] < first) | (around[-1] >= first + size)
        parts.append(np.setdiff1d(np.unique(around[-1][outside]), halo, assume_unique=True))
        halo = np.concatenate([halo, parts[-1]])
    wanted = np.concatenate(around)
    place, order = wanted - first, np.argsort(halo)
    outside = (place < 0) | (place >= size)
    place[outside] = size + order[np.searchsorted(halo, wanted[outside], sorter=order)]
    within = tuple(int(n) for n in np.cumsum([len(part) for part in parts]))
    return Tile(np.concatenate(parts), within, place)
