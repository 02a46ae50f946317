"""Tables of predicted dust, from the flat records of ``metrics.json``.

Records of correlations have ``step`` ``models``, ``east_west``, ``lambda`` or ``ablations``; the
other steps have records of their own: ``ceiling``, ``unpredictable``, ``coverage``, ``cleaning``.
"""

import html
from collections.abc import Iterable, Sequence

from rich.table import Table

from foreglow.dust.target import NO_UNIT
from foreglow.report.dust.style import model_name, model_place
from foreglow.report.page.page import html_rows
from foreglow.report.page.tables import Record

_SETS = {"train": "training region", "test": "test region"}
_SCALES = ("50", "150")
_WIN_HEADS = ("r50", "r150", "Above integrated, r50", "Above integrated, r150")
_TRANSLATE = str.maketrans({"-": "−"})


def correlation_rows(records: Iterable[Record], step: str) -> list[Record]:
    """The records of a step in the order to show: the test set first, then by model and lambda.

    Parameters
    ----------
    records : iterable of mapping
        The ``records`` of ``metrics.json``; those of other steps are passed over.
    step : str
    """
    mine = [r for r in records if r.get("step") == step and r.get("r50") is not None]
    return sorted(
        mine,
        key=lambda r: (r.get("set") != "test", model_place(r["model"]), r.get("lambda") or 0),
    )


def correlation_table(rows: Sequence[Record]) -> str:
    """Correlations and wins as an HTML ``<table>``, everything escaped; empty for no rows."""
    if not rows:
        return ""
    body = [
        [
            html.escape(_name(row)),
            html.escape(_SETS.get(row.get("set", ""), str(row.get("set", "–")))),
            *(_with_error(row, f"r{scale}") for scale in _SCALES),
            *(_html_wins(row, scale) for scale in _SCALES),
        ]
        for row in rows
    ]
    return html_rows(["Model", "Set", *_WIN_HEADS], body)


def correlation_text(rows: Sequence[Record], title: str) -> Table:
    """Correlations and wins for the terminal."""
    table = Table(title=title, show_lines=False)
    table.add_column("Model")
    for head in _WIN_HEADS:
        table.add_column(head, justify="right")
    for row in rows:
        cells = [_with_error(row, f"r{scale}", plain=True) for scale in _SCALES]
        table.add_row(_name(row), *cells, *(_text_wins(row, scale) for scale in _SCALES))
    return table


def unpredictable_table(records: Iterable[Record]) -> str:
    """What of the dust's variance no gas can tell, by scale; empty for no such records."""
    rows = [r for r in records if r.get("step") == "unpredictable"]
    if not rows:
        return ""
    parts = ("unpredictable", "orientation", "radiation", "background", "noise")
    body = [
        [f"{row['ell_low']} ≤ ℓ &lt; {row['ell_high']}", *(f"{row[p]:.1%}" for p in parts)]
        for row in rows
    ]
    head = (
        "Scale", "Unpredictable", "Orientation of grains", "Radiation field",
        "Infrared background", "Detector noise",
    )  # fmt: skip
    return html_rows(head, body)


def coverage_table(records: Iterable[Record]) -> str:
    """How often the dust lies within the error stated; empty for no such records."""
    rows = [r for r in records if r.get("step") == "coverage"]
    if not rows:
        return ""
    body = [
        [
            html.escape(_SETS.get(row["set"], str(row["set"]))),
            "all" if row["bin"] == 0 else f"{row['low']:.3g} to {row['high']:.3g}",
            f"{row['n']:,.0f}",
            f"<strong>{row['within1']:.1%}</strong>",
            f"<strong>{row['within2']:.1%}</strong>",
            f"{row['rms']:.3g}",
            f"{row['std']:.3g}",
            f"{row['bias']:+.2g}".translate(_TRANSLATE),
        ]
        for row in rows
    ]
    stated = rows[0].get("unit", NO_UNIT)
    unit = "" if stated == NO_UNIT else f" [{stated}]"
    head = (
        "Region", f"Prediction{unit}", "Pixels", "Within one error", "Within two errors",
        f"Rms missed{unit}", f"Error stated, rms{unit}", f"Mean missed{unit}",
    )  # fmt: skip
    return html_rows(head, body)


def cleaning_table(records: Iterable[Record]) -> str:
    """Percent of the dust's power that each template leaves, by scale; empty for no records."""
    rows = [r for r in records if r.get("step") == "cleaning"]
    if not rows:
        return ""
    bins = sorted({(r["ell_low"], r["ell_high"]) for r in rows})
    cells = {(r["frequency_ghz"], r["model"], r["ell_low"]): r for r in rows}
    lines = sorted({key[:2] for key in cells}, key=lambda key: (key[0], model_place(key[1])))
    body = [
        [
            f"{frequency:g} GHz",
            html.escape(model_name(model)),
            *(_left(cells.get((frequency, model, low))) for low, _ in bins),
        ]
        for frequency, model in lines
    ]
    head = ["Band", "Template", *(f"{low} ≤ ℓ < {high} [%]" for low, high in bins)]
    return html_rows(head, body)


def _left(row: Record | None) -> str:
    if row is None:
        return "–"
    scatter = row.get("share_std")
    small = "" if scatter is None else f" <small>± {100 * scatter:.2g}</small>"
    return f"<strong>{100 * row['share']:.3g}</strong>{small}"


def _name(row: Record) -> str:
    name = model_name(row["model"])
    if row.get("step") == "lambda" and row.get("lambda") is not None:
        name = f"{name}, λ = {row['lambda']:g}"
    return name


def _with_error(row: Record, key: str, plain: bool = False) -> str:
    value, error = row[key], row.get(f"{key}_sem")
    if plain:
        return f"{value:.4f}" + ("" if error is None else f" ± {error:.4f}")
    small = "" if error is None else f" <small>± {error:.4f}</small>"
    return f"<strong>{value:.4f}</strong>{small}"


def _html_wins(row: Record, scale: str) -> str:
    share = row.get(f"wins{scale}")
    if share is None:
        return "–"
    paper = row.get(f"paper_wins{scale}")
    error = row.get(f"wins{scale}_sem")
    text = f"<strong>{share:.1%}</strong>"
    text += "" if error is None else f" <small>± {100 * error:.1f}</small>"
    return text if paper is None else f"{text}<br><small>paper {paper:.1%}</small>"


def _text_wins(row: Record, scale: str) -> str:
    share, paper = row.get(f"wins{scale}"), row.get(f"paper_wins{scale}")
    if share is None:
        return "–"
    return f"{share:.1%}" + ("" if paper is None else f" (paper {paper:.1%})")
