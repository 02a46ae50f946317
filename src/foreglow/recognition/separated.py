"""What separation finds on a sky: maps of the components with their errors."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from foreglow.maps.table_of_maps import TableOfMaps
from foreglow.maps.write import Columns
from foreglow.recognition.models import class_cards, definition_of
from foreglow.recognition.results import parameter_columns
from foreglow.sky import seds

COMPONENTS = ("cmb", "dust", "synchrotron", "ame", "dust_moment")
_REFERENCES_GHZ = {
    "DUSTGHZ": seds.DUST_REFERENCE_GHZ,
    "SYNCGHZ": seds.SYNCHROTRON_PIVOT_GHZ,
    "AMEGHZ": seds.AME_REFERENCE_GHZ,
}


@dataclass(frozen=True)
class SeparatedCounts:
    """How much of a sky was separated, by which models, and where that went wrong.

    Parameters
    ----------
    models : tuple of str
    average : bool
        Whether models were averaged by their probabilities.
    level : float
    pixels : tuple of int
        Of each model: where it is the most probable.
    none_fits, not_converged : int
        Pixels whose p-value is below the level, and those where a fit did not converge.
    cmb_variance : float
        Sum over pixels of the mean variance of Q and U of the CMB [uK_CMB^2].
    n_pix : int
    """

    models: tuple[str, ...]
    average: bool
    level: float
    pixels: tuple[int, ...]
    none_fits: int
    not_converged: int
    cmb_variance: float
    n_pix: int

    @classmethod
    def of(cls, parts: "list[SeparatedCounts]") -> "SeparatedCounts":
        """Combine the counts of several parts of a sky."""
        one = parts[0]
        return cls(
            one.models, one.average, one.level,
            tuple(map(sum, zip(*(part.pixels for part in parts), strict=True))),
            sum(part.none_fits for part in parts), sum(part.not_converged for part in parts),
            sum(part.cmb_variance for part in parts), sum(part.n_pix for part in parts),
        )  # fmt: skip

    def summary(self) -> str:
        """A sentence: what was separated, with which models, and how well."""
        seen = sum(self.pixels)
        each = zip(self.models, self.pixels, strict=True)
        shares = ", ".join(f"{name} {n / max(seen, 1):.1%}" for name, n in each)
        how = "most probable; averaged by probability" if self.average else "fitted"
        return (
            f"{seen} of {self.n_pix} pixels separated: {shares} {how}; rms error of the CMB's Q "
            f"and U {(self.cmb_variance / max(seen, 1)) ** 0.5:.3g} uK_CMB; the model does not fit "
            f"{self.none_fits / max(seen, 1):.1%} (p < {self.level:g}); "
            f"{self.not_converged / max(seen, 1):.1%} did not converge"
        )


@dataclass(frozen=True, repr=False)
class SeparatedSky(TableOfMaps):
    """The components of a sky, or of a block of it; RING, NaN where a pixel was not separated.

    Parameters
    ----------
    models : tuple of str
    average : bool
        Whether models were averaged by their probabilities.
    level : float
    nside : int
    frame : str
        G, C or E, as in the maps.
    share : ndarray, float32, shape (n_class, n_pix)
        Of each model in the pixel; 0 and 1 where one was chosen.
    amplitude, error : ndarray, float32, shape (5, 2, n_pix)
        Q, U, COSMO, of `COMPONENTS`: CMB [uK_CMB], dust at 353 GHz, synchrotron at 23 GHz, AME at
        30 GHz and the first moment of the dust's index [uK_RJ of dust at 353 GHz times index]; and
        their rms errors, marginal over the spectral parameters and, where models were averaged,
        over the models. AME and moment are 0 without an error where no model has them.
    beta_s, beta_s_error, curvature, curvature_error : ndarray, float32, shape (n_pix,)
        Likewise. The error of C is 0 where it is fixed.
    beta_d, beta_d_error, dust_temperature, dust_temperature_error : ndarray, float32
        Index and temperature [K] of the dust, likewise; NaN in dust of two temperatures.
    p_value : ndarray, float64, shape (n_pix,)
        Probability of a larger chi-square of the pixel, if its most probable model holds.
    converged : ndarray, bool, shape (n_pix,)
    beam_arcmin : float, optional
        FWHM of the maps, if all state the same.
    """

    models: tuple[str, ...]
    average: bool
    level: float
    nside: int
    frame: str
    share: np.ndarray
    amplitude: np.ndarray
    error: np.ndarray
    beta_s: np.ndarray
    beta_s_error: np.ndarray
    curvature: np.ndarray
    curvature_error: np.ndarray
    beta_d: np.ndarray
    beta_d_error: np.ndarray
    dust_temperature: np.ndarray
    dust_temperature_error: np.ndarray
    p_value: np.ndarray
    converged: np.ndarray
    beam_arcmin: float | None = None

    @property
    def fitted(self) -> np.ndarray:
        """Which pixels were separated, bool, shape (n_pix,)."""
        return np.isfinite(self.amplitude[0, 0])

    @property
    def best(self) -> np.ndarray:
        """Place of the model of the largest share, int16, shape (n_pix,); -1 where none."""
        return np.where(self.fitted, self.share.argmax(0), -1).astype(np.int16)

    @property
    def cmb(self) -> np.ndarray:
        """Q, U of the CMB [uK_CMB], shape (2, n_pix)."""
        return self.amplitude[0]

    @property
    def cmb_error(self) -> np.ndarray:
        """Their rms errors [uK_CMB], shape (2, n_pix)."""
        return self.error[0]

    @property
    def none_fits(self) -> np.ndarray:
        """Where the data reject the model at `level`, bool, shape (n_pix,)."""
        return self.p_value < self.level

    @property
    def counts(self) -> SeparatedCounts:
        """How much was separated, and how."""
        seen = self.fitted
        pixels = np.bincount(self.best[seen], minlength=len(self.models))
        return SeparatedCounts(
            self.models, self.average, self.level, tuple(map(int, pixels)),
            int((self.none_fits & seen).sum()), int((seen & ~self.converged).sum()),
            float(np.square(self.error[0][:, seen], dtype=np.float64).mean(0).sum()), len(seen),
        )  # fmt: skip

    def summary(self) -> str:
        """A sentence: what was separated, with which models, and how well."""
        return self.counts.summary()

    def columns(self) -> Columns:
        """Maps of the components, of the spectral parameters, and of the models.

        `CMB_Q`, `CMB_U`, `CMB_Q_ERR`, `CMB_U_ERR`, likewise `DUST_*`, `SYNCHROTRON_*`, `AME_*` and,
        if a model has it, `DUST_MOMENT_*`; `BETA_S`, `BETA_S_ERR`, `C`, `C_ERR` and, if a model has
        them free, `BETA_D`, `BETA_D_ERR`, `T_D`, `T_D_ERR`; `CLASS`, `CONVERGED`, `P_VALUE`.
        """
        found: Columns = {}
        moments = any(definition_of(name).dust_moments for name in self.models)
        for k, name in enumerate(COMPONENTS if moments else COMPONENTS[:-1]):
            unit = "uK_CMB" if name == "cmb" else "uK_RJ"
            for s, stokes in enumerate("QU"):
                found[f"{name.upper()}_{stokes}"] = (self.amplitude[k, s], unit)
            for s, stokes in enumerate("QU"):
                found[f"{name.upper()}_{stokes}_ERR"] = (self.error[k, s], unit)
        converged = np.where(self.fitted, self.converged, -1).astype(np.int16)
        return {
            **found,
            **parameter_columns(self),
            "CLASS": (self.best, ""),
            "CONVERGED": (converged, ""),
            "P_VALUE": (self.p_value, ""),
        }

    def header(self) -> dict[str, Any]:
        """Which model has which number in `CLASS`, and where amplitudes are given."""
        beam = {} if self.beam_arcmin is None else {"FWHM": (self.beam_arcmin, "[arcmin]")}
        return {**class_cards(self.models), "AVERAGED": self.average, **_REFERENCES_GHZ, **beam}

    def _column(self, name: str | None) -> str:
        """`CMB_Q` by default."""
        return name or "CMB_Q"

    def _looks(self, name: str, unit: str) -> dict[str, Any]:
        return {}
