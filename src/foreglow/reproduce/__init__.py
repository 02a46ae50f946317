"""Every table and figure of the papers that foreglow began with, and what they leave open."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.table import Table

from foreglow.compute.workers import MapFn
from foreglow.errors import RunError
from foreglow.extras import require

require("train", "report")  # before its steps import what they need

PAPERS = ("farsian2020", "zhang2019")


def reproduce(
    paper: str,
    out: Path,
    scale: str,
    sky: str = "mock",
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    map_fn: MapFn = map,
    download: bool = False,
) -> Path:
    """Reproduce a paper; see the function of that name in its package.

    Parameters
    ----------
    paper : str
        One of `PAPERS`.
    out, scale, sky, seed, device, resume, map_fn
        As there.
    download : bool
        Fetch the public data that `sky` names and that is not there; zhang2019 alone.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    RunError
        If the paper is unknown, or there is nothing to download for it.
    """
    package, given = _package(paper), (out, scale, sky, seed, device, resume, map_fn)
    if paper == "zhang2019":
        return package.reproduce(*given, download)
    if download:
        raise RunError(
            f"expected download=True with zhang2019 and sky='hi4pi', got {paper}; leave it out."
        )
    return package.reproduce(*given)


def printed_tables(paper: str, folder: Path) -> list[Table]:
    """The main tables of a run for the terminal."""
    return _package(paper).printed_tables(read_records(folder))


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The records of a run's metrics.json."""
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["records"]


def _package(paper: str) -> Any:
    if paper not in PAPERS:
        raise RunError(f"expected the paper {' or '.join(PAPERS)}, got {paper!r}.")
    return import_module(f"foreglow.reproduce.{paper}")
