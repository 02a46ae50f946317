"""Choice by fit: the evidence against brute force, the criteria against their definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from foreglow.errors import ModelError, ShapeError
from foreglow.recognition.evaluation.ceiling import draw_vectors
from foreglow.recognition.fits.choice import CRITERIA, choose
from foreglow.recognition.fits.integrand import AME_BRIGHTER, AME_OVER_DUST
from foreglow.recognition.fits.laplace import log_evidence
from foreglow.recognition.fits.likelihood import Point
from foreglow.recognition.fits.optimise import fit
from foreglow.recognition.fits.skymodel import (
    BETA_PRIOR,
    CURVATURE_PRIOR,
    candidate,
)
from foreglow.recognition.models import PROBLEMS
from foreglow.sky import seds
from foreglow.sky.instrument_files import load_instrument
from foreglow.sky.templates import load_templates

INSTRUMENT = load_instrument("quijote+litebird")
NU = torch.tensor(INSTRUMENT.frequency_ghz, dtype=torch.float64)
FOUR = PROBLEMS["four"]


@pytest.fixture(scope="module")
def quiet(templates):
    """Vectors of the four models at a twentieth of the noise."""
    return draw_vectors(templates, INSTRUMENT, FOUR, 0.05, 1500, 3)


@pytest.fixture(scope="module")
def choice(quiet):
    return choose(FOUR, NU, quiet.data, quiet.sigma)


def accuracy(choice, vectors, criterion):
    return float((choice.best(criterion) == vectors.label).double().mean())


# ---- evidence --------------------------------------------------------------------------------


def brute_force(data, sigma, curvature, ame):
    """Log evidence of one pixel, AME of each brightness weighed by its share."""
    if not ame:
        return brute_force_of_one(data, sigma, curvature, 0)
    return special.logsumexp(
        [brute_force_of_one(data, sigma, curvature, times) for times, _ in AME_BRIGHTER],
        b=[share for _, share in AME_BRIGHTER],
    )


def brute_force_of_one(data, sigma, curvature, ame):
    """Log evidence of one pixel on a grid of beta and C, in numpy; amplitudes in closed form.

    data (2, n_band), sigma (n_band,); `curvature` None where C is free; `ame` times the usual.
    """
    log_ratio = np.log(NU.numpy() / 23)
    cmb, dust, bump = (
        law(NU).numpy() for law in (seds.cmb, seds.modified_blackbody, seds.spinning_dust)
    )
    noise = np.diag(sigma**2)
    if ame:  # its prior, a Gaussian about a share of the dust, as noise and as part of the dust
        mixing = np.stack([cmb, dust, np.exp(-3 * log_ratio)], 1) / sigma[:, None]
        amplitude = np.linalg.lstsq(mixing, (data / sigma).T, rcond=None)[0][1]
        rms = ame * AME_OVER_DUST[1] * np.hypot(*amplitude)
        noise = noise + rms**2 * np.outer(bump, bump)
        dust = dust + ame * AME_OVER_DUST[0] * bump
    whitener = np.linalg.inv(np.linalg.cholesky(noise))
    z = whitener @ data.T

    def log_value(beta, c):  # (...,)
        power_law = np.exp((beta[..., None] + c[..., None] * log_ratio) * log_ratio)
        fixed = np.broadcast_to(np.stack([cmb, dust], -1), (*power_law.shape, 2))
        mixing = whitener @ np.concatenate([fixed, power_law[..., None]], -1)
        gram = np.swapaxes(mixing, -1, -2) @ mixing
        best = np.linalg.solve(gram, np.swapaxes(mixing, -1, -2) @ z)
        chi2 = ((z - mixing @ best) ** 2).sum((-1, -2))
        value = -0.5 * chi2 - np.linalg.slogdet(gram)[1] + 2 * np.log(np.diag(whitener)).sum()
        value += stats.norm.logpdf(beta, *BETA_PRIOR)
        return value + (stats.norm.logpdf(c, *CURVATURE_PRIOR) if curvature is None else 0)

    def on_grid(centre, half):  # nodes, their log values, and the log of their sum
        axes = [m + h * np.linspace(-1, 1, 61) for m, h in zip(centre, half, strict=True)]
        if curvature is not None:
            axes[1] = np.array([curvature])
        nodes = np.stack(np.meshgrid(*axes, indexing="ij"))
        value = log_value(*nodes)
        cell = np.prod([axis[1] - axis[0] for axis in axes if len(axis) > 1])
        return nodes, value, special.logsumexp(value) + np.log(cell)

    centre, half = np.array([-3.0, -0.05]), np.array([1.2, 0.3])
    for _ in range(6):  # the grid closes in on the posterior
        nodes, value, _ = on_grid(centre, half)
        weight = np.exp(value - value.max()) / np.exp(value - value.max()).sum()
        centre = (nodes * weight).sum((1, 2))
        scatter = np.sqrt(((nodes - centre[:, None, None]) ** 2 * weight).sum((1, 2)))
        half = np.minimum(half, np.maximum(6 * scatter, half / 5))
    return on_grid(centre, half)[2]


@pytest.mark.parametrize(("scale", "tolerance"), [(1.0, 0.02), (0.1, 0.01), (0.01, 0.002)])
def test_laplace_is_brute_force(templates, scale, tolerance):
    vectors = draw_vectors(templates, INSTRUMENT, FOUR, scale, 3, 5)
    cases = [(name, None) for name in FOUR] + [("curved", -0.052), ("curved_ame", -0.052)]
    models = [candidate(name, curvature, priors=True) for name, curvature in cases]
    found = torch.stack([log_evidence(m, NU, vectors.data, vectors.sigma) for m in models], 1)
    for k in range(3):
        pixel = vectors.data[k].double().numpy(), vectors.sigma[k].double().numpy()
        expected = [brute_force(*pixel, m.fixed.get("curvature"), m.ame) for m in models]
        assert np.ptp(found[k].numpy() - expected) < tolerance  # up to a constant a pixel


def test_evidence_is_about_the_lowest_minimum_where_no_model_fits():
    """Bright dust of another index: the mean of the prior leads many pixels to a wrong peak."""
    generator = torch.Generator().manual_seed(1)
    dust = seds.modified_blackbody(NU, 1.7, 20.0)
    spectra = torch.stack([seds.cmb(NU), dust, seds.synchrotron(NU, -3.0)])
    scale = torch.tensor([0.5, 10.0, 20.0])
    amplitudes = torch.randn(40, 2, 3, generator=generator, dtype=torch.float64) * scale
    sigma = torch.from_numpy(INSTRUMENT.noise_rms(16)).expand(40, -1)
    model = candidate("power_law", priors=True)
    found = fit(model, NU, amplitudes @ spectra, sigma)
    pull = (found.parameters[:, 0] - BETA_PRIOR[0]) / BETA_PRIOR[1]
    evidence = log_evidence(model, NU, amplitudes @ spectra, sigma)
    volume = evidence + 0.5 * (found.chi2 + pull**2)  # its logarithm differs little
    assert float(volume.max() - volume.min()) < 30


def test_evidence_is_a_number_where_nothing_fits_by_far():
    """Bands a tenth off their centres and little noise: descents ran to where spectra overflow."""
    generator = torch.Generator().manual_seed(2)
    draw = {"generator": generator, "dtype": torch.float64}
    true = NU * (1 + 0.1 * torch.randn(400, 1, len(NU), **draw))
    scale = torch.tensor([0.5, 10.0, 100.0, 10.0])
    amplitudes = torch.randn(400, 2, 4, **draw) * scale
    laws = (seds.cmb, seds.modified_blackbody, seds.spinning_dust)
    spectra = torch.stack([*(law(true) for law in laws), seds.synchrotron(true, -3.0)], -1)
    data = (spectra * amplitudes[:, :, None, [0, 1, 3, 2]]).sum(-1)
    sigma = 0.01 * torch.from_numpy(INSTRUMENT.noise_rms(16)).expand(400, -1)
    for name in FOUR:
        assert torch.isfinite(log_evidence(candidate(name, priors=True), NU, data, sigma)).all()


def test_evidence_chooses_far_better_than_chi2(choice, quiet):
    by = {criterion: accuracy(choice, quiet, criterion) for criterion in CRITERIA}
    assert by["evidence"] > 0.92
    assert by["evidence"] > by["bic"] > by["aic"] > by["chi2"]
    assert by["evidence"] > by["chi2"] + 0.2


def test_evidence_is_a_probability(templates):
    """Where it says two thirds it is right two times in three."""
    vectors = draw_vectors(templates, INSTRUMENT, PROBLEMS["curvature"], 0.1, 3000, 8)
    found = choose(PROBLEMS["curvature"], NU, vectors.data, vectors.sigma, -0.052)
    probability = found.probability()
    right = found.best() == vectors.label
    for low, high in ((0.5, 0.8), (0.8, 0.95), (0.95, 1.0)):
        largest = probability.amax(1)
        some = (largest >= low) & (largest <= high)
        error = 4 * 0.5 / some.sum().sqrt()
        assert float(right[some].double().mean()) == pytest.approx(
            float(largest[some].mean()), abs=float(error)
        )


def test_ame_over_dust_is_that_of_the_mock():
    """Quantiles that its comment names, and no other shares of the three make it much likelier."""
    sky = load_templates("mock", 64)
    ratio = seds.AME_POLARISATION_FRACTION * sky.ame / np.hypot(*sky.dust)
    quantiles = np.quantile(ratio, [0.5, 0.95, 0.999])
    np.testing.assert_allclose(quantiles, [0.13, 1.0, 12.0], rtol=0.1)
    times, share = np.array(AME_BRIGHTER).T
    assert share.sum() == pytest.approx(1)
    mean, rms = np.array(AME_OVER_DUST)[:, None] * times
    # across the dust there is nothing
    density = stats.norm.logpdf(ratio[:, None], mean, rms) - np.log(rms)
    best = share
    for _ in range(200):  # expectation and maximisation
        best = special.softmax(density + np.log(best), 1).mean(0)
    likelier = special.logsumexp(density, 1, b=best) - special.logsumexp(density, 1, b=share)
    assert likelier.mean() < 0.03


def test_evidence_knows_how_bright_ame_may_be(templates):
    """Where the dust cancels along the line of sight, AME is many times what it is elsewhere."""
    vectors = draw_vectors(templates, INSTRUMENT, FOUR, 0.03, 6000, 8)
    found = choose(FOUR, NU, vectors.data, vectors.sigma, -0.052)
    largest, right = found.probability().amax(1), found.best() == vectors.label
    sure = largest > 0.95
    wrong, expected = int((sure & ~right).sum()), float((1 - largest[sure]).sum())
    assert sure.sum() > 2500
    assert wrong < expected + 3 * expected**0.5  # one Gaussian for all pixels: twice as many


# ---- criteria --------------------------------------------------------------------------------


def test_criteria_by_their_definitions(choice):
    n_amplitude, n_spectral = np.array([6, 6, 8, 8]), np.array([1, 2, 1, 2])
    chi2, k = choice.chi2.numpy(), n_amplitude + n_spectral
    assert choice.n_parameters[0].tolist() == k.tolist()
    assert (choice.n_data == 34).all()
    np.testing.assert_array_equal(choice.dof.numpy(), np.tile(34 - k, (len(chi2), 1)))
    np.testing.assert_allclose(choice.reduced_chi2.numpy(), chi2 / (34 - k))
    np.testing.assert_allclose(choice.aic.numpy(), chi2 + 2 * k)
    np.testing.assert_allclose(choice.bic.numpy(), chi2 + np.log(34) * k)
    np.testing.assert_allclose(choice.p_value.numpy(), stats.chi2.sf(chi2, 34 - k), rtol=1e-9)
    wanted = {"chi2": chi2 / (34 - k), "aic": choice.aic.numpy(), "bic": choice.bic.numpy()}
    for criterion, value in wanted.items():
        np.testing.assert_array_equal(choice.best(criterion).numpy(), value.argmin(1))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_scores_are_normalised_and_name_the_best(choice, criterion):
    score = choice.log_score(criterion)
    torch.testing.assert_close(score.logsumexp(1), torch.zeros(len(score)).double())
    torch.testing.assert_close(choice.probability(criterion), score.exp())
    assert (choice.best(criterion) == score.argmax(1)).all()


def test_models_of_as_many_parameters_are_weighed_by_their_likelihood(quiet):
    found = choose(("power_law", "curved"), NU, quiet.data[:50], quiet.sigma[:50], -0.052)
    assert (found.dof[:, 0] == found.dof[:, 1]).all()
    likelihood = torch.softmax(-0.5 * found.chi2, 1)
    for criterion in ("chi2", "aic", "bic"):
        torch.testing.assert_close(found.probability(criterion), likelihood)


def test_p_values_of_the_truth_are_uniform(choice, quiet):
    truth = choice.p_value[torch.arange(len(quiet.label)), quiet.label].numpy()
    assert stats.kstest(truth, "uniform").pvalue > 1e-3
    assert float(choice.none_fits(1e-3).double().mean()) < 5e-3


def test_none_fits_what_is_no_mixture_of_these(quiet):
    data = quiet.data[:20].clone()
    data[:10, :, 8] += 100 * quiet.sigma[:10, 8:9]  # one band far off
    found = choose(FOUR, NU, data, quiet.sigma[:20])
    assert found.none_fits()[:10].all()
    assert not found.none_fits()[10:].any()
    assert found.none_fits(level=0.0).sum() == 0


def test_reduced_chi2_on_fgbusters_pixels(fgbuster):
    """As its own fits say, but for some in a worse minimum."""
    data = torch.from_numpy(fgbuster["data_uK_RJ"])
    sigma = torch.from_numpy(fgbuster["sigma_uK_RJ"]).expand(len(data), -1)
    nu = torch.from_numpy(fgbuster["frequency_ghz"])
    found = choose(("power_law", "curved"), nu, data, sigma)
    theirs = np.stack([fgbuster["chi2_power_law"], fgbuster["chi2_curved"]], 1)
    same = (np.abs(found.chi2.numpy() - theirs) < 1e-3).all(1)
    assert same.mean() > 0.85
    assert np.array_equal(found.best("chi2").numpy()[same], (theirs / [27, 26]).argmin(1)[same])


# ---- pixels ----------------------------------------------------------------------------------


@settings(max_examples=6)
@given(
    order=st.permutations(range(12)),
    factor=st.floats(1e-6, 1e6),
    angle=st.floats(0, 2 * np.pi),
)
def test_order_unit_and_axes_do_not_matter(quiet, choice, order, factor, angle):
    """Pixels shuffled, all in another unit, Q and U turned: the same choice."""
    turn = torch.tensor([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    data = factor * (turn @ quiet.data[:12].double())[order]
    found = choose(FOUR, NU, data, factor * quiet.sigma[:12][order].double())
    torch.testing.assert_close(found.chi2, choice.chi2[:12][order], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(
        found.probability(), choice.probability()[:12][order], atol=1e-3, rtol=0
    )


def test_a_missing_band_is_a_band_less(quiet):
    keep = [k for k in range(17) if k not in (1, 12)]
    holed = quiet.data[:30].clone()
    holed[:, :, 1], holed[:, :, 12] = torch.nan, -1.6375e30
    one = choose(FOUR, NU, holed, quiet.sigma[:30])
    other = choose(FOUR, NU[keep], quiet.data[:30][:, :, keep], quiet.sigma[:30][:, keep])
    assert (one.n_data == 30).all()
    for field in ("chi2", "p_value"):
        torch.testing.assert_close(getattr(one, field), getattr(other, field))
    torch.testing.assert_close(one.log_evidence, other.log_evidence)


def test_pixels_that_one_model_lacks_bands_for_are_not_fitted(quiet):
    data = quiet.data[:6].clone()
    data[0] = torch.nan
    data[1, :, 5:] = torch.nan  # enough for a power law, not for a curved one with AME
    found = choose(FOUR, NU, data, quiet.sigma[:6])
    assert found.fitted.tolist() == [False, False, True, True, True, True]
    assert torch.isfinite(found.chi2[1, 0])
    for criterion in CRITERIA:
        assert found.best(criterion)[:2].tolist() == [-1, -1]
        assert found.probability(criterion)[:2].isnan().all()
        assert (found.best(criterion)[2:] >= 0).all()
    assert not found.none_fits()[:2].any()
    assert not found.converged[:2].any()


@pytest.mark.parametrize("factor", [0.0, 1e-30, 1e25])
def test_odd_pixels_stop_nothing(quiet, factor):
    """Zeros where a map was not observed, a unit mistaken: an answer, or none, but no failure."""
    data = quiet.data[:4].clone().double()
    data[1:3] *= factor
    found = choose(FOUR, NU, data, quiet.sigma[:4])
    alone = choose(FOUR, NU, data[[0, 3]], quiet.sigma[[0, 3]])
    torch.testing.assert_close(found.probability()[[0, 3]], alone.probability(), atol=1e-5, rtol=0)
    assert (found.probability().isfinite().all(1) == found.fitted).all()


def test_a_step_so_long_that_spectra_overflow_is_not_taken():
    """From the mean of the priors of a wrong model of a bright pixel, found in 60,000."""
    q = [
        154.80423, 88.9986038, 1.90627229, 0.924492598, 0.473912328, 0.271808952, 0.106206164,
        -0.032975141, -0.137527868, -0.284004986, -0.42757839, -0.594584584, -0.779622257,
        -1.02912796, -1.29693735, -1.61866295, -1.95290124,
    ]  # fmt: skip
    u = [
        -514.728027, -300.954346, -9.35897923, -4.80386496, -3.2267282, -2.76660228, -2.58727074,
        -2.65817022, -2.85234499, -3.34743404, -4.00529099, -4.90267229, -5.95897293, -7.45347023,
        -9.14173889, -11.2208834, -13.4418564,
    ]  # fmt: skip
    sigma = 0.1 * torch.from_numpy(INSTRUMENT.noise_rms(16)).float()[None]
    evidence = log_evidence(
        candidate("curved", priors=True), INSTRUMENT.bands, torch.tensor([[q, u]]), sigma
    )
    assert float(evidence) == pytest.approx(-1690.74, abs=0.1)


def test_a_point_of_overflown_spectra_is_no_lower():
    """Its cost is -infinity, or no number."""
    none = torch.zeros(0, 4)
    costs = [-torch.inf, torch.nan, -1e14 + 0.05, -0.5], [-1e14, -1e14, -1e14, -1.0]
    here, there = (Point(none, torch.tensor(c, dtype=torch.float64), *[none] * 3) for c in costs)
    assert here.no_higher(there).tolist() == [False, False, True, False]


def test_bad_input(quiet, choice):
    with pytest.raises(
        ModelError, match="expected a criterion among chi2, aic, bic, evidence, got"
    ):
        choice.best("dic")
    with pytest.raises(ModelError, match="expected models among power_law"):
        choose(("straight",), NU, quiet.data, quiet.sigma)
    with pytest.raises(ShapeError, match=r"expected data of shape \(n, 2, 17\)"):
        choose(FOUR, NU, quiet.data[:, 0], quiet.sigma)
    with pytest.raises(ShapeError, match="expected noise above zero"):
        choose(FOUR, NU, quiet.data[:2], 0 * quiet.sigma[:2])
    with pytest.raises(ModelError, match="but those of beta_s, curvature are flat; take candidate"):
        log_evidence(candidate("curved"), NU, quiet.data, quiet.sigma)
