"""Accuracy of a recogniser on skies whose models are known."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from foreglow.errors import ModelError
from foreglow.maps import healpix as hp
from foreglow.maps.blocks import PixelBlock
from foreglow.maps.regions import layout
from foreglow.recognition.context.model import ContextModel, validate_nside
from foreglow.recognition.fits.choice import MODEL, Choice, choose
from foreglow.recognition.fits.skymodel import candidate
from foreglow.recognition.models import models_of
from foreglow.recognition.network.recogniser import Recogniser, pixel_log_probability
from foreglow.recognition.observation.patches import Patches
from foreglow.recognition.simulation.skies import SimulatedSky, simulate_sky
from foreglow.sky.instrument import Instrument
from foreglow.sky.templates import load_templates


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

    def with_neighbours(self, context: ContextModel) -> "Evaluation":
        """The same sky when the neighbours of a pixel have their say."""
        return replace(self, probability=context.refine(self.probability))

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
    model: Recogniser,
    sky: SimulatedSky,
    candidates: tuple[str, ...] | None = None,
    context: ContextModel | None = None,
) -> Evaluation:
    """Recognise every pixel of a simulated sky.

    Parameters
    ----------
    model : Recogniser
    sky : SimulatedSky
    candidates : tuple of str, optional
        The models the sky is made of, in the order of its labels; by default `model.models`. Where
        they are fewer than the model knows, its probabilities are renormalised over them.
    context : ContextModel, optional
        Let the neighbours of a pixel have their say.

    Raises
    ------
    ModelError
        If a candidate is none of the model's.
    """
    candidates = candidates or model.models
    unknown = [name for name in candidates if name not in model.models]
    if unknown:
        raise ModelError(
            f"the sky holds {', '.join(unknown)}, but the model knows {', '.join(model.models)} "
            "only; test it on another problem."
        )
    keep = [model.models.index(name) for name in candidates]
    said = torch.log_softmax(pixel_log_probability(model, sky.data, sky.sigma)[keep], dim=0)
    alone = Evaluation(candidates, said.exp().cpu().numpy(), sky.label)
    return alone if context is None else alone.with_neighbours(context)


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
    models: str | None,
    regions: str,
    nside: int,
    noise_scales: list[float],
    skies: int,
    seed: int,
    context: ContextModel | None = None,
) -> list[Accuracy]:
    """Test a model on fresh skies; the body of `foreglow recognize evaluate`.

    Parameters
    ----------
    models : str, optional
        By default all models that `model` knows.
    context : ContextModel, optional
    """
    if context is not None:
        validate_nside(nside)
    candidates = models_of(models) if models else model.models
    templates = load_templates(sky, nside)
    rows = []
    for noise_scale in noise_scales:
        tested = []
        for number in range(skies):
            rng = np.random.default_rng([seed, 8, number])
            label = layout(regions, nside, len(candidates), seed + number)
            made = simulate_sky(templates, model.instrument, candidates, label, noise_scale, rng)
            tested.append(evaluate(model, made, candidates, context))
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


def choose_on_sky(
    sky: SimulatedSky,
    instrument: Instrument,
    models: tuple[str, ...],
    curvature: float | None = None,
    device: torch.device | str = "cpu",
    patch_nside: int | None = None,
) -> Choice:
    """Fit every model to every pixel of a simulated sky; see `choose`.

    Parameters
    ----------
    sky : SimulatedSky
        With noise.
    instrument : Instrument
    models : tuple of str
    curvature : float, optional
        C of the curved models; by default it is free.
    device : torch.device or str
    patch_nside : int, optional
        One model, and one C where it is free, in each pixel of this Nside; beta_s is each pixel's
        own, as in the training law.
    """
    data, sigma = sky.vectors(device)
    if patch_nside is None:
        return choose(models, instrument.bands, data, sigma, curvature)
    free = {name for model in models for name in candidate(model, curvature).free}
    of = {name: patch_nside for name in (MODEL, "curvature") if name in {MODEL, *free}}
    sky_block = PixelBlock(hp.npix2nside(len(data)), "RING", 0, len(data))
    patches = Patches(of).labels(sorted(free), sky_block, np.arange(len(data)), data.device)
    return choose(models, instrument.bands, data, sigma, curvature, patches)
