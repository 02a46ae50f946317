"""Atomic hydrogen of the mock Galaxy and its 21 cm line: brightness by velocity channel.

Units inside: columns in 1e20 cm-2, velocities in km/s from the local standard of rest (LSR),
brightness temperature in K. A shell of gas has one bulk velocity in a direction: within five
degrees of the plane, where rotation would spread its line, the mock's lines are too bright.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from foreglow.compute.device import one_ahead
from foreglow.errors import SkyError
from foreglow.maps import healpix as hp
from foreglow.maps.memory import release_pages
from foreglow.sky.fields import NOISE, Array, blocks, by_block

COLUMN_PER_K_KMS = 0.01823  # 1e20 cm-2 for each K km/s of an optically thin line
SPIN_K = 70.0  # of the cold gas
COLD_SIGMA_KMS, WARM_SIGMA_KMS = 2.2, 8.5  # of the lines of cold and of warm gas
# a few pixels of the plane at Nside 512 and finer would pass 1000 K, which readers take for no line
BRIGHTEST_K = 900.0
REACH = 6.0  # a line is nought this many widths from its centre
FINEST_KMS = 2.0  # the cold lines are sampled at least as finely as this
CHANNEL_KMS = 1.288  # of HI4PI
HI4PI_NOISE_K, HI4PI_BEAM_ARCMIN = 0.043, 16.2  # HI4PI Collaboration 2016 (arXiv:1610.06175)
RECEIVER = 105  # stream of the noise, which no shell of gas owns
STRETCH = 1 << 22  # pixels for which layers in a file are in memory


class HydrogenLayer(NamedTuple):
    """Atomic hydrogen of a layer, per pixel."""

    cold: Array  # column of the cold gas, 1e20 cm-2, float32
    warm: Array  # of the warm gas
    velocity: Array  # bulk velocity of both, km/s, float32


@dataclass(frozen=True)
class Hydrogen:
    """Atomic hydrogen of one mock Galaxy, RING order, Galactic coordinates.

    Attributes
    ----------
    nside, seed : int
    layers : tuple of HydrogenLayer
        The nearest first.
    """

    nside: int
    seed: int
    layers: tuple[HydrogenLayer, ...]

    @property
    def column(self) -> Array:
        """All atomic hydrogen, saturated lines or not: cm-2, float32, shape (n_pix,)."""
        return np.sum([layer.cold + layer.warm for layer in self.layers], axis=0) * np.float32(1e20)

    def channel(
        self, velocity_kms: float, width_kms: float = CHANNEL_KMS, noise: bool = False
    ) -> Array:
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
        brightness = np.zeros(n_pix, np.float32)
        if noise:
            brightness = self._receiver_noise(velocity_kms)

        def shine(part: slice) -> None:
            seen = [line_brightness(self.layers, part, velocity_kms + away) for away in offsets]
            mean = sum(seen) / np.float32(samples)
            brightness[part] += np.minimum(mean, np.float32(BRIGHTEST_K))

        for stretch in blocks(n_pix, size=STRETCH):
            by_block(shine, blocks(stretch.stop, stretch.start))
            for layer in self.layers:  # they may lie in a file
                release_pages(layer.velocity)
        return brightness

    def cube(self, velocity_kms: Sequence[float] | Array, noise: bool = False) -> Iterator[Array]:
        """The channels of a cube, one after the other: the next is made while one is used.

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
        width = np.gradient(velocity) if velocity.size > 1 else np.full(1, CHANNEL_KMS)
        channels = zip(velocity.tolist(), width.tolist(), strict=True)
        return one_ahead(self.channel(v, w, noise) for v, w in channels)

    def _receiver_noise(self, velocity_kms: float) -> Array:
        # keys cannot be negative: the sign goes apart
        key = [self.seed, RECEIVER, NOISE, round(1000 * abs(velocity_kms)), int(velocity_kms < 0)]
        draws = np.random.default_rng(key).standard_normal(12 * self.nside**2, dtype=np.float32)
        beam = np.pi / (4 * np.log(2)) * HI4PI_BEAM_ARCMIN**2
        pixel = hp.nside2pixarea(self.nside, degrees=True) * 3600
        return np.float32(HI4PI_NOISE_K * np.sqrt(beam / pixel)) * draws


def velocity_channels(
    low_kms: float = -64.5, high_kms: float = 17.0, width_kms: float = CHANNEL_KMS
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
    Heiles & Troland 2003 (arXiv:astro-ph/0207104): the transfer through two phases.
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
