"""Model directories: round trips, and what damaged or hostile ones are told."""

import hashlib
import pickle
import shutil
import tomllib
from dataclasses import replace

import numpy as np
import pytest
import tomli_w
import torch
from safetensors.torch import load_file, save_file

import foreglow
from foreglow.errors import ModelError
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.recognition.simulation.vectors import NoiseLaw, VectorSimulator


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    model.save(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


@pytest.fixture(scope="module")
def vectors(templates, instrument):
    law = VectorSimulator(templates, instrument, PROBLEMS["four"])
    return law.draw(100, NoiseLaw.fixed(0.3), torch.Generator().manual_seed(2))


def edit(folder, **changes):
    """Rewrite the card; None drops a key."""
    path = folder / "model.toml"
    card = tomllib.loads(path.read_text()) | changes
    path.write_text(tomli_w.dumps({k: v for k, v in card.items() if v is not None}))


def sha256_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("which", ["model", "paper_model", "memory_model"])
def test_round_trip(request, which, vectors, tmp_path):
    model = request.getfixturevalue(which)
    model.save(tmp_path / "deep" / "folder")
    loaded = Recogniser.load(tmp_path / "deep" / "folder")
    assert (loaded.kind, loaded.models) == (model.kind, model.models)
    assert loaded.instrument == model.instrument
    before, after = (m.log_probability(vectors.data, vectors.sigma) for m in (model, loaded))
    assert torch.equal(before, after)
    np.testing.assert_allclose(after.exp().sum(1), 1, rtol=1e-5)
    assert not loaded.network.training
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["folder"]
    assert {p.name for p in (tmp_path / "deep" / "folder").iterdir()} == {
        "model.toml",
        "weights.safetensors",
    }


def test_card_is_kept(model, saved, tmp_path):
    card = tomllib.loads((saved / "model.toml").read_text())
    assert card["foreglow_version"] == foreglow.__version__
    assert card["job"] == "recognition"
    assert card["models"] == list(PROBLEMS["four"])
    assert card["instrument"]["sensitivity_uk_arcmin"][:3] == [840, 840, 36.1]
    assert card["training"]["regime"] == "conditioned"
    assert card["training"]["noise_range"] == [5e-4, 4.0]
    assert card["weights_sha256"] == sha256_of(saved / "weights.safetensors")
    loaded = Recogniser.load(saved)
    assert loaded.card["history"] == model.card["history"]
    assert loaded.card["training"]["sky"] == "mock"
    loaded.save(tmp_path / "again")
    assert tomllib.loads((tmp_path / "again" / "model.toml").read_text()) == card


def test_what_is_none_is_left_out_of_the_card(paper_model, tmp_path):
    """TOML has no null; a table within a table may hold one, too."""
    card = {"paper": None, "training": {"sky": "mock", "recogniser": None}}
    replace(paper_model, card=card).save(tmp_path / "model")
    assert Recogniser.load(tmp_path / "model").card["training"] == {"sky": "mock"}
    assert "paper" not in Recogniser.load(tmp_path / "model").card


def test_temperature_is_kept_and_divides_the_logits(model, vectors, tmp_path):
    warm = Recogniser(model.network, model.kind, model.instrument, model.models, temperature=2.5)
    warm.save(tmp_path / "warm")
    assert tomllib.loads((tmp_path / "warm" / "model.toml").read_text())["temperature"] == 2.5
    loaded = Recogniser.load(tmp_path / "warm")
    assert loaded.temperature == 2.5
    assert "temperature" not in loaded.card
    logits = model.network(vectors.data, vectors.sigma)
    expected = torch.log_softmax(logits / 2.5, dim=1)
    torch.testing.assert_close(loaded.log_probability(vectors.data, vectors.sigma), expected)


def test_a_card_from_before_temperatures_has_one(copy):
    edit(copy, temperature=None)
    assert Recogniser.load(copy).temperature == 1


def test_the_version_is_that_of_the_writer(copy, tmp_path):
    edit(copy, foreglow_version="0.0.1")
    Recogniser.load(copy).save(tmp_path / "again")
    card = tomllib.loads((tmp_path / "again" / "model.toml").read_text())
    assert card["foreglow_version"] == foreglow.__version__


def test_the_card_cannot_contradict_the_model(model, tmp_path):
    liar = Recogniser(
        model.network, model.kind, model.instrument, model.models, {"network": "other", "note": 1}
    )
    liar.save(tmp_path / "model")
    assert Recogniser.load(tmp_path / "model").card["note"] == 1


def test_saving_again_replaces_the_whole(paper_model, copy):
    (copy / "stale").write_text("old")
    paper_model.save(copy)
    assert Recogniser.load(copy).kind == "farsian2020"
    assert not (copy / "stale").exists()


def test_seed_gives_the_weights_and_leaves_the_global_generator(instrument):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, same, other = (
        Recogniser.untrained("foreglow", instrument, PROBLEMS["ame"], s).network.input.weight
        for s in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


def test_unknown_network(instrument):
    with pytest.raises(ModelError, match="farsian2020 or foreglow or foreglow_template, got 'cnn'"):
        Recogniser.untrained("cnn", instrument, PROBLEMS["ame"], 0)


def test_tampered_weights(copy):
    state = load_file(copy / "weights.safetensors")
    state["output.bias"] += 1
    save_file(state, copy / "weights.safetensors")
    with pytest.raises(ModelError, match="its SHA-256 differs"):
        Recogniser.load(copy)


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_pickle_is_never_opened(copy, tmp_path, writer):
    weights, trace = copy / "weights.safetensors", tmp_path / "exploded"
    if writer == "pickle":
        weights.write_bytes(pickle.dumps(Bomb(trace)))
    else:
        torch.save({"output.bias": torch.zeros(4), "bomb": Bomb(trace)}, weights)
    edit(copy, weights_sha256=sha256_of(weights))  # the attacker minds the hash
    with pytest.raises(ModelError, match="not a whole model directory"):
        Recogniser.load(copy)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "model.toml"])
def test_missing_file(copy, name):
    (copy / name).unlink()
    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        Recogniser.load(copy)


def test_missing_folder(tmp_path):
    with pytest.raises(ModelError, match=r"expected a model directory.*does not exist"):
        Recogniser.load(tmp_path / "nothing")


@pytest.mark.parametrize("size", [0, 1, 100, 5000])
def test_truncated_weights(copy, size):
    weights = copy / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    edit(copy, weights_sha256=sha256_of(weights))
    with pytest.raises(ModelError, match="not a whole model directory"):
        Recogniser.load(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"job": "dust"}, "holds a model for dust, not for recognition"),
        ({"job": None}, "holds a model for None, not for recognition"),
        ({"network": "transformer"}, "expected network farsian2020 or foreglow"),
        ({"network": "farsian2020"}, "holds another network than this version"),
        ({"network": None}, "not a whole model directory"),
        ({"models": ["power_law", "curved"]}, "holds another network than this version"),
        ({"models": 4}, "not a whole model directory"),
        ({"models": ["power_law", "wiggly"]}, "knows models wiggly, which this foreglow does not"),
        ({"models": [["power_law"]]}, "which this foreglow does not"),
        ({"instrument": "quijote"}, "not a whole model directory"),
        ({"instrument": {"name": "bare"}}, "not a whole model directory"),
        ({"weights_sha256": None}, "not a whole model directory"),
        ({"weights_sha256": 5}, "SHA-256 differs"),
        ({"temperature": 0}, "expected a temperature above zero in .*, but 0 stands there"),
        ({"temperature": -1.5}, "expected a temperature above zero"),
        ({"temperature": float("nan")}, "expected a temperature above zero"),
        ({"temperature": float("inf")}, "expected a temperature above zero"),
        ({"temperature": "hot"}, "but 'hot' stands there"),
        ({"temperature": True}, "expected a temperature above zero"),
        ({"temperature": [1.0]}, "expected a temperature above zero"),
    ],
)
def test_damaged_card(copy, changes, message):
    edit(copy, **changes)
    with pytest.raises(ModelError, match=message):
        Recogniser.load(copy)


@pytest.mark.parametrize("content", [b"network = ", b"\xff\xfe\x00", b"[instrument\n"])
def test_card_that_is_no_toml(copy, content):
    (copy / "model.toml").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.toml is not valid TOML"):
        Recogniser.load(copy)
