"""Training by several processes, on one machine or on many: who is who, and what if one is lost.

Lightning finds who started the processes (torchrun, srun, `foreglow.cli.launch`) and
torch.distributed connects them.
"""

import contextlib
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from foreglow.errors import ForeglowError, RunError
from foreglow.extras import require

log = logging.getLogger("foreglow")

_PATIENCE = timedelta(minutes=10)  # of a process for the others
_HEAD_START_S = 5.0  # of a process that says what is wrong: once one has ended, all are ended
RESUME = (
    "resume=True goes on after the last finished epoch, with this number of processes or another."
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
    rank : int
        The place of this process among all.
    """

    devices: int = 1
    num_nodes: int = 1
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
                f"expected a batch= that {self.size} processes can share evenly, got {batch}; "
                f"use {near}."
            )


ALONE = Processes()


def must_be_started(processes: Processes, device: torch.device) -> bool:
    """Say whether the processes, several on this machine, are still to be started.

    Raises
    ------
    RunError
        If there are not as many devices, others were started than those asked for, or several
        machines were asked for, which something else must start.
    """
    _validate(processes, device)
    if processes.size == 1:
        return False
    if _fabric(processes, device).strategy.cluster_environment.creates_processes_externally:
        return False
    if processes.num_nodes > 1:
        raise RunError(
            f"num_nodes={processes.num_nodes}: foreglow starts processes on its own machine "
            "only; start it on all of them by srun or torchrun, as docs/howto/slurm.md shows."
        )
    return True


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
        if multiprocessing.parent_process():  # it says which one was lost, and ends this one
            time.sleep(_HEAD_START_S)
        raise RunError(
            f"rank {found.rank} of {found.size} processes lost another one, which has ended or "
            f"cannot be reached ({_brief(error)}); {RESUME}"
        ) from error
    finally:
        log.setLevel(level)
        distributed.destroy_process_group()


def run_on_all_ranks(processes: Processes, work: Callable[[], _Result]) -> _Result:
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


def gather_shares(processes: Processes, mine: torch.Tensor, n: int) -> torch.Tensor:
    """Put together, on every process, what each has made of its `Processes.share` of `n` items.

    Parameters
    ----------
    processes : Processes
    mine : Tensor, shape (items of the share, ...)
        On the device by which the processes are connected.
    n : int
        Items in all.
    """
    if len(mine) == n:
        return mine
    parts = [torch.empty_like(mine) for _ in range(processes.size)]
    distributed.all_gather(parts, mine)
    return torch.cat(parts)


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
    if min(processes.devices, processes.num_nodes) < 1:
        raise RunError(
            f"expected one device and one node or more, got devices={processes.devices} "
            f"num_nodes={processes.num_nodes}."
        )
    if device.type == "cuda" and processes.devices > torch.cuda.device_count():
        raise RunError(
            f"devices={processes.devices}: PyTorch sees {torch.cuda.device_count()} CUDA devices "
            "here; ask for no more, or give device='cpu'."
        )
    started = int(os.environ["WORLD_SIZE"]) if distributed.is_torchelastic_launched() else None
    if started is not None and started != processes.size:
        raise RunError(
            f"torchrun started {started} processes, but devices={processes.devices} "
            f"num_nodes={processes.num_nodes} are {processes.size}; give its --nproc-per-node as "
            "devices= and its --nnodes as num_nodes=."
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
