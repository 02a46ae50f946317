"""Spectral parameters that many pixels share: sums of their likelihoods, and descents on these.

A region is a set of pixels whose parameters hang together. Its parameters are a list of values, and
each pixel knows the places of its own in that list.
"""

from dataclasses import dataclass, fields, replace
from typing import Protocol, Self

import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from foreglow.recognition.fits.descent import DAMPING_RANGE, MAX_STEPS, TOLERANCE
from foreglow.recognition.fits.integrand import AnyIntegrand, sum_of
from foreglow.recognition.fits.joint import AnyPixels
from foreglow.recognition.fits.likelihood import Point, Whitened
from foreglow.recognition.fits.skymodel import SkyModel, without_priors
from foreglow.sky.bandpass import Bands

_ROUNDING = 1e-14  # of a cost that is a sum over many pixels
_SLICE = 4096  # pixels whose derivatives stay in the cache


@dataclass(frozen=True)
class Shared:
    """How the pixels of some regions share parameters.

    Parameters
    ----------
    region : Tensor, int64, shape (n,)
        Of each pixel, from 0.
    place : Tensor, int64, shape (n_param, n)
        Of each pixel's parameters in the list of its region.
    kind : Tensor, int64, shape (n_region, most)
        Which parameter each value of a list is, as `model.free` numbers them; -1 beyond its end.
    patch : Tensor, int64, shape (n_region, most)
        The number of the patch of which it is the parameter.
    """

    region: Tensor
    place: Tensor
    kind: Tensor
    patch: Tensor

    @classmethod
    def of(cls, label: Tensor, region: Tensor) -> Self:
        """Of patches (n_param, n) in regions (n,)."""
        width = int(label.amax()) + 1
        keys, inverse = zip(
            *(torch.unique(region * width + mine, return_inverse=True) for mine in label),
            strict=True,
        )
        kind = torch.cat([torch.full_like(key, k) for k, key in enumerate(keys)])
        key = torch.cat(keys)
        owner, number = key // width, key % width
        order = (owner * len(label) + kind).argsort(stable=True)
        first = torch.searchsorted(owner[order], torch.unique(owner))
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device) - first[owner[order]]
        table = torch.full((len(first), int(rank.amax()) + 1), -1, device=region.device)
        kinds, patches = table.clone(), table
        kinds[owner, rank], patches[owner, rank] = kind, number
        ranks = rank.split([len(key) for key in keys])
        place = torch.stack([mine[i] for mine, i in zip(ranks, inverse, strict=True)])
        return cls(region, place, kinds, patches)

    @classmethod
    def alike(cls, region: Tensor, n_region: int, n_param: int) -> Self:
        """Of regions that are one patch for all parameters."""
        each = torch.arange(n_param, device=region.device)
        kind = each.expand(n_region, -1)
        number = torch.arange(n_region, device=region.device)[:, None].expand(-1, n_param)
        return cls(region, each[:, None].expand(-1, len(region)), kind, number)

    def select(self, regions: Tensor) -> tuple[Tensor, Self]:
        """The places of the pixels of some regions, and how these share parameters."""
        number = torch.full_like(self.kind[:, 0], -1)
        number[regions] = torch.arange(len(regions), device=regions.device)
        new = number[self.region]
        pixels = torch.nonzero(new >= 0).squeeze(1)
        return pixels, type(self)(
            new[pixels], self.place[:, pixels], self.kind[regions], self.patch[regions]
        )


def compressed(data: Whitened, shared: Shared) -> tuple[Whitened, Shared]:
    """The same likelihoods of few pixels, where many have the same parameters and the same noise.

    All that is summed is quadratic in the data: of pixels alike it depends on the sum of d d^T
    alone, of Q and U of all, and rows of its triangular root are as good as all the data.
    """
    n_band = len(data.weight)
    few = -(-n_band // 2)  # pixels, whose Q and U hold a row each
    key, most = shared.region, shared.kind.shape[1]
    for place in shared.place:
        key = key * most + place
    group = torch.unique(key, return_inverse=True)[1]
    size = torch.bincount(group)
    if size.amax() <= 2 * few:
        return data, shared
    order = group.argsort(stable=True)
    first = order[size.cumsum(0) - size]
    alike = torch.ones_like(size).bool()
    differs = (data.weight != data.weight[:, first[group]]).any(0)
    alike[group[differs]] = False
    alike &= size > 2 * few
    kept = torch.nonzero(~alike[group]).squeeze(1)
    roots, members = [], order.split(size.tolist())
    for k in torch.nonzero(alike).squeeze(1).tolist():
        rows = data.data[:, :, members[k]].flatten(1)  # (band, 2 n)
        root = torch.linalg.qr(rows.T, mode="r").R
        root = torch.nn.functional.pad(root, (0, 0, 0, 2 * few - n_band))
        roots.append(root.reshape(few, 2, n_band).permute(2, 1, 0))
    if not roots:
        return data, shared
    of = first[alike].repeat_interleave(few)
    index = torch.cat([kept, of])
    weight = data.weight[:, index]
    values = torch.cat([data.data[..., kept], *roots], -1)
    fewer = replace(shared, region=shared.region[index], place=shared.place[:, index])
    return Whitened(weight, values), fewer


class Summand(Protocol):
    """Likelihoods of pixels, which add up over a region."""

    def take(self, index: Tensor) -> Self:
        """Some of the pixels."""
        ...

    def point(self, some: slice, parameters: Tensor) -> Point:
        """Of a slice of the pixels, at parameters (n_param, n), without any prior."""
        ...


@dataclass(frozen=True)
class Profile:
    """The profile likelihood of pixels: amplitudes eliminated."""

    model: SkyModel
    bands: Bands
    pixels: AnyPixels

    def take(self, index: Tensor) -> "Profile":
        """Some of the pixels."""
        return replace(self, pixels=self.pixels.take(index))

    def point(self, some: slice, parameters: Tensor) -> Point:
        """See `Summand`."""
        return self.pixels.at(some).linearise(without_priors(self.model), self.bands, parameters)


@dataclass(frozen=True)
class Marginal:
    """The likelihood of pixels, amplitudes integrated: of each the sum of some terms."""

    model: SkyModel
    bands: Bands
    terms: tuple[AnyIntegrand, ...]

    def take(self, index: Tensor) -> "Marginal":
        """Some of the pixels."""
        return replace(self, terms=tuple(term.take(index) for term in self.terms))

    def point(self, some: slice, parameters: Tensor) -> Point:
        """See `Summand`."""
        terms, points = self._linearised(some, parameters)
        return sum_of(terms, points)

    def log_value(self, some: slice, parameters: Tensor) -> Tensor:
        """Log of the integrand of a slice of the pixels, without any prior."""
        both = zip(*self._linearised(some, parameters), strict=True)
        values = [term.log_value(self.model, self.bands, point) for term, point in both]
        return torch.stack(values).logsumexp(0)

    def _linearised(
        self, some: slice, parameters: Tensor
    ) -> tuple[list[AnyIntegrand], list[Point]]:
        model, terms = without_priors(self.model), [term.at(some) for term in self.terms]
        return terms, [term.linearise(model, self.bands, parameters) for term in terms]


@dataclass(frozen=True)
class Solved:
    """Where the descents of regions ended.

    Parameters
    ----------
    values : Tensor, shape (n_region, most)
    cost : Tensor, shape (n_region,)
        Chi-square and priors, as of `Point`.
    fall : Tensor, shape (n_region, most)
    fisher, hessian : Tensor, shape (n_region, most, most)
        As of `Point`, with priors; 1 on the diagonal beyond the end of a list.
    converged : Tensor, bool, shape (n_region,)
    """

    values: Tensor
    cost: Tensor
    fall: Tensor
    fisher: Tensor
    hessian: Tensor
    converged: Tensor

    def take(self, index: Tensor | slice) -> "Solved":
        """Some of the regions, in memory of their own."""
        return Solved(*(getattr(self, f.name)[index].clone() for f in fields(self)))

    def put(self, index: Tensor, other: "Solved") -> None:
        """Write others in the place of some regions."""
        for f in fields(self):
            getattr(self, f.name)[index] = getattr(other, f.name)


def connected(label: Tensor) -> Tensor:
    """Number of the region of each pixel (n,), of patches (n_param, n); from 0, in order."""
    first, *others = (torch.unique(mine, return_inverse=True)[1] for mine in label)
    if all(torch.equal(first, other) for other in others):
        return first
    offset, nodes = 0, []
    for mine in (first, *others):
        nodes.append(mine + offset)
        offset += int(mine.amax()) + 1
    ends = torch.cat([torch.stack([nodes[0], other]) for other in nodes[1:]], 1).cpu().numpy()
    graph = coo_array((torch.ones(ends.shape[1]).numpy(), ends), shape=(offset, offset))
    number = torch.from_numpy(connected_components(graph, directed=False)[1]).long()
    return torch.unique(number.to(label.device)[nodes[0]], return_inverse=True)[1]


def descend(model: SkyModel, what: Summand, shared: Shared, start: Tensor) -> Solved:
    """Minimum of chi-square and priors of every region, from a start (n_region, most).

    Newton's steps, damped; Gauss and Newton's where the Hessian is not positive definite.
    """
    free = model.free.values()
    limits = start.new_tensor([[f.low, f.high] for f in free])[shared.kind.clamp_min(0)]
    now = _total(model, what, shared, start.clone())  # which is written into
    ended, live = now.take(slice(None)), torch.arange(len(start), device=start.device)
    damping = torch.full_like(now.cost, 1e-3)
    for _ in range(MAX_STEPS):
        step, promise = _damped_step(now, shared, damping, limits)
        now.converged.copy_(promise < TOLERANCE + _ROUNDING * now.cost.abs())
        keep = torch.nonzero(~now.converged).squeeze(1)
        if len(keep) < 0.75 * len(live):  # a few finished regions cost less than a copy
            ended.put(live, now)
            if len(keep) == 0:
                return ended
            pixels, shared = shared.select(keep)
            what, now, step = what.take(pixels), now.take(keep), step[keep]
            live, damping, limits = live[keep], damping[keep], limits[keep]
        aim = torch.clamp(now.values + step, limits[..., 0], limits[..., 1])
        trial = _total(model, what, shared, aim)
        better = trial.cost <= now.cost + _ROUNDING * now.cost.abs()
        index = torch.nonzero(better).squeeze(1)
        now.put(index, trial.take(index))
        damping = torch.where(better, damping / 10, damping * 10).clamp_(*DAMPING_RANGE)
    ended.put(live, now)
    return ended


def _total(model: SkyModel, what: Summand, shared: Shared, values: Tensor) -> Solved:
    """Cost and derivatives of regions, at values (n_region, most) of their parameters."""
    n_region, most = values.shape
    cost, fall = values.new_zeros(n_region), values.new_zeros(n_region * most)
    fisher, hessian = (values.new_zeros(n_region * most**2) for _ in range(2))
    for first in range(0, len(shared.region), _SLICE):
        some = slice(first, first + _SLICE)
        region, place = shared.region[some], shared.place[:, some]
        one = region * most + place
        point = what.point(some, values.flatten()[one])
        cost.index_add_(0, region, point.cost)
        fall.index_add_(0, one.flatten(), point.fall.flatten())
        two = (one[:, None] * most + place).flatten()
        fisher.index_add_(0, two, point.fisher.flatten())
        hessian.index_add_(0, two, point.hessian.flatten())
    fall = fall.unflatten(0, (n_region, most))
    fisher, hessian = (m.unflatten(0, (n_region, most, most)) for m in (fisher, hessian))
    mean, rms = priors(model, shared.kind, values)
    pull = (mean - values) / rms
    narrow = torch.diag_embed(rms**-2 + (shared.kind < 0))
    return Solved(
        values, cost + pull.square().sum(1), fall + pull / rms, fisher + narrow, hessian + narrow,
        torch.zeros_like(cost).bool(),
    )  # fmt: skip


def priors(model: SkyModel, kind: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and rms of the priors of values of some kinds; an infinite rms where there is none."""
    known = [f.prior or (0.0, torch.inf) for f in model.free.values()]
    mean, rms = like.new_tensor([*known, (0.0, torch.inf)])[kind].unbind(-1)
    return mean, rms


def log_integral(model: SkyModel, what: Marginal, shared: Shared, best: Tensor) -> Tensor:
    """Log of the integral over all parameters of a region (n_region,), without powers of 2 pi.

    By Laplace's method about the higher mode of those that descents reach from the means of the
    priors and from the best fit (n_region, most).
    """
    mean, rms = priors(model, shared.kind, best)
    mode = descend(model, what, shared, mean)
    other = descend(model, what, shared, best)
    lower = torch.nonzero(other.cost < mode.cost).squeeze(1)
    mode.put(lower, other.take(lower))
    value = torch.zeros_like(mode.cost)
    for first in range(0, len(shared.region), _SLICE):
        some = slice(first, first + _SLICE)
        region = shared.region[some]
        values = what.log_value(some, mode.values[region, shared.place[:, some]])
        value.index_add_(0, region, values)
    known = torch.isfinite(rms)
    value -= (0.5 * ((mode.values - mean) / rms).square() + torch.where(known, rms, 1.0).log()).sum(
        1
    )
    root, failed = torch.linalg.cholesky_ex(mode.hessian)
    root = torch.where(failed[:, None, None] == 0, root, torch.linalg.cholesky_ex(mode.fisher).L)
    return value - torch.log(torch.diagonal(root, dim1=1, dim2=2)).sum(1)


def _damped_step(
    now: Solved, shared: Shared, damping: Tensor, limits: Tensor
) -> tuple[Tensor, Tensor]:
    """Steps (n_region, most), and the fall of the cost that they promise (n_region,)."""
    at, fall = now.values, now.fall
    held = (at <= limits[..., 0]) & (fall < 0) | (at >= limits[..., 1]) & (fall > 0)
    held |= shared.kind < 0
    fall = fall.masked_fill(held, 0.0)
    either = held[:, :, None] | held[:, None]
    fisher, hessian = (m.masked_fill(either, 0.0) for m in (now.fisher, now.hessian))
    along = torch.diagonal(fisher, dim1=1, dim2=2)
    more = torch.diag_embed(damping[:, None] * torch.where(along > 0, along, 1.0) + held)
    positive = torch.linalg.cholesky_ex(hessian + more).info == 0
    chosen = torch.where(positive[:, None, None], hessian, fisher) + more
    step = torch.cholesky_solve(fall[..., None], torch.linalg.cholesky_ex(chosen).L)[..., 0]
    return step, (1 + damping) * (step * fall).sum(1)
