"""Whether a candidate fits, quickly: chi-square of the training law, and p-values that are ones."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from foreglow.recognition.fits.goodness import LEVEL, chi2_as_trained, goodness_of_fit
from foreglow.recognition.fits.optimise import fit
from foreglow.recognition.fits.skymodel import candidate
from foreglow.recognition.models import MODELS, PROBLEMS
from foreglow.recognition.simulation.vectors import NoiseLaw, VectorSimulator
from foreglow.sky import seds

FOUR = PROBLEMS["four"]


@pytest.fixture(scope="module")
def simulator(templates, instrument):
    return VectorSimulator(templates, instrument, FOUR)


def draw(simulator, n, scale, seed=0):
    vectors = simulator.draw(n, NoiseLaw.fixed(scale), torch.Generator().manual_seed(seed))
    return vectors.data, vectors.sigma, vectors.label


def certain(label, models=FOUR):
    """Log-probabilities by which the true model is the most probable."""
    return torch.log(0.1 + torch.nn.functional.one_hot(label, len(models)).double())


def by_fits(name, instrument, data, sigma):
    model = candidate(name, MODELS[name].curvature or None, priors=True)
    found = fit(model, instrument.bands, data, sigma)
    pull = sum(
        ((values - free.prior[0]) / free.prior[1]) ** 2
        for free, values in zip(model.free.values(), found.parameters.T, strict=True)
    )
    return found.chi2 + pull


@pytest.mark.parametrize("scale", [0.001, 0.1, 1.0])
@pytest.mark.parametrize("name", FOUR)
def test_chi_square_is_that_of_the_fits(simulator, instrument, name, scale):
    data, sigma, label = draw(simulator, 1200, scale)
    mine = label == FOUR.index(name)
    got, dof = chi2_as_trained(name, instrument, data[mine], sigma[mine])
    assert dof == 2 * (17 - (4 if "ame" in name else 3))
    wanted = by_fits(name, instrument, data[mine], sigma[mine])
    torch.testing.assert_close(got, wanted, rtol=0, atol=0.02)


@pytest.mark.parametrize("scale", [0.01, 1.0])
def test_p_values_of_true_models_are_uniform(simulator, instrument, scale):
    data, sigma, label = draw(simulator, 20000, scale)
    p_value, none_fits = goodness_of_fit(FOUR, instrument, data, sigma, certain(label))
    assert kstest(p_value.numpy(), "uniform").pvalue > 1e-3
    # a binomial: 20 are expected below the level, fewer where another candidate fits as well
    assert none_fits.sum() <= (p_value < LEVEL).sum() <= 40
    assert torch.equal(none_fits & (p_value >= LEVEL), torch.zeros_like(none_fits))


def test_another_candidate_may_fit(simulator, instrument):
    """Of a bright curved pixel that is taken for a power law, the latter does not fit."""
    data, sigma, label = draw(simulator, 4000, 0.001)
    wrong = certain((label + 1) % 4)
    p_value, none_fits = goodness_of_fit(FOUR, instrument, data, sigma, wrong)
    assert (p_value < LEVEL).double().mean() > 0.4
    assert none_fits.double().mean() < 0.005


def test_noise_of_any_shape(simulator, instrument):
    """Where the shape differs from pixel to pixel the fits are asked: the same, for the same."""
    data, sigma, label = draw(simulator, 400, 0.1)
    depth = torch.linspace(0.5, 2.0, 400)[:, None]
    score = certain(label)
    alike, _ = goodness_of_fit(FOUR, instrument, data * depth[:, None], sigma * depth, score)
    plain, _ = goodness_of_fit(FOUR, instrument, data, sigma, score)
    torch.testing.assert_close(alike, plain, rtol=0, atol=0.01)
    odd = sigma.clone()
    odd[0, 3] *= 1.5
    shaped, _ = goodness_of_fit(FOUR, instrument, data, odd, score)
    torch.testing.assert_close(shaped[1:], plain[1:], rtol=0, atol=1e-3)
    assert abs(shaped[0] - plain[0]) > 1e-3


def test_what_no_candidate_knows(simulator, instrument):
    """Dust of another index is rejected, unless a candidate lets it vary."""
    data, sigma, label = draw(simulator, 300, 0.1)
    frequency = torch.tensor(instrument.frequency_ghz)
    other = seds.modified_blackbody(frequency, 1.74, 20.0) - seds.modified_blackbody(frequency)
    dust = 20.0 * torch.tensor([0.6, -0.8])[:, None]
    odd = data + (dust * other.float())[None]
    _, none_fits = goodness_of_fit(FOUR, instrument, odd, sigma, certain(label))
    assert none_fits.double().mean() > 0.95
    _, none_fits = goodness_of_fit(FOUR, instrument, data, sigma, certain(label))
    assert none_fits.double().mean() < 0.02
    models = (*FOUR, "varying_beta_d")
    varied = certain(torch.full_like(label, 4), models)
    power_law = label == 0
    p_value, none_fits = goodness_of_fit(
        models, instrument, data[power_law], sigma[power_law], varied[power_law]
    )
    assert none_fits.double().mean() < 0.05
    assert np.median(p_value) > 0.2


def test_an_index_beyond_the_prior_does_not_fit(instrument):
    frequency = torch.tensor(instrument.frequency_ghz)
    sigma = torch.from_numpy(0.01 * instrument.noise_rms(16)).float().expand(2, -1)
    beta = torch.tensor([-3.2, -4.0], dtype=torch.float64)[:, None]
    data = 30 * seds.synchrotron(frequency, beta)[:, None].float().expand(-1, 2, -1)
    chi2, _ = chi2_as_trained("power_law", instrument, data, sigma)
    assert chi2.tolist() == pytest.approx([1.0, 25.0], rel=1e-2)  # the pull of the prior alone
