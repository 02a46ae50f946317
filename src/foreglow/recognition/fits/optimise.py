"""Parametric fits pixel by pixel: the maximum of the profile likelihood, thousands at a time."""

from dataclasses import dataclass

import torch
from torch import Tensor

from foreglow.compute.device import each_on_a_thread
from foreglow.errors import ShapeError
from foreglow.maps import healpix as hp
from foreglow.recognition.fits import joint
from foreglow.recognition.fits.descent import lowest_ends
from foreglow.recognition.fits.joint import AnyWhitened
from foreglow.recognition.fits.likelihood import Whitened
from foreglow.recognition.fits.matrices import invert
from foreglow.recognition.fits.skymodel import SkyModel, bent_spectra, fixed_spectra
from foreglow.sky.bandpass import Bands

BATCH = 16384  # pixels in flight on each thread: more leave the cache, fewer share less of the work
CHUNK = 2 * BATCH  # pixels of a thread's piece of work
JOINT_BATCH = 1024  # where the noise of Q and U differs, which takes more of the cache
_LEAST = 1024  # the smallest piece that is worth a thread
GPU_BATCH, GPU_JOINT_BATCH = 262144, 65536


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
        Whether no step would lower chi-square by more than 1e-8 there.
    """

    model: SkyModel
    parameters: Tensor
    covariance: Tensor
    amplitudes: Tensor
    amplitude_covariance: Tensor
    chi2: Tensor
    dof: Tensor
    converged: Tensor


def fit(model: SkyModel, frequency_ghz: Tensor | Bands, data: Tensor, noise: Tensor) -> Fit:
    """Maximum of the profile likelihood in every pixel.

    Amplitudes are eliminated by generalised least squares; the spectral parameters follow by
    Levenberg-Marquardt on what is left (variable projection), from every peak of a grid over all
    that the bounds allow, so that of several minima the lowest is found.

    Parameters
    ----------
    model : SkyModel
    frequency_ghz : Tensor, shape (n_band,), or Bands
    data : Tensor, shape (n, 2, n_band)
        Q, U [uK_RJ]; NaN or UNSEEN where a band did not observe.
    noise : Tensor, shape (n, n_band) or (n, 3, n_band)
        White, rms of Q and of U alike [uK_RJ]; or the covariance QQ, QU, UU [uK_RJ^2] of each
        band. NaN or infinite where a band did not observe.

    Returns
    -------
    Fit
        On the device of `data`. Pixels with too few bands have NaN and `converged` False.

    Raises
    ------
    ShapeError
        If the shapes do not agree, an observed rms is not above zero, or an observed covariance is
        not positive definite.

    References
    ----------
    Farsian et al. 2020, eqs. 5.1-5.4; Stompor et al. 2009; Golub & Pereyra 2003.
    """
    bands, data, noise = prepare(frequency_ghz, data, noise)
    result = empty_fit(model, len(data), data.device)

    batch = in_flight(noise)

    def work(part: slice) -> None:
        _fit_chunk(model, bands, whiten(data[part], noise[part]), batch, result, part.start)

    most = CHUNK if data.device.type == "cpu" else GPU_BATCH
    each_on_a_thread(work, pieces(len(data), most, data.device), data.device)
    return result


def in_flight(noise: Tensor) -> int:
    """Pixels in flight at a time on one thread, or on a GPU."""
    on_cpu, joined = noise.device.type == "cpu", noise.ndim == 3
    return ((GPU_BATCH, GPU_JOINT_BATCH), (BATCH, JOINT_BATCH))[on_cpu][joined]


def pieces(n: int, most: int, device: torch.device) -> list[slice]:
    """Work for each thread in turn, at most so many pixels; few pixels are shared evenly."""
    if device.type == "cpu":
        most = min(most, max(_LEAST, -(-n // torch.get_num_threads())))
    return [slice(first, first + most) for first in range(0, n, most)]


def prepare(
    frequency_ghz: Tensor | Bands, data: Tensor, noise: Tensor
) -> tuple[Bands, Tensor, Tensor]:
    """Check what `fit` takes; all of it without the bands that nobody observed.

    Else the grids of starts would be as fine as those bands need.
    """
    bands = Bands.of(frequency_ghz).to(data.device)
    seen = _validate(len(bands), data, noise)
    if seen.all():
        return bands, data, noise
    return bands.some(seen), data[..., seen], noise[..., seen]


def observed(data: Tensor, noise: Tensor) -> Tensor:
    """Which bands observed a pixel, bool (n, n_band): neither NaN, Inf nor UNSEEN.

    Beware: ask before float32 becomes float64, for UNSEEN in it is then another number.
    """
    known = torch.isfinite(noise) if noise.ndim == 2 else torch.isfinite(noise).all(1)
    return (torch.isfinite(data) & (data != hp.UNSEEN)).all(1) & known


def _validate(n_band: int, data: Tensor, noise: Tensor) -> Tensor:
    """Check what was given; which bands observed any pixel, bool (n_band,)."""
    if data.ndim != 3 or data.shape[1:] != (2, n_band):
        raise ShapeError(
            f"expected data of shape (n, 2, {n_band}), got {tuple(data.shape)}; "
            "order it as pixel, Stokes Q and U, band."
        )
    if noise.shape not in ((len(data), n_band), (len(data), 3, n_band)):
        raise ShapeError(
            f"expected noise of shape ({len(data)}, {n_band}) or ({len(data)}, 3, {n_band}), got "
            f"{tuple(noise.shape)}; give the rms of every pixel and band, or QQ, QU and UU."
        )
    seen = observed(data, noise)
    if noise.ndim == 3:
        qq, qu, uu = noise.double().unbind(1)
        if (seen & ~((qq > 0) & (uu - qu.square() / qq > 0))).any():
            raise ShapeError(
                "expected positive definite covariances of Q and U, but noise holds others; give "
                "them in the order QQ, QU, UU, or NaN where a band did not observe."
            )
    elif (seen & (noise <= 0)).any():
        raise ShapeError(
            "expected noise above zero, but it holds values <= 0; a fit weighs the bands by their "
            "noise: give it, or NaN where a band did not observe."
        )
    return seen.any(0)


def empty_fit(model: SkyModel, n: int, device: torch.device) -> Fit:
    """Of pixels of which nothing is known yet."""
    p, m = len(model.free), len(model.components)

    def unknown(*shape: int) -> Tensor:
        return torch.full((n, *shape), torch.nan, dtype=torch.float64, device=device)

    dof = torch.zeros(n, dtype=torch.int64, device=device)
    return Fit(
        model, unknown(p), unknown(p, p), unknown(2, m), unknown(2 * m, 2 * m), unknown(), dof,
        dof.bool(),
    )  # fmt: skip


def whiten(data: Tensor, noise: Tensor) -> AnyWhitened:
    """Data (n, 2, n_band) over their noise, as `fit` takes both; 0 where not observed."""
    seen = observed(data, noise)
    if noise.ndim == 3:
        return joint.whiten(data, noise, seen)
    data = data.double().permute(2, 1, 0).contiguous()
    sigma = noise.double().T.contiguous()
    weight = torch.where(seen.T, 1 / sigma, 0.0)
    return Whitened(weight, torch.where(seen.T[:, None], data, 0.0) * weight[:, None])


def _fit_chunk(
    model: SkyModel, bands: Bands, data: AnyWhitened, batch: int, result: Fit, offset: int
) -> None:
    """Fit pixels of which the first is number `offset` of the result."""
    n_seen = data.n_seen
    dof = 2 * (n_seen - len(model.components)) - len(model.free)
    enough = torch.nonzero((dof > 0) & (n_seen > len(model.components))).squeeze(1)
    if len(enough) == 0:
        return
    if len(enough) < len(dof):
        data, dof = data.at(enough), dof[enough]
    best = lowest_ends(model, bands, data, batch)
    result.dof[offset + enough] = dof
    # few at a time: what is made for each stays in the cache
    for part in torch.arange(len(enough), device=enough.device).split(batch // 8):
        end, columns = best.take(part), slice(int(part[0]), int(part[-1]) + 1)
        covariance = invert(end.fisher)
        amplitudes, map_fn, chi2 = amplitudes_of(
            model, bands, data.at(columns), end.parameters, covariance
        )
        index = offset + enough[part]
        result.parameters[index] = end.parameters.T
        result.covariance[index] = covariance.movedim(-1, 0)
        result.amplitudes[index] = amplitudes.permute(2, 1, 0)
        result.amplitude_covariance[index] = map_fn.movedim(-1, 0)
        result.chi2[index] = chi2
        result.converged[index] = end.converged


def amplitudes_of(
    model: SkyModel,
    bands: Bands,
    data: AnyWhitened,
    parameters: Tensor,
    covariance: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Amplitudes (component, 2, n), their covariance marginal over parameters, chi-square."""
    if isinstance(data, joint.JointWhitened):
        return joint.amplitudes(model, bands, data, parameters, covariance)
    weight, whitened = data.weight, data.data
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
    map_fn = (along[:, None] * shift).sum(2)
    m = len(inverse)
    map_fn[:m, :m] += inverse
    map_fn[m:, m:] += inverse
    return amplitudes, map_fn, residual.square().sum((0, 1))
