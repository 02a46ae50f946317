"""Parametric fits of patches: pixels with amplitudes of their own share spectral parameters.

Each parameter has its own map of patches. Patches that have a pixel in common, of whatever
parameters, hang together: they are a region, whose parameters are found at once, from the peaks of
its summed likelihood.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foreglow.compute.device import each_on_a_thread
from foreglow.errors import ModelError, ShapeError
from foreglow.recognition.fits.integrand import integrands_of
from foreglow.recognition.fits.laplace import require_priors
from foreglow.recognition.fits.likelihood import Whitened
from foreglow.recognition.fits.optimise import (
    BATCH,
    Fit,
    amplitudes_of,
    empty_fit,
    observed,
    prepare,
    whiten,
)
from foreglow.recognition.fits.shared import (
    Marginal,
    Profile,
    Shared,
    Solved,
    compressed,
    connected,
    descend,
    log_integral,
)
from foreglow.recognition.fits.skymodel import SkyModel, fixed_spectra
from foreglow.recognition.fits.starts import Part, common_starts
from foreglow.sky.bandpass import Bands

MOST_TOGETHER = 4096  # parameters of a region: their matrix is dense
_CELLS = 1 << 22  # of the matrices of a batch
_SLICE = 4096  # pixels whose amplitudes are found at a time

Patches = Tensor | Mapping[str, Tensor]
"""The number of each pixel's patch, int64, shape (n,), from 0; below 0 where a pixel is left out.
One for all free parameters, or by their names."""


@dataclass(frozen=True)
class PatchFit:
    """The best fit of a model whose spectral parameters are shared by the pixels of patches.

    Parameters
    ----------
    pixels : Fit
        Pixel by pixel: the parameters of its patches and their covariance, its amplitudes, its
        chi-square. `dof` counts no spectral parameter, for a pixel has none of its own. NaN where
        a pixel has no patch, or too few bands.
    values, errors : dict of str to Tensor, shape (n_patch,)
        By the name of a parameter, what it is in each of its patches, numbered as they were given;
        NaN where a patch has no pixel that could be fitted.
    region : Tensor, int64, shape (n,)
        Patches that hang together have one number; -1 where a pixel was not fitted.
    chi2 : Tensor, shape (n_region,)
        Over all pixels of a region, without priors.
    dof, n_data : Tensor, int64, shape (n_region,)
        Data less amplitudes less spectral parameters; data alone.
    log_evidence : Tensor, shape (n_region,)
        See `fit_patches`; NaN where it was not asked for.
    converged : Tensor, bool, shape (n_region,)
        Whether no step would lower chi-square by more than 1e-8, or than its rounding.
    """

    pixels: Fit
    values: dict[str, Tensor]
    errors: dict[str, Tensor]
    region: Tensor
    chi2: Tensor
    dof: Tensor
    n_data: Tensor
    log_evidence: Tensor
    converged: Tensor


def fit_patches(
    model: SkyModel,
    frequency_ghz: Tensor | Bands,
    data: Tensor,
    noise: Tensor,
    patches: Patches,
    evidence: SkyModel | None = None,
) -> PatchFit:
    """Maximum of the profile likelihood summed over the pixels of every patch.

    Amplitudes are eliminated pixel by pixel by generalised least squares. The spectral parameters
    follow by Newton's method, damped as by Levenberg and Marquardt, from every peak of the sum on a
    grid over all that the bounds allow; where the patches of parameters differ, first as if a
    region were one patch, and from there as they are.

    Parameters
    ----------
    model : SkyModel
        A prior counts once a patch.
    frequency_ghz : Tensor, shape (n_band,), or Bands
    data, noise : Tensor
        As `fit` takes them.
    patches : Tensor, or mapping of str to Tensor
        See `Patches`.
    evidence : SkyModel, optional
        The same model with priors, as `log_evidence` takes it: then the evidence of each region
        comes, too, by Laplace's method about the mode of all its parameters. Dust must be fixed.

    Returns
    -------
    PatchFit
        On the device of `data`.

    Raises
    ------
    ModelError
        If `evidence` lacks priors, or the dust is free in it.
    ShapeError
        If the shapes do not agree, the patches are not whole numbers or not those of the free
        parameters, the noise is not positive, or more than 4096 parameters hang together.

    References
    ----------
    Stompor et al. 2009; Errard & Stompor 2019 (patches that differ by parameter).
    """
    maps = labels(model.free, patches, len(data))
    label = torch.stack([maps[name] for name in model.free]).to(data.device)
    if evidence is not None:
        require_priors(evidence)
        if "dust" in evidence.bent:
            free = " and ".join(
                name for name in evidence.free if name not in ("beta_s", "curvature")
            )
            raise ModelError(
                "expected dust of a fixed spectrum for the evidence of patches, got a free "
                f"{free}; leave that model out, or fit each pixel by itself."
            )
    given = _Given(model, evidence, *prepare(frequency_ghz, data, noise))
    result, n_seen = _nothing(model, label, data), observed(given.data, given.noise).sum(1)
    seen = (n_seen > len(model.components)) & (label >= 0).all(0)
    pixel = torch.nonzero(seen).squeeze(1)
    while len(pixel):  # until every region has a degree of freedom
        region = connected(label[:, pixel])
        shared = Shared.of(label[:, pixel], region)
        count = (shared.kind >= 0).sum(1)
        n_data = 2 * torch.zeros_like(count).index_add_(0, region, n_seen[pixel])
        dof = n_data - 2 * len(model.components) * torch.bincount(region) - count
        if (dof > 0).all():
            break
        pixel = pixel[dof[region] > 0]
    else:
        return result
    if count.amax() > MOST_TOGETHER:
        raise ShapeError(
            f"expected at most {MOST_TOGETHER} parameters that hang together, got "
            f"{int(count.amax())}: so many patches of one parameter lie in the same patches of "
            "another; take smaller patches for that, or larger ones for these."
        )
    result = _of_regions(result, n_data, dof)
    result.region[pixel] = region
    result.pixels.dof[pixel] = 2 * (n_seen[pixel] - len(model.components))
    work = list(_batches(region, shared.kind.shape[1]))

    def solve(regions: Tensor) -> None:
        mine, part = shared.select(regions)
        _keep(given, result, pixel[mine], regions, part, _fit_regions(given, pixel[mine], part))

    each_on_a_thread(solve, work, data.device)
    return result


@dataclass(frozen=True, eq=False)
class _Given:
    """What is fitted to what."""

    model: SkyModel
    evidence: SkyModel | None
    bands: Bands
    data: Tensor
    noise: Tensor


def labels(names: Collection[str], patches: Patches, n: int) -> dict[str, Tensor]:
    """The patches of each of some parameters, int64, shape (n,)."""
    each = patches if isinstance(patches, Mapping) else dict.fromkeys(names, patches)
    if set(each) != set(names):
        raise ShapeError(
            f"expected patches of {', '.join(sorted(names))}, the free parameters, got those of "
            f"{', '.join(map(str, each)) or 'none'}; give a map for each of them, or one for all."
        )
    for name, label in each.items():
        if label.shape != (n,) or label.is_floating_point() or label.is_complex():
            raise ShapeError(
                f"expected the patches of {name} as whole numbers of shape ({n},), got "
                f"{str(label.dtype).removeprefix('torch.')} of shape {tuple(label.shape)}; give "
                "the number of every pixel's patch from 0, or -1 where it is left out."
            )
    return {name: label.long() for name, label in each.items()}


def _nothing(model: SkyModel, label: Tensor, data: Tensor) -> PatchFit:
    """The result before anything is known."""
    n, none = len(data), torch.zeros(0, dtype=torch.int64, device=data.device)
    numbers = [int(mine.amax()) + 1 if n else 0 for mine in label]
    values, errors = (
        {
            name: torch.full((max(0, number),), torch.nan, dtype=torch.float64, device=data.device)
            for name, number in zip(model.free, numbers, strict=True)
        }
        for _ in range(2)
    )
    region = torch.full((n,), -1, device=data.device)
    pixels = empty_fit(model, n, data.device)
    return PatchFit(
        pixels, values, errors, region, none.double(), none, none, none.double(), none.bool()
    )


def _of_regions(nothing: PatchFit, n_data: Tensor, dof: Tensor) -> PatchFit:
    """The same with the regions, of which nothing is known yet."""
    unknown = torch.full((len(dof),), torch.nan, dtype=torch.float64, device=dof.device)
    return replace(
        nothing, chi2=unknown, dof=dof, n_data=n_data, log_evidence=unknown.clone(),
        converged=torch.zeros_like(dof).bool(),
    )  # fmt: skip


def _batches(region: Tensor, most: int) -> Iterator[Tensor]:
    """Numbers of regions that are fitted together: what stays in the caches of a processor."""
    size, first = torch.bincount(region).tolist(), 0
    while first < len(size):
        last, pixels = first + 1, size[first]
        while (
            last < len(size)
            and pixels + size[last] <= BATCH
            and (last + 1 - first) * most**2 <= _CELLS
        ):
            pixels, last = pixels + size[last], last + 1
        yield torch.arange(first, last, device=region.device)
        first = last


def _fit_regions(given: _Given, pixel: Tensor, shared: Shared) -> Solved:
    """The lowest minimum of some regions, of which `pixel` are the pixels."""
    model, bands = given.model, given.bands
    data = whiten(given.data[pixel], given.noise[pixel])
    if isinstance(data, Whitened):
        data, shared = compressed(data, shared)
    part = Part(0, data, data.project(fixed_spectra(model, bands)[..., None]))
    n_region, n_param = len(shared.kind), len(model.free)
    alike = Shared.alike(shared.region, n_region, n_param)
    what = Profile(model, bands, part.pixels)
    starts = common_starts(model, bands, part, shared.region, n_region)
    first = starts.select(starts.rank == 0)
    best = descend(model, what, alike, first.parameters.T.contiguous())
    for rank in range(1, int(starts.rank.amax()) + 1):
        again = starts.select(starts.rank == rank)
        some, fewer = alike.select(again.pixel)
        ends = descend(model, what.take(some), fewer, again.parameters.T.contiguous())
        lower = torch.nonzero(ends.cost < best.cost[again.pixel]).squeeze(1)
        best.put(again.pixel[lower], ends.take(lower))
    if shared.kind.shape == alike.kind.shape and torch.equal(shared.kind, alike.kind):
        return best
    return descend(model, what, shared, best.values.gather(1, shared.kind.clamp_min(0)))


def _keep(
    given: _Given, result: PatchFit, pixel: Tensor, regions: Tensor, shared: Shared, best: Solved
) -> None:
    """Write what was found of some regions, and of their pixels."""
    model, bands = given.model, given.bands
    covariance = _inverse(best.fisher)
    error = torch.diagonal(covariance, dim1=1, dim2=2).sqrt()
    for k, name in enumerate(model.free):
        mine = shared.kind == k
        result.values[name][shared.patch[mine]] = best.values[mine]
        result.errors[name][shared.patch[mine]] = error[mine]
    result.converged[regions] = best.converged
    chi2 = torch.zeros_like(best.cost)
    for some in torch.arange(len(pixel), device=pixel.device).split(_SLICE):
        region, place, index = shared.region[some], shared.place[:, some], pixel[some]
        own = covariance[region, place[:, None], place]  # (param, param, n)
        parameters = best.values[region, place]
        amplitudes, spread, left = amplitudes_of(
            model, bands, whiten(given.data[index], given.noise[index]), parameters, own
        )
        pixels = result.pixels
        pixels.parameters[index], pixels.covariance[index] = parameters.T, own.movedim(-1, 0)
        pixels.amplitudes[index] = amplitudes.permute(2, 1, 0)
        pixels.amplitude_covariance[index] = spread.movedim(-1, 0)
        pixels.chi2[index], pixels.converged[index] = left, best.converged[region]
        chi2.index_add_(0, region, left)
    result.chi2[regions] = chi2
    if given.evidence is not None:
        data = whiten(given.data[pixel], given.noise[pixel])
        what = Marginal(given.evidence, bands, integrands_of(given.evidence, bands, data))
        result.log_evidence[regions] = log_integral(given.evidence, what, shared, best.values)


def _inverse(fisher: Tensor) -> Tensor:
    """Inverse of matrices (n, k, k) of any scale; no number where one is singular."""
    scale = torch.diagonal(fisher, dim1=1, dim2=2).rsqrt()
    both = scale[:, :, None] * scale[:, None]
    root, failed = torch.linalg.cholesky_ex(fisher * both)
    inverse = both * torch.cholesky_inverse(root)
    return torch.where(failed[:, None, None] == 0, inverse, torch.nan)
