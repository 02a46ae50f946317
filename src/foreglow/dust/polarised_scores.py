"""How well predictions of polarised dust correlate with it, cutout by cutout, in E, B and I."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d

from foreglow.dust.cutouts import Cutouts, CutoutSampler
from foreglow.dust.orientation import gradient_polarisation, observed
from foreglow.dust.scores import BANDS, Predictor, by_cutout, standard_error
from foreglow.dust.spectra import (
    Bands,
    alignment,
    e_and_b,
    mode_correlation,
    spectrum_correlation,
)
from foreglow.errors import ShapeError
from foreglow.maps.gnomonic import Pointings


def _names(letters: str) -> tuple[str, ...]:
    kinds = ("", "spectrum_")
    return tuple(f"{k}{x}{scale}" for k in kinds for x in letters for scale in ("50", "150"))


COLUMNS = _names("eb")
INTENSITY = _names("i")


@dataclass(frozen=True, eq=False)
class PolarisedScores:
    """Correlation of one model's Q and U with those of the dust, cutout by cutout.

    Attributes
    ----------
    name : str
    values : dict of ndarray, shape (n,)
        `e50`, `e150`, `b50`, `b150`: E and B by single modes, as r50 and r150 of the intensity;
        with `spectrum_` before it the ratio of spectra. `alignment`: mean cos 2(psi - psi~).
        `i50`, `i150` and the same with `spectrum_`: the intensity, where it is predicted.
    curve : ndarray, shape (n, 2, band)
        E and B as ratios of spectra in bands of width ell_F, `fundamental_bands`.
    """

    name: str
    values: dict[str, NDArray[np.float64]]
    curve: NDArray[np.float64]

    def first(self, n: int) -> "PolarisedScores":
        """Those of the first cutouts."""
        values = {key: one[:n] for key, one in self.values.items()}
        return PolarisedScores(self.name, values, self.curve[:n])

    def record(self, reference: "PolarisedScores") -> dict[str, Any]:
        """A flat record for metrics.json.

        Parameters
        ----------
        reference : PolarisedScores
            Of the same cutouts in the same order.

        Returns
        -------
        dict
            `model`, `n`; the mean of each of `values` and its standard error, `_sem`, which does
            not know that cutouts overlap; and the share of cutouts in which it is above the
            reference, `wins_...`, absent where that is this model.
        """
        record: dict[str, Any] = {"model": self.name, "n": len(self.curve)}
        for key, values in self.values.items():
            record[key] = float(values.mean())
            record[f"{key}_sem"] = standard_error(values)
            if reference is not self and key in reference.values:
                record[f"wins_{key}"] = float((values > reference.values[key]).mean())
        return record


def score_polarisation(
    predictors: Mapping[str, Predictor],
    sampler: CutoutSampler,
    pointings: Pointings,
    batch: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, PolarisedScores]:
    """Correlate the predictions of several models with polarised dust, in one pass.

    Parameters
    ----------
    predictors : mapping of name to callable
        Q and U in the frame of the cutout, (batch, 2, n, n), or with I before them.
    sampler : CutoutSampler
        Of a polarised sky.
    pointings, batch, progress
        As for `foreglow.dust.evaluate.score`.

    Raises
    ------
    ShapeError
        If a predictor gives other maps.
    """
    bands, fine = (b(sampler.grid).to(sampler.sky.inputs.device) for b in BANDS)

    def correlate(made: Tensor, cutouts: Cutouts, name: str) -> Tensor:
        return _correlations(made, cutouts, bands, fine, name)

    found = by_cutout(predictors, sampler, pointings, correlate, batch, progress)
    return {name: _scores(name, rows) for name, rows in found.items()}


def gradient_predictor(cutouts: Cutouts) -> Tensor:
    """I, Q and U: the integrated map, polarised by its gradients, see `gradient_polarisation`."""
    qu = gradient_polarisation(cutouts.inputs, cutouts.mask)
    _, share, fine = observed(cutouts.inputs, cutouts.mask)
    total = avg_pool2d(cutouts.inputs.sum(1, keepdim=True), fine) / share
    return torch.cat([total, qu], 1)


def _correlations(made: Tensor, cutouts: Cutouts, bands: Bands, fine: Bands, name: str) -> Tensor:
    """All numbers of a batch side by side, (batch, 13 + 2 band), float64; NaN without I."""
    target, mask = cutouts.target[:, 1:], cutouts.mask
    intensity, made = made[:, :-2], made[:, -2:]
    if made.shape != target.shape:
        raise ShapeError(
            f"expected maps {tuple(target.shape)} of model {name}, got {tuple(made.shape)}"
        )
    made = made * mask.unsqueeze(1)
    both = e_and_b(made).flatten(0, 1), e_and_b(target).flatten(0, 1)

    def by_letter(r: Tensor) -> Tensor:  # (batch 2, band) -> (batch, 2 band)
        return r.unflatten(0, (-1, 2)).flatten(1)

    columns = [
        by_letter(mode_correlation(*both, bands)),
        by_letter(spectrum_correlation(*both, bands)),
        alignment(made, target, mask).unsqueeze(1),
        *_of_intensity(intensity * mask.unsqueeze(1), cutouts.target[:, 0], bands),
        by_letter(spectrum_correlation(*both, fine)),
    ]
    return torch.cat(columns, 1).double()


def _of_intensity(made: Tensor, target: Tensor, bands: Bands) -> tuple[Tensor, Tensor]:
    """Correlations of I (batch, 0 or 1, n, n), (batch, 2) each."""
    if not made.shape[1]:
        none = target.new_full((len(target), 2), torch.nan)
        return none, none
    both = made[:, 0], target
    return mode_correlation(*both, bands), spectrum_correlation(*both, bands)


def _scores(name: str, columns: NDArray[np.float64]) -> PolarisedScores:
    keys = (*COLUMNS, "alignment", *INTENSITY)
    first = len(keys)
    values = dict(zip(keys, columns.T[:first], strict=True))
    known = {key: one for key, one in values.items() if np.isfinite(one).all()}
    return PolarisedScores(name, known, columns[:, first:].reshape(len(columns), 2, -1))
