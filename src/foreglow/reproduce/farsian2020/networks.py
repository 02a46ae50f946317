"""Tables 2 and 3, and Figures 3 to 8: every network on the three problems."""

from typing import Any

import numpy as np

from foreglow.compute.training import History
from foreglow.recognition.evaluation.evaluate import Evaluation
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.recognition.network.train import Regime
from foreglow.report.recognition import figures, skymaps
from foreglow.report.recognition.curves import learning_curves
from foreglow.reproduce.farsian2020 import paper
from foreglow.reproduce.farsian2020.experiment import Captions, Experiment

ANNEALED = "farsian2020_annealed"
NETWORKS = ("farsian2020", ANNEALED, "foreglow")
"""The paper's network trained as published, the same by Muon with white inputs, ours."""
REGIMES: tuple[Regime, ...] = ("noiseless", "one_noise", "many_noise")


def compare_networks(experiment: Experiment) -> Captions:
    """Test every network on every problem."""
    captions: Captions = {}
    for problem in experiment.settings["problems"]:
        for network in NETWORKS:
            captions |= _one_network(experiment, problem, network)
    return captions | _learning_curves(experiment)


def _learning_curves(experiment: Experiment) -> Captions:
    """Accuracy on validation vectors against vectors seen, noiseless, of every network."""
    curves: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for problem in experiment.settings["problems"]:
        for network in NETWORKS:
            model, history = experiment.trained(problem, network, "noiseless")
            accuracy = np.array(history["validation_accuracy"])
            an_epoch = model.card["training"]["steps"] * model.card["training"]["batch"]
            seen = an_epoch * np.arange(1, len(accuracy) + 1)
            curves.setdefault(problem, {})[network] = (seen, accuracy)
    known = {p: (paper.PAPER_VECTORS[p], paper.PAPER_NOISELESS[p]["train"]) for p in curves}
    return experiment.draw(
        learning_curves(curves, known),
        "learning_curves",
        "Networks",
        "Accuracy against vectors seen, without noise",
        "On validation vectors, after every epoch. farsian2020: the paper's network, trained as "
        "published (Adadelta at a constant rate); farsian2020_annealed: the same network by Muon, "
        "as if its inputs were white, its rate falling to zero; foreglow: ours. Stars: where the "
        "paper's training ended, and its accuracy on the training set.",
    )


def _one_network(experiment: Experiment, problem: str, network: str) -> Captions:
    """Tables 2 and 3 for one network and problem, and its figures."""
    known = paper.PAPER_NOISELESS[problem]
    common = {"problem": problem, "network": network}
    model, history = experiment.trained(problem, network, "noiseless")
    experiment.run.records += _history_records(experiment, model, history, known["train"], **common)
    clean = experiment.test(model, problem, 0.0)
    experiment.record(clean, 0.0, training="noiseless", paper=known["test"], **common)
    noisy: dict[str, list[Evaluation]] = {}
    for regime in REGIMES:
        if regime != "noiseless":
            model, _ = experiment.trained(problem, network, regime)
        noisy[regime] = experiment.test(model, problem, 1.0)
        known = paper.PAPER_NOISY[problem][regime]
        experiment.record(noisy[regime], 1.0, training=regime, paper=known, **common)
    return (
        _history_figure(experiment, problem, network, history)
        | _clean_figure(experiment, problem, network, clean[0])
        | _noise_figure(experiment, problem, network, noisy["noiseless"][0], noisy["many_noise"][0])
    )


def _history_records(
    experiment: Experiment, model: Recogniser, history: History, known: float, **fields: Any
) -> list[dict[str, Any]]:
    """Accuracy on training and validation sets at the last epoch."""
    training = model.card["training"]
    records = []
    for name, n, value in (("train", training["steps"], known), ("validation", None, None)):
        records.append(
            {
                **fields,
                "training": "noiseless", "noise": "none", "noise_scale": 0.0,
                "context": "pixel", "method": "network", "set": name, "class": None,
                "nside": experiment.templates.nside,
                "n_pixels": n * training["batch"] if n else None,
                "accuracy": history[f"{name}_accuracy"][-1],
                "paper": value,
            }
        )  # fmt: skip
    return records


def _history_figure(
    experiment: Experiment, problem: str, network: str, history: History
) -> Captions:
    number = paper.HISTORY_FIGURE[problem]
    what = f"{problem}, {network}"
    known = paper.PAPER_NOISELESS[problem]["train"]
    return experiment.draw(
        figures.training_history(history, f"{what}, noiseless", known),
        f"history_{network}_{problem}",
        _section(network),
        f"Figure {number}: training history, {what}" if number else f"Training history, {what}",
        "Accuracy and loss by epoch, noiseless; dashed: the paper's final training accuracy.",
    )


def _clean_figure(
    experiment: Experiment, problem: str, network: str, clean: Evaluation
) -> Captions:
    what = f"{problem}, {network}"
    return experiment.draw(
        skymaps.recognition_map(clean.probability, clean.label, clean.models, f"{what}, noiseless"),
        f"map_{network}_{problem}",
        _section(network),
        f"Figure {paper.MAP_FIGURE[problem]}: noiseless test sky, {what}",
        "Left: probability of the true model, white where another is chosen. Right: right and "
        f"wrong pixels. Accuracy on this sky {clean.accuracy:.1%}.",
    )


def _noise_figure(
    experiment: Experiment, problem: str, network: str, before: Evaluation, after: Evaluation
) -> Captions:
    what = f"{problem}, {network}"
    title = f"before and after training with noise, {what}"
    return experiment.draw(
        skymaps.recognition_maps_before_after(
            before.probability, after.probability, after.label, after.models,
            f"{what}, Table 1 noise",
        ),
        f"noise_{network}_{problem}",
        _section(network),
        f"Figure 8: {title}" if problem == "four" else title[0].upper() + title[1:],
        "Test sky with Table 1 noise, recognised after noiseless training (accuracy "
        f"{before.accuracy:.1%}) and after training with many noise realisations "
        f"({after.accuracy:.1%}).",
    )  # fmt: skip


def _section(network: str) -> str:
    return f"Network {network}"
