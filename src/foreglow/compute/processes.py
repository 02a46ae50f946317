"""Training by several processes, on one machine or on many: who is who, and what if one is lost.

Lightning finds who started the processes (torchrun, srun) and torch.distributed connects them. If
nobody did, `start` does, with the agent that is inside torchrun: it ends all when one is lost.
"""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from foreglow.compute.cpu import available_cores
from foreglow.errors import ForeglowError, RunError
from foreglow.extras import require

log = logging.getLogger("foreglow")

STRATEGIES = ("auto", "ddp")
_PATIENCE = timedelta(minutes=10)  # of a process for the others
_HEAD_START_S = 5.0  # of a process that says what is wrong: once one has ended, all are ended
_RESUME = (
    "--resume goes on after the last finished epoch, with this number of processes or another."
)

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Processes:
    """The processes that train one network together, each on its share of every batch.

    Parameters
    ----------
    devices : int
        Processes a node, one a GPU; on the CPU, with an equal share of its cores.
    num_nodes : int
    strategy : str
        "auto" or "ddp", which are the same: gradients are averaged after every step.
    rank : int
        The place of this process among all.
    """

    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    rank: int = 0

    @property
    def size(self) -> int:
        """How many there are in all."""
        return self.devices * self.num_nodes

    def share(self, n: int) -> slice:
        """Which of `n` items of a batch are for this process.

        Equal shares, so that the mean of the processes' means is that of the batch. What cannot be
        shared evenly every process does as a whole, to the same end.
        """
        if n % self.size:
            return slice(0, n)
        part = n // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def validate_batch(self, batch: int) -> None:
        """Raise a RunError where the batches of a training cannot be shared evenly."""
        if batch % self.size:
            below = batch - batch % self.size
            near = " or ".join(str(n) for n in (below, below + self.size) if n)
            raise RunError(
                f"expected a --batch that {self.size} processes can share evenly, but {batch} "
                f"came; use {near}."
            )


ALONE = Processes()


def start(processes: Processes, device: torch.device) -> None:
    """Start this command line once a process, if nobody else did, and exit when they end.

    For the command line only. It returns at once in a process that torchrun or srun has started,
    or if one is enough.

    Raises
    ------
    RunError
        If there are not as many devices, several machines were asked for, which something else
        must start, or a process was lost.
    SystemExit
        Otherwise, with the code of the process that failed first, or 0.
    """
    _validate(processes, device)
    if processes.size == 1 or _environment(processes, device).creates_processes_externally:
        return
    if processes.num_nodes > 1:
        raise RunError(
            f"--num-nodes {processes.num_nodes}: foreglow starts processes on its own machine "
            "only; start it on all of them by srun or torchrun, as docs/howto/slurm.md shows."
        )
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    threads = max(1, available_cores() // processes.devices)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    handler = signal.getsignal(signal.SIGINT)  # the agent has its own, and leaves it
    try:
        _run_agent(processes, "-P", "-m", "foreglow", *sys.argv[1:])
    except ChildFailedError as error:
        _explain(processes, {rank: f.exitcode for rank, f in error.failures.items()})
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            signal.signal(signal.SIGINT, handler)
            signal.raise_signal(signal.SIGINT)
        raise SystemExit(128 + error.sigval) from None
    raise SystemExit(0)


def _run_agent(processes: Processes, *arguments: str) -> None:
    """Python with these arguments, once a process; returns when all have ended well."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.ERROR)  # the agent's; its processes log for themselves
    with tempfile.TemporaryDirectory(prefix="foreglow-") as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes.devices,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            run_id="foreglow",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="127.0.0.1",
            max_restarts=0,
        )
        elastic_launch(config, sys.executable)(*arguments)


def _explain(processes: Processes, codes: dict[int, int]) -> None:
    """What to say of processes that failed, by their exit codes; negative ones are signals."""
    killed = {rank: -code for rank, code in codes.items() if code < 0}
    # the agent ends by SIGTERM those that are left, once one has failed
    first = {rank: number for rank, number in killed.items() if number != signal.SIGTERM}
    said = [code for code in codes.values() if code > 0]
    if said and not first:
        raise SystemExit(said[0])
    rank, number = next(iter((first or killed).items()))
    hint = ", most often for want of memory" if number == signal.SIGKILL else ""
    raise RunError(
        f"rank {rank} of {processes.size} processes was ended by {signal.Signals(number).name}"
        f"{hint}, and the training with it; {_RESUME}"
    )


@contextlib.contextmanager
def join(processes: Processes, device: torch.device) -> Iterator[Processes]:
    """Connect this process with the others, for as long as the context lasts.

    Parameters
    ----------
    processes : Processes
        As asked for.
    device : torch.device
        On CUDA, the device of each process becomes PyTorch's current one.

    Yields
    ------
    Processes
        With the rank of this process. All but the first log errors only.

    Raises
    ------
    RunError
        If the processes are others than those asked for, cannot find each other in ten minutes, or
        one of them is lost.
    """
    _validate(processes, device)
    if processes.size == 1:
        yield processes
        return
    found = replace(processes, rank=_connect(processes, device))
    level = log.level
    if found.rank:
        log.setLevel(logging.ERROR)
    try:
        yield found
    except RuntimeError as error:
        if not _is_loss(error):
            raise
        raise RunError(
            f"rank {found.rank} of {found.size} processes lost another one, which has ended or "
            f"cannot be reached ({_brief(error)}); {_RESUME}"
        ) from error
    finally:
        log.setLevel(level)
        distributed.destroy_process_group()


def together(processes: Processes, work: Callable[[], _Result]) -> _Result:
    """Do `work` on every process; where it fails on one, all end, and one says why.

    Raises
    ------
    ForeglowError
        That of `work`, on the first process where it failed.
    SystemExit
        On the others, with code 2.
    """
    if processes.size == 1:
        return work()
    result, error = None, None
    try:
        result = work()
    except ForeglowError as raised:
        error = raised
    failed = [False] * processes.size
    distributed.all_gather_object(failed, error is not None)
    if error is not None and failed.index(True) == processes.rank:
        raise error
    if any(failed):
        time.sleep(_HEAD_START_S)
        raise SystemExit(2)
    return result  # pyright: ignore[reportReturnType]


def trainer_options(processes: Processes, device: torch.device) -> dict[str, Any]:
    """What Lightning's Trainer is told of the processes."""
    from lightning.pytorch.strategies import DDPStrategy

    options: dict[str, Any] = {"devices": processes.devices, "num_nodes": processes.num_nodes}
    if processes.size > 1:
        options["strategy"] = DDPStrategy(timeout=_PATIENCE)
        # PyTorch has it on GPUs only
        options["sync_batchnorm"] = device.type == "cuda"
    return options


def _validate(processes: Processes, device: torch.device) -> None:
    if processes.strategy not in STRATEGIES:
        raise RunError(f"expected strategy auto or ddp, but {processes.strategy!r} came.")
    if min(processes.devices, processes.num_nodes) < 1:
        raise RunError(
            f"expected one device and one node or more, but --devices {processes.devices} "
            f"--num-nodes {processes.num_nodes} came."
        )
    if device.type == "cuda" and processes.devices > torch.cuda.device_count():
        raise RunError(
            f"--devices {processes.devices}: PyTorch sees {torch.cuda.device_count()} CUDA devices "
            "here; ask for no more, or use --device cpu."
        )
    started = int(os.environ["WORLD_SIZE"]) if distributed.is_torchelastic_launched() else None
    if started is not None and started != processes.size:
        raise RunError(
            f"torchrun started {started} processes, but --devices {processes.devices} --num-nodes "
            f"{processes.num_nodes} are {processes.size}; give its --nproc-per-node as --devices "
            "and its --nnodes as --num-nodes."
        )


def _fabric(processes: Processes, device: torch.device) -> Any:
    require("train")
    from lightning.fabric import Fabric
    from lightning.fabric.strategies.ddp import DDPStrategy

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        return Fabric(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=processes.devices,
            num_nodes=processes.num_nodes,
            strategy=DDPStrategy(timeout=_PATIENCE),
        )
    except (RuntimeError, KeyError) as error:  # of SLURM's variables
        raise _misfit(processes, error) from error


def _environment(processes: Processes, device: torch.device) -> Any:
    """Lightning's description of what started this process."""
    return _fabric(processes, device).strategy.cluster_environment


def _connect(processes: Processes, device: torch.device) -> int:
    """The rank of this process, connected with the others."""
    fabric = _fabric(processes, device)
    environment = fabric.strategy.cluster_environment
    if not environment.creates_processes_externally:
        raise RunError(
            f"expected to be one of {processes.size} processes, but this is the only one; start "
            "them by torchrun, srun or the command line's --devices."
        )
    # SLURM's number of tasks is not Lightning's to set
    if environment.world_size() != processes.size:
        raise _misfit(processes, f"started were {environment.world_size()}")
    try:
        fabric.launch()
    except (RuntimeError, ValueError) as error:
        raise _misfit(processes, error) from error
    return fabric.global_rank


def _misfit(processes: Processes, why: object) -> RunError:
    return RunError(
        f"expected {processes.devices} processes on each of {processes.num_nodes} nodes, but they "
        f"did not come together ({_brief(why)}); under SLURM ask for --nodes="
        f"{processes.num_nodes} --ntasks-per-node={processes.devices} and start foreglow by srun."
    )


def _is_loss(error: RuntimeError) -> bool:
    """Whether the others are to blame; Gloo's errors have no class, but name its source."""
    return isinstance(error, distributed.DistError) or "/gloo/" in str(error)


def _brief(error: object) -> str:
    """The first sentence of a message, without the place in the source that Gloo puts first."""
    text = str(error)
    if text.startswith("[/"):
        text = text.partition("] ")[2]
    return (text.splitlines() or [""])[0].partition(". ")[0].rstrip(".")
