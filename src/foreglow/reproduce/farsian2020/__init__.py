"""Every table and figure of Farsian et al. 2020, and what they leave open.

`sky`, `trainings`, `networks`, `noise`, `readings`, `fits`, `context`, `separation` and `outside`
hold a step each: a function of the `Experiment` that adds its records to the run and returns the
captions of its figures, run in the order of `STEPS`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.table import Table

from foreglow.compute.device import pick_device
from foreglow.compute.workers import MapFn
from foreglow.files import write_text
from foreglow.report.html import write_report
from foreglow.report.page.tables import accuracy_rows, rich_table
from foreglow.reproduce import read_records
from foreglow.reproduce.farsian2020.context import spatial_context
from foreglow.reproduce.farsian2020.experiment import Captions, Experiment
from foreglow.reproduce.farsian2020.fits import choose_by_fits
from foreglow.reproduce.farsian2020.networks import NETWORKS, compare_networks
from foreglow.reproduce.farsian2020.noise import noise_curve
from foreglow.reproduce.farsian2020.outside import outside_the_law
from foreglow.reproduce.farsian2020.paper import PAPER_NOISELESS, PAPER_NOISY
from foreglow.reproduce.farsian2020.readings import noise_readings
from foreglow.reproduce.farsian2020.separation import component_separation
from foreglow.reproduce.farsian2020.sky import components
from foreglow.reproduce.farsian2020.trainings import train_all
from foreglow.reproduce.settings import read_settings
from foreglow.runs import open_run
from foreglow.sky.instrument_files import load_instrument
from foreglow.sky.templates import load_templates

__all__ = [
    "NETWORKS",
    "PAPER_NOISELESS",
    "PAPER_NOISY",
    "STEPS",
    "printed_tables",
    "read_records",
    "reproduce",
]

STEPS: tuple[Callable[[Experiment], Captions], ...] = (
    components,
    train_all,
    compare_networks,
    noise_curve,
    noise_readings,
    choose_by_fits,
    spatial_context,
    component_separation,
    outside_the_law,
)
"""In order; all trainings come before what is tested."""


def reproduce(
    out: Path,
    scale: str,
    sky: str = "mock",
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    map_fn: MapFn = map,
) -> Path:
    """Train the networks on the three problems and write tables, figures and the report.

    Parameters
    ----------
    out : Path
        Run directory.
    scale : str
        `smoke`, `laptop`, `evening` or `paper`.
    sky : str
        `mock`, `pysm:s1,d1,a2` or a sky directory.
    seed : int
    device : str
        `auto`, `cpu` or `cuda`.
    resume : bool
        Go on with an interrupted run; what it had finished is kept.
    map_fn : MapFn
        Where the loops over realisations are done, see `foreglow.compute.workers.open_workers`;
        workers must see `out`.

    Returns
    -------
    Path
        The report.
    """
    settings = read_settings("farsian2020", scale)
    chosen = pick_device(device)
    instrument = load_instrument("quijote+litebird")
    templates = load_templates(sky, None if Path(sky).is_dir() else settings["template_nside"])
    config = {
        "experiment": "farsian2020", "scale": scale, "sky": sky, "seed": seed,
        "device": str(chosen), "settings": settings,
    }  # fmt: skip
    with open_run(out, config, resume) as run:
        experiment = Experiment(
            run, settings, templates, instrument, seed, chosen, resume, map_fn=map_fn
        )
        captions: Captions = {}
        for step in STEPS:
            captions |= step(experiment)
        write_text(run.figures / "captions.json", json.dumps(captions, indent=1))
        run.save_metrics()
        return write_report(run.folder)


def printed_tables(records: list[dict[str, Any]]) -> list[Table]:
    """Tables 2 and 3 for the terminal."""
    return [rich_table(accuracy_rows(records, table)) for table in (2, 3)]
