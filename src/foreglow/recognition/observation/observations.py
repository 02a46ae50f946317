"""A user's Q,U maps and their noise, opened together and read a block of pixels at a time."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from foreglow.errors import MapError, warn
from foreglow.maps.arrays import GivenArray
from foreglow.maps.blocks import PixelBlock, PixelBlocks, ring_numbers
from foreglow.maps.conventions import angle_to_galactic, turn, turn_covariance
from foreglow.maps.io import PolarisationMap
from foreglow.maps.mask import Mask
from foreglow.maps.noise_map import NoiseMap
from foreglow.maps.stored import StoredMap, bytes_loaded, check_same_sky
from foreglow.recognition.observation.band_noise import Noise, open_noise, validate_noise_scale
from foreglow.recognition.observation.bands import open_bands
from foreglow.sky.instrument import Instrument

_MOST_LOSS = 0.1  # at ell = 2 Nside, where beams begin to matter


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
    def beam_arcmin(self) -> float | None:
        """FWHM, if it states one."""
        ...

    @property
    def ordering(self) -> str:
        """RING or NESTED, as stored."""
        ...

    def read(self, pixels: np.ndarray | PixelBlock) -> np.ndarray:
        """Q, U, shape (2, n); NaN where not observed."""
        ...


@dataclass(frozen=True)
class Observation:
    """Maps and noise of an instrument, opened for streaming.

    Parameters
    ----------
    instrument : Instrument
    maps : tuple of PolarisationSource or None
        In the order of the bands; None for a band without a map.
    noise : tuple of NoiseMap or float
        Of each band, as a map or the rms in a pixel [uK_RJ].
    nside : int
    frame : str
        G, C or E, as in the maps.
    mask : Mask, optional
        Pixels that do not count are read as not observed, in every band.
    """

    instrument: Instrument
    maps: tuple[PolarisationSource | None, ...]
    noise: tuple[NoiseMap | float, ...]
    nside: int
    frame: str
    mask: Mask | None = None

    @property
    def beam_arcmin(self) -> float | None:
        """FWHM that all maps state alike, as those at a common beam do; None if they do not."""
        stated = {one.beam_arcmin for one in self.maps if one is not None}
        return stated.pop() if len(stated) == 1 else None

    @property
    def ordering(self) -> str:
        """NESTED if all files are, so that they are read from end to end; else RING."""
        return "NESTED" if all(f.ordering == "NESTED" for f in self._files) else "RING"

    @property
    def bytes_loaded(self) -> int:
        """Memory taken as long as it is open: gzipped files, pixel numbers of partial maps."""
        return bytes_loaded(file for file in self._files if isinstance(file, StoredMap))

    def blocks(self, size: int) -> PixelBlocks:
        """The sky in blocks of `size` pixels, in the order in which the files are best read."""
        return PixelBlocks(self.nside, self.ordering, size)

    @property
    def bands_of_unlike_noise(self) -> int:
        """Bands whose noise of Q and U has columns of its own, and may differ."""
        return sum(isinstance(one, NoiseMap) and not one.alike for one in self.noise)

    def read(self, pixels: np.ndarray | PixelBlock) -> tuple[np.ndarray, np.ndarray]:
        """Data and the rms of their noise, of some pixels; the memory of the files is let go.

        Parameters
        ----------
        pixels : ndarray of int, shape (n,), or PixelBlock
            RING, in the frame of the maps; or a block, in its own order.

        Returns
        -------
        data : ndarray, float32, shape (n, 2, n_band)
            Q, U [uK_RJ] in the Galactic basis; NaN where not observed.
        sigma : ndarray, float32, shape (n, n_band)
            Noise rms [uK_RJ]: where that of Q and U differs, the root of their mean square.

        Raises
        ------
        MapError
            If a file holds NaN or Inf there, or noise that is not above zero.
        """
        data, sigma, _ = self._read(pixels)
        return data, sigma

    def read_all_noise(
        self, pixels: np.ndarray | PixelBlock
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `read`, and besides all that is known of the noise, as the fits take it.

        Returns
        -------
        data, sigma : ndarray
            As of `read`.
        noise : ndarray, shape (n, n_band) or float64, shape (n, 3, n_band)
            `sigma`, where Q and U are alike in all of these pixels; else the covariance QQ, QU,
            UU [uK_RJ^2] in the Galactic basis, NaN where not observed.
        """
        data, sigma, covariances = self._read(pixels)
        if all(map(_is_alike, covariances.values())):
            return data, sigma, sigma
        noise = np.zeros((len(sigma), 3, self.instrument.n_band))
        noise[:, ::2] = np.square(sigma, dtype=np.float64)[:, None]
        for k, covariance in covariances.items():
            noise[:, :, k] = covariance.T
        return data, sigma, noise

    def _read(
        self, pixels: np.ndarray | PixelBlock
    ) -> tuple[np.ndarray, np.ndarray, dict[int, np.ndarray]]:
        """Data, rms, and of each band with a map of its noise the covariance (3, n) [uK_RJ^2]."""
        n_band = self.instrument.n_band
        qu = np.empty((2, n_band, len(pixels)), np.float32)
        sigma = np.empty((len(pixels), n_band), np.float32)
        sigma[:] = [np.nan if isinstance(rms, NoiseMap) else rms for rms in self.noise]
        hidden = None if self.mask is None else ~self.mask.read(pixels)
        angle, covariances = None, {}
        if self.frame != "G":
            angle = angle_to_galactic(ring_numbers(pixels), self.nside, self.frame)
        for k, (one, rms) in enumerate(zip(self.maps, self.noise, strict=True)):
            factor = self._to_uk_rj[k]
            if one is None:
                qu[:, k] = np.nan
            else:
                stored = one.read(pixels) if angle is None else turn(one.read(pixels), angle)
                np.multiply(stored, factor[0], out=qu[:, k])
            if hidden is not None:
                qu[:, k, hidden] = np.nan
            if isinstance(rms, NoiseMap):
                seen = np.isfinite(qu[0, k]) & np.isfinite(qu[1, k])
                stored = rms.read_covariance(pixels, seen)
                sigma[:, k] = factor[1] * np.sqrt(stored[[0, 2]].mean(0))
                if angle is not None and not rms.alike:
                    stored = turn_covariance(stored, angle)
                covariances[k] = factor[1] ** 2 * stored
        # turned over as a whole: values written band by band would each open a line of the cache
        by_pixel = torch.from_numpy(qu.reshape(2 * n_band, -1)).T.contiguous().numpy()
        return by_pixel.reshape(-1, 2, n_band), sigma, covariances

    @cached_property
    def _files(self) -> tuple[PolarisationSource | StoredMap, ...]:
        noise = (rms for rms in self.noise if isinstance(rms, NoiseMap))
        mask = () if self.mask is None else (self.mask.stored,)
        return (*(one for one in self.maps if one is not None), *noise, *mask)

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
    maps: Mapping[Any, str | Path | GivenArray],
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
        What they do not state is said as `open_polarisation_map` takes it
        (`"map.fits in mK_CMB"`, `"q.fits,u.fits"`).
    noise : mapping of band to path or quantity, optional
        A FITS map of the noise of Q and U, and what it holds, as `open_noise_map` takes it
        (`"map.fits[WEI_Q,WEI_U] as inverse variance in mK_CMB^-2"`,
        `"map.fits[QQ,QU,UU] as covariance in mK_CMB^2"`); or a sensitivity
        (`"36.1 uK_CMB arcmin"`); or the rms in a pixel (`"0.5 uK_CMB"`, `"0.5 uK_RJ"`). Bands
        left out have the instrument's sensitivity.
    noise_scale : float
        Factor on the instrument's sensitivity, for bands that `noise` leaves out.
    unit : str, optional
        Unit of all maps, where the headers do not state one; another than a header states is
        refused.

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
    rms = open_noise(instrument, noise or {}, noise_scale, opened, unit)
    return Observation(instrument, placed, rms, first.nside, first.frame)


def _is_alike(covariance: np.ndarray) -> bool:
    """Whether QQ is UU and QU 0 in all pixels (3, n) that have noise."""
    qq, qu, uu = covariance
    return np.array_equal(qq, uu, equal_nan=True) and not (np.abs(qu) > 0).any()


def _check_beams(instrument: Instrument, maps: Mapping[str, PolarisationMap]) -> None:
    """Refuse maps whose headers state beams too different for their pixels; warn if none does."""
    stated = {name: one.beam_arcmin for name, one in maps.items()}
    table = dict(zip(instrument.band, instrument.fwhm_arcmin, strict=True))
    silent = [name for name, beam in stated.items() if beam is None]
    if len(silent) == len(stated) and len(stated) > 1:
        listing = {name: table[name] for name in stated}
        if _loss(listing.values(), next(iter(maps.values())).nside) > _MOST_LOSS:
            warn(
                f"no map states its beam (FWHM, [arcmin] in the comment), and those of "
                f"{instrument.name!r} go from {min(listing.values()):g} to "
                f"{max(listing.values()):g} arcmin; the maps are taken as brought to one "
                "resolution. If they are not, give common_fwhm=, which brings them to one.",
                BeamWarning,
            )
        return
    beams = {name: table[name] if beam is None else beam for name, beam in stated.items()}
    if _loss(beams.values(), next(iter(maps.values())).nside) > _MOST_LOSS:
        listing = ", ".join(f"{name}: {beam:g}" for name, beam in beams.items())
        raise MapError(
            f"expected maps of one resolution, but their beams (FWHM in arcmin; the instrument's "
            f"where a header states none) are {listing}, which pixels of this size see; give a "
            f"common FWHM of {max(beams.values()):g} arcmin or more (common_fwhm=)."
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
        raise MapError(f"{path}: its folder does not exist; make it, or give another out=.")
    if Path(path).exists() and not overwrite:
        raise MapError(f"{path} exists; give another out=, or overwrite=True to replace it.")
