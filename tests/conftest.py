"""Shared fixtures; they import what takes long, for xdist reads this before it begins processes."""

import logging
import os
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings

import forked
from foreglow.compute.workers import open_workers

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

# the same examples in every run, however busy the machine
settings.register_profile(
    "tests",
    deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
settings.load_profile("tests")

# Numba would compile PySM3 for ten seconds; plain Python gives the same numbers at once.
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")


# tests that take the fixture `map_fn`, which is to be made once
WITH_WORKERS = (
    "tests/compute/test_workers.py",
    "tests/docs/test_code_blocks.py::test_page[docs/howto/dask.md]",
    "tests/docs/test_code_blocks.py::test_page[docs/howto/large.md]",
    "tests/dust/test_cleaning.py",
    "tests/dust/test_predict_arrays.py::test_arrays_go_to_workers",
    "tests/dust/test_predict_parts.py",
    "tests/hi_cube/test_prepare_workers.py",
    "tests/real/test_hi_cube.py",
    "tests/recognition/simulation/test_ensemble.py",
    "tests/recognition/observation/test_streaming.py",
    "tests/reproduce/test_farsian2020_resumed.py",
)
# what takes longest comes first, so that no process is left with it at the end
FIRST = (
    *WITH_WORKERS,
    "tests/reproduce/test_farsian2020.py",
    "tests/reproduce/test_zhang2019.py",
    "tests/docs/test_code_blocks.py",
    "tests/survey/test_survey.py",
    "tests/test_demo.py",
    "tests/reproduce/test_real_sky.py",
    "tests/report/page/test_viewer.py",
)


def group_of(nodeid):
    """Tests of one name are run by the same process: those of a file, and all with workers."""
    return "workers" if nodeid.startswith(WITH_WORKERS) else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return group_of(nodeid)

    config.option.loadscopereorder = False
    return Scheduling(config, log)


def pytest_collection_modifyitems(items):
    taking = {i.nodeid for i in items if "map_fn" in i.fixturenames}
    strays = {nodeid.partition("::")[0] for nodeid in taking if group_of(nodeid) != "workers"}
    if strays:
        raise pytest.UsageError(f"name {sorted(strays)} in WITH_WORKERS of tests/conftest.py")
    items.sort(
        key=lambda item: next(
            (k for k, name in enumerate(FIRST) if item.nodeid.startswith(name)), len(FIRST)
        )
    )


@pytest.fixture(scope="session", autouse=True)
def foreglow_cache(tmp_path_factory):
    """A cache of the session's own, so that CAMB runs once and nobody's cache is touched."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOREGLOW_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def workers():
    """Two workers of Dask, the same for all tests, with one thread each."""
    with forked.dask_workers(), open_workers("local:2") as map_fn:
        assert list(map_fn(abs, [-1])) == [1]  # begun now, where nothing is patched
        yield map_fn


@pytest.fixture
def map_fn(workers):
    """Both of them, also if the last test killed one."""
    forked.wait_for_dask_workers()
    return workers


@pytest.fixture
def pool(map_fn):
    """The same as users know it, with a method `map`."""
    return SimpleNamespace(map=map_fn)


@pytest.fixture(scope="module")
def one_thread():
    """Sums that do not depend on how many threads share them."""
    import torch

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
    import healpy as hp
    import numpy as np
    import torch

    from foreglow.maps.write import write_maps
    from foreglow.sky import seds

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
    from rich.console import Console

    from foreglow import cli
    from foreglow.cli import screen

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


@pytest.fixture(scope="session")
def fgbuster():
    """192 pixels of Table 1 noise and FGBuster's fits of them; see golden/fit_by_fgbuster.py."""
    import numpy as np

    with np.load(Path(__file__).parent / "golden" / "fgbuster.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture
def small_samples(monkeypatch):
    """Trainings of networks look at few vectors for what they standardise and calibrate by."""
    for name in ("_STANDARDISATION_SAMPLE", "_CALIBRATION_SAMPLE"):
        monkeypatch.setattr(f"foreglow.recognition.network.train.{name}", 4096)
