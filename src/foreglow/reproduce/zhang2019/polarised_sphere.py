"""Polarised dust on the sphere: maps of the south, which no training saw, by ell and direction."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from foreglow.dust.cutouts import SkyCube
from foreglow.dust.sphere_scores import score_sphere
from foreglow.dust.stitch import target_maps
from foreglow.report.dust.sphere import correlation_on_the_sphere
from foreglow.reproduce.zhang2019.experiment import SPLITS, Captions, Experiment, log
from foreglow.reproduce.zhang2019.polarised_maps import unseen_sky

_SPLIT = SPLITS[0]


def on_the_sphere(
    experiment: Experiment, skies: Mapping[str, SkyCube], maps: Mapping[str, NDArray]
) -> Captions:
    """Judge the maps of models on all of the unseen sky at once.

    Parameters
    ----------
    experiment : Experiment
    skies : mapping of str to SkyCube
        By the dust: "truth", "observed".
    maps : mapping of str to ndarray, shape (3, n_pix)
        I, Q and U by model, see `polarised_maps`.
    """
    kept = unseen_sky(experiment) & np.isfinite(np.concatenate(list(maps.values()))).all(0)
    with experiment.run.stage("score polarisation on the sphere"):
        targets = {name: target_maps(sky) for name, sky in skies.items()}
        found = score_sphere(maps, targets, kept)
    for (model, target), scores in found.items():
        where = {"step": "polarised_sphere", "split": _SPLIT, "set": "test"}
        more = where | {"model": model, "target": target}
        experiment.run.records += [more | record for record in scores.records()]
        values = scores.values
        log.info(
            "%s on the sphere, %s: r of E %s, of B %s; alignment %.3f", model, target,
            *(", ".join(f"{r:.3f}" for r in values[key]) for key in ("r_e", "r_b")),
            values["alignment"][0],
        )  # fmt: skip
    truth = {model: s for (model, target), s in found.items() if target == "truth"}
    one = next(iter(truth.values()))
    panels = {
        f"{letter} modes": {
            model: (s.values[f"r_{letter.lower()}"], s.errors[f"r_{letter.lower()}"])
            for model, s in truth.items()
        }
        for letter in "EB"
    }
    return experiment.draw(
        correlation_on_the_sphere(one.ell, panels),
        "polarisation_on_the_sphere",
        "Polarised dust",
        "E and B on the masked sphere",
        f"Maps stitched from cutouts against the dust without noise, on {one.sky_fraction:.0%} of "
        "the sky, which no cutout of the training reached: cross over the root of both spectra, B "
        "purified, freed of what the mask mixes. Error bars: one of 16 regions left out in turn.",
    )
