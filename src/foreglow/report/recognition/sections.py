"""What a report of recognition says in tables: accuracy, neighbours, separation, other skies."""

import html
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from foreglow.report.page.cleaning import cleaning_rows, cleaning_table
from foreglow.report.page.page import scrolling, section
from foreglow.report.page.tables import accuracy_rows, html_table, method_rows, method_table
from foreglow.report.recognition.neighbours import layout_rows, layout_table
from foreglow.report.recognition.robustness import law_rows, law_table

_TABLE_TITLES: dict[Literal[2, 3], str] = {
    2: "Table 2: trained and tested without noise",
    3: "Table 3: tested with the noise of the instrument",
}
_METHODS_TITLE = "Section 5: networks beside fits, with the noise of the instrument"
_METHODS_NOTE = (
    "<p>Fits choose the model, pixel by pixel, by the criterion named; C is free in the curved "
    "models, as in the paper, or known, as it is to a network by its training. Networks are those "
    "trained on many noise realisations. The ceiling of any method that looks at one pixel is "
    "measured on vectors of the training law, all else on test skies.</p>\n"
)


def recognition_sections(records: Sequence[Mapping[str, Any]]) -> str:
    """Sections of HTML for the records of recognition; empty for other records."""
    return (
        _accuracy_section(records)
        + _layout_section(records)
        + _cleaning_section(records)
        + _law_section(records)
    )


def _accuracy_section(records: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for table, title in _TABLE_TITLES.items():
        body = html_table(accuracy_rows(records, table))
        if body:
            parts.append(f"<h3>{html.escape(title)}</h3>\n{scrolling(body, title)}")
    if body := method_table(method_rows(records)):
        parts.append(f"<h3>{_METHODS_TITLE}</h3>\n{_METHODS_NOTE}{scrolling(body, _METHODS_TITLE)}")
    if not parts:
        return ""
    note = (
        "<p>Percent of pixels whose model was recognised, with its binomial standard error "
        "(pixels taken as independent). Below it the paper's figure and, in brackets, "
        "ours minus it, in percent points.</p>\n"
    )
    return section("accuracy", "Accuracy beside the paper's", note + "".join(parts))


def _layout_section(records: Sequence[Mapping[str, Any]]) -> str:
    table = layout_table(layout_rows(records))
    if not table:
        return ""
    note = (
        "<p>Percent of pixels whose model was recognised by the conditioned network, pixel by "
        "pixel and with the neighbours' word; the error is that of the mean over skies. Contexts "
        "are trained on random patches alone. The oracles are told which model holds at the centre "
        "of every region and need only place the boundaries, each ring of pixels by itself or as "
        "one meridian.</p>\n"
    )
    title = "More than one pixel"
    return section("neighbours", title, note + scrolling(table, title))


def _cleaning_section(records: Sequence[Mapping[str, Any]]) -> str:
    rows = cleaning_rows(records)
    table = cleaning_table(rows)
    if not table:
        return ""
    note = (
        f"<p>The CMB found by pixel fits less the true CMB, at {html.escape(rows[0]['region'])}: "
        "foregrounds and noise together, mean and standard error over "
        f"{rows[0]['realisations']} skies; BB is the mean of its spectrum from multipole 2 to "
        f"{3 * rows[0]['nside'] - 1}. Everywhere: one model for the whole sky, C free with a prior "
        "where curved. The ratios are taken sky by sky to the fit of the true models.</p>\n"
    )
    title = "What recognition is for: component separation"
    return section("separation", title, note + scrolling(table, title))


def _law_section(records: Sequence[Mapping[str, Any]]) -> str:
    table = law_table(law_rows(records))
    if not table:
        return ""
    note = (
        "<p>One network, trained over noise scales, on skies that differ from its training law in "
        "one thing. Calibration error: mean distance of the probability given to the chosen model "
        "from how often it was right. No fit is good: share of the pixels where the fits of all "
        "its models (C as trained) have a chi-square of p-value below 0.001, as at most 0.1% have "
        "by chance. Where the accuracy falls and that share stays, only a wider training law "
        "protects from wrong answers. A curved model with C above 0 still counts as curved, though "
        "it is farther from the curved model that the network knows than a power law is.</p>\n"
    )
    title = "Outside the training law"
    return section("outside", title, note + scrolling(table, title))
