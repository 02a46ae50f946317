"""Tables of a day in the life of a survey, from benchmarks/survey.json (see survey.py)."""

from collections.abc import Iterator, Mapping
from typing import Any

from survey import LIMITED, STAGES

Row = Mapping[str, Any]

SKIES, NODES = 1000, 100
# in whose place another stands in a day: those by two workers, and one of the two ways to a beam
_ALTERNATIVES = ("beam fine",)


def newest(rows: list[Row]) -> list[Row]:
    """Of each stage the row of the largest Nside, in the order of a day."""
    found = {}
    for row in sorted((r for r in rows if r["stage"] != LIMITED), key=lambda r: r["nside"]):
        found[row["stage"]] = row
    return [found[name] for name in STAGES if name in found]


def survey_table(rows: list[Row]) -> Iterator[str]:
    """Seconds, memory, rate and files of each stage."""
    chosen = newest(rows)
    if not chosen:
        return
    first, loads = chosen[0], [row["load"] for row in chosen]
    yield f"{first['processor']}, {first['cores']} cores; {chosen[-1]['date']}; load average of the"
    yield f'last 5 minutes {min(loads):g} to {max(loads):g}; `--memory "{first["memory"]}"`.'
    yield ""
    yield (
        "| stage | Nside | seconds | of processors | a second | MiB, largest process | MiB, all "
        "processes | GB written | GB on disk, most |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in chosen:
        memory = f"{row['peak_mib']:,.0f} | {row['all_mib']:,.0f}"
        start = f"| {row['what']} | {row['nside']} | "
        if row["code"] == 0:
            yield (
                f"{start}{row['seconds']:,.0f} | {row['cpu_seconds']:,.0f} | {_rate(row)} | "
                f"{memory} | {_gb(row['written_bytes'])} | {_gb(row['disk_bytes'])} |"
            )
        else:
            yield f"{start}refused: {row['said']} | | | {memory} | | |"


def paper_table(rows: list[Row]) -> Iterator[str]:
    """A thousand skies on a hundred nodes such as this machine, by what one sky took."""
    serial = [
        row
        for row in newest(rows)
        if row["code"] == 0 and "two" not in row["stage"] and row["stage"] not in _ALTERNATIVES
    ]
    yield (
        f"| stage | Nside | hours of {NODES} nodes for {SKIES:,} skies | TB read | TB written | GB "
        f"a second to and from the disk of {NODES} nodes |"
    )
    yield "|---|---|---|---|---|---|"
    hours = 0.0
    for row in serial:
        seconds = row["seconds"] * row["n_sky"] / row["n"]  # of a sky
        mine = SKIES / NODES * seconds / 3600
        hours += mine
        moved = NODES * (row["read_bytes"] + row["written_bytes"]) / seconds / 1e9
        yield (
            f"| {row['what'].split(';')[0]} | {row['nside']} | {mine:.2g} | "
            f"{SKIES * row['read_bytes'] / 1e12:.2g} | {SKIES * row['written_bytes'] / 1e12:.2g} | "
            f"{moved:.2g} |"
        )
    yield f"| all | | {hours:.2g} | | | |"


def limited_table(rows: list[Row]) -> Iterator[str]:
    """Commands on a scheduler and workers of 1 GiB each."""
    yield (
        "| command | Nside | `--memory` | exit code | seconds | MiB: worker | scheduler | command "
        "| worker processes | what was said |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for row in (r for r in rows if r["stage"] == LIMITED):
        yield (
            f"| {row['what']} | {row['nside']} | {row['memory']} | {row['code']} | "
            f"{row['seconds']:,.0f} | {row['worker_mib']:,.0f} | {row['scheduler_mib']:,.0f} | "
            f"{row['command_mib']:,.0f} | {row['workers_started']} | {row['said']} |"
        )


def _rate(row: Row) -> str:
    per_s = row["per_s"]
    return f"{per_s:,.0f} {row['unit']}" if per_s >= 10 else f"{per_s:.2g} {row['unit']}"


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2g}"
