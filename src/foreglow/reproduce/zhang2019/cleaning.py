"""What the templates are for: dust that is left in the CMB once each was fitted and subtracted."""

import numpy as np
from numpy.typing import NDArray

from foreglow.dust import cleaning
from foreglow.dust.cleaning import CleaningResult
from foreglow.dust.inputs import paper_filter
from foreglow.report.dust import curves as dust_curves
from foreglow.reproduce.zhang2019.experiment import METHOD, Captions, Experiment, log
from foreglow.reproduce.zhang2019.models import SPLIT
from foreglow.reproduce.zhang2019.sky import ring_map
from foreglow.reproduce.zhang2019.skymap import stitched_map
from foreglow.sky.gas import MockGas

FREQUENCIES_GHZ = (143.0, 217.0)


def template_cleaning(experiment: Experiment) -> Captions:
    """Residual dust power by template, on simulated CMB + dust + noise of the test region."""
    gas = experiment.source.gas
    if gas is None:
        log.info("a real sky: its dust without noise is not known, so no cleaning is simulated")
        return {}
    captions: Captions = {}
    templates = _templates(experiment, gas)
    trained = experiment.regions(SPLIT)["train"]
    seen = np.isfinite(templates["unet"])
    weight = cleaning.unseen_weight(seen, trained, experiment.grid, METHOD)
    window = paper_filter(experiment.sky.nside).window
    for frequency in FREQUENCIES_GHZ:
        with experiment.run.stage(f"template cleaning, {frequency:g} GHz"):
            result = cleaning.clean(
                templates["true_dust"], templates, weight, window, frequency,
                ell_edges=[e for e in cleaning.ELL_EDGES if e <= len(window)],
                realisations=experiment.settings["cleaning_realisations"], seed=experiment.seed,
                map_fn=experiment.map_fn, shared=experiment.run.folder,
            )  # fmt: skip
        experiment.run.records += [{"step": "cleaning", **row} for row in result.rows()]
        for name in templates:
            share = ", ".join(f"{100 * s:.1f}" for s in result.share(name).mean(0))
            log.info("%g GHz, %s: dust left by ell, percent: %s", frequency, name, share)
        captions |= _figure(experiment, result)
    return captions


def _templates(experiment: Experiment, gas: MockGas) -> dict[str, NDArray]:
    """Maps (n_pix,) RING, the last of them the dust that is in the simulated sky."""
    inputs = experiment.sky.cube.inputs
    weights = experiment.linear(SPLIT)[0].weights.to(inputs)
    low_pass = paper_filter(experiment.sky.nside)
    # detector noise of the target map is no dust
    dust = low_pass.full_sky(gas.dust.galactic + gas.dust.background)
    return {
        "integrated": ring_map(experiment, inputs.sum(1)),
        "linear": ring_map(experiment, inputs @ weights),
        "unet": stitched_map(experiment).mean,
        "perfect_gas": low_pass.full_sky(gas.dust.predictable),
        "true_dust": dust,
    }


def _figure(experiment: Experiment, result: CleaningResult) -> Captions:
    scale = result.ell * (result.ell + 1) / (2 * np.pi)
    names = [name for name in result.residual if name != "true_dust"]
    frequency = f"{result.frequency_ghz:g}"
    return experiment.draw(
        dust_curves.residual_dust(
            result.ell, {name: scale * result.residual[name] for name in names},
            scale * result.dust, f"{frequency} GHz, {result.sky_fraction:.0%} of the sky",
            scale * result.background,
        ),
        f"cleaning_{frequency}",
        "Template cleaning",
        f"What is left of the dust at {frequency} GHz",
        "One amplitude of each template fitted to CMB, dust and noise "
        f"({result.noise_uk_arcmin:g} µK arcmin) of the test region; mean over "
        f"{experiment.settings['cleaning_realisations']} realisations. The dust keeps one spectrum "
        "over the sky, so the true dust would leave next to nothing (see the table).",
    )  # fmt: skip
