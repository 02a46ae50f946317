"""Random numbers: every draw comes from a generator that a seed and a key define."""

import numpy as np
import torch
from torch import Tensor


def make_generator(device: torch.device, seed: int, *key: int) -> torch.Generator:
    """An independent generator for each key, derived from the seed of the run."""
    state = np.random.SeedSequence([seed, *key]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state) & (2**63 - 1))


def random_bytes(n: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """Random uint8 of shape (n,), drawn eight at a time: PyTorch takes as long for one byte."""
    words = torch.empty(-(-n // 8), dtype=torch.int64, device=device)
    words.random_(-(2**63), None, generator=generator)  # all 64 bits; else the highest is 0
    return words.view(torch.uint8)[:n]
