"""The training law against its moments, written again in numpy with constants of their own."""

from dataclasses import replace
from math import erf, sqrt

import numpy as np
import pytest
import torch

from foreglow.errors import ModelError
from foreglow.recognition.models import MODELS, PROBLEMS
from foreglow.recognition.simulation.vectors import NoiseLaw, VectorSimulator
from foreglow.sky.cmb import cmb_map

NU = np.array([11, 13, 40, 50, 60, 68, 78, 89, 100, 119, 140, 166, 195, 235, 280, 337, 402.0])
H_OVER_K = 6.62607015e-34 / 1.380649e-23 * 1e9  # K per GHz
# SpDust2, cold neutral medium: emissivity / frequency^2 over that at 30 GHz, from its table
AME_SED = np.array([
    1.1201, 1.3478, 0.40557, 0.12117, 0.033662, 0.012427, 3.9443e-3, 1.2498e-3, 4.4061e-4,
    8.8815e-5, 1.8492e-5, 3.36e-6, 6.2884e-7, 8.151e-8, 1.0452e-8, 9.7438e-10, 7.8071e-11,
])  # fmt: skip
N = 200_000
QUIET = NoiseLaw.fixed(0.0)


def dust_sed():
    x, x0 = H_OVER_K * NU / 20.0, H_OVER_K * 353.0 / 20.0
    return (NU / 353.0) ** 2.54 * np.expm1(x0) / np.expm1(x)


def cmb_sed():
    x = H_OVER_K * NU / 2.7255
    return x**2 * np.exp(x) / np.expm1(x) ** 2


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(templates, instrument, models=PROBLEMS["four"], n=N, noise=QUIET, seed=0, **options):
    return VectorSimulator(templates, instrument, models, **options).draw(n, noise, generator(seed))


@pytest.fixture(scope="module")
def drawn(lognormal_templates, instrument):
    return draw(lognormal_templates, instrument)


def cmb_rms(nside):
    """Rms of Q and of U of the CMB, from maps."""
    maps = [cmb_map(nside, np.random.default_rng(seed)) for seed in range(20)]
    return float(np.sqrt(np.mean(np.square(maps))))


def power_law_moments(curvature):
    """Mean and mean square over beta ~ N(-3, 0.2) of (nu/23)^(beta + C ln(nu/23))."""
    x = np.log(NU / 23.0)
    mean = np.exp(-3 * x + curvature * x**2 + 0.5 * 0.04 * x**2)
    return mean, np.exp(-6 * x + 2 * curvature * x**2 + 2 * 0.04 * x**2)


@pytest.mark.parametrize("k", range(4), ids=PROBLEMS["four"])
def test_moments_of_every_model_and_band(drawn, lognormal_templates, k):
    curvature = (0.0, -0.052, 0.0, -0.052)[k]
    ame = (0.0, 0.0, 0.02, 0.02)[k]
    t, cmb = lognormal_templates, cmb_rms(16) * cmb_sed()
    sed, sed_squared = power_law_moments(curvature)
    # AME points along the dust, which 1 + 0.3 g turns round now and then
    upright = erf(1 / 0.3 / sqrt(2))
    along = ame * t.ame * AME_SED[:, None]  # (band, pixel)
    mean_q = sed * t.synchrotron[0].mean() + dust_sed() * t.dust[0].mean() + upright * along.mean(1)
    mean_u = sed * t.synchrotron[1].mean()
    # E[(1+0.3g) sign(1+0.3g)] = E|1+0.3g|
    folded = upright + 0.3 * sqrt(2 / np.pi) * np.exp(-0.5 / 0.3**2)
    synchrotron, dust = t.synchrotron.astype(float), t.dust[0].astype(float)
    square_q = (
        1.09 * (synchrotron[0] ** 2).mean() * sed_squared
        + 1.09 * (dust**2).mean() * dust_sed() ** 2
        + (along**2).mean(1)
        + cmb**2
        + 2 * (synchrotron[0] * dust).mean() * sed * dust_sed()
        + 2 * upright * (synchrotron[0] * along).mean(1) * sed
        + 2 * folded * (dust * along).mean(1) * dust_sed()
    )
    square_u = 1.09 * (synchrotron[1] ** 2).mean() * sed_squared + cmb**2
    data = drawn.data[drawn.label == k].numpy().astype(float)
    for stokes, mean, square in ((0, mean_q, square_q), (1, mean_u, square_u)):
        scatter = np.sqrt(square - mean**2)
        n = len(data)
        np.testing.assert_array_less(abs(data[:, stokes].mean(0) - mean), 5 * scatter / sqrt(n))
        np.testing.assert_allclose(data[:, stokes].std(0), scatter, rtol=0.03)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_labels_are_balanced(lognormal_templates, instrument, problem):
    models = PROBLEMS[problem]
    label = draw(lognormal_templates, instrument, models, n=40_000).label.numpy()
    share = np.bincount(label, minlength=len(models)) / len(label)
    assert len(share) == len(models)
    np.testing.assert_allclose(share, 1 / len(models), atol=5 * 0.5 / sqrt(40_000))


def test_the_models_of_the_paper():
    assert [(MODELS[n].curvature, MODELS[n].ame_fraction) for n in PROBLEMS["four"]] == [
        (0.0, 0.0), (-0.052, 0.0), (0.0, 0.02), (-0.052, 0.02),
    ]  # fmt: skip
    assert PROBLEMS["curvature"] == PROBLEMS["four"][:2]
    assert PROBLEMS["ame"] == PROBLEMS["four"][::2]


def test_seed_decides(lognormal_templates, instrument):
    noise = NoiseLaw(0.01, 1.0, 0.2)
    one, same, other = (
        draw(lognormal_templates, instrument, n=50, noise=noise, seed=s) for s in (1, 1, 2)
    )
    for name in ("data", "sigma", "label"):
        assert torch.equal(getattr(one, name), getattr(same, name))
        assert not torch.equal(getattr(one, name), getattr(other, name))


def test_noise_leaves_the_signal_alone(lognormal_templates, instrument):
    clean = draw(lognormal_templates, instrument, n=20_000)
    noisy = draw(lognormal_templates, instrument, n=20_000, noise=NoiseLaw.fixed(2.0))
    assert torch.equal(clean.label, noisy.label)
    # were another signal below, the difference would hold hundreds of uK at 11 GHz
    white = ((noisy.data - clean.data) / noisy.sigma[:, None]).numpy()
    np.testing.assert_allclose(white.mean((0, 1)), 0, atol=5 / sqrt(40_000))
    np.testing.assert_allclose(white.std((0, 1)), 1, atol=0.02)
    flat = white.reshape(-1, 34)  # no correlation between bands or Stokes
    assert abs(np.corrcoef(white.reshape(len(flat), 34).T) - np.eye(34)).max() < 0.04


def test_fixed_noise_is_the_sensitivity_over_the_pixel(lognormal_templates, instrument):
    table = [840, 840, 36.1, 19.6, 20.2, 11.3, 10.3, 8.4, 7, 5.8, 4.7, 7, 5.8, 8, 9.1, 11.4, 19.6]
    for nside, scale in ((16, 1.0), (64, 0.25)):
        pixel_arcmin = np.sqrt(4 * np.pi / (12 * nside**2)) * 180 * 60 / np.pi
        expected = scale * np.array(table) / pixel_arcmin * cmb_sed()
        law = NoiseLaw.fixed(scale)
        vectors = draw(lognormal_templates, instrument, n=3, noise=law, noise_nside=nside)
        np.testing.assert_allclose(
            vectors.sigma.numpy(), np.broadcast_to(expected, (3, 17)), rtol=1e-5
        )


def test_noiseless_has_no_sigma(drawn):
    assert (drawn.sigma == 0).all()


def test_noise_range_is_log_uniform(lognormal_templates, instrument):
    sigma = draw(lognormal_templates, instrument, n=50_000, noise=NoiseLaw(1e-3, 10.0)).sigma
    factor = np.log10(sigma.numpy() / instrument.noise_rms(16))
    np.testing.assert_allclose(factor.std(1), 0, atol=1e-5)  # one factor a vector
    assert factor.min() >= -3.0001
    assert factor.max() <= 1.0001
    share, _ = np.histogram(factor[:, 0], bins=8, range=(-3, 1))
    np.testing.assert_allclose(share / 50_000, 1 / 8, atol=0.01)


def test_band_scatter(lognormal_templates, instrument):
    noise = NoiseLaw(0.5, 0.5, band_scatter=0.2)
    vectors = draw(lognormal_templates, instrument, n=20_000, noise=noise)
    log = np.log(vectors.sigma.numpy() / instrument.noise_rms(16))
    np.testing.assert_allclose(log.mean(0), np.log(0.5), atol=0.01)
    np.testing.assert_allclose(log.std(0), 0.2, rtol=0.03)
    assert abs(np.corrcoef(log.T) - np.eye(17)).max() < 0.05
    assert torch.isfinite(vectors.data).all()


def test_ame_about_the_dust(lognormal_templates, instrument):
    """What is beside it has no direction, and its size is in proportion to the AME."""
    models, scatter = PROBLEMS["ame"][1:], 0.3
    zero = np.zeros_like(lognormal_templates.synchrotron)
    templates = replace(lognormal_templates, synchrotron=zero)
    simulator = VectorSimulator(templates, instrument, models, ame_scatter=scatter)
    simulator.cmb_rms = 0.0
    data = simulator.draw(20_000, QUIET, generator()).data.double().numpy()
    columns = np.stack([dust_sed(), AME_SED], 1)
    found = np.linalg.lstsq(columns, data.reshape(-1, 17).T)[0]
    dust, ame = (v.reshape(-1, 2) @ [1, 1j] for v in found)
    turned = ame / (dust / abs(dust))
    along, across = turned.real, turned.imag
    size = across.std() / np.sqrt(np.mean(along**2) / (1 + scatter**2))
    assert size == pytest.approx(scatter, rel=0.05)
    assert abs(across.mean()) < 3 * across.std() / np.sqrt(len(across))


@pytest.fixture
def alone(lognormal_templates, instrument):
    """Make a simulator of one component without the CMB."""

    def make(component, models, **maps):
        zero = {
            "synchrotron": np.zeros_like(lognormal_templates.synchrotron),
            "dust": np.zeros_like(lognormal_templates.dust),
            "ame": np.zeros_like(lognormal_templates.ame),
        }
        zero[component] = getattr(lognormal_templates, component)
        simulator = VectorSimulator(
            replace(lognormal_templates, **(zero | maps)), instrument, models
        )
        simulator.cmb_rms = 0.0
        return simulator

    return make


def test_synchrotron_is_a_curved_power_law_in_every_vector(alone):
    vectors = alone("synchrotron", PROBLEMS["curvature"]).draw(20_000, QUIET, generator())
    data = vectors.data.numpy().astype(float)
    for stokes in (0, 1):
        fit = np.polyfit(np.log(NU / 23.0), np.log(abs(data[:, stokes])).T, 2)  # C, beta, ln A
        np.testing.assert_allclose(fit[0], np.where(vectors.label == 1, -0.052, 0.0), atol=1e-4)
        beta = fit[1]
        assert abs(beta.mean() + 3.0) < 5 * 0.2 / sqrt(20_000)
        assert beta.std() == pytest.approx(0.2, rel=0.03)
    # one index for Q and U
    q, u = (np.log(abs(data[:, s, 0] / data[:, s, 16])) for s in (0, 1))
    np.testing.assert_allclose(q, u, rtol=1e-4)


def test_amplitudes_are_shaken_by_a_third(alone):
    simulator = alone("dust", ("power_law",), dust=np.full((2, 3072), 7.0, np.float32))
    amplitude = simulator.draw(40_000, QUIET, generator()).data.numpy() / dust_sed() / 7.0
    np.testing.assert_allclose(amplitude.std(2), 0, atol=1e-5)  # one factor over all bands
    q, u = amplitude[:, :, 0].T
    for factor in (q, u):
        assert factor.mean() == pytest.approx(1.0, abs=0.008)
        assert factor.std() == pytest.approx(0.3, rel=0.03)
    assert abs(np.corrcoef(q, u)[0, 1]) < 0.025


def test_ame_lies_along_the_dust_of_the_vector(alone, lognormal_templates):
    rng = np.random.default_rng(1)
    dust = rng.normal(0, 5, (2, 3072)).astype(np.float32)
    models = ("power_law", "power_law_ame")
    both = alone("ame", models, dust=dust).draw(5000, QUIET, generator())
    only_dust = alone("dust", models, dust=dust).draw(5000, QUIET, generator())
    ame = (both.data - only_dust.data).numpy()[:, :, 0] / AME_SED[0]  # 11 GHz
    direction = only_dust.data.numpy()[:, :, -1]
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    has = both.label.numpy() == 1
    np.testing.assert_allclose(ame[~has], 0, atol=1e-6)
    modulus = np.linalg.norm(ame, axis=1)[has]
    np.testing.assert_allclose((ame * direction).sum(1)[has], modulus, rtol=1e-4)
    wanted = 0.02 * lognormal_templates.ame.astype(float)  # 2% of the intensity of a pixel
    levels = (0.1, 0.5, 0.9)
    np.testing.assert_allclose(np.quantile(modulus, levels), np.quantile(wanted, levels), rtol=0.06)


def test_a_pixel_without_dust_gets_finite_ame(alone):
    vectors = alone("ame", ("power_law_ame",)).draw(100, QUIET, generator())
    assert torch.isfinite(vectors.data).all()


def test_drawing_leaves_the_global_generator_alone(lognormal_templates, instrument):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    draw(lognormal_templates, instrument, n=10, noise=NoiseLaw(0.1, 1.0, 0.2))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (2, 1), (1, np.inf), (np.nan, 1)])
def test_a_range_of_noise_that_is_none(low, high):
    with pytest.raises(ModelError, match="expected a range of noise above zero"):
        NoiseLaw(low, high)
