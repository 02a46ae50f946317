"""What recognition is for: what is left in the CMB when the recognised models are fitted."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from foreglow.maps.regions import layout
from foreglow.recognition.context.model import ContextModel
from foreglow.recognition.evaluate import evaluate
from foreglow.recognition.model import Recogniser
from foreglow.recognition.separation import (
    FULL_SKY,
    Residuals,
    separate_many,
    summarise_residuals,
)
from foreglow.recognition.simulate import PROBLEMS
from foreglow.recognition.skies import SimulatedSky, simulate_sky
from foreglow.report import curves
from foreglow.reproduce.farsian2020.context import trained_contexts
from foreglow.reproduce.farsian2020.lab import REGIONS, Captions, Lab
from foreglow.sky.cmb import cmb_spectra

_SECTION = "Component separation"


def component_separation(lab: Lab) -> Captions:
    """Residual CMB by choice of models, over many skies, at each noise."""
    captions: Captions = {}
    pixel, _ = lab.trained("four", "foreglow", "conditioned")
    context = trained_contexts(lab)["unet"]
    with lab.run.stage("component separation"):
        for problem in lab.settings["separation_problems"]:
            for scale in lab.settings["separation_noise_scales"]:
                residuals = _residuals(lab, pixel, context, problem, scale)
                lab.run.records += [
                    {
                        "problem": problem, "noise_scale": scale, "method": "separation",
                        "nside": lab.settings["test_nside"], **record,
                    }
                    for record in summarise_residuals(residuals)
                ]  # fmt: skip
                captions |= _figure(lab, problem, scale, residuals)
    return captions


def _residuals(
    lab: Lab, pixel: Recogniser, context: ContextModel, problem: str, noise_scale: float
) -> list[Residuals]:
    models = PROBLEMS[problem]

    def recognise(sky: SimulatedSky) -> Mapping[str, NDArray]:
        alone = evaluate(pixel, sky, models)
        together = alone.with_neighbours(context)
        return {
            "recognised, one pixel": alone.predicted,
            "recognised, with neighbours": together.predicted,
            "averaged, with neighbours": together.probability,
        }

    return separate_many(_skies(lab, problem, noise_scale), lab.instrument, models, recognise)


def _skies(lab: Lab, problem: str, noise_scale: float) -> Iterator[SimulatedSky]:
    """Skies of their own CMB, beta_s and noise, one at a time."""
    nside = lab.settings["test_nside"]
    models, templates = PROBLEMS[problem], lab.templates.degraded(nside)
    label = layout(REGIONS[problem], nside, len(models))
    for number in range(lab.settings["separation_skies"]):
        rng = np.random.default_rng([lab.seed, 13, number])
        turned = (label + number) % len(models)
        yield simulate_sky(templates, lab.instrument, models, turned, noise_scale, rng)


def _figure(lab: Lab, problem: str, noise_scale: float, residuals: list[Residuals]) -> Captions:
    cut = next(r.region for r in residuals if r.region != FULL_SKY)
    shown = {r.option: r.bb for r in residuals if r.region == cut}
    n_ell = residuals[0].bb.shape[1]
    n = lab.settings["separation_skies"]
    return lab.draw(
        curves.residual_spectra(
            shown, f"{problem}, noise scale {noise_scale:g}, {cut}", cmb_spectra(n_ell - 1)[2]
        ),
        f"separation_{problem}_{noise_scale:g}",
        _SECTION,
        f"What is left in the CMB: {problem}, noise scale {noise_scale:g}",
        f"B modes of the cleaned CMB less the true one, foregrounds and noise together, mean over "
        f"{n} skies with its error. Pixels of Nside {lab.settings['test_nside']} carry multipoles "
        f"up to {n_ell - 1}. All fits have the same prior on the synchrotron index. Averaged: the "
        f"CMB of every model, weighted by its probability.",
    )
