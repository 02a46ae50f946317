"""Figures of curves that tell how far to trust a recogniser, and what it is good for."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike

from foreglow.recognition.evaluation.forecast import Forecast
from foreglow.recognition.evaluation.separation import TRUTH
from foreglow.recognition.evaluation.tensors import MeasuredR
from foreglow.recognition.network.calibration import Reliability
from foreglow.report.page.style import (
    CLASS_HUES,
    MUTED,
    NOT_OBSERVED,
    draw_mean,
    plain_log_ticks,
    styled,
    validate_dimensions,
    validate_shape,
)

__all__ = [
    "coverage_curve",
    "learning_curves",
    "r_forecast",
    "reliability_diagram",
    "residual_spectra",
]

_FEWEST = 20  # pixels in a bin; the accuracy of fewer says little
_MARKERS = "osD^vP"
# beside the hue, so that curves are told apart without it
_DASHES: Sequence[Any] = (
    "-",
    (0, (6, 1.5)),
    (0, (4, 1, 1, 1)),
    (0, (1, 1)),
    (0, (9, 2, 1, 2, 1, 2)),
)


@styled
def reliability_diagram(reliabilities: Mapping[str, Reliability], title: str) -> Figure:
    """Accuracy against confidence, and below it how many pixels were so confident.

    Parameters
    ----------
    reliabilities : mapping of str to Reliability
        By the name of the recogniser, the noise or the training; bins with fewer than 20 pixels are
        left out. The legend says the expected calibration error.
    title : str

    Returns
    -------
    Figure

    References
    ----------
    Guo et al. 2017, arXiv:1706.04599, fig. 4.
    """
    figure = Figure(figsize=(6.2, 4.8), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot(
        [0, 1],
        [0, 1],
        color=MUTED,
        linestyle=(0, (1, 2)),
        linewidth=1,
        label="perfectly calibrated",
    )
    for index, (name, bins) in enumerate(reliabilities.items()):
        look = _style(index)
        kept = bins.count >= _FEWEST
        accuracy = bins.accuracy[kept]
        error = np.sqrt(accuracy * (1 - accuracy) / bins.count[kept])
        label = f"{name}\n(calibration error {100 * bins.expected_calibration_error:.1f}%)"
        upper.errorbar(bins.confidence[kept], accuracy, error, label=label, markersize=3.5, **look)
        edges = np.linspace(0, 1, len(bins.count) + 1)
        share = bins.count / max(bins.count.sum(), 1)
        lower.stairs(share, edges, color=look["color"], linestyle=look["linestyle"], linewidth=1.3)
    seen = [b.confidence[b.count > 0] for b in reliabilities.values()]
    low = min((float(c.min()) for c in seen if len(c)), default=0.0)
    upper.set(title=title, ylabel="Accuracy", ylim=(max(0.0, low - 0.12), 1.02))
    lower.set(
        xlabel="Confidence: probability of the most probable model",
        ylabel="Share of\npixels", xlim=(max(0.0, low - 0.04), 1.01),
    )  # fmt: skip
    for axes in (upper, lower):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(True)
    lower.xaxis.set_major_formatter(PercentFormatter(1.0))
    figure.align_ylabels()
    figure.legend(*upper.get_legend_handles_labels(), loc="outside right upper", labelspacing=0.9)
    return figure


@styled
def learning_curves(
    curves: Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike]]],
    paper: Mapping[str, tuple[float, float]],
) -> Figure:
    """Accuracy against vectors seen in training, a panel a problem.

    Parameters
    ----------
    curves : mapping of str to mapping of str to (vectors, accuracy)
        By problem and network; each array_like of shape (n_epoch,), accuracy in [0, 1].
    paper : mapping of str to (vectors, accuracy)
        Where the paper's training ended, by problem: a star.

    Returns
    -------
    Figure
    """
    figure = Figure(figsize=(3.0 * len(curves) + 0.6, 3.6), layout="constrained")
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for axes, (problem, by_network) in zip(panels, curves.items(), strict=True):
        for index, (network, (vectors, accuracy)) in enumerate(by_network.items()):
            axes.plot(vectors, accuracy, label=network, markersize=2.5, **_style(index))
        vectors, accuracy = paper[problem]
        axes.plot(
            vectors, accuracy, "*", color=MUTED, markersize=11, linestyle="none", label="the paper"
        )
        axes.set(title=problem, xscale="log", xlabel="Vectors seen")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(True)
    panels[0].set(ylabel="Accuracy on validation vectors")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(curves) + 1
    )
    return figure


@styled
def coverage_curve(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]], title: str, chance: float | None = None
) -> Figure:
    """Accuracy against the share of pixels kept, the least certain left out first.

    Parameters
    ----------
    curves : mapping of str to (coverage, accuracy), each array_like of shape (n_coverage,)
        In [0, 1], as `accuracy_against_coverage` gives them.
    title : str
    chance : float, optional
        Level of guessing, such as 1/2.

    Returns
    -------
    Figure

    Raises
    ------
    ShapeError
        If a curve has not one accuracy for each coverage.
    """
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    lowest = 1.0
    for index, (name, (coverage, accuracy)) in enumerate(curves.items()):
        coverage, accuracy = np.asarray(coverage, float), np.asarray(accuracy, float)
        validate_shape(f"accuracy of {name!r}", accuracy, coverage.shape)
        axes.plot(coverage, accuracy, label=name, markersize=3.5, **_style(index))
        lowest = min(lowest, float(accuracy.min(initial=1.0)))
    if chance is not None:
        lowest = min(lowest, chance)
        axes.axhline(chance, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
        axes.annotate(
            f"chance, 1 in {round(1 / chance)}", (0, chance), (3, 2), fontsize=7, color=MUTED,
            xycoords=("axes fraction", "data"), textcoords="offset points",
        )  # fmt: skip
    axes.set(
        title=title, xlabel="Pixels kept, the most certain first", ylabel="Accuracy of those kept",
        xlim=(0, 1.02), ylim=(lowest - 0.05, 1.02),
    )  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(True)
    figure.legend(loc="outside right upper", labelspacing=0.8)
    return figure


@styled
def residual_spectra(
    bb: Mapping[str, ArrayLike], title: str, cmb_bb: ArrayLike | None = None, best: str = TRUTH
) -> Figure:
    """B modes left in the CMB by each choice of foreground models.

    Parameters
    ----------
    bb : mapping of str to array_like, shape (n_real, n_ell) [uK_CMB^2]
        C_ell of the residuals from ell 0, a row each realisation: `Residuals.bb` by option. Drawn
        is their mean, and its standard error as a band.
    title : str
    cmb_bb : array_like, shape (at least n_ell,), optional
        C_ell of the CMB's own B modes [uK_CMB^2], such as row 2 of `cmb_spectra`.
    best : str
        The option, black, that a lower panel divides the others by; no panel if it is not there.

    Returns
    -------
    Figure

    Raises
    ------
    ShapeError
        If a spectrum has not the two dimensions realisation and ell, or the numbers of ell differ.
    """
    spectra = {name: np.asarray(values, float) for name, values in bb.items()}
    for name, values in spectra.items():
        validate_dimensions(f"spectra of {name!r}", values, 2)
        validate_shape(f"spectra of {name!r}", values[0], next(iter(spectra.values()))[0].shape)
    figure = Figure(figsize=(7.2, 5.6 if best in bb else 4.3), layout="constrained")
    if best in spectra:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1.7, 1))
        _draw_ratios(lower, spectra, best)
    else:
        upper = lower = figure.add_subplot()
    for name, look in _looks(spectra, best).items():
        _draw_from_2(upper, _per_log_ell(spectra[name]), look, name)
    if cmb_bb is not None and spectra:
        lensing = np.asarray(cmb_bb, float)[: next(iter(spectra.values())).shape[1]]
        look = {"color": MUTED, "linewidth": 1.1, "linestyle": (0, (1, 2))}
        _draw_from_2(upper, _per_log_ell(lensing[None]), look, "CMB, from lensing")
    upper.set(
        title=title, xscale="log", yscale="log",
        ylabel=r"$\ell(\ell+1)C_\ell^{BB}/2\pi$ [µK$^2_\mathrm{CMB}$]",
    )  # fmt: skip
    upper.grid(True)
    lower.set_xlabel(r"Multipole $\ell$")
    plain_log_ticks(lower.xaxis)
    lower.margins(x=0)
    figure.align_ylabels()
    handles, labels = upper.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", labelspacing=0.8, handlelength=3)
    return figure


@styled
def r_forecast(found: Forecast) -> Figure:
    """Bias of r by the way in which foreground models are chosen, beside its error.

    Parameters
    ----------
    found : Forecast

    Returns
    -------
    Figure
        The size of the bias with the error of its mean over the skies, a point an option, and a
        bar up to sigma(r), below which a bias is hidden by noise and cosmic variance.
    """
    options = [record["option"] for record in found.records]
    figure = Figure(figsize=(7.2, 0.9 + 0.36 * len(options)), layout="constrained")
    axes = figure.subplots()
    place = np.arange(len(options))[::-1]
    bias = np.abs([record["r_bias"] for record in found.records])
    error = np.array([record["r_bias_sem"] for record in found.records])
    sigma = np.array([record["r_error"] for record in found.records])
    least = 0.5 * min(bias.min(), sigma.min())
    bars = {"height": 0.7, "color": NOT_OBSERVED, "label": r"up to $\sigma(r)$"}
    axes.barh(place, sigma - least, left=least, **bars)
    points = {"fmt": "o", "color": CLASS_HUES[0], "markersize": 5, "label": "bias of r"}
    axes.errorbar(bias, place, xerr=[np.minimum(error, bias - least), error], **points)
    axes.set(xscale="log", xlim=(least, None), yticks=place, xlabel="r that is not there")
    axes.set_yticklabels(options)
    axes.set_title(
        f"{found.instrument.name}, noise x {found.noise_scale:g}, {found.region}, "
        rf"$\ell$ {found.ell[0]} to {found.ell[1]}"
    )
    axes.grid(True, axis="x")
    figure.legend(loc="outside right upper")
    return figure


@styled
def bb_of_a_map(found: MeasuredR) -> Figure:
    """Band powers of B of a CMB map, beside lensing and the tensors that fit them best.

    Parameters
    ----------
    found : MeasuredR

    Returns
    -------
    Figure
        C_ell [uK_CMB^2], in which lensing is flat, less the noise, with the beam of the map in it.
        Bins that hardly measure anything may reach beyond the frame.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    lensing = found.lensing * found.bb_lensing
    model = lensing + found.r * found.bb_tensor
    axes.errorbar(
        found.ell, found.bb, found.bb_error,
        xerr=[found.ell - found.edges[:-1], found.edges[1:] - 1 - found.ell],
        fmt="o", color=CLASS_HUES[0], markersize=4, label="BB of the map, less noise",
    )  # fmt: skip
    of_lensing = f"{found.lensing:.3g} times " if found.lensing_error else ""
    steps = {"edges": found.edges, "baseline": None, "linewidth": 1.5}
    axes.stairs(lensing, **steps, color=CLASS_HUES[1], label=f"{of_lensing}lensing")
    label = f"that, and tensors of r = {found.r:.3g} ± {found.error:.2g}"
    axes.stairs(model, **steps, color=CLASS_HUES[2], linestyle="--", label=label)
    axes.axhline(0, color=NOT_OBSERVED, linewidth=0.8, zorder=0)
    clear = found.bb_error <= 3 * np.median(found.bb_error)
    reach = found.bb + np.array([[-1.0], [1.0]]) * found.bb_error
    shown = np.concatenate([reach[:, clear].ravel(), lensing, [0.0]])
    margin = 0.1 * np.ptp(shown)
    axes.set(
        xlabel=r"$\ell$", ylabel=r"$C_\ell^{BB}$ [$\mu$K$_{CMB}^2$]",
        ylim=(shown.min() - margin, shown.max() + 2 * margin),
    )  # fmt: skip
    fits = "" if found.p_value is None else f", p = {found.p_value:.2g}"
    axes.set_title(f"{found.sky_fraction:.0%} of the sky{fits}")
    axes.legend()
    axes.grid(True)
    return figure


def _draw_ratios(axes: Axes, spectra: Mapping[str, np.ndarray], best: str) -> None:
    reference = spectra[best][:, 2:].mean(0)
    for name, look in _looks(spectra, best).items():
        _draw_from_2(axes, spectra[name][:, 2:] / reference, look)
    axes.set(xscale="log", yscale="log", ylabel=f"Ratio to\n{best}")
    plain_log_ticks(axes.yaxis)
    axes.grid(True)


def _draw_from_2(
    axes: Axes, values: np.ndarray, look: Mapping[str, Any], label: str | None = None
) -> None:
    """Values (n_real, ell from 2), as `draw_mean` does."""
    draw_mean(axes, np.arange(2, 2 + values.shape[1]), values, look, label)


def _looks(names: Iterable[str], best: str) -> dict[str, dict[str, Any]]:
    """How to draw each option: the best black, hues for the others."""
    others = [name for name in names if name != best]
    looks = {name: {**_style(index), "marker": ""} for index, name in enumerate(others)}
    return {n: looks.get(n, {"color": "black", "linestyle": "-", "linewidth": 1.8}) for n in names}


def _per_log_ell(spectra: np.ndarray) -> np.ndarray:
    """Power a unit of ln ell from ell 2 on, of C_ell from ell 0 in the last dimension."""
    ell = np.arange(spectra.shape[-1])
    return (ell * (ell + 1) / (2 * np.pi) * spectra)[..., 2:]


def _style(index: int) -> dict[str, Any]:
    return {
        "color": CLASS_HUES[index % len(CLASS_HUES)],
        "linestyle": _DASHES[index % len(_DASHES)],
        "marker": _MARKERS[index % len(_MARKERS)],
    }
