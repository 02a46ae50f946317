"""Shared fixtures."""

import os
from pathlib import Path

import pytest

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data():
    """Folder of the real maps, which are no part of the repository."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"REAL DATA ABSENT: this check needs {REAL_DATA}, see its README.md")
    return REAL_DATA


@pytest.fixture(scope="session", autouse=True)
def foreglow_cache(tmp_path_factory):
    """A cache of the session's own, so that CAMB runs once and nobody's cache is touched."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "FOREGLOW_CACHE", str(folder))
        yield folder
