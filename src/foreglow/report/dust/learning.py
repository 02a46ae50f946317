"""What networks of the dust learn of their own sky, and of skies that they do not see."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from foreglow.report.dust.style import model_look, model_name
from foreglow.report.page.style import styled, validate_shape

_BANDS = {"r50": r"$\ell_F \leq \ell < 100$", "r150": r"$100 \leq \ell < 200$"}


@styled
def learning_curves(
    histories: Mapping[str, Mapping[str, ArrayLike]],
    cutouts: Mapping[str, int],
    test: Mapping[str, tuple[float, float]],
) -> Figure:
    """Correlations in training and validation by cutouts seen, and those of the test at their end.

    Parameters
    ----------
    histories : mapping of str to mapping of str to array_like, shape (n_epoch,)
        By model: `train_r50`, `train_r150`, `validation_r50` and `validation_r150`.
    cutouts : mapping of str to int
        By model: cutouts an epoch.
    test : mapping of str to (r50, r150)
        By model.

    Returns
    -------
    Figure

    Raises
    ------
    ShapeError
        If training and validation have other epochs.
    """
    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True)
    for index, (axes, (band, title)) in enumerate(zip(panels, _BANDS.items(), strict=True)):
        for name, history in histories.items():
            colour = model_look(name)["color"]
            train, validation = (
                np.asarray(history[f"{stage}_{band}"], float) for stage in ("train", "validation")
            )
            validate_shape(f"validation of {name!r}", validation, train.shape)
            seen = cutouts[name] * np.arange(1, train.size + 1)
            axes.plot(seen, train, color=colour, linestyle=(0, (1, 1.5)), linewidth=1.1)
            axes.plot(seen, validation, color=colour, marker="o", ms=3, label=model_name(name))
            axes.plot(seen[-1:], [test[name][index]], "*", color=colour, ms=10, linestyle="none")
        axes.set(title=title, xlabel="Cutouts seen", ylabel=f"$r_{{{band[1:]}}}$")
        axes.grid(True)
    handles = list(panels[0].get_legend_handles_labels()[0])
    for label, look in {
        "training": {"linestyle": (0, (1, 1.5))},
        "validation": {"marker": "o", "ms": 3},
        "test": {"marker": "*", "ms": 10, "linestyle": "none"},
    }.items():
        handles += panels[0].plot([], [], color="0.35", label=label, **look)
    figure.legend(handles=handles, loc="outside right upper", labelspacing=0.8)
    return figure
