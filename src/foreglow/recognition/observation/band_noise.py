"""The noise of each band: a user's map of it, a sensitivity, an rms, or the instrument's."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u

from foreglow.errors import InstrumentError, MapError
from foreglow.maps import healpix as hp
from foreglow.maps.arrays import GivenArray
from foreglow.maps.conventions import canonical_unit
from foreglow.maps.given import GivenFile
from foreglow.maps.io import PolarisationMap
from foreglow.maps.noise import open_noise_map
from foreglow.maps.noise_map import NoiseMap
from foreglow.maps.stored import check_same_sky
from foreglow.recognition.observation.bands import by_band
from foreglow.sky.instrument import Instrument

Noise = Mapping[Any, str | Path | u.Quantity | GivenArray]

# astropy writes a Quantity of 36 uK_CMB arcmin as "36 arcmin uK_CMB"
_NOISE_TEXT = re.compile(r"\s*([0-9.eE+-]+)\s*(?:(arcmin)\s+)?([A-Za-z/_]+)(?:\s+(arcmin))?\s*")


def validate_noise_scale(noise_scale: float) -> None:
    """Raise an InstrumentError unless a factor on the noise is a number >= 0."""
    if not np.isfinite(noise_scale) or noise_scale < 0:
        raise InstrumentError(f"expected noise_scale >= 0, got {noise_scale}.")


def noise_map(value: str | Path | u.Quantity | GivenArray) -> GivenFile | GivenArray | None:
    """The file or array that was given as noise; None if it is a number."""
    if isinstance(value, GivenArray):
        return value
    if not isinstance(value, str | Path):  # a Quantity, or what is no noise
        return None
    given = GivenFile.of(value)
    return given if given.exists else None


def noise_of_bands(
    instrument: Instrument, noise: Noise, maps: Collection[str]
) -> dict[int, str | Path | u.Quantity | GivenArray]:
    """What came as noise, by the place of its band.

    Raises
    ------
    InstrumentError
        If a band is not the instrument's or named twice, or not among those that have `maps`.
    """
    given = by_band(instrument, noise, "noise")
    alone = [instrument.band[k] for k in given if instrument.band[k] not in maps]
    if alone:
        raise InstrumentError(
            f"noise came for {', '.join(alone)}, but no map; give both, or leave the noise out."
        )
    return given


def rms_of_band(
    instrument: Instrument,
    name: str,
    noise: Noise | None,
    noise_scale: float,
    one: PolarisationMap,
    unit: str | None,
) -> NoiseMap | float:
    """The noise of one band: a map of it, or its rms in a pixel of `one` [uK_RJ]."""
    k = instrument.band.index(name)
    given = by_band(instrument, noise or {}, "noise")
    mine = {name: given[k]} if k in given else {}
    return open_noise(instrument, mine, noise_scale, {name: one}, unit)[k]


def open_noise(
    instrument: Instrument,
    noise: Noise,
    noise_scale: float,
    maps: Mapping[str, PolarisationMap],
    unit: str | None,
) -> tuple[NoiseMap | float, ...]:
    """For each band a map of the noise, or its rms in a pixel [uK_RJ]."""
    given = noise_of_bands(instrument, noise, maps)
    reference = next(iter(maps.values()))
    table = noise_scale * instrument.noise_rms(reference.nside)
    result: list[NoiseMap | float] = []
    for k, name in enumerate(instrument.band):
        value = given.get(k)
        file = None if value is None else noise_map(value)
        if value is None:
            result.append(float(table[k]))
        elif file is None:
            result.append(_parse_noise(value, instrument, k, reference.nside))
        else:
            opened = open_noise_map(file, unit)
            check_same_sky({f"map of {name}": maps[name], f"noise of {name}": opened})
            result.append(opened.sharing_index(list(maps.values())))
    return tuple(result)


def _parse_noise(value: object, instrument: Instrument, band: int, nside: int) -> float:
    """The rms in a pixel [uK_RJ] of a sensitivity or an rms in a pixel."""
    number, unit = white_noise(value, nside, instrument.band[band])
    return number * instrument.to_uk_rj_factor(unit, band)


def white_noise(value: object, nside: int, whose: str) -> tuple[float, str]:
    """The rms in a pixel, and its unit, of a sensitivity or an rms in a pixel.

    Raises
    ------
    MapError
        If it is neither.
    """
    text = str(value)
    match = _NOISE_TEXT.fullmatch(text.replace(" / ", "/"))
    try:
        if match is None or (match[2] and match[4]):
            raise ValueError(text)
        number = float(match[1])
    except ValueError:
        raise MapError(
            f"expected noise as an existing FITS file, perhaps with what it holds ('FILE[QQ,UU] as "
            f"variance in uK_CMB^2'), a sensitivity such as '36 uK_CMB arcmin' or an rms in a "
            f"pixel such as '0.5 uK_CMB', got {text!r} of {whose}; give one of these."
        ) from None
    if not (np.isfinite(number) and number >= 0):
        raise MapError(f"noise must be a number >= 0, got {text!r}.")
    if match[2] or match[4]:
        number /= hp.nside2resol(nside, arcmin=True)
    return number, canonical_unit(f"noise of {whose}", match[3], None)
