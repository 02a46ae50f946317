"""The integrand of the evidence: amplitudes integrated exactly, at given spectral parameters.

Beware: the pixel is the last axis, as in `likelihood`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log

import torch
from torch import Tensor

from foreglow.recognition.fits import joint
from foreglow.recognition.fits.joint import AnyWhitened, JointPixels, JointWhitened
from foreglow.recognition.fits.likelihood import (
    Columns,
    Pixels,
    Point,
    Whitened,
    linearise,
    terms_of,
)
from foreglow.recognition.fits.skymodel import SkyModel, dust_spectrum, fixed_spectrum
from foreglow.sky import seds
from foreglow.sky.bandpass import Bands

# Q, U of 2% polarised AME at 30 GHz over those of dust at 353 GHz [uK_RJ each]: mean and rms of
# each Stokes over the dust's modulus; and how many times as much in what share of the pixels.
# Fitted to the mock Galaxy and to PySM's a2 over d1: medians 0.13 and 0.15, one pixel in twenty
# above 1.0 and 0.8, one in a thousand above 12 and 5, where the dust's own directions cancel along
# the line of sight. With one Gaussian such pixels went to any other model that came near.
AME_OVER_DUST = (0.1, 0.067)
AME_BRIGHTER = ((1.0, 0.76), (4.5, 0.22), (80.0, 0.02))

Dust = Mapping[str, Tensor]
"""Values (n,) of the parameters of the dust in pixels, by name."""


def integrands_of(
    model: SkyModel, bands: Bands, data: AnyWhitened, dust: Dust | None = None
) -> "tuple[AnyIntegrand, ...]":
    """What adds up to the integrand of some pixels: a term for each brightness of the AME.

    The dust is fixed at that of the model, or at their values.
    """
    terms = []
    for times, share in AME_BRIGHTER if model.ame else ((1.0, 1.0),):
        bright = replace(model, ame_fraction=times * model.ame_fraction)
        if isinstance(data, JointWhitened):
            term = _reduce_joint(bright, bands, data, dust)
        else:
            term = _reduce(bright, bands, data, dust)
        terms.append(replace(term, log_volume=term.log_volume + log(share)))
    return tuple(terms)


@dataclass(frozen=True)
class Integrand(Columns):
    """Likelihoods with all amplitudes but synchrotron's integrated out.

    pixels : data and basis outside the laws of amplitudes (`_laws`), which were taken for
    measurements; chi2 (n,): of what the fixed components leave, laws too; log_volume (n,): of the
    amplitudes integrated out.
    """

    pixels: Pixels
    chi2: Tensor
    log_volume: Tensor

    def linearise(self, model: SkyModel, bands: Bands, parameters: Tensor) -> Point:
        """Cost and derivatives at parameters (n_param, n)."""
        return linearise(model, bands, self.pixels, parameters, exact=True)

    def log_value(self, model: SkyModel, bands: Bands, point: Point) -> Tensor:
        """Log of the integrand at a point of its own (n,), but for the norm of priors."""
        spectrum = terms_of(model, bands, point.parameters)[0]
        length = self.pixels.length(spectrum)
        return self.log_volume - 0.5 * (self.chi2 + point.cost) - torch.log(length)


@dataclass(frozen=True)
class JointIntegrand(Columns):
    """The same where the noise of Q and U differs; a law is one more band."""

    pixels: JointPixels
    chi2: Tensor
    log_volume: Tensor

    def linearise(self, model: SkyModel, bands: Bands, parameters: Tensor) -> Point:
        """Cost and derivatives at parameters (n_param, n)."""
        return self.pixels.linearise(model, bands, parameters)

    def log_value(self, model: SkyModel, bands: Bands, point: Point) -> Tensor:
        """As of `Integrand`."""
        _, root, _ = joint.linearise(model, bands, self.pixels, point.parameters)
        volume = torch.log(torch.diagonal(root)).sum(1)
        return self.log_volume - 0.5 * (self.chi2 + point.cost) - volume


AnyIntegrand = Integrand | JointIntegrand


def sum_of(terms: Sequence[AnyIntegrand], points: Sequence[Point]) -> Point:
    """The point of a sum of integrands, from those of each at the same parameters.

    Its cost holds what does not change with these, too.
    """
    if len(points) == 1:
        return points[0]
    both = zip(terms, points, strict=True)
    log_values = torch.stack([t.log_volume - 0.5 * (t.chi2 + p.cost) for t, p in both])
    shares = torch.softmax(log_values, 0)

    def mean(values: Iterable[Tensor]) -> Tensor:
        return torch.einsum("kn,k...n->...n", shares, torch.stack(list(values)))

    fall = mean(p.fall for p in points)
    apart = [p.fall - fall for p in points]
    bend = [p.hessian - one[:, None] * one for p, one in zip(points, apart, strict=True)]
    return Point(
        points[0].parameters, -2 * log_values.logsumexp(0), fall, mean(p.fisher for p in points),
        mean(bend),
    )  # fmt: skip


def _laws(model: SkyModel) -> dict[str, tuple[float, float]]:
    """Components whose Q and U have a Gaussian law: mean over the dust, rms over its modulus."""
    share = model.ame_fraction / seds.AME_POLARISATION_FRACTION
    laws = {
        "dust_moment": (0.0, model.dust_moments),
        "ame": (AME_OVER_DUST[0] * share, AME_OVER_DUST[1] * share),
    }
    return {name: law for name, law in laws.items() if name in model.components}


def _reduce(model: SkyModel, bands: Bands, data: Whitened, dust: Dust | None) -> Integrand:
    weight, n_band = data.weight, len(data.weight)
    columns = _cmb_and_dust(model, bands, dust) * weight  # (2, band, n)
    n_law, log_volume = len(_laws(model)), torch.zeros_like(weight[0])
    rows = weight.new_zeros(2 + n_law, n_law, weight.shape[1])
    modulus = _dust_modulus(bands, data, columns) if n_law else log_volume
    for k, (name, (mean, scatter)) in enumerate(_laws(model).items()):
        rms = scatter * modulus
        spectrum = bands.average(fixed_spectrum(model, name, bands.node_ghz))
        columns = torch.cat([columns, (spectrum[:, None] * weight)[None]])
        rows[1, k], rows[2 + k, k] = -mean / rms, 1 / rms
        log_volume = log_volume - 2 * torch.log(rms)
    basis, root = joint.orthonormal(torch.cat([columns, rows], 1))
    # half the determinant, both Stokes
    log_volume = log_volume - 2 * torch.log(torch.diagonal(root)).sum(1)
    left = torch.nn.functional.pad(data.data.transpose(0, 1), (0, 0, 0, n_law))
    left = joint.outside(basis, left)  # (2, row, n)
    chi2 = left.square().sum((0, 1))
    whole = torch.cat([left[:, :n_band], basis[:, :n_band]]).transpose(0, 1) * weight[:, None]
    return Integrand(Pixels(whole.contiguous(), weight.square()), chi2, log_volume)


def _cmb_and_dust(model: SkyModel, bands: Bands, dust: Dust | None) -> Tensor:
    """Spectra (2, n_band, n or 1), the dust at that of the model or at values of the pixels."""
    frequency = bands.node_ghz
    given = {name: values[:, None] for name, values in (dust or {}).items()}
    spectrum = dust_spectrum(model, frequency, given)
    columns = torch.stack([seds.cmb(frequency).expand_as(spectrum), spectrum], -1)
    columns = bands.average(columns, dim=-2)  # of ([n,] node, 2)
    return columns.permute(2, 1, 0) if dust else columns.mT[..., None]


def _reduce_joint(
    model: SkyModel, bands: Bands, data: JointWhitened, dust: Dust | None
) -> JointIntegrand:
    spectra = _cmb_and_dust(model, bands, dust)  # (2, band, n or 1)
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
    left = joint.outside(basis, data.data)
    pixels = JointPixels(data.whitener, left, basis)
    return JointIntegrand(pixels, left.square().sum(0), log_volume)


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


def _dust_modulus(bands: Bands, data: Whitened, cmb_and_dust: Tensor) -> Tensor:
    """Polarised dust of a pixel at 353 GHz (n,), at least its own error [uK_RJ]."""
    synchrotron = bands.average(seds.synchrotron(bands.node_ghz, -3.0))[:, None] * data.weight
    cmb, dust = cmb_and_dust
    basis, _ = joint.orthonormal(torch.stack([cmb, synchrotron]))
    dust = joint.outside(basis, dust)
    power = dust.square().sum(0)
    amplitude = (dust[:, None] * data.data).sum(0) / power  # (2, n)
    return torch.maximum(torch.linalg.vector_norm(amplitude, dim=0), power.rsqrt())
