"""What results of recognition share: plot, xarray, table in a notebook, FGBuster's components."""

import html
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from foreglow.errors import ForeglowError
from foreglow.extras import require
from foreglow.maps import healpix as hp
from foreglow.maps.write import Columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FRAMES = {"G": "Galactic", "C": "celestial", "E": "ecliptic"}


class _Result(Protocol):
    models: tuple[str, ...]
    nside: int
    frame: str
    probability: np.ndarray

    @property
    def best(self) -> np.ndarray: ...
    @property
    def counts(self) -> Any: ...
    def columns(self) -> Columns: ...
    def summary(self) -> str: ...


class ShownInNotebooks:
    """The verbs of results that need no more than their columns."""

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

    def to_xarray(self: _Result) -> Any:
        """Convert to an xarray Dataset: a variable for each column, of dimension `pixel`, RING.

        Raises
        ------
        ForeglowError
            If xarray is not installed.
        """
        try:
            from xarray import Dataset
        except ImportError as error:
            raise ForeglowError(
                "expected xarray, got none; install it: pip install xarray"
            ) from error
        variables = {
            name: ("pixel", values, {"units": unit} if unit else {})
            for name, (values, unit) in self.columns().items()
        }
        attributes = {"nside": self.nside, "ordering": "RING", "frame": self.frame}
        return Dataset(variables, attrs=attributes | {"models": list(self.models)})

    def plot(self: _Result, column: str | None = None, **options: Any) -> "Axes":
        """Draw one column as a map, in healpy's look.

        Parameters
        ----------
        column : str, optional
            A name of `columns()`, or of one of `models` for its probability; by default the most
            probable model of each pixel.
        **options
            Passed on to `healpy.projview`.

        Returns
        -------
        Axes

        Raises
        ------
        ForeglowError
            If there is no such column, or matplotlib is not installed.
        """
        require("report")
        columns = self.columns()
        name = "CLASS" if column is None else column
        name = f"P_{name.upper()}" if name in self.models else name
        if name not in columns:
            raise ForeglowError(
                f"expected a column among {', '.join(columns)}, got {column!r}; name one of them"
            )
        from matplotlib import pyplot as plt

        values, unit = columns[name]
        if name == "CLASS":
            options = _of_classes(self.models) | options
            seen = self.best >= 0
        else:
            options = {"unit": unit} | options
            seen = np.isfinite(values)
        shown = np.where(seen, values, hp.UNSEEN).astype(float)
        hp.projview(shown, **{"title": name, "coord": [self.frame], "cbar": True} | options)
        return plt.gca()

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
