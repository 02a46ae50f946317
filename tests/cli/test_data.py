"""`foreglow data` as a user runs it, against a server on this machine."""

import json
from dataclasses import replace

import pytest

import product_forms as forms
from file_server import serve
from foreglow import interrupt
from foreglow.data import registry
from words import is_one_paragraph


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FOREGLOW_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def archive(monkeypatch, tmp_path):
    """A server that all products are said to live on; it has a mask, a tile and a table of PySM."""
    made = tmp_path / "made"
    made.mkdir()
    paths = [forms.galactic_mask(made), forms.pysm_emissivity(made), forms.hi4pi_tile(made)]
    with serve(files={path.name: path.read_bytes() for path in paths}) as running:
        products = tuple(
            replace(p, base=running.url, md5=None, md5_source=None)
            for p in registry.load_registry()
        )
        monkeypatch.setattr(registry, "load_registry", lambda: products)
        yield running


MASK = "HFI_Mask_GalPlane-apo0_2048_R2.00.fits"


def test_list(run):
    code, text, err = run("data", "list")
    assert (code, err) == (0, "")
    for product in registry.load_registry():
        assert product.name in text
        assert product.title in text


def test_list_as_json(run, empty_cache):
    code, text, _ = run("data", "list", "--json")
    records = json.loads(text)
    assert code == 0
    assert len(records) == len(registry.load_registry())
    nhi = next(r for r in records if r["name"] == "hi4pi-nhi")
    assert (nhi["unit"], nhi["nside"], nhi["column"], nhi["there"]) == ("cm-2", 1024, "NHI", [])
    assert nhi["urls"] == ["https://lambda.gsfc.nasa.gov/data/foregrounds/HI4PI/NHI_HPX.fits"]


def test_all_of_one_product(run):
    code, text, _ = run("data", "list", "planck-gnilc-iqu", "hi4pi-tiles")
    assert code == 0
    assert "1.88 GiB" in text
    assert "hi4pi-tiles/FILE" in text
    assert text.count("NOT VERIFIED") == 5


def test_nothing_is_fetched_by_a_dry_run(run, archive, empty_cache):
    code, text, _ = run("data", "fetch", "planck-mask-apo0", "hi4pi-cube", "--dry-run")
    assert code == 0
    assert f"{archive.url}{MASK} -> {empty_cache / 'planck' / MASK} (about 384 MiB)" in text
    assert "not verified: hi4pi-cube: exact size" in text
    assert (archive.requests, empty_cache.exists()) == ([], False)


def test_fetch_and_check(run, archive, empty_cache):
    code, text, err = run("data", "fetch", "planck-mask-apo0", "pysm-templates/emissivity.txt")
    assert (code, err) == (0, "")
    mask = empty_cache / "planck" / MASK
    assert f"{mask}: fetched" in text
    assert "no checksum is published, this one is recorded" in text
    assert (empty_cache / "pysm_2" / "emissivity.txt").is_file()
    code, text, err = run("data", "check", mask, empty_cache / "pysm_2" / "emissivity.txt")
    assert (code, err) == (0, "")
    assert f"fits: --mask '{mask}[GAL070]' of foreglow dust" in text
    assert "* planck-mask-apo0" in run("data", "list")[1]


def test_fetch_as_json(run, archive, tmp_path):
    words = ("data", "fetch", "planck-mask-apo0", "--cache", tmp_path / "mine", "--json")
    code, text, _ = run(*words)
    (record,) = json.loads(text)
    assert (code, record["new"], record["published"]) == (0, True, "none")
    assert record["path"] == str(tmp_path / "mine" / "planck" / MASK)
    assert json.loads(run(*words)[1])[0]["new"] is False


def test_cuts_are_told_and_gone_on_from(run, archive):
    archive.cuts = [1 << 15]
    code, text, _ = run("data", "fetch", "hi4pi-tiles/CAR_E01.fits")
    assert code == 0
    assert "a connection cut in the middle; trying again" in text
    assert archive.requests[-1] == ("CAR_E01.fits", "bytes=32768-")


def test_interrupted_by_the_user(run, archive, monkeypatch):
    said = []

    def strike(*_):
        said.append(interrupt.message())
        raise KeyboardInterrupt

    monkeypatch.setattr("foreglow.data.fetch.download", strike)
    code, _, _ = run("data", "fetch", "planck-mask-apo0")
    assert code == 130
    assert said == ["interrupted; what has come is kept: the same command goes on from here."]


def test_check_as_json_says_what_is_wrong(run, tmp_path):
    path = forms.healpix(
        tmp_path / "COM_CompMap_Dust-GNILC-F353_2048_R2.00.fits",
        [("I", "E", "K_CMB", forms.sky())],
    )
    code, text, _ = run("data", "check", path)
    assert code == 2
    assert "wrong: expected MJy/sr" in text
    code, text, _ = run("data", "check", path, "--json")
    (record,) = json.loads(text)
    assert (code, record["sound"], record["product"]) == (2, False, "planck-gnilc-dust")
    assert "got unit 'K_CMB'" in record["problems"][0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fetch", "planck"), "expected a product, one of planck-commander-dust"),
        (("fetch", "hi4pi-tiles"), "name it: hi4pi-tiles/CAR_E01.fits"),
        (("fetch", "hi4pi-tiles/CAR_E99.fits"), "got 'CAR_E99.fits'"),
        (("fetch", "planck-mask-apo2", "--attempts", "1"), "got HTTP 404"),
        (("list", "nothing"), "got 'nothing'; see `foreglow data list`"),
        (("check", "nowhere.fits"), "expected a file or folder to check, got none"),
        (("check", "."), "got a folder without either"),
    ],
)
def test_mistakes_are_told_in_a_paragraph(run, archive, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("data", *words)
    assert (code, is_one_paragraph(err)) == (2, True)
    assert message in err
