"""What recognition is for: how much is left in the CMB when the right model is fitted, or another.

The fits are those of `parametric`, pixel by pixel. Pixels do not know of each other, so a model is
fitted once over the sky, and a map of models takes its pixels from the fits of each.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foreglow.errors import ModelError, ShapeError
from foreglow.maps import healpix as hp
from foreglow.recognition.evaluation.tensors import ELL_MIN, tensor_ratio
from foreglow.recognition.fits.optimise import fit
from foreglow.recognition.fits.skymodel import SkyModel, as_trained, candidate
from foreglow.recognition.simulation.skies import SimulatedSky
from foreglow.sky.instrument import Instrument

TRUTH = "true models"
FULL_SKY = "full sky"
CUT_DEG = 20.0
_COLUMNS = ("rms", "expected", "bb", "left")


@dataclass(frozen=True)
class CleanedMap:
    """What one choice of models leaves in the CMB of one sky.

    Parameters
    ----------
    residual : ndarray, shape (2, n_pix)
        Q, U of the CMB found less the CMB that is there [uK_CMB].
    expected : ndarray, shape (2, n_pix)
        Rms of the residual that the fits expect if their models hold [uK_CMB]: from the noise of
        the instrument and the width of the priors, marginal over the spectral parameters to first
        order. For a map of probabilities the mean of the models', which is an upper bound.
    """

    residual: NDArray[np.float64]
    expected: NDArray[np.float64]


@dataclass(frozen=True)
class Residuals:
    """What one choice of models leaves in the CMB over realisations, in one part of the sky.

    Parameters
    ----------
    option : str
    region : str
    rms : ndarray, shape (n_real,)
        Of the residual over pixels, Q and U [uK_CMB]: foregrounds left and noise let in.
    expected : ndarray, shape (n_real,)
        What that would be if the models fitted held [uK_CMB]; a larger rms is the cost of wrong
        ones.
    bb : ndarray, shape (n_real, 3 Nside)
        C_ell of the residual's B modes from ell 0 [uK_CMB^2], see `bb_spectrum`.
    left : ndarray, shape (n_real, 3 Nside)
        That of the foregrounds alone: of the same fits to the same sky without its noise.
    sky_fraction : float
        Of the region.
    """

    option: str
    region: str
    rms: NDArray[np.float64]
    expected: NDArray[np.float64]
    bb: NDArray[np.float64]
    left: NDArray[np.float64]
    sky_fraction: float


def models_everywhere(models: Sequence[str]) -> dict[str, SkyModel]:
    """One model for the whole sky, as an analyst who recognises nothing may choose.

    Parameters
    ----------
    models : sequence of str
        What the sky may hold. C is left free in those that are curved.
    """
    return {
        f"{name.replace('_ame', ' + AME').replace('_', ' ')} everywhere": candidate(
            name, priors=True
        )
        for name in models
    }


def separate(
    sky: SimulatedSky,
    instrument: Instrument,
    models: Sequence[str],
    maps: Mapping[str, NDArray],
    free_curvature: bool = False,
) -> dict[str, CleanedMap]:
    """Clean one sky with each of several maps of models, and with one model everywhere.

    What is free has its Gaussian prior: else the faintest pixels at high noise take any beta_s.

    Parameters
    ----------
    sky : SimulatedSky
        Its `sigma` above zero: that is how a fit weighs the bands, noise in the data or not.
    instrument : Instrument
    models : sequence of str
        What the maps choose among, names of `MODELS`.
    maps : mapping of str to ndarray
        By name, the model of each pixel: whole numbers (n_pix,), places in `models`; or
        probabilities (n_class, n_pix), by which the models' CMB maps are averaged.
    free_curvature : bool
        Leave C free where a curved model was recognised, because the sky's may be another than the
        model's.

    Returns
    -------
    dict of CleanedMap
        Those of `models_everywhere`, then those of `maps`.

    Raises
    ------
    ModelError
        If a model is unknown, or a name is given twice.
    ShapeError
        If a map does not fit the sky and the models, or the noise is not above zero.
    """
    chosen = [
        candidate(name, priors=True) if free_curvature else as_trained(name) for name in models
    ]
    everywhere = models_everywhere(models)
    if twice := sorted(set(everywhere) & set(maps)):
        raise ModelError(f"expected options with names of their own, got {twice} twice.")
    weights = {name: _weights(name, values, len(models), sky) for name, values in maps.items()}
    fitted = {model: _clean(model, sky, instrument) for model in {*everywhere.values(), *chosen}}
    cleaned = {name: fitted[model] for name, model in everywhere.items()}
    for name, weight in weights.items():
        residual, expected = (
            sum(w * getattr(fitted[model], part) for w, model in zip(weight, chosen, strict=True))
            for part in ("residual", "expected")
        )
        cleaned[name] = CleanedMap(np.asarray(residual), np.asarray(expected))
    return cleaned


def residuals_of_sky(
    sky: SimulatedSky,
    quiet: SimulatedSky,
    instrument: Instrument,
    models: Sequence[str],
    maps: Mapping[str, NDArray],
    free_curvature: bool = False,
    regions: Mapping[str, NDArray[np.bool_]] | None = None,
) -> list[Residuals]:
    """Clean one sky, by the true models, too.

    Parameters
    ----------
    sky : SimulatedSky
    quiet : SimulatedSky
        The same without noise in its data.
    instrument, models, maps, free_curvature
        As in `separate`; the true models are added to the maps.
    regions : mapping of str to ndarray of bool, optional
        Parts of the sky over which the residuals are taken, by name; by default those of
        `galactic_cuts`, 20 degrees.

    Returns
    -------
    list of Residuals
        One for each option and region.
    """
    regions = regions or galactic_cuts(hp.npix2nside(len(sky.label)), CUT_DEG)
    chosen = {**maps, TRUTH: sky.label}
    found = separate(sky, instrument, models, chosen, free_curvature)
    weighed = replace(quiet, sigma=sky.sigma)
    left = separate(weighed, instrument, models, chosen, free_curvature)
    return [
        Residuals(
            option,
            region,
            np.array([_rms(cleaned.residual[:, inside])]),
            np.array([_rms(cleaned.expected[:, inside])]),
            bb_spectrum(cleaned.residual, inside)[None],
            bb_spectrum(left[option].residual, inside)[None],
            float(inside.mean()),
        )
        for option, cleaned in found.items()
        for region, inside in regions.items()
    ]


def join_residuals(skies: Iterable[list[Residuals]]) -> list[Residuals]:
    """Residuals of many skies from those of each."""
    rows: dict[tuple[str, str], list[Residuals]] = {}
    for sky in skies:
        for one in sky:
            rows.setdefault((one.option, one.region), []).append(one)
    return [
        replace(row[0], **{c: np.concatenate([getattr(r, c) for r in row]) for c in _COLUMNS})
        for row in rows.values()
    ]


def galactic_cuts(nside: int, cut_deg: float) -> dict[str, NDArray[np.bool_]]:
    """Masks (n_pix,), True to keep: the full sky, and Galactic latitudes beyond a cut [deg]."""
    latitude = hp.pix2ang(nside, np.arange(hp.nside2npix(nside)), lonlat=True)[1]
    beyond = np.abs(latitude) > cut_deg
    return {FULL_SKY: np.ones_like(beyond), f"|b| > {cut_deg:g} deg": beyond}


def bb_spectrum(residual: NDArray, inside: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Spectrum of the B modes of a Q,U map.

    Of a cut sky it is the pseudo-spectrum over the fraction of sky kept: multipoles mix, and E
    modes leak into it, which is of no matter for residuals with as much power in E as in B.

    Parameters
    ----------
    residual : ndarray, shape (2, n_pix)
        RING, COSMO.
    inside : ndarray of bool, shape (n_pix,), optional
        Pixels to keep; by default all.

    Returns
    -------
    ndarray, shape (3 Nside,), in the square of the map's unit
        C_ell from ell 0 to 3 Nside - 1, which is all that pixels of this size carry; no beam and
        no pixel window divided out.
    """
    n_pix = residual.shape[1]
    kept = np.ones(n_pix) if inside is None else inside.astype(float)
    maps = [np.zeros(n_pix), *(kept * residual)]
    ell_max = 3 * hp.npix2nside(n_pix) - 1
    spectra = np.asarray(hp.anafast(maps, lmax=ell_max, pol=True, iter=3))  # TT, EE, BB, ...
    return spectra[2] / kept.mean()


def summarise_residuals(residuals: Iterable[Residuals]) -> list[dict[str, Any]]:
    """Flat records for metrics.json: a mean over realisations and its standard error each.

    Parameters
    ----------
    residuals : iterable of Residuals

    Returns
    -------
    list of dict
        `option`, `region`, `realisations`; `rms` and `expected` [uK_CMB]; `bb` [uK_CMB^2], the
        plain mean of C_ell over ell from 2 to 3 Nside - 1; `rms_over_truth` and `bb_over_truth`,
        sky by sky against the fit of the true models, absent without one; `r_bias`, the r that
        would be measured where there is none; a `_sem` beside each. `r_error`, the rms of r by
        cosmic variance and the noise let in, see `tensor_ratio`.
    """
    residuals = list(residuals)
    truth = {r.region: r for r in residuals if r.option == TRUTH}
    records = []
    for mine in residuals:
        values = {"rms": mine.rms, "expected": mine.expected, "bb": mine.bb[:, ELL_MIN:].mean(1)}
        if best := truth.get(mine.region):
            values["rms_over_truth"] = mine.rms / best.rms
            values["bb_over_truth"] = values["bb"] / best.bb[:, ELL_MIN:].mean(1)
        noise = (mine.bb.mean(0) - mine.left.mean(0)).clip(0)
        ratio = tensor_ratio(mine.left, noise, mine.sky_fraction)
        values["r_bias"] = ratio.bias
        record = {"option": mine.option, "region": mine.region, "realisations": len(mine.rms)}
        for name, value in values.items():
            record[name] = float(value.mean())
            record[f"{name}_sem"] = _standard_error(value)
        records.append({**record, "r_error": ratio.error})
    return records


def _clean(model: SkyModel, sky: SimulatedSky, instrument: Instrument) -> CleanedMap:
    """Fit one model over the whole sky."""
    found = fit(model, instrument.bands, *sky.vectors())
    place, n_component = model.components.index("cmb"), len(model.components)
    variance = torch.diagonal(found.amplitude_covariance, dim1=1, dim2=2)
    expected = variance.reshape(-1, 2, n_component)[:, :, place].sqrt().T.numpy()
    return CleanedMap(found.amplitudes[:, :, place].T.numpy() - sky.cmb, expected)


def _weights(name: str, values: NDArray, n_class: int, sky: SimulatedSky) -> NDArray:
    """Weight of each model in each pixel, shape (n_class, n_pix), of labels or probabilities."""
    values, n_pix = np.asarray(values), len(sky.label)
    if np.issubdtype(values.dtype, np.integer) and values.shape == (n_pix,):
        if values.min() >= 0 and values.max() < n_class:
            return np.arange(n_class)[:, None] == values
    elif values.shape == (n_class, n_pix) and np.allclose(values.sum(0), 1, atol=1e-3):
        return values
    raise ShapeError(
        f"expected map {name!r} as whole numbers from 0 to {n_class - 1} of shape ({n_pix},), or "
        f"probabilities of shape ({n_class}, {n_pix}) with sum 1, got {values.dtype} of shape "
        f"{values.shape}, or such numbers as name no model."
    )


def _rms(values: NDArray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _standard_error(values: NDArray) -> float | None:
    """Of the mean; None for a single value."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
