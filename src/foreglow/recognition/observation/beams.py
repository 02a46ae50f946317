"""Maps of several beams: told apart, and brought to one resolution with the noise that is left."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from astropy import units as u

from foreglow.errors import MapError
from foreglow.files import scratch_directory
from foreglow.maps import healpix as hp
from foreglow.maps.arrays import GivenArray
from foreglow.maps.io import PolarisationMap
from foreglow.maps.noise_map import NoiseMap
from foreglow.maps.stored import bytes_loaded
from foreglow.recognition.observation.band_noise import (
    Noise,
    noise_of_bands,
    rms_of_band,
    validate_noise_scale,
)
from foreglow.recognition.observation.bands import open_bands
from foreglow.recognition.observation.common_beam import (
    Band,
    Regions,
    bytes_for,
    write_drawn_noise_of,
    write_maps_of,
    write_noise_of,
)
from foreglow.recognition.observation.smoothing import Resolution
from foreglow.recognition.observation.streaming import LIBRARIES, validate_memory
from foreglow.sky.instrument import Instrument

_WIDEST_ARCMIN = 1800.0  # of a common beam: maps of more have no detail left


def bring_to_one_resolution(
    instrument: Instrument,
    maps: Mapping[Any, str | Path | GivenArray],
    folder: Path,
    fwhm_arcmin: float,
    noise: Noise | None = None,
    noise_scale: float = 1.0,
    unit: str | None = None,
    memory: str | None = None,
    nside: int | None = None,
    keep: bool = False,
    draws: int | None = None,
    seed: tuple[int, ...] = (0,),
) -> tuple[dict[str, Path], dict[str, Path | str]]:
    """Smooth a user's Q,U maps to one Gaussian beam, on one grid, and say what noise is left.

    E and B modes of each map (Q,U as spin 2) are multiplied by the ratio of beams; white noise is
    propagated through the same transfer function, pixel by pixel: its mean over Q and U, and where
    theirs may differ also how it differs and correlates. What is left is correlated between
    neighbours closer than the beam.

    Of a part of the sky, pixels are left out where less than 0.99 of the common beam observed. The
    end of the harmonics makes an edge ring over several beams, in each band otherwise if its beam
    is changed at the same time. So each band is first brought to the beam by a Gaussian kernel,
    which stays near; then all are cut to the same pixels, and only then do their harmonics end.

    Parameters
    ----------
    instrument : Instrument
        Its beams are those of maps whose header does not state one.
    maps, noise, noise_scale, unit
        As `open_observation` takes them, but of any Nside.
    folder : Path
        Where the maps go, as `band_NAME.fits` and `noise_NAME.fits`.
    fwhm_arcmin : float
        The common beam, no smaller than that of any map.
    memory : str, optional
        Such as "4 GiB": the process stays below it, else nothing is done.
    nside : int, optional
        Of the result, no finer than the maps; by default the finest whose pixels are at least half
        a beam wide.
    keep : bool
        Maps and noise that lie in the folder, as an interrupted call left them, are kept.
    draws : int, optional
        Noise maps that are drawn for each band and brought to the beam as the data are, of which
        the noise that is left is the variance; by default it is propagated by a formula.
    seed : tuple of int
        Of these, to which band and number are added.

    Returns
    -------
    maps, noise : dict
        As `open_observation` takes them: files, which state their units, and for maps without
        noise its value.

    Raises
    ------
    MapError
        If the beam is smaller than that of a map or wider than 30 deg, a map cannot be used, or
        the memory does not suffice.
    InstrumentError
        If the bands are not the instrument's, or noise came for one without a map.
    """
    validate_noise_scale(noise_scale)
    opened = open_bands(instrument, maps, unit)
    noise_of_bands(instrument, noise or {}, opened)
    _validate_frames(opened)
    beams = beams_of(instrument, opened)
    aim = aim_at(fwhm_arcmin, nside, beams, min(one.nside for one in opened.values()))
    smooth: dict[str, Path] = {}
    left: dict[str, Path | str] = {}
    folder.mkdir(parents=True, exist_ok=True)
    given = {
        name: rms_of_band(instrument, name, noise, noise_scale, one, unit)
        for name, one in opened.items()
    }
    _validate_room(memory, opened, given, beams, aim, whole=True)
    regions = Regions.of({name: (one, given[name]) for name, one in opened.items()}, aim)
    _validate_room(memory, opened, given, beams, aim, regions.whole)
    for name, one in opened.items():
        rms = given[name]
        smooth[name] = folder / f"band_{name}.fits"
        file = folder / f"noise_{name}.fits"
        if isinstance(rms, NoiseMap) and not rms.alike:
            left[name] = f"{file}[QQ,QU,UU] as covariance"
        else:
            left[name] = file if rms != 0 else "0 uK_RJ"
        band = Band(name, one, rms, beams[name], aim, regions)
        if not (keep and smooth[name].is_file()):
            write_maps_of(band, smooth[name])
        if rms != 0 and not (keep and file.is_file()):
            if draws is None:
                write_noise_of(band, file)
            else:
                write_drawn_noise_of(band, file, draws, (*seed, crc32(name.encode())), keep)
    return smooth, left


def aim_at(
    fwhm_arcmin: float, nside: int | None, beams: Mapping[str, float], most: int
) -> Resolution:
    """The common beam and its pixels, for bands of these beams and maps of Nside `most` or more.

    Raises
    ------
    MapError
        If it is sharper than a band or wider than 30 deg, or the Nside is none or too fine.
    """
    if not (np.isfinite(fwhm_arcmin) and fwhm_arcmin > 0):
        raise MapError(f"expected common_fwhm= above 0 arcmin, got {fwhm_arcmin}.")
    if fwhm_arcmin > _WIDEST_ARCMIN:
        raise MapError(
            f"expected common_fwhm= of at most {_WIDEST_ARCMIN:g} arcmin (30 deg), got "
            f"{fwhm_arcmin:g} arcmin; check its unit."
        )
    widest = max(beams, key=lambda name: beams[name])
    if fwhm_arcmin < beams[widest]:
        raise MapError(
            f"expected common_fwhm= of at least {beams[widest]:g} arcmin, the beam of band "
            f"{widest}, got {fwhm_arcmin:g}; a map cannot be made sharper than it is."
        )
    if nside is None:
        return Resolution.of(fwhm_arcmin, most)
    if not (hp.isnsideok(nside, nest=True) and nside <= most):
        raise MapError(
            f"expected nside= as a power of two, no more than {most}, that of the coarsest map, "
            f"got {nside}."
        )
    return Resolution(fwhm_arcmin, nside)


@contextmanager
def at_one_resolution(
    instrument: Instrument,
    maps: Mapping[Any, str | Path | GivenArray],
    noise: Noise | None,
    noise_scale: float,
    unit: str | None,
    common_fwhm: str | u.Quantity,
    near: Path,
    memory: str | None = None,
) -> Iterator[tuple[dict[str, Path], dict[str, Path | str]]]:
    """Bring maps and noise to a common beam, in a folder that goes away.

    Parameters are those of `bring_to_one_resolution`, the beam as a user says it; the folder lies
    in `near`.
    """
    fwhm_arcmin = as_arcmin(common_fwhm)
    with scratch_directory(near / "common-beam") as folder:
        yield bring_to_one_resolution(
            instrument, maps, folder, fwhm_arcmin, noise, noise_scale, unit, memory
        )


def as_arcmin(common_fwhm: str | u.Quantity) -> float:
    """A common beam as a user says it.

    Raises
    ------
    MapError
        If it is no angle with its unit.
    """
    try:
        return float(np.asarray(u.Quantity(common_fwhm).to_value("arcmin")).item())
    except (TypeError, ValueError, u.UnitConversionError):
        raise MapError(
            f"expected common_fwhm= as an angle with its unit, got {common_fwhm!r}; give a text "
            "such as '70 arcmin', or a Quantity."
        ) from None


def beams_of(instrument: Instrument, maps: Mapping[str, PolarisationMap]) -> dict[str, float]:
    """FWHM of each map [arcmin]: of its header, else of the instrument."""
    table = dict(zip(instrument.band, instrument.fwhm_arcmin, strict=True))
    return {
        name: table[name] if one.beam_arcmin is None else one.beam_arcmin
        for name, one in maps.items()
    }


def _validate_frames(maps: Mapping[str, PolarisationMap]) -> None:
    if len({one.frame for one in maps.values()}) > 1:
        listing = "; ".join(f"{name}: {one.frame}" for name, one in maps.items())
        raise MapError(
            f"expected one frame for all bands, got {listing}; rotate the maps "
            "(healpy.Rotator.rotate_map_alms)."
        )


def _validate_room(
    memory: str | None,
    opened: Mapping[str, PolarisationMap],
    noise: Mapping[str, NoiseMap | float],
    beams: Mapping[str, float],
    aim: Resolution,
    whole: bool,
) -> None:
    """Check that the band that needs most fits."""
    if memory is None:
        return
    given = [one for one in noise.values() if isinstance(one, NoiseMap)]
    loaded = bytes_loaded([*opened.values(), *given])
    room = max(bytes_for(one, beams[name], aim, whole) for name, one in opened.items())
    validate_memory(memory, LIBRARIES + loaded + room, loaded)
