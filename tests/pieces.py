"""Pieces of work that a worker process can import."""

import os
import signal
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
