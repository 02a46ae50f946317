"""Random numbers: every draw comes from a generator that a seed and a key define."""

import numpy as np
import torch


def make_generator(device: torch.device, seed: int, *key: int) -> torch.Generator:
    """An independent generator for each key, derived from the seed of the run."""
    state = np.random.SeedSequence([seed, *key]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state) & (2**63 - 1))
