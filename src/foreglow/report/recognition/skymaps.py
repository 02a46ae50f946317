"""Figures that are maps of the sky: recognised models and plain maps."""

from collections.abc import Sequence
from textwrap import fill
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import AsinhNorm, LogNorm, Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2

from foreglow.maps import healpix as hp
from foreglow.report.page.mollweide import draw_borders, draw_map
from foreglow.report.page.style import (
    CLASS_HUES,
    INK,
    MUTED,
    NOT_OBSERVED,
    styled,
    tint,
    validate_dimensions,
    validate_shape,
)


@styled
def recognition_map(
    probability: ArrayLike,
    truth: ArrayLike,
    class_names: Sequence[str],
    title: str,
    observed: ArrayLike | None = None,
) -> Figure:
    """Which foreground model was recognised where (Figs. 4, 5 and 7).

    Left, a hue for each true model, deeper where the right model was given a higher probability and
    white where a wrong one was chosen. Right, black where the choice was right.

    Parameters
    ----------
    probability : array_like, shape (n_class, n_pix), in [0, 1]
        Of each model in each pixel, RING ordering, Galactic frame.
    truth : array_like of int, shape (n_pix,)
        Index of the model that holds.
    class_names : sequence of str, length n_class
    title : str
    observed : array_like of bool, shape (n_pix,), optional
        False pixels are grey and not counted.

    Returns
    -------
    Figure

    Raises
    ------
    ShapeError
        If the shapes do not agree, or `n_pix` is not that of a full HEALPix map.

    References
    ----------
    Farsian et al. 2020, figs. 4, 5 and 7.
    """
    return _recognition_figure([("", probability)], truth, class_names, title, observed)


@styled
def recognition_maps_before_after(
    before: ArrayLike,
    after: ArrayLike,
    truth: ArrayLike,
    class_names: Sequence[str],
    title: str,
    observed: ArrayLike | None = None,
    row_titles: tuple[str, str] = ("Trained without noise", "Trained with noise"),
) -> Figure:
    """Recognition of one noisy sky by two trainings, one above the other (Fig. 8).

    Parameters
    ----------
    before, after : array_like, shape (n_class, n_pix), in [0, 1]
        Probability of each model, as in `recognition_map`.
    truth, class_names, title, observed
        As in `recognition_map`.
    row_titles : (str, str)
        Said above the upper and the lower pair of maps.

    Returns
    -------
    Figure

    Raises
    ------
    ShapeError
        As in `recognition_map`.

    References
    ----------
    Farsian et al. 2020, fig. 8.
    """
    rows = list(zip(row_titles, (before, after), strict=True))
    return _recognition_figure(rows, truth, class_names, title, observed)


@styled
def sky_map(
    values: ArrayLike,
    title: str,
    unit: str,
    stretch: Literal["linear", "log", "asinh"] = "linear",
    regions: ArrayLike | None = None,
) -> Figure:
    """One map of the sky in Mollweide projection.

    Parameters
    ----------
    values : array_like, shape (n_pix,)
        RING ordering, Galactic frame; NaN or UNSEEN where not observed (grey). A map with negative
        values gets colours symmetric about zero.
    title : str
    unit : str
        Said beside the colour bar.
    stretch : {"linear", "log", "asinh"}
        ``log`` leaves pixels that are not positive grey; ``asinh`` is linear about zero and
        logarithmic far from it. Colours span the middle 99% of the pixels.
    regions : array_like of int, shape (n_pix,), optional
        Their borders are drawn.

    Returns
    -------
    Figure

    Raises
    ------
    ShapeError
        If the shapes do not agree, or `n_pix` is not that of a full HEALPix map.
    """
    sky = np.array(values, float)
    validate_dimensions("map", sky, 1)
    sky[(sky == hp.UNSEEN) | ~np.isfinite(sky)] = np.nan
    if stretch == "log":
        sky[~(sky > 0)] = np.nan
    scalar = _colour_scale(sky[np.isfinite(sky)], stretch)
    figure = Figure(figsize=(7.2, 4.5), layout="constrained")
    axes = figure.add_subplot()
    draw_map(axes, scalar.to_rgba(np.ma.masked_invalid(sky)))
    if regions is not None:
        validate_shape("regions", np.asarray(regions), sky.shape)
        draw_borders(axes, np.asarray(regions))
    axes.set_title(title)
    bar = figure.colorbar(
        scalar, ax=axes, orientation="horizontal", shrink=0.6, aspect=32, pad=0.03, extend="both"
    )
    bar.set_label(unit)
    if stretch == "asinh":
        ticks = _decades(scalar.get_clim()[1] or 1.0)
        bar.set_ticks(ticks, labels=[f"{tick:g}".replace("-", "−") for tick in ticks])
    return figure


@styled
def goodness_of_fit(
    reduced_chi2: ArrayLike,
    dof: ArrayLike,
    fit_names: Sequence[str],
    correct: ArrayLike,
    title: str,
) -> Figure:
    """How well each model fits, and where the better fit is that of the true model (Fig. 9).

    Parameters
    ----------
    reduced_chi2 : array_like, shape (n_fit, n)
        Of each model in any number of pixels.
    dof : array_like of int, shape (n_fit,)
        Degrees of freedom of each fit; the law of its chi-square is drawn dashed.
    fit_names : sequence of str, length n_fit
    correct : array_like of bool, shape (n_pix,)
        Whether the right model was chosen: a full sky, RING ordering, Galactic frame.
    title : str

    Returns
    -------
    Figure

    Raises
    ------
    ShapeError
        If the shapes do not agree, or `n_pix` is not that of a full HEALPix map.

    References
    ----------
    Farsian et al. 2020, fig. 9.
    """
    values, freedom = np.asarray(reduced_chi2, float), np.asarray(dof)
    right = np.asarray(correct, bool)
    validate_dimensions("reduced_chi2", values, 2)
    validate_shape("reduced_chi2", values, (len(fit_names), values.shape[1]))
    validate_shape("dof", freedom, (len(fit_names),))
    height = 3.6
    figure = Figure(figsize=(9.6, height))
    grid = figure.add_gridspec(
        1, 2, left=0.07, right=0.985, top=0.84, bottom=0.2, wspace=0.12, width_ratios=(1, 1.25)
    )
    figure.suptitle(title, x=0.02, y=1 - 0.12 / height, ha="left", va="top")
    _draw_chi2(figure.add_subplot(grid[0, 0]), values, freedom, fit_names)
    _draw_verdict(figure.add_subplot(grid[0, 1]), right, np.ones_like(right))
    keys = figure.add_gridspec(
        1, 2, left=0.07, right=0.985, top=0.1, bottom=0.05, wspace=0.12, width_ratios=(1, 1.25)
    )
    _right_wrong_legend(figure, keys[0, 1], all_seen=True)
    return figure


def _draw_chi2(axes: Axes, values: NDArray, dof: NDArray, names: Sequence[str]) -> None:
    """Histograms of reduced chi-square and the law of each."""
    edges = np.linspace(0, max(2.5, float(np.nanpercentile(values, 99.5))), 61)
    grid = np.linspace(edges[0], edges[-1], 400)
    for index, (row, freedom, name) in enumerate(zip(values, dof, names, strict=True)):
        hue = CLASS_HUES[index % len(CLASS_HUES)]
        share = np.histogram(row, edges)[0] / len(row) / np.diff(edges)
        axes.stairs(share, edges, color=hue, label=name, linewidth=1.4)
        law = freedom * chi2.pdf(grid * freedom, freedom)
        axes.plot(grid, law, color=hue, linestyle="--", linewidth=1.0)
    axes.plot([], [], color=MUTED, linestyle="--", linewidth=1.0, label="law if the model holds")
    axes.set(xlabel="Reduced χ²", ylabel="Share of pixels, per unit", xlim=(0, edges[-1]))
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper right")


def _recognition_figure(
    rows: Sequence[tuple[str, ArrayLike]],
    truth: ArrayLike,
    class_names: Sequence[str],
    title: str,
    observed: ArrayLike | None,
) -> Figure:
    truth = np.asarray(truth)
    validate_dimensions("truth", truth, 1)
    seen = np.ones(truth.shape, bool) if observed is None else np.asarray(observed, bool)
    validate_shape("observed", seen, truth.shape)
    top, row_height, bottom = 0.68, 2.45, 0.95  # inches
    height = top + row_height * len(rows) + bottom
    figure = Figure(figsize=(9.6, height))
    maps = figure.add_gridspec(
        len(rows), 2, left=0.035, right=0.985, top=1 - top / height, bottom=bottom / height,
        wspace=0.07, hspace=0.16,
    )  # fmt: skip
    keys = figure.add_gridspec(
        1, 2, left=0.035, right=0.985, top=0.58 / height, bottom=0.45 / height, wspace=0.07
    )
    figure.suptitle(title, x=0.02, y=1 - 0.12 / height, ha="left", va="top")
    for row, (name, probability) in enumerate(rows):
        probability = np.asarray(probability, float)
        validate_shape("probability", probability, (len(class_names), len(truth)))
        left, right = figure.add_subplot(maps[row, 0]), figure.add_subplot(maps[row, 1])
        _draw_recognition(left, right, probability, truth, seen)
        left.set_title(name)
    _class_bars(figure, keys[0, 0], class_names)
    _right_wrong_legend(figure, keys[0, 1], bool(seen.all()))
    return figure


def _draw_recognition(
    left: Axes, right: Axes, probability: NDArray, truth: NDArray, seen: NDArray
) -> None:
    n_class = len(probability)
    correct = probability.argmax(0) == truth  # (pix,)
    colours = np.ones((len(truth), 4))
    for index in range(n_class):
        mine = correct & (truth == index)
        scalar = _class_scale(index, n_class)
        colours[mine] = scalar.to_rgba(probability[index, mine])
    colours[~seen] = to_rgba(NOT_OBSERVED)
    draw_map(left, colours)
    draw_borders(left, truth)
    _draw_verdict(right, correct, seen)


def _draw_verdict(axes: Axes, correct: NDArray, seen: NDArray) -> None:
    """Black where the choice was right, white where it was wrong, and how many were right."""
    verdict = np.where(correct[:, None], (0.08, 0.09, 0.1, 1.0), (1.0, 1.0, 1.0, 1.0))
    verdict[~seen] = to_rgba(NOT_OBSERVED)
    draw_map(axes, verdict, labels=False)
    share = correct[seen].mean() if seen.any() else np.nan
    score = f"{correct[seen].sum():,} of {seen.sum():,} pixels right ({100 * share:.1f}%)"
    axes.set_title(score, loc="right", weight="normal", size=8.5)


def _class_bars(figure: Figure, place: SubplotSpec, class_names: Sequence[str]) -> None:
    n_class = len(class_names)
    cells = place.subgridspec(1, n_class, wspace=0.22)
    for index, name in enumerate(class_names):
        axes = figure.add_subplot(cells[0, index])
        scale = _class_scale(index, n_class)
        bar = figure.colorbar(scale, cax=axes, orientation="horizontal", ticks=[1 / n_class, 1])
        labels = axes.set_xticklabels([f"{1 / n_class:.2g}", "1"], fontsize=7)
        for label, side in zip(labels, ("left", "right"), strict=True):
            label.set_horizontalalignment(side)
        bar.ax.tick_params(length=2, pad=1.5)
        wrapped = fill(name, 64 // n_class)
        axes.set_title(wrapped, fontsize=7.5, weight="normal", loc="center", pad=3)
    box = place.get_position(figure)
    middle, low = (box.x0 + box.x1) / 2, 0.1 / figure.get_figheight()
    figure.text(middle, low, "Probability given to the true model", fontsize=7.5, ha="center")


def _right_wrong_legend(figure: Figure, place: SubplotSpec, all_seen: bool) -> None:
    patches = [
        Patch(facecolor="#15171a", edgecolor=INK, linewidth=0.7, label="right model"),
        Patch(facecolor="white", edgecolor=INK, linewidth=0.7, label="wrong model"),
    ]
    if not all_seen:
        patches.append(
            Patch(facecolor=NOT_OBSERVED, edgecolor=INK, linewidth=0.7, label="not observed")
        )
    axes = figure.add_subplot(place)
    axes.set_axis_off()
    axes.legend(handles=patches, loc="center", ncols=len(patches), handlelength=1.2)


def _class_scale(index: int, n_class: int) -> ScalarMappable:
    # a model that wins has at least 1 / n_class, so that is where the tint starts; it stays clear
    # of white, which means wrong
    return ScalarMappable(Normalize(1 / n_class, 1), tint(CLASS_HUES[index], 0.22))


def _colour_scale(seen: NDArray, stretch: str) -> ScalarMappable:
    low, high = np.percentile(seen, [0.5, 99.5]) if len(seen) else (0.0, 1.0)
    signed = bool(len(seen)) and stretch != "log" and seen.min() < 0
    if signed:
        high = max(abs(low), abs(high))
        low = -high
    if low == high:
        low, high = (low * 0.9, high * 1.1) if low > 0 else (low - 1, high + 1)
    norms: dict[str, Normalize] = {
        "linear": Normalize(low, high),
        "log": LogNorm(max(low, np.finfo(float).tiny), high),
        "asinh": AsinhNorm(high / 30, low, high),
    }
    cmap = matplotlib.colormaps["RdBu_r" if signed else "magma"]
    return ScalarMappable(norms[stretch], cmap.with_extremes(bad=NOT_OBSERVED))


def _decades(high: float) -> list[float]:
    # matplotlib's own ticks of an asinh scale run into each other about zero
    top = int(np.floor(np.log10(high)))
    powers = [10.0**power for power in (top - 1, top)]
    return [-power for power in reversed(powers)] + [0.0, *powers]
