"""What the network sees: blind to rotation, exact on power laws, and statistics with known laws."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from foreglow.errors import InstrumentError
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network.features import CleanedLogFeatures, _asinh
from foreglow.recognition.simulation.vectors import NoiseLaw, VectorSimulator
from foreglow.sky.instrument import Instrument

NU = np.array([11, 13, 40, 50, 60, 68, 78, 89, 100, 119, 140, 166, 195, 235, 280, 337, 402.0])
N_LOW = 8  # bands below 100 GHz
# where things lie: depth a band, dust, synchrotron Q,U, sign; spectra; slopes; curvatures; Q - U
SLOPES = slice(21 + 16, 21 + 16 + 14)
SCORES = 21 + 16 + 14 + 12 + 8
T_C, T_A, LOG_INFORMATION_C = SCORES, SCORES + 1, SCORES + 11
BETA = SCORES + 14
H_OVER_K = 6.62607015e-34 / 1.380649e-23 * 1e9


def dust_sed():
    x, x0 = H_OVER_K * NU / 20.0, H_OVER_K * 353.0 / 20.0
    return (NU / 353.0) ** 2.54 * np.expm1(x0) / np.expm1(x)


def cmb_sed():
    x = H_OVER_K * NU / 2.7255
    return x**2 * np.exp(x) / np.expm1(x) ** 2


def synchrotron(beta, curvature=0.0):
    x = np.log(NU / 23.0)
    return np.exp((beta + curvature * x) * x)


@pytest.fixture(scope="module")
def features(instrument):
    return CleanedLogFeatures(instrument)


def see(features, data, sigma):
    """Features, float64, of data (n, 2, band) with noise (band,)."""
    data = torch.as_tensor(np.asarray(data), dtype=torch.float32)
    sigma = torch.as_tensor(np.asarray(sigma), dtype=torch.float32).expand(len(data), -1)
    return features(data, sigma).double().numpy()


def sky_vector(curvature=0.0, beta=-3.0, synchrotron_qu=(60.0, -40.0), dust_qu=(4.0, 2.0)):
    """A bright pixel with all components but AME, (2, band)."""
    cmb_qu = np.array([0.3, -0.5])
    return (
        np.outer(synchrotron_qu, synchrotron(beta, curvature))
        + np.outer(dust_qu, dust_sed())
        + np.outer(cmb_qu, cmb_sed())
    )


@pytest.mark.parametrize("angle", [0.3, np.pi / 2, 2.0, -3.0])
@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_rotation_changes_nothing(features, templates, instrument, angle, scale):
    law = VectorSimulator(templates, instrument, PROBLEMS["four"])
    vectors = law.draw(2000, NoiseLaw.fixed(scale), torch.Generator().manual_seed(1))
    data = vectors.data.double().numpy()
    cos, sin = np.cos(angle), np.sin(angle)
    turned = np.einsum("ij,njb->nib", [[cos, -sin], [sin, cos]], data)
    before, after = (see(features, d, vectors.sigma[0]) for d in (data, turned))
    # U of the synchrotron near zero has a sign by rounding alone; no sane pixel depends on it
    np.testing.assert_allclose(np.median(abs(before - after), 0), 0, atol=2e-4)
    assert np.mean(abs(before - after) > 0.01) < 1e-4


def test_a_turn_of_a_single_band_is_seen(features, instrument):
    data = sky_vector()[None]
    other = data.copy()
    other[:, :, 0] = other[:, ::-1, 0]
    sigma = instrument.noise_rms(16)
    assert abs(see(features, data, sigma) - see(features, other, sigma)).max() > 0.1


def test_slopes_of_a_noiseless_power_law_are_its_index(features):
    dust = np.outer((1.0, 0.0), dust_sed())  # or else its direction would be that of rounding
    for beta, tolerance in ((-3.0, 1e-3), (-2.95, 0.015), (-3.1, 0.06)):
        data = np.array([[500.0], [300.0]]) * synchrotron(beta) + dust
        # noise must hide the rounding of 402 GHz only
        slopes = see(features, data[None], np.full(17, 1e-12))[0, SLOPES]
        np.testing.assert_allclose(slopes, beta, atol=tolerance)


def test_cmb_and_dust_are_cleaned_away(features):
    """Adding them moves the slopes of a power law hardly, though they dominate above 60 GHz."""
    bare = np.outer((500.0, 300.0), synchrotron(-3.0)) + np.outer((1.0, 0.0), dust_sed())
    full = sky_vector(synchrotron_qu=(500.0, 300.0), dust_qu=(30.0, 0.0))
    sigma = np.full(17, 1e-12)
    slopes = [see(features, d[None], sigma)[0, SLOPES] for d in (bare, full)]
    np.testing.assert_allclose(slopes[1], slopes[0], atol=0.01)


def fisher_information_of_c(vector_at, sigma):
    """Information of C with amplitudes free and beta within its prior, by finite differences."""
    values = np.array([60.0, -40.0, -3.0, 4.0, 2.0, 0.0, 0.0, 0.0])  # ..., C last

    def model(p):
        return vector_at(p) / sigma

    steps = np.array([1e-2, 1e-2, 1e-4, 1e-2, 1e-2, 1e-2, 1e-2, 1e-4])
    jacobian = [
        (model(values + h) - model(values - h)).ravel() / (2 * s)
        for s, h in zip(steps, np.diag(steps), strict=True)
    ]
    fisher = np.array(jacobian) @ np.array(jacobian).T
    fisher[2, 2] += 1 / 0.2**2
    return 1 / np.linalg.inv(fisher)[-1, -1]


def all_parameters(p):
    return (
        np.outer(p[:2], synchrotron(p[2], p[7]))
        + np.outer(p[3:5], dust_sed())
        + np.outer(p[5:7], cmb_sed())
    )


def noisy(vector, sigma, n=4000, seed=0):
    return vector + sigma * np.random.default_rng(seed).normal(size=(n, 2, 17))


def test_score_test_of_curvature_is_standard_normal(features, instrument):
    sigma = 0.1 * instrument.noise_rms(16)
    seen = see(features, noisy(sky_vector(), sigma), sigma)
    for column in (T_C, T_A):
        t = np.sinh(seen[:, column])
        assert t.mean() == pytest.approx(0, abs=5 / 4000**0.5)
        assert t.std() == pytest.approx(1, abs=0.06)


def test_curvature_shifts_it_by_the_root_of_the_information(features, instrument):
    sigma = 0.1 * instrument.noise_rms(16)
    information = fisher_information_of_c(all_parameters, sigma)
    shift = -0.052 * information**0.5
    assert -30 < shift < -3  # a test of the mean, not of noise
    straight = see(features, noisy(sky_vector(), sigma), sigma)
    curved = see(features, noisy(sky_vector(curvature=-0.052), sigma), sigma)
    measured = np.exp(2 * straight[:, LOG_INFORMATION_C].mean())
    assert measured == pytest.approx(information, rel=0.02)
    assert np.sinh(curved[:, T_C]).mean() == pytest.approx(shift, rel=0.1)


def test_ame_along_the_dust_raises_its_score(features, instrument):
    sigma = 0.1 * instrument.noise_rms(16)
    low = np.exp(-0.5 * (np.log(NU / 18) / 0.35) ** 2)  # a bump at 18 GHz
    dust = np.array([4.0, 2.0]) / 20**0.5
    for sign in (1, -1):
        data = noisy(sky_vector() + sign * np.outer(dust, low), sigma, n=500)
        assert sign * np.sinh(see(features, data, sigma)[:, T_A]).mean() > 1


def test_index_is_recovered(features, instrument):
    sigma = 1e-2 * instrument.noise_rms(16)
    for beta in (-3.4, -2.6):
        seen = see(features, noisy(sky_vector(beta=beta), sigma, n=200), sigma)
        assert seen[:, BETA].mean() == pytest.approx(beta, abs=0.01)


@pytest.mark.parametrize("noise", [0.0, 1e-30, 1.0, 1e8])
@pytest.mark.parametrize("level", [0.0, 1e-30, 1e-6, 1.0, 1e6])
def test_finite_whatever_comes(features, level, noise):
    rng = np.random.default_rng(0)
    data = level * rng.normal(size=(50, 2, 17))
    assert np.isfinite(see(features, data, np.full(17, noise))).all()


def test_one_dead_stokes_is_finite(features):
    data = sky_vector()[None].repeat(2, 0)
    data[0, 0], data[1, 1] = 0.0, 0.0
    assert np.isfinite(see(features, data, np.full(17, 0.1))).all()


@pytest.mark.parametrize(
    ("keep", "counts"), [([0, 1, 10, 12, 14], "2 and 3"), ([0, 1, 2, 3, 16], "4 and 1")]
)
def test_refuses_too_few_bands(instrument, keep, counts):
    chosen: Instrument = replace(
        instrument,
        **{
            name: tuple(getattr(instrument, name)[k] for k in keep)
            for name in ("band", "frequency_ghz", "sensitivity_uk_arcmin", "fwhm_arcmin", "source")
        },
    )
    with pytest.raises(InstrumentError, match=f"at least 3 bands.*has {counts}"):
        CleanedLogFeatures(chosen)


def test_a_bright_exact_power_law_leaves_nothing(features):
    """At a million times the noise: neither curvature nor AME is wanted, and nothing is left."""
    data = sky_vector(synchrotron_qu=(5000.0, -3000.0), dust_qu=(2000.0, 900.0))[None]
    assert abs(data).max() > 1e6 * 0.01
    seen = features(torch.from_numpy(data), torch.full((1, 17), 0.01))[0].numpy()
    # 5e6 of the noise, rounded to 1e-16 in some tens of operations: 1e-8; float32 leaves 5e-3
    residual = BETA + 1
    np.testing.assert_allclose(seen[[T_C, T_A, residual]], 0, atol=1e-6)
    assert seen[BETA] == np.float32(-3)


def test_what_ame_adds_to_curvature_survives_beside_it(features):
    """The log likelihood ratio of both models over curvature alone, where that has 1e5."""
    along = np.outer((5000.0, 2000.0), synchrotron(-3.0, -0.052)) + np.outer((20, 10), dust_sed())
    ame = torch.tensor([1e-9], dtype=torch.float64)  # uK: of no weight beside a noise of 0.01
    seen = features(torch.from_numpy(along[None]), torch.full((1, 17), 0.01), ame)[0].numpy()
    curved, beside = np.sinh(seen[[SCORES + 4, SCORES + 7]].astype(float))
    assert abs(curved) > 1e5  # of which float32 keeps 1e-2
    assert abs(beside) < 1e-6


def test_asinh_is_that_of_torch_and_large_values_stay_finite():
    size = torch.logspace(-30, 17, 1000)
    x = torch.cat([-size, torch.zeros(1), size])
    torch.testing.assert_close(_asinh(x), torch.asinh(x), rtol=3e-7, atol=0)
    assert torch.isfinite(_asinh(torch.tensor([1e38, torch.inf, -torch.inf]))).all()
