"""Model directories of context, its door, and that training teaches it."""

import shutil
import tomllib
from dataclasses import replace

import healpy as hp
import numpy as np
import pytest
import tomli_w
import torch

from foreglow.compute.random import make_generator
from foreglow.errors import MapError, ModelError, ShapeError
from foreglow.maps.faces import face_order
from foreglow.recognition.context import train as training
from foreglow.recognition.context.layouts import LayoutLaw
from foreglow.recognition.context.model import ContextModel
from foreglow.recognition.context.train import ContextPlan, compose, pixel_ensemble, train
from foreglow.recognition.evaluation.evaluate import evaluate
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network.recogniser import pixel_log_probability
from foreglow.recognition.simulation.law import SkyLaw
from foreglow.recognition.simulation.skies import simulate_sky
from foreglow.recognition.simulation.systematics import Systematics

CPU = torch.device("cpu")
PLAN = ContextPlan(1, 12, batch=8)
NOISE_RANGE = (0.3, 1.0)


@pytest.fixture(scope="module", autouse=True)
def small():
    """Little to validate and to calibrate with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_VALIDATION_STEPS", 2)
        patch.setattr(training, "_TEMPERATURE_BATCHES", 2)
        yield


@pytest.fixture(scope="module")
def ensemble(model, templates):
    return pixel_ensemble(model, templates, 0, 6, NOISE_RANGE)


@pytest.fixture(scope="module")
def context(ensemble, tmp_path_factory):
    context = ContextModel.untrained("unet", 0)
    train(context, ensemble, PLAN, tmp_path_factory.mktemp("context"), 0, CPU)
    return context


@pytest.fixture
def saved(context, tmp_path):
    context.save(tmp_path / "context")
    return tmp_path / "context"


def some_logs(nside=16, n_class=2):
    generator = torch.Generator().manual_seed(0)
    return torch.log_softmax(torch.randn(n_class, hp.nside2npix(nside), generator=generator), 0)


def test_round_trip(context, saved):
    again = ContextModel.load(saved)
    x = some_logs()
    assert torch.equal(again.log_probability(x), context.log_probability(x))
    assert again.temperature == context.temperature != 1.0
    assert again.card["training"]["steps"] == PLAN.steps
    assert again.card["training"]["sky"] == "mock"
    assert not again.network.training


def test_probabilities_are_probabilities(context):
    said = context.log_probability(some_logs(n_class=4))
    np.testing.assert_allclose(said.exp().sum(0), 1, rtol=1e-5)


def test_nan_is_not_observed(context):
    x = some_logs()
    seen = torch.ones(x.shape[1], dtype=torch.bool)
    seen[:500] = False
    holes = torch.where(seen, x, torch.nan)
    said = context.log_probability(holes)
    assert torch.equal(said, context.log_probability(x, seen))
    assert torch.isfinite(said).all()


@pytest.mark.parametrize("shape", [(3072,), (1, 3072), (2, 3000)])
def test_shapes_are_refused(context, shape):
    with pytest.raises(ShapeError, match="expected log-probabilities of shape"):
        context.log_probability(torch.zeros(shape))


def test_nsides_are_refused(context):
    with pytest.raises(MapError, match="power of two, got 3"):
        context.log_probability(torch.zeros(2, 108))


def test_unknown_network():
    with pytest.raises(ModelError, match="expected context unet or potts, got 'crf'"):
        ContextModel.untrained("crf", 0)


def test_no_directory(tmp_path):
    with pytest.raises(ModelError, match="that `foreglow recognize context --out` wrote"):
        ContextModel.load(tmp_path / "nothing")


def test_a_recogniser_is_no_context(model, tmp_path):
    model.save(tmp_path / "model")
    with pytest.raises(ModelError, match="a model for recognition, not for context"):
        ContextModel.load(tmp_path / "model")


@pytest.mark.parametrize("change", [{"network": None}, {"temperature": -1.0}, {"network": 3}])
def test_damaged_cards(saved, change):
    path = saved / "model.toml"
    card = tomllib.loads(path.read_text()) | change
    path.write_text(tomli_w.dumps({k: v for k, v in card.items() if v is not None}))
    with pytest.raises(ModelError):
        ContextModel.load(saved)


def test_other_weights(saved, tmp_path):
    shutil.copy(saved / "model.toml", tmp_path / "model.toml")
    (saved / "weights.safetensors").write_bytes(b"0" * 64)
    with pytest.raises(ModelError, match="SHA-256"):
        ContextModel.load(saved)


def test_the_ensemble_is_what_single_skies_say(ensemble, model, templates):
    found = ensemble.log_probability
    assert found.shape == (6, 4, 4, 3072)
    assert ensemble.made["noise_range"] == list(NOISE_RANGE)
    rng = np.random.default_rng([0, 9, 2])
    low, high = NOISE_RANGE
    noise_scale = low * (high / low) ** (2 * 0.618033988749895 % 1)
    label = np.full(3072, 3)
    sky = simulate_sky(templates, model.instrument, model.models, label, noise_scale, rng)
    said = pixel_log_probability(model, sky.data, sky.sigma)
    torch.testing.assert_close(found[2, 3], said[:, face_order(16)])


def test_the_ensemble_follows_the_law_of_the_recogniser(model, templates):
    """Errors of the instrument, and AME beside the dust, as its plan says."""
    training = {"ame_scatter": 0.3, "systematics": {"gain": 0.02}}
    own = replace(model, card=model.card | {"training": training})
    found = pixel_ensemble(own, templates, 0, 1, (1.0, 1.0)).log_probability
    law = SkyLaw(ame_scatter=0.3, systematics=Systematics(gain=0.02))
    rng, label = np.random.default_rng([0, 9, 0]), np.full(3072, 2)
    sky = simulate_sky(templates, model.instrument, model.models, label, 1.0, rng, law)
    said = pixel_log_probability(model, sky.data, sky.sigma)
    torch.testing.assert_close(found[0, 2], said[:, face_order(16)])


def test_composed_skies_take_each_pixel_from_its_model():
    # a sky that says nothing but the truth
    truth = torch.eye(4)[:, :, None].expand(4, 4, 3072)
    ensemble = (30 * truth - 30)[None]
    x, seen, label = compose(ensemble, LayoutLaw(16, CPU), 8, make_generator(CPU, 3, 0))
    assert 2 <= x.shape[1] <= 4
    assert torch.equal(x.argmax(1), label)
    assert seen.shape == label.shape


def test_training_gains_on_unseen_layouts(context, model, templates):
    models = PROBLEMS["curvature"]
    gains = []
    for number in range(3):
        rng = np.random.default_rng([99, number])
        label = (hp.pix2ang(16, np.arange(3072))[1] > np.pi).astype(int)
        sky = simulate_sky(templates, model.instrument, models, label, 0.5, rng)
        alone, together = (evaluate(model, sky, models, c) for c in (None, context))
        gains.append(together.accuracy - alone.accuracy)
    assert np.mean(gains) > 0.02  # after twelve steps


def test_same_seed_same_weights(ensemble, tmp_path):
    one, again, other = (ContextModel.untrained("unet", 0) for _ in range(3))
    for name, (context, seed) in {"a": (one, 0), "b": (again, 0), "c": (other, 1)}.items():
        train(context, ensemble, ContextPlan(1, 2, 2), tmp_path / name, seed, CPU)
    weights = [list(context.network.parameters()) for context in (one, again, other)]
    assert all(torch.equal(a, b) for a, b in zip(*weights[:2], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(*weights[1:], strict=True))
    assert again.temperature == one.temperature


def test_held_realisations_are_not_trained_on(monkeypatch, ensemble, tmp_path):
    calls = []

    def spy(part, blobs, n, generator):
        calls.append(part)
        return compose(part, blobs, n, generator)

    monkeypatch.setattr(training, "compose", spy)
    train(ContextModel.untrained("potts", 0), ensemble, ContextPlan(1, 2, 2), tmp_path, 0, CPU)
    assert {len(part) for part in calls} == {1, 5}
    first = next(part for part in calls if len(part) == 1)
    assert torch.equal(first[0], ensemble.log_probability[0])
