"""Memory: its bounds as users state them, and what reading mapped files leaves in it."""

import mmap
import re
from typing import Any

import numpy as np

from foreglow.errors import MapError

_PREFIXES = "kMGTP"
_MEMORY = re.compile(rf"(\d+\.?\d*(?:e\d+)?)\s*(?:([{_PREFIXES}])(i?))?B?", re.IGNORECASE)


def parse_memory(text: str) -> int:
    """Bytes of a text as '2 GiB', '500 MB' or a bare number of bytes.

    Raises
    ------
    MapError
        If it is none.
    """
    found = _MEMORY.fullmatch(text.strip())
    if found is None:
        raise MapError(f"expected memory as '2 GiB' or '500 MiB', got {text!r}")
    number, prefix, binary = found.groups()
    power = 1 + _PREFIXES.lower().index(prefix.lower()) if prefix else 0
    return int(float(number) * (1024 if binary else 1000) ** power)


def format_bytes(n: float) -> str:
    """A number of bytes in the largest unit of which there is one, or nearly: 1.50 GiB."""
    for power in range(len(_PREFIXES), 0, -1):
        if n >= 0.9 * 1024**power:
            return f"{n / 1024**power:.2f} {_PREFIXES[power - 1]}iB"
    return f"{n} B"


def release_pages(array: np.ndarray) -> None:
    """Let the pages go that reading a mapped array left in memory, where the system can."""
    mapped: Any = getattr(array, "_mmap", None)
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
