"""Parametric fits pixel by pixel: the maximum of the profile likelihood, thousands at a time."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import healpy as hp
import torch
from torch import Tensor

from foreglow.errors import ShapeError
from foreglow.recognition.profile import (
    Columns,
    Pixels,
    Point,
    explained,
    invert,
    linearise,
    project,
    solve,
)
from foreglow.recognition.skymodel import SkyModel, bent_spectra, fixed_spectra
from foreglow.sky.bandpass import Bands

BATCH = 16384  # pixels in flight on each thread: more leave the cache, fewer share less of the work
CHUNK = 2 * BATCH  # pixels of a thread's piece of work
_LEAST = 1024  # the smallest piece that is worth a thread
GPU_BATCH = 262144  # both of a GPU
MAX_STEPS = 100
TOLERANCE = 1e-8  # converged where a step promises less than this in chi-square
_BETA_NODES = 19
# descents start from each: profiles over C often have two minima or three
_CURVATURE_STARTS = (0.0, 0.5, 0.8)
_DUST_STARTS = (0.0, 0.1, -0.1)  # about that of beta_d: the wrong dust leads beta_s astray
_DAMPING_RANGE = (1e-9, 1e12)
# a descent is given up this near to a lower end in chi-square, or if it cannot come below that end
# even where it falls so many times further than its step promises, and by so much more
_NEAR = 0.01
_HOPE, _MARGIN = 10.0, 3.0


@dataclass(frozen=True)
class Fit:
    """The best fit of a model in every pixel; NaN where none was made.

    Parameters
    ----------
    model : SkyModel
    parameters : Tensor, float64, shape (n, n_param)
        In the order of `model.free`.
    covariance : Tensor, shape (n, n_param, n_param)
        Inverse Fisher matrix (with the priors), marginal over amplitudes; bounds play no part.
    amplitudes : Tensor, shape (n, 2, n_component)
        Q, U of `model.components` [uK_RJ at 23, 353, 30 GHz; CMB uK_CMB].
    amplitude_covariance : Tensor, shape (n, 2 n_component, 2 n_component)
        Marginal over the spectral parameters; Q of all components, then U.
    chi2 : Tensor, shape (n,)
        Over bands and both Stokes, without priors.
    dof : Tensor, int64, shape (n,)
        Data less amplitudes less spectral parameters; 0 where too few bands were observed.
    converged : Tensor, bool, shape (n,)
    """

    model: SkyModel
    parameters: Tensor
    covariance: Tensor
    amplitudes: Tensor
    amplitude_covariance: Tensor
    chi2: Tensor
    dof: Tensor
    converged: Tensor


def fit(model: SkyModel, frequency_ghz: Tensor | Bands, data: Tensor, sigma: Tensor) -> Fit:
    """Maximum of the profile likelihood in every pixel.

    Amplitudes are eliminated by generalised least squares; the spectral parameters follow by
    Levenberg-Marquardt on what is left (variable projection with Kaufman's Jacobian), from the
    best node of a grid.

    Parameters
    ----------
    model : SkyModel
    frequency_ghz : Tensor, shape (n_band,), or Bands
    data : Tensor, shape (n, 2, n_band)
        Q, U [uK_RJ]; NaN or UNSEEN where a band did not observe.
    sigma : Tensor, shape (n, n_band)
        Noise rms of Q and of U [uK_RJ], white; NaN or infinite where a band did not observe.

    Returns
    -------
    Fit
        On the device of `data`. Pixels with too few bands have NaN and `converged` False.

    Raises
    ------
    ShapeError
        If the shapes do not agree, or an observed noise is not above zero.

    References
    ----------
    Farsian et al. 2020, eqs. 5.1-5.4; Stompor et al. 2009; Golub & Pereyra 2003 (Kaufman's form).
    """
    bands = Bands.of(frequency_ghz).to(data.device)
    _validate(len(bands), data, sigma)
    result = _empty(model, len(data), data.device)

    on_cpu, threads = data.device.type == "cpu", torch.get_num_threads()
    chunk, batch = (CHUNK, BATCH) if on_cpu else (GPU_BATCH, GPU_BATCH)
    if on_cpu:  # few pixels are shared evenly
        chunk = min(chunk, max(_LEAST, -(-len(data) // threads)))

    def work(start: int) -> None:
        part = slice(start, start + chunk)
        _fit_chunk(model, bands, data[part], sigma[part], batch, result, start)

    # a chunk a thread: the operations are too small to be shared between threads
    pool = ThreadPoolExecutor(threads if on_cpu else 1, "fit", torch.set_num_threads, (1,))
    try:
        list(pool.map(work, range(0, len(data), chunk)))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # else threads yet to be made would begin with one
    return result


def observed(data: Tensor, sigma: Tensor) -> Tensor:
    """Which bands observed a pixel, bool (n, n_band): neither NaN, Inf nor UNSEEN.

    Beware: ask before float32 becomes float64, for UNSEEN in it is then another number.
    """
    return (torch.isfinite(data) & (data != hp.UNSEEN)).all(1) & torch.isfinite(sigma)


def _validate(n_band: int, data: Tensor, sigma: Tensor) -> None:
    if data.ndim != 3 or data.shape[1:] != (2, n_band):
        raise ShapeError(
            f"expected data of shape (n, 2, {n_band}), but {tuple(data.shape)} came; "
            "order it as pixel, Stokes Q and U, band."
        )
    if sigma.shape != (len(data), n_band):
        raise ShapeError(
            f"expected sigma of shape ({len(data)}, {n_band}), but {tuple(sigma.shape)} came; "
            "give the rms of every pixel and band."
        )
    if (sigma <= 0).any():
        raise ShapeError(
            "expected noise above zero, but sigma holds values <= 0; a fit weighs the bands by "
            "their noise: give it, or NaN where a band did not observe."
        )


def _empty(model: SkyModel, n: int, device: torch.device) -> Fit:
    p, m = len(model.free), len(model.components)

    def unknown(*shape: int) -> Tensor:
        return torch.full((n, *shape), torch.nan, dtype=torch.float64, device=device)

    dof = torch.zeros(n, dtype=torch.int64, device=device)
    return Fit(
        model, unknown(p), unknown(p, p), unknown(2, m), unknown(2 * m, 2 * m), unknown(), dof,
        dof.bool(),
    )  # fmt: skip


def _whiten(data: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """1 / sigma (n_band, n) and data / sigma (n_band, 2, n); both 0 where not observed."""
    seen = observed(data, sigma).T
    data = data.double().permute(2, 1, 0).contiguous()
    sigma = sigma.double().T.contiguous()
    weight = torch.where(seen, 1 / sigma, 0.0)
    return weight, torch.where(seen[:, None], data, 0.0) * weight[:, None]


@dataclass(frozen=True)
class _Ends(Columns):
    """Where descents ended: (n_param, n), (n_param, n_param, n), (n,), (n,)."""

    parameters: Tensor
    fisher: Tensor
    cost: Tensor
    converged: Tensor


@dataclass(frozen=True)
class _Descents(Columns):
    """Descents under way, the place of each one's end, and the lowest end there so far."""

    pixels: Pixels
    point: Point
    damping: Tensor
    place: Tensor
    rival: _Ends


def _fit_chunk(
    model: SkyModel,
    bands: Bands,
    data: Tensor,
    sigma: Tensor,
    batch: int,
    result: Fit,
    offset: int,
) -> None:
    """Fit pixels of which the first is number `offset` of the result."""
    weight, whitened = _whiten(data, sigma)
    n_seen = (weight > 0).sum(0)
    dof = 2 * (n_seen - len(model.components)) - len(model.free)
    enough = torch.nonzero((dof > 0) & (n_seen > len(model.components))).squeeze(1)
    if len(enough) == 0:
        return
    if len(enough) < len(dof):
        weight, whitened, dof = weight[:, enough], whitened[..., enough], dof[enough]
    best = _best_ends(model, bands, weight, whitened, batch)
    result.dof[offset + enough] = dof
    # few at a time: what is made for each stays in the cache
    for part in torch.arange(len(enough), device=weight.device).split(batch // 8):
        end, columns = best.take(part), slice(int(part[0]), int(part[-1]) + 1)
        covariance = invert(end.fisher)
        amplitudes, spread, chi2 = _amplitudes(
            model, bands, weight[:, columns], whitened[..., columns], end.parameters, covariance
        )
        index = offset + enough[part]
        result.parameters[index] = end.parameters.T
        result.covariance[index] = covariance.movedim(-1, 0)
        result.amplitudes[index] = amplitudes.permute(2, 1, 0)
        result.amplitude_covariance[index] = spread.movedim(-1, 0)
        result.chi2[index] = chi2
        result.converged[index] = end.converged


def _best_ends(
    model: SkyModel, bands: Bands, weight: Tensor, whitened: Tensor, batch: int
) -> _Ends:
    """The lowest end of the descents of every pixel."""
    n, p = weight.shape[1], len(model.free)
    fixed = fixed_spectra(model, bands)[..., None]
    batches = []
    for place in torch.arange(n, device=weight.device).split(batch):
        part = slice(int(place[0]), int(place[-1]) + 1)
        pixels = project(fixed, weight[:, part], whitened[..., part])
        starts = _starts(model, bands, pixels, weight[:, part], whitened[..., part])
        batches.append((place, pixels, starts))
    n_start = len(batches[0][2])
    ends = _Ends(
        weight.new_zeros(p, n_start * n), weight.new_zeros(p, p, n_start * n),
        weight.new_full((n_start * n,), torch.inf),
        torch.zeros(n_start * n, dtype=torch.bool, device=weight.device),
    )  # fmt: skip
    late: list[_Descents] = []
    for k in range(n_start):  # one after another: later descents know earlier ends
        for place, pixels, starts in batches:
            point = linearise(model, bands, pixels, starts[k])
            damping, rival = torch.full_like(point.cost, 1e-3), _lowest(ends, n, place)
            fresh = _Descents(pixels, point, damping, k * n + place, rival)
            # with the last of those before: few pixels take as long as hundreds
            few = batch // 2 if place[-1] < n - 1 else batch // 16
            late = [_descend(model, bands, _Descents.join([*late, fresh]), ends, few)]
    _descend(model, bands, late[0], ends, 0)
    return _lowest(ends, n, torch.arange(n, device=weight.device))


def _lowest(ends: _Ends, n: int, place: Tensor) -> _Ends:
    """The lowest end so far of some of n pixels."""
    return ends.take(ends.cost.unflatten(0, (-1, n))[:, place].argmin(0) * n + place)


def _starts(
    model: SkyModel, bands: Bands, pixels: Pixels, weight: Tensor, whitened: Tensor
) -> Tensor:
    """Where to descend from, for each start of C the best node of beta_s: (start, n_param, n)."""
    names, free = list(model.free), list(model.free.values())
    curvatures = _CURVATURE_STARTS if "curvature" in names else (0.0,)
    t = torch.linspace(-1, 1, _BETA_NODES + 2)[1:-1].to(bands.node_ghz)
    side = torch.where(t > 0, free[0].high - free[0].start, free[0].start - free[0].low)
    nodes = bands.node_ghz.new_tensor([f.start for f in free]).repeat(len(t), 1)
    nodes[:, 0] = free[0].start + side * t * t.abs()  # dense near the start
    found = []
    for change in _DUST_STARTS if "beta_d" in names else (0.0,):
        bare = pixels
        if "beta_d" in names:
            k = names.index("beta_d")
            nodes[:, k] = min(max(free[k].start + change, free[k].low), free[k].high)
        if "dust" in model.bent:  # the same at every node: as if it were fixed
            dust = bent_spectra(model, bands.node_ghz, nodes[:1])[0][0, :, 1:]
            fixed = torch.cat([fixed_spectra(model, bands), bands.average(dust, dim=0)], dim=1)
            bare = project(fixed[..., None], weight, whitened)
        for curvature in curvatures:
            if "curvature" in names:
                k = names.index("curvature")
                nodes[:, k] = min(max(curvature, free[k].low), free[k].high)
            spectra = bands.average(bent_spectra(model, bands.node_ghz, nodes)[0][..., 0])
            gain = explained(bare, spectra.T)
            if free[0].prior is not None:
                gain -= (((nodes[:, 0] - free[0].prior[0]) / free[0].prior[1]) ** 2)[:, None]
            found.append(nodes[gain.argmax(0)].T)
    return torch.stack(found)


def _descend(
    model: SkyModel, bands: Bands, descents: _Descents, ends: _Ends, few: int
) -> _Descents:
    """Levenberg-Marquardt within the bounds, until only few are under way: these."""
    free = model.free.values()
    low, high = bands.node_ghz.new_tensor([[f.low for f in free], [f.high for f in free]])[
        ..., None
    ]
    now = descents
    converged = torch.zeros_like(now.rival.converged)
    for _ in range(MAX_STEPS):
        step, promise = _damped_step(now.point, now.damping, low, high)
        over = converged | _beaten(now.point, promise, now.rival)
        keep = torch.nonzero(~over).squeeze(1)
        if len(keep) < 0.75 * len(over):  # a few finished pixels cost less than a copy
            _end(ends, now, over, converged)
            now = now.take(keep)
            step, promise = (t.index_select(-1, keep) for t in (step, promise))
        if len(now.place) <= few:
            return now
        aim = torch.clamp(now.point.parameters + step, low, high)
        trial = linearise(model, bands, now.pixels, aim)
        better = trial.no_higher(now.point)
        damping = torch.where(better, now.damping / 10, now.damping * 10).clamp_(*_DAMPING_RANGE)
        now = replace(now, point=trial.where(better, now.point), damping=damping)
        converged = promise < TOLERANCE
    _end(ends, now, torch.ones_like(converged), converged)
    return now.take(now.place[:0])


def _beaten(point: Point, promise: Tensor, rival: _Ends) -> Tensor:
    """Which descents are about to end where the rival did, or will end above it, bool (n,)."""
    lead = point.cost - rival.cost
    apart = point.parameters - rival.parameters
    distance = ((rival.fisher * apart).sum(1) * apart).sum(0)
    same = (lead >= 0) & (torch.maximum(lead, distance) < _NEAR)
    return same | (lead > _HOPE * promise + _MARGIN)


def _end(ends: _Ends, descents: _Descents, over: Tensor, converged: Tensor) -> None:
    over = torch.nonzero(over).squeeze(1)
    point, place = descents.point.take(over), descents.place[over]
    ends.parameters[:, place] = point.parameters
    ends.fisher[..., place] = point.fisher
    ends.cost[place] = point.cost
    ends.converged[place] = converged[over]


def _damped_step(point: Point, damping: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
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
    step, positive = solve(hessian, fall[:, None])
    if not positive.all():  # far from a minimum: Gauss and Newton's
        step = torch.where(positive, step, solve(fisher, fall[:, None])[0])
    step = step.squeeze(1)
    return step, (1 + damping) * (step * fall).sum(0)


def _amplitudes(
    model: SkyModel,
    bands: Bands,
    weight: Tensor,
    whitened: Tensor,
    parameters: Tensor,
    covariance: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Amplitudes (component, 2, n), their covariance marginal over parameters, chi-square."""
    spectra, slopes = bent_spectra(model, bands.node_ghz, parameters.T)
    owner = list(model.owner)
    slopes = bands.average(slopes * spectra[..., owner], dim=1)
    slopes = weight * slopes.permute(2, 1, 0)  # (param, band, n)
    spectra = bands.average(spectra, dim=1)
    fixed = fixed_spectra(model, bands).T[..., None].expand(-1, -1, len(spectra))
    mixing = weight * torch.cat([fixed, spectra.permute(2, 1, 0)])  # (component, band, n)
    inverse = invert((mixing[:, None] * mixing).sum(2))

    def generalised(values: Tensor) -> Tensor:  # least squares of (band, k, n): (component, k, n)
        return (inverse[:, :, None] * (mixing[:, :, None] * values).sum(1)).sum(1)

    amplitudes = generalised(whitened)
    residual = whitened - (mixing[:, :, None] * amplitudes[:, None]).sum(0)
    bending = amplitudes[len(fixed) :][owner].transpose(0, 1)  # (2, param, n)
    shift = bending[:, None] * generalised(slopes.transpose(0, 1))  # (2, component, param, n)
    shift = shift.flatten(0, 1)
    along = (shift[:, :, None] * covariance).sum(1)  # (2 component, param, n)
    spread = (along[:, None] * shift).sum(2)
    m = len(inverse)
    spread[:m, :m] += inverse
    spread[m:, m:] += inverse
    return amplitudes, spread, residual.square().sum((0, 1))
