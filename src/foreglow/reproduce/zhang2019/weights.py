"""Figure 6: the weight lambda of the correlation in the loss."""

from foreglow.dust.scores import Scores
from foreglow.report.dust import curves as dust_curves
from foreglow.reproduce.zhang2019.experiment import Captions, Experiment

_SECTION = "Variants"


def compare_weights(experiment: Experiment) -> Captions:
    """One network for each lambda, all trained alike, on the test region."""
    baselines = experiment.baselines("north_south", "test")
    curves = {name: experiment.curve(baselines[name]) for name in ("integrated", "linear")}
    weights = experiment.settings["lambdas"]
    for weight in weights:
        scores = trained_with_weight(experiment, weight)
        experiment.record(scores, "lambda", weight=weight, model="unet_single")
        curves[f"lambda_{weight:g}"] = experiment.curve(scores)
    plan, _ = experiment.trainings[f"lambda_{weights[0]:g}"]
    return experiment.draw(
        dust_curves.correlation_by_ell(
            experiment.ell, {"Test region (south)": curves}, dust_curves.weight_looks(weights)
        ),
        "correlation_lambda",
        _SECTION,
        "Figure 6: weight of the correlation in the loss",
        f"One network for each λ of eq. 2.3, trained for {plan.epochs * plan.steps:,} steps of "
        f"{plan.batch} cutouts; the paper saw no change from λ = 30 on.",
    )


def trained_with_weight(experiment: Experiment, weight: float) -> Scores:
    """Scores on the test region of the network of one lambda."""
    name = f"lambda_{weight:g}"
    return experiment.network_scores(name, experiment.trained(name))
