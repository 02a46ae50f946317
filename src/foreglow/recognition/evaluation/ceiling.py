"""The exact evidence of each model under the training law, and the ceiling it sets.

No classifier that looks at one pixel can be right more often than the one that chooses the model
of largest evidence p(d | model), integrated over all that the training law draws: template pixel,
amplitude factors, beta_s, CMB and noise. Given template and beta, everything is linear and
Gaussian, so the integral over amplitudes is exact; that over beta is done on nodes laid on the
vector's own posterior; that over templates is the sum over the pixels of the sky.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foreglow.compute.random import make_generator
from foreglow.errors import ModelError
from foreglow.recognition.models import (
    AMPLITUDE_SCATTER,
    BETA_MEAN,
    BETA_SCATTER,
    definition_of,
    dust_tests,
)
from foreglow.recognition.simulation.vectors import NoiseLaw, Vectors, VectorSimulator
from foreglow.sky import seds
from foreglow.sky.cmb import cmb_polarisation_rms
from foreglow.sky.instrument import Instrument
from foreglow.sky.templates import Templates

_NODES = 13  # Gauss-Hermite nodes over beta
_WIDEN = 1.3  # of the nodes' Gaussian, beyond the curvature of the posterior at its mode
_NEWTON_STEPS = 10
_COARSE = torch.tensor([-1.5, 0.0, 1.5], dtype=torch.float64)  # widths, to choose templates
_KEPT = 384  # templates that hold the weight of a vector; the rest are dropped
_BLOCK = 64  # vectors at a time
_LEAST_SCALE = 1e-3  # of the instrument's noise: floor of what counts as noiseless


@dataclass(frozen=True)
class Ceiling:
    """Accuracy of the optimal classifier on vectors of the training law.

    Parameters
    ----------
    accuracy, error : float
        And its Monte Carlo standard error.
    n : int
        Vectors drawn.
    """

    accuracy: float
    error: float
    n: int


def ceiling(
    templates: Templates,
    instrument: Instrument,
    models: tuple[str, ...],
    noise_scale: float,
    n: int,
    seed: int,
) -> Ceiling:
    """The best accuracy that a per-pixel classifier can reach on average.

    Parameters
    ----------
    templates : Templates
        At the Nside of the pixels.
    instrument : Instrument
    models : tuple of str
    noise_scale : float
        Factor on the instrument's noise.
    n : int
        Vectors of the Monte Carlo.
    seed : int
    """
    vectors = draw_vectors(templates, instrument, models, noise_scale, n, seed)
    chosen = log_evidence(vectors.data, vectors.sigma[0], templates, instrument, models).argmax(1)
    accuracy = float((chosen == vectors.label).double().mean())
    return Ceiling(accuracy, math.sqrt(accuracy * (1 - accuracy) / n), n)


def draw_vectors(
    templates: Templates,
    instrument: Instrument,
    models: tuple[str, ...],
    noise_scale: float,
    n: int,
    seed: int,
) -> Vectors:
    """Vectors of the training law at one noise scale, the same for the same seed."""
    generator = make_generator(torch.device("cpu"), seed, 10)
    simulator = VectorSimulator(templates, instrument, models)
    return simulator.draw(n, NoiseLaw.fixed(noise_scale), generator)


def log_evidence(
    data: Tensor,
    sigma: Tensor,
    templates: Templates,
    instrument: Instrument,
    models: tuple[str, ...],
    ame_scatter: float = 0.0,
) -> Tensor:
    """Log evidence of each model for each vector.

    Parameters
    ----------
    data : Tensor, shape (n, 2, n_band)
        Q, U [uK_RJ].
    sigma : Tensor, shape (n_band,)
        Noise rms [uK_RJ]; at least a thousandth of the instrument's is assumed.
    templates : Templates
        The sky that the vectors were drawn from, at their Nside.
    instrument : Instrument
    models : tuple of str
    ame_scatter : float
        Of the AME about the dust, as `VectorSimulator` takes it.

    Returns
    -------
    Tensor, float64, shape (n, n_class)
        Up to a constant a vector.

    Raises
    ------
    ModelError
        If the dust, the curvature or the AME of a model is not as in the paper.
    """
    known = [definition_of(name) for name in models]
    peaks = any(m.ame_peak_ghz != seds.AME_PEAK_GHZ for m in known)
    other = any(m.curvature_scatter or m.synchrotron_factor or m.dust_factor for m in known)
    if dust_tests(models) or other or peaks:
        raise ModelError(
            "expected models with dust of one temperature and index, one C, no factors on the "
            f"spectra and AME that peaks at {seds.AME_PEAK_GHZ:g} GHz, for which the evidence is "
            f"exact, got {', '.join(models)}; leave others out."
        )
    law = _Law.of(sigma, templates, instrument)
    blocks = []
    for block in data.double().split(_BLOCK):
        per_model = [_evidence_of_block(block, law, name, ame_scatter) for name in models]
        blocks.append(torch.stack(per_model, 1))
    return torch.cat(blocks)


@dataclass(frozen=True)
class _Law:
    """The training law, whitened by noise and CMB."""

    whitener: Tensor  # (band, band): W with W^T W = (N + CMB)^-1
    from_nodes: Tensor  # (node, band): the mean of a spectrum over bands, whitened
    log_ratio: Tensor  # (node,)
    dust: Tensor  # (band,), whitened
    ame: Tensor  # (band,), whitened
    mean: Tensor  # (template, stokes, 2): synchrotron, dust
    ame_intensity: Tensor  # (template,)

    @classmethod
    def of(cls, sigma: Tensor, templates: Templates, instrument: Instrument) -> "_Law":
        bands = instrument.bands
        frequency = bands.node_ghz
        floor = _LEAST_SCALE * torch.from_numpy(instrument.noise_rms(templates.nside))
        noise = torch.maximum(sigma.double(), floor)
        cmb = cmb_polarisation_rms(templates.nside) * bands.average(seds.cmb(frequency))
        covariance = torch.diag(noise**2) + torch.outer(cmb, cmb)
        whitener = torch.linalg.inv(torch.linalg.cholesky(covariance))
        mean = np.stack([templates.synchrotron, templates.dust], axis=-1)  # (stokes, pixel, 2)
        return cls(
            whitener,
            whitener.T if bands.weight is None else bands.weight @ whitener.T,
            torch.log(frequency / seds.SYNCHROTRON_PIVOT_GHZ),
            whitener @ bands.average(seds.modified_blackbody(frequency)),
            whitener @ bands.average(seds.spinning_dust(frequency)),
            torch.from_numpy(mean).double().transpose(0, 1).contiguous(),
            torch.from_numpy(templates.ame).double(),
        )


def _evidence_of_block(data: Tensor, law: _Law, name: str, scatter: float) -> Tensor:
    """(n,) log evidence of one model."""
    z = data @ law.whitener.T  # (n, stokes, band)
    model = definition_of(name)
    fraction = model.ame_fraction
    start = _Likelihood.at(z, law, torch.full_like(z[:, 0, :1], BETA_MEAN), model.curvature)
    direction = torch.nn.functional.normalize(start.best[:, 0, :, 1], dim=1)  # known to a per cent
    ame = _Ame(fraction, scatter, direction)
    beta, width = _beta_posterior(z, law, model.curvature, ame.expected(start, law))
    coarse = beta[:, None] + width[:, None] * _COARSE
    like = _Likelihood.at(z, law, coarse, model.curvature)
    every = torch.arange(len(law.mean)).expand(len(data), -1)
    rough = _template_evidence(like, law, every, ame).logsumexp(1)
    kept = rough.topk(min(_KEPT, rough.shape[1]), dim=1).indices  # (n, kept)
    nodes, log_weights = _nodes()
    position = beta[:, None] + _WIDEN * width[:, None] * nodes  # (n, node)
    like = _Likelihood.at(z, law, position, model.curvature)
    given_beta = _template_evidence(like, law, kept, ame).logsumexp(2)
    prior = -0.5 * ((position - BETA_MEAN) / BETA_SCATTER) ** 2
    proposal = -0.5 * nodes**2 - torch.log(width)[:, None]
    return (given_beta + prior - proposal + log_weights).logsumexp(1)


@dataclass(frozen=True)
class _Ame:
    """The AME of a model: its polarised fraction, scatter about the dust, direction (n, stokes)."""

    fraction: float
    scatter: float
    direction: Tensor

    def expected(self, like: "_Likelihood", law: _Law) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Directions (n, stokes), and mean and rms (n,) of the AME along each.

        Of the templates whose dust is that of the vector.
        """
        if not self.fraction:
            return []
        prior = AMPLITUDE_SCATTER * law.mean[None, :, :, 1]  # (1, template, stokes)
        gap = like.best[:, 0, None, :, 1] - law.mean[None, :, :, 1]
        variance = prior**2 + like.covariance[:, 0, None, None, 1, 1]
        weight = torch.softmax(-0.5 * (gap**2 / variance + torch.log(variance)).sum(2), 1)
        ame = self.fraction * law.ame_intensity
        mean = weight @ ame
        rms = (weight @ ame**2 - mean**2).clamp_min(1e-12).sqrt() + 0.1 * mean
        if not self.scatter:
            return [(self.direction, mean, rms)]
        beside = self.scatter * mean
        q, u = self.direction.unbind(1)
        across = torch.stack([-u, q], 1)
        return [
            (self.direction, mean, torch.hypot(rms, beside)),
            (across, torch.zeros_like(mean), beside),
        ]


def _nodes() -> tuple[Tensor, Tensor]:
    """Nodes and log weights of an average over a standard normal."""
    x, w = np.polynomial.hermite_e.hermegauss(_NODES)
    return torch.from_numpy(x), torch.log(torch.from_numpy(w / w.sum()))


def _synchrotron(law: _Law, beta: Tensor, curvature: float) -> tuple[Tensor, Tensor]:
    """Whitened SED and its derivative by beta, shape (*beta, band)."""
    exponent = (beta[..., None] + curvature * law.log_ratio) * law.log_ratio
    sed = torch.exp(exponent)
    return sed @ law.from_nodes, (sed * law.log_ratio) @ law.from_nodes


def _beta_posterior(
    z: Tensor,
    law: _Law,
    curvature: float,
    ame: list[tuple[Tensor, Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """Mode and width (n,) of beta, amplitudes of synchrotron and dust free, AME as expected.

    Only where the nodes lie depends on it, so it may be approximate.
    """
    beta = torch.full_like(z[:, 0, 0], BETA_MEAN)
    dust = law.dust / torch.linalg.vector_norm(law.dust)

    def without_dust(v: Tensor) -> Tensor:
        return v - (v @ dust)[..., None] * dust

    clean = without_dust(z)  # (n, stokes, band)
    bump = without_dust(law.ame)
    precision = 1 / BETA_SCATTER**2
    information = torch.full_like(beta, precision)
    for _ in range(_NEWTON_STEPS):
        sed, slope = (without_dust(v)[:, None] for v in _synchrotron(law, beta, curvature))
        power = (sed**2).sum(2)  # (n, 1)
        amplitude = (clean * sed).sum(2) / power

        def free(v: Tensor, sed=sed, power=power) -> Tensor:  # of the synchrotron's amplitude
            return v - ((v * sed).sum(2) / power)[..., None] * sed

        residual = free(clean)
        tilt = amplitude[..., None] * free(slope)  # change of the residual by beta
        gradient = (tilt * residual).sum((1, 2)) + precision * (BETA_MEAN - beta)
        information = (tilt**2).sum((1, 2)) + precision
        # eliminate its amplitudes, which have Gaussian priors; those along and across are apart
        for direction, mean, rms in ame:
            shape = free(direction[:, :, None] * bump)
            power_a = (shape**2).sum((1, 2)) + rms**-2
            cross = (tilt * shape).sum((1, 2))
            score = (shape * residual).sum((1, 2)) + mean / rms**2
            gradient = gradient - cross / power_a * score
            information = information - cross**2 / power_a
        beta = (beta + (gradient / information).clamp(-0.3, 0.3)).clamp(
            BETA_MEAN - 1.2, BETA_MEAN + 1.2
        )
    return beta, information.rsqrt()


@dataclass(frozen=True)
class _Likelihood:
    """Gaussian likelihood of (synchrotron, dust) amplitudes for each vector and node of beta."""

    best: Tensor  # (n, node, stokes, 2)
    covariance: Tensor  # (n, node, 2, 2)
    log_norm: Tensor  # (n, node): log L at the best amplitudes plus log volume, both Stokes
    ame_best: Tensor  # (n, node, 2): change of `best` per unit of AME
    ame_score: Tensor  # (n, node, stokes): residual . AME
    ame_power: Tensor  # (n, node): AME^2 outside the two components

    @classmethod
    def at(cls, z: Tensor, law: _Law, beta: Tensor, curvature: float) -> "_Likelihood":
        sed, _ = _synchrotron(law, beta, curvature)  # (n, node, band)
        columns = torch.stack([sed, law.dust.expand_as(sed)], -1)  # (n, node, band, 2)
        covariance = torch.linalg.inv(columns.mT @ columns)
        solve = covariance @ columns.mT  # (n, node, 2, band)
        best = z[:, None] @ solve.mT  # (n, node, stokes, 2)
        residual = z[:, None] - best @ columns.mT  # (n, node, stokes, band)
        chi2 = (residual**2).sum((2, 3))
        ame_best = solve @ law.ame
        outside = law.ame - (columns @ ame_best[..., None]).squeeze(-1)
        volume = torch.logdet(covariance)  # two Stokes, half a log determinant each
        return cls(
            best, covariance, -0.5 * chi2 + volume, ame_best,
            torch.einsum("nksb,nkb->nks", residual, outside), (outside**2).sum(-1),
        )  # fmt: skip


def _template_evidence(like: _Likelihood, law: _Law, templates: Tensor, of_ame: _Ame) -> Tensor:
    """(n, node, template) log of likelihood times prior, integrated over amplitudes.

    `templates` (n, template) says which pixels of the sky are tried for each vector.
    """
    mean = law.mean[templates][:, None]  # (n, 1, template, stokes, 2)
    total = like.log_norm[:, :, None]
    ame = of_ame.fraction * law.ame_intensity[templates][:, None]  # (n, 1, template)
    if of_ame.fraction:
        total = total - 0.5 * ame**2 * like.ame_power[:, :, None]
    covariance = like.covariance[:, :, None]  # (n, node, 1, 2, 2)
    for stokes in (0, 1):
        prior = (AMPLITUDE_SCATTER * mean[..., stokes, :]) ** 2
        gap = like.best[:, :, None, stokes] - mean[..., stokes, :]  # (n, node, template, 2)
        if of_ame.fraction:
            amount = ame * of_ame.direction[:, stokes, None, None]
            total = total + amount * like.ame_score[:, :, None, stokes]
            gap = gap - amount[..., None] * like.ame_best[:, :, None]
            if of_ame.scatter:
                score = like.ame_score[:, :, None, stokes] - amount * like.ame_power[:, :, None]
                beside = (of_ame.scatter * ame) ** 2
                total = total + _beside(like, gap, covariance, prior, score, beside)
        total = total + _log_normal(gap, covariance, prior)
    return total


def _beside(
    like: _Likelihood, gap: Tensor, covariance: Tensor, prior: Tensor, score: Tensor, beside: Tensor
) -> Tensor:
    """What the integral over more AME, of a variance about its mean, adds to the log evidence.

    The log is quadratic in it: `score` is the slope at the mean, but for that of the amplitudes.
    """
    a, b, d = _entries(covariance, prior)
    determinant = a * d - b**2
    x, y = like.ame_best[:, :, None].unbind(-1)
    to_x, to_y = (d * x - b * y) / determinant, (a * y - b * x) / determinant
    slope = score + to_x * gap[..., 0] + to_y * gap[..., 1]
    bend = like.ame_power[:, :, None] + to_x * x + to_y * y
    return 0.5 * (beside * slope**2 / (1 + bend * beside) - torch.log1p(bend * beside))


def _entries(covariance: Tensor, prior: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the symmetric covariance + diag(prior): first, off the diagonal, last."""
    return (
        covariance[..., 0, 0] + prior[..., 0], covariance[..., 0, 1],
        covariance[..., 1, 1] + prior[..., 1],
    )  # fmt: skip


def _log_normal(gap: Tensor, covariance: Tensor, prior: Tensor) -> Tensor:
    """Log density of `gap` (..., 2) with covariance + diag(prior), without 2 pi."""
    a, b, d = _entries(covariance, prior)
    determinant = a * d - b**2
    x, y = gap.unbind(-1)
    return -0.5 * ((d * x**2 - 2 * b * x * y + a * y**2) / determinant + torch.log(determinant))
