"""What pieces of work need of the experiment: small things, and where the models lie."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from foreglow.maps.regions import layout
from foreglow.recognition.context.model import ContextModel
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.recognition.simulation.law import PAPER_LAW, SkyLaw
from foreglow.recognition.simulation.skies import SimulatedSky, simulate_sky
from foreglow.sky.instrument import Instrument
from foreglow.sky.templates import Templates

REGIONS = {"curvature": "halves", "ame": "halves", "four": "quadrants"}
"""Layout of the models on the test skies, by problem."""


@dataclass(frozen=True, eq=False)
class WorkerContext:
    """Where a realisation is made and judged, in any process that sees the run directory.

    Parameters
    ----------
    templates : Templates
        At the Nside of the test skies.
    instrument : Instrument
    seed : int
        Each realisation has a generator of its own, by seed and number.
    device : str
    models : Path
        Folder of the trained models.
    """

    templates: Templates
    instrument: Instrument
    seed: int
    device: str
    models: Path

    def sky(
        self, problem: str, noise_scale: float, number: int, law: SkyLaw = PAPER_LAW
    ) -> SimulatedSky:
        """A test sky of a problem, the same for every network, regime and criterion."""
        models = PROBLEMS[problem]
        label = layout(REGIONS[problem], self.templates.nside, len(models))
        # regions change places, so that every model is tested on every part of the sky
        turned = (label + number) % len(models)
        rng = np.random.default_rng([self.seed, 5, number])
        return simulate_sky(self.templates, self.instrument, models, turned, noise_scale, rng, law)

    def recogniser(self, name: str) -> Recogniser:
        """A trained model, loaded once in each process."""
        return _recogniser(*self._stamped(name), self.device)

    def context(self, name: str) -> ContextModel:
        """A trained context, loaded once in each process."""
        return _context(*self._stamped(name), self.device)

    def _stamped(self, name: str) -> tuple[Path, int]:
        """The folder of a model, and when it was written: another of its name is loaded anew."""
        folder = self.models / name
        return folder, (folder / "weights.safetensors").stat().st_mtime_ns


@lru_cache(maxsize=8)
def _recogniser(folder: Path, _written: int, device: str) -> Recogniser:
    return Recogniser.load(folder, torch.device(device))


@lru_cache(maxsize=8)
def _context(folder: Path, _written: int, device: str) -> ContextModel:
    return ContextModel.load(folder, torch.device(device))
