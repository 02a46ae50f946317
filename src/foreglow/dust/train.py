"""Training of the dust networks on cutouts drawn fresh at every step."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreglow.compute.device import pick_device
from foreglow.compute.precision import arithmetic, validate_precision
from foreglow.compute.processes import ALONE, Processes, run_on_all_ranks
from foreglow.compute.random import make_generator
from foreglow.compute.training import History, Schedule, Task, adamw, fit
from foreglow.dust.cutouts import Cutouts, CutoutSampler, SkyCube
from foreglow.dust.folds import held_out, held_out_member
from foreglow.dust.inputs import DustSky, SkyFiles
from foreglow.dust.loss import PAPER_WEIGHT, correlation_loss
from foreglow.dust.model import DustModel
from foreglow.dust.networks import DustNetwork, make_network
from foreglow.dust.predict import measure, stitched_members
from foreglow.dust.spectra import Bands, paper_bands
from foreglow.dust.stitch import centres
from foreglow.dust.uncertainty import to_card
from foreglow.errors import RunError
from foreglow.maps import healpix as hp
from foreglow.maps.gnomonic import Grid
from foreglow.maps.harmonic import PAPER_CUT, PAPER_ORDER
from foreglow.maps.hemispheres import REGIONS, Method, Region
from foreglow.model_files import close_training, open_training

VALIDATION_CUTOUTS = 128
_STANDARDISATION_CUTOUTS = 128
_CALIBRATION_CENTRES = 8  # Nside: cutouts overlap ten deep, as in maps
_STANDARDISATION, _VALIDATION = 2, 3  # keys of generators; 0 and 1 are the trainer's
_PAPER_DROPS = 4  # parts of the training, each with a tenth of the learning rate of the one before


@dataclass(frozen=True)
class DustPlan:
    """What network is trained, and how long.

    Parameters
    ----------
    network : str
        "unet" or "unet_zhang2019".
    inputs : str
        "channels", "moments" or "integrated".
    width : int
        Channels of the first level: 64 in the paper.
    weight : float
        The paper's lambda, of the correlations in the loss.
    epochs, steps, batch : int
        `steps` batches each epoch, every cutout drawn anew. The paper's are 40, 782 and 64.
    learning_rate : float, optional
        The highest of a rise and a cosine fall for "unet", 5e-3 by default; for "unet_zhang2019"
        the first, with a tenth after each quarter of the training, the paper's 1e-3 by default.
    members : int
        Networks trained from different seeds. Of two or more, each has another sector of the
        region masked, by which their errors are measured: see `foreglow.dust.folds`.
    precision : str
        Arithmetic of the layers in training; see `foreglow.compute.precision.arithmetic`.
    """

    network: str = "unet"
    inputs: str = "channels"
    width: int = 8
    weight: float = PAPER_WEIGHT
    epochs: int = 10
    steps: int = 40
    batch: int = 16
    learning_rate: float | None = None
    members: int = 1
    precision: str = "tf32"

    @property
    def ours(self) -> bool:
        """Whether it is our network, trained in our way."""
        return self.network != "unet_zhang2019"

    @property
    def rate(self) -> float:
        """The learning rate, if need be by default."""
        return self.learning_rate or (5e-3 if self.ours else 1e-3)


def train(
    sky: DustSky,
    region: Region,
    plan: DustPlan,
    folder: Path,
    seed: int,
    device: torch.device,
    resume: bool = False,
    grid: Grid | None = None,
    method: Method = "nearest",
    processes: Processes = ALONE,
) -> tuple[DustModel, History]:
    """Train a model on cutouts with centres in a region; nothing else of the sky is looked at.

    Parameters
    ----------
    sky : DustSky
    region : Region
        The training half of a split.
    plan : DustPlan
    folder : Path
        For checkpoints and logs, of this training alone.
    seed : int
    device : torch.device
    resume : bool
        Go on from the last checkpoints in `folder`, if there are any.
    grid : Grid, optional
        Of the cutouts; the paper's by default.
    method : str
        "nearest" or "bilinear".
    processes : Processes
        Those that train together: each has the same model in the end. Batch norm is over the whole
        batch on GPUs; on the CPU it is over the share of each process, and what the network keeps
        of it for prediction is that of the first process, for PyTorch has no other there.

    Returns
    -------
    model : DustModel
        On the device.
    history : dict of list
        A value an epoch of `train_loss`, `train_r50`, `validation_r50`, ...: means over members.

    Raises
    ------
    RunError
        If a batch cannot be shared by the processes.
    """
    processes.validate_batch(plan.batch)
    sampler = CutoutSampler(sky.cube.to(device), region, grid or Grid(), method)
    seeds = np.random.SeedSequence(seed).generate_state(plan.members).tolist()
    model = DustModel.untrained(
        plan.network, plan.inputs, plan.width, sky.velocity_kms, sampler.grid, sampler.sky.nside,
        sky.target_unit, seeds,
    )  # fmt: skip
    histories = []
    for k, member_seed in enumerate(seeds):
        network, place = model.networks[k], folder / f"member{k}"
        own = replace(sampler, sky=held_out(sampler.sky, region, k, plan.members))
        histories.append(
            _train_member(network, own, plan, place, member_seed, device, resume, processes)
        )
    model.members.eval()
    _calibrate(model, sampler.sky, region, f"{sky.source}, {region.name}")
    model.card["training"] = {"sky": sky.source, "seed": seed, "region": region.name} | asdict(plan)
    model.card["cutouts"] = {"method": method, "filter_cut": PAPER_CUT, "filter_order": PAPER_ORDER}
    return model, {
        key: np.mean([h[key] for h in histories], axis=0).tolist() for key in histories[0]
    }


def _calibrate(model: DustModel, cube: SkyCube, region: Region, to: str) -> None:
    """Regress the target on the prediction, the loss leaving the scale half free, and state errors.

    On a map of the training region. Errors are those of each member of an ensemble on the sector
    that it has not seen; a single network has seen all, and its errors elsewhere are larger.
    """
    where = centres(_CALIBRATION_CENTRES)
    stitched = stitched_members(model, cube, where[region.holds(where)])
    target = cube.target.cpu().numpy()[hp.ring2nest(cube.nside, np.arange(len(cube.target))), 0]
    own = held_out_member(cube.nside, region, len(model.members))
    model.card |= to_card(*measure(stitched, target, to, own))


def train_model(
    out: Path,
    sky: SkyFiles,
    region: str,
    plan: DustPlan,
    seed: int,
    device: str,
    resume: bool,
    processes: Processes = ALONE,
) -> float:
    """Train a model and save it; the body of `foreglow dust train`.

    Checkpoints and logs lie in `OUT.training` beside the model until it is whole. Of
    several processes the first one writes the model.

    Parameters
    ----------
    out : Path
        Model directory to write.
    sky : SkyFiles
        Loaded once it is clear that the rest can be done.
    region : str
        Where cutouts have their centres: one of `REGIONS`.
    plan, seed, device, resume, processes
        As for `train`, with the name of the device.

    Returns
    -------
    float
        Mean of r50 and r150 over the validation cutouts, which lie in the training region.

    Raises
    ------
    ModelError
        If `out` exists, or there is no such network or inputs.
    RunError
        If the region or the device is unknown, an interrupted training had other settings, or the
        processes cannot share a batch.
    """

    def prepare() -> tuple[DustSky, Path]:
        if region not in REGIONS:
            raise RunError(f"expected region {', '.join(REGIONS)}, got {region!r}.")
        processes.validate_batch(plan.batch)
        validate_precision(plan.precision)
        make_network(plan.network, plan.inputs, (0.0, 1.0), 1)  # are there such?
        made_of = {k: v if v is None else str(v) for k, v in asdict(sky).items()}
        settings = {"sky": made_of, "region": region, "seed": seed, "plan": asdict(plan)}
        work = open_training(out, settings, resume)
        return sky.load(), work

    chosen = pick_device(device)
    loaded, work = run_on_all_ranks(processes, prepare)
    model, history = train(
        loaded, REGIONS[region], plan, work, seed, chosen, resume, processes=processes
    )
    model.card["history"] = history
    if processes.rank == 0:
        model.save(out)
        close_training(out)
    return history["validation_score"][-1] / 2


def _train_member(
    network: DustNetwork,
    sampler: CutoutSampler,
    plan: DustPlan,
    folder: Path,
    seed: int,
    device: torch.device,
    resume: bool,
    processes: Processes,
) -> History:
    bands = paper_bands(sampler.grid).to(device)
    network.to(device).train()
    sample = sampler.draw(_STANDARDISATION_CUTOUTS, make_generator(device, seed, _STANDARDISATION))
    network.standardise(sample.inputs, sample.target, sample.mask, bands)
    task = _task(network, sampler, bands, plan, seed, processes)
    schedule = Schedule(plan.epochs, plan.steps, -(-VALIDATION_CUTOUTS // plan.batch))
    with arithmetic(plan.precision):
        return fit(task, schedule, folder, seed, device, resume, processes)


def _task(
    network: DustNetwork,
    sampler: CutoutSampler,
    bands: Bands,
    plan: DustPlan,
    seed: int,
    processes: Processes,
) -> Task:
    where = sampler.fixed_pointings(VALIDATION_CUTOUTS, seed + _VALIDATION)
    share = processes.share(plan.batch)
    room = sampler.room(plan.batch // processes.size)

    def compare(cut: Cutouts) -> tuple[Tensor, dict[str, Tensor]]:
        predicted = network(cut.inputs, cut.mask) * cut.mask
        return correlation_loss(
            predicted / network.unit, cut.target / network.unit, bands, plan.weight
        )

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG001
        if processes.size == 1:
            cut = sampler.draw(plan.batch, generator, room)
        else:
            cut = sampler.at(sampler.draw_pointings(plan.batch, generator)[share], room)
        cuda = [room.device] if room.is_cuda else []
        with torch.random.fork_rng(devices=cuda):  # dropout knows the global generator only
            torch.manual_seed(generator.initial_seed() + processes.rank)
            return compare(cut)

    def validate(index: int, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG001
        batch = where[index * plan.batch : (index + 1) * plan.batch]
        cut = sampler.at(batch[processes.share(len(batch))])
        value, parts = compare(cut)
        return {"loss": value, **parts, "score": parts["r50"] + parts["r150"]}

    def optimiser(_: Any, total_steps: int) -> Any:
        if plan.ours:
            return adamw(network.parameters(), plan.rate, total_steps)
        adam = torch.optim.Adam(network.parameters(), lr=plan.rate)
        part = max(1, total_steps // _PAPER_DROPS)
        schedule = torch.optim.lr_scheduler.StepLR(adam, part, 0.1)
        return {"optimizer": adam, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return Task(network, loss, validate, optimiser, best="score", clip=plan.ours)
