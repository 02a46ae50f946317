"""Test skies that the report shows pixel by pixel."""

from foreglow.recognition.evaluation.evaluate import evaluate
from foreglow.recognition.fits.choice import Choice
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.simulation.skies import SimulatedSky
from foreglow.report.page import tables
from foreglow.report.page.skyview import save_view
from foreglow.report.recognition.view import recognition_view
from foreglow.reproduce.farsian2020.experiment import REGIONS, Experiment

_NOTE = (
    "The first test sky with the noise of Table 1, models in {regions}. Networks farsian2020 and "
    "foreglow were trained on this problem with many noise realisations, or over noise scales; C "
    "is free in the fits."
)


def keep_view(experiment: Experiment, problem: str, sky: SimulatedSky, choice: Choice) -> None:
    """Keep a test sky with all that was said of it.

    Parameters
    ----------
    experiment : Experiment
    problem : str
    sky : SimulatedSky
        With Table 1 noise.
    choice : Choice
        Its fits.
    """
    models = PROBLEMS[problem]
    trained = {
        name: experiment.trained(problem, name, "many_noise")[0]
        for name in ("farsian2020", "foreglow")
    }
    trained["foreglow, over noise scales"], _ = experiment.trained(
        "four", "foreglow", "conditioned"
    )
    chances = {name: evaluate(model, sky, models).probability for name, model in trained.items()}
    place = experiment.settings["problems"].index(problem) + 1
    view = recognition_view(
        f"{place}_{problem}",
        f"{problem}: {tables.PROBLEMS[problem]}",
        _NOTE.format(regions=REGIONS[problem]),
        sky,
        experiment.instrument,
        models,
        chances,
        choice,
    )
    save_view(view, experiment.run.folder / "maps")
