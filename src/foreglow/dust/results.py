"""A map of predicted dust: its numbers, and what can be made of it."""

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

    def _repr_html_(self) -> str:
        """Show it as a small table in a notebook."""
        seen = np.isfinite(self.mean)
        dust, error = (
            targets.with_unit(f"{np.nanmedian(x):.4g}", self.unit) for x in (self.mean, self.std)
        )
        rows = {
            "unit": "none" if self.unit == targets.NO_UNIT else self.unit,
            "Nside": str(self.nside),
            "frame": self.frame,
            "share of the sky": f"{seen.mean():.1%}",
            "dust (median)": dust,
            "error (median)": error,
            "the error is": self.sigma,
            "cube": self.cube,
        }
        cells = "".join(
            f"<tr><th>{name}</th><td>{html.escape(text)}</td></tr>" for name, text in rows.items()
        )
        return f"<table><caption>Predicted dust</caption>{cells}</table>"
