"""Bands with a bandpass, wherever the spectrum of a band is taken."""

from dataclasses import replace

import healpy as hp
import numpy as np
import pytest
import torch

from foreglow.recognition.evaluation import ceiling as evidence
from foreglow.recognition.evaluation.ceiling import draw_vectors
from foreglow.recognition.fits.choice import choose
from foreglow.recognition.fits.optimise import fit
from foreglow.recognition.fits.skymodel import FREE_BETA_D, SkyModel, candidate
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network.features import CleanedLogFeatures
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.recognition.simulation.skies import component_maps, simulate_sky
from foreglow.recognition.simulation.vectors import VectorSimulator
from foreglow.sky.bandpass import top_hat

FOUR = PROBLEMS["four"]


@pytest.fixture(scope="module")
def wide(instrument):
    """The paper's bands, 30% wide."""
    bandpass = tuple(top_hat(0.85 * nu, 1.15 * nu) for nu in instrument.frequency_ghz)
    return replace(instrument, bandpass=bandpass)


@pytest.fixture(scope="module")
def in_disguise(instrument):
    """Single frequencies, written as bandpasses: two halves of each."""
    bandpass = tuple(((nu, 0.5), (nu, 0.5)) for nu in instrument.frequency_ghz)
    return replace(instrument, bandpass=bandpass)


@pytest.fixture(scope="module")
def vectors(templates, instrument):
    return draw_vectors(templates, instrument, FOUR, 0.1, 200, 3)


def test_all_agree_on_single_frequencies(templates, instrument, in_disguise, vectors):
    data, sigma = vectors.data, vectors.sigma
    drawn = draw_vectors(templates, in_disguise, FOUR, 0.1, 200, 3)
    torch.testing.assert_close(drawn.data, data, rtol=1e-5, atol=1e-4)
    both = [choose(FOUR, i.bands, data, sigma) for i in (instrument, in_disguise)]
    torch.testing.assert_close(both[0].log_evidence, both[1].log_evidence, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(both[0].chi2, both[1].chi2, rtol=1e-6, atol=1e-6)
    exact = [
        evidence.log_evidence(data[:20], sigma[0], templates, i, FOUR)
        for i in (instrument, in_disguise)
    ]
    torch.testing.assert_close(*exact, rtol=1e-7, atol=1e-6)
    features = [CleanedLogFeatures(i)(data, sigma) for i in (instrument, in_disguise)]
    # made in float64 of the same float32 vectors; their results are rounded to float32
    torch.testing.assert_close(*features, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("truth", "model"),
    [
        ("curved_ame", candidate("curved_ame")),
        ("power_law", SkyModel(beta_d=FREE_BETA_D)),
        ("varying_dust", candidate("varying_dust")),
        ("dust_moments", candidate("dust_moments")),
    ],
    ids=["curved_ame", "beta_d", "varying_dust", "dust_moments"],
)
def test_fits_recover_what_wide_bands_saw(templates, instrument, wide, truth, model):
    label, rng = np.zeros(hp.nside2npix(16), int), np.random.default_rng(1)
    sky = simulate_sky(templates, wide, (truth,), label, 0.0, rng)
    data = torch.from_numpy(sky.data[..., ::16].transpose(2, 0, 1).copy())
    sigma = torch.from_numpy(1e-2 * wide.noise_rms(16)).expand(len(data), -1)
    found = fit(model, wide.bands, data, sigma)
    assert found.converged.float().mean() > 0.95  # brighter pixels stop at rounding
    assert (found.chi2 < 1.0).all()  # float32 data, and noise a hundredth of the instrument's
    if model.ame:
        curvature = found.parameters[:, 1]
        torch.testing.assert_close(curvature, torch.full_like(curvature, -0.052), atol=2e-3, rtol=0)
    forgotten = fit(model, instrument.bands, data, sigma)
    assert forgotten.chi2.median() > 20


def test_slopes_of_wide_bands(wide, templates):
    """Errors of the parameters come from the slopes of the averaged spectra."""
    rng = np.random.default_rng(2)
    sky = simulate_sky(templates, wide, FOUR, np.full(3072, 1), 0.01, rng)
    data = torch.from_numpy(sky.data.transpose(2, 0, 1).copy())
    found = fit(candidate("curved"), wide.bands, data, torch.from_numpy(sky.sigma).expand(3072, -1))
    error = found.covariance[:, 1, 1].sqrt()
    pull = (found.parameters[:, 1] + 0.052) / error
    assert float(pull.quantile(0.84) - pull.quantile(0.16)) == pytest.approx(2, rel=0.15)
    assert float((found.chi2 / found.dof).mean()) == pytest.approx(1, abs=0.05)


def test_simulators_agree(templates, wide):
    """The vectors' emission is that of the maps."""
    simulator = VectorSimulator(templates, wide, FOUR)
    parts = component_maps(templates, wide, np.random.default_rng(0))
    pixel = slice(0, 50)
    synchrotron = torch.from_numpy(templates.synchrotron[:, pixel].T.copy())
    dust = torch.from_numpy(templates.dust[:, pixel].T.copy())
    zero = torch.zeros(50, 2)
    beta, curvature = torch.full((50,), -3.0), torch.full((50,), -0.052)
    made = simulator._emission(synchrotron, beta, curvature, dust, zero, zero)
    expected = parts["synchrotron curved"] + parts["thermal dust"]
    np.testing.assert_allclose(made.numpy(), expected.transpose(2, 1, 0)[pixel], rtol=1e-4)


def test_a_model_remembers_its_bandpasses(tmp_path, wide):
    model = Recogniser.untrained("foreglow", wide, FOUR, 0)
    model.save(tmp_path / "m")
    assert Recogniser.load(tmp_path / "m").instrument == wide


def test_bands_of_one_frequency_have_features(instrument, vectors):
    """LiteBIRD has several bands at one frequency: no slope between them is infinite."""
    frequency = (*instrument.frequency_ghz[:4], 50.0, *instrument.frequency_ghz[5:])
    twin = replace(instrument, frequency_ghz=frequency)
    assert torch.isfinite(CleanedLogFeatures(twin)(vectors.data, vectors.sigma)).all()
