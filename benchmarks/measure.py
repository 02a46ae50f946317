"""What all benchmarks share: rates and memory."""

import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

REPEATS = 7


def rate(work: Callable[[], int]) -> dict[str, float]:
    """Items a second of a function that returns how many it did: median and range of repeats."""
    work()
    return spread([rate_once(work) for _ in range(REPEATS)])


def rate_once(work: Callable[[], int]) -> float:
    start = time.perf_counter()
    n = work()
    return n / (time.perf_counter() - start)


def spread(rates: list[float]) -> dict[str, float]:
    return {
        "per_s": float(np.median(rates)),
        "slowest": float(min(rates)),
        "fastest": float(max(rates)),
    }


def peak_mib() -> float:
    """Most memory that this process ever held."""
    try:  # getrusage's peak is inherited from the process that started this one
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
