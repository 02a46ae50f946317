"""Processes of their own that begin with the libraries imported, unlike a new Python.

A server that has imported them forks for each: it costs milliseconds where `python -c` takes
seconds, and the process can be killed all the same.
"""

import contextlib
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path

import pytest

PRELOADED = [
    "pytest", "distributed", "lightning.pytorch", "foreglow.recognition.network.train",
    "foreglow.dust.train", "foreglow.hi_cube.prepare", "foreglow.cli",
]  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """Exit code, negative for a signal, and what was written."""

    code: int | None
    out: str
    err: str


def begin(script: str, environment: Mapping[str, str] = os.environ) -> Callable[[], Ended]:
    """Run Python code as `python -c` would; what comes back waits for its end."""
    _start_server()
    folder = tempfile.TemporaryDirectory()
    files = Path(folder.name) / "out", Path(folder.name) / "err"
    for path in files:
        path.touch()
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_run, args=(script, dict(environment), *files))
    process.start()

    def end() -> Ended:
        process.join()
        with folder:
            return Ended(process.exitcode, *(path.read_text() for path in files))

    return end


def run_script(script: str) -> Ended:
    """Run Python code as `python -c` would, and wait for its end."""
    return begin(script)()


def begin_foreglow(
    *words: object, environment: Mapping[str, str], before: str = ""
) -> Callable[[], Ended]:
    """The same of `foreglow ...`, after some Python code of one's own."""
    argv = ["foreglow", *map(str, words)]
    script = f"import sys; sys.argv = {argv!r}; from foreglow.__main__ import main; main()"
    return begin(f"{before}\n{script}", environment)


@contextlib.contextmanager
def dask_workers() -> Iterator[None]:
    """Workers of Dask that begin within are forked by the server, too."""
    from dask import config

    with config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        from distributed.utils import get_mp_context

        get_mp_context()  # would ask for other libraries, once
        _start_server()
        yield


def wait_for_dask_workers() -> None:
    """Until all are there: one that dies while it begins may never be begun again.

    A worker has another address after its death, which its nanny notes when it has begun.
    """
    from distributed import LocalCluster, Status

    (cluster,) = (
        cluster
        for cluster in LocalCluster._instances
        if isinstance(cluster, LocalCluster) and cluster.status is Status.running
    )
    for _ in range(30000):
        if set(cluster.scheduler.workers) == {n.worker_address for n in cluster.workers.values()}:
            return
        time.sleep(0.01)
    pytest.fail("a worker of Dask that died has not begun again in five minutes")


def _start_server() -> None:
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # a pool of threads would not outlive a fork
        forkserver.ensure_running()


def _run(script: str, environment: dict[str, str], out: Path, err: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    # as from a terminal: tests that run in the background have it ignored, and so would this
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for path, number in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY), number)
    exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})
