"""Tables of accuracy beside the paper's, from the flat records of ``metrics.json``.

Table 2 is training and testing without noise, Table 3 testing with noise after each regime of
training (Farsian et al. 2020).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from markupsafe import Markup
from rich.table import Table

from foreglow.report.page.page import Cell, render_table

Record = Mapping[str, Any]
"""One record of ``metrics.json``."""

COLUMNS: dict[int, dict[str, str]] = {
    2: {"train": "Training set", "validation": "Validation set", "test": "Test set"},
    3: {
        "noiseless": "Trained without noise",
        "one_noise": "Trained on one noise realisation",
        "many_noise": "Trained on many noise realisations",
        "ceiling": "Ceiling, one pixel",
    },
}
"""Key and heading of the columns of each table."""

_TITLES = {
    2: "Without noise (the paper's Table 2)",
    3: "Test skies with Table 1 noise (the paper's Table 3)",
}

_REGULAR = ("halves", "quadrants")  # the paper's layouts of the models on the sky

METHODS = {
    "chi2": "Fits, reduced χ²",
    "aic": "Fits, AIC",
    "bic": "Fits, BIC",
    "evidence": "Fits, evidence",
    "chi2_known_c": "Fits that know C, reduced χ²",
    "evidence_known_c": "Fits that know C, evidence",
}
"""Methods of single pixels that are not trained, in words."""

PROBLEMS = {
    "curvature": "power law or curved",
    "ame": "with or without AME",
    "four": "four models",
}
"""Problems in the paper's order, in words."""


@dataclass(frozen=True)
class Score:
    """An accuracy, its error and what the paper has in the same place.

    Attributes
    ----------
    accuracy : float in [0, 1]
    error : float or None
        Binomial standard error; None where the number of pixels is not known.
    paper : float or None
    """

    accuracy: float
    error: float | None = None
    paper: float | None = None


@dataclass(frozen=True)
class AccuracyRow:
    """A network and a problem in Table 2 or 3.

    Attributes
    ----------
    table : {2, 3}
    problem, network, context : str
        As in the records.
    scores : mapping of str to Score
        By column (see `COLUMNS`); a column that was not run is missing.
    """

    table: Literal[2, 3]
    problem: str
    network: str
    context: str
    scores: Mapping[str, Score] = field(default_factory=dict)


@dataclass(frozen=True)
class MethodRow:
    """A method of recognition on noisy test skies.

    Attributes
    ----------
    name : str
        In words.
    scores : mapping of str to Score
        By problem.
    """

    name: str
    scores: Mapping[str, Score]


def problem_place(problem: str) -> int:
    """Place of a problem in the paper's order; any other comes last."""
    order = list(PROBLEMS)
    return order.index(problem) if problem in order else len(order)


def binomial_error(accuracy: float, n_pixels: int) -> float:
    """Standard error of an accuracy measured on so many pixels.

    Parameters
    ----------
    accuracy : float in [0, 1]
    n_pixels : int

    Returns
    -------
    float
        sqrt(p (1 - p) / n) with p = (k + 1) / (n + 2) for k right pixels, so that a perfect score
        does not claim to be exact. Pixels count as independent.
    """
    share = (accuracy * n_pixels + 1) / (n_pixels + 2)
    return (share * (1 - share) / n_pixels) ** 0.5


def accuracy_rows(records: Iterable[Record], table: Literal[2, 3]) -> list[AccuracyRow]:
    """Rows of Table 2 or 3, a network and problem each.

    Parameters
    ----------
    records : iterable of mapping
        The ``records`` of ``metrics.json``. Where two fill one cell the later one stands.
    table : {2, 3}

    Returns
    -------
    list of AccuracyRow
        In the paper's order of problems, then in order of appearance. The ceiling of a problem
        stands in each of its rows of Table 3.
    """
    cells: dict[tuple[str, str, str], dict[str, Score]] = {}
    ceilings: dict[str, dict[str, Score]] = {}
    for record in (record for record in records if _table_of(record) == table):
        problem = str(record.get("problem", ""))
        if record.get("method") == "ceiling":
            ceilings[problem] = {"ceiling": _score(record)}
            continue
        key = (problem, str(record.get("network", "")), str(record.get("context") or "pixel"))
        column = record["set"] if table == 2 else record["training"]
        cells.setdefault(key, {})[column] = _score(record)
    rows = [
        AccuracyRow(table, *key, {**scores, **ceilings.get(key[0], {})})
        for key, scores in cells.items()
    ]
    return sorted(rows, key=lambda row: problem_place(row.problem))


def method_rows(records: Sequence[Record]) -> list[MethodRow]:
    """Choice by fits at Table 1 noise, and beside it the networks and the ceiling.

    Parameters
    ----------
    records : sequence of mapping
        The ``records`` of ``metrics.json``. Where two fill one cell the later one stands.

    Returns
    -------
    list of MethodRow
        Fits in the order of `METHODS`, networks as trained on many noise realisations, ceiling,
        and networks with spatial context on the paper's layouts; empty if nothing was fitted.
    """
    fitted: dict[str, dict[str, Score]] = {name: {} for name in METHODS}
    for record in records:
        if record.get("method") in METHODS and _is_noisy_test(record):
            fitted[record["method"]][str(record.get("problem", ""))] = _score(record)
    rows = [MethodRow(METHODS[name], scores) for name, scores in fitted.items() if scores]
    beside: dict[str, dict[str, Score]] = {}
    ceiling: dict[str, Score] = {}
    for row in accuracy_rows(records, 3):
        if "many_noise" in row.scores:
            name = f"Network {_network_name(row)}"
            beside.setdefault(name, {})[row.problem] = row.scores["many_noise"]
        if "ceiling" in row.scores:
            ceiling[row.problem] = row.scores["ceiling"]
    if ceiling:
        beside[COLUMNS[3]["ceiling"]] = ceiling
    for record in records:
        if record.get("spatial") and _is_noisy_test(record) and record.get("layout") in _REGULAR:
            name = (
                f"Network {record['network']}, neighbours by {record['spatial']}"
                if record["network"]
                else "Fits, evidence of patches of Nside 4"
            )
            beside.setdefault(name, {})[str(record["problem"])] = _score(record)
    return rows + [MethodRow(name, scores) for name, scores in beside.items()] if rows else []


def rich_table(rows: Sequence[AccuracyRow]) -> Table:
    """Rows of one table for the terminal.

    Parameters
    ----------
    rows : sequence of AccuracyRow

    Returns
    -------
    rich.table.Table
    """
    head, body = _cells(rows)
    table = Table(show_lines=True, title=_TITLES[rows[0].table] if rows else None)
    for index, name in enumerate(head):
        table.add_column(name, justify="left" if index < 2 else "right")
    for line in body:
        table.add_row(*map(str, line))
    return table


def html_table(rows: Sequence[AccuracyRow]) -> Markup:
    """Rows of one table as an HTML ``<table>``, empty for no rows.

    Parameters
    ----------
    rows : sequence of AccuracyRow
    """
    return render_table(*_cells(rows))


def method_table(rows: Sequence[MethodRow]) -> Markup:
    """Rows of methods as an HTML ``<table>``, empty for no rows.

    Parameters
    ----------
    rows : sequence of MethodRow
    """
    columns = {key: name for key, name in PROBLEMS.items() if any(key in r.scores for r in rows)}
    body = [[row.name, *_in_columns(row.scores, columns)] for row in rows]
    return render_table(["Method", *columns.values()], body)


def _table_of(record: Record) -> Literal[2, 3] | None:
    if record.get("accuracy") is None or record.get("class") is not None:
        return None  # not a score, or the score of one class
    noise, method = record.get("noise", "none"), record.get("method", "network")
    if noise == "none" and method == "network":
        in_table = record.get("training") == "noiseless" and record.get("set") in COLUMNS[2]
        return 2 if in_table else None
    trained = method == "network" and record.get("training") in COLUMNS[3]
    return 3 if _is_noisy_test(record) and (trained or method == "ceiling") else None


def _is_noisy_test(record: Record) -> bool:
    """Whether it is a score over all classes of test skies at Table 1 noise."""
    whole = record.get("accuracy") is not None and record.get("class") is None
    tested = record.get("set") == "test" and record.get("noise_scale") in (None, 1)
    return whole and tested and record.get("noise") == "table1"


def _score(record: Record) -> Score:
    accuracy, n_pixels = float(record["accuracy"]), record.get("n_pixels")
    error = binomial_error(accuracy, int(n_pixels)) if n_pixels else None
    return Score(accuracy, error, record.get("paper"))


def _cells(rows: Sequence[AccuracyRow]) -> tuple[list[str], list[list[str | Cell]]]:
    columns = {
        key: name
        for key, name in (COLUMNS[rows[0].table] if rows else {}).items()
        if any(key in row.scores for row in rows)
    }
    body = [
        [
            PROBLEMS.get(row.problem, row.problem),
            _network_name(row),
            *_in_columns(row.scores, columns),
        ]
        for row in rows
    ]
    return ["Problem", "Network", *columns.values()], body


def _in_columns(scores: Mapping[str, Score], columns: Iterable[str]) -> list[str | Cell]:
    return [_percent(scores[key]) if key in scores else "–" for key in columns]


def _network_name(row: AccuracyRow) -> str:
    return row.network if row.context == "pixel" else f"{row.network}, {row.context}"


def _percent(score: Score) -> Cell:
    """Accuracy, its error and the paper's figure with the difference, as text."""
    value = f"{100 * score.accuracy:.1f}%"
    error = ""
    if score.error is not None:
        error = f"± {100 * score.error:.1f}" if score.error >= 5e-4 else "± <0.1"
    beside = ""
    if score.paper is not None:
        difference = f"{100 * (score.accuracy - score.paper):+.1f}".replace("-", "−")
        # the paper gives whole percents; a decimal would claim more than it says
        beside = f"paper {100 * score.paper:.3g}% ({difference})"
    return Cell(value, error, beside)
