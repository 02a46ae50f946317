"""Noise of Q and U that differs and correlates: the fits against dense matrices, in numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from foreglow.errors import ShapeError
from foreglow.recognition.evaluation.ceiling import draw_vectors
from foreglow.recognition.fits.choice import choose
from foreglow.recognition.fits.integrand import AME_BRIGHTER, AME_OVER_DUST
from foreglow.recognition.fits.laplace import log_evidence
from foreglow.recognition.fits.likelihood import Point
from foreglow.recognition.fits.optimise import fit, whiten
from foreglow.recognition.fits.skymodel import (
    BETA_PRIOR,
    FREE_BETA_D,
    FREE_DUST_TEMPERATURE,
    Free,
    SkyModel,
    candidate,
    fixed_spectra,
)
from foreglow.recognition.models import PROBLEMS
from foreglow.sky import seds
from foreglow.sky.bandpass import Bands, bands_of
from foreglow.sky.instrument_files import load_instrument

INSTRUMENT = load_instrument("quijote+litebird")
NU = torch.tensor(INSTRUMENT.frequency_ghz, dtype=torch.float64)
N_BAND = len(NU)
WIDE = bands_of(tuple(((0.93 * nu, 0.5), (1.07 * nu, 0.5)) for nu in INSTRUMENT.frequency_ghz))
FOUR = PROBLEMS["four"]


def covariance_of(sigma, seed=0):
    """QQ, QU, UU (n, 3, n_band) of rms (n, n_band), stretched and turned at random."""
    rng = np.random.default_rng(seed)
    stretch = torch.from_numpy(rng.uniform(0.5, 2, (2, *sigma.shape)))
    correlation = torch.from_numpy(rng.uniform(-0.95, 0.95, sigma.shape))
    q, u = stretch * sigma.double()
    return torch.stack([q**2, correlation * q * u, u**2], 1)


def with_noise_of(clean, covariance, seed=0):
    """Data (n, 2, n_band) with noise of that covariance."""
    qq, qu, uu = covariance.unbind(1)
    root = torch.linalg.cholesky(torch.stack([qq, qu, qu, uu], -1).unflatten(-1, (2, 2)))
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(*qq.shape, 2, 1, generator=generator, dtype=torch.float64)
    return clean + (root @ white).squeeze(-1).mT


@pytest.fixture(scope="module")
def pixels(templates):
    """Vectors of the four models at a tenth of the noise of Table 1, on average, and their N."""
    quiet = draw_vectors(templates, INSTRUMENT, FOUR, 1e-6, 60, 3)
    sigma = torch.from_numpy(0.1 * INSTRUMENT.noise_rms(16)).expand(60, -1)
    covariance = covariance_of(sigma)
    return with_noise_of(quiet.data.double(), covariance), covariance


def dense(covariance):
    """The matrix N of all Q, then all U, of one pixel."""
    qq, qu, uu = (np.diag(row) for row in covariance.numpy())
    return np.block([[qq, qu], [qu, uu]])


def spectra(model, parameters):
    """Of all components (n_band, m) in the order of the fits."""
    value = dict(model.fixed) | dict(zip(model.free, map(float, parameters), strict=True))
    each = {
        "cmb": seds.cmb(NU),
        "dust": seds.modified_blackbody(NU, value["beta_d"], value["dust_temperature"]),
        "dust_moment": torch.log(NU / 353) * seds.modified_blackbody(NU),
        "ame": seds.spinning_dust(NU),
        "synchrotron": seds.synchrotron(NU, value["beta_s"], value["curvature"]),
    }
    return np.stack([each[name].numpy() for name in model.components], 1)


def dense_fit(model, parameters, data, covariance):
    """Chi-square, amplitudes (2 m,) and their Fisher matrix, at spectral parameters."""
    mixing = np.kron(np.eye(2), spectra(model, parameters))
    weighted = np.linalg.solve(dense(covariance), mixing)
    d = data.numpy().reshape(-1)
    fisher = mixing.T @ weighted
    best = np.linalg.solve(fisher, weighted.T @ d)
    residual = d - mixing @ best
    return residual @ np.linalg.solve(dense(covariance), residual), best, fisher


MODELS = {
    "curved": candidate("curved"),
    "power_law_ame": candidate("power_law_ame"),
    "dust": SkyModel(beta_d=FREE_BETA_D),
    "dust_moments": candidate("dust_moments"),
}


@pytest.mark.parametrize("name", MODELS)
def test_chi2_and_amplitudes_are_those_of_dense_matrices(pixels, name):
    model, (data, covariance) = MODELS[name], pixels
    found = fit(model, NU, data, covariance)
    assert found.converged.all()
    assert (found.dof == 2 * N_BAND - 2 * len(model.components) - len(model.free)).all()
    for k in range(0, 60, 7):
        at = found.parameters[k].numpy()
        chi2, best, _ = dense_fit(model, at, data[k], covariance[k])
        assert float(found.chi2[k]) == pytest.approx(chi2, rel=1e-8)
        np.testing.assert_allclose(found.amplitudes[k].flatten(), best, rtol=1e-6, atol=1e-9)
        aside = found.covariance[k].diagonal().sqrt().numpy() * np.eye(len(at))
        for step in (*aside, *-aside):  # it is a minimum, and the error is where chi2 rises
            bound = [(f.low, f.high) for f in model.free.values()]
            if all(a < b < c for (a, c), b in zip(bound, at + step, strict=True)):
                assert dense_fit(model, at + step, data[k], covariance[k])[0] > chi2


def test_no_lower_minimum_is_left_on_a_grid_of_beta(pixels):
    model, (data, covariance) = candidate("power_law"), pixels
    found = fit(model, NU, data, covariance)
    for k in range(0, 60, 11):
        lowest = min(
            dense_fit(model, [beta], data[k], covariance[k])[0] for beta in np.linspace(-6, 1, 141)
        )
        assert float(found.chi2[k]) <= lowest


def test_covariance_is_the_inverse_fisher_matrix_of_the_whole_model(pixels):
    """By finite differences of all parameters and amplitudes at once, nothing eliminated."""
    model, (data, covariance) = candidate("curved"), pixels
    found = fit(model, NU, data[:1], covariance[:1])
    p, m = len(model.free), len(model.components)
    at = np.concatenate([found.parameters[0], found.amplitudes[0].flatten()])

    def signal(x):
        return np.kron(np.eye(2), spectra(model, x[:p])) @ x[p:]

    steps = np.diag(1e-5 * np.maximum(1, abs(at)))
    jacobian = np.stack([(signal(at + s) - signal(at - s)) / (2 * s.sum()) for s in steps], 1)
    whole = np.linalg.inv(jacobian.T @ np.linalg.solve(dense(covariance[0]), jacobian))
    np.testing.assert_allclose(found.covariance[0], whole[:p, :p], rtol=1e-4)
    scale = np.sqrt(np.outer(*[whole[p:, p:].diagonal()] * 2))
    assert len(scale) == 2 * m
    np.testing.assert_allclose(
        found.amplitude_covariance[0].numpy() / scale, whole[p:, p:] / scale, atol=1e-5
    )


@pytest.mark.parametrize(
    "model",
    [
        candidate("curved", priors=True),
        SkyModel(
            curvature=Free(0.0, -4.0, 4.0),
            beta_d=FREE_BETA_D,
            dust_temperature=FREE_DUST_TEMPERATURE,
            ame=True,
        ),
    ],
)
def test_derivatives_are_those_of_the_cost(pixels, model):
    """Anywhere, by finite differences: the gradient of the cost, the Hessian of the gradient."""
    bands = Bands.of(NU)
    start = torch.tensor([{"beta_s": -2.8}.get(k, f.start + 0.05) for k, f in model.free.items()])
    at = start.double()[:, None].repeat(1, 8)
    whole = whiten(pixels[0][:8], pixels[1][:8]).project(fixed_spectra(model, bands)[..., None])

    def point(k: int, step: float) -> Point:
        aside = torch.zeros_like(at)
        aside[k] = step
        return whole.linearise(model, bands, at + aside)

    here = whole.linearise(model, bands, at)
    for k in range(len(at)):
        ahead, behind = point(k, 1e-5), point(k, -1e-5)
        slope = 0.5 * (behind.cost - ahead.cost) / 2e-5
        torch.testing.assert_close(slope, here.fall[k], rtol=1e-4, atol=1e-3)
        curve = (behind.fall - ahead.fall) / 2e-5
        scale = here.hessian.abs().amax()
        torch.testing.assert_close(curve / scale, here.hessian[k] / scale, rtol=1e-4, atol=1e-8)


# ---- evidence --------------------------------------------------------------------------------


def dense_evidence(model, data, covariance):
    """Log evidence of one pixel, AME of each brightness weighed by its share."""
    if not model.ame:
        return dense_evidence_of_one(model, data, covariance, 0)
    return special.logsumexp(
        [dense_evidence_of_one(model, data, covariance, times) for times, _ in AME_BRIGHTER],
        b=[share for _, share in AME_BRIGHTER],
    )


def dense_evidence_of_one(model, data, covariance, ame):
    """Log evidence of one pixel on a grid of beta, C fixed; amplitudes in closed form."""
    n, d = dense(covariance), data.numpy().reshape(-1)
    cmb, dust, bump = (
        law(NU).numpy() for law in (seds.cmb, seds.modified_blackbody, seds.spinning_dust)
    )
    if model.ame or model.dust_moments:
        mixing = np.kron(np.eye(2), np.stack([cmb, dust, seds.synchrotron(NU, -3.0).numpy()], 1))
        fisher = mixing.T @ np.linalg.solve(n, mixing)
        best = np.linalg.solve(fisher, mixing.T @ np.linalg.solve(n, d))[[1, 4]]
        error = np.linalg.det(np.linalg.inv(fisher)[np.ix_([1, 4], [1, 4])]) ** 0.25
        modulus = max(np.hypot(*best), error)
        moment = model.dust_moments * modulus * np.log(NU.numpy() / 353) * dust
        n = n + np.kron(np.eye(2), np.outer(moment, moment))
        if model.ame:
            bump = ame * modulus * bump
            n = n + AME_OVER_DUST[1] ** 2 * np.kron(np.eye(2), np.outer(bump, bump))
            dust = dust + AME_OVER_DUST[0] * bump / modulus

    def log_value(beta):
        synchrotron = seds.synchrotron(NU, float(beta), model.fixed["curvature"]).numpy()
        mixing = np.kron(np.eye(2), np.stack([cmb, dust, synchrotron], 1))
        weighted = np.linalg.solve(n, mixing)
        gram = mixing.T @ weighted
        best = np.linalg.solve(gram, weighted.T @ d)
        off = d - mixing @ best
        value = -0.5 * off @ np.linalg.solve(n, off) - 0.5 * np.linalg.slogdet(gram)[1]
        return value - 0.5 * np.linalg.slogdet(n)[1] + stats.norm.logpdf(beta, *BETA_PRIOR)

    beta = np.linspace(-4.2, -1.8, 301)
    for _ in range(3):  # the grid closes in on the posterior
        value = np.array([log_value(b) for b in beta])
        weight = np.exp(value - special.logsumexp(value))
        mean = weight @ beta
        rms = max(np.sqrt(weight @ (beta - mean) ** 2), beta[1] - beta[0])
        grid, beta = beta, np.linspace(mean - 7 * rms, mean + 7 * rms, 301)
    return special.logsumexp(value) + np.log(grid[1] - grid[0])


def test_evidence_is_that_of_dense_matrices(pixels):
    data, covariance = pixels
    cases = [
        ("power_law", None),
        ("power_law_ame", None),
        ("curved", -0.052),
        ("curved_ame", -0.052),
    ]
    models = [candidate(name, curvature, priors=True) for name, curvature in cases]
    models += [replace(models[k], dust_moments=0.05) for k in (0, 1)]
    found = torch.stack([log_evidence(m, NU, data[:3], covariance[:3]) for m in models], 1)
    for k in range(3):
        wanted = [dense_evidence(m, data[k], covariance[k]) for m in models]
        assert np.ptp(found[k].numpy() - wanted) < 0.02  # up to a constant a pixel


# ---- what must not matter --------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FOUR, "varying_beta_d", "varying_dust", "dust_moments"])
def test_equal_noise_as_covariances_gives_what_the_rms_gives(templates, name):
    n = 40 if name == "varying_dust" else 200  # whose evidence has 25 nodes a vector
    vectors = draw_vectors(templates, INSTRUMENT, FOUR, 0.3, n, 3)
    square = vectors.sigma.double() ** 2
    covariance = torch.stack([square, 0 * square, square], 1)
    one = choose((name,), WIDE, vectors.data, vectors.sigma)
    other = choose((name,), WIDE, vectors.data, covariance)
    torch.testing.assert_close(one.chi2, other.chi2, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(one.log_evidence, other.log_evidence, rtol=0, atol=1e-4)
    assert torch.equal(one.dof, other.dof)
    for field in ("parameters", "covariance", "amplitudes", "amplitude_covariance"):
        a, b = (getattr(choice.fits[0], field) for choice in (one, other))
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@settings(max_examples=4)
@given(angle=st.floats(0, 2 * np.pi), factor=st.floats(1e-3, 1e3))
def test_axes_and_unit_do_not_matter(pixels, angle, factor):
    """Q and U turned with N, and all in another unit: the same chi-square and evidence."""
    data, covariance = (values[:12] for values in pixels)
    c, s = np.cos(angle), np.sin(angle)
    q, u = data.unbind(1)
    qq, qu, uu = covariance.unbind(1)
    turned = factor * torch.stack([c * q - s * u, s * q + c * u], 1)
    noise = factor**2 * torch.stack(
        [
            c * c * qq - 2 * c * s * qu + s * s * uu,
            c * s * (qq - uu) + (c * c - s * s) * qu,
            s * s * qq + 2 * c * s * qu + c * c * uu,
        ],
        1,
    )
    one, other = (choose(FOUR, NU, *pair) for pair in ((data, covariance), (turned, noise)))
    torch.testing.assert_close(one.chi2, other.chi2, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(one.probability(), other.probability(), rtol=0, atol=1e-5)
    for a, b in zip(one.fits, other.fits, strict=True):
        torch.testing.assert_close(a.parameters, b.parameters, rtol=1e-3, atol=1e-3)


def test_a_missing_band_is_a_band_less(pixels):
    data, covariance = pixels[0][:30].clone(), pixels[1][:30].clone()
    data[:, :, 1], covariance[:, 1, 12], covariance[:, :, 14] = torch.nan, torch.nan, torch.inf
    keep = [k for k in range(N_BAND) if k not in (1, 12, 14)]
    one = choose(FOUR, NU, data, covariance)
    other = choose(FOUR, NU[keep], data[..., keep], covariance[..., keep])
    assert (one.n_data == 28).all()
    torch.testing.assert_close(one.chi2, other.chi2, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(one.log_evidence, other.log_evidence, rtol=0, atol=1e-5)


def test_chi2_of_the_truth_is_that_of_its_degrees_of_freedom(templates):
    """Where one rms, the root of the mean square, would be far off."""
    quiet = draw_vectors(templates, INSTRUMENT, ("power_law",), 1e-6, 400, 3)
    covariance = covariance_of(torch.from_numpy(INSTRUMENT.noise_rms(16)).expand(400, -1), 1)
    found = choose(("power_law",), NU, with_noise_of(quiet.data.double(), covariance), covariance)
    assert stats.kstest(found.p_value[:, 0].numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda n: n[:, :2],
            r"expected noise of shape \(60, 17\) or \(60, 3, 17\), got \(60, 2, 17\)",
        ),
        (lambda n: n * torch.tensor([1, 30, 1])[:, None], "expected positive definite covariances"),
        (
            lambda n: n[:, [1, 0, 2]],
            "noise holds others; give them in the order QQ, QU, UU, or NaN",
        ),
        (lambda n: 0 * n, "expected positive definite covariances of Q and U, but"),
        (
            lambda n: 0 * n + torch.from_numpy(np.array([0.3, np.sqrt(0.3 * 1.4), 1.4]))[:, None],
            "expected positive definite covariances of Q and U, but",  # QU^2 rounds below QQ UU
        ),
    ],
)
def test_bad_input(pixels, change, message):
    data, covariance = pixels
    with pytest.raises(ShapeError, match=message):
        fit(candidate("power_law"), NU, data, change(covariance))
