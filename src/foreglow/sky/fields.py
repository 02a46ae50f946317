"""Random fields on the sphere, the same at every Nside: a finer one only adds detail."""

from collections.abc import Callable, Sequence

import ducc0
import numpy as np
import torch

from foreglow.compute.device import each_on_a_thread
from foreglow.errors import SkyError
from foreglow.maps import healpix as hp
from foreglow.maps.harmonic import synthesise

Array = np.ndarray

SMALLEST_NSIDE, LARGEST_NSIDE = 16, 2048
SLOW_LMAX = 32  # slow fields (cold fraction, radiation, emissivity) hold no finer structure

BLOCK = 1 << 14  # pixels worked on at a time: they stay in the cache of a core

# Purposes of random draws: with the seed and a stream they name every draw
FIELD, DENSITY, COLD, WALK, SLOW = 0, 10, 20, 30, 40
VELOCITY, BACKGROUND, NOISE = 50, 60, 70


def validate(nside: int, seed: int) -> None:
    """Raise SkyError unless Nside is a power of two in range and the seed not negative."""
    whole = isinstance(nside, int | np.integer)
    if not (whole and SMALLEST_NSIDE <= nside <= LARGEST_NSIDE and nside & (nside - 1) == 0):
        raise SkyError(
            f"expected a power of two from {SMALLEST_NSIDE} to {LARGEST_NSIDE} as the Nside of "
            f"the mock Galaxy, got {nside}; make the nearest one and degrade it"
        )
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise SkyError(
            f"expected a whole number of 0 or more as the seed of the mock Galaxy, got {seed}"
        )


def white_alm(seed: int, stream: int, purpose: int, lmax: int) -> Array:
    """Harmonic coefficients of unit power, drawn by multipole so that lmax only adds to them."""
    draws = np.random.default_rng([seed, stream, purpose]).standard_normal((lmax + 1) ** 2)
    alm = np.empty((lmax + 1) * (lmax + 2) // 2, complex)
    squared = np.arange(lmax + 1) ** 2
    alm[: lmax + 1] = np.sqrt(2) * draws[squared]
    first = lmax + 1
    for m in range(1, lmax + 1):
        place = squared[m:] + (2 * m - 1)
        part = alm[first : first + place.size]
        part.real, part.imag = draws.take(place), draws.take(place + 1)
        first += place.size
    alm *= np.sqrt(0.5)
    return alm


def power_law(slope: float, outer_ell: int, lmax: int) -> Array:
    """Power law C_ell from `outer_ell` on, of unit variance once continued to all multipoles."""
    ell = np.arange(outer_ell, 8 * LARGEST_NSIDE, dtype=float)
    variance = np.sum((2 * ell + 1) / (4 * np.pi) * ell**slope)
    ell = np.arange(lmax + 1, dtype=float)
    return np.where(ell >= outer_ell, np.maximum(ell, 1) ** slope, 0) / variance


def slow_field(seed: int, stream: int, purpose: int, nside: int) -> Array:
    """Smooth field of unit variance and slope -3, float32."""
    lmax = min(SLOW_LMAX, 2 * nside)
    return gaussian_map(seed, stream, purpose, nside, power_law(-3.0, 2, lmax))


def gaussian_map(seed: int, stream: int, purpose: int, nside: int, power: Array) -> Array:
    """Gaussian field of a spectrum from ell 0, float32, shape (n_pix,)."""
    lmax = power.size - 1
    alm = hp.almxfl(white_alm(seed, stream, purpose, lmax), np.sqrt(power), inplace=True)
    return synthesise(alm[np.newaxis].astype(np.complex64), nside, lmax)[0]


def directions(nside: int, part: slice = slice(None)) -> Array:
    """Unit vectors of the centres of a stretch of pixels: shape (3, n)."""
    pixels = np.arange(*part.indices(hp.nside2npix(nside)))
    grid = ducc0.healpix.Healpix_Base(nside, "RING")  # does not hold up other threads
    return np.ascontiguousarray(grid.pix2vec(pixels, 1).T)


def blocks(stop: int, start: int = 0, size: int = BLOCK) -> list[slice]:
    """A stretch of pixels, some at a time."""
    return [slice(first, min(first + size, stop)) for first in range(start, stop, size)]


def by_block(work: Callable[[slice], None], parts: Sequence[slice]) -> None:
    """Work on stretches of pixels, side by side on all cores."""
    each_on_a_thread(work, parts, torch.device("cpu"))
