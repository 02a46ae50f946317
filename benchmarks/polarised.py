"""Training steps of our network of I, Q and U, in turn with those of the one of intensity alone.

`python benchmarks/polarised.py` prints these rows alone.
"""

import json
from collections.abc import Iterator

from foreglow.compute.cpu import tune

tune()  # as the command line does, before PyTorch is imported

import numpy as np
import torch

from measure import OURS, devices, side_by_side
from steps import dust_steps, noise_sky

NSIDE, N_CHANNEL, WIDTH = 256, 64, 8
BATCH = {"cpu": 16, "cuda": 64}
STEPS = {"cpu": 5, "cuda": 50}  # a turn
REPEATS = 5
ALONE = "intensity alone"


def polarised(device: torch.device) -> Iterator[dict]:
    """Cutouts a second of training, drawn at every step, lines moved: polarisation and intensity.

    Inputs of polarisation have four times as many pixels, and it makes three times as many gains.
    """
    batch, steps = BATCH[device.type], STEPS[device.type]
    skies = {OURS: noise_sky(NSIDE, N_CHANNEL, polarised=True), ALONE: noise_sky(NSIDE, N_CHANNEL)}
    rates: dict[str, list[float]] = {name: [] for name in skies}
    for repeat in range(REPEATS + 1):
        for name, sky in list(skies.items())[:: 1 if repeat % 2 else -1]:
            seconds = dust_steps(sky, "unet", WIDTH, batch, steps, device)
            if repeat:  # the first turn warms up
                rates[name].append(batch / float(np.median(seconds)))
    row = {"benchmark": "train I, Q and U, our U-Net", "device": device.type, "unit": "cutouts"}
    row |= {"width": WIDTH, "channels": N_CHANNEL, "batch": batch}
    row |= {"threads": torch.get_num_threads()}
    yield from side_by_side(row, rates)


if __name__ == "__main__":
    for device in devices():
        for found in polarised(device):
            print(json.dumps(found), flush=True)
