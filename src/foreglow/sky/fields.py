"""Random fields on the sphere, the same at every Nside: a finer one only adds detail."""

import numpy as np

from foreglow.errors import SkyError
from foreglow.maps import healpix as hp

Array = np.ndarray

SMALLEST_NSIDE, LARGEST_NSIDE = 16, 2048
SLOW_LMAX = 32  # slow fields (cold fraction, radiation, emissivity) hold no finer structure

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
    ell, m = hp.Alm.getlm(lmax)
    first = ell**2 + 2 * m
    pairs = (draws[np.maximum(first - 1, 0)] + 1j * draws[first]) / np.sqrt(2)
    return np.where(m == 0, draws[ell**2], pairs)


def power_law(slope: float, outer_ell: int, lmax: int) -> Array:
    """Power law C_ell from `outer_ell` on, of unit variance once continued to all multipoles."""
    ell = np.arange(outer_ell, 8 * LARGEST_NSIDE, dtype=float)
    variance = np.sum((2 * ell + 1) / (4 * np.pi) * ell**slope)
    ell = np.arange(lmax + 1, dtype=float)
    return np.where(ell >= outer_ell, np.maximum(ell, 1) ** slope, 0) / variance


def slow_field(seed: int, stream: int, purpose: int, nside: int) -> Array:
    """Smooth field of unit variance and slope -3."""
    lmax = min(SLOW_LMAX, 2 * nside)
    alm = hp.almxfl(white_alm(seed, stream, purpose, lmax), np.sqrt(power_law(-3.0, 2, lmax)))
    return hp.alm2map(alm, nside, lmax=lmax)


def directions(nside: int) -> Array:
    """Unit vectors of the pixel centres: shape (3, n_pix)."""
    return np.stack(hp.pix2vec(nside, np.arange(hp.nside2npix(nside))))
