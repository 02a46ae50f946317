"""A map of predicted dust: its numbers, and what can be made of it."""

import html
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from foreglow.dust import target as targets
from foreglow.dust.uncertainty import Calibration
from foreglow.errors import ForeglowError
from foreglow.extras import require
from foreglow.maps import healpix as hp
from foreglow.maps.write import write_maps

_TITLES = {"mean": "Dust", "std": "Error of the dust", "cover": "Weight of the cutouts"}
_PLOT_WIDTH = 800  # image pixels, of the sky's full longitude


@dataclass(frozen=True, eq=False)
class DustMap:
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

    def to_fits(self, path: str | Path, overwrite: bool = False) -> None:
        """Write one FITS table: DUST, DUST_STD and COVER, and how they were made.

        Raises
        ------
        MapError
            If the file exists and `overwrite` is not set.
        """
        columns = {
            "DUST": (self.mean, self.unit),
            "DUST_STD": (self.std, self.unit),
            "COVER": (self.cover, ""),
        }
        write_maps(path, columns, frame=self.frame, header=self._made(), overwrite=overwrite)

    def to_xarray(self) -> Any:
        """Make an `xarray.Dataset` of it: dust, dust_std and cover by RING pixel.

        Raises
        ------
        ForeglowError
            If xarray is not installed.
        """
        if find_spec("xarray") is None:
            raise ForeglowError(
                "to_xarray needs xarray, not installed here; install it: "
                f"{sys.executable} -m pip install xarray"
            )
        import xarray

        unit = {"units": self.unit}
        return xarray.Dataset(
            {
                "dust": ("pixel", self.mean, unit),
                "dust_std": ("pixel", self.std, unit),
                "cover": ("pixel", self.cover),
            },
            attrs={"nside": self.nside, "ordering": "RING", "frame": self.frame}
            | {name.lower(): value for name, value in self._made().items()},
        )

    def plot(self, which: Literal["mean", "std", "cover"] = "mean", axes: Any = None) -> Any:
        """Draw a map on the sky in the Mollweide projection, longitude growing to the left.

        Parameters
        ----------
        which : str
            "mean", "std" or "cover".
        axes : matplotlib.axes.Axes, optional
            With `projection="mollweide"`; by default of a new figure.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ForeglowError
            If there is no such map, or matplotlib is not installed.
        """
        if which not in _TITLES:
            raise ForeglowError(f"which: expected mean, std or cover, got {which!r}; name one")
        require("report")
        import matplotlib.pyplot as plt

        if axes is None:
            axes = plt.figure(figsize=(8, 4.8)).add_subplot(projection="mollweide")
        unit = "" if which == "cover" or self.unit == targets.NO_UNIT else f" [{self.unit}]"
        _draw_sky(axes, getattr(self, which), _TITLES[which] + unit)
        return axes

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

    def _made(self) -> dict[str, Any]:
        """How it was made, as cards of a header."""
        return {
            "SLOPE": self.calibration.slope,
            "OFFSET": self.calibration.offset,
            "CALIB_TO": self.calibration.to,
            "SIGMA": self.sigma,
            "NMEMBER": self.n_member,
            "MODEL": self.model,
            "HICUBE": self.cube,
        }


def _draw_sky(axes: Any, values: NDArray, label: str) -> None:
    """Draw a map on axes in the Mollweide projection, its colours in a bar below."""
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.ticker import LogLocator, NullLocator

    low, high = np.nanpercentile(values[values != 0], [0.5, 99.5])
    norm = LogNorm(low, high) if 0 < low < high else Normalize(low, high)
    lon, lat = np.linspace(180, -180, _PLOT_WIDTH), np.linspace(-90, 90, _PLOT_WIDTH // 2)
    image = values[hp.ang2pix(hp.npix2nside(values.size), *np.meshgrid(lon, lat), lonlat=True)]
    drawn = axes.pcolormesh(
        np.radians(-lon), np.radians(lat), np.ma.masked_invalid(image), norm=norm, cmap="magma",
        rasterized=True,
    )  # fmt: skip
    axes.set(xticklabels=[], yticklabels=[], facecolor="0.85")  # grey where nothing is predicted
    axes.grid(alpha=0.3)
    bar = axes.figure.colorbar(drawn, ax=axes, orientation="horizontal", shrink=0.7, pad=0.06)
    bar.set_label(label)
    if isinstance(norm, LogNorm):
        bar.ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        bar.ax.xaxis.set_minor_locator(NullLocator())
        bar.ax.xaxis.set_major_formatter("{x:g}")
