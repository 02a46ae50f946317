"""How far a boundary between models can be placed with the information that a sky holds."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from foreglow.errors import ShapeError
from foreglow.maps import healpix as hp
from foreglow.maps.regions import distance_to


def distance_to_boundary(label: NDArray[np.integer]) -> NDArray[np.float64]:
    """Angle from each pixel to the nearest pixel of another class.

    Parameters
    ----------
    label : ndarray of int, shape (n_pix,)
        RING.

    Returns
    -------
    ndarray, shape (n_pix,) [deg]
        Infinite where the sky holds one class.
    """
    distance = np.empty(len(label))
    for k in np.unique(label):
        distance[label == k] = np.degrees(distance_to(label != k))[label == k]
    return distance


def boundary_oracle(
    log_probability: NDArray[np.floating], label: NDArray[np.integer], ring_by_ring: bool
) -> NDArray[np.bool_]:
    """Right and wrong pixels of a judge that knows all of a sky of sectors but its boundaries.

    It is told which model holds at the centre of every sector of Galactic longitude, and that
    there is one boundary between two centres, any longitude as likely as another; from the
    log-probabilities of the pixels it gives each the likelier side.

    Parameters
    ----------
    log_probability : ndarray, shape (n_class, n_pix)
        Of each pixel alone, RING.
    label : ndarray of int, shape (n_pix,)
        The truth: class k + shift in sector k, as `layout` makes `halves` and `quadrants`.
    ring_by_ring : bool
        Whether each ring of pixels has a boundary of its own, as if nothing were known of its
        shape; else the boundary is known to be a meridian.

    Returns
    -------
    ndarray of bool, shape (n_pix,)

    Raises
    ------
    ShapeError
        If the labels are no equal sectors of longitude.
    """
    n_class, n_pix = log_probability.shape
    nside = hp.npix2nside(n_pix)
    latitude, longitude = hp.pix2ang(nside, np.arange(n_pix), lonlat=True)[::-1]
    sector = np.minimum((longitude * n_class / 360).astype(int), n_class - 1)
    if len(label) != n_pix or len(np.unique((label - sector) % n_class)) != 1:
        raise ShapeError(
            f"expected labels in {n_class} equal sectors of longitude over the whole sky, as "
            "layout('halves') or layout('quadrants') makes them."
        )
    right = np.zeros(n_pix, bool)
    for pixels, left, other in _seams(longitude, label, n_class):
        ratio = log_probability[left] - log_probability[other]
        groups = np.unique(latitude[pixels].round(6), return_inverse=True)[1]
        if not ring_by_ring:
            groups = np.zeros_like(groups)
        for group in range(groups.max() + 1):
            mine = pixels[groups == group]  # in order of longitude from the centre of the left
            probability = _left_probability(ratio[mine])
            right[mine] = (probability > 0.5) == (label[mine] == left)
    return right


def _seams(
    longitude: NDArray[np.floating], label: NDArray[np.integer], n_class: int
) -> Iterator[tuple[NDArray[np.int64], int, int]]:
    """For each boundary the pixels between the centres on its sides, and the classes there."""
    width = 360 / n_class
    for k in range(n_class):
        from_centre = (longitude - (k + 0.5) * width).round(9) % 360
        pixels = np.flatnonzero(from_centre < width)
        pixels = pixels[np.argsort(from_centre[pixels], kind="stable")]
        before = from_centre[pixels] < width / 2
        yield pixels, int(label[pixels[before]][0]), int(label[pixels[~before]][0])


def _left_probability(ratio: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probability that each pixel lies before the cut, all cuts of the sequence as likely."""
    score = np.concatenate([[0.0], np.cumsum(ratio, dtype=np.float64)])
    weight = np.exp(score - score.max())
    weight /= weight.sum()
    return np.cumsum(weight[::-1])[::-1][1:]
