"""The skies outside the training law: which there are, what is stated of them, what is true."""

import numpy as np
import pytest
import torch

from foreglow.recognition.simulation.law import PAPER_LAW
from foreglow.reproduce.farsian2020.experiment import Experiment
from foreglow.reproduce.farsian2020.outside import AS_TRAINED, Case, cases, skies_of
from foreglow.reproduce.settings import SCALES, read_settings
from foreglow.runs import Run
from foreglow.sky.instrument_files import load_instrument
from foreglow.sky.templates import load_templates

CHANGES = {"beta_scatter": [0.05, 0.4], "noise": [1.1], "curvature": [0.0], "ame_fraction": [0.04]}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    settings = {"test_nside": 8, "test_skies": 3, "outside": {"skies": 1}}
    run = Run(tmp_path_factory.mktemp("run"), {})
    instrument = load_instrument("quijote+litebird")
    return Experiment(
        run, settings, load_templates("mock", 16), instrument, 0, torch.device("cpu"), False
    )


def test_cases_begin_with_the_law_of_training():
    found = [(case.problem, case.name) for case in cases(CHANGES, ["curvature", "ame", "four"])]
    assert found == [
        ("curvature", AS_TRAINED),
        ("ame", AS_TRAINED),
        ("four", AS_TRAINED),
        ("four", "beta_scatter=0.05"),
        ("four", "beta_scatter=0.4"),
        ("four", "noise=1.1"),
        ("curvature", "curvature=0"),
        ("ame", "ame_fraction=0.04"),
    ]


def test_a_case_changes_one_thing():
    every = {case.name: case for case in cases(CHANGES, ["curvature", "ame", "four"])}
    assert every[AS_TRAINED].law == PAPER_LAW
    assert every["beta_scatter=0.4"].law.beta_scatter == 0.4
    assert every["beta_scatter=0.4"].noise == 1.0
    assert (every["noise=1.1"].law, every["noise=1.1"].noise) == (PAPER_LAW, 1.1)


def test_problems_that_are_not_run_are_left_out():
    assert {case.problem for case in cases(CHANGES, ["ame"])} == {"ame"}
    assert list(cases({"noise": [1.1]}, ["ame"])) == []


@pytest.mark.parametrize("scale", SCALES)
def test_presets_name_laws_that_exist(scale):
    settings = read_settings("farsian2020", scale)
    assert len(list(cases(settings["outside"]["changes"], settings["problems"]))) >= 5


def test_noise_is_stated_as_it_is_not(experiment):
    (true,) = skies_of(experiment, Case(AS_TRAINED, "four"), 1.0)
    (louder,) = skies_of(experiment, Case("noise=1.1", "four", noise=1.1), 1.0)
    np.testing.assert_allclose(louder.sigma, true.sigma, rtol=1e-12)
    noiseless = experiment.skies("four", 0.0, number=1)[0].data
    ratio = (louder.data - noiseless).std((0, 2)) / (true.data - noiseless).std((0, 2))
    np.testing.assert_allclose(ratio, 1.1, rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "problem"), [({"curvature": [0.0]}, "curvature"), ({"ame_fraction": [0.0]}, "ame")]
)
def test_two_models_that_are_one(experiment, change, problem):
    """With C = 0, or no AME, all is a power law, and that is what counts as right."""
    case = list(cases(change, [problem]))[1]
    (sky,) = skies_of(experiment, case, 0.0)
    assert case.one_model
    assert (sky.label == 0).all()
    both = experiment.skies(problem, 0.0, case.law, number=1)[0]
    assert set(both.label) == {0, 1}
    np.testing.assert_array_equal(both.data, sky.data)
