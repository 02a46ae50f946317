"""Recognisers and contexts trained from Python: with a folder, without, gone on with."""

import numpy as np
import pytest

import foreglow as fg
from foreglow.errors import ForeglowError, ModelError, RunError
from foreglow.recognition import train as doors
from foreglow.recognition.context import train as contexts
from foreglow.recognition.context.model import ContextModel
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network import train as recognisers
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.sky.templates import load_templates


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Little to standardise and to calibrate with, and coarse templates."""
    for name in ("_STANDARDISATION_SAMPLE", "_CALIBRATION_SAMPLE"):
        monkeypatch.setattr(recognisers, name, 2048)
    coarse = load_templates("mock", 16)

    def templates_of(sky):
        return coarse if sky == "mock" else load_templates(sky)

    monkeypatch.setattr(doors, "load_templates", templates_of)


PLAN = {"epochs": 1, "steps": 2, "batch": 32}


def train(**changes):
    options = {"models": "ame", "plan": PLAN, "device": "cpu"} | changes
    return fg.train_recogniser(**options)


def test_a_model_is_written(tmp_path):
    made = train(out=tmp_path / "model")
    model = Recogniser.load(tmp_path / "model")
    assert model.models == PROBLEMS["ame"]
    assert model.card["history"] == made.card["history"]
    assert model.card["training"]["batch"] == 32
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_without_a_folder_nothing_is_left(tmp_path, monkeypatch):
    """The same model, used at once, on a table of bands and candidates by name."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(tmp_path)
    frequency = [20.0, 30.0, 90.0, 217.0, 353.0]
    table = {"frequency": frequency, "depth_p": [9.0] * 5, "fwhm": [60.0] * 5}
    model = train(instrument=table, models=["power_law", "curved"])
    assert not list(tmp_path.iterdir())
    maps = np.random.default_rng(0).normal(size=(5, 2, 192))
    found = fg.classify(maps, model=model, unit="uK_RJ", frame="G", convention="COSMO")
    np.testing.assert_allclose(found.probability.sum(0), 1, atol=1e-5)


def test_out_or_not_the_same_weights(tmp_path):
    there, here = train(out=tmp_path / "model"), train()
    for name, value in there.network.state_dict().items():
        assert (here.network.state_dict()[name] == value).all()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"plan": {"regime": "noisy"}}, RunError, "plan: expected regime= as a training can have"),
        ({"plan": {3: 3}}, RunError, "expected fields among regime, epochs, .* got 3; correct"),
        (
            {"plan": {"epoch": 3}},
            RunError,
            r"expected fields among regime, epochs, .* got epoch \(do you mean epochs\?\); cor",
        ),
        ({"plan": {"batch": 1}}, RunError, "expected batch= as a training can have it, got 1"),
        ({"plan": 3}, RunError, "a TrainingPlan, a mapping of its fields or a TOML file, got 3"),
        ({"network": "cnn"}, ModelError, "expected network farsian2020 or foreglow"),
        ({"device": "tpu"}, RunError, "expected device"),
        ({"models": ["curved"]}, ForeglowError, "or two or more of the models"),
        ({"sky": 3}, ForeglowError, "a directory with a sky.toml, Templates or a pysm3.Sky, got 3"),
    ],
)
def test_refused_before_a_folder_is_made(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        train(out=tmp_path / "model", **changes)
    assert not list(tmp_path.iterdir())


def test_resumed_without_a_folder():
    with pytest.raises(RunError, match=r"expected out=, where a training keeps its checkpoints"):
        train(resume=True)


def test_what_is_there_is_kept(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(ModelError, match="exists; give another out="):
        train(out=tmp_path / "model")
    (tmp_path / "model").rmdir()
    (tmp_path / "model.training").mkdir()
    (tmp_path / "model.training" / "last.ckpt").touch()
    with pytest.raises(RunError, match="resume=True goes on with it"):
        train(out=tmp_path / "model")


def interrupt(*_):
    raise KeyboardInterrupt


def test_another_training_does_not_go_on_with_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(Recogniser, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(out=tmp_path / "model")
    assert (tmp_path / "model.training" / "last.ckpt").is_file()
    for change in ({"seed": 1}, {"models": "four"}, {"plan": PLAN | {"batch": 16}}):
        with pytest.raises(RunError, match="was begun with another"):
            train(out=tmp_path / "model", resume=True, **change)
    assert not (tmp_path / "model").exists()


def test_a_context_of_a_model_at_hand(tmp_path, monkeypatch):
    ensemble = contexts.pixel_ensemble
    monkeypatch.setattr(
        contexts, "pixel_ensemble", lambda *a, **k: ensemble(*a, **k, realisations=8)
    )
    monkeypatch.setattr(contexts, "_TEMPERATURE_BATCHES", 2)
    plan = {"epochs": 1, "steps": 1, "batch": 2}
    made = fg.train_context(train(), plan=plan, network="potts", device="cpu", out=tmp_path / "c")
    assert ContextModel.load(tmp_path / "c").temperature == made.temperature
    assert 0 <= made.card["history"]["validation_accuracy"][-1] <= 1
