"""Table of what is left in the CMB by each choice of models, from the records of metrics.json."""

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from foreglow.report.page.page import Cell, render_table
from foreglow.report.page.tables import PROBLEMS, Record, problem_place

_HEAD = (
    "Noise", "Problem", "Models fitted", "Residual rms [nK]", "over the truth's",
    "Residual BB [10⁻⁶ µK²]", "over the truth's", "Bias of r [10⁻³]", "error of r [10⁻³]",
)  # fmt: skip


def cleaning_rows(records: Iterable[Record]) -> list[Record]:
    """The records of component separation away from the Galactic plane, in order to show.

    Parameters
    ----------
    records : iterable of mapping
        The ``records`` of ``metrics.json``; those of other methods, and of the full sky, are
        passed over.
    """
    mine = [r for r in records if r.get("method") == "separation" and r["region"] != "full sky"]
    return sorted(mine, key=lambda r: (-float(r["noise_scale"]), problem_place(r["problem"])))


def cleaning_table(rows: Sequence[Record]) -> Markup:
    """Rows as an HTML ``<table>``, empty for no rows."""
    return render_table(_HEAD, map(_line, rows))


def _line(row: Record) -> list[str | Cell]:
    return [
        f"{row['noise_scale']:g}",
        PROBLEMS.get(row["problem"], str(row["problem"])),
        row["option"],
        _with_error(row, "rms", 1e3, 2),
        _with_error(row, "rms_over_truth", 1, 3),
        _with_error(row, "bb", 1e6, 3),
        _with_error(row, "bb_over_truth", 1, 2),
        _with_error(row, "r_bias", 1e3, 3),
        f"{1e3 * row['r_error']:.3f}",
    ]


def _with_error(row: Record, name: str, unit: float, digits: int) -> Cell:
    value, error = row[name] * unit, row.get(f"{name}_sem")
    return Cell(f"{value:.{digits}f}", "" if error is None else f"± {error * unit:.{digits}f}")
