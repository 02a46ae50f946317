"""Training of the dust networks on cutouts drawn fresh at every step."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import torch
from torch import Tensor

from foreglow.compute.device import pick_device
from foreglow.compute.optimisers import adamw
from foreglow.compute.precision import arithmetic, validate_precision
from foreglow.compute.processes import ALONE, Processes, run_on_all_ranks
from foreglow.compute.random import make_generator
from foreglow.compute.training import History, Schedule, Task, fit
from foreglow.dust.cutouts import Cutouts, CutoutSampler, SkyCube
from foreglow.dust.folds import held_out, held_out_member
from foreglow.dust.inputs import PAPER_RANGE_KMS, DustSky, SkySource
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
from foreglow.model_files import close_training, model_to_be, open_training
from foreglow.plans import Count, NotNegative, Positive, read_plan

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
    width: Count = 8
    weight: NotNegative = PAPER_WEIGHT
    epochs: Count = 10
    steps: Count = 40
    batch: Count = 16
    learning_rate: Positive | None = None
    members: Count = 1
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


def train_dust(
    cube: Any = None,
    dust: Any = None,
    mask: Any = None,
    *,
    sky: str | None = None,
    region: str = "north",
    plan: DustPlan | Mapping[str, Any] | str | Path | None = None,
    out: str | Path | None = None,
    low_kms: float = PAPER_RANGE_KMS[0],
    high_kms: float = PAPER_RANGE_KMS[1],
    velocity: u.Quantity | None = None,
    unit: str | u.UnitBase | None = None,
    nest: bool | None = None,
    frame: str | None = None,
    dust_unit: str | None = None,
    nside: int = 256,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    processes: Processes = ALONE,
) -> DustModel:
    """Train a model that predicts the dust from an HI cube.

    Parameters
    ----------
    cube, dust, mask
        Files or arrays, as `load_sky` takes them.
    sky : str, optional
        "mock": the mock Galaxy at `nside`, in the place of cube, dust and mask.
    region : str
        Where cutouts have their centres: "north", "south", "east" or "west" (Galactic). Keep the
        other half to test on.
    plan : DustPlan, mapping of its fields or path of a TOML file, optional
        What network is trained, and how long.
    out : path, optional
        Model directory to write. Checkpoints and logs lie in `OUT.training` beside it until it is
        whole; of several processes the first one writes.
    low_kms, high_kms : float
        Channels centred from one to the other (LSR) are taken.
    velocity, unit, nest, frame, dust_unit
        What arrays do not state, as for `load_sky`.
    nside : int
        Of the mock.
    seed : int
        Of the networks, the cutouts, and the mock.
    device : str
        "auto", "cpu" or "cuda".
    resume : bool
        Go on with an interrupted training of the same settings, by its checkpoints beside `out`.
    processes : Processes
        Those that train together, see `train`.

    Returns
    -------
    DustModel
        On the device; `card["history"]` has the losses and correlations of each epoch.

    Raises
    ------
    ModelError
        If `out` exists, or there is no such network or inputs.
    RunError
        If the region, the device or a field of the plan is none, an interrupted training had other
        settings, or the processes cannot share a batch.
    SkyError, MapError, ShapeError
        As `load_sky`.
    """
    given = SkySource(
        sky, cube, dust, mask, low_kms, high_kms, dust_unit, velocity, unit, nest, frame, nside,
        seed,
    )  # fmt: skip
    with model_to_be(out, resume, processes.size) as to_be:

        def prepare() -> tuple[DustSky, DustPlan, Path]:
            chosen = read_plan(plan, DustPlan())
            if region not in REGIONS:
                raise RunError(f"expected region {', '.join(REGIONS)}, got {region!r}.")
            processes.validate_batch(chosen.batch)
            validate_precision(chosen.precision)
            make_network(chosen.network, chosen.inputs, (0.0, 1.0), 1)  # are there such?
            settings = {"sky": given.settings(), "region": region, "seed": seed}
            work = open_training(to_be, settings | {"plan": asdict(chosen)}, resume)
            return given.load(), chosen, work

        where = pick_device(device)
        loaded, chosen, work = run_on_all_ranks(processes, prepare)
        model, history = train(
            loaded, REGIONS[region], chosen, work, seed, where, resume, processes=processes
        )
        model.card["history"] = history
        if processes.rank == 0:
            model.save(to_be)
            close_training(to_be)
        return model


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
