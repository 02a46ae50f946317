"""Masks: where a sky counts, from files or arrays."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreglow.errors import MapError
from foreglow.maps.arrays import GivenArray, given_array
from foreglow.maps.blocks import PixelBlock, PixelBlocks
from foreglow.maps.io import IntensityMap, open_plain_map
from foreglow.maps.stored import FilePart

_BLOCK = 1 << 20  # pixels looked at together

MASK = ("MASK",)
"""The column of an array."""


@dataclass(frozen=True, eq=False)
class Mask:
    """A mask opened for streaming.

    Attributes
    ----------
    stored : IntensityMap
        The sky counts where it is above zero.
    """

    stored: IntensityMap

    def read(self, pixels: np.ndarray | PixelBlock) -> NDArray[np.bool_]:
        """Which of some pixels count, shape (n,); pixels as in `PolarisationMap.read`."""
        return above_zero(self.stored.read(pixels))


def above_zero(values: NDArray) -> NDArray[np.bool_]:
    """Where a mask counts: above zero, and not where it is NaN."""
    return np.nan_to_num(values) > 0


def nothing_counts(name: str) -> MapError:
    """What to say of a mask that leaves nothing."""
    return MapError(f"{name}: expected a mask that is above zero somewhere, got none such pixel")


def mask_array(mask: Any, nest: bool) -> GivenArray:
    """An array as a mask, of truth values or numbers; its frame is that of the maps beside it."""
    values = np.asanyarray(mask)
    if values.dtype.kind == "b":
        values = values.astype(np.float32)  # a masked array stays one
    return given_array("mask", values, nest, "G", "COSMO")


def open_mask(
    given: str | Path | GivenArray, nside: int, frame: str, beside: str = "the maps"
) -> Mask:
    """Open a mask for maps of some Nside and frame.

    Parameters
    ----------
    given : path, str or GivenArray
        FITS, as `open_plain_map` takes it, in any ordering; or what `mask_array` makes.
    nside : int
    frame : str
        "G", "C" or "E"; an array has it.
    beside : str
        What has this Nside and frame, for the message.

    Raises
    ------
    MapError
        If it is of another Nside or frame, above zero nowhere, or a file that cannot be used.
    ShapeError
        If an array is no map.
    """
    if isinstance(given, GivenArray):
        table = replace(given, frame=frame).table(MASK)
        stored = IntensityMap((FilePart.of(table, [0]),), "")
    else:
        stored = open_plain_map(given)
    if (stored.nside, stored.frame) != (nside, frame):
        raise MapError(
            f"{stored.path}: expected a mask of Nside {nside} in frame {frame}, as {beside}, "
            f"got Nside {stored.nside}, frame {stored.frame}; bring it there (healpy.ud_grade of a "
            "mask of floats, healpy.Rotator)"
        )
    opened = Mask(stored)
    if not any(opened.read(block).any() for block in PixelBlocks(nside, stored.ordering, _BLOCK)):
        raise nothing_counts(str(stored.path))
    return opened
