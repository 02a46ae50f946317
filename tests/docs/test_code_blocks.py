"""Every code block of README and docs runs, page by page, in the order in which it stands there.

Shell blocks run in bash, Python blocks in one namespace a page, TOML is written to the file that
the page says it is. Shortened, for a page must take seconds:

- trainings, evaluations and simulations get the options of `SHORTER` after those of the page: fewer
  epochs, steps, skies and cutouts, coarser maps. Which options there are is what a page tells;
- batches, ensembles, validations and calibrations of a training are of a few samples, figures of
  commands small; templates are made once for all pages;
- a model that comes with foreglow may be used on a sky as coarse as that, though not trained so;
- `--device cuda` becomes `auto`: there may be no GPU; a cluster of Dask is left out, but for
  workers of this machine;
- workers of this machine are begun once for all pages;
- `demo`, `reproduce` and `recognize survey` are only understood, not done: tests/test_demo.py,
  tests/reproduce and tests/survey do them; `make TARGET` is a dry run.
"""

import shutil
import tomllib
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from types import SimpleNamespace

import healpy as hp
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

import mock_archive
import survey_forms
from docs.pages import PAGES, ROOT, blocks_of, run_shell
from drawing import draw_small
from foreglow import demo, reproduce
from foreglow.dust import predict, stitch
from foreglow.dust import train as dust_train
from foreglow.maps.write import write_maps
from foreglow.recognition import simulate as recognition_simulate
from foreglow.recognition import train as doors
from foreglow.recognition.context import train as context_train
from foreglow.recognition.evaluation import evaluate as recognition_evaluate
from foreglow.recognition.evaluation import forecast as forecasting
from foreglow.recognition.evaluation.measure_r import measure_r
from foreglow.recognition.models import models_of
from foreglow.recognition.network import train as recognition_train
from foreglow.report.recognition import figures
from foreglow.sky.gas import mock_gas as coarse_gas
from foreglow.sky.templates import load_templates
from foreglow.survey.bands import load_survey
from hi_cubes import hi4pi_header, smooth_data, write_fits

pytestmark = pytest.mark.usefixtures("one_thread")

SHORTER = {
    ("recognize", "simulate"): ["--nside", 8],
    ("recognize", "forecast"): ["--nside", 8, "--skies", 2],
    ("recognize", "train"): [
        "--epochs", 1, "--steps", 2, "--batch", 64, "--devices", 1, "--num-nodes", 1,
    ],
    ("recognize", "context"): ["--epochs", 1, "--steps", 1],
    ("recognize", "evaluate"): ["--nside", 8, "--skies", 1],
    ("recognize", "measure-r"): ["--skies", 50],
    ("dust", "simulate"): ["--nside", 16],
    ("dust", "prepare"): ["--nside", 16],
    ("dust", "train"): [
        "--nside", 16, "--epochs", 1, "--steps", 2, "--batch", 2, "--members", 2,
        "--plan", ROOT / "tests" / "tiny.toml", "--devices", 1, "--num-nodes", 1,
    ],
    ("dust", "evaluate"): ["--nside", 16, "--cutouts", 4],
}  # fmt: skip
OWN_CUBE = ("hi-cube.md", "dust.md", "data.md", "dask.md")
NOT_RUN = ("text", "bibtex", "")  # and what has a language that no test knows fails


@cache
def templates_of(sky, nside=None):
    """The mock Galaxy is not made as coarse as the skies of these tests."""
    made = load_templates(sky, 16 if nside == 8 else nside)
    return made.degraded(8) if nside == 8 else made


@pytest.fixture
def shorter(monkeypatch):
    """Ensembles, validations and calibrations of a second."""
    for name in ("VALIDATION_CUTOUTS", "_STANDARDISATION_CUTOUTS"):
        monkeypatch.setattr(dust_train, name, 4)
    monkeypatch.setattr(dust_train, "_CALIBRATION_CUTOUTS", 16)
    monkeypatch.setattr("foreglow.dust.validation._CENTRES", 100)
    for name in ("_STANDARDISATION_SAMPLE", "_CALIBRATION_SAMPLE"):
        monkeypatch.setattr(recognition_train, name, 2048)
    usual = recognition_train.TrainingPlan.usual
    monkeypatch.setattr(
        recognition_train.TrainingPlan, "usual", lambda kind: replace(usual(kind), batch=64)
    )
    few = partial(context_train.pixel_ensemble, realisations=2)
    monkeypatch.setattr(context_train, "pixel_ensemble", few)
    monkeypatch.setattr(context_train, "_VALIDATION_STEPS", 1)
    monkeypatch.setattr(context_train, "_TEMPERATURE_BATCHES", 1)
    monkeypatch.setitem(measure_r.__kwdefaults__, "skies", 50)
    for function in (forecasting.forecast, recognition_simulate.simulate_sky):
        monkeypatch.setitem(function.__kwdefaults__, "nside", 8)
    for module in (doors, forecasting, recognition_simulate, recognition_evaluate):
        monkeypatch.setattr(module, "load_templates", templates_of)
    monkeypatch.setattr(predict, "_validate_nside", lambda *_: None)
    monkeypatch.setattr("foreglow.sky.gas.mock_gas", lambda _, seed, **__: coarse_gas(16, seed))
    monkeypatch.setattr(figures, "save", draw_small)
    monkeypatch.setattr(mock_archive, "TUTORIAL_DEG", 3.0)
    centres = stitch.centres(1)
    monkeypatch.setattr(stitch, "centres", lambda *_: centres)


@pytest.fixture
def understood(monkeypatch):
    """`demo` and `reproduce` do nothing; what they were asked for must make sense."""

    def check(paper, folder, scale, *_):
        assert paper in reproduce.PAPERS
        assert scale in ("smoke", "laptop", "evening", "paper")
        return folder / "report.html"

    monkeypatch.setattr(reproduce, "reproduce", check)
    monkeypatch.setattr(reproduce, "printed_tables", lambda *_: [])
    monkeypatch.setattr(reproduce, "read_records", lambda _: [])
    monkeypatch.setattr(demo, "run_demo", lambda *_: None)
    monkeypatch.setattr(demo, "printed", lambda _: [])


@pytest.fixture
def surveyed(monkeypatch):
    """`recognize survey` finds nothing, but leaves the files that the tutorial reads."""

    def recognise(survey, *, out, models, **_):
        bands = load_survey(survey).instrument.band
        assert len(bands) > 1
        names = models_of(models)
        chance = np.full(hp.nside2npix(8), 1 / len(names), np.float32)
        columns = {f"P_{name.upper()}": (chance, "") for name in names}
        columns["NONE_FITS"] = (0 * chance, "")
        (out / "figures").mkdir(parents=True, exist_ok=True)
        for name, figure in (("fits", "fits_evidence"), ("network", "network")):
            write_maps(out / f"{name}.fits", columns, frame="G", overwrite=True)
            plt.imsave(out / "figures" / f"models_{figure}.png", np.zeros((2, 2)))
        return SimpleNamespace(records=[{}], report=out / "report.html")

    monkeypatch.setattr("foreglow.survey.recognize_survey", recognise)
    monkeypatch.setattr(survey_forms, "fill_tutorial", lambda _: np.arange(hp.nside2npix(8)) % 2)


@pytest.fixture
def same_workers(monkeypatch, request):
    """`local:N` are the two workers of all tests."""

    @contextmanager
    def open_workers(where, **_):
        yield map if where is None else request.getfixturevalue("map_fn")

    monkeypatch.setattr("foreglow.compute.workers.open_workers", open_workers)


@pytest.fixture
def foreglow(run):
    """The command line in this process, shortened."""

    def call(*words):
        words = without_clusters("auto" if word == "cuda" else word for word in words)
        command = tuple(word for word in words if not word.startswith("-"))[:2]
        if "--realisations" in words:  # an ensemble is as fine as its patches need
            return run(*words)
        return run(*words, *SHORTER.get(command, ()))

    return call


def without_clusters(words):
    """Words of a command less `--workers tcp://...` and `--workers slurm:...`."""
    left, words = [], iter(words)
    for word in words:
        if word != "--workers":
            left.append(word)
        elif (where := next(words)).startswith("local:"):
            left += [word, where]
    return left


def bring(folder):
    """What a reader of `OWN_CUBE` has: a survey's cube, a dust map and a mask."""
    shape = (68, 46, 91)
    header = hi4pi_header(shape, pixel_deg=4.0, first_kms=-66.0)
    write_fits(folder / "CAR.fits", smooth_data(shape, pixel_deg=4.0), header)
    for name in ("CAR_A01", "CAR_A02"):
        shutil.copy(folder / "CAR.fits", folder / f"{name}.fits")
    rng = np.random.default_rng(0)
    n_pix = hp.nside2npix(16)
    write_maps(folder / "dust.fits", {"DUST": (rng.lognormal(size=n_pix), "MJy/sr")}, frame="G")
    write_maps(folder / "mask.fits", {"MASK": (np.ones(n_pix, np.float32), "")}, frame="G")


def play(page, folder, foreglow):
    """Run a page from top to bottom."""
    names: dict = {"__name__": "__main__"}
    for block in blocks_of(page):
        where = f"{page.relative_to(ROOT)}:{block.line}"
        if block.language == "bash":
            run_shell(block.text, folder, foreglow)
        elif block.language == "python":
            exec(compile(block.text, where, "exec"), names)
        elif block.language == "toml":
            table = tomllib.loads(block.text)
            said = block.text.partition("\n")[0].removeprefix("# ")
            name = said if said.endswith(".toml") else f"{table['name']}.toml"
            (folder / name).write_text(block.text)
        else:
            assert block.language in NOT_RUN, f"{where}: no test knows {block.language!r}"


WITH_CODE = [p for p in PAGES if any(b.language not in NOT_RUN for b in blocks_of(p))]


def test_pages_are_found():
    assert {"README.md", "quickstart.md", "slurm.md"} <= {p.name for p in WITH_CODE}
    assert sum(len(blocks_of(page)) for page in WITH_CODE) > 40


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda p: str(p.relative_to(ROOT)))
@pytest.mark.usefixtures("shorter", "understood", "surveyed", "same_workers")
# networks that learned nothing, and a predicted map of the whole sky, are warned of
@pytest.mark.filterwarnings("default::UserWarning")
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # healpy's, of matplotlib
def test_page(page, tmp_path, monkeypatch, foreglow):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    mpl.use("agg")
    monkeypatch.setenv("FOREGLOW_DATA", str(tmp_path / "data"))  # a page may set it, too
    if page.name in OWN_CUBE:
        bring(tmp_path)
    try:
        play(page, tmp_path, foreglow)
    finally:
        plt.close("all")  # the tutorials draw with pyplot, as their reader would
