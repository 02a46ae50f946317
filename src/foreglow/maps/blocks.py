"""Neighbouring pixels of the sky, read, worked on and written together."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from foreglow.maps import healpix as hp


@dataclass(frozen=True)
class PixelBlock:
    """Pixels that follow each other in one ordering: in a file of it, one stretch.

    Parameters
    ----------
    nside : int
    ordering : str
        RING or NESTED.
    start, stop : int
        First pixel, and the one after the last, in that ordering.
    """

    nside: int
    ordering: str
    start: int
    stop: int

    def __len__(self) -> int:
        """Number of pixels."""
        return self.stop - self.start

    @cached_property
    def ring(self) -> np.ndarray:
        """RING numbers, int64, shape (n,), in the order of the block."""
        own = np.arange(self.start, self.stop)
        return own if self.ordering == "RING" else hp.nest2ring(self.nside, own)

    @cached_property
    def _nested(self) -> np.ndarray:
        return hp.ring2nest(self.nside, self.ring)

    def numbers(self, ordering: str) -> np.ndarray | slice:
        """The pixels as another ordering numbers them; in its own, a slice."""
        if ordering == self.ordering:
            return slice(self.start, self.stop)
        return self.ring if ordering == "RING" else self._nested


@dataclass(frozen=True)
class PixelBlocks(Sequence[PixelBlock]):
    """The whole sky, `size` pixels at a time.

    Blocks are made when asked for, and with them go the numbers of their pixels: 8 bytes each,
    which a list would keep of the whole sky.

    Parameters
    ----------
    nside : int
    ordering : str
        RING or NESTED.
    size : int
    """

    nside: int
    ordering: str
    size: int

    def __len__(self) -> int:
        """Number of blocks."""
        return -(-hp.nside2npix(self.nside) // self.size)

    def __getitem__(self, k: int) -> PixelBlock:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Block k, from 0."""
        if not 0 <= k < len(self):
            raise IndexError(k)
        start = k * self.size
        stop = min(start + self.size, hp.nside2npix(self.nside))
        return PixelBlock(self.nside, self.ordering, start, stop)


def ring_numbers(pixels: np.ndarray | PixelBlock) -> np.ndarray:
    """RING numbers of pixels given by them, or as a block."""
    return pixels.ring if isinstance(pixels, PixelBlock) else np.asarray(pixels)
