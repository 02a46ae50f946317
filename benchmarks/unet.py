"""Training steps of the paper's U-Net in our loop, in turn with a plain PyTorch loop of it.

`python benchmarks/unet.py` prints these rows alone.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # both as the command line does

import healpy as hp
import numpy as np
import torch

from foreglow.dust import train as training
from foreglow.dust.cutouts import Cutouts, CutoutSampler, SkyCube
from foreglow.dust.inputs import DustSky
from foreglow.dust.loss import correlation_loss
from foreglow.dust.networks import make_network
from foreglow.dust.spectra import paper_bands
from foreglow.maps.hemispheres import NORTH
from foreglow.sky.hydrogen import velocity_channels
from foreglow.training import make_generator
from measure import spread

NSIDE, N_CHANNEL, WIDTH = 256, 64, 64
BATCH = {"cpu": 16, "cuda": 64}
STEPS = {"cpu": 3, "cuda": 50}  # a turn
REPEATS = 3
_WARM_UP = 2  # steps of a new network, whose memory and Adam's are made in them


def unet(device: torch.device) -> Iterator[dict]:
    """Cutouts a second of training at 64 base channels: ours, a plain loop, and what drawing takes.

    The plain loop has its cutouts in memory already and looks at nothing but the loss. It runs
    with the memory as PyTorch makes it, (batch, channel, n, n), and with channels last, as ours.
    """
    batch, steps = BATCH[device.type], STEPS[device.type]
    sky = _sky()
    sampler = CutoutSampler(sky.cube.to(device), NORTH)
    cut = sampler.draw(batch, make_generator(device, 0))
    works = {
        "foreglow": lambda: _ours(sky, device, batch, steps),
        "plain loop": _plain(cut, sampler, steps, torch.contiguous_format),
        "plain loop, channels last": _plain(cut, sampler, steps, torch.channels_last),
    }
    rates: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(REPEATS + 1):
        for name, work in list(works.items())[:: 1 if repeat % 2 else -1]:
            seconds = work()
            if repeat:  # the first turn warms up
                rates[name].append(batch / seconds)
    row = {"benchmark": "unet", "device": device.type, "unit": "cutouts", "width": WIDTH}
    row |= {"channels": N_CHANNEL, "batch": batch, "threads": torch.get_num_threads()}
    for name, values in rates.items():
        yield {**row, "what": name, **spread(values)}
    for name in list(works)[1:]:
        pairs = zip(rates["foreglow"], rates[name], strict=True)
        yield {**row, "what": f"ratio to {name}", **spread([a / b for a, b in pairs])}
    drawing = _draw_seconds(sampler, batch, steps)
    step = batch / float(np.median(rates["foreglow"]))
    yield {**row, "what": "share of a step that drawing cutouts takes", "value": drawing / step}


def _sky() -> DustSky:
    rng = np.random.default_rng(0)
    n_pix = hp.nside2npix(NSIDE)
    inputs = torch.from_numpy(rng.lognormal(size=(n_pix, N_CHANNEL)).astype(np.float32))
    target = torch.stack([inputs.sum(1), torch.ones(n_pix)], 1)
    return DustSky(SkyCube(inputs, target), velocity_channels()[:N_CHANNEL], "uK_RJ", "noise")


def _ours(sky: DustSky, device: torch.device, batch: int, steps: int) -> float:
    """Seconds a step of `foreglow.dust.train.train`, validation and checkpoints left out."""
    starts: list[float] = []
    fit, calibrate, checked = training.fit, training._calibrate, training.VALIDATION_CUTOUTS

    def timed_fit(task, *rest):
        def loss(step, generator):
            _wait(device)
            starts.append(time.perf_counter())
            return task.loss(step, generator)

        return fit(replace(task, loss=loss), *rest)

    plan = training.DustPlan(
        "unet_zhang2019", width=WIDTH, epochs=1, steps=_WARM_UP + steps + 1, batch=batch
    )
    training.fit, training.VALIDATION_CUTOUTS = timed_fit, batch
    training._calibrate = lambda *_: None
    try:
        with tempfile.TemporaryDirectory() as folder:
            training.train(sky, NORTH, plan, Path(folder), 0, device)
    finally:
        training.fit, training._calibrate, training.VALIDATION_CUTOUTS = fit, calibrate, checked
    return float(np.median(np.diff(starts[_WARM_UP:])))


def _plain(
    cut: Cutouts, sampler: CutoutSampler, steps: int, memory: torch.memory_format
) -> Callable[[], float]:
    device = cut.target.device
    bands = paper_bands(sampler.grid).to(device)
    network = make_network("unet_zhang2019", "channels", velocity_channels(), WIDTH).to(device)
    network.standardise(cut.inputs, cut.target, cut.mask, bands)
    network.to(memory_format=memory).train()  # pyright: ignore[reportCallIssue]
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    inputs = cut.inputs.contiguous(memory_format=memory)
    target = cut.target / network.unit

    def work() -> float:
        times = []
        for _ in range(steps):
            start = time.perf_counter()
            predicted = network(inputs, cut.mask) * cut.mask / network.unit
            loss, _ = correlation_loss(predicted, target, bands)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            _wait(device)
            times.append(time.perf_counter() - start)
        return float(np.median(times))

    return work


def _draw_seconds(sampler: CutoutSampler, batch: int, steps: int) -> float:
    generator, room = make_generator(sampler.sky.inputs.device, 1), sampler.room(batch)
    times = []
    for _ in range(5 * steps):
        start = time.perf_counter()
        sampler.draw(batch, generator, room)
        _wait(room.device)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        for found in unet(torch.device(device)):
            print(json.dumps(found), flush=True)
