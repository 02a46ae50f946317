"""A CMB map and its noise as a user has them: what `separate` gives, files, arrays, simulations."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreglow.errors import MapError, RunError, ShapeError
from foreglow.maps import healpix as hp
from foreglow.maps.arrays import is_array
from foreglow.maps.conventions import canonical_unit, warn_assumed
from foreglow.maps.given import GivenFile
from foreglow.maps.io import PolarisationMap, open_polarisation_map
from foreglow.maps.noise import open_noise_map
from foreglow.maps.table import open_table
from foreglow.recognition.observation.band_noise import noise_map, white_noise
from foreglow.recognition.observation.given import Pixels
from foreglow.recognition.separated import SeparatedSky

FEWEST_SKIES = 50
_WIDEST_ARCMIN = 1800.0
_CMB = ("CMB_Q", "CMB_U")
_ERRORS = ("CMB_Q_ERR", "CMB_U_ERR")
_UK = {"uK_CMB": 1.0, "mK_CMB": 1e3, "K_CMB": 1e6}


def read_cmb(
    cmb: Any, unit: str | None, pixels: Pixels
) -> tuple[NDArray[np.float64], PolarisationMap | SeparatedSky]:
    """Q, U [uK_CMB], RING, NaN where unobserved; and what they are from."""
    if isinstance(cmb, SeparatedSky):
        return cmb.cmb.astype(float), cmb
    given = pixels.array("cmb", cmb) if is_array(cmb) else _named(cmb, _CMB)
    opened = open_polarisation_map(given, unit)
    values = opened.read(np.arange(hp.nside2npix(opened.nside))).astype(float)
    nothing = (values == 0).all(axis=0)
    if nothing.any():  # no sky is 0 in both
        warn_assumed(
            f"Q and U are both exactly 0 in {nothing.sum()} pixels of the CMB map; these are taken "
            "as unobserved (write UNSEEN there to silence this)"
        )
        values[:, nothing] = np.nan
    return values * _factor(opened.unit, "the CMB map"), opened


def _named(path: str | Path, columns: tuple[str, ...]) -> str:
    """A file with the columns that `separate` writes, if it has them and none are named."""
    file = GivenFile.of(path)
    if len(file.paths) == 1 and not file.columns[0]:
        table = open_table(file.paths[0])
        if set(columns) <= {column.name for column in table.columns}:
            return f"{file.paths[0]}[{','.join(columns)}]"
    return str(path)


def read_noise(
    noise: Any, cmb: Any, maps: NDArray, beam: float, unit: str | None, pixels: Pixels
) -> NDArray[np.float64]:
    """Covariance of each pixel, (1, 3, n_pix), or simulations, (n, 2, n_pix) [uK_CMB]."""
    simulations = noise[0] if isinstance(noise, tuple) and len(noise) == 2 else noise
    if isinstance(simulations, np.ndarray) and simulations.ndim == 3:
        return _read_simulations(simulations, noise, maps, pixels)
    if noise is None and isinstance(cmb, SeparatedSky):
        _say_independent(beam, maps)
        qq, uu = cmb.cmb_error.astype(float) ** 2
        return np.stack([qq, 0 * qq, uu])[None]
    if noise is None:
        named = "" if is_array(cmb) else _named(cmb, (*_CMB, *_ERRORS))
        if not named.endswith(_ERRORS[-1] + "]"):
            raise RunError(
                "expected the noise of the CMB map (noise=), got none: its rms, a file or an array "
                "with its words, (rms, 'rms in uK_CMB'); a sensitivity such as '2 uK_CMB arcmin'; "
                "or simulations of it, (noise, 'uK_CMB') of shape (n, 2, n_pix)."
            )
        noise = f"{GivenFile.of(named).paths[0]}[{','.join(_ERRORS)}] as rms"
    _say_independent(beam, maps)
    text: Any = noise
    if not is_array(noise) and noise_map(text) is None:
        nside = hp.npix2nside(maps.shape[1])
        rms, of_rms = white_noise(noise, nside, "the CMB map")
        variance = np.full(maps.shape[1], (rms * _factor(of_rms, "the noise")) ** 2)
        return np.stack([variance, 0 * variance, variance])[None]
    given: Any = pixels.array("noise", noise) if is_array(noise) else noise
    opened = open_noise_map(given, unit)
    if hp.nside2npix(opened.nside) != maps.shape[1]:
        raise ShapeError(
            f"expected noise of the Nside of the map, {hp.npix2nside(maps.shape[1])}, got Nside "
            f"{opened.nside}."
        )
    covariance = opened.read_covariance(np.arange(maps.shape[1]))
    return covariance[None] * _factor(opened.unit, "the noise") ** 2


def _read_simulations(
    values: NDArray, given: Any, maps: NDArray, pixels: Pixels
) -> NDArray[np.float64]:
    """Simulations of noise [uK_CMB], RING, COSMO; NaN in all where one is."""
    text = given[1] if isinstance(given, tuple) else str(getattr(given, "unit", ""))
    if not text:
        raise RunError(
            "expected simulations of noise with their unit, got a bare array; give "
            "(noise, 'uK_CMB')."
        )
    factor = _factor(canonical_unit("simulations of noise", text, None), "the noise")
    draws = np.asarray(getattr(values, "value", values), dtype=float)
    if draws.shape[1:] != maps.shape or len(draws) < FEWEST_SKIES:
        raise ShapeError(
            f"expected simulations of noise of shape (n, 2, {maps.shape[1]}), {FEWEST_SKIES} or "
            f"more, got {draws.shape}."
        )
    if pixels.nest:
        n_pix = maps.shape[1]
        draws = draws[:, :, hp.ring2nest(hp.npix2nside(n_pix), np.arange(n_pix))]
    known = np.isfinite(draws) & (draws != hp.UNSEEN)
    draws = np.where(known, draws, np.nan) * factor
    if pixels.convention == "IAU":
        draws[:, 1] *= -1
    always = known.all((0, 1))
    if (known.any((0, 1)) & ~always).any() or not (draws[:, :, always].std(0) > 0).all():
        raise RunError(
            "expected simulations of noise that differ, each observed in the same pixels, got some "
            "with NaN or UNSEEN where others have none, or all alike; leave the former out."
        )
    return draws


def _say_independent(beam: float, maps: NDArray) -> None:
    """Say what is supposed of noise that is given pixel by pixel."""
    if np.radians(beam / 60) > hp.nside2resol(hp.npix2nside(maps.shape[1])):
        warn_assumed(
            f"the map has a beam of {beam:g} arcmin, more than a pixel, and noise that is taken as "
            "independent from pixel to pixel; if it was smoothed, give simulations of its noise"
        )


def beam_of(given: float | None, opened: PolarisationMap | SeparatedSky) -> float:
    """FWHM [arcmin] of the map."""
    stated = opened.beam_arcmin
    if given is None and stated is None:
        raise RunError(
            "expected the beam of the CMB map (fwhm_arcmin=), which the map does not state, got "
            "none; 0 says that it has none."
        )
    found = stated if given is None else given
    if not isinstance(found, int | float | np.number) or not 0 <= found <= _WIDEST_ARCMIN:
        raise RunError(
            f"expected a beam as a number of arcmin, from 0 to {_WIDEST_ARCMIN:g}, got {found!r}."
        )
    if given is not None and stated is not None and not np.isclose(given, stated, rtol=1e-3):
        raise MapError(
            f"expected one beam, got {given:g} arcmin (fwhm_arcmin=) and {stated:g} arcmin in the "
            "header (FWHM); correct the one that is wrong, or leave the first out."
        )
    return float(found)


def _factor(unit: str, what: str) -> float:
    """To uK_CMB."""
    if unit not in _UK:
        raise MapError(
            f"expected {what} in {', '.join(_UK)}, got {unit}; r is a ratio of CMB temperatures."
        )
    return _UK[unit]
