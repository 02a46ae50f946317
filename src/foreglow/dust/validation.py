"""A wedge of the training region that no training sees: there networks are judged.

A network knows the sky that it was trained on, and how well it does there says little of any other
sky. So cutouts with centres between two longitudes are kept for validation, and all that one of
them may read is masked in training: the wedge with a border of half a cutout's diagonal.
"""

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foreglow.dust.cutouts import CutoutSampler, SkyCube
from foreglow.dust.model import DustModel
from foreglow.dust.polarised_scores import (
    COLUMNS,
    INTENSITY,
    gradient_predictor,
    score_polarisation,
)
from foreglow.dust.predict import stitched_members
from foreglow.dust.scores import integrated_predictor, model_predictor, score
from foreglow.dust.stitch import target_maps
from foreglow.dust.uncertainty import measure
from foreglow.errors import warn
from foreglow.maps import healpix as hp
from foreglow.maps.conventions import MapWarning
from foreglow.maps.gnomonic import Pointings, cutout_pixels
from foreglow.maps.hemispheres import Region, reached

log = logging.getLogger("foreglow")

FRACTION = 0.15  # of the centres of cutouts that are in the wedge
GAP = 0.03  # r of training above r of validation: with a fall from the best, worth a warning
FALL = 0.003  # of r of validation from its best epoch to the last
_CENTRES = 400  # cutouts that stand for all
_CANDIDATES = 20  # wedges of which one is taken
_WIDEST_DEG = 150.0
_LEAST_LEFT = 0.4  # of the cutouts, for the training


def hold_out(sampler: CutoutSampler) -> tuple[CutoutSampler, CutoutSampler]:
    """Divide the cutouts of a training region into those of training and those of validation.

    The wedge lies between two longitudes, with 15% of the centres of cutouts; of several such the
    one is taken whose border takes fewest other cutouts from the training. Which one depends on
    region, mask and grid only.

    Parameters
    ----------
    sampler : CutoutSampler
        Of the training region.

    Returns
    -------
    training : CutoutSampler
        Of the whole region, with target and mask zero wherever a cutout of the wedge may read;
        inputs are shared with `sampler`, and not zero there.
    validation : CutoutSampler
        Of the wedge. `sampler` itself, as `training` then, where the region is too small: no wedge
        leaves two fifths of the cutouts to the training.

    Warns
    -----
    MapWarning
        If the region is too small.
    """
    centres = sampler.fixed_pointings(_CENTRES).to(torch.device("cpu"))
    wedge = _find_wedge(sampler, centres)
    if wedge is not None:
        training = replace(sampler, sky=_masked(sampler, wedge))
        share = _open_share(training, centres)
        if share >= _LEAST_LEFT:
            log.info(
                "validation: %s, which leave %.0f%% of the cutouts to the training",
                wedge.name, 100 * share,
            )  # fmt: skip
            return training, replace(sampler, region=wedge)
    warn(
        f"expected a region of which a part can be kept from the training, got too little sky in "
        f"the {sampler.region.name}: validation is by the sky of the training, so that overfitting "
        "is not seen and stated errors are too small; give more sky",
        MapWarning,
    )
    return sampler, sampler


def _find_wedge(sampler: CutoutSampler, centres: Pointings) -> Region | None:
    """The wedge that costs least, by the centres that lie farther from it than cutouts reach."""
    lon = np.sort(centres.lon_deg.numpy())
    vector = hp.dir2vec(centres.lon_deg.numpy(), centres.lat_deg.numpy(), lonlat=True)
    within = np.cos(np.radians(sampler.grid.reach_deg))
    best, most = None, 0
    for k in range(0, lon.size, lon.size // _CANDIDATES):
        last = k + int(FRACTION * lon.size)
        low, width = float(np.floor(lon[k])), (lon[last % lon.size] - lon[k]) % 360
        if width > _WIDEST_DEG:
            continue
        high = float(np.ceil(lon[k] + width))
        name = f"{sampler.region.name}, longitudes {low:g} to {high % 360:g}"
        wedge = replace(sampler.region, name=name, longitudes_deg=(low, high))
        inside = wedge.holds(centres).numpy()
        left = np.count_nonzero((vector.T @ vector[:, inside]).max(1, initial=-1) < within)
        if inside.any() and left > most:
            best, most = wedge, left
    return best


def _masked(sampler: CutoutSampler, wedge: Region) -> SkyCube:
    """The sky without what cutouts of the wedge may read."""
    sky = sampler.sky
    ring = reached(wedge, sampler.grid, sky.nside, sampler.method)
    out = torch.from_numpy(ring[hp.nest2ring(sky.nside, np.arange(ring.size))])
    kept = torch.where(out.to(sky.target.device).unsqueeze(1), 0.0, sky.target)
    return SkyCube(sky.inputs, kept)


def _open_share(sampler: CutoutSampler, centres: Pointings) -> float:
    """Of cutouts at some centres, those that are not masked too much."""
    pixel = cutout_pixels(centres, sampler.grid, sampler.sky.nside, nest=True)
    seen = sampler.sky.target[:, 1].cpu()[pixel].mean((1, 2))
    return float((seen >= 1 - sampler.max_masked).double().mean())


def calibrate(model: DustModel, sampler: CutoutSampler, n: int, to: str) -> None:
    """Regress the target on the prediction, the loss leaving the scale half free, and state errors.

    On a map of the wedge, which no member has seen: without one errors elsewhere are larger.

    Parameters
    ----------
    model : DustModel
        Its card gets both.
    sampler : CutoutSampler
        Of the validation.
    n : int
        Cutouts of the map.
    to : str
        What the target is, for the header of maps.
    """
    cube = sampler.sky
    stitched = stitched_members(model, cube, sampler.fixed_pointings(n))
    model.card |= measure(stitched, target_maps(cube), to)


def validation_scores(model: DustModel, sampler: CutoutSampler, where: Pointings) -> dict[str, Any]:
    """Correlations of the whole model, and of the simplest one, on the wedge."""
    if model.target == "polarisation":
        simplest, keys = "gradients", (*COLUMNS, "alignment", *INTENSITY)
        predictors = {simplest: gradient_predictor, "model": model_predictor(model)}
        found = score_polarisation(predictors, sampler, where)
        record = found["model"].record(found[simplest])
        before = found[simplest].record(found[simplest])
    else:
        simplest, keys = "integrated", ("r50", "r150")
        predictors = {simplest: integrated_predictor, "model": model_predictor(model)}
        found = score(predictors, sampler, where, 32)
        record = found["model"].record(found[simplest])
        before = found[simplest].record(found[simplest])
    log.info(
        "%s: %s; %s map %s", sampler.region.name,
        ", ".join(f"{key} {record[key]:.4f}" for key in keys), simplest,
        ", ".join(f"{before[key]:.4f}" for key in keys),
    )  # fmt: skip
    kept = [key for key in record if key in keys or key.startswith("wins")]
    scores = {key: record[key] for key in kept if not key.endswith("_sem")}
    return {"cutouts": len(where)} | scores | {f"{simplest}_{key}": before[key] for key in keys}


def is_overfitted(training: NDArray[np.floating], validation: NDArray[np.floating]) -> bool:
    """Whether the gap has opened between two correlations, each with a value an epoch.

    At the last epoch training is above validation by more than 0.03, and validation has fallen
    from its best by more than 0.003. That of training is of fresh cutouts of the training sky,
    with dropout where the network has it, averaged over the epoch; another sky alone may bring
    0.03 of difference, but no fall.
    """
    return bool(training[-1] - validation[-1] > GAP and max(validation) - validation[-1] > FALL)
