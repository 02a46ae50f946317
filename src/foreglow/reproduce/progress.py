"""How far a loop over realisations has come, as lines of the log."""

import logging
from collections.abc import Iterable, Iterator
from typing import TypeVar

log = logging.getLogger("foreglow")

_LEAST = 10
_T = TypeVar("_T")


def log_progress(results: Iterable[_T], total: int, what: str) -> Iterator[_T]:
    """Results as they come; each tenth of ten or more is logged.

    Parameters
    ----------
    results : iterable
    total : int
    what : str
        Begins the line.
    """
    for done, result in enumerate(results, start=1):
        if total >= _LEAST and 10 * done // total > 10 * (done - 1) // total:
            log.info("%s: %d of %d", what, done, total)
        yield result
