"""How a weighted sky mixes multipoles and E with B: coupling matrices by Wigner's d functions.

A product of two 3j symbols is an integral over three d functions, so the sum over the multipoles
of the weight becomes the correlation function of the weight, and the rest a product of matrices.
Gauss-Legendre nodes make the integrals exact.
"""

import math
from itertools import product

import ducc0
import numpy as np
from numpy.typing import NDArray

Shares = dict[int, NDArray[np.float64]]
"""Of a weighted multipole: the factor by ell of each of its terms, by the spin of its harmonics."""


def coupling(
    weight: NDArray[np.floating], l_max: int, one: Shares, other: Shares
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean spectra of a weighted Gaussian sky, as matrices on those of the whole sky.

    Parameters
    ----------
    weight : ndarray, shape (l_mask + 1,)
        C_ell of the weight.
    l_max : int
    one, other : dict of int to ndarray
        Of the two multipoles whose spectrum it is: `scalar_shares`, `plain_shares`, `pure_shares`.

    Returns
    -------
    same, mixed : ndarray, shape (l_max + 1, l_max + 1)
        Weighted BB is `same` times BB and `mixed` times EE (the same for EE if both are plain);
        weighted EB is `same` times EB less `mixed` times BE. Nothing mixes where one is scalar.

    References
    ----------
    Kogut et al. 2003; Brown, Castro & Taylor 2005; Smith & Zaldarriaga 2007; Alonso et al. 2019.
    """
    nodes = (2 * l_max + len(weight) - 1) // 2 + 1
    theta, quadrature = ducc0.misc.GL_thetas(nodes), ducc0.misc.GL_weights(nodes, 1)
    quadrature = quadrature / (2 * math.pi)  # of cos(theta), from -1 to 1
    spins = max(one), max(other)  # of the fields themselves
    ell_mask = np.arange(len(weight))
    power = (2 * ell_mask + 1) / (4 * math.pi) * weight
    parity = []
    for sign in (1, -1):  # of the second symbol's m: with it, odd l + l2 + l3 change theirs
        total = np.zeros((l_max + 1, l_max + 1))
        true = wigner_d(l_max, spins[0], spins[1] * sign, theta) * quadrature
        for s, t in product(one, other):
            left = spins[0] - s, spins[1] - t  # the sum of the m of a symbol is zero
            derivative = _derivative(ell_mask, left[0]) * _derivative(ell_mask, left[1])
            mask = (power * derivative) @ wigner_d(len(weight) - 1, left[0], sign * left[1], theta)
            seen = wigner_d(l_max, s, sign * t, theta) * mask
            total += (one[s] * other[t])[:, None] * (seen @ true.T)
        parity.append(0.5 * total * (2 * np.arange(l_max + 1) + 1))
    return 0.5 * (parity[0] + parity[1]), 0.5 * (parity[0] - parity[1])


def scalar_shares(l_max: int) -> Shares:
    """Of the multipoles of a weighted intensity."""
    return {0: np.ones(l_max + 1)}


def plain_shares(l_max: int) -> Shares:
    """Of E and B of weighted Q and U."""
    return {2: np.ones(l_max + 1)}


def pure_shares(l_max: int) -> Shares:
    """Of purified multipoles: the term of spin s has the weight's derivative of spin 2 - s."""
    ell = np.arange(2, l_max + 1, dtype=float)
    one, none = np.zeros(l_max + 1), np.zeros(l_max + 1)
    one[2:] = 2 / np.sqrt((ell - 1) * (ell + 2))
    none[2:] = 1 / np.sqrt((ell - 1) * ell * (ell + 1) * (ell + 2))
    return {2: np.ones(l_max + 1), 1: one, 0: none}


def _derivative(ell: NDArray[np.integer], spin: int) -> NDArray[np.float64]:
    """Factor of a scalar's multipoles in those of its derivative of spin 0, 1 or 2."""
    ell = ell.astype(float)
    factor = np.ones_like(ell)
    if spin:
        factor *= ell * (ell + 1)
    if spin == 2:
        factor *= (ell - 1).clip(0) * (ell + 2)
    return np.sqrt(factor)


def wigner_d(l_max: int, m: int, n: int, theta: NDArray[np.floating]) -> NDArray[np.float64]:
    """Wigner's d^l_mn of angles [rad], shape (l_max + 1, n_theta), 0 below the larger of |m|, |n|.

    By the recursion over l, which is stable upwards.

    References
    ----------
    Varshalovich, Moskalev & Khersonskii 1988, section 4.3 and 4.8.
    """
    found = np.zeros((l_max + 1, len(theta)))
    first = max(abs(m), abs(n))
    if first > l_max:
        return found
    found[first] = _first_d(first, m, n, theta)
    cos = np.cos(theta)
    for ell in range(first, l_max):
        if ell == 0:
            found[1] = cos
            continue
        below = found[ell - 1] * (ell + 1) * math.sqrt((ell**2 - m**2) * (ell**2 - n**2))
        now = found[ell] * (2 * ell + 1) * (ell * (ell + 1) * cos - m * n)
        above = ell * math.sqrt(((ell + 1) ** 2 - m**2) * ((ell + 1) ** 2 - n**2))
        found[ell + 1] = (now - below) / above
    return found


def _first_d(ell: int, m: int, n: int, theta: NDArray[np.floating]) -> NDArray[np.float64]:
    """d^l_mn where l is the larger of |m| and |n|."""
    sign = 1.0
    if abs(n) > abs(m):  # d_mn = (-1)^(m - n) d_nm
        m, n, sign = n, m, (-1.0) ** (m - n)
    if m < 0:  # d_mn = (-1)^(m - n) d_-m-n
        m, n, sign = -m, -n, sign * (-1.0) ** (m - n)
    half = 0.5 * theta
    number = math.sqrt(math.comb(2 * ell, ell + n))
    return sign * number * np.cos(half) ** (ell + n) * (-np.sin(half)) ** (ell - n)
