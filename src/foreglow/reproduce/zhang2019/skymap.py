"""The use of it: a map of the dust with its error over the whole footprint."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreglow.dust.model import DustModel
from foreglow.dust.predict import predict_map, stitched_members
from foreglow.dust.results import DustMap
from foreglow.dust.stitch import TURN_DEG, centres
from foreglow.dust.uncertainty import coverage
from foreglow.maps import healpix as hp
from foreglow.maps.hemispheres import reached
from foreglow.report.dust import curves as dust_curves
from foreglow.report.dust import maps as dust_maps
from foreglow.report.dust.view import dust_view
from foreglow.report.page.skyview import save_view
from foreglow.reproduce.zhang2019.experiment import METHOD, Captions, Experiment, log
from foreglow.reproduce.zhang2019.models import SPLIT
from foreglow.reproduce.zhang2019.sky import ring_map, unit_text

_SECTION = "The predicted map"
_NOTE = (
    "Dust predicted by the U-Net from the 21 cm line, trained in the northern Galactic hemisphere; "
    "all maps low-passed at ell 460. The error is that of a pixel of the full map: neighbours "
    "share theirs."
)
_LEVELS = np.arange(0.25, 3.01, 0.25)


def predicted_map(experiment: Experiment) -> Captions:
    """Blend the network's cutouts into a map, measure its error, and write it as FITS."""
    model = experiment.trained("unet")
    dust = stitched_map(experiment)
    path = experiment.run.folder / "maps" / "dust.fits"
    path.parent.mkdir(exist_ok=True)
    dust.to_fits(path, overwrite=True)
    log.info("%s: %s", path, dust.summary())
    target = ring_map(experiment, experiment.sky.cube.target[:, 0])
    save_view(
        dust_view("9_dust", "Dust from hydrogen", _NOTE, dust, target, experiment.sky), path.parent
    )
    halves = _halves(experiment, np.isfinite(dust.mean) & np.isfinite(target))
    rows = {name: coverage(dust.mean[w], dust.std[w], target[w]) for name, w in halves.items()}
    for name, found in rows.items():
        experiment.run.records += [
            {"step": "coverage", "set": name, "bin": k, "unit": experiment.sky.target_unit, **row}
            for k, row in enumerate(found)
        ]
    seams = _seams(experiment, model, dust, target)
    experiment.run.records.append(seams)
    log.info(
        "within one error: %.1f%% of the pixels of the test region (training region %.1f%%); two "
        "blends differ by %.2f%% of the rms", 100 * rows["test"][0]["within1"],
        100 * rows["train"][0]["within1"], 100 * seams["over_rms"],
    )  # fmt: skip
    return _map_figure(experiment, dust, target, seams) | _coverage_figure(
        experiment, dust, target, halves
    )


def stitched_map(experiment: Experiment) -> DustMap:
    """The map of our network, by the calibration and error of its card; made once."""
    if not experiment.maps:
        model = experiment.trained("unet")
        with experiment.run.stage("the map of the whole footprint"):
            where = centres(experiment.settings["centres_nside"])
            experiment.maps.append(
                predict_map(model, experiment.sky.cube, where, source=experiment.sky.source)
            )
    return experiment.maps[0]


def _halves(experiment: Experiment, seen: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    """Pixels that the training may read, those of the wedge, and those beyond the region."""
    region = experiment.regions(SPLIT)["train"]
    beyond = ~reached(region, experiment.grid, experiment.sky.nside, METHOD)
    seen_in_training = experiment.sampler(SPLIT, "train").sky.target[:, 1].cpu().numpy() > 0
    ring = hp.ring2nest(experiment.sky.nside, np.arange(seen.size))
    trained = seen_in_training[ring] & ~beyond
    halves = {"train": trained, "validation": ~trained & ~beyond, "test": beyond}
    return {name: seen & which for name, which in halves.items() if (seen & which).any()}


def _seams(
    experiment: Experiment, model: DustModel, dust: DustMap, target: NDArray
) -> dict[str, Any]:
    """How far two blends of the same network differ, whose cutouts lie elsewhere."""
    with experiment.run.stage("seams of the map"):
        where = centres(experiment.settings["centres_nside"], TURN_DEG)
        other = dust.calibration(stitched_members(model, experiment.sky.cube, where).mean)
    both = np.isfinite(dust.mean) & np.isfinite(other)
    difference = float((dust.mean - other)[both].std())
    rms = float(dust.mean[both].std())
    missed = float((target - dust.mean)[both].std())
    return {
        "step": "seams", "model": "unet", "difference": difference, "rms": rms, "missed": missed,
        "over_rms": difference / rms, "unit": experiment.sky.target_unit,
    }  # fmt: skip


def _map_figure(
    experiment: Experiment, dust: DustMap, target: NDArray, seams: dict[str, Any]
) -> Captions:
    return experiment.draw(
        dust_maps.predicted_sky(
            target, dust.mean, dust.std, unit_text(experiment), "Predicted dust"
        ),
        "predicted_map",
        _SECTION,
        "The dust predicted over the whole footprint",
        f"Overlapping cutouts of the U-Net ({dust.n_member} networks) blended onto the sphere, "
        "scaled to the target on a wedge of the north that was held out of the training. Error: "
        f"{dust.sigma}. Two blends "
        f"whose cutouts lie elsewhere differ by {seams['over_rms']:.2%} of the map's rms, against "
        f"{seams['missed'] / seams['rms']:.1%} by which the map misses the dust. Nside "
        f"{experiment.sky.nside}; also as maps/dust.fits.",
    )


def _coverage_figure(
    experiment: Experiment, dust: DustMap, target: NDArray, halves: dict[str, NDArray[np.bool_]]
) -> Captions:
    pull = np.abs(target - dust.mean) / dust.std
    names = {
        "train": "training region (north)",
        "validation": "wedge, held out",
        "test": "test region (south)",
    }
    shares = {
        names[name]: np.array([(pull[which] < level).mean() for level in _LEVELS])
        for name, which in halves.items()
    }
    return experiment.draw(
        dust_curves.error_coverage(_LEVELS, shares),
        "error_coverage",
        _SECTION,
        "Is the error what it says?",
        "Share of pixels whose dust lies within so many of the stated errors. The law of errors "
        "was measured on a wedge of the training region that no member had seen; all members know "
        "the rest of it, and err less there.",
    )
