"""Candidate models beyond the paper's four: other curvatures, and dust of another kind."""

import numpy as np
import pytest
import torch

from foreglow.errors import ForeglowError, ModelError
from foreglow.recognition.evaluation import ceiling as evidence
from foreglow.recognition.fits.choice import choose
from foreglow.recognition.fits.laplace import log_evidence
from foreglow.recognition.fits.optimise import fit
from foreglow.recognition.fits.skymodel import (
    FREE_DUST_TEMPERATURE,
    SkyModel,
    candidate,
    fixed_spectra,
)
from foreglow.recognition.models import MODELS, PROBLEMS, ForegroundModel, dust_tests, models_of
from foreglow.recognition.network.features import CleanedLogFeatures
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.recognition.network.train import TrainingPlan, train
from foreglow.recognition.simulation.skies import simulate_sky
from foreglow.recognition.simulation.vectors import NoiseLaw, VectorSimulator
from foreglow.sky import seds

DUSTS = ("power_law", "varying_beta_d", "two_temperatures", "varying_dust", "dust_moments")
ALL = (*DUSTS[:3], "strongly_curved")


def draw(templates, instrument, models, scale, n=400):
    generator = torch.Generator().manual_seed(4)
    return VectorSimulator(templates, instrument, models).draw(n, NoiseLaw.fixed(scale), generator)


def test_models_by_problem_or_by_name():
    assert models_of("four") == PROBLEMS["four"]
    assert models_of("power_law, two_temperatures") == ("power_law", "two_temperatures")
    for wrong in ("power_law", "power_law,power_law", "power_law,bent", "five", ""):
        got = ", ".join(name.strip() for name in wrong.split(","))
        with pytest.raises(ForeglowError, match=f"models power_law, .*, got '{got}'"):
            models_of(wrong)


def test_a_model_has_one_kind_of_dust():
    for other in ({"two_temperatures": True}, {"dust_moments": 0.1}):
        for scatter in ({"beta_d_scatter": 0.1}, {"dust_temperature_scatter": 1.0}):
            with pytest.raises(ModelError, match="of one kind, got dust of a varying index or"):
                ForegroundModel(**other, **scatter)
    with pytest.raises(ModelError, match="line of sight and two temperatures; leave all but one"):
        ForegroundModel(two_temperatures=True, dust_moments=0.1)
    for wrong in ({"dust_temperature_scatter": -1.0}, {"dust_moments": float("nan")}):
        (name,) = wrong
        with pytest.raises(ModelError, match=f"expected {name} from 0 to (3|0.5), got (-1|nan)"):
            ForegroundModel(**wrong)
    assert dust_tests(PROBLEMS["four"]) == ()
    assert dust_tests(ALL) == ("beta", "two_temperatures")
    assert dust_tests(("power_law", "dust_moments")) == ("beta",)
    assert dust_tests(DUSTS) == ("beta", "temperature", "two_temperatures")


def test_two_temperatures_are_those_of_the_authors():
    """Values of i_2comp of Meisner's public code, in brightness over that at 353 GHz."""
    nu = torch.tensor([100.0, 143.0, 217.0, 353.0, 545.0], dtype=torch.float64)
    hot, cold = 16.0, 9.978293339628078  # their get_t1(16.)
    x = nu / 2997.92458

    def intensity(nu, x):
        h_nu = 0.0479924335 * nu
        one = 0.0485 * 8.219 * x ** (3 + 1.63) / torch.expm1(h_nu / cold)
        return one + (1 - 0.0485) * x ** (3 + 2.82) / torch.expm1(h_nu / hot)

    theirs = intensity(nu, x) / intensity(nu[3], x[3]) * (353 / nu) ** 2
    torch.testing.assert_close(seds.two_temperature_dust(nu), theirs, rtol=1e-4, atol=0)


def test_maps_and_vectors_follow_the_same_law(templates, instrument):
    """Rms of each band over the sky, without noise, model by model."""
    rng = np.random.default_rng(3)
    for name in DUSTS:
        models, label = (name, "curved"), np.zeros(3072, int)
        sky = simulate_sky(templates, instrument, models, label, 0.0, rng)
        vectors = draw(templates, instrument, models, 0.0, 40000)
        drawn = vectors.data[vectors.label == 0]
        ratio = drawn.square().mean((0, 1)) / torch.from_numpy(sky.data).square().mean((0, 2))
        high = np.array(instrument.frequency_ghz) > 200
        np.testing.assert_allclose(ratio[high], 1.09, rtol=0.08)  # 1 + 0.3^2


def test_two_temperatures_are_in_the_data(templates, instrument):
    models, label = ("two_temperatures", "curved"), np.zeros(3072, int)
    sky = simulate_sky(templates, instrument, models, label, 0.0, np.random.default_rng(0))
    bands, model = instrument.bands, candidate("two_temperatures")
    dust = fixed_spectra(model, bands)[:, model.components.index("dust")]
    torch.testing.assert_close(dust, seds.two_temperature_dust(bands.node_ghz))
    data = torch.from_numpy(sky.data[..., :200].transpose(2, 0, 1).copy())
    sigma = torch.from_numpy(1e-2 * instrument.noise_rms(16)).expand(200, -1)
    chosen = choose(("power_law", "two_temperatures"), bands, data, sigma)
    assert (chosen.chi2[:, 1] < 1).all()
    assert chosen.chi2[:, 0].median() > 100


def test_evidence_with_a_free_beta_d_is_the_integral(templates, instrument):
    """Against a fine grid over beta_d, whose nodes know nothing of the fit."""
    vectors = draw(templates, instrument, ("power_law", "varying_beta_d"), 0.5, 120)
    model = candidate("varying_beta_d", priors=True)
    found = log_evidence(model, instrument.bands, vectors.data, vectors.sigma)
    grid = np.linspace(-4, 4, 81) * 0.05
    terms = []
    for shift in grid:
        fixed = SkyModel(model.beta_s, beta_d=seds.DUST_BETA + shift)
        terms.append(log_evidence(fixed, instrument.bands, vectors.data, vectors.sigma))
    weight = np.exp(-0.5 * (grid / 0.05) ** 2) * (grid[1] - grid[0]) / (0.05 * np.sqrt(2 * np.pi))
    exact = (torch.stack(terms) + torch.log(torch.from_numpy(weight))[:, None]).logsumexp(0)
    error = fit(model, instrument.bands, vectors.data, vectors.sigma).covariance[:, 1, 1].sqrt()
    resolved = error > 0.0075  # a step and a half of the grid: enough for a Gaussian
    assert resolved.sum() > 20
    torch.testing.assert_close(found[resolved], exact[resolved], rtol=0, atol=0.05)


def test_fits_tell_the_dusts_apart(templates, instrument):
    vectors = draw(templates, instrument, ALL, 0.05, 300)
    chosen = choose(ALL, instrument.bands, vectors.data, vectors.sigma)
    assert chosen.fitted.all()
    assert (chosen.best() == vectors.label).float().mean() > 0.9


def test_the_network_sees_other_dust_where_it_is_a_candidate(templates, instrument):
    vectors = draw(templates, instrument, DUSTS, 0.1, 3000)
    plain = CleanedLogFeatures(instrument)(vectors.data, vectors.sigma)
    seen = CleanedLogFeatures(instrument, dust_tests(DUSTS))(vectors.data, vectors.sigma)
    torch.testing.assert_close(seen[:, : plain.shape[1]], plain)
    test = seen[:, plain.shape[1] + 8]  # of the third departure, along the dust
    two = MODELS["two_temperatures"]
    assert two.two_temperatures
    assert test[vectors.label == 2].median() > test[vectors.label == 0].median() + 0.5


def test_a_later_test_of_the_dust_does_not_see_an_earlier_departure(templates, instrument):
    """Though its spectrum is 99.5% the same."""
    models = models_of({"index": {"beta_d_scatter": 0.01}, "power_law": {},
                        "warm": {"dust_temperature_scatter": 3}})  # fmt: skip
    vectors = draw(templates, instrument, models, 0.3, 3000)
    seen = CleanedLogFeatures(instrument, dust_tests(models))(vectors.data, vectors.sigma)
    index, temperature = (seen[:, k].abs() for k in (-8, -4))  # along the dust
    by_beta, none, by_t = (temperature[vectors.label == k].median() for k in range(3))
    assert by_beta < 1.3 * none
    assert by_t > 2 * none
    assert index[vectors.label == 0].median() > 2 * index[vectors.label == 1].median()


def test_a_network_of_other_candidates_trains_and_is_kept(tmp_path, templates, instrument):
    model = Recogniser.untrained("foreglow", instrument, ALL, 0)
    plan = TrainingPlan("many_noise", 1, 40, 512, fixed_set=False, learning_rate=2e-3,
                        noise_scale=0.05, sample=4096)  # fmt: skip
    history = train(model, templates, plan, tmp_path / "work", 0, torch.device("cpu"))
    assert history["validation_accuracy"][-1] > 0.5
    model.save(tmp_path / "m")
    vectors = draw(templates, instrument, ALL, 0.05, 50)
    again = Recogniser.load(tmp_path / "m").log_probability(vectors.data, vectors.sigma)
    torch.testing.assert_close(again, model.log_probability(vectors.data, vectors.sigma))


def test_the_ceiling_refuses_other_dust(templates, instrument):
    for name in DUSTS[1:]:
        with pytest.raises(ModelError, match="dust of one temperature and index"):
            evidence.ceiling(templates, instrument, ("power_law", name), 1.0, 10, 0)


def test_a_flat_prior_has_no_evidence(instrument):
    free = SkyModel(dust_temperature=FREE_DUST_TEMPERATURE)
    with pytest.raises(ModelError, match="but those of beta_s, dust_temperature are flat"):
        log_evidence(free, instrument.bands, torch.ones(1, 2, 17), torch.ones(1, 17))
