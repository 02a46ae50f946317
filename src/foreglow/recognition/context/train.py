"""Training of the spatial context on layouts composed from an ensemble of classified skies."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foreglow.compute.optimisers import muon
from foreglow.compute.random import make_generator
from foreglow.compute.training import History, Schedule, Task, fit
from foreglow.maps.faces import face_order
from foreglow.plans import Count, Positive
from foreglow.recognition.context.layouts import LayoutLaw
from foreglow.recognition.context.model import ContextModel
from foreglow.recognition.models import REFERENCE_NSIDE
from foreglow.recognition.network.calibration import fit_temperature
from foreglow.recognition.network.recogniser import Recogniser, pixel_log_probability
from foreglow.recognition.simulation.skies import simulate_sky
from foreglow.sky.templates import Templates

_GOLDEN = 0.618033988749895
_HELD = 0.15  # of the ensemble, for validation
_VALIDATION_STEPS = 12  # a batch has one choice of models: many, so that all are there
_TEMPERATURE_BATCHES = 48
_TEMPERATURE = 11  # key of its generator


@dataclass(frozen=True)
class ContextPlan:
    """How much a context sees.

    Parameters
    ----------
    epochs, steps, batch : int
        Of `steps` batches of `batch` skies each epoch, every layout fresh.
    learning_rate : float
        Of the matrices, by Muon; a tenth of it that of all other weights, by Adam.
    """

    epochs: Count = 14
    steps: Count = 75
    batch: Count = 12
    learning_rate: Positive = 2e-2


@dataclass(frozen=True)
class Ensemble:
    """What a recogniser says of every pixel, were each of its models the true one.

    Parameters
    ----------
    log_probability : Tensor, shape (realisation, true model, n_class, n_pix)
        Face order, Nside 16. The skies of a realisation share CMB, beta_s and noise, so that any
        layout can be put together from them.
    made : dict
        How it was made, for the card of a context.
    """

    log_probability: Tensor
    made: dict[str, Any]


def train(
    context: ContextModel,
    ensemble: Ensemble,
    plan: ContextPlan,
    folder: Path,
    seed: int,
    device: torch.device,
    resume: bool = False,
) -> History:
    """Train a context in place on what a recogniser says of simulated skies.

    Parameters
    ----------
    context : ContextModel
    ensemble : Ensemble
        Its models, and every choice of two or more of them, are the classes. A part is held back
        for validation and the temperature.
    plan : ContextPlan
    folder : Path
        For checkpoints and logs.
    seed : int
    device : torch.device
    resume : bool

    Returns
    -------
    dict of list
        As `training.fit`.
    """
    said = ensemble.log_probability.to(device)
    held = max(1, round(_HELD * len(said)))
    law = LayoutLaw(REFERENCE_NSIDE, device)
    network = context.network.to(device).train()

    def score(part: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        x, observed, label = compose(part, law, plan.batch, generator)
        logits = network(x, observed).movedim(1, 2)[observed]
        truth = label[observed]
        value = nn.functional.cross_entropy(logits, truth)
        return value, {"accuracy": (logits.argmax(1) == truth).float().mean()}

    def loss(_step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return score(said[held:], generator)

    def validate(_index: int, generator: torch.Generator) -> dict[str, Tensor]:
        value, metrics = score(said[:held], generator)
        return {"loss": value, **metrics}

    def optimiser(_parameters: Any, total_steps: int) -> Any:
        return muon(network, plan.learning_rate, total_steps)

    task = Task(network, loss, validate, optimiser, clip=True)
    schedule = Schedule(plan.epochs, plan.steps, _VALIDATION_STEPS)
    history = fit(task, schedule, folder, seed, device, resume)
    context.temperature = _temperature(network, said[:held], law, plan.batch, seed)
    context.card["training"] = {"seed": seed, **asdict(plan), **ensemble.made}
    return history


def pixel_ensemble(
    recogniser: Recogniser,
    templates: Templates,
    seed: int,
    realisations: int = 256,
    noise_range: tuple[float, float] = (0.3, 2.0),
) -> Ensemble:
    """Classify skies that hold one model everywhere, for each model of a recogniser.

    Parameters
    ----------
    recogniser : Recogniser
    templates : Templates
    seed : int
    realisations : int
    noise_range : tuple of float
        Lowest and highest factor on the instrument's noise, log-uniform over realisations.
    """
    made = {
        "sky": templates.source, "recogniser": recogniser.card.get("training"),
        "realisations": realisations, "noise_range": list(noise_range),
    }  # fmt: skip
    templates = templates.degraded(REFERENCE_NSIDE)
    order = face_order(REFERENCE_NSIDE)
    n_class = len(recogniser.models)
    low, high = np.log(noise_range)
    result = torch.empty(realisations, n_class, n_class, len(order))
    for number in range(realisations):
        # spread evenly, so that every part of the ensemble holds every noise
        noise_scale = float(np.exp(low + (high - low) * (number * _GOLDEN % 1)))
        for true in range(n_class):
            rng = np.random.default_rng([seed, 9, number])
            label = np.full(len(order), true)
            sky = simulate_sky(
                templates, recogniser.instrument, recogniser.models, label, noise_scale, rng
            )
            said = pixel_log_probability(recogniser, sky.data, sky.sigma)
            result[number, true] = said[:, order]
    return Ensemble(result, made)


def compose(
    ensemble: Tensor, law: LayoutLaw, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Skies of random layouts from an ensemble, with some of its models as candidates.

    Returns
    -------
    log_probability : Tensor, shape (n, n_class, n_pix)
    observed : Tensor, bool, shape (n, n_pix)
    label : Tensor, int64, shape (n, n_pix)
    """
    device = ensemble.device
    n_model = ensemble.shape[1]
    # every second batch tells two models apart, the hardest case among them
    most = n_model if torch.rand((), generator=generator, device=device) < 0.5 else 2
    n_class = int(torch.randint(2, most + 1, (), generator=generator, device=device))
    candidate = torch.randperm(n_model, generator=generator, device=device)[:n_class]
    number = torch.randint(len(ensemble), (n,), generator=generator, device=device)
    label = law.layouts(n, n_class, generator)
    chosen = ensemble[number][:, candidate][:, :, candidate]  # (n, true, class, pixel)
    place = label[:, None, None].expand(-1, 1, n_class, -1)
    said = torch.log_softmax(chosen.gather(1, place)[:, 0], 1)
    return said, law.footprints(n, generator), label


@torch.inference_mode()
def _temperature(
    network: nn.Module, ensemble: Tensor, law: LayoutLaw, batch: int, seed: int
) -> float:
    """Temperature that fits skies held back from training, two classes and more together."""
    generator = make_generator(ensemble.device, seed, _TEMPERATURE)
    most = ensemble.shape[1]
    logits, labels = [], []
    for _ in range(_TEMPERATURE_BATCHES):
        x, observed, label = compose(ensemble, law, batch, generator)
        said = network(x, observed)
        # classes that are no candidates, out of reach
        said = nn.functional.pad(said, (0, 0, 0, most - said.shape[1]), value=-1e4)
        logits.append(said.movedim(1, 2)[observed])
        labels.append(label[observed])
    together = torch.cat(logits).T.cpu().numpy()
    return fit_temperature(together, torch.cat(labels).cpu().numpy())
