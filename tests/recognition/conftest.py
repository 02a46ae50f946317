"""Small templates, models and skies that the tests of recognition share."""

import healpy as hp
import numpy as np
import pytest
import torch

from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network import train as training
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.recognition.network.train import TrainingPlan, train
from foreglow.recognition.simulation.skies import simulate_sky
from foreglow.sky.instrument_files import load_instrument
from foreglow.sky.templates import Templates, load_templates

NSIDE = 16
CPU = torch.device("cpu")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small work, shared machines."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def instrument():
    return load_instrument("quijote+litebird")


@pytest.fixture(scope="session")
def templates():
    """The mock Galaxy, Nside 16."""
    return load_templates("mock", NSIDE)


@pytest.fixture(scope="session")
def lognormal_templates():
    """Templates with known moments: dust along Q, so that its direction is."""
    rng = np.random.default_rng(5)
    n_pix = hp.nside2npix(NSIDE)
    synchrotron = rng.normal(20.0, 8.0, (2, n_pix)).astype(np.float32)
    dust = np.stack([rng.lognormal(1.0, 0.5, n_pix), np.zeros(n_pix)]).astype(np.float32)
    ame = rng.lognormal(4.0, 0.5, n_pix).astype(np.float32)
    return Templates("test", NSIDE, synchrotron, dust, ame)


@pytest.fixture(scope="session")
def model(tmp_path_factory, instrument, templates):
    """A `foreglow` model of four classes, trained for some seconds on any noise."""
    recogniser = Recogniser.untrained("foreglow", instrument, PROBLEMS["four"], 0)
    plan = TrainingPlan("conditioned", 1, 40, 1024, fixed_set=False, learning_rate=2e-3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_STANDARDISATION_SAMPLE", 16384)
        patch.setattr(training, "_CALIBRATION_SAMPLE", 16384)
        history = train(recogniser, templates, plan, tmp_path_factory.mktemp("work"), 0, CPU)
    recogniser.card["history"] = history
    return recogniser


@pytest.fixture(scope="session")
def paper_model(instrument):
    """The paper's network, untrained, and so neither blind to rotations nor to noise-free bands."""
    return Recogniser.untrained("farsian2020", instrument, PROBLEMS["four"], 3)


@pytest.fixture(scope="session")
def fine_templates():
    """The mock Galaxy, finer than a memory holds it."""
    return load_templates("mock", 2 * NSIDE)


@pytest.fixture(scope="session")
def memory_model(tmp_path_factory, instrument, fine_templates):
    """A `foreglow_template` model of four classes after some steps of training."""
    recogniser = Recogniser.untrained("foreglow_template", instrument, PROBLEMS["four"], 0)
    plan = TrainingPlan("many_noise", 1, 6, 256, fixed_set=False, learning_rate=2e-3)
    folder = tmp_path_factory.mktemp("memory")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_STANDARDISATION_SAMPLE", 2048)
        patch.setattr(training, "_CALIBRATION_SAMPLE", 2048)
        recogniser.card["history"] = train(recogniser, fine_templates, plan, folder, 0, CPU)
    return recogniser


@pytest.fixture(scope="session")
def sky(instrument, templates):
    """A noisy test sky of four models."""
    label = np.arange(hp.nside2npix(NSIDE)) % 4
    rng = np.random.default_rng(11)
    return simulate_sky(templates, instrument, PROBLEMS["four"], label, 0.1, rng)
