"""Accuracy against noise, beside the ceiling of any classifier of single pixels."""

import logging
from collections.abc import Mapping
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from foreglow.recognition.evaluation.ceiling import draw_vectors, log_evidence
from foreglow.recognition.evaluation.evaluate import summarise
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.report.recognition import figures
from foreglow.reproduce.farsian2020 import paper
from foreglow.reproduce.farsian2020.experiment import Captions, Experiment
from foreglow.reproduce.farsian2020.networks import ANNEALED
from foreglow.reproduce.farsian2020.worker import WorkerContext

log = logging.getLogger("foreglow")

# networks beside the ceiling, by their training
_TRAINED = {"conditioned": "foreglow", "many_noise": "foreglow_template"}


def noise_curve(experiment: Experiment) -> Captions:
    """Accuracy against noise of one conditioned model, and of ones trained for one noise each."""
    model, _ = experiment.trained("four", "foreglow", "conditioned")
    curves = {
        problem: _curve(experiment, model, problem) for problem in experiment.settings["problems"]
    }
    for scale in experiment.settings["dedicated_noise_scales"]:
        dedicated, _ = experiment.trained("four", "foreglow", "many_noise", noise_scale=scale)
        experiment.record(
            experiment.test(dedicated, "four", scale), scale, problem="four", network="foreglow",
            training="many_noise", paper=None,
        )  # fmt: skip
    own = _paper_network(experiment)
    experiment.trained("four", "foreglow_template", "many_noise", noise_scale=1.0)
    with experiment.run.stage("ceilings"):
        ceilings = _ceilings(experiment)
    known = {problem: paper.PAPER_NOISY[problem]["many_noise"] for problem in curves}
    return experiment.draw(
        figures.noise_curve(curves, known, chance=(0.5, 0.25), ceiling=ceilings, own=own),
        "noise_curve",
        "Noise",
        "Accuracy against noise",
        "One foreglow network, trained over noise scales, on test skies of each noise; binary "
        "problems by restricting its four classes. Dashed: ceiling of any per-pixel classifier. "
        "Squares: the paper's network, annealed, trained for each noise. Stars: the paper at "
        "Table 1 noise.",
    )


def _paper_network(experiment: Experiment) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Noise scales and accuracies of the paper's network, trained for each: how little noise it
    needs for the paper's numbers.
    """
    problems = experiment.settings["problems"]
    scales = sorted([*experiment.settings["annealed_noise_scales"], 1.0])
    accuracy: dict[str, list[float]] = {problem: [] for problem in problems}
    for problem, scale in product(problems, scales):
        changes = {} if scale == 1 else {"noise_scale": scale}
        model, _ = experiment.trained(problem, ANNEALED, "many_noise", **changes)
        tested = experiment.test(model, problem, scale)
        if changes:
            experiment.record(
                tested, scale, problem=problem, network=ANNEALED, training="many_noise",
                paper=None,
            )  # fmt: skip
        accuracy[problem].append(summarise(tested, scale).accuracy)
    return {problem: (np.array(scales), np.array(found)) for problem, found in accuracy.items()}


def _curve(
    experiment: Experiment, model: Recogniser, problem: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise scales, accuracies and errors of the conditioned model."""
    scales = experiment.settings["noise_scales"]
    points = []
    for scale in scales:
        tested = experiment.test(model, problem, scale)
        experiment.record(
            tested, scale, problem=problem, network="foreglow", training="conditioned", paper=None
        )
        summary = summarise(tested, scale)
        points.append((summary.accuracy, summary.error))
    accuracy, error = np.array(points).T
    return np.array(scales), accuracy, error


def _ceilings(experiment: Experiment) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The best accuracy of any per-pixel classifier, and the networks' on the same vectors.

    One set of vectors of four models serves all problems: a problem sees those of its models.
    """
    points: dict[str, list[tuple[float, float]]] = {p: [] for p in experiment.settings["problems"]}
    scales = experiment.settings["ceiling_noise_scales"]
    work = partial(_score_vectors, experiment.worker, experiment.settings["ceiling_vectors"])
    for scale, (scores, label) in zip(scales, experiment.map_fn(work, scales), strict=True):
        for problem, found in points.items():
            accuracy, n_mine = accuracies(scores, label, problem)
            experiment.run.records += _ceiling_records(experiment, problem, scale, accuracy, n_mine)
            log.info(
                "%s, noise scale %g, the same vectors: %s", problem, scale,
                ", ".join(f"{name} {value:.4f}" for name, value in accuracy.items()),
            )  # fmt: skip
            found.append((scale, accuracy["ceiling"]))
    return {problem: tuple(np.array(found).T) for problem, found in points.items()}


def _score_vectors(
    worker: WorkerContext, number: int, noise_scale: float
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What the evidence and the networks say of vectors at one noise, and their true models."""
    four = PROBLEMS["four"]
    vectors = draw_vectors(
        worker.templates, worker.instrument, four, noise_scale, number, worker.seed
    )
    evidence = log_evidence(
        vectors.data, vectors.sigma[0], worker.templates, worker.instrument, four
    )
    scores = {"ceiling": evidence.numpy()}
    models = {"conditioned": "four_foreglow_conditioned"}
    if noise_scale == 1:  # the noise it was trained for
        models["many_noise"] = "four_foreglow_template_many_noise_1"
    for name, folder in models.items():
        model = worker.recogniser(folder)
        said = model.log_probability(
            vectors.data.to(worker.device), vectors.sigma.to(worker.device)
        )
        scores[name] = said.cpu().numpy()
    return scores, vectors.label.numpy()


def accuracies(
    scores: Mapping[str, np.ndarray], label: np.ndarray, problem: str
) -> tuple[dict[str, float], int]:
    """Accuracy by method on the vectors of a problem's models, and how many there are."""
    keep = np.array([PROBLEMS["four"].index(name) for name in PROBLEMS[problem]])
    mine = np.isin(label, keep)
    truth = label[mine]
    accuracy = {}
    for method, score in scores.items():
        chosen = keep[score[mine][:, keep].argmax(1)]
        accuracy[method] = float(np.mean(chosen == truth))
    return accuracy, len(truth)


def _ceiling_records(
    experiment: Experiment, problem: str, scale: float, accuracy: dict[str, float], n: int
) -> list[dict[str, Any]]:
    return [
        {
            "problem": problem, "network": _TRAINED.get(name), "noise": "table1",
            "training": name if name in _TRAINED else None, "noise_scale": scale,
            "context": "pixel", "class": None, "method": "network" if name in _TRAINED else name,
            "set": "validation" if name in _TRAINED else "test",
            "nside": experiment.settings["test_nside"], "n_pixels": n, "accuracy": value,
            "paper": None,
        }
        for name, value in accuracy.items()
    ]  # fmt: skip
