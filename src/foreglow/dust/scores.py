"""How well predictions of dust correlate with it, cutout by cutout."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreglow.dust.baselines import integrated
from foreglow.dust.cutouts import Cutouts, CutoutSampler
from foreglow.dust.model import DustModel
from foreglow.dust.spectra import (
    Bands,
    fundamental_bands,
    mode_correlation,
    paper_bands,
    spectrum_correlation,
)
from foreglow.errors import ShapeError
from foreglow.maps.gnomonic import Pointings

# (batch, n, n) of cutouts, any unit; the mask is applied to it afterwards
Predictor = Callable[[Cutouts], Tensor]

BANDS = (paper_bands, fundamental_bands)
"""Of r50 and r150, and of the curves."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Correlation of one model's predictions with the dust, cutout by cutout.

    Cutouts overlap, so neighbours are not independent: a standard error of the mean is the
    scatter over the square root of their number, as the paper's bands are, and too small by what
    the overlap takes away.

    Attributes
    ----------
    name : str
    r50, r150 : ndarray, shape (n,)
        The paper's: the mean over single Fourier modes, `mode_correlation`.
    spectrum_r50, spectrum_r150 : ndarray, shape (n,)
        Eq. 2.1 as written: the ratio of spectra, `spectrum_correlation`.
    curve : ndarray, shape (n, band)
        By mode, in bands of width ell_F, `fundamental_bands`.
    """

    name: str
    r50: NDArray[np.float64]
    r150: NDArray[np.float64]
    spectrum_r50: NDArray[np.float64]
    spectrum_r150: NDArray[np.float64]
    curve: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.r50)

    def record(self, reference: "Scores") -> dict[str, Any]:
        """A flat record for metrics.json.

        Parameters
        ----------
        reference : Scores
            Of the same cutouts, in the same order: the integrated model.

        Returns
        -------
        dict
            `model`, `n`; `r50`, `r150`, `spectrum_r50` and `spectrum_r150`, means over cutouts,
            each with `_sem`; `wins50`, `wins150`, `spectrum_wins50` and `spectrum_wins150`: the
            fraction of cutouts where this model is above the reference, each with `_sem`, the
            binomial error. Wins are absent where the reference is this model.

        Raises
        ------
        ShapeError
            If the reference is of another number of cutouts.
        """
        if len(reference) != len(self):
            raise ShapeError(
                f"expected scores of the same cutouts, got {len(self)} of {self.name} and "
                f"{len(reference)} of {reference.name}; score both in one call"
            )
        record: dict[str, Any] = {"model": self.name, "n": len(self)}
        for kind in ("", "spectrum_"):
            for scale in ("50", "150"):
                mine = getattr(self, f"{kind}r{scale}")
                record[f"{kind}r{scale}"] = float(mine.mean())
                record[f"{kind}r{scale}_sem"] = standard_error(mine)
                if reference is not self:
                    wins = float((mine > getattr(reference, f"{kind}r{scale}")).mean())
                    record[f"{kind}wins{scale}"] = wins
                    record[f"{kind}wins{scale}_sem"] = math.sqrt(wins * (1 - wins) / len(self))
        return record


def score(
    predictors: Mapping[str, Predictor],
    sampler: CutoutSampler,
    pointings: Pointings,
    batch: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Scores]:
    """Correlate the predictions of several models with the dust, in one pass over the cutouts.

    Parameters
    ----------
    predictors : mapping of name to Predictor
    sampler : CutoutSampler
    pointings : Pointings
        See `CutoutSampler.fixed_pointings`.
    batch : int
        Cutouts at a time.
    progress : callable, optional
        Called with the cutouts done and the cutouts in all.

    Returns
    -------
    dict of name to Scores

    Raises
    ------
    ShapeError
        If a predictor gives other maps than (batch, n, n).
    """
    bands, fine = (b(sampler.grid).to(sampler.sky.inputs.device) for b in BANDS)

    def correlate(made: Tensor, cutouts: Cutouts, name: str) -> Tensor:
        return _correlations(made, cutouts, bands, fine, name)

    found = by_cutout(predictors, sampler, pointings, correlate, batch, progress)
    return {name: _scores(name, rows) for name, rows in found.items()}


def by_cutout(
    predictors: Mapping[str, Predictor],
    sampler: CutoutSampler,
    pointings: Pointings,
    correlate: Callable[[Tensor, Cutouts, str], Tensor],
    batch: int,
    progress: Callable[[int, int], None] | None,
) -> dict[str, NDArray[np.float64]]:
    """Numbers of each cutout, side by side, for the predictions of several models, in one pass.

    Parameters
    ----------
    predictors, sampler, pointings, batch, progress
        As for `score`.
    correlate : callable
        Gives (batch, column) of what is predicted, the cutouts and the name of the model.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in predictors}
    done = 0
    with torch.inference_mode():
        for cutouts in sampler.batches(pointings, batch):
            for name, predict in predictors.items():
                found[name].append(correlate(predict(cutouts), cutouts, name))
            done += len(cutouts)
            if progress is not None:
                progress(done, len(pointings))
    return {name: torch.cat(rows).cpu().numpy() for name, rows in found.items()}


def model_predictor(model: DustModel) -> Predictor:
    """A trained model as what `score` asks."""
    return lambda cutouts: model(cutouts.inputs, cutouts.mask)


def integrated_predictor(cutouts: Cutouts) -> Tensor:
    """The integrated model of cutouts."""
    return integrated(cutouts.inputs)


def _correlations(
    predicted: Tensor, cutouts: Cutouts, bands: Bands, fine: Bands, name: str
) -> Tensor:
    """All correlations of a batch side by side, (batch, 4 + band), float64."""
    target = cutouts.target
    if predicted.shape != target.shape:
        raise ShapeError(
            f"expected maps {tuple(target.shape)} of model {name}, got {tuple(predicted.shape)}"
        )
    masked = predicted * cutouts.mask
    columns = [
        mode_correlation(masked, target, bands),
        spectrum_correlation(masked, target, bands),
        mode_correlation(masked, target, fine),
    ]
    return torch.cat(columns, 1).double()


def _scores(name: str, columns: NDArray[np.float64]) -> Scores:
    r50, r150, spectrum_r50, spectrum_r150 = columns[:, :4].T
    return Scores(name, r50, r150, spectrum_r50, spectrum_r150, columns[:, 4:])


def standard_error(values: NDArray[np.float64]) -> float | None:
    """Of the mean; None for a single value."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
