"""An HI cube at a lower Nside: each pixel is the mean over those that lie in it.

Surveys are interpolated onto pixels no larger than their own and averaged from there: interpolated
onto coarse pixels at once, they would keep the noise of single points and alias what is finer.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foreglow.errors import MapError
from foreglow.hi_cube.cube import HICube, write_cube
from foreglow.maps import healpix as hp
from foreglow.maps.coarser import mean_of_children


def lower_cube(cube: HICube, out: Path, nside: int) -> HICube:
    """Write a cube at a lower Nside; it appears whole or not at all.

    Parameters
    ----------
    cube : HICube
        On disk.
    out : path
        Folder to make.
    nside : int
        A power of two below that of the cube.

    Returns
    -------
    HICube
        The same channels; NaN where less than half of a pixel is observed.

    Raises
    ------
    MapError
        If its Nside is not lower, or `out` is taken.
    """
    if not (0 < nside < cube.nside and hp.isnsideok(nside, nest=True)):
        raise MapError(
            f"{cube.name}: expected an Nside below that of the cube, {cube.nside}, and a power of "
            f"two, got {nside}; choose a lower nside="
        )
    source = f"{cube.source}, averaged from Nside {cube.nside}"
    maps = _lowered(cube, nside)
    return write_cube(out, cube.velocity_kms, maps, nside, cube.beam_arcmin, source)


def _lowered(cube: HICube, nside: int) -> Iterator[NDArray[np.float32]]:
    """Channels, RING, of which a chunk is read at a time."""
    chunk, ring = cube.tb.chunks[0], hp.ring2nest(nside, np.arange(hp.nside2npix(nside)))
    for first in range(0, cube.n_channel, chunk):
        for channel in np.asarray(cube.tb[first : first + chunk]):
            yield mean_of_children(channel, nside)[0][ring]
