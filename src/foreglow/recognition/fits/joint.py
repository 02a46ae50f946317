"""The profile likelihood where the noise of Q and U differs or correlates: both in one system.

Every spectrum is two columns, what its amplitude in Q and what that in U make of the data, and
every band two rows, whitened by the noise of its Q and U. Beware: the pixel is the last axis.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from foreglow.recognition.fits.likelihood import (
    Columns,
    Pixels,
    Point,
    Whitened,
    add_priors,
    of_owner,
    pairs,
    terms_of,
)
from foreglow.recognition.fits.skymodel import SkyModel, fixed_spectra
from foreglow.sky.bandpass import Bands

_LEFT = 3e-6  # of squares in single precision, as in `likelihood`


@dataclass(frozen=True)
class JointPixels(Columns):
    """Data with the components of fixed spectrum projected out.

    Parameters
    ----------
    whitener : Tensor, shape (2, 2, n_band, n)
        As of `JointWhitened`.
    data : Tensor, shape (2 n_band, n)
    basis : Tensor, shape (2 n_fixed, 2 n_band, n)
        Orthonormal, of the whitened fixed components.
    """

    whitener: Tensor
    data: Tensor
    basis: Tensor

    def linearise(self, model: SkyModel, bands: Bands, parameters: Tensor) -> Point:
        """Cost and derivatives at parameters (n_param, n)."""
        return linearise(model, bands, self, parameters)[0]

    def explained(self, spectra: Tensor) -> Tensor:
        """Fall of chi-square that each of many spectra (n_band, node) brings, (node, n)."""
        return _explained(self, spectra)

    def explained_by(self, spectrum: Tensor) -> Tensor:
        """Fall of chi-square that a spectrum (n_band, n or 1) brings, (n,)."""
        basis, _ = orthonormal(columns_of(self.whitener, spectrum[None])[:, 0], self.basis)
        return along(basis, self.data).square().sum(0)


@dataclass(frozen=True)
class JointWhitened(Columns):
    """Data whitened by the noise of Q and U of each band.

    Parameters
    ----------
    whitener : Tensor, shape (2, 2, n_band, n)
        By row and Stokes: its transpose times it is the inverse covariance; 0 where not observed.
    data : Tensor, shape (2 n_band, n)
        The first rows of all bands, then the second ones; 0 where not observed.
    """

    whitener: Tensor
    data: Tensor

    @property
    def n_seen(self) -> Tensor:
        """Bands that observed a pixel, (n,)."""
        return (self.whitener[0, 0] > 0).sum(0)

    def project(self, fixed: Tensor) -> JointPixels:
        """Pixels without what components of spectra (n_band, n_fixed, n or 1) can explain."""
        columns = columns_of(self.whitener, fixed.transpose(0, 1))
        basis, _ = orthonormal(columns.flatten(0, 1))
        return JointPixels(self.whitener, outside(basis, self.data), basis)


AnyPixels = Pixels | JointPixels
AnyWhitened = Whitened | JointWhitened


def whiten(data: Tensor, covariance: Tensor, seen: Tensor) -> JointWhitened:
    """Whiten Q,U (n, 2, n_band) by their covariance (n, 3, n_band), where seen (n, n_band).

    The covariance is QQ, QU, UU, and positive definite where seen.
    """
    qq, qu, uu = torch.where(seen[:, None], covariance.double(), torch.nan).permute(1, 2, 0)
    q, u = torch.where(seen[:, None], data.double(), 0.0).permute(1, 2, 0)
    left = (uu - qu.square() / qq).rsqrt()  # of U, once Q is known
    rows = torch.stack([qq.rsqrt(), torch.zeros_like(qq), -qu / qq * left, left])
    whitener = rows.nan_to_num(0.0).unflatten(0, (2, 2))
    first, second = whitener
    return JointWhitened(whitener, torch.cat([first[0] * q, second[0] * q + second[1] * u]))


def columns_of(whitener: Tensor, spectra: Tensor) -> Tensor:
    """Spectra (k, n_band, n or 1) in Q alone and in U alone, whitened, (2, k, 2 n_band, n)."""
    rows = whitener.transpose(0, 1)[:, None] * spectra[:, None]  # (stokes, k, row, n_band, n)
    return rows.flatten(2, 3)


def orthonormal(columns: Tensor, others: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Gram and Schmidt of columns (k, row, n), first without the span of an orthonormal basis.

    Returns
    -------
    basis : Tensor, shape (k, row, n)
    root : Tensor, shape (k, k, n)
        Upper triangular: the columns, without the span of `others`, are the basis times it.
    """
    basis: list[Tensor] = []
    root = columns.new_zeros(len(columns), len(columns), columns.shape[-1])
    for j, column in enumerate(columns):
        for _ in range(2):  # twice, for what rounding leaves
            if others is not None:
                column = outside(others, column)
            for i, other in enumerate(basis):
                share = (other * column).sum(0)
                root[i, j] += share
                column = column - other * share
        root[j, j] = torch.linalg.vector_norm(column, dim=0)
        basis.append(column / root[j, j])
    return torch.stack(basis), root


def substitute(root: Tensor, values: Tensor, transposed: bool = False) -> Tensor:
    """Solutions (k, ..., n) of triangular systems: root times them, or its transpose, is values."""
    found: dict[int, Tensor] = {}
    k = len(root)
    for i in range(k) if transposed else reversed(range(k)):
        left = values[i]
        for j, known in found.items():
            left = left - (root[j, i] if transposed else root[i, j]) * known
        found[i] = left / root[i, i]
    return torch.stack([found[i] for i in range(k)])


def along(basis: Tensor, values: Tensor) -> Tensor:
    """Products (k, ..., n) of a basis (k, row, n) with values (..., row, n)."""
    return torch.stack([(one * values).sum(-2) for one in basis])


def outside(basis: Tensor, values: Tensor) -> Tensor:
    """What is left of values (..., row, n) outside the span of an orthonormal basis."""
    for one in basis:
        values = values - one * (one * values).sum(-2, keepdim=True)
    return values


def linearise(
    model: SkyModel, bands: Bands, pixels: JointPixels, parameters: Tensor
) -> tuple[Point, Tensor, Tensor]:
    """Cost and derivatives at parameters (n_param, n), and what evidence needs besides.

    Returns
    -------
    point : Point
    root : Tensor, shape (2 n_bent, 2 n_bent, n)
        Of the bent columns outside the fixed ones: its diagonal's product is their volume.
    residual : Tensor, shape (2 n_band, n)
        What is left of the data.

    References
    ----------
    Golub & Pereyra 2003; with the orthonormal basis of the columns, nothing is inverted.
    """
    f, p = len(model.bent), len(model.free)
    columns = _bent_columns(model, bands, pixels, parameters)  # (term, 2, row, n)
    basis, root = orthonormal(columns[:f].flatten(0, 1), pixels.basis)
    found = along(basis, pixels.data)
    residual = outside(basis, pixels.data)
    bending = of_owner(model, substitute(root, found).unflatten(0, (f, 2)))  # (param, 2, n)
    slopes = columns[f : f + p]
    move = outside(pixels.basis, (bending[:, :, None] * slopes).sum(1))  # (param, row, n)
    inside = along(basis, move)  # (2 bent, param, n)
    move = outside(basis, move)
    fisher = (move[:, None] * move).sum(2)
    lever = substitute(root, _of_columns(model, (slopes * residual).sum(2)), transposed=True)
    mixed = (inside[:, :, None] * lever[:, None]).sum(0)
    hessian = fisher + mixed + mixed.transpose(0, 1) - (lever[:, :, None] * lever[:, None]).sum(0)
    second = (columns[f + p :] * residual).sum(2)  # (pair, 2, n)
    for (i, j), left in zip(pairs(model), second, strict=True):
        curve = (bending[i] * left).sum(0)
        hessian[i, j] -= curve
        if i != j:
            hessian[j, i] -= curve
    cost = -found.square().sum(0)
    point = Point(parameters, cost, (move * residual).sum(1), fisher, hessian)
    add_priors(model, point)
    return point, root, residual


def _bent_columns(model: SkyModel, bands: Bands, pixels: JointPixels, parameters: Tensor) -> Tensor:
    """The terms of `terms_of` in Q alone and in U alone, whitened, (term, 2, row, n).

    Bands beyond the instrument's, which hold priors of other amplitudes, see nothing of them.
    """
    terms = terms_of(model, bands, parameters)
    more = pixels.whitener.shape[2] - terms.shape[1]
    terms = torch.nn.functional.pad(terms, (0, 0, 0, more))
    return columns_of(pixels.whitener, terms).transpose(0, 1)


def _of_columns(model: SkyModel, values: Tensor) -> Tensor:
    """Values (param, 2, n) at the columns that each parameter bends, (2 bent, param, n)."""
    placed = values.new_zeros(len(model.bent), 2, *values.shape[::2])
    for k, owner in enumerate(model.owner):
        placed[owner, :, k] = values[k]
    return placed.flatten(0, 1)


def _explained(pixels: JointPixels, spectra: Tensor) -> Tensor:
    """Fall of chi-square that each of many spectra (n_band, node) brings, (node, n), float32."""
    whitener, spectra = pixels.whitener, spectra.T.float()
    scale = 1 / whitener.abs().amax((0, 1, 2))  # so that squares stay in range
    vectors = torch.cat([pixels.data[None], pixels.basis]).unflatten(1, whitener.shape[1:3])
    q, u = ((whitener[:, k] * vectors).sum(1) * scale for k in range(2))  # (vector, n_band, n)
    length = [
        spectra.square() @ ((whitener[:, i] * whitener[:, j]).sum(0) * scale.square()).float()
        for i, j in ((0, 0), (0, 1), (1, 1))
    ]
    qq, qu, uu = (values.clone() for values in length)
    for in_q, in_u in zip(q[1:].float(), u[1:].float(), strict=True):
        along_q, along_u = spectra @ in_q, spectra @ in_u
        qq.addcmul_(along_q, along_q, value=-1)
        qu.addcmul_(along_q, along_u, value=-1)
        uu.addcmul_(along_u, along_u, value=-1)
    qq = torch.maximum(qq, _LEFT * length[0])
    share = qu / qq
    uu = torch.maximum(uu - share * qu, _LEFT * length[2])
    along_q, along_u = spectra @ q[0].float(), spectra @ u[0].float()
    return along_q.square() / qq + (along_u - share * along_q).square() / uu


def amplitudes(
    model: SkyModel, bands: Bands, data: JointWhitened, parameters: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Amplitudes (component, 2, n), their covariance marginal over parameters, chi-square."""
    f, p = len(model.bent), len(model.free)
    terms = terms_of(model, bands, parameters)[: f + p]
    fixed = fixed_spectra(model, bands).T[..., None].expand(-1, -1, terms.shape[-1])
    columns = columns_of(data.whitener, torch.cat([fixed, terms]))  # (2, term, row, n)
    m = len(fixed) + f
    basis, root = orthonormal(columns[:, :m].flatten(0, 1))  # Q of all components, then U
    found = substitute(root, along(basis, data.data)).unflatten(0, (2, m)).transpose(0, 1)
    bending = of_owner(model, found[len(fixed) :])  # (param, 2, n)
    move = (bending[:, :, None] * columns[:, m:].transpose(0, 1)).sum(1)
    shift = substitute(root, along(basis, move))  # (2 component, param, n)
    spread = (shift[:, :, None] * covariance).sum(1)
    unit = torch.eye(2 * m, dtype=root.dtype, device=root.device)[..., None]
    inverse = substitute(root, unit.expand_as(root))
    both = (inverse[:, None] * inverse).sum(2) + (spread[:, None] * shift).sum(2)
    return found, both, outside(basis, data.data).square().sum(0)
