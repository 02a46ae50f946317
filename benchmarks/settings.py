"""Threads and memory: the same work under the settings of the command line and without them.

`python benchmarks/settings.py` prints these rows alone.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import torch

from foreglow.compute.cpu import ENVIRONMENT
from measure import median_and_range, ratio
from stages import STAGES

ALONE = "as the command line"


def _without(*names: str, **instead: str) -> dict[str, str]:
    return {k: v for k, v in ENVIRONMENT.items() if k not in names} | instead


SETTINGS = {
    ALONE: ENVIRONMENT,
    "waiting asleep": _without("GOMP_SPINCOUNT"),
    "waiting awake": _without("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"),
    "memory given back": _without("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"),
    "without huge pages": _without("THP_MEM_ALLOC_ENABLE"),
    "one thread": _without(OMP_NUM_THREADS="1"),
}
SIZES = {
    "simulate": 2**20,
    "fit, curved": 2**16,
    "train, `foreglow`": 8,
    "classify": 2**17,
    "cut": 1024,
    "train, our U-Net": 4,
}
TURNS = 2


def settings() -> Iterator[dict]:
    """Rates of some stages, each setting in a process of its own, by turns."""
    rates: dict[tuple[str, str], list[float]] = {}
    for turn in range(TURNS):
        for name in list(SETTINGS)[:: -1 if turn % 2 else 1]:
            for stage, per_s in _rates(SETTINGS[name]).items():
                rates.setdefault((stage, name), []).append(per_s)
    units = {stage.name: stage.unit for stage in STAGES}
    for (stage, name), values in rates.items():
        row = {"benchmark": "settings", "device": "cpu", "stage": stage, "what": name}
        row["unit"] = units[stage]
        if name == ALONE:
            yield {**row, **median_and_range(values)}
        else:
            yield {**row, "beside": ALONE, **ratio(values, rates[stage, ALONE])}


def _rates(environment: dict[str, str]) -> dict[str, float]:
    kept = {k: v for k, v in os.environ.items() if k not in ENVIRONMENT}
    answer = subprocess.run(
        [sys.executable, __file__, "once"], env=kept | environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return json.loads(answer.stdout.splitlines()[-1])


def _once() -> dict[str, float]:
    """The better of two times of each stage, after one to warm up."""
    found = {}
    for stage in STAGES:
        if stage.name in SIZES:
            size = SIZES[stage.name]
            work = stage.make(torch.device("cpu"), size)
            work()
            found[stage.name] = size / min(work(), work())
    return found


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(_once()))
    else:
        for row in settings():
            print(json.dumps(row), flush=True)
