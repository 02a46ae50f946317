"""Multipoles of a weighted sky, its B modes purified."""

from functools import cached_property
from typing import Any

import ducc0
import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreglow.errors import MapError, ShapeError
from foreglow.maps import healpix as hp
from foreglow.maps.coupling import pure_shares


class WeightedSky:
    """A weight, and the multipoles of what it leaves of maps.

    Parameters
    ----------
    weight : ndarray, shape (n_pix,)
        RING.
    pure : bool
        Purify B.
    iterations : int
        Of each analysis, as healpy's `iter`.
    """

    def __init__(self, weight: NDArray[np.float64], pure: bool, iterations: int = 3):
        self.weight, self.pure, self.iterations = weight, pure, iterations
        self.nside = hp.npix2nside(weight.size)
        self.l_max = 3 * self.nside - 1

    def multipoles(self, maps: ArrayLike) -> NDArray[np.complex128]:
        """E and B (2, n_lm) of Q, U (2, n_pix); with T before both of T, Q, U (3, n_pix).

        Raises
        ------
        ShapeError
            If maps have another shape.
        MapError
            If a value is not finite where the weight is above zero.
        """
        *intensity, q, u = self._validate(maps)
        found = self._analyse(np.stack([q, u]) * self.weight, 2)
        if self.pure:
            for spin, share in pure_shares(self.l_max).items():
                if spin < 2:
                    real, imaginary = self._derivatives[2 - spin]
                    turned = np.stack([q * real + u * imaginary, u * real - q * imaginary])
                    b = self._analyse(turned if spin else turned[1:], spin)[-1]
                    found[1] += hp.almxfl(b, share)
        if intensity:
            return np.concatenate([self._analyse(intensity[0][None] * self.weight, 0), found])
        return found

    @property
    def power(self) -> NDArray[np.float64]:
        """C_ell of the weight."""
        return np.asarray(hp.alm2cl(self._weight_alm, lmax=self.l_max))

    @cached_property
    def _weight_alm(self) -> NDArray[np.complex128]:
        return self._analyse(self.weight[None], 0)[0]

    @cached_property
    def _derivatives(self) -> dict[int, NDArray[np.float64]]:
        """Derivatives of the weight of spin 1 and 2, each (2, n_pix)."""
        ell = np.arange(self.l_max + 1.0)
        slope = -np.sqrt(ell * (ell + 1))
        bend = -slope * np.sqrt((ell - 1).clip(0) * (ell + 2))
        found = {}
        for spin, factor in ((1, slope), (2, bend)):
            alm = hp.almxfl(self._weight_alm, factor)
            found[spin] = self._synthesise(np.stack([alm, 0 * alm]), spin)
        return found

    @cached_property
    def _geometry(self) -> dict[str, Any]:
        rings = ducc0.healpix.Healpix_Base(self.nside, "RING").sht_info()
        return {**rings, "lmax": self.l_max, "nthreads": 0}

    def _analyse(self, maps: NDArray, spin: int) -> NDArray[np.complex128]:
        """Multipoles (n, n_lm) of maps (n, n_pix): one of spin 0, else two."""
        area = hp.nside2pixarea(self.nside)
        alm = ducc0.sht.adjoint_synthesis(map=maps, spin=spin, **self._geometry) * area
        for _ in range(self.iterations):
            left = maps - self._synthesise(alm, spin)
            alm += ducc0.sht.adjoint_synthesis(map=left, spin=spin, **self._geometry) * area
        return alm

    def _synthesise(self, alm: NDArray, spin: int) -> NDArray[np.float64]:
        return ducc0.sht.synthesis(alm=alm, spin=spin, **self._geometry)

    def _validate(self, maps: ArrayLike) -> NDArray[np.float64]:
        maps, n_pix = np.asarray(maps, dtype=float), self.weight.size
        if maps.shape not in ((2, n_pix), (3, n_pix)):
            raise ShapeError(
                f"expected Q, U of shape (2, {n_pix}), or T, Q, U (3, {n_pix}), got {maps.shape}."
            )
        seen = self.weight > 0
        bad = ~np.isfinite(maps).all(0) & seen
        if bad.any():
            raise MapError(
                f"expected finite Q and U where the weight is above zero, got {bad.sum()} pixels "
                f"that are not, the first at RING pixel {bad.argmax()}; mask them."
            )
        return np.where(seen, maps, 0.0)
