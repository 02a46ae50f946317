"""HI cube, dust map and mask of one sky, brought together, filtered and ready for cutouts."""

import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np

from foreglow.dust.beside import read_dust, read_mask
from foreglow.dust.cutouts import CutoutSampler, SkyCube
from foreglow.dust.networks import Target
from foreglow.dust.target import describe_sky, question_mask, question_target, validate_varies
from foreglow.errors import MapError, SkyError, warn
from foreglow.hi_cube.arrays import as_cube
from foreglow.hi_cube.brightness import Brightest
from foreglow.hi_cube.cube import HICube
from foreglow.maps import healpix as hp
from foreglow.maps.conventions import MapWarning
from foreglow.maps.gnomonic import Grid
from foreglow.maps.harmonic import PAPER_CUT, HarmonicFilter, low_pass
from foreglow.maps.hemispheres import Method, Region
from foreglow.sky.gas import MockGas, mock_gas
from foreglow.sky.hydrogen import velocity_channels

log = logging.getLogger("foreglow")

OPEN_SKY = 0.72  # of the sky is what the paper's mask LR72 leaves
PAPER_RANGE_KMS = (-64.5, 17.0)
MASK_SMOOTHING_DEG = 5.0  # FWHM
MOCK_UNIT = "uK_RJ"
LEAST_CHANNELS = 4


@dataclass(frozen=True, eq=False)
class DustSky:
    """What the dust is learned from.

    Attributes
    ----------
    cube : SkyCube
        Channels [K] and dust [`target_unit`], low-passed, with the mask.
    velocity_kms : ndarray, shape (channel,)
        Centres of the channels (LSR), ascending.
    target_unit : str
    source : str
        "mock", or the files.
    filter_cut : float
        Of the low-pass of the channels.
    """

    cube: SkyCube
    velocity_kms: np.ndarray
    target_unit: str
    source: str
    filter_cut: float = PAPER_CUT

    @property
    def nside(self) -> int:
        """Nside of the maps."""
        return self.cube.nside

    @property
    def target(self) -> Target:
        """What is learned: "intensity" or "polarisation"."""
        return "polarisation" if self.cube.polarised else "intensity"

    def sampler(
        self, region: Region, grid: Grid | None = None, method: Method = "nearest"
    ) -> CutoutSampler:
        """Cutouts of this sky with centres in a region, on the paper's grid by default."""
        return CutoutSampler(self.cube, region, grid or Grid(), method)


@dataclass(frozen=True, eq=False)
class SkySource:
    """Where a sky comes from: the mock Galaxy, or files and arrays.

    Attributes
    ----------
    sky : str or None
        "mock", or None for a user's own.
    cube, dust, mask, low_kms, high_kms, dust_unit, velocity, unit, nest, frame
        As for `load_sky`; the mock has the range of velocities too.
    nside, seed : int
        Of the mock.
    skies : int
        So many of the mock, of this seed and those that follow.
    target : str
        "intensity" or "polarisation".

    Raises
    ------
    SkyError
        If neither, or both, of the mock and of a user's own are given, or several skies that are
        not the mock's.
    """

    sky: str | None = None
    cube: Any = None
    dust: Any = None
    mask: Any = None
    low_kms: float = PAPER_RANGE_KMS[0]
    high_kms: float = PAPER_RANGE_KMS[1]
    dust_unit: str | None = None
    velocity: u.Quantity | None = None
    unit: str | u.UnitBase | None = None
    nest: bool | None = None
    frame: str | None = None
    nside: int = 256
    seed: int = 0
    skies: int = 1
    target: Target = "intensity"

    def __post_init__(self) -> None:
        if self.sky not in (None, "mock"):
            raise SkyError(f"expected sky='mock', or cube= and dust=, got sky={self.sky!r}.")
        own = ("cube", "dust", "mask", "dust_unit")
        given = [f"{name}=" for name in own if getattr(self, name) is not None]
        if self.sky and given:
            raise SkyError(f"expected sky='mock' or files, got {', '.join(given)} beside it.")
        if not self.sky and (self.cube is None or self.dust is None):
            raise SkyError(
                f"expected sky='mock', or both cube= and dust=, got {', '.join(given) or 'none'}."
            )
        if self.skies < 1 or (self.skies > 1 and not self.sky):
            raise SkyError(
                f"expected skies= of the mock, one or more with sky='mock', got {self.skies}; "
                "leave it out for a sky of yours."
            )

    def load(self) -> DustSky:
        """Read it, or make it."""
        if self.sky:
            velocity = velocity_channels(self.low_kms, self.high_kms)
            return mock_sky(self.nside, velocity, self.seed, self.target)
        return load_sky(
            self.cube, self.dust, self.mask, self.low_kms, self.high_kms, self.dust_unit,
            velocity=self.velocity, unit=self.unit, nest=self.nest, frame=self.frame,
            target=self.target,
        )  # fmt: skip

    def others(self) -> list[DustSky]:
        """All skies of the mock but the first."""
        return [replace(self, seed=self.seed + k, skies=1).load() for k in range(1, self.skies)]

    def settings(self) -> dict[str, str | None]:
        """What tells this sky from another, in plain values."""
        return {name: _told(value) for name, value in vars(self).items()}


def _told(value: Any) -> str | None:
    if not isinstance(value, np.ndarray):  # what is read lazily is not read for this
        return None if value is None else str(value)
    plain = np.ascontiguousarray(value)
    return f"array of shape {plain.shape}, {hashlib.blake2b(plain.data.cast('B')).hexdigest()}"


def mock_sky(
    nside: int,
    velocity_kms: Sequence[float] | np.ndarray | None = None,
    seed: int = 0,
    target: Target = "intensity",
) -> DustSky:
    """The mock Galaxy as HI4PI and Planck might see it: a stand-in for the paper's maps.

    Parameters
    ----------
    nside : int
        A power of two.
    velocity_kms : sequence of float, optional
        Centres of channels; by default the paper's 64.
    seed : int
    target : str
        "intensity", or "polarisation": I, Q and U, with the noise of Planck.

    Returns
    -------
    DustSky
        Channels with HI4PI's noise and dust at 353 GHz [uK_RJ], low-passed (`channel_filter`); the
        mask leaves the 72% of the sky that are faintest in dust smoothed to 5 degrees.
    """
    return observed_sky(mock_gas(nside, seed), velocity_kms, target)


def observed_sky(
    gas: MockGas,
    velocity_kms: Sequence[float] | np.ndarray | None = None,
    target: Target = "intensity",
    noise: bool = True,
) -> DustSky:
    """The sky of `mock_sky` from gas at hand, which takes longer to make than its channels.

    Without `noise`, Q and U are those that only the mock knows.
    """
    velocity = np.asarray(velocity_channels() if velocity_kms is None else velocity_kms)
    nside, dust, polarisation = gas.hydrogen.nside, gas.dust.total, None
    low_pass = paper_filter(nside)
    if target == "polarisation":
        observed = gas.observed_polarisation if noise else gas.polarisation
        polarisation = low_pass.polarised(observed)
    channels = channel_filter(nside, target).stream(gas.hydrogen.cube(velocity, noise=True))
    cube = SkyCube.from_maps(
        channels, velocity.size, low_pass.full_sky(dust), faint_sky(dust), polarisation=polarisation
    )
    return DustSky(cube, velocity, MOCK_UNIT, "mock", cut_of(target))


def load_sky(
    cube: Any,
    dust: Any,
    mask: Any = None,
    low_kms: float = PAPER_RANGE_KMS[0],
    high_kms: float = PAPER_RANGE_KMS[1],
    dust_unit: str | None = None,
    *,
    velocity: u.Quantity | None = None,
    unit: str | u.UnitBase | None = None,
    nest: bool | None = None,
    frame: str | None = None,
    target: Target = "intensity",
) -> DustSky:
    """A user's own HI cube, dust map and mask.

    Parameters
    ----------
    cube : path, HICube, xarray.Dataset, xarray.DataArray or array_like
        As `foreglow.hi_cube.arrays.as_cube` takes it, full sky or partial.
    dust : path or array_like, shape (n_pix,)
        Intensity map, Galactic, of the Nside of the cube; a file in any ordering.
    mask : path or array_like, shape (n_pix,), optional
        The sky counts where it is above zero. Without one, all of the sky that cube and dust map
        hold counts.
    low_kms, high_kms : float
        Channels centred from one to the other (LSR) are taken.
    dust_unit : str, optional
        Of the dust map, where it states none; any text, "1" for a number without unit.
    velocity, unit, nest, frame
        Of a cube that does not state them, as in `as_cube`; `nest` also of mask and dust.

    Returns
    -------
    DustSky
        Low-passed (`paper_filter`). On a part of the sky each pixel comes from what is observed
        around it, and where that is less than half of the filter's weight it does not count.

    Raises
    ------
    MapError
        If a file cannot be read, Nside or frame differ, the cube does not reach over the range or
        has too few channels there, the dust does not vary or states another unit, or nothing of
        the sky is left.
    ShapeError
        If an array has other pixels than the cube.

    Warns
    -----
    MapWarning
        If there is no mask, the cube is brighter than the line, the dust does not rise with the
        gas, or the mask keeps the bright part of the sky.
    """
    gas = as_cube(cube, velocity, unit, nest, frame)
    chosen = _channels_between(gas, low_kms, high_kms)
    wanted, target_unit, name = read_dust(dust, dust_unit, gas, bool(nest))
    log.info(
        "%s: %d of %d channels, from %g to %g km/s",
        gas.name,
        chosen.size,
        gas.velocity_kms.size,
        *gas.velocity_kms[chosen[[0, -1]]],
    )
    counts = np.ones(wanted.size, bool)
    masked = str(mask) if isinstance(mask, str | Path) else "mask"
    if mask is not None:
        counts = read_mask(mask, gas, bool(nest))
    else:
        warn(
            "no mask: all of the sky that cube and dust map hold counts, the Galactic plane too, "
            "where the dust does not follow the gas; pass mask=",
            MapWarning,
        )
    total, brightest = np.zeros(wanted.size, np.float32), Brightest()
    for channel in gas.channels(chosen):
        total += channel
        brightest += Brightest.of(channel)
    brightest.question(gas.name)
    observed = np.isfinite(wanted) & np.isfinite(total)
    _validate_cover(observed & counts, gas.name, name)
    validate_varies(name, wanted[observed & counts], target_unit)
    question_target(name, wanted[observed & counts], total[observed & counts])
    if mask is not None:
        question_mask(masked, np.where(observed, total, np.nan), counts)
    del total
    low_pass, part = paper_filter(gas.nside), None if observed.all() else observed
    (wanted,) = low_pass.stream([wanted], part)
    counts &= np.isfinite(wanted)
    _validate_cover(counts, gas.name, name)
    log.info("%s", describe_sky(name, target_unit, counts))
    maps = low_pass.stream(gas.channels(chosen), part)
    sky = SkyCube.from_maps(maps, len(chosen), wanted, counts)
    source = " + ".join([gas.name, str(name), *([masked] if mask is not None else [])])
    return DustSky(sky, gas.velocity_kms[chosen], target_unit, source)


def paper_filter(nside: int) -> HarmonicFilter:
    """The Butterworth low-pass that every map goes through before it is cut out.

    References
    ----------
    Zhang et al. 2019, section 2.
    """
    return HarmonicFilter(nside, low_pass(nside))


def cut_of(target: Target) -> float:
    """The ell at which channels are cut: the paper's, and none for polarisation.

    Filaments are thin: what the paper's filter takes away tells where they run.
    """
    return PAPER_CUT if target == "intensity" else math.inf


def channel_filter(nside: int, target: Target) -> HarmonicFilter:
    """The low-pass of the channels of a sky, see `cut_of`."""
    return HarmonicFilter(nside, low_pass(nside, cut_of(target)))


def faint_sky(dust: np.ndarray, fraction: float = OPEN_SKY) -> np.ndarray:
    """A mask that leaves the part of the sky where the dust, smoothed to 5 degrees, is faintest.

    It stands for the mask LR72 of Planck 2018 XI, which is of this kind.

    Parameters
    ----------
    dust : ndarray, shape (n_pix,)
        RING, the full sky.
    fraction : float
        Of the sky that is left.

    Returns
    -------
    ndarray of bool, shape (n_pix,)
    """
    nside = hp.npix2nside(len(dust))
    beam = hp.gauss_beam(np.radians(MASK_SMOOTHING_DEG), lmax=2 * nside)
    smooth = HarmonicFilter(nside, beam).full_sky(dust)
    return smooth <= np.quantile(smooth, fraction)


def _channels_between(gas: HICube, low_kms: float, high_kms: float) -> np.ndarray:
    velocity = gas.velocity_kms
    chosen = np.flatnonzero((velocity >= low_kms) & (velocity <= high_kms))
    has = f"{velocity.size} channels from {velocity[0]:g} to {velocity[-1]:g} km/s"
    if chosen.size < LEAST_CHANNELS:
        raise MapError(
            f"{gas.name}: expected {LEAST_CHANNELS} or more channels from {low_kms:g} to "
            f"{high_kms:g} km/s, got {chosen.size} of {has}; give another range "
            "(low_kms=, high_kms=)"
        )
    step = float(np.diff(velocity[chosen]).max())
    if velocity[0] > low_kms + step or velocity[-1] < high_kms - step:
        raise MapError(
            f"{gas.name}: expected channels that reach from {low_kms:g} to {high_kms:g} km/s, got "
            f"{has}; give a range within it (low_kms=, high_kms=), or prepare a wider cube"
        )
    return chosen


def _validate_cover(counts: np.ndarray, cube: str, dust: str | Path) -> None:
    if not counts.any():
        raise MapError(
            f"expected some sky that the cube ({cube}), the dust map ({dust}) and the mask all "
            "hold, got none; check their frames, and where the mask is above zero"
        )
