"""Training of the spatial context on layouts composed from an ensemble of classified skies."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from foreglow.compute.optimisers import muon
from foreglow.compute.processes import ALONE, Processes, gather_shares
from foreglow.compute.random import make_generator
from foreglow.compute.training import History, Schedule, Task, fit
from foreglow.maps.faces import face_order
from foreglow.plans import Count, Positive
from foreglow.recognition.context.layouts import LayoutLaw
from foreglow.recognition.context.model import ContextModel
from foreglow.recognition.models import REFERENCE_NSIDE
from foreglow.recognition.network.calibration import fit_temperature
from foreglow.recognition.network.recogniser import Recogniser, pixel_log_probability
from foreglow.recognition.simulation.law import SkyLaw
from foreglow.recognition.simulation.skies import simulate_sky
from foreglow.recognition.simulation.systematics import systematics_of
from foreglow.sky.templates import Templates

_REALISATIONS = 256  # at Nside 16; at a finer one fewer, of as many pixels in all
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
    nside : int
        Of the skies: patches are of so many degrees at any, noise is that of the instrument in
        such pixels.
    """

    epochs: Count = 14
    steps: Count = 75
    batch: Count = 12
    learning_rate: Positive = 2e-2
    nside: Literal[16, 32, 64] = REFERENCE_NSIDE


@dataclass(frozen=True)
class Ensemble:
    """What a recogniser says of every pixel, were each of its models the true one.

    Parameters
    ----------
    log_probability : Tensor, shape (realisation, true model, n_class, n_pix)
        Face order. The skies of a realisation share CMB, beta_s and noise, so that any
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
    processes: Processes = ALONE,
) -> History:
    """Train a context in place on what a recogniser says of simulated skies.

    Parameters
    ----------
    context : ContextModel
    ensemble : Ensemble
        Its models, and every choice of two or more of them, are the classes. A part is held back
        for validation and the temperature.
    plan : ContextPlan
        Its Nside is that of the ensemble.
    folder : Path
        For checkpoints and logs.
    seed : int
    device : torch.device
    resume : bool
    processes : Processes
        Those that train together, each on its share of the skies of a batch.

    Returns
    -------
    dict of list
        As `training.fit`.

    Raises
    ------
    RunError
        If a batch cannot be shared by the processes.
    """
    processes.validate_batch(plan.batch)
    share = processes.share(plan.batch)
    said = ensemble.log_probability.to(device)
    held = max(1, round(_HELD * len(said)))
    law = LayoutLaw(plan.nside, device)
    network = context.network.to(device).train()

    def score(part: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        x, observed, label = compose(part, law, plan.batch, generator)
        n_mean = observed.sum() / processes.size  # pixels of a share, were they as many in each
        observed = observed[share]
        logits = network(x[share], observed).movedim(1, 2)[observed]
        truth = label[share][observed]
        value = nn.functional.cross_entropy(logits, truth, reduction="sum") / n_mean
        return value, {"accuracy": (logits.argmax(1) == truth).sum() / n_mean}

    def loss(_step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return score(said[held:], generator)

    def validate(_index: int, generator: torch.Generator) -> dict[str, Tensor]:
        value, metrics = score(said[:held], generator)
        return {"loss": value, **metrics}

    def optimiser(_parameters: Any, total_steps: int) -> Any:
        return muon(network, plan.learning_rate, total_steps)

    task = Task(network, loss, validate, optimiser, clip=True)
    schedule = Schedule(plan.epochs, plan.steps, _VALIDATION_STEPS)
    history = fit(task, schedule, folder, seed, device, resume, processes)
    context.temperature = _temperature(network, said[:held], law, plan.batch, seed)
    context.card["training"] = {"seed": seed, **asdict(plan), **ensemble.made}
    return history


def pixel_ensemble(
    recogniser: Recogniser,
    templates: Templates,
    seed: int,
    realisations: int | None = None,
    noise_range: tuple[float, float] = (0.3, 2.0),
    nside: int = REFERENCE_NSIDE,
    processes: Processes = ALONE,
) -> Ensemble:
    """Classify skies that hold one model everywhere, for each model of a recogniser.

    Their instrument errs, and their AME lies beside the direction of the dust, as much as where the
    recogniser was trained.

    Parameters
    ----------
    recogniser : Recogniser
    templates : Templates
    seed : int
    realisations : int, optional
        By default 256 at Nside 16, and as many pixels in all at another.
    noise_range : tuple of float
        Lowest and highest factor on the instrument's noise in such pixels, log-uniform over
        realisations.
    nside : int
    processes : Processes
        Each makes its share of the realisations.
    """
    realisations = realisations or _REALISATIONS * REFERENCE_NSIDE**2 // nside**2
    training = recogniser.card.get("training") or {}
    law = SkyLaw(
        ame_scatter=training.get("ame_scatter", 0.0),
        systematics=systematics_of(training.get("systematics")),
    )
    made = {
        "sky": templates.source, "recogniser": training,
        "realisations": realisations, "noise_range": list(noise_range),
    }  # fmt: skip
    templates = templates.degraded(nside)
    order = face_order(nside)
    n_class = len(recogniser.models)
    low, high = np.log(noise_range)
    mine = range(realisations)[processes.share(realisations)]
    result = torch.empty(len(mine), n_class, n_class, len(order))
    for place, number in enumerate(mine):
        # spread evenly, so that every part of the ensemble holds every noise
        noise_scale = float(np.exp(low + (high - low) * (number * _GOLDEN % 1)))
        for true in range(n_class):
            rng = np.random.default_rng([seed, 9, number])
            label = np.full(len(order), true)
            sky = simulate_sky(
                templates, recogniser.instrument, recogniser.models, label, noise_scale, rng, law
            )
            said = pixel_log_probability(recogniser, sky.data, sky.sigma)
            result[place, true] = said[:, order]
    device = next(recogniser.network.parameters()).device
    return Ensemble(gather_shares(processes, result.to(device), realisations), made)


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
