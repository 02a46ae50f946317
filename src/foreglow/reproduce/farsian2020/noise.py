"""Accuracy against noise, beside the ceiling of any classifier of single pixels."""

import logging
from typing import Any

import numpy as np
import torch

from foreglow.recognition.evaluate import summarise
from foreglow.recognition.evidence import draw_vectors, log_evidence
from foreglow.recognition.model import Recogniser
from foreglow.recognition.simulate import PROBLEMS, Vectors
from foreglow.report import figures
from foreglow.reproduce.farsian2020 import paper
from foreglow.reproduce.farsian2020.lab import Captions, Lab

log = logging.getLogger("foreglow")

# networks beside the ceiling, by their training
_TRAINED = {"conditioned": "foreglow", "many_noise": "foreglow_memory"}


def noise_curve(lab: Lab) -> Captions:
    """Accuracy against noise of one conditioned model, and of dedicated ones beside it."""
    model, _ = lab.trained("four", "foreglow", "conditioned")
    curves = {problem: _curve(lab, model, problem) for problem in lab.settings["problems"]}
    for scale in lab.settings["dedicated_noise_scales"]:
        dedicated, _ = lab.trained("four", "foreglow", "many_noise", noise_scale=scale)
        lab.record(
            lab.test(dedicated, "four", scale), scale, problem="four", network="foreglow",
            training="many_noise", paper=None,
        )  # fmt: skip
    remembering, _ = lab.trained("four", "foreglow_memory", "many_noise", noise_scale=1.0)
    with lab.run.stage("ceilings"):
        ceilings = _ceilings(lab, model, remembering)
    known = {problem: paper.PAPER_NOISY[problem]["many_noise"] for problem in curves}
    return lab.draw(
        figures.noise_curve(curves, known, chance=(0.5, 0.25), ceiling=ceilings),
        "noise_curve",
        "Noise",
        "Accuracy against noise",
        "One foreglow network, trained over noise scales, on test skies of each noise; binary "
        "problems by restricting its four classes. Dashed: ceiling of any per-pixel classifier. "
        "Stars: the paper at Table 1 noise.",
    )


def _curve(lab: Lab, model: Recogniser, problem: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise scales, accuracies and errors of the conditioned model."""
    scales = lab.settings["noise_scales"]
    points = []
    for scale in scales:
        tested = lab.test(model, problem, scale)
        lab.record(
            tested, scale, problem=problem, network="foreglow", training="conditioned", paper=None
        )
        summary = summarise(tested, scale)
        points.append((summary.accuracy, summary.error))
    accuracy, error = np.array(points).T
    return np.array(scales), accuracy, error


def _ceilings(
    lab: Lab, conditioned: Recogniser, remembering: Recogniser
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The best accuracy of any per-pixel classifier, and the networks' on the same vectors.

    One set of vectors of four models serves all problems: a problem sees those of its models.
    """
    templates = lab.templates.degraded(lab.settings["test_nside"])
    four = PROBLEMS["four"]
    points: dict[str, list[tuple[float, float]]] = {p: [] for p in lab.settings["problems"]}
    for scale in lab.settings["ceiling_noise_scales"]:
        n = lab.settings["ceiling_vectors"]
        vectors = draw_vectors(templates, lab.instrument, four, scale, n, lab.seed)
        evidence = log_evidence(vectors.data, vectors.sigma[0], templates, lab.instrument, four)
        scores = {"ceiling": evidence}
        models = {"conditioned": conditioned}
        if scale == 1:  # the noise it was trained for
            models["many_noise"] = remembering
        for name, model in models.items():
            said = model.log_probability(vectors.data.to(lab.device), vectors.sigma.to(lab.device))
            scores[name] = said.cpu()
        for problem, found in points.items():
            accuracy, n_mine = _accuracies(scores, vectors, problem)
            lab.run.records += _ceiling_records(lab, problem, scale, accuracy, n_mine)
            log.info(
                "%s, noise scale %g, the same vectors: %s", problem, scale,
                ", ".join(f"{name} {value:.4f}" for name, value in accuracy.items()),
            )  # fmt: skip
            found.append((scale, accuracy["ceiling"]))
    return {problem: tuple(np.array(found).T) for problem, found in points.items()}


def _accuracies(
    scores: dict[str, torch.Tensor], vectors: Vectors, problem: str
) -> tuple[dict[str, float], int]:
    """Accuracy by method on the vectors of a problem's models, and how many there are."""
    keep = [PROBLEMS["four"].index(name) for name in PROBLEMS[problem]]
    mine = torch.isin(vectors.label, torch.tensor(keep))
    truth = vectors.label[mine]
    accuracy = {}
    for method, score in scores.items():
        chosen = torch.tensor(keep)[score[mine][:, keep].argmax(1)]
        accuracy[method] = float((chosen == truth).double().mean())
    return accuracy, len(truth)


def _ceiling_records(
    lab: Lab, problem: str, scale: float, accuracy: dict[str, float], n: int
) -> list[dict[str, Any]]:
    return [
        {
            "problem": problem, "network": _TRAINED.get(name), "noise": "table1",
            "training": name if name in _TRAINED else None, "noise_scale": scale,
            "context": "pixel", "class": None, "method": "network" if name in _TRAINED else name,
            "set": "validation" if name in _TRAINED else "test",
            "nside": lab.settings["test_nside"], "n_pixels": n, "accuracy": value, "paper": None,
        }
        for name, value in accuracy.items()
    ]  # fmt: skip
