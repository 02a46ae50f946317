"""T, E and B spectra of a part of the sky: purified, and freed of what the cut mixes."""

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreglow.errors import MapError, ShapeError
from foreglow.maps import healpix as hp
from foreglow.maps.coupling import coupling, plain_shares, pure_shares, scalar_shares
from foreglow.maps.regions import distance_to
from foreglow.maps.weighted_sky import WeightedSky

_ELL_MIN = 2
_SINGULAR = 1e-10  # condition of the matrix of bins


def apodised(mask: ArrayLike, width_deg: float) -> NDArray[np.float64]:
    """A weight that rises smoothly from 0 at the edge of a mask to 1 some degrees inside.

    Parameters
    ----------
    mask : array_like, shape (n_pix,)
        RING; the sky counts where it is above zero.
    width_deg : float
        0 leaves the edge sharp.

    Returns
    -------
    ndarray, shape (n_pix,)
        x - sin(2 pi x) / 2 pi with x^2 = (1 - cos d) / (1 - cos width), d the angle to the
        nearest pixel outside: value and two derivatives are continuous, as pure B modes need.

    Raises
    ------
    MapError
        If nothing of the mask is left.

    References
    ----------
    Grain, Tristram & Stompor 2009; NaMaster's C1.
    """
    kept = np.nan_to_num(np.asarray(mask, dtype=float)) > 0
    weight = kept.astype(float)
    if width_deg > 0 and not kept.all():
        width = np.radians(width_deg)
        x = np.sin(np.minimum(distance_to(~kept, width), np.pi) / 2) / np.sin(width / 2)
        weight[kept] = np.where(x < 1, x - np.sin(2 * np.pi * x) / (2 * np.pi), 1.0)[kept]
    if not weight.any():
        raise MapError("expected a mask that is above zero somewhere, got none such pixel.")
    return weight


class CutSky:
    """Measures EE and BB of a weighted sky, and all spectra of two maps of it, in bins of ell.

    Parameters
    ----------
    weight : array_like, shape (n_pix,)
        RING, from 0 to 1; see `apodised`.
    ell_edges : sequence of int
        Bin k holds edges[k] <= ell < edges[k + 1]; from 2 to 3 Nside. Beyond 2 Nside the pixels
        themselves mix multipoles, and the mean is not what is expected.
    pure : bool
        Purify B, so that no E modes leak into it where the weight falls smoothly to 0. A sky
        without a cut has nothing to purify.

    Attributes
    ----------
    ell : ndarray, shape (n_bin,)
        Mean multipole of each bin.

    Raises
    ------
    MapError
        If edges do not rise within 2 to 3 Nside, or bins are too narrow for so little sky.
    ShapeError
        If the weight is no map.

    References
    ----------
    Hivon et al. 2002; Smith & Zaldarriaga 2007; Alonso et al. 2019 (NaMaster), to which the
    results are equal.
    """

    def __init__(self, weight: ArrayLike, ell_edges: Sequence[int], pure: bool = True):
        self.weight = np.asarray(weight, dtype=float)
        if self.weight.ndim != 1 or not hp.isnpixok(self.weight.size):
            raise ShapeError(f"expected a weight of shape (12 Nside^2,), got {self.weight.shape}.")
        self.nside = hp.npix2nside(self.weight.size)
        self.pure = pure
        most = 3 * self.nside
        if not all(isinstance(edge, int | np.integer) for edge in ell_edges):
            raise MapError(f"expected whole numbers as edges of ell, got {ell_edges!r}.")
        edges = np.asarray(ell_edges, dtype=np.int64)
        if edges.size < 2 or edges[0] < _ELL_MIN or (np.diff(edges) < 1).any() or edges[-1] > most:
            raise MapError(
                f"expected rising edges of ell within {_ELL_MIN} to {most}, 3 Nside, got "
                f"{list(ell_edges)}."
            )
        self.l_max = most - 1
        self._sky = WeightedSky(self.weight, pure)
        self.edges = edges
        ell = np.arange(self.l_max + 1)
        inside = (ell >= edges[:-1, None]) & (ell < edges[1:, None])
        self._mean = inside / inside.sum(1, keepdims=True)  # (n_bin, l_max + 1)
        self.ell = self._mean @ ell
        self._unmix, self._mixing = self._matrices(inside)

    @property
    def sky_fraction(self) -> float:
        """Effective fraction of sky in the number of modes: <w^2>^2 / <w^4>."""
        square = self.weight**2
        return float(np.mean(square) ** 2 / np.mean(square**2))

    @property
    def modes(self) -> NDArray[np.float64]:
        """About how many modes each bin has, shape (n_bin,)."""
        return self.sky_fraction * np.diff(self.edges) * (2 * self.ell + 1)

    def spectra(self, maps: ArrayLike) -> NDArray[np.float64]:
        """EE and BB of a Q,U map.

        Parameters
        ----------
        maps : array_like, shape (2, n_pix)
            Q, U, RING, COSMO; any value, NaN too, where the weight is zero.

        Returns
        -------
        ndarray, shape (2, n_bin), in the square of the map's unit
            EE, BB. No beam, pixel window or noise is taken out.

        Raises
        ------
        ShapeError
            If the map is of another Nside.
        MapError
            If a value is not finite where the weight is above zero.
        """
        if np.shape(maps) != (2, self.weight.size):
            raise ShapeError(
                f"expected Q, U of shape (2, {self.weight.size}), got {np.shape(maps)}."
            )
        found = self.multipoles(maps)
        return self.band_powers(found, found)

    def multipoles(self, maps: ArrayLike) -> NDArray[np.complex128]:
        """E and B of the weighted map, B purified, (2, n_lm); or T, E and B of T, Q, U."""
        return self._sky.multipoles(maps)

    def band_powers(self, one: NDArray, other: NDArray) -> NDArray[np.float64]:
        """EE and BB, (2, n_bin), of the `multipoles` of two maps, or of one twice."""
        powers = [_power(a, b, self.l_max) for a, b in zip(one, other, strict=True)]
        seen = np.concatenate([self._mean @ power for power in powers])
        return (self._unmix @ seen).reshape(2, -1)

    def cross_powers(self, one: NDArray, other: NDArray) -> dict[str, NDArray[np.float64]]:
        """All spectra of the `multipoles` T, E, B of two maps, or of one twice.

        Parameters
        ----------
        one, other : ndarray, shape (3, n_lm)

        Returns
        -------
        dict of str to ndarray, shape (n_bin,), in the product of the maps' units
            "TT", "EE", "BB", "TE", "TB", "EB", and "ET", "BT", "BE": first the letter of the one.
        """
        ee, bb = self.band_powers(one[1:], other[1:])
        found = {"EE": ee, "BB": bb}
        binned = {
            a + b: self._mean @ _power(one[k], other[n], self.l_max)
            for k, a in enumerate("TEB")
            for n, b in enumerate("TEB")
        }
        for pair, unmix in self._unmix_crossed.items():
            both = np.concatenate([binned[pair], binned[pair[::-1]]])
            freed = (unmix @ both).reshape(2, -1)
            found |= {pair: freed[0], pair[::-1]: freed[1]}
        return found

    def expected(self, ee: ArrayLike, bb: ArrayLike) -> NDArray[np.float64]:
        """Mean of `spectra` over Gaussian skies of some spectra.

        Parameters
        ----------
        ee, bb : array_like, shape (3 Nside,)
            C_ell from ell 0, of what the map holds: beam and pixel window included.

        Returns
        -------
        ndarray, shape (2, n_bin)
        """
        return (self._unmix @ self._mixing @ np.concatenate([ee, bb])).reshape(2, -1)

    def _matrices(self, inside: NDArray[np.bool_]) -> tuple[NDArray, NDArray]:
        """From binned weighted spectra to bins of true ones; from spectra to binned weighted."""
        same, mixed = self._coupling("E", "E")
        same_b, mixed_b = self._coupling("B", "B") if self.pure else (same, mixed)
        mixing = np.block(
            [[self._mean @ same, self._mean @ mixed], [self._mean @ mixed_b, self._mean @ same_b]]
        )
        flat = np.kron(np.eye(2), inside).T  # a spectrum that is flat in each bin
        binned = mixing @ flat
        if np.linalg.cond(binned) > 1 / _SINGULAR:
            raise MapError(
                f"expected bins of ell that {self.sky_fraction:.1%} of the sky can tell apart, got "
                f"edges {self.edges.tolist()}; widen them."
            )
        return np.linalg.inv(binned), mixing

    @cached_property
    def _unmix_crossed(self) -> dict[str, NDArray[np.float64]]:
        """For TT, TE, TB and EB, each above the same with letters exchanged, as `_unmix`."""
        found = {}
        for pair in ("TT", "TE", "TB", "EB"):
            same, mixed = (
                np.stack([(self._mean @ m)[:, a:b].sum(1) for a, b in pairwise(self.edges)], 1)
                for m in self._coupling(*pair)
            )
            found[pair] = np.linalg.inv(np.block([[same, -mixed], [-mixed, same]]))
        return found

    def _coupling(self, one: str, other: str) -> tuple[NDArray, NDArray]:
        shares = {"T": scalar_shares, "E": plain_shares, "B": plain_shares}
        if self.pure:
            shares["B"] = pure_shares
        both = (shares[letter](self.l_max) for letter in (one, other))
        return coupling(self._sky.power, self.l_max, *both)


def _power(
    one: NDArray[np.complex128], other: NDArray[np.complex128], l_max: int
) -> NDArray[np.float64]:
    return np.asarray(hp.alm2cl(one, other, lmax=l_max))
