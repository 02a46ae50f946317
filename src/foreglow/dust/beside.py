"""What comes beside a cube, from files or arrays: a mask, and a dust map."""

import logging
from pathlib import Path
from typing import Any, Protocol

import astropy.units as u
import numpy as np
from numpy.typing import NDArray

from foreglow.dust import target as targets
from foreglow.errors import MapError, ShapeError, warn
from foreglow.hi_cube.cube import HICube
from foreglow.maps import healpix as hp
from foreglow.maps.arrays import split_mask
from foreglow.maps.coarser import mean_map, open_mask_at
from foreglow.maps.conventions import MapWarning
from foreglow.maps.io import IntensityMap, open_plain_map
from foreglow.maps.mask import above_zero, nothing_counts

log = logging.getLogger("foreglow")

_SAMPLE = 1 << 20  # pixels that tell how many are exactly 0
_ZEROS = 0.01  # of a map, from which on they are no chance


class OnPixels(Protocol):
    """What other maps are to be like: an HI cube, or what was made of one."""

    @property
    def nside(self) -> int:
        """Nside of its maps."""
        ...

    @property
    def name(self) -> str:
        """What messages call it, after `the cube`."""
        ...


def read_mask(mask: Any, cube: OnPixels, nest: bool) -> NDArray[np.bool_]:
    """Where a mask is above zero, RING.

    Parameters
    ----------
    mask : path or array_like, shape (n_pix,)
    cube : HICube
        Of its frame; a file may have a higher Nside, whose pixels are averaged.
    nest : bool
        An array is NESTED.

    Raises
    ------
    MapError
        If it is above zero nowhere, or a file that cannot be used.
    ShapeError
        If an array has other pixels than the cube.
    """
    if isinstance(mask, str | Path):
        return read_mask_file(Path(mask), cube.nside)
    wanted = above_zero(_on_grid("mask", mask, cube, nest))
    if not wanted.any():
        raise nothing_counts("mask")
    return wanted


def read_dust(
    dust: Any, unit: str | None, cube: HICube, nest: bool
) -> tuple[NDArray[np.floating], str, str | Path]:
    """A dust map, RING, NaN where it holds nothing; its unit; and what to call it.

    Parameters
    ----------
    dust : path or array_like, shape (n_pix,)
    unit : str, optional
        Where it states none; any text, "1" for a number without unit.
    cube : HICube
        Of its frame; a file may have a higher Nside, whose pixels are averaged.
    nest : bool
        An array is NESTED.

    Raises
    ------
    MapError
        If it has another unit or none, or is a file that cannot be used.
    ShapeError
        If an array has other pixels than the cube.
    """
    if isinstance(dust, str | Path):
        stored, found = targets.open_target(Path(dust), unit)
        return read_dust_file(Path(dust), stored, cube.nside), found, Path(dust)
    stated = str(dust.unit) if isinstance(dust, u.Quantity) else ""
    found = targets.array_unit(stated, unit)
    plain = dust.value if isinstance(dust, u.Quantity) else dust
    return _on_grid("dust", plain, cube, nest), found, "dust"


def read_dust_file(
    path: Path, stored: IntensityMap, nside: int, holes: IntensityMap | None = None
) -> NDArray[np.floating]:
    """A FITS map at an Nside, RING, NaN where it holds nothing.

    Parameters
    ----------
    path : Path
        For messages.
    stored : IntensityMap
        Of that Nside or a higher one, whose pixels are averaged.
    nside : int
    holes : IntensityMap, optional
        Of the Nside of the map: where it is not above zero the map is left out.

    Raises
    ------
    MapError
        If its Nside is lower, or its frame not Galactic.

    Warns
    -----
    MapWarning
        If many pixels are exactly 0, and so taken as not observed.
    """
    validate_frame(path, stored, nside)
    zeros = stored.share_of_zeros(_SAMPLE)
    unobserved = _ZEROS < zeros < 1  # a map of nothing else is told of as one that does not vary
    if unobserved:
        warn(
            f"{path}: {zeros:.1%} of the map is exactly 0, which no sky is; those pixels are taken "
            "as not observed",
            MapWarning,
        )
    _say_coarser(path, stored, nside)
    return mean_map(stored, nside, holes, unobserved)


def read_mask_file(path: Path, nside: int) -> NDArray[np.bool_]:
    """Where a FITS mask is above zero in at least half of a pixel of an Nside, RING.

    Raises
    ------
    MapError
        As `read_dust_file`, or if nothing is left.
    """
    stored = open_plain_map(path)
    validate_frame(path, stored, nside)
    _say_coarser(path, stored, nside)
    wanted = open_mask_at(stored, nside)
    if not wanted.any():
        raise nothing_counts(str(path))
    return wanted


def validate_frame(path: Path, stored: IntensityMap, nside: int) -> None:
    """Check that a map can be brought to the pixels of a cube.

    Raises
    ------
    MapError
        If its pixels are larger, or its frame is not Galactic.
    """
    if stored.frame != "G" or stored.nside < nside:
        raise MapError(
            f"{path}: expected a map of Nside {nside} or more in the Galactic frame, to be put on "
            f"the pixels of the cube, got Nside {stored.nside}, frame {stored.frame}; prepare the "
            "cube at its Nside, or turn the map (healpy.Rotator)"
        )


def _say_coarser(path: Path, stored: IntensityMap, nside: int) -> None:
    if stored.nside != nside:
        log.info("%s: averaged from Nside %d to %d", path, stored.nside, nside)


def _on_grid(name: str, given: Any, cube: OnPixels, nest: bool) -> NDArray[np.floating]:
    """An array on the pixels of a cube, RING, NaN where it is masked or UNSEEN."""
    given = np.asanyarray(given)
    n_pix = hp.nside2npix(cube.nside)
    if given.shape != (n_pix,):
        got = f"shape {given.shape}"
        if given.ndim == 1 and hp.isnpixok(given.size):
            got = f"Nside {hp.npix2nside(given.size)}"
        raise ShapeError(
            f"{name}: expected a map of shape ({n_pix},), Nside {cube.nside} as the cube, got "
            f"{got}; bring it there, as with healpy.ud_grade (of a mask of floats)"
        )
    plain, mask = split_mask(given)
    values = plain.astype(np.result_type(plain.dtype, np.float32))  # as precise as it is
    values[np.isclose(values, hp.UNSEEN, rtol=1e-4)] = np.nan
    if mask is not None:
        values[mask] = np.nan
    return values[hp.ring2nest(cube.nside, np.arange(n_pix))] if nest else values
