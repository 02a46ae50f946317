"""Training regimes of the recognition networks."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, Field
from scipy.special import softmax
from torch import Tensor, nn

from foreglow.compute.device import threads_for
from foreglow.compute.optimisers import adamw, muon
from foreglow.compute.precision import arithmetic
from foreglow.compute.processes import ALONE, Processes
from foreglow.compute.random import make_generator
from foreglow.compute.training import History, Schedule, Task, fit
from foreglow.plans import Count, NotNegative, Positive
from foreglow.recognition.models import REFERENCE_NSIDE
from foreglow.recognition.network.calibration import expected_calibration_error, fit_temperature
from foreglow.recognition.network.networks import ForeglowNetwork
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.recognition.simulation.systematics import (
    NO_SYSTEMATICS,
    Systematics,
    systematics_of,
)
from foreglow.recognition.simulation.vectors import NoiseLaw, Vectors, VectorSimulator
from foreglow.sky.templates import Templates

VALIDATION_FRACTION = 0.2
_STANDARDISATION_SAMPLE = 65536
_CALIBRATION_SAMPLE = 65536
# keys of generators; 0 and 1 are the trainer's
_FIXED_SET, _STANDARDISATION, _ORDER, _CALIBRATION = 2, 3, 4, 5

Regime = Literal["noiseless", "one_noise", "many_noise", "conditioned"]


@dataclass(frozen=True)
class TrainingPlan:
    """What vectors a network sees, and how many.

    Parameters
    ----------
    regime : str
        `noiseless`: no noise, templates as they are. `one_noise`: the same vectors with one
        realisation of the instrument's noise in pixels of the templates. `many_noise`: templates
        at Nside 16 with fresh noise at Nside 16. `conditioned`: noise drawn log-uniform over
        `noise_range` and scattered between bands, so that one model serves maps of any depth.
    epochs, steps, batch : int
        Of `steps` batches each epoch.
    fixed_set : bool
        Draw `steps * batch` vectors once and see them every epoch, with a further fifth of the
        whole held for validation, as the paper does; else every batch is fresh. The set is
        drawn again from its seeds, never stored.
    optimiser : str
        `adamw` and `muon` anneal the learning rate: it rises, then falls as a cosine to zero.
        `adadelta` keeps it, as the paper does. `muon` is preconditioned by the second moments of
        what the first layer sees; see `foreglow.compute.optimisers.MuonAndAdam`.
    learning_rate : float
        The highest. Of `muon` that of the hidden layers, ten times that of all else.
    noise_scale : float
        Factor on the instrument's noise, for `one_noise` and `many_noise`.
    noise_range : tuple of float
        For `conditioned`: lowest and highest factor on the instrument's noise at Nside 16.
    band_scatter : float
        For `conditioned`: rms of the natural log of a further factor on each band's noise.
    sample : int
        Most vectors that standardise features before, and fit the temperature after.
    precision : str
        Arithmetic of the layers in training; see `foreglow.compute.precision.arithmetic`.
    systematics : Systematics
        Errors of the instrument, drawn anew for every vector, that the network is to expect.
    ame_scatter : float
        Rms of what Q and of what U of the AME have beside its part along the dust, over that part;
        in a beam they are not quite parallel, for their ratio varies there. The paper's is 0.
    """

    regime: Regime = "conditioned"
    epochs: Count = 20
    steps: Count = 100
    batch: Annotated[int, Field(ge=2)] = 4096
    fixed_set: bool = False
    optimiser: Literal["adamw", "muon", "adadelta"] = "adamw"
    learning_rate: Positive = 2e-3
    noise_scale: NotNegative = 1.0
    noise_range: tuple[Positive, Positive] = (5e-4, 4.0)
    band_scatter: NotNegative = 0.2
    sample: Count = 65536
    precision: str = "tf32"
    systematics: Annotated[Systematics, BeforeValidator(systematics_of)] = NO_SYSTEMATICS
    ame_scatter: NotNegative = 0.0

    @classmethod
    def usual(cls, network: str) -> "TrainingPlan":
        """How a network is trained where nothing else is said: the paper's as in the paper."""
        if network == "farsian2020":
            return cls(fixed_set=True, optimiser="adadelta", learning_rate=1.0)
        return cls()

    @property
    def noise(self) -> NoiseLaw:
        """The law from which the noise of a vector is drawn."""
        if self.regime == "noiseless":
            return NoiseLaw.fixed(0.0)
        if self.regime == "conditioned":
            return NoiseLaw(*self.noise_range, self.band_scatter)
        return NoiseLaw.fixed(self.noise_scale)

    @property
    def validation_steps(self) -> int:
        """Batches of validation, a fifth of the whole for a fixed set."""
        held = round(self.steps * VALIDATION_FRACTION / (1 - VALIDATION_FRACTION))
        return max(1, held if self.fixed_set else min(held, 10))


def train(
    model: Recogniser,
    templates: Templates,
    plan: TrainingPlan,
    folder: Path,
    seed: int,
    device: torch.device,
    resume: bool = False,
    processes: Processes = ALONE,
) -> History:
    """Train a recogniser in place, going on from its weights; its temperature is fitted anew.

    Parameters
    ----------
    model : Recogniser
    templates : Templates
    plan : TrainingPlan
    folder : Path
        For checkpoints and logs.
    seed : int
    device : torch.device
    resume : bool
        Go on from the last checkpoint in `folder`, if there is one.
    processes : Processes
        Those that train together: each has the same model in the end.

    Returns
    -------
    dict of list
        `train_accuracy`, `train_loss`, `validation_accuracy`, `validation_loss`, a value an epoch.

    Raises
    ------
    RunError
        If a batch cannot be shared by the processes.
    """
    processes.validate_batch(plan.batch)
    simulator = make_simulator(model, templates, plan).to(device)
    network = model.network.to(device).train()
    generator = make_generator(device, seed, _STANDARDISATION)
    sample = simulator.draw(min(plan.sample, _STANDARDISATION_SAMPLE), plan.noise, generator)
    if isinstance(network, ForeglowNetwork):
        network.remember(templates)
        network.standardise(sample.data, sample.sigma)
    with torch.no_grad():
        inputs = network.inputs(sample.data, sample.sigma)
    task = _task(network, simulator, plan, seed, processes, inputs)
    schedule = Schedule(plan.epochs, plan.steps, plan.validation_steps)
    with threads_for(plan.batch // processes.size, device), arithmetic(plan.precision):
        history = fit(task, schedule, folder, seed, device, resume, processes)
    model.card["training"] = {"sky": templates.source, "seed": seed, **asdict(plan)}
    _calibrate(model, simulator, plan, seed)
    return history


def _calibrate(
    model: Recogniser, simulator: VectorSimulator, plan: TrainingPlan, seed: int
) -> None:
    """Fit the temperature on fresh vectors of the training law, and say in the card what it did."""
    device = simulator.sigma.device
    generator = make_generator(device, seed, _CALIBRATION)
    model.network.eval()
    # weights trained further are not as sure of themselves as those they started from
    model.temperature = 1.0
    model.card.pop("calibration", None)
    logits, labels = [], []
    size = min(plan.sample, _CALIBRATION_SAMPLE)
    for _ in range(-(-size // plan.batch)):
        vectors = simulator.draw(plan.batch, plan.noise, generator)
        logits.append(model.log_probability(vectors.data, vectors.sigma).double().T.cpu())
        labels.append(vectors.label.cpu())
    log_probability, label = torch.cat(logits, 1).numpy(), torch.cat(labels).numpy()
    if not np.isfinite(log_probability).all():  # the network diverged: no temperature helps
        return
    model.temperature = fit_temperature(log_probability, label)
    after = softmax(log_probability / model.temperature, axis=0)
    model.card["calibration"] = {
        "vectors": len(label),
        "error_before": expected_calibration_error(np.exp(log_probability), label),
        "error_after": expected_calibration_error(after, label),
    }


def make_simulator(model: Recogniser, templates: Templates, plan: TrainingPlan) -> VectorSimulator:
    """The simulator of a regime: which pixels, and the noise of which pixels."""
    if plan.regime == "many_noise":
        templates = templates.degraded(REFERENCE_NSIDE)
    noise_nside = templates.nside if plan.regime == "one_noise" else REFERENCE_NSIDE
    return VectorSimulator(
        templates, model.instrument, model.models, noise_nside, plan.systematics, plan.ame_scatter
    )


def _task(
    network: nn.Module,
    simulator: VectorSimulator,
    plan: TrainingPlan,
    seed: int,
    processes: Processes,
    inputs: Tensor,
) -> Task:
    device = simulator.sigma.device
    share = processes.share(plan.batch)

    def fixed_vectors(place: int) -> Vectors:
        generator = make_generator(device, seed, _FIXED_SET, place)
        return simulator.draw(plan.batch, plan.noise, generator)

    def training_vectors(step: int, generator: torch.Generator) -> Vectors:
        if not plan.fixed_set:
            return simulator.draw(plan.batch, plan.noise, generator)
        epoch, place = divmod(step, plan.steps)
        order = make_generator(torch.device("cpu"), seed, _ORDER, epoch)
        return fixed_vectors(int(torch.randperm(plan.steps, generator=order)[place]))

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        vectors = training_vectors(step, generator)[share]
        dropout = generator
        if processes.rank:  # else the shares would lose the same neurons
            dropout = make_generator(device, generator.initial_seed(), processes.rank)
        logits = network(vectors.data, vectors.sigma, dropout)
        return nn.functional.cross_entropy(logits, vectors.label), _accuracy(logits, vectors.label)

    def validate(index: int, generator: torch.Generator) -> dict[str, Tensor]:
        if plan.fixed_set:
            vectors = fixed_vectors(plan.steps + index)
        else:
            vectors = simulator.draw(plan.batch, plan.noise, generator)
        vectors = vectors[share]
        logits = network(vectors.data, vectors.sigma)
        value = nn.functional.cross_entropy(logits, vectors.label)
        return {"loss": value, **_accuracy(logits, vectors.label)}

    def optimiser(parameters: Any, total_steps: int) -> Any:
        if plan.optimiser == "muon":
            return muon(network, plan.learning_rate, total_steps, inputs)
        if plan.optimiser == "adamw":
            return adamw(parameters, plan.learning_rate, total_steps)
        # Keras's Adadelta: rho 0.95, epsilon 1e-7
        return torch.optim.Adadelta(parameters, lr=plan.learning_rate, rho=0.95, eps=1e-7)

    return Task(network, loss, validate, optimiser, clip=isinstance(network, ForeglowNetwork))


def _accuracy(logits: Tensor, label: Tensor) -> dict[str, Tensor]:
    return {"accuracy": (logits.argmax(1) == label).float().mean()}
