"""What all benchmarks share: rates, ratios of works that take turns, and memory."""

import platform
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

REPEATS = 7
OURS = "foreglow"


def processor() -> str:
    """The name of the processor, as Linux says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def rate(work: Callable[[], int]) -> dict[str, float]:
    """Items a second of a function that returns how many it did: median and range of repeats."""
    work()
    return median_and_range([rate_once(work) for _ in range(REPEATS)])


def rate_once(work: Callable[[], int]) -> float:
    start = time.perf_counter()
    n = work()
    return n / (time.perf_counter() - start)


def in_turn(works: Mapping[str, Callable[[], int]], repeats: int) -> dict[str, list[float]]:
    """Rates of several works that take turns, so that a busy machine slows all of them.

    Each is done once before the first turn, to warm up; every second turn goes backwards.
    """
    for work in works.values():
        work()
    rates: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats):
        for name, work in list(works.items())[:: -1 if turn % 2 else 1]:
            rates[name].append(rate_once(work))
    return rates


def side_by_side(row: dict, rates: Mapping[str, list[float]], ours: str = OURS) -> Iterator[dict]:
    """A row for each rate, and one for the ratio of ours to each of the others."""
    for name, values in rates.items():
        yield {**row, "what": name, **median_and_range(values)}
    for name, values in rates.items():
        if name != ours:
            yield {**row, "what": ours, "beside": name, **ratio(rates[ours], values)}


def ratio(mine: list[float], theirs: list[float]) -> dict[str, float]:
    """Median and range, over the turns, of the ratio of two rates, and the medians of both."""
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    return {
        "ratio": float(np.median(ratios)),
        "lowest": float(min(ratios)),
        "highest": float(max(ratios)),
        "per_s": float(np.median(mine)),
        "beside_per_s": float(np.median(theirs)),
    }


def median_and_range(rates: list[float]) -> dict[str, float]:
    """Median and range of rates."""
    return {
        "per_s": float(np.median(rates)),
        "slowest": float(min(rates)),
        "fastest": float(max(rates)),
    }


def wait(device: torch.device) -> None:
    """Until a graphics card has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def devices() -> list[torch.device]:
    """Those of this machine."""
    return [torch.device(d) for d in ("cpu", "cuda") if d == "cpu" or torch.cuda.is_available()]


def peak_mib() -> float:
    """Most memory that this process ever held."""
    try:  # getrusage's peak is inherited from the process that started this one
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
