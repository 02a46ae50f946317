"""What this machine can do: bytes it moves, operations it makes, and files it reads, a second.

`python benchmarks/machine.py` prints these rows alone.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from foreglow.compute.cpu import tune

tune()  # as the command line does, before PyTorch is imported

import numpy as np
import torch

from measure import devices, rate, wait

ARRAY = {"cpu": 2**26, "cuda": 2**28}  # float32 of an array: many times the caches
SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices multiplied
CONVOLUTION = (16, 64, 64)  # cutouts, channels in and out, pixels a side: the U-Net's first level
FILE_BYTES = 2**28
READ_BYTES = 2**22  # read or written at once


def machine(device: torch.device) -> Iterator[dict]:
    """Rates of memory and arithmetic; of files too, on the processor."""
    row = {"benchmark": "machine", "device": device.type, "threads": torch.get_num_threads()}
    for what, unit, work in _works(device):
        yield {**row, "what": what, "unit": unit, **rate(work)}
    if device.type == "cpu":
        for what, work in _file_works(Path(tempfile.gettempdir())):
            yield {**row, "what": what, "unit": "bytes", **rate(work)}


def _works(device: torch.device) -> Iterator[tuple[str, str, Callable[[], int]]]:
    yield "memory, copy", "bytes", _memory(device, triad=False)
    yield "memory, triad", "bytes", _memory(device, triad=True)
    yield "float32 matrices", "operations", _matrices(device, torch.float32)
    yield "float64 matrices", "operations", _matrices(device, torch.float64)
    yield "float32 convolutions", "operations", _convolution(device)
    yield "normal deviates", "numbers", _normal(device)
    if device.type == "cuda":
        yield "bfloat16 matrices", "operations", _matrices(device, torch.bfloat16)
        yield "tf32 matrices", "operations", _tf32(device)


def _memory(device: torch.device, triad: bool) -> Callable[[], int]:
    """STREAM's copy, a = b, or triad, a = b + s c; bytes as STREAM counts them."""
    # made on the processor by numpy, which asks the system for huge pages
    arrays = [torch.from_numpy(np.ones(ARRAY[device.type], np.float32)) for _ in range(3)]
    a, b, c = (array.to(device) for array in arrays)

    def work() -> int:
        if triad:
            torch.add(b, c, alpha=0.5, out=a)
        else:
            a.copy_(b)
        wait(device)
        return (3 if triad else 2) * a.nbytes

    return work


def _matrices(device: torch.device, dtype: torch.dtype) -> Callable[[], int]:
    n = SIDE[device.type]
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    out = torch.empty(n, n, device=device, dtype=dtype)

    def work() -> int:
        torch.mm(a, b, out=out)
        wait(device)
        return 2 * n**3

    return work


def _tf32(device: torch.device) -> Callable[[], int]:
    plain = _matrices(device, torch.float32)

    def work() -> int:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            return plain()
        finally:
            torch.set_float32_matmul_precision(before)

    return work


def _convolution(device: torch.device) -> Callable[[], int]:
    """A 3 x 3 convolution of 64 channels to 64, channels last."""
    cutouts, channels, side = CONVOLUTION
    layer = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(device)
    layer.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    x = torch.randn(cutouts, channels, side, side, device=device)
    x = x.contiguous(memory_format=torch.channels_last)

    def work() -> int:
        with torch.inference_mode():
            for _ in range(8):
                layer(x)
        wait(device)
        return 8 * 2 * 9 * channels**2 * cutouts * side**2

    return work


def _normal(device: torch.device) -> Callable[[], int]:
    """As PyTorch draws them, on one thread of a processor."""
    room = torch.empty(2**22, device=device)

    def work() -> int:
        room.normal_()
        wait(device)
        return room.numel()

    return work


def _file_works(folder: Path) -> Iterator[tuple[str, Callable[[], int]]]:
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        name = Path(file.name)
        block = bytearray(os.urandom(READ_BYTES))

        def write() -> int:
            with name.open("wb", buffering=0) as out:
                for _ in range(FILE_BYTES // READ_BYTES):
                    out.write(block)
            return FILE_BYTES

        def read() -> int:
            with name.open("rb", buffering=0) as source:
                while source.readinto(block):
                    pass
            return FILE_BYTES

        def read_disk() -> int:
            with name.open("rb") as source:
                os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return read()

        yield "file written, to the page cache", write
        yield "file read, from the page cache", read
        with name.open("rb") as source:
            os.fsync(source.fileno())  # only clean pages are dropped
        yield "file read, from the disk", read_disk


if __name__ == "__main__":
    for device in devices():
        for found in machine(device):
            print(json.dumps(found), flush=True)
