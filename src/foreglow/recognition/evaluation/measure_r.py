"""The tensor-to-scalar ratio of a CMB map: from Q, U, a mask and the noise to r and its error."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreglow.compute.progress import Shown, shown
from foreglow.compute.workers import map_over
from foreglow.errors import MapError, RunError, ShapeError
from foreglow.maps import healpix as hp
from foreglow.maps.arrays import is_array
from foreglow.maps.cut_sky import CutSky, apodised
from foreglow.maps.io import PolarisationMap
from foreglow.maps.mask import mask_array, open_mask
from foreglow.recognition.evaluation.given_cmb import (
    FEWEST_SKIES,
    beam_of,
    read_cmb,
    read_noise,
)
from foreglow.recognition.evaluation.tensors import MeasuredR, fit_r
from foreglow.recognition.observation.given import Pixels
from foreglow.recognition.separated import SeparatedSky
from foreglow.sky.cmb import cmb_spectra, polarisation_map, tensor_bb

_APODISE_DEG = 10.0
_APODISE_PIXELS = 5.0  # less than that, and derivatives of the weight are rough
_LARGEST_ELL = 500  # beyond, there are hardly any tensors
_FEWEST_MODES = 10
_NARROWEST = 5  # multipoles of a bin, of the full sky


def measure_r(
    cmb: Any,
    mask: Any = None,
    *,
    fwhm_arcmin: float | None = None,
    noise: Any = None,
    apodise_deg: float | None = None,
    ell_edges: Sequence[int] | None = None,
    free_lensing: bool = False,
    window: Any = None,
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

    Simulated skies of lensed CMB and noise, and with tensors of the r found, are measured in the
    same way: their mean is taken off, their covariance weighs the bins, and the same fit to each of
    them gives the error. What foregrounds have left in the map biases r; `p_value` tells where that
    shows.

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
    noise : path, str, array or Quantity, optional
        Rms or covariance of the noise of each pixel, a sensitivity ("2 uK_CMB arcmin") or an rms
        ("0.1 uK_CMB"), as `classify` takes those of a band, an array with its words: `(rms, "rms in
        uK_CMB")`. Or simulations of it, shape (n, 2, n_pix), with their unit: `(noise, "uK_CMB")`.
        By default the errors that `separate` gives. Noise of maps that were smoothed is
        correlated, and needs simulations.
    apodise_deg : float, optional
        Over so many degrees the weight rises at the edge of the mask; by default 10, or five
        pixels. Of two thirds of the sky with less, B modes at ell below 20 are lost in E.
    ell_edges : sequence of int, optional
        Of the bins of ell; by default from 2 to 2 Nside, the wider the less sky there is.
    free_lensing : bool
        Fit the amplitude of lensing, too; else it is that of the Planck 2018 best fit.
    window : array_like, shape (3 Nside,), optional
        Amplitude by ell of what else the map was smoothed by, such as the pixel window of maps
        that are means over their pixels (`healpy.pixwin(nside, pol=True)[1]`), as those of
        instruments are; simulations of foreglow have none.
    skies : int
        50 at least, and twice as many as there are bins.
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
        If the beam, the noise or enough skies are missing, there is too little sky, or an
        argument makes no sense.

    References
    ----------
    `CutSky`, for the spectra; `fit_r`, for the likelihood.
    """
    _validate(skies, seed)
    pixels = Pixels(nest, frame, convention)
    maps, opened = read_cmb(cmb, unit, pixels)
    beam = beam_of(fwhm_arcmin, opened)
    spread = read_noise(noise, cmb, maps, beam, unit, pixels)
    seen = np.isfinite(maps.sum(0) + spread.sum((0, 1)))
    weight = _weight(mask, seen, opened, apodise_deg, nest)
    nside = hp.npix2nside(weight.size)
    cut = CutSky(weight, _edges(ell_edges, nside, weight), pure=bool((weight < 1).any()))
    if cut.modes.min() < _FEWEST_MODES:
        raise RunError(
            f"expected a mask that leaves {_FEWEST_MODES} modes or more in every bin of ell, got "
            f"{cut.modes.min():.2g} at ell {cut.ell[cut.modes.argmin()]:g} of "
            f"{cut.sky_fraction:.2%} of the sky; take more sky, or wider bins (ell_edges=)."
        )
    if skies < 2 * len(cut.ell):
        raise RunError(
            f"expected twice as many skies as bins of ell, {2 * len(cut.ell)}, for a covariance, "
            f"got {skies}; take more skies, or wider bins (ell_edges=)."
        )
    transfer = (hp.gauss_beam(np.radians(beam / 60), cut.l_max) * _window(window, cut.l_max)) ** 2
    transfer[:2] = 0
    _, ee, bb, _ = cmb_spectra(cut.l_max)
    tensors = np.zeros(cut.l_max + 1)
    most = min(cut.l_max, _LARGEST_ELL)
    tensors[: most + 1] = tensor_bb(most)
    ee, bb, tensors = ee * transfer, bb * transfer, tensors * transfer
    power = cut.spectra(np.where(seen, maps, 0.0))[1]
    one = partial(simulated_powers, cut, ee, bb, tensors, seed)
    each = ((number, np.nan_to_num(spread[number % len(spread)])) for number in range(skies))
    found = []
    with shown("measure r", progress) as say, map_over(workers, pool) as map_fn:
        for spectrum in map_fn(one, each):
            found.append(spectrum)
            say(len(found), skies)
    lensing, tensor = (cut.expected(0 * ee, cl)[1] for cl in (bb, tensors))
    return fit_r(power, np.array(found), tensor, lensing, free_lensing, cut)


def _validate(skies: Any, seed: Any) -> None:
    if not isinstance(skies, int | np.integer) or skies < FEWEST_SKIES:
        raise RunError(f"expected {FEWEST_SKIES} skies or more, for a covariance, got {skies!r}.")
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise RunError(f"expected a seed as a whole number of 0 or more, got {seed!r}.")


def simulated_powers(
    cut: CutSky,
    ee: NDArray,
    bb: NDArray,
    tensors: NDArray,
    seed: int,
    number_and_noise: tuple[int, NDArray],
) -> NDArray[np.float64]:
    """BB of a simulated sky, as `fit_r` takes it, (3, n_bin).

    Its noise is Q, U of one that was simulated, or QQ, QU and UU of which it is drawn.
    """
    number, noise = number_and_noise
    rng = np.random.default_rng([seed, 21, number])
    sky = polarisation_map(ee, bb, cut.nside, rng)
    waves = cut.multipoles(polarisation_map(0 * ee, tensors, cut.nside, rng))
    if len(noise) == 2:
        sky += noise
    else:
        qq, qu, uu = noise
        first, second = rng.standard_normal(sky.shape)
        slope = np.divide(qu, qq, out=np.zeros_like(qq), where=qq > 0)
        sky[0] += np.sqrt(qq) * first
        sky[1] += slope * np.sqrt(qq) * first + np.sqrt((uu - slope * qu).clip(0)) * second
    rest = cut.multipoles(sky)
    pairs = ((rest, rest), (2 * rest, waves), (waves, waves))
    return np.stack([cut.band_powers(*pair)[1] for pair in pairs])


def _window(given: Any, l_max: int) -> NDArray[np.float64]:
    """Amplitude of what else smoothed the map."""
    if given is None:
        return np.ones(l_max + 1)
    values = np.asarray(given, dtype=float)
    if values.shape != (l_max + 1,) or not np.isfinite(values).all():
        raise ShapeError(
            f"expected window of shape ({l_max + 1},), 3 Nside, finite, got shape {values.shape}."
        )
    return values


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
    if not isinstance(width, int | float | np.number) or not 0 <= width < 90:
        raise RunError(f"expected apodise_deg as a number from 0 to 90, got {width!r}.")
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
    if isinstance(given, str):
        raise RunError(f"expected ell_edges as a list of whole numbers, got {given!r}.")
    if given is not None:
        return list(given)
    width = max(_NARROWEST, round(_NARROWEST / np.sqrt(np.mean(weight > 0))))
    most = min(2 * nside, _LARGEST_ELL)
    return list(range(2, most + 1, width)) if most >= 2 + width else [2, most]
