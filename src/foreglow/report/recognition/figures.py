"""Figures of a run: each function returns a matplotlib Figure, `save` writes it.

Nothing here touches pyplot or the global style, so the figures look alike in a script, a notebook
and a batch job without a display.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
)
from matplotlib.transforms import ScaledTranslation
from numpy.typing import ArrayLike

from foreglow.files import make_folder, new_file
from foreglow.report.page.style import (
    CLASS_HUES,
    INK,
    MUTED,
    plain_log_ticks,
    styled,
    tint,
    validate_shape,
)
from foreglow.report.recognition.skymaps import (
    goodness_of_fit,
    recognition_map,
    recognition_maps_before_after,
    sky_map,
)

__all__ = [
    "component_rms",
    "confusion",
    "criteria_curves",
    "goodness_of_fit",
    "noise_curve",
    "recognition_map",
    "recognition_maps_before_after",
    "save",
    "sky_map",
    "training_history",
]

_COMPONENT_HUES = {
    "CMB": "#22262a",
    "synchrotron power law": CLASS_HUES[0],
    "synchrotron curved": CLASS_HUES[1],
    "AME": CLASS_HUES[2],
    "thermal dust": CLASS_HUES[3],
    "noise": "#7b838a",
}


@styled
def save(figure: Figure, folder: Path, name: str, pdf_fonts: int = 42) -> tuple[Path, Path]:
    """Write a figure as NAME.png (150 dpi) and NAME.pdf; a reader never sees half a file.

    Parameters
    ----------
    figure : Figure
    folder : Path
        Made if it is missing.
    name : str
        File name without its ending.
    pdf_fonts : int
        42 embeds TrueType, as journals ask; 3 is drawn in two thirds of the time.

    Returns
    -------
    png, pdf : Path
    """
    make_folder(folder)
    # no date inside: the same run writes the same bytes
    metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None}}
    paths = folder / f"{name}.png", folder / f"{name}.pdf"
    for path in paths:
        kind = path.suffix[1:]
        with new_file(path) as partial, matplotlib.rc_context({"pdf.fonttype": pdf_fonts}):
            figure.savefig(partial, format=kind, dpi=150, metadata=metadata[kind])
    return paths


@styled
def component_rms(frequency_ghz: ArrayLike, rms: Mapping[str, ArrayLike]) -> Figure:
    """Rms polarised brightness of each sky component against frequency (Fig. 1).

    Parameters
    ----------
    frequency_ghz : array_like, shape (n_band,) [GHz]
    rms : mapping of str to array_like, shape (n_band,) [uK_RJ]
        Rms of P = sqrt(Q^2 + U^2) over the sky by component, in the order of the legend. ``noise``
        is drawn dashed. "CMB", "synchrotron power law", "synchrotron curved", "thermal dust" and
        "AME" have colours of their own.

    Returns
    -------
    Figure

    Raises
    ------
    ShapeError
        If a component has not one value a band.

    References
    ----------
    Farsian et al. 2020, fig. 1.
    """
    frequency = np.asarray(frequency_ghz, float)
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    spare = iter(CLASS_HUES[4:] * len(rms))
    for name, values in rms.items():
        values = np.asarray(values, float)
        validate_shape(f"rms of {name!r}", values, frequency.shape)
        is_noise = name == "noise"
        axes.plot(
            frequency,
            values,
            label=name,
            color=_COMPONENT_HUES.get(name) or next(spare),
            linestyle="--" if is_noise else "-",
            marker="" if is_noise else "o",
            markersize=3,
        )
    axes.set(
        xscale="log", yscale="log", xlabel="Frequency [GHz]", ylabel=r"Rms of P [µK$_\mathrm{RJ}$]"
    )
    axes.set_ylim(bottom=1e-4)  # AME falls to nothing above 100 GHz
    axes.grid(True)
    plain_log_ticks(axes.xaxis)
    figure.legend(loc="outside right upper", handlelength=2.2, labelspacing=0.7)
    return figure


@styled
def training_history(
    history: Mapping[str, ArrayLike], title: str, paper_accuracy: float | None = None
) -> Figure:
    """Accuracy, and below it loss, against epoch (Figs. 3 and 6).

    Parameters
    ----------
    history : mapping of str to array_like, shape (n_epoch,)
        Any of ``train_accuracy``, ``validation_accuracy`` (in [0, 1]), ``train_loss`` and
        ``validation_loss``; NaN where a number was not taken. Epochs count from 1.
    title : str
    paper_accuracy : float, optional
        The paper's final accuracy on its training set, drawn dashed.

    Returns
    -------
    Figure

    References
    ----------
    Farsian et al. 2020, figs. 3 and 6.
    """
    figure = Figure(figsize=(6.0, 4.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 1))
    for axes, quantity in ((upper, "accuracy"), (lower, "loss")):
        _plot_history(axes, history, quantity)
        axes.grid(True)
    if paper_accuracy is not None:
        label = f"paper, training set ({100 * paper_accuracy:.3g}%)"
        upper.axhline(paper_accuracy, color=MUTED, linestyle="--", linewidth=1.1, label=label)
    upper.set(title=title, ylabel="Accuracy")
    upper.yaxis.set_major_formatter(PercentFormatter(1.0))
    upper.legend(loc="best")
    lower.set(xlabel="Epoch", ylabel="Loss")
    if all(np.nanmin(line.get_ydata()) > 0 for line in lower.lines):
        lower.set_yscale("log")
        low, high = lower.get_ylim()
        if high < 10 * low:  # no decade to label: plain numbers between
            lower.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    figure.align_ylabels()
    return figure


@styled
def noise_curve(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]],
    paper: Mapping[str, float],
    chance: Sequence[float],
    ceiling: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    own: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
) -> Figure:
    """Accuracy against the noise, in units of the instrument's.

    Parameters
    ----------
    curves : mapping of str to (noise_scale, accuracy, error), each of shape (n_scale,)
        By problem; accuracies and their standard errors in [0, 1].
    paper : mapping of str to float
        The paper's accuracy at noise_scale 1, for any of the names in `curves`.
    chance : sequence of float
        Levels of guessing, such as 1/2 and 1/4.
    ceiling : mapping of str to (noise_scale, accuracy), optional
        The best any classifier of single pixels can do, for any of the names in `curves`.
    own : mapping of str to (noise_scale, accuracy), optional
        Of the paper's own network, trained for each noise.

    Returns
    -------
    Figure
    """
    figure = Figure(figsize=(6.8, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for level in chance:
        axes.axhline(level, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
        text = f"chance, 1 in {round(1 / level)}"
        axes.annotate(
            text, (0, level), (3, 2), xycoords=("axes fraction", "data"),
            textcoords="offset points", fontsize=7, color=MUTED,
        )  # fmt: skip
    for index, (name, (scale, accuracy, error)) in enumerate(curves.items()):
        hue = CLASS_HUES[index % len(CLASS_HUES)]
        axes.errorbar(scale, accuracy, error, color=hue, marker="o", markersize=4, label=name)
        if ceiling and name in ceiling:
            axes.plot(*ceiling[name], color=hue, linestyle="--", linewidth=1.1)
        if own and name in own:
            axes.plot(*own[name], "s", color=hue, markersize=5, markerfacecolor="none")
        if name in paper:
            # side by side, since the paper's figures lie closer than a star is high
            aside = ScaledTranslation(
                (index - (len(curves) - 1) / 2) / 9, 0, figure.dpi_scale_trans
            )
            axes.plot(
                1, paper[name], "*", markersize=9, color=hue, transform=axes.transData + aside
            )
    axes.set(xscale="log", xlabel="Noise, in units of the instrument's", ylabel="Accuracy")
    axes.set_ylim(min([*chance, 0.5]) - 0.06, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.grid(True)
    axes.set_xlim(right=1.35)
    _noise_legend(figure, axes, bool(paper), bool(ceiling), bool(own))
    return figure


_METHOD_LOOKS = {
    "ceiling": ("ceiling, one pixel", INK, "--", ""),
    "network": ("network foreglow", CLASS_HUES[0], "-", "o"),
    "evidence": ("fits, evidence", CLASS_HUES[1], "-", "s"),
    "bic": ("fits, BIC", CLASS_HUES[2], ":", "^"),
    "aic": ("fits, AIC", CLASS_HUES[3], ":", "v"),
    "chi2": ("fits, reduced χ²", CLASS_HUES[4], "-", "D"),
}


@styled
def criteria_curves(
    panels: Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]]],
) -> Figure:
    """Accuracy of a choice by fits against noise, beside the network and the ceiling.

    Parameters
    ----------
    panels : mapping of str to mapping of str to (noise_scale, accuracy, error)
        By problem, then by method: ``chi2``, ``aic``, ``bic``, ``evidence``, ``network``,
        ``ceiling``; accuracies and their standard errors in [0, 1].

    Returns
    -------
    Figure
    """
    figure = Figure(figsize=(9.6, 3.7), layout="constrained")
    every = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    drawn = {}
    for axes, (problem, curves) in zip(every, panels.items(), strict=True):
        for method, (label, hue, line, marker) in _METHOD_LOOKS.items():
            if method in curves:
                drawn[label] = axes.errorbar(
                    *curves[method], color=hue, linestyle=line, marker=marker, markersize=4,
                    linewidth=1.3, label=label,
                )  # fmt: skip
        axes.set(xscale="log", title=problem, xlabel="Noise, in units of the instrument's")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(True)
    every[0].set_ylabel("Accuracy")
    figure.legend(
        drawn.values(), drawn.keys(), loc="outside lower center", ncols=len(_METHOD_LOOKS)
    )
    return figure


@styled
def confusion(matrix: ArrayLike, class_names: Sequence[str], title: str) -> Figure:
    """Confusion matrix, each row (true model) divided by its sum.

    Parameters
    ----------
    matrix : array_like, shape (n_class, n_class)
        Number of pixels of true model (row) given to each model (column).
    class_names : sequence of str, length n_class
    title : str

    Returns
    -------
    Figure

    Raises
    ------
    ShapeError
        If the matrix has not one row and one column a class.
    """
    counts = np.asarray(matrix, float)
    n_class = len(class_names)
    validate_shape("confusion matrix", counts, (n_class, n_class))
    total = counts.sum(1, keepdims=True)
    share = np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    figure = Figure(figsize=(2.6 + 0.8 * n_class, 1.9 + 0.72 * n_class), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap=tint("#0b62a4", 0.02), vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(share):
        text = "–" if np.isnan(value) else f"{100 * value:.1f}"
        axes.text(column, row, text, ha="center", va="center", color="w" if value > 0.55 else INK)
    ticks = [fill(name, 12) for name in class_names]
    axes.set_xticks(range(n_class), ticks)
    axes.set_yticks(range(n_class), ticks)
    axes.set(title=title, xlabel="Recognised as", ylabel="True model")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, format=PercentFormatter(1.0), shrink=0.9, aspect=25)
    bar.set_label("Share of the true model's pixels")
    bar.outline.set_visible(False)  # pyright: ignore
    return figure


def _plot_history(axes: Axes, history: Mapping[str, ArrayLike], quantity: str) -> None:
    looks = {
        "train": (CLASS_HUES[1], "", "training"),
        "validation": (CLASS_HUES[0], "o", "validation"),
    }
    for part, (hue, marker, label) in looks.items():
        if (key := f"{part}_{quantity}") in history:
            values = np.asarray(history[key], float)
            taken = np.isfinite(values)
            epochs = np.arange(1, len(values) + 1)[taken]
            axes.plot(epochs, values[taken], color=hue, marker=marker, label=label, ms=2.5, lw=1.2)


def _noise_legend(figure: Figure, axes: Axes, paper: bool, ceiling: bool, own: bool) -> None:
    handles = axes.get_legend_handles_labels()[0]
    if ceiling:
        label = "ceiling, one pixel"
        handles += axes.plot([], [], color=MUTED, linestyle="--", linewidth=1.1, label=label)
    if own:
        label, look = "paper's network", {"markersize": 5, "markerfacecolor": "none"}
        handles += axes.plot([], [], "s", color=MUTED, label=label, **look)
    if paper:
        handles += axes.plot([], [], "*", color=MUTED, markersize=9, label="paper")
    figure.legend(handles=handles, loc="outside right upper", labelspacing=0.8)
