"""Every figure of Zhang et al. 2019, its ablations, what its dust is good for, and its next step.

`sky`, `networks`, `models`, `weights`, `east_west`, `ablations`, `skymap`, `cleaning` and
`polarisation` hold a step each: a function of the `Experiment` that adds its records to the run and
returns the captions of its figures, run in the order of `STEPS`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.table import Table

from foreglow.compute.device import pick_device
from foreglow.compute.workers import MapFn
from foreglow.files import write_text
from foreglow.report.dust.tables import (
    correlation_rows,
    correlation_text,
    polarised_rows,
    polarised_text,
)
from foreglow.report.html import write_report
from foreglow.reproduce.settings import read_settings
from foreglow.reproduce.zhang2019.ablations import ablations
from foreglow.reproduce.zhang2019.cleaning import template_cleaning
from foreglow.reproduce.zhang2019.east_west import east_and_west
from foreglow.reproduce.zhang2019.experiment import (
    Captions,
    Experiment,
    Opening,
    open_experiment,
    validate_cutouts,
)
from foreglow.reproduce.zhang2019.models import compare_models
from foreglow.reproduce.zhang2019.networks import train_networks
from foreglow.reproduce.zhang2019.paper import WINS
from foreglow.reproduce.zhang2019.polarisation import polarised_dust
from foreglow.reproduce.zhang2019.real_sky import ask_sky
from foreglow.reproduce.zhang2019.sky import what_the_sky_holds
from foreglow.reproduce.zhang2019.skymap import predicted_map
from foreglow.reproduce.zhang2019.weights import compare_weights
from foreglow.runs import open_run

__all__ = ["STEPS", "WINS", "printed_tables", "reproduce"]

STEPS: tuple[Callable[[Experiment], Captions], ...] = (
    what_the_sky_holds,
    train_networks,
    compare_models,
    predicted_map,
    template_cleaning,
    compare_weights,
    east_and_west,
    ablations,
    polarised_dust,
)
"""In order; a step may use the models that those before it trained."""


def reproduce(
    out: Path,
    scale: str,
    sky: str = "mock",
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    map_fn: MapFn = map,
    download: bool = False,
) -> Path:
    """Train all models, and write records, figures, the map and the report.

    Parameters
    ----------
    out : Path
        Run directory.
    scale : str
        `smoke`, `laptop`, `evening` or `paper`.
    sky : str
        `mock`; `hi4pi`, perhaps with words as in `hi4pi:gnilc,tiles`, see `hi4pi.PaperSky`; or a
        folder with `sky.toml`, see `sky_files.read_card`.
    seed : int
    device : str
        `auto`, `cpu` or `cuda`.
    resume : bool
        Go on with an interrupted run; models that it had trained are loaded.
    map_fn : MapFn
        Where the loops over realisations are done, see `foreglow.compute.workers.open_workers`;
        workers must see `out`.
    download : bool
        Fetch what `hi4pi` needs and is not there.

    Returns
    -------
    Path
        The report.
    """
    settings = read_settings("zhang2019", scale)
    chosen = pick_device(device)
    asked = ask_sky(sky, settings, out, seed, download)  # or an error before the run begins
    config = {
        "experiment": "zhang2019", "scale": scale, "sky": asked.name, "seed": seed,
        "device": str(chosen), "settings": settings,
    }  # fmt: skip
    with open_run(out, config, resume) as run:
        opened = asked.made(run, map_fn)
        with run.stage("the sky"):
            opening = Opening(opened, settings["nside"], seed, str(chosen))
            experiment = open_experiment(run, settings, opening, resume, map_fn)
            validate_cutouts(experiment)
        captions: Captions = {}
        for step in STEPS:
            captions |= step(experiment)
        write_text(run.figures / "captions.json", json.dumps(captions, indent=1))
        run.save_metrics()
        return write_report(run.folder)


def printed_tables(records: list[dict[str, Any]]) -> list[Table]:
    """Correlations on the test region, and what limits them, for the terminal."""
    rows = [r for step in ("models", "ceiling") for r in correlation_rows(records, step)]
    test = [row for row in rows if row["set"] == "test"]
    found = [correlation_text(test, "Dust from HI: southern test cutouts")]
    if polarised := polarised_rows(records):
        found.append(polarised_text(polarised, "Its polarisation: southern test cutouts"))
    return found
