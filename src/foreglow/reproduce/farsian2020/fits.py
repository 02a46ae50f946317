"""Section 5, Figures 9 and 10: the classical answer, a model chosen by its fit to the pixel."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from foreglow.recognition.evaluation.evaluate import Evaluation, choose_on_sky, summarise
from foreglow.recognition.fits.choice import CRITERIA, Choice
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.simulation.skies import SimulatedSky
from foreglow.report.page.tables import binomial_error
from foreglow.report.recognition import figures, skymaps
from foreglow.reproduce.farsian2020.experiment import Captions, Experiment, joined
from foreglow.reproduce.farsian2020.paper import PAPER_FITS
from foreglow.reproduce.farsian2020.views import keep_view
from foreglow.reproduce.farsian2020.worker import WorkerContext
from foreglow.reproduce.progress import log_progress
from foreglow.sky import seds

_SECTION = "Parametric fits"
# told the C of the curved models, as a network is by its training: `METHOD_known_c` in records
_KNOWN_C = ("chi2", "evidence")
_FIGURE_9 = (
    "Left: reduced chi-square of both fits in every pixel of the test skies; dashed, its law if "
    "the model holds. The two lie on each other: at this noise either model fits nearly every "
    "pixel. Right: on one sky, where the smaller reduced chi-square is that of the true model: "
    "{here:.1%} of its pixels, {all:.1%} of those of all skies (paper: 73%). C is free in the "
    "curved fit, as in the paper."
)
_FIGURE_10 = (
    "Reduced chi-square of the curved fit minus that of the power law, same sky: red prefers a "
    "power law, blue a curved one. It leaves zero by more than noise only where synchrotron is "
    "bright."
)
_CURVES = (
    "The model chosen by fits, pixel by pixel, C free. Chi-square, AIC and BIC see the best fits "
    "alone; evidence integrates over amplitudes and spectral parameters with their priors. Beside "
    "them the foreglow network that was trained over noise scales, and the ceiling of any method "
    "that looks at one pixel, measured on vectors of the training law."
)


@dataclass(frozen=True)
class _Fitted:
    """Test skies of a problem at one noise, chosen by fits.

    evaluations: by method, sky by sky; reduced_chi2 (n_class, n_pix) and dof (n_class,) of the
    first method, skies in a row.
    """

    evaluations: dict[str, list[Evaluation]]
    reduced_chi2: np.ndarray
    dof: np.ndarray


def choose_by_fits(experiment: Experiment) -> Captions:
    """Accuracy of a choice by fits at Table 1 noise and below, and Figures 9 and 10."""
    captions: Captions = {}
    found: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    with experiment.run.stage("fits"):
        for problem in experiment.settings["problems"]:
            curves = found.setdefault(problem, {})
            for scale in experiment.settings["fit_noise_scales"]:
                fitted = _fit_skies(experiment, problem, scale)
                for method, evaluations in fitted.evaluations.items():
                    _record(experiment, problem, scale, method, evaluations)
                    summary = summarise(evaluations, scale)
                    point = (scale, summary.accuracy, summary.error)
                    curves.setdefault(method, []).append(point)
                if problem == "curvature" and scale == 1.0:
                    captions |= _figures_9_and_10(experiment, fitted)
    return captions | _curves_figure(experiment, found)


def _fit_skies(experiment: Experiment, problem: str, noise_scale: float) -> _Fitted:
    models = PROBLEMS[problem]
    evaluations: dict[str, list[Evaluation]] = {}
    chi2, dof = [], np.empty(0)
    number = experiment.settings["fit_skies"]
    found = experiment.map_fn(
        partial(fit_sky, experiment.worker, problem, noise_scale), range(number)
    )
    for k, (sky, choice, known) in enumerate(log_progress(found, number, f"fits, {problem}")):
        if k == 0 and noise_scale == 1.0:
            keep_view(experiment, problem, sky, choice)
        chosen = {name: (choice, name) for name in CRITERIA}
        if known is not None:
            chosen |= {f"{name}_known_c": (known, name) for name in _KNOWN_C}
        for method, (of, criterion) in chosen.items():
            probability = of.probability(criterion).T.cpu().numpy()
            evaluations.setdefault(method, []).append(Evaluation(models, probability, sky.label))
        chi2.append(choice.reduced_chi2.T.cpu().numpy())
        dof = choice.dof[0].cpu().numpy()
    return _Fitted(evaluations, np.concatenate(chi2, axis=1), dof)


def fit_sky(
    worker: WorkerContext, problem: str, noise_scale: float, number: int
) -> tuple[SimulatedSky, Choice, Choice | None]:
    """A test sky, its fits, and those that are told the C of curved models, if there are any."""
    models, device = PROBLEMS[problem], torch.device(worker.device)
    sky = worker.sky(problem, noise_scale, number)
    choice = choose_on_sky(sky, worker.instrument, models, device=device)
    if not any(name.startswith("curved") for name in models):
        return sky, choice, None
    return sky, choice, choose_on_sky(sky, worker.instrument, models, seds.KOGUT_CURVATURE, device)


def _record(
    experiment: Experiment,
    problem: str,
    noise_scale: float,
    method: str,
    evaluations: list[Evaluation],
) -> None:
    known = PAPER_FITS.get((problem, method)) if noise_scale == 1.0 else None
    experiment.record(
        evaluations, noise_scale, problem=problem, network=None, training=None, method=method,
        paper=known,
    )  # fmt: skip


def _figures_9_and_10(experiment: Experiment, fitted: _Fitted) -> Captions:
    tested = fitted.evaluations["chi2"]
    first = tested[0]
    names = [f"{name.replace('_', ' ')} fit" for name in first.models]
    power_law, curved = fitted.reduced_chi2[:, : len(first.label)]
    nine = experiment.draw(
        skymaps.goodness_of_fit(
            fitted.reduced_chi2, fitted.dof, names, first.predicted == first.label,
            "curvature, Table 1 noise",
        ),
        "fits_reduced_chi2",
        _SECTION,
        "Figure 9: reduced chi-square, and the choice by it",
        _FIGURE_9.format(here=first.accuracy, all=joined(tested).accuracy),
    )  # fmt: skip
    return nine | experiment.draw(
        skymaps.sky_map(
            curved - power_law,
            "curvature, Table 1 noise",
            "Reduced χ², curved fit minus power law",
            stretch="asinh",
            regions=first.label,
        ),
        "fits_chi2_difference",
        _SECTION,
        "Figure 10: difference of the reduced chi-squares",
        _FIGURE_10,
    )


def _curves_figure(
    experiment: Experiment, found: dict[str, dict[str, list[tuple[float, float, float]]]]
) -> Captions:
    """Accuracy of every criterion against noise, beside the network and the ceiling."""
    panels = {}
    for problem, curves in found.items():
        lines = {name: points for name, points in curves.items() if name in CRITERIA}
        lines |= {"network": _recorded(experiment, problem, "network")}
        lines |= {"ceiling": _recorded(experiment, problem, "ceiling")}
        panels[problem] = {name: np.array(points).T for name, points in lines.items() if points}
    return experiment.draw(
        figures.criteria_curves(panels),
        "fits_criteria",
        _SECTION,
        "Choice by fits against noise",
        _CURVES,
    )


def _recorded(
    experiment: Experiment, problem: str, method: str
) -> list[tuple[float, float, float]]:
    """Noise scale, accuracy and error that the steps before recorded, in order of noise."""
    lowest = min(experiment.settings["fit_noise_scales"])
    wanted = {"problem": problem, "method": method, "context": "pixel", "set": "test"}
    found = [
        r
        for r in experiment.run.records
        if wanted.items() <= r.items()
        and r["class"] is None
        and r["training"] in ("conditioned", None)
        and r["noise_scale"] >= lowest
    ]
    return sorted(
        (r["noise_scale"], r["accuracy"], binomial_error(r["accuracy"], r["n_pixels"]))
        for r in found
    )
