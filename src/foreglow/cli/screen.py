"""What commands print, and what they read of `NAME=VALUE`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from foreglow.errors import ForeglowError

console = Console()


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; yields what to call with the number done and the number in all."""
    from rich.progress import Progress

    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def say(text: str) -> None:
    """Print a line as it is: a path is neither markup nor to be broken."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def pairs(texts: list[str], option: str) -> dict[str, str]:
    """The values of an option that is given as BAND=VALUE, by band."""
    found = {}
    for text in texts:
        band, equals, value = text.partition("=")
        if not (equals and band and value):
            raise ForeglowError(f"expected {option} BAND=VALUE, but {text!r} came.")
        if band in found:
            raise ForeglowError(f"{option} names band {band} twice; give it once.")
        found[band] = value
    return found
