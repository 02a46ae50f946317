"""Each training by one process with all cores, in turn with two that share them.

`python benchmarks/ddp.py` prints these rows alone. The batch is the same, that of all processes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from unittest.mock import patch

from foreglow.compute.cpu import available_cores, tune

tune()  # as the command line does, before PyTorch is imported

import numpy as np
import torch

from foreglow.compute.processes import Processes, join
from foreglow.dust import train as dust_train
from foreglow.recognition.context import train as context_train
from foreglow.recognition.network import train as recognition_train
from measure import side_by_side
from steps import context_steps, dust_steps, noise_sky, recognition_steps

REPEATS = 3
_CPU = torch.device("cpu")

Steps = Callable[[], list[float]]


def distributed() -> Iterator[dict]:
    """Vectors, skies and cutouts a second of training: two processes beside one."""
    cores = available_cores()
    for job, (batch, unit, what, _) in JOBS.items():
        rates: dict[str, list[float]] = {"two processes": [], "one process": []}
        for turn in range(REPEATS):
            for size, name in ((2, "two processes"), (1, "one process"))[:: -1 if turn % 2 else 1]:
                rates[name].append(batch / _seconds(job, size, max(1, cores // size)))
        row = {"benchmark": f"train by two processes, {what}", "device": "cpu", "unit": unit}
        row |= {"batch": batch, "threads": cores}
        yield from side_by_side(row, rates, ours="two processes")


def _recognition(network: str, batch: int) -> Steps:
    return lambda: recognition_steps(network, "four", batch, 20, _CPU)


def _dust(network: str, width: int, batch: int) -> Steps:
    return lambda: dust_steps(noise_sky(256, 64), network, width, batch, 5, _CPU)


# by name: batch, its unit, what it is, how its steps are timed
JOBS: dict[str, tuple[int, str, str, Steps]] = {
    "foreglow": (4096, "vectors", "`foreglow`", _recognition("foreglow", 4096)),
    "farsian2020": (256, "vectors", "`farsian2020`", _recognition("farsian2020", 256)),
    "context": (12, "skies", "neighbours", lambda: context_steps(12, 10, _CPU)),
    "unet": (16, "cutouts", "our U-Net", _dust("unet", 8, 16)),
}


def _seconds(job: str, size: int, threads: int) -> float:
    """Median seconds of a step, by new processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    words = [sys.executable, *(launcher if size > 1 else ()), __file__, job, str(size)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    return float(ended.stdout.splitlines()[-1])


def _work(job: str, size: int) -> None:
    """What each process does; the first prints."""
    with join(Processes(size), _CPU) as processes:
        for module in (recognition_train, context_train, dust_train):
            patch.object(module, "train", partial(module.train, processes=processes)).start()
        seconds = float(np.median(JOBS[job][3]()))
        if processes.rank == 0:
            print(seconds)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _work(sys.argv[1], int(sys.argv[2]))
    else:
        for found in distributed():
            print(json.dumps(found), flush=True)
