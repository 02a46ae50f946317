"""What results of recognition can do beside tables of maps: notebooks, FGBuster's components."""

import html
from typing import Any, Protocol

import numpy as np

from foreglow.maps.table_of_maps import TableOfMaps

_FRAMES = {"G": "Galactic", "C": "celestial", "E": "ecliptic"}


class _Result(Protocol):
    @property
    def models(self) -> tuple[str, ...]: ...
    @property
    def nside(self) -> int: ...
    @property
    def frame(self) -> str: ...
    @property
    def best(self) -> np.ndarray: ...
    @property
    def counts(self) -> Any: ...
    def summary(self) -> str: ...


class ModelTable(TableOfMaps):
    """Maps by which pixels have models."""

    models: tuple[str, ...]

    def fgbuster_components(
        self: _Result, curvature: float | None = None, units: str = "K_CMB"
    ) -> dict[str, list[Any]]:
        """Make the components of FGBuster for each model that holds in some pixel.

        Parameters
        ----------
        curvature, units
            See `foreglow.recognition.fits.fgbuster.fgbuster_components`.

        Returns
        -------
        dict of list
            By the name of the model; its pixels are those where `best` is its place in `models`.

        Raises
        ------
        ForeglowError
            If FGBuster is not installed.
        """
        from foreglow.recognition.fits.fgbuster import fgbuster_components

        present = [name for k, name in enumerate(self.models) if (self.best == k).any()]
        return {name: fgbuster_components(name, curvature, units) for name in present}

    def _column(self, name: str | None) -> str:
        """`CLASS` by default; of a model its probability."""
        if name is None:
            return "CLASS"
        return f"P_{name.upper()}" if name in self.models else name

    def _looks(self, name: str, unit: str) -> dict[str, Any]:
        return _of_classes(self.models) if name == "CLASS" else {}

    def _repr_html_(self: _Result) -> str:
        counts, seen = self.counts.pixels, max(1, sum(self.counts.pixels))
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{n:,}</td><td>{n / seen:.1%}</td></tr>"
            for name, n in zip(self.models, counts, strict=True)
        )
        where = f"Nside {self.nside}, {_FRAMES[self.frame]} frame"
        return (
            f"<p>{html.escape(self.summary())}; {where}</p><table><tr><th>model</th>"
            f"<th>pixels</th><th>share</th></tr>{rows}</table>"
        )


def _of_classes(models: tuple[str, ...]) -> dict[str, Any]:
    """Options that draw the places of models as colours with their names."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    n = len(models)
    return {
        "cmap": ListedColormap(colormaps["tab10"](range(n))), "min": -0.5, "max": n - 0.5,
        "cbar_ticks": list(range(n)), "unit": ", ".join(f"{k}: {m}" for k, m in enumerate(models)),
    }  # fmt: skip
