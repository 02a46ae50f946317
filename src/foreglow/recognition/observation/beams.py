"""Maps of several beams: told apart, and brought to one resolution with the noise that is left."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u

from foreglow.errors import MapError
from foreglow.files import scratch_directory
from foreglow.maps import healpix as hp
from foreglow.maps.arrays import GivenArray
from foreglow.maps.io import PolarisationMap
from foreglow.maps.noise_map import NoiseMap
from foreglow.maps.write import write_maps, write_polarisation_map
from foreglow.recognition.observation.band_noise import (
    Noise,
    noise_of_bands,
    rms_of_band,
    validate_noise_scale,
)
from foreglow.recognition.observation.bands import open_bands
from foreglow.recognition.observation.smoothing import (
    Resolution,
    cover,
    filled,
    smooth_difference,
    smooth_polarisation,
    smooth_variance,
    to_common_beam,
)
from foreglow.sky.instrument import Instrument

_LEAST_COVER = 0.99  # of the common beam that observed, else a pixel is left out
_WIDEST_ARCMIN = 1800.0  # of a common beam: maps of more have no detail left
_MOST_APART = 0.999  # of the mean variance: the difference that a covariance is made of


def bring_to_one_resolution(
    instrument: Instrument,
    maps: Mapping[Any, str | Path | GivenArray],
    folder: Path,
    fwhm_arcmin: float,
    noise: Noise | None = None,
    noise_scale: float = 1.0,
    unit: str | None = None,
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

    Returns
    -------
    maps, noise : dict
        As `open_observation` takes them: files, which state their units, and for maps without
        noise its value.

    Raises
    ------
    MapError
        If the beam is smaller than that of a map or wider than 30 deg, or a map cannot be used.
    InstrumentError
        If the bands are not the instrument's, or noise came for one without a map.
    """
    validate_noise_scale(noise_scale)
    if not (np.isfinite(fwhm_arcmin) and fwhm_arcmin > 0):
        raise MapError(f"expected common_fwhm= above 0 arcmin, got {fwhm_arcmin}.")
    if fwhm_arcmin > _WIDEST_ARCMIN:
        raise MapError(
            f"expected common_fwhm= of at most {_WIDEST_ARCMIN:g} arcmin (30 deg), got "
            f"{fwhm_arcmin:g} arcmin; check its unit."
        )
    opened = open_bands(instrument, maps, unit)
    noise_of_bands(instrument, noise or {}, opened)
    _validate_frames(opened)
    beams = beams_of(instrument, opened)
    widest = max(beams, key=lambda name: beams[name])
    if fwhm_arcmin < beams[widest]:
        raise MapError(
            f"expected common_fwhm= of at least {beams[widest]:g} arcmin, the beam of band "
            f"{widest}, got {fwhm_arcmin:g}; a map cannot be made sharper than it is."
        )
    aim = Resolution.of(fwhm_arcmin, min(one.nside for one in opened.values()))
    smooth: dict[str, Path] = {}
    left: dict[str, Path | str] = {}
    folder.mkdir(parents=True, exist_ok=True)
    given = {
        name: rms_of_band(instrument, name, noise, noise_scale, one, unit)
        for name, one in opened.items()
    }
    regions = _regions(
        {name: _observed(_read(one, given[name])[2], aim) for name, one in opened.items()}
    )
    for name, one in opened.items():
        rms = given[name]
        smooth[name] = folder / f"band_{name}.fits"
        file = folder / f"noise_{name}.fits"
        if isinstance(rms, NoiseMap) and not rms.alike:
            left[name] = f"{file}[QQ,QU,UU] as covariance"
        else:
            left[name] = file if rms != 0 else "0 uK_RJ"
        _write_band(one, rms, aim, beams[name], regions[name], (smooth[name], file))
    return smooth, left


@contextmanager
def at_one_resolution(
    instrument: Instrument,
    maps: Mapping[Any, str | Path | GivenArray],
    noise: Noise | None,
    noise_scale: float,
    unit: str | None,
    common_fwhm: str | u.Quantity,
    near: Path,
) -> Iterator[tuple[dict[str, Path], dict[str, Path | str]]]:
    """Bring maps and noise to a common beam, in a folder that goes away.

    Parameters are those of `bring_to_one_resolution`, the beam as a user says it; the folder lies
    in `near`.
    """
    fwhm_arcmin = _arcmin(common_fwhm)
    with scratch_directory(near / "common-beam") as folder:
        yield bring_to_one_resolution(
            instrument, maps, folder, fwhm_arcmin, noise, noise_scale, unit
        )


def _arcmin(common_fwhm: str | u.Quantity) -> float:
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


@dataclass(frozen=True, eq=False)
class _Region:
    """Pixels that the same bands observed, and all that these bands observed together.

    Parameters
    ----------
    pixels, area : ndarray of bool, shape (n_pix,) of the aim
    """

    pixels: np.ndarray
    area: np.ndarray


def _read(one: PolarisationMap, rms: NoiseMap | float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Q,U (2, n_pix), their QQ, QU, UU (3, n_pix) and where both are known (n_pix,)."""
    pixels = np.arange(hp.nside2npix(one.nside))
    qu = one.read(pixels).astype(np.float64)
    seen = np.isfinite(qu[0]) & np.isfinite(qu[1])
    if isinstance(rms, NoiseMap):
        covariance = rms.read_covariance(pixels, seen)
    else:
        covariance = np.tile([[rms**2], [0.0], [rms**2]], len(pixels))
    seen &= np.isfinite(covariance[[0, 2]].mean(0))
    if not seen.any():
        raise MapError(f"{one.path}: no pixel is observed; check its mask and that of the noise.")
    return qu, covariance, seen


def _observed(seen: np.ndarray, aim: Resolution) -> np.ndarray:
    """Pixels of the aim all over which the common beam observed, shape (n_pix,)."""
    if seen.all():
        return np.ones(hp.nside2npix(aim.nside), bool)
    good = to_common_beam(seen.astype(float), aim, 0.0) >= _LEAST_COVER
    return hp.ud_grade(good.astype(float), aim.nside) == 1


def _regions(observed: Mapping[str, np.ndarray]) -> dict[str, list[_Region]]:
    """Regions of each band: bands meet in a pixel only if they were cut alike."""
    stack = np.stack(list(observed.values()))
    which = np.zeros(stack.shape[1], np.int64)
    for good in stack:  # numbered anew after each, so they stay small
        which = np.unique(2 * which + good, return_inverse=True)[1]
    regions: dict[str, list[_Region]] = {name: [] for name in observed}
    for k in range(which.max() + 1):
        pixels = which == k
        bands = stack[:, pixels.argmax()]
        for name, good in zip(observed, bands, strict=True):
            if good:
                regions[name].append(_Region(pixels, np.asarray(stack[bands].all(0))))
    return regions


def _write_band(
    one: PolarisationMap,
    rms: NoiseMap | float,
    aim: Resolution,
    beam_arcmin: float,
    regions: list[_Region],
    paths: tuple[Path, Path],
) -> None:
    """Smooth one band and its noise, and write them."""
    qu, covariance, seen = _read(one, rms)
    noise_unit = rms.unit if isinstance(rms, NoiseMap) else "uK_RJ"
    unlike = isinstance(rms, NoiseMap) and not rms.alike
    apart = np.stack([0.5 * (covariance[0] - covariance[2]), covariance[1]])
    variance, transfer = covariance[[0, 2]].mean(0), aim.transfer(beam_arcmin)
    smooth, left, left_apart = (np.full((n, hp.nside2npix(aim.nside)), np.nan) for n in (2, 1, 2))
    common = qu
    if not (seen.all() and all(region.area.all() for region in regions)):
        common = to_common_beam(filled(qu, seen, aim), aim, beam_arcmin)
    for region in regions:
        at, area = region.pixels, _refined(region.area, one.nside)
        kept, weight = seen & area, cover(region.area, aim)[at]
        if kept.all():
            found = smooth_polarisation(qu, transfer, aim.nside)
        else:
            end = aim.transfer(aim.fwhm_arcmin)
            found = smooth_polarisation(np.where(area, common, 0.0), end, aim.nside)
        smooth[:, at] = found[:, at] / weight
        noise = smooth_variance(np.where(kept, variance, 0.0), transfer, aim.nside)
        left[:, at] = noise[at] / weight**2
        if unlike:
            noise = smooth_difference(np.where(kept, apart, 0.0), transfer, aim.nside)
            left_apart[:, at] = noise[:, at] / weight**2
    _write(paths, one, (smooth, left[0], left_apart if unlike else None), noise_unit, aim)


def _write(
    paths: tuple[Path, Path],
    one: PolarisationMap,
    found: tuple[np.ndarray, np.ndarray, np.ndarray | None],
    noise_unit: str,
    aim: Resolution,
) -> None:
    """Write Q,U, their mean variance and, where it counts, how QQ, QU, UU differ from it."""
    smooth, left, apart = found
    header = {"FWHM": (aim.fwhm_arcmin, "[arcmin] common beam")}
    write_polarisation_map(
        paths[0], smooth.astype(np.float32), one.unit, one.frame, header=header, overwrite=True
    )
    # quadrature may leave less than nothing far from where anything was observed
    mean = np.maximum(left, np.finfo(np.float32).tiny)
    columns = {"RMS": (np.sqrt(mean).astype(np.float32), noise_unit)}
    if apart is not None:
        columns = {
            name: (row, f"({noise_unit})^2")
            for name, row in zip(("QQ", "QU", "UU"), _covariance(mean, apart), strict=True)
        }
    write_maps(paths[1], columns, frame=one.frame, header=header, overwrite=True)


def _refined(area: np.ndarray, nside: int) -> np.ndarray:
    """The same area in smaller pixels."""
    return hp.ud_grade(area.astype(float), nside) > 0.5


def _covariance(mean: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """QQ, QU, UU (3, n) of the mean variance (n,), and half of QQ less UU and QU (2, n)."""
    # quadrature may leave them a little more apart than a covariance can be
    apart = apart * np.minimum(1, _MOST_APART * mean / np.maximum(np.hypot(*apart), mean * 1e-9))
    return np.stack([mean + apart[0], apart[1], mean - apart[0]])
