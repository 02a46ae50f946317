"""Optional parts of foreglow: what each is for, what it takes, and what to do without it."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from foreglow.errors import ForeglowError


@dataclass(frozen=True)
class Extra:
    """An optional part.

    Parameters
    ----------
    purpose : str
        What it is for, as the subject of a sentence about several things.
    modules : tuple of str
        What it imports.
    """

    purpose: str
    modules: tuple[str, ...]

    def absent(self) -> list[str]:
        """Modules that are not installed."""
        return [name for name in self.modules if find_spec(name) is None]


# the `optional-dependencies` of pyproject.toml
EXTRAS: Mapping[str, Extra] = {
    "simulate": Extra("simulated skies with a CMB", ("camb",)),
    "train": Extra("trainings", ("lightning", "camb")),
    "report": Extra("figures and reports", ("jinja2", "matplotlib", "PIL")),
    "cluster": Extra("Dask's workers", ("dask", "distributed", "dask_jobqueue")),
    "pysm": Extra("skies of PySM3", ("pysm3",)),
    "cubes": Extra("HI cubes made from image cubes", ("reproject",)),
}


def require(*names: str) -> None:
    """Check that extras are installed, before their modules are imported.

    Raises
    ------
    ForeglowError
        If one is not; it says how to install those that are missing.
    """
    missing = [name for name in names if EXTRAS[name].absent()]
    if not missing:
        return
    modules = dict.fromkeys(m for name in missing for m in EXTRAS[name].absent())
    raise ForeglowError(
        f"{' and '.join(EXTRAS[name].purpose for name in missing)} need {', '.join(modules)}, "
        f"not installed here; install the extra {' and '.join(missing)}: {command(*missing)}"
    )


def command(*names: str) -> str:
    """What installs extras into this Python, to be given to a shell."""
    return f"{shlex.quote(sys.executable)} -m pip install 'foreglow[{','.join(names)}]'"
