"""The figure of docs/performance.md: ratios, cost against work, and how near the limits are."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from foreglow.report.page.style import CLASS_HUES, INK, MUTED, styled

Row = Mapping[str, Any]

_PLAIN = FuncFormatter(lambda x, _: f"{x:g}")
_MARKERS = "osD^vP"
_DASHES: list[Any] = ["-", (0, (4, 1.5))]


@styled
def draw(table: Row, compared: list[Row], label: Callable[[Row], str], path: Path) -> None:
    """Draw the three panels of the processor's rows into a PNG file."""
    rows = [r for r in table["results"] if r["device"] == "cpu"]
    compared = [r for r in compared if r["device"] == "cpu"]
    heights = 0.8 + 0.17 * len(compared), 3.8
    figure = Figure(figsize=(10.5, sum(heights)), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=heights)
    _ratios(above.add_subplot(), compared, label)
    left, right = below.subplots(1, 2, width_ratios=(1.15, 1))
    _costs(left, [r for r in rows if r["benchmark"] == "cost"])
    _shares(right, [r for r in rows if r["benchmark"] == "limit"])
    figure.savefig(path, dpi=110)


def _ratios(axes: Axes, rows: list[Row], label: Callable[[Row], str]) -> None:
    for place, row in enumerate(reversed(rows)):
        span = [[row["ratio"] - row["lowest"]], [row["highest"] - row["ratio"]]]
        axes.errorbar(row["ratio"], place, xerr=span, fmt="o", color=CLASS_HUES[1], capsize=2)
    axes.axvline(1, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
    names = [f"{label(r)}  /  {r['beside']}".replace("`", "") for r in reversed(rows)]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(-1, len(rows))
    axes.set(xscale="log", xlabel="Rate of foreglow over that of the other")
    axes.set_title("Beside what one would pick instead: median and range of turns")
    axes.xaxis.set_major_formatter(_PLAIN)


def _costs(axes: Axes, rows: list[Row]) -> None:
    for k, end in enumerate(r for r in rows if "exponent" in r):
        sizes = [r for r in rows if r["stage"] == end["stage"] and "size" in r]
        x = np.array([r["size"] for r in sizes]) / sizes[0]["size"]
        y = np.array([r["seconds"] for r in sizes]) / sizes[0]["seconds"]
        axes.plot(
            x, y, color=CLASS_HUES[k % len(CLASS_HUES)], marker=_MARKERS[k % len(_MARKERS)],
            linestyle=_DASHES[k // len(CLASS_HUES) % 2], linewidth=1.2, markersize=3.5,
            label=f"{_name(end)}: {end['exponent']:.2f} ± {end['error']:.2f}",
        )  # fmt: skip
    line = np.array([1.0, 64.0])
    axes.plot(line, line, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
    axes.set(xscale="log", yscale="log", xlabel="Work over that of the smallest size")
    axes.set(ylabel="Time over that of the smallest size")
    axes.set_title("Cost against work, and its exponent")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_PLAIN)
        axis.set_minor_formatter(NullFormatter())
    axes.legend(fontsize=6.5, loc="upper left")


def _shares(axes: Axes, rows: list[Row]) -> None:
    rows = rows[::-1]
    shares = [100 * r["share"] for r in rows]
    axes.barh(range(len(rows)), shares, color=CLASS_HUES[2], height=0.6)
    for place, (row, share) in enumerate(zip(rows, shares, strict=True)):
        axes.text(share, place, f" {row['bound']}", va="center", fontsize=6.5, color=INK)
    axes.set_yticks(range(len(rows)), [_name(r) for r in rows])
    axes.set(xlabel="Share of the rate that the machine allows [%]", xlim=(0, 130))
    axes.set_title("How near the limit, and what sets it")


def _name(row: Row) -> str:
    return row["stage"].replace("`", "")
