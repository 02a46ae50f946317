"""Polarised dust on the other division of the sky: trained in the east, judged in the west."""

from foreglow.dust.cutouts import CutoutSampler
from foreglow.dust.inputs import DustSky, true_sky
from foreglow.dust.polarised_scores import (
    PolarisedScores,
    gradient_predictor,
    score_polarisation,
)
from foreglow.dust.scores import model_predictor
from foreglow.reproduce.zhang2019.experiment import (
    METHOD,
    POLARISED,
    POLARISED_EAST,
    SPLITS,
    Experiment,
)
from foreglow.sky.gas import MockGas

SPLIT = SPLITS[1]


def east_to_west(
    experiment: Experiment, gas: MockGas, noisy: DustSky
) -> dict[str, dict[str, PolarisedScores]]:
    """Scores of the west without noise, as "east_west"; none where the preset has no such plan."""
    if POLARISED_EAST not in experiment.trainings:
        return {}
    model = experiment.trained(POLARISED_EAST, noisy)
    region = experiment.regions(SPLIT)["test"]
    cube = true_sky(gas, noisy).cube
    sampler = CutoutSampler(cube, region, experiment.grid, METHOD, fine=model.fine)
    predictors = {"gradients": gradient_predictor, POLARISED: model_predictor(model)}
    where = experiment.pointings(SPLIT, "test")
    return {SPLIT: score_polarisation(predictors, sampler, where, 16)}
