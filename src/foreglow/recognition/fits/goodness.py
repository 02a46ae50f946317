"""Whether any candidate fits a pixel: the chi-square of the training law, quick enough to be asked
of every pixel that is classified.

The fits of `optimise` search for the lowest of several minima, wherever it lies. Here a candidate
is what the networks were trained on, its curvature fixed and its index drawn from a narrow prior;
that has one minimum near the prior's mean, which some steps of Gauss and Newton find.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from foreglow.recognition.fits.optimise import fit
from foreglow.recognition.fits.skymodel import (
    SkyModel,
    as_trained,
    fixed_spectra,
    synchrotron_factor,
)
from foreglow.recognition.models import BETA_MEAN
from foreglow.recognition.power_law import (
    BETA_PRECISION,
    complement,
    expansion,
    fit_index,
    log_ratio_of,
    modes_of_powers,
)
from foreglow.sky.bandpass import Bands
from foreglow.sky.instrument import Instrument

LEVEL = 1e-3
"""A pixel where no candidate has a larger p-value is said to be fitted by none."""

_STEPS = 3
_BATCH = 16384  # pixels whose vectors stay in the cache
_SAME_SHAPE = 1e-3  # of the noise across the bands: two thousandths of chi-square


def goodness_of_fit(
    models: tuple[str, ...],
    instrument: Instrument,
    data: Tensor,
    sigma: Tensor,
    log_probability: Tensor,
) -> tuple[Tensor, Tensor]:
    """Ask whether the most probable candidate fits a pixel, and if not, whether any does.

    Amplitudes of CMB, dust, synchrotron and, where the candidate has it, AME are free; C is that
    of the candidate, unless it scatters there; what is free has the Gaussian prior of the training
    law, which counts as a datum. Where the candidate is true, the p-value is uniform.

    Parameters
    ----------
    models : tuple of str
        Names of `MODELS`.
    instrument : Instrument
    data : Tensor, shape (n, 2, n_band)
        Q, U [uK_RJ], every band observed.
    sigma : Tensor, shape (n, n_band)
        Noise rms of Q and of U alike [uK_RJ], above zero.
    log_probability : Tensor, shape (n, n_class)

    Returns
    -------
    p_value : Tensor, float64, shape (n,)
        Of the most probable candidate.
    none_fits : Tensor, bool, shape (n,)
        Where the p-value of every candidate is below `LEVEL`.
    """
    order = log_probability.argsort(1, descending=True)
    first = torch.empty(len(data), dtype=torch.float64, device=data.device)
    none_fits = torch.ones_like(first, dtype=torch.bool)
    for rank, choice in enumerate(order.unbind(1)):
        for k, name in enumerate(models):
            mine = torch.nonzero(none_fits & (choice == k)).squeeze(1)
            if not len(mine):
                continue
            chi2, dof = chi2_as_trained(name, instrument, data[mine], sigma[mine])
            p = torch.special.gammaincc(chi2.new_tensor(0.5 * dof), 0.5 * chi2)
            none_fits[mine] = p < LEVEL
            if rank == 0:
                first[mine] = p
    return first, none_fits


def chi2_as_trained(
    name: str, instrument: Instrument, data: Tensor, sigma: Tensor
) -> tuple[Tensor, int]:
    """Chi-square (n,) of a candidate as `goodness_of_fit` has it, and its degrees of freedom.

    Parameters
    ----------
    name : str
        One of `MODELS`.
    instrument, data, sigma
        As there. Where the shape of the noise across the bands differs between pixels, or more
        than beta_s is free, this takes several times as long.
    """
    model = as_trained(name)
    shape, depth = _separable(sigma)
    if shape is None or list(model.free) != ["beta_s"]:
        chi2 = _chi2_of_fits(model, instrument.bands, data, sigma)
    else:
        chi2 = _projected(model, instrument, shape, data.device).chi2(data, depth)
    # each prior is a datum, and each free parameter takes one away
    return chi2, 2 * (data.shape[2] - len(model.components))


def _separable(sigma: Tensor) -> tuple[tuple[float, ...] | None, Tensor]:
    """Noise (n, n_band) as a shape across the bands, if it is one, times a depth (n,)."""
    if (sigma == sigma[0]).all():  # no map of the noise
        return tuple(sigma[0].tolist()), torch.ones_like(sigma[:, 0], dtype=torch.float64)
    depth = torch.exp(torch.log(sigma.double()).mean(1))
    shape = sigma / depth[:, None]
    alike = (shape / shape[0] - 1).abs().amax() < _SAME_SHAPE
    return (tuple(shape[0].tolist()) if alike else None), depth


@dataclass(frozen=True)
class _Projected:
    """A candidate of fixed dust in bands of which all but synchrotron is projected out.

    The noise has one shape across the bands.
    """

    projection: Tensor  # (band, mode)
    log_ratio: Tensor
    from_nodes: Tensor
    bend: Tensor

    @classmethod
    def of(cls, model: SkyModel, bands: Bands, shape: Tensor) -> "_Projected":
        fixed = fixed_spectra(model, bands)
        projection = complement(fixed / shape[:, None]) / shape[:, None]
        ratio = log_ratio_of(bands)
        from_nodes = modes_of_powers(bands, projection.T)
        bend = model.fixed["curvature"] * ratio**2 + synchrotron_factor(model, bands.node_ghz)
        return cls(projection, ratio, from_nodes, bend)

    def chi2(self, data: Tensor, depth: Tensor) -> Tensor:
        """Chi-square (n,), the prior of the index in it, where the noise is depth times shape."""
        parts = zip(data.split(_BATCH), depth.split(_BATCH), strict=True)
        return torch.cat([self._chi2(*part) for part in parts])

    def _chi2(self, data: Tensor, depth: Tensor) -> Tensor:
        z = (data.double() @ self.projection) / depth[:, None, None]  # (n, stokes, mode), white
        beta = fit_index(z.float(), self.log_ratio, self.from_nodes, _STEPS, self.bend).double()
        fall, curve, explained = expansion(z, beta, self.log_ratio, self.from_nodes, self.bend)
        prior = BETA_PRECISION * (beta - BETA_MEAN) ** 2
        # the last is what one step more would bring: so near its minimum it is a parabola
        return z.square().sum((1, 2)) - explained + prior - fall**2 / curve


@lru_cache(maxsize=64)
def _projected(
    model: SkyModel, instrument: Instrument, shape: tuple[float, ...], device: torch.device
) -> _Projected:
    bands = instrument.bands.to(device)
    return _Projected.of(model, bands, bands.node_ghz.new_tensor(shape))


def _chi2_of_fits(model: SkyModel, bands: Bands, data: Tensor, sigma: Tensor) -> Tensor:
    found = fit(model, bands, data, sigma)
    chi2 = found.chi2
    for free, values in zip(model.free.values(), found.parameters.unbind(1), strict=True):
        if free.prior is not None:
            chi2 = chi2 + ((values - free.prior[0]) / free.prior[1]) ** 2
    return chi2
