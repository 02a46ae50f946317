"""The U-Net of the context on maps of any Nside: fine levels by tiles, coarse ones as a whole.

A level goes over the sky tile by tile, each with as many rings of pixels around it as its kernels
reach, so that what comes out is what the whole sky at once would give. What one level hands to the
next lies in files; means over the sky are summed up on the way. On the way up a level makes again
what it made on the way down: that takes half as long again, and spares a file of the largest level.
"""

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from foreglow.compute.device import each_on_a_thread
from foreglow.maps import healpix as hp
from foreglow.maps.faces import face_order
from foreglow.maps.memory import release_pages
from foreglow.maps.tiles import CORNERS, SIDES, Tile, tile_with_rings
from foreglow.recognition.context.networks import WIDTHS, SphereUNet, n_level_of, ratios

WHOLE_NSIDE = 64  # levels up to it are in memory
_TILE = 64**2  # pixels of a tile: its features fit in the cache of a core
_REACH = 2  # rings that the two kernels of a level reach

log = logging.getLogger("foreglow")

Read: TypeAlias = Callable[[np.ndarray], tuple[Tensor, Tensor]]
"""Of RING pixels, the log-probabilities (n_class, n) and which are observed (n,)."""


@dataclass(frozen=True)
class _Level:
    """What a level of the U-Net is given, by NESTED pixels.

    Parameters
    ----------
    nside : int
    evidence : callable
        Of pixels, the sums of the ratios (n, n_class), and the part of each that is observed (n,).
    finer : ndarray, shape (n_pix, n_class, channel)
        What the finer level found, of a file; of the finest no channels.
    """

    nside: int
    evidence: Callable[[np.ndarray], tuple[Tensor, Tensor]]
    finer: np.ndarray


@dataclass(frozen=True)
class _Found:
    """What a level found on the way up, (n_pix, n_class, channel), less what the sky's mean adds.

    `mean` is that of the map over the sky, (n_class, channel), and `added` what it adds.
    """

    features: np.ndarray
    mean: Tensor
    added: Tensor


@torch.inference_mode()
def logits_by_tiles(
    network: SphereUNet, read: Read, nside: int, n_class: int, folder: Path
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Logits of the U-Net in bounded memory, equal to those of `SphereUNet.forward` to rounding.

    Parameters
    ----------
    network : SphereUNet
    read : callable
        Called by several threads.
    nside : int
        Above `WHOLE_NSIDE`.
    n_class : int
    folder : Path
        Where files lie meanwhile: with four classes some 250 bytes a pixel.

    Yields
    ------
    pixels : ndarray of int64, shape (n,)
        RING; together the sky.
    logits : Tensor, shape (n_class, n)
    """
    n_level = n_level_of(nside)
    levels = [_finest(read, nside, n_class)]
    while len(levels) < n_level and levels[-1].nside > WHOLE_NSIDE:
        levels.append(_descend(network, levels, n_class, folder))
    found = None
    if levels[-1].nside <= WHOLE_NSIDE:
        found = _whole(network, levels.pop(), len(levels), n_level, n_class)
    while len(levels) > 1:
        found = _ascend(network, levels, found, n_class, folder)
        levels.pop()
    last = _ascend(network, levels, found, n_class, folder)
    gain = network.gain((last.mean + last.added).mean(0)).exp()
    more = (last.added @ network.output.weight.T).T  # (1, n_class)
    for first in range(0, len(last.features), _TILE):
        pixels = hp.nest2ring(nside, np.arange(first, min(first + _TILE, len(last.features))))
        part = torch.from_numpy(last.features[first : first + _TILE, :, 0]).to(gain)
        release_pages(last.features)
        yield pixels, (gain * (part + more)).T


def _finest(read: Read, nside: int, n_class: int) -> _Level:
    def evidence(pixels: np.ndarray) -> tuple[Tensor, Tensor]:
        said, seen = read(hp.nest2ring(nside, pixels))
        said = torch.where(seen, said.float(), 0.0)
        return ratios(said[None], seen[None])[0].T, seen.float()

    return _Level(nside, evidence, np.empty((hp.nside2npix(nside), n_class, 0), np.float32))


def _descend(network: SphereUNet, levels: list[_Level], n_class: int, folder: Path) -> _Level:
    """Put the last of the levels on the way down, and give the one after it what it needs."""
    number, level = len(levels) - 1, levels[-1]
    log.info("neighbours: Nside %d, on the way down", level.nside)
    n_pix, tiles = hp.nside2npix(level.nside) // 4, _tiles(level.nside)
    width = WIDTHS[number]
    finer = _file(folder / f"down_{level.nside}.f32", (n_pix, n_class, width))
    total, seen = np.empty((n_pix, n_class), np.float32), np.empty(n_pix, np.float32)

    @torch.inference_mode()  # which each thread must be told
    def work(first: int) -> None:
        tile = tile_with_rings(level.nside, first, tiles.step, _REACH)
        x, (mine, observed) = _down(network, number, level, tile)
        n, place = tile.within[0], slice(first // 4, (first + tile.within[0]) // 4)
        finer[place] = x.view(n // 4, 4, n_class, -1).mean(1).cpu()
        total[place] = mine[:n].view(n // 4, 4, n_class).sum(1).cpu()
        seen[place] = observed[:n].view(n // 4, 4).mean(1).cpu()
        _release(level.finer, finer)

    each_on_a_thread(work, tiles, _device(network))

    def evidence(pixels: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(total[pixels]), torch.from_numpy(seen[pixels])

    return _Level(level.nside // 2, evidence, finer)


def _whole(network: SphereUNet, level: _Level, number: int, n_level: int, n_class: int) -> _Found:
    """A level and all that are coarser, at once."""
    order = hp.ring2nest(level.nside, face_order(level.nside).numpy())
    device, n_pix = _device(network), len(order)
    total, seen = level.evidence(order)
    x = torch.from_numpy(level.finer[order]).to(device).transpose(0, 1)
    total = total.to(device).T[..., None]
    seen = seen.to(device)[None, :, None].expand(n_class, -1, -1)
    found = network.from_level(number, n_level, x, total, seen, n_class)
    features = np.empty((n_pix, n_class, found.shape[2]), np.float32)
    features[order] = found.transpose(0, 1).cpu()
    none = found.new_zeros(n_class, found.shape[2])
    return _Found(features, none, none)


def _ascend(
    network: SphereUNet, levels: list[_Level], deeper: _Found | None, n_class: int, folder: Path
) -> _Found:
    """Put the last of the levels on the way up; of the finest, give the output before its gain."""
    number, level = len(levels) - 1, levels[-1]
    log.info("neighbours: Nside %d, on the way up", level.nside)
    n_pix, tiles, device = hp.nside2npix(level.nside), _tiles(level.nside), _device(network)
    width = WIDTHS[number] if number else 1
    features = _file(folder / f"up_{level.nside}.f32", (n_pix, n_class, width))

    @torch.inference_mode()
    def work(first: int) -> Tensor:
        rings = _REACH if deeper is None else 2 * _REACH
        tile = tile_with_rings(level.nside, first, tiles.step, rings)
        x, (total, _) = _down(network, number, level, tile)
        if deeper is not None:
            coarse = torch.from_numpy(deeper.features[tile.pixel[: len(x)] >> 2]).to(device)
            x = torch.cat([x, coarse + deeper.added], 2)
            x = _blocks(network.up[number], x, tile)
            release_pages(deeper.features)
        place = slice(first, first + len(x))
        if number:
            features[place] = x.cpu()
        else:
            features[place] = (network.trust * total[: len(x), :, None] + network.output(x)).cpu()
        _release(level.finer, features)
        return x.double().sum(0)

    sums = each_on_a_thread(work, tiles, device)
    mean = (torch.stack(sums).sum(0) / n_pix).float()
    return _Found(features, mean, network.everywhere[number](mean))


def _down(
    network: SphereUNet, number: int, level: _Level, tile: Tile
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """What a level finds on its way down, within `_REACH` steps fewer than the tile; evidence."""
    device = _device(network)
    total, seen = (one.to(device) for one in level.evidence(tile.pixel))
    finer = torch.from_numpy(level.finer[tile.pixel]).to(device)
    observed = seen[:, None, None].expand(-1, total.shape[1], -1)
    x = torch.cat([finer, torch.asinh(total)[..., None], observed], 2)
    return _blocks(network.down[number], x, tile), (total, seen)


def _blocks(blocks: nn.Module, x: Tensor, tile: Tile) -> Tensor:
    """Residual steps on a tile, (n, n_class, channel); each takes a ring of pixels off."""
    for block in blocks:  # pyright: ignore[reportGeneralTypeIssues]
        n = tile.within[tile.within.index(len(x)) - 1]
        neighbour = torch.from_numpy(tile.neighbour[:n]).to(x.device)
        x = block.input(x)
        y = block.norm(x)
        side, corner = (_sum(y, neighbour[:, some]) for some in (SIDES, CORNERS))
        kernel = block.space.weight
        space = y[:n] @ kernel[0].T + side @ (kernel[1].T / 2) + corner @ (kernel[2].T / 2)
        mean = block.classes(y[:n].mean(1, keepdim=True))
        x = x[:n] + block.output(nn.functional.gelu(space + block.space.bias + mean))
    return x


def _sum(y: Tensor, neighbour: Tensor) -> Tensor:
    flat = y.flatten(1)
    total = flat.index_select(0, neighbour[:, 0])
    for k in range(1, neighbour.shape[1]):
        total += flat.index_select(0, neighbour[:, k])
    return total.view(-1, *y.shape[1:])


def _tiles(nside: int) -> range:
    """The first pixel of each tile, and as a step their size: no larger than a face."""
    return range(0, hp.nside2npix(nside), min(_TILE, nside**2))


def _file(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Room for features in a file, whole from the start: a full disk is said, not a crash."""
    with path.open("wb") as file:
        size = 4 * int(np.prod(shape))
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
    return np.memmap(path, np.float32, "r+", shape=shape)


def _release(*features: np.ndarray) -> None:
    for one in features:
        release_pages(one)


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
