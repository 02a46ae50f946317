"""Maps of polarised dust on the sky that no training saw, by every model."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d

from foreglow.dust.cutouts import Cutouts, SkyCube
from foreglow.dust.mean_field import mean_field
from foreglow.dust.model import DustModel
from foreglow.dust.orientation import observed
from foreglow.dust.polarised_sphere import CENTRES_NSIDE, centres_around, trained_sky
from foreglow.dust.predict import predict_map
from foreglow.dust.results import PolarisedDustMap
from foreglow.dust.scores import Predictor
from foreglow.dust.stitch import TURN_DEG, stitch, target_maps
from foreglow.maps.gnomonic import Pointings
from foreglow.reproduce.zhang2019.experiment import POLARISED, SPLITS, Experiment
from foreglow.reproduce.zhang2019.sky import ring_map

_SPLIT = SPLITS[0]


def unseen_sky(experiment: Experiment) -> NDArray[np.bool_]:
    """What cutouts of the test region reach and those of the training do not, (n_pix,), RING."""
    regions = experiment.regions(_SPLIT)
    test, train = (
        trained_sky(regions[name].name, experiment.grid, experiment.sky.nside)
        for name in ("test", "train")
    )
    return test & ~train


def polarised_seams(
    experiment: Experiment, model: DustModel, sky: SkyCube, dust: PolarisedDustMap
) -> dict[str, Any]:
    """A record of how far Q and U of another blend differ from a map's, on the unseen sky."""
    kept = unseen_sky(experiment)
    nside = min(CENTRES_NSIDE, experiment.settings["centres_nside"])
    with experiment.run.stage("seams of the polarised map"):
        where = centres_around(kept, experiment.grid, nside, TURN_DEG)
        other = predict_map(model, sky, where)
    assert isinstance(other, PolarisedDustMap)
    first, second = np.stack([dust.q, dust.u]), np.stack([other.q, other.u])
    both = kept & np.isfinite(first + second).all(0)
    difference, rms = (
        float(np.sqrt(np.mean(maps[:, both] ** 2))) for maps in (first - second, first)
    )
    return {
        "step": "polarised_seams", "model": POLARISED, "difference": difference, "rms": rms,
        "over_rms": difference / rms, "unit": model.target_unit,
    }  # fmt: skip


def polarised_maps(
    experiment: Experiment,
    sky: SkyCube,
    layers: SkyCube,
    models: Mapping[str, DustModel],
    simple: Mapping[str, Predictor],
    known: Mapping[str, Predictor],
    fine: int,
) -> dict[str, NDArray[np.float32]]:
    """I, Q and U of the unseen sky by each model, (3, n_pix), RING, COSMO; NaN elsewhere.

    Parameters
    ----------
    experiment : Experiment
    sky, layers : SkyCube
        The polarised sky with its channels, and with the columns of its layers in their place.
    models : mapping of str to DustModel
    simple, known : mapping of str to callable
        Predictors of Q and U from the integrated map of `sky`, and from `layers`.
    fine : int
        Pixels of the integrated map along a side of one of the cutouts.
    """
    kept = unseen_sky(experiment)
    centres = min(CENTRES_NSIDE, experiment.settings["centres_nside"])
    where = centres_around(kept, experiment.grid, centres)
    total = SkyCube(sky.inputs.sum(1, keepdim=True), sky.target)
    found = {
        name: _blended(experiment, cube, predict, where, finer)
        for predictors, cube, finer in ((simple, total, fine), (known, layers, 1))
        for name, predict in predictors.items()
    }
    for name, model in models.items():
        made = predict_map(model, sky, where)
        assert isinstance(made, PolarisedDustMap)
        found[name] = np.stack([made.mean, made.q, made.u])
    column = ring_map(experiment, total.inputs[:, 0])
    seen = np.isfinite(column)
    field = mean_field(column, target_maps(sky)[1:], seen & ~kept)
    found["mean_field"] = np.stack([column, *field])
    return found


def _blended(
    experiment: Experiment, cube: SkyCube, predict: Predictor, where: Pointings, fine: int
) -> NDArray[np.float32]:
    """The map of a predictor of Q and U, its I that of all gas."""

    def with_intensity(cutouts: Cutouts) -> Tensor:
        _, share, pixels = observed(cutouts.inputs, cutouts.mask)
        total = avg_pool2d(cutouts.inputs.sum(1, keepdim=True), pixels) / share
        return torch.cat([total, predict(cutouts)[:, -2:]], 1)

    return stitch(with_intensity, cube, experiment.grid, where, fine=fine, polarised=True).mean
