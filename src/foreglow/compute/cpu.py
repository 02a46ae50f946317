"""How many cores a process has, and how it waits and keeps memory, said before PyTorch comes.

Measured by `benchmarks/settings.py`; docs/performance.md has the figures.
"""

import contextlib
import ctypes
import os

_TRIM, _MMAP = 1 << 30, 32 << 20  # bytes; of the second, the most that glibc takes
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
ENVIRONMENT = {
    # threads spin for some 50 microseconds, then sleep: longer, and on a shared node they spin in
    # each other's way; not at all, and each small operation waits for them to wake
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "10000",
    # huge pages for large tensors, where Linux gives them: a tenth of the page faults
    "THP_MEM_ALLOC_ENABLE": "1",
    # memory is kept for the next block: given back, each of its pages faults again
    "MALLOC_TRIM_THRESHOLD_": str(_TRIM),
    "MALLOC_MMAP_THRESHOLD_": str(_MMAP),
}


def available_cores() -> int:
    """Cores for this process: a batch system or a container may give fewer than there are."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def tune() -> None:
    """Tune this process and those that it starts; what the environment says already, stays.

    Call it before PyTorch is imported. The command line and Dask's local workers do; a script of
    one's own may. Where the C library is not glibc, only what PyTorch reads has effect.
    """
    said = {name for name in ENVIRONMENT if name in os.environ}
    if "OMP_WAIT_POLICY" in said:
        said.add("GOMP_SPINCOUNT")  # which would overrule it
    os.environ.update({k: v for k, v in ENVIRONMENT.items() if k not in said})
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt  # the C library has read its variables already
        if "MALLOC_TRIM_THRESHOLD_" not in said:
            mallopt(_M_TRIM_THRESHOLD, _TRIM)
        if "MALLOC_MMAP_THRESHOLD_" not in said:
            mallopt(_M_MMAP_THRESHOLD, _MMAP)
