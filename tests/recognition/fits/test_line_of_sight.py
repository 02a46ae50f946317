"""Dust that varies: its temperature from pixel to pixel, its index along a line of sight."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from foreglow.recognition.fits.choice import choose
from foreglow.recognition.fits.goodness import goodness_of_fit
from foreglow.recognition.fits.laplace import log_evidence
from foreglow.recognition.fits.optimise import fit
from foreglow.recognition.fits.skymodel import candidate, fixed_spectrum
from foreglow.recognition.models import models_of
from foreglow.recognition.simulation.skies import simulate_sky
from foreglow.recognition.simulation.vectors import NoiseLaw, VectorSimulator
from foreglow.sky import seds

NU = torch.tensor([40.0, 100.0, 150.0, 217.0, 280.0, 353.0, 402.0], dtype=torch.float64)
WARM = models_of({"power_law": {}, "warm": {"dust_temperature_scatter": 1.5}})


def draw(templates, instrument, models, scale, n=300):
    generator = torch.Generator().manual_seed(4)
    return VectorSimulator(templates, instrument, models).draw(n, NoiseLaw.fixed(scale), generator)


# ---- what they emit --------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [(), ((100.0, 1.0), (400.0, 1.2))])
def test_first_moments_are_derivatives_of_the_spectrum(factor):
    model = replace(candidate("dust_moments"), dust_factor=factor)
    step = 1e-5

    def dust(beta=seds.DUST_BETA, temperature=seds.DUST_TEMPERATURE):
        other = replace(model, beta_d=beta, dust_temperature=temperature)
        return fixed_spectrum(other, "dust", NU)

    by_beta = (dust(seds.DUST_BETA + step) - dust(seds.DUST_BETA - step)) / (2 * step)
    moment = fixed_spectrum(model, "dust_moment", NU)
    torch.testing.assert_close(moment, by_beta, rtol=1e-8, atol=1e-8)
    by_t = (dust(temperature=20.0 + step) - dust(temperature=20.0 - step)) / (2 * step)
    slope = seds.dust_temperature_slope(NU, 20.0) * dust()
    torch.testing.assert_close(slope, by_t, rtol=1e-6, atol=1e-8)


def clouds(width, n=400):
    """Q + iU of clouds along a line of sight, their sum, and its first moment over their sum."""
    rng = np.random.default_rng(6)
    amplitude = torch.from_numpy(rng.gamma(2.0, 1.0, n) * np.exp(2j * rng.normal(0.3, 0.8, n)))
    shift = width * torch.from_numpy(rng.standard_normal(n))
    sed = seds.modified_blackbody(NU, seds.DUST_BETA + shift[:, None])
    emission = (amplitude[:, None] * sed).sum(0)
    return emission, amplitude.sum(), (amplitude * shift).sum()


def test_a_line_of_sight_is_its_first_moment_to_second_order():
    """Of many clouds of other indices and angles: half the width leaves a quarter."""
    model, left = candidate("dust_moments"), []
    dust, moment = (fixed_spectrum(model, name, NU) for name in ("dust", "dust_moment"))
    for width in (0.1, 0.05, 0.025):
        emission, zeroth, first = clouds(width)
        assert float((emission - zeroth * dust)[0].abs() / emission[0].abs()) > 0.01 * width
        left.append((emission - zeroth * dust - first * moment).abs().amax())
    assert left[1] / left[0] == pytest.approx(0.25, rel=0.1)
    assert left[2] / left[1] == pytest.approx(0.25, rel=0.05)
    assert left[0] < 0.03 * emission.abs().amax()


def test_a_moment_turns_the_angle_with_frequency():
    emission, _, _ = clouds(0.1)
    angle = torch.rad2deg(0.5 * torch.angle(emission / emission[5]))  # from that at 353 GHz
    assert angle[0].abs() > 0.5 > 0.01 > angle[5].abs()
    along, across = clouds(0.1)[1:]
    share = (across / along).imag
    assert float(angle[3]) == pytest.approx(
        float(torch.rad2deg(0.5 * share * torch.log(NU[3] / 353))), rel=0.1
    )


def test_the_law_of_training_and_of_skies(templates, instrument):
    """Fits of noiseless data find the moments and temperatures that the law says."""
    sigma = torch.from_numpy(1e-3 * instrument.noise_rms(16)).expand(600, -1)
    for name, rms in (("dust_moments", 0.05), (WARM[1], 1.5)):
        models, model = (name,), candidate(name)
        sky = simulate_sky(
            templates, instrument, models, np.zeros(3072, int), 0.0, np.random.default_rng(3)
        )
        for data in (
            sky.vectors()[0][:600],
            draw(templates, instrument, models, 0.0, 600).data,
        ):
            found = fit(model, instrument.bands, data, sigma)
            if model.dust_moments:
                place = model.components.index
                dust = found.amplitudes[..., place("dust")].norm(dim=1, keepdim=True)
                drawn = found.amplitudes[..., place("dust_moment")] / dust
            else:
                drawn = found.parameters[:, 1] - 20.0
            spread = drawn.quantile(torch.tensor([0.1587, 0.8413], dtype=torch.float64)).diff() / 2
            assert float(spread) == pytest.approx(rms, rel=0.12)


# ---- fits and evidence -----------------------------------------------------------------------


def test_an_injected_moment_is_found_within_its_error(instrument):
    bands, model = instrument.bands, candidate("dust_moments")
    nu, rng = bands.node_ghz, np.random.default_rng(1)
    wanted = torch.tensor([0.3, -0.5], dtype=torch.float64)
    each = {
        "cmb": (seds.cmb(nu), torch.tensor([1.0, -2.0])),
        "dust": (seds.modified_blackbody(nu), torch.tensor([8.0, 3.0])),
        "dust_moment": (fixed_spectrum(model, "dust_moment", nu), wanted),
        "synchrotron": (seds.synchrotron(nu, -3.1), torch.tensor([20.0, 30.0])),
    }
    clean = sum(qu[:, None] * spectrum for spectrum, qu in each.values())
    sigma = torch.from_numpy(0.1 * instrument.noise_rms(16)).expand(800, -1)
    noise = sigma[:, None] * torch.from_numpy(rng.standard_normal((800, 2, len(nu))))
    found = fit(model, bands, clean + noise, sigma)
    assert model.components == tuple(each)
    place, m = model.components.index("dust_moment"), len(model.components)
    variance = found.amplitude_covariance.diagonal(dim1=1, dim2=2).unflatten(1, (2, m))
    pull = (found.amplitudes[..., place] - wanted) / variance[..., place].sqrt()
    assert pull.mean(0).abs().max() < 0.15
    assert pull.std(0).numpy() == pytest.approx(1.0, abs=0.1)
    assert variance[..., place].sqrt().max() < 0.1
    assert float((found.chi2 / found.dof).mean()) == pytest.approx(1.0, abs=0.03)


def test_an_injected_temperature_is_found_within_its_error(instrument):
    bands, rng = instrument.bands, np.random.default_rng(1)
    nu, temperature = bands.node_ghz, torch.linspace(17, 23, 500, dtype=torch.float64)
    clean = torch.tensor([8.0, 3.0])[:, None] * seds.modified_blackbody(
        nu, temperature=temperature[:, None, None]
    )
    clean = clean + torch.tensor([20.0, 30.0])[:, None] * seds.synchrotron(nu, -3.1)
    sigma = torch.from_numpy(0.1 * instrument.noise_rms(16)).expand(500, -1)
    data = clean + sigma[:, None] * torch.from_numpy(rng.standard_normal(clean.shape))
    found = fit(candidate(WARM[1]), bands, data, sigma)
    place = list(found.model.free).index("dust_temperature")
    error = found.covariance[:, place, place].sqrt()
    pull = (found.parameters[:, place] - temperature) / error
    assert found.converged.all()
    assert error.max() < 1.0
    assert abs(float(pull.mean())) < 0.15
    assert float(pull.std()) == pytest.approx(1.0, abs=0.1)


def test_evidence_with_free_dust_is_the_integral(templates, instrument):
    """Against a fine grid over the temperature, whose nodes know nothing of the fit."""
    vectors = draw(templates, instrument, ("power_law", "varying_dust"), 0.5, 16)
    given, model = (vectors.data, vectors.sigma), candidate("varying_dust", priors=True)
    found = log_evidence(model, instrument.bands, *given)
    shift = np.linspace(-4, 4, 17) * 1.3
    fixed = [replace(model, dust_temperature=20 + t) for t in shift]
    terms = torch.stack([log_evidence(each, instrument.bands, *given) for each in fixed])
    weight = np.exp(-0.5 * (shift / 1.3) ** 2) * (shift[1] - shift[0]) / (1.3 * np.sqrt(2 * np.pi))
    exact = (terms + torch.log(torch.from_numpy(weight))[:, None]).logsumexp(0)
    error = fit(model, instrument.bands, *given).covariance[:, 2, 2].sqrt()
    resolved = error > 0.9  # a step and a half of the grid: enough for a Gaussian
    assert resolved.sum() > 5
    torch.testing.assert_close(found[resolved], exact[resolved], rtol=0, atol=0.02)


@pytest.mark.parametrize(
    "models", [("power_law", "varying_dust"), ("power_law", "dust_moments"), WARM]
)
def test_evidence_recognises_them(templates, instrument, models):
    vectors = draw(templates, instrument, models, 0.05, 100)
    chosen = choose(models, instrument.bands, vectors.data, vectors.sigma)
    assert chosen.fitted.all()
    assert (chosen.best() == vectors.label).float().mean() > 0.9


def test_moments_are_told_from_an_index_that_varies(templates, instrument):
    models = ("varying_beta_d", "dust_moments")
    vectors = draw(templates, instrument, models, 0.05, 200)
    chosen = choose(models, instrument.bands, vectors.data, vectors.sigma)
    assert (chosen.best() == vectors.label).float().mean() > 0.9


def test_they_fit_where_they_hold_and_no_other_does(templates, instrument):
    vectors = draw(templates, instrument, ("power_law", "dust_moments"), 0.05, 400)
    mine = vectors.label == 1
    data, sigma, even = vectors.data[mine], vectors.sigma[mine], torch.zeros(int(mine.sum()), 2)
    for models, fits in ((("power_law", "dust_moments"), True), (("power_law", "curved"), False)):
        _, none_fits = goodness_of_fit(models, instrument, data, sigma, even)
        share = none_fits.double().mean()
        assert share < 0.02 if fits else share > 0.8
