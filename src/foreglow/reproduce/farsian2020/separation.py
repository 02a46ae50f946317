"""What recognition is for: what is left in the CMB when the recognised models are fitted."""

from functools import partial

import numpy as np

from foreglow.maps.regions import layout
from foreglow.recognition.evaluation.evaluate import evaluate
from foreglow.recognition.evaluation.separation import (
    FULL_SKY,
    Residuals,
    join_residuals,
    residuals_of_sky,
    summarise_residuals,
)
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.simulation.skies import SimulatedSky, simulate_sky
from foreglow.report.recognition import curves
from foreglow.reproduce.farsian2020.context import trained_contexts
from foreglow.reproduce.farsian2020.experiment import Captions, Experiment
from foreglow.reproduce.farsian2020.worker import REGIONS, WorkerContext
from foreglow.reproduce.progress import log_progress
from foreglow.sky.cmb import cmb_spectra

_SECTION = "Component separation"


def component_separation(experiment: Experiment) -> Captions:
    """Residual CMB by choice of models, over many skies, at each noise."""
    captions: Captions = {}
    experiment.trained("four", "foreglow", "conditioned")
    trained_contexts(experiment)
    with experiment.run.stage("component separation"):
        for problem in experiment.settings["separation_problems"]:
            for scale in experiment.settings["separation_noise_scales"]:
                residuals = _residuals(experiment, problem, scale)
                experiment.run.records += [
                    {
                        "problem": problem, "noise_scale": scale, "method": "separation",
                        "nside": experiment.settings["test_nside"], **record,
                    }
                    for record in summarise_residuals(residuals)
                ]  # fmt: skip
                captions |= _figure(experiment, problem, scale, residuals)
    return captions


def _residuals(experiment: Experiment, problem: str, noise_scale: float) -> list[Residuals]:
    number = experiment.settings["separation_skies"]
    found = experiment.map_fn(
        partial(_separate, experiment.worker, problem, noise_scale), range(number)
    )
    what = f"component separation, {problem}, noise scale {noise_scale:g}"
    return join_residuals(log_progress(found, number, what))


def _separate(
    worker: WorkerContext, problem: str, noise_scale: float, number: int
) -> list[Residuals]:
    """Clean a sky of its own CMB, beta_s and noise."""
    models, nside = PROBLEMS[problem], worker.templates.nside
    turned = (layout(REGIONS[problem], nside, len(models)) + number) % len(models)

    def make(scale: float) -> SimulatedSky:  # of one CMB and beta_s, whatever the noise
        rng = np.random.default_rng([worker.seed, 13, number])
        return simulate_sky(worker.templates, worker.instrument, models, turned, scale, rng)

    sky = make(noise_scale)
    alone = evaluate(worker.recogniser("four_foreglow_conditioned"), sky, models)
    together = alone.with_neighbours(worker.context("context_unet"))
    maps = {
        "recognised, one pixel": alone.predicted,
        "recognised, with neighbours": together.predicted,
        "averaged, with neighbours": together.probability,
    }
    return residuals_of_sky(sky, make(0.0), worker.instrument, models, maps)


def _figure(
    experiment: Experiment, problem: str, noise_scale: float, residuals: list[Residuals]
) -> Captions:
    cut = next(r.region for r in residuals if r.region != FULL_SKY)
    shown = {r.option: r.bb for r in residuals if r.region == cut}
    n_ell = residuals[0].bb.shape[1]
    n = experiment.settings["separation_skies"]
    return experiment.draw(
        curves.residual_spectra(
            shown, f"{problem}, noise scale {noise_scale:g}, {cut}", cmb_spectra(n_ell - 1)[2]
        ),
        f"separation_{problem}_{noise_scale:g}",
        _SECTION,
        f"What is left in the CMB: {problem}, noise scale {noise_scale:g}",
        f"B modes of the cleaned CMB less the true one, foregrounds and noise together, mean over "
        f"{n} skies with its error. Pixels of Nside {experiment.settings['test_nside']} carry "
        f"multipoles up to {n_ell - 1}. All fits have the same prior on the synchrotron index. "
        f"Averaged: the "
        f"CMB of every model, weighted by its probability.",
    )
