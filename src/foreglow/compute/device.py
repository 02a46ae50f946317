"""Where the work is done: the processor or a graphics card, and by how many threads."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from foreglow.errors import RunError

_Item = TypeVar("_Item")
_Done = TypeVar("_Done")

# at 256 two threads took twice the time of one; at 2048, beside other work, ten times
_SMALL_BATCH = 2049


def pick_device(name: str | torch.device) -> torch.device:
    """Find the device that `auto`, `cpu` or `cuda` means; one of PyTorch is taken as it is.

    Raises
    ------
    RunError
        If the name is unknown, or CUDA is asked for and absent.
    """
    if isinstance(name, torch.device):
        return name
    if name not in ("auto", "cpu", "cuda"):
        raise RunError(f"expected device auto, cpu or cuda, got {name!r}.")
    if name == "cuda" and not torch.cuda.is_available():
        raise RunError(
            "device='cuda' was asked for, but PyTorch sees no CUDA device here; give device='cpu', "
            "or install a CUDA build of PyTorch and check nvidia-smi."
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


@contextlib.contextmanager
def threads_for(batch: int, device: torch.device) -> Iterator[None]:
    """One thread for steps too small to share: waking the others costs more than they give."""
    before = torch.get_num_threads()
    if device.type == "cpu" and batch < _SMALL_BATCH:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def each_on_a_thread(
    work: Callable[[_Item], _Done], items: Iterable[_Item], device: torch.device
) -> list[_Done]:
    """Work on items side by side, each on one thread of the processor; one by one elsewhere.

    For operations that are too small to be shared between threads. The results are in the order
    of the items.
    """
    items, threads = list(items), torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or len(items) == 1:
        return list(map(work, items))
    pool = ThreadPoolExecutor(threads, "foreglow", torch.set_num_threads, (1,))
    try:
        return list(pool.map(work, items))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # else threads yet to be made would begin with one


def one_ahead(items: Iterable[_Item]) -> Iterator[_Item]:
    """Items as they come; while one is used the next is made on another thread."""
    coming, end = iter(items), object()
    with ThreadPoolExecutor(1, "foreglow") as maker:
        following: Future[Any] = maker.submit(next, coming, end)
        while (item := following.result()) is not end:
            following = maker.submit(next, coming, end)
            yield item
