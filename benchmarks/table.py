"""Tables and figure of docs/performance.md, from benchmarks/results.json and survey.json.

`python benchmarks/table.py` writes them, `python benchmarks/table.py --check` says whether the page
is that of the results.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from performance_figure import draw
from survey import recorded
from survey_table import limited_table, paper_table, survey_table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results.json"
PAGE = ROOT / "docs" / "performance.md"
FIGURE = ROOT / "docs" / "images" / "performance.png"

Row = Mapping[str, Any]

# what the tables need of the rows of a benchmark; of others, which are side by side, see `problems`
FIELDS = {
    "machine": {"what", "unit", "per_s", "slowest", "fastest"},
    "limit": {"stage", "unit", "bound", "limit_per_s", "per_s", "share", "left"},
    "accuracy": {"what", "value", "vectors", "seconds", "noise_scale", "problem", "n"},
    "memory of classification": {"nside", "peak_mib", "peak_before_mib", "pixels_per_s_from_fits"},
    "full sky fit": {"nside", "model", "added_mib", "pixels_per_s_from_file_to_file"},
}
SIZED = {"stage", "job", "unit", "size", "seconds", "least", "most", "repeats"}
FITTED = {"stage", "job", "unit", "exponent", "error", "expected", "left_out"}
RATE = {"unit", "per_s", "slowest", "fastest"}
COMPARED = {"what", "unit", "beside", "ratio", "lowest", "highest", "per_s", "beside_per_s"}


def problems(rows: list[Row]) -> list[str]:
    """Rows that lack what the tables need, in words; none if all is well."""
    found = []
    for row in rows:
        missing = {"benchmark", "device", *_fields(row)} - row.keys()
        if missing:
            found.append(f"{dict(row)} lacks {', '.join(sorted(missing))}")
    return found


def _fields(row: Row) -> set[str]:
    if (benchmark := row.get("benchmark")) in FIELDS:
        return FIELDS[benchmark]
    if benchmark == "cost":
        return SIZED if "size" in row else FITTED
    if "beside" in row:
        return COMPARED
    return RATE if "per_s" in row else {"what"}


def machine_table(table: Row) -> Iterator[str]:
    """What the machine can do."""
    about, versions = table["machine"], table["versions"]
    cuda = f", {about['cuda']}" if about["cuda"] else ""
    yield f"{about['processor']}, {about['cores']} cores, {about['threads']} threads{cuda};"
    yield f"{table['date']}; " + ", ".join(f"{k} {v}" for k, v in versions.items()) + "."
    yield f"Load average of the last 15 minutes of the run: {about['load']:g}; where nothing else"
    yield f"runs, at most {about['cores']}."
    yield ""
    yield "| | device | a second: median | least | most |"
    yield "|---|---|---|---|---|"
    for row in _of(table, "machine"):
        scale, unit = (1e9, f"10⁹ {row['unit']}")
        values = " | ".join(f"{row[k] / scale:.3g}" for k in ("per_s", "slowest", "fastest"))
        yield f"| {row['what']} [{unit}] | {row['device']} | {values} |"


def side_table(table: Row) -> Iterator[str]:
    """Ours beside what a user would pick instead."""
    yield "| work | foreglow, a second | instead | a second | ratio: median (least to most) |"
    yield "|---|---|---|---|---|"
    for row in compared(table):
        ratio = (
            f"**{_number(row['ratio'])}** ({_number(row['lowest'])} to {_number(row['highest'])})"
        )
        yield (
            f"| {label(row)} | {_number(row['per_s'])} {row['unit']} | {row['beside']} | "
            f"{_number(row['beside_per_s'])} | {ratio} |"
        )


def compared(table: Row) -> list[Row]:
    """Rows of ratios; of fits, with all threads, each other program's best threads."""
    rows = [r for r in table["results"] if "beside" in r and r["benchmark"] != "settings"]
    threads = table["machine"]["threads"]
    return [r for r in rows if r["benchmark"] != "fit" or r.get("threads") == threads]


def label(row: Row) -> str:
    """What the row is about, in words."""
    parts = [row["benchmark"], row.get("model", "").replace("_", " ")]
    parts += row["what"].split(", ")[1:]
    device = f" ({row['device']})" if row["device"] != "cpu" else ""
    return ", ".join(filter(None, parts)) + device


def accuracy_table(table: Row) -> Iterator[str]:
    """Accuracies after the same seconds of training."""
    rows = _of(table, "accuracy")
    if rows:
        first = rows[0]
        yield (
            f"After {first['seconds']:g} s of training on this machine, on {first['n']:,} new "
            f"vectors of problem `{first['problem']}` at {first['noise_scale']:g} times the noise "
            "of Table 1:"
        )
        yield ""
    yield "| | vectors seen | accuracy [%] |"
    yield "|---|---|---|"
    for row in rows:
        yield f"| {row['what']} | {_number(row['vectors'])} | {100 * row['value']:.1f} |"


def cost_table(table: Row) -> Iterator[str]:
    """Times at four sizes and the exponent."""
    yield "| stage | device | seconds at four sizes | exponent | not in the time |"
    yield "|---|---|---|---|---|"
    for end in (r for r in _of(table, "cost") if "exponent" in r):
        sizes = [
            r for r in sized(table) if (r["stage"], r["device"]) == (end["stage"], end["device"])
        ]
        times = ", ".join(f"{_number(r['size'])}: {r['seconds']:.2g}" for r in sizes)
        yield (
            f"| {end['stage']} | {end['device']} | {end['unit']} {times} | {end['exponent']:.2f} ± "
            f"{end['error']:.2f} | {end['left_out']} |"
        )


def sized(table: Row) -> list[Row]:
    """Rows of the time of a size."""
    return [r for r in _of(table, "cost") if "size" in r]


def limit_table(table: Row) -> Iterator[str]:
    """How near each stage is to what the machine can do."""
    yield "| stage | device | a second | limit, a second | set by | share | what is left |"
    yield "|---|---|---|---|---|---|---|"
    for row in _of(table, "limit"):
        yield (
            f"| {row['stage']} | {row['device']} | {_number(row['per_s'])} {row['unit']} | "
            f"{_number(row['limit_per_s'])} | {row['bound']} | {100 * row['share']:.2g}% | "
            f"{row['left']} |"
        )


def settings_table(table: Row) -> Iterator[str]:
    """Rates without each setting, over those with all."""
    rows = _of(table, "settings")
    names = list(dict.fromkeys(r["what"] for r in rows if "beside" in r))
    yield "| stage | as the command line, a second | " + " | ".join(names) + " |"
    yield "|---|---|" + "---|" * len(names)
    for row in (r for r in rows if "beside" not in r):
        others = {r["what"]: r for r in rows if r["stage"] == row["stage"] and "beside" in r}
        ratios = [
            f"{others[n]['ratio']:.2f} ({others[n]['lowest']:.2f} to {others[n]['highest']:.2f})"
            for n in names
        ]
        yield f"| {row['stage']} | {_number(row['per_s'])} {row['unit']} | {' | '.join(ratios)} |"


def memory_table(table: Row) -> Iterator[str]:
    """Memory and rates from file to file."""
    yield "| work | Nside | MiB, the process before | MiB added | pixels a second, file to file |"
    yield "|---|---|---|---|---|"
    for row in _of(table, "memory of classification"):
        added = row["peak_mib"] - row["peak_before_mib"]
        yield (
            f"| classify | {row['nside']} | {row['peak_before_mib']:.0f} | {added:.0f} | "
            f"{_number(row['pixels_per_s_from_fits'])} |"
        )
    for row in (r for r in table["results"] if "memory" in r):
        yield (
            f"| {row['benchmark'].split()[0]}, {row['bands']} bands, at most {row['memory']} | "
            f"{row['nside']} | {row['peak_before_mib']:.0f} | "
            f"{row['peak_mib'] - row['peak_before_mib']:.0f} | {_number(row['per_s'])} |"
        )
    for row in _of(table, "full sky fit"):
        yield (
            f"| fit, {row['model'].replace('_', ' ')} | {row['nside']} | "
            f"{row['peak_before_mib']:.0f} | {row['added_mib']:.0f} | "
            f"{_number(row['pixels_per_s_from_file_to_file'])} |"
        )


TABLES: dict[str, Callable[[Row], Iterator[str]]] = {
    "machine": machine_table,
    "side by side": side_table,
    "accuracy": accuracy_table,
    "cost": cost_table,
    "limits": limit_table,
    "settings": settings_table,
    "memory": memory_table,
    "survey": lambda _: survey_table(recorded()),
    "a thousand skies": lambda _: paper_table(recorded()),
    "limited workers": lambda _: limited_table(recorded()),
}


def filled(page: str, table: Row) -> str:
    """The page with its tables between the marks `<!-- begin NAME -->` and `<!-- end NAME -->`.

    Raises
    ------
    ValueError
        If the page has no place for a table.
    """
    for name, make in TABLES.items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        if page.count(begin) != 1 or page.count(end) != 1:
            raise ValueError(f"{PAGE}: expected one {begin.strip()} and one {end}")
        before, rest = page.split(begin)
        page = before + begin + "\n" + "\n".join(make(table)) + "\n\n" + end + rest.split(end)[1]
    return page


def _of(table: Row, benchmark: str) -> list[Row]:
    return [row for row in table["results"] if row["benchmark"] == benchmark]


def _number(value: float) -> str:
    """Three digits, thousands apart."""
    if value >= 1e6:
        return f"{value / 1e6:,.3g} million"
    if value >= 100:
        digits = len(str(int(value))) - 3
        return f"{round(value, -digits):,.0f}"
    return f"{value:.3g}"


def main(check: bool) -> int:
    """Write page and figure, or say whether the page is that of the results."""
    table = json.loads(RESULTS.read_text(encoding="utf-8"))
    if found := problems(table["results"]):
        print(*found, sep="\n")
        return 1
    old = PAGE.read_text(encoding="utf-8")
    new = filled(old, table)
    if check:
        same = old == new and FIGURE.is_file()
        print(f"{PAGE}: {'as the results' if same else 'not as the results: run this file'}")
        return 0 if same else 1
    PAGE.write_text(new, encoding="utf-8")
    draw(table, compared(table), label, FIGURE)
    print(f"written: {PAGE}, {FIGURE}")
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
