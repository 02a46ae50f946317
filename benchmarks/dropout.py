"""What dropout costs the network of Farsian et al. 2020 with noise: a table in docs/papers.

`python benchmarks/dropout.py SKY [PROBLEM ...]`: SKY as `load_templates` takes it. The network is
trained for Table 1's noise as by `reproduce farsian2020 --scale evening`, with the paper's dropout
of one half and without, and judged beside the exact evidence, its ceiling, on the same vectors.
"""

import json
import math
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from foreglow.recognition.evaluation.ceiling import draw_vectors, log_evidence
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network import networks
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.recognition.network.train import TrainingPlan, train
from foreglow.reproduce.settings import read_settings
from foreglow.sky.instrument_files import load_instrument
from foreglow.sky.templates import Templates, load_templates

VECTORS, SEED, NSIDE = 12_000, 0, 16
PLAN = read_settings("farsian2020", "evening")["farsian2020_annealed"]["many_noise"]
DROPOUT = {"one half": networks._twice_or_nothing, "none": lambda *_: torch.ones(())}


def right_answers(templates: Templates, problem: str) -> dict[str, Tensor]:
    """Whether each vector is told right, by the evidence and by a network of each dropout."""
    instrument, models = load_instrument("quijote+litebird"), PROBLEMS[problem]
    coarse = templates.degraded(NSIDE)
    # of another seed than all of the training
    vectors = draw_vectors(coarse, instrument, models, 1.0, VECTORS, SEED + 1)
    evidence = log_evidence(vectors.data, vectors.sigma[0], coarse, instrument, models)
    said = {"ceiling": evidence}
    for name, dropout in DROPOUT.items():
        networks._twice_or_nothing = dropout
        model = Recogniser.untrained("farsian2020", instrument, models, SEED)
        with tempfile.TemporaryDirectory() as folder:
            plan = TrainingPlan(regime="many_noise", **PLAN)
            train(model, templates, plan, Path(folder), SEED, torch.device("cpu"))
        model.network.eval()
        said[name] = model.log_probability(vectors.data, vectors.sigma)
    return {name: scores.argmax(1) == vectors.label for name, scores in said.items()}


def rows(sky: str, problems: list[str]) -> None:
    """Accuracy of each, and what it lacks of the ceiling with the error of the difference."""
    templates = load_templates(sky)
    for problem in problems:
        right = {name: r.double() for name, r in right_answers(templates, problem).items()}
        for name, told in right.items():
            lacking = right["ceiling"] - told
            row = {"problem": problem, "dropout": name, "accuracy": float(told.mean())}
            row |= {"lacking": float(lacking.mean())}
            row |= {"error": float(lacking.std()) / math.sqrt(len(told)), "n": len(told)}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    rows(sys.argv[1], sys.argv[2:] or ["curvature", "ame", "four"])
