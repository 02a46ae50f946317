"""A user's Q,U maps and their noise, opened together and read a block of pixels at a time."""

import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import healpy as hp
import numpy as np
import torch
from astropy import units as u

from foreglow.errors import InstrumentError, MapError
from foreglow.maps.blocks import PixelBlock, PixelBlocks, ring_numbers
from foreglow.maps.conventions import angle_to_galactic, turn, unit_agrees
from foreglow.maps.io import (
    NoiseMap,
    PolarisationMap,
    StoredMap,
    check_same_sky,
    open_noise_map,
    open_polarisation_map,
)
from foreglow.sky.instrument import Instrument

_MOST_LOSS = 0.1  # at ell = 2 Nside, where beams begin to matter

Noise = Mapping[str, str | Path | u.Quantity]
_Map = TypeVar("_Map", bound=StoredMap)


class PolarisationSource(Protocol):
    """Q,U of a band that are read a block of pixels at a time."""

    @property
    def nside(self) -> int:
        """Of its pixels."""
        ...

    @property
    def frame(self) -> str:
        """G, C or E."""
        ...

    @property
    def unit(self) -> str:
        """One of `foreglow.maps.conventions.UNITS`."""
        ...

    @property
    def ordering(self) -> str:
        """RING or NESTED, as stored."""
        ...

    def read(self, pixels: np.ndarray | PixelBlock) -> np.ndarray:
        """Q, U, shape (2, n); NaN where not observed."""
        ...

    def release(self) -> None:
        """Let go what reading left in memory."""


@dataclass(frozen=True)
class Observation:
    """Maps and noise of an instrument, opened for streaming.

    Parameters
    ----------
    instrument : Instrument
    maps : tuple of PolarisationSource or None
        In the order of the bands; None for a band without a map.
    noise : tuple of NoiseMap or float
        Rms of each band, as a map or in a pixel [uK_RJ].
    nside : int
    frame : str
        G, C or E, as in the maps.
    """

    instrument: Instrument
    maps: tuple[PolarisationSource | None, ...]
    noise: tuple[NoiseMap | float, ...]
    nside: int
    frame: str

    @property
    def ordering(self) -> str:
        """NESTED if all files are, so that they are read from end to end; else RING."""
        return "NESTED" if all(f.ordering == "NESTED" for f in self._files) else "RING"

    @property
    def bytes_loaded(self) -> int:
        """Memory taken as long as it is open: gzipped files, pixel numbers of partial maps."""
        stored = [file for file in self._files if isinstance(file, StoredMap)]
        numbers = {id(f.index): f.index.nbytes for f in stored if f.index is not None}
        return sum(numbers.values()) + sum(f.table.bytes_loaded for f in stored)

    def blocks(self, size: int) -> PixelBlocks:
        """The sky in blocks of `size` pixels, in the order in which the files are best read."""
        return PixelBlocks(self.nside, self.ordering, size)

    def read(self, pixels: np.ndarray | PixelBlock) -> tuple[np.ndarray, np.ndarray]:
        """Data and noise of some pixels; the memory of the files is let go.

        Parameters
        ----------
        pixels : ndarray of int, shape (n,), or PixelBlock
            RING, in the frame of the maps; or a block, in its own order.

        Returns
        -------
        data : ndarray, float32, shape (n, 2, n_band)
            Q, U [uK_RJ] in the Galactic basis; NaN where not observed.
        sigma : ndarray, float32, shape (n, n_band)
            Noise rms of Q and of U [uK_RJ].

        Raises
        ------
        MapError
            If a file holds NaN or Inf there, or an rms that is not above zero.
        """
        n_band = self.instrument.n_band
        qu = np.empty((2, n_band, len(pixels)), np.float32)
        sigma = np.empty((len(pixels), n_band), np.float32)
        sigma[:] = [np.nan if isinstance(rms, NoiseMap) else rms for rms in self.noise]
        angle = None
        if self.frame != "G":
            angle = angle_to_galactic(ring_numbers(pixels), self.nside, self.frame)
        for k, (one, rms) in enumerate(zip(self.maps, self.noise, strict=True)):
            factor = self._to_uk_rj[k]
            if one is None:
                qu[:, k] = np.nan
            else:
                stored = one.read(pixels) if angle is None else turn(one.read(pixels), angle)
                np.multiply(stored, factor[0], out=qu[:, k])
            if isinstance(rms, NoiseMap):  # Q and U may differ; one rms is taken for both
                mean_square = (rms.read(pixels).astype(np.float64) ** 2).mean(0)
                sigma[:, k] = factor[1] * np.sqrt(mean_square)
        for file in self._files:
            file.release()
        # turned over as a whole: values written band by band would each open a line of the cache
        by_pixel = torch.from_numpy(qu.reshape(2 * n_band, -1)).T.contiguous().numpy()
        return by_pixel.reshape(-1, 2, n_band), sigma

    @cached_property
    def _files(self) -> tuple[PolarisationSource | NoiseMap, ...]:
        noise = (rms for rms in self.noise if isinstance(rms, NoiseMap))
        return (*(one for one in self.maps if one is not None), *noise)

    @cached_property
    def _to_uk_rj(self) -> tuple[tuple[float, float], ...]:
        """Factors to uK_RJ of each band's map and noise."""
        return tuple(
            (
                1.0 if one is None else self.instrument.to_uk_rj_factor(one.unit, k),
                self.instrument.to_uk_rj_factor(rms.unit, k) if isinstance(rms, NoiseMap) else 1.0,
            )
            for k, (one, rms) in enumerate(zip(self.maps, self.noise, strict=True))
        )


def open_observation(
    instrument: Instrument,
    maps: Mapping[str, str | Path],
    noise: Noise | None = None,
    noise_scale: float = 1.0,
    unit: str | None = None,
) -> Observation:
    """Open the maps and the noise of a user.

    Parameters
    ----------
    instrument : Instrument
    maps : mapping of band to path
        Q,U FITS maps, for one band at least, named as the instrument does or by frequency in GHz.
        One Nside and frame for all; any ordering, unit and sky coverage that the headers state.
    noise : mapping of band to path or quantity, optional
        A FITS map of the noise rms of Q and U; or a sensitivity (`"36.1 uK_CMB arcmin"`); or the
        rms in a pixel (`"0.5 uK_CMB"`, `"0.5 uK_RJ"`). Bands left out have the instrument's
        sensitivity.
    noise_scale : float
        Factor on the instrument's sensitivity, for bands that `noise` leaves out.
    unit : str, optional
        Unit of all maps, where the headers do not state one.

    Raises
    ------
    InstrumentError
        If a band is not the instrument's or named twice, or noise came for one without a map.
    MapError
        If a map cannot be used, or headers state beams that differ where the pixels see it.

    Warns
    -----
    BeamWarning
        If no header states a beam and those of the instrument differ so.
    """
    validate_noise_scale(noise_scale)
    opened = open_bands(instrument, maps, unit)
    check_same_sky(opened)
    _check_beams(instrument, opened)
    first = next(iter(opened.values()))
    placed = tuple(opened.get(name) for name in instrument.band)
    rms = _open_noise(instrument, noise or {}, noise_scale, opened, unit)
    return Observation(instrument, placed, rms, first.nside, first.frame)


def open_bands(
    instrument: Instrument, maps: Mapping[str, str | Path], unit: str | None = None
) -> dict[str, PolarisationMap]:
    """Open the maps of a user by the name of their band, in the order of the instrument.

    Raises
    ------
    InstrumentError
        If a band is not the instrument's or named twice, or none came.
    MapError
        If a map cannot be used.
    """
    paths = by_band(instrument, maps, "map")
    if not paths:
        raise InstrumentError("expected a map for one band at least, but none came.")
    opened: dict[str, PolarisationMap] = {}
    for k, name in enumerate(instrument.band):
        if k in paths:
            one = _open(open_polarisation_map, paths[k], unit)
            opened[name] = _sharing_index(one, opened.values())
    return opened


def _sharing_index(one: _Map, others: Iterable[StoredMap]) -> _Map:
    """A partial map that holds its pixel numbers together with another of the same coverage."""
    for other in others:
        if one.index is not None and other.index is not None and one.index.same_as(other.index):
            return replace(one, index=other.index)
    return one


def validate_noise_scale(noise_scale: float) -> None:
    """Raise an InstrumentError unless a factor on the noise is a number >= 0."""
    if not np.isfinite(noise_scale) or noise_scale < 0:
        raise InstrumentError(f"expected noise_scale >= 0, but {noise_scale} came.")


def noise_of_bands(
    instrument: Instrument, noise: Noise, maps: Collection[str]
) -> dict[int, str | Path | u.Quantity]:
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
    """The noise of one band: a map of its rms, or its value in a pixel of `one` [uK_RJ]."""
    k = instrument.band.index(name)
    given = by_band(instrument, noise or {}, "noise")
    mine = {name: given[k]} if k in given else {}
    return _open_noise(instrument, mine, noise_scale, {name: one}, unit)[k]


def _check_beams(instrument: Instrument, maps: Mapping[str, PolarisationMap]) -> None:
    """Refuse maps whose headers state beams too different for their pixels; warn if none does."""
    stated = {name: one.beam_arcmin for name, one in maps.items()}
    table = dict(zip(instrument.band, instrument.fwhm_arcmin, strict=True))
    silent = [name for name, beam in stated.items() if beam is None]
    if len(silent) == len(stated) and len(stated) > 1:
        listing = {name: table[name] for name in stated}
        if _loss(listing.values(), next(iter(maps.values())).nside) > _MOST_LOSS:
            warnings.warn(
                f"no map states its beam (FWHM, [arcmin] in the comment), and those of "
                f"{instrument.name!r} go from {min(listing.values()):g} to "
                f"{max(listing.values()):g} arcmin; the maps are taken as brought to one "
                "resolution. If they are not, give a common FWHM (--common-fwhm).",
                BeamWarning,
                stacklevel=4,
            )
        return
    beams = {name: table[name] if beam is None else beam for name, beam in stated.items()}
    if _loss(beams.values(), next(iter(maps.values())).nside) > _MOST_LOSS:
        listing = ", ".join(f"{name}: {beam:g}" for name, beam in beams.items())
        raise MapError(
            f"expected maps of one resolution, but their beams (FWHM in arcmin; the instrument's "
            f"where a header states none) are {listing}, which pixels of this size see; give a "
            f"common FWHM of {max(beams.values()):g} arcmin or more (--common-fwhm)."
        )


def _loss(beams_arcmin: Collection[float], nside: int) -> float:
    """What the widest beam takes from ell = 2 Nside over what the narrowest does."""
    widest, narrowest = max(beams_arcmin), min(beams_arcmin)
    variance = (np.radians(widest / 60) ** 2 - np.radians(narrowest / 60) ** 2) / (8 * np.log(2))
    return float(-np.expm1(-0.5 * 2 * nside * (2 * nside + 1) * variance))


class BeamWarning(UserWarning):
    """Maps that do not state their beams were taken as alike."""


def validate_output(path: str | Path, overwrite: bool) -> None:
    """Refuse a file that is there already or cannot be, before the work is done.

    Raises
    ------
    MapError
        If `path` exists and `overwrite` is not set, or its folder does not exist.
    """
    if not Path(path).parent.is_dir():
        raise MapError(f"{path}: its folder does not exist; make it, or give another --out.")
    if Path(path).exists() and not overwrite:
        raise MapError(f"{path} exists; give another --out, or --overwrite to replace it.")


def by_band(instrument: Instrument, values: Mapping[str, Any], what: str) -> dict[int, Any]:
    """What a user gave by the name or frequency of a band, by its place in the instrument.

    Raises
    ------
    InstrumentError
        If a band is not the instrument's, or named twice; `what` says what of it.
    """
    placed = {}
    for band, value in values.items():
        k = instrument.index(str(band))
        if k in placed:
            raise InstrumentError(f"band {instrument.band[k]} has two {what}s; give one.")
        placed[k] = value
    return placed


def _open(
    open_map: Callable[[str | Path, str | None], _Map], path: str | Path, unit: str | None
) -> _Map:
    """Open a map; `unit` counts where its header states none, or a bare kelvin."""
    opened = open_map(path, unit)
    agrees = unit is None or all(unit_agrees(c.unit, opened.unit) for c in opened.columns)
    return opened if agrees else open_map(path, None)


def _open_noise(
    instrument: Instrument,
    noise: Noise,
    noise_scale: float,
    maps: Mapping[str, PolarisationMap],
    unit: str | None,
) -> tuple[NoiseMap | float, ...]:
    """For each band a map of the rms, or its value in uK_RJ."""
    given = noise_of_bands(instrument, noise, maps)
    reference = next(iter(maps.values()))
    table = noise_scale * instrument.noise_rms(reference.nside)
    result: list[NoiseMap | float] = []
    for k, name in enumerate(instrument.band):
        value = given.get(k)
        if value is None:
            result.append(float(table[k]))
        elif isinstance(value, u.Quantity) or not Path(value).exists():
            result.append(_parse_noise(str(value), instrument, k, reference.nside))
        else:
            opened = _open(open_noise_map, value, unit)
            check_same_sky({f"map of {name}": maps[name], f"noise of {name}": opened})
            result.append(_sharing_index(opened, maps.values()))
    return tuple(result)


# astropy writes a Quantity of 36 uK_CMB arcmin as "36 arcmin uK_CMB"
_NOISE_TEXT = re.compile(r"\s*([0-9.eE+-]+)\s*(?:(arcmin)\s+)?([A-Za-z/_]+)(?:\s+(arcmin))?\s*")


def _parse_noise(text: str, instrument: Instrument, band: int, nside: int) -> float:
    """The rms in a pixel [uK_RJ] of a sensitivity or an rms in a pixel."""
    match = _NOISE_TEXT.fullmatch(text.replace(" / ", "/"))
    try:
        if match is None or (match[2] and match[4]):
            raise ValueError(text)
        number = float(match[1])
    except ValueError:
        raise MapError(
            f"expected noise as an existing FITS file, a sensitivity such as '36 uK_CMB arcmin' or "
            f"an rms in a pixel such as '0.5 uK_CMB', but {text!r} came."
        ) from None
    if not (np.isfinite(number) and number >= 0):
        raise MapError(f"noise must be a number >= 0, but {text!r} came.")
    if match[2] or match[4]:
        number /= hp.nside2resol(nside, arcmin=True)
    return number * instrument.to_uk_rj_factor(match[3], band)
