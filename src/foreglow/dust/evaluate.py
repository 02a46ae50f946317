"""A trained model judged on a sky, beside the simplest one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.markup import escape
from rich.table import Table

from foreglow.compute.device import pick_device
from foreglow.dust.cutouts import CutoutSampler, SkyCube
from foreglow.dust.inputs import DustSky
from foreglow.dust.load import SkySource
from foreglow.dust.model import DustModel
from foreglow.dust.polarised_scores import gradient_predictor, score_polarisation
from foreglow.dust.scores import integrated_predictor, model_predictor, score
from foreglow.dust.target import same_unit
from foreglow.errors import MapError, RunError
from foreglow.maps.hemispheres import REGIONS


def evaluate_model(
    model: str | Path,
    given: SkySource,
    region: str,
    cutouts: int,
    seed: int,
    device: str,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Score a model and the simplest one; the body of `foreglow dust evaluate`.

    Parameters
    ----------
    model : path
        Model directory of `foreglow dust train`.
    given : SkySource
        The sky; its range of velocities is not looked at, the model's is taken.
    region : str
        Where cutouts have their centres: one of `REGIONS`.
    cutouts, seed : int
        How many, and which: see `CutoutSampler.fixed_pointings`.
    device : str
    progress : callable, optional

    Returns
    -------
    list of dict
        Records of "integrated" and of the model's network, see `Scores.record`; of polarisation
        of "gradients" and of the network, see `PolarisedScores.record`, with `target`: "observed",
        and on the mock also "truth", its Q and U without noise.

    Raises
    ------
    RunError
        If the region or the device is unknown.
    ModelError
        If the model is none of dust, or the sky lacks its channels.
    MapError
        If the dust has another unit than the model's target, or the sky cannot be read.
    """
    if region not in REGIONS:
        raise RunError(f"expected region {', '.join(REGIONS)}, got {region!r}.")
    chosen = pick_device(device)
    loaded = DustModel.load(model, chosen)
    velocity = np.array(loaded.velocity_kms)
    # channels of a cube may lie half a channel beside the model's; the mock's are made to measure
    slack = 0.0 if given.sky else 0.5 * float(np.diff(velocity).min())
    low, high = velocity[0] - slack, velocity[-1] + slack
    given = replace(given, low_kms=low, high_kms=high, target=loaded.target)
    if loaded.target == "polarisation" and given.sky:  # the mock knows its own
        skies = given.with_truth()
    else:
        skies = {"observed": given.load()}
    records = []
    for target, sky in skies.items():
        found = _scores(loaded, sky, region, cutouts, seed, chosen, progress)
        more = {"target": target} if loaded.target == "polarisation" else {}
        records += [record | more for record in found]
    return records


def _scores(
    loaded: DustModel,
    sky: DustSky,
    region: str,
    cutouts: int,
    seed: int,
    device: torch.device,
    progress: Callable[[int, int], None] | None,
) -> list[dict[str, Any]]:
    """The records of a model and the simplest one, on one sky."""
    if not same_unit(sky.target_unit, loaded.target_unit):
        raise MapError(
            f"expected a dust map in {loaded.target_unit}, as the model was trained with, got "
            f"{sky.target_unit} of {sky.source}; convert it"
        )
    channels = loaded.find_channels(sky.velocity_kms)
    inputs = sky.cube.inputs
    if len(channels) != inputs.shape[1]:
        inputs = inputs[:, torch.from_numpy(channels)]
    cube = SkyCube(inputs, sky.cube.target).to(device)
    method = loaded.card.get("cutouts", {}).get("method", "nearest")
    sampler = CutoutSampler(cube, REGIONS[region], loaded.grid, method, fine=loaded.fine)
    where = sampler.fixed_pointings(cutouts, seed)
    ours = {loaded.network: model_predictor(loaded)}
    if loaded.target == "polarisation":
        polarised = {"gradients": gradient_predictor} | ours
        found = score_polarisation(polarised, sampler, where, 32, progress)
        return [scores.record(found["gradients"]) for scores in found.values()]
    found = score({"integrated": integrated_predictor} | ours, sampler, where, 32, progress)
    return [scores.record(found["integrated"]) for scores in found.values()]


def polarised_table(records: Sequence[Mapping[str, Any]], title: str) -> Table:
    """The records of `PolarisedScores.record` as a table for the terminal."""
    columns = [f"{letter}, {scale}" for scale in ("r50", "r150") for letter in "EB"]
    table = Table(
        "model", "Q and U", "r", *columns, "alignment",
        title=escape(f"{title}, {records[0]['n']} cutouts"),
        caption="by mode: mean over Fourier modes, as the paper's numbers; spectra: ratio of "
        "spectra, as its eq. 2.1; alignment: mean cos 2 (angle between the directions); standard "
        "errors: --json",
    )  # fmt: skip
    for record in records:
        for kind, name in (("", "by mode"), ("spectrum_", "spectra")):
            keys = [f"{kind}{letter}{scale}" for scale in ("50", "150") for letter in "eb"]
            shown = "" if kind else f"{record['alignment']:.3f}"
            of = "no noise" if record["target"] == "truth" else "observed"
            table.add_row(record["model"], of, name, *(f"{record[k]:.3f}" for k in keys), shown)
    return table


def score_table(records: Sequence[Mapping[str, Any]], title: str) -> Table:
    """The records of `Scores.record` as a table for the terminal, both definitions of r named."""
    table = Table(
        "model", "r", "r50", "r150", "wins, r50", "wins, r150",
        title=escape(f"{title}, {records[0]['n']} cutouts"),
        caption="by mode: mean over Fourier modes, as the paper's numbers; spectra: ratio of "
        "spectra, as its eq. 2.1; wins: cutouts above the integrated map",
    )  # fmt: skip
    for record in records:
        for kind, name in (("", "by mode"), ("spectrum_", "spectra")):
            values = [_cell(record, f"{kind}{what}") for what in ("r50", "r150")]
            wins = [_percent(record, f"{kind}{what}") for what in ("wins50", "wins150")]
            table.add_row(record["model"], name, *values, *wins)
    return table


def _cell(record: Mapping[str, Any], key: str) -> str:
    error = record[f"{key}_sem"]
    return f"{record[key]:.3f}" + (f" ± {error:.3f}" if error is not None else "")


def _percent(record: Mapping[str, Any], key: str) -> str:
    return f"{100 * record[key]:.0f} ± {100 * record[f'{key}_sem']:.0f}%" if key in record else ""
