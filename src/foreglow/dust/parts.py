"""Cutouts predicted batch by batch from filtered channels on disk, here or by workers."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch

from foreglow.compute.workers import MapFn
from foreglow.dust.cutouts import CutoutSampler
from foreglow.dust.filtered import (
    MAPS_TO_FILTER,
    Filtered,
    SkyPart,
    alone,
    bytes_a_tile,
    n_tile,
    tiles_around,
)
from foreglow.dust.model import DustModel
from foreglow.dust.stitch import PartialSums, Stitched, Sums
from foreglow.errors import MapError
from foreglow.maps import healpix as hp
from foreglow.maps.gnomonic import Pointings
from foreglow.maps.hemispheres import NORTH
from foreglow.maps.memory import format_bytes

LIBRARIES = 900 << 20  # bytes that Python, the libraries and a batch in a network take, measured
_MAPS_A_MEMBER = 3  # of float32 that blending takes, and those beside, measured
_MAPS_TO_BLEND = 8  # both three times as many where Q and U are predicted
_FINER_COPIES = 5  # of inputs finer than the grid that a batch takes beyond the above, measured
_CHANNELS = 8  # at a time, at most: a chunk of the cube
_BATCH = 16
_ORDER_NSIDE = 64


@dataclass(frozen=True)
class Job:
    """What a worker needs to predict cutouts: all of it small, the rest in files.

    Attributes
    ----------
    model : str
        Its directory, or the name of a shipped one.
    weights : str
        Its `weights_hash`: another model of the same name is opened anew.
    device : str
    sky : Filtered
    memory : int
        Bytes that the sky may take.
    polarised : bool
        The model predicts I, Q and U.
    """

    model: str
    weights: str
    device: str
    sky: Filtered
    memory: int
    polarised: bool = False


@dataclass(frozen=True)
class Plan:
    """What goes into the memory at a time.

    Attributes
    ----------
    channels_at_a_time : int
        That are filtered.
    batch : int
        Cutouts that are predicted.
    sky_bytes : int
        That filtered channels may take meanwhile.
    """

    channels_at_a_time: int
    batch: int
    sky_bytes: int


def make_plan(
    model: DustModel, nside: int, where: Pointings, memory: int, device: torch.device
) -> Plan:
    """As much at a time as a memory takes.

    Parameters
    ----------
    model : DustModel
    nside : int
        Of the cube.
    where : Pointings
        In the order in which they are predicted.
    memory : int
        Bytes of the process.
    device : torch.device
        On a graphics card the sky takes no memory here.

    Raises
    ------
    MapError
        If it does not take one channel, or one cutout.
    """
    a_map = 4 * hp.nside2npix(nside)
    channels = _CHANNELS
    while channels > 1 and LIBRARIES + (channels + MAPS_TO_FILTER) * a_map > memory:
        channels //= 2
    stokes = 3 if model.target == "polarisation" else 1
    maps = (_MAPS_A_MEMBER * len(model.members) + _MAPS_TO_BLEND) * stokes
    sky_bytes = memory - LIBRARIES - maps * a_map
    each = bytes_a_tile(nside, len(model.velocity_kms))
    batch, needed, finer = _BATCH, 0, 0
    while device.type == "cpu" and batch:
        finer = _finer_bytes(model, batch)
        needed = finer + each * max(
            len(tiles_around(nside, part, model.grid)) for part in _batches(where, batch)
        )
        if needed <= sky_bytes:
            break
        batch //= 2
    least = LIBRARIES + (1 + MAPS_TO_FILTER) * a_map
    least = max(least, memory - sky_bytes + needed)
    if not batch or memory < least:
        raise MapError(
            f"expected memory to predict a map of Nside {nside}, {format_bytes(least)}, got "
            f"{format_bytes(memory)}; give more memory=, or prepare the cube at "
            "a lower Nside"
        )
    return Plan(channels, batch, sky_bytes - finer)


def _finer_bytes(model: DustModel, batch: int) -> int:
    """What a batch of cutouts takes where their inputs are finer than the grid."""
    pixels = batch * (model.grid.n * model.fine) ** 2
    return 4 * _FINER_COPIES * pixels * len(model.velocity_kms) if model.fine > 1 else 0


def in_order(where: Pointings) -> Pointings:
    """Pointings with neighbours after each other: they see the same sky."""
    pixel = hp.ang2pix(
        _ORDER_NSIDE, where.lon_deg.numpy(), where.lat_deg.numpy(), nest=True, lonlat=True
    )
    return where[torch.from_numpy(np.argsort(pixel, kind="stable"))]


def blend(
    job: Job,
    where: Pointings,
    batch: int,
    progress: Callable[[int, int], None] | None = None,
    map_fn: MapFn = map,
) -> Stitched:
    """Blend a model's predictions of cutouts, a batch of them a piece of work.

    Parameters
    ----------
    job : Job
    where : Pointings
        See `in_order`.
    batch : int
    progress : callable, optional
        Called with centres done and in all.
    map_fn : MapFn
        Workers send the sums over their cutouts; they are added here, in order.
    """
    sums = Sums(job.sky.keep, job.polarised)
    try:
        parts = map_fn(partial(_predict_part, job), _batches(where, batch))
        for number, part in enumerate(parts, start=1):
            sums.add_part(part)
            if progress is not None:
                progress(min(number * batch, len(where)), len(where))
    finally:
        _close_parts(job)
    return sums.blend()


def weights_hash(model: DustModel) -> str:
    """SHA-256 of a model's weights, its first 16 digits."""
    digest = hashlib.sha256()
    for name, values in sorted(model.members.state_dict().items()):
        digest.update(name.encode())
        digest.update(values.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _batches(where: Pointings, size: int) -> list[Pointings]:
    return [where[start : start + size] for start in range(0, len(where), size)]


def _predict_part(job: Job, where: Pointings) -> PartialSums:
    """The sums over some cutouts."""
    with alone:
        model, part = _open_parts(job)
        sky = part.at(where, model.grid)
        sums = Sums(part.keep, job.polarised)
        sums.accumulate(
            lambda cutouts: model.each(cutouts.inputs, cutouts.mask),
            CutoutSampler(sky, NORTH, model.grid, "bilinear", fine=model.fine),
            where,
        )
        return sums.part(tiles_around(job.sky.nside, where, model.grid), n_tile(job.sky.nside))


@lru_cache(maxsize=1)
def _open_parts(job: Job) -> tuple[DustModel, SkyPart]:
    device = torch.device(job.device)
    return DustModel.load(job.model, device), SkyPart(job.sky, device, job.memory)


def _close_parts(job: Job) -> None:
    """Let go of what this process has opened."""
    if _open_parts.cache_info().currsize:
        _open_parts(job)[1].close()
        _open_parts.cache_clear()
