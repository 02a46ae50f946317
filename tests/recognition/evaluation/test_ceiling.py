from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from foreglow.recognition.evaluation.ceiling import ceiling, draw_vectors, log_evidence
from foreglow.recognition.models import MODELS, PROBLEMS
from foreglow.recognition.simulation.vectors import NoiseLaw, VectorSimulator
from foreglow.sky import seds
from foreglow.sky.cmb import cmb_polarisation_rms
from foreglow.sky.instrument_files import load_instrument
from foreglow.sky.templates import load_templates


@pytest.fixture(scope="module")
def instrument():
    return load_instrument("quijote+litebird")


def brute_force(data, sigma, templates, instrument, name):
    """p(d | model): a fine grid in beta, a full 17-band Gaussian for every template and Stokes."""
    nu = torch.tensor(instrument.frequency_ghz, dtype=torch.float64)
    dust, cmb, bump = (
        f(nu).numpy() for f in (seds.modified_blackbody, seds.cmb, seds.spinning_dust)
    )
    log_ratio = np.log(nu.numpy() / 23)
    model = MODELS[name]
    betas = np.linspace(-4.2, -1.8, 601)
    noise = np.diag(sigma**2) + cmb_polarisation_rms(templates.nside) ** 2 * np.outer(cmb, cmb)
    # the dust of the vector points where the high bands say
    high = nu.numpy() > 200
    q, u = (np.sum(d[high] * dust[high]) for d in data)
    direction = np.array([q, u]) / np.hypot(q, u)
    sed = np.exp((betas[:, None] + model.curvature * log_ratio) * log_ratio)  # (beta, band)
    total = np.tile(-0.5 * ((betas + 3) / 0.2) ** 2, (len(templates.ame), 1))
    for pixel, s in product(range(len(templates.ame)), (0, 1)):
        a_s, a_d = templates.synchrotron[s, pixel], templates.dust[s, pixel]
        mean = a_s * sed + a_d * dust
        mean = mean + model.ame_fraction * templates.ame[pixel] * direction[s] * bump
        covariance = (
            noise
            + (0.3 * a_s) ** 2 * sed[:, :, None] * sed[:, None]
            + (0.3 * a_d) ** 2 * np.outer(dust, dust)
        )
        off = data[s] - mean
        chi2 = np.sum(off * np.linalg.solve(covariance, off[..., None])[..., 0], axis=1)
        total[pixel] -= 0.5 * (chi2 + np.linalg.slogdet(covariance)[1])
    return logsumexp(total)


def test_agrees_with_brute_force(few, instrument):
    vectors = draw_vectors(few, instrument, PROBLEMS["four"], 20.0, 3, seed=2)
    ours = log_evidence(vectors.data, vectors.sigma[0], few, instrument, PROBLEMS["four"])
    sigma = vectors.sigma[0].double().numpy()
    for k, data in enumerate(vectors.data.double().numpy()):
        want = np.array(
            [brute_force(data, sigma, few, instrument, name) for name in PROBLEMS["four"][:2]]
        )
        got = ours[k, :2].numpy()
        assert got[0] - got[1] == pytest.approx(want[0] - want[1], abs=0.02)


def test_ame_about_the_dust_is_an_average(few, instrument):
    """Over what is beside it, of the evidence of AME along the dust."""
    models, scatter = ("curved_ame",), 0.05
    templates = replace(few, ame=np.full_like(few.ame, 300.0))
    noise, generator = NoiseLaw.fixed(20.0), torch.Generator().manual_seed(2)
    simulator = VectorSimulator(templates, instrument, models, ame_scatter=scatter)
    vectors = simulator.draw(1, noise, generator)
    law = (vectors.sigma[0], templates, instrument, models)
    x, w = np.polynomial.hermite_e.hermegauss(9)
    nu = torch.tensor(instrument.frequency_ghz, dtype=torch.float64)
    beside = scatter * 0.02 * 300 * torch.from_numpy(np.array(list(product(x, x))))
    weight = torch.from_numpy(np.log(np.outer(w, w).ravel() / w.sum() ** 2))
    shift = beside[:, :, None] * seds.spinning_dust(nu)
    for data in vectors.data.double():
        got = log_evidence(data[None], *law, scatter)
        want = (log_evidence(data - shift, *law)[:, 0] + weight).logsumexp(0)
        assert float(got - log_evidence(data[None], *law)) != pytest.approx(0, abs=0.1)
        assert float(got) == pytest.approx(float(want), abs=0.01)


@pytest.mark.parametrize("noise_scale", [0.1, 1.0])
def test_probabilities_mean_what_they_say(instrument, noise_scale):
    """Exact evidence is calibrated: mean confidence is the accuracy, at any noise."""
    templates = load_templates("mock", 16)
    vectors = draw_vectors(templates, instrument, PROBLEMS["four"], noise_scale, 300, seed=3)
    evidence = log_evidence(vectors.data, vectors.sigma[0], templates, instrument, PROBLEMS["four"])
    probability = torch.softmax(evidence, 1)
    confidence = probability.max(1).values
    right = (probability.argmax(1) == vectors.label).double()
    error = (right - confidence).std() / 300**0.5
    assert abs(float((right - confidence).mean())) < 3 * float(error)
    assert float(right.mean()) > (0.8 if noise_scale < 1 else 0.4)


def test_ceiling_falls_with_noise_and_states_its_error(instrument):
    templates = load_templates("mock", 16)
    loud = ceiling(templates, instrument, PROBLEMS["curvature"], 1.0, 200, seed=0)
    quiet = ceiling(templates, instrument, PROBLEMS["curvature"], 0.03, 200, seed=0)
    assert quiet.accuracy > loud.accuracy + 0.1
    assert loud.error == pytest.approx(np.sqrt(loud.accuracy * (1 - loud.accuracy) / 200))
