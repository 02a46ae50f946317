"""The interactive sky of a report: its data, and the script that shows it.

The script is foreglow's own but for the plots of spectra, which uPlot draws (MIT licence, beside it
in ``viewer/``). It is plain JavaScript in one element, so that the page can name its hash and run
nothing else.
"""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from foreglow.report.page.page import asset, render
from foreglow.report.page.skyview import (
    FittedModel,
    Layer,
    LineSpectra,
    PolarisationSpectra,
    SkyView,
    Stretch,
)
from foreglow.report.page.style import CLASS_HUES, NOT_OBSERVED

_SCRIPTS = ("uPlot.iife.min.js", "sphere.js", "data.js", "skymap.js", "panel.js", "start.js")
_STYLES = ("uPlot.min.css", "viewer.css")
_COLOURS = ("magma", "viridis", "RdBu_r")
_KEYS = (
    "Arrow keys move, plus and minus zoom, 0 shows the whole sky, Enter takes the pixel in the "
    "middle."
)
_BEST = "Most probable model"
_HALF_TURN = 254  # steps; viewer/data.js counts in them


def sky_section(views: Sequence[SkyView]) -> Markup:
    """The section of HTML with its data and script; empty without views.

    Parameters
    ----------
    views : sequence of SkyView
        In the order to list; the first is shown.
    """
    if not views:
        return Markup()
    settings = {
        "palettes": _palettes(),
        "hidden": _rgb([to_rgb(NOT_OBSERVED)]),
        "keys": _KEYS,
    }
    cards = [view_card(view) for view in views]
    return render("sky", settings=settings, cards=cards, script=viewer_script())


@cache
def viewer_script() -> str:
    """The one script of the page."""
    body = "\n".join(asset(f"viewer/{name}") for name in _SCRIPTS).replace("</script", "<\\/script")
    licence = asset("viewer/LICENSE.uPlot.txt")
    return f'/* uPlot:\n{licence} */\n(() => {{\n"use strict";\n{body}}})();'


@cache
def viewer_style() -> str:
    """The style sheet of the viewer."""
    return "\n".join(asset(f"viewer/{name}") for name in _STYLES)


def script_policy() -> str:
    """What the page's security policy says of scripts: this one alone, by its hash."""
    digest = hashlib.sha256(viewer_script().encode()).digest()
    return f"; script-src 'sha256-{base64.b64encode(digest).decode()}'"


def view_card(view: SkyView) -> dict[str, Any]:
    """A view as JSON: arrays in base64, little-endian.

    float32, but for two: what fits leave is float16, in units of the noise, and a 21 cm line is in
    255 steps between its own ends.
    """
    layers = _truth_layers(view) + _chance_layers(view)
    layers += [_layer_card(layer) for layer in view.layers]
    spectra = view.spectra
    if isinstance(spectra, PolarisationSpectra):
        layers += _data_layers(spectra)
    return {
        "title": view.title,
        "note": _note(view),
        "nside": view.nside,
        "start": _start(view),
        "first": max((k for k, c in enumerate(layers) if c["name"] == _BEST), default=0),
        "classes": list(view.classes),
        "truth": None if view.truth is None else _floats(view.truth),
        "layers": layers,
        "chances": [{"name": n, "values": _floats(v)} for n, v in view.chances.items()],
        "spectra": _polarisation(spectra)
        if isinstance(spectra, PolarisationSpectra)
        else _line(spectra),
    }


def _note(view: SkyView) -> str:
    if view.shown_from is None:
        return f"{view.note} Nside {view.nside}.".strip()
    return (
        f"{view.note} Nside {view.shown_from}, shown at Nside {view.nside}: means over its pixels."
    ).strip()


def _start(view: SkyView) -> int:
    """A pixel to begin with: the brightest."""
    if isinstance(view.spectra, PolarisationSpectra):
        brightness = np.hypot(*view.spectra.data[:, 0])
    else:
        brightness = view.layers[0].values
    return int(np.argmax(np.where(np.isfinite(brightness), brightness, -np.inf)))


# ---- layers ------------------------------------------------------------------------------------


def _truth_layers(view: SkyView) -> list[dict[str, Any]]:
    if view.truth is None:
        return []
    return [_class_card("True model", "Truth", view.truth, view.classes)]


def _chance_layers(view: SkyView) -> list[dict[str, Any]]:
    """For each method the most probable model, and the probability of each, given already."""
    cards = []
    for method, (name, chance) in enumerate(view.chances.items()):
        seen = np.isfinite(chance).all(0)
        best = np.where(seen, np.where(seen, chance, 0).argmax(0), -1)
        cards.append(_class_card(_BEST, name, best, view.classes))
        cards += [
            {
                "name": f"Probability of {model}", "group": name, "unit": "", "stretch": "linear",
                "low": 0.0, "high": 1.0, "colours": "viridis", "method": method, "model": k,
            }
            for k, model in enumerate(view.classes)
        ]  # fmt: skip
    return cards


def _class_card(name: str, group: str, values: NDArray, classes: Sequence[str]) -> dict[str, Any]:
    return {
        "name": name, "group": group, "unit": "", "classes": list(classes), "colours": "classes",
        "values": _floats(values),
    }  # fmt: skip


def _layer_card(layer: Layer) -> dict[str, Any]:
    card = _scale_card(layer) | {"values": _floats(layer.values)}
    return card if layer.angle_deg is None else card | {"angle": _angles(layer.angle_deg)}


def _angles(degrees: NDArray) -> dict[str, str]:
    """Directions in 254 steps of half a turn; 255 where there is none."""
    steps = np.rint(np.nan_to_num(degrees) % 180 * (_HALF_TURN / 180)) % _HALF_TURN
    return _array(np.where(np.isfinite(degrees), steps, 255).astype(np.uint8), "u1")


def _data_layers(spectra: PolarisationSpectra) -> list[dict[str, Any]]:
    """Q and U of each band, whose values the spectra hold."""
    cards = []
    for stokes, letter in enumerate("QU"):
        for band, frequency in enumerate(spectra.frequency_ghz):
            values = spectra.data[stokes, band]
            name, group = f"{letter} at {frequency:g} GHz", f"Data, {letter}"
            card = _scale_card(Layer(name, group, "µK_RJ", values, "asinh"))
            cards.append(card | {"stokes": stokes, "band": band})
    return cards


def _scale_card(layer: Layer) -> dict[str, Any]:
    """Name and colours of a layer; the colours span the middle 99% of its pixels."""
    values = layer.values[np.isfinite(layer.values)].astype(float)
    stretch: Stretch = layer.stretch
    if stretch == "log":
        values = values[values > 0]
    low, high = np.percentile(values, [0.5, 99.5]) if values.size else (1.0, 10.0)
    signed = stretch != "log" and low < 0
    if signed:
        high = max(abs(low), abs(high))
        low = -high
    if not low < high:
        low, high = (0.9 * low, 1.1 * high) if low > 0 else (low - 1.0, low + 1.0)
    if stretch == "asinh" and not signed:
        stretch = "linear"
    return {
        "name": layer.name, "group": layer.group, "unit": layer.unit, "stretch": stretch,
        "low": float(low), "high": float(high),
        "colours": "RdBu_r" if signed else "viridis" if layer.is_error else "magma",
    }  # fmt: skip


# ---- spectra -----------------------------------------------------------------------------------


def _polarisation(spectra: PolarisationSpectra) -> dict[str, Any]:
    return {
        "kind": "polarisation",
        "frequency": spectra.frequency_ghz.tolist(),
        "sigma": spectra.sigma.tolist(),
        "data": _floats(spectra.data),
        "fits": [
            {
                "name": fit.name,
                "residual": _array(_residual(spectra, fit), "f2"),
                "numbers": [{"name": n, "values": _floats(v)} for n, v in fit.numbers.items()],
            }
            for fit in spectra.fits
        ],
    }


def _residual(spectra: PolarisationSpectra, fit: FittedModel) -> NDArray[np.float16]:
    """What a fit leaves, in units of the noise: float16 is enough for that, not for brightness."""
    rest = (spectra.data.astype(float) - fit.brightness) / spectra.sigma[:, None]
    return np.clip(rest, -6e4, 6e4).astype("<f2")


def _line(spectra: LineSpectra) -> dict[str, Any]:
    """Each line in 255 steps between its own ends; masked pixels have none."""
    seen = np.isfinite(spectra.tb).all(0)
    tb = spectra.tb[:, seen].T.astype(float)  # (n_seen, n_channel)
    low, high = (np.full(seen.size, np.nan) for _ in range(2))
    low[seen], high[seen] = tb.min(1), tb.max(1)
    size = np.maximum(high - low, 1e-30)[seen, None] / 255
    steps = np.rint((tb - low[seen, None]) / size).astype(np.uint8)
    return {
        "kind": "line",
        "velocity": np.round(spectra.velocity_kms, 4).tolist(),
        "low": _floats(low),
        "high": _floats(high),
        "steps": _array(steps, "u1"),
    }


# ---- encoding ----------------------------------------------------------------------------------


def _floats(values: NDArray) -> dict[str, str]:
    return _array(np.asarray(values, "<f4"), "f4")


def _array(values: NDArray, dtype: str) -> dict[str, str]:
    return {"dtype": dtype, "base64": base64.b64encode(values.tobytes()).decode()}


def _palettes() -> dict[str, str]:
    """Colours by name, 8-bit red, green and blue in a row."""
    share = np.linspace(0, 1, 256)
    found = {name: _rgb(matplotlib.colormaps[name](share)[:, :3]) for name in _COLOURS}
    return found | {"classes": _rgb([to_rgb(hue) for hue in CLASS_HUES])}


def _rgb(colours: Any) -> str:
    levels = np.rint(255 * np.asarray(colours)).astype(np.uint8)
    return base64.b64encode(levels.tobytes()).decode()
