"""What commands print, and what they read of `NAME=VALUE`."""

import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from foreglow.errors import ForeglowError

console = Console()
_LONG_WORD = 24


def start_logging(level: int) -> None:
    """Send what the library logs to the console: plain lines where it is no terminal."""
    logger = logging.getLogger("foreglow")
    logger.setLevel(logging.INFO)
    handler = RichHandler(console=console, show_path=False, show_level=False)
    if not console.is_terminal:
        handler = logging.StreamHandler(console.file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.setLevel(level)
    logger.handlers[:] = [handler]
    logger.propagate = False


def leave_output_to_json(as_json: bool) -> bool:
    """With --json, send all else to standard error, so that the output can be piped."""
    global console
    if as_json:
        console = Console(stderr=True)
        logger = logging.getLogger("foreglow")
        start_logging(logger.handlers[0].level if logger.handlers else logging.INFO)
    return as_json


def show(
    tables: Iterable[Table | str], records: Sequence[Mapping[str, Any]], as_json: bool
) -> None:
    """Print tables and the lines between them, or the records they were made of as JSON.

    In a table wider than the screen lines are broken, but not a column of single words.
    """
    if as_json:
        sys.stdout.write(json.dumps(list(records), indent=1) + "\n")
        return
    for table in tables:
        if isinstance(table, str):
            say(table)
            continue
        for column in table.columns:
            column.overflow = "fold"
            cells = [str(cell) for cell in column.cells]
            column.no_wrap = all(" " not in cell and len(cell) < _LONG_WORD for cell in cells)
        console.print(table)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; yields what to call with the number done and the number in all."""
    from foreglow.compute.progress import bar

    with bar(what, console, console.is_terminal) as show:
        yield show


def say(text: str) -> None:
    """Print a line as it is: a path is neither markup nor to be broken."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def pairs(texts: list[str], option: str) -> dict[str, str]:
    """The values of an option that is given as BAND=VALUE, by band."""
    found = {}
    for text in texts:
        band, equals, value = text.partition("=")
        if not (equals and band and value):
            raise ForeglowError(f"expected {option} BAND=VALUE, got {text!r}.")
        if band in found:
            raise ForeglowError(f"{option} names band {band} twice; give it once.")
        found[band] = value
    return found
