"""Fit and choose among models in every pixel of a user's maps, streamed from FITS to FITS."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import healpy as hp
import numpy as np
import torch
from torch import Tensor

from foreglow.errors import InstrumentError, MapError, ModelError
from foreglow.maps.conventions import rotate_to_galactic
from foreglow.maps.io import NoiseMap
from foreglow.maps.write import write_maps
from foreglow.recognition.choice import CRITERIA, Choice, choose
from foreglow.recognition.observations import Noise, Observation, open_observation
from foreglow.recognition.simulate import MODELS
from foreglow.recognition.skymodel import candidate
from foreglow.sky.instrument import Instrument

BLOCK = 1 << 14  # pixels read and fitted at a time


@dataclass(frozen=True)
class FittedSky:
    """What the fits say of a sky; RING, NaN where a pixel was not fitted.

    Parameters
    ----------
    models : tuple of str
    criterion : str
        One of `CRITERIA`, by which the best model of a pixel is chosen.
    level : float
        A pixel where no model has a larger p-value is said to be fitted by none.
    nside : int
    frame : str
        G, C or E, as in the maps.
    probability, chi2 : ndarray, float32, shape (n_class, n_pix)
        Weights of the models by the criterion, and their chi-square.
    p_value : ndarray, float64, shape (n_pix,)
        Of the model that fits best: the largest.
    beta_s, beta_s_error : ndarray, float32, shape (n_pix,)
        Of the best model, as all below.
    curvature, curvature_error : ndarray, float32, shape (n_pix,)
        C; 0 in models without curvature. The error is NaN where C is not free.
    cmb : ndarray, float32, shape (2, n_pix)
        Q, U [uK_CMB], COSMO, in the frame of the maps.
    converged : ndarray, bool, shape (n_pix,)
        Whether the fits of all models did.
    """

    models: tuple[str, ...]
    criterion: str
    level: float
    nside: int
    frame: str
    probability: np.ndarray
    chi2: np.ndarray
    p_value: np.ndarray
    beta_s: np.ndarray
    beta_s_error: np.ndarray
    curvature: np.ndarray
    curvature_error: np.ndarray
    cmb: np.ndarray
    converged: np.ndarray

    @property
    def fitted(self) -> np.ndarray:
        """Which pixels were fitted, bool, shape (n_pix,)."""
        return np.isfinite(self.probability[0])

    @property
    def best(self) -> np.ndarray:
        """Place of the model chosen, int16, shape (n_pix,); -1 where not fitted."""
        best = np.full(self.probability.shape[1], -1, np.int16)
        seen = self.fitted
        best[seen] = self.probability[:, seen].argmax(0)
        return best

    @property
    def none_fits(self) -> np.ndarray:
        """Whether the data reject every model at `level`, bool, shape (n_pix,)."""
        return self.p_value < self.level

    def summary(self) -> str:
        """A sentence: how much was fitted, how the models share it, and what went wrong."""
        seen = self.fitted
        shares = np.bincount(self.best[seen], minlength=len(self.models)) / seen.sum()
        text = ", ".join(
            f"{name} {part:.1%}" for name, part in zip(self.models, shares, strict=True)
        )
        return (
            f"{seen.sum()} of {len(seen)} pixels fitted: {text} by {self.criterion}; none of these "
            f"models fits {self.none_fits[seen].mean():.1%} (p < {self.level:g}); "
            f"{1 - self.converged[seen].mean():.1%} did not converge"
        )

    def write(self, path: str | Path, overwrite: bool = False) -> None:
        """Write one FITS table.

        `P_<MODEL>` and `CHI2_<MODEL>` for each model; `CLASS`, `NONE_FITS`, `CONVERGED`;
        `P_VALUE`; and of the best model `BETA_S`, `BETA_S_ERR`, `C`, `C_ERR`, `CMB_Q`, `CMB_U`.
        """
        seen, numbered = self.fitted, list(enumerate(self.models))
        flags = {
            name: (np.where(seen, values, -1).astype(np.int16), "")
            for name, values in (("NONE_FITS", self.none_fits), ("CONVERGED", self.converged))
        }
        columns = {
            **{f"P_{name.upper()}": (self.probability[k], "") for k, name in numbered},
            "CLASS": (self.best, ""),
            **flags,
            "P_VALUE": (self.p_value, ""),
            **{f"CHI2_{name.upper()}": (self.chi2[k], "") for k, name in numbered},
            "BETA_S": (self.beta_s, ""),
            "BETA_S_ERR": (self.beta_s_error, ""),
            "C": (self.curvature, ""),
            "C_ERR": (self.curvature_error, ""),
            "CMB_Q": (self.cmb[0], "uK_CMB"),
            "CMB_U": (self.cmb[1], "uK_CMB"),
        }
        header = {f"CLASS{k}": name for k, name in numbered}
        header |= {"CRITERIO": self.criterion, "LEVEL": self.level}
        write_maps(path, columns, frame=self.frame, header=header, overwrite=overwrite)


def fit_maps(
    instrument: Instrument,
    models: tuple[str, ...],
    maps: Mapping[str, str | Path],
    noise: Noise | None = None,
    noise_scale: float = 1.0,
    unit: str | None = None,
    criterion: str = "evidence",
    curvature: float | None = None,
    level: float = 1e-3,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> FittedSky:
    """Fit each candidate model to each pixel of Q,U maps, and choose.

    No training is needed, and not every band: a pixel is fitted with the bands that observed it.

    Parameters
    ----------
    instrument : Instrument
    models : tuple of str
        Names of `MODELS`.
    maps, noise, noise_scale, unit
        As `open_observation` takes them. The maps must have one common resolution.
    criterion : str
        One of `CRITERIA`; see `Choice.log_score`.
    curvature : float, optional
        C of the curved models; by default it is free.
    level : float
        The p-value under which a model does not fit.
    device : torch.device or str
        Where the fits are made, in float64.
    progress : callable, optional
        Called with pixels done and pixels in all.

    Raises
    ------
    ModelError
        If a model or the criterion does not exist, or `curvature` or `level` make no sense.
    InstrumentError
        If the bands are not the instrument's or too few, or the noise of one is zero.
    MapError
        If a map cannot be used, or no pixel is observed in bands enough.
    """
    _validate(models, criterion, curvature, level)
    opened = open_observation(instrument, maps, noise, noise_scale, unit)
    needed = _bands_needed(models, curvature)
    _validate_bands(opened, needed)
    bands = instrument.bands.to(device)
    n_pix = hp.nside2npix(opened.nside)
    sky = _empty(models, criterion, level, opened, n_pix)
    for start in range(0, n_pix, BLOCK):
        pixels = np.arange(start, min(start + BLOCK, n_pix))
        data, sigma = opened.read(pixels)
        observed = np.isfinite(data).all(1) & np.isfinite(sigma)
        enough = np.flatnonzero(observed.sum(1) >= needed)
        if len(enough):
            values, rms = (torch.from_numpy(a[enough]).to(device) for a in (data, sigma))
            found = choose(models, bands, values, rms, curvature)
            _put(sky, pixels[enough], found)
        if progress is not None:
            progress(int(pixels[-1]) + 1, n_pix)
    if not sky.fitted.any():
        raise MapError(
            f"no pixel is observed in {needed} bands, as the fit of {models[-1]} needs; check the "
            "masks and frames of the maps."
        )
    return sky


def _validate(
    models: tuple[str, ...], criterion: str, curvature: float | None, level: float
) -> None:
    curved = any(candidate(name).free.keys() >= {"curvature"} for name in models)
    if criterion not in CRITERIA:
        raise ModelError(
            f"expected a criterion among {', '.join(CRITERIA)}, but {criterion!r} came."
        )
    if not 0 < level < 1:
        raise ModelError(f"expected a p-value between 0 and 1 as level, but {level:g} came.")
    if curvature is None:
        return
    if not (np.isfinite(curvature) and curvature != 0):
        raise ModelError(
            f"expected a curvature other than 0, such as {MODELS['curved'].curvature}, but "
            f"{curvature:g} came; leave it out to fit it."
        )
    if not curved:
        raise ModelError(
            f"a curvature came, but none of the models {', '.join(models)} is curved; leave it out."
        )


def _bands_needed(models: tuple[str, ...], curvature: float | None) -> int:
    """Bands that leave every model a degree of freedom."""
    needed = 0
    for model in (candidate(name, curvature) for name in models):
        needed = max(needed, len(model.components) + len(model.free) // 2 + 1)
    return needed


def _validate_bands(opened: Observation, needed: int) -> None:
    band = opened.instrument.band
    given = [k for k, one in enumerate(opened.maps) if one is not None]
    if len(given) < needed:
        raise InstrumentError(
            f"expected maps of {needed} bands at least, to fit these models, but {len(given)} came "
            f"({', '.join(band[k] for k in given)}); give more bands, or fewer models."
        )
    silent = [
        band[k] for k in given
        if not isinstance(rms := opened.noise[k], NoiseMap) and not rms > 0
    ]  # fmt: skip
    if silent:
        raise InstrumentError(
            f"expected noise above zero, but that of {', '.join(silent)} is 0; a fit weighs the "
            "bands by their noise: state it, or a noise scale above 0."
        )


def _empty(
    models: tuple[str, ...], criterion: str, level: float, opened: Observation, n_pix: int
) -> FittedSky:
    def unknown(*shape: int) -> np.ndarray:
        return np.full((*shape, n_pix), np.nan, np.float32)

    return FittedSky(
        models, criterion, level, opened.nside, opened.frame,
        unknown(len(models)), unknown(len(models)), np.full(n_pix, np.nan),
        unknown(), unknown(), unknown(), unknown(), unknown(2), np.zeros(n_pix, bool),
    )  # fmt: skip


def _put(sky: FittedSky, pixels: np.ndarray, choice: Choice) -> None:
    """Write what was found in some pixels into the maps."""
    sky.probability[:, pixels] = _array(choice.probability(sky.criterion)).T
    sky.chi2[:, pixels] = _array(choice.chi2).T
    sky.p_value[pixels] = _array(choice.p_value.amax(1))
    sky.converged[pixels] = _array(choice.converged)
    best = choice.best(sky.criterion)
    for k, fit in enumerate(choice.fits):
        of = torch.nonzero(best == k).squeeze(1)
        at = pixels[_array(of)]
        error = fit.covariance[of].diagonal(dim1=1, dim2=2).sqrt()
        error = torch.where(torch.isfinite(error), error, torch.nan)  # FITS maps hold no Inf
        sky.beta_s[at], sky.beta_s_error[at] = _array(fit.parameters[of, 0]), _array(error[:, 0])
        if "curvature" in fit.model.free:
            place = list(fit.model.free).index("curvature")
            sky.curvature[at] = _array(fit.parameters[of, place])
            sky.curvature_error[at] = _array(error[:, place])
        else:
            sky.curvature[at] = fit.model.fixed["curvature"]
        cmb = _array(fit.amplitudes[of][:, :, fit.model.components.index("cmb")]).T
        sky.cmb[:, at] = _from_galactic(cmb, at, sky.nside, sky.frame)


def _from_galactic(qu: np.ndarray, pixels: np.ndarray, nside: int, frame: str) -> np.ndarray:
    """Refer Q,U (2, n) to the meridians of `frame`: a turn the other way round is one with -U."""
    mirror = np.array([[1.0], [-1.0]])
    return mirror * rotate_to_galactic(mirror * qu, pixels, nside, frame)


def _array(values: Tensor) -> np.ndarray:
    return values.cpu().numpy()
