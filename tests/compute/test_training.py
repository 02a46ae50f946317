"""The trainer: what an interruption leaves, what resuming gives, and what the regimes promise."""

import csv
import hashlib
import shutil
import signal
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from foreglow.compute.checkpoints import PlainCheckpoints
from foreglow.compute.device import pick_device
from foreglow.compute.precision import arithmetic
from foreglow.compute.random import make_generator
from foreglow.errors import RunError
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network import train as module
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.recognition.network.train import (
    Regime,
    TrainingPlan,
    make_simulator,
    train,
)
from foreglow.sky.instrument_files import load_instrument
from foreglow.sky.templates import load_templates
from forked import run_script

CPU = torch.device("cpu")
EPOCHS, STEPS, SAMPLE = 4, 5, 2048
pytestmark = pytest.mark.usefixtures("one_thread")
read_checkpoint = PlainCheckpoints().load_checkpoint

KINDS = ("farsian2020", "foreglow")


def make_plan(kind, regime="conditioned", epochs=EPOCHS, **changes):
    fixed = kind == "farsian2020"
    values = {
        "steps": STEPS,
        "batch": 64,
        "fixed_set": fixed,
        "learning_rate": 1.0 if fixed else 2e-3,
        "optimiser": "adadelta" if fixed else "adamw",
    }
    return TrainingPlan(regime, epochs, **values | changes)


def make_model(kind, problem="curvature", seed=0):
    return Recogniser.untrained(kind, load_instrument("quijote+litebird"), PROBLEMS[problem], seed)


@pytest.fixture(scope="module")
def templates():
    return load_templates("mock", 16)


@pytest.fixture(scope="module", autouse=True)
def small():
    """Little to standardise and to calibrate with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_STANDARDISATION_SAMPLE", SAMPLE)
        patch.setattr(module, "_CALIBRATION_SAMPLE", SAMPLE)
        yield


@pytest.fixture(scope="module", params=KINDS)
def uninterrupted(request, tmp_path_factory, templates):
    """A finished training: model, history and folder."""
    model = make_model(request.param)
    folder = tmp_path_factory.mktemp("whole")
    history = train(model, templates, make_plan(request.param), folder, 3, CPU)
    return model, history, folder


class Watch:
    """Keeps a fingerprint of every batch that a network sees, and may stop it at one."""

    def __init__(self, model, stop_at=None):
        self.training, self.validation, self.stop_at = [], [], stop_at
        self.sigma = []
        model.network.register_forward_pre_hook(self)

    def __call__(self, network, inputs):
        if network.training and len(self.training) == self.stop_at:
            raise RuntimeError("lightning struck")
        data, sigma = inputs[:2]
        seen = self.training if network.training else self.validation
        seen.append(hashlib.sha256(data.numpy().tobytes()).hexdigest())
        self.sigma.append(sigma.numpy().copy())


@pytest.fixture
def uncalibrated(monkeypatch):
    """The network sees training and validation alone, not the vectors that set its temperature."""
    monkeypatch.setattr(module, "_calibrate", lambda *_: None)


def assert_same_weights(one, other):
    a, b = one.network.state_dict(), other.network.state_dict()
    assert list(a) == list(b)
    for name in a:
        assert torch.equal(a[name], b[name]), name


# ---- resuming --------------------------------------------------------------------------------


@pytest.mark.parametrize("done", [1, STEPS - 1, 2 * STEPS, 3 * STEPS + 2])
def test_resumed_is_as_if_uninterrupted(uninterrupted, templates, tmp_path, done):
    whole, history, _ = uninterrupted
    plan = make_plan(whole.kind)
    broken = make_model(whole.kind)
    Watch(broken, stop_at=done)
    with pytest.raises(RuntimeError, match="lightning struck"):
        train(broken, templates, plan, tmp_path, 3, CPU)
    assert (tmp_path / "last.ckpt").is_file() == (done >= STEPS)
    resumed = make_model(whole.kind, seed=99)  # whatever its weights are, the checkpoint's count
    if done < STEPS:
        resumed = make_model(whole.kind)
    seen = Watch(resumed)
    assert train(resumed, templates, plan, tmp_path, 3, CPU, resume=True) == history
    assert_same_weights(resumed, whole)
    assert len(seen.training) == STEPS * (EPOCHS - done // STEPS)  # finished epochs are not redone


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from typing import get_args
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from test_training import CPU, SAMPLE, make_model, make_plan, module
from foreglow.recognition.network.train import train
module._STANDARDISATION_SAMPLE = module._CALIBRATION_SAMPLE = SAMPLE
from foreglow.sky.templates import load_templates
model = make_model({kind!r})
steps = 0
def strike(network, inputs):
    global steps
    steps += network.training
    if steps == 13:
        os.kill(os.getpid(), signal.SIGKILL)
model.network.register_forward_pre_hook(strike)
train(model, load_templates("mock", 16), make_plan({kind!r}), Path({folder!r}), 3, CPU)
"""


def test_killed_and_resumed(uninterrupted, templates, tmp_path):
    whole, history, _ = uninterrupted
    folder = tmp_path / "work"
    script = KILLED.format(kind=whole.kind, folder=str(folder), tests=str(Path(__file__).parent))
    ended = run_script(script)
    assert ended.code == -signal.SIGKILL, ended.err[-2000:]
    resumed = make_model(whole.kind, seed=99)
    seen = Watch(resumed)
    assert train(resumed, templates, make_plan(whole.kind), folder, 3, CPU, resume=True) == history
    assert_same_weights(resumed, whole)
    assert len(seen.training) == 2 * STEPS
    assert read_metrics(folder) == history


def test_resuming_what_is_finished_trains_no_more(uninterrupted, templates, tmp_path):
    whole, history, folder = uninterrupted
    again = make_model(whole.kind, seed=5)
    copy = shutil.copytree(folder, tmp_path / "copy")
    seen = Watch(again)
    assert train(again, templates, make_plan(whole.kind), copy, 3, CPU, resume=True) == history
    assert not seen.training
    assert_same_weights(again, whole)


def test_without_resume_a_checkpoint_is_ignored(uninterrupted, templates, tmp_path):
    whole, history, folder = uninterrupted
    copy = shutil.copytree(folder, tmp_path / "copy")
    again = make_model(whole.kind)
    seen = Watch(again)
    assert train(again, templates, make_plan(whole.kind), copy, 3, CPU) == history
    assert len(seen.training) == EPOCHS * STEPS


def read_metrics(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row.pop("epoch") for row in rows] == [str(n + 1) for n in range(len(rows))]
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def test_history_has_a_value_an_epoch(uninterrupted):
    _, history, folder = uninterrupted
    assert set(history) == {
        "train_loss", "train_accuracy", "validation_loss", "validation_accuracy",
    }  # fmt: skip
    assert all(len(values) == EPOCHS for values in history.values())
    assert all(0 <= v <= 1 for v in history["validation_accuracy"])
    assert len(set(history["train_loss"])) == EPOCHS
    assert read_metrics(folder) == history


def test_another_seed_trains_another_network(uninterrupted, templates, tmp_path):
    whole, history, _ = uninterrupted
    other = make_model(whole.kind)
    assert train(other, templates, make_plan(whole.kind), tmp_path, 4, CPU) != history


# ---- checkpoints -----------------------------------------------------------------------------


def test_checkpoints_are_safetensors_and_json(uninterrupted):
    whole, _, folder = uninterrupted
    for name in ("last.ckpt", "best.ckpt"):
        shapes = {tuple(t.shape) for t in load_file(folder / name).values()}
        assert {tuple(p.shape) for p in whole.network.parameters()} <= shapes
        assert read_checkpoint(folder / name)
    # no half of a checkpoint, and no pickle of any name
    assert not list(folder.glob(".*"))
    for path in (p for p in folder.rglob("*") if p.is_file()):
        head = path.read_bytes()[:4]
        assert not head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK"))


def test_best_is_the_epoch_of_highest_accuracy(uninterrupted):
    _, history, folder = uninterrupted
    assert read_checkpoint(folder / "best.ckpt")["epoch"] == int(
        np.argmax(history["validation_accuracy"])
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: save_file({"a": torch.zeros(1)}, f, {"state": '{"dict": [['}),
        lambda f: save_file({"a": torch.zeros(1)}, f, {"state": "{}"}),
        lambda f: save_file({"a": torch.zeros(1)}, f),
        lambda f: f.write_bytes(b"\x80\x04\x95pickle"),
        lambda f: f.write_bytes(f.read_bytes()[:500]),
        lambda f: f.write_bytes(b""),
    ],
    ids=["cut json", "empty json", "no json", "pickle", "cut", "empty"],
)
def test_damaged_checkpoint(uninterrupted, templates, tmp_path, damage):
    whole, _, folder = uninterrupted
    copy = shutil.copytree(folder, tmp_path / "copy")
    damage(copy / "last.ckpt")
    with pytest.raises(RunError, match=r"cannot be read.*delete it to train anew"):
        train(make_model(whole.kind), templates, make_plan(whole.kind), copy, 3, CPU, resume=True)


# ---- what a plan promises --------------------------------------------------------------------


def test_fixed_set_is_seen_every_epoch_in_another_order(templates, tmp_path):
    model = make_model("farsian2020")
    seen = Watch(model)
    plan = make_plan("farsian2020", steps=8, epochs=3)
    train(model, templates, plan, tmp_path, 0, CPU)
    epochs = [seen.training[k : k + 8] for k in (0, 8, 16)]
    assert len(set(epochs[0])) == 8
    assert set(epochs[0]) == set(epochs[1]) == set(epochs[2])
    assert epochs[0] != epochs[1] != epochs[2]
    assert plan.validation_steps == 2  # a fifth of the whole
    checks = [seen.validation[k : k + 2] for k in (0, 2, 4)]
    assert checks[0] == checks[1] == checks[2]
    assert not set(checks[0]) & set(epochs[0])


def test_fresh_vectors_at_every_step(uncalibrated, templates, tmp_path):
    model = make_model("foreglow")
    seen = Watch(model)
    train(model, templates, make_plan("foreglow", steps=6, epochs=3), tmp_path, 0, CPU)
    assert len(set(seen.training)) == 18
    assert len(set(seen.validation)) == make_plan("foreglow", steps=6).validation_steps
    assert not set(seen.training) & set(seen.validation)


@pytest.mark.parametrize(("steps", "fixed", "fresh"), [(1, 1, 1), (8, 2, 2), (400, 100, 10)])
def test_a_fifth_is_held_for_validation(steps, fixed, fresh):
    assert make_plan("farsian2020", steps=steps).validation_steps == fixed
    assert make_plan("foreglow", steps=steps).validation_steps == fresh


def sigma_seen(regime, tmp_path, templates, **changes):
    model = make_model("farsian2020")
    seen = Watch(model)
    plan = make_plan("farsian2020", regime, epochs=1, **changes)
    train(model, templates, plan, tmp_path, 0, CPU)
    return np.concatenate(seen.sigma)


def test_regimes_have_the_noise_they_claim(uncalibrated, tmp_path):
    fine = load_templates("mock", 32)
    instrument = load_instrument("quijote+litebird")
    at_16, at_32 = instrument.noise_rms(16), instrument.noise_rms(32)
    np.testing.assert_allclose(at_32, 2 * at_16)  # smaller pixels, more noise

    def seen(regime, **changes):
        return sigma_seen(regime, tmp_path / f"{regime}{len(changes)}", fine, **changes)

    assert (seen("noiseless") == 0).all()
    np.testing.assert_allclose(seen("one_noise"), np.tile(at_32, (64 * 6, 1)), rtol=1e-5)
    np.testing.assert_allclose(seen("many_noise"), np.tile(at_16, (64 * 6, 1)), rtol=1e-5)
    tenth = seen("many_noise", noise_scale=0.1)
    np.testing.assert_allclose(tenth, np.tile(0.1 * at_16, (64 * 6, 1)), rtol=1e-5)
    depth = np.exp(np.log(seen("conditioned", noise_range=(0.01, 1.0)) / at_16).mean(1))
    assert depth.min() > 0.008
    assert depth.max() < 1.3
    assert np.log10(depth).std() == pytest.approx(2 / 12**0.5, rel=0.15)


def test_regimes_have_the_pixels_they_claim():
    fine = load_templates("mock", 32)
    model = make_model("farsian2020")
    coarse = fine.degraded(16)
    for regime in get_args(Regime):
        simulator = make_simulator(model, fine, make_plan("farsian2020", regime))
        generator = torch.Generator().manual_seed(0)
        plan = make_plan("farsian2020", "noiseless")
        # the CMB of a map with larger pixels has less power
        expected = make_simulator(model, coarse if regime == "many_noise" else fine, plan)
        same = torch.Generator().manual_seed(0)
        a = simulator.draw(500, plan.noise, generator)
        b = expected.draw(500, plan.noise, same)
        assert torch.equal(a.data, b.data)


def test_one_noise_sees_the_noiseless_vectors(uncalibrated, templates, tmp_path):
    data = {}
    for regime in ("noiseless", "one_noise"):
        model = make_model("farsian2020")
        batches = data.setdefault(regime, [])
        model.network.register_forward_pre_hook(lambda _, x, to=batches: to.append(x[:2]))
        train(
            model, templates, make_plan("farsian2020", regime, epochs=1), tmp_path / regime, 0, CPU
        )
    for (clean, _), (noisy, sigma) in zip(*data.values(), strict=True):
        white = (noisy - clean) / sigma[:, None]
        assert white.std().item() == pytest.approx(1, abs=0.05)


def test_training_goes_on_from_the_weights_it_has(templates, tmp_path):
    plan = make_plan("farsian2020", epochs=1, steps=1, learning_rate=1e-9)
    model = make_model("farsian2020")
    before = {k: v.clone() for k, v in model.network.state_dict().items()}
    train(model, templates, plan, tmp_path, 0, CPU)
    for name, value in model.network.state_dict().items():
        torch.testing.assert_close(value, before[name], atol=1e-6, rtol=0)


def test_the_card_says_how(templates, tmp_path):
    model = make_model("foreglow")
    plan = make_plan("foreglow", epochs=1, steps=1)
    train(model, templates, plan, tmp_path, 7, CPU)
    assert model.card["training"]["seed"] == 7
    assert model.card["training"]["sky"] == "mock"
    assert model.card["training"]["batch"] == 64
    assert model.card["training"]["noise_range"] == plan.noise_range


# ---- devices, generators ----------------------------------------------------------------------


def test_devices():
    assert pick_device("cpu") == CPU
    with pytest.raises(RunError, match="expected device auto, cpu or cuda, got 'tpu'"):
        pick_device("tpu")


def test_cuda_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == CPU
    with pytest.raises(RunError, match="PyTorch sees no CUDA device here; give device="):
        pick_device("cuda")


def test_generators_differ_by_every_key():
    keys = [(seed, stage, step) for seed in (0, 1) for stage in (0, 1, 2) for step in (0, 1, 7)]
    draws = [torch.rand(1, generator=make_generator(CPU, *key)).item() for key in keys]
    again = [torch.rand(1, generator=make_generator(CPU, *key)).item() for key in keys]
    assert draws == again
    assert len(set(draws)) == len(keys)


# ---- precision -------------------------------------------------------------------------------


def layer_types(network, data, sigma):
    """Types of what the network's linear layers and its logits are made in."""
    found = set()
    handles = [
        module.register_forward_hook(lambda *call: found.add(call[2].dtype))
        for module in network.modules()
        if isinstance(module, torch.nn.Linear)
    ]
    logits = network(data, sigma)
    for handle in handles:
        handle.remove()
    return found, logits.dtype


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_is_of_the_layers_alone(kind):
    model = make_model(kind)
    data, sigma = torch.randn(8, 2, 17), torch.ones(8, 17)
    with arithmetic("bf16"):
        assert layer_types(model.network, data, sigma) == ({torch.bfloat16}, torch.float32)
    assert layer_types(model.network, data, sigma) == ({torch.float32}, torch.float32)


def test_precisions_of_a_card_are_put_back():
    before = torch.backends.cudnn.allow_tf32
    for precision, allowed in (("tf32", True), ("float32", False)):
        with arithmetic(precision):
            assert torch.backends.cudnn.allow_tf32 is allowed
        assert torch.backends.cudnn.allow_tf32 is before


def test_bf16_learns_as_float32_does(templates, tmp_path):
    """Losses of every epoch agree to a per cent, and the weights are float32."""
    histories = {}
    for precision in ("float32", "bf16"):
        model = make_model("foreglow")
        plan = make_plan("foreglow", steps=20, batch=256, precision=precision)
        histories[precision] = train(model, templates, plan, tmp_path / precision, 3, CPU)
        assert {p.dtype for p in model.network.parameters()} == {torch.float32}
        assert model.card["training"]["precision"] == precision
    one, other = (histories[p]["validation_loss"] for p in ("float32", "bf16"))
    assert one != other
    assert one[-1] < 0.5 * np.log(2)  # of a guess
    assert other == pytest.approx(one, rel=0.01)


def test_a_precision_that_is_none(templates, tmp_path):
    plan = make_plan("foreglow", precision="float16")
    with pytest.raises(RunError, match="expected precision tf32, float32, bf16, got 'float16'"):
        train(make_model("foreglow"), templates, plan, tmp_path, 3, CPU)
