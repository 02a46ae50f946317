"""Layouts of classes on the sky: which foreground model holds where in a simulated sky."""

import re

import numpy as np
from scipy.spatial import KDTree

from foreglow.errors import MapError
from foreglow.maps import healpix as hp

KINDS = ("halves", "quadrants", "blobs", "single:K")

_BALANCE_NSIDE = 32
_BALANCE_STEPS = 100


def layout(
    kind: str, nside: int, n_class: int, seed: int = 0, scale_deg: float = 30.0
) -> np.ndarray:
    """Class of every pixel of the sky.

    Parameters
    ----------
    kind : str
        - "halves": Galactic longitude below 180 degrees (class 0) and above (class 1), so that
          both hold the same latitudes; two classes only;
        - "quadrants": `n_class` equal sectors of Galactic longitude;
        - "blobs": where one of `n_class` smoothed Gaussian fields is the highest; connected
          patches of about equal total area;
        - "single:K": class K everywhere.
    nside : int
    n_class : int
    seed : int
        Of "blobs". The same seed gives the same patches at every Nside.
    scale_deg : float
        FWHM of the smoothing of "blobs", degrees; at least a pixel.

    Returns
    -------
    ndarray of int64, shape (12 nside^2,), RING
        From 0 to `n_class` - 1.

    Raises
    ------
    MapError
        If the kind is unknown or cannot hold `n_class` classes, or Nside or scale are unusable.

    Examples
    --------
    Four sectors of Galactic longitude, as on the paper's test maps of four models:

    >>> import numpy as np
    >>> np.bincount(layout("quadrants", 16, 4))
    array([768, 768, 768, 768])
    """
    if not (isinstance(nside, int | np.integer) and hp.isnsideok(nside)):
        raise MapError(f"expected a positive integer Nside, got {nside!r}; use a power of two")
    if n_class < 1:
        raise MapError(f"expected at least one class, got {n_class}")
    single = re.fullmatch(r"single:(\d+)", kind)
    if single:
        return _single(int(single[1]), nside, n_class)
    if kind == "halves":
        if n_class != 2:
            raise MapError(f"'halves' holds 2 classes, got {n_class}; use 'quadrants' or 'blobs'")
        return _sectors(nside, 2)
    if kind == "quadrants":
        return _sectors(nside, n_class)
    if kind == "blobs":
        return _blobs(nside, n_class, seed, scale_deg)
    raise MapError(f"expected a layout {', '.join(KINDS)}, got {kind!r}; choose one of them")


def distance_to(inside: np.ndarray, at_most_rad: float = np.pi) -> np.ndarray:
    """Angle from each pixel to the nearest of some pixels.

    Parameters
    ----------
    inside : ndarray of bool, shape (n_pix,)
        RING.
    at_most_rad : float
        No farther ones are looked for, which is much quicker.

    Returns
    -------
    ndarray, shape (n_pix,) [rad]
        Infinite where there is none.
    """
    vector = np.stack(hp.pix2vec(hp.npix2nside(len(inside)), np.arange(len(inside))), 1)
    if not inside.any():
        return np.full(len(inside), np.inf)
    farthest = 2.001 * np.sin(0.5 * min(at_most_rad, np.pi))
    chord, _ = KDTree(vector[inside]).query(vector, distance_upper_bound=farthest)
    return np.where(np.isfinite(chord), 2 * np.arcsin(np.minimum(chord / 2, 1)), np.inf)


def equal_parts(weight: np.ndarray, halvings: int = 4) -> np.ndarray:
    """Divide a part of the sky into compact regions of equal weight, for errors by leaving one out.

    Each is halved, again and again, across the direction in which it is longest.

    Parameters
    ----------
    weight : ndarray, shape (n_pix,)
        RING; of the sky that is divided, nowhere below zero.
    halvings : int
        2^halvings regions.

    Returns
    -------
    ndarray of int64, shape (n_pix,)
        From 0 on; -1 where there is no weight.
    """
    label = np.where(weight > 0, 0, -1)
    vector = np.stack(hp.pix2vec(hp.npix2nside(len(weight)), np.arange(len(weight))), 1)
    for _ in range(halvings):
        whole = label.copy()
        for part in range(whole.max() + 1):
            mine = np.flatnonzero(whole == part)
            share = weight[mine]
            centred = vector[mine] - np.average(vector[mine], axis=0, weights=share)
            longest = np.linalg.eigh(centred.T @ (share[:, None] * centred))[1][:, -1]
            order = np.argsort(centred @ longest, kind="stable")
            half = np.searchsorted(np.cumsum(share[order]), 0.5 * share.sum())
            label[mine] = 2 * part
            label[mine[order[half:]]] = 2 * part + 1
    return label


def _single(index: int, nside: int, n_class: int) -> np.ndarray:
    if index >= n_class:
        raise MapError(
            f"expected a class from 0 to {n_class - 1}, got 'single:{index}'; name one of them"
        )
    return np.full(hp.nside2npix(nside), index, dtype=np.int64)


def _sectors(nside: int, n_class: int) -> np.ndarray:
    _, phi = hp.pix2ang(nside, np.arange(hp.nside2npix(nside)))
    # phi can round up to 2 pi
    return np.minimum((phi / (2 * np.pi) * n_class).astype(np.int64), n_class - 1)


def _blobs(nside: int, n_class: int, seed: int, scale_deg: float) -> np.ndarray:
    pixel_deg = np.degrees(hp.nside2resol(nside))
    if not pixel_deg <= scale_deg <= 180:
        raise MapError(
            f"expected a scale from one pixel ({pixel_deg:.3g} deg at Nside {nside}) to 180 deg, "
            f"got {scale_deg}; change scale_deg or Nside"
        )
    alms = _smooth_fields(n_class, seed, scale_deg)
    # Offsets are found at one fixed resolution, so that patches do not depend on Nside.
    offsets = _balancing_offsets(np.stack([hp.alm2map(a, _BALANCE_NSIDE) for a in alms]))
    winner = np.zeros(hp.nside2npix(nside), dtype=np.int64)
    highest = np.full(winner.shape, -np.inf)
    for index, (alm, offset) in enumerate(zip(alms, offsets, strict=True)):
        values = hp.alm2map(alm, nside) + offset
        winner[values > highest] = index
        np.maximum(highest, values, out=highest)
    return winner


def _smooth_fields(n_class: int, seed: int, scale_deg: float) -> np.ndarray:
    """Alms (class, lm) of white noise smoothed with a Gaussian beam: unit variance, no mean."""
    sigma = np.radians(scale_deg) / np.sqrt(8 * np.log(2))
    lmax = max(2, int(np.ceil(4 / sigma)))  # the beam is e^-8 there
    ell, m = hp.Alm.getlm(lmax)
    rng = np.random.default_rng(seed)
    real, imaginary = rng.standard_normal((2, n_class, ell.size))
    alms = np.where(m == 0, real, (real + 1j * imaginary) / np.sqrt(2))
    beam = np.exp(-0.5 * ell * (ell + 1) * sigma**2) * (ell > 0)
    power = (np.where(m == 0, 1, 2) * np.abs(alms * beam) ** 2).sum(1, keepdims=True)
    return alms * beam * np.sqrt(4 * np.pi / power)


def _balancing_offsets(fields: np.ndarray) -> np.ndarray:
    """Offsets (class,) that make every field the highest on about the same area."""
    n_class = len(fields)
    offsets = np.zeros(n_class)
    for step in range(_BALANCE_STEPS):
        area = np.bincount((fields + offsets[:, None]).argmax(0), minlength=n_class)
        gain = 2.0 / (1 + step / 20)  # shrinks, as a step moves whole pixels
        offsets += gain * (1 / n_class - area / fields.shape[1])
    return offsets
