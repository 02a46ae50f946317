"""Figures of dust on the sky: a cutout by each model, and a predicted map with its error."""

from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import AsinhNorm, LogNorm, Normalize
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from foreglow.report.dust.style import model_name
from foreglow.report.page.mollweide import draw_map
from foreglow.report.page.style import NOT_OBSERVED, plain_log_ticks, styled, validate_shape


@styled
def cutout_maps(
    maps: Mapping[str, ArrayLike], mask: ArrayLike, pixel_arcmin: float, title: str
) -> Figure:
    """One cutout by each model, each divided by its largest pixel (Fig. 3).

    Parameters
    ----------
    maps : mapping of str to array_like, shape (n, n)
        By model; ``target`` is the dust to predict.
    mask : array_like of bool, shape (n, n)
        True where the sky counts; the rest is grey.
    pixel_arcmin : float
        Side of a pixel.
    title : str

    Returns
    -------
    Figure

    Raises
    ------
    ShapeError
        If a map has another shape than the mask.

    References
    ----------
    Zhang et al. 2019, fig. 3.
    """
    seen = np.asarray(mask, bool)
    side = seen.shape[0] * pixel_arcmin / 60
    rows = (len(maps) + 1) // 2
    figure = Figure(figsize=(7.2, 0.5 + 3.15 * rows), layout="constrained")
    figure.suptitle(title, x=0.02, ha="left")
    every = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False).ravel()
    scale = ScalarMappable(
        Normalize(0, 1), matplotlib.colormaps["magma"].with_extremes(bad=NOT_OBSERVED)
    )
    for axes, (name, values) in zip(every, maps.items(), strict=False):
        image = np.array(values, float)
        validate_shape(f"map of {name!r}", image, seen.shape)
        image[~seen] = np.nan
        image /= np.nanmax(image) if seen.any() else 1.0
        axes.imshow(
            image, origin="lower", cmap=scale.cmap, norm=scale.norm,
            extent=(-side / 2, side / 2, -side / 2, side / 2), interpolation="nearest",
        )  # fmt: skip
        axes.set_title("dust, the target" if name == "target" else model_name(name))
        axes.spines[:].set_visible(False)
        axes.tick_params(length=2)
    for axes in every[len(maps) :]:
        axes.set_axis_off()
    for axes in every.reshape(rows, 2)[:, 0]:
        axes.set_ylabel("Offset [deg]")
    for axes in every.reshape(rows, 2)[-1]:
        axes.set_xlabel("Offset [deg]")
    bar = figure.colorbar(scale, ax=every.tolist(), shrink=0.6, aspect=30, pad=0.02)
    bar.set_label("Intensity over the largest of the cutout")
    bar.outline.set_visible(False)  # pyright: ignore
    return figure


@styled
def polarised_cutouts(
    maps: Mapping[str, ArrayLike], mask: ArrayLike, pixel_arcmin: float, title: str
) -> Figure:
    """Polarised intensity and direction of one cutout by each model.

    Parameters
    ----------
    maps : mapping of str to array_like, shape (2, n, n)
        Q and U in the frame of the cutout, by model; ``target`` is the dust to predict.
    mask, pixel_arcmin, title
        As for `cutout_maps`.

    Returns
    -------
    Figure

    Raises
    ------
    ShapeError
        If maps have another shape than the mask.
    """
    seen = np.asarray(mask, bool)
    n = seen.shape[0]
    side = n * pixel_arcmin / 60
    figure = Figure(figsize=(0.6 + 3.2 * len(maps), 4.2), layout="constrained")
    figure.suptitle(title, x=0.02, ha="left")
    every = figure.subplots(1, len(maps), sharex=True, sharey=True, squeeze=False)[0]
    cells = max(1, n // 16)  # pixels of which the direction is drawn as one
    place = ((np.arange(n // cells) + 0.5) * cells / n - 0.5) * side
    for axes, (name, values) in zip(every, maps.items(), strict=True):
        q, u = np.array(values, float)
        validate_shape(f"map of {name!r}", q, seen.shape)
        size = np.where(seen, np.hypot(q, u), np.nan)
        axes.imshow(
            size / np.nanmax(size) if seen.any() else size, origin="lower", vmin=0, vmax=1,
            cmap=matplotlib.colormaps["magma"].with_extremes(bad=NOT_OBSERVED),
            extent=(-side / 2, side / 2, -side / 2, side / 2), interpolation="nearest",
        )  # fmt: skip
        cut = n // cells * cells
        mean = [
            np.where(seen, m, 0)[:cut, :cut].reshape(n // cells, cells, n // cells, cells)
            .mean((1, 3))
            for m in (q, u)
        ]  # fmt: skip
        angle = 0.5 * np.arctan2(mean[1], mean[0])  # from rows (upwards) towards columns
        axes.quiver(
            place, place, np.sin(angle), np.cos(angle), color="white", pivot="middle",
            headwidth=0, headlength=0, headaxislength=0, scale=22, width=0.005, alpha=0.8,
        )  # fmt: skip
        axes.set_title("dust, the target" if name == "target" else model_name(name))
        axes.set_xlabel("Offset [deg]")
        axes.spines[:].set_visible(False)
    every[0].set_ylabel("Offset [deg]")
    return figure


@styled
def predicted_sky(
    target: ArrayLike, mean: ArrayLike, std: ArrayLike, unit: str, title: str
) -> Figure:
    """The dust, its prediction, the error stated and what the prediction misses.

    Parameters
    ----------
    target, mean, std : array_like, shape (n_pix,)
        RING, Galactic; NaN where nothing is predicted (grey).
    unit : str
    title : str

    Returns
    -------
    Figure

    Raises
    ------
    ShapeError
        If the maps differ in shape, or `n_pix` is not that of a full HEALPix map.
    """
    dust, found, error = (np.array(m, float) for m in (target, mean, std))
    validate_shape("mean", found, dust.shape)
    validate_shape("std", error, dust.shape)
    dust[~np.isfinite(found)] = np.nan
    bright = found[np.isfinite(found)]
    low, high = np.percentile(bright[bright > 0], [0.5, 99.5])
    misses = dust - found
    limit = float(np.percentile(np.abs(misses[np.isfinite(misses)]), 99)) or 1.0
    errors = error[np.isfinite(error) & (error > 0)]
    floor, top = np.percentile(errors, [0.5, 99.5]) if errors.size else (0.1, 1.0)
    panels = (
        ("Dust, the target", dust, LogNorm(low, high), "magma"),
        ("Prediction", found, LogNorm(low, high), "magma"),
        ("Error of the prediction", error, LogNorm(floor, top), "viridis"),
        ("Target less prediction", misses, AsinhNorm(limit / 10, -limit, limit), "RdBu_r"),
    )
    figure = Figure(figsize=(9.6, 6.6), layout="constrained")
    figure.suptitle(title, x=0.005, ha="left")
    for axes, (name, values, norm, cmap) in zip(figure.subplots(2, 2).ravel(), panels, strict=True):
        colours = matplotlib.colormaps[cmap].with_extremes(bad=NOT_OBSERVED)
        _draw(figure, axes, values, ScalarMappable(norm, colours), name, unit)
    return figure


def _draw(
    figure: Figure, axes: Axes, values: NDArray, scale: ScalarMappable, name: str, unit: str
) -> None:
    log = isinstance(scale.norm, LogNorm)
    shown = np.where(values > 0, values, np.nan) if log else values
    draw_map(axes, scale.to_rgba(np.ma.masked_invalid(shown)), labels=False)
    axes.set_title(name)
    bar = figure.colorbar(
        scale, ax=axes, orientation="horizontal", shrink=0.75, aspect=34, pad=0.02, extend="both"
    )
    bar.set_label(unit)
    if log:
        plain_log_ticks(bar.ax.xaxis)
    else:
        top = 10.0 ** np.floor(np.log10(scale.get_clim()[1] or 1.0))
        bar.set_ticks([-top, 0.0, top], labels=[f"−{top:g}", "0", f"{top:g}"])
