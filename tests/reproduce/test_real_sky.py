"""The paper's sky by one command, from archives that hold the mock in the products' forms."""

import json
from dataclasses import replace
from functools import cache

import healpy as hp
import numpy as np
import pytest
import torch
from astropy.io import fits

import mock_archive as archive
from drawing import draw_small
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
from foreglow.reproduce.zhang2019 import experiment, hi4pi
from foreglow.reproduce.zhang2019.hi4pi import PaperSky
from foreglow.reproduce.zhang2019.sky_files import build_sky, read_card
from words import is_one_paragraph

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # forms are coarse: a beam of 16 arcmin in pixels of a degree
    pytest.mark.filterwarnings("ignore:.*which do not sample a beam"),
    pytest.mark.filterwarnings("ignore:LR72, the paper's mask"),
]

NSIDE = 64  # of the run: the least at which hemispheres share no pixel
PLAN = {"network": "unet", "width": 2, "epochs": 1, "steps": 8, "batch": 4}
TINY = {
    "nside": NSIDE, "networks": ["unet"], "test_cutouts": 16, "linear_cutouts": 48,
    "profile_pointings": 100, "wide_kms": 18.0, "centres_nside": 3, "unet": PLAN, "lambdas": [],
}  # fmt: skip
STEPS = (
    zhang2019.what_the_sky_holds, zhang2019.train_networks, zhang2019.compare_models,
    zhang2019.predicted_map,
)  # fmt: skip


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
    patch.setattr(zhang2019, "read_settings", lambda *_: dict(TINY))
    patch.setattr(zhang2019, "STEPS", STEPS)
    patch.setattr(experiment.figures, "save", draw_small)
    patch.setattr("foreglow.dust.train._CALIBRATION_CUTOUTS", 16)
    patch.setattr("foreglow.dust.train.VALIDATION_CUTOUTS", 8)
    patch.setattr("foreglow.dust.train._STANDARDISATION_CUTOUTS", 16)
    patch.setattr("foreglow.reproduce.zhang2019.sky.PROFILE_KMS", 18.0)
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
        archive.COMMANDER, HALF, r"Commander, got a FITS file that is cut or damaged .* remove it and f",
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
