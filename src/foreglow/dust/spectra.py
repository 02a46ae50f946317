"""Correlation of flat maps by angular scale, in the two definitions that the paper mixes.

Eq. 2.1 of Zhang et al. 2019 is a ratio of spectra, `spectrum_correlation`; yet the text below it,
and the authors' public code (github.com/chitingchiang/unet_21cm_dust), correlate every Fourier mode
by itself and then average, `mode_correlation`, which is the mean cosine of the phase difference and
blind to amplitudes. The numbers r50 and r150 of the paper are of the latter kind.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

from foreglow.errors import ShapeError
from foreglow.maps.gnomonic import Grid


@dataclass(frozen=True, eq=False)
class Bands:
    """Fourier modes of square maps, sorted into bands of ell.

    Each independent mode of a real map is in at most one band, once: of the two conjugate halves
    of the transform only one counts, also on the axes where the real FFT keeps both.

    Attributes
    ----------
    n : int
        Pixels on a side of the maps.
    edges : tuple of float
        Band k holds edges[k] <= ell < edges[k + 1].
    member : Tensor of float32, shape (n (n // 2 + 1), band)
        1 where a mode is in a band.
    """

    n: int
    edges: tuple[float, ...]
    member: Tensor

    @classmethod
    def of(cls, grid: Grid, edges: Sequence[float]) -> "Bands":
        """Bands between some edges on a grid.

        Raises
        ------
        ShapeError
            If edges do not rise, or a band has no mode.
        """
        edges = tuple(map(float, edges))
        if len(edges) < 2 or any(b <= a for a, b in pairwise(edges)):
            raise ShapeError(f"expected two or more rising edges of ell, got {edges}")
        ell = mode_ell(grid)
        # the fundamental mode itself is on an edge: rounding must not put it outside
        ell = ell * (1 + 1e-9)
        inside = [(ell >= low) & (ell < high) for low, high in pairwise(edges)]
        member = torch.stack([m & independent_modes(grid.n) for m in inside], -1)
        if not member.any(0).any(0).all():
            raise ShapeError(
                f"expected a mode in every band, got none in some of {edges} with modes of ell "
                f"{fundamental_ell(grid):.4g} to {float(ell.max()):.4g}; use wider bands"
            )
        return cls(grid.n, edges, member.view(-1, len(edges) - 1).float())

    @property
    def n_mode(self) -> Tensor:
        """Modes in each band, shape (band,)."""
        return self.member.sum(0)

    def to(self, device: torch.device) -> "Bands":
        """The same bands on a device."""
        return Bands(self.n, self.edges, self.member.to(device))


def fundamental_ell(grid: Grid) -> float:
    """ell_F, the least ell of a grid: 14.42 for the paper's.

    Examples
    --------
    >>> from foreglow.maps.gnomonic import Grid
    >>> round(fundamental_ell(Grid()), 1)
    14.4
    """
    return 2 * math.pi / (grid.n * grid.pixel_rad)


def paper_bands(grid: Grid) -> Bands:
    """The bands of r50 (ell_F <= ell < 100) and r150 (100 <= ell < 200)."""
    return Bands.of(grid, (fundamental_ell(grid), 100.0, 200.0))


def fundamental_bands(grid: Grid) -> Bands:
    """Bands of width ell_F from ell_F to the Nyquist ell of an axis, as in the paper's Figure 5."""
    step = fundamental_ell(grid)
    return Bands.of(grid, [step * k for k in range(1, grid.n // 2 + 1)])


def mode_ell(grid: Grid) -> Tensor:
    """The ell of each mode of the real FFT, float64, shape (n, n // 2 + 1)."""
    row = torch.fft.fftfreq(grid.n, 1 / grid.n, dtype=torch.float64)
    column = torch.fft.rfftfreq(grid.n, 1 / grid.n, dtype=torch.float64)
    return torch.hypot(row.unsqueeze(1), column) * fundamental_ell(grid)


def independent_modes(n: int) -> Tensor:
    """One of each conjugate pair of modes of a real map, bool, shape (n, n // 2 + 1).

    The real FFT leaves out all of the other half but on the column zero and, for even n, on that
    of Nyquist: there rows k and -k are conjugate, and one of them is left out here.
    """
    row = torch.arange(n)
    keep = torch.ones(n, n // 2 + 1, dtype=torch.bool)
    second = row > (n - row) % n
    keep[second, 0] = False
    if n % 2 == 0:
        keep[second, n // 2] = False
    return keep


def e_and_b(q_and_u: Tensor) -> Tensor:
    """E and B of flat maps, whose correlations are those of any maps.

    Parameters
    ----------
    q_and_u : Tensor, shape (batch, 2, n, n)
        In the frame of the cutout, see `foreglow.maps.spin2`; mask already applied, whose edges
        turn some E into B.

    Returns
    -------
    Tensor, shape (batch, 2, n, n)
        E + iB = (Q + iU) exp(-2 i phi) for each mode, phi its angle from rows towards columns.
    """
    n = q_and_u.shape[-1]
    cos, sin = (one.to(q_and_u.device) for one in _twice_the_angle(n))
    q, u = torch.fft.rfft2(q_and_u).unbind(1)
    return torch.fft.irfft2(torch.stack([q * cos + u * sin, u * cos - q * sin], 1), s=(n, n))


@cache
@torch.inference_mode(False)  # what is kept serves trainings, too
def _twice_the_angle(n: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of 2 phi of each mode of the real FFT."""
    row, column = torch.fft.fftfreq(n).unsqueeze(1), torch.fft.rfftfreq(n)
    twice = 2 * torch.atan2(column.expand(n, -1), row.expand(-1, n // 2 + 1))
    return torch.cos(twice), torch.sin(twice)


def alignment(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean cos 2(psi - psi~) of the directions of two polarised maps, 1 where they are the same.

    Parameters
    ----------
    predicted, target : Tensor, shape (batch, 2, n, n)
    mask : Tensor of bool, shape (batch, n, n)

    Returns
    -------
    Tensor, shape (batch,)
        Over the pixels that count; where either map has no polarisation a pixel counts as 0.
    """
    sizes = _safe_rsqrt(predicted.square().sum(1)) * _safe_rsqrt(target.square().sum(1))
    cosine = (predicted * target).sum(1) * sizes * mask
    return cosine.sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)


def mode_correlation(a: Tensor, b: Tensor, bands: Bands) -> Tensor:
    """Mean over the single Fourier modes of a band of Re(a b*) / (|a| |b|): the paper's r50, r150.

    Parameters
    ----------
    a, b : Tensor, shape (batch, n, n)
        Any units; mask already applied. Differentiable in both.
    bands : Bands

    Returns
    -------
    Tensor, shape (batch, band), in [-1, 1]
        A mode in which either map holds nothing but rounding counts as 0.

    Raises
    ------
    ShapeError
        If shapes do not agree.

    References
    ----------
    Zhang et al. 2019, section 2, below eq. 2.1.

    Examples
    --------
    Blind to the amplitudes of single modes, unlike `spectrum_correlation`; a map against itself:

    >>> import torch
    >>> from foreglow.maps.gnomonic import Grid
    >>> maps = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(0))
    >>> mode_correlation(maps, 3 * maps, paper_bands(Grid())).round(decimals=4)
    tensor([[1., 1.]])
    """
    cross, power_a, power_b = _spectra(a, b, bands)
    # roots one by one: a product of powers leaves the range of float32 where maps are steep
    each = cross * _safe_rsqrt(power_a) * _safe_rsqrt(power_b)
    return (each @ bands.member.to(each.dtype)) / bands.n_mode


def spectrum_correlation(a: Tensor, b: Tensor, bands: Bands) -> Tensor:
    """Ratio of binned spectra C_ab / sqrt(C_aa C_bb), eq. 2.1 as it is written.

    Parameters, shapes and errors are those of `mode_correlation`; 0 where a band holds no power.
    Strong modes weigh more.
    """
    cross, power_a, power_b = (s @ bands.member.to(s.dtype) for s in _spectra(a, b, bands))
    return cross * _safe_rsqrt(power_a) * _safe_rsqrt(power_b)


def _spectra(a: Tensor, b: Tensor, bands: Bands) -> tuple[Tensor, Tensor, Tensor]:
    """Cross and auto spectra (batch, mode) of two maps, each brought to a size of about 1."""
    if a.shape != b.shape or a.ndim != 3 or a.shape[-2:] != (bands.n, bands.n):
        raise ShapeError(
            f"expected two batches of maps (batch, {bands.n}, {bands.n}), got {tuple(a.shape)} "
            f"and {tuple(b.shape)}"
        )
    fa, fb = _modes(a), _modes(b)
    cross = fa.real * fb.real + fa.imag * fb.imag
    return cross, _power(fa), _power(fb)


def _power(modes: Tensor) -> Tensor:
    return modes.real.square() + modes.imag.square()


def _modes(maps: Tensor) -> Tensor:
    """Modes (batch, mode) of maps over their size; those below the rounding of the FFT are zero."""
    # neither changes r: column densities of 1e20 have no square in float32, and the mean is no
    # mode of any band but would spend digits
    size = maps.detach().abs().mean((1, 2), keepdim=True)
    size = torch.where(size > 0, size, 1.0)
    centred = maps / size - (maps / size).mean((1, 2), keepdim=True)
    modes = torch.fft.rfft2(centred).flatten(1)
    floor = torch.finfo(maps.dtype).eps * maps[0].numel()
    return torch.where(_power(modes.detach()) > floor**2, modes, 0.0)


def _safe_rsqrt(power: Tensor) -> Tensor:
    """1 / sqrt, and 0 where there is nothing, with gradients that are finite."""
    empty = power <= 0
    return torch.where(empty, 0.0, torch.rsqrt(torch.where(empty, 1.0, power)))
