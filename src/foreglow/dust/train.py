"""Training of the dust networks on cutouts drawn fresh at every step."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreglow.dust.cutouts import Cutouts, CutoutSampler
from foreglow.dust.inputs import DustSky, SkyFiles
from foreglow.dust.loss import PAPER_WEIGHT, correlation_loss
from foreglow.dust.model import DustModel
from foreglow.dust.networks import DustNetwork, make_network
from foreglow.dust.spectra import Bands, paper_bands
from foreglow.dust.uncertainty import Calibration, ResidualLaw, to_card
from foreglow.errors import RunError
from foreglow.maps.gnomonic import Grid
from foreglow.maps.harmonic import PAPER_CUT, PAPER_ORDER
from foreglow.maps.hemispheres import REGIONS, Method, Region
from foreglow.model_files import open_training
from foreglow.training import History, Schedule, Task, adamw, fit, make_generator, pick_device

VALIDATION_CUTOUTS = 128
_STANDARDISATION_CUTOUTS = 128
_CALIBRATION_CUTOUTS = 128
_STANDARDISATION, _VALIDATION, _CALIBRATION = (
    2,
    3,
    4,
)  # keys of generators; 0 and 1 are the trainer's
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
    learning_rate : float
        The highest of a rise and a cosine fall for "unet"; for "unet_zhang2019" the first, with a
        tenth after each quarter of the training.
    members : int
        Networks trained from different seeds.
    """

    network: str = "unet"
    inputs: str = "channels"
    width: int = 16
    weight: float = PAPER_WEIGHT
    epochs: int = 10
    steps: int = 100
    batch: int = 16
    learning_rate: float = 2e-3
    members: int = 1

    @property
    def ours(self) -> bool:
        """Whether gradients are clipped and cutouts mirrored, as the paper does not."""
        return self.network != "unet_zhang2019"


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

    Returns
    -------
    model : DustModel
        On the device.
    history : dict of list
        A value an epoch of `train_loss`, `train_r50`, `validation_r50`, ...: means over members.
    """
    sampler = CutoutSampler(sky.cube.to(device), region, grid or Grid(), method)
    seeds = np.random.SeedSequence(seed).generate_state(plan.members).tolist()
    model = DustModel.untrained(
        plan.network, plan.inputs, plan.width, sky.velocity_kms, sampler.grid, sampler.sky.nside,
        sky.target_unit, seeds,
    )  # fmt: skip
    histories = []
    for k, member_seed in enumerate(seeds):
        network, place = model.networks[k], folder / f"member{k}"
        histories.append(_train_member(network, sampler, plan, place, member_seed, device, resume))
    model.members.eval()
    _calibrate(model, sampler, f"{sky.source}, {region.name}", device)
    model.card["training"] = {"sky": sky.source, "seed": seed, "region": region.name} | asdict(plan)
    model.card["cutouts"] = {"method": method, "filter_cut": PAPER_CUT, "filter_order": PAPER_ORDER}
    return model, {
        key: np.mean([h[key] for h in histories], axis=0).tolist() for key in histories[0]
    }


def _calibrate(model: DustModel, sampler: CutoutSampler, to: str, device: torch.device) -> None:
    """Regress the target on the prediction, the loss leaving the scale half free, and state errors.

    On cutouts of the training region: where the sky is another, errors may be larger.
    """
    cut = sampler.draw(_CALIBRATION_CUTOUTS, make_generator(device, 0, _CALIBRATION))
    parts = zip(cut.inputs.split(16), cut.mask.split(16), strict=True)
    each = torch.cat([model.each(*part) for part in parts], 1)[:, cut.mask].cpu().numpy()
    target = cut.target[cut.mask].cpu().numpy()
    line = Calibration.fit(each.mean(0), target, to)
    spread = abs(line.slope) * (each.std(0, ddof=1) if len(each) > 1 else np.zeros_like(target))
    model.card |= to_card(line, ResidualLaw.fit(line(each.mean(0)), spread, target))


def train_model(
    out: Path,
    sky: SkyFiles,
    region: str,
    plan: DustPlan,
    seed: int,
    device: str,
    resume: bool,
) -> float:
    """Train a model and save it; the body of `foreglow dust train`.

    Checkpoints and logs lie in `OUT.training` beside the model until it is whole, and stay.

    Parameters
    ----------
    out : Path
        Model directory to write.
    sky : SkyFiles
        Loaded once it is clear that the rest can be done.
    region : str
        Where cutouts have their centres: one of `REGIONS`.
    plan, seed, device, resume
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
        If the region or the device is unknown, or an interrupted training had other settings.
    """
    if region not in REGIONS:
        raise RunError(f"expected region {', '.join(REGIONS)}, but {region!r} came.")
    chosen = pick_device(device)
    make_network(plan.network, plan.inputs, (0.0, 1.0), 1)  # are there such?
    made_of = {k: v if v is None else str(v) for k, v in asdict(sky).items()}
    settings = {"sky": made_of, "region": region, "seed": seed, "plan": asdict(plan)}
    work = open_training(out, settings, resume)
    model, history = train(sky.load(), REGIONS[region], plan, work, seed, chosen, resume)
    model.card["history"] = history
    model.save(out)
    return history["validation_score"][-1] / 2


def _train_member(
    network: DustNetwork,
    sampler: CutoutSampler,
    plan: DustPlan,
    folder: Path,
    seed: int,
    device: torch.device,
    resume: bool,
) -> History:
    bands = paper_bands(sampler.grid).to(device)
    network.to(device).train()
    sample = sampler.draw(_STANDARDISATION_CUTOUTS, make_generator(device, seed, _STANDARDISATION))
    network.standardise(sample.inputs, sample.target, sample.mask, bands)
    task = _task(network, sampler, bands, plan, seed)
    checks = -(-VALIDATION_CUTOUTS // plan.batch)
    return fit(task, Schedule(plan.epochs, plan.steps, checks), folder, seed, device, resume)


def _task(
    network: DustNetwork,
    sampler: CutoutSampler,
    bands: Bands,
    plan: DustPlan,
    seed: int,
) -> Task:
    where = sampler.fixed_pointings(VALIDATION_CUTOUTS, seed + _VALIDATION)
    room = sampler.room(plan.batch)

    def compare(cut: Cutouts) -> tuple[Tensor, dict[str, Tensor]]:
        predicted = network(cut.inputs, cut.mask) * cut.mask
        return correlation_loss(
            predicted / network.unit, cut.target / network.unit, bands, plan.weight
        )

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        cut = sampler.draw(plan.batch, generator, room)
        if plan.ours and step % 2:
            cut = _mirrored(cut)
        cuda = [room.device] if room.is_cuda else []
        with torch.random.fork_rng(devices=cuda):  # dropout knows the global generator only
            torch.manual_seed(generator.initial_seed())
            return compare(cut)

    def validate(index: int, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG001
        cut = sampler.at(where[index * plan.batch : (index + 1) * plan.batch])
        value, parts = compare(cut)
        return {"loss": value, **parts, "score": parts["r50"] + parts["r150"]}

    def optimiser(_: Any, total_steps: int) -> Any:
        if plan.ours:
            return adamw(network.parameters(), plan.learning_rate, total_steps)
        adam = torch.optim.Adam(network.parameters(), lr=plan.learning_rate)
        part = max(1, total_steps // _PAPER_DROPS)
        schedule = torch.optim.lr_scheduler.StepLR(adam, part, 0.1)
        return {"optimizer": adam, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return Task(network, loss, validate, optimiser, best="score", clip=plan.ours)


def _mirrored(cut: Cutouts) -> Cutouts:
    """The other handedness, which no rotation gives; pointings are those of the original."""
    return Cutouts(cut.inputs.flip(3), cut.target.flip(2), cut.mask.flip(2), cut.pointings)
