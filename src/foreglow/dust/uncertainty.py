"""Scale and error of predicted dust maps: regression to the target, residuals by brightness.

A network's loss may leave its scale free, and the spread of an ensemble is only what the networks
do not agree on: some dust no gas tells of. Both are measured where the target is known, and the
model's card keeps what was found. Q and U share one scale, without an offset, and one error, by
polarised intensity: neither may depend on the axes that they count from.

What a prediction lacks of a map is an error of either. Where the noise of the map is known, it is
taken out of the law, which is then of the dust; and noisy pixels tell less.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreglow.dust.stitch import Stitched
from foreglow.errors import MapError, ModelError, ShapeError

# most of the sky is faint and most of the range of brightness belongs to a few pixels
_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 1.0)
_LEAST_PIXELS = 200
_ROUNDS = 10  # after which a variance that is weighted by itself stands


@dataclass(frozen=True)
class Calibration:
    """A straight line from what a model says to the target map.

    Attributes
    ----------
    slope : float
    offset : float
        In the target's unit.
    to : str
        What it was fitted to, and where.
    """

    slope: float = 1.0
    offset: float = 0.0
    to: str = "none: as the network says"

    def __call__(self, predicted: NDArray) -> NDArray:
        """The calibrated map."""
        return self.slope * predicted + self.offset

    @classmethod
    def fit(cls, predicted: NDArray, target: NDArray, to: str) -> "Calibration":
        """Least squares of the target on the prediction.

        Parameters
        ----------
        predicted, target : ndarray, shape (n,)
            Finite.
        to : str

        Raises
        ------
        MapError
            If there are fewer than 200 pixels, or the prediction is flat.
        """
        _validate(predicted, target, (predicted.size,))
        centred = predicted - predicted.mean(dtype=np.float64)
        variance = np.mean(centred**2, dtype=np.float64)
        if not variance > 0:
            raise MapError(
                "expected a prediction that varies over the sky, got a flat map; check the cube"
            )
        slope = float(np.mean(centred * target, dtype=np.float64) / variance)
        mean = float(predicted.mean(dtype=np.float64)), float(target.mean(dtype=np.float64))
        return cls(slope, mean[1] - slope * mean[0], to)

    @classmethod
    def through_origin(
        cls, predicted: NDArray, target: NDArray, to: str, weight: NDArray | float = 1.0
    ) -> "Calibration":
        """Least squares of Q and U together, (2, n), by one slope; all else as `fit`.

        `weight`, (n,), is that of each pixel.
        """
        _validate(predicted, target, (2, predicted.shape[-1]))
        power = np.sum(weight * predicted**2, dtype=np.float64)
        if not power > 0:
            raise MapError("expected a polarised prediction, got Q and U of zero; check the cube")
        return cls(float(np.sum(weight * predicted * target, dtype=np.float64) / power), 0.0, to)


@dataclass(frozen=True)
class ResidualLaw:
    """Rms of what the dust has beyond the prediction and the ensemble's spread, by brightness.

    Attributes
    ----------
    predicted_edges : tuple of float, length bin + 1
        Of the calibrated prediction, target unit: of its brightness, or of the polarised intensity.
    rms : tuple of float, length bin
        Target unit. Between the middles of bins it goes in straight lines; beyond the last one it
        grows with the brightness.
    of : str
        "map", with its noise, or "dust", without.
    """

    predicted_edges: tuple[float, ...]
    rms: tuple[float, ...]
    of: str = "map"

    def __call__(self, predicted: NDArray) -> NDArray:
        """Rms at each predicted brightness; NaN stays NaN."""
        edges = np.asarray(self.predicted_edges)
        middle = 0.5 * (edges[1:] + edges[:-1])
        beyond = np.maximum(predicted / middle[-1], 1) if middle[-1] > 0 else 1.0
        return np.interp(predicted, middle, self.rms) * beyond

    def std(self, predicted: NDArray, scatter: NDArray) -> NDArray:
        """Total error: this law and the standard deviation of the members in quadrature.

        Both arrays are (n,), or (2, n) of Q and U.
        """
        return np.hypot(self(_brightness(predicted)), scatter)

    @classmethod
    def fit(
        cls,
        predicted: NDArray,
        scatter: NDArray,
        target: NDArray,
        variance: NDArray | None = None,
    ) -> "ResidualLaw":
        """Measure the law where the target is known.

        Parameters
        ----------
        predicted, scatter : ndarray, shape (n,), or (2, n) of Q and U
            Calibrated mean of the ensemble, and the standard deviation of its members.
        target : ndarray, of that shape
        variance : ndarray, shape (n,), optional
            Of the noise of the target: it is taken out, and pixels count by what they tell.

        Returns
        -------
        ResidualLaw
            Of Q and U by their polarised intensity: the rms of either.

        Raises
        ------
        MapError
            If there are fewer than 200 pixels.
        """
        _validate(predicted, target, predicted.shape)
        bright = _brightness(predicted)
        edges = np.quantile(bright.astype(np.float64), _QUANTILES)
        # the two ends of a sky are single pixels; the law is of many
        edges[[0, -1]] = np.quantile(bright, [0.002, 0.998])
        edges = np.maximum.accumulate(edges)
        place = np.searchsorted(edges[1:-1], bright, side="right")
        # the scatter is added again for each pixel
        excess = (target - predicted).astype(np.float64) ** 2 - scatter.astype(np.float64) ** 2
        excess = excess.reshape(-1, bright.size).mean(0)
        n_bin = len(edges) - 1
        if variance is None:
            mean, of = _means(excess, place, np.ones(bright.size), n_bin), "map"
        else:
            mean, of = _without_noise(excess, variance.astype(np.float64), place, n_bin), "dust"
        return cls(tuple(map(float, edges)), tuple(np.sqrt(np.maximum(mean, 0)).tolist()), of)


def to_card(calibration: Calibration, law: ResidualLaw) -> dict[str, Any]:
    """The tables `calibration` and `residual` of a model's card.

    Those of Q and U stand in its table `polarisation`.
    """
    residual = {"predicted_edges": list(law.predicted_edges), "rms": list(law.rms), "of": law.of}
    return {"calibration": vars(calibration).copy(), "residual": residual}


def from_card(card: Mapping[str, Any]) -> tuple[Calibration | None, ResidualLaw | None]:
    """Calibration and law of a model's card; None for what it does not have.

    Raises
    ------
    ModelError
        If what stands there is no calibration or no law.
    """
    try:
        line, table = card.get("calibration"), card.get("residual")
        calibration = law = None
        if line is not None:
            calibration = Calibration(float(line["slope"]), float(line["offset"]), str(line["to"]))
        if table is not None:
            edges, rms = (tuple(map(float, table[key])) for key in ("predicted_edges", "rms"))
            law = ResidualLaw(edges, rms, str(table.get("of", "map")))
            if len(law.predicted_edges) != len(law.rms) + 1 or not law.rms:
                raise ValueError("one more of predicted_edges than of rms is expected")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"expected numbers under calibration and residual in the model's card, got {error}; "
            "train the model anew, or give dust= and mask= to measure both again"
        ) from error
    return calibration, law


def measure(
    stitched: Stitched, target: NDArray, to: str, variance: NDArray | None = None
) -> dict[str, Any]:
    """Calibration and law of the residuals of a stitched map, where a target is known.

    Both are honest only on a sky that no member was trained on.

    Parameters
    ----------
    stitched : Stitched
    target : ndarray, shape (n_pix,), or (3, n_pix) of polarisation
        RING; NaN where it is not to be used.
    to : str
        What the target is, for the header of maps.
    variance : ndarray, shape (n_pix,), optional
        Of the noise of the Q and U of the target, in the square of its unit: it is no part of the
        error then, and pixels count by what they tell.

    Returns
    -------
    dict
        The tables of a model's card: `calibration`, `residual`, and of polarised maps
        `polarisation`, which holds those of Q and U.

    Raises
    ------
    ShapeError
        If the target has other maps than were predicted.
    MapError
        If it is known in fewer than 200 pixels of the map, or the prediction is flat.
    """
    mean, scatter, target = stitched.mean, stitched.scatter, np.asarray(target)
    if target.shape != mean.shape:
        raise ShapeError(
            f"expected a target of shape {mean.shape}, as the model predicts, got {target.shape}; "
            "give I, Q and U of a polarised model, and the map alone of any other"
        )
    if mean.ndim == 1:
        return _measure_intensity(mean, scatter, target, to)
    found = _measure_intensity(mean[0], scatter[0], target[0], to)
    return found | {
        "polarisation": _measure_polarisation(mean[1:], scatter[1:], target[1:], to, variance)
    }


def _measure_intensity(mean: NDArray, scatter: NDArray, target: NDArray, to: str) -> dict[str, Any]:
    """The tables of a card that say scale and error of one map."""
    known = np.isfinite(target + mean)
    mean, scatter, target = mean[known], scatter[known], target[known]
    calibration = Calibration.fit(mean, target, to)
    law = ResidualLaw.fit(calibration(mean), abs(calibration.slope) * scatter, target)
    return to_card(calibration, law)


def _measure_polarisation(
    mean: NDArray, scatter: NDArray, target: NDArray, to: str, variance: NDArray | None
) -> dict[str, Any]:
    """The same of Q and U."""
    known = np.isfinite(target + mean).all(0)
    if variance is not None:
        known &= np.isfinite(variance)
        variance = variance[known]
    mean, scatter, target = mean[:, known], scatter[:, known], target[:, known]

    def scaled(weight: NDArray | float) -> tuple[Calibration, ResidualLaw, NDArray]:
        calibration = Calibration.through_origin(mean, target, to, weight)
        calibrated, spread = calibration(mean), abs(calibration.slope) * scatter
        law = ResidualLaw.fit(calibrated, spread, target, variance)
        return calibration, law, law.std(calibrated, spread)

    calibration, law, std = scaled(1.0)
    if variance is not None:  # weights need the law, and the law a scale
        calibration, law, _ = scaled(1 / (variance + std**2))
    return to_card(calibration, law)


def _without_noise(
    excess: NDArray, variance: NDArray, place: NDArray, n_bin: int
) -> NDArray[np.float64]:
    """The variance in each bin beside that of the noise, of greatest likelihood.

    A squared residual scatters by its own mean, noise and all: that is what pixels weigh by.
    """
    found = np.full(n_bin, variance.min())
    for _ in range(_ROUNDS):
        weight = (variance + np.maximum(found, 0)[place]) ** -2
        found = _means(excess - variance, place, weight, n_bin)
    return found


def _means(values: NDArray, place: NDArray, weight: NDArray, n_bin: int) -> NDArray[np.float64]:
    """Weighted means in bins; 0 in an empty one."""
    total = np.bincount(place, weight * values, minlength=n_bin)
    sums = np.bincount(place, weight, minlength=n_bin)
    return total / np.where(sums > 0, sums, 1)


def coverage(
    predicted: NDArray, std: NDArray, target: NDArray, n_bin: int = 5
) -> list[dict[str, float]]:
    """How often the target lies within one and two standard deviations, by brightness.

    Parameters
    ----------
    predicted, std, target : ndarray, shape (n,)
        Finite.
    n_bin : int
        Bins with as many pixels each.

    Returns
    -------
    list of dict
        All pixels first, then bin by bin: `low` and `high` of the predicted brightness, `n`,
        `within1`, `within2` (0.683 and 0.954 for a Gaussian), `rms` of the residual, `std`, the
        root mean square of what was stated, and `bias`, the mean residual.
    """
    edges = np.quantile(predicted, np.linspace(0, 1, n_bin + 1))
    place = np.searchsorted(edges[1:-1], predicted, side="right")
    residual = (target - predicted).astype(np.float64)
    pull = np.abs(residual) / std
    rows = []
    for which in [np.ones(place.shape, bool), *(place == k for k in range(n_bin))]:
        row = {
            "low": predicted[which].min(),
            "high": predicted[which].max(),
            "n": np.count_nonzero(which),
            "within1": np.mean(pull[which] < 1),
            "within2": np.mean(pull[which] < 2),
            "rms": np.sqrt(np.mean(residual[which] ** 2)),
            "std": np.sqrt(np.mean(std[which].astype(np.float64) ** 2)),
            "bias": residual[which].mean(),
        }
        rows.append({key: float(value) for key, value in row.items()})
    return rows


def _brightness(predicted: NDArray) -> NDArray:
    """Of intensity itself (n,); of Q and U (2, n) the polarised intensity."""
    return predicted if predicted.ndim == 1 else np.hypot(*predicted)


def _validate(predicted: NDArray, target: NDArray, shape: tuple[int, ...]) -> None:
    if shape[-1] < _LEAST_PIXELS or predicted.shape != shape or target.shape != shape:
        raise MapError(
            f"expected a prediction and a target on at least {_LEAST_PIXELS} pixels, got "
            f"{predicted.shape} and {target.shape}; use a mask that leaves more of the sky"
        )
