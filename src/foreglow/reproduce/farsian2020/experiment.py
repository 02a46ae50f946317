"""What every step of the reproduction shares: the sky, trained models, test skies, recording."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from foreglow.compute.training import History
from foreglow.compute.workers import MapFn
from foreglow.recognition.evaluation.evaluate import Evaluation, evaluate
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network.calibration import expected_calibration_error
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.recognition.network.train import Regime, TrainingPlan, train
from foreglow.recognition.simulation.law import PAPER_LAW, SkyLaw
from foreglow.recognition.simulation.skies import SimulatedSky
from foreglow.report.recognition import figures
from foreglow.reproduce.farsian2020.worker import REGIONS, WorkerContext
from foreglow.runs import Run
from foreglow.sky.instrument import Instrument
from foreglow.sky.templates import Templates

__all__ = ["REGIONS", "Captions", "Experiment", "joined"]

log = logging.getLogger("foreglow")

Captions = dict[str, dict[str, str]]
"""Title, caption and section of figures, by file name."""


@dataclass(frozen=True)
class Experiment:
    """An open run with all that its steps need.

    Parameters
    ----------
    run : Run
    settings : dict
        The preset at a scale.
    templates : Templates
        At the Nside of training.
    instrument : Instrument
    seed : int
    device : torch.device
    resume : bool
        Go on with a training that was interrupted.
    map_fn : MapFn
        Where realisations are made and judged, see `foreglow.compute.workers.open_workers`.
    """

    run: Run
    settings: dict[str, Any]
    templates: Templates
    instrument: Instrument
    seed: int
    device: torch.device
    resume: bool
    map_fn: MapFn = map

    @property
    def worker(self) -> WorkerContext:
        """What pieces of work need of the experiment."""
        return WorkerContext(
            self.templates.degraded(self.settings["test_nside"]),
            self.instrument,
            self.seed,
            str(self.device),
            self.run.models,
        )

    def plan(self, network: str, regime: Regime, problem: str, **changes: Any) -> TrainingPlan:
        """The preset's plan, that of the problem before that of the network."""
        table = self.settings[network]
        values = table.get(problem, {}).get(regime) or table[regime]
        return TrainingPlan(regime=regime, **values, **changes)

    def trained(
        self, problem: str, network: str, regime: Regime, **changes: Any
    ) -> tuple[Recogniser, History]:
        """Train, or load what this run has trained; later regimes go on from noiseless.

        `network` names a table of the preset, whose `network` is the architecture where the
        table's name is none, whose `shipped` models, by regime, need no training, and whose `anew`
        says that all regimes start from new weights.
        """
        name = "_".join([problem, network, regime, *(f"{v:g}" for v in changes.values())])
        folder = self.run.models / name
        if (folder / "model.toml").is_file():  # by an earlier step, or before an interruption
            model = Recogniser.load(folder, self.device)
            if self.resume:
                log.info("%s: trained already", name)
            return model, model.card["history"]
        if (given := self.settings[network].get("shipped", {}).get(regime)) and not changes:
            model = Recogniser.load(given.replace("PROBLEM", problem), self.device)
            log.info("%s: shipped, trained on the mock Galaxy", name)
            model.save(folder)
            return model, model.card["history"]
        plan = self.plan(network, regime, problem, **changes)
        before, table = self.run.models / f"{problem}_{network}_noiseless", self.settings[network]
        if regime in ("one_noise", "many_noise") and not (changes or table.get("anew")):
            model = Recogniser.load(before, self.device)
        else:
            kind = table.get("network", network)
            model = Recogniser.untrained(kind, self.instrument, PROBLEMS[problem], self.seed)
        with self.run.stage(f"train {name}"):
            history = train(
                model, self.templates, plan, self.run.folder / "training" / name, self.seed,
                self.device, self.resume,
            )  # fmt: skip
        model.card["history"] = history
        model.save(folder)
        return model, history

    def skies(
        self,
        problem: str,
        noise_scale: float,
        law: SkyLaw = PAPER_LAW,
        number: int | None = None,
    ) -> list[SimulatedSky]:
        """Test skies of a problem, the same for every network, regime and criterion.

        Parameters
        ----------
        problem : str
        noise_scale : float
            Factor on the instrument's noise.
        law : SkyLaw
        number : int, optional
            Of skies; by default the preset's `test_skies`.
        """
        worker = self.worker
        count = self.settings["test_skies"] if number is None else number
        return [worker.sky(problem, noise_scale, k, law) for k in range(count)]

    def test(self, model: Recogniser, problem: str, noise_scale: float) -> list[Evaluation]:
        """Recognise the test skies of a problem."""
        return [evaluate(model, s, PROBLEMS[problem]) for s in self.skies(problem, noise_scale)]

    def record(
        self, evaluations: list[Evaluation], noise_scale: float, **fields: Any
    ) -> Evaluation:
        """Record the accuracy over skies together, all classes and each, and its calibration.

        Parameters
        ----------
        evaluations : list of Evaluation
        noise_scale : float
        **fields
            `problem`, `network`, `training`, `paper`; and `method`, `context`, `set` where they
            are not `network`, `pixel`, `test`.

        Returns
        -------
        Evaluation
            Of all skies.
        """
        together = joined(evaluations)
        records = together.records(
            **{"context": "pixel", "method": "network", "set": "test", **fields},
            noise="table1" if noise_scale else "none",
            noise_scale=noise_scale,
            nside=self.settings["test_nside"],
        )
        records[0]["ece"] = expected_calibration_error(together.probability, together.label)
        self.run.records += records
        by = (fields.get(key) for key in ("problem", "method", "network", "training"))
        log.info(
            "%s, test at noise scale %g: accuracy %.4f (paper %s)",
            ", ".join(filter(None, by)), noise_scale, together.accuracy, fields.get("paper"),
        )  # fmt: skip
        return together

    def draw(self, figure: Figure, name: str, section: str, title: str, caption: str) -> Captions:
        """Save a figure; returns its caption."""
        figures.save(figure, self.run.figures, name, self.settings.get("pdf_fonts", 42))
        return {name: {"title": title, "caption": caption, "section": section}}


def joined(evaluations: list[Evaluation]) -> Evaluation:
    """Several skies as one."""
    return Evaluation(
        evaluations[0].models,
        np.concatenate([e.probability for e in evaluations], axis=1),
        np.concatenate([e.label for e in evaluations]),
    )
