"""Smoothing of Q,U and of their noise to a common beam, of all of the sky or of a part."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from foreglow.maps import healpix as hp
from foreglow.maps.harmonic import analyse, synthesise

_ITERATIONS = 3
_NEGLIGIBLE = 1e-3  # of a kernel's harmonics: where they may end


@dataclass(frozen=True)
class Resolution:
    """One beam and pixel size for all bands.

    Harmonics end at ell = 2 Nside, smoothly from 1.5 Nside on, so lowering Nside aliases nothing;
    all bands share that, so ratios of bands are kept.

    Parameters
    ----------
    fwhm_arcmin : float
        Gaussian beam.
    nside : int
    """

    fwhm_arcmin: float
    nside: int

    @classmethod
    def of(cls, fwhm_arcmin: float, most: int) -> "Resolution":
        """The finest pixels, of Nside `most` at most, that are at least half a beam wide."""
        nside = most
        while nside > 1 and hp.nside2resol(nside, arcmin=True) < 0.5 * fwhm_arcmin:
            nside //= 2
        return cls(fwhm_arcmin, nside)

    def transfer(self, beam_arcmin: float) -> np.ndarray:
        """Factor on the harmonics of a map of some beam, shape (2 Nside + 1,)."""
        ell = np.arange(2 * self.nside + 1)
        end = np.clip((ell - 1.5 * self.nside) / (0.5 * self.nside), 0, 1)
        return self.ratio(beam_arcmin, ell) * np.cos(0.5 * np.pi * end) ** 2

    def ratio(self, beam_arcmin: float, ell: np.ndarray) -> np.ndarray:
        """Harmonics of the common beam over those of another; the kernel is a Gaussian."""
        variance = (np.radians([self.fwhm_arcmin, beam_arcmin]) / 60) ** 2 / (8 * np.log(2))
        return np.exp(-0.5 * ell * (ell + 1) * (variance[0] - variance[1]))

    def kernel(self, beam_arcmin: float, nside: int) -> np.ndarray:
        """The ratio of beams by ell as far as it counts, at most to what pixels of `nside` hold."""
        ratio = self.ratio(beam_arcmin, np.arange(3 * nside))
        return ratio[: 1 + np.count_nonzero(ratio >= _NEGLIGIBLE)]


def smooth_polarisation(qu: np.ndarray, transfer: np.ndarray, nside: int) -> np.ndarray:
    """Q,U (2, n_pix) of any Nside with E and B multiplied by `transfer`, (2, n_pix) of `nside`."""
    return _smoothed(qu, transfer, nside, spin=2)


def smooth_variance(variance: np.ndarray, transfer: np.ndarray, nside: int) -> np.ndarray:
    """Variance of smoothed white noise, from that of each pixel (n_pix,): the kernel squared.

    The variance of Q and of U at a point is the sum over pixels of theirs times the kernel of Q and
    U squared, itself a smoothing, by the Legendre transform of that square.
    """
    factor = _squared(transfer, 0, _end(transfer, variance)) * (4 * np.pi / len(variance))
    return _smoothed(variance[np.newaxis], factor, nside)[0]


def smooth_difference(apart: np.ndarray, transfer: np.ndarray, nside: int) -> np.ndarray:
    """As `smooth_variance`, of half of QQ less UU and of QU, (2, n_pix): together of spin 4.

    They are the mean of (Q + iU)^2, so they turn by twice the angle by which Q and U turn.
    """
    factor = _squared(transfer, 4, _end(transfer, apart)) * (4 * np.pi / apart.shape[1])
    return _smoothed(apart, factor, nside, spin=4)


def noise_end(l_max: int, nside: int) -> int:
    """Where harmonics of a variance in pixels of `nside` end: a square has twice those of l_max."""
    return max(l_max, min(2 * l_max, 3 * nside - 1))


def _end(transfer: np.ndarray, maps: np.ndarray) -> int:
    return noise_end(len(transfer) - 1, hp.npix2nside(maps.shape[-1]))


def _smoothed(maps: np.ndarray, factor: np.ndarray, nside: int, spin: int = 0) -> np.ndarray:
    """Maps of a spin with their harmonics multiplied by a function of ell, float64."""
    l_max = len(factor) - 1
    alm = _harmonics(maps, l_max, spin)
    for one in alm:
        hp.almxfl(one, factor, inplace=True)
    return synthesise(alm, nside, l_max, spin)


def _harmonics(maps: np.ndarray, l_max: int, spin: int) -> np.ndarray:
    """Harmonics by Jacobi iterations, as healpy's `map2alm`, with room for one copy of the maps."""
    left = maps.astype(np.float64)
    alm = analyse(left, l_max, spin)
    for _ in range(_ITERATIONS):
        synthesise(alm, hp.npix2nside(maps.shape[1]), l_max, spin, out=left)
        np.subtract(maps, left, out=left)
        alm += analyse(left, l_max, spin)
    return alm


def _squared(transfer: np.ndarray, spin: int, l_max: int) -> np.ndarray:
    """Transfer function, of a spin and up to l_max, of the square of the kernel of Q + iU."""
    x, w = np.polynomial.legendre.leggauss(2 * max(len(transfer), l_max + 1))
    kernel = np.zeros_like(x)
    for ell, d in enumerate(_wigner(2, len(transfer) - 1, x)):
        kernel += (2 * ell + 1) / (4 * np.pi) * transfer[ell] * d
    square = 2 * np.pi * w * kernel**2
    return np.array([square @ d for d in _wigner(spin, l_max, x)])


def _wigner(spin: int, l_max: int, x: np.ndarray) -> Iterator[np.ndarray]:
    """d^l_ss(theta) at x = cos theta for l from 0 to l_max; 0 below the spin.

    References
    ----------
    Varshalovich et al. 1988, section 4.8.2: the recurrence in l.
    """
    before, d = np.zeros_like(x), (0.5 * (1 + x)) ** spin
    for ell in range(l_max + 1):
        if ell < spin:
            yield np.zeros_like(x)
            continue
        yield d
        turn = spin**2 / (ell * (ell + 1)) if ell else 0.0
        last = (ell**2 - spin**2) / (ell * (2 * ell + 1)) if ell else 0.0
        factor = (2 * ell + 1) * (ell + 1) / ((ell + 1) ** 2 - spin**2)
        before, d = d, factor * ((x - turn) * d - last * before)


def cover(seen: np.ndarray, aim: Resolution) -> np.ndarray:
    """How much of the common beam observed, shape (n_pix,) of the aim."""
    if seen.all():
        return np.ones(hp.nside2npix(aim.nside))
    return _smoothed(seen[np.newaxis], aim.transfer(0.0), aim.nside)[0]


def to_common_beam(values: np.ndarray, aim: Resolution, beam_arcmin: float) -> np.ndarray:
    """A map (n_pix,), or Q,U (2, n_pix), at the common beam, in its own pixels, float64.

    The kernel is a Gaussian, which stays near: nothing ends its harmonics before they are small.
    """
    if beam_arcmin == aim.fwhm_arcmin:
        return values
    nside = hp.npix2nside(values.shape[-1])
    ratio = aim.kernel(beam_arcmin, nside)
    # of a narrow kernel what it takes away is smoother than what it leaves
    narrow = ratio[-1] > 0.5
    factor = 1 - ratio if narrow else ratio
    if values.ndim == 2:
        smooth = smooth_polarisation(values, factor, nside)
    else:
        smooth = _smoothed(values[np.newaxis], factor, nside)[0]
    return np.subtract(values, smooth, out=smooth) if narrow else smooth


def filled(qu: np.ndarray, seen: np.ndarray, aim: Resolution) -> np.ndarray:
    """Q,U with means over the common beam where they were not observed, fading from there.

    Dead pixels then hold what is around them, and no edge is a cliff.
    """
    if seen.all():
        return qu
    mean = to_common_beam(np.where(seen, qu, qu.dtype.type(0)), aim, 0.0).astype(qu.dtype)
    mean /= np.maximum(to_common_beam(seen, aim, 0.0), 0.5)
    np.copyto(mean, qu, where=seen)
    return mean
