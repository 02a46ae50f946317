"""The training law: vectors of Q,U in every band, made on the device, fresh at every step."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from foreglow.errors import InstrumentError, ModelError
from foreglow.recognition.models import (
    AMPLITUDE_SCATTER,
    BETA_MEAN,
    BETA_SCATTER,
    ForegroundModel,
    definition_of,
)
from foreglow.recognition.simulation.systematics import NO_SYSTEMATICS, Systematics, depth
from foreglow.sky import seds
from foreglow.sky.cmb import cmb_polarisation_rms
from foreglow.sky.instrument import Instrument
from foreglow.sky.templates import Templates


@dataclass(frozen=True)
class NoiseLaw:
    """Distribution of the noise over vectors.

    Parameters
    ----------
    low, high : float
        The noise of a vector is that of the instrument times a factor drawn log-uniform from
        [low, high]; both 0 for noiseless vectors.
    band_scatter : float
        Rms of the natural log of a further factor a band (uneven coverage).

    Raises
    ------
    ModelError
        If the range is none.
    """

    low: float
    high: float
    band_scatter: float = 0.0

    def __post_init__(self):
        if not (0 < self.low <= self.high < math.inf or self.low == self.high == 0):
            raise ModelError(
                "expected a range of noise above zero, or 0 and 0 for none, got "
                f"{self.low:g} to {self.high:g}."
            )

    @classmethod
    def fixed(cls, scale: float) -> "NoiseLaw":
        """The same factor for every vector and band."""
        return cls(scale, scale)


@dataclass(frozen=True)
class Vectors:
    """A batch of pixels.

    Parameters
    ----------
    data : Tensor, shape (n, 2, n_band)
        Q, U [uK_RJ].
    sigma : Tensor, shape (n, n_band)
        Noise rms of Q and of U [uK_RJ]; 0 where noiseless.
    label : Tensor, int64, shape (n,)
        Index of the true model.
    """

    data: Tensor
    sigma: Tensor
    label: Tensor

    def __getitem__(self, which: slice) -> "Vectors":
        """Some of them."""
        return Vectors(self.data[which], self.sigma[which], self.label[which])


class VectorSimulator(nn.Module):
    """Draws vectors of the training law.

    A template pixel is drawn for every vector; the Q and U amplitudes of synchrotron and dust are
    each multiplied by 1 + 0.3 g; beta_s ~ N(-3, 0.2); the CMB is Gaussian with the variance of a
    map at the Nside of the templates; AME lies along the dust of the vector, or about it, and a
    moment of the dust in any direction.

    Parameters
    ----------
    templates : Templates
    instrument : Instrument
    models : tuple of str
        Candidate models, names of `MODELS`; a label is a place in this tuple.
    noise_nside : int, optional
        Pixel over which the sensitivity is averaged; by default that of the templates.
    systematics : Systematics
        Errors of the instrument, drawn for every vector; of 1/f noise what a pixel sees, which is
        noise of a larger rms than is stated.
    ame_scatter : float
        Rms of what Q and of what U of the AME have beside its part along the dust, over that part.

    Raises
    ------
    InstrumentError
        If the systematic errors have one of beams, or of band centres where a model has a factor
        on a spectrum.

    References
    ----------
    Farsian et al. 2020, sections 2.4 and 4.1.1.
    """

    sigma: Tensor
    _amplitudes: Tensor
    _fixed_seds: Tensor
    _log_ratio: Tensor
    _node_weight: Tensor | None
    _candidates: Tensor
    _dust_seds: Tensor
    _node_ghz: Tensor
    _dust_scatter: Tensor
    _dust_moments: Tensor
    _moment_seds: Tensor
    _curvature_scatter: Tensor
    _ame_seds: Tensor
    _log_slopes: Tensor
    _log_factors: Tensor

    def __init__(
        self,
        templates: Templates,
        instrument: Instrument,
        models: tuple[str, ...],
        noise_nside: int | None = None,
        systematics: Systematics = NO_SYSTEMATICS,
        ame_scatter: float = 0.0,
    ):
        super().__init__()
        self.models = models
        self.ame_scatter = ame_scatter
        if systematics.beam:
            raise InstrumentError(
                "expected no systematic error of beams, which is one of maps, not of single "
                f"pixels, got beam = {systematics.beam:g}; leave it out of the training."
            )
        known = [definition_of(name) for name in models]
        if systematics.band_centre and any(m.synchrotron_factor or m.dust_factor for m in known):
            raise InstrumentError(
                "expected no systematic error of band centres beside models with a factor on a "
                f"spectrum, got band_centre = {systematics.band_centre:g}; leave it out of the "
                "training."
            )
        self.systematics = systematics
        red = systematics.red_share(noise_nside or templates.nside)
        self._noise_factor = math.sqrt(1 + red)  # of what is drawn over what is said
        self.cmb_rms = cmb_polarisation_rms(templates.nside)
        bands = instrument.bands
        frequency = bands.node_ghz
        candidates = [(model.curvature, model.ame_fraction) for model in known]
        dust = torch.stack([_dust_sed(model, frequency) for model in known])
        log_dust_ratio = torch.log(frequency / seds.DUST_REFERENCE_GHZ)
        ame = [seds.spinning_dust(frequency, peak_ghz=model.ame_peak_ghz) for model in known]
        buffers = {
            "sigma": torch.from_numpy(instrument.noise_rms(noise_nside or templates.nside)),
            "_amplitudes": torch.from_numpy(_pixel_amplitudes(templates)),
            "_fixed_seds": bands.average(
                torch.stack(
                    [
                        seds.modified_blackbody(frequency),
                        seds.cmb(frequency),
                        seds.spinning_dust(frequency),
                    ]
                )
            ),
            "_log_ratio": torch.log(frequency / seds.SYNCHROTRON_PIVOT_GHZ),
            "_candidates": torch.tensor(candidates),
            "_dust_seds": dust,
            "_node_ghz": frequency,
            "_dust_scatter": torch.tensor(
                [(model.beta_d_scatter, model.dust_temperature_scatter) for model in known]
            ),
            "_dust_moments": torch.tensor([model.dust_moments for model in known]),
            "_moment_seds": bands.average(log_dust_ratio * dust),
            "_log_slopes": _log_slopes(instrument),
            "_curvature_scatter": torch.tensor([model.curvature_scatter for model in known]),
            "_ame_seds": bands.average(torch.stack(ame)),
            "_log_factors": torch.stack([_log_factor(model, frequency) for model in known]),
        }
        self._one_dust = not any(
            m.dust_varies or m.two_temperatures or m.dust_factor for m in known
        )
        self._warmed = any(model.dust_temperature_scatter for model in known)
        self._moments = any(model.dust_moments for model in known)
        self._plain = not any(model.synchrotron_factor for model in known)
        self._one_ame = all(model.ame_peak_ghz == seds.AME_PEAK_GHZ for model in known)
        self._scattered = any(model.curvature_scatter for model in known)
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor.float(), persistent=False)
        weight = None if bands.weight is None else bands.weight.float()
        self.register_buffer("_node_weight", weight, persistent=False)

    def draw(self, n: int, noise: NoiseLaw, generator: torch.Generator) -> Vectors:
        """Draw `n` vectors with equal odds for the models.

        Parameters
        ----------
        n : int
        noise : NoiseLaw
        generator : torch.Generator
            On the device of the simulator.
        """
        device = self._amplitudes.device
        n_pixel = len(self._amplitudes)
        pixel = torch.randint(n_pixel, (n,), generator=generator, device=device)
        label = torch.randint(len(self.models), (n,), generator=generator, device=device)
        gauss = torch.randn(7, n, generator=generator, device=device)
        curvature, fraction = self._candidates.index_select(0, label).unbind(1)
        # (n, 5): synchrotron Q,U, dust Q,U, AME I
        amplitude = self._amplitudes.index_select(0, pixel)
        shaken = amplitude[:, :4] * (1 + AMPLITUDE_SCATTER * gauss[:4].T)
        synchrotron, dust = shaken[:, :2], shaken[:, 2:]
        direction = nn.functional.normalize(dust, dim=1)
        if self.ame_scatter:
            beside = torch.randn(direction.shape, generator=generator, device=device)
            direction = direction + self.ame_scatter * beside
        ame = (fraction * amplitude[:, 4])[:, None] * direction
        cmb = self.cmb_rms * gauss[4:6].T
        beta = BETA_MEAN + BETA_SCATTER * gauss[6]
        if self._scattered:
            scatter = torch.randn(n, generator=generator, device=device)
            curvature = curvature + self._curvature_scatter[label] * scatter
        bare = dust if self._one_dust else torch.zeros_like(dust)
        usual = ame if self._one_ame else torch.zeros_like(ame)
        factor = None if self._plain else self._log_factors[label]
        data = self._emission(synchrotron, beta, curvature, bare, cmb, usual, factor)
        if not self._one_dust:
            data = data + dust[:, :, None] * self._dust_spectra(label, generator)[:, None]
        if self._moments:
            data = data + self._dust_moment(dust, label, generator)
        if not self._one_ame:
            data = data + ame[:, :, None] * self._ame_seds[label][:, None]
        if self.systematics.band_centre:
            slope = self._slopes(beta, curvature, synchrotron, dust, ame)
            shift = torch.randn(n, 1, data.shape[2], generator=generator, device=device)
            data = data + self.systematics.band_centre * shift * slope
        data = self._miscalibrated(data, generator)
        sigma = self._noise_rms(n, noise, generator)
        if noise.high > 0:
            white = torch.randn(data.shape, generator=generator, device=device)
            if self.systematics.uneven_noise:
                sin_beta = 2 * torch.rand(n, 1, 1, generator=generator, device=device) - 1
                white = white * depth(self.systematics.uneven_noise, sin_beta)
            data.addcmul_(white, self._noise_factor * sigma[:, None])
        return Vectors(data, sigma, label)

    def _emission(self, synchrotron, beta, curvature, dust, cmb, ame, log_factor=None) -> Tensor:
        """(n, stokes, band) from amplitudes (n, stokes) and spectral parameters (n,)."""
        exponent = (
            beta[:, None] + curvature[:, None] * self._log_ratio
        ) * self._log_ratio  # (n, node)
        if log_factor is not None:
            exponent = exponent + log_factor
        power_law = torch.exp(exponent)
        if self._node_weight is not None:
            power_law = power_law @ self._node_weight
        amplitude = dust.new_empty(*dust.shape, 3)  # torch.stack is slow along the last axis
        for place, component in enumerate((dust, cmb, ame)):
            amplitude[..., place] = component
        fixed = amplitude @ self._fixed_seds
        return fixed.addcmul_(synchrotron[:, :, None], power_law[:, None])

    def _slopes(self, beta, curvature, synchrotron, dust, ame) -> Tensor:
        """Change (n, stokes, band) by ln frequency, of bands that are calibrated on the CMB."""
        to_cmb, of_dust, of_ame, log_ratio = self._log_slopes
        index = beta[:, None] + 2 * curvature[:, None] * log_ratio
        power_law = torch.exp((beta[:, None] + curvature[:, None] * log_ratio) * log_ratio)
        change = synchrotron[:, :, None] * (power_law * (index - to_cmb))[:, None]
        change = change + dust[:, :, None] * (self._fixed_seds[0] * (of_dust - to_cmb))
        return change + ame[:, :, None] * (self._fixed_seds[2] * (of_ame - to_cmb))

    def _miscalibrated(self, data: Tensor, generator: torch.Generator) -> Tensor:
        """Data as bands of wrong gains and polarisation angles see them."""

        def each(size: float) -> Tensor:
            shape = len(data), data.shape[2]
            return size * torch.randn(shape, generator=generator, device=data.device)

        if self.systematics.gain:
            data = data * (1 + each(self.systematics.gain))[:, None]
        if self.systematics.angle_deg:
            turn = 2 * math.pi / 180 * each(self.systematics.angle_deg)
            q, u = data.unbind(1)
            cos, sin = torch.cos(turn), torch.sin(turn)
            data = torch.stack([cos * q - sin * u, sin * q + cos * u], 1)
        return data

    def _dust_spectra(self, label: Tensor, generator: torch.Generator) -> Tensor:
        """(n, band): each vector's dust, where the candidates differ in it."""

        def each(place: int) -> Tensor:  # what the index or the temperature has beside its mean
            gauss = torch.randn(len(label), 1, generator=generator, device=label.device)
            return self._dust_scatter[label, place, None] * gauss

        log_ratio = torch.log(self._node_ghz / seds.DUST_REFERENCE_GHZ)
        spectra = self._dust_seds[label] * torch.exp(each(0) * log_ratio)  # (n, node)
        if self._warmed:
            warm = seds.modified_blackbody(
                self._node_ghz, temperature=seds.DUST_TEMPERATURE + each(1)
            )
            spectra = spectra * (warm / seds.modified_blackbody(self._node_ghz))
        return spectra if self._node_weight is None else spectra @ self._node_weight

    def _dust_moment(self, dust: Tensor, label: Tensor, generator: torch.Generator) -> Tensor:
        """(n, stokes, band): the first moment of the index of dust (n, stokes)."""
        gauss = torch.randn(dust.shape, generator=generator, device=dust.device)
        rms = self._dust_moments[label] * torch.linalg.vector_norm(dust, dim=1)
        return (rms[:, None] * gauss)[:, :, None] * self._moment_seds[label][:, None]

    def _noise_rms(self, n: int, noise: NoiseLaw, generator: torch.Generator) -> Tensor:
        if noise.low == noise.high and noise.band_scatter == 0:
            return (noise.low * self.sigma).expand(n, -1)
        device = self.sigma.device
        low, high = np.log(noise.low), np.log(noise.high)
        log_scale = low + (high - low) * torch.rand(n, 1, generator=generator, device=device)
        jitter = torch.randn(n, len(self.sigma), generator=generator, device=device)
        return self.sigma * torch.exp(log_scale + noise.band_scatter * jitter)


def _log_slopes(instrument: Instrument) -> Tensor:
    """Slopes d ln / d ln nu of CMB, dust and AME at the centres of bands, and ln(nu / 23 GHz)."""
    nu = torch.tensor(instrument.frequency_ghz, dtype=torch.float64)
    step = 1e-4
    slopes = [
        (torch.log(sed(nu * (1 + step))) - torch.log(sed(nu * (1 - step)))) / (2 * step)
        for sed in (seds.cmb, seds.modified_blackbody, seds.spinning_dust)
    ]
    return torch.stack([*slopes, torch.log(nu / seds.SYNCHROTRON_PIVOT_GHZ)])


def _dust_sed(model: ForegroundModel, frequency_ghz: Tensor) -> Tensor:
    """Dust of a model at the mean of its index."""
    factor = seds.log_factor(model.dust_factor, frequency_ghz, seds.DUST_REFERENCE_GHZ).exp()
    if model.two_temperatures:
        return factor * seds.two_temperature_dust(frequency_ghz)
    return factor * seds.modified_blackbody(frequency_ghz)


def _log_factor(model: ForegroundModel, frequency_ghz: Tensor) -> Tensor:
    """Of the synchrotron of a model."""
    pivot = seds.SYNCHROTRON_PIVOT_GHZ
    return seds.log_factor(model.synchrotron_factor, frequency_ghz, pivot)


def _pixel_amplitudes(templates: Templates) -> np.ndarray:
    """Pixel by pixel, shape (n_pix, 5), so that a draw touches one cache line."""
    return np.column_stack([*templates.synchrotron, *templates.dust, templates.ame])
