"""The tensor-to-scalar ratio of a CMB map: from Q, U, a mask and the noise to r and its error."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreglow.compute.progress import Shown, shown
from foreglow.compute.workers import map_over
from foreglow.errors import MapError, RunError, ShapeError
from foreglow.maps import healpix as hp
from foreglow.maps.arrays import is_array
from foreglow.maps.conventions import warn_assumed
from foreglow.maps.cut_sky import CutSky, apodised
from foreglow.maps.given import GivenFile
from foreglow.maps.io import PolarisationMap, open_polarisation_map
from foreglow.maps.mask import mask_array, open_mask
from foreglow.maps.noise import open_noise_map
from foreglow.maps.table import open_table
from foreglow.recognition.evaluation.tensors import MeasuredR, fit_r
from foreglow.recognition.observation.given import Pixels
from foreglow.recognition.separated import SeparatedSky
from foreglow.sky.cmb import cmb_spectra, polarisation_map, tensor_bb

_APODISE_DEG = 10.0
_APODISE_PIXELS = 5.0  # less than that, and derivatives of the weight are rough
_LARGEST_ELL = 500  # beyond, there are hardly any tensors
_FEWEST_SKIES = 50
_CMB = ("CMB_Q", "CMB_U")
_ERRORS = ("CMB_Q_ERR", "CMB_U_ERR")
_NARROWEST = 5  # multipoles of a bin, of the full sky
_UK = {"uK_CMB": 1.0, "mK_CMB": 1e3, "K_CMB": 1e6}


def measure_r(
    cmb: Any,
    mask: Any = None,
    *,
    fwhm_arcmin: float | None = None,
    noise: Any = None,
    apodise_deg: float | None = None,
    ell_edges: Sequence[int] | None = None,
    free_lensing: bool = False,
    pixel_window: bool = False,
    skies: int = 200,
    seed: int = 0,
    unit: str | None = None,
    nest: bool = False,
    frame: str | None = None,
    convention: str | None = None,
    workers: str | None = None,
    pool: Any = None,
    progress: Shown = None,
) -> MeasuredR:
    """Measure r on a CMB map: purified BB of a mask, a Gaussian likelihood in r (and lensing).

    Simulated skies of lensed CMB without tensors, and of the noise, are measured in the same way:
    their mean is taken off, and their covariance weighs the bins. What foregrounds have left in
    the map biases r; `p_value` tells where that shows.

    Parameters
    ----------
    cmb : SeparatedSky, path or array
        As `separate` gives it, in memory or in its file; else Q, U of the CMB, a file or an array
        of shape (2, n_pix), as `classify` takes a band.
    mask : path or array, optional
        The sky counts where it is above zero, and the map is observed; numbers between 0 and 1 are
        a weight, taken as it is. By default all that is observed.
    fwhm_arcmin : float, optional
        Gaussian beam of the map; 0 for none. Needed where the file does not state it (FWHM).
    noise : path, str or array, optional
        Rms or covariance of the noise of each pixel, as `classify` takes that of a band; or
        simulations of it, shape (n, 2, n_pix) [uK_CMB]. By default the errors that `separate`
        gives. Noise of maps that were smoothed is correlated, and needs simulations.
    apodise_deg : float, optional
        Over so many degrees the weight rises at the edge of the mask; by default 10, or five
        pixels. Of two thirds of the sky with less, B modes at ell below 20 are lost in E.
    ell_edges : sequence of int, optional
        Of the bins of ell; by default from 2 to 2 Nside, the wider the less sky there is.
    free_lensing : bool
        Fit the amplitude of lensing, too; else it is that of the Planck 2018 best fit.
    pixel_window : bool
        Whether the map holds means over its pixels, as those of instruments do, and not the sky at
        their centres, as simulations of foreglow do.
    skies : int
        50 at least.
    seed : int
    unit, nest, frame, convention
        Of maps that do not state them, as `classify` takes them.
    workers, pool, progress
        As `classify` takes them; a sky is a piece of work.

    Returns
    -------
    MeasuredR

    Raises
    ------
    MapError
        If a file is not understood, or the unit is none of the CMB's temperature.
    ShapeError
        If shapes do not agree.
    RunError
        If the beam, the noise or enough skies are missing.

    References
    ----------
    `CutSky`, for the spectra; Hamimeche & Lewis 2008, for what a Gaussian likelihood neglects in
    the few modes of the lowest multipoles; Hartlap, Simon & Schneider 2007, for the covariance.
    """
    if skies < _FEWEST_SKIES:
        raise RunError(f"expected {_FEWEST_SKIES} skies or more, for a covariance, got {skies}.")
    pixels = Pixels(nest, frame, convention)
    maps, opened = _read_cmb(cmb, unit, pixels)
    beam = _beam(fwhm_arcmin, opened)
    spread = _read_noise(noise, cmb, maps, beam, unit, pixels)
    known = np.concatenate([maps, spread[0] if spread.ndim == 3 else spread])
    seen = np.isfinite(known.sum(0))
    weight = _weight(mask, seen, opened, apodise_deg, nest)
    nside = hp.npix2nside(weight.size)
    cut = CutSky(weight, _edges(ell_edges, nside, weight), pure=bool((weight < 1).any()))
    window = hp.gauss_beam(np.radians(beam / 60), cut.l_max) ** 2
    if pixel_window:
        window *= hp.pixwin(nside, pol=True, lmax=cut.l_max)[1] ** 2
    window[:2] = 0
    _, ee, bb, _ = cmb_spectra(cut.l_max)
    tensors = np.zeros(cut.l_max + 1)
    most = min(cut.l_max, _LARGEST_ELL)
    tensors[: most + 1] = tensor_bb(most)
    one = partial(_one_sky, cut, ee * window, bb * window, np.nan_to_num(spread), seed)
    found = []
    with shown("measure r", progress) as say, map_over(workers, pool) as map_fn:
        for spectrum in map_fn(one, range(skies)):
            found.append(spectrum)
            say(len(found), skies)
    lensing, tensor = (cut.expected(0 * ee, cl * window)[1] for cl in (bb, tensors))
    power = cut.spectra(np.where(seen, maps, 0.0))[1]
    return fit_r(power, np.array(found), tensor, lensing, free_lensing, cut)


def _one_sky(
    cut: CutSky, ee: NDArray, bb: NDArray, noise: NDArray, seed: int, number: int
) -> NDArray[np.float64]:
    """BB of a simulated sky without tensors, (n_bin,)."""
    rng = np.random.default_rng([seed, 21, number])
    sky = polarisation_map(ee, bb, cut.nside, rng)
    if noise.ndim == 3:  # simulations
        return cut.spectra(sky + noise[number % len(noise)])[1]
    qq, qu, uu = noise
    first, second = rng.standard_normal(sky.shape)
    slope = np.divide(qu, qq, out=np.zeros_like(qq), where=qq > 0)
    sky[0] += np.sqrt(qq) * first
    sky[1] += slope * np.sqrt(qq) * first + np.sqrt((uu - slope * qu).clip(0)) * second
    return cut.spectra(sky)[1]


def _read_cmb(
    cmb: Any, unit: str | None, pixels: Pixels
) -> tuple[NDArray[np.float64], PolarisationMap | SeparatedSky]:
    """Q, U [uK_CMB], RING, NaN where unobserved; and what they are from."""
    if isinstance(cmb, SeparatedSky):
        return cmb.cmb.astype(float), cmb
    given = pixels.array("cmb", cmb) if is_array(cmb) else _named(cmb, _CMB)
    opened = open_polarisation_map(given, unit)
    values = opened.read(np.arange(hp.nside2npix(opened.nside)))
    return values.astype(float) * _factor(opened.unit, "the CMB map"), opened


def _named(path: str | Path, columns: tuple[str, ...]) -> str:
    """A file with the columns that `separate` writes, if it has them and none are named."""
    file = GivenFile.of(path)
    if len(file.paths) == 1 and not file.columns[0]:
        table = open_table(file.paths[0])
        if set(columns) <= {column.name for column in table.columns}:
            return f"{file.paths[0]}[{','.join(columns)}]"
    return str(path)


def _read_noise(
    noise: Any, cmb: Any, maps: NDArray, beam: float, unit: str | None, pixels: Pixels
) -> NDArray[np.float64]:
    """Covariance of each pixel, (3, n_pix), or simulations, (n, 2, n_pix) [uK_CMB]."""
    if isinstance(noise, np.ndarray) and noise.ndim == 3:
        if noise.shape[1:] != maps.shape or len(noise) < _FEWEST_SKIES:
            raise ShapeError(
                f"expected simulations of noise of shape (n, 2, {maps.shape[1]}), {_FEWEST_SKIES} "
                f"or more, got {noise.shape}."
            )
        return np.where(np.isfinite(maps), noise.astype(float), 0.0)
    if noise is None and isinstance(cmb, SeparatedSky):
        qq, uu = cmb.cmb_error.astype(float) ** 2
        return np.stack([qq, 0 * qq, uu])
    if noise is None:
        named = "" if is_array(cmb) else _named(cmb, (*_CMB, *_ERRORS))
        if not named.endswith(_ERRORS[-1] + "]"):
            raise RunError(
                "expected the noise of the CMB map (noise=), got none: a file of its rms in "
                "uK_CMB, or simulations of it, an array of shape (n, 2, n_pix)."
            )
        noise = f"{GivenFile.of(named).paths[0]}[{','.join(_ERRORS)}] as rms"
    given: Any = pixels.array("noise", noise) if is_array(noise) else noise
    opened = open_noise_map(given, unit)
    if hp.nside2npix(opened.nside) != maps.shape[1]:
        raise ShapeError(
            f"expected noise of the Nside of the map, {hp.npix2nside(maps.shape[1])}, got Nside "
            f"{opened.nside}."
        )
    if np.radians(beam / 60) > 2 * hp.nside2resol(opened.nside):
        warn_assumed(
            f"the map has a beam of {beam:g} arcmin, much more than a pixel, and noise that is "
            "taken as independent from pixel to pixel; if it was smoothed, give simulations of "
            "its noise"
        )
    covariance = opened.read_covariance(np.arange(maps.shape[1]))
    return covariance * _factor(opened.unit, "the noise") ** 2


def _beam(given: float | None, opened: PolarisationMap | SeparatedSky) -> float:
    """FWHM [arcmin] of the map."""
    stated = None if isinstance(opened, SeparatedSky) else opened.beam_arcmin
    found = stated if given is None else given
    if found is None:
        raise RunError(
            "expected the beam of the CMB map (fwhm_arcmin=), which the map does not state, got "
            "none; 0 says that it has none."
        )
    if not 0 <= found < np.inf:
        raise RunError(f"expected a beam of 0 arcmin or more, got {found:g}.")
    if given is not None and stated is not None and not np.isclose(given, stated, rtol=1e-3):
        raise MapError(
            f"expected one beam, got {given:g} arcmin (fwhm_arcmin=) and {stated:g} arcmin in the "
            "header (FWHM); correct the one that is wrong, or leave the first out."
        )
    return float(found)


def _weight(
    mask: Any,
    seen: NDArray,
    opened: PolarisationMap | SeparatedSky,
    apodise_deg: float | None,
    nest: bool,
) -> NDArray[np.float64]:
    """Weight of each pixel, 0 where the map or its noise is unobserved."""
    pixel = np.degrees(hp.nside2resol(opened.nside))
    width = max(_APODISE_DEG, _APODISE_PIXELS * pixel) if apodise_deg is None else apodise_deg
    if not 0 <= width < 90:
        raise RunError(f"expected apodise_deg from 0 to 90, got {width:g}.")
    if mask is None:
        return apodised(seen, width)
    given = mask_array(mask, nest) if is_array(mask) else mask
    stored = open_mask(given, opened.nside, opened.frame, "the CMB map").stored
    values = np.nan_to_num(stored.read(np.arange(seen.size)).astype(float))
    if not ((values > 0) & (values < 1)).any():
        return apodised((values > 0) & seen, width)
    if apodise_deg is not None:
        raise RunError(
            "expected a mask of 0 and 1 to apodise, got one with numbers between, which is a "
            "weight; leave out apodise_deg=, or give the mask of 0 and 1."
        )
    if values.min() < 0 or values.max() > 1:
        raise MapError(
            f"expected weights from 0 to 1, got {values.min():g} to {values.max():g}; scale them."
        )
    if (values[~seen] > 0).any():
        raise MapError(
            f"expected weights of 0 where the map or its noise is unobserved, got "
            f"{int((values[~seen] > 0).sum())} pixels above 0 there; give a mask of 0 and 1, which "
            "is cut there and apodised."
        )
    return values


def _edges(given: Sequence[int] | None, nside: int, weight: NDArray) -> list[int]:
    """Edges of the bins; by default from 2 to 2 Nside, of a width that the sky resolves."""
    if given is not None:
        return list(given)
    width = max(_NARROWEST, round(_NARROWEST / np.sqrt(np.mean(weight > 0))))
    most = min(2 * nside, _LARGEST_ELL)
    return list(range(2, most + 1, width)) if most >= 2 + width else [2, most]


def _factor(unit: str, what: str) -> float:
    """To uK_CMB."""
    if unit not in _UK:
        raise MapError(
            f"expected {what} in {', '.join(_UK)}, got {unit}; r is a ratio of CMB temperatures."
        )
    return _UK[unit]
