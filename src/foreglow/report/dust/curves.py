"""Figures of how well dust is predicted: by velocity, cutout, scale and in the cleaned CMB."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from foreglow.report.dust.style import model_look, model_marker, model_name
from foreglow.report.page.style import (
    CLASS_HUES,
    INK,
    MUTED,
    draw_mean,
    plain_log_ticks,
    styled,
    validate_dimensions,
    validate_shape,
)


@styled
def velocity_profile(
    velocity_kms: ArrayLike, total: ArrayLike, kept_kms: tuple[float, float], n_pointing: int
) -> Figure:
    """Brightness of the 21 cm line summed over random pointings, by channel (Fig. 1).

    Parameters
    ----------
    velocity_kms : array_like, shape (n_channel,) [km/s]
        Centres of the channels, from the local standard of rest, ascending.
    total : array_like, shape (n_channel,) [K]
        Sum of the brightness temperature over the pointings.
    kept_kms : (float, float) [km/s]
        The range of velocities that the models see, drawn dotted.
    n_pointing : int

    Returns
    -------
    Figure

    Raises
    ------
    ShapeError
        If there is not one total a channel.

    References
    ----------
    Zhang et al. 2019, fig. 1.
    """
    velocity, power = np.asarray(velocity_kms, float), np.asarray(total, float)
    validate_shape("total", power, velocity.shape)
    inside = (velocity >= kept_kms[0]) & (velocity <= kept_kms[1])
    share = power[inside].sum() / power.sum()
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(velocity, power / 1e3, color=CLASS_HUES[1], drawstyle="steps-mid", linewidth=1.4)
    for edge in kept_kms:
        axes.axvline(edge, color=INK, linewidth=1.1, linestyle=(0, (1, 2)))
        axes.annotate(
            f"{edge:g} km/s".replace("-", "−"), (edge, 1), (4 if edge > 0 else -4, -2),
            xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=7.5,
            color=MUTED, va="top", ha="left" if edge > 0 else "right",
        )  # fmt: skip
    axes.set(
        title=f"{share:.1%} of the emission lies between the dotted lines",
        xlabel="Velocity, local standard of rest [km/s]",
        ylabel=f"Brightness temperature, total\nof {n_pointing:,} pointings [10³ K]",
    )
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    axes.grid(True)
    return figure


@styled
def win_scatter(
    scores: Mapping[str, tuple[ArrayLike, ArrayLike]], reference: str = "integrated"
) -> Figure:
    """Correlation of each cutout by each model against that by the reference (Fig. 4).

    Parameters
    ----------
    scores : mapping of str to (r50, r150), each array_like of shape (n_cutout,)
        By model; the reference is one of them. The legend says in how many cutouts a model is
        above it.
    reference : str

    Returns
    -------
    Figure

    Raises
    ------
    ShapeError
        If the numbers of cutouts differ.

    References
    ----------
    Zhang et al. 2019, fig. 4.
    """
    values = {name: np.asarray(pair, float) for name, pair in scores.items()}
    base = values.pop(reference)  # (band, cutout)
    figure = Figure(figsize=(9.0, 4.9), layout="constrained")
    panels = figure.subplots(1, 2)
    for band, (axes, label) in enumerate(zip(panels, ("r_{50}", "r_{150}"), strict=True)):
        for name, pair in values.items():
            validate_shape(f"scores of {name!r}", pair, base.shape)
            wins = int((pair[band] > base[band]).sum())
            axes.scatter(
                base[band], pair[band], s=9, alpha=0.45, linewidths=0, zorder=2,
                label=f"{model_name(name)}: above in {wins:,} of {base.shape[1]:,}",
                **model_marker(name),
            )  # fmt: skip
        _draw_diagonal(axes, np.concatenate([base[band], *(v[band] for v in values.values())]))
        axes.set(
            xlabel=f"${label}$, {model_name(reference)}", ylabel=f"${label}$, other models",
            title=(r"$\ell_F \leq \ell < 100$", r"$100 \leq \ell < 200$")[band],
        )  # fmt: skip
        axes.grid(True)
        legend = axes.legend(loc="upper left", handletextpad=0.2, borderaxespad=0.2, markerscale=2)
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1)
    return figure


@styled
def correlation_by_ell(
    ell: ArrayLike,
    panels: Mapping[str, Mapping[str, ArrayLike]],
    looks: Mapping[str, Mapping[str, Any]] | None = None,
) -> Figure:
    """Mean correlation by scale, and its standard error as a band (Figs. 5, 6 and 7).

    Parameters
    ----------
    ell : array_like, shape (n_band,)
        Middle of each band.
    panels : mapping of str to mapping of str to array_like, shape (n_cutout, n_band)
        By the title of the panel, then by model: the correlation of each cutout.
    looks : mapping of str to mapping, optional
        Label, colour and dashes of models, instead of their own; see `weight_looks`.

    Returns
    -------
    Figure

    Raises
    ------
    ShapeError
        If a curve has not one value a band for each cutout.

    References
    ----------
    Zhang et al. 2019, figs. 5, 6 and 7.
    """
    middle = np.asarray(ell, float)
    figure = Figure(figsize=(2.2 + 3.7 * len(panels), 3.9), layout="constrained")
    every = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, curves) in zip(every, panels.items(), strict=True):
        for name, values in curves.items():
            r = np.asarray(values, float)
            validate_dimensions(f"curves of {name!r}", r, 2)
            validate_shape(f"curves of {name!r}", r, (len(r), len(middle)))
            look = {
                "label": model_name(name),
                **model_look(name),
                **(looks or {}).get(name, {}),
            }
            mean = r.mean(0)
            axes.plot(middle, mean, **look)
            if len(r) > 1:
                error = r.std(0, ddof=1) / np.sqrt(len(r))
                axes.fill_between(
                    middle, mean - error, mean + error, color=look["color"], alpha=0.22, lw=0
                )
        axes.set(title=title, xlabel=r"Multipole $\ell$")
        axes.margins(x=0.01)
        axes.grid(True)
    every[0].set_ylabel(r"Mean correlation $r(\ell)$ with the dust")
    figure.legend(
        *every[0].get_legend_handles_labels(), loc="outside right upper", labelspacing=0.8,
        handlelength=3.2,
    )  # fmt: skip
    return figure


def weight_looks(weights: Sequence[float]) -> dict[str, dict[str, Any]]:
    """Looks of networks trained with other weights lambda, by the name ``lambda_VALUE``.

    Parameters
    ----------
    weights : sequence of float
        Ascending: light to dark, told apart by dashes, too.
    """
    dashes: Sequence[Any] = [(0, (1, 1)), (0, (3, 1.5)), "-", (0, (6, 1.5)), (0, (6, 1.5, 1, 1.5))]
    colours = matplotlib.colormaps["cividis_r"](np.linspace(0.25, 1, max(len(weights), 2)))
    return {
        f"lambda_{weight:g}": {
            "label": f"U-Net, λ = {weight:g}", "color": tuple(colours[k]),
            "linestyle": dashes[k % len(dashes)],
        }
        for k, weight in enumerate(weights)
    }  # fmt: skip


@styled
def error_coverage(levels: ArrayLike, shares: Mapping[str, ArrayLike]) -> Figure:
    """How often the dust lies within so many of the errors stated.

    Parameters
    ----------
    levels : array_like, shape (n_level,)
        Multiples of the stated standard deviation.
    shares : mapping of str to array_like, shape (n_level,), in [0, 1]
        By part of the sky: the share of its pixels that lie within.

    Returns
    -------
    Figure

    Raises
    ------
    ShapeError
        If there is not one share a level.
    """
    k = np.asarray(levels, float)
    figure = Figure(figsize=(5.6, 3.9), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(k, 2 * norm.cdf(k) - 1, color=INK, linestyle=(0, (1, 2)), label="Gaussian errors")
    for index, (name, values) in enumerate(shares.items()):
        share = np.asarray(values, float)
        validate_shape(f"shares of {name!r}", share, k.shape)
        axes.plot(
            k, share, color=CLASS_HUES[(index + 1) % len(CLASS_HUES)], marker="os^D"[index % 4],
            markersize=3.5, linestyle=("-", (0, (6, 1.5)))[index % 2], label=name,
        )  # fmt: skip
    axes.set(
        xlabel="Distance from the prediction, in units of its error",
        ylabel="Share of pixels within",
    )
    axes.set_ylim(0, 1.02)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(True)
    axes.legend(loc="lower right")
    return figure


@styled
def residual_dust(
    ell: ArrayLike,
    power: Mapping[str, ArrayLike],
    dust: ArrayLike,
    title: str,
    background: ArrayLike | None = None,
) -> Figure:
    """Power of the dust that is left in the CMB once a template was fitted and subtracted.

    Parameters
    ----------
    ell : array_like, shape (n_bin,)
    power : mapping of str to array_like, shape (n_real, n_bin) [uK_CMB^2]
        ell (ell + 1) C_ell / 2 pi of the residual dust by template, a row each realisation; their
        mean is drawn, its standard error as a band.
    dust : array_like, shape (n_bin,) [uK_CMB^2]
        The same before cleaning; the lower panel divides by it.
    title : str
    background : array_like, shape (n_bin,), optional [uK_CMB^2]
        The same of CMB and noise.

    Returns
    -------
    Figure

    Raises
    ------
    ShapeError
        If a spectrum has not one value a bin.
    """
    middle, before = np.asarray(ell, float), np.asarray(dust, float)
    validate_shape("dust", before, middle.shape)
    figure = Figure(figsize=(7.4, 5.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1.6, 1))
    if background is not None:
        upper.plot(
            middle, background, color=MUTED, linestyle=(0, (1, 2)), linewidth=1.1,
            label="CMB and noise",
        )  # fmt: skip
    upper.plot(middle, before, color=INK, linewidth=1.1, label="dust, not cleaned")
    lower.axhline(1, color=INK, linewidth=1.1)
    for name, values in power.items():
        spectra = np.asarray(values, float)
        validate_dimensions(f"spectra of {name!r}", spectra, 2)
        validate_shape(f"spectra of {name!r}", spectra, (len(spectra), len(middle)))
        look = model_look(name)
        draw_mean(upper, middle, spectra, look, model_name(name))
        draw_mean(lower, middle, spectra / before, look)
    for axes in (upper, lower):
        axes.set(xscale="log", yscale="log")
        axes.grid(True)
        plain_log_ticks(axes.yaxis)
    upper.set(title=title, ylabel=r"$\ell(\ell+1)C_\ell/2\pi$ [µK$^2_\mathrm{CMB}$]")
    lower.set(xlabel=r"Multipole $\ell$", ylabel="Residual dust\nover all dust")
    plain_log_ticks(lower.xaxis)
    lower.margins(x=0.01)
    figure.align_ylabels()
    figure.legend(
        *upper.get_legend_handles_labels(), loc="outside right upper", labelspacing=0.8,
        handlelength=3.2,
    )  # fmt: skip
    return figure


def _draw_diagonal(axes: Axes, values: NDArray) -> None:
    """Equal scores, and limits that hold all but a few stray cutouts, the same on both axes."""
    low, high = float(np.percentile(values, 0.2)), float(values.max())
    margin = 0.04 * (high - low) or 0.01
    limits = (low - margin, min(high + margin, 1.0))
    axes.plot(limits, limits, color=INK, linestyle="--", linewidth=1.0, zorder=3)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
