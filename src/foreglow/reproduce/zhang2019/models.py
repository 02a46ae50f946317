"""Figures 3, 4 and 5: the models of the paper and ours, trained in the north, tested south."""

import numpy as np

from foreglow.dust.baselines import integrated
from foreglow.dust.model import DustModel
from foreglow.dust.scores import Scores
from foreglow.errors import ModelError
from foreglow.report.dust import curves as dust_curves
from foreglow.report.dust import learning
from foreglow.report.dust import maps as dust_maps
from foreglow.report.dust.style import model_name
from foreglow.reproduce.zhang2019.experiment import SETS, SPLITS, Captions, Experiment
from foreglow.reproduce.zhang2019.paper import WINS

SPLIT = SPLITS[0]
SHIPPED = ("mock-dust", "zhang2019-dust")
_SECTION = "Correlation with the dust"
_TITLES = {"train": "Training region (north)", "test": "Test region (south)"}


def compare_models(experiment: Experiment) -> Captions:
    """The networks trained in the north; all models are scored there and in the south."""
    networks = {name: experiment.trained(name) for name in experiment.settings["networks"]}
    judged = networks | _shipped(experiment)
    scores: dict[str, dict[str, Scores]] = {}
    for which in SETS:
        scores[which] = experiment.baselines(SPLIT, which)
        for name, model in judged.items():
            scores[which][name] = experiment.network_scores(name, model, SPLIT, which)
        for name, found in scores[which].items():
            weight = judged[name].card["training"]["weight"] if name in judged else None
            _record(experiment, found, which, weight)
    test = scores["test"]
    return (
        _example_figure(experiment, networks["unet"], test)
        | _win_figure(experiment, test)
        | _curve_figure(experiment, scores)
        | _learning_figure(experiment, networks, test)
    )


def _shipped(experiment: Experiment) -> dict[str, DustModel]:
    """The models that come with foreglow, trained on other skies of the mock.

    Not where the sky is of another Nside or other channels than theirs, or was seen in their
    training.
    """
    models = {name: DustModel.load(name, experiment.device) for name in SHIPPED}
    return {name: model for name, model in models.items() if _can_be_judged(model, experiment)}


def _can_be_judged(model: DustModel, experiment: Experiment) -> bool:
    seen, sky = model.card["training"], experiment.sky
    seeds = range(seen["seed"], seen["seed"] + seen["skies"])
    known = experiment.source.gas is not None and experiment.seed in seeds
    try:
        channels = model.find_channels(sky.velocity_kms)
    except ModelError:
        return False
    return sky.nside == model.nside and len(channels) == len(sky.velocity_kms) and not known


def _record(experiment: Experiment, scores: Scores, which: str, weight: float | None) -> None:
    network = weight is not None and which == "test"
    experiment.record(
        scores, "models", SPLIT, which, weight,
        paper_wins50=WINS["r50"] if network else None,
        paper_wins150=WINS["r150"] if network else None,
    )  # fmt: skip


def _example_figure(experiment: Experiment, unet: DustModel, scores: dict[str, Scores]) -> Captions:
    number = _typical_cutout(experiment, scores)
    where = experiment.pointings(SPLIT, "test")[number : number + 1]
    cut = experiment.sampler(SPLIT, "test").at(where)
    maps = {
        "target": cut.target,
        "integrated": integrated(cut.inputs),
        "linear": experiment.linear(SPLIT)[0](cut.inputs),
        "unet": unet(cut.inputs, cut.mask),
    }
    r = {name: (scores[name].r50[number], scores[name].r150[number]) for name in list(maps)[1:]}
    said = "; ".join(f"{n} {a:.2f} and {b:.2f}" for n, (a, b) in r.items())
    lon, lat = float(where.lon_deg[0]), float(where.lat_deg[0])
    return experiment.draw(
        dust_maps.cutout_maps(
            {name: m[0].cpu().numpy() for name, m in maps.items()}, cut.mask[0].cpu().numpy(),
            experiment.grid.pixel_arcmin,
            f"Around l = {lon:.0f}°, b = {lat:.0f}°".replace("-", "−"),
        ),
        "example_cutout",
        _SECTION,
        "Figure 3: a cutout of the test set",
        "Each map divided by its largest pixel; grey: masked. Of the cutouts with some mask, the "
        f"one whose gain in r150 is the median. r50 and r150: {said}.",
    )  # fmt: skip


def _typical_cutout(experiment: Experiment, scores: dict[str, Scores]) -> int:
    """A cutout that shows the mask and is neither the best nor the worst of the network."""
    gain = scores["unet"].r150 - scores["integrated"].r150
    sampler, where = experiment.sampler(SPLIT, "test"), experiment.pointings(SPLIT, "test")
    masked = np.concatenate(
        [1 - c.mask.float().mean((1, 2)).cpu().numpy() for c in sampler.batches(where)]
    )
    some = np.flatnonzero((masked > 0.03) & (masked < 0.25))
    some = some if some.size else np.arange(gain.size)
    return int(some[np.argsort(gain[some])[some.size // 2]])


def _win_figure(experiment: Experiment, scores: dict[str, Scores]) -> Captions:
    shown = {
        name: (scores[name].r50, scores[name].r150) for name in ("integrated", "linear", "unet")
    }
    return experiment.draw(
        dust_curves.win_scatter(shown),
        "wins",
        _SECTION,
        "Figure 4: cutout by cutout",
        f"Correlation with the dust of {len(scores['unet'].r50):,} southern cutouts; above the "
        "dashed line a model is better than the integrated map. The paper's U-Net is above in 764 "
        "(r50) and 889 (r150) of 1,000 on HI4PI and Planck.",
    )


def _curve_figure(experiment: Experiment, scores: dict[str, dict[str, Scores]]) -> Captions:
    others = [name for name in SHIPPED if name in scores["test"]]
    panels = {
        _TITLES[which]: {name: experiment.curve(s) for name, s in scores[which].items()}
        for which in _TITLES
    }
    return experiment.draw(
        dust_curves.correlation_by_ell(experiment.ell, panels),
        "correlation_north_south",
        _SECTION,
        "Figure 5: correlation by scale, trained in the north, tested in the south",
        f"Mean over {experiment.settings['test_cutouts']:,} cutouts in bands of width ell_F, "
        "single Fourier modes averaged; bands: standard errors of the mean."
        + "".join(f" {model_name(name)}: {name}, which never saw this one." for name in others),
    )


def _learning_figure(
    experiment: Experiment, networks: dict[str, DustModel], test: dict[str, Scores]
) -> Captions:
    """What each network knew of its own sky, of the wedge and in the end of the test region."""
    histories = {name: model.card["history"] for name, model in networks.items()}
    plans = {name: experiment.trainings[name][0] for name in networks}
    cutouts = {name: plan.steps * plan.batch for name, plan in plans.items()}
    found = {name: (test[name].r50.mean(), test[name].r150.mean()) for name in networks}
    region = experiment.sampler(SPLIT, "validation").region.name
    return experiment.draw(
        learning.learning_curves(histories, cutouts, found),
        "learning_north_south",
        _SECTION,
        "Learning: training, validation and test",
        "Over the cutouts seen: r of the fresh cutouts of each epoch, with dropout where a network "
        f"has it; of the wedge that no training sees ({region}), by which the epoch is chosen "
        "whose weights are kept; and of these weights in the test region. Of an ensemble the first "
        "two are means over its members, the last is of their mean. Skies differ: each has its own "
        "correlation of the integrated map, see the table.",
    )
