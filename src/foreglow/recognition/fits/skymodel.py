"""Parametric models of a pixel's Q,U: components, free spectral parameters and their priors."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foreglow.errors import ModelError
from foreglow.recognition.models import BETA_MEAN, BETA_SCATTER, definition_of
from foreglow.sky import seds
from foreglow.sky.bandpass import Bands


@dataclass(frozen=True)
class Free:
    """A free spectral parameter.

    Parameters
    ----------
    start : float
    low, high : float
        Bounds.
    prior : tuple of float, optional
        Mean and rms of a Gaussian prior; by default flat between the bounds.

    Raises
    ------
    ModelError
        If the start does not lie between the bounds, or the prior has no width.
    """

    start: float
    low: float
    high: float
    prior: tuple[float, float] | None = None

    def __post_init__(self):
        if not self.low < self.start < self.high:
            raise ModelError(
                f"expected a start between the bounds {self.low:g} and {self.high:g}, got "
                f"{self.start:g}."
            )
        if self.prior is not None and not self.prior[1] > 0:
            raise ModelError(f"expected a prior of rms > 0, got {self.prior[1]:g}.")


# Gaussian priors of the evidence: beta is that of the training law; C is that of Kogut 2012 with
# a width that leaves a power law possible
BETA_PRIOR = (BETA_MEAN, BETA_SCATTER)
CURVATURE_PRIOR = (seds.KOGUT_CURVATURE, 0.05)

# wide: in a faint pixel the best fit of the likelihood alone may lie far from any synchrotron
FREE_BETA_S = Free(BETA_MEAN, -10.0, 2.0)
FREE_CURVATURE = Free(0.0, -4.0, 4.0)
FREE_BETA_D = Free(seds.DUST_BETA, 0.0, 4.0)
FREE_DUST_TEMPERATURE = Free(seds.DUST_TEMPERATURE, 5.0, 80.0)


@dataclass(frozen=True)
class SkyModel:
    """CMB, thermal dust, synchrotron (pivot 23 GHz), perhaps AME and a moment of the dust.

    Each has amplitudes of Q and of U, which share the spectral parameters. A parameter is free, or
    fixed at a number.

    Parameters
    ----------
    beta_s : Free
        Synchrotron spectral index.
    curvature : Free or float
        Synchrotron curvature C a unit of natural log.
    beta_d, dust_temperature : Free or float
        Emissivity index and temperature [K] of thermal dust.
    ame : bool
        Whether spinning dust is there.
    ame_peak_ghz : float
        Where its emissivity peaks.
    ame_fraction : float
        Its polarised fraction, by which the evidence knows how bright to expect it.
    dust_moments : float
        Rms of the first moment of the dust's index over the dust, in Q and in U each, by which the
        evidence knows how large to expect it; 0 for none. The dust must be fixed beside it.
    two_temperatures : bool
        Whether the dust is that of `seds.two_temperature_dust`, in place of the modified
        blackbody.
    synchrotron_factor, dust_factor : tuple of (GHz, factor)
        By which their spectra are multiplied, see `seds.log_factor`.

    References
    ----------
    Farsian et al. 2020, sections 2.1 and 5.
    """

    beta_s: Free = FREE_BETA_S
    curvature: Free | float = 0.0
    beta_d: Free | float = seds.DUST_BETA
    dust_temperature: Free | float = seds.DUST_TEMPERATURE
    ame: bool = False
    dust_moments: float = 0.0
    two_temperatures: bool = False
    ame_peak_ghz: float = seds.AME_PEAK_GHZ
    ame_fraction: float = seds.AME_POLARISATION_FRACTION
    synchrotron_factor: seds.Factor = ()
    dust_factor: seds.Factor = ()

    @property
    def free(self) -> dict[str, Free]:
        """The free parameters by name, in the order of all results: synchrotron's first."""
        return {name: value for name, value in self._named.items() if isinstance(value, Free)}

    @property
    def fixed(self) -> dict[str, float]:
        """The numbers of the fixed parameters by name."""
        return {name: value for name, value in self._named.items() if not isinstance(value, Free)}

    @property
    def _named(self) -> dict[str, Free | float]:
        synchrotron = {"beta_s": self.beta_s, "curvature": self.curvature}
        if self.two_temperatures:
            return synchrotron
        return {
            **synchrotron,
            "beta_d": self.beta_d,
            "dust_temperature": self.dust_temperature,
        }

    @property
    def bent(self) -> tuple[str, ...]:
        """Components with a free parameter."""
        dust = isinstance(self.beta_d, Free) or isinstance(self.dust_temperature, Free)
        return ("synchrotron", "dust") if dust else ("synchrotron",)

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the components in the order of all results: those of fixed spectrum first."""
        present = {
            "cmb": True,
            "dust": "dust" not in self.bent,
            "dust_moment": self.dust_moments > 0,
            "ame": self.ame,
        }
        return (*(name for name, there in present.items() if there), *self.bent)

    @property
    def owner(self) -> tuple[int, ...]:
        """For each free parameter the place in `bent` of the component that it bends."""
        return tuple(0 if name in ("beta_s", "curvature") else 1 for name in self.free)


def candidate(name: str, curvature: float | None = None, priors: bool = False) -> SkyModel:
    """The fit of a candidate model of recognition: beta_s free, and of the dust what varies.

    Parameters
    ----------
    name : str
        One of `MODELS`, or of a user's own.
    curvature : float, optional
        C of the curved models, -0.052 for Kogut's; by default it is free, as in the paper.
    priors : bool
        Gaussian priors on what is free: `BETA_PRIOR`; C as the model's, scattered as there or, if
        it is not, with the width of `CURVATURE_PRIOR`; the dust as the model scatters it.

    Raises
    ------
    ModelError
        If there is no such model.

    References
    ----------
    Farsian et al. 2020, section 5.
    """
    model = definition_of(name)
    running = 0.0 if curvature is None else curvature
    if model.curved and curvature is None:
        start, low, high = FREE_CURVATURE.start, FREE_CURVATURE.low, FREE_CURVATURE.high
        prior = (model.curvature, model.curvature_scatter or CURVATURE_PRIOR[1])
        running = Free(start, low, high, prior if priors else None)
    beta = Free(
        FREE_BETA_S.start, FREE_BETA_S.low, FREE_BETA_S.high, BETA_PRIOR if priors else None
    )

    def scattered(free: Free, rms: float) -> Free | float:
        return replace(free, prior=(free.start, rms) if priors else None) if rms else free.start

    return SkyModel(
        beta,
        running if model.curved else 0.0,
        scattered(FREE_BETA_D, model.beta_d_scatter),
        scattered(FREE_DUST_TEMPERATURE, model.dust_temperature_scatter),
        dust_moments=model.dust_moments,
        ame=model.ame_fraction > 0,
        two_temperatures=model.two_temperatures,
        ame_peak_ghz=model.ame_peak_ghz,
        ame_fraction=model.ame_fraction or seds.AME_POLARISATION_FRACTION,
        synchrotron_factor=model.synchrotron_factor,
        dust_factor=model.dust_factor,
    )


def as_trained(name: str) -> SkyModel:
    """The fit of a candidate as the training law has it.

    C fixed at that of the model, unless it scatters there, and Gaussian priors on what is free.
    """
    known = definition_of(name)
    return candidate(name, None if known.curvature_scatter else known.curvature or None, True)


def bands_needed(models: Iterable[SkyModel]) -> int:
    """Bands that leave every model a degree of freedom."""
    return max(len(model.components) + len(model.free) // 2 + 1 for model in models)


def without_priors(model: SkyModel) -> SkyModel:
    """The same model, flat between the bounds of what is free."""
    return replace(model, **{name: replace(f, prior=None) for name, f in model.free.items()})


def fixed_spectra(model: SkyModel, frequency_ghz: Tensor | Bands) -> Tensor:
    """SEDs of the components without a free parameter, shape (n_band, n_fixed)."""
    bands = Bands.of(frequency_ghz)
    frequency_ghz = bands.node_ghz
    names = model.components[: -len(model.bent)]
    columns = [fixed_spectrum(model, name, frequency_ghz) for name in names]
    return bands.average(torch.stack(columns, dim=-1), dim=0)


def fixed_spectrum(model: SkyModel, name: str, frequency_ghz: Tensor) -> Tensor:
    """SED of a component without a free parameter, at single frequencies."""
    if name == "cmb":
        return seds.cmb(frequency_ghz)
    if name == "ame":
        return seds.spinning_dust(frequency_ghz, peak_ghz=model.ame_peak_ghz)
    dust = dust_spectrum(model, frequency_ghz)
    if name == "dust":
        return dust
    return torch.log(frequency_ghz / seds.DUST_REFERENCE_GHZ) * dust


def dust_spectrum(
    model: SkyModel, frequency_ghz: Tensor, given: Mapping[str, Tensor | float] | None = None
) -> Tensor:
    """SED of the dust, for what is free of it at given values that broadcast against frequency."""
    factor = seds.log_factor(model.dust_factor, frequency_ghz, seds.DUST_REFERENCE_GHZ).exp()
    if model.two_temperatures:
        return factor * seds.two_temperature_dust(frequency_ghz)
    value = {**model.fixed, **(given or {})}
    beta, temperature = value["beta_d"], value["dust_temperature"]
    return factor * seds.modified_blackbody(frequency_ghz, beta, temperature)


def synchrotron_factor(model: SkyModel, frequency_ghz: Tensor) -> Tensor:
    """Logarithm of what the synchrotron has beside its power law and C."""
    return seds.log_factor(model.synchrotron_factor, frequency_ghz, seds.SYNCHROTRON_PIVOT_GHZ)


def bent_spectra(
    model: SkyModel, frequency_ghz: Tensor, parameters: Tensor
) -> tuple[Tensor, Tensor]:
    """SEDs of the components with free parameters, and the slopes of their logarithms.

    At single frequencies: what a band of some width sees is the mean of a spectrum, and of the
    spectrum times its slope, over the band's nodes.

    Parameters
    ----------
    model : SkyModel
    frequency_ghz : Tensor, shape (n_band,)
    parameters : Tensor, shape (n, n_param)
        In the order of `model.free`.

    Returns
    -------
    spectra : Tensor, shape (n, n_band, n_bent)
    slopes : Tensor, shape (n, n_band, n_param)
        Derivative of the natural logarithm of a parameter's component by that parameter.
    """
    value: dict[str, Tensor | float] = dict(model.fixed)
    value.update(zip(model.free, parameters[:, None].unbind(-1), strict=True))  # each (n, 1)
    log_ratio = torch.log(frequency_ghz / seds.SYNCHROTRON_PIVOT_GHZ)
    spectra = [seds.synchrotron(frequency_ghz, value["beta_s"], value["curvature"])]
    if model.synchrotron_factor:
        spectra[0] = spectra[0] * synchrotron_factor(model, frequency_ghz).exp()
    slopes = {"beta_s": log_ratio, "curvature": log_ratio**2}
    if "dust" in model.bent:
        temperature = value["dust_temperature"]
        spectra.append(dust_spectrum(model, frequency_ghz, value))
        slopes["beta_d"] = torch.log(frequency_ghz / seds.DUST_REFERENCE_GHZ)
        slopes["dust_temperature"] = seds.dust_temperature_slope(frequency_ghz, temperature)
    shape = (len(parameters), len(frequency_ghz))
    columns = [slopes[name].expand(shape) for name in model.free]
    return torch.stack([s.expand(shape) for s in spectra], -1), torch.stack(columns, -1)
