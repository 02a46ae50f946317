"""Pieces of work given to Dask's workers: here, on other machines, or as jobs of SLURM.

What is map-shaped in foreglow is written as `map_fn(work, items)`: by default Python's own `map`,
with a cluster the same results in the same order, from its workers. A piece of work is told where
its input lies and reads it itself, so it must see the same files; its result, no more than a block
of a map, comes straight from the worker. A piece whose worker is lost is done again by another.
"""

import contextlib
import logging
import tomllib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from math import inf
from pathlib import Path
from typing import Any, Protocol, TypeVar

from foreglow.compute.cpu import ENVIRONMENT, available_cores
from foreglow.errors import RunError
from foreglow.extras import require

log = logging.getLogger("foreglow")

_AHEAD = 2  # pieces for each worker
_PATIENCE = "30s"  # for a scheduler to answer
_LOOK_S = 20.0  # how often to see whether there are workers at all

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class MapFn(Protocol):
    """A `map` of one iterable: results in the order of the items."""

    def __call__(
        self, work: Callable[[_Item], _Result], items: Iterable[_Item], /
    ) -> Iterator[_Result]:
        """Results, as they come."""
        ...


@contextlib.contextmanager
def open_workers(where: str | None, ahead: float = _AHEAD) -> Iterator[MapFn]:
    """Workers for `map_fn(work, items)`, from its first use for as long as the context lasts.

    Parameters
    ----------
    where : str or None
        `tcp://HOST:PORT`, the scheduler of a running cluster; `local:N`, N processes on this
        machine, which share its cores and memory; `slurm:FILE`, jobs of SLURM as a TOML file says:
        `jobs`, and the arguments of `dask_jobqueue.SLURMCluster` (`queue`, `cores`, `memory`,
        `walltime`, ...). None: this process alone.
    ahead : float
        Pieces for each worker that are in hand, or done and not yet fetched, as those before them
        are not done: what bounds the memory. `math.inf` where results are small and some pieces
        take much longer than others, as trainings do: then a worker has one piece at a time, none
        lies behind a long one, and no worker waits for another.

    Yields
    ------
    MapFn
        `work` must be importable by the workers (a function of a module, or a `partial` of one)
        and must depend on its item alone; it may be done twice.

    Raises
    ------
    RunError
        If `where` is none of these; from `map_fn`, if the cluster cannot be reached or started, or
        is lost.
    """
    if where is None:
        yield map
        return
    cluster = _cluster(str(where))
    require("cluster")
    with contextlib.ExitStack() as stack:

        @cache
        def started() -> MapFn:
            address = stack.enter_context(cluster)
            client = stack.enter_context(_connect(address, where))
            return _spread_over(client, where, ahead)

        def map_fn(work: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
            # not before there is work: whoever gave a wrong argument need not wait for workers
            yield from started()(work, items)

        yield map_fn


@contextlib.contextmanager
def map_over(workers: str | None, pool: Any = None) -> Iterator[MapFn]:
    """A `map` over the workers or the pool that a user gave, or Python's own.

    Parameters
    ----------
    workers : str or None
        As `open_workers` takes it.
    pool : object with a method `map`, optional
        Of multiprocessing, concurrent.futures, mpi4py.futures, schwimmbad, or a client of Dask.

    Raises
    ------
    RunError
        If both were given, or `pool` has no `map`; else as `open_workers`.
    """
    if pool is None:
        with open_workers(workers) as map_fn:
            yield map_fn
        return
    if workers is not None:
        raise RunError("expected workers= or pool=, got both; leave one out.")
    if not callable(getattr(pool, "map", None)):
        raise RunError(
            f"expected a pool with a method map, as multiprocessing.Pool has, got {pool!r}; give "
            "one, or workers='local:4'."
        )
    if hasattr(pool, "gather"):  # of Dask: futures would come
        yield _spread_over(pool, "pool=")
        return
    imap = getattr(pool, "imap", pool.map)  # in order, as they come, where there is one
    yield lambda work, items: iter(imap(work, items))


@contextlib.contextmanager
def _connect(address: Any, where: str) -> Iterator[Any]:
    """A client, when there is a worker."""
    from distributed import Client

    try:
        client = Client(address, timeout=_PATIENCE)
    except (OSError, TimeoutError, ValueError) as error:
        raise RunError(
            f"{_argument(where)}: no Dask scheduler answers there ({error}); start one with "
            "'dask scheduler', or give local:N."
        ) from error
    with client:
        log.info("waiting for workers of %s", where)
        client.wait_for_workers(1)
        _validate_versions(client, where)
        yield client


def _validate_versions(client: Any, where: str) -> None:
    """Workers without foreglow would never answer; those of another version otherwise."""
    try:
        found = set(client.run(version, "foreglow").values())
    except PackageNotFoundError as error:
        raise RunError(
            f"{_argument(where)}: these have no foreglow; start them in an environment with it."
        ) from error
    if others := found - {version("foreglow")}:
        raise RunError(
            f"{_argument(where)}: expected foreglow {version('foreglow')} there, as here, got "
            f"{', '.join(sorted(others))}; install the same version on both."
        )


def _spread_over(client: Any, where: str, ahead: float = _AHEAD) -> MapFn:
    from distributed import CancelledError, KilledWorker
    from distributed.comm.core import CommClosedError

    def map_fn(work: Callable[[_Item], _Result], items: Iterable[_Item], /) -> Iterator[_Result]:
        waiting: deque[Any] = deque()
        left = iter(items)
        try:
            while True:
                # counted anew each time: workers come and go
                threads = max(1, _n_threads(client))
                if ahead == inf:
                    room = threads - sum(not one.done() for one in waiting)
                else:
                    room = int(ahead * threads) - len(waiting)
                coming = islice(left, max(0, room))
                waiting.extend(client.submit(work, item, pure=False) for item in coming)
                if not waiting:
                    return
                if not waiting[0].done():
                    _wait_for_one(client, [one for one in waiting if not one.done()], where)
                    continue
                # from the worker that has it, not by way of the scheduler
                yield client.gather(waiting[0], direct=True)
                waiting.popleft().release()
        except KilledWorker as error:
            raise RunError(
                f"{_argument(where)}: a piece of work took one worker after another with it, most "
                f"often for want of memory ({error}); keep memory= below what each worker was "
                "given, where there is one, use fewer, or machines with more memory."
            ) from error
        except (CommClosedError, CancelledError) as error:
            raise RunError(
                f"{_argument(where)}: the scheduler was lost ({error}); what was written before "
                "can be gone on with where there is resume=True."
            ) from error
        finally:
            client.cancel(list(waiting))

    return map_fn


def _wait_for_one(client: Any, futures: list[Any], where: str) -> None:
    """Until a piece of work is done; of processes here none come back when all are gone."""
    from distributed import wait

    gone = 0
    while True:
        try:
            wait(futures, timeout=_LOOK_S, return_when="FIRST_COMPLETED")
        except TimeoutError:
            gone = gone + 1 if where.startswith("local:") and not client.nthreads() else 0
            if gone < 2:  # one that was lost is started anew
                continue
            raise RunError(
                f"{_argument(where)}: all processes were lost, most often for want of memory, and "
                "none could be started again; use fewer, or none."
            ) from None
        return


def _argument(where: str) -> str:
    """What messages call the workers: the argument that they came by."""
    return where if where == "pool=" else f"workers={where!r}"


def _n_threads(client: Any) -> int:
    return sum(client.nthreads().values())


def _cluster(where: str) -> contextlib.AbstractContextManager[Any]:
    """What a client connects to; nothing is started before it is entered."""
    kind, _, rest = where.partition(":")
    if kind in ("tcp", "tls", "ucx") and rest.startswith("//"):
        return contextlib.nullcontext(where)
    if kind == "local" and rest.isdecimal() and int(rest) > 0:
        return _local(int(rest))
    if kind == "slurm" and rest:
        return _slurm(Path(rest), *_read_jobs(Path(rest)))
    raise RunError(
        "expected workers= as tcp://HOST:PORT (a running scheduler), local:N (processes here) or "
        f"slurm:FILE (a TOML file for SLURM), got {where!r}."
    )


@contextlib.contextmanager
def _local(n: int) -> Iterator[Any]:
    from dask import config
    from distributed import LocalCluster

    threads = max(1, available_cores() // n)
    # Dask's own has one thread for libraries, and malloc give memory back at once
    environment = {"OMP_NUM_THREADS": threads, **ENVIRONMENT}
    with config.set({"distributed.nanny.pre-spawn-environ": environment}):
        try:
            started = LocalCluster(
                n_workers=n, threads_per_worker=1, dashboard_address=":0", silence_logs=50
            )
        except RuntimeError as error:
            raise RunError(
                f"workers='local:{n}': the processes could not be started ({error}); in a script, "
                "call from below `if __name__ == '__main__':`, for each of them imports the script."
            ) from error
        with started as cluster:
            yield cluster


def _read_jobs(file: Path) -> tuple[int, dict[str, Any]]:
    """How many jobs, and what each is."""
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise RunError(
            f"workers={f'slurm:{file}'!r}: expected a TOML file, but it cannot be read ({error})."
        ) from error
    jobs = table.pop("jobs", None)
    if not isinstance(jobs, int) or jobs < 1:
        raise RunError(f"{file}: expected jobs = a number >= 1, got {jobs!r}.")
    return jobs, table


@contextlib.contextmanager
def _slurm(file: Path, jobs: int, table: dict[str, Any]) -> Iterator[Any]:
    from dask_jobqueue.slurm import SLURMCluster

    try:
        cluster = SLURMCluster(**table)
        cluster.scale(jobs=jobs)
    except (TypeError, ValueError, OSError) as error:
        raise RunError(
            f"{file}: SLURM jobs cannot be started with these settings ({error}); see the "
            "arguments of dask_jobqueue.SLURMCluster, and whether sbatch is on this machine."
        ) from error
    with cluster:
        yield cluster
