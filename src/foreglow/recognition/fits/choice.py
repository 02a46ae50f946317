"""Choose among parametric models by their fits: chi-square, AIC, BIC or evidence."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from foreglow.errors import ModelError
from foreglow.recognition.fits.laplace import log_evidence
from foreglow.recognition.fits.optimise import Fit, fit, observed
from foreglow.recognition.fits.patches import Patches, fit_patches, labels
from foreglow.recognition.fits.shared import connected
from foreglow.recognition.fits.skymodel import SkyModel, candidate
from foreglow.sky.bandpass import Bands

Criterion = Literal["chi2", "aic", "bic", "evidence"]
CRITERIA: tuple[Criterion, ...] = ("chi2", "aic", "bic", "evidence")


MODEL = "model"
"""The name of patches in which one model holds, beside those of parameters."""


@dataclass(frozen=True)
class Choice:
    """The fits of some models to the same pixels, and what they say of each other.

    A pixel is fitted where every model could be: elsewhere all is NaN. Where pixels share their
    parameters by patches, each has the evidence, the chi-square and the numbers of data of its
    patch; amplitudes, and chi-square in `fits`, are its own.

    Parameters
    ----------
    models : tuple of str
    fits : tuple of Fit
        Of each model, without priors.
    log_evidence : Tensor, float64, shape (n, n_class)
        Up to a constant a pixel.
    n_data : Tensor, int64, shape (n,)
        Observed data values: bands times two Stokes.
    chi2 : Tensor, shape (n, n_class)
        Of each model.
    dof : Tensor, int64, shape (n, n_class)
        Degrees of freedom of each model.
    """

    models: tuple[str, ...]
    fits: tuple[Fit, ...]
    log_evidence: Tensor
    n_data: Tensor
    chi2: Tensor
    dof: Tensor

    @property
    def fitted(self) -> Tensor:
        """Where every model was fitted, bool, shape (n,)."""
        return torch.isfinite(self.log_evidence).all(1) & torch.isfinite(self.chi2).all(1)

    @property
    def converged(self) -> Tensor:
        """Where the fit of every model converged, bool, shape (n,)."""
        return torch.stack([f.converged for f in self.fits], 1).all(1)

    @property
    def reduced_chi2(self) -> Tensor:
        """Chi-square over degrees of freedom, shape (n, n_class)."""
        return self.chi2 / self.dof

    @property
    def n_parameters(self) -> Tensor:
        """Amplitudes and spectral parameters of each model, int64, shape (n, n_class)."""
        return self.n_data[:, None] - self.dof

    @property
    def aic(self) -> Tensor:
        """Akaike's criterion: chi-square plus two a parameter, shape (n, n_class)."""
        return self.chi2 + 2 * self.n_parameters

    @property
    def bic(self) -> Tensor:
        """Schwarz's criterion: chi-square plus ln(n_data) a parameter, shape (n, n_class)."""
        return self.chi2 + torch.log(self.n_data.double())[:, None] * self.n_parameters

    @property
    def p_value(self) -> Tensor:
        """Probability of a larger chi-square if the model holds, shape (n, n_class)."""
        return torch.special.gammaincc(0.5 * self.dof.double(), 0.5 * self.chi2)

    def log_score(self, criterion: str = "evidence") -> Tensor:
        """Normalised log weights of the models; the largest is the model chosen.

        Parameters
        ----------
        criterion : str
            `evidence`: posterior probability at equal prior odds. `aic`, `bic`: Akaike's and
            Schwarz's weights, exp(-criterion / 2). `chi2`: the paper's, smallest reduced
            chi-square; as a weight exp(-reduced chi-square x dof of the simplest model / 2), the
            likelihood ratio where two models have as many parameters, and no probability.

        Returns
        -------
        Tensor, float64, shape (n, n_class)
            NaN where not fitted.

        Raises
        ------
        ModelError
            If there is no such criterion.

        References
        ----------
        Farsian et al. 2020, section 5 (reduced chi-square).
        """
        if criterion == "evidence":
            score = self.log_evidence
        elif criterion == "aic":
            score = -0.5 * self.aic
        elif criterion == "bic":
            score = -0.5 * self.bic
        elif criterion == "chi2":
            score = -0.5 * self.reduced_chi2 * self.dof.amax(1, keepdim=True)
        else:
            raise ModelError(
                f"expected a criterion among {', '.join(CRITERIA)}, got {criterion!r}."
            )
        return torch.log_softmax(torch.where(self.fitted[:, None], score, torch.nan), 1)

    def probability(self, criterion: str = "evidence") -> Tensor:
        """Weights of the models, shape (n, n_class), with sum 1; see `log_score`."""
        return self.log_score(criterion).exp()

    def best(self, criterion: str = "evidence") -> Tensor:
        """Place of the model chosen, int64, shape (n,); -1 where not fitted."""
        return torch.where(self.fitted, self.log_score(criterion).argmax(1), -1)

    def none_fits(self, level: float = 1e-3) -> Tensor:
        """Where the p-value of the best-fitting model is below `level`, bool, shape (n,)."""
        return self.fitted & (self.p_value.nan_to_num(1.0).amax(1) < level)


def choose(
    models: tuple[str, ...],
    frequency_ghz: Tensor | Bands,
    data: Tensor,
    noise: Tensor,
    curvature: float | None = None,
    patches: Patches | None = None,
) -> Choice:
    """Fit every model to every pixel, or to every patch of pixels.

    Parameters
    ----------
    models : tuple of str
        Names of `MODELS`.
    frequency_ghz : Tensor, shape (n_band,), or Bands
    data : Tensor, shape (n, 2, n_band)
        Q, U [uK_RJ]; NaN or UNSEEN where a band did not observe.
    noise : Tensor, shape (n, n_band) or (n, 3, n_band)
        White, rms of Q and of U alike [uK_RJ]; or the covariance QQ, QU, UU [uK_RJ^2] of each
        band. NaN or infinite where a band did not observe.
    curvature : float, optional
        C of the curved models; by default it is free.
    patches : Tensor, int64, shape (n,), or mapping of str to such, optional
        As `fit_patches` takes them, for all parameters that any model has; and, if need be, as
        "model" patches in which one model holds, whatever parameters they share. Where patches
        hang together, one model holds: by the sum of the evidence of its regions there. By
        default every pixel is by itself.

    Returns
    -------
    Choice
        On the device of `data`.

    Raises
    ------
    ModelError
        If a model does not exist.
    ShapeError
        If the shapes do not agree, an observed rms is not above zero, or an observed covariance is
        not positive definite.
    """
    plain = [candidate(name, curvature) for name in models]
    known = [candidate(name, curvature, priors=True) for name in models]
    if patches is not None:
        return _choose_by_patches(models, plain, known, frequency_ghz, data, noise, patches)
    fits = tuple(fit(model, frequency_ghz, data, noise) for model in plain)
    evidence = [
        log_evidence(model, frequency_ghz, data, noise, f.parameters)
        for model, f in zip(known, fits, strict=True)
    ]
    return Choice(
        models, fits, torch.stack(evidence, 1), 2 * observed(data, noise).sum(1),
        torch.stack([f.chi2 for f in fits], 1), torch.stack([f.dof for f in fits], 1),
    )  # fmt: skip


def _choose_by_patches(
    models: tuple[str, ...],
    plain: list[SkyModel],
    known: list[SkyModel],
    frequency_ghz: Tensor | Bands,
    data: Tensor,
    noise: Tensor,
    patches: Patches,
) -> Choice:
    """Fit every model to the same pixels: those with bands enough for all of them."""
    every = {name for model in plain for name in model.free}
    if isinstance(patches, Mapping) and MODEL in patches:
        every |= {MODEL}
    maps = labels(every, patches, len(data))
    needed = max(len(model.components) for model in plain)
    n_seen = observed(data, noise).sum(1)
    used = (n_seen > needed) & (torch.stack(list(maps.values())) >= 0).all(0)
    found = []
    for model, priors in zip(plain, known, strict=True):
        mine = {name: torch.where(used, maps[name], -1) for name in model.free}
        found.append(fit_patches(model, frequency_ghz, data, noise, mine, evidence=priors))
    # one model where any parameters hang together: in all regions of a model, their sum
    whole = torch.full_like(n_seen, -1)
    if used.any():
        whole[used] = connected(torch.stack([label[used] for label in maps.values()]))

    def everywhere(name: str) -> Tensor:
        columns = []
        for f in found:
            values = getattr(f, name)
            first = torch.nonzero(f.region >= 0).squeeze(1)
            owner = torch.zeros_like(f.dof).scatter_(0, f.region[first], whole[first])
            total = values.new_zeros(int(whole.amax()) + 2).index_add_(0, owner, values)
            total[-1] = torch.nan if values.is_floating_point() else 0  # of pixels not used
            columns.append(total[whole])
        return torch.stack(columns, 1)

    return Choice(
        models, tuple(f.pixels for f in found), everywhere("log_evidence"),
        everywhere("n_data")[:, 0], everywhere("chi2"), everywhere("dof"),
    )  # fmt: skip
