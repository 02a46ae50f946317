"""A reproduction of a few steps: killed and resumed, or judged by workers, it is the same."""

import logging
import os
import shutil
import signal
from pathlib import Path

import pytest

from foreglow.recognition.context import train as context_training
from foreglow.recognition.network import train as training
from foreglow.report.recognition import skymaps
from foreglow.reproduce import farsian2020
from foreglow.reproduce.farsian2020 import context as contexts
from foreglow.reproduce.farsian2020 import experiment
from forked import run_script

REGIMES = ("noiseless", "one_noise", "many_noise")
_PLAN = {"epochs": 2, "steps": 2, "batch": 64, "learning_rate": 1e-3}
TINY = {
    "template_nside": 16,
    "test_nside": 8,
    "test_skies": 2,
    "noise_scales": [0.1],
    "dedicated_noise_scales": [],
    "annealed_noise_scales": [0.1],
    "ceiling_noise_scales": [0.1],
    "ceiling_vectors": 64,
    "fit_skies": 2,
    "fit_noise_scales": [1.0],
    "outside": {"skies": 2, "noise_scales": [1.0], "changes": {"ame_fraction": [0.0]}},
    "problems": ["ame"],
    "context_layouts": ["single"],
    "context_noise_scales": [1.0],
    "context_skies": 2,
    "patch_skies": 2,
    "context": {
        "realisations": 2,
        "noise_range": [0.5, 1.0],
        "unet": {"epochs": 1, "steps": 1, "batch": 2},
        "potts": {"epochs": 1, "steps": 1, "batch": 2},
    },
    "separation_problems": ["ame"],
    "separation_noise_scales": [1.0],
    "separation_skies": 3,
    "farsian2020": {r: _PLAN | {"fixed_set": True, "optimiser": "adadelta"} for r in REGIMES},
    "farsian2020_annealed": {"network": "farsian2020"}
    | {r: _PLAN | {"optimiser": "muon"} for r in REGIMES},
    "foreglow": {r: _PLAN | {"fixed_set": False} for r in (*REGIMES, "conditioned")},
    "foreglow_template": {"many_noise": _PLAN | {"fixed_set": False}},
}


def no_drawing(*_, **__):
    """Drawing is tested at smoke scale, and slow."""


SMALL = (
    (training, "_CALIBRATION_SAMPLE", 64),
    (training, "_STANDARDISATION_SAMPLE", 1024),
    (context_training, "_VALIDATION_STEPS", 1),
    (context_training, "_TEMPERATURE_BATCHES", 1),
    (skymaps, "_recognition_figure", no_drawing),
    (experiment.figures, "save", no_drawing),
)
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from test_farsian2020_resumed import SMALL, TINY, farsian2020
from foreglow.recognition.network import train as training
farsian2020.read_settings = lambda *_: TINY
for module, name, value in SMALL:
    setattr(module, name, value)
draw, drawn = training.VectorSimulator.draw, 0
def strike(*arguments):
    global drawn
    drawn += 1
    if drawn == {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(*arguments)
training.VectorSimulator.draw = strike
farsian2020.reproduce(Path({folder!r}), "smoke", "mock", seed=0, device="cpu")
"""


@pytest.fixture(scope="module")
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(farsian2020, "read_settings", lambda *_: TINY)
        for module, name, value in SMALL:
            patch.setattr(module, name, value)
        yield


def reproduce(folder, **options):
    farsian2020.reproduce(folder, "smoke", "mock", seed=0, device="cpu", **options)


@pytest.fixture(scope="module")
def whole(one_thread, tiny, tmp_path_factory):
    """The run directory of a reproduction that nobody interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    reproduce(folder)
    return folder


def weights_of(folder):
    return {p.parent.name: p.read_bytes() for p in (folder / "model").glob("*/*.safetensors")}


@pytest.mark.slow
def test_killed_and_resumed(whole, tmp_path, caplog):
    """kill -9 in the second epoch of the third network, then --resume: the same numbers."""
    killed = tmp_path / "killed"
    # a sample of inputs, two epochs of two steps and one validation each, and one calibration: 8
    # draws a network; neighbours and theirs come first
    script = KILLED.format(tests=str(Path(__file__).parent), folder=str(killed), after=22)
    ended = run_script(script)
    assert ended.code == -signal.SIGKILL, ended.err[-2000:]
    assert {p.name for p in (killed / "model").iterdir()} == {
        "four_foreglow_conditioned", "context_unet", "context_potts", "ame_farsian2020_noiseless",
    }  # fmt: skip
    assert (killed / "training" / "ame_farsian2020_one_noise" / "last.ckpt").is_file()
    assert not (killed / "metrics.json").exists()
    with caplog.at_level(logging.INFO, logger="foreglow"):
        reproduce(killed, resume=True)
    first = caplog.text[: caplog.text.index("train ame_farsian2020_one_noise")]
    assert first.count("trained already") == 3
    assert "train four_foreglow_conditioned" not in caplog.text
    assert farsian2020.read_records(killed) == farsian2020.read_records(whole)
    assert weights_of(killed) == weights_of(whole)
    assert (killed / "report.html").is_file()


def test_workers_find_the_same(whole, map_fn, tmp_path, monkeypatch):
    """Judged again by two workers, from the models that are there: the same, to the last digit."""

    def no_training(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(experiment, "train", no_training)
    monkeypatch.setattr(contexts.training, "train", no_training)
    monkeypatch.setattr(contexts, "pixel_ensemble", no_training)
    there = shutil.copytree(whole, tmp_path / "there")
    (there / "metrics.json").unlink()
    models = weights_of(there)
    monkeypatch.chdir(tmp_path)  # workers are elsewhere: names must be told in full
    reproduce(Path("there"), resume=True, map_fn=map_fn)
    assert farsian2020.read_records(there) == farsian2020.read_records(whole)
    assert weights_of(there) == models
    assert list(map_fn(os.path.exists, ["there"])) == [False]  # nor trained again where they are
