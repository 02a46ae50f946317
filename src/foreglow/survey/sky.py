"""The sky of a survey: its files gathered and checked, and brought to one beam and Nside."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foreglow.data.cache import local_path
from foreglow.data.check import validate_product
from foreglow.data.gather import gather, missing_files
from foreglow.data.registry import RemoteFile
from foreglow.errors import DataError, MapError
from foreglow.maps import healpix as hp
from foreglow.maps.coarser import open_mask_at
from foreglow.maps.conventions import MapWarning
from foreglow.maps.io import open_plain_map
from foreglow.maps.mask import nothing_counts
from foreglow.maps.write import write_maps
from foreglow.recognition.observation.beams import bring_to_one_resolution
from foreglow.recognition.observation.observations import Observation, open_observation
from foreglow.sky.instrument import Instrument
from foreglow.survey.bands import Survey

log = logging.getLogger("foreglow")

# what a header leaves open and the registry knows; the files were checked against it
_KNOWN = r".*(no POLCCONV in the header|no COORDSYS)"
# what is said once more when maps are read; and of noise whose kind nobody gave, as the survey does
_SAID = rf"{_KNOWN}|.*, the covariance of Q and U, is left out|--noise BAND=FILE: expected noise"


@dataclass(frozen=True)
class SurveySky:
    """Maps of all bands at one beam and Nside, and their noise: files that `foreglow.fit` takes.

    Attributes
    ----------
    instrument : Instrument
    maps, noise, white : dict of str to str
        By band; all of the noise, and white noise alone.
    """

    instrument: Instrument
    maps: dict[str, str]
    noise: dict[str, str]
    white: dict[str, str]

    def opened(self, white: bool = False) -> Observation:
        """Open them, with all of the noise or white noise alone."""
        noise = self.white if white else self.noise
        return open_observation(self.instrument, dict(self.maps), dict(noise))

    def without(self, band: str) -> "SurveySky":
        """All bands but one."""
        tables = (self.maps, self.noise, self.white)
        left = ({name: one for name, one in table.items() if name != band} for table in tables)
        return SurveySky(self.instrument, *left)

    def read(self, white: bool = False) -> tuple[NDArray, NDArray, NDArray]:
        """All of the sky: Q, U (n_pix, 2, n_band) [uK_RJ], rms (n_pix, n_band), all of the noise.

        RING, Galactic basis, as of `Observation.read_all_noise`; covariances (n_pix, 3, n_band).
        """
        opened = self.opened(white)
        data, sigma, noise = opened.read_all_noise(np.arange(hp.nside2npix(opened.nside)))
        if noise.ndim == 2:
            square = noise.astype(np.float64) ** 2
            noise = np.stack([square, np.zeros_like(square), square], 1)
        return data, sigma, noise


def gathered(survey: Survey, folder: Path, download: bool, halves: bool) -> None:
    """Fetch what is missing and was asked for, and check every file.

    Raises
    ------
    DataError
        If one is missing, cannot be had or is not what the registry says.
    """
    files = survey.remote_files(halves)
    for file in missing_files(files, folder):
        _say_other_release(file, folder)
    gather(files, folder, download)
    for file in files:
        validate_product(file.product, local_path(file, folder), _SAID)
    for band in survey.bands:
        for name in (*band.files, *(f for half in band.halves or () for f in half)):
            if Path(name).is_absolute() and not Path(name).is_file():
                raise DataError(f"{name}: expected the file of band {band.name}, got none there.")


def _say_other_release(file: RemoteFile, folder: Path) -> None:
    """Name a file in the cache that differs by its release alone."""
    stem = re.sub(r"(_R\d.*|_v\d+.*|_dr\d+.*)$", "", file.name)
    place = (folder / file.place).parent
    other = sorted(p.name for p in place.glob(f"{stem}_*.fits*")) if place.is_dir() else []
    other = [name for name in other if not file.product.has_file(name)]
    if other:
        log.info(
            "%s is not there, but %s: another release; a survey of your own (TOML) can name it",
            file.name, ", ".join(other),
        )  # fmt: skip


@contextmanager
def what_is_known_unsaid() -> Iterator[None]:
    """Without warnings of what headers leave open and the registry knows."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _KNOWN, MapWarning)
        yield


def brought(
    survey: Survey,
    cache: Path,
    out: Path,
    fwhm_arcmin: float,
    nside: int | None,
    half: int | None = None,
    systematic: float | None = None,
    draws: int | None = None,
    seed: int = 0,
) -> SurveySky:
    """Bring a survey, or a half of it, to one beam and Nside; bands that are there are kept.

    Parameters
    ----------
    survey : Survey
    cache : Path
        Folder of the registry's files.
    out : Path
        For `band_NAME.fits`, `noise_NAME.fits` of white noise, and `total_NAME.fits` of all.
    fwhm_arcmin : float
    nside : int, optional
        As `bring_to_one_resolution` takes it.
    half : int, optional
    systematic : float, optional
        Of all bands, in the place of the survey's.
    draws, seed : int
        As `bring_to_one_resolution` takes them.
    """
    maps, noise = survey.said(cache, half)
    with what_is_known_unsaid():
        smooth, left = bring_to_one_resolution(
            survey.instrument, maps, out, fwhm_arcmin, noise, nside=nside, keep=True, draws=draws,
            seed=(seed, 0 if half is None else 1 + half),
        )  # fmt: skip
    given, white = ({k: str(v) for k, v in table.items()} for table in (smooth, left))
    sizes = [band.systematic if systematic is None else systematic for band in survey.bands]
    return _with_systematic(SurveySky(survey.instrument, given, white, white), np.array(sizes), out)


def _with_systematic(sky: SurveySky, sizes: NDArray, out: Path) -> SurveySky:
    """The same sky, its noise with an error in proportion to the polarised brightness.

    An error of a gain moves Q and U along themselves, one of an angle across: both are covered by
    a variance of Q and of U alike, (size P)^2, where P^2 = Q^2 + U^2 less its noise.
    """
    data, _, noise = sky.read(white=True)
    power = np.square(data.astype(np.float64)).sum(1) - noise[:, 0] - noise[:, 2]
    added = sizes**2 * np.clip(np.nan_to_num(power), 0, None)
    total: dict[str, str] = {}
    for k, band in enumerate(sky.instrument.band):
        path = out / f"total_{band}.fits"
        rows = (noise[:, 0, k] + added[:, k], noise[:, 1, k], noise[:, 2, k] + added[:, k])
        seen = np.isfinite(data[:, :, k]).all(1)
        columns = {
            name: (np.where(seen, row, np.nan).astype(np.float32), "uK_RJ^2")
            for name, row in zip(("QQ", "QU", "UU"), rows, strict=True)
        }
        write_maps(path, columns, frame="G", overwrite=True)
        total[band] = f"{path}[QQ,QU,UU] as covariance"
    return replace(sky, noise=total)


def mask_at(mask: str | Path | None, nside: int) -> NDArray[np.bool_] | None:
    """A mask of any finer Nside, as pixels of which half is open; RING.

    Raises
    ------
    MapError
        If it cannot be used, is not Galactic, or nothing is open.
    """
    if mask is None:
        return None
    stored = open_plain_map(mask)
    if stored.frame != "G":
        raise MapError(
            f"{mask}: expected a Galactic mask (COORDSYS = G), as the surveys are, got frame "
            f"{stored.frame}; turn it with healpy.Rotator"
        )
    found = open_mask_at(stored, nside)
    if not found.any():
        raise nothing_counts(str(mask))
    return found
