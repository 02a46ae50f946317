"""Models that come with the package: whole, small, described, found by name and of use."""

import shlex

import healpy as hp
import numpy as np
import pytest

from foreglow import ContextModel, DustModel, Recogniser, classify
from foreglow.errors import ModelError
from foreglow.maps.regions import layout
from foreglow.recognition.evaluation.evaluate import Evaluation
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.simulation.skies import simulate_sky, write_sky
from foreglow.shipped import find_model, shipped_models
from foreglow.sky.templates import load_templates

KINDS = {"mock-four": Recogniser, "mock-four-neighbours": ContextModel, "mock-dust": DustModel}
KINDS |= {"mock-dust-polarised": DustModel, "zhang2019-dust": DustModel}
KINDS |= {
    f"farsian2020-{problem}{noise}": Recogniser for problem in PROBLEMS for noise in ("", "-noisy")
}


def test_all_are_there_and_small():
    assert {model.name for model in shipped_models()} == set(KINDS)
    assert sum(model.bytes for model in shipped_models()) < 12e6


@pytest.mark.parametrize("model", shipped_models(), ids=lambda model: model.name)
def test_each_says_what_it_is(model):
    assert len(model.trust) > 100
    assert "not" in model.trust
    loaded = KINDS[model.name].load(model.name)
    training = loaded.card["training"]
    words = shlex.split(model.command)
    stated = dict(zip(words[2::2], words[3::2], strict=True))
    for option, value in stated.items():
        name = option.removeprefix("--")
        if name in training and name != "model":
            assert str(training[name]) == value


def test_folders_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_model("mock-four").name == "mock-four"
    assert find_model("mock-four").is_absolute()
    (tmp_path / "mock-four").mkdir()
    assert not find_model("mock-four").is_absolute()
    with pytest.raises(ModelError, match=r"`foreglow models` lists \(do you mean mock-four\?\)\."):
        Recogniser.load("mock-fuor")
    with pytest.raises(ModelError, match=r"`foreglow models` lists\."):
        Recogniser.load("mine")


def test_recognises_at_once(tmp_path):
    model, context = Recogniser.load("mock-four"), ContextModel.load("mock-four-neighbours")
    label = layout("quadrants", 16, 4)
    templates = load_templates("mock").degraded(16)
    rng = np.random.default_rng(5)
    sky = simulate_sky(templates, model.instrument, model.models, label, 0.1, rng)
    paths = write_sky(sky, model.instrument, model.models, tmp_path)
    alone = classify(paths, model=model, noise_scale=0.1)
    together = classify(paths, model=model, noise_scale=0.1, context=context)
    assert Evaluation(model.models, alone.probability, label).accuracy > 0.85
    assert Evaluation(model.models, together.probability, label).accuracy > 0.93
    assert hp.npix2nside(alone.probability.shape[-1]) == 16


def test_listed(run):
    _, output, _ = run("models")
    for model in shipped_models():
        assert f"{model.name}: for" in output
        assert model.trust in output
