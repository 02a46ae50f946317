"""The models of the real sky: maps without a truth beside them, and what speaks for them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from rich.table import Table

from foreglow.recognition.answers import Answer
from foreglow.report.page.mollweide import draw_map
from foreglow.report.page.page import Cell, render, render_table
from foreglow.report.page.skyview import Layer, PolarisationSpectra, SkyView
from foreglow.report.page.style import CLASS_HUES, INK, NOT_OBSERVED, styled, tint
from foreglow.report.page.tables import Record
from foreglow.report.recognition import figures
from foreglow.report.recognition.skymaps import sky_map
from foreglow.sky.instrument import Instrument

_NONE_FITS = "#15171a"


@styled
def model_map(answer: Answer, title: str) -> Figure:
    """Which model is the most probable where, deeper the surer; nothing is known of the truth.

    Parameters
    ----------
    answer : Answer
        Grey where there is none, black where no model fits.
    title : str

    Returns
    -------
    Figure
    """
    best, chance, names = answer.best, answer.chance, list(map(in_words, answer.models))
    colours = np.tile(to_rgba(NOT_OBSERVED), (len(best), 1))
    for k in range(len(names)):
        mine = best == k
        scale = ScalarMappable(Normalize(1 / len(names), 1), tint(CLASS_HUES[k], 0.05))
        colours[mine] = scale.to_rgba(chance[mine])
    colours[answer.none_fits & (best >= 0)] = to_rgba(_NONE_FITS)
    figure = Figure(figsize=(7.2, 4.5), layout="constrained")
    axes = figure.add_subplot()
    draw_map(axes, colours)
    axes.set_title(title)
    hues = [*zip(names, CLASS_HUES, strict=False), ("none fits", _NONE_FITS)]
    if (best < 0).any():
        hues.append(("not observed", NOT_OBSERVED))
    keys = [Patch(facecolor=hue, edgecolor=INK, linewidth=0.7, label=n) for n, hue in hues]
    figure.legend(handles=keys, loc="outside lower center", ncols=min(len(keys), 4))
    return figure


def survey_figures(folder: Path, answers: Mapping[str, Answer], note: str) -> dict[str, Any]:
    """Write the figures of a survey; their captions by name."""
    captions: dict[str, Any] = {}
    for method, answer in answers.items():
        words = [in_words(name) for name in answer.models]
        name = method.replace(", ", "_").replace(" ", "_")
        pictures = {
            f"models_{name}": (
                model_map(answer, f"Models by {method}"),
                "The most probable model of each pixel, deeper the surer; pale is hardly more than "
                f"a guess. Black: no model fits. {note}",
            ),
            f"chance_{name}": (
                sky_map(answer.chance, f"Probability of that model, by {method}", "probability"),
                f"Of {len(words)} models a guess has {1 / len(words):.2g}.",
            ),
        }
        for key, (figure, caption) in pictures.items():
            figures.save(figure, folder, key)
            title = figure.axes[0].get_title()
            captions[key] = {"title": title, "caption": caption, "section": "Map of models"}
    return captions


def survey_view(
    instrument: Instrument,
    data: NDArray,
    sigma: NDArray,
    models: Sequence[str],
    answers: Mapping[str, Answer],
    note: str,
) -> SkyView:
    """The sky to look at pixel by pixel.

    Parameters
    ----------
    instrument : Instrument
    data : ndarray, shape (n_pix, 2, n_band)
        Q, U [uK_RJ]; NaN where it does not count.
    sigma : ndarray, shape (n_pix, n_band)
        Noise rms [uK_RJ]; the median is shown.
    models : sequence of str
    answers : mapping of str to Answer
    note : str
    """
    layers = tuple(
        Layer(f"No model fits, {method}", "Fits", "", answer.none_fits.astype(np.float32))
        for method, answer in answers.items()
    )
    spectra = PolarisationSpectra(
        np.array(instrument.frequency_ghz),
        np.ascontiguousarray(np.moveaxis(data, 0, 2)).astype(np.float32),
        np.nanmedian(np.where(np.isfinite(sigma), sigma, np.nan), 0),
    )
    chances = {name: answer.probability.astype(np.float32) for name, answer in answers.items()}
    words = tuple(in_words(name) for name in models)
    return SkyView("survey", "The sky of the survey", note, layers, spectra, words, None, chances)


def in_words(model: str) -> str:
    """A model as a reader sees it."""
    return model.replace("_ame", " + AME").replace("_", " ")


def survey_sections(records: Sequence[Record]) -> Markup:
    """Sections of HTML for the records of a survey; empty for other records."""
    mine = {step: [r for r in records if r.get("step") == step] for step in _STEPS}
    if not mine["bands"]:
        return Markup()
    halves = [r for r in mine["halves"] if r["band"] != "all"]
    both = next((r for r in mine["halves"] if r["band"] == "all"), None)
    return render(
        "survey",
        bands=render_table(_BANDS, map(_band_line, mine["bands"])),
        models=render_table(_MODELS, map(_model_line, mine["models"] + mine["none_fits"])),
        worth=render_table(_WORTH, map(_worth_line, mine["worth"])) if mine["worth"] else None,
        ame=ame_in_words(mine["ame"][0]) if mine["ame"] else None,
        without=render_table(_WITHOUT, map(_agreement_line, mine["without"])),
        halves=render_table(_HALVES, map(_half_line, halves)),
        both=None if both is None else _in_a_sentence(both),
    )


def printed_survey(records: Sequence[Record]) -> list[Table]:
    """The main tables for the terminal."""
    mine = {step: [r for r in records if r.get("step") == step] for step in _STEPS}
    return [
        _printed("Models", _MODELS, map(_model_line, mine["models"] + mine["none_fits"])),
        _printed("Simulated pixels of the same noise", _WORTH, map(_worth_line, mine["worth"])),
        _printed("Without one band", _WITHOUT, map(_agreement_line, mine["without"])),
    ]


_STEPS = ("bands", "models", "none_fits", "worth", "ame", "without", "halves")
_BANDS = (
    "Band", "GHz", "Noise [µK_CMB]", "Polarisation [µK_CMB]", "Systematic error", "Sky observed",
    "Files",
)  # fmt: skip
_MODELS = ("Method", "Model", "Pixels", "Share", "Sure of it")
_WORTH = ("Method", "True model", "Right", "Sure", "Right if sure", "Calibration error")
_WITHOUT = ("Left out", "Same model", "Same if both sure", "At least", "Pixels")
_APART = 0.05  # of the pixels: what neighbours that share their errors may add
_TOO_SURE = (
    "So it is off more often than the law has it, and network and neighbours, which take that for "
    "curvature, are too sure where there is AME: give a plan with a larger ame_scatter, or a "
    "smaller beam."
)
_HALVES = ("Band", "Difference over its noise, rms", "Pixels")


def _band_line(r: Record) -> list[str | Cell]:
    return [
        r["band"], f"{r['frequency_ghz']:g}", f"{r['noise_uk_cmb']:.3g}",
        f"{r['amplitude_uk_cmb']:.3g}", f"{r['systematic']:.2%}", f"{r['observed']:.1%}",
        r["files"],
    ]  # fmt: skip


def _model_line(r: Record) -> list[str | Cell]:
    if r["step"] == "none_fits":
        return [r["method"], "(none fits)", str(r["n_pixels"]), f"{r['share']:.1%}", "–"]
    sure = r["n_sure"] / max(r["n_pixels"], 1)
    return [r["method"], r["model"], str(r["n_pixels"]), f"{r['share']:.1%}", f"{sure:.1%}"]


def _worth_line(r: Record) -> list[str | Cell]:
    return [
        r["method"], r["model"], _percent(r["accuracy"]), _percent(r["sure"]),
        _percent(r["sure_right"]), _percent(r["calibration_error"]),
    ]  # fmt: skip


def _agreement_line(r: Record) -> list[str | Cell]:
    return [
        r["band"], _percent(r["agree"]), _percent(r["sure_agree"]), _percent(r["sure_expected"]),
        f"{r['n_pixels']}, {r['n_sure']} sure",
    ]  # fmt: skip


def _half_line(r: Record) -> list[str | Cell]:
    return [r["band"], Cell(f"{r['rms']:.3f}", f"± {r['error']:.3f}"), str(r["n_pixels"])]


def ame_in_words(r: Record) -> str:
    """Whether the AME lies about the dust as the training law has it, in sentences."""
    more = r["off"] - r["expected"]
    too_sure = more > 2 * np.sqrt(r["expected"] * (1 - r["expected"]) / r["n_pixels"]) + _APART
    return (
        f"Where the fits choose AME ({r['n_pixels']} pixels in all bands), it is more than two "
        f"errors off the direction of the dust in {_percent(r['off'])} of the pixels, half of them "
        f"by {r['angle_deg']:.2g} deg or more. Were it along the dust that would be 5%; the "
        f"training law, with a scatter of {r['scatter']:.2g}, has {_percent(r['expected'])}. "
        + (_TOO_SURE if too_sure else "So it is off no more often than the law has it.")
    )


def _in_a_sentence(r: Record) -> str:
    sure = (
        f" where both are sure ({r['n_sure']} pixels), {_percent(r['sure_agree'])}, expected at "
        f"least {_percent(r['sure_expected'])}."
        if r["n_sure"]
        else " nowhere are both sure."
    )
    shared = (
        f" Both hold all of the data of {r['undivided']}, of which there are no halves: they agree "
        "more often than if nothing were shared."
        if r["undivided"]
        else ""
    )
    return (
        f"The halves name the same model in {_percent(r['agree'])} of {r['n_pixels']} pixels;"
        f"{sure}{shared}"
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _printed(title: str, head: Sequence[str], lines: Iterable[Sequence[str | Cell]]) -> Table:
    table = Table(*head, title=title)
    for line in lines:
        table.add_row(*map(str, line))
    return table
