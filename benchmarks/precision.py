"""Both trainings in each arithmetic of `--precision`, and with layers compiled by `torch.compile`.

`python benchmarks/precision.py` prints these rows alone.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

from foreglow.compute.cpu import tune

tune()  # as the command line does, before PyTorch is imported

import numpy as np
import torch

from foreglow.dust.unet import UNet
from foreglow.recognition.network.networks import ForeglowNetwork
from measure import devices, side_by_side
from steps import dust_steps, noise_sky, recognition_steps

REPEATS = 3
STEPS = {"cpu": 6, "cuda": 50}  # a turn
ALONE = "tf32"

Work = Callable[[torch.device, str], list[float]]


def precision(device: torch.device) -> Iterator[dict]:
    """Rates of training: the default beside each other arithmetic, and beside itself compiled."""
    for what, (batch, unit, part, work) in JOBS.items():
        ways = _ways(device, part)
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(REPEATS + 1):
            for name, (arithmetic, compiled) in list(ways.items())[:: -1 if turn % 2 else 1]:
                with compiled:
                    seconds = float(np.median(work(device, arithmetic)))
                if turn:  # the first turn warms up, and compiles
                    rates[name].append(batch / seconds)
        row = {"benchmark": f"precision, {what}", "device": device.type, "unit": unit}
        row |= {"batch": batch, "threads": torch.get_num_threads()}
        yield from side_by_side(row, rates, ours=ALONE)


def _ways(device: torch.device, part: Any) -> dict[str, tuple[str, Any]]:
    """By name: the precision, and a context in which the layers are as they should."""
    found: dict[str, tuple[str, Any]] = {name: (name, nullcontext()) for name in ("tf32", "bf16")}
    if device.type == "cuda":  # elsewhere it is the first
        found["float32"] = ("float32", nullcontext())
    if device.type == "cuda" or shutil.which("g++"):
        found["tf32, compiled"] = (
            ALONE,
            patch.object(part, "forward", torch.compile(part.forward)),
        )
    return found


def _recognition(device: torch.device, arithmetic: str) -> list[float]:
    return recognition_steps("foreglow", "four", 4096, 3 * STEPS[device.type], device, arithmetic)


def _dust(width: int, batch: int) -> Work:
    sky = noise_sky(64, 64)
    return lambda device, arithmetic: dust_steps(
        sky, "unet", width, batch, STEPS[device.type], device, arithmetic
    )


# by name: batch, its unit, what is compiled, how its steps are timed
JOBS: dict[str, tuple[int, str, Any, Work]] = {
    "train `foreglow`": (4096, "vectors", ForeglowNetwork, _recognition),
    "train our U-Net, width 8": (16, "cutouts", UNet, _dust(8, 16)),
    "train our U-Net, width 64": (8, "cutouts", UNet, _dust(64, 8)),
}


if __name__ == "__main__":
    for one in devices():
        for found in precision(one):
            print(json.dumps(found), flush=True)
