"""One look for every figure: style, colours, ticks, errors, and the checks at the door."""

from collections.abc import Mapping
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_rgb
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from foreglow.errors import ShapeError

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.linewidth": 0.7,
    "axes.edgecolor": "#3a3f44",
    "axes.labelcolor": "#22262a",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.color": "#dfe3e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.color": "#3a3f44",
    "ytick.color": "#3a3f44",
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.titlesize": 11,
    "figure.titleweight": "bold",
    "pdf.fonttype": 42,
}
"""The one style of every figure, on top of matplotlib's defaults."""

# Okabe & Ito's colour-blind-safe hues, darkened until the full tone carries white text
CLASS_HUES = ("#c4450c", "#0b62a4", "#00805c", "#a8417f", "#8a6a00", "#4a4f55")
"""Colour of each class, in order; a problem has at most this many classes."""

NOT_OBSERVED = "#c3c8cc"
INK = "#3a3f44"
MUTED = "#5f676e"

# starts from matplotlib's defaults, whatever the user's own matplotlibrc says
styled = matplotlib.style.context(["default", STYLE])
"""Decorator and context in which figures are made and drawn."""


def tint(hue: str, start: float) -> Colormap:
    """Colour map from a tint of a hue to the hue itself.

    Parameters
    ----------
    hue : str
        A matplotlib colour.
    start : float in [0, 1]
        Share of the hue at the low end; 0 is white.
    """
    shares = np.linspace(start, 1, 256)[:, None]
    colours = 1 - shares * (1 - np.array(to_rgb(hue)))  # (256, rgb)
    return LinearSegmentedColormap.from_list(f"tint{hue}", colours)


def plain_log_ticks(axis: Axis) -> None:
    """Mark 1, 2 and 5 of each decade of a logarithmic axis, as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def draw_mean(
    axes: Axes, ell: NDArray, values: NDArray, look: Mapping[str, Any], label: str | None = None
) -> None:
    """Draw the mean over realisations (n_real, n_ell) and its standard error as a band."""
    mean = values.mean(0)
    axes.plot(ell, mean, label=label, **look)
    if len(values) > 1:
        error = values.std(0, ddof=1) / np.sqrt(len(values))
        axes.fill_between(ell, mean - error, mean + error, color=look["color"], alpha=0.2, lw=0)


def validate_dimensions(name: str, array: NDArray, n_dimension: int) -> None:
    """Raise `ShapeError` unless an array has so many dimensions."""
    if array.ndim != n_dimension:
        raise ShapeError(f"Expected {name} with {n_dimension} dimension(s), got {array.shape}.")


def validate_shape(name: str, array: NDArray, expected: tuple[int, ...]) -> None:
    """Raise `ShapeError` unless an array has the shape expected."""
    if array.shape != expected:
        raise ShapeError(
            f"Expected {name} of shape {expected}, got {array.shape}. "
            "Pass arrays that describe the same pixels, classes or bands."
        )
