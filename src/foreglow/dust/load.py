"""A user's HI cube, dust map and mask as one sky, or the mock's, by what was said of them."""

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np

from foreglow.dust.beside import read_dust, read_mask
from foreglow.dust.cutouts import SkyCube
from foreglow.dust.inputs import (
    PAPER_RANGE_KMS,
    DustSky,
    channel_filter,
    mock_sky,
    observed_sky,
    paper_filter,
    true_sky,
)
from foreglow.dust.networks import Target
from foreglow.dust.polarised_questions import question_polarisation
from foreglow.dust.polarised_target import read_polarised
from foreglow.dust.target import describe_sky, question_mask, question_target, validate_varies
from foreglow.errors import MapError, SkyError, warn
from foreglow.hi_cube.arrays import as_cube
from foreglow.hi_cube.brightness import Brightest
from foreglow.hi_cube.cube import HICube
from foreglow.maps import healpix as hp
from foreglow.maps.arrays import stated_conventions
from foreglow.maps.conventions import MapWarning
from foreglow.sky.gas import mock_gas
from foreglow.sky.hydrogen import velocity_channels

log = logging.getLogger("foreglow")

LEAST_CHANNELS = 4


@dataclass(frozen=True, eq=False)
class SkySource:
    """Where a sky comes from: the mock Galaxy, or files and arrays.

    Attributes
    ----------
    sky : str or None
        "mock", or None for a user's own.
    cube, dust, mask, low_kms, high_kms, dust_unit, velocity, unit, nest, frame, convention
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
    convention: str | None = None

    def __post_init__(self) -> None:
        if self.sky not in (None, "mock"):
            raise SkyError(f"expected sky='mock', or cube= and dust=, got sky={self.sky!r}.")
        own = ("cube", "dust", "mask", "dust_unit", "convention")
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
            target=self.target, convention=self.convention,
        )  # fmt: skip

    def others(self) -> list[DustSky]:
        """All skies of the mock but the first."""
        return [replace(self, seed=self.seed + k, skies=1).load() for k in range(1, self.skies)]

    def with_truth(self) -> dict[str, DustSky]:
        """A polarised sky of the mock as "observed", and "truth": its Q and U without noise."""
        gas = mock_gas(self.nside, self.seed)
        observed = observed_sky(gas, velocity_channels(self.low_kms, self.high_kms), self.target)
        return {"observed": observed, "truth": true_sky(gas, observed)}

    def settings(self) -> dict[str, str | None]:
        """What tells this sky from another, in plain values."""
        return {name: _told(value) for name, value in vars(self).items()}


def _told(value: Any) -> str | None:
    if not isinstance(value, np.ndarray):  # what is read lazily is not read for this
        return None if value is None else str(value)
    plain = np.ascontiguousarray(value)
    return f"array of shape {plain.shape}, {hashlib.blake2b(plain.data.cast('B')).hexdigest()}"


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
    convention: str | None = None,
) -> DustSky:
    """A user's own HI cube, dust map and mask.

    Parameters
    ----------
    cube : path, HICube, xarray.Dataset, xarray.DataArray or array_like
        As `foreglow.hi_cube.arrays.as_cube` takes it, full sky or partial.
    dust : path or array_like, shape (n_pix,)
        Intensity map, Galactic, of the Nside of the cube; a file in any ordering. For polarisation
        I, Q and U, shape (3, n_pix), as `read_polarised` takes them.
    mask : path or array_like, shape (n_pix,), optional
        The sky counts where it is above zero. Without one, all of the sky that cube and dust map
        hold counts.
    low_kms, high_kms : float
        Channels centred from one to the other (LSR) are taken.
    dust_unit : str, optional
        Of the dust map, where it states none; any text, "1" for a number without unit.
    velocity, unit, nest, frame
        Of a cube that does not state them, as in `as_cube`; `nest` and `frame` also of arrays of
        mask and dust.
    target : str
        "intensity" or "polarisation".
    convention : str, optional
        Of Q and U where they do not state it: "COSMO" or "IAU".

    Returns
    -------
    DustSky
        Low-passed: dust by `paper_filter`, channels by `channel_filter`. On a part of the sky each
        pixel comes from what is observed around it, and where that is less than half of the
        filter's weight it does not count.

    Raises
    ------
    MapError
        If a file cannot be read, Nside or frame differ, the cube does not reach over the range or
        has too few channels there, the dust does not vary or states another unit, or nothing of
        the sky is left; or the intensity is missing beside Q and U.
    ShapeError
        If an array has other pixels than the cube.

    Warns
    -----
    MapWarning
        If there is no mask, the cube is brighter than the line, the dust does not rise with the
        gas, the mask keeps the bright part of the sky, or
        signs, frame or ordering of Q and U do not look like those of dust.
    """
    gas = as_cube(cube, velocity, unit, nest, frame)
    chosen = _channels_between(gas, low_kms, high_kms)
    given = _read(dust, dust_unit, gas, bool(nest), frame, convention, target)
    log.info(
        "%s: %d of %d channels, from %g to %g km/s",
        gas.name,
        chosen.size,
        gas.velocity_kms.size,
        *gas.velocity_kms[chosen[[0, -1]]],
    )
    n_pix = hp.nside2npix(gas.nside)
    counts, masked = np.ones(n_pix, bool), str(mask) if isinstance(mask, str | Path) else "mask"
    if mask is not None:
        counts = read_mask(mask, gas, bool(nest))
    else:
        warn(
            "no mask: all of the sky that cube and dust map hold counts, the Galactic plane too, "
            "where the dust does not follow the gas; pass mask=",
            MapWarning,
        )
    total, brightest = np.zeros(n_pix, np.float32), Brightest()
    for channel in gas.channels(chosen):
        total += channel
        brightest += Brightest.of(channel)
    brightest.question(gas.name)
    observed = np.isfinite(given.intensity) & np.isfinite(total)
    if given.qu is not None:
        observed &= np.isfinite(given.qu[0])
    _validate_cover(observed & counts, gas.name, given.name)
    given.question(total, observed, counts)
    if mask is not None:
        question_mask(masked, np.where(observed, total, np.nan), counts)
    del total
    low_pass, part = paper_filter(gas.nside), None if observed.all() else observed
    (wanted,) = low_pass.stream([given.intensity], part)
    qu = None if given.qu is None else low_pass.polarised(given.qu, part)
    counts &= np.isfinite(wanted)
    _validate_cover(counts, gas.name, given.name)
    log.info("%s", describe_sky(given.name, given.unit, counts))
    maps = channel_filter(gas.nside, target).stream(gas.channels(chosen), part)
    sky = SkyCube.from_maps(maps, len(chosen), wanted, counts, polarisation=qu)
    source = " + ".join([gas.name, str(given.name), *([masked] if mask is not None else [])])
    return DustSky(sky, gas.velocity_kms[chosen], given.unit, source)


@dataclass(frozen=True, eq=False)
class _Given:
    """A dust map as it was read: RING, NaN where it holds nothing; Q and U of a polarised one."""

    intensity: np.ndarray
    qu: np.ndarray | None
    unit: str
    name: str | Path

    def question(self, gas: np.ndarray, observed: np.ndarray, kept: np.ndarray) -> None:
        """Say what is unlikely about it, beside the gas summed over its channels."""
        counts = observed & kept
        validate_varies(self.name, self.intensity[counts], self.unit)
        question_target(self.name, self.intensity[counts], gas[counts])
        if self.qu is not None:
            question_polarisation(
                str(self.name), self.qu, np.where(observed, gas, np.nan), kept,
                unit=self.unit, intensity=self.intensity,
            )  # fmt: skip


def _read(
    dust: Any,
    unit: str | None,
    gas: HICube,
    nest: bool,
    frame: str | None,
    convention: str | None,
    target: Target,
) -> _Given:
    if target == "intensity":
        intensity, found, name = read_dust(dust, unit, gas, nest)
        return _Given(intensity, None, found, name)
    if isinstance(dust, str | Path) or "frame" in stated_conventions(dust):
        frame = None
    read = read_polarised(dust, unit, gas, nest, convention, frame)
    if read.intensity is None:
        raise MapError(
            f"{read.name}: expected I, Q and U in one map and one unit, got {read.no_intensity}; "
            "give a map of the three, for the intensity is learned with them"
        )
    return _Given(read.intensity, read.qu, read.unit, read.name)


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
