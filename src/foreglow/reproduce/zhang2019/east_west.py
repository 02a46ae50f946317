"""Figure 7: trained in the east, tested in the west."""

from foreglow.report.dust import curves as dust_curves
from foreglow.reproduce.zhang2019.experiment import SPLITS, Captions, Experiment, log

SPLIT = SPLITS[1]
_TITLES = {"train": "Training region (east)", "test": "Test region (west)"}


def east_and_west(experiment: Experiment) -> Captions:
    """The models on the other division of the sky."""
    if (reason := experiment.lacks(SPLIT)) is not None:
        log.info("no network of the east is judged in the west: %s", reason)
        return {}
    model, plan = experiment.trained(SPLIT), experiment.trainings[SPLIT][0]
    panels = {}
    for which in _TITLES:
        scores = {**experiment.baselines(SPLIT, which)}
        scores["unet_single"] = experiment.network_scores("unet_single", model, SPLIT, which)
        for name, found in scores.items():
            weight = plan.weight if name == "unet_single" else None
            experiment.record(found, "east_west", SPLIT, which, weight)
        panels[_TITLES[which]] = {name: experiment.curve(found) for name, found in scores.items()}
    return experiment.draw(
        dust_curves.correlation_by_ell(experiment.ell, panels),
        "correlation_east_west",
        "Variants",
        "Figure 7: correlation by scale, trained in the east, tested in the west",
        "As Figure 5; the network is one of those of Figure 6 (λ = 30), trained on the other half "
        "of the sky.",
    )
