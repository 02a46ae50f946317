"""Memory: its bounds as users state them, and what reading mapped files leaves in it."""

import mmap
from typing import Any

import numpy as np
from dask.utils import parse_bytes

from foreglow.errors import MapError


def parse_memory(text: str) -> int:
    """Bytes of a text as '2 GiB'.

    Raises
    ------
    MapError
        If it is none.
    """
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise MapError(f"expected memory as '2 GiB' or '500 MiB', got {text!r}") from error


def release_pages(array: np.ndarray) -> None:
    """Let the pages go that reading a mapped array left in memory, where the system can."""
    mapped: Any = getattr(array, "_mmap", None)
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
