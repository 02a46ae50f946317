"""Calibration: known temperatures are found, honest probabilities pass, and bad input is told."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from foreglow.errors import ShapeError
from foreglow.recognition.evaluation.evaluate import evaluate
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network.calibration import (
    TEMPERATURE_RANGE,
    accuracy_against_coverage,
    expected_calibration_error,
    fit_temperature,
    reliability,
)
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.recognition.network.train import TrainingPlan, train


def honest(n_class=4, n_pix=200_000, seed=0):
    """Logits whose softmax is the law that the labels are drawn from."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((n_class, n_pix))
    # the largest of logits with Gumbel noise is a draw from their softmax
    return logits, (logits + rng.gumbel(size=logits.shape)).argmax(0)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 1.7, 4.0])
@pytest.mark.parametrize("n_class", [2, 4])
def test_temperature_is_recovered(temperature, n_class):
    logits, label = honest(n_class)
    assert fit_temperature(temperature * logits, label) == pytest.approx(temperature, rel=0.02)
    of_probability = log_softmax(temperature * logits, axis=0)
    assert fit_temperature(of_probability, label) == pytest.approx(temperature, rel=0.02)


def test_temperature_stays_in_its_range():
    logits, label = honest(n_pix=5000)
    low, high = TEMPERATURE_RANGE
    assert fit_temperature(100 * logits, label) == pytest.approx(high, rel=1e-9)
    assert fit_temperature(0.001 * logits, label) == pytest.approx(low, rel=1e-9)
    assert fit_temperature(logits, logits.argmax(0)) == pytest.approx(low)  # never wrong


def test_without_a_mistake_there_is_no_cause_for_another_temperature():
    label = np.arange(60000) % 2
    logits = np.where(np.arange(2)[:, None] == label, 6.0, -6.0)  # sure to 6e-6, and never wrong
    assert fit_temperature(logits, label) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("n_class", [2, 4])
def test_error_of_honest_and_of_overconfident_probabilities(n_class):
    logits, label = honest(n_class)
    assert expected_calibration_error(softmax(logits, 0), label) < 0.004
    sure = softmax(3 * logits, 0)
    assert expected_calibration_error(sure, label) > 0.08
    cooled = softmax(3 * logits / fit_temperature(3 * logits, label), 0)
    assert expected_calibration_error(cooled, label) < 0.004


def test_reliability_by_hand():
    probability = np.array([[0.9, 0.8, 0.35, 1.0], [0.1, 0.2, 0.65, 0.0]])
    found = reliability(probability, [0, 1, 1, 0], n_bin=5)
    np.testing.assert_array_equal(found.count, [0, 0, 0, 1, 3])
    np.testing.assert_allclose(found.confidence, [np.nan] * 3 + [0.65, 0.9])
    np.testing.assert_allclose(found.accuracy, [np.nan] * 3 + [1, 2 / 3])
    error = (0.35 + 3 * (0.9 - 2 / 3)) / 4
    assert found.expected_calibration_error == pytest.approx(error)


def test_coverage_by_hand():
    probability = np.array([[0.9, 0.6, 0.2, 0.3], [0.1, 0.4, 0.8, 0.7]])
    coverage, accuracy = accuracy_against_coverage(probability, [0, 0, 0, 1], [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(coverage, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(accuracy, [1, 1 / 2, 2 / 3, 3 / 4])


@given(st.integers(0, 2**32 - 1), st.integers(1, 300))
@settings(max_examples=30)
def test_coverage_does_not_know_the_order_of_pixels(seed, n_pix):
    rng = np.random.default_rng(seed)
    label = rng.integers(3, size=n_pix)
    probability = np.round(softmax(rng.standard_normal((3, n_pix)), 0), 1)  # many ties
    order = rng.permutation(n_pix)
    one = accuracy_against_coverage(probability, label)
    other = accuracy_against_coverage(probability[:, order], label[order])
    np.testing.assert_allclose(one, other)
    assert one[0][-1] == 1
    assert one[1][-1] == pytest.approx(np.mean(probability.argmax(0) == label))


def test_certain_pixels_of_honest_probabilities_are_right_more_often():
    logits, label = honest()
    _, accuracy = accuracy_against_coverage(softmax(logits, 0), label)
    assert (np.diff(accuracy) < 0).all()


@pytest.mark.parametrize(
    ("probability", "label", "message"),
    [
        (np.ones((3, 2)), [0, 1, 2], "put the classes first"),
        (np.ones(3), [0, 1, 2], "put the classes first"),
        (np.ones((2, 0)), [], "put the classes first"),
        (np.ones((2, 2)), [0, 2], "whole numbers from 0 to 1"),
        (np.ones((2, 2)), [0, -1], "whole numbers from 0 to 1"),
        (np.ones((2, 2)), [0.0, 1.0], "whole numbers from 0 to 1"),
        (np.full((2, 2), np.nan), [0, 1], "leave pixels out that were not observed"),
    ],
)
@pytest.mark.parametrize("function", [reliability, fit_temperature, accuracy_against_coverage])
def test_bad_input(function, probability, label, message):
    with pytest.raises(ShapeError, match=message):
        function(probability, label)


@pytest.mark.parametrize("coverage", [[0.0], [1.1], 0.5, [np.nan]])
def test_bad_coverage(coverage):
    with pytest.raises(ShapeError, match="expected coverage"):
        accuracy_against_coverage(np.ones((2, 2)), [0, 1], coverage)


def test_training_fits_the_temperature(model):
    calibration = model.card["calibration"]
    assert calibration["vectors"] >= 16384  # as asked for in conftest.py
    assert TEMPERATURE_RANGE[0] <= model.temperature <= TEMPERATURE_RANGE[1]
    # cross-entropy is what falls; the calibration error of a barely trained network need not
    assert max(calibration["error_before"], calibration["error_after"]) < 0.05


@pytest.mark.usefixtures("small_samples")
def test_a_warm_start_fits_it_anew_and_the_seed_fixes_it(instrument, templates, tmp_path):
    found = []
    for start in (1.0, 3.0):
        recogniser = Recogniser.untrained("foreglow", instrument, PROBLEMS["curvature"], 0)
        recogniser.temperature = start
        plan = TrainingPlan("noiseless", 1, 5, 256, fixed_set=False, learning_rate=2e-3)
        train(recogniser, templates, plan, tmp_path / str(start), 0, torch.device("cpu"))
        found.append(recogniser.temperature)
    assert found[0] == found[1]


@pytest.mark.usefixtures("small_samples")
def test_a_network_that_diverged_keeps_a_temperature_of_one(instrument, templates, tmp_path):
    recogniser = Recogniser.untrained("foreglow", instrument, PROBLEMS["curvature"], 0)
    recogniser.card["calibration"] = {"vectors": 1}
    torch.nn.init.constant_(recogniser.network.output.bias, torch.nan)
    plan = TrainingPlan("noiseless", 1, 1, 64, fixed_set=False, learning_rate=2e-3)
    train(recogniser, templates, plan, tmp_path, 0, torch.device("cpu"))
    assert recogniser.temperature == 1
    assert "calibration" not in recogniser.card


def test_temperature_changes_confidence_alone(model, sky):
    before = evaluate(model, sky)
    fitted = model.temperature
    try:
        model.temperature = 10.0
        after = evaluate(model, sky)
    finally:
        model.temperature = fitted
    np.testing.assert_array_equal(before.predicted, after.predicted)
    assert after.probability.max() < before.probability.max()
