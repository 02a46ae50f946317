"""The one trainer: Lightning, checkpoints without pickle, seeds, devices; shared by both jobs."""

import contextlib
import csv
import json
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import CheckpointIO
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from foreglow.errors import RunError
from foreglow.processes import ALONE, Processes, trainer_options

log = logging.getLogger("foreglow")

_SMALL_BATCH = 1024  # measured: at 256, two threads took twice the time of one
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


def pick_device(name: str) -> torch.device:
    """`auto`, `cpu` or `cuda` as a device that exists.

    Raises
    ------
    RunError
        If the name is unknown, or CUDA is asked for and absent.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise RunError(f"expected device auto, cpu or cuda, but {name!r} came.")
    if name == "cuda" and not torch.cuda.is_available():
        raise RunError(
            "device cuda was asked for, but PyTorch sees no CUDA device here; use --device cpu, or "
            "install a CUDA build of PyTorch and check nvidia-smi."
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def make_generator(device: torch.device, seed: int, *key: int) -> torch.Generator:
    """An independent generator for each key, derived from the seed of the run."""
    state = np.random.SeedSequence([seed, *key]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state) & (2**63 - 1))


def adamw(parameters: Any, learning_rate: float, total_steps: int) -> dict[str, Any]:
    """AdamW; the learning rate rises over a tenth of the steps, then falls as a cosine."""
    optimiser = torch.optim.AdamW(
        parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=1e-3
    )
    rise = max(1.0, 0.1 * total_steps)

    def factor(step: int) -> float:
        fall = 0.5 * (1 + math.cos(math.pi * min(step / total_steps, 1.0)))
        return min((step + 1) / rise, 1.0) * fall

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@contextlib.contextmanager
def threads_for(batch: int, device: torch.device) -> Iterator[None]:
    """One thread for steps too small to share: waking the others costs more than they give."""
    before = torch.get_num_threads()
    if device.type == "cpu" and batch < _SMALL_BATCH:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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

    Writes `last.ckpt` and `best.ckpt` (directories without pickle), `metrics.csv` and TensorBoard
    logs into `folder`. Resumed from `last.ckpt`, a run ends as if it had not been interrupted.

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
        Those that train together, as `foreglow.processes.join` yields them. Their gradients and
        metrics are averaged; the first one writes.

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
            trainer.fit(module, steps, checks, ckpt_path=last if resume and last.is_dir() else None)
        except SystemExit:
            if trainer.interrupted:  # by Ctrl+C: Lightning ends the program
                raise KeyboardInterrupt from None
            raise
    task.network.to(device).eval()
    return module.history


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
        self._add("train", {"loss": loss.detach(), **metrics}, self.schedule.steps)
        return loss

    def validation_step(self, index: int) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        generator = make_generator(self.device, self.seed, 1, index)
        metrics = self.task.validate(index, generator)
        self._add("validation", metrics, self.schedule.validation_steps)

    def on_train_epoch_start(self) -> None:
        self._sums = {}

    def on_validation_epoch_end(self) -> None:
        mean = self.trainer.strategy.reduce(torch.stack([v.double() for v in self._sums.values()]))
        values = dict(zip(self._sums, mean.tolist(), strict=True))
        for key, value in values.items():
            self.history.setdefault(key, []).append(value)
        self.log_dict(values, prog_bar=True)

    def _add(self, stage: str, metrics: dict[str, Tensor], n: int) -> None:
        for name, value in metrics.items():
            key = f"{stage}_{name}"
            self._sums[key] = self._sums.get(key, torch.zeros_like(value)) + value.detach() / n

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
        plugins=[_PlainCheckpoints()],
        callbacks=[best, last, _MetricsTable(folder / "metrics.csv"), *progress],
        logger=TensorBoardLogger(folder, "", ""),
        enable_progress_bar=on_terminal,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=max(1, schedule.steps),
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
        temporary = self.path.with_suffix(".part")
        with temporary.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["epoch", *history])
            table.writerows([epoch, *values] for epoch, values in rows)
        temporary.replace(self.path)


class _LogLines(Callback):
    """A line an epoch, where there is no terminal for a progress bar."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        values = {k: float(v) for k, v in trainer.callback_metrics.items()}
        text = ", ".join(f"{k} {v:.4f}" for k, v in values.items())
        log.info("epoch %d/%s: %s", trainer.current_epoch + 1, trainer.max_epochs, text)


class _PlainCheckpoints(CheckpointIO):
    """Checkpoints as a directory of safetensors and JSON: nothing pickled is written or read."""

    def save_checkpoint(self, checkpoint, path, storage_options=None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".saving-"))
        tensors: dict[str, Tensor] = {}
        (temporary / "state.json").write_text(json.dumps(_to_plain(checkpoint, tensors)))
        save_file(tensors, temporary / "tensors.safetensors")
        replace_directory(temporary, target)

    def load_checkpoint(self, path, map_location=None, weights_only=None):
        folder = Path(path)
        try:
            tensors = load_file(folder / "tensors.safetensors")
            return _from_plain(json.loads((folder / "state.json").read_text()), tensors)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise RunError(
                f"the checkpoint {folder} cannot be read ({error}); delete it to train anew."
            ) from error

    def remove_checkpoint(self, path) -> None:
        remove_directory(Path(path))


def replace_directory(new: Path, target: Path) -> None:
    """Put directory `new` in the place of `target`; a reader finds the old one or the new one."""
    if target.exists():
        old = Path(tempfile.mkdtemp(dir=target.parent, prefix=".old-"))
        os.replace(target, old / target.name)
        os.replace(new, target)
        remove_directory(old)
    else:
        os.replace(new, target)


def remove_directory(path: Path) -> None:
    """Remove a directory and what is in it, if it is there."""
    import shutil

    shutil.rmtree(path, ignore_errors=True)


def _to_plain(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Nested dicts, lists and numbers as JSON; tensors go to `tensors`, named in their place."""
    if isinstance(value, Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):  # as pairs, for keys may be integers
        return {"dict": [[k, _to_plain(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_to_plain(v, tensors) for v in value]}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__}")


def _from_plain(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {k: _from_plain(v, tensors) for k, v in content}
    items = [_from_plain(v, tensors) for v in content]
    return tuple(items) if kind == "tuple" else items
