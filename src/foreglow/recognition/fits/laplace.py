"""Evidence of a parametric model in a pixel: amplitudes integrated exactly, spectra by Laplace.

Given the spectral parameters everything is linear and Gaussian, so the integral over amplitudes is
exact. What is left, over beta_s and perhaps C, is done by Laplace's method: the likelihood times
prior at the mode, and the volume of the posterior about it.
"""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreglow.errors import ModelError
from foreglow.recognition.fits.integrand import (
    At,
    Dust,
    Integrand,
    JointIntegrand,
    evaluate,
    integrand_of,
)
from foreglow.recognition.fits.likelihood import Columns
from foreglow.recognition.fits.optimise import Fit, fit, observed
from foreglow.recognition.fits.skymodel import SkyModel
from foreglow.sky.bandpass import Bands

# Gauss-Hermite nodes over what is free of the dust, if that is one parameter, and along each of two
_NODES = (7, 5)
_WIDEN = 1.2  # of their Gaussian, beyond the error of the fit
_BATCH = 8192  # pixels in flight
_MAX_STEPS = 60
# half of chi-square a band, about 1 of a model that holds, above which the mode is sought once more
# from the best fit: a wrong model of a bright pixel has many peaks
_POOR = 2.0
_TOLERANCE = 1e-6  # a step that promises less of half the chi-square ends the climb


def log_evidence(
    model: SkyModel, frequency_ghz: Tensor | Bands, data: Tensor, noise: Tensor
) -> Tensor:
    """Log evidence of a model in every pixel.

    The priors are those of the free parameters of `model`; flat for the amplitudes of CMB, dust
    and synchrotron, which every model has, so that their constant cancels; for AME a Gaussian
    about `integrand.AME_OVER_DUST` times the dust of the pixel, in proportion to the polarised
    fraction of the model; and for a moment of the dust one about 0, as wide as the model says.

    Parameters
    ----------
    model : SkyModel
        A Gaussian prior on all that is free.
    frequency_ghz : Tensor, shape (n_band,), or Bands
    data : Tensor, shape (n, 2, n_band)
        Q, U [uK_RJ]; NaN or UNSEEN where a band did not observe.
    noise : Tensor, shape (n, n_band) or (n, 3, n_band)
        As `fit` takes it: the rms, or the covariances of Q and U.

    Returns
    -------
    Tensor, float64, shape (n,)
        Up to a constant a pixel, the same for all models; to some hundredths where the prior
        rules, better where the data do. NaN where fewer than three bands observed and, if the dust
        is free, where `fit` finds too few.

    Raises
    ------
    ModelError
        If a free parameter has no Gaussian prior.
    """
    require_priors(model)
    bands = Bands.of(frequency_ghz).to(data.device)
    if "dust" not in model.bent:
        return _evidence(model, bands, data, noise)
    found = fit(model, bands, data, noise)
    first = model.owner.index(1)  # parameter of the dust, whose are the last ones
    free, best = list(model.free)[first:], found.parameters[:, :first]
    given = replace(model, **{name: model.free[name].start for name in free})
    nodes, log_weights = _dust_nodes(found, first)
    parts = [
        _evidence(given, bands, data, noise, dict(zip(free, node, strict=True)), best)
        for node in nodes
    ]
    return (torch.stack(parts) + log_weights).logsumexp(0)


def _dust_nodes(found: Fit, first: int) -> tuple[Tensor, Tensor]:
    """Parameters of the dust on their posterior (node, param, n), and log weights (node, n).

    The nodes of a Gaussian along its principal axes, in units of the priors.
    """
    priors = [free.prior for free in found.model.free.values()][first:]
    mean, rms = found.parameters.new_tensor(priors).unbind(1)
    covariance = found.covariance[:, first:, first:] / (rms[:, None] * rms)
    variance, axes = torch.linalg.eigh(covariance.nan_to_num(1.0))
    width = (_WIDEN * variance.sqrt()).clamp_max(1.0)  # (n, param)
    one, weight = np.polynomial.hermite_e.hermegauss(_NODES[len(priors) - 1])
    one, weight = (torch.from_numpy(v).to(width) for v in (one, weight / weight.sum()))
    x = torch.cartesian_prod(*[one] * len(priors)).reshape(-1, 1, len(priors))  # (node, 1, param)
    shift = ((x * width)[:, :, None] * axes).sum(-1)  # (node, n, param)
    nodes = found.parameters[:, first:] + rms * shift
    prior = -0.5 * ((nodes - mean) / rms).square().sum(-1)
    proposal = -0.5 * x.square().sum(-1) - torch.log(width).sum(-1)
    log_weight = torch.cartesian_prod(*[torch.log(weight)] * len(priors)).reshape(len(x), -1)
    return nodes.mT, prior - proposal + log_weight.sum(1)[:, None]


def _evidence(
    model: SkyModel,
    bands: Bands,
    data: Tensor,
    noise: Tensor,
    dust: Dust | None = None,
    best: Tensor | None = None,
) -> Tensor:
    """The same for dust fixed at that of the model, or at values of the pixels.

    `best` (n, n_param) are parameters near the lowest minimum of chi-square, if known.
    """
    result = torch.full((len(data),), torch.nan, dtype=torch.float64, device=data.device)
    for start in range(0, len(data), _BATCH):
        part = slice(start, start + _BATCH)
        n_seen = observed(data[part], noise[part]).sum(1)
        seen = torch.nonzero(n_seen >= 3).squeeze(1)
        if len(seen) == 0:
            continue
        mine = {name: values[part][seen] for name, values in (dust or {}).items()}
        pixels = integrand_of(model, bands, data[part], noise[part], seen, mine)
        mode = _climb(model, bands, pixels)
        poor = torch.nonzero(mode.cost > _POOR * n_seen[seen]).squeeze(1)
        if len(poor):
            here = start + seen[poor]
            low = (
                fit(model, bands, data[here], noise[here]).parameters
                if best is None
                else best[here]
            )
            again = _climb(model, bands, take(pixels, poor), low)
            higher = again.cost < mode.cost[poor]
            _put(mode, poor[higher], take(again, higher))
        result[start + seen] = _integral(mode)
    return result


def require_priors(model: SkyModel) -> None:
    """Check that all that is free has a Gaussian prior."""
    if flat := [name for name, free in model.free.items() if free.prior is None]:
        raise ModelError(
            f"expected Gaussian priors of all that is free, but those of {', '.join(flat)} are "
            "flat; take candidate(name, priors=True)."
        )


def _integral(mode: At) -> Tensor:
    """(n,) log of the integral over the spectral parameters, without powers of 2 pi."""
    root = torch.linalg.cholesky_ex(_precision(mode)).L  # a pixel may fail, the sky goes on
    return mode.log_value - torch.log(torch.diagonal(root, dim1=1, dim2=2)).sum(1)


def _precision(point: At) -> Tensor:
    """The exact Hessian where it is positive; else, far from the mode, Gauss and Newton's."""
    positive = torch.linalg.cholesky_ex(point.hessian).info == 0
    return torch.where(positive[:, None, None], point.hessian, point.fisher)


def _climb(
    model: SkyModel,
    bands: Bands,
    pixels: Integrand | JointIntegrand,
    start: Tensor | None = None,
) -> At:
    """A mode of likelihood times prior, by Levenberg-Marquardt from the mean of the prior.

    Or from a start (n, n_param).
    """
    n = len(pixels.log_volume)
    if start is None:
        mean = pixels.log_volume.new_tensor([f.prior[0] for f in model.free.values() if f.prior])
        start = mean.repeat(n, 1)
    point = evaluate(model, bands, pixels, start)
    live = torch.arange(n, device=start.device)
    found = take(point, live)
    damping = torch.full_like(point.cost, 1e-3)
    for _ in range(_MAX_STEPS):
        precision = _precision(point)
        scale = torch.diagonal(precision, dim1=1, dim2=2)
        damped = precision + torch.diag_embed(damping[:, None] * scale)
        step = torch.linalg.solve_ex(damped, point.fall).result
        keep = torch.nonzero((step * point.fall).sum(1) > _TOLERANCE).squeeze(1)
        if len(keep) < 0.75 * len(live):  # a few finished pixels cost less than a copy
            _put(found, live, point)
            pixels, point = take(pixels, keep), take(point, keep)
            live, damping, step = live[keep], damping[keep], step[keep]
        if len(live) == 0 or len(keep) == 0:
            break
        trial = evaluate(model, bands, pixels, point.parameters + step)
        better = trial.cost <= point.cost
        _put(point, torch.nonzero(better).squeeze(1), take(trial, better))
        damping = torch.where(better, damping / 10, damping * 10).clamp(1e-9, 1e9)
    _put(found, live, point)
    return found


def take(values: Any, index: Tensor) -> Any:
    """The same dataclass of tensors for some pixels."""
    if isinstance(values, Columns):
        return values.take(index)
    return type(values)(*(getattr(values, field.name)[index] for field in fields(values)))


def _put(into: At, index: Tensor, point: At) -> None:
    for field in fields(At):
        getattr(into, field.name)[index] = getattr(point, field.name)
