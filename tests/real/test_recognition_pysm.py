"""Recognition on real templates: PySM s1, d1 and a2 at Nside 64, from `../shared/data`."""

import healpy as hp
import numpy as np
import pytest
import torch

from foreglow.maps.regions import layout
from foreglow.recognition.evaluation.evaluate import evaluate
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.recognition.network.train import TrainingPlan, train
from foreglow.recognition.simulation.skies import simulate_sky
from foreglow.sky import seds
from foreglow.sky.instrument_files import load_instrument
from foreglow.sky.templates import load_templates

# the files are as PySM's authors made them: COSMO, but without the card
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*no POLCCONV.*:foreglow.maps.conventions.MapWarning"
)
FOUR = PROBLEMS["four"]


@pytest.fixture(scope="module")
def templates(real_data):
    return load_templates(str(real_data / "pysm64"))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(templates, folder, **plan):
    model = Recogniser.untrained("foreglow", load_instrument("quijote+litebird"), FOUR, 0)
    values = {"batch": 1024, "fixed_set": False, "learning_rate": 2e-3} | plan
    train(model, templates, TrainingPlan(**values), folder, 0, torch.device("cpu"))
    return model


def accuracy(model, templates, noise_scale, problem="four", skies=4):
    """Mean over test skies of Nside 16, whose regions change places."""
    models = PROBLEMS[problem]
    label = layout("quadrants", 16, len(models))
    coarse = templates.degraded(16)
    found = []
    for number in range(skies):
        turned = (label + number) % len(models)
        rng = np.random.default_rng([3, number])
        sky = simulate_sky(coarse, model.instrument, models, turned, noise_scale, rng)
        found.append(evaluate(model, sky, models).accuracy)
    return np.mean(found)


def test_templates_are_the_files(real_data, templates):
    """Amplitudes as healpy reads them, brought to 23 GHz by the mean power law."""
    folder = real_data / "pysm64"
    _, q, u = hp.read_map(folder / "synchrotron_s1_30GHz_iqu.fits", field=None)
    np.testing.assert_allclose(templates.synchrotron, np.stack([q, u]) * (30 / 23) ** 3, rtol=1e-5)
    _, q, u = hp.read_map(folder / "thermal_dust_d1_353GHz_iqu.fits", field=None)
    np.testing.assert_allclose(templates.dust, np.stack([q, u]), rtol=1e-5)
    i, q, u = hp.read_map(folder / "ame_a2_30GHz_iqu.fits", field=None)
    np.testing.assert_allclose(templates.ame, i, rtol=1e-5)
    # that file was made 2% polarised along the dust, as the training law makes AME
    np.testing.assert_allclose(np.hypot(q, u), 0.02 * templates.ame, rtol=0.02, atol=1e-3)
    product = (q * templates.dust[0] + u * templates.dust[1]).sum()
    assert product > 0.99 * (np.hypot(q, u) * np.hypot(*templates.dust)).sum()


def test_ame_sed_is_that_of_spdust(real_data):
    """0.8% where AME matters, of the table that the test of the training law has in it."""
    nu, emissivity = np.loadtxt(real_data / "pysm64" / "spinning_dust_emissivity.txt", unpack=True)
    inside = (nu > 5) & (nu < 100)
    at_30 = np.exp(np.interp(np.log(30.0), np.log(nu[inside]), np.log(emissivity[inside])))
    expected = emissivity[inside] / at_30 * (30.0 / nu[inside]) ** 2
    made = seds.spinning_dust(torch.from_numpy(nu[inside].copy())).numpy()
    np.testing.assert_allclose(made, expected, rtol=0.01)


def test_noiseless(templates, tmp_path):
    model = trained(templates, tmp_path, regime="noiseless", epochs=1, steps=60)
    assert accuracy(model, templates, 0.0) > 0.97


@pytest.mark.slow
def test_accuracy_falls_with_noise_to_the_ceiling(templates, tmp_path):
    """physics.md: what single pixels hold at Nside 16 and Table 1 noise, and at a tenth of it."""
    model = trained(templates, tmp_path, regime="conditioned", epochs=5, steps=60, batch=4096)
    assert accuracy(model, templates, 1e-3) > 0.97
    for problem, ceiling, at_a_tenth in (
        ("curvature", 2 / 3, 0.85), ("ame", 3 / 4, 0.85), ("four", 1 / 2, 0.75),
    ):  # fmt: skip
        assert accuracy(model, templates, 1.0, problem) == pytest.approx(ceiling, abs=0.06)
        assert accuracy(model, templates, 0.1, problem) > at_a_tenth
