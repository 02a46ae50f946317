"""Evidence of a parametric model in a pixel: amplitudes integrated exactly, spectra by Laplace.

Given the spectral parameters everything is linear and Gaussian, so the integral over amplitudes is
exact. What is left, over beta_s and perhaps C, is done by Laplace's method: the likelihood times
prior at the mode, and the volume of the posterior about it.
"""

import math
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from foreglow.errors import ModelError
from foreglow.recognition.fits.optimise import Fit, fit, observed
from foreglow.recognition.fits.skymodel import SkyModel, dust_spectrum
from foreglow.sky import seds
from foreglow.sky.bandpass import Bands

# Q, U of the AME at 30 GHz over those of dust at 353 GHz [uK_RJ each], mean and rms of each Stokes
# over the dust's modulus: 2% polarised AME of the mock Galaxy has a median ratio of 0.13 (PySM's
# a2 over d1: 0.17), and 0.09 to 0.34 hold two thirds of the pixels
AME_OVER_DUST = (0.15, 0.1)

_NODES = 7  # Gauss-Hermite nodes over beta_d, where it is free
_WIDEN = 1.2  # of their Gaussian, beyond the error of the fit
_BATCH = 8192  # pixels in flight
_MAX_STEPS = 60
# half of chi-square a band, about 1 of a model that holds, above which the mode is sought once more
# from the best fit: a wrong model of a bright pixel has many peaks
_POOR = 2.0
_TOLERANCE = 1e-6  # a step that promises less of half the chi-square ends the climb


def log_evidence(
    model: SkyModel, frequency_ghz: Tensor | Bands, data: Tensor, sigma: Tensor
) -> Tensor:
    """Log evidence of a model in every pixel.

    The priors are those of the free parameters of `model`; flat for the amplitudes of CMB, dust
    and synchrotron, which every model has, so that their constant cancels; and for AME a Gaussian
    about `AME_OVER_DUST` times the dust of the pixel.

    Parameters
    ----------
    model : SkyModel
        Dust fixed, or beta_d free; a Gaussian prior on all that is free.
    frequency_ghz : Tensor, shape (n_band,), or Bands
    data : Tensor, shape (n, 2, n_band)
        Q, U [uK_RJ]; NaN or UNSEEN where a band did not observe.
    sigma : Tensor, shape (n, n_band)
        Noise rms of Q and of U [uK_RJ], above zero; NaN or infinite where a band did not observe.

    Returns
    -------
    Tensor, float64, shape (n,)
        Up to a constant a pixel, the same for all models; to some hundredths where the prior
        rules, better where the data do. NaN where fewer than three bands observed.

    Raises
    ------
    ModelError
        If a free parameter has no Gaussian prior, or the dust's temperature is free.
    """
    _validate(model)
    bands = Bands.of(frequency_ghz).to(data.device)
    if "beta_d" not in model.free:
        return _evidence(model, bands, data, sigma)
    found = fit(model, bands, data, sigma)
    nodes, log_weights = _beta_d_nodes(found)
    given, best = replace(model, beta_d=seds.DUST_BETA), found.parameters[:, :-1]
    parts = [_evidence(given, bands, data, sigma, beta_d, best) for beta_d in nodes]
    return (torch.stack(parts) + log_weights).logsumexp(0)


def _beta_d_nodes(found: Fit) -> tuple[Tensor, Tensor]:
    """Indices of the dust on its posterior (node, n), and log weights of an integral over them."""
    place = list(found.model.free).index("beta_d")
    mean, rms = found.model.free["beta_d"].prior or (seds.DUST_BETA, torch.inf)
    width = (_WIDEN * found.covariance[:, place, place].sqrt()).clamp_max(rms)
    x, w = (torch.from_numpy(v).to(width) for v in np.polynomial.hermite_e.hermegauss(_NODES))
    nodes = found.parameters[:, place] + width * x[:, None]
    prior = -0.5 * ((nodes - mean) / rms).square() - math.log(rms)
    proposal = -0.5 * x.square()[:, None] - torch.log(width)
    return nodes, prior - proposal + torch.log(w / w.sum())[:, None]


def _evidence(
    model: SkyModel,
    bands: Bands,
    data: Tensor,
    sigma: Tensor,
    beta_d: Tensor | None = None,
    best: Tensor | None = None,
) -> Tensor:
    """The same for dust fixed at that of the model, or at indices of the pixels (n,).

    `best` (n, n_param) are parameters near the lowest minimum of chi-square, if known.
    """
    result = torch.full((len(data),), torch.nan, dtype=torch.float64, device=data.device)
    for start in range(0, len(data), _BATCH):
        part = slice(start, start + _BATCH)
        weight, whitened = _whiten(data[part], sigma[part])
        seen = torch.nonzero((weight > 0).sum(1) >= 3).squeeze(1)
        if len(seen) == 0:
            continue
        index = None if beta_d is None else beta_d[part][seen]
        pixels = _reduce(model, bands, weight[seen], whitened[seen], index)
        mode = _climb(model, bands, pixels)
        poor = torch.nonzero(mode.cost > _POOR * (pixels.weight > 0).sum(1)).squeeze(1)
        if len(poor):
            here = start + seen[poor]
            low = (
                fit(model, bands, data[here], sigma[here]).parameters
                if best is None
                else best[here]
            )
            again = _climb(model, bands, _take(pixels, poor), low)
            higher = again.cost < mode.cost[poor]
            _put(mode, poor[higher], _take(again, higher))
        result[start + seen] = _integral(mode)
    return result


def _validate(model: SkyModel) -> None:
    flat = [name for name, free in model.free.items() if free.prior is None]
    if flat or "dust_temperature" in model.free:
        raise ModelError(
            "expected Gaussian priors and a fixed temperature of the dust, but "
            f"{'that is free' if not flat else 'flat are ' + ', '.join(flat)}; "
            "take candidate(name, priors=True)."
        )


def _whiten(data: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """1 / sigma (n, n_band) and data / sigma (n, n_band, 2); both 0 where not observed."""
    seen = observed(data, sigma)
    data, sigma = data.double(), sigma.double()
    weight = torch.where(seen, 1 / sigma, 0.0)
    return weight, torch.where(seen[:, None], data, 0.0).mT * weight[..., None]


@dataclass(frozen=True)
class _Pixels:
    """Whitened data with all amplitudes but synchrotron's integrated out.

    A last row beside the bands holds the prior of the AME as if it were a measurement.

    weight (n, n_row); log_ratio (n, n_node + 1), of each node of a band, and 0 for the last row;
    basis (n, n_row, n_fixed), orthonormal; data (n, n_row, 2),
    outside it; log_volume (n,): of the amplitudes integrated out.
    """

    weight: Tensor
    log_ratio: Tensor
    basis: Tensor
    data: Tensor
    log_volume: Tensor


def _reduce(
    model: SkyModel, bands: Bands, weight: Tensor, whitened: Tensor, beta_d: Tensor | None
) -> _Pixels:
    frequency = bands.node_ghz
    dust = dust_spectrum(model, frequency, None if beta_d is None else beta_d[:, None])
    columns = torch.stack([seds.cmb(frequency).expand_as(dust), dust], -1)  # ([n,] node, 2)
    columns = bands.average(columns, dim=-2)
    fixed = weight[..., None] * columns  # (n, band, 2)
    n = len(weight)
    log_volume = torch.zeros_like(weight[:, 0])
    if model.ame:
        rms = AME_OVER_DUST[1] * _dust_modulus(bands, weight, whitened, fixed)
        ame = weight * bands.average(seds.spinning_dust(frequency))
        prior = torch.stack([torch.zeros_like(rms), -AME_OVER_DUST[0] / rms, 1 / rms], -1)
        fixed = torch.cat([torch.cat([fixed, ame[..., None]], 2), prior[:, None]], 1)
        log_volume = -2 * torch.log(rms)
    else:
        fixed = torch.cat([fixed, fixed.new_zeros(n, 1, 2)], 1)
    basis, length = _orthonormal(fixed)
    log_volume = log_volume - 2 * torch.log(length).sum(1)  # half the determinant, both Stokes
    data = torch.cat([whitened, whitened.new_zeros(n, 1, 2)], 1)
    log_ratio = torch.log(frequency / seds.SYNCHROTRON_PIVOT_GHZ)
    return _Pixels(
        torch.cat([weight, weight.new_zeros(n, 1)], 1),
        torch.cat([log_ratio, log_ratio.new_zeros(1)]).expand(n, len(log_ratio) + 1),
        basis,
        _outside(basis, data),
        log_volume,
    )


def _dust_modulus(bands: Bands, weight: Tensor, whitened: Tensor, fixed: Tensor) -> Tensor:
    """Polarised dust of a pixel at 353 GHz (n,), at least its own error [uK_RJ]."""
    synchrotron = weight * bands.average(seds.synchrotron(bands.node_ghz, -3.0))
    basis, _ = _orthonormal(torch.cat([fixed[..., :1], synchrotron[..., None]], 2))
    dust = _outside(basis, fixed[..., 1:])
    power = dust.square().sum((1, 2))
    amplitude = (dust.mT @ whitened).squeeze(1) / power[:, None]  # (n, 2)
    return torch.maximum(torch.linalg.vector_norm(amplitude, dim=1), power.rsqrt())


def _orthonormal(columns: Tensor) -> tuple[Tensor, Tensor]:
    """Gram and Schmidt: an orthonormal basis, and the length of each column outside the former."""
    basis = columns[..., :0]
    lengths = []
    for k in range(columns.shape[2]):
        column = columns[..., k : k + 1]
        for _ in range(2):  # twice, for what rounding leaves
            column = _outside(basis, column)
        lengths.append(torch.linalg.vector_norm(column, dim=1))
        basis = torch.cat([basis, column / lengths[-1][:, None]], 2)
    return basis, torch.cat(lengths, 1)


def _outside(basis: Tensor, columns: Tensor) -> Tensor:
    """What is left of columns (n, row, k) outside the span of an orthonormal basis."""
    return torch.baddbmm(columns, basis, basis.mT @ columns, alpha=-1)


@dataclass(frozen=True)
class _Point:
    """The integrand at a point of the spectral parameters.

    log_value (n,): likelihood, amplitudes integrated, times prior. cost (n,): half of chi-square
    and priors; fall (n, p), its gradient with the sign turned; fisher, hessian (n, p, p).
    """

    parameters: Tensor
    log_value: Tensor
    cost: Tensor
    fall: Tensor
    fisher: Tensor
    hessian: Tensor


def _evaluate(model: SkyModel, bands: Bands, pixels: _Pixels, parameters: Tensor) -> _Point:
    power = {"beta_s": 1, "curvature": 2}  # of the log of frequency that a parameter multiplies
    place = [power[name] for name in model.free]
    ratio = pixels.log_ratio
    bent = torch.full_like(ratio, model.fixed.get("curvature", 0.0)) * ratio**2
    for k, p in enumerate(place):
        bent = bent + parameters[:, k : k + 1] * ratio**p
    moments = _moments(bands, pixels.weight, torch.exp(bent), ratio, 2 * place[-1])
    columns = _outside(pixels.basis, moments[..., [0, *place]])
    gram = columns.mT @ columns
    length, aside = gram[:, 0, 0], gram[:, 1:, :1] / gram[:, :1, :1]  # aside (n, p, 1)
    amplitude = (columns[..., :1].mT @ pixels.data) / length[:, None, None]  # (n, 1, 2)
    residual = torch.baddbmm(pixels.data, columns[..., :1], amplitude, alpha=-1)
    along = moments.mT @ residual  # (n, moment, 2)
    slope = (along @ amplitude.mT).squeeze(2)  # (n, moment)
    fall = slope[:, place]
    fisher = amplitude.square().sum((1, 2))[:, None, None] * (
        gram[:, 1:, 1:] - aside @ gram[:, :1, 1:]
    )
    mixed = aside * slope[:, None, place]
    along = along[:, place]
    second = torch.stack([slope[:, [p + q for q in place]] for p in place], 1)
    hessian = fisher + mixed + mixed.mT - (along @ along.mT) / length[:, None, None] - second
    mean, rms = torch.tensor([f.prior for f in model.free.values()]).to(parameters).unbind(1)
    pull = (mean - parameters) / rms
    cost = 0.5 * (residual.square().sum((1, 2)) + pull.square().sum(1))
    log_value = -cost - torch.log(length) - torch.log(rms).sum() + pixels.log_volume
    narrow = torch.diag(rms**-2)
    return _Point(parameters, log_value, cost, fall + pull / rms, fisher + narrow, hessian + narrow)


def _moments(bands: Bands, weight: Tensor, spectrum: Tensor, ratio: Tensor, order: int) -> Tensor:
    """Spectra times powers of the log of frequency, whitened, (n, n_row, order + 1)."""
    if bands.weight is None:
        spectrum = weight * spectrum
        return torch.stack([spectrum * ratio**k for k in range(order + 1)], -1)
    powers = torch.stack([spectrum * ratio**k for k in range(order + 1)], -1)
    seen = bands.average(powers[:, :-1], dim=1)  # the last row is no band, and weighs nothing
    return weight[..., None] * torch.cat([seen, powers[:, -1:]], 1)


def _integral(mode: _Point) -> Tensor:
    """(n,) log of the integral over the spectral parameters, without powers of 2 pi."""
    root = torch.linalg.cholesky_ex(_precision(mode)).L  # a pixel may fail, the sky goes on
    return mode.log_value - torch.log(torch.diagonal(root, dim1=1, dim2=2)).sum(1)


def _precision(point: _Point) -> Tensor:
    """The exact Hessian where it is positive; else, far from the mode, Gauss and Newton's."""
    positive = torch.linalg.cholesky_ex(point.hessian).info == 0
    return torch.where(positive[:, None, None], point.hessian, point.fisher)


def _climb(model: SkyModel, bands: Bands, pixels: _Pixels, start: Tensor | None = None) -> _Point:
    """A mode of likelihood times prior, by Levenberg-Marquardt from the mean of the prior.

    Or from a start (n, n_param).
    """
    if start is None:
        mean = pixels.weight.new_tensor([f.prior[0] for f in model.free.values() if f.prior])
        start = mean.repeat(len(pixels.weight), 1)
    point = _evaluate(model, bands, pixels, start)
    live = torch.arange(len(pixels.weight), device=start.device)
    found = _take(point, live)
    damping = torch.full_like(point.cost, 1e-3)
    for _ in range(_MAX_STEPS):
        precision = _precision(point)
        scale = torch.diagonal(precision, dim1=1, dim2=2)
        damped = precision + torch.diag_embed(damping[:, None] * scale)
        step = torch.linalg.solve_ex(damped, point.fall).result
        keep = torch.nonzero((step * point.fall).sum(1) > _TOLERANCE).squeeze(1)
        if len(keep) < 0.75 * len(live):  # a few finished pixels cost less than a copy
            _put(found, live, point)
            pixels, point = _take(pixels, keep), _take(point, keep)
            live, damping, step = live[keep], damping[keep], step[keep]
        if len(live) == 0 or len(keep) == 0:
            break
        trial = _evaluate(model, bands, pixels, point.parameters + step)
        better = trial.cost <= point.cost
        _put(point, torch.nonzero(better).squeeze(1), _take(trial, better))
        damping = torch.where(better, damping / 10, damping * 10).clamp(1e-9, 1e9)
    _put(found, live, point)
    return found


def _take(values, index: Tensor):
    """The same dataclass of tensors for some pixels."""
    return type(values)(*(getattr(values, field.name)[index] for field in fields(values)))


def _put(into: _Point, index: Tensor, point: _Point) -> None:
    for field in fields(_Point):
        getattr(into, field.name)[index] = getattr(point, field.name)
