"""The evidence of vectors that were scaled to [0, 1]."""

import pytest
import torch

from foreglow.recognition.evaluation import scaled
from foreglow.recognition.evaluation.ceiling import draw_vectors, log_evidence
from foreglow.recognition.evaluation.scaled import log_evidence_of_scaled, offset_error
from foreglow.recognition.models import PROBLEMS

AME = PROBLEMS["ame"]


@pytest.fixture
def law(few, instrument):
    return few, instrument, draw_vectors(few, instrument, AME, 1.0, 6, 0)


@pytest.fixture(autouse=True)
def few_nodes(monkeypatch):
    monkeypatch.setattr(scaled, "_LOG_FACTORS", torch.linspace(-0.8, 0.8, 9, dtype=torch.float64))


def probability(evidence):
    return torch.softmax(evidence, 1)[:, 0]


def test_an_offset_and_a_factor_change_nothing(law):
    """Up to what the nodes are off: the scaled vector is the same one."""
    templates, instrument, vectors = law
    given = (vectors.sigma[0], templates, instrument, AME)
    whole = log_evidence_of_scaled(vectors.data, *given)
    width = offset_error(vectors.sigma[0], instrument)
    moved = log_evidence_of_scaled(1.05 * vectors.data + 0.5 * width, *given)
    assert (probability(whole) - probability(moved)).abs().max() < 0.02


def test_the_integral_over_offsets_is_that_of_many_nodes(law, monkeypatch):
    templates, instrument, vectors = law
    monkeypatch.setattr(scaled, "_LOG_FACTORS", torch.zeros(1, dtype=torch.float64))
    given = (vectors.sigma[0], templates, instrument, AME)
    mine = log_evidence_of_scaled(vectors.data, *given)
    nodes = torch.linspace(-6, 6, 25) * offset_error(vectors.sigma[0], instrument)
    every = torch.stack([log_evidence(vectors.data + o, *given) for o in nodes]).logsumexp(0)
    assert (probability(mine) - probability(every)).abs().max() < 0.01


def test_less_is_known_of_a_scaled_vector(law):
    """The right model is on average not more probable for it."""
    templates, instrument, vectors = law
    given = (vectors.data, vectors.sigma[0], templates, instrument, AME)
    right = torch.arange(len(vectors.label)), vectors.label
    whole = torch.log_softmax(log_evidence(*given), 1)[right].mean()
    scaled_ones = torch.log_softmax(log_evidence_of_scaled(*given), 1)[right].mean()
    assert whole - 1.0 < scaled_ones < whole + 0.2
