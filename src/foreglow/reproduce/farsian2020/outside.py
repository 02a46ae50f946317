"""Outside the training law: skies that differ from it in one thing at a time.

A network says a model for every pixel, whatever the sky. This step measures how much its answers
and its probabilities suffer, and whether chi-square raises an alarm where they are sure and wrong.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.stats import chi2, ncx2

from foreglow.recognition.evaluation.evaluate import Evaluation, evaluate
from foreglow.recognition.fits.goodness import LEVEL, chi2_as_trained, goodness_of_fit
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network.calibration import expected_calibration_error
from foreglow.recognition.simulation.law import PAPER_LAW, SkyLaw
from foreglow.recognition.simulation.skies import SimulatedSky
from foreglow.recognition.simulation.systematics import Systematics
from foreglow.reproduce.farsian2020.experiment import Captions, Experiment, joined
from foreglow.reproduce.farsian2020.worker import WorkerContext

log = logging.getLogger("foreglow")

# the problem that asks for what is changed; all else is tried on four models
_PROBLEM = {"curvature": "curvature", "ame_fraction": "ame"}
AS_TRAINED = "as trained"
_SYSTEMATICS = {field.name for field in fields(Systematics)}
ALARMS = ("misfit", "none_fits", "sure_wrong", "flagged", "detectable", "flagged_detectable")
_SURE = 0.9
_DETECTABLE = 0.95  # an alarm in so many draws of the noise


@dataclass(frozen=True)
class Case:
    """A sky outside the training law.

    Parameters
    ----------
    name : str
        What differs, as in records: `beta_scatter=0.4`.
    problem : str
    law : SkyLaw
    noise : float
        True noise over the noise stated.
    """

    name: str
    problem: str
    law: SkyLaw = PAPER_LAW
    noise: float = 1.0

    @property
    def one_model(self) -> bool:
        """Whether the second model of the problem is the first in truth: C = 0, or no AME.

        Then every pixel counts as a power law, and accuracy is the share of pixels called so.
        """
        return self.law.curvature == 0 or self.law.ame_fraction == 0


def cases(changes: dict[str, list[float]], problems: list[str]) -> Iterator[Case]:
    """The skies of the preset's `outside.changes`, after the training law for each problem.

    Parameters
    ----------
    changes : dict of list of float
        Values by the field of `SkyLaw` or of `Systematics` that they replace; those of `noise` are
        the true noise over the noise stated.
    problems : list of str
        Cases of other problems are left out.
    """
    wanted = {_PROBLEM.get(key, "four") for key in changes}
    for problem in problems:
        if problem in wanted:
            yield Case(AS_TRAINED, problem)
    for key, values in changes.items():
        problem = _PROBLEM.get(key, "four")
        for value in values if problem in problems else ():
            name = f"{key}={value:g}"
            if key == "noise":
                yield Case(name, problem, noise=value)
            elif key in _SYSTEMATICS:
                yield Case(name, problem, SkyLaw(systematics=Systematics(**{key: value})))
            else:
                changed: dict[str, Any] = {key: value}
                yield Case(name, problem, SkyLaw(**changed))


def outside_the_law(experiment: Experiment) -> Captions:
    """Record accuracy, calibration and alarms of the conditioned network in every case."""
    experiment.trained("four", "foreglow", "conditioned")
    settings = experiment.settings["outside"]
    with experiment.run.stage("outside the law"):
        for case in cases(settings["changes"], experiment.settings["problems"]):
            for noise_scale in settings["noise_scales"]:
                experiment.run.records.append(_try(experiment, case, noise_scale))
    return {}  # a table of the report, made from the records


def _try(experiment: Experiment, case: Case, noise_scale: float) -> dict[str, Any]:
    number = experiment.settings["outside"]["skies"]
    found = list(
        experiment.map_fn(partial(_try_sky, experiment.worker, case, noise_scale), range(number))
    )
    tested = joined([evaluation for evaluation, _ in found])
    record = {
        "problem": case.problem, "network": "foreglow", "training": "conditioned",
        "noise": "table1", "noise_scale": noise_scale, "context": "pixel", "method": "network",
        "set": "outside", "class": None, "nside": experiment.settings["test_nside"],
        "n_pixels": len(tested.label), "accuracy": tested.accuracy, "paper": None,
        "law": case.name,
        "ece": expected_calibration_error(tested.probability, tested.label),
        **_alarms(tested, np.concatenate([alarms for _, alarms in found], axis=1)),
    }  # fmt: skip
    log.info(
        "%s, %s, noise scale %g: accuracy %.4f, calibration error %.4f, none fits in %.4f; sure "
        "and wrong %.4f (flagged %s), detectable %.4f (flagged %s)",
        case.problem, case.name, noise_scale, record["accuracy"], record["ece"],
        *(record[key] for key in ALARMS[1:]),
    )  # fmt: skip
    return record


def _alarms(tested: Evaluation, alarms: np.ndarray) -> dict[str, float | None]:
    """Shares of pixels where an alarm sounds, and of those that need one where it does."""
    misfit, none_fits, power = alarms
    sure_wrong = (tested.predicted != tested.label) & (tested.probability.max(0) > _SURE)
    detectable = sure_wrong & (power > _DETECTABLE)
    return {
        "misfit": float(misfit.mean()),
        "none_fits": float(none_fits.mean()),
        "sure_wrong": float(sure_wrong.mean()),
        "flagged": float(misfit[sure_wrong].mean()) if sure_wrong.any() else None,
        "detectable": float(detectable.mean()),
        "flagged_detectable": float(misfit[detectable].mean()) if detectable.any() else None,
    }


def skies_of(experiment: Experiment, case: Case, noise_scale: float) -> list[SimulatedSky]:
    """The skies of a case, with the noise that is stated of them and the truth that counts."""
    worker = experiment.worker
    return [
        _sky(worker, case, noise_scale, k) for k in range(experiment.settings["outside"]["skies"])
    ]


def _sky(worker: WorkerContext, case: Case, noise_scale: float, number: int) -> SimulatedSky:
    sky = worker.sky(case.problem, noise_scale * case.noise, number, case.law)
    label = np.zeros_like(sky.label) if case.one_model else sky.label
    return replace(sky, sigma=sky.sigma / case.noise, label=label)


def _try_sky(
    worker: WorkerContext, case: Case, noise_scale: float, number: int
) -> tuple[Evaluation, np.ndarray]:
    """What the network says of a sky; and (3, n_pix) whether its model fits, and any, and how
    surely the misfit of its model would be seen in other noise.
    """
    models, sky = PROBLEMS[case.problem], _sky(worker, case, noise_scale, number)
    evaluation = evaluate(worker.recogniser("four_foreglow_conditioned"), sky, models)
    data, sigma = sky.vectors(worker.device)
    score = torch.from_numpy(evaluation.probability.T).to(data.device)
    p_value, none_fits = goodness_of_fit(models, worker.instrument, data, sigma, score)
    clean, _ = worker.sky(case.problem, 0.0, number, case.law).vectors(worker.device)
    power = np.zeros(len(data))
    for k, name in enumerate(models):
        mine = evaluation.predicted == k
        if not mine.any():
            continue
        excess, dof = chi2_as_trained(name, worker.instrument, clean[mine], sigma[mine])
        limit = chi2.isf(LEVEL, dof)
        power[mine] = ncx2.sf(limit, dof, excess.clamp_min(0).cpu().numpy())
    return evaluation, np.stack([(p_value < LEVEL).cpu(), none_fits.cpu(), power])
