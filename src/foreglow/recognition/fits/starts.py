"""Where the fits of pixels start: the peaks of the likelihood on a grid over all of its range.

The profile likelihood of a faint pixel has several minima of chi-square, and the best node of a
grid need not lie in the lowest: a node that is no worse than its neighbours is a start.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from foreglow.recognition.fits.grids import Grid, grid, spectra_of
from foreglow.recognition.fits.joint import AnyPixels, AnyWhitened
from foreglow.recognition.fits.skymodel import SkyModel, fixed_spectra
from foreglow.sky.bandpass import Bands

# nodes of C and beta_s: where C is fixed; where it is free; and where chi-square can fall by less
# than this, so that spectra unlike any synchrotron compete
_STRAIGHT = ((1, 48),)
_CURVED = ((16, 32), (48, 40))
_LOW = 500.0
# and beside each node of the dust, where C is fixed and where it is free
_BESIDE_DUST = ((1, 72), (16, 32))
# a peak is no start if it is lower than the highest by more than this, and this share of it, and
# this one of what the dust explains, which between its nodes is less
_MARGIN, _SHARE, _DUST_SHARE = 1.5, 0.03, 0.003
_REACH = 3  # nodes by which a ridge may shift from row to row
_MOST = 12  # starts of a pixel
_CELLS = 1 << 19  # nodes times pixels at a time


@dataclass(frozen=True)
class Starts:
    """Starts of some pixels, those of a pixel one after another, the best first.

    Parameters
    ----------
    pixel, rank : Tensor, int64, shape (n_start,)
    parameters : Tensor, float64, shape (n_param, n_start)
    cost : Tensor, shape (n_start,)
        As of `Point`, to single precision.
    """

    pixel: Tensor
    rank: Tensor
    parameters: Tensor
    cost: Tensor

    def select(self, wanted: Tensor) -> "Starts":
        """Some of them, by a mask or by their places."""
        return Starts(
            self.pixel[wanted], self.rank[wanted], self.parameters[:, wanted], self.cost[wanted]
        )

    def split(self, count: int) -> "list[Starts]":
        """Some at a time."""
        places = torch.arange(len(self.pixel), device=self.pixel.device)
        return [self.select(some) for some in places.split(count)]

    def of_all(self, first: int, n: int, model: SkyModel) -> "Starts":
        """One at least for each of n pixels: the model's own, where none was found or dust is free.

        Pixels whose likelihood is beyond single precision have no peak, and those of bright dust
        may have none near it.
        """
        count = (self.pixel - first).bincount(minlength=n)
        wanted = torch.ones_like(count).bool() if "dust" in model.bent else count == 0
        if not wanted.any():
            return self
        place = torch.nonzero(wanted).squeeze(1)
        start = self.parameters.new_tensor([free.start for free in model.free.values()])
        parameters = start[:, None].expand(-1, len(place))
        cost = self.cost.new_full((len(place),), torch.inf)
        own = Starts(place + first, count[place], parameters, cost)
        every = Starts.join([self, own])
        return every.select(every.pixel.argsort(stable=True))

    @classmethod
    def join(cls, parts: "list[Starts]") -> "Starts":
        """All of several."""
        columns = zip(*((s.pixel, s.rank, s.parameters, s.cost) for s in parts), strict=True)
        return cls(*(torch.cat(values, -1) for values in columns))


@dataclass(frozen=True)
class Part:
    """Some pixels of many, from number `first` on, and without what fixed components explain."""

    first: int
    data: AnyWhitened
    pixels: AnyPixels

    @property
    def n(self) -> int:
        """Their number."""
        return self.data.data.shape[-1]

    def taken(self, pixel: Tensor) -> AnyPixels:
        """Some of them, by the numbers of all."""
        every = torch.arange(self.n, device=pixel.device) + self.first
        return self.pixels if torch.equal(pixel, every) else self.pixels.take(pixel - self.first)


@dataclass(frozen=True)
class _Peaks:
    """Peaks of some pixels on a grid: pixel, node (n_peak,), and what a parabola makes of them.

    way : how far from the node the top is, in nodes along the second axis, -0.5 to 0.5.
    """

    pixel: Tensor
    node: Tensor
    way: Tensor
    height: Tensor


Search = Callable[[Part, Tensor], Starts]
"""Starts for some pixels, given the parameters of all so far (n_param, n)."""


def searches(model: SkyModel, bands: Bands) -> list[Search]:
    """Searches whose descents, one search after another, lead to the lowest minimum.

    Bright dust is known too well for its nodes to tell which peak is the highest: synchrotron is
    sought once more beside the dust as it was found.
    """
    curved, fixed = "curvature" in model.free, fixed_spectra(model, bands)
    if "dust" not in model.bent:
        grids = [grid(model, bands, *shape) for shape in (_CURVED if curved else _STRAIGHT)]
        return [lambda part, _: _sought(grids, fixed, part)]
    shape = _BESIDE_DUST[curved]
    both, synchrotron = (grid(model, bands, *shape, with_dust=w) for w in (True, False))
    return [
        lambda part, _: _sought([both], fixed, part),
        partial(_beside_dust, model, bands, synchrotron),
    ]


def common_starts(
    model: SkyModel, bands: Bands, part: Part, region: Tensor, n_region: int
) -> Starts:
    """Starts of spectra that the pixels of a region share: peaks of the sum of their likelihoods.

    Parameters
    ----------
    model : SkyModel
    bands : Bands
    part : Part
        The pixels of all regions.
    region : Tensor, int64, shape (n,)
        From 0 to n_region - 1.

    Returns
    -------
    Starts
        Of the regions, in the place of pixels; one at least each, the model's own.
    """
    curved, fixed = "curvature" in model.free, fixed_spectra(model, bands)
    if "dust" in model.bent:
        nodes = grid(model, bands, *_BESIDE_DUST[curved])
    else:
        nodes = grid(model, bands, *(_CURVED if curved else _STRAIGHT)[-1])
    alone = replace(nodes, penalty=torch.zeros_like(nodes.penalty))
    total = part.data.data.new_zeros(len(nodes.nodes), n_region)
    for columns in _columns(part.n, len(nodes.nodes)):
        gain, _ = _gain(alone, fixed, part, columns)
        total.index_add_(1, region[columns], gain.double())
    total -= nodes.penalty
    margin = _MARGIN + _SHARE * (total.amax(0) - total.amin(0))
    peaks = _peaks(total, margin, nodes.shape, nodes.rows)
    starts = _starts(peaks.pixel, _between(nodes, peaks), peaks.height)
    return starts.of_all(0, n_region, model)


def _beside_dust(
    model: SkyModel, bands: Bands, synchrotron: Grid, part: Part, parameters: Tensor
) -> Starts:
    """Peaks over a grid of synchrotron, beside the dust as it was found."""
    parameters = parameters[:, part.first : part.first + part.n]
    dust, fixed = spectra_of(model, bands, parameters.T, 1).T, fixed_spectra(model, bands)
    every = torch.cat([fixed[..., None].expand(-1, -1, dust.shape[1]), dust[:, None]], 1)
    pixels = part.data.project(every)
    starts = _sought([synchrotron], fixed, replace(part, pixels=pixels))
    first = model.owner.index(1)
    starts.parameters[first:] = parameters[first:, starts.pixel - part.first]
    return starts


def _sought(grids: Sequence[Grid], fixed: Tensor, part: Part) -> Starts:
    """Peaks of the likelihood of pixels over a grid; over the next, finer one where it is low."""
    grid, *finer = grids
    found, n = [], part.n
    for columns in _columns(n, len(grid.nodes)):
        gain, margin = _gain(grid, fixed, part, columns)
        peaks = _peaks(gain, margin, grid.shape, grid.rows)
        found.append((peaks.pixel + columns.start, _between(grid, peaks), peaks.height))
    starts = _starts(*(torch.cat(values, -1) for values in zip(*found, strict=True)))
    if not finer:
        return replace(starts, pixel=starts.pixel + part.first)
    low = torch.zeros(n, dtype=torch.bool, device=starts.cost.device)
    low[starts.pixel[(starts.rank == 0) & (starts.cost > -_LOW)]] = True
    place = torch.nonzero(low).squeeze(1)
    again = starts.select(place[:0])
    if len(place):
        again = _sought(finer, fixed, Part(0, part.data.at(place), part.pixels.take(place)))
    again = replace(again, pixel=place[again.pixel])
    starts = Starts.join([starts.select(~low[starts.pixel]), again])
    starts = starts.select(starts.pixel.argsort(stable=True))
    return replace(starts, pixel=starts.pixel + part.first)


def _gain(grid: Grid, fixed: Tensor, part: Part, columns: slice) -> tuple[Tensor, Tensor]:
    """Fall of chi-square and priors by each node (node, n), and by how much it may be wrong (n,).

    Where the dust has nodes, beyond what the best of these explains alone: that may be more than
    single precision tells.
    """
    pixels = part.pixels.at(columns)
    if not len(grid.dust):
        gain = pixels.explained(grid.spectra[0]) - grid.penalty
        return gain, _MARGIN + _SHARE * gain.amax(0).abs()
    data = part.data.at(columns)
    alone = torch.stack([pixels.explained_by(dust[:, None]) for dust in grid.dust])
    most = alone.amax(0)
    gain = most.new_empty(*grid.spectra.shape[::2], len(most), dtype=torch.float32)
    for k, (dust, spectra) in enumerate(zip(grid.dust, grid.spectra, strict=True)):
        both = data.project(torch.cat([fixed, dust[:, None]], 1)[..., None])
        gain[k] = both.explained(spectra) + (alone[k] - most).float()
    gain = gain.flatten(0, 1) - grid.penalty
    return gain, _MARGIN + _SHARE * gain.amax(0).abs() + _DUST_SHARE * most.float()


def _columns(n: int, n_node: int) -> Iterator[slice]:
    """Pixels, as many at a time as stay in the cache with all nodes."""
    step = max(64, _CELLS // n_node)
    for first in range(0, n, step):
        yield slice(first, min(first + step, n))


def _between(grid: Grid, peaks: _Peaks) -> Tensor:
    """Parameters (n_param, n_peak) of the tops of peaks."""
    at, ahead = grid.nodes[peaks.node], grid.nodes[peaks.node + peaks.way.sign().long()]
    return torch.lerp(at, ahead, peaks.way.abs().double()[:, None]).T.contiguous()


def _peaks(gain: Tensor, margin: Tensor, shape: tuple[int, ...], rows=()) -> _Peaks:
    """Peaks of (n_node, n) along the last axis, no lower than those beside them on all others."""
    table = gain.unflatten(0, (-1, shape[-1]))  # (row, column, n)
    high = _above(table, gain.amax(0) - margin)
    rises = _above(table[:, 1:], table[:, :-1])
    high[:, 1:] &= rises
    high[:, :-1] &= ~rises
    for row in rows:
        same = slice(row, None, shape[-2])
        high[same] |= table[same] == table[same].amax((0, 1))
    row, column, pixel = torch.unravel_index(_places(high), table.shape)
    height = table[row, column, pixel]
    inside = (column > 0) & (column < shape[-1] - 1)
    left = table[row, (column - 1).clamp_min(0), pixel]
    right = table[row, (column + 1).clamp_max(shape[-1] - 1), pixel]
    bend = 2 * height - left - right
    inside &= bend > 0
    way = torch.where(inside, 0.5 * (right - left) / bend, 0.0)
    height = height + torch.where(inside, 0.25 * (right - left) * way, 0.0)
    peaks = _Peaks(pixel, row * shape[-1] + column, way, height)
    if len(table) == 1:
        return peaks
    ridges = torch.full_like(table, -torch.inf)
    ridges[row, column, pixel] = height
    top = _tops(peaks, ridges, shape, rows)
    return _Peaks(pixel[top], peaks.node[top], way[top], height[top])


# on a processor NumPy compares, and finds, four times as fast as PyTorch
def _above(one: Tensor, other: Tensor) -> Tensor:
    if one.device.type != "cpu":
        return one > other
    return torch.from_numpy(one.numpy() > other.numpy())


def _places(mask: Tensor) -> Tensor:
    if mask.device.type != "cpu":
        return torch.nonzero(mask.flatten()).squeeze(1)
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def _tops(peaks: _Peaks, ridges: Tensor, shape: tuple[int, ...], rows) -> Tensor:
    """Which peaks are no lower than those of the rows beside theirs, or are in rows of C."""
    row, column = peaks.node // shape[-1], peaks.node % shape[-1]
    shift = torch.arange(-_REACH, _REACH + 1, device=row.device)[:, None]
    beside = (column + shift).clamp(0, shape[-1] - 1)
    top = torch.ones_like(row, dtype=torch.bool)
    stride = 1
    for axis, count in enumerate(reversed(shape[:-1])):
        at = row // stride % count
        highest = peaks.height >= ridges[row - stride * (at > 0), beside, peaks.pixel].amax(0)
        after = row + stride * (at < count - 1)
        highest &= peaks.height >= ridges[after, beside, peaks.pixel].amax(0)
        for always in rows if axis == 0 else ():
            highest |= at == always
        top &= highest
        stride *= count
    return top


def _starts(pixel: Tensor, parameters: Tensor, height: Tensor) -> Starts:
    """Starts in the order of their pixels, and of their height in each; only the first of many."""
    order = height.argsort(descending=True)
    order = order[pixel[order].argsort(stable=True)]
    mine = pixel[order]
    rank = torch.arange(len(mine), device=mine.device) - torch.searchsorted(mine, mine)
    starts = Starts(mine, rank, parameters[:, order], -height[order].double())
    return starts.select(rank < _MOST)
