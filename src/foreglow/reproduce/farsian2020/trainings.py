"""All that any step trains, side by side where there are workers."""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

from foreglow.recognition.network.train import Regime
from foreglow.reproduce.farsian2020.context import trained_contexts
from foreglow.reproduce.farsian2020.experiment import Captions, Experiment
from foreglow.reproduce.farsian2020.networks import ANNEALED, NETWORKS, REGIMES

log = logging.getLogger("foreglow")

Training = Callable[[Experiment], object]


def train_all(experiment: Experiment) -> Captions:
    """Train what later steps ask for, who find it trained."""
    wanted = trainings(experiment.settings)
    log.info("training: %d cases", len(wanted))
    work = partial(_timed, replace(experiment, map_fn=map))
    done = experiment.map_fn(work, list(wanted.values()))
    for k, (name, timings) in enumerate(zip(wanted, done, strict=True), start=1):
        experiment.run.timings_s |= timings
        log.info("trained: %s (%d of %d)", name, k, len(wanted))
    return {}


def trainings(settings: dict[str, Any]) -> dict[str, Training]:
    """By name; what takes long comes first: neighbours (with their network), four models."""
    problems = sorted(settings["problems"], key=lambda problem: problem != "four")
    wanted: dict[str, Training] = {"neighbours": trained_contexts}
    for problem, network in product(problems, NETWORKS):
        wanted[f"{problem}, {network}"] = partial(_in_turn, problem, network, REGIMES)
    by_noise = [
        *product(problems, [ANNEALED], settings["annealed_noise_scales"]),
        ("four", "foreglow_template", 1.0),
        *product(["four"], ["foreglow"], settings["dedicated_noise_scales"]),
    ]
    for problem, network, scale in by_noise:
        wanted[f"{problem}, {network}, noise scale {scale:g}"] = partial(
            _in_turn, problem, network, ("many_noise",), noise_scale=scale
        )
    return wanted


def _in_turn(
    problem: str, network: str, regimes: tuple[Regime, ...], experiment: Experiment, **changes: Any
) -> None:
    """Train a network in regimes one after another, of which later ones go on from the first."""
    for regime in regimes:
        experiment.trained(problem, network, regime, **changes)


def _timed(experiment: Experiment, training: Training) -> dict[str, float]:
    """Train, in any process; the seconds of all stages until then."""
    training(experiment)
    return experiment.run.timings_s
