"""What comes beside a cube, from files or arrays: a mask, and a dust map."""

from pathlib import Path
from typing import Any, Protocol

import astropy.units as u
import numpy as np
from numpy.typing import NDArray

from foreglow.dust import target as targets
from foreglow.errors import MapError, ShapeError
from foreglow.hi_cube.cube import HICube
from foreglow.maps import healpix as hp
from foreglow.maps.arrays import split_mask
from foreglow.maps.io import IntensityMap, open_plain_map
from foreglow.maps.mask import above_zero, nothing_counts


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
        Of its Nside and frame.
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
        name, values = str(mask), read_on_grid(Path(mask), open_plain_map(mask), cube)
    else:
        name, values = "mask", _on_grid("mask", mask, cube, nest)
    wanted = above_zero(values)
    if not wanted.any():
        raise nothing_counts(name)
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
        Of its Nside and frame.
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
        return read_on_grid(Path(dust), stored, cube), found, Path(dust)
    stated = str(dust.unit) if isinstance(dust, u.Quantity) else ""
    found = targets.array_unit(stated, unit)
    plain = dust.value if isinstance(dust, u.Quantity) else dust
    return _on_grid("dust", plain, cube, nest), found, "dust"


def read_on_grid(path: Path, stored: IntensityMap, cube: OnPixels) -> np.ndarray:
    """All of a FITS map, RING, NaN where it holds nothing.

    Raises
    ------
    MapError
        If its Nside or frame is not that of the cube.
    """
    if (stored.nside, stored.frame) != (cube.nside, "G"):
        raise MapError(
            f"{path}: expected a map of Nside {cube.nside} in the Galactic frame, as the cube "
            f"{cube.name} is, got Nside {stored.nside}, frame {stored.frame}; bring it there "
            "(healpy.ud_grade, healpy.Rotator), or prepare the cube at its Nside"
        )
    return stored.read(np.arange(hp.nside2npix(cube.nside)))


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
