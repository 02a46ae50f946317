"""What neighbours add: accuracy by layout as a table, and near a boundary as a figure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike, NDArray

from foreglow.report.page.page import Cell, render_table
from foreglow.report.page.style import CLASS_HUES, MUTED, styled, validate_shape
from foreglow.report.page.tables import PROBLEMS, Record, problem_place

_EDGES = np.array([0, 3, 6, 9, 12, 16, 20, 25, 30, 40, 50, 60, 75, 90])  # deg
_FEWEST = 30  # pixels in a bin
_DASHES = ("-", (0, (5, 1.5)), (0, (6, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (4, 1, 1, 1)))
_METHODS = {
    "pixel": "One pixel",
    "patch_evidence": "Fits, patches of Nside 4",
    "potts": "Potts field",
    "unet": "U-Net",
    "oracle_rings": "Oracle, rings",
    "oracle_meridian": "Oracle, meridian",
}
_LAYOUTS = {
    "halves": "halves",
    "quadrants": "quadrants",
    "tilted": "the same, tilted",
    "patches": "random patches, of the law of half of the training",
    "belts": "belts of latitude, unlike all in training",
    "single": "one model everywhere",
}


@dataclass(frozen=True)
class LayoutRow:
    """A problem, a noise and a layout.

    Attributes
    ----------
    problem, layout : str
    noise_scale : float
    scores : dict of (accuracy, error or None, calibration error or None), by method
    paper : float or None
    """

    problem: str
    layout: str
    noise_scale: float
    scores: dict[str, tuple[float, float | None, float | None]] = field(default_factory=dict)
    paper: float | None = None


def layout_rows(records: Iterable[Record]) -> list[LayoutRow]:
    """Rows of the table, a problem, noise and layout each.

    Parameters
    ----------
    records : iterable of mapping
        The ``records`` of ``metrics.json``; those without a ``layout`` are passed over.
    """
    rows: dict[tuple[str, str, float], LayoutRow] = {}
    for record in records:
        if record.get("layout") is None:
            continue
        key = (str(record["problem"]), str(record["layout"]), float(record["noise_scale"]))
        row = rows.setdefault(key, LayoutRow(*key, paper=record.get("paper")))
        method = record.get("spatial") or (
            record["context"] if record["method"] == "network" else record["method"]
        )
        row.scores[method] = (record["accuracy"], record.get("error"), record.get("ece"))
    return sorted(rows.values(), key=lambda row: (-row.noise_scale, problem_place(row.problem)))


def layout_table(rows: Sequence[LayoutRow]) -> Markup:
    """Rows as an HTML ``<table>``, empty for no rows."""
    methods = [m for m in _METHODS if any(m in row.scores for row in rows)]
    head = ["Noise", "Problem", "Regions", *(_METHODS[m] for m in methods), "Paper"]
    return render_table(head, [_line(row, methods) for row in rows])


def _line(row: LayoutRow, methods: Sequence[str]) -> list[str | Cell]:
    where = _LAYOUTS.get(row.layout, row.layout)
    if row.layout.startswith("blobs:"):
        where = f"patches of {row.layout.removeprefix('blobs:')}°"
    return [
        f"{row.noise_scale:g}",
        PROBLEMS.get(row.problem, row.problem),
        where,
        *(_score(*row.scores[m]) if m in row.scores else "–" for m in methods),
        "–" if row.paper is None else f"{row.paper:.0%}",
    ]


def _score(accuracy: float, error: float | None, ece: float | None) -> Cell:
    return Cell(
        f"{accuracy:.1%}",
        "" if error is None else f"± {100 * error:.1f}",
        "" if ece is None else f"calibration error {ece:.1%}",
    )


@styled
def accuracy_by_distance(
    panels: Mapping[str, tuple[ArrayLike, Mapping[str, ArrayLike]]], title: str
) -> Figure:
    """Accuracy against distance from the nearest boundary between models.

    Parameters
    ----------
    panels : mapping of str to (distance, right)
        By problem: the distance of each pixel [deg], shape (n,), and by method which pixels are
        right, bool, shape (n,).
    title : str

    Returns
    -------
    Figure

    Raises
    ------
    ShapeError
        If a method has not a verdict for each pixel.
    """
    figure = Figure(figsize=(3.0 * len(panels) + 1.6, 3.6), layout="constrained")
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (problem, (distance, right)) in zip(all_axes, panels.items(), strict=True):
        distance = np.asarray(distance, float)
        for index, (name, values) in enumerate(right.items()):
            verdict = np.asarray(values)
            validate_shape(f"verdicts of {name!r}", verdict, distance.shape)
            middle, accuracy, error = _binned(distance, verdict)
            axes.errorbar(
                middle, accuracy, error, label=name, markersize=3, marker="o", linewidth=1.3,
                color=CLASS_HUES[index % len(CLASS_HUES)], linestyle=_DASHES[index % len(_DASHES)],
            )  # fmt: skip
        axes.axhline(1, color=MUTED, linewidth=0.7)
        axes.set(title=PROBLEMS.get(problem, problem), xlabel="Distance from a boundary [deg]")
        axes.set_xlim(0, None)
        axes.grid(True)
    all_axes[0].set_ylabel("Accuracy")
    all_axes[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.suptitle(title)
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside right upper")
    return figure


def _binned(distance: NDArray, right: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Mean distance, accuracy and binomial error in bins of distance with pixels enough."""
    near = np.isfinite(distance)  # a sky of one model has no boundary
    distance, right = distance[near], right[near]
    place = np.digitize(distance, _EDGES)
    rows = []
    for index in np.unique(place):
        mine = place == index
        if mine.sum() >= _FEWEST:
            p = right[mine].mean()
            rows.append((distance[mine].mean(), p, np.sqrt(p * (1 - p) / mine.sum())))
    middle, accuracy, error = np.array(rows).reshape(-1, 3).T
    return middle, accuracy, error
