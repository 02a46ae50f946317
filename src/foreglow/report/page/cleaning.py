"""Table of what is left in the CMB by each choice of models, from the records of metrics.json."""

import html
from collections.abc import Iterable, Sequence

from foreglow.report.page.tables import PROBLEMS, Record, problem_place

_HEAD = (
    "Noise", "Problem", "Models fitted", "Residual rms [nK]", "over the truth's",
    "Residual BB [10⁻⁶ µK²]", "over the truth's",
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


def cleaning_table(rows: Sequence[Record]) -> str:
    """Rows as an HTML ``<table>``, everything escaped; empty for no rows."""
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in _HEAD)
    body = "".join(_line(row) for row in rows)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n"


def _line(row: Record) -> str:
    cells = [
        html.escape(PROBLEMS.get(row["problem"], str(row["problem"]))),
        html.escape(row["option"]),
        _with_error(row, "rms", 1e3, 2),
        _with_error(row, "rms_over_truth", 1, 3),
        _with_error(row, "bb", 1e6, 3),
        _with_error(row, "bb_over_truth", 1, 2),
    ]
    data = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr><th scope="row">{row["noise_scale"]:g}</th>{data}</tr>\n'


def _with_error(row: Record, name: str, unit: float, digits: int) -> str:
    value, error = row[name] * unit, row.get(f"{name}_sem")
    text = f"<strong>{value:.{digits}f}</strong>"
    return text if error is None else f"{text} <small>± {error * unit:.{digits}f}</small>"
