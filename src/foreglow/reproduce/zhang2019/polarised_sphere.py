"""Polarised dust on the sphere: maps of the south, which no training saw, by ell and direction."""

from foreglow.dust.inputs import DustSky
from foreglow.dust.model import DustModel
from foreglow.dust.polarised_sphere import CENTRES_NSIDE, sphere_scores, trained_sky
from foreglow.report.dust.sphere import correlation_on_the_sphere
from foreglow.reproduce.zhang2019.experiment import SPLITS, Captions, Experiment, log

_SPLIT = SPLITS[0]


def on_the_sphere(
    experiment: Experiment, skies: dict[str, DustSky], models: dict[str, DustModel]
) -> Captions:
    """Judge the maps of networks, and of gradients, on all of the unseen sky at once.

    Parameters
    ----------
    experiment : Experiment
    skies : dict of str to DustSky
        By the dust: "truth", "observed".
    models : dict of str to DustModel
    """
    regions = experiment.regions(_SPLIT)
    nside, grid = experiment.sky.nside, experiment.grid
    kept = trained_sky(regions["test"].name, grid, nside)
    kept &= ~trained_sky(regions["train"].name, grid, nside)
    cubes = {name: sky.cube for name, sky in skies.items()}
    centres = min(CENTRES_NSIDE, experiment.settings["centres_nside"])
    with experiment.run.stage("score polarisation on the sphere"):
        found = sphere_scores(models, cubes, kept, centres)
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
