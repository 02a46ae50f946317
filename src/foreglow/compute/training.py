"""The one trainer, shared by both jobs: Lightning, with checkpoints to go on from."""

import csv
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from foreglow.extras import require

require("train")

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from torch import Tensor, nn
from torch.utils.data import DataLoader

from foreglow.compute.checkpoints import PlainCheckpoints
from foreglow.compute.processes import ALONE, Processes, trainer_options
from foreglow.compute.random import make_generator
from foreglow.files import new_file

log = logging.getLogger("foreglow")

History = dict[str, list[float]]


@dataclass(frozen=True)
class Schedule:
    """How long to train.

    Parameters
    ----------
    epochs : int
    steps : int
        Steps an epoch.
    validation_steps : int
        Batches of the validation after each epoch.
    """

    epochs: int
    steps: int
    validation_steps: int


@dataclass(frozen=True)
class Task:
    """What is trained: batches and losses are functions of the step alone, so a run can resume.

    Of several processes, each draws the whole batch and keeps its share (`Processes.share`): on
    the CPU drawing is 1 to 3 percent of a step, and so any number of processes, resumed by another
    number, sees the same batches.

    Parameters
    ----------
    network : Module
    loss : callable
        `loss(step, generator)` -> (loss, metrics) of the training batch of a global step, means
        over the share of this process; every random draw of the step comes from the generator.
    validate : callable
        `validate(index, generator)` -> metrics of a validation batch, or of the share of this
        process; the same every epoch.
    optimiser : callable
        `optimiser(parameters, total_steps)` -> what Lightning's `configure_optimizers` returns.
    best : str
        The metric of the best checkpoint; larger is better.
    clip : bool
        Clip the norm of the gradient at 1.
    """

    network: nn.Module
    loss: Callable[[int, torch.Generator], tuple[Tensor, dict[str, Tensor]]]
    validate: Callable[[int, torch.Generator], dict[str, Tensor]]
    optimiser: Callable[[Any, int], Any]
    best: str = "accuracy"
    clip: bool = False


def fit(
    task: Task,
    schedule: Schedule,
    folder: Path,
    seed: int,
    device: torch.device,
    resume: bool,
    processes: Processes = ALONE,
) -> History:
    """Train, and leave the network with the weights of its last epoch.

    Writes `last.ckpt`, `best.ckpt` (safetensors, no pickle) and `metrics.csv` into `folder`.
    Resumed from `last.ckpt`, a run ends as if it had not been interrupted.

    Parameters
    ----------
    task : Task
    schedule : Schedule
    folder : Path
        Of this training alone.
    seed : int
    device : torch.device
    resume : bool
        Continue from `last.ckpt` where there is one.
    processes : Processes
        Those that train together, as `foreglow.compute.processes.join` yields them. Their
        gradients and metrics are averaged; the first one writes.

    Returns
    -------
    dict of list
        A value an epoch of every metric: `train_accuracy`, `validation_accuracy`, ...
    """
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / "last.ckpt"
    module = _Module(task, schedule, seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
        warnings.filterwarnings("ignore", message=".*do not match bucket view strides.*")
        trainer = _trainer(task, schedule, folder, device, processes)
        steps = DataLoader(range(schedule.steps), batch_size=None)  # pyright: ignore[reportArgumentType]
        checks = DataLoader(range(schedule.validation_steps), batch_size=None)  # pyright: ignore[reportArgumentType]
        try:
            trainer.fit(
                module, steps, checks, ckpt_path=last if resume and last.is_file() else None
            )
        except SystemExit:
            if trainer.interrupted:  # by Ctrl+C: Lightning ends the program
                raise KeyboardInterrupt from None
            raise
    task.network.to(device).eval()
    return module.history


def load_best(network: nn.Module, folder: Path) -> None:
    """Give a network that was trained the weights of its best epoch, by `Task.best`.

    Parameters
    ----------
    network : Module
    folder : Path
        Of `fit`.
    """
    state = PlainCheckpoints().load_checkpoint(folder / "best.ckpt")["state_dict"]
    network.load_state_dict({name.removeprefix("network."): v for name, v in state.items()})


class _Module(L.LightningModule):
    def __init__(self, task: Task, schedule: Schedule, seed: int):
        super().__init__()
        self.network = task.network
        self.task, self.schedule, self.seed = task, schedule, seed
        self.history: History = {}
        self._sums: dict[str, Tensor] = {}

    def training_step(self, _: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        generator = make_generator(self.device, self.seed, 0, self.global_step)
        loss, metrics = self.task.loss(self.global_step, generator)
        self._add("train", {"loss": loss.detach(), **metrics})
        return loss

    def validation_step(self, index: int) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        generator = make_generator(self.device, self.seed, 1, index)
        metrics = self.task.validate(index, generator)
        self._add("validation", metrics)

    def on_train_epoch_start(self) -> None:
        self._sums = {}

    def on_validation_epoch_end(self) -> None:
        n = {"train": self.schedule.steps, "validation": self.schedule.validation_steps}
        # divided last, and in float64: the mean of ones is one
        means = [total / n[key.partition("_")[0]] for key, total in self._sums.items()]
        mean = self.trainer.strategy.reduce(torch.stack(means))
        values = dict(zip(self._sums, mean.tolist(), strict=True))
        for key, value in values.items():
            self.history.setdefault(key, []).append(value)
        self.log_dict(values, prog_bar=True)

    def _add(self, stage: str, metrics: dict[str, Tensor]) -> None:
        for name, value in metrics.items():
            key = f"{stage}_{name}"
            self._sums[key] = self._sums.get(key, 0.0) + value.detach().double()

    def configure_optimizers(self) -> Any:
        return self.task.optimiser(
            self.network.parameters(), self.schedule.epochs * self.schedule.steps
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]


def _trainer(
    task: Task, schedule: Schedule, folder: Path, device: torch.device, processes: Processes
) -> L.Trainer:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    best = ModelCheckpoint(
        folder, "best", monitor=f"validation_{task.best}", mode="max", enable_version_counter=False
    )
    last = ModelCheckpoint(folder, "last", enable_version_counter=False)
    on_terminal = _is_terminal()
    progress: list[Callback] = [RichProgressBar(leave=False)] if on_terminal else [_LogLines()]
    return L.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        **trainer_options(processes, device),
        max_epochs=schedule.epochs,
        gradient_clip_val=1.0 if task.clip else None,
        plugins=[PlainCheckpoints()],
        callbacks=[best, last, _MetricsTable(folder / "metrics.csv"), *progress],
        logger=False,
        enable_progress_bar=on_terminal,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def _is_terminal() -> bool:
    from rich.console import Console

    return Console().is_terminal


class _MetricsTable(Callback):
    """A line an epoch, those before an interruption too, as Lightning's own would not."""

    def __init__(self, path: Path):
        self.path = path

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero or not isinstance(pl_module, _Module):
            return
        history = pl_module.history
        rows = enumerate(zip(*history.values(), strict=True), 1)
        with new_file(self.path) as temporary, temporary.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["epoch", *history])
            table.writerows([epoch, *values] for epoch, values in rows)


class _LogLines(Callback):
    """A line an epoch, where there is no terminal for a progress bar."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        values = {k: float(v) for k, v in trainer.callback_metrics.items()}
        text = ", ".join(f"{k} {v:.4f}" for k, v in values.items())
        log.info("epoch %d/%s: %s", trainer.current_epoch + 1, trainer.max_epochs, text)
