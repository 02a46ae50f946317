"""The gas of the mock Galaxy: its 21 cm cube and the dust intensity that goes with it.

Both come from the layers that give the polarised templates of `galaxy`, so every difference
between them has a cause: cold lines saturate, clouds of little dust move fast, molecules shine
in dust alone, and some of the dust has no gas at all. A stand-in for HI4PI and Planck.

Units inside: columns in 1e20 cm-2, velocities in km/s (local standard of rest), brightness
temperature of the line in K, dust in uK_RJ at 353 GHz.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import healpy as hp
import numpy as np

from foreglow.errors import SkyError
from foreglow.sky.fields import (
    BACKGROUND,
    NOISE,
    SLOW,
    Array,
    slow_field,
    validate,
    white_alm,
)
from foreglow.sky.galaxy import GRAINS, RADIATION, aligned_dust
from foreglow.sky.layers import GAS_SHELLS, GasLayer, gas_layer, shell_velocity

COLUMN_PER_K_KMS = 0.01823  # 1e20 cm-2 for each K km/s of an optically thin line
SPIN_K = 70.0  # of the cold gas
COLD_SIGMA_KMS, WARM_SIGMA_KMS = 2.2, 8.5  # of the lines of cold and of warm gas
REACH = 6.0  # a line is nought this many widths from its centre
FINEST_KMS = 2.0  # the cold lines are sampled at least as finely as this
HI4PI_NOISE_K, HI4PI_BEAM_ARCMIN = 0.043, 16.2  # HI4PI Collaboration 2016
BLOCK = 1 << 16  # pixels at a time: they stay in the cache of a core
PER_PIXEL = ("column", "cold_fraction", "molecular", "field")  # what a layer holds by pixel
EXTRAGALACTIC, DETECTOR, RECEIVER = 103, 104, 105  # streams of what no shell of gas owns


class Unrelated(NamedTuple):
    """Constants of the dust map's parts that have no gas."""

    background: float = 2.7e-4  # C_ell at ell = 100 of the infrared background, uK_RJ^2 sr
    background_slope: float = -1.47  # Mak et al. 2017 (arXiv:1609.08942): D_ell as ell^0.53
    noise: float = 7.0  # white, uK_RJ arcmin: Planck at 353 GHz


UNRELATED = Unrelated()


class HydrogenLayer(NamedTuple):
    """Atomic hydrogen of a layer, per pixel."""

    cold: Array  # column of the cold gas, 1e20 cm-2, float32
    warm: Array  # of the warm gas
    velocity: Array  # bulk velocity of both, km/s, float32


@dataclass(frozen=True)
class DustIntensity:
    """Dust of the mock Galaxy at 353 GHz by its causes; they add up to `total`.

    Attributes
    ----------
    atomic, molecular : ndarray, float32, shape (n_pix,)
        What each layer's gas shines at its dust-to-gas ratio, uK_RJ.
    orientation : ndarray
        Aligned grains shine less along the field than across it.
    radiation : ndarray
        The slow radiation-field factor, less one, times all of the above.
    background, noise : ndarray
        The infrared background's fluctuations and detector noise, both of mean zero.
    """

    atomic: Array
    molecular: Array
    orientation: Array
    radiation: Array
    background: Array
    noise: Array

    @property
    def predictable(self) -> Array:
        """What perfect knowledge of every layer's gas would predict, uK_RJ, shape (n_pix,)."""
        return self.atomic + self.molecular

    @property
    def galactic(self) -> Array:
        """The dust of `mock_galaxy`, uK_RJ, shape (n_pix,)."""
        return self.predictable + self.orientation + self.radiation

    @property
    def total(self) -> Array:
        """The map to predict, uK_RJ, shape (n_pix,)."""
        return self.galactic + self.background + self.noise


@dataclass(frozen=True)
class MockGas:
    """Atomic hydrogen and dust of one mock Galaxy, RING order, Galactic coordinates.

    Attributes
    ----------
    nside, seed : int
    layers : tuple of HydrogenLayer
        The nearest first.
    dust : DustIntensity
    """

    nside: int
    seed: int
    layers: tuple[HydrogenLayer, ...]
    dust: DustIntensity

    @property
    def column(self) -> Array:
        """All atomic hydrogen, saturated lines or not: cm-2, float32, shape (n_pix,)."""
        return np.sum([layer.cold + layer.warm for layer in self.layers], axis=0) * np.float32(1e20)

    def channel(self, velocity_kms: float, width_kms: float = 1.288, noise: bool = False) -> Array:
        """Brightness temperature of one velocity channel.

        Parameters
        ----------
        velocity_kms : float
            Centre, from the local standard of rest.
        width_kms : float, optional
            The brightness is the mean over this width.
        noise : bool, optional
            Add white noise of HI4PI's depth: 43 mK in a beam of 16.2 arcmin. It depends on the
            seed and the centre of the channel, not on what else is asked for.

        Returns
        -------
        ndarray, float32, shape (n_pix,)
            K.
        """
        n_pix = hp.nside2npix(self.nside)
        samples = max(1, int(np.ceil(width_kms / FINEST_KMS)))
        offsets = ((np.arange(samples) + 0.5) / samples - 0.5) * width_kms
        brightness = np.zeros(n_pix, dtype=np.float32)
        for first in range(0, n_pix, BLOCK):
            part = slice(first, first + BLOCK)
            for offset in offsets:
                brightness[part] += line_brightness(self.layers, part, velocity_kms + offset)
        brightness /= np.float32(samples)
        return brightness + self._receiver_noise(velocity_kms) if noise else brightness

    def cube(self, velocity_kms: Sequence[float] | Array, noise: bool = False) -> Iterator[Array]:
        """The channels of a cube, one after the other: one map is held at a time.

        Parameters
        ----------
        velocity_kms : sequence of float
            Centres of the channels, ascending, from the local standard of rest; a channel is as
            wide as the mean step to its neighbours. See `velocity_channels`.
        noise : bool, optional
            As for `channel`.

        Yields
        ------
        ndarray, float32, shape (n_pix,)
            K.

        Raises
        ------
        SkyError
            If the velocities do not ascend.
        """
        velocity = np.atleast_1d(np.asarray(velocity_kms, dtype=float))
        _validate_velocity(velocity)
        width = np.gradient(velocity) if velocity.size > 1 else np.full(1, 1.288)
        return (
            self.channel(float(v), float(w), noise) for v, w in zip(velocity, width, strict=True)
        )

    def _receiver_noise(self, velocity_kms: float) -> Array:
        key = [self.seed, RECEIVER, NOISE, round(1e6 + 1000 * velocity_kms)]  # keys are positive
        draws = np.random.default_rng(key).standard_normal(12 * self.nside**2, dtype=np.float32)
        beam = np.pi / (4 * np.log(2)) * HI4PI_BEAM_ARCMIN**2
        pixel = hp.nside2pixarea(self.nside, degrees=True) * 3600
        return np.float32(HI4PI_NOISE_K * np.sqrt(beam / pixel)) * draws


def velocity_channels(
    low_kms: float = -64.5, high_kms: float = 17.0, width_kms: float = 1.288
) -> Array:
    """Centres of velocity channels: by default the 64 of the paper.

    Parameters
    ----------
    low_kms : float, optional
        Centre of the first channel, from the local standard of rest.
    high_kms : float, optional
        No channel is centred beyond it.
    width_kms : float, optional
        Of a channel: that of HI4PI.

    Returns
    -------
    ndarray, shape (n_channel,)
        km/s, ascending.

    Raises
    ------
    SkyError
        If the range is empty or the width not positive.

    References
    ----------
    Zhang et al. 2019 (arXiv:1904.13265), section 2; its ablation has -120 to 120 km/s.
    """
    if not (width_kms > 0 and high_kms >= low_kms and np.isfinite(high_kms - low_kms)):
        raise SkyError(
            "expected velocity channels of positive width from a lower to a higher velocity, got "
            f"{low_kms} to {high_kms} km/s by {width_kms} km/s"
        )
    # a range of a whole number of channels keeps its last one, whatever the rounding
    steps = int(np.floor((high_kms - low_kms) / width_kms + 1e-9))
    return low_kms + width_kms * np.arange(steps + 1)


def _validate_velocity(velocity: Array) -> None:
    good = velocity.ndim == 1 and velocity.size and np.isfinite(velocity).all()
    if not (good and (np.diff(velocity) > 0).all()):
        raise SkyError(
            "expected the centres of velocity channels in km/s, ascending, got "
            f"{np.array2string(velocity, threshold=8)}; sort them, or see `velocity_channels`"
        )


def mock_gas(nside: int, seed: int = 0) -> MockGas:
    """Atomic hydrogen and dust intensity of the mock Galaxy of this seed.

    Parameters
    ----------
    nside, seed : int
        As for `mock_galaxy`, whose dust this is too.

    Returns
    -------
    MockGas
        Holds 24 maps of float32; channels are made when asked for.

    Raises
    ------
    SkyError
        If `nside` or `seed` is not as for `mock_galaxy`.

    References
    ----------
    Heiles & Troland 2003 (arXiv:astro-ph/0207105): two phases and their transfer.
    Planck Collaboration XI 2014 (arXiv:1312.1300): dust per column by velocity, dark gas.
    """
    validate(nside, seed)
    hydrogen = []
    atomic, molecular, shone = np.zeros((3, hp.nside2npix(nside)), dtype=np.float32)
    # the transfer goes from the nearest layer outwards, whatever the order of the table
    for shell in sorted(GAS_SHELLS, key=lambda shell: shell.near):
        layer = gas_layer(shell, nside, seed)
        cold = layer.cold_fraction * layer.column
        warm = layer.column - cold
        velocity = shell_velocity(shell, nside, seed)
        hydrogen.append(HydrogenLayer(*(v.astype(np.float32) for v in (cold, warm, velocity))))
        scale = GRAINS.dust_per_column * layer.dust_ratio
        atomic += scale * layer.column
        molecular += scale * layer.molecular
        shone += scale * _intensity(layer)
    dust = _dust(atomic, molecular, shone, nside, seed)
    return MockGas(nside, seed, tuple(hydrogen), dust)


def _intensity(layer: GasLayer) -> Array:
    """Intensity of a layer's aligned grains, block by block: it needs much room for a moment."""
    intensity = np.empty(layer.column.size, dtype=np.float32)
    for first in range(0, intensity.size, BLOCK):
        part = slice(first, first + BLOCK)
        piece = replace(layer, **{name: getattr(layer, name)[..., part] for name in PER_PIXEL})
        intensity[part] = aligned_dust(piece, GRAINS.polarisation)[0]
    return intensity


def _dust(atomic: Array, molecular: Array, shone: Array, nside: int, seed: int) -> DustIntensity:
    radiation = np.expm1(GRAINS.radiation_rms * slow_field(seed, RADIATION, SLOW, nside))
    lmax = 2 * nside
    ell = np.maximum(np.arange(lmax + 1), 2)
    background = UNRELATED.background * (ell / 100) ** UNRELATED.background_slope
    noise = np.full(lmax + 1, np.radians(UNRELATED.noise / 60) ** 2)
    noise[0] = background[0] = 0
    return DustIntensity(
        atomic,
        molecular,
        shone - atomic - molecular,
        (shone * radiation).astype(np.float32),
        _gaussian(background, EXTRAGALACTIC, BACKGROUND, nside, seed),
        _gaussian(noise, DETECTOR, NOISE, nside, seed),
    )


def _gaussian(power: Array, stream: int, purpose: int, nside: int, seed: int) -> Array:
    alm = hp.almxfl(white_alm(seed, stream, purpose, power.size - 1), np.sqrt(power))
    return hp.alm2map(alm, nside, lmax=power.size - 1).astype(np.float32)


def line_brightness(layers: Sequence[HydrogenLayer], part: slice, velocity_kms: float) -> Array:
    """Brightness temperature of the 21 cm line at one velocity, less that of the background.

    Cold gas emits and absorbs at one spin temperature; warm gas is transparent. Half of the warm
    gas of a layer lies in front of its cold gas and half behind, and the layers are met one after
    the other, so cold gas dims all that lies behind it.

    Parameters
    ----------
    layers : sequence of HydrogenLayer
        The nearest first.
    part : slice
        Of the pixels.
    velocity_kms : float

    Returns
    -------
    ndarray, float32
        K, for the pixels of `part`.

    References
    ----------
    Heiles & Troland 2003 (arXiv:astro-ph/0207105), equations 5 to 8.
    """
    brightness = np.zeros_like(layers[0].cold[part])
    passed = np.ones_like(brightness)  # share of the light from behind that comes through
    for layer in layers:
        away = np.float32(velocity_kms) - layer.velocity[part]
        if np.abs(away).min() > REACH * WARM_SIGMA_KMS:
            continue
        depth = layer.cold[part] * _line(away, COLD_SIGMA_KMS) / np.float32(SPIN_K)
        emitted = -np.expm1(-depth)  # for the spin temperature, 1 - exp(-depth)
        warm = layer.warm[part] * _line(away, WARM_SIGMA_KMS)
        brightness += passed * (np.float32(SPIN_K) * emitted + warm * (1 - emitted / 2))
        passed *= 1 - emitted
    return brightness


def _line(away_kms: Array, sigma_kms: float) -> Array:
    """K of a thin line for a column of 1e20 cm-2, this far from its centre."""
    peak = 1 / (COLUMN_PER_K_KMS * np.sqrt(2 * np.pi) * sigma_kms)
    return np.float32(peak) * np.exp(np.float32(-0.5 / sigma_kms**2) * away_kms**2)
