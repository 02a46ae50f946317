"""Descents of pixels to the lowest minimum of the profile likelihood, thousands at a time."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foreglow.recognition.fits.joint import AnyPixels, AnyWhitened
from foreglow.recognition.fits.likelihood import Columns, Point
from foreglow.recognition.fits.matrices import solve
from foreglow.recognition.fits.skymodel import SkyModel, fixed_spectra
from foreglow.recognition.fits.starts import Part, Starts, searches
from foreglow.sky.bandpass import Bands

MAX_STEPS = 100
TOLERANCE = 1e-8  # converged where a step promises less than this in chi-square
DAMPING_RANGE = (1e-9, 1e12)
# a descent is given up this near to a lower end in chi-square, or if it cannot come below that end
# even where it falls so many times further than its step promises, and by so much more
_NEAR = 0.01
_HOPE, _MARGIN = 10.0, 0.5
_SMALLEST = 1e-12  # step of any parameter, under which there is nothing but rounding


@dataclass(frozen=True)
class Ends(Columns):
    """Where descents ended: (n_param, n), (n_param, n_param, n), (n,), (n,)."""

    parameters: Tensor
    fisher: Tensor
    cost: Tensor
    converged: Tensor


@dataclass(frozen=True)
class _Descents(Columns):
    """Descents under way, the place of each one's end, and the lowest end there so far."""

    pixels: AnyPixels
    point: Point
    damping: Tensor
    place: Tensor
    rival: Ends


def lowest_ends(model: SkyModel, bands: Bands, data: AnyWhitened, batch: int) -> Ends:
    """The lowest minimum of every pixel, of which `batch` are in flight at a time."""
    fixed = fixed_spectra(model, bands)[..., None]
    n = data.data.shape[-1]
    parts = []
    for first in range(0, n, batch):
        mine = data.at(slice(first, first + batch))
        parts.append(Part(first, mine, mine.project(fixed)))
    best = _no_ends(model, data.data, n)
    for search in searches(model, bands):
        found = [search(part, best.parameters) for part in parts]
        if torch.isinf(best.cost).all():
            found = [
                s.of_all(part.first, part.n, model) for part, s in zip(parts, found, strict=True)
            ]
            first = [starts.select(starts.rank == 0) for starts in found]
            best = _ends_of(model, bands, parts, first, best, batch)
            found = [starts.select(starts.rank > 0) for starts in found]
        best = _lower(best, found, _ends_of(model, bands, parts, found, best, batch))
    return best


def _no_ends(model: SkyModel, like: Tensor, n: int) -> Ends:
    p = len(model.free)
    cost = like.new_full((n,), torch.inf)
    return Ends(like.new_zeros(p, n), like.new_zeros(p, p, n), cost, torch.zeros_like(cost).bool())


def _ends_of(
    model: SkyModel,
    bands: Bands,
    parts: list[Part],
    found: list[Starts],
    best: Ends,
    batch: int,
) -> Ends:
    """The ends of the descents from starts, one after another, and the best ends so far."""
    ends = _no_ends(model, best.cost, sum(len(starts.pixel) for starts in found))
    late: list[_Descents] = []
    first = 0
    for part, starts in zip(parts, found, strict=True):
        for some in starts.split(batch):
            pixels = part.taken(some.pixel)
            point = pixels.linearise(model, bands, some.parameters)
            place = torch.arange(first, first + len(some.pixel), device=best.cost.device)
            first += len(place)
            fresh = _Descents(
                pixels, point, torch.full_like(point.cost, 1e-3), place, best.take(some.pixel)
            )
            # with the last of those before: few pixels take as long as hundreds
            few = batch // 2 if first < len(ends.cost) else 0
            late = [_descend(model, bands, _Descents.join([*late, fresh]), ends, few)]
    return ends


def _lower(best: Ends, found: list[Starts], ends: Ends) -> Ends:
    """The best ends so far, or lower ones."""
    starts = Starts.join(found)
    for rank in range(int(starts.rank.amax()) + 1 if len(starts.rank) else 0):  # a pixel once each
        mine = torch.nonzero(starts.rank == rank).squeeze(1)
        lower = mine[ends.cost[mine] < best.cost[starts.pixel[mine]]]
        here = starts.pixel[lower]
        best.put(here, ends.take(lower))
    return best


def _descend(model: SkyModel, bands: Bands, descents: _Descents, ends: Ends, few: int) -> _Descents:
    """Levenberg-Marquardt within the bounds, until only few are under way: these."""
    free = model.free.values()
    low, high = bands.node_ghz.new_tensor([[f.low for f in free], [f.high for f in free]])[
        ..., None
    ]
    now = descents
    converged = torch.zeros_like(now.rival.converged)
    for _ in range(MAX_STEPS):
        step, promise = damped_step(now.point, now.damping, low, high)
        over = converged | _beaten(now.point, promise, now.rival)
        keep = torch.nonzero(~over).squeeze(1)
        if len(keep) < 0.75 * len(over):  # a few finished pixels cost less than a copy
            _end(ends, now, over, converged)
            now = now.take(keep)
            step, promise = (t.index_select(-1, keep) for t in (step, promise))
        if len(now.place) <= few:
            return now
        before = now.point.parameters
        aim = torch.clamp(before + step, low, high)
        trial = now.pixels.linearise(model, bands, aim)
        better = trial.no_higher(now.point)
        damping = torch.where(better, now.damping / 10, now.damping * 10).clamp_(*DAMPING_RANGE)
        now = replace(now, point=trial.where(better, now.point), damping=damping)
        moved = (aim - before).abs().amax(0)
        converged = (promise < TOLERANCE) | (moved < _SMALLEST)
    _end(ends, now, torch.ones_like(converged), converged)
    return now.take(now.place[:0])


def _beaten(point: Point, promise: Tensor, rival: Ends) -> Tensor:
    """Which descents are about to end where the rival did, or will end above it, bool (n,)."""
    lead = point.cost - rival.cost
    apart = point.parameters - rival.parameters
    distance = ((rival.fisher * apart).sum(1) * apart).sum(0)
    same = (lead >= 0) & (torch.maximum(lead, distance) < _NEAR)
    return same | (lead > _HOPE * promise + _MARGIN)


def _end(ends: Ends, descents: _Descents, over: Tensor, converged: Tensor) -> None:
    over = torch.nonzero(over).squeeze(1)
    point = descents.point.take(over)
    found = Ends(point.parameters, point.fisher, point.cost, converged[over])
    ends.put(descents.place[over], found)


def damped_step(point: Point, damping: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """A step (n_param, n), and the fall of the cost that it promises (n,)."""
    at, fall = point.parameters, point.fall
    held = ((at <= low) & (fall < 0)) | ((at >= high) & (fall > 0))
    fall = fall.masked_fill(held, 0.0)
    either = held[:, None] | held
    fisher, hessian = (m.masked_fill(either, 0.0) for m in (point.fisher, point.hessian))
    for k in range(len(at)):
        scale = damping * torch.where(fisher[k, k] > 0, fisher[k, k], 1.0) + held[k]
        fisher[k, k] += scale
        hessian[k, k] += scale
    step, positive = _solved(hessian, fall)
    if not positive.all():  # far from a minimum: Gauss and Newton's
        other = torch.nonzero(~positive).squeeze(1)
        step[:, other] = _solved(fisher[..., other], fall[:, other])[0]
    return step, (1 + damping) * (step * fall).sum(0)


def _solved(matrix: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """As `solve`, (k, n): at once for the usual two parameters."""
    if len(right) != 2:
        step, positive = solve(matrix, right[:, None])
        return step.squeeze(1), positive
    (a, b), (_, c) = matrix
    first, second = right
    slope = b / a
    pivot = c - slope * b
    second = (second - slope * first) / pivot
    return torch.stack([(first - b * second) / a, second]), (a > 0) & (pivot > 0)
