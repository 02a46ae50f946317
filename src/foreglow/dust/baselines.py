"""The paper's simple models: the integrated map, and linear combinations of channels.

The linear models minimise the squared difference of Fourier modes (Appendix A). All that they need
of the training cutouts are sums of products of modes, which one pass collects, in bands of ell: the
weights of each band then solve that band's equations (scale dependent), and one set of weights
solves the sum of all (scale independent).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from foreglow.dust.cutouts import Cutouts
from foreglow.dust.spectra import fundamental_ell, independent_modes, mode_ell
from foreglow.errors import ModelError, ShapeError
from foreglow.maps.gnomonic import Grid


def integrated(inputs: Tensor) -> Tensor:
    """Sum over the channels, the model by which all others are judged.

    Parameters
    ----------
    inputs : Tensor, shape (batch, channel, n, n)

    Returns
    -------
    Tensor, shape (batch, n, n)
        Unit of the inputs; correlations do not see its scale.

    References
    ----------
    Zhang et al. 2019, section 2.1.
    """
    return inputs.sum(1)


@dataclass(frozen=True, eq=False)
class LinearModel:
    """A weighted sum of the channels, with one weight a channel or one a channel and scale.

    Attributes
    ----------
    weights : Tensor of float64, shape (channel,) or (band, channel)
    grid : Grid
        That of the bands, if there are any: modes of band k have k + 1/2 <= ell / ell_F < k + 3/2;
        the mean goes with the first band and the corners of the plane with the last.

    References
    ----------
    Zhang et al. 2019, eqs. 2.2, A.1 and A.15.
    """

    weights: Tensor
    grid: Grid

    @property
    def scale_dependent(self) -> bool:
        """Whether weights change with ell."""
        return self.weights.ndim == 2

    def to(self, device: torch.device) -> "LinearModel":
        """The same model on a device."""
        return LinearModel(self.weights.to(device), self.grid)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Predicted maps (batch, n, n) from inputs (batch, channel, n, n); mask them afterwards.

        Raises
        ------
        ShapeError
            If there are not as many channels as weights, or scale-dependent weights are of
            another grid.
        """
        if inputs.ndim != 4 or inputs.shape[1] != self.weights.shape[-1]:
            raise ShapeError(
                f"expected inputs (batch, {self.weights.shape[-1]}, n, n), got "
                f"{tuple(inputs.shape)}; use the channels that the model was fitted to"
            )
        if not self.scale_dependent:
            return torch.einsum("bcyx,c->byx", inputs, self.weights.to(inputs.dtype))
        if inputs.shape[-1] != self.grid.n:
            raise ShapeError(
                f"expected cutouts of {self.grid.n} pixels a side, got {inputs.shape[-1]}: these "
                "weights belong to the scales of one grid"
            )
        band = _mode_band(self.grid).to(inputs.device)  # (n, n // 2 + 1)
        weights = self.weights.to(inputs.dtype).T[:, band]  # (channel, n, n // 2 + 1)
        modes = (torch.fft.rfft2(inputs) * weights).sum(1)
        return torch.fft.irfft2(modes, s=inputs.shape[-2:])


@dataclass(eq=False)
class NormalEquations:
    """Sums over training cutouts from which linear models follow.

    Attributes
    ----------
    n_channel : int
    grid : Grid
    n_cutout : int
        Cutouts added so far.
    products : Tensor of float64, shape (band, channel + 1, channel + 1)
        Sums over cutouts and independent modes of Re(a b*), for a and b each channel and, last,
        the target. The mean of a map is left out: correlations do not see it, and gas and dust
        need not have one zero level.

    References
    ----------
    Zhang et al. 2019, eqs. A.4 and A.5.
    """

    n_channel: int
    grid: Grid
    n_cutout: int = field(default=0, init=False)
    products: Tensor = field(init=False)

    def __post_init__(self) -> None:
        size = self.n_channel + 1
        self.products = torch.zeros(self.grid.n // 2, size, size, dtype=torch.float64)

    @classmethod
    def of(cls, batches: Iterable[Cutouts], n_channel: int, grid: Grid) -> "NormalEquations":
        """Collect the sums of all batches in one pass."""
        equations = cls(n_channel, grid)
        for cutouts in batches:
            equations.add(cutouts.inputs, cutouts.target)
        return equations

    def add(self, inputs: Tensor, target: Tensor) -> None:
        """Add a batch.

        Parameters
        ----------
        inputs : Tensor, shape (batch, channel, n, n)
        target : Tensor, shape (batch, n, n)
            Mask applied to both.

        Raises
        ------
        ShapeError
            If shapes do not agree with each other, the channels or the grid.
        """
        n = self.grid.n
        if inputs.shape != (len(target), self.n_channel, n, n) or target.shape[1:] != (n, n):
            raise ShapeError(
                f"expected inputs (batch, {self.n_channel}, {n}, {n}) and target (batch, {n}, "
                f"{n}), got {tuple(inputs.shape)} and {tuple(target.shape)}"
            )
        maps = torch.cat([inputs, target.unsqueeze(1)], 1)  # (batch, channel + 1, n, n)
        # neighbouring channels are nearly alike: what tells them apart needs double precision
        modes = torch.fft.rfft2(maps.double()).flatten(2)
        order, lengths = _sorted_modes(self.grid)
        # (mode, batch, channel + 1, re and im), the modes of a band together
        rows = torch.view_as_real(modes.permute(2, 0, 1)[order.to(modes.device)])
        self.products = self.products.to(modes.device)
        for band, part in enumerate(rows.split(lengths)):
            flat = part.transpose(2, 3).reshape(-1, self.n_channel + 1)
            self.products[band].addmm_(flat.T, flat)
        self.n_cutout += len(target)

    def merge(self, other: "NormalEquations") -> None:
        """Add the sums of another pass, made elsewhere over other cutouts."""
        if (other.n_channel, other.grid) != (self.n_channel, self.grid):
            raise ShapeError(
                f"expected sums over {self.n_channel} channels on {self.grid}, got "
                f"{other.n_channel} on {other.grid}"
            )
        self.products = self.products + other.products.to(self.products.device)
        self.n_cutout += other.n_cutout

    def solve(self, scale_dependent: bool = False, ridge: float = 0.0) -> LinearModel:
        """The weights of least squared difference over all that was added.

        Parameters
        ----------
        scale_dependent : bool
            One set of weights for each band of width ell_F. Else one for all, from the sum of all
            bands: every mode counts with its power, so large scales decide.
        ridge : float
            Added to the diagonal of the channels' correlation matrix. None is needed where there
            are more cutouts than channels and no channel is empty or repeated.

        Returns
        -------
        LinearModel

        Raises
        ------
        ModelError
            If the equations have no single solution.
        """
        products = self.products if scale_dependent else self.products.sum(0)
        matrix, right = products[..., :-1, :-1], products[..., :-1, -1]
        # channels at the edge of the line are a thousand times fainter than those in its middle
        scale = matrix.diagonal(dim1=-2, dim2=-1).sqrt()
        scaled = matrix / (scale.unsqueeze(-1) * scale.unsqueeze(-2))
        eye = torch.eye(self.n_channel, dtype=scaled.dtype, device=scaled.device)
        factor, failed = torch.linalg.cholesky_ex(scaled + ridge * eye)
        least = factor.diagonal(dim1=-2, dim2=-1).min()
        # a pivot is the part of a channel that the others do not explain; this one is rounding
        if not bool((scale > 0).all()) or bool(failed.any()) or not least > 1e-6:
            raise ModelError(
                f"expected {self.n_channel} channels of which none follows from the others, got "
                f"equations without a single solution from {self.n_cutout} cutouts; add cutouts, "
                "drop empty channels, or pass ridge=1e-6"
            )
        solution = torch.cholesky_solve((right / scale).unsqueeze(-1), factor).squeeze(-1)
        return LinearModel(solution / scale, self.grid)


def _mode_band(grid: Grid) -> Tensor:
    """Band of each mode of the real FFT, int64, shape (n, n // 2 + 1)."""
    number = torch.floor(mode_ell(grid) / fundamental_ell(grid) - 0.5 + 1e-9).long()
    return number.clamp(0, grid.n // 2 - 1)


def _sorted_modes(grid: Grid) -> tuple[Tensor, list[int]]:
    """Independent modes but the mean, band after band, and how many each band has."""
    band = _mode_band(grid).flatten()
    counts = independent_modes(grid.n).flatten().clone()
    counts[0] = False
    chosen = counts.nonzero().squeeze(1)
    order = chosen[torch.argsort(band[chosen], stable=True)]
    return order, torch.bincount(band[chosen], minlength=grid.n // 2).tolist()
