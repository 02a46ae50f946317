"""Cost against work: every stage at four sizes, and the power of the size with which it grows.

`python benchmarks/scaling.py` prints these rows alone, `python benchmarks/scaling.py cut` those of
one stage.
"""

import json
import sys
from collections.abc import Iterator

from foreglow.compute.cpu import tune

tune()  # as the command line does, before PyTorch is imported

import numpy as np
import torch

from measure import devices
from stages import STAGES, Stage

REPEATS = 3
ENOUGH_SECONDS = 4.0  # beyond which a size is not repeated


def scaling(device: torch.device, names: tuple[str, ...] = ()) -> Iterator[dict]:
    """Seconds at four sizes of each stage, and the exponent fitted to them."""
    for stage in STAGES:
        if (device.type == "cpu" or stage.cuda) and (not names or stage.name in names):
            yield from costs(stage, device)


def costs(stage: Stage, device: torch.device) -> Iterator[dict]:
    """A row a size, and one with the exponent: least squares of log seconds on log size."""
    row = {"benchmark": "cost", "device": device.type, "stage": stage.name, "unit": stage.unit}
    row |= {"job": stage.job, "threads": torch.get_num_threads()}
    sizes, times = [], []
    stage.make(device, stage.sizes[0])()  # what is loaded and made once in a process
    for size in stage.sizes:
        work = stage.make(device, size)
        seconds: list[float] = []
        while len(seconds) < REPEATS and sum(seconds) < ENOUGH_SECONDS:
            seconds.append(work())
        sizes += [size] * len(seconds)
        times += seconds
        yield {
            **row, "size": size, "seconds": float(np.median(seconds)),
            "least": min(seconds), "most": max(seconds), "repeats": len(seconds),
        }  # fmt: skip
    found, error = exponent(sizes, times)
    yield {
        **row, "exponent": found, "error": error, "expected": stage.exponent,
        "left_out": stage.clock,
    }  # fmt: skip


def exponent(sizes: list[int], seconds: list[float]) -> tuple[float, float]:
    """Slope of log seconds on log size by least squares, and its standard error."""
    x, y = np.log(sizes), np.log(seconds)
    slope, offset = np.polyfit(x, y, 1)
    left = y - slope * x - offset
    error = np.sqrt(np.sum(left**2) / (len(x) - 2) / np.sum((x - x.mean()) ** 2))
    return float(slope), float(error)


if __name__ == "__main__":
    for device in devices():
        for found in scaling(device, tuple(sys.argv[1:])):
            print(json.dumps(found), flush=True)
