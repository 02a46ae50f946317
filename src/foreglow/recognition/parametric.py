"""Parametric fits pixel by pixel: the maximum of the profile likelihood, thousands at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import healpy as hp
import torch
from torch import Tensor

from foreglow.errors import ShapeError
from foreglow.recognition.skymodel import SkyModel, bent_spectra, fixed_spectra

BATCH = 8192  # pixels in flight: their arrays stay in the processor's cache
MAX_STEPS = 100
TOLERANCE = 1e-8  # converged where a step promises less than this in chi-square
_BETA_NODES = 19
# descents start from each: profiles over C often have two minima or three
_CURVATURE_STARTS = (0.0, 0.5, 0.8)
_DAMPING_RANGE = (1e-9, 1e12)


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


def fit(model: SkyModel, frequency_ghz: Tensor, data: Tensor, sigma: Tensor) -> Fit:
    """Maximum of the profile likelihood in every pixel.

    Amplitudes are eliminated by generalised least squares; the spectral parameters follow by
    Levenberg-Marquardt on what is left (variable projection with Kaufman's Jacobian), from the
    best node of a grid.

    Parameters
    ----------
    model : SkyModel
    frequency_ghz : Tensor, shape (n_band,)
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
    _validate(frequency_ghz, data, sigma)
    frequency = frequency_ghz.to(data.device, torch.float64)
    result = _empty(model, len(data), data.device)
    for start in range(0, len(data), BATCH):
        part = slice(start, start + BATCH)
        weight, whitened = _whiten(data[part], sigma[part])
        n_seen = (weight > 0).sum(1)
        dof = 2 * (n_seen - len(model.components)) - len(model.free)
        enough = torch.nonzero((dof > 0) & (n_seen > len(model.components))).squeeze(1)
        if len(enough):
            found = _fit_batch(model, frequency, weight[enough], whitened[enough])
            for name, values in found.items():
                getattr(result, name)[start + enough] = values
            result.dof[start + enough] = dof[enough]
    return result


def _validate(frequency_ghz: Tensor, data: Tensor, sigma: Tensor) -> None:
    n_band = len(frequency_ghz)
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
    """1 / sigma (n, n_band) and data / sigma (n, n_band, 2); both 0 where not observed."""
    data, sigma = data.double(), sigma.double()
    seen = torch.isfinite(data).all(1) & (data != hp.UNSEEN).all(1) & torch.isfinite(sigma)
    weight = torch.where(seen, 1 / sigma, 0.0)
    return weight, (torch.where(seen[:, None], data, 0.0) * weight[:, None]).mT.contiguous()


@dataclass(frozen=True)
class _Pixels:
    """Whitened data with the components of fixed spectrum projected out.

    weight (n, n_band); basis (n, n_band, n_fixed), orthonormal; data (n, n_band, 2).
    """

    weight: Tensor
    basis: Tensor
    data: Tensor


@dataclass(frozen=True)
class _Point:
    """The likelihood at a point of the spectral parameters.

    `cost` is chi-square and priors (n,). Of half of it: `fall` (n, n_param), the gradient with
    its sign turned; `fisher` (n, n_param, n_param), Gauss-Newton; and `hessian`, exact (but for
    the curvature of the logarithm of dust in its temperature).
    """

    parameters: Tensor
    chi2: Tensor
    cost: Tensor
    fall: Tensor
    fisher: Tensor
    hessian: Tensor


def _take(values, index: Tensor):
    """The same dataclass of tensors for some pixels."""
    return type(values)(*(getattr(values, field.name)[index] for field in fields(values)))


def _project(basis: Tensor, columns: Tensor) -> Tensor:
    """What is left of columns (n, n_band, k) outside the span of an orthonormal basis."""
    return torch.baddbmm(columns, basis, basis.mT @ columns, alpha=-1)


def _fit_batch(
    model: SkyModel, frequency: Tensor, weight: Tensor, whitened: Tensor
) -> dict[str, Tensor]:
    """The fields of a Fit for pixels with bands enough."""
    basis = torch.linalg.qr(weight[..., None] * fixed_spectra(model, frequency)).Q
    pixels = _Pixels(weight, basis, _project(basis, whitened))
    first, *others = _starts(model, frequency, pixels)
    best, converged = _descend(model, frequency, pixels, first)
    for start in others:
        point, arrived = _descend(model, frequency, pixels, start)
        better = point.cost < best.cost
        best = _where(better, point, best)
        converged = torch.where(better, arrived, converged)
    covariance = _inverse(best.fisher)
    amplitudes = _amplitudes(model, frequency, weight, whitened, best.parameters, covariance)
    return {
        "parameters": best.parameters, "covariance": covariance, "amplitudes": amplitudes[0],
        "amplitude_covariance": amplitudes[1], "chi2": best.chi2, "converged": converged,
    }  # fmt: skip


def _linearise(model: SkyModel, frequency: Tensor, pixels: _Pixels, parameters: Tensor) -> _Point:
    """Chi-square and its derivatives, amplitudes eliminated."""
    spectra, slopes = bent_spectra(model, frequency, parameters)
    spectra = spectra * pixels.weight[..., None]
    bare = _of_owner(model, spectra, 2)  # (n, band, param): the spectrum that a parameter bends
    columns = _project(pixels.basis, torch.cat([spectra, slopes * bare], dim=2))
    f = spectra.shape[2]
    gram = columns.mT @ columns
    inverse, _ = _solve(gram[:, :f, :f], torch.eye(f).to(gram).expand(len(gram), f, f))
    aside = inverse @ gram[:, :f, f:]  # (n, bent, param)
    amplitude = inverse @ (columns[..., :f].mT @ pixels.data)  # (n, bent, 2)
    residual = torch.baddbmm(pixels.data, columns[..., :f], amplitude, alpha=-1)  # (n, band, 2)
    chi2 = residual.square().sum((1, 2))
    bending = _of_owner(model, amplitude, 1)  # (n, param, 2)
    along = columns[..., f:].mT @ residual  # (n, param, 2)
    fall = (bending * along).sum(2)
    fisher = (bending @ bending.mT) * (gram[:, f:, f:] - gram[:, f:, :f] @ aside)
    second = (slopes * bare * (residual @ bending.mT)).mT @ slopes  # (n, param, param)
    mixed = _of_owner(model, aside, 1).mT * (along @ bending.mT)
    inverse = _of_owner(model, _of_owner(model, inverse, 1), 2)
    hessian = fisher + mixed + mixed.mT - inverse * (along @ along.mT)
    if f > 1:
        owner = torch.tensor(model.owner, device=second.device)
        second = second * (owner[:, None] == owner)
    cost = chi2.clone()
    return _with_priors(model, _Point(parameters, chi2, cost, fall, fisher, hessian - second))


def _of_owner(model: SkyModel, values: Tensor, dim: int) -> Tensor:
    """Values of the bent components (at `dim`), for each parameter those of what it bends."""
    if values.shape[dim] == 1:
        shape = list(values.shape)
        shape[dim] = len(model.owner)
        return values.expand(shape)
    return values.index_select(dim, torch.tensor(model.owner, device=values.device))


def _solve(matrix: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Solution X (n, k, m) of small symmetric systems, and which are positive definite (n,).

    Gauss-Jordan over all systems at once: for k of 1 to 4 several times faster than LAPACK one by
    one. Without pivots, so to be used where positive definite.
    """
    k = matrix.shape[1]
    table = torch.cat([matrix, right], dim=2)
    positive = torch.ones(len(matrix), dtype=torch.bool, device=matrix.device)
    for i in range(k):
        pivot = table[:, i, i]
        positive &= pivot > 0
        row = table[:, i : i + 1] / pivot[:, None, None]
        if k > 1:
            table = torch.baddbmm(table, table[:, :, i : i + 1], row, alpha=-1)
            table[:, i] = row[:, 0]
        else:
            table = row
    return table[..., k:], positive


def _with_priors(model: SkyModel, point: _Point) -> _Point:
    for k, free in enumerate(model.free.values()):
        if free.prior is not None:
            mean, rms = free.prior
            pull = (mean - point.parameters[:, k]) / rms
            point.cost.add_(pull**2)
            point.fall[:, k] += pull / rms
            point.fisher[:, k, k] += rms**-2
            point.hessian[:, k, k] += rms**-2
    return point


def _starts(model: SkyModel, frequency: Tensor, pixels: _Pixels) -> Iterator[Tensor]:
    """Where to descend from, each (n, n_param): for each start of C the best node of beta_s."""
    names, free = list(model.free), list(model.free.values())
    curvatures = _CURVATURE_STARTS if "curvature" in names else (0.0,)
    t = torch.linspace(-1, 1, _BETA_NODES + 2)[1:-1].to(frequency)
    side = torch.where(t > 0, free[0].high - free[0].start, free[0].start - free[0].low)
    for curvature in curvatures:
        nodes = frequency.new_tensor([f.start for f in free]).repeat(len(t), 1)
        nodes[:, 0] = free[0].start + side * t * t.abs()  # dense near the start
        if "curvature" in names:
            k = names.index("curvature")
            nodes[:, k] = min(max(curvature, free[k].low), free[k].high)
        gain = _explained(model, frequency, pixels, nodes)
        if free[0].prior is not None:
            gain = gain - ((nodes[:, 0] - free[0].prior[0]) / free[0].prior[1]) ** 2
        yield nodes[gain.argmax(1)]


def _explained(model: SkyModel, frequency: Tensor, pixels: _Pixels, nodes: Tensor) -> Tensor:
    """Fall of chi-square that synchrotron brings at each node (node, n_param): (n, node)."""
    spectra, _ = bent_spectra(model, frequency, nodes)  # (node, band, bent)
    basis, data = pixels.basis, pixels.data
    if "dust" in model.bent:  # the same at every node: as if it were fixed
        dust = _project(basis, pixels.weight[..., None] * spectra[:1, :, 1:])
        dust = dust / torch.linalg.vector_norm(dust, dim=1, keepdim=True)
        data, basis = _project(dust, data), torch.cat([basis, dust], dim=2)
    synchrotron = spectra[..., 0].T.contiguous()  # (band, node)
    along = (data.mT * pixels.weight[:, None]) @ synchrotron  # (n, 2, node)
    inside = (basis.mT * pixels.weight[:, None]) @ synchrotron
    length = pixels.weight.square() @ synchrotron.square()
    left = (length - inside.square().sum(1)).clamp_min(1e-9 * length)
    return along.square().sum(1) / left


def _descend(
    model: SkyModel, frequency: Tensor, pixels: _Pixels, start: Tensor
) -> tuple[_Point, Tensor]:
    """Levenberg-Marquardt within the bounds: where it ended, and converged (n,)."""
    free = model.free.values()
    low, high = frequency.new_tensor([[f.low for f in free], [f.high for f in free]])
    live = torch.arange(len(start), device=start.device)
    point = _linearise(model, frequency, pixels, start)
    found, converged = _take(point, live), torch.zeros_like(live, dtype=torch.bool)
    damping = torch.full_like(point.cost, 1e-3)
    for _ in range(MAX_STEPS):
        step, promise = _damped_step(point, damping, low, high)
        aim = torch.clamp(point.parameters + step, low, high)
        trial = _linearise(model, frequency, pixels, aim)
        better = trial.cost <= point.cost
        point = _where(better, trial, point)
        damping = torch.where(better, damping / 10, damping * 10).clamp(*_DAMPING_RANGE)
        converged[live] = promise < TOLERANCE
        keep = torch.nonzero(promise >= TOLERANCE).squeeze(1)
        if len(keep) < 0.75 * len(live):  # a few finished pixels cost less than a copy
            _put(found, live, point)
            if len(keep) == 0:
                return found, converged
            live, damping = live[keep], damping[keep]
            pixels, point = _take(pixels, keep), _take(point, keep)
    _put(found, live, point)
    return found, converged


def _damped_step(
    point: _Point, damping: Tensor, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """A step (n, n_param), and the fall of the cost that it promises (n,)."""
    at, fall = point.parameters, point.fall
    held = ((at <= low) & (fall < 0)) | ((at >= high) & (fall > 0))
    fall = fall.masked_fill(held, 0.0)
    scale = torch.diagonal(point.fisher, dim1=1, dim2=2)
    scale = torch.where((scale > 0) & ~held, scale, 1.0)
    either = held[:, :, None] | held[:, None]
    damped = torch.diag_embed(damping[:, None] * scale + held.double())
    fisher = point.fisher.masked_fill(either, 0.0) + damped
    newton = point.hessian.masked_fill(either, 0.0) + damped
    step, positive = _solve(newton, fall[..., None])
    if not positive.all():  # far from a minimum: Gauss and Newton's
        step = torch.where(positive[:, None, None], step, _solve(fisher, fall[..., None])[0])
    step = step.squeeze(2)
    return step, (1 + damping) * (step * fall).sum(1)


def _where(condition: Tensor, first: _Point, second: _Point) -> _Point:
    return _Point(
        *(
            torch.where(condition.reshape(-1, *[1] * (a.ndim - 1)), a, b)
            for a, b in ((getattr(first, f.name), getattr(second, f.name)) for f in fields(_Point))
        )
    )


def _put(into: _Point, index: Tensor, point: _Point) -> None:
    for field in fields(_Point):
        getattr(into, field.name)[index] = getattr(point, field.name)


def _amplitudes(
    model: SkyModel,
    frequency: Tensor,
    weight: Tensor,
    whitened: Tensor,
    parameters: Tensor,
    covariance: Tensor,
) -> tuple[Tensor, Tensor]:
    """Amplitudes (n, 2, component), and their covariance marginal over spectral parameters."""
    spectra, slopes = bent_spectra(model, frequency, parameters)
    slopes = slopes * spectra[..., list(model.owner)]
    fixed = fixed_spectra(model, frequency).expand(len(spectra), -1, -1)
    mixing = weight[..., None] * torch.cat([fixed, spectra], dim=2)
    inverse = _inverse(mixing.mT @ mixing)
    amplitudes = (inverse @ (mixing.mT @ whitened)).mT
    bending = amplitudes[:, :, fixed.shape[2] :][:, :, list(model.owner)]  # (n, 2, param)
    shift = inverse @ (mixing.mT @ (weight[..., None] * slopes))  # (n, component, param)
    shift = (bending[:, :, None] * shift[:, None]).flatten(1, 2)  # (n, 2 component, param)
    m = inverse.shape[1]
    spread = shift @ covariance @ shift.mT
    spread[:, :m, :m] += inverse
    spread[:, m:, m:] += inverse
    return amplitudes, spread


def _inverse(matrix: Tensor) -> Tensor:
    """Inverse of symmetric positive matrices of any scale; infinite or NaN where singular."""
    scale = torch.diagonal(matrix, dim1=1, dim2=2).rsqrt()
    both = scale[:, :, None] * scale[:, None]
    return both * torch.linalg.inv_ex(matrix * both).inverse
