"""Training of the dust networks on cutouts drawn fresh at every step."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import torch
from torch import Tensor

from foreglow.compute.device import pick_device
from foreglow.compute.optimisers import adamw, annealed_adam, dropping_adam
from foreglow.compute.precision import arithmetic, validate_precision
from foreglow.compute.processes import ALONE, Processes, run_on_all_ranks
from foreglow.compute.random import make_generator
from foreglow.compute.training import History, Schedule, Task, fit, load_best
from foreglow.dust.augment import shift_velocity
from foreglow.dust.cutouts import Cutouts, CutoutSampler
from foreglow.dust.inputs import PAPER_RANGE_KMS, DustSky
from foreglow.dust.load import SkySource
from foreglow.dust.loss import correlation_loss, polarised_loss
from foreglow.dust.model import DustModel
from foreglow.dust.networks import DustNetwork, Target, make_network
from foreglow.dust.plan import DustPlan
from foreglow.dust.spectra import Bands, paper_bands
from foreglow.dust.validation import calibrate, hold_out, is_overfitted, validation_scores
from foreglow.errors import RunError
from foreglow.maps.gnomonic import Grid
from foreglow.maps.harmonic import PAPER_ORDER
from foreglow.maps.hemispheres import NORTH, REGIONS, SOUTH, Method, Region
from foreglow.model_files import close_training, model_to_be, open_training
from foreglow.plans import read_plan

log = logging.getLogger("foreglow")

VALIDATION_CUTOUTS = 128
_CALIBRATION_CUTOUTS = 128  # of a wedge of a half they overlap ten deep, as in maps
_STANDARDISATION_CUTOUTS = 128
_STANDARDISATION, _VALIDATION = 2, 3  # keys of generators; 0 and 1 are the trainer's
_PAPER_DROPS = 4  # parts of the training, each with a tenth of the learning rate of the one before


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
    others: Sequence[DustSky] = (),
) -> tuple[DustModel, History]:
    """Train a model on cutouts with centres in a region; nothing else of the sky is looked at.

    A wedge of the region is kept out of the training, see `foreglow.dust.validation.hold_out`. By
    it alone the best epoch of each network is chosen, and scale and errors are measured.

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
    others : sequence of DustSky
        Further skies of the same channels, of which each step may be on cutouts of anywhere; what
        is measured before and after the training is measured on `sky`.

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

    Warns
    -----
    MapWarning
        If the region is too small for a wedge: then the last epoch is taken, and scale and errors
        are measured on the sky of the training.
    """
    processes.validate_batch(plan.batch)
    seeds = np.random.SeedSequence(seed).generate_state(plan.members).tolist()
    grid = grid or Grid()
    model = DustModel.untrained(
        plan.network, plan.inputs, plan.width, sky.velocity_kms, grid, sky.nside, sky.target_unit,
        seeds, sky.target,
    )  # fmt: skip
    sampler = CutoutSampler(sky.cube.to(device), region, grid, method, fine=model.fine)
    training, validation = hold_out(sampler)
    further = [
        replace(sampler, sky=other.cube.to(device), region=half)
        for other, half in product(others, (NORTH, SOUTH))
    ]
    histories = []
    for k, member_seed in enumerate(seeds):
        log.info(
            "training: network %d of %d, %d epochs of %d steps",
            k + 1, plan.members, plan.epochs, plan.steps,
        )  # fmt: skip
        member = _Member(
            model.networks[k], (training, *further), validation, plan, member_seed, processes
        )
        histories.append(_train_member(member, folder / f"member{k}", device, resume))
    model.members.eval()
    log.info("measuring: scale and errors on the %s", validation.region.name)
    calibrate(model, validation, _CALIBRATION_CUTOUTS, f"{sky.source}, {validation.region.name}")
    where = validation.fixed_pointings(VALIDATION_CUTOUTS, seed + _VALIDATION)
    model.card["validation"] = {
        "region": validation.region.name, "held_out": training is not validation,
**validation_scores(model, validation, where),
    }  # fmt: skip
    model.card["training"] = {"sky": sky.source, "seed": seed, "region": region.name} | asdict(plan)
    model.card["training"]["skies"] = 1 + len(others)
    model.card["cutouts"] = {
        "method": method, "filter_cut": sky.filter_cut, "filter_order": PAPER_ORDER,
    }  # fmt: skip
    return model, {
        key: np.mean([h[key] for h in histories], axis=0).tolist() for key in histories[0]
    }


def train_dust(
    cube: Any = None,
    dust: Any = None,
    mask: Any = None,
    *,
    sky: str | None = None,
    region: str = "north",
    target: Target = "intensity",
    plan: DustPlan | Mapping[str, Any] | str | Path | None = None,
    out: str | Path | None = None,
    low_kms: float = PAPER_RANGE_KMS[0],
    high_kms: float = PAPER_RANGE_KMS[1],
    velocity: u.Quantity | None = None,
    unit: str | u.UnitBase | None = None,
    nest: bool | None = None,
    frame: str | None = None,
    dust_unit: str | None = None,
    convention: str | None = None,
    noise: Any = None,
    nside: int = 256,
    skies: int = 1,
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
        other half to test on. A wedge of the region, between two longitudes, is kept out of the
        training to choose the best epoch and to measure errors by: `card["validation"]` says which.
    target : str
        "intensity", or "polarisation": I, Q and U, for which `dust` is a map of the three.
    plan : DustPlan, mapping of its fields or path of a TOML file, optional
        What network is trained, and how long.
    out : path, optional
        Model directory to write. Checkpoints and logs lie in `OUT.training` beside it until it is
        whole; of several processes the first one writes.
    low_kms, high_kms : float
        Channels centred from one to the other (LSR) are taken.
    velocity, unit, nest, frame, dust_unit, convention
        What arrays, and Q and U of a file, do not state, as for `load_sky`.
    noise : path, text, array_like or (array_like, str), optional
        Of Q and U, as for `load_sky`; by default that of columns beside them.
    nside : int
        Of the mock.
    skies : int
        So many skies of the mock, of seeds from `seed` on; all but the first are trained on whole.
        In memory each takes as much as the first, 0.25 GB at Nside 256.
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
        seed, skies, target, convention, noise,
    )  # fmt: skip
    with model_to_be(out, resume, processes.size) as to_be:

        def prepare() -> tuple[list[DustSky], DustPlan, Path]:
            chosen = read_plan(plan, DustPlan())
            if region not in REGIONS:
                raise RunError(f"expected region {', '.join(REGIONS)}, got {region!r}.")
            processes.validate_batch(chosen.batch)
            validate_precision(chosen.precision)
            make_network(chosen.network, chosen.inputs, (0.0, 1.0), 1, target)  # are there such?
            settings = {"sky": given.settings(), "region": region, "seed": seed}
            work = open_training(to_be, settings | {"plan": asdict(chosen)}, resume)
            log.info("preparing: cube and dust map, low-passed")
            return [given.load(), *given.others()], chosen, work

        where = pick_device(device)
        (loaded, *others), chosen, work = run_on_all_ranks(processes, prepare)
        model, history = train(
            loaded, REGIONS[region], chosen, work, seed, where, resume, processes=processes,
            others=others,
        )  # fmt: skip
        model.card["history"] = history
        if processes.rank == 0:
            model.save(to_be)
            close_training(to_be)
        return model


@dataclass(frozen=True, eq=False)
class _Member:
    """A network to train, and what it is trained by."""

    network: DustNetwork
    training: tuple[CutoutSampler, ...]
    validation: CutoutSampler
    plan: DustPlan
    seed: int
    processes: Processes


def _train_member(member: _Member, folder: Path, device: torch.device, resume: bool) -> History:
    network, plan, seed = member.network.to(device).train(), member.plan, member.seed
    bands = paper_bands(member.validation.grid).to(device)
    generator = make_generator(device, seed, _STANDARDISATION)
    sample = member.training[0].draw(_STANDARDISATION_CUTOUTS, generator)
    network.standardise(sample.inputs, sample.target, sample.mask, bands)
    schedule = Schedule(plan.epochs, plan.steps, -(-VALIDATION_CUTOUTS // plan.batch))
    with arithmetic(plan.precision):
        task = _task(member, bands)
        history = fit(task, schedule, folder, seed, device, resume, member.processes)
    if member.training[0] is not member.validation:
        load_best(network, folder)
        _warn_of_gap(history, folder)
    return history


def _warn_of_gap(history: History, folder: Path) -> None:
    names = [n for n in ("r50", "r150", "e50", "e150", "b50", "b150") if f"train_{n}" in history]
    stages = ("train", "validation")
    means = [np.mean([history[f"{stage}_{name}"] for name in names], axis=0) for stage in stages]
    if is_overfitted(*means):
        log.warning(
            "%s: overfitted. The mean of %s is %.3f in training and %.3f in validation, "
            "where it has fallen from %.3f at epoch %d, whose weights are kept; give a shorter "
            "training, a narrower network or more members",
            folder.name, " and ".join(names) if len(names) == 2 else "r of I, E and B",
            means[0][-1], means[1][-1], means[1].max(), means[1].argmax() + 1,
        )  # fmt: skip


def _task(member: _Member, bands: Bands) -> Task:
    network, plan, processes = member.network, member.plan, member.processes
    training, validation = member.training, member.validation
    where = validation.fixed_pointings(VALIDATION_CUTOUTS, member.seed + _VALIDATION)
    share = processes.share(plan.batch)
    room = validation.room(plan.batch // processes.size)
    most = round(plan.shift / network.step_kms)
    polarised = validation.sky.polarised

    def compare(cut: Cutouts) -> tuple[Tensor, dict[str, Tensor]]:
        predicted = network(cut.inputs, cut.mask)
        predicted = predicted * (cut.mask.unsqueeze(1) if polarised else cut.mask)
        judge = polarised_loss if polarised else correlation_loss
        return judge(predicted / network.unit, cut.target / network.unit, bands, plan.weight)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG001
        sampler = training[0]
        if len(training) > 1:
            k = torch.randint(len(training), (), generator=generator, device=generator.device)
            sampler = training[int(k)]
        if processes.size == 1:
            cut = sampler.draw(plan.batch, generator, room)
        else:
            cut = sampler.at(sampler.draw_pointings(plan.batch, generator)[share], room)
        if most:
            size, device = (plan.batch,), generator.device
            steps = torch.randint(-most, most + 1, size, generator=generator, device=device)
            shift_velocity(cut.inputs, steps[share])
        cuda = [room.device] if room.is_cuda else []
        with torch.random.fork_rng(devices=cuda):  # dropout knows the global generator only
            torch.manual_seed(generator.initial_seed() + processes.rank)
            return compare(cut)

    def validate(index: int, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG001
        batch = where[index * plan.batch : (index + 1) * plan.batch]
        cut = validation.at(batch[processes.share(len(batch))])
        value, parts = compare(cut)
        correlations = [part for name, part in parts.items() if name != "difference"]
        return {"loss": value, **parts, "score": torch.stack(correlations).sum()}

    def optimiser(parameters: Any, total_steps: int) -> Any:
        if not plan.annealed:
            return dropping_adam(parameters, plan.rate, total_steps, _PAPER_DROPS)
        return (adamw if plan.ours else annealed_adam)(parameters, plan.rate, total_steps)

    return Task(network, loss, validate, optimiser, best="score", clip=plan.ours)
