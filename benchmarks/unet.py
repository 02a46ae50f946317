"""Training steps of the paper's U-Net in our loop, in turn with a plain PyTorch loop of it.

`python benchmarks/unet.py` prints these rows alone.
"""

import json
import time
from collections.abc import Callable, Iterator

from foreglow.compute.cpu import tune

tune()  # as the command line does, before PyTorch is imported

import numpy as np
import torch

from foreglow.compute.random import make_generator
from foreglow.dust.cutouts import Cutouts, CutoutSampler
from foreglow.dust.loss import correlation_loss
from foreglow.dust.networks import make_network
from foreglow.dust.spectra import paper_bands
from foreglow.maps.hemispheres import NORTH
from foreglow.sky.hydrogen import velocity_channels
from measure import OURS, devices, side_by_side, wait
from steps import dust_steps, noise_sky

NSIDE, N_CHANNEL, WIDTH = 256, 64, 64
BATCH = {"cpu": 16, "cuda": 64}
STEPS = {"cpu": 3, "cuda": 50}  # a turn
REPEATS = 3


def unet(device: torch.device) -> Iterator[dict]:
    """Cutouts a second of training at 64 base channels: ours, a plain loop, and what drawing takes.

    The plain loop has its cutouts in memory already and looks at nothing but the loss. It runs
    with the memory as PyTorch makes it, (batch, channel, n, n), and with channels last, as ours.
    """
    batch, steps = BATCH[device.type], STEPS[device.type]
    sky = noise_sky(NSIDE, N_CHANNEL)
    sampler = CutoutSampler(sky.cube.to(device), NORTH)
    cut = sampler.draw(batch, make_generator(device, 0))
    works = {
        OURS: lambda: dust_steps(sky, "unet_zhang2019", WIDTH, batch, steps, device),
        "plain PyTorch loop": _plain(cut, sampler, steps, torch.contiguous_format),
        "plain PyTorch loop, channels last": _plain(cut, sampler, steps, torch.channels_last),
    }
    rates: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(REPEATS + 1):
        for name, work in list(works.items())[:: 1 if repeat % 2 else -1]:
            seconds = float(np.median(work()))
            if repeat:  # the first turn warms up
                rates[name].append(batch / seconds)
    row = {"benchmark": "train, paper's U-Net", "device": device.type, "unit": "cutouts"}
    row |= {"width": WIDTH, "channels": N_CHANNEL, "batch": batch}
    row |= {"threads": torch.get_num_threads()}
    yield from side_by_side(row, rates)
    drawing = _draw_seconds(sampler, batch, steps)
    step = batch / float(np.median(rates[OURS]))
    yield {**row, "what": "share of a step that drawing cutouts takes", "value": drawing / step}


def _plain(
    cut: Cutouts, sampler: CutoutSampler, steps: int, memory: torch.memory_format
) -> Callable[[], list[float]]:
    device = cut.target.device
    bands = paper_bands(sampler.grid).to(device)
    network = make_network("unet_zhang2019", "channels", velocity_channels(), WIDTH).to(device)
    network.standardise(cut.inputs, cut.target, cut.mask, bands)
    network.to(memory_format=memory).train()  # pyright: ignore[reportCallIssue]
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    inputs = cut.inputs.contiguous(memory_format=memory)
    target = cut.target / network.unit

    def work() -> list[float]:
        times = []
        for _ in range(steps):
            start = time.perf_counter()
            predicted = network(inputs, cut.mask) * cut.mask / network.unit
            loss, _ = correlation_loss(predicted, target, bands)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            wait(device)
            times.append(time.perf_counter() - start)
        return times

    return work


def _draw_seconds(sampler: CutoutSampler, batch: int, steps: int) -> float:
    generator, room = make_generator(sampler.sky.inputs.device, 1), sampler.room(batch)
    times = []
    for _ in range(5 * steps):
        start = time.perf_counter()
        sampler.draw(batch, generator, room)
        wait(room.device)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


if __name__ == "__main__":
    for device in devices():
        for found in unet(device):
            print(json.dumps(found), flush=True)
