"""What the commands that train share: one process or several, of which one speaks."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foreglow.cli import screen

if TYPE_CHECKING:
    from foreglow.compute.processes import Processes

Devices = Annotated[
    int,
    typer.Option(help="Processes on each machine: one a GPU, or with a share of its cores.", min=1),
]
NumNodes = Annotated[int, typer.Option(help="Machines, started by srun or torchrun.", min=1)]

PlanFile = Annotated[
    Path | None,
    typer.Option(
        "--plan",
        help="TOML file with the rest of the plan (docs/howto/train.md); options go before it.",
    ),
]


@contextmanager
def several_processes(devices: int, num_nodes: int, device: str) -> Iterator["Processes"]:
    """The processes of a training, started if nobody did; all but the first print errors only."""
    from foreglow.compute.device import pick_device
    from foreglow.compute.processes import Processes, join, must_be_started

    asked, where = Processes(devices, num_nodes), pick_device(device)
    if must_be_started(asked, where):
        from foreglow.cli.launch import launch

        launch(asked)
    quiet = screen.console.quiet
    with join(asked, where) as processes:
        screen.console.quiet = quiet or processes.rank > 0
        try:
            yield processes
        finally:
            screen.console.quiet = quiet
