"""Tables of predicted dust, from the flat records of ``metrics.json``.

Records of correlations have ``step`` ``models``, ``east_west``, ``lambda`` or ``ablations``; the
other steps have records of their own: ``ceiling``, ``unpredictable``, ``coverage``, ``cleaning``,
``polarisation``, ``polarised_cleaning``, ``polarised_sphere`` (see
`foreglow.report.dust.sphere`).
"""

from collections.abc import Iterable, Sequence

from markupsafe import Markup
from rich.table import Table

from foreglow.dust.target import NO_UNIT
from foreglow.report.dust.style import model_name, model_place, template_name, template_place
from foreglow.report.page.page import Cell, render_table
from foreglow.report.page.tables import Record

_SETS = {"train": "training region", "validation": "wedge, held out", "test": "test region"}
_SCALES = ("50", "150")
_WIN_HEADS = ("r50", "r150", "Above integrated, r50", "Above integrated, r150")
_POLARISED_HEADS = (
    "Model", "Q and U", "E, r50", "B, r50", "E, r150", "B, r150", "Alignment",
)  # fmt: skip
_TARGETS = {
    "truth": "without noise",
    "observed": "as observed",
    "other_seed": "another sky of the mock",
    "half_alignment": "half of the filaments along the field",
    "east_west": "trained in the east, of the west",
}
_TRANSLATE = str.maketrans({"-": "−"})


def correlation_rows(records: Iterable[Record], step: str) -> list[Record]:
    """The records of a step in the order to show: test, validation, training; model and lambda.

    Parameters
    ----------
    records : iterable of mapping
        The ``records`` of ``metrics.json``; those of other steps are passed over.
    step : str
    """
    mine = [r for r in records if r.get("step") == step and r.get("r50") is not None]
    return sorted(
        mine,
        key=lambda r: (_set_place(r), model_place(r["model"]), r.get("lambda") or 0),
    )


def correlation_table(rows: Sequence[Record]) -> Markup:
    """Correlations and wins as an HTML ``<table>``, empty for no rows."""
    body = [
        [
            _name(row),
            _SETS.get(row.get("set", ""), str(row.get("set", "–"))),
            *(_with_error(row, f"r{scale}") for scale in _SCALES),
            *(_wins(row, scale) or "–" for scale in _SCALES),
        ]
        for row in rows
    ]
    return render_table(["Model", "Set", *_WIN_HEADS], body)


def correlation_text(rows: Sequence[Record], title: str) -> Table:
    """Correlations and wins for the terminal."""
    table = Table(title=title, show_lines=False)
    table.add_column("Model")
    for head in _WIN_HEADS:
        table.add_column(head, justify="right")
    for row in rows:
        cells = [str(_with_error(row, f"r{scale}")) for scale in _SCALES]
        table.add_row(_name(row), *cells, *(_wins_text(row, scale) for scale in _SCALES))
    return table


def polarised_rows(records: Iterable[Record]) -> list[Record]:
    """The records of polarisation in the order to show: by target, then model."""
    mine = [r for r in records if r.get("step") == "polarisation"]
    order = list(_TARGETS)
    return sorted(mine, key=lambda r: (order.index(r["target"]), model_place(r["model"])))


def polarised_table(rows: Sequence[Record]) -> Markup:
    """Correlations of E and B as an HTML ``<table>``, empty for no rows."""
    return render_table(_POLARISED_HEADS, [_polarised_cells(row) for row in rows])


def polarised_text(rows: Sequence[Record], title: str) -> Table:
    """Correlations of E and B for the terminal."""
    table = Table(*_POLARISED_HEADS, title=title)
    for row in rows:
        table.add_row(*map(str, _polarised_cells(row)))
    return table


def _polarised_cells(row: Record) -> list[str | Cell]:
    keys = [f"spectrum_{letter}{scale}" for scale in _SCALES for letter in "eb"]
    of = _TARGETS[row["target"]]
    return [model_name(row["model"]), of, *(_with_error(row, key) for key in (*keys, "alignment"))]


def unpredictable_table(records: Iterable[Record]) -> Markup:
    """What of the dust's variance no gas can tell, by scale; empty for no such records."""
    parts = ("unpredictable", "orientation", "radiation", "background", "noise")
    body = [
        [f"{row['ell_low']} ≤ ℓ < {row['ell_high']}", *(f"{row[p]:.1%}" for p in parts)]
        for row in records
        if row.get("step") == "unpredictable"
    ]
    head = (
        "Scale", "Unpredictable", "Orientation of grains", "Radiation field",
        "Infrared background", "Detector noise",
    )  # fmt: skip
    return render_table(head, body)


def coverage_table(records: Iterable[Record]) -> Markup:
    """How often the dust lies within the error stated; empty for no such records."""
    rows = [r for r in records if r.get("step") == "coverage"]
    body = [
        [
            _SETS.get(row["set"], str(row["set"])),
            "all" if row["bin"] == 0 else f"{row['low']:.3g} to {row['high']:.3g}",
            f"{row['n']:,.0f}",
            Cell(f"{row['within1']:.1%}"),
            Cell(f"{row['within2']:.1%}"),
            f"{row['rms']:.3g}",
            f"{row['std']:.3g}",
            f"{row['bias']:+.2g}".translate(_TRANSLATE),
        ]
        for row in rows
    ]
    stated = rows[0].get("unit", NO_UNIT) if rows else NO_UNIT
    unit = "" if stated == NO_UNIT else f" [{stated}]"
    head = (
        "Region", f"Prediction{unit}", "Pixels", "Within one error", "Within two errors",
        f"Rms missed{unit}", f"Error stated, rms{unit}", f"Mean missed{unit}",
    )  # fmt: skip
    return render_table(head, body)


def cleaning_table(records: Iterable[Record]) -> Markup:
    """Percent of the dust's power that each template leaves, by scale; empty for no records."""
    rows = [r for r in records if r.get("step") == "cleaning"]
    bins = sorted({(r["ell_low"], r["ell_high"]) for r in rows})
    cells = {(r["frequency_ghz"], r["model"], r["ell_low"]): r for r in rows}
    lines = sorted({key[:2] for key in cells}, key=lambda key: (key[0], model_place(key[1])))
    body = [
        [
            f"{frequency:g} GHz",
            model_name(model),
            *(_left(cells.get((frequency, model, low))) for low, _ in bins),
        ]
        for frequency, model in lines
    ]
    head = ["Band", "Template", *(f"{low} ≤ ℓ < {high} [%]" for low, high in bins)]
    return render_table(head, body)


def polarised_cleaning_table(records: Iterable[Record]) -> Markup:
    """BB of the dust that each template leaves, and r with it; empty for no such records."""
    rows = [r for r in records if r.get("step") == "polarised_cleaning" and "r_bias" in r]
    rows.sort(key=lambda r: (r["frequency_ghz"], template_place(r["model"])))
    body = [
        [
            f"{row['frequency_ghz']:g} GHz",
            template_name(row["model"]),
            Cell(f"{100 * row['share']:.3g}"),
            *(cell for end in ("", "_dust_free") for cell in _biased(row, end)),
        ]
        for row in rows
    ]
    fits = ("r alone", "r and dust")
    ends = [f"{what}, {fit} [10⁻³]" for fit in fits for what in ("Bias of r", "error of r")]
    return render_table(["Band", "Template", "BB left [%]", *ends], body)


def _biased(row: Record, end: str) -> tuple[Cell, str]:
    bias, sem, error = (
        row[f"r_{what}"] for what in (f"bias{end}", f"bias{end}_sem", f"error{end}")
    )
    below = "" if sem is None else f"± {1e3 * sem:.2g}"
    value = Cell(f"{1e3 * bias:.3g}".translate(_TRANSLATE), below)
    return value, "–" if error is None else f"{1e3 * error:.3g}"


def _set_place(row: Record) -> int:
    return ["test", "validation", "train"].index(row.get("set", "test"))


def _left(row: Record | None) -> str | Cell:
    if row is None:
        return "–"
    scatter = row.get("share_std")
    return Cell(f"{100 * row['share']:.3g}", "" if scatter is None else f"± {100 * scatter:.2g}")


def _name(row: Record) -> str:
    name = model_name(row["model"])
    if row.get("step") == "lambda" and row.get("lambda") is not None:
        name = f"{name}, λ = {row['lambda']:g}"
    return name


def _with_error(row: Record, key: str) -> Cell:
    error = row.get(f"{key}_sem")
    return Cell(f"{row[key]:.4f}", "" if error is None else f"± {error:.4f}")


def _wins(row: Record, scale: str) -> Cell | None:
    share, error = row.get(f"wins{scale}"), row.get(f"wins{scale}_sem")
    paper = row.get(f"paper_wins{scale}")
    if share is None:
        return None
    return Cell(
        f"{share:.1%}",
        "" if error is None else f"± {100 * error:.1f}",
        "" if paper is None else f"paper {paper:.1%}",
    )


def _wins_text(row: Record, scale: str) -> str:
    wins = _wins(row, scale)
    if wins is None:
        return "–"
    return f"{wins.value} ({wins.below})" if wins.below else wins.value
