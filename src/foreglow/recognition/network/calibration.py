"""Whether probabilities mean what they say: reliability, temperature, accuracy against coverage."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from foreglow.errors import ShapeError

TEMPERATURE_RANGE = (0.2, 5.0)
"""A temperature outside says that a network is broken rather than over- or underconfident."""

# Rms of a prior on ln T about 0: data decide wherever more than a few vectors are mistaken. Without
# it a network that never is would be sharpened without end, and be wildly sure on other data.
_LOG_TEMPERATURE_RMS = 0.5

COVERAGE = np.linspace(0.05, 1.0, 20)


@dataclass(frozen=True)
class Reliability:
    """How often the most probable model was right, by the probability it was given.

    Parameters
    ----------
    confidence : ndarray, shape (n_bin,), in [0, 1]
        Mean over the bin's pixels of the largest probability; NaN where the bin is empty.
    accuracy : ndarray, shape (n_bin,), in [0, 1]
        Fraction of them whose most probable model is the true one; NaN where the bin is empty.
    count : ndarray, int64, shape (n_bin,)
    """

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]

    @property
    def expected_calibration_error(self) -> float:
        """Mean over pixels of their bin's |accuracy - confidence|.

        References
        ----------
        Naeini et al. 2015; Guo et al. 2017, arXiv:1706.04599, eq. 3.
        """
        gap = np.nan_to_num(np.abs(self.accuracy - self.confidence))
        return float(np.average(gap, weights=self.count))


def reliability(probability: ArrayLike, label: ArrayLike, n_bin: int = 15) -> Reliability:
    """Confidence and accuracy in equal bins of the largest probability, over [0, 1].

    Parameters
    ----------
    probability : array_like, shape (n_class, n_pix), in [0, 1]
        As `evaluate` gives it.
    label : array_like of int, shape (n_pix,)
        The true class.
    n_bin : int

    Raises
    ------
    ShapeError
        If the shapes do not agree, a label names no class, or a probability is no number.
    """
    probability, label = _validate(probability, label)
    confidence, correct = _verdict(probability, label)
    place = np.minimum((n_bin * confidence).astype(np.int64), n_bin - 1)
    count = np.bincount(place, minlength=n_bin)
    full = np.where(count > 0, count, np.nan)
    sums = (np.bincount(place, weights=w, minlength=n_bin) for w in (confidence, correct))
    mean_confidence, accuracy = (total / full for total in sums)
    return Reliability(mean_confidence, accuracy, count)


def expected_calibration_error(probability: ArrayLike, label: ArrayLike, n_bin: int = 15) -> float:
    """Mean distance of accuracy from confidence, in [0, 1]; see `Reliability`.

    Finite numbers of pixels alone give about sqrt(n_bin / n_pix) / 3, so compare with that.

    Examples
    --------
    Three pixels given 80%, of which two are right:

    >>> probability = [[0.8, 0.8, 0.8], [0.2, 0.2, 0.2]]
    >>> round(expected_calibration_error(probability, [0, 0, 1]), 3)
    0.133
    """
    return reliability(probability, label, n_bin).expected_calibration_error


def fit_temperature(log_probability: ArrayLike, label: ArrayLike) -> float:
    """The temperature T for which softmax(log_probability / T) has the least cross-entropy.

    It makes probabilities honest on average and leaves every decision as it is. A weak prior holds
    it at 1 where there are too few mistakes to tell.

    Parameters
    ----------
    log_probability : array_like, shape (n_class, n_pix)
        Logits or log-probabilities, of vectors that the network was not trained on.
    label : array_like of int, shape (n_pix,)
        The true class.

    Returns
    -------
    float
        Above 1 where the probabilities were too sure; within `TEMPERATURE_RANGE`.

    Raises
    ------
    ShapeError
        If the shapes do not agree, a label names no class, or a logit is not finite.

    References
    ----------
    Guo et al. 2017, arXiv:1706.04599, section 4.2.
    """
    logits, label = _validate(log_probability, label)

    def loss(log_temperature: float) -> float:
        scaled = logits * np.exp(-log_temperature)
        entropy = np.sum(np.asarray(logsumexp(scaled, axis=0)) - _of_label(scaled, label))
        return float(entropy + 0.5 * (log_temperature / _LOG_TEMPERATURE_RMS) ** 2)

    low, high = np.log(TEMPERATURE_RANGE)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded")
    best = min((low, float(found.x), high), key=loss)  # `bounded` never reaches an end
    return float(np.clip(np.exp(best), *TEMPERATURE_RANGE))


def accuracy_against_coverage(
    probability: ArrayLike, label: ArrayLike, coverage: ArrayLike = COVERAGE
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Accuracy where the least certain pixels are left out.

    Parameters
    ----------
    probability : array_like, shape (n_class, n_pix), in [0, 1]
    label : array_like of int, shape (n_pix,)
        The true class.
    coverage : array_like, shape (n_coverage,), in (0, 1]
        Fractions of the pixels to keep, those of the largest probability.

    Returns
    -------
    coverage : ndarray, shape (n_coverage,)
        What whole numbers of pixels allow.
    accuracy : ndarray, shape (n_coverage,)
        Of pixels kept; equally probable ones are as good as each other, whatever their order.

    Raises
    ------
    ShapeError
        If the shapes do not agree, a label names no class, a probability is no number, or a
        coverage is not in (0, 1].
    """
    probability, label = _validate(probability, label)
    asked = np.asarray(coverage, float)
    if asked.ndim != 1 or not ((asked > 0) & (asked <= 1)).all():
        raise ShapeError("expected coverage as a list of numbers above 0 and at most 1.")
    confidence, correct = _verdict(probability, label)
    _, group = np.unique(-confidence, return_inverse=True)
    correct = (np.bincount(group, weights=correct) / np.bincount(group))[group]
    kept = np.maximum(1, np.round(asked * len(label)).astype(np.int64))
    right = np.cumsum(correct[np.argsort(group, kind="stable")])
    return kept / len(label), right[kept - 1] / kept


def _verdict(
    probability: NDArray[np.float64], label: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Largest probability, and 1 where its class is the true one, else 0; both (n_pix,)."""
    correct = (probability.argmax(0) == label).astype(float)
    return probability.max(0).clip(0, 1), correct


def _of_label(values: NDArray[np.float64], label: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each pixel's value at its true class, shape (n_pix,)."""
    return np.take_along_axis(values, label[None], axis=0)[0]


def _validate(values: ArrayLike, label: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    table, truth = np.asarray(values, float), np.asarray(label)
    if table.ndim != 2 or truth.shape != table.shape[1:] or table.size == 0:
        raise ShapeError(
            f"expected values (n_class, n_pix) and labels (n_pix,), got {table.shape} and "
            f"{truth.shape}; put the classes first."
        )
    if not np.issubdtype(truth.dtype, np.integer) or truth.min() < 0 or truth.max() >= len(table):
        raise ShapeError(
            f"expected labels that are whole numbers from 0 to {len(table) - 1}; others came."
        )
    if not np.isfinite(table).all():
        raise ShapeError(
            "expected finite values, got NaN or infinite ones; leave pixels out that were not "
            "observed."
        )
    return table, truth.astype(np.int64)
