"""The profile likelihood of pixels: chi-square and its derivatives, amplitudes eliminated.

Here the noise of Q and U is alike, so that both have the same matrices; `joint` is for noise that
differs. Beware: in both the pixel is the last axis. The algebra of one pixel is so small that it is
quick only side by side with that of thousands of others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from foreglow.recognition.fits.matrices import invert
from foreglow.recognition.fits.skymodel import SkyModel, bent_spectra, synchrotron_factor
from foreglow.sky import seds
from foreglow.sky.bandpass import Bands

_ROUNDING = 16 * torch.finfo(torch.float64).eps  # of a cost: it is a sum over some tens of terms
_SLICE = 1024  # pixels whose spectra times rows stay in the cache
_ALIKE = 1e-6  # of what is 1 at most: apart by the rounding of single precision
_LEFT = 3e-6  # of squares in single precision: less left of a spectrum is not told from none


class Columns:
    """What dataclasses of tensors share whose last axis is the pixel."""

    def each(self, make: Callable[..., Tensor], *others: Self) -> Self:
        """A function of the tensors of this one and of others, field by field."""
        made = []
        for name in self.__dataclass_fields__:  # type: ignore[attr-defined]
            values = [getattr(columns, name) for columns in (self, *others)]
            nested = isinstance(values[0], Columns)
            made.append(values[0].each(make, *values[1:]) if nested else make(*values))
        return type(self)(*made)

    def take(self, index: Tensor) -> Self:
        """The same for some pixels."""
        # gather: several times faster than indexing along the last axis
        return self.each(lambda values: values.gather(-1, index.expand(*values.shape[:-1], -1)))

    def put(self, index: Tensor, others: Self) -> None:
        """Write others in the place of some pixels."""
        self.each(lambda into, values: into.index_copy_(-1, index, values), others)

    def at(self, some: slice | Tensor) -> Self:
        """The same for some pixels, by a slice or by their places."""
        return self.each(lambda values: values[..., some])

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """All pixels of several."""
        return parts[0].each(lambda *values: torch.cat(values, dim=-1), *parts[1:])


@dataclass(frozen=True)
class Pixels(Columns):
    """Data with the components of fixed spectrum projected out.

    Parameters
    ----------
    rows : Tensor, shape (n_band, 2 + n_fixed, n)
        Over sigma: whitened Q, U; then an orthonormal basis of the whitened fixed components.
    inverse_variance : Tensor, shape (n_band, n)
    """

    rows: Tensor
    inverse_variance: Tensor

    def linearise(self, model: SkyModel, bands: Bands, parameters: Tensor) -> "Point":
        """Cost and derivatives at parameters (n_param, n)."""
        return linearise(model, bands, self, parameters)

    def explained(self, spectra: Tensor) -> Tensor:
        """Fall of chi-square that each of many spectra (n_band, node) brings, (node, n)."""
        return explained(self, spectra)

    def explained_by(self, spectrum: Tensor) -> Tensor:
        """Fall of chi-square that a spectrum (n_band, n or 1) brings, (n,)."""
        along = (self.rows[:, :2] * spectrum[:, None]).sum(0)
        return along.square().sum(0) / self.length(spectrum)

    def length(self, spectrum: Tensor) -> Tensor:
        """Square of what the fixed components leave of a spectrum (n_band, n or 1), (n,)."""
        along = (self.rows[:, 2:] * spectrum[:, None]).sum(0)
        return (self.inverse_variance * spectrum.square()).sum(0) - along.square().sum(0)


@dataclass(frozen=True)
class Whitened(Columns):
    """Data over their noise, which is alike in Q and U.

    Parameters
    ----------
    weight : Tensor, shape (n_band, n)
        1 / sigma; 0 where not observed.
    data : Tensor, shape (n_band, 2, n)
        Q, U over sigma; 0 where not observed.
    """

    weight: Tensor
    data: Tensor

    @property
    def n_seen(self) -> Tensor:
        """Bands that observed a pixel, (n,)."""
        return (self.weight > 0).sum(0)

    def project(self, fixed: Tensor) -> Pixels:
        """Pixels without what components of spectra (n_band, n_fixed, n or 1) can explain."""
        return project(fixed, self.weight, self.data)


@dataclass(frozen=True)
class Point(Columns):
    """The likelihood at a point of the spectral parameters.

    `cost` is chi-square and priors, less chi-square of the fixed components alone, (n,). Of half
    of it: `fall` (n_param, n), the gradient with its sign turned; `fisher` (n_param, n_param, n),
    Gauss-Newton; and `hessian`, exact at a minimum.
    """

    parameters: Tensor
    cost: Tensor
    fall: Tensor
    fisher: Tensor
    hessian: Tensor

    def where(self, condition: Tensor, other: Self) -> Self:
        """Itself where the condition (n,) holds, else the other."""
        return self.each(lambda one, two: torch.where(condition, one, two), other)

    def no_higher(self, other: Self) -> Tensor:
        """Whether its cost is no higher than the other's, but for the rounding of both, (n,).

        A pixel of a million times its noise has a cost of -10^14, rounded to a tenth: a step of
        less would be taken or not by chance, and a descent never end. A step so long that spectra
        overflow has a cost of -infinity, or none.
        """
        no_higher = self.cost <= other.cost + _ROUNDING * other.cost.abs()
        return no_higher & (self.cost > -torch.inf)


def project(fixed: Tensor, weight: Tensor, whitened: Tensor) -> Pixels:
    """Pixels without what the fixed components can explain.

    Parameters
    ----------
    fixed : Tensor, shape (n_band, n_fixed, n or 1)
        Spectra.
    weight : Tensor, shape (n_band, n)
        1 / sigma; 0 where not observed.
    whitened : Tensor, shape (n_band, 2, n)
        Q, U over sigma; 0 where not observed.
    """
    basis: list[Tensor] = []
    for column in fixed.unbind(1):
        column = column * weight
        for other in basis * 2:  # Gram and Schmidt; once more for what rounding left
            column = column - other * (other * column).sum(0)
        basis.append(column / torch.linalg.vector_norm(column, dim=0))
    data = whitened
    for other in basis:
        data = data - other[:, None] * (other[:, None] * data).sum(0)
    rows = torch.cat([data, *(b[:, None] for b in basis)], dim=1) * weight[:, None]
    return Pixels(rows, weight.square())


def linearise(
    model: SkyModel, bands: Bands, pixels: Pixels, parameters: Tensor, exact: bool = False
) -> Point:
    """Cost and derivatives at parameters (n_param, n); the Hessian exact anywhere, if need be."""
    narrow = bands.weight is None  # then derivatives are the spectrum times numbers
    products = _synchrotron_products if narrow and "dust" not in model.bent else _products
    first, second, gram, second_gram, share = products(model, bands, pixels, parameters)
    f = len(model.bent)
    inverse = invert(gram[:f, :f])
    bare = first[:f]
    amplitude = _apply(inverse, bare)  # (bent, 2, n)
    aside = _apply(inverse, gram[:f, f:])  # (bent, param, n)
    cost = -(amplitude * bare).sum((0, 1))
    along = first[f:] - _apply(gram[f:, :f], amplitude)  # (param, 2, n)
    narrow = gram[f:, f:] - _apply(gram[f:, :f], aside)
    rest = second - _apply(second_gram, amplitude)  # (pair, 2, n)
    if share is not None:
        amplitude, aside, inverse = (_of_spectra(v, share) for v in (amplitude, aside, inverse))
        inverse = _of_spectra(inverse.transpose(0, 1), share)
    bending = of_owner(model, amplitude)  # (param, 2, n)
    fall = (bending * along).sum(1)
    fisher = _outer(bending, bending) * narrow
    inverse = of_owner(model, of_owner(model, inverse).transpose(0, 1))
    hessian = fisher - inverse * _outer(along, along)
    pulls = prior_pulls(model, parameters)
    if f > 1 or exact or pulls:
        mixed = of_owner(model, aside) * _outer(along, bending)
        # within a component these are as the gradient of the likelihood: at a minimum none, or what
        # a prior holds against; farther off, steps do better with these than with its own
        for i, j in () if exact else pairs(model):
            for k, m in {(i, j), (j, i)}:
                mixed[k, m] = -pulls[k] * aside[model.owner[k], m] if k in pulls else 0.0
        hessian = hessian + mixed + mixed.transpose(0, 1)
    for (i, j), left in zip(pairs(model), rest, strict=True):
        curve = (bending[i] * left).sum(0)
        hessian[i, j] -= curve
        if i != j:
            hessian[j, i] -= curve
    point = Point(parameters, cost, fall, fisher, hessian)
    add_priors(model, point)
    return point


def _apply(matrix: Tensor, values: Tensor) -> Tensor:
    """Matrices (k, bent, n) times values (bent, m, n)."""
    if len(values) == 1:
        return matrix * values
    return (matrix[:, :, None] * values).sum(1)


def _of_spectra(values: Tensor, share: Tensor) -> Tensor:
    """Coefficients (2, ..., n) of synchrotron and dust, from those where dust lacks its share."""
    return torch.stack([values[0] - share * values[1], values[1]])


def of_owner(model: SkyModel, values: Tensor) -> Tensor:
    """Values (bent, ..., n), for each parameter those of the component that it bends."""
    if len(values) == 1:
        return values.expand(len(model.owner), *values.shape[1:])
    return values[list(model.owner)]


def pairs(model: SkyModel) -> list[tuple[int, int]]:
    """Pairs of parameters, each once, that bend the same component."""
    p, owner = len(model.owner), model.owner
    return [(i, j) for i in range(p) for j in range(i, p) if owner[i] == owner[j]]


def _outer(first: Tensor, second: Tensor) -> Tensor:
    """(param, param, n) from two of (param, 2, n)."""
    return (first[:, None] * second).sum(2)


def _synchrotron_products(
    model: SkyModel, bands: Bands, pixels: Pixels, parameters: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
    """As `_products`, for narrow bands and synchrotron alone: moments of powers of ln frequency."""
    p = len(model.free)  # beta_s, and perhaps C: derivatives are the spectrum times a power
    log_ratio = torch.log(bands.node_ghz / seds.SYNCHROTRON_PIVOT_GHZ)
    powers = log_ratio ** torch.arange(2 * p + 1, device=log_ratio.device)[:, None]
    exponent = torch.zeros_like(log_ratio)
    if p == 1 and model.fixed["curvature"]:
        exponent += model.fixed["curvature"] * log_ratio**2
    if model.synchrotron_factor:
        exponent += synchrotron_factor(model, bands.node_ghz)
    n, rows = parameters.shape[1], pixels.rows
    moments = rows.new_empty(2 * p + 1, rows.shape[1], n)  # (power, row, n)
    length = rows.new_empty(2 * p + 1, n)
    step = _SLICE if rows.device.type == "cpu" else n
    for some in (slice(first, first + step) for first in range(0, n, max(step, 1))):
        spectrum = torch.addmm(exponent[:, None], powers[1 : p + 1].T, parameters[:, some]).exp_()
        seen = rows[..., some] * spectrum[:, None]  # (band, row, n)
        moments[..., some] = (powers @ seen.flatten(1)).unflatten(1, seen.shape[1:])
        length[:, some] = powers @ spectrum.square_().mul_(pixels.inverse_variance[:, some])
    inside = moments[:, 2:]
    gram = length.unfold(0, p + 1, 1).transpose(1, 2)  # [i, j] is that of power i + j
    gram = gram - (inside[: p + 1, None] * inside[: p + 1]).sum(2)
    second_gram = length[2:] - (inside[2:] * inside[:1]).sum(1)
    return moments[: p + 1, :2], moments[2:, :2], gram, second_gram[:, None], None


def _products(
    model: SkyModel, bands: Bands, pixels: Pixels, parameters: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Inner products of spectra, their first derivatives and their second ones (`pairs`).

    Returns
    -------
    first : Tensor, shape (bent + param, 2, n)
        Of spectra and first derivatives with the data.
    second : Tensor, shape (pair, 2, n)
        Of second derivatives with the data.
    gram : Tensor, shape (bent + param, bent + param, n)
        Among spectra and first derivatives, fixed components projected out.
    second_gram : Tensor, shape (pair, bent, n)
        Of second derivatives with the spectra, likewise.
    share : Tensor, shape (n,), optional
        Of synchrotron that is taken out of the spectrum of dust in all of these: in faint pixels
        they may be so alike that chi-square would be lost to rounding.
    """
    weight = pixels.inverse_variance.sqrt()
    rows = torch.where(weight[:, None] > 0, pixels.rows / weight[:, None], 0.0)
    terms = terms_of(model, bands, parameters) * weight  # (term, band, n)
    share, n_bent = None, len(model.bent)
    if n_bent > 1:  # first: dust and CMB are too alike to subtract products
        for fixed in rows[:, 2:].unbind(1):
            terms = terms - fixed * (fixed * terms).sum(1, keepdim=True)
        terms[1], share = _apart(terms[0], terms[1])
    moments = torch.stack([(terms * row).sum(1) for row in rows[:, :2].unbind(1)], 1)
    n_first = n_bent + len(model.owner)
    gram = torch.stack([(terms * terms[k]).sum(1) for k in range(n_first)], 1)
    if n_bent == 1:  # not before: beside laws of amplitudes the basis has rows that are not here
        for fixed in rows[:, 2:].unbind(1):
            inside = (terms * fixed).sum(1)
            gram = gram - inside[:, None] * inside[:n_first]
    second_gram = gram[n_first:, :n_bent]
    return moments[:n_first], moments[n_first:], gram[:n_first], second_gram, share


def terms_of(model: SkyModel, bands: Bands, parameters: Tensor) -> Tensor:
    """Spectra, their first derivatives and their second ones (`pairs`), (term, n_band, n)."""
    at_nodes = bent_spectra(model, bands.node_ghz, parameters.T)
    spectra, slopes = (t.permute(2, 1, 0) for t in at_nodes)
    bent = slopes * spectra[list(model.owner)]
    twice = [bent[i] * slopes[j] for i, j in pairs(model)]
    if "dust_temperature" in model.free:  # the last parameter: its slope changes with itself
        bend = seds.dust_temperature_bend(bands.node_ghz, parameters[-1, :, None]).T
        twice[-1] = twice[-1] + spectra[1] * bend
    return bands.average(torch.cat([spectra, bent, torch.stack(twice)]), dim=1)


def _apart(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """A spectrum (n_band, n) without its share of another, and this share (n,)."""
    length, share = first.square().sum(0), torch.zeros_like(first[0])
    for _ in range(2):  # twice, for what rounding leaves
        more = (first * second).sum(0) / length
        second, share = second - more * first, share + more
    return second, share


def prior_pulls(model: SkyModel, parameters: Tensor) -> dict[int, Tensor]:
    """By the place of a parameter that has a prior, minus half the slope of that (n,)."""
    priors = ((k, free.prior) for k, free in enumerate(model.free.values()) if free.prior)
    return {k: (mean - parameters[k]) / rms**2 for k, (mean, rms) in priors}


def add_priors(model: SkyModel, point: Point) -> None:
    """Add the Gaussian priors of a model to what the data say."""
    for k, free in enumerate(model.free.values()):
        if free.prior is not None:
            mean, rms = free.prior
            pull = (mean - point.parameters[k]) / rms
            point.cost.add_(pull**2)
            point.fall[k] += pull / rms
            point.fisher[k, k] += rms**-2
            point.hessian[k, k] += rms**-2


def explained(pixels: Pixels, spectra: Tensor) -> Tensor:
    """Fall of chi-square that each of many spectra (n_band, node) brings, (node, n), float32."""
    scale = pixels.inverse_variance.amax(0).rsqrt()  # so that squares stay in range
    rows = (pixels.rows * scale).transpose(0, 1).float().contiguous()
    weight = (pixels.inverse_variance * scale.square()).float()
    spectra, fixed = spectra.T.float(), rows[2:]
    alike = all((v - v[..., :1]).abs().amax() < _ALIKE for v in (weight, *fixed))
    if alike:  # noise of one shape across the bands: what is left of spectra is that of one pixel
        weight, fixed = weight[:, :1], fixed[..., :1]
    length = spectra.square() @ weight
    left = length.clone()
    for row in fixed:
        along = spectra @ row
        left.addcmul_(along, along, value=-1)
    left = torch.maximum(left, length.mul_(_LEFT))
    if alike:
        spectra = spectra / left.sqrt_()
    gain, along = (spectra @ rows[0]).square_(), spectra @ rows[1]
    gain.addcmul_(along, along)
    return gain if alike else gain.div_(left)
