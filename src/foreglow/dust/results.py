"""Maps of predicted dust, polarised or not: their numbers, and what can be made of them."""

import html
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreglow.dust import target as targets
from foreglow.dust.uncertainty import Calibration
from foreglow.maps import healpix as hp
from foreglow.maps.table_of_maps import TableOfMaps
from foreglow.maps.write import Columns


@dataclass(frozen=True, eq=False, repr=False)
class DustMap(TableOfMaps):
    """Predicted dust.

    Attributes
    ----------
    mean, std : ndarray of float32, shape (n_pix,)
        RING, in `unit`; NaN outside the footprint. The error is that of the target map about the
        prediction, what no gas tells of included; neighbouring pixels have theirs in common.
    cover : ndarray of float32, shape (n_pix,)
        Sum of the weights of the cutouts that speak of a pixel, see `Stitched`.
    unit : str
        Of the target that the model was trained to, or that it was calibrated to anew.
    calibration : Calibration
    sigma : str
        What the error is.
    n_member : int
    model, cube : str
        The model's hash and where the cube came from.
    frame : str
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    cover: NDArray[np.float32]
    unit: str
    calibration: Calibration
    sigma: str
    n_member: int
    model: str
    cube: str
    frame: str = "G"

    @property
    def nside(self) -> int:
        """Nside of the maps."""
        return hp.npix2nside(self.mean.size)

    def summary(self) -> str:
        """Say in a sentence how much of the sky was predicted, how bright, how sure."""
        seen = np.isfinite(self.mean)
        low, middle, high = np.nanpercentile(self.mean, [16, 50, 84])
        dust, error = (
            targets.with_unit(f"{x:.4g}", self.unit) for x in (middle, np.nanmedian(self.std))
        )
        return (
            f"{seen.sum()} of {seen.size} pixels predicted ({100 * seen.mean():.3g}% of the sky), "
            f"mean |b| {targets.mean_latitude(np.flatnonzero(seen), seen.size):.0f} deg: dust "
            f"{dust} (16-84%: {low:.4g} to {high:.4g}), error {error} (median)"
        )

    def columns(self) -> Columns:
        """`DUST`, `DUST_STD` and `COVER`."""
        return {
            "DUST": (self.mean, self.unit),
            "DUST_STD": (self.std, self.unit),
            "COVER": (self.cover, ""),
        }

    def header(self) -> dict[str, Any]:
        """How the map was made."""
        return {
            "SLOPE": self.calibration.slope,
            "OFFSET": self.calibration.offset,
            "CALIB_TO": self.calibration.to,
            "SIGMA": self.sigma,
            "NMEMBER": self.n_member,
            "MODEL": self.model,
            "HICUBE": self.cube,
        }

    def _looks(self, name: str, unit: str) -> dict[str, Any]:
        """Colours by the logarithm where all but a few pixels are above zero."""
        values = self.columns()[name][0]
        low, high = np.nanpercentile(values[values != 0], [0.5, 99.5])
        looks = {
            "min": low,
            "max": high,
            "cmap": "magma",
            "unit": "" if unit == targets.NO_UNIT else unit,
        }
        return looks | ({"norm": "log"} if 0 < low < high else {})

    def _median(self, *maps: NDArray) -> str:
        return targets.with_unit(f"{np.nanmedian(np.stack(maps)):.4g}", self.unit)

    def _rows(self) -> dict[str, str]:
        """What stands in the table of a notebook."""
        return {
            "unit": "none" if self.unit == targets.NO_UNIT else self.unit,
            "Nside": str(self.nside),
            "frame": self.frame,
            "share of the sky": f"{np.isfinite(self.mean).mean():.1%}",
            "dust (median)": self._median(self.mean),
            "error (median)": self._median(self.std),
            "the error is": self.sigma,
            "cube": self.cube,
        }

    def _repr_html_(self) -> str:
        """Show it as a small table in a notebook."""
        cells = "".join(
            f"<tr><th>{name}</th><td>{html.escape(text)}</td></tr>"
            for name, text in self._rows().items()
        )
        return f"<table><caption>Predicted dust</caption>{cells}</table>"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PolarisedDustMap(DustMap):
    """Predicted dust with its Q and U; all else as in `DustMap`.

    Attributes
    ----------
    q, u, q_std, u_std : ndarray of float32, shape (n_pix,)
        RING, COSMO, in `unit`; NaN outside the footprint. Errors are as that of the mean.
    qu_calibration : Calibration
        Of Q and U.
    qu_sigma : str
        What their errors are: of the dust, or of a map with its noise.
    """

    q: NDArray[np.float32]
    u: NDArray[np.float32]
    q_std: NDArray[np.float32]
    u_std: NDArray[np.float32]
    qu_calibration: Calibration
    qu_sigma: str

    @property
    def polarised_intensity(self) -> NDArray[np.float32]:
        """Square root of Q^2 + U^2, (n_pix,)."""
        return np.hypot(self.q, self.u)

    @property
    def angle_deg(self) -> NDArray[np.float32]:
        """Angle of polarisation from south towards east (COSMO), (n_pix,), -90 to 90 deg."""
        return np.degrees(0.5 * np.arctan2(self.u, self.q))

    def summary(self) -> str:
        """As `DustMap.summary`, and how polarised, how sure."""
        intensity, error = self._polarised()
        return f"{super().summary()}; polarised {intensity}, error of Q and U {error} (medians)"

    def columns(self) -> Columns:
        """`I`, `Q`, `U`, their errors `I_STD`, `Q_STD`, `U_STD`, and `COVER`."""
        maps = {"I": self.mean, "Q": self.q, "U": self.u}
        errors = {"I_STD": self.std, "Q_STD": self.q_std, "U_STD": self.u_std}
        own = {name: (values, self.unit) for name, values in (maps | errors).items()}
        return own | {"COVER": (self.cover, "")}

    def header(self) -> dict[str, Any]:
        """How the maps were made; one slope is of Q and U, without an offset."""
        own = {"QU_SLOPE": self.qu_calibration.slope, "QU_TO": self.qu_calibration.to}
        return super().header() | own | {"QU_SIGMA": self.qu_sigma}

    def _looks(self, name: str, unit: str) -> dict[str, Any]:
        """Q and U in two colours from zero; the others as in `DustMap`."""
        looks = super()._looks(name, unit)
        if name not in ("Q", "U"):
            return looks
        end = max(-looks["min"], looks["max"])
        return looks | {"min": -end, "max": end, "cmap": "RdBu_r"}

    def _rows(self) -> dict[str, str]:
        intensity, error = self._polarised()
        return super()._rows() | {
            "polarised (median)": intensity,
            "error of Q and U (median)": error,
            "that error is": self.qu_sigma,
        }

    def _polarised(self) -> tuple[str, str]:
        """Medians of the polarised intensity and of the errors of Q and U."""
        return self._median(self.polarised_intensity), self._median(self.q_std, self.u_std)
