"""What is found on a user's maps, by classification and by fits: of a block, and of a whole sky."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from foreglow.maps.conventions import angle_to_galactic, turn
from foreglow.maps.write import Columns
from foreglow.recognition.fits.choice import Choice
from foreglow.recognition.fits.goodness import LEVEL
from foreglow.recognition.models import class_cards, columns_of_parameters
from foreglow.recognition.shown import ModelTable

_IN_A_FILE = "the maps are in the file of out=: leave out= out to have them in memory"
_OF_FITS = "the fits give it: foreglow.fit(maps, instrument)"


@dataclass(frozen=True)
class ModelCounts:
    """How many pixels each model has, and how many no model fits.

    Parameters
    ----------
    models : tuple of str
    pixels : tuple of int
        Of each model.
    misfits, none_fits : int
        Pixels that their most probable model does not fit, and those that no model fits.
    n_pix : int
        Pixels in all, observed or not.
    """

    models: tuple[str, ...]
    pixels: tuple[int, ...]
    misfits: int
    none_fits: int
    n_pix: int

    @classmethod
    def of(cls, parts: Sequence["ModelCounts"]) -> "ModelCounts":
        """Combine the counts of several parts of a sky."""
        counts = zip(*(part.pixels for part in parts), strict=True)
        return cls(
            parts[0].models, tuple(map(sum, counts)), sum(part.misfits for part in parts),
            sum(part.none_fits for part in parts), sum(part.n_pix for part in parts),
        )  # fmt: skip

    def summary(self) -> str:
        """A sentence: how much was classified, how the models share it, and how well they fit."""
        seen, shares = sum(self.pixels), _shares(self.models, self.pixels)
        return (
            f"{seen} of {self.n_pix} pixels classified: {shares}; the most probable model does not "
            f"fit {self.misfits / max(seen, 1):.1%} (p < {LEVEL:g}), none of these models "
            f"{self.none_fits / max(seen, 1):.1%}"
        )

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            """Say where the maps are."""
            raise _missing(self, name, Classification, _IN_A_FILE)


@dataclass(frozen=True, repr=False)
class Classification(ModelTable):
    """What was found on a sky, or in a block of its pixels.

    Parameters
    ----------
    models : tuple of str
    nside : int
    frame : str
        G, C or E, as in the maps.
    probability : ndarray, float32, shape (n_class, n_pix)
        RING; NaN where a band did not observe.
    p_value : ndarray, float32, shape (n_pix,)
        Of the most probable model of the pixel by itself, whatever its neighbours say: the
        probability of a larger chi-square where that model and the priors of training hold.
    none_fits : ndarray, bool, shape (n_pix,)
        Whether the data reject every model, with a p-value below 0.001: the probabilities there
        mean nothing.
    """

    models: tuple[str, ...]
    nside: int
    frame: str
    probability: np.ndarray
    p_value: np.ndarray
    none_fits: np.ndarray

    @property
    def observed(self) -> np.ndarray:
        """Which pixels were classified, bool, shape (n_pix,)."""
        return np.isfinite(self.probability[0])

    @cached_property
    def best(self) -> np.ndarray:
        """Place of the most probable model, int16, shape (n_pix,); -1 where not observed."""
        return np.where(self.observed, self.probability.argmax(0), -1).astype(np.int16)

    @property
    def counts(self) -> ModelCounts:
        """How many pixels each model has."""
        counts = np.bincount(self.best + 1, minlength=len(self.models) + 1)[1:]
        return ModelCounts(
            self.models, tuple(map(int, counts)), int((self.p_value < LEVEL).sum()),
            int(self.none_fits.sum()), self.probability.shape[1],
        )  # fmt: skip

    def summary(self) -> str:
        """A sentence: how much was classified, how the models share it, and how well they fit."""
        return self.counts.summary()

    def columns(self) -> Columns:
        """`P_<MODEL>` for each model, `CLASS`, `NONE_FITS` (-1 where not observed), `P_VALUE`."""
        numbered = enumerate(self.models)
        return {
            **{f"P_{name.upper()}": (self.probability[k], "") for k, name in numbered},
            "CLASS": (self.best, ""),
            "NONE_FITS": (np.where(self.observed, self.none_fits, -1).astype(np.int16), ""),
            "P_VALUE": (self.p_value, ""),
        }

    def header(self) -> dict[str, str | float]:
        """Which model has which number in `CLASS`, and the p-value below which none fits."""
        return classification_header(self.models)

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            """Say what has what a network does not give."""
            raise _missing(self, name, FittedSky, _OF_FITS)


@dataclass(frozen=True)
class FitCounts:
    """How many pixels each model has by its fits, and where fits went wrong.

    Apart from `ModelCounts`, because a classification has no criterion and level by which it was
    chosen, and cannot fail in a pixel.

    Parameters
    ----------
    models : tuple of str
    criterion : str
    level : float
        As in `FittedSky`.
    pixels : tuple of int
        Of each model.
    none_fits, not_converged : int
        Pixels that no model fits, and those where some fit did not converge.
    n_pix : int
        Pixels in all, fitted or not.
    """

    models: tuple[str, ...]
    criterion: str
    level: float
    pixels: tuple[int, ...]
    none_fits: int
    not_converged: int
    n_pix: int

    @classmethod
    def of(cls, parts: Sequence["FitCounts"]) -> "FitCounts":
        """Combine the counts of several parts of a sky."""
        counts = tuple(map(sum, zip(*(part.pixels for part in parts), strict=True)))
        one = parts[0]
        return cls(
            one.models, one.criterion, one.level, counts,
            sum(part.none_fits for part in parts), sum(part.not_converged for part in parts),
            sum(part.n_pix for part in parts),
        )  # fmt: skip

    def summary(self) -> str:
        """A sentence: how much was fitted, how the models share it, and what went wrong."""
        seen, shares = sum(self.pixels), _shares(self.models, self.pixels)
        return (
            f"{seen} of {self.n_pix} pixels fitted: {shares} by {self.criterion}; none of these "
            f"models fits {self.none_fits / max(seen, 1):.1%} (p < {self.level:g}); "
            f"{self.not_converged / max(seen, 1):.1%} did not converge"
        )

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            """Say where the maps are."""
            raise _missing(self, name, FittedSky, _IN_A_FILE)


@dataclass(frozen=True, repr=False)
class FittedSky(ModelTable):
    """What the fits say of a sky, or of a block of it; RING, NaN where a pixel was not fitted.

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
        Weights of the models by the criterion, and their chi-square; of the pixel's patch, where
        there are patches, as the p-value and the spectral parameters.
    p_value : ndarray, float64, shape (n_pix,)
        Of the model that fits best: the largest.
    beta_s, beta_s_error : ndarray, float32, shape (n_pix,)
        Of the best model, as all below.
    curvature, curvature_error : ndarray, float32, shape (n_pix,)
        C; 0 in models without curvature. The error is NaN where C is not free.
    beta_d, beta_d_error, dust_temperature, dust_temperature_error : ndarray, float32
        Index and temperature [K] of the dust, likewise; NaN in dust of two temperatures.
    cmb : ndarray, float32, shape (2, n_pix)
        Q, U [uK_CMB], COSMO, in the frame of the maps.
    converged : ndarray, bool, shape (n_pix,)
        Whether the fits of all models did.
    patches : str
        What pixels share spectral parameters: "" where each has its own, the Nside of patches or
        "map" for a user's, and `curvature=4` and the like where patches differ by parameter.
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
    beta_d: np.ndarray
    beta_d_error: np.ndarray
    dust_temperature: np.ndarray
    dust_temperature_error: np.ndarray
    cmb: np.ndarray
    converged: np.ndarray
    patches: str = ""

    @property
    def fitted(self) -> np.ndarray:
        """Which pixels were fitted, bool, shape (n_pix,)."""
        return np.isfinite(self.probability[0])

    @cached_property
    def best(self) -> np.ndarray:
        """Place of the model chosen, int16, shape (n_pix,); -1 where not fitted."""
        return np.where(self.fitted, self.probability.argmax(0), -1).astype(np.int16)

    @property
    def none_fits(self) -> np.ndarray:
        """Whether the data reject every model at `level`, bool, shape (n_pix,)."""
        return self.p_value < self.level

    @property
    def counts(self) -> FitCounts:
        """How many pixels each model has."""
        counts = np.bincount(self.best + 1, minlength=len(self.models) + 1)[1:]
        return FitCounts(
            self.models, self.criterion, self.level, tuple(map(int, counts)),
            int((self.none_fits & self.fitted).sum()), int((self.fitted & ~self.converged).sum()),
            len(self.p_value),
        )  # fmt: skip

    def summary(self) -> str:
        """A sentence: how much was fitted, how the models share it, and what went wrong."""
        return self.counts.summary()

    def columns(self) -> Columns:
        """Columns of all models, and of the best one.

        `P_<MODEL>` and `CHI2_<MODEL>` for each model; `CLASS`, `NONE_FITS`, `CONVERGED`;
        `P_VALUE`; and of the best model `BETA_S`, `BETA_S_ERR`, `C`, `C_ERR`, `CMB_Q`, `CMB_U`,
        and where a model has them free `BETA_D`, `BETA_D_ERR`, `T_D`, `T_D_ERR`.
        """
        seen, numbered = self.fitted, list(enumerate(self.models))
        flags = {
            name: (np.where(seen, values, -1).astype(np.int16), "")
            for name, values in (("NONE_FITS", self.none_fits), ("CONVERGED", self.converged))
        }
        return {
            **{f"P_{name.upper()}": (self.probability[k], "") for k, name in numbered},
            "CLASS": (self.best, ""),
            **flags,
            "P_VALUE": (self.p_value, ""),
            **{f"CHI2_{name.upper()}": (self.chi2[k], "") for k, name in numbered},
            **parameter_columns(self),
            "CMB_Q": (self.cmb[0], "uK_CMB"),
            "CMB_U": (self.cmb[1], "uK_CMB"),
        }

    def header(self) -> dict[str, str | float]:
        """Which model has which number in `CLASS`, and by what it was chosen."""
        cards = {**class_cards(self.models), "CRITERIO": self.criterion, "LEVEL": self.level}
        return {**cards, "PATCHES": self.patches} if self.patches else cards


def parameter_columns(sky: Any) -> Columns:
    """Maps of the spectral parameters and of their errors, as `columns_of_parameters` has them."""
    columns: Columns = {}
    for name, (column, unit) in columns_of_parameters(sky.models).items():
        columns[column] = (getattr(sky, name), unit)
        columns[f"{column}_ERR"] = (getattr(sky, f"{name}_error"), unit)
    return columns


def _missing(result: object, name: str, having: type, hint: str) -> AttributeError:
    """What to say of an attribute that a result lacks and another kind of result has."""
    has = name in {*dir(having), *(field.name for field in fields(having))}
    told = f"; {hint}" if has and not name.startswith("_") else ""
    return AttributeError(f"{type(result).__name__} has no {name}{told}", name=name, obj=result)


def _shares(models: tuple[str, ...], pixels: tuple[int, ...]) -> str:
    """How models share the pixels that have one, in words."""
    seen = max(sum(pixels), 1)
    return ", ".join(f"{name} {n / seen:.1%}" for name, n in zip(models, pixels, strict=True))


def classification_header(models: tuple[str, ...]) -> dict[str, str | float]:
    """The cards of a classification."""
    return {**class_cards(models), "LEVEL": LEVEL}


def unclassified(models: tuple[str, ...], nside: int, frame: str, n: int) -> Classification:
    """Some pixels of which nothing is known yet."""
    unknown = np.full((len(models) + 1, n), np.nan, np.float32)
    return Classification(models, nside, frame, unknown[:-1], unknown[-1], np.zeros(n, bool))


def unfitted(
    models: tuple[str, ...],
    criterion: str,
    level: float,
    nside: int,
    frame: str,
    n: int,
    patches: str = "",
) -> FittedSky:
    """Some pixels of which nothing is known yet."""

    def unknown(*shape: int) -> np.ndarray:
        return np.full((*shape, n), np.nan, np.float32)

    return FittedSky(
        models, criterion, level, nside, frame,
        unknown(len(models)), unknown(len(models)), np.full(n, np.nan),
        unknown(), unknown(), unknown(), unknown(), unknown(), unknown(), unknown(), unknown(),
        unknown(2), np.zeros(n, bool), patches,
    )  # fmt: skip


def put(sky: FittedSky, places: np.ndarray, choice: Choice, pixels: np.ndarray) -> None:
    """Write what was found into some places of the arrays, of which `pixels` are the numbers."""
    sky.probability[:, places] = _array(choice.probability(sky.criterion)).T
    sky.chi2[:, places] = _array(choice.chi2).T
    sky.p_value[places] = _array(choice.p_value.amax(1))
    sky.converged[places] = _array(choice.converged)
    best = choice.best(sky.criterion)
    for k, fit in enumerate(choice.fits):
        of = torch.nonzero(best == k).squeeze(1)
        at = places[_array(of)]
        error = fit.covariance[of].diagonal(dim1=1, dim2=2).sqrt()
        error = torch.where(torch.isfinite(error), error, torch.nan)  # FITS maps hold no Inf
        for place, name in enumerate(fit.model.free):
            getattr(sky, name)[at] = _array(fit.parameters[of, place])
            getattr(sky, f"{name}_error")[at] = _array(error[:, place])
        for name, value in fit.model.fixed.items():
            getattr(sky, name)[at] = value
        cmb = _array(fit.amplitudes[of][:, :, fit.model.components.index("cmb")]).T
        sky.cmb[:, at] = from_galactic(cmb, pixels[_array(of)], sky.nside, sky.frame)


def from_galactic(qu: np.ndarray, pixels: np.ndarray, nside: int, frame: str) -> np.ndarray:
    """Refer Q,U (2, n) to the meridians of `frame`."""
    return qu if frame == "G" else turn(qu, -angle_to_galactic(pixels, nside, frame))


def _array(values: Tensor) -> np.ndarray:
    return values.cpu().numpy()
