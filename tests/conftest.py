"""Shared fixtures."""

import logging
import os
import sys
import warnings
from pathlib import Path

import healpy as hp
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from rich.console import Console

import forked
from foreglow import cli
from foreglow.cli import screen
from foreglow.compute.workers import open_workers
from foreglow.maps.write import write_maps
from foreglow.sky import seds

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

# the same examples in every run, however busy the machine
settings.register_profile(
    "tests",
    deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
settings.load_profile("tests")

# Numba would compile PySM3 for ten seconds; plain Python gives the same numbers at once.
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")


# what takes longest comes first, so that no process is left with it at the end
LONGEST = ("reproduce/test_farsian2020.py", "cli/test_cli.py", "docs/test_code_blocks.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Each file to one process, for its fixtures; those that use Dask's workers to the same one."""
    folder = Path(__file__).parent
    names = {item.path: item.path.relative_to(folder).as_posix() for item in items}
    with_workers = {item.path for item in items if "spread" in item.fixturenames}
    for item in items:
        if item.get_closest_marker("xdist_group"):
            continue
        group = "workers" if item.path in with_workers else names[item.path]
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(
        key=lambda item: (
            item.path not in with_workers,
            LONGEST.index(names[item.path]) if names[item.path] in LONGEST else len(LONGEST),
        )
    )


@pytest.fixture(scope="session", autouse=True)
def foreglow_cache(tmp_path_factory):
    """A cache of the session's own, so that CAMB runs once and nobody's cache is touched."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOREGLOW_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def spread():
    """Two workers of Dask, the same for all tests, with one thread each."""
    with forked.dask_workers(), open_workers("local:2") as spread:
        assert list(spread(abs, [-1])) == [1]  # begun now, where nothing is patched
        yield spread


@pytest.fixture(scope="module")
def one_thread():
    """Sums that do not depend on how many threads share them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def real_data():
    """Folder of the real maps, which are no part of the repository."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"REAL DATA ABSENT: this check needs {REAL_DATA}, see its README.md")
    return REAL_DATA


@pytest.fixture(scope="session")
def pysm_data(tmp_path_factory):
    """A PYSM_LOCAL_DATA of synthetic maps that PySM3's presets s1, d1 and a2 find complete.

    Returns the folder and the maps by file name, Nside 32.
    """
    folder = tmp_path_factory.mktemp("pysm")
    n_pix = hp.nside2npix(32)
    rng = np.random.default_rng(2020)
    maps = {f"{c}_{s}_new": rng.normal(size=n_pix) for c in ("synch", "dust") for s in "qu"}
    maps |= {f"{c}_t_new": rng.lognormal(size=n_pix) for c in ("synch", "dust", "ame", "ame2")}
    maps["synch_beta"] = rng.normal(-3.0, 0.1, n_pix)
    maps["dust_beta"] = rng.normal(1.54, 0.1, n_pix)
    maps["dust_temp"] = rng.normal(20.0, 1.0, n_pix)
    maps["ame_nu_peak_0"] = np.full(n_pix, 30.0)
    (folder / "pysm_2").mkdir()
    for name, values in maps.items():
        unit = "uK_RJ" if name.endswith("_new") else ""
        write_maps(folder / "pysm_2" / f"{name}.fits", {"T": (values, unit)}, frame="G")
    frequency = torch.logspace(0, 2.3, 3000, dtype=torch.float64)
    emissivity = seds.spinning_dust(frequency) * frequency**2
    table = torch.stack([frequency, emissivity], dim=1).numpy()
    np.savetxt(folder / "pysm_2" / "emissivity.txt", table)
    return folder, maps


@pytest.fixture
def run(monkeypatch, capsys):
    """Run `foreglow ...` in this process; returns its exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(screen, "console", Console(width=200))
    # the command line sets these for good
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    logger = logging.getLogger("foreglow")
    state = logger.level, list(logger.handlers), logger.propagate

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["foreglow", *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    yield call
    level, handlers, propagate = state
    logger.setLevel(level)
    logger.handlers[:] = handlers
    logger.propagate = propagate
