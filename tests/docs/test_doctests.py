"""The examples of docstrings, which the API reference shows."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import foreglow

SOURCE = Path(foreglow.__file__).parent
MODULES = sorted(
    ".".join(("foreglow", *path.relative_to(SOURCE).with_suffix("").parts))
    for path in SOURCE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    found = doctest.testmod(import_module(name), optionflags=OPTIONS)
    assert found.attempted > 0
    assert found.failed == 0


def test_there_are_examples():
    assert {"foreglow.maps.conventions", "foreglow.sky.instrument_files"} <= set(MODULES)
