"""What a report of predicted dust says in tables: correlations, ablations, errors, cleaning."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from foreglow.report.dust.tables import (
    cleaning_table,
    correlation_rows,
    correlation_table,
    coverage_table,
    unpredictable_table,
)
from foreglow.report.page.page import scrolling, section

_NOTES = {
    "models": (
        "Correlation with the dust beside the paper's",
        "r50 is of ℓ_F ≤ ℓ < 100, r150 of 100 ≤ ℓ < 200: single Fourier modes of a cutout, "
        "averaged, as the paper's numbers are; means over cutouts with their standard errors. "
        "Cutouts overlap, so the errors are too small by what the overlap takes away. Above "
        "integrated: the share of cutouts in which a model is better than the integrated map. "
        "The same with the ratio of spectra of eq. 2.1 stands in the records.",
    ),
    "east_west": (
        "Trained in the east, tested in the west",
        "The same models trained between longitudes 198 and 342 degrees and tested between 18 and "
        "162, with 36 degrees between the centres of cutouts (Appendix C).",
    ),
    "lambda": (
        "Weight of the correlation in the loss",
        "One network for each weight λ, all trained alike (Appendix B), on the test region.",
    ),
    "ablations": (
        "What the network needs to see",
        "One network each, all trained alike, on the test region; the first is that of λ = 30 and "
        "64 channels. The paper found no gain over the integrated map from moment maps, nor from "
        "the integrated map as the network's input, and no difference with channels of ±120 km/s.",
    ),
}


def dust_sections(records: Sequence[Mapping[str, Any]]) -> str:
    """Sections of HTML for the records of predicted dust; empty for other records."""
    return (
        _correlations(records, "models")
        + _ceiling(records)
        + "".join(_correlations(records, step) for step in ("east_west", "lambda", "ablations"))
        + _coverage(records)
        + _cleaning(records)
    )


def _correlations(records: Sequence[Mapping[str, Any]], step: str) -> str:
    table = correlation_table(correlation_rows(records, step))
    if not table:
        return ""
    title, note = _NOTES[step]
    return section(f"dust-{step}", title, f"<p>{html.escape(note)}</p>\n" + scrolling(table, title))


def _ceiling(records: Sequence[Mapping[str, Any]]) -> str:
    shares = unpredictable_table(records)
    if not shares:
        return ""
    title = "What of the dust cannot be predicted"
    note = (
        "<p>The mock Galaxy knows its own gas. Unpredictable is the share of the dust's variance "
        "that remains when all of the gas that shines is known, layer by layer, molecules too, and "
        "scaled to the dust at that scale: no network that sees the 21 cm line alone can do as "
        "well. Beside it the power of its causes over that of the dust; causes correlate, so they "
        "need not add up. The second table is the correlation of that perfect map on the same "
        "test cutouts: the ceiling of r50 and r150.</p>\n"
    )
    best = correlation_table(correlation_rows(records, "ceiling"))
    body = note + scrolling(shares, title) + (scrolling(best, "Ceiling") if best else "")
    return section("dust-ceiling", title, body)


def _coverage(records: Sequence[Mapping[str, Any]]) -> str:
    table = coverage_table(records)
    if not table:
        return ""
    title = "How far to trust the predicted map"
    note = (
        "<p>Pixels of the stitched map, by predicted brightness. Gaussian errors would hold 68.3% "
        "within one and 95.4% within two. The law of errors was measured in the training region, "
        "on sectors that each member had not seen; the test region had no say in it.</p>\n"
    )
    return section("dust-coverage", title, note + scrolling(table, title))


def _cleaning(records: Sequence[Mapping[str, Any]]) -> str:
    table = cleaning_table(records)
    if not table:
        return ""
    number = next(r["realisations"] for r in records if r.get("step") == "cleaning")
    title = "What the map is for: dust left in the CMB"
    note = (
        "<p>CMB, dust and Planck's noise, simulated on the sky that the network has never seen; "
        "one amplitude of each template is fitted and subtracted. Percent of the dust's power that "
        f"is left, mean over {number} realisations of CMB and noise, and its scatter from one to "
        "another. All dust has one spectrum here, so the true map would clean perfectly.</p>\n"
    )
    return section("dust-cleaning", title, note + scrolling(table, title))
