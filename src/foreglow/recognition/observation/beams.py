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
from foreglow.maps.noise import NoiseMap
from foreglow.maps.write import write_maps, write_polarisation_map
from foreglow.recognition.observation.band_noise import (
    Noise,
    noise_of_bands,
    rms_of_band,
    validate_noise_scale,
)
from foreglow.recognition.observation.bands import open_bands
from foreglow.sky.instrument import Instrument

_LEAST_COVER = 0.9  # of the common beam that observed, else a pixel is left out
_WIDEST_ARCMIN = 1800.0  # of a common beam: maps of more have no detail left
_ITERATIONS = 3
_MOST_APART = 0.999  # of the mean variance: the difference that a covariance is made of


@dataclass(frozen=True)
class Resolution:
    """One beam and pixel size for all bands.

    Harmonics end at ell = 2 Nside, smoothly from 1.5 Nside on, so lowering Nside aliases nothing;
    all bands share that, so ratios of bands are kept.

    Parameters
    ----------
    fwhm_arcmin : float
        Gaussian beam.
    nside : int
    """

    fwhm_arcmin: float
    nside: int

    @classmethod
    def of(cls, fwhm_arcmin: float, most: int) -> "Resolution":
        """The finest pixels, of Nside `most` at most, that are at least half a beam wide."""
        nside = most
        while nside > 1 and hp.nside2resol(nside, arcmin=True) < 0.5 * fwhm_arcmin:
            nside //= 2
        return cls(fwhm_arcmin, nside)

    def transfer(self, beam_arcmin: float) -> np.ndarray:
        """Factor on the harmonics of a map of some beam, shape (2 Nside + 1,)."""
        ell = np.arange(2 * self.nside + 1)
        variance = (np.radians([self.fwhm_arcmin, beam_arcmin]) / 60) ** 2 / (8 * np.log(2))
        beam = np.exp(-0.5 * ell * (ell + 1) * (variance[0] - variance[1]))
        end = np.clip((ell - 1.5 * self.nside) / (0.5 * self.nside), 0, 1)
        return beam * np.cos(0.5 * np.pi * end) ** 2


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
    for name, one in opened.items():
        rms = rms_of_band(instrument, name, noise, noise_scale, one, unit)
        smooth[name] = folder / f"band_{name}.fits"
        file = folder / f"noise_{name}.fits"
        if isinstance(rms, NoiseMap) and not rms.alike:
            left[name] = f"{file}[QQ,QU,UU] as covariance"
        else:
            left[name] = file if rms != 0 else "0 uK_RJ"
        _write_band(one, rms, aim, beams[name], (smooth[name], file))
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


def _write_band(
    one: PolarisationMap,
    rms: NoiseMap | float,
    aim: Resolution,
    beam_arcmin: float,
    paths: tuple[Path, Path],
) -> None:
    """Smooth one band and its noise, and write them."""
    pixels = np.arange(hp.nside2npix(one.nside))
    qu = one.read(pixels).astype(np.float64)
    unlike, noise_unit = isinstance(rms, NoiseMap) and not rms.alike, "uK_RJ"
    seen = np.isfinite(qu[0]) & np.isfinite(qu[1])
    if isinstance(rms, NoiseMap):
        covariance, noise_unit = rms.read_covariance(pixels, seen), rms.unit
    else:
        covariance = np.tile([[rms**2], [0.0], [rms**2]], len(pixels))
    variance = covariance[[0, 2]].mean(0)
    seen &= np.isfinite(variance)
    if not seen.any():
        raise MapError(f"{one.path}: no pixel is observed; check its mask and that of the noise.")
    transfer = aim.transfer(beam_arcmin)
    cover = _cover(seen, aim)
    good = cover >= _LEAST_COVER
    weight = np.where(good, cover, np.nan)
    smooth = smooth_polarisation(np.where(seen, qu, 0.0), transfer, aim.nside) / weight
    left = smooth_variance(np.where(seen, variance, 0.0), transfer, aim.nside) / weight**2
    header = {"FWHM": (aim.fwhm_arcmin, "[arcmin] common beam")}
    write_polarisation_map(
        paths[0], smooth.astype(np.float32), one.unit, one.frame, header=header, overwrite=True
    )
    # quadrature may leave less than nothing far from where anything was observed
    left = np.maximum(left, np.finfo(np.float32).tiny)
    columns = {"RMS": (np.sqrt(left).astype(np.float32), noise_unit)}
    if unlike:
        apart = np.where(seen, [0.5 * (covariance[0] - covariance[2]), covariance[1]], 0.0)
        left = _covariance(left, smooth_difference(apart, transfer, aim.nside) / weight**2)
        columns = {
            name: (row, f"({noise_unit})^2")
            for name, row in zip(("QQ", "QU", "UU"), left, strict=True)
        }
    write_maps(paths[1], columns, frame=one.frame, header=header, overwrite=True)


def _covariance(mean: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """QQ, QU, UU (3, n) of the mean variance (n,), and half of QQ less UU and QU (2, n)."""
    # quadrature may leave them a little more apart than a covariance can be
    apart = apart * np.minimum(1, _MOST_APART * mean / np.maximum(np.hypot(*apart), mean * 1e-9))
    return np.stack([mean + apart[0], apart[1], mean - apart[0]])


def smooth_polarisation(qu: np.ndarray, transfer: np.ndarray, nside: int) -> np.ndarray:
    """Q,U (2, n_pix) of any Nside with E and B multiplied by `transfer`, (2, n_pix) of `nside`."""
    l_max = len(transfer) - 1
    none = np.zeros(qu.shape[1])
    alm = hp.map2alm([none, *qu], lmax=l_max, iter=_ITERATIONS, pol=True)
    alm = [hp.almxfl(a, transfer) for a in alm]
    return np.asarray(hp.alm2map(alm, nside, lmax=l_max, pol=True))[1:]


def smooth_variance(variance: np.ndarray, transfer: np.ndarray, nside: int) -> np.ndarray:
    """Variance of smoothed white noise, from that of each pixel (n_pix,): the kernel squared.

    The variance of Q and of U at a point is the sum over pixels of theirs times the kernel
    squared, itself a smoothing, by the Legendre transform of that square.
    """
    pixel_area = 4 * np.pi / len(variance)
    alm = hp.map2alm(variance * pixel_area, lmax=len(transfer) - 1, iter=_ITERATIONS)
    return hp.alm2map(hp.almxfl(alm, _squared(transfer)), nside, lmax=len(transfer) - 1)


def smooth_difference(apart: np.ndarray, transfer: np.ndarray, nside: int) -> np.ndarray:
    """As `smooth_variance`, of half of QQ less UU and of QU, (2, n_pix): together of spin 4.

    They are the mean of (Q + iU)^2, so they turn by twice the angle by which Q and U turn.
    """
    l_max, nside_in = len(transfer) - 1, hp.npix2nside(apart.shape[1])
    values = apart * (4 * np.pi / apart.shape[1])
    alm = [np.zeros(hp.Alm.getsize(l_max), complex) for _ in range(2)]
    for _ in range(_ITERATIONS + 1):
        left = values - np.stack(hp.alm2map_spin(alm, nside_in, 4, l_max))
        alm = [a + more for a, more in zip(alm, hp.map2alm_spin(left, 4, l_max), strict=True)]
    alm = [hp.almxfl(a, _squared(transfer)) for a in alm]
    return np.stack(hp.alm2map_spin(alm, nside, 4, l_max))


def _squared(transfer: np.ndarray) -> np.ndarray:
    """Transfer function of the square of the kernel of another."""
    ell = np.arange(len(transfer))
    x, w = np.polynomial.legendre.leggauss(2 * len(transfer))
    kernel = np.polynomial.legendre.legval(x, (2 * ell + 1) / (4 * np.pi) * transfer)
    modes = np.polynomial.legendre.legvander(x, len(transfer) - 1)
    return 2 * np.pi * (w * kernel**2) @ modes


def _cover(seen: np.ndarray, aim: Resolution) -> np.ndarray:
    """How much of the common beam observed, shape (n_pix,) of the aim."""
    if seen.all():
        return np.ones(hp.nside2npix(aim.nside))
    transfer = aim.transfer(0.0)
    alm = hp.map2alm(seen.astype(float), lmax=len(transfer) - 1, iter=_ITERATIONS)
    return hp.alm2map(hp.almxfl(alm, transfer), aim.nside, lmax=len(transfer) - 1)
