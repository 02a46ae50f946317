"""A training's processes on this machine, where neither torchrun nor srun started them.

Lightning's own launcher, when a process is lost, kills all others and the one that the user started
without a word; and those it started outlive one that is interrupted. Here the first one only waits,
says what became of the others, and they end with it.
"""

import ctypes
import logging
import os
import signal
import sys
from typing import Any, NoReturn

from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from foreglow.compute.cpu import available_cores
from foreglow.compute.processes import RESUME, Processes
from foreglow.errors import RunError

_PR_SET_PDEATHSIG = 1  # of prctl(2)


def launch(processes: Processes) -> NoReturn:
    """Run this command line once a process, and exit when all have ended, or one has failed.

    Raises
    ------
    RunError
        If a process was ended by a signal.
    SystemExit
        Otherwise, with the code of the process that failed first, or 0.
    """
    from lightning.fabric.plugins.environments.lightning import find_free_network_port

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // processes.devices)))
    os.environ["MASTER_PORT"] = str(find_free_network_port())
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # while they import, with no handler yet
    started = start_processes(_run, (os.getpid(), handler), processes.devices, join=False)
    signal.signal(signal.SIGINT, handler)
    try:
        while not started.join(grace_period=0):  # pyright: ignore[reportOptionalMemberAccess]
            pass
    except ProcessExitedException as error:
        if error.signal_name is None:  # it has said why
            raise SystemExit(error.exit_code) from None
        hint = ", most often for want of memory" if error.signal_name == "SIGKILL" else ""
        raise RunError(
            f"rank {error.error_index} of {processes.size} processes was ended by "
            f"{error.signal_name}{hint}, and the training with it; {RESUME}"
        ) from None
    raise SystemExit(0)


def _run(rank: int, parent: int, on_interrupt: Any) -> None:
    """Run the command line as one of the processes, for as long as the parent is there."""
    os.environ["LOCAL_RANK"] = str(rank)  # by which Ctrl+C leaves the message to the parent, too
    signal.signal(signal.SIGINT, on_interrupt)
    # SIGKILL: no other would end one that waits for the rest in a collective
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent:
        return
    from foreglow.__main__ import main

    main()
