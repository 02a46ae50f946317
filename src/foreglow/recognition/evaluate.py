"""Accuracy of a recogniser on skies whose models are known."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from foreglow.errors import ModelError
from foreglow.maps.regions import layout
from foreglow.recognition.model import Recogniser
from foreglow.recognition.skies import SimulatedSky, models_of, simulate_sky
from foreglow.sky.templates import load_templates

_BATCH = 65536


@dataclass(frozen=True)
class Evaluation:
    """What a recogniser said of a sky, beside the truth.

    Parameters
    ----------
    models : tuple of str
    probability : ndarray, float32, shape (n_class, n_pix)
    label : ndarray, int64, shape (n_pix,)
        The true class.
    """

    models: tuple[str, ...]
    probability: np.ndarray
    label: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class, shape (n_pix,)."""
        return self.probability.argmax(0)

    @property
    def accuracy(self) -> float:
        """Fraction of pixels whose most probable class is the true one."""
        return float(np.mean(self.predicted == self.label))

    @property
    def confusion(self) -> np.ndarray:
        """Counts, shape (true class, predicted class)."""
        n = len(self.models)
        return np.bincount(n * self.label + self.predicted, minlength=n * n).reshape(n, n)

    def records(self, **fields: Any) -> list[dict[str, Any]]:
        """Records of metrics.json: one over all pixels, one for each class.

        Parameters
        ----------
        **fields
            What the records say of problem, network, training, noise; `paper` goes to the
            record over all pixels alone.
        """
        overall = {
            **fields,
            "class": None,
            "n_pixels": len(self.label),
            "accuracy": self.accuracy,
            "paper": fields.get("paper"),
        }
        counts = self.confusion
        by_class = [
            {
                **fields,
                "class": name,
                "n_pixels": int(row.sum()),
                "accuracy": float(row[k] / row.sum()) if row.sum() else None,
                "paper": None,
            }
            for k, (name, row) in enumerate(zip(self.models, counts, strict=True))
        ]
        return [overall, *by_class]


def evaluate(
    model: Recogniser, sky: SimulatedSky, candidates: tuple[str, ...] | None = None
) -> Evaluation:
    """Recognise every pixel of a simulated sky.

    Parameters
    ----------
    model : Recogniser
    sky : SimulatedSky
    candidates : tuple of str, optional
        The models the sky is made of, in the order of its labels; by default `model.models`. Where
        they are fewer than the model knows, its probabilities are renormalised over them.

    Raises
    ------
    ModelError
        If a candidate is none of the model's.
    """
    candidates = candidates or model.models
    strangers = [name for name in candidates if name not in model.models]
    if strangers:
        raise ModelError(
            f"the sky holds {', '.join(strangers)}, but the model knows {', '.join(model.models)} "
            "only; test it on another problem."
        )
    keep = [model.models.index(name) for name in candidates]
    device = next(model.network.parameters()).device
    sigma = torch.from_numpy(sky.sigma).float().to(device)
    n_pix = len(sky.label)
    probability = np.empty((len(keep), n_pix), np.float32)
    for start in range(0, n_pix, _BATCH):
        block = np.ascontiguousarray(np.moveaxis(sky.data[:, :, start : start + _BATCH], 2, 0))
        data = torch.from_numpy(block).to(device)
        log_probability = model.log_probability(data, sigma.expand(len(data), -1))[:, keep]
        part = torch.softmax(log_probability, dim=1).T
        probability[:, start : start + _BATCH] = part.cpu().numpy()
    return Evaluation(candidates, probability, sky.label)


@dataclass(frozen=True)
class Accuracy:
    """Accuracy over several test skies.

    Parameters
    ----------
    noise_scale : float
        Factor on the instrument's noise.
    accuracy : float
    error : float
        Standard error of the mean over skies; of the binomial for one sky.
    n_pixels : int
    """

    noise_scale: float
    accuracy: float
    error: float
    n_pixels: int


def accuracy_on_skies(
    model: Recogniser,
    sky: str,
    problem: str | None,
    regions: str,
    nside: int,
    noise_scales: list[float],
    skies: int,
    seed: int,
) -> list[Accuracy]:
    """Test a model on fresh skies; the body of `foreglow recognize evaluate`.

    Parameters
    ----------
    problem : str, optional
        By default all models that `model` knows.
    """
    candidates = models_of(problem) if problem else model.models
    templates = load_templates(sky, nside)
    rows = []
    for noise_scale in noise_scales:
        tested = []
        for number in range(skies):
            rng = np.random.default_rng([seed, 8, number])
            label = layout(regions, nside, len(candidates), seed + number)
            made = simulate_sky(templates, model.instrument, candidates, label, noise_scale, rng)
            tested.append(evaluate(model, made, candidates))
        rows.append(summarise(tested, noise_scale))
    return rows


def summarise(tested: list[Evaluation], noise_scale: float) -> Accuracy:
    """Mean accuracy over skies of one size, and its standard error."""
    accuracy = np.array([e.accuracy for e in tested])
    n_pixels = sum(len(e.label) for e in tested)
    mean = float(accuracy.mean())
    if len(tested) > 1:
        error = float(accuracy.std(ddof=1) / np.sqrt(len(tested)))
    else:
        error = float(np.sqrt(mean * (1 - mean) / n_pixels))
    return Accuracy(noise_scale, mean, error, n_pixels)
