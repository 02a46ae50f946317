"""healpy, imported when first needed: that takes most of a second, and loads matplotlib if there.

To be used as `from foreglow.maps import healpix as hp`. What every map needs, numbers of pixels and
their two orders, is here without healpy, with its names and results; all else is healpy's.
"""

import math
from functools import lru_cache
from typing import Any

import ducc0
import numpy as np
from numpy.typing import ArrayLike, NDArray

UNSEEN = -1.6375e30
_LARGEST_NSIDE = 1 << 29


def nside2npix(nside: int) -> int:
    """Pixels of the sphere."""
    _validate(nside)
    return 12 * nside**2


def npix2nside(npix: int) -> int:
    """Nside of so many pixels; a ValueError if there is none."""
    if not isnpixok(npix):
        raise ValueError(f"expected 12 nside^2 pixels, got {npix}")
    return math.isqrt(int(npix) // 12)


def isnsideok(nside: int, nest: bool = False) -> bool:
    """Whether there is such an Nside; NESTED ones are powers of two."""
    whole = nside == int(nside) and 0 < nside <= _LARGEST_NSIDE
    return bool(whole and not (nest and int(nside) & (int(nside) - 1)))


def isnpixok(npix: int) -> bool:
    """Whether some Nside has so many pixels."""
    return npix > 0 and npix == 12 * math.isqrt(int(npix) // 12) ** 2


def nside2pixarea(nside: int, degrees: bool = False) -> float:
    """Area of a pixel [sr, or square degrees]."""
    area = 4 * math.pi / nside2npix(nside)
    return area * math.degrees(1) ** 2 if degrees else area


def nside2resol(nside: int, arcmin: bool = False) -> float:
    """Square root of the area of a pixel [rad, or arcmin]."""
    side = math.sqrt(nside2pixarea(nside))
    return math.degrees(side) * 60 if arcmin else side


def ring2nest(nside: int, ipix: ArrayLike) -> NDArray[np.int64]:
    """NESTED numbers of RING ones."""
    return _base(nside).ring2nest(np.asarray(ipix, np.int64))


def nest2ring(nside: int, ipix: ArrayLike) -> NDArray[np.int64]:
    """RING numbers of NESTED ones."""
    return _base(nside).nest2ring(np.asarray(ipix, np.int64))


def _validate(nside: int, nest: bool = False) -> None:
    if not isnsideok(nside, nest):
        raise ValueError(f"expected an Nside{' that is a power of two' * nest}, got {nside}")


@lru_cache(maxsize=8)
def _base(nside: int) -> Any:
    _validate(nside, nest=True)
    return ducc0.healpix.Healpix_Base(int(nside), "RING")


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    import healpy

    return getattr(healpy, name)
