"""What polarised dust from hydrogen is for: B modes cleaned by each template, and r after that."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from foreglow.dust.inputs import faint_sky, paper_filter
from foreglow.dust.polarised_cleaning import ELL_EDGES, PolarisedCleaning, clean_polarisation
from foreglow.maps.cut_sky import apodised
from foreglow.report.dust import curves as dust_curves
from foreglow.reproduce.zhang2019.experiment import Captions, Experiment, log
from foreglow.reproduce.zhang2019.polarised_maps import unseen_sky
from foreglow.sky.gas import UNRELATED, MockGas

FAINTEST = 0.3  # of the sky, where it is unseen: about the tenth that such telescopes look at
_EDGE_DEG = 6.0  # over which the weight rises
_PLANCK = "planck_353"


def polarised_cleaning(
    experiment: Experiment, gas: MockGas, maps: Mapping[str, NDArray]
) -> Captions:
    """Residual BB and r by template, on simulated CMB, dust and noise of unseen faint sky.

    Parameters
    ----------
    experiment : Experiment
    gas : MockGas
    maps : mapping of str to ndarray, shape (3, n_pix)
        I, Q and U by model, see `polarised_maps`. The observed map at 353 GHz, that beside each of
        them but the one that only the mock can make, and the true dust are templates, too.
    """
    low_pass = paper_filter(experiment.sky.nside)
    dust = low_pass.polarised(gas.polarisation)
    planck = low_pass.polarised(gas.observed_polarisation)
    templates = {name: one[1:] for name, one in maps.items()} | {_PLANCK: planck}
    noise: dict[str, tuple[float, ...]] = {_PLANCK: (UNRELATED.polarisation_noise,)}
    for name in [name for name in maps if name != "perfect_gas"]:
        both = f"{name} + {_PLANCK}"
        templates[both], noise[both] = np.stack([templates[name], planck]), (0.0, *noise[_PLANCK])
    templates["true_dust"] = dust
    kept = faint_sky(gas.dust.total, FAINTEST) & unseen_sky(experiment)
    kept &= np.isfinite(np.concatenate(list(maps.values()))).all(0)
    window = low_pass.window
    with experiment.run.stage("polarised template cleaning"):
        bands = clean_polarisation(
            dust, templates, apodised(kept, _EDGE_DEG), window,
            ell_edges=[e for e in ELL_EDGES if e <= len(window)],
            realisations=experiment.settings["cleaning_realisations"], seed=experiment.seed,
            template_noise=noise, map_fn=experiment.map_fn, shared=experiment.run.folder,
        )  # fmt: skip
    captions: Captions = {}
    for band in bands:
        rows = band.rows()
        experiment.run.records += [{"step": "polarised_cleaning", **row} for row in rows]
        for row in (row for row in rows if "r_bias" in row):
            log.info(
                "%g GHz, %s: BB left %.1f%%, bias of r %.3g, error %.2g", band.frequency_ghz,
                row["model"], 100 * row["share"], row["r_bias"], row["r_error"] or np.nan,
            )  # fmt: skip
        captions |= _figure(experiment, band)
    return captions


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
        f"({band.noise_uk_arcmin:g} µK arcmin in Q and U) of faint sky of the test region; mean "
        f"over {experiment.settings['cleaning_realisations']} realisations. The observed map at "
        "353 GHz has noise of Planck's depth, which the fit puts into the sky with it.",
    )  # fmt: skip
