"""Maps of one sky by their names: what the results of every job can do with theirs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from foreglow.errors import ForeglowError
from foreglow.extras import require
from foreglow.maps import healpix as hp
from foreglow.maps.write import Columns, write_maps

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class _Maps(Protocol):
    @property
    def frame(self) -> str: ...
    @property
    def nside(self) -> int: ...
    def summary(self) -> str: ...
    def columns(self) -> Columns: ...
    def header(self) -> dict[str, Any]: ...
    def _column(self, name: str | None) -> str: ...
    def _looks(self, name: str, unit: str) -> dict[str, Any]: ...


class TableOfMaps:
    """The verbs of results that need no more than their columns, RING, and the header of these."""

    def __repr__(self: _Maps) -> str:
        """A line for the end of a notebook's cell."""
        return f"<{type(self).__name__} of Nside {self.nside}: {self.summary()}>"

    def header(self) -> dict[str, Any]:
        """Cards that say how the maps were made, by their keywords."""
        return {}

    def to_fits(self: _Maps, path: str | Path, overwrite: bool = False) -> None:
        """Write the columns as one FITS table.

        Raises
        ------
        MapError
            If the file exists and `overwrite` is not set, or it cannot be written.
        """
        write_maps(
            path, self.columns(), frame=self.frame, header=self.header(), overwrite=overwrite
        )

    def to_xarray(self: _Maps) -> Any:
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
                "to_xarray needs xarray, not installed here; install it: "
                f"{sys.executable} -m pip install xarray"
            ) from error
        variables = {
            name: ("pixel", values, {"units": unit} if unit else {})
            for name, (values, unit) in self.columns().items()
        }
        attributes = {"nside": self.nside, "ordering": "RING", "frame": self.frame}
        return Dataset(variables, attrs=attributes | self.header())

    def plot(
        self: _Maps,
        column: str | None = None,
        *,
        vmin: float | None = None,
        vmax: float | None = None,
        **options: Any,
    ) -> "Axes":
        """Draw one column as a map, in healpy's look.

        Parameters
        ----------
        column : str, optional
            A name of `columns()`; by default the one that matters most.
        vmin, vmax : float, optional
            Ends of the colour scale, in the unit of the column; by default those of the map. The
            scale is linear, but for predicted dust of which all but a few pixels are above zero:
            there it is logarithmic, unless an end is given that is zero or below.
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
        name, columns = self._column(column), self.columns()
        if name not in columns:
            raise ForeglowError(
                f"expected a column among {', '.join(columns)}, got {column!r}; name one of them"
            )
        from matplotlib import pyplot as plt

        values, unit = columns[name]
        seen = values >= 0 if values.dtype.kind == "i" else np.isfinite(values)
        shown = np.where(seen, values, hp.UNSEEN).astype(float)
        usual = {"title": name, "coord": [self.frame], "cbar": True, "unit": unit}
        ends = {key: end for key, end in (("min", vmin), ("max", vmax)) if end is not None}
        chosen = usual | self._looks(name, unit) | ends | options
        if chosen.get("norm") == "log" and min(chosen.get("min", 1), chosen.get("max", 1)) <= 0:
            del chosen["norm"]
        hp.projview(shown, **chosen)
        return plt.gca()

    def _column(self: _Maps, name: str | None) -> str:
        """The column that a user means."""
        return next(iter(self.columns())) if name is None else name

    def _looks(self, name: str, unit: str) -> dict[str, Any]:
        """Options of `plot` that suit a column."""
        return {}
