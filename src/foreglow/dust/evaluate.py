"""A trained model judged on a sky, beside the simplest one."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.markup import escape
from rich.table import Table

from foreglow.compute.device import pick_device
from foreglow.dust.cutouts import CutoutSampler
from foreglow.dust.inputs import DustSky
from foreglow.dust.load import SkySource
from foreglow.dust.model import DustModel
from foreglow.dust.polarised_scores import gradient_predictor, score_polarisation
from foreglow.dust.polarised_sphere import sphere_scores, trained_sky
from foreglow.dust.scores import integrated_predictor, model_predictor, score
from foreglow.dust.sky_cube import SkyCube
from foreglow.dust.target import same_unit
from foreglow.errors import MapError, RunError
from foreglow.maps.hemispheres import REGIONS

log = logging.getLogger("foreglow")


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
        and on the mock also "truth", its Q and U without noise. Then those of maps on the sphere,
        see `SphereScores.records`, which have `by`; none where too little of the region's sky was
        out of reach of the training.

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
    cubes = {target: _cube(loaded, sky, chosen) for target, sky in skies.items()}
    records = []
    for target, cube in cubes.items():
        found = _scores(loaded, cube, region, cutouts, seed, progress)
        more = {"target": target} if loaded.target == "polarisation" else {}
        records += [record | more for record in found]
    if loaded.target == "polarisation":
        records += _on_the_sphere(loaded, cubes, region, given)
    return records


def _cube(loaded: DustModel, sky: DustSky, device: torch.device) -> SkyCube:
    """A sky with the channels of a model, on a device."""
    if not same_unit(sky.target_unit, loaded.target_unit):
        raise MapError(
            f"expected a dust map in {loaded.target_unit}, as the model was trained with, got "
            f"{sky.target_unit} of {sky.source}; convert it"
        )
    channels = loaded.find_channels(sky.velocity_kms)
    inputs = sky.cube.inputs
    if len(channels) != inputs.shape[1]:
        inputs = inputs[:, torch.from_numpy(channels)]
    return SkyCube(inputs, sky.cube.target).to(device)


def _on_the_sphere(
    loaded: DustModel, cubes: Mapping[str, SkyCube], region: str, given: SkySource
) -> list[dict[str, Any]]:
    """Records of maps on the part of a region's sky that no training cutout reached."""
    nside = next(iter(cubes.values())).nside
    kept = trained_sky(region, loaded.grid, nside)
    for trained in _trained_on(loaded, given):
        kept &= ~trained_sky(trained, loaded.grid, nside)
    try:
        found = sphere_scores({loaded.network: loaded}, cubes, kept)
    except MapError as error:
        log.warning(
            "no scores of the sphere, of the %s that no training reached: %s", region, error
        )
        return []
    return [
        {"model": model, "target": target} | record
        for (model, target), scores in found.items()
        for record in scores.records()
    ]


def _trained_on(loaded: DustModel, given: SkySource) -> tuple[str, ...]:
    """The regions in which a model may have been trained on a sky; none of another sky."""
    card = loaded.card.get("training", {})
    region = (card["region"],) if "region" in card else ()
    mine, other = card.get("sky") == "mock", given.sky == "mock"
    if mine != other:
        return ()
    if not mine:  # one user's files may be another's
        return region
    further = given.seed - card.get("seed", 0)
    if 0 < further < card.get("skies", 1):  # all skies but the first are trained on whole
        return "north", "south"
    return region if further == 0 else ()


def _scores(
    loaded: DustModel,
    cube: SkyCube,
    region: str,
    cutouts: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> list[dict[str, Any]]:
    """The records of a model and the simplest one, on one sky."""
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


_OF = {"truth": "no noise", "observed": "observed"}


def polarised_table(records: Sequence[Mapping[str, Any]], title: str) -> Table:
    """The records of `PolarisedScores.record` as a table for the terminal."""
    columns = [f"{letter}, {scale}" for scale in ("r50", "r150") for letter in "EBI"]
    table = Table(
        "model", "Q and U", "r", *columns, "alignment",
        title=escape(f"{title}, {records[0]['n']} cutouts"),
        caption="by mode: mean over Fourier modes, as the paper's numbers; spectra: ratio of "
        "spectra, as its eq. 2.1; alignment: mean cos 2 (angle between the directions); standard "
        "errors: --json",
    )  # fmt: skip
    for record in records:
        if "by" in record:
            continue
        for kind, name in (("", "by mode"), ("spectrum_", "spectra")):
            keys = [f"{kind}{letter}{scale}" for scale in ("50", "150") for letter in "ebi"]
            shown = "" if kind else f"{record['alignment']:.3f}"
            table.add_row(
                record["model"],
                _OF[record["target"]],
                name,
                *(f"{record[k]:.3f}" for k in keys),
                shown,
            )
    return table


def sphere_tables(records: Sequence[Mapping[str, Any]], title: str) -> list[Table]:
    """The records of `SphereScores` as tables for the terminal, none where there are none."""
    every = [r for r in records if r.get("by") == "sphere"]
    if not every:
        return []
    name = escape(f"{title}, maps of unseen sky, {every[0]['sky_fraction']:.0%} of all")
    by_ell = Table(
        "model", "Q and U", "ell", "r of I", "of E", "of B", "BB/EE", "of the dust", title=name,
        caption="spectra purified and freed of what the mask mixes; errors by leaving out one of "
        "16 regions; spectra: --json",
    )  # fmt: skip
    for r in (r for r in records if r.get("by") == "ell"):
        keys = ("r_t", "r_e", "r_b", "bb_over_ee", "target_bb_over_ee")
        ell = f"{r['low']}-{r['high'] - 1}"
        by_ell.add_row(r["model"], _OF[r["target"]], ell, *(_cell(r, key) for key in keys))
    return [
        by_ell,
        *(_angle_table(records, name, by) for by in ("latitude", "polarised_intensity")),
    ]


def _angle_table(records: Sequence[Mapping[str, Any]], title: str, by: str) -> Table:
    """Alignment in bins side by side, a row a model and dust map."""
    rows: dict[tuple[str, str], list[str]] = {}
    heads = []
    for r in records:
        if r.get("by") in ("sphere", by):
            rows.setdefault((r["model"], _OF[r["target"]]), []).append(_cell(r, "alignment"))
        if r.get("by") == by and len(rows) == 1:
            heads.append(f"{r['low']:g} to {r['high']:g} deg")
    how = "by |b|"
    if by == "polarised_intensity":
        heads = ["faintest fifth", "second", "third", "fourth", "brightest"]
        how = "by predicted polarised intensity"
    table = Table("model", "Q and U", "all", *heads, title=f"{title}: alignment {how}")
    for whose, cells in rows.items():
        table.add_row(*whose, *cells)
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
    value, error = record[key], record[f"{key}_sem"]
    if value is None:
        return "-"
    return f"{value:.3f}" + (f" ± {error:.3f}" if error is not None else "")


def _percent(record: Mapping[str, Any], key: str) -> str:
    return f"{100 * record[key]:.0f} ± {100 * record[f'{key}_sem']:.0f}%" if key in record else ""
