"""Errors and warnings of foreglow: what was expected, what it got and what to do."""

import sys
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from types import FrameType

# of a context manager's code, which stands between a line of ours and that which entered it
_BETWEEN = ("foreglow", "contextlib")


class ForeglowError(Exception):
    """A mistake a user can mend; the command line prints it and exits with 2."""


class MapError(ForeglowError):
    """A sky map that cannot be used as it is (unit, ordering, frame, pixels, file)."""


class InstrumentError(ForeglowError):
    """Bands that do not make the instrument asked for."""


class ShapeError(ForeglowError):
    """Arrays whose shapes do not agree."""


class ModelError(ForeglowError):
    """A model directory that is missing, damaged or made for something else."""


class SkyError(ForeglowError):
    """A source of sky templates that cannot be read."""


class RunError(ForeglowError):
    """A run directory that cannot be written, continued or reported."""


class DataError(ForeglowError):
    """A public data product that is unknown, cannot be fetched or is not what it should be."""


class WriteError(ForeglowError):
    """A file or folder that cannot be written: no room, no permission, no such folder."""


def with_nearest(unknown: str, known: Iterable[str]) -> str:
    """Name what is not known and, if a known name is near, that which may be meant.

    Examples
    --------
    >>> with_nearest("epoch", ["epochs", "steps"]), with_nearest("steps", ["epochs", "steps"])
    ('epoch (do you mean epochs?)', 'steps')
    """
    nearest = get_close_matches(unknown, list(known), 1)
    return (
        f"{unknown} (do you mean {nearest[0]}?)" if nearest and nearest[0] != unknown else unknown
    )


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line outside foreglow that led here, which is the user's.

    Parameters
    ----------
    message : str
    category : type of Warning
    """
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and _is_between(frame):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _is_between(frame: FrameType) -> bool:
    """Whether a frame is ours; by its module, for methods of dataclasses have no file."""
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in _BETWEEN
