"""Pieces of work that a worker process can import."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from foreglow.errors import MapError


def square(n: int) -> np.ndarray:
    return np.full(1000, n * n)


def where_done(_: int) -> int:
    return os.getpid()


def refuse(n: int) -> int:
    if n == 3:
        raise MapError("expected a better map")
    return n


def die_once(job: tuple[int, str]) -> int:
    """Take the worker along, the first time that number 2 is done."""
    n, folder = job
    flag = Path(folder) / "died"
    if n == 2 and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return n


def first_waits_for_last(job: tuple[int, str]) -> bool:
    """Number 0 ends only when number 9 is done; whether it was."""
    n, folder = job
    done = Path(folder) / "done"
    if n == 9:
        done.touch()
    deadline = time.monotonic() + 60
    while n == 0 and not done.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return n != 0 or done.exists()


def die(_: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def die_first(work: Callable[[Any], Any], folder: str, item: Any) -> Any:
    """Take the worker along once, on the second item; then do the work."""
    begun, died = Path(folder) / "begun", Path(folder) / "died"
    if begun.exists() and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    begun.touch()
    return work(item)
