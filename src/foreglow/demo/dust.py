"""The second job in two minutes: from the mock's 21 cm cube to a map of its dust."""

from typing import Any

import torch
from rich.table import Table

from foreglow.report.dust.tables import correlation_rows, correlation_text
from foreglow.reproduce.zhang2019.experiment import Captions, Opening, open_experiment
from foreglow.reproduce.zhang2019.models import compare_models
from foreglow.reproduce.zhang2019.sky import what_the_sky_holds
from foreglow.reproduce.zhang2019.skymap import predicted_map
from foreglow.runs import Run

_SETTINGS: dict[str, Any] = {
    "nside": 256,  # that of the models that come with foreglow, which are judged beside
    "test_cutouts": 500,
    "linear_cutouts": 500,
    "profile_pointings": 10000,
    "centres_nside": 8,
    "networks": ["unet"],
    "unet": {"network": "unet", "width": 8, "epochs": 4, "steps": 50, "batch": 16, "members": 2},
}


def settings() -> dict[str, Any]:
    """What a run directory says of this part."""
    return _SETTINGS


def predict_dust(run: Run, seed: int, device: torch.device) -> Captions:
    """Train a small U-Net in the north, score it in the south, and map the dust with its error.

    Parameters
    ----------
    run : Run
        The map is kept in it as maps/dust.fits.
    seed : int
    device : torch.device

    Returns
    -------
    dict
        Captions of the figures.
    """
    with run.stage("the mock Galaxy's gas"):
        opening = Opening("mock", _SETTINGS["nside"], seed, str(device))
        experiment = open_experiment(run, _SETTINGS, opening, resume=False)
    captions: Captions = {}
    for step in (what_the_sky_holds, compare_models, predicted_map):
        captions |= step(experiment)
    return captions


def printed_table(records: list[dict[str, Any]]) -> Table:
    """Correlations of the models on the test region for the terminal."""
    rows = [r for step in ("models", "ceiling") for r in correlation_rows(records, step)]
    test = [row for row in rows if row["set"] == "test"]
    return correlation_text(test, "Dust from HI: southern test cutouts")
