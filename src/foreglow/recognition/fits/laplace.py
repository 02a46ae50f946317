"""Evidence of a parametric model in a pixel: amplitudes integrated exactly, spectra by Laplace.

Given the spectral parameters everything is linear and Gaussian, so the integral over amplitudes is
exact. What is left, over beta_s and perhaps C, is done by Laplace's method: the likelihood times
prior at the mode, and the volume of the posterior about it.
"""

from dataclasses import replace
from math import log

import numpy as np
import torch
from torch import Tensor

from foreglow.compute.device import each_on_a_thread
from foreglow.errors import ModelError
from foreglow.recognition.fits.descent import damped_step
from foreglow.recognition.fits.integrand import AnyIntegrand, Dust, integrands_of
from foreglow.recognition.fits.joint import AnyWhitened
from foreglow.recognition.fits.likelihood import Point
from foreglow.recognition.fits.matrices import log_determinant
from foreglow.recognition.fits.optimise import Fit, fit, in_flight, pieces, whiten
from foreglow.recognition.fits.skymodel import SkyModel
from foreglow.sky.bandpass import Bands

# Gauss-Hermite nodes over what is free of the dust, if that is one parameter, and along each of two
_NODES = (7, 5)
_WIDEN = 1.2  # of their Gaussian, beyond the error of the fit
_MAX_STEPS = 60
# half of chi-square a band, about 1 of a model that holds, above which the mode is sought once more
# from the best fit: a wrong model of a bright pixel has many peaks
_POOR = 2.0
# rms of the priors from their means beyond which the best fit without them is no such start
_FAR = 10.0
_TOLERANCE = 1e-8  # a step that promises less of chi-square ends the climb


def log_evidence(
    model: SkyModel,
    frequency_ghz: Tensor | Bands,
    data: Tensor,
    noise: Tensor,
    best: Tensor | None = None,
) -> Tensor:
    """Log evidence of a model in every pixel.

    The priors are those of the free parameters of `model`; flat for the amplitudes of CMB, dust
    and synchrotron, which every model has, so that their constant cancels; for AME three Gaussians
    about shares of the dust of the pixel (`integrand.AME_OVER_DUST`), in proportion to the
    polarised fraction of the model; and for a moment of the dust one about 0, as wide as the model
    says.

    Parameters
    ----------
    model : SkyModel
        A Gaussian prior on all that is free.
    frequency_ghz : Tensor, shape (n_band,), or Bands
    data : Tensor, shape (n, 2, n_band)
        Q, U [uK_RJ]; NaN or UNSEEN where a band did not observe.
    noise : Tensor, shape (n, n_band) or (n, 3, n_band)
        As `fit` takes it: the rms, or the covariances of Q and U.
    best : Tensor, shape (n, n_param), optional
        Parameters at the lowest minimum of chi-square, if known; else they are sought where needed.

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
        return _evidence(model, bands, data, noise, best)
    found = fit(model, bands, data, noise)
    first = model.owner.index(1)  # parameter of the dust, whose are the last ones
    free, best = list(model.free)[first:], found.parameters[:, :first]
    given = replace(model, **{name: model.free[name].start for name in free})
    nodes, log_weights = _dust_nodes(found, first)
    parts = [
        _evidence(given, bands, data, noise, best, dict(zip(free, node, strict=True)))
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
    best: Tensor | None,
    dust: Dust | None = None,
) -> Tensor:
    """The same for dust fixed at that of the model, or at values of the pixels."""
    result = torch.full((len(data),), torch.nan, dtype=torch.float64, device=data.device)

    def work(part: slice) -> None:
        whitened = whiten(data[part], noise[part])
        seen = torch.nonzero(whitened.n_seen >= 3).squeeze(1)
        if len(seen) == 0:
            return
        mine = {name: values[part][seen] for name, values in (dust or {}).items()}
        whitened, index = whitened.at(seen), part.start + seen
        terms = integrands_of(model, bands, whitened, mine)
        parts = [_integral(model, bands, term, mode_of(term, whitened, index)) for term in terms]
        result[index] = torch.stack(parts).logsumexp(0)

    def mode_of(pixels: AnyIntegrand, whitened: AnyWhitened, index: Tensor) -> Point:
        mode = _climb(model, bands, pixels)
        half = 0.5 * (pixels.chi2 + mode.cost)
        poor = torch.nonzero(half > _POOR * whitened.n_seen).squeeze(1)
        if len(poor):
            here = index[poor]
            low = mode.parameters[:, poor].T.clone() if best is None else best[here]
            far = _pull(model, low) > _FAR**2 if best is not None else torch.ones_like(here).bool()
            far = torch.nonzero(far).squeeze(1)
            if len(far):
                low[far] = fit(model, bands, data[here[far]], noise[here[far]]).parameters
            again = _climb(model, bands, pixels.take(poor), low.T.contiguous())
            higher = torch.nonzero(again.cost < mode.cost[poor]).squeeze(1)
            mode.put(poor[higher], again.take(higher))
        return mode

    each_on_a_thread(work, pieces(len(data), in_flight(noise), data.device), data.device)
    return result


def require_priors(model: SkyModel) -> None:
    """Check that all that is free has a Gaussian prior."""
    if flat := [name for name, free in model.free.items() if free.prior is None]:
        raise ModelError(
            f"expected Gaussian priors of all that is free, but those of {', '.join(flat)} are "
            "flat; take candidate(name, priors=True)."
        )


def _pull(model: SkyModel, parameters: Tensor) -> Tensor:
    """Squares of the way from the means of the priors, in their rms, of parameters (n, n_param)."""
    mean, rms = parameters.new_tensor([f.prior for f in model.free.values()]).unbind(1)
    return ((parameters - mean) / rms).square().sum(1)


def _integral(model: SkyModel, bands: Bands, pixels: AnyIntegrand, mode: Point) -> Tensor:
    """(n,) log of the integral over the spectral parameters, without powers of 2 pi."""
    rms = [f.prior[1] for f in model.free.values() if f.prior]
    value = pixels.log_value(model, bands, mode) - sum(map(log, rms))
    exact, rough = log_determinant(mode.hessian), log_determinant(mode.fisher)
    return value - 0.5 * torch.where(exact.isnan(), rough, exact)  # rough: far from the mode


def _climb(
    model: SkyModel, bands: Bands, pixels: AnyIntegrand, start: Tensor | None = None
) -> Point:
    """A mode of likelihood times prior, by Levenberg-Marquardt from the mean of the prior.

    Or from a start (n_param, n). Within the bounds, for a million times the noise drives a model
    that does not hold to where spectra overflow.
    """
    n, free = len(pixels.log_volume), model.free.values()
    low, high = pixels.log_volume.new_tensor([[f.low for f in free], [f.high for f in free]])[
        ..., None
    ]
    if start is None:
        mean = pixels.log_volume.new_tensor([f.prior[0] for f in free if f.prior])
        start = mean[:, None].expand(-1, n)
    point = pixels.linearise(model, bands, start)
    found, live = point.each(torch.clone), torch.arange(n, device=start.device)
    damping = torch.full_like(point.cost, 1e-3)
    for _ in range(_MAX_STEPS):
        step, promise = damped_step(point, damping, low, high)
        keep = torch.nonzero(promise > _TOLERANCE).squeeze(1)
        if len(keep) < 0.75 * len(live):  # a few finished pixels cost less than a copy
            found.put(live, point)
            pixels, point = pixels.take(keep), point.take(keep)
            live, damping, step = live[keep], damping[keep], step[:, keep]
        if len(keep) == 0:
            return found
        aim = torch.clamp(point.parameters + step, low, high)
        trial = pixels.linearise(model, bands, aim)
        better = trial.no_higher(point)
        point = trial.where(better, point)
        damping = torch.where(better, damping / 10, damping * 10).clamp_(1e-9, 1e9)
    found.put(live, point)
    return found
