"""Where the fits of pixels start: the peaks of the likelihood on a grid over all of its range.

The profile likelihood of a faint pixel has several minima of chi-square, and the best node of a
grid need not lie in the lowest: a node that is no worse than its neighbours is a start.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from foreglow.recognition.profile import Pixels, explained, project
from foreglow.recognition.skymodel import Free, SkyModel, bent_spectra, fixed_spectra
from foreglow.sky import seds
from foreglow.sky.bandpass import Bands

# nodes of C and beta_s: where C is fixed; where it is free; and where chi-square can fall by less
# than this, so that spectra unlike any synchrotron compete
_STRAIGHT = ((1, 48),)
_CURVED = ((16, 32), (48, 40))
_LOW = 500.0
_DUST = {"beta_d": 13, "dust_temperature": 9}  # and of the dust
_EVEN = {"curvature": 0.3, "beta_d": 1.0, "dust_temperature": 5.0}  # about the start
# turn [rad] that the whole range of beta_s counts as, whatever the spectrum does; most that it may,
# if it went on as at a point; and that of the whole of its prior
_DRIFT, _STEEP, _PRIOR = 1.0, 60.0, 2.0
_FINE = 400  # points on which the turn is followed
# rows where the best node is a start in any case: on either side of the hill where the spectrum
# turns up in the highest bands, which is too narrow for a grid
_CURVATURES = (0.0, 0.7)
_COARSE = 4  # every so many-th node stands for the synchrotron where dust is sought first
# a peak is no start if it is lower than the highest by more than this, and this share of it
_MARGIN, _SHARE = 1.5, 0.03
_REACH = 3  # nodes by which a ridge may shift from row to row
_MOST = 12  # starts of a pixel
_CELLS = 1 << 19  # nodes times pixels at a time


@dataclass(frozen=True)
class Grid:
    """Nodes of the parameters of one component.

    Parameters
    ----------
    component : int
        Its place in `model.bent`.
    shape : tuple of int
        Nodes along two axes; neighbours along them are neighbours in the parameters.
    nodes : Tensor, shape (n_node, n_param)
        Of all parameters of the model: those of the other component are at their start.
    spectra : Tensor, float32, shape (n_band, n_node)
        Up to a factor a node.
    penalty : Tensor, float32, shape (n_node, 1)
        What the priors of the component's parameters add to chi-square.
    rows : tuple of int
        Places along the first axis where the highest node is a start in any case.
    """

    component: int
    shape: tuple[int, int]
    nodes: Tensor
    spectra: Tensor
    penalty: Tensor
    rows: tuple[int, ...] = ()


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

    def of_all(self, part: "Part", model: SkyModel) -> "Starts":
        """One at least for each pixel: the model's own, where none was found.

        Pixels whose likelihood is beyond single precision have no peak.
        """
        lacking = torch.ones(part.weight.shape[1], dtype=torch.bool, device=self.pixel.device)
        lacking[self.pixel - part.first] = False
        if not lacking.any():
            return self
        pixel = torch.nonzero(lacking).squeeze(1) + part.first
        start = self.parameters.new_tensor([free.start for free in model.free.values()])
        parameters = start[:, None].expand(-1, len(pixel))
        cost = self.cost.new_full((len(pixel),), torch.inf)
        every = Starts.join([self, Starts(pixel, torch.zeros_like(pixel), parameters, cost)])
        return every.select(every.pixel.argsort(stable=True))

    @classmethod
    def join(cls, parts: "list[Starts]") -> "Starts":
        """All of several."""
        columns = zip(*((s.pixel, s.rank, s.parameters, s.cost) for s in parts), strict=True)
        return cls(*(torch.cat(values, -1) for values in columns))


@dataclass(frozen=True)
class Part:
    """Some pixels of many, from number `first` on: (n_band, n), (n_band, 2, n)."""

    first: int
    weight: Tensor
    whitened: Tensor
    pixels: Pixels

    def taken(self, pixel: Tensor) -> Pixels:
        """Some of them, by the numbers of all."""
        every = torch.arange(self.weight.shape[1], device=pixel.device) + self.first
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

    Two components that bend are sought in turn, each over all of its grid, beside the other as it
    was found so far.
    """
    curved = "curvature" in model.free
    grids = [synchrotron_grid(model, bands, *shape) for shape in (_CURVED if curved else _STRAIGHT)]
    if "dust" not in model.bent:
        return [lambda part, _: _sought(grids, part, part.pixels)]
    dust = dust_grid(model, bands)
    return [
        partial(_of_both, model, bands, grids[0], dust),
        partial(_beside_other, model, bands, grids),
        partial(_beside_other, model, bands, [dust]),
    ]


def synchrotron_grid(model: SkyModel, bands: Bands, n_curvature: int, n_beta: int) -> Grid:
    """Nodes of beta_s, and of C if it is free, that are as many as the spectra are different.

    For each C the nodes of beta_s are even steps of the angle by which the spectrum turns, seen by
    bands whose noise falls as frequency squared, after the components of fixed spectrum.
    """
    free, start = model.free, _start(model, bands)
    curvature = free.get("curvature")
    c = (
        _evenly(curvature, n_curvature, _EVEN["curvature"]).to(start)
        if curvature
        else start.new_zeros(1)
    )
    t = torch.linspace(0, 1, _FINE).to(start)
    fine = start.repeat(len(c), _FINE, 1)
    fine[..., 0] = free["beta_s"].low + (free["beta_s"].high - free["beta_s"].low) * t
    if curvature:
        fine[..., 1] = c[:, None]
    outside = _outside(bands, _spectra(model, bands, fine, 0), _others(model, bands, start))
    turn = (
        torch.linalg.vector_norm(outside.diff(dim=1), dim=-1).clamp_max(_STEEP / _FINE)
        + _DRIFT / _FINE
    )
    turn += _PRIOR * _prior_share(free["beta_s"], fine[0, :, 0]).diff()
    way = torch.nn.functional.pad(turn.cumsum(1), (1, 0))
    wanted = way[:, -1:] * torch.linspace(0, 1, n_beta).to(start)
    place = torch.searchsorted(way, wanted).clamp_max(_FINE - 1)
    nodes = fine.gather(1, place[..., None].expand(-1, -1, fine.shape[2])).flatten(0, 1)
    grid = _grid(model, bands, 0, (len(c), n_beta), nodes)
    rows = {int((c - value).abs().argmin()) for value in _CURVATURES}
    return replace(grid, rows=tuple(sorted(rows))) if curvature else grid


def dust_grid(model: SkyModel, bands: Bands) -> Grid:
    """Nodes of beta_d and of the temperature of dust, those that are free."""
    start, names = _start(model, bands), list(model.free)
    mine = [name for name in _DUST if name in model.free]
    axes = [_evenly(model.free[name], _DUST[name], _EVEN[name]) for name in mine]
    values = torch.cartesian_prod(*axes).reshape(-1, len(mine)).to(start)
    nodes = start.repeat(len(values), 1)
    nodes[:, [names.index(name) for name in mine]] = values
    return _grid(model, bands, 1, (len(values) // len(axes[-1]), len(axes[-1])), nodes)


def _start(model: SkyModel, bands: Bands) -> Tensor:
    return bands.node_ghz.new_tensor([free.start for free in model.free.values()])


def _evenly(free: Free, count: int, near: float) -> Tensor:
    """Values from bound to bound, the denser the nearer to the start; even within `near` of it."""
    ends = torch.tensor([free.low, free.high], dtype=torch.float64)
    low, high = torch.asinh((ends - free.start) / near)
    return free.start + near * torch.sinh(torch.linspace(float(low), float(high), count).double())


def _prior_share(free: Free, values: Tensor) -> Tensor:
    """Share of the prior below each value; nothing where it is flat."""
    if free.prior is None:
        return torch.zeros_like(values)
    return torch.special.ndtr((values - free.prior[0]) / free.prior[1])


def _noise_slope(bands: Bands) -> Tensor:
    return (bands.average(bands.node_ghz) / seds.SYNCHROTRON_PIVOT_GHZ) ** 2


def _spectra(model: SkyModel, bands: Bands, parameters: Tensor, component: int) -> Tensor:
    """Spectra (..., n_band) of one of the bent components."""
    shape = parameters.shape[:-1]
    bent = bent_spectra(model, bands.node_ghz, parameters.reshape(-1, parameters.shape[-1]))[0]
    return bands.average(bent[..., component]).unflatten(0, shape)


def _outside(bands: Bands, spectra: Tensor, fixed: Tensor) -> Tensor:
    """Directions (..., n_band) of spectra over noise, outside the span of others (n_band, k)."""
    slope = _noise_slope(bands)
    basis = torch.linalg.qr(slope[:, None] * fixed).Q
    left = spectra * slope
    for _ in range(2):  # twice, for what rounding leaves
        left = left / torch.linalg.vector_norm(left, dim=-1, keepdim=True)
        left = left - left @ basis @ basis.T
    return left / torch.linalg.vector_norm(left, dim=-1, keepdim=True)


def _others(model: SkyModel, bands: Bands, parameters: Tensor) -> Tensor:
    """Spectra (n_band, n) of all components but synchrotron."""
    fixed = fixed_spectra(model, bands)
    if "dust" not in model.bent:
        return fixed
    return torch.cat([fixed, _spectra(model, bands, parameters[None], 1).T], 1)


def _grid(
    model: SkyModel, bands: Bands, component: int, shape: tuple[int, int], nodes: Tensor
) -> Grid:
    # what is left beside fixed components explains as much, and single precision tells it
    spectra = _spectra(model, bands, nodes, component)
    spectra = _outside(bands, spectra, fixed_spectra(model, bands)) / _noise_slope(bands)
    penalty = _penalty(model, nodes.T, component).float()[:, None]
    return Grid(component, shape, nodes, spectra.T.float().contiguous(), penalty)


def _penalty(model: SkyModel, parameters: Tensor, component: int) -> Tensor:
    """What the priors of a component's parameters (n_param, n) add to chi-square."""
    penalty = torch.zeros_like(parameters[0])
    for k, free in enumerate(model.free.values()):
        if free.prior is not None and model.owner[k] == component:
            penalty += ((parameters[k] - free.prior[0]) / free.prior[1]) ** 2
    return penalty


def _sought(grids: Sequence[Grid], part: Part, pixels: Pixels) -> Starts:
    """Peaks of the likelihood of pixels over a grid; over the next, finer one where it is low."""
    grid, *finer = grids
    found, n = [], pixels.inverse_variance.shape[1]
    for columns in _columns(n, len(grid.nodes)):
        few = Pixels(pixels.rows[..., columns], pixels.inverse_variance[:, columns])
        peaks = _peaks(explained(few, grid.spectra) - grid.penalty, grid.shape, grid.rows)
        found.append((peaks.pixel + columns.start, _between(grid, peaks), peaks.height))
    starts = _starts(*(torch.cat(values, -1) for values in zip(*found, strict=True)))
    if not finer:
        return replace(starts, pixel=starts.pixel + part.first)
    low = torch.zeros(n, dtype=torch.bool, device=starts.cost.device)
    low[starts.pixel[(starts.rank == 0) & (starts.cost > -_LOW)]] = True
    place = torch.nonzero(low).squeeze(1)
    again = (
        _sought(finer, replace(part, first=0), pixels.take(place))
        if len(place)
        else starts.select(place)
    )
    again = replace(again, pixel=place[again.pixel])
    starts = Starts.join([starts.select(~low[starts.pixel]), again])
    starts = starts.select(starts.pixel.argsort(stable=True))
    return replace(starts, pixel=starts.pixel + part.first)


def _columns(n: int, n_node: int) -> Iterator[slice]:
    """Pixels, as many at a time as stay in the cache with all nodes."""
    step = max(256, _CELLS // n_node)
    for first in range(0, n, step):
        yield slice(first, min(first + step, n))


def _beside_other(
    model: SkyModel, bands: Bands, grids: Sequence[Grid], part: Part, parameters: Tensor
) -> Starts:
    """Peaks over the grid of one component, beside the other as it was found."""
    mine = slice(part.first, part.first + part.weight.shape[1])
    parameters, component = parameters[:, mine], grids[0].component
    other = _spectra(model, bands, parameters.T, 1 - component).T
    fixed = fixed_spectra(model, bands)[..., None].expand(-1, -1, other.shape[1])
    both = project(torch.cat([fixed, other[:, None]], 1), part.weight, part.whitened)
    starts = _sought(grids, part, both)
    place = starts.pixel - part.first
    own = starts.parameters.new_tensor([owner == component for owner in model.owner]).bool()
    values = torch.where(own[:, None], starts.parameters, parameters[:, place])
    alone = _explained_by(part.pixels, other) - _penalty(model, parameters, 1 - component)
    return Starts(starts.pixel, starts.rank, values, starts.cost - alone[place])


def _of_both(
    model: SkyModel, bands: Bands, synchrotron: Grid, dust: Grid, part: Part, _: Tensor
) -> Starts:
    """Peaks over the grid of the dust beside each of a few nodes of the synchrotron."""
    few = synchrotron.nodes.unflatten(0, synchrotron.shape)
    few = few[synchrotron.shape[0] % _COARSE // 2 :: _COARSE, _COARSE // 2 :: _COARSE].flatten(0, 1)
    spectra, fixed = _spectra(model, bands, few, 0), fixed_spectra(model, bands)
    shape, n_dust = (len(few) * dust.shape[0], dust.shape[1]), len(dust.nodes)
    first_of_dust, found = model.owner.index(1), []
    for columns in _columns(part.weight.shape[1], len(few) * n_dust):
        weight, whitened = part.weight[:, columns], part.whitened[..., columns]
        pixels = Pixels(part.pixels.rows[..., columns], part.pixels.inverse_variance[:, columns])
        gain = weight.new_empty(len(few), n_dust, weight.shape[1], dtype=torch.float32)
        for k, spectrum in enumerate(spectra):
            both = project(torch.cat([fixed, spectrum[:, None]], 1)[..., None], weight, whitened)
            alone = _explained_by(pixels, spectrum[:, None]) - _penalty(model, few[k, :, None], 0)
            gain[k] = explained(both, dust.spectra) - dust.penalty + alone.float()
        peaks = _peaks(gain.flatten(0, 1), shape)
        which, node = peaks.node // n_dust, peaks.node % n_dust
        values = _between(dust, replace(peaks, node=node))
        values[:first_of_dust] = few[which].T[:first_of_dust]
        found.append((peaks.pixel + columns.start + part.first, values, peaks.height))
    return _starts(*(torch.cat(values, -1) for values in zip(*found, strict=True)))


def _between(grid: Grid, peaks: _Peaks) -> Tensor:
    """Parameters (n_param, n_peak) of the tops of peaks."""
    at, ahead = grid.nodes[peaks.node], grid.nodes[peaks.node + peaks.way.sign().long()]
    return torch.lerp(at, ahead, peaks.way.abs().double()[:, None]).T.contiguous()


def _explained_by(pixels: Pixels, spectrum: Tensor) -> Tensor:
    """Fall of chi-square that a spectrum (n_band, n or 1) brings, (n,)."""
    along = (pixels.rows * spectrum[:, None]).sum(0)
    left = (pixels.inverse_variance * spectrum.square()).sum(0) - along[2:].square().sum(0)
    return along[:2].square().sum(0) / left


def _peaks(gain: Tensor, shape: tuple[int, int], rows=()) -> _Peaks:
    """Peaks of (n_node, n) along the second axis, no lower than those beside them on the first."""
    table = gain.unflatten(0, shape)  # (row, column, n)
    best = gain.amax(0)
    high = table > best - (_MARGIN + _SHARE * best.abs())
    rises = table[:, 1:] > table[:, :-1]
    high[:, 1:] &= rises
    high[:, :-1] &= ~rises
    for row in rows:
        high[row] |= table[row] == table[row].amax(0)
    row, column, pixel = torch.nonzero(high).unbind(1)
    height = table[row, column, pixel]
    inside = (column > 0) & (column < shape[1] - 1)
    left = table[row, (column - 1).clamp_min(0), pixel]
    right = table[row, (column + 1).clamp_max(shape[1] - 1), pixel]
    bend = 2 * height - left - right
    inside &= bend > 0
    way = torch.where(inside, 0.5 * (right - left) / bend, 0.0)
    height = height + torch.where(inside, 0.25 * (right - left) * way, 0.0)
    if shape[0] > 1:
        ridges = torch.full_like(table, -torch.inf)
        ridges[row, column, pixel] = height
        shift = torch.arange(-_REACH, _REACH + 1, device=row.device)[:, None]
        beside = (column + shift).clamp(0, shape[1] - 1)
        top = height >= ridges[(row - 1).clamp_min(0), beside, pixel].amax(0)
        top &= height >= ridges[(row + 1).clamp_max(shape[0] - 1), beside, pixel].amax(0)
        for always in rows:
            top |= row == always
        row, column, pixel, way, height = (v[top] for v in (row, column, pixel, way, height))
    return _Peaks(pixel, row * shape[1] + column, way, height)


def _starts(pixel: Tensor, parameters: Tensor, height: Tensor) -> Starts:
    """Starts in the order of their pixels, and of their height in each; only the first of many."""
    order = height.argsort(descending=True)
    order = order[pixel[order].argsort(stable=True)]
    mine = pixel[order]
    rank = torch.arange(len(mine), device=mine.device) - torch.searchsorted(mine, mine)
    starts = Starts(mine, rank, parameters[:, order], -height[order].double())
    return starts.select(rank < _MOST)
