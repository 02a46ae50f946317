"""The Rolling Hough Transform: polarised dust from the filaments of the gas, with nothing learned.

Filaments of hydrogen lie along the magnetic field and grains shine across it, so that the angles of
filaments, weighed by their brightness, are a map of polarised dust. Q and U are in the frame of the
cutout: Q = P cos 2 chi and U = P sin 2 chi, with chi from the direction of
rising row to that of rising column. That is COSMO in the middle of a cutout that is not rotated.

No edge of a mask or of the cutout is taken for a filament: where too little is seen there is zero.
Ask for a wider grid and crop it to lose nothing.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate

from foreglow.compute.precision import arithmetic
from foreglow.errors import ShapeError
from foreglow.maps.gnomonic import Grid

LEAST_ACROSS = 6  # pixels of a cutout across the disc of the Hough transform
FINE_ACROSS = 12  # of the transform itself: it interpolates cutouts that have fewer
_VALUES = 1 << 24  # float32 of R(theta) held at once: 64 MiB
_ROUNDING = 2e-6  # of a map's size: what is smaller may be rounding


def hough_polarisation(
    inputs: Tensor,
    grid: Grid,
    mask: Tensor | None = None,
    *,
    window_arcmin: float = 75.0,
    smoothing_radius_arcmin: float = 15.0,
    threshold: float = 0.7,
    average_arcmin: float = 0.0,
) -> Tensor:
    """Predict Q and U by the Rolling Hough Transform of each channel.

    What of a channel is brighter than its mean around counts as lit (the unsharp mask). Around
    each pixel, R(theta) is the lit fraction of the line through it at angle theta, less the
    threshold and not below zero, over the sum of all angles. Q + iU is the sum over the channels
    of -I R(theta) exp(2 i theta). The defaults are the published setting; cutouts whose pixels
    are larger than a twelfth of the window are interpolated for the transform.

    Parameters
    ----------
    inputs : Tensor, shape (batch, channel, n, n)
        K, not low-passed: the thinnest filaments say most. On the mock, the fewer the channels
        the better, down to one of the whole line: sum neighbours first, for eight at a time
        `inputs.unflatten(1, (-1, 8)).sum(2)`.
    grid : Grid
    mask : Tensor of bool, shape (batch, n, n), optional
        True where the sky counts.
    window_arcmin : float
        Length of the lines, D_W of the paper.
    smoothing_radius_arcmin : float
        Radius of the disc around a pixel over which the unsharp mask takes its mean.
    threshold : float
        From 0 to 1, Z of the paper.
    average_arcmin : float
        FWHM of a Gaussian over which the angles of a channel are averaged, before they are weighed
        by its brightness. None in the paper; 180 gives much better angles.

    Returns
    -------
    Tensor, shape (batch, 2, n, n)
        Q and U, in the unit of the inputs. Zero where no line is above the threshold, and in
        pixels whose window, or the disc of the unsharp mask around a pixel in it, touches the mask
        or leaves the cutout; with an average, zero only where masked or far from all others.

    Raises
    ------
    ShapeError
        If shapes do not agree, or the grid is too coarse for the window.

    References
    ----------
    Clark & Hensley 2019 (arXiv:1909.11673), section 3; Clark, Peek & Putman 2014
    (arXiv:1312.1338) for the transform, whose public code (github.com/seclark/RHT) has these lines
    and this unsharp mask.
    """
    seen = _validate_seen(inputs, grid, mask)
    _validate_fine(grid, window_arcmin, smoothing_radius_arcmin)
    parts = math.ceil(FINE_ACROSS * grid.pixel_arcmin / window_arcmin)
    pixel = grid.pixel_arcmin / parts
    disc = _disc(smoothing_radius_arcmin / pixel).to(inputs)
    lines = _lines(0.5 * window_arcmin / pixel).to(inputs)
    around = _gaussian(average_arcmin / grid.pixel_arcmin).to(inputs)
    at_once = max(1, _VALUES // (len(lines) * (parts * grid.n) ** 2))
    made = inputs.new_zeros(len(inputs), 2, grid.n, grid.n)
    with arithmetic("float32"):
        whole = _eroded(_finer_mask(seen, parts), disc)
        kept = _eroded(whole, lines.sum(0))
        share = avg_pool2d(kept.to(inputs.dtype), parts)
        for channel in inputs.unbind(1):
            channel = torch.where(seen, channel, 0)
            for some in torch.arange(len(inputs), device=inputs.device).split(at_once):
                lit = _unsharp(_finer(channel[some], parts), disc) & whole[some]
                spin = _hough(lit.to(inputs.dtype), lines, threshold) * kept[some].unsqueeze(1)
                spin = _averaged(avg_pool2d(spin, parts), share[some], around)
                made[some] -= channel[some].unsqueeze(1) * spin
    return made


def _unsharp(channel: Tensor, disc: Tensor) -> Tensor:
    """Where a channel (batch, n, n) is brighter than its mean over a disc, bool."""
    mean = _convolved(channel, (disc / disc.sum()).unsqueeze(0))[:, 0]
    # a flat map is as bright as its mean, to within rounding
    return channel - mean > _ROUNDING * mean.abs()


def _hough(lit: Tensor, lines: Tensor, threshold: float) -> Tensor:
    """Mean of cos and sin of 2 theta over R(theta) of bit masks (batch, n, n): (batch, 2, n, n)."""
    length = lines.sum((1, 2), keepdim=True)
    # what stands above the threshold by rounding alone would be a direction like any other
    least = torch.full_like(length, -threshold - _ROUNDING).flatten()
    kernels, pad = (lines / length).unsqueeze(1), lines.shape[-1] // 2
    transform = conv2d(lit.unsqueeze(1), kernels, least, padding=pad).relu_()
    twice = torch.arange(len(lines)).to(lit) * (2 * math.pi / len(lines))
    angles = torch.stack([twice.cos(), twice.sin(), torch.ones_like(twice)])
    sums = conv2d(transform, angles[..., None, None])  # (batch, 3, n, n)
    return _ratio(sums[:, :2], sums[:, 2], 0.0)


def _averaged(spin: Tensor, share: Tensor, around: Tensor) -> Tensor:
    """Mean of spins (batch, 2, n, n) around each pixel, over pixels of which a share is known."""
    if len(around) == 1:
        return spin
    mean = _smoothed(spin.flatten(0, 1), around).view_as(spin)
    return _ratio(mean, _smoothed(share, around), _ROUNDING)


def _finer(maps: Tensor, parts: int) -> Tensor:
    """Maps (batch, n, n) on pixels of so many parts a side, bicubic."""
    if parts == 1:
        return maps
    n = maps.shape[-1] * parts
    # antialias takes Keys's kernel, which makes no ripples of a slope, as the other does
    fine = interpolate(maps.unsqueeze(1), size=(n, n), mode="bicubic", antialias=True)
    return fine.squeeze(1)


def _finer_mask(seen: Tensor, parts: int) -> Tensor:
    """Where all that `_finer` reads is seen, bool (batch, n, n) of the finer pixels."""
    if parts == 1:
        return seen
    read = _eroded(seen, torch.ones(5, 5, device=seen.device))
    return read.repeat_interleave(parts, 1).repeat_interleave(parts, 2)


def _ratio(spin: Tensor, norm: Tensor, least: Tensor | float) -> Tensor:
    """Maps (batch, 2, n, n) over one (batch, n, n), zero where that is no more than `least`."""
    empty = norm <= least
    return spin * torch.where(empty, 0, 1 / torch.where(empty, 1, norm)).unsqueeze(1)


def _lines(radius: float) -> Tensor:
    """Lines through the middle of a disc, (angle, w, w), 1 on a line; radius in pixels.

    They are those of the published code: pixels whose centres are within half a pixel of the line,
    at pi sqrt(2) / 2 (D - 1) angles. The number is made even, so that the set turns into itself
    by 90 degrees.
    """
    n_angle = 2 * math.ceil(math.pi * math.sqrt(2) / 4 * (2 * radius - 1))
    theta = torch.arange(n_angle, dtype=torch.float64).view(-1, 1, 1) * (math.pi / n_angle)
    row, column = _offsets(radius)
    near = (column * theta.cos() - row * theta.sin()).abs() <= 0.5 + 1e-9
    return (near & (torch.hypot(row, column) <= radius)).double()


def _disc(radius: float) -> Tensor:
    """How much of each pixel lies in a disc around the middle one, (w, w); radius in pixels."""
    row, column = _offsets(radius + 0.5)
    part = (torch.arange(16, dtype=torch.float64) + 0.5) / 16 - 0.5
    inner = torch.hypot(row[..., None, None] + part.unsqueeze(1), column[..., None, None] + part)
    return (inner <= radius).double().mean((-1, -2))


def _gaussian(fwhm: float) -> Tensor:
    """A Gaussian cut at three sigma, (w,), of sum 1; FWHM in pixels."""
    sigma = fwhm / math.sqrt(8 * math.log(2))
    offset = _offsets(3 * sigma)[1].flatten()
    kernel = torch.exp(-0.5 * (offset / max(sigma, 1e-9)) ** 2)
    return kernel / kernel.sum()


def _smoothed(maps: Tensor, gaussian: Tensor) -> Tensor:
    """Maps (batch, n, n) through a Gaussian along rows and along columns, zero outside."""
    kernel, pad = gaussian.view(1, 1, -1, 1), len(gaussian) // 2
    rows = conv2d(maps.unsqueeze(1), kernel, padding=(pad, 0))
    return conv2d(rows, kernel.transpose(2, 3), padding=(0, pad)).squeeze(1)


def _offsets(reach: float) -> tuple[Tensor, Tensor]:
    """Rows (w, 1) and columns (1, w) from the middle of a square that holds a reach in pixels."""
    offset = torch.arange(-math.floor(reach), math.floor(reach) + 1, dtype=torch.float64)
    return offset.unsqueeze(1), offset.unsqueeze(0)


def _convolved(maps: Tensor, kernels: Tensor) -> Tensor:
    """Maps (batch, n, n) through kernels (k, w, w): (batch, k, n, n), zero outside."""
    return conv2d(maps.unsqueeze(1), kernels.unsqueeze(1), padding=kernels.shape[-1] // 2)


def _eroded(seen: Tensor, kernel: Tensor) -> Tensor:
    """Where all pixels under a kernel (w, w) are seen, bool (batch, n, n)."""
    support = (kernel > 0).to(kernel.dtype)
    count = _convolved(seen.to(kernel.dtype), support.unsqueeze(0))[:, 0]
    return count > support.sum() - 0.5


def _validate_seen(inputs: Tensor, grid: Grid, mask: Tensor | None) -> Tensor:
    """The mask, or one that hides nothing: bool (batch, n, n)."""
    n = grid.n
    if inputs.ndim != 4 or inputs.shape[-2:] != (n, n):
        raise ShapeError(
            f"expected inputs (batch, channel, {n}, {n}), got {tuple(inputs.shape)}; pass the grid "
            "of the cutouts"
        )
    if mask is None:
        return torch.ones_like(inputs[:, 0], dtype=torch.bool)
    if mask.shape != (len(inputs), n, n):
        raise ShapeError(
            f"expected a mask ({len(inputs)}, {n}, {n}) as inputs have it, got "
            f"{tuple(mask.shape)}; pass the mask of the cutouts"
        )
    return mask.bool()


def _validate_fine(grid: Grid, window_arcmin: float, smoothing_radius_arcmin: float) -> None:
    """Raise unless the disc of the transform and that of the unsharp mask have enough pixels."""
    largest = min(window_arcmin / LEAST_ACROSS, smoothing_radius_arcmin)
    if grid.pixel_arcmin <= largest:
        return
    finer = math.ceil(grid.pixel_arcmin / largest)
    raise ShapeError(
        f"expected pixels of at most {largest:.4g} arcmin, for a window of {window_arcmin:.4g} and "
        f"a smoothing radius of {smoothing_radius_arcmin:.4g} arcmin, got {grid.pixel_arcmin:.4g}; "
        f"draw cutouts on Grid(n={grid.n * finer}, pixel_arcmin={grid.pixel_arcmin / finer:.4g}), "
        "from maps as fine, or use gradient_polarisation"
    )
