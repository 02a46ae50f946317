"""Public maps of several surveys, from an archive of the products' forms to the known truth."""

import json
import os
import re
import signal
import warnings
from pathlib import Path
from types import SimpleNamespace

import healpy as hp
import numpy as np
import pytest
import torch
from astropy.io import fits

import forked
import survey_forms as forms
from drawing import draw_small
from file_server import serve
from foreglow.data import registry
from foreglow.errors import DataError, ForeglowError, InstrumentError, MapError, RunError
from foreglow.maps.conventions import MapWarning
from foreglow.recognition.answers import Answer, read_answer
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.observation import common_beam
from foreglow.recognition.observation.smoothing import Resolution
from foreglow.recognition.simulation.vectors import NoiseLaw, VectorSimulator
from foreglow.report.recognition.survey import ame_in_words
from foreglow.sky.templates import load_templates
from foreglow.survey import recognize_survey
from foreglow.survey.bands import available_surveys, load_survey
from foreglow.survey.cost import predict_cost
from foreglow.survey.found import ame_about_dust, own_instrument
from foreglow.survey.sky import brought, gathered
from foreglow.survey.trials import agreement, ame_off_dust
from foreglow.survey.worth import worth
from product_forms import galactic_mask, planck_rimo
from words import is_one_paragraph

pytestmark = pytest.mark.usefixtures("one_thread")

MODELS = ("power_law", "curved")
FOUR = PROBLEMS["four"]
BANDS = ("MFI_11", "WMAP_K", "Planck_30", "WMAP_V", "Planck_143", "Planck_353")
NSIDE, FWHM, NOISE = 8, "600 arcmin", 3e-3
RUN = {
    "common_fwhm": FWHM, "nside": NSIDE, "models": MODELS, "device": "cpu", "halves": True,
    "context": True,
    "plan": {"epochs": 1, "steps": 2, "batch": 64, "sample": 64},
}  # fmt: skip
KEPT = "ignore:.*(unlike|differs, by a factor|correlates|are both exactly 0)"
quiet = pytest.mark.filterwarnings(KEPT, "ignore:.*resolution", "ignore:.*extrapolated")


def write_survey(
    folder, bands=BANDS, change="", of="wmap+planck+quijote", instrument="quijote-mfi+wmap+planck"
):
    """Bands of several surveys as one of a user's own."""
    whole = load_survey(of)
    lines = [f"instrument = {instrument!r}"]
    for band in whole.bands:
        if band.name in bands:
            halves = f"halves = {json.dumps(band.halves)}" if band.halves else ""
            lines.append(
                f"[[band]]\nname = {band.name!r}\nfiles = {json.dumps(band.files)}\n{halves}\n"
                f"map = {band.map!r}\nnoise = {band.noise!r}\nsystematic = {band.systematic}\n"
            )
    path = folder / "mine.toml"
    path.write_text("\n".join(lines) + change)
    return str(path)


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    return forms.skies(write_survey(tmp_path_factory.mktemp("survey")), MODELS)


@pytest.fixture(scope="module")
def made(sky):
    return forms.files(sky, NOISE, halves=True)


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def served(made, patch):
    """All products at a server of this machine; figures that take little time."""
    patch.setattr("foreglow.report.recognition.figures.save", draw_small)
    patch.setattr("foreglow.survey.worth._EACH", 8)
    forms.little_training(patch)
    with serve(files=made) as running:
        products = forms.here(running.url, made)
        patch.setattr(registry, "load_registry", lambda: products)
        patch.setattr("foreglow.survey.bands.load_registry", lambda: products)
        yield running


@pytest.fixture
def data(monkeypatch, tmp_path):
    """An empty cache."""
    monkeypatch.setenv("FOREGLOW_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture(scope="module")
def mask(tmp_path_factory):
    """A column of eight, of bytes, of another Nside, NESTED: closed within 6 deg of the plane."""
    return f"{galactic_mask(tmp_path_factory.mktemp('mask'))}[GAL090]"


@pytest.fixture(scope="module")
def finished(sky, served, mask, patch, tmp_path_factory):
    """From an empty cache to the report, by one call."""
    folder = tmp_path_factory.mktemp("run")
    patch.setenv("FOREGLOW_DATA", str(folder / "data"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return recognize_survey(
            sky.survey.name, out=folder / "run", mask=mask, download=True, **RUN
        )


def pure_truth(sky):
    """The model of pixels that lie in one region, and which these are."""
    mean, square = (hp.ud_grade(sky.truth.astype(float) ** power, NSIDE) for power in (1, 2))
    return np.rint(mean).astype(int), square == mean**2


# ---- the whole way ------------------------------------------------------------------------------


def test_the_truth_is_found(finished, sky):
    truth, pure = pure_truth(sky)
    found = finished.answers["fits, evidence"]
    latitude = hp.pix2ang(NSIDE, np.arange(hp.nside2npix(NSIDE)), lonlat=True)[1]
    assert found.seen[np.abs(latitude) > 9].mean() > 0.98
    assert not found.seen[np.abs(latitude) < 3].any()
    right = found.best == truth
    assert right[pure & found.seen].mean() > 0.8
    assert right[pure & found.sure].mean() > 0.9
    assert found.none_fits[pure].mean() < 0.02
    # a network wants every band: QUIJOTE saw the north
    assert set(finished.answers) == {"fits, evidence", "network", "with neighbours"}
    for method in ("network", "with neighbours"):
        assert 0.3 < finished.answers[method].seen.mean() < 0.7


def at_the_beam(sky, band):
    """Q, U of a band as healpy brings it to the beam, ended as all bands are."""
    beam = sky.instrument.fwhm_arcmin[sky.instrument.band.index(band)]
    factor = Resolution(600.0, NSIDE).transfer(beam)
    alm = hp.map2alm([np.zeros(forms.N_PIX), *sky.data[band]], lmax=2 * NSIDE)
    smooth = [hp.almxfl(a, factor) for a in alm]
    return hp.alm2map(smooth, NSIDE, lmax=2 * NSIDE)[1:]


def test_maps_are_those_of_the_sky_at_the_beam(finished, sky):
    data, sigma, noise = finished.sky.read()
    for k, band in enumerate(sky.instrument.band):
        expected = at_the_beam(sky, band)
        seen = np.isfinite(data[:, 0, k])
        assert (data[seen, :, k].T - expected[:, seen]).std() < 0.1 * expected.std()
    assert (noise[:, 0][np.isfinite(sigma)] > 0).all()


def test_halves_differ_as_their_noise_says(finished):
    rows = [r for r in finished.records if r["step"] == "halves"]
    bands = {r["band"]: r for r in rows}
    assert set(bands) == set(BANDS) - {"WMAP_K", "WMAP_V"} | {"all"}  # WMAP has no halves here
    for band in set(bands) - {"all"}:
        # some hundred beams: pixels within one are not independent
        assert bands[band]["rms"] == pytest.approx(1, abs=0.15)
    both = bands["all"]
    assert both["undivided"] == "WMAP_K, WMAP_V"
    assert "Both hold all of the data of WMAP_K, WMAP_V," in finished.report.read_text()
    assert both["agree"] > 0.8
    assert both["sure_agree"] >= both["sure_expected"] - 0.02


def test_each_band_was_left_out(finished):
    rows = [r for r in finished.records if r["step"] == "without"]
    assert [r["band"] for r in rows] == list(BANDS)
    assert all(0.5 < r["agree"] <= 1 for r in rows)


def test_the_report_says_what_it_is_of(finished):
    page = finished.report.read_text()
    for words in ("Foreground models in public maps of the sky", "Each band left out in turn",
                  "Halves of the data", "MFI_11", "at 600 arcmin, Nside 8"):  # fmt: skip
        assert words in page
    assert "smaller than the paper's" not in page
    config = (finished.folder / "config.toml").read_text()
    assert 'experiment = "survey"' in config
    assert (finished.folder / "maps" / "view_survey.npz").is_file()


def test_the_network_is_of_this_noise(finished):
    card = (finished.folder / "model" / "model.toml").read_text()
    low, high = map(float, re.search(r"noise_range = \[\s*([\d.e-]+),\s*([\d.e-]+)", card).groups())
    assert 0.01 < low < 1 < high < 100
    scatter = float(re.search(r"band_scatter = ([\d.e-]+)", card)[1])
    assert 0.05 <= scatter < 1


def test_what_the_answers_are_worth(finished):
    rows = [r for r in finished.records if r["step"] == "worth"]
    methods = {"network", "fits, evidence", "best possible"}
    assert {(r["method"], r["model"]) for r in rows} == {
        (method, model) for method in methods for model in ("all", *MODELS)
    }
    right = {r["method"]: r["accuracy"] for r in rows if r["model"] == "all"}
    assert right["best possible"] > 0.45  # of 64 vectors
    assert right["fits, evidence"] > 0.4
    assert "What the answers are worth" in finished.report.read_text()


@pytest.mark.filterwarnings("ignore")
def test_other_releases_and_measured_bandpasses_find_four_models(monkeypatch, tmp_path):
    """NPIPE with its halves, S-PASS as the IAU counts and WMAP; HFI by its RIMO."""
    bands = ("S-PASS", "WMAP_K", "Planck_30", "WMAP_Q", "Planck_70", "Planck_143", "Planck_353")
    survey = write_survey(tmp_path, bands, "", "npipe+s-pass+wmap", "s-pass+wmap+planck")
    sky = forms.skies(survey)
    files = forms.files(sky, NOISE, halves=True)
    products = forms.here("nowhere/", files)
    monkeypatch.setattr(registry, "load_registry", lambda: products)
    monkeypatch.setattr("foreglow.survey.bands.load_registry", lambda: products)
    monkeypatch.setattr("foreglow.report.recognition.figures.save", draw_small)
    monkeypatch.setattr("foreglow.survey.worth._EACH", 8)
    monkeypatch.setenv("FOREGLOW_DATA", str(tmp_path))
    forms.fill_cache(tmp_path, files)
    rimo = planck_rimo(tmp_path)
    run = RUN | {"models": FOUR, "context": False, "network": False}
    found = recognize_survey(
        survey, out=tmp_path / "run", **run,
        bandpass={f"Planck_{k}": f"{rimo}[BANDPASS_F{k}] as power" for k in (143, 353)},
    )  # fmt: skip
    answer = found.answers["fits, evidence"]
    truth, pure = pure_truth(sky)
    right = answer.best == truth
    assert all(right[pure & (truth == model)].mean() > 0.7 for model in range(4))
    assert right[pure & answer.sure].mean() > 0.93
    assert answer.none_fits[pure].mean() < 0.05
    rows = {r["band"]: r for r in found.records if r["step"] == "halves"}
    assert set(rows) == {"all", *(name for name in bands if name.startswith("Planck"))}
    assert rows["all"]["undivided"] == "S-PASS, WMAP_K, WMAP_Q"


@pytest.mark.parametrize("scatter", [0.0, 0.3])
def test_how_often_ame_is_off_the_dust(scatter):
    """As often as the law has it, in vectors of that law; and it is said where it is more."""
    bands, n = load_survey("wmap+planck+quijote").instrument, 400
    simulator = VectorSimulator(load_templates("mock", 16), bands, FOUR[2:3], ame_scatter=scatter)
    drawn = simulator.draw(n, NoiseLaw.fixed(1e-3), torch.Generator().manual_seed(1))
    square = drawn.sigma**2
    noise = torch.stack([square, torch.zeros_like(square), square], 1)
    sky = SimpleNamespace(read=lambda: (drawn.data.numpy(), None, noise.numpy()), instrument=bands)
    probability = np.tile([[0.0], [0.0], [1.0], [0.0]], n)
    answer = Answer(FOUR, probability, np.zeros(n, bool))
    (found,) = ame_off_dust(sky, answer, np.ones(n, bool), scatter)
    assert found["off"] == pytest.approx(found["expected"], abs=0.05)
    assert "So it is off no more often than the law has it." in ame_in_words(found)
    (found,) = ame_off_dust(sky, answer, np.ones(n, bool), 0.0)
    assert found["expected"] == pytest.approx(0.0455, abs=1e-4)
    assert ("too sure where there is AME" in ame_in_words(found)) == (scatter > 0)
    assert ame_off_dust(sky, answer, np.zeros(n, bool), scatter) == []


def test_a_wide_beam_turns_ame_from_the_dust():
    wide, narrow = ame_about_dust(480.0, 8), ame_about_dust(240.0, 16)
    assert 0.05 < narrow < 0.5 * wide < 0.25
    sigma = np.ones((4, len(BANDS)))
    bands = load_survey("wmap").instrument
    plan = own_instrument(bands, sigma[:, : bands.n_band], None, narrow)[1]
    assert plan.ame_scatter == narrow


def test_without_noise_all_is_known(monkeypatch):
    """And with a hundred thousand times that of the maps nothing is."""
    monkeypatch.setattr("foreglow.survey.worth._EACH", 8)
    bands = load_survey("wmap+planck").instrument
    for scale, low, high in ((1e-5, 0.95, 1), (1e3, 0.2, 0.75)):
        sigma = scale * np.outer(np.geomspace(0.5, 2, 20), bands.noise_rms(16))
        for row in worth(bands, MODELS, sigma, seed=0):
            if row["model"] == "all":
                assert low <= row["accuracy"] <= high
                assert row["calibration_error"] < 0.2


def test_what_it_will_take():
    """Each thing asked for adds its own, and no other."""
    survey = load_survey("wmap+planck")
    plain = predict_cost(survey, 60.0, None, False, True, False, 10)
    pixels, bands = hp.nside2npix(64), len(survey.bands)
    assert plain.download == 10
    assert plain.run - (16 << 20) == 2 * 60 * pixels * bands  # the page, its figures and a network
    assert plain.seconds["fits"] == pytest.approx((1 + bands) * pixels / 800)
    more = predict_cost(survey, 60.0, None, True, True, True, 10, draws=50)
    files = [f.product for f in survey.remote_files()]
    size = sum(hp.nside2npix(file.nside) for file in files)  # whatever the forms' Nside is
    assert plain.seconds["smoothing"] == pytest.approx(size / 3.5e5)
    drawn = more.seconds["50 maps of noise a band"]
    assert drawn == pytest.approx(50 * more.seconds["smoothing"])
    assert more.seconds["fits"] == pytest.approx((3 + bands) * pixels / 800)
    assert more.seconds["training"] > 2 * plain.seconds["training"] > 0
    assert more.memory == plain.memory


def test_without_download_it_is_told_what_is_missing(sky, served, data, run, tmp_path):
    code, text, err = run("recognize", "survey", sky.survey.name, "--out", tmp_path / "out")
    assert code == 2
    assert is_one_paragraph(err)
    assert "expected 6 files of public data" in err
    assert "give --download to fetch them" in err
    for words in ("missing: wmap_band_iqumap_r9_9yr_K_v5.fits", "to lie in", "disk: ", "time: "):
        assert words in text
    assert not (tmp_path / "out").exists()


# ---- killed -------------------------------------------------------------------------------------

BEFORE = """
import os, signal, sys, importlib, warnings
import pytest, torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
import survey_forms as forms
from drawing import draw_small
from foreglow.data import registry
import foreglow.survey, foreglow.survey.bands as bands
patch = pytest.MonkeyPatch()
forms.little_training(patch)
patch.setattr("foreglow.report.recognition.figures.save", draw_small)
products = forms.here({url!r}, {sizes!r})
patch.setattr(registry, "load_registry", lambda: products)
patch.setattr(bands, "load_registry", lambda: products)
warnings.simplefilter("ignore")
"""
DYING = """
owner, calls = importlib.import_module({module!r}), []
real = getattr(owner, {name!r})
def dying(*given, **named):
    calls.append(1)
    if len(calls) == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*given, **named)
patch.setattr(owner, {name!r}, dying)
"""
MOMENTS = [
    ("foreglow.data.gather", "fetch", 3),
    ("foreglow.recognition.observation.beams", "write_noise_of", 3),
    ("foreglow.recognition.network.train", "fit", 1),
    ("foreglow.survey.steps", "train_context", 1),
    # of the first half: after all data, network, neighbours, and each of six bands left out
    ("foreglow.survey.found", "read_answer", 10),
    ("foreglow.survey.steps", "write_report", 1),
]


@pytest.mark.slow
def test_killed_at_six_moments_it_goes_on(finished, sky, served, made, mask, tmp_path):
    """By the command line, from an empty cache to the report: files and answers of one go."""
    out, plan = tmp_path / "run", tmp_path / "plan.toml"
    plan.write_text("\n".join(f"{name} = {value}" for name, value in RUN["plan"].items()))
    environment = os.environ | {"FOREGLOW_DATA": str(tmp_path / "data")}
    words = [
        "recognize", "survey", sky.survey.name, "--out", out, "--common-fwhm", 600,
        "--nside", NSIDE, "--models", ",".join(MODELS), "--plan", plan, "--halves", "--context",
        "--mask", mask, "--device", "cpu", "--download", "--resume",
    ]  # fmt: skip
    tests, sizes = Path(__file__).parents[1], dict.fromkeys(made, b"0" * 1000)
    before = BEFORE.format(tests=str(tests), url=served.url, sizes=sizes)
    for module, name, call in MOMENTS:
        dying = DYING.format(module=module, name=name, call=call)
        ended = forked.begin_foreglow(*words, environment=environment, before=before + dying)()
        assert ended.code == -signal.SIGKILL, ended.err
    kept = {p: p.stat().st_mtime_ns for p in out.rglob("*.fits") if "total_" not in p.name}
    ended = forked.begin_foreglow(*words, environment=environment, before=before)()
    assert ended.code == 0, ended.err
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
    assert (out / "report.html").is_file()
    for file in ("fits", "network", "with_neighbours", "half_1", "without_MFI_11"):
        again, first = (
            read_answer(folder / f"{file}.fits", MODELS).probability
            for folder in (out, finished.folder)
        )
        np.testing.assert_array_equal(again, first)
    words[words.index(NSIDE)] = 4
    ended = forked.begin_foreglow(*words, environment=environment, before=before)()
    assert ended.code == 2
    assert "was begun with another settings" in ended.err


# ---- products that are other than expected -------------------------------------------------------


def at_one_beam(survey, data, tmp_path):
    gathered(survey, data, False, False)
    return brought(survey, data, tmp_path / "sky", 600.0, NSIDE)


def changed(bytes_, change):
    """A file with something changed in its first table."""
    from io import BytesIO

    with fits.open(BytesIO(bytes_)) as hdus:
        change(hdus)
        stream = BytesIO()
        hdus.writeto(stream)
    return stream.getvalue()


def rename(old, new):
    def change(hdus):
        hdus[1].columns[old].name = new

    return change


def card(key, value):
    def change(hdus):
        hdus[1].header[key] = value

    return change


def unit(value):
    def change(hdus):
        for k in (2, 3):
            hdus[1].header[f"TUNIT{k}"] = value

    return change


def values(name, row, value):
    def change(hdus):
        hdus[1].data[name][row] = value

    return change


def without_weights(hdus):
    del hdus[2]


K, P = "wmap_band_iqumap_r9_9yr_K_v5.fits", "LFI_SkyMap_030-BPassCorrected_1024_R3.00_full.fits"
WRONG = {
    "a column renamed": (P, rename("Q_STOKES", "Q"), "got none called Q_STOKES; the"),
    "no covariance": (P, rename("QQ_COV", "SPAM"), "got none called QQ_COV"),
    "no weights": (K, without_weights, r"expected one column QQ, got columns TEMPERATURE"),
    "another unit": (P, unit("MJy/sr"), "expected K_CMB in column Q_STOKES, got unit 'MJy/sr'"),
    "uK for mK": (K, unit("uK_CMB"), "expected mK,thermodynamic in column Q_POLARISATION"),
    "another frame": (P, card("COORDSYS", "C"), "expected COORDSYS G, got C; it was turned"),
    "no ordering": (P, card("ORDERING", ""), "ORDERING"),
    "NaN": (P, values("Q_STOKES", 5, np.nan), "finite values in column Q_STOKES, got NaN or Inf"),
    "variance of nothing": (P, values("QQ_COV", 5, 0.0), "expected a positive definite matrix"),
    "another convention": (P, card("POLCCONV", "SPAM"), "expected POLCCONV COSMO or IAU"),
    "a web page": (K, b"<html>please sign in</html>", "got a web page"),
    "cut": (K, 0.6, "got a file cut in its data|FITS file that is cut"),
}  # fmt: skip


@quiet
@pytest.mark.parametrize(("file", "change", "message"), WRONG.values(), ids=WRONG)
def test_a_product_that_is_other_than_expected(
    file, change, message, sky, served, made, data, tmp_path
):
    survey = load_survey(write_survey(tmp_path, ("WMAP_K", "Planck_30")))
    if isinstance(change, bytes):
        content = change
    elif isinstance(change, float):
        content = made[file][: int(change * len(made[file]))]
    else:
        content = changed(made[file], change)
    forms.fill_cache(data, {K: made[K], P: made[P], file: content})
    with pytest.raises(ForeglowError, match=message) as raised:
        at_one_beam(survey, data, tmp_path)
    assert file in str(raised.value)
    assert "\n" not in str(raised.value)


def of_planck(tmp_path, data, content):
    survey = load_survey(write_survey(tmp_path, ("Planck_30",)))
    forms.fill_cache(data, {P: content})
    return at_one_beam(survey, data, tmp_path).read()


def test_the_sign_of_the_header_counts(sky, served, made, data, tmp_path, caplog):
    """The same sky as the IAU writes it is the same sky, and said to be a copy."""
    caplog.set_level("INFO", "foreglow")

    def flip(hdus):
        hdus[1].header["POLCCONV"] = "IAU"
        for name in ("U_STOKES", "QU_COV"):
            seen = hdus[1].data[name] > hp.UNSEEN / 2
            hdus[1].data[name][seen] *= -1

    (tmp_path / "b").mkdir()
    one = of_planck(tmp_path, data, made[P])
    other = of_planck(tmp_path / "b", data, changed(made[P], flip))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert "POLCCONV IAU, the archive's is COSMO: a copy" in caplog.text


def test_masked_pixels_of_zero_are_not_observed(sky, served, made, data, tmp_path):
    def blank(hdus):
        for name in ("Q_STOKES", "U_STOKES"):
            hdus[1].data[name][:3000] = 0.0

    with pytest.warns(MapWarning, match="Q and U are both exactly 0 in up to"):
        found, *_ = of_planck(tmp_path, data, changed(made[P], blank))
    share = np.isfinite(found[:, 0, 0]).mean()
    assert 0.5 < share < 0.8


def test_another_release_is_named(served, made, data, tmp_path, caplog):
    caplog.set_level("INFO", "foreglow")
    survey = load_survey(write_survey(tmp_path, ("Planck_353",)))
    (data / "planck").mkdir(parents=True)
    (data / "planck" / "HFI_SkyMap_353-psb_2048_R2.02_full.fits").write_bytes(b"")
    with pytest.raises(DataError, match="1 are missing"):
        gathered(survey, data, False, False)
    assert "but HFI_SkyMap_353-psb_2048_R2.02_full.fits: another release" in caplog.text


# ---- S-PASS, surveys and their files ---------------------------------------------------------


def test_noise_is_drawn_to_an_accuracy(sky, served, made, data, tmp_path):
    """Maps of the noise in the place of the formula: the same, to the accuracy of 50 draws."""
    survey = load_survey(write_survey(tmp_path, ("MFI_11",)))
    forms.fill_cache(data, made)
    gathered(survey, data, False, False)
    found = []
    for name, draws in (("formula", None), ("drawn", 50), ("few", 2), ("again", 2)):
        brought_ = brought(survey, data, tmp_path / name, 600.0, NSIDE, draws=draws, seed=3)
        found.append(brought_.read(white=True)[2][:, :, 0])
    formula, drawn, few, again = found
    np.testing.assert_array_equal(few, again)
    seen = np.isfinite(formula).all(1)
    np.testing.assert_array_equal(seen, np.isfinite(drawn).all(1))
    ratio = np.sqrt(formula[seen][:, ::2] / drawn[seen][:, ::2])
    assert ratio.mean() == pytest.approx(1, abs=0.03)
    assert ratio.std() < 2 * np.sqrt(0.5 / 50)


def test_drawn_noise_goes_on_where_it_was_stopped(
    sky, served, made, data, tmp_path, monkeypatch, caplog
):
    """Within a band, to the same result; draws by another seed are none of it."""
    caplog.set_level("INFO", "foreglow")
    survey = load_survey(write_survey(tmp_path, ("MFI_11",)))
    forms.fill_cache(data, made)
    gathered(survey, data, False, False)
    monkeypatch.setattr(common_beam, "_SUMS_EVERY", 0.0)
    draw, drawn = common_beam._drawn, []

    def stopping(*given):
        drawn.append(1)
        if len(drawn) == 4:
            raise KeyboardInterrupt
        return draw(*given)

    def noise(name, seed=3):
        return brought(survey, data, tmp_path / name, 600.0, NSIDE, draws=6, seed=seed).read()[2]

    monkeypatch.setattr(common_beam, "_drawn", stopping)
    for name in ("stopped", "other"):
        drawn.clear()
        with pytest.raises(KeyboardInterrupt):
            noise(name)
    went_on = noise("stopped")
    assert len(drawn) == 4 + 3
    assert "noise_MFI_11.sums.npz: goes on after 3 of 6 maps of noise" in caplog.text
    assert not list((tmp_path / "stopped").glob("*.npz"))
    np.testing.assert_array_equal(went_on, noise("at once"))
    np.testing.assert_array_equal(noise("other", seed=4), noise("another", seed=4))


def test_s_pass_is_read_as_the_iau_counts(tmp_path):
    sky = forms.skies("s-pass", MODELS)
    forms.fill_cache(tmp_path / "data", forms.files(sky, 1e-4))
    gathered(sky.survey, tmp_path / "data", False, False)
    found = brought(sky.survey, tmp_path / "data", tmp_path / "sky", 600.0, NSIDE, systematic=0.1)
    data, _, noise = found.read()
    seen = np.isfinite(data[:, 0, 0])
    expected = at_the_beam(sky, "S-PASS")[:, seen]
    assert (data[seen, :, 0].T - expected).std() < 0.02 * expected.std()
    # of little noise, what is left is the systematic error: a tenth of P, on Q and U alike
    expected = 0.1 * np.hypot(*data[seen, :, 0].T)
    np.testing.assert_allclose(np.sqrt(noise[seen, 0, 0]), expected, rtol=0.02)


@pytest.mark.parametrize("name", available_surveys())
def test_surveys_name_files_of_the_registry(name):
    survey = load_survey(name)
    assert [band.name for band in survey.bands] == list(survey.instrument.band)
    assert survey.remote_files(halves=True)
    maps, noise = survey.said(Path("cache"), half=0)
    assert all(text.startswith("cache") for text in (*maps.values(), *noise.values()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("spam = 1", r"expected a survey: band.0.spam: Extra inputs"),
        ("[[band]]\nname = 'X'", r"expected a survey: band.1.files: Field required"),
        ("systematic = 2", r"expected a TOML file of a survey, got Cannot overwrite"),
    ],
)
def test_a_survey_that_is_none(tmp_path, change, message):
    with pytest.raises(InstrumentError, match=message):
        load_survey(write_survey(tmp_path, ("Planck_30",), change))


def test_words_that_fit_no_file(tmp_path):
    path = Path(write_survey(tmp_path, ("Planck_30",)))
    path.write_text(path.read_text().replace("{0}[QQ", "{1}[QQ"))
    with pytest.raises(InstrumentError, match=r"noise of band Planck_30 with \{0\}.* there are 1"):
        load_survey(str(path))
    with pytest.raises(InstrumentError, match=r"expected a survey, of npipe, planck.* got 'wmpa "):
        load_survey("wmpa")
    with pytest.raises(InstrumentError, match=r"names band Planck_100, .* twice"):
        load_survey("planck+npipe")
    with pytest.raises(RunError, match=r"context=True with a network"):
        recognize_survey("wmap", out=tmp_path / "x", network=False, context=True)
    with pytest.raises(MapError, match=r"expected common_fwhm= as an angle"):
        recognize_survey("wmap", out=tmp_path / "x", common_fwhm="60")
    with pytest.raises(RunError, match=r"expected noise_accuracy= above 0 and up to 0.25, got 5;"):
        recognize_survey("wmap", out=tmp_path / "x", noise_accuracy=5)
    with pytest.raises(InstrumentError, match=r"of \d bands at least, .* got 5 \(WMAP_K"):
        recognize_survey("wmap", out=tmp_path / "x")
    with pytest.raises(
        InstrumentError, match=r"halves=True .* got 'wmap\+s-pass', of which none are known"
    ):
        recognize_survey("wmap+s-pass", models=MODELS, out=tmp_path / "x", halves=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"systematic": 2.0}, r"expected systematic= from 0 to less than 1, .* got 2\."),
        ({"systematic": -0.01}, r"expected systematic= .* got -0\.01"),
        ({"nside": 100}, r"expected nside= as a power of two, no more than \d+, .* got 100"),
        ({"nside": 4096}, r"expected nside= .* got 4096"),
        ({"common_fwhm": "30 arcmin"}, r"common_fwhm= of at least 52\.8 arcmin, .* WMAP_K"),
        ({"common_fwhm": "60 deg"}, r"common_fwhm= of at most 1800 arcmin .* check its unit"),
        ({"mask": "nosuch.fits"}, r"nosuch\.fits"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_fetched(options, message, tmp_path, data):
    with pytest.raises(ForeglowError, match=message):
        recognize_survey("wmap+planck", out=tmp_path / "x", download=True, **options)
    assert not data.exists()
    assert not (tmp_path / "x").exists()


def test_agreement_of_answers():
    """Two that are sure to p and q agree in p q of such pixels, or more."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 20000)

    def answer(p):
        right = rng.random(truth.size) < p
        best = np.where(right, truth, 1 - truth)
        chance = np.where(best == np.arange(2)[:, None], p, 1 - p)
        return Answer(MODELS, chance, np.zeros(truth.size, bool))

    found = agreement(answer(0.95), answer(0.92))
    assert found["n_sure"] == truth.size
    assert found["sure_expected"] == pytest.approx(0.874)
    assert found["sure_agree"] == pytest.approx(0.874 + 0.05 * 0.08, abs=0.01)
    nothing = Answer(MODELS, np.full((2, 4), np.nan), np.zeros(4, bool))
    assert agreement(nothing, nothing)["agree"] is None
