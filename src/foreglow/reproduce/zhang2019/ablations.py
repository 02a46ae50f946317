"""What the network needs to see: more channels, moment maps, or the integrated map alone."""

from foreglow.dust.baselines import integrated
from foreglow.dust.scores import Scores
from foreglow.report.dust import curves as dust_curves
from foreglow.reproduce.zhang2019.experiment import WIDE, Captions, Experiment, log, on_device
from foreglow.reproduce.zhang2019.paper import WEIGHT
from foreglow.reproduce.zhang2019.weights import trained_with_weight

_SPLIT, _STEP = "north_south", "ablations"


def ablations(experiment: Experiment) -> Captions:
    """The same network on other inputs, on the test region."""
    baselines = experiment.baselines(_SPLIT, "test")
    scores = {name: baselines[name] for name in ("integrated", "linear_scale_dependent")}
    scores["unet_single"] = trained_with_weight(experiment, WEIGHT)
    for inputs in ("moments", "integrated"):
        name = f"unet_{inputs}"
        scores[name] = experiment.network_scores(name, experiment.trained(name))
    scores |= _wide(experiment)
    for name, found in scores.items():
        weight = WEIGHT if name.startswith("unet") else None
        experiment.record(found, _STEP, weight=weight, model=name)
    kms = experiment.settings["wide_kms"]
    return experiment.draw(
        dust_curves.correlation_by_ell(
            experiment.ell,
            {"Test region (south)": {n: experiment.curve(s) for n, s in scores.items()}},
        ),
        "correlation_ablations",
        "Variants",
        "What the network needs to see",
        "The same network, trained alike, on the 64 channels, on four moment maps, on the "
        f"integrated map alone, and on all channels within {kms:g} km/s of the local standard of "
        "rest.",
    )


def _wide(experiment: Experiment) -> dict[str, Scores]:
    """Network and integrated map with the channels of a wider range."""
    kms = experiment.settings["wide_kms"]
    if not experiment.source.reaches(-kms, kms):
        log.info("the cube does not reach %g km/s: no wider range is tried", kms)
        return {}
    with experiment.run.stage("a wider range of velocities"):
        sky = on_device(experiment.source.sky(-kms, kms), experiment.device)
        network = experiment.network_scores(WIDE, experiment.trained(WIDE, sky), sky=sky)
        total = {"integrated_wide": lambda cutouts: integrated(cutouts.inputs)}
        return experiment.score(total, _SPLIT, "test", sky) | {WIDE: network}
