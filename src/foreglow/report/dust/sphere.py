"""Polarised dust on the masked sphere, in a figure and a table."""

from collections.abc import Iterable, Mapping

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from foreglow.report.dust.style import model_look, model_marker, model_name, model_place
from foreglow.report.page.page import Cell, render_table
from foreglow.report.page.style import styled, validate_shape
from foreglow.report.page.tables import Record

_COLUMNS = {"r_t": "r of I", "r_e": "r of E", "r_b": "r of B", "bb_over_ee": "BB/EE"}
_TARGETS = {"truth": "without noise", "observed": "as observed"}


@styled
def correlation_on_the_sphere(
    ell: ArrayLike, panels: Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike]]]
) -> Figure:
    """Correlation by scale of maps with the dust, with error bars.

    Parameters
    ----------
    ell : array_like, shape (n_bin,)
    panels : mapping of str to mapping of str to (value, error), each array_like (n_bin,)
        By the title of the panel, then by model.

    Returns
    -------
    Figure

    Raises
    ------
    ShapeError
        If a curve has not one value a bin.
    """
    middle = np.asarray(ell, float)
    figure = Figure(figsize=(2.2 + 3.7 * len(panels), 3.9), layout="constrained")
    every = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, curves) in zip(every, panels.items(), strict=True):
        for k, (name, (values, errors)) in enumerate(curves.items()):
            validate_shape(f"curve of {name!r}", np.asarray(values), middle.shape)
            aside = 2.5 * (k - 0.5 * (len(curves) - 1))  # so that bars do not hide each other
            axes.errorbar(
                middle + aside, np.asarray(values, float), np.asarray(errors, float),
                label=model_name(name), markersize=4, elinewidth=1, **model_look(name),
                marker=model_marker(name)["marker"],
            )  # fmt: skip
        axes.set(title=title, xlabel=r"Multipole $\ell$")
        axes.grid(True)
    every[0].set_ylabel(r"Correlation $r(\ell)$ with the dust")
    figure.legend(
        *every[0].get_legend_handles_labels(), loc="outside right upper", labelspacing=0.8,
        handlelength=3.2,
    )  # fmt: skip
    return figure


def sphere_table(records: Iterable[Record]) -> Markup:
    """Correlations by bins of ell as an HTML ``<table>``; empty for no such records."""
    mine = [r for r in records if r.get("step") == "polarised_sphere" and r["by"] == "ell"]
    order = list(_TARGETS)
    rows = sorted(mine, key=lambda r: (order.index(r["target"]), model_place(r["model"]), r["low"]))
    heads = ("Model", "Q and U", "Multipoles", *_COLUMNS.values(), "BB/EE of the dust")
    keys = (*_COLUMNS, "target_bb_over_ee")
    body = [
        [
            model_name(row["model"]),
            _TARGETS[row["target"]],
            f"{row['low']} ≤ ℓ < {row['high']}",
            *(_cell(row, key) for key in keys),
        ]
        for row in rows
    ]
    return render_table(heads, body)


def _cell(row: Record, key: str) -> Cell:
    value, error = row[key], row[f"{key}_sem"]
    if value is None:
        return Cell("–")
    return Cell(f"{value:.3f}", "" if error is None else f"± {error:.3f}")
