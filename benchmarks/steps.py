"""Seconds of each training step of our loops, beginning and end of a training left out."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import healpy as hp
import numpy as np
import torch

from foreglow.dust import train as dust_train
from foreglow.dust.inputs import DustSky
from foreglow.dust.plan import DustPlan
from foreglow.dust.sky_cube import SkyCube
from foreglow.maps.hemispheres import NORTH
from foreglow.recognition.context import train as context_train
from foreglow.recognition.context.model import ContextModel
from foreglow.recognition.context.train import ContextPlan, Ensemble
from foreglow.recognition.models import PROBLEMS, REFERENCE_NSIDE
from foreglow.recognition.network import train as recognition_train
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.sky.hydrogen import velocity_channels
from foreglow.sky.instrument_files import load_instrument
from foreglow.sky.templates import load_templates
from measure import wait

WARM_UP = 2  # steps of a new network, whose memory and the optimiser's are made in them


def recipe(network: str, steps: int, batch: int) -> recognition_train.TrainingPlan:
    """How a network is trained well: ours as usual, the paper's by Muon."""
    plan = recognition_train.TrainingPlan(epochs=1, steps=steps, batch=batch)
    if network == "foreglow":
        return plan
    return replace(plan, optimiser="muon", learning_rate=2e-2)


def recognition_steps(
    network: str, problem: str, batch: int, steps: int, device: torch.device, precision="tf32"
) -> list[float]:
    """Seconds of each step of `recognition.network.train.train`, vectors drawn at every step."""
    model = Recogniser.untrained(network, load_instrument("quijote+litebird"), PROBLEMS[problem], 0)
    plan = replace(recipe(network, WARM_UP + steps + 1, batch), sample=batch, precision=precision)
    with _starts(recognition_train, device) as starts, tempfile.TemporaryDirectory() as folder:
        recognition_train.train(model, load_templates("mock"), plan, Path(folder), 0, device)
    return np.diff(starts[WARM_UP:]).tolist()


def context_steps(batch: int, steps: int, device: torch.device) -> list[float]:
    """Seconds of each step of `recognition.context.train.train`, layouts drawn at every step."""
    said = torch.log_softmax(torch.randn(8, 4, 4, hp.nside2npix(REFERENCE_NSIDE)), 2)
    plan = ContextPlan(epochs=1, steps=WARM_UP + steps + 1, batch=batch)
    with (
        _starts(context_train, device) as starts,
        patch.object(context_train, "_VALIDATION_STEPS", 1),
        patch.object(context_train, "_TEMPERATURE_BATCHES", 1),
        tempfile.TemporaryDirectory() as folder,
    ):
        context = ContextModel.untrained("unet", 0)
        context_train.train(context, Ensemble(said, {}), plan, Path(folder), 0, device)
    return np.diff(starts[WARM_UP:]).tolist()


def dust_steps(
    sky: DustSky, network: str, width: int, batch: int, steps: int, device: torch.device,
    precision="tf32",
) -> list[float]:  # fmt: skip
    """Seconds of each step of `foreglow.dust.train.train`, cutouts drawn at every step."""
    plan = DustPlan(
        network, width=width, epochs=1, steps=WARM_UP + steps + 1, batch=batch, precision=precision
    )
    with (
        _starts(dust_train, device) as starts,
        # each process has a folder of its own here, and the best weights lie in the first one's
        patch.object(dust_train, "load_best", lambda *_: None),
        patch.object(dust_train, "calibrate", lambda *_: None),
        patch.object(dust_train, "VALIDATION_CUTOUTS", batch),
        tempfile.TemporaryDirectory() as folder,
    ):
        dust_train.train(sky, NORTH, plan, Path(folder), 0, device)
    return np.diff(starts[WARM_UP:]).tolist()


@contextmanager
def _starts(module: ModuleType, device: torch.device) -> Iterator[list[float]]:
    """When each training step of a module's trainer begins, filled as it goes."""
    starts: list[float] = []
    fit = module.fit

    def timed_fit(task: Any, *rest: Any, **options: Any) -> Any:
        def loss(*what: Any, **how: Any) -> Any:
            wait(device)
            starts.append(time.perf_counter())
            return task.loss(*what, **how)

        return fit(replace(task, loss=loss), *rest, **options)

    with patch.object(module, "fit", timed_fit):
        yield starts


def noise_sky(nside: int, n_channel: int, polarised: bool = False) -> DustSky:
    """A sky for timing: what is in it does not matter."""
    rng = np.random.default_rng(0)
    n_pix = hp.nside2npix(nside)
    inputs = torch.from_numpy(rng.random((n_pix, n_channel), dtype=np.float32))
    target = torch.stack([inputs.sum(1), torch.ones(n_pix)], 1)
    cube = SkyCube(inputs, target)
    if polarised:
        cube = cube.with_polarisation(rng.standard_normal((2, n_pix), np.float32), nest=True)
    return DustSky(cube, velocity_channels()[:n_channel], "uK_RJ", "noise")
