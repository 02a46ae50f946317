"""A bar for long work, on a terminal and in a notebook."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from rich.console import Console

Progress: TypeAlias = Callable[[int, int], None]
"""Called with how much is done, and how much there is in all."""

Shown: TypeAlias = Progress | bool | None
"""What a user asks for: a function to call, a bar where it can be seen (None), or none (False)."""


@contextmanager
def shown(what: str, progress: Shown) -> Iterator[Progress]:
    """What to call as work goes on: the user's own function, or a bar of our own."""
    if callable(progress):
        yield progress
        return
    console = Console(stderr=True)
    with bar(what, console, progress is not False and console.is_terminal) as show:
        yield show


@contextmanager
def bar(what: str, console: Console, visible: bool) -> Iterator[Progress]:
    """A bar of rich, gone when the work is done."""
    from rich.progress import Progress as Bar

    with Bar(console=console, disable=not visible, transient=True) as drawn:
        task = drawn.add_task(what, total=None)
        yield lambda done, total: drawn.update(task, completed=done, total=total)
