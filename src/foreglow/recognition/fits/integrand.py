"""The integrand of the evidence: amplitudes integrated exactly, at given spectral parameters.

Beware: here the pixel is the first axis, but where the noise of Q and U differs (`joint`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from foreglow.recognition.fits import joint
from foreglow.recognition.fits.joint import JointPixels, JointWhitened
from foreglow.recognition.fits.likelihood import Columns
from foreglow.recognition.fits.optimise import observed
from foreglow.recognition.fits.skymodel import (
    SkyModel,
    dust_spectrum,
    fixed_spectrum,
    synchrotron_factor,
    without_priors,
)
from foreglow.sky import seds
from foreglow.sky.bandpass import Bands

# Q, U of the AME at 30 GHz over those of dust at 353 GHz [uK_RJ each], mean and rms of each Stokes
# over the dust's modulus: 2% polarised AME of the mock Galaxy has a median ratio of 0.13 (PySM's
# a2 over d1: 0.17), and 0.09 to 0.34 hold two thirds of the pixels
AME_OVER_DUST = (0.15, 0.1)

Dust = Mapping[str, Tensor]
"""Values (n,) of the parameters of the dust in pixels, by name."""


def integrand_of(
    model: SkyModel,
    bands: Bands,
    data: Tensor,
    noise: Tensor,
    seen: Tensor,
    dust: Dust | None,
) -> "Integrand | JointIntegrand":
    """The integrand of some pixels of many, at their places `seen`; `noise` as `fit` takes it.

    The dust is fixed at that of the model, or at values of the pixels seen.
    """
    if noise.ndim == 3:
        whole = joint.whiten(data, noise, observed(data, noise))
        return _reduce_joint(model, bands, whole.at(seen), dust)
    weight, whitened = _whiten(data, noise)
    return _reduce(model, bands, weight[seen], whitened[seen], dust)


def _whiten(data: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """1 / sigma (n, n_band) and data / sigma (n, n_band, 2); both 0 where not observed."""
    seen = observed(data, sigma)
    data, sigma = data.double(), sigma.double()
    weight = torch.where(seen, 1 / sigma, 0.0)
    return weight, torch.where(seen[:, None], data, 0.0).mT * weight[..., None]


@dataclass(frozen=True)
class Integrand:
    """Whitened data with all amplitudes but synchrotron's integrated out.

    Rows beside the bands hold the laws of amplitudes (`_laws`) as if they were measurements.

    weight (n, n_row), 0 for laws; log_ratio (n, n_node + n_law), of each node of a band, 0 for
    laws; basis (n, n_row, n_fixed), orthonormal; data (n, n_row, 2), outside it; log_volume (n,):
    of the amplitudes integrated out.
    """

    weight: Tensor
    log_ratio: Tensor
    basis: Tensor
    data: Tensor
    log_volume: Tensor


@dataclass(frozen=True)
class JointIntegrand(Columns):
    """The same where the noise of Q and U differs; a law is one more band."""

    whole: JointPixels
    log_volume: Tensor


def _laws(model: SkyModel) -> dict[str, tuple[float, float]]:
    """Components whose Q and U have a Gaussian law: mean over the dust, rms over its modulus."""
    share = model.ame_fraction / seds.AME_POLARISATION_FRACTION
    laws = {
        "dust_moment": (0.0, model.dust_moments),
        "ame": (AME_OVER_DUST[0] * share, AME_OVER_DUST[1] * share),
    }
    return {name: law for name, law in laws.items() if name in model.components}


def _reduce(
    model: SkyModel, bands: Bands, weight: Tensor, whitened: Tensor, dust: Dust | None
) -> Integrand:
    fixed = weight[..., None] * _cmb_and_dust(model, bands, dust)  # (n, band, 2)
    n, n_law, log_volume = len(weight), len(_laws(model)), torch.zeros_like(weight[:, 0])
    rows = weight.new_zeros(n, n_law, 2 + n_law)
    modulus = _dust_modulus(bands, weight, whitened, fixed) if n_law else log_volume
    for k, (name, (mean, scatter)) in enumerate(_laws(model).items()):
        rms = scatter * modulus
        spectrum = weight * bands.average(fixed_spectrum(model, name, bands.node_ghz))
        fixed = torch.cat([fixed, spectrum[..., None]], 2)
        rows[:, k, 1], rows[:, k, 2 + k] = -mean / rms, 1 / rms
        log_volume = log_volume - 2 * torch.log(rms)
    basis, length = _orthonormal(torch.cat([fixed, rows], 1))
    log_volume = log_volume - 2 * torch.log(length).sum(1)  # half the determinant, both Stokes
    data = torch.cat([whitened, whitened.new_zeros(n, n_law, 2)], 1)
    log_ratio = torch.log(bands.node_ghz / seds.SYNCHROTRON_PIVOT_GHZ)
    return Integrand(
        torch.cat([weight, weight.new_zeros(n, n_law)], 1),
        torch.cat([log_ratio, log_ratio.new_zeros(n_law)]).expand(n, len(log_ratio) + n_law),
        basis,
        _outside(basis, data),
        log_volume,
    )


def _cmb_and_dust(model: SkyModel, bands: Bands, dust: Dust | None) -> Tensor:
    """Spectra ([n,] n_band, 2), the dust at that of the model or at values of the pixels."""
    frequency = bands.node_ghz
    given = {name: values[:, None] for name, values in (dust or {}).items()}
    spectrum = dust_spectrum(model, frequency, given)
    columns = torch.stack([seds.cmb(frequency).expand_as(spectrum), spectrum], -1)
    return bands.average(columns, dim=-2)  # of ([n,] node, 2)


def _reduce_joint(
    model: SkyModel, bands: Bands, data: JointWhitened, dust: Dust | None
) -> JointIntegrand:
    spectra = _cmb_and_dust(model, bands, dust)
    spectra = spectra.permute(2, 1, 0) if dust else spectra.mT[..., None]  # (2, band, n or 1)
    n_law, log_volume = len(_laws(model)), torch.zeros_like(data.data[0])
    rows = spectra.new_zeros(2 + n_law, n_law, 1)
    modulus = _joint_dust_modulus(bands, data, spectra) if n_law else log_volume
    for k, (name, (mean, scatter)) in enumerate(_laws(model).items()):
        rms = scatter * modulus
        spectrum = bands.average(fixed_spectrum(model, name, bands.node_ghz))[None, :, None]
        spectra = torch.cat([spectra, spectrum.expand(1, *spectra.shape[1:])])
        rows[1, k], rows[2 + k, k] = -mean, 1.0
        data = _with_one_band_more(data, 1 / rms)
        log_volume = log_volume - 2 * torch.log(rms)
    spectra = torch.cat([spectra, rows.expand(-1, -1, spectra.shape[2])], 1)
    basis, root = joint.orthonormal(joint.columns_of(data.whitener, spectra).flatten(0, 1))
    log_volume = log_volume - torch.log(torch.diagonal(root)).sum(1)  # half the determinant
    return JointIntegrand(
        JointPixels(data.whitener, joint.outside(basis, data.data), basis), log_volume
    )


def _with_one_band_more(data: JointWhitened, weight: Tensor) -> JointWhitened:
    """A further band, in which Q and U are measured as 0, each with a weight (n,)."""
    unit = torch.eye(2, dtype=weight.dtype, device=weight.device)[:, :, None, None]
    both = data.data.unflatten(0, (2, -1))  # (row, n_band, n)
    return JointWhitened(
        torch.cat([data.whitener, unit * weight], 2),
        torch.cat([both, torch.zeros_like(both[:, :1])], 1).flatten(0, 1),
    )


def _joint_dust_modulus(bands: Bands, data: JointWhitened, cmb_and_dust: Tensor) -> Tensor:
    """As `_dust_modulus`; the error is that of a circle as large as the ellipse of Q and U."""
    synchrotron = bands.average(seds.synchrotron(bands.node_ghz, -3.0))[None, :, None]
    cmb, dust = cmb_and_dust[:1], cmb_and_dust[1:]
    others = torch.cat([cmb, synchrotron.expand_as(cmb)])
    basis, _ = joint.orthonormal(joint.columns_of(data.whitener, others).flatten(0, 1))
    basis, root = joint.orthonormal(joint.columns_of(data.whitener, dust)[:, 0], basis)
    amplitude = joint.substitute(root, joint.along(basis, data.data))  # (2, n)
    error = (root[0, 0] * root[1, 1]).rsqrt()
    return torch.maximum(torch.linalg.vector_norm(amplitude, dim=0), error)


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
class At:
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


def evaluate(
    model: SkyModel, bands: Bands, pixels: Integrand | JointIntegrand, parameters: Tensor
) -> At:
    """The integrand at parameters (n, n_param)."""
    at = likelihood_at(model, bands, pixels, parameters)
    mean, rms = torch.tensor([f.prior for f in model.free.values()]).to(parameters).unbind(1)
    pull, narrow = (mean - parameters) / rms, torch.diag(rms**-2)
    away = 0.5 * pull.square().sum(1)
    return At(
        parameters, at.log_value - away - torch.log(rms).sum(), at.cost + away,
        at.fall + pull / rms, at.fisher + narrow, at.hessian + narrow,
    )  # fmt: skip


def likelihood_at(
    model: SkyModel, bands: Bands, pixels: Integrand | JointIntegrand, parameters: Tensor
) -> At:
    """The same without the priors of the spectral parameters."""
    if isinstance(pixels, JointIntegrand):
        return _joint_likelihood_at(model, bands, pixels, parameters)
    power = {"beta_s": 1, "curvature": 2}  # of the log of frequency that a parameter multiplies
    place = [power[name] for name in model.free]
    ratio = pixels.log_ratio
    bent = torch.full_like(ratio, model.fixed.get("curvature", 0.0)) * ratio**2
    if model.synchrotron_factor:
        bent[:, : len(bands.node_ghz)] += synchrotron_factor(model, bands.node_ghz)
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
    cost = 0.5 * residual.square().sum((1, 2))
    log_value = -cost - torch.log(length) + pixels.log_volume
    return At(parameters, log_value, cost, fall, fisher, hessian)


def _joint_likelihood_at(
    model: SkyModel, bands: Bands, pixels: JointIntegrand, parameters: Tensor
) -> At:
    whole = pixels.whole
    point, root, residual = joint.linearise(without_priors(model), bands, whole, parameters.T)
    cost = 0.5 * residual.square().sum(0)
    log_value = -cost - torch.log(torch.diagonal(root)).sum(1) + pixels.log_volume
    fisher, hessian = (m.movedim(-1, 0) for m in (point.fisher, point.hessian))
    return At(parameters, log_value, cost, point.fall.T, fisher, hessian)


def _moments(bands: Bands, weight: Tensor, spectrum: Tensor, ratio: Tensor, order: int) -> Tensor:
    """Spectra times powers of the log of frequency, whitened, (n, n_row, order + 1)."""
    if bands.weight is None:
        spectrum = weight * spectrum
        return torch.stack([spectrum * ratio**k for k in range(order + 1)], -1)
    powers = torch.stack([spectrum * ratio**k for k in range(order + 1)], -1)
    n_node = len(bands.node_ghz)
    seen = bands.average(powers[:, :n_node], dim=1)
    return weight[..., None] * torch.cat([seen, powers[:, n_node:]], 1)  # laws weigh nothing
