"""All networks, trained before anything is asked of them; where there are workers, side by side."""

from functools import partial
from typing import Any

from foreglow.reproduce.zhang2019.experiment import (
    POLARISED,
    POLARISED_EAST,
    WIDE,
    Captions,
    Experiment,
    Opening,
    log,
    open_experiment,
)
from foreglow.runs import Run


def train_networks(experiment: Experiment) -> Captions:
    """Train every network on the sky of the experiment."""
    others = (WIDE, POLARISED, POLARISED_EAST)  # see another sky
    names = [  # the longest come first
        name
        for name, (_, split) in experiment.trainings.items()
        if name not in others and experiment.lacks(split) is None
    ]
    work = partial(
        _train, experiment.run, experiment.settings, experiment.opening, experiment.resume
    )
    log.info("training: %d networks", len(names))
    done = experiment.map_fn(work, names)
    for k, (name, timings) in enumerate(zip(names, done, strict=True), start=1):
        experiment.run.timings_s |= timings
        log.info("trained: %s (%d of %d)", name, k, len(names))
    return {}


def _train(
    run: Run, settings: dict[str, Any], opening: Opening, resume: bool, name: str
) -> dict[str, float]:
    """Train a network, in any process; returns the seconds of all stages until then."""
    open_experiment(run, settings, opening, resume).trained(name)
    return run.timings_s
