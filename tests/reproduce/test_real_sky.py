"""The paper's sky by one command, from archives that hold the mock in the products' forms."""

import json
import os
import signal
from dataclasses import replace
from functools import cache
from pathlib import Path

import healpy as hp
import numpy as np
import pytest
import torch
from astropy.io import fits

import forked
import mock_archive as archive
from foreglow.dust.cutouts import CutoutSampler
from foreglow.dust.inputs import faint_sky, observed_sky
from foreglow.dust.plan import DustPlan
from foreglow.dust.scores import model_predictor, score
from foreglow.dust.train import train
from foreglow.errors import DataError, ForeglowError, RunError, SkyError
from foreglow.hi_cube.cube import open_cube, write_cube
from foreglow.maps.conventions import MapWarning
from foreglow.maps.gnomonic import Grid
from foreglow.maps.hemispheres import split
from foreglow.reproduce import read_records, reproduce, zhang2019
from foreglow.reproduce.settings import read_settings
from foreglow.reproduce.zhang2019 import hi4pi
from foreglow.reproduce.zhang2019.cost import (
    Cost,
    CubeFacts,
    cube_facts,
    predict_cost,
    validate_room,
)
from foreglow.reproduce.zhang2019.hi4pi import PaperSky
from foreglow.reproduce.zhang2019.paper import HIGH_KMS, LOW_KMS
from foreglow.reproduce.zhang2019.sky_files import build_sky, read_card
from foreglow.reproduce.zhang2019.source import open_source
from hi_cubes import hi4pi_header
from words import is_one_paragraph

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # forms are coarse: a beam of 16 arcmin in pixels of a degree
    pytest.mark.filterwarnings("ignore:.*which do not sample a beam"),
    pytest.mark.filterwarnings("ignore:LR72, the paper's mask"),
]

ALL_STEPS = zhang2019.STEPS
NSIDE = 64  # of the run: the least at which hemispheres share no pixel
PLAN = {"network": "unet", "width": 2, "epochs": 1, "steps": 8, "batch": 4}
TINY = {
    "nside": NSIDE, "networks": ["unet"], "test_cutouts": 16, "linear_cutouts": 48,
    "profile_pointings": 100, "wide_kms": 18.0, "centres_nside": 3, "unet": PLAN, "lambdas": [],
}  # fmt: skip


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    return archive.make_products(tmp_path_factory.mktemp("products"))


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def served(products, patch):
    """The archives; small settings, few steps, and figures that take little time."""
    archive.make_small(patch, TINY)
    with archive.archives(products, patch) as running:
        yield running


@pytest.fixture
def data(monkeypatch, tmp_path):
    """An empty cache."""
    monkeypatch.setenv("FOREGLOW_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture(scope="module")
def finished(served, patch, tmp_path_factory):
    """A run from an empty cache to the report."""
    folder = tmp_path_factory.mktemp("run")
    patch.setenv("FOREGLOW_DATA", str(folder / "data"))
    with pytest.warns(MapWarning, match=r"LR72, the paper's mask, is not at .* GAL070 of Planck's"):
        reproduce("zhang2019", folder / "run", "smoke", "hi4pi", device="cpu", download=True)
    return folder / "run"


def the_truth():
    """Dust at Nside 64, as far as sources leave it."""
    return archive.gas().dust.total


# ---- the whole way ------------------------------------------------------------------------------


def test_what_is_missing_is_told(served, data, run, tmp_path):
    out = tmp_path / "out"
    code, text, err = run("reproduce", "zhang2019", "--sky", "hi4pi", "--out", out)
    assert code == 2
    assert "expected 4 files of public data" in err
    assert "give --download to fetch them" in err
    assert is_one_paragraph(err)
    for words in ("missing: CAR.fits", archive.COMMANDER, f"to lie in {data / 'planck'}",
                  "disk: ", "memory: about", "time: about"):  # fmt: skip
        assert words in text
    assert not out.exists()
    assert not data.exists()


def test_the_sky_is_that_of_the_mock(finished):
    sky = finished / "sky"
    dust = hp.read_map(sky / "dust.fits")
    at_sources = hp.nest2ring(NSIDE, np.array(archive.SOURCES) // 4)
    others = np.delete(np.arange(dust.size), at_sources)
    np.testing.assert_allclose(dust[others], the_truth()[others], rtol=1e-5)
    # of a pixel of four, three are left: the source is not in the mean
    np.testing.assert_allclose(dust[at_sources], the_truth()[at_sources], rtol=1e-5)
    mask = hp.read_map(sky / "mask.fits")
    np.testing.assert_array_equal(mask > 0, faint_sky(the_truth(), 0.70))
    cube = open_cube(read_card(sky).cubes[0])
    assert (cube.nside, cube.n_channel) == (NSIDE, 64)
    mock = archive.gas().hydrogen.channel(cube.velocity_kms[40], noise=False)
    assert np.corrcoef(cube.channel(40), mock)[0, 1] > 0.98
    with fits.open(sky / "dust.fits") as hdus:
        assert hdus[1].header["TUNIT1"] == "uK_RJ"


def test_the_truth_is_found_as_well_as_by_training_on_the_mock_itself(finished, tmp_path):
    """r of predicted and true dust on southern cutouts, trained alike in the north."""
    found = {
        r["model"]: r
        for r in read_records(finished)
        if r["step"] == "models" and r["set"] == "test"
    }
    sky = observed_sky(archive.gas())
    north, south = split("north_south", Grid(), NSIDE, "nearest")
    device = torch.device("cpu")
    model, _ = train(sky, north, DustPlan(**PLAN), tmp_path, 0, device, False, Grid(), "nearest")
    sampler = CutoutSampler(sky.cube, south, Grid(), "nearest")
    where = sampler.fixed_pointings(TINY["test_cutouts"], 1)
    direct = score({"unet": model_predictor(model)}, sampler, where, 16)["unet"]
    for scale in ("r50", "r150"):
        values = getattr(direct, scale)
        error = np.hypot(found["unet"][f"{scale}_sem"], values.std() / np.sqrt(len(values)))
        assert found["unet"][scale] == pytest.approx(values.mean(), abs=2 * error)
        assert found["unet"][scale] > 0.75
    mean, std = hp.read_map(finished / "maps" / "dust.fits", field=(0, 1))
    seen = mean > hp.UNSEEN / 2
    assert seen.mean() == pytest.approx(0.70, abs=0.01)
    assert 0.5 < (np.abs(mean - the_truth())[seen] < std[seen]).mean() < 0.9


def test_the_report_says_what_it_is_of(finished):
    captions = json.loads((finished / "figures" / "captions.json").read_text())
    said = captions["dust"]["caption"]
    assert "HI4PI; Planck 2015: thermal dust intensity at 545 GHz, Commander, without" in said
    assert "uK_RJ at 353 GHz; mask GAL070" in said
    assert (finished / "report.html").is_file()
    log = (finished / "log.txt").read_text()
    for words in ("fetching 1 of 4", "prepare: 64 of 64", "averaged from Nside 128 to 64"):
        assert words in log


@pytest.mark.slow
def test_every_step_runs_on_it(served, data, tmp_path, monkeypatch):
    """Those that only a mock can have are left out, and nothing else."""
    variants = {"variants": PLAN, "lambdas": [0.0, 30.0], "unet_polarised": PLAN}
    monkeypatch.setattr(zhang2019, "read_settings", lambda *_: TINY | variants)
    monkeypatch.setattr(zhang2019, "STEPS", ALL_STEPS)
    reproduce("zhang2019", tmp_path / "run", "smoke", "hi4pi", device="cpu", download=True)
    steps = {r["step"] for r in read_records(tmp_path / "run")}
    assert steps == {"models", "coverage", "seams", "lambda", "east_west", "ablations"}


# ---- killed -------------------------------------------------------------------------------------

BEFORE = """
import os, signal, sys, warnings
import pytest
sys.path.insert(0, {tests!r})
import forked
import mock_archive as archive
patch = pytest.MonkeyPatch()
archive.make_small(patch, {settings!r})
archive.point_registry({url!r}, {sizes!r}, patch)

def die_at(place, call):
    module, _, name = place.rpartition(".")
    owner = pytest.importorskip(module) if module.islower() else getattr(
        pytest.importorskip(module.rpartition(".")[0]), module.rpartition(".")[2])
    real, calls = getattr(owner, name), []
    def dying(*given, **named):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given, **named)
    patch.setattr(owner, name, dying)
"""
MOMENTS = {
    "between two downloads": ("foreglow.data.gather.fetch", 2),
    "in the preparation": ("foreglow.hi_cube.prepare.write_channels", 4),
    "before the mask": ("foreglow.reproduce.zhang2019.sky_files.write_maps", 2),
    "before the model is saved": ("foreglow.dust.model.DustModel.save", 1),
    "in the judgement": ("foreglow.reproduce.zhang2019.experiment.Experiment.record", 3),
}


@pytest.mark.slow
def test_killed_at_five_moments_it_goes_on(served, products, finished, tmp_path):
    sizes = {name: len(content) for name, content in products.items()}
    tests = str(Path(__file__).parents[1])
    before = BEFORE.format(tests=tests, settings=TINY, url=served.url, sizes=sizes)
    environment = os.environ | {"FOREGLOW_DATA": str(tmp_path / "data")}
    words = ("reproduce", "zhang2019", "--sky", "hi4pi", "--download", "--scale", "smoke",
             "--device", "cpu", "--out", tmp_path / "run", "--resume")  # fmt: skip
    for moment, (place, call) in MOMENTS.items():
        dying = f"{before}\ndie_at({place!r}, {call})"
        ended = forked.begin_foreglow(*words, environment=environment, before=dying)()
        assert ended.code == -signal.SIGKILL, f"{moment}: {ended.out}{ended.err}"
    served.requests.clear()
    ended = forked.begin_foreglow(*words, environment=environment, before=before)()
    assert ended.code == 0, ended.err
    assert served.requests == []
    for words in ("going on", "trained already"):
        assert words in (tmp_path / "run" / "log.txt").read_text()
    for name in ("dust.fits", "mask.fits"):
        same = (p / "sky" / name for p in (tmp_path / "run", finished))
        assert len({path.read_bytes() for path in same}) == 1
    assert read_records(tmp_path / "run") == read_records(finished)


# ---- other choices ------------------------------------------------------------------------------


@pytest.fixture
def filled(served, products, data):
    """A cache in which somebody has put all files by hand; returns what puts another there."""

    def put(name, content):
        place = data / ("hi4pi" if name.startswith("CAR") else "planck") / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        return place

    for name, content in products.items():
        put(name, content)
    return put


def gathered(words="hi4pi", nside=NSIDE):
    return PaperSky.of(words).gathered(False, nside)


def test_gnilc_is_brought_to_the_same_unit(filled, tmp_path):
    files = gathered("hi4pi:gnilc,gal060,no-sources")
    assert files.sources is None
    assert files.masks[0].endswith("[GAL060]")
    folder = build_sky(replace(files, cubes=(small_cube(tmp_path),)), tmp_path / "s", -60, 10)
    np.testing.assert_allclose(hp.read_map(folder / "dust.fits"), the_truth(), rtol=1e-5)
    assert hp.read_map(folder / "mask.fits").mean() == pytest.approx(0.6, abs=0.01)


@cache
def _channels():
    velocity = np.arange(-66, 20, 1.288)
    return velocity, [np.full(hp.nside2npix(NSIDE), 1.0, np.float32)] * velocity.size


def small_cube(folder):
    """A prepared cube that costs nothing."""
    velocity, channels = _channels()
    return write_cube(folder / "c.zarr", velocity, channels, NSIDE, 16.2, "a test").path


def test_lr72_is_taken_where_it_was_put(filled, tmp_path, recwarn):
    kept = np.abs(hp.pix2ang(128, np.arange(12 * 128**2), lonlat=True)[1]) > 16
    hp.write_map(tmp_path / "m.fits", kept.astype("f4"), coord="G", dtype="f4")
    path = filled("LR72.fits", (tmp_path / "m.fits").read_bytes())
    files = gathered()
    assert files.masks == (str(path),)
    assert "mask LR72" in files.about
    assert not any("LR72" in str(w.message) for w in recwarn)
    assert gathered("hi4pi:GAL080").masks[0].endswith("[GAL080]")


def test_a_cube_that_was_prepared_may_be_removed(filled, data, tmp_path):
    paper = PaperSky.of("hi4pi")
    assert paper.cubes == (data / "hi4pi" / archive.CUBE,)
    build_sky(paper.gathered(False, 16), tmp_path / "s", -5, 5, paper.fine)
    (data / "hi4pi" / archive.CUBE).unlink()
    files = paper.gathered(False, 32)
    assert files.cubes == (paper.fine,)
    again = build_sky(files, tmp_path / "t", -5, 5, paper.fine)
    assert open_cube(again / "cube.zarr").nside == 32


def test_tiles_make_the_same_cube(served, filled, tmp_path, monkeypatch, finished):
    names = [f"CAR_E{k:02d}.fits" for k in (1, 2, 3, 4)]
    monkeypatch.setattr(hi4pi, "_TILES", names)
    for k, name in enumerate(names):
        archive.cube_on(tmp_path / name, (181, 103), lon=90.0 * k + 45)
        filled(name, (tmp_path / name).read_bytes())
    files = gathered("hi4pi:tiles")
    assert len(files.cubes) == 4
    sky = build_sky(replace(files, nside=32), tmp_path / "s", -20, 10, tmp_path / "fine.zarr")
    cube, whole = open_cube(sky / "cube.zarr"), open_cube(read_card(finished / "sky").cubes[0])
    assert cube.nside == 32
    k = np.abs(whole.velocity_kms - cube.velocity_kms[5]).argmin()
    np.testing.assert_allclose(cube.channel(5), hp.ud_grade(whole.channel(k), 32), atol=0.02)


# ---- products that are other than expected ------------------------------------------------------


def of_planck(make, **cards):
    """A changed product as bytes, made when it is asked for."""

    def content(folder, _):
        return make(folder, **cards).read_bytes()

    return content


def renamed(old, new):
    return lambda _, content: content.replace(old.ljust(len(new)), new.ljust(len(old)))


PAGE = b"<!DOCTYPE html><html>Please enable JavaScript</html>"
HALF = lambda _, content: content[: len(content) // 2]  # noqa: E731
ODD = {
    "a renamed column": (
        archive.COMMANDER, renamed(b"I_ML_FULL", b"I_ML_BEST"),
        r"expected the columns of planck-commander-dust, got none called I_ML_FULL; the file",
    ),
    "another release": (
        archive.GNILC, renamed(b"MJy/sr", b"K_CMB "),
        r"expected MJy/sr in column I, got unit 'K_CMB'; the file is another product, or was conv",
    ),
    "a unit that was changed": (
        archive.COMMANDER, renamed(b"uK_RJ", b"mK_RJ"),
        r"expected uK_RJ in column I_ML_FULL, got unit 'mK_RJ'; the file is another product, or",
    ),
    "a map that was cut": (
        archive.COMMANDER, HALF, r"Commander, got a FITS file that is cut or damaged .* remove it",
    ),
    "a cube that was cut": (
        archive.CUBE, HALF, r"one cube, got a file cut in its data; remove it and fetch it again",
    ),
    "a page in place of the cube": (
        archive.CUBE, lambda *_: PAGE, r"one cube, got a web page; remove it and fetch it again",
    ),
    "a page in place of the mask": (
        archive.MASKS, lambda *_: PAGE, r"edges sharp, got a web page; remove it and fetch it ag",
    ),
    "no such mask": (
        archive.MASKS, renamed(b"GAL070", b"GAL072"),
        r"got none called GAL070; the file is another product, or a copy with other names",
    ),
    "another frame": (
        archive.COMMANDER, of_planck(archive.commander, COORDSYS="C"),
        r"expected COORDSYS G, got C; it was turned, or is another product",
    ),
    "an empty file": (
        archive.MASKS, lambda *_: b"", r"edges sharp, got a file that does not begin as FITS does",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", ODD)
def test_a_product_that_is_not_as_expected(filled, products, tmp_path, what):
    name, change, message = ODD[what]
    path = filled(name, change(tmp_path, products[name]))
    words = "hi4pi:gnilc" if name == archive.GNILC else "hi4pi"
    with pytest.raises(DataError, match=message) as caught:
        gathered(words)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_page_that_the_server_sends(served, data, monkeypatch):
    monkeypatch.setattr(served, "kind", "text/html")
    with pytest.raises(DataError, match=r"got a web page, as archives send that want a browser; f"):
        PaperSky.of("hi4pi").gathered(True, NSIDE)


def test_masked_pixels_that_are_0_are_not_observed(filled, tmp_path):
    changed = archive.commander(tmp_path)
    with fits.open(changed, mode="update") as hdus:
        hdus[1].data["I_ML_FULL"][:20000] = 0
    filled(archive.COMMANDER, changed.read_bytes())
    files = replace(gathered(), cubes=(small_cube(tmp_path),))
    with pytest.warns(MapWarning, match=r"10.2% of the map is exactly 0, which no sky is; those"):
        folder = build_sky(files, tmp_path / "s", -60, 10)
    dust = hp.reorder(hp.read_map(folder / "dust.fits"), r2n=True)
    np.testing.assert_array_equal(np.flatnonzero(dust < hp.UNSEEN / 2), np.arange(5000))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"'m/s     '", b"'Hz      '", r"Hz"),
        (b"'VRAD    '", b"'VOPT    '", r"VOPT"),
        (b"BUNIT   = 'K       '", b"BUNIT   = 'JY/BEAM '", r"JY/BEAM"),
        (b"'LSRK    '", b"'BARYCENT'", r"BARYCENT"),
    ],
    ids=["a frequency", "optical velocity", "another brightness", "barycentric"],
)
def test_a_cube_of_other_axes_is_refused_before_the_run(
    filled, products, tmp_path, old, new, message
):
    filled(archive.CUBE, products[archive.CUBE].replace(old, new))
    with pytest.raises(ForeglowError, match=message):
        reproduce("zhang2019", tmp_path / "run", "smoke", "hi4pi", device="cpu")
    assert not (tmp_path / "run").exists()


def test_coarser_products_than_the_run_are_refused(filled, tmp_path):
    files = replace(gathered(nside=256), cubes=(small_cube(tmp_path),))
    with pytest.raises(SkyError, match=r"expected a cube of Nside 256 or more, got pixels of N"):
        build_sky(files, tmp_path / "s", -60, 10)


def test_words_that_say_nothing(data):
    with pytest.raises(SkyError, match=r"got gnlic \(do you mean gnilc\?\)"):
        PaperSky.of("hi4pi:gnlic")


def test_nothing_to_download(tmp_path):
    for paper, sky in (("farsian2020", "mock"), ("zhang2019", "mock")):
        with pytest.raises(RunError, match=r"expected download=True with .*leave it out"):
            reproduce(paper, tmp_path / "run", "smoke", sky, download=True)


# ---- one's own region ---------------------------------------------------------------------------


def own_card(folder, cube, **hydrogen):
    """A card that names a survey's cube beside Planck's files as they are."""
    archive.commander(folder)
    archive.masks(folder)
    archive.source_mask(folder)
    said = "".join(f"{key} = {value}\n" for key, value in hydrogen.items())
    (folder / "sky.toml").write_text(
        f'[hydrogen]\nfile = "{cube.name}"\n{said}'
        f'[dust_intensity]\nfile = "{archive.COMMANDER}[I_ML_FULL]"\n'
        f'sources = "{archive.SOURCE_MASK}[F545]"\n'
        f'[mask]\nfile = ["{archive.MASKS}[GAL080]"]\n'
    )
    return folder


def test_a_region_in_both_hemispheres(served, tmp_path, data):
    """A third of the sky, as GALFA's strip reaches over both: no east for the west."""
    cube = archive.cube_on(tmp_path / "mine.fits", (181, 121), lon=120.0)
    own_card(tmp_path, cube)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zhang2019, "STEPS", (zhang2019.east_and_west,))
        patch.setattr(zhang2019, "write_report", lambda folder: folder / "report.html")
        reproduce("zhang2019", tmp_path / "run", "smoke", str(tmp_path), device="cpu")
    log = (tmp_path / "run" / "log.txt").read_text()
    for words in ("no network of the east is judged in the west", "of 49152 pixels count"):
        assert words in log
    sky = open_source(str(tmp_path / "run" / "sky"), 0, 0).sky(LOW_KMS, HIGH_KMS)
    assert sky.target_unit == "uK_RJ"
    assert 0.15 < sky.cube.target[:, 1].mean() < 0.35
    assert "mine.fits + " in sky.source


def test_a_region_of_one_hemisphere_is_told_what_to_do(served, tmp_path):
    cube = archive.cube_on(tmp_path / "mine.fits", (80, 181), lon=120.0, lat=45.0)
    own_card(tmp_path, cube)
    with pytest.raises(SkyError, match=r"cutouts in the south .* `foreglow dust train --c"):
        reproduce("zhang2019", tmp_path / "run", "smoke", str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("hydrogen", "message"),
    [
        (
            {"nside": '"many"'},
            r"expected nside of \[hydrogen\] as an integer, got 'many'",
        ),
        ({"nside": 256}, r"expected a cube of Nside 256 or more, got pixels of Nside 64"),
    ],
)
def test_an_nside_that_cannot_be(served, tmp_path, hydrogen, message):
    own_card(tmp_path, archive.cube_on(tmp_path / "mine.fits", (20, 20)), **hydrogen)
    with pytest.raises(SkyError, match=message):
        build_sky(read_card(tmp_path), tmp_path / "s", -20, 10)


def test_files_that_changed_since_the_run_was_begun(served, tmp_path):
    own_card(tmp_path, archive.cube_on(tmp_path / "mine.fits", (20, 20)), nside=16)
    folder = build_sky(read_card(tmp_path), tmp_path / "s", -20, 10)
    made = {p.name: p.stat().st_mtime_ns for p in folder.iterdir() if p.suffix == ".fits"}
    build_sky(read_card(tmp_path), tmp_path / "s", -20, 10)
    assert all((folder / name).stat().st_mtime_ns == time for name, time in made.items())
    archive.commander(tmp_path, factor=2.0)
    with pytest.raises(RunError, match=r"as they were when the run was begun, got others"):
        build_sky(read_card(tmp_path), tmp_path / "s", -20, 10)


# ---- what it costs ------------------------------------------------------------------------------


@pytest.fixture
def full_size(tmp_path):
    """A cube of HI4PI's size, 33 GB that take no room."""
    header = hi4pi_header((933, 2163, 4323), pixel_deg=1 / 12, first_kms=-600.0)
    cards = {"SIMPLE": True, "BITPIX": -32, "NAXIS": 3}
    cards |= {"NAXIS1": 4323, "NAXIS2": 2163, "NAXIS3": 933}
    full = fits.Header(list(cards.items()))
    full.extend(header, strip=False)
    text = full.tostring().encode()
    size = len(text) + 4323 * 2163 * 933 * 4
    with (tmp_path / "CAR.fits").open("wb") as stream:
        stream.write(text)
        stream.truncate(size + -size % 2880)
    return tmp_path / "CAR.fits"


def test_the_cost_of_the_real_run_follows_from_its_header(full_size):
    facts = cube_facts([full_size], -120.0, 120.0)
    assert facts == CubeFacts(1024, 186)
    paper, laptop = (read_settings("zhang2019", scale) for scale in ("paper", "laptop"))
    real = predict_cost(paper, facts, 1024, 33 << 30, 0)
    assert real.prepared == 186 * 12 * 1024**2 * 4
    assert 12 << 30 < real.memory < 24 << 30  # two skies, of 64 and 186 channels
    small = predict_cost(laptop, facts, 256, 33 << 30, real.prepared)
    assert small.prepared == 0
    assert small.memory < 4 << 30
    assert small.run < 2 << 30
    assert 0.1 < sum(small.hours.values()) < 1 < 100 < sum(real.hours.values())
    lines = " ".join(real.lines())
    for words in ("33.00 GiB or more to fetch, 8.72 GiB for", "on two cores", "an estimate"):
        assert words in lines


def test_a_disk_that_cannot_hold_it(tmp_path):
    cost = Cost(1 << 60, 0, 1 << 60, 0, {})
    with pytest.raises(RunError, match=r"expected room for 2.00 EiB|2048.00 PiB, got .* GiB; free"):
        validate_room(cost, tmp_path / "data", tmp_path / "out")
