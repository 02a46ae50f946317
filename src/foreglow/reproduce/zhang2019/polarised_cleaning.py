"""What polarised dust from hydrogen is for: B modes cleaned by each template, and r after that."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreglow.dust.cutouts import Cutouts, SkyCube
from foreglow.dust.inputs import DustSky, faint_sky, paper_filter
from foreglow.dust.mean_field import mean_field
from foreglow.dust.polarised_cleaning import ELL_EDGES, PolarisedCleaning, clean_polarisation
from foreglow.dust.stitch import centres, stitch
from foreglow.maps.cut_sky import apodised
from foreglow.maps.hemispheres import reached
from foreglow.report.dust import curves as dust_curves
from foreglow.reproduce.zhang2019.experiment import METHOD, SPLITS, Captions, Experiment, log
from foreglow.reproduce.zhang2019.sky import ring_map
from foreglow.sky.gas import UNRELATED, MockGas

_SPLIT = SPLITS[0]
FAINTEST = 0.3  # of the sky, where it is unseen: about the tenth that such telescopes look at
_EDGE_DEG = 6.0  # over which the weight rises
_CENTRES = 8  # Nside of the centres of the cutouts: 7 degrees apart, of 25

Predictors = dict[str, Callable[[Cutouts], Tensor]]


def polarised_cleaning(
    experiment: Experiment,
    gas: MockGas,
    sky: DustSky,
    layers: DustSky,
    networks: Predictors,
    lines: Predictors,
    known: Predictors,
    fine: int,
) -> Captions:
    """Residual BB and r by template, on simulated CMB, dust and noise of unseen faint sky.

    Parameters
    ----------
    experiment : Experiment
    gas : MockGas
    sky, layers : DustSky
        The noisy polarised sky, and the one whose channels are the columns of layers.
    networks, lines, known : dict of callable
        Q and U of cutouts of `sky`, of its integrated map, and of `layers`.
    fine : int
        Pixels of the cutouts' inputs along a side of one of the grid.
    """
    with experiment.run.stage("polarised templates"):
        target, inputs = sky.cube.target, sky.cube.inputs
        total = SkyCube(inputs.sum(1, keepdim=True), target)
        cubes = [(networks, sky.cube, fine), (lines, total, fine), (known, layers.cube, 1)]
        templates = {
            name: _stitched(experiment, cube, predict, finer)
            for predictors, cube, finer in cubes
            for name, predict in predictors.items()
        }
        low_pass = paper_filter(sky.nside)
        dust = low_pass.polarised(gas.polarisation)
        planck = low_pass.polarised(gas.observed_polarisation)
        column = ring_map(experiment, total.inputs[:, 0])
    trained = reached(experiment.regions(_SPLIT)["train"], experiment.grid, sky.nside, METHOD)
    observed = np.isfinite(column)
    templates["mean_field"] = mean_field(column, planck, observed & trained)
    templates |= {"planck_353": planck, "true_dust": dust}
    faint = faint_sky(gas.dust.total, FAINTEST)
    seen = faint & ~trained & np.isfinite(np.concatenate(list(templates.values()))).all(0)
    noise: dict[str, tuple[float, ...]] = {"planck_353": (UNRELATED.polarisation_noise,)}
    for name in (*networks, *lines):
        templates[f"{name} + planck_353"] = np.stack([templates[name], planck])
        noise[f"{name} + planck_353"] = (0.0, *noise["planck_353"])
    window = low_pass.window
    with experiment.run.stage("polarised template cleaning"):
        bands = clean_polarisation(
            dust, templates, apodised(seen, _EDGE_DEG), window,
            ell_edges=[e for e in ELL_EDGES if e <= len(window)],
            realisations=experiment.settings["cleaning_realisations"], seed=experiment.seed,
            template_noise=noise, map_fn=experiment.map_fn, shared=experiment.run.folder,
        )  # fmt: skip
    captions: Captions = {}
    for band in bands:
        rows = band.rows()
        experiment.run.records += [{"step": "polarised_cleaning", **row} for row in rows]
        for row in rows:
            if "r_bias" not in row:
                continue
            log.info(
                "%g GHz, %s: BB left %.1f%%, bias of r %.3g, error %.2g", band.frequency_ghz,
                row["model"], 100 * row["share"], row["r_bias"], row["r_error"] or np.nan,
            )  # fmt: skip
        captions |= _figure(experiment, band)
    return captions


def _stitched(
    experiment: Experiment, cube: SkyCube, predict: Callable[[Cutouts], Tensor], fine: int
) -> NDArray[np.float32]:
    """Q and U of the test region and some way beyond it, (2, n_pix) RING; NaN elsewhere."""

    def with_intensity(cutouts: Cutouts) -> Tensor:
        qu = predict(cutouts)[:, -2:]
        return torch.cat([torch.zeros_like(qu[:, :1]), qu], 1)

    where = centres(min(_CENTRES, experiment.settings["centres_nside"]))
    region = experiment.regions(_SPLIT)["test"]
    height = torch.sin(torch.deg2rad(where.lat_deg)) * region.axis[2]
    near = height > -np.sin(np.radians(experiment.grid.reach_deg))
    found = stitch(with_intensity, cube, experiment.grid, where[near], fine=fine, polarised=True)
    return found.members[0, 1:]


def _figure(experiment: Experiment, band: PolarisedCleaning) -> Captions:
    scale = band.ell * (band.ell + 1) / (2 * np.pi)
    names = [n for n in band.residual if n not in ("none", "true_dust") and "+" not in n]
    frequency = f"{band.frequency_ghz:g}"
    return experiment.draw(
        dust_curves.residual_dust(
            band.ell, {name: scale * band.residual[name] for name in names}, scale * band.dust,
            f"BB at {frequency} GHz, {band.sky_fraction:.0%} of the sky", scale * band.background,
        ),
        f"polarised_cleaning_{frequency}",
        "Polarised dust",
        f"B modes of the dust left at {frequency} GHz",
        "One amplitude of each template fitted to the B modes of CMB, dust and noise "
        f"({band.noise_uk_arcmin:g} µK arcmin in Q and U) of the test region; mean over "
        f"{experiment.settings['cleaning_realisations']} realisations. Planck's own map at 353 GHz "
        "has noise, which the fit puts into the sky with it.",
    )  # fmt: skip
