"""The reproduction end to end with settings smaller than smoke, then resumed; its sources."""

import base64
import json
import pickle
import tomllib
from functools import cache
from types import SimpleNamespace

import healpy as hp
import numpy as np
import pytest
from matplotlib.figure import Figure

from drawing import draw_small
from foreglow.dust.model import DustModel
from foreglow.dust.plan import DustPlan
from foreglow.errors import RunError, SkyError
from foreglow.hi_cube.cube import write_cube
from foreglow.maps.weighted_sky import WeightedSky
from foreglow.maps.write import write_maps
from foreglow.report.page.skyview import averaged, load_view, saved_views
from foreglow.reproduce import PAPERS, printed_tables, read_records, reproduce, zhang2019
from foreglow.reproduce.settings import SCALES, read_settings
from foreglow.reproduce.zhang2019 import experiment, models
from foreglow.reproduce.zhang2019.experiment import POLARISED
from foreglow.reproduce.zhang2019.paper import HIGH_KMS, LOW_KMS
from foreglow.reproduce.zhang2019.source import open_source, paper_channels
from foreglow.sky.gas import mock_gas

pytestmark = pytest.mark.usefixtures("one_thread")

_PLAN = {"network": "unet", "width": 1, "epochs": 1, "steps": 2, "batch": 4}
TINY = {
    "nside": 128,
    "networks": ["unet", "unet_zhang2019", "unet_zhang2019_annealed"],
    "test_cutouts": 12,
    "linear_cutouts": 48,
    "profile_pointings": 100,
    "lambdas": [0.0, 30.0],
    "wide_kms": 20.0,
    "centres_nside": 3,
    "cleaning_realisations": 2,
    "unet": _PLAN | {"members": 2},
    "unet_zhang2019": _PLAN | {"network": "unet_zhang2019"},
    "unet_zhang2019_annealed": _PLAN | {"network": "unet_zhang2019", "schedule": "annealed"},
    "variants": _PLAN,
    "unet_polarised": _PLAN,
    "hough_cutouts": 2,
    "polarised_skies": ["half_alignment"],
}
NETWORKS = set(TINY["networks"])
MODELS = {"integrated", "linear", "linear_scale_dependent"} | NETWORKS
TRAINED = NETWORKS | {
    "lambda_0", "lambda_30", "east_west", "unet_moments",
    "unet_integrated", "unet_wide", "unet_polarised",
}  # fmt: skip
FIGURES = {
    "velocity_profile", "hydrogen", "dust", "example_cutout", "wins", "correlation_north_south",
    "learning_north_south",
    "predicted_map", "error_coverage", "cleaning_143", "cleaning_217", "correlation_lambda",
    "correlation_east_west", "correlation_ablations", "polarisation_by_ell", "polarised_cutout",
    "polarised_cleaning_95", "polarised_cleaning_150", "polarised_cleaning_220",
    "polarisation_on_the_sphere",
}  # fmt: skip


def draw(figure, folder, name, pdf_fonts=42):
    """Small, and of the bands that are drawn alike one."""
    alike = name.rpartition("_")[2] in ("143", "95", "150")
    draw_small(Figure(figsize=(1, 1)) if alike else figure, folder, name)


@pytest.fixture(scope="module")
def tiny():
    """Settings and figures that take little time, for the whole module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zhang2019, "read_settings", lambda *_: TINY)
        patch.setattr(experiment.figures, "save", draw)
        patch.setattr("foreglow.dust.train._CALIBRATION_CUTOUTS", 16)
        patch.setattr("foreglow.dust.train.VALIDATION_CUTOUTS", 8)
        patch.setattr("foreglow.dust.sphere_scores._HALVINGS", 1)
        patch.setattr(WeightedSky.__init__, "__defaults__", (0,))  # what three add is in tests/maps
        patch.setattr("foreglow.dust.train._STANDARDISATION_CUTOUTS", 16)
        patch.setattr("foreglow.reproduce.zhang2019.sky.PROFILE_KMS", 20.0)
        made_once = cache(mock_gas)
        patch.setattr("foreglow.reproduce.zhang2019.source.mock_gas", made_once)
        others = "foreglow.reproduce.zhang2019.polarisation.mock_gas"
        patch.setattr(others, lambda nside, *_: made_once(nside, 0))
        yield


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """The run directory of a whole reproduction."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    report = reproduce("zhang2019", path, "smoke", device="cpu", map_fn=sent)
    assert report == path / "report.html"
    return path


def sent(work, items):
    """A map whose work goes as it would go to workers."""
    for item in items:
        yield pickle.loads(pickle.dumps((work, item)))[0](item)


@pytest.fixture(scope="module")
def records(folder):
    return read_records(folder)


def of(records, **fields):
    return [r for r in records if fields.items() <= r.items()]


# ---- metrics.json ----------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["train", "validation", "test"])
def test_models(records, which):
    found = {r["model"]: r for r in of(records, step="models", set=which)}
    assert set(found) == MODELS
    for name, record in found.items():
        assert record["split"] == "north_south"
        assert record["n"] == (3 if which == "validation" else 12)
        for scale in ("50", "150"):
            assert -1 <= record[f"r{scale}"] <= 1
            assert record[f"r{scale}_sem"] > 0
            assert "spectrum_r50" in record  # eq. 2.1 as it is written
            assert (record.get(f"wins{scale}") is None) == (name == "integrated")
        network = name.startswith("unet")
        assert record["lambda"] == (30.0 if network else None)
        papers = record["paper_wins50"], record["paper_wins150"]
        assert papers == ((0.764, 0.889) if network and which == "test" else (None, None))
    # ours starts from the integrated map: two steps cannot lose it
    assert abs(found["unet"]["r50"] - found["integrated"]["r50"]) < 0.05


def test_the_linear_model_is_of_the_training_region(records):
    """Fitted there, the scale-dependent one loses more on the way to the south."""
    loss = {
        name: of(records, step="models", set="train", model=name)[0]["r50"]
        - of(records, step="models", set="test", model=name)[0]["r50"]
        for name in ("integrated", "linear_scale_dependent")
    }
    assert loss["linear_scale_dependent"] > loss["integrated"]


def test_the_ceiling_is_above_all(records):
    (best,) = of(records, step="ceiling")
    assert best["model"] == "perfect_gas"
    test = of(records, step="models", set="test")
    assert all(best[r] > record[r] for record in test for r in ("r50", "r150"))


def test_what_cannot_be_predicted(records):
    shares = of(records, step="unpredictable")
    assert [(r["ell_low"], r["ell_high"]) for r in shares] == [(20, 50), (50, 100), (100, 200)]
    for record in shares:
        assert 0 < record["unpredictable"] < 0.3
        assert record["background"] > record["noise"] > 0


def test_lambda(records):
    found = of(records, step="lambda")
    assert [r["lambda"] for r in found] == [0.0, 30.0]
    assert {r["set"] for r in found} == {"test"}
    assert found[0]["r50"] != found[1]["r50"]


def test_east_and_west(records):
    found = of(records, step="east_west")
    assert {(r["split"], r["set"]) for r in found} == {
        ("east_west", "train"), ("east_west", "test"),
    }  # fmt: skip
    assert {r["model"] for r in found} == MODELS - NETWORKS | {"unet_single"}


def test_ablations(records):
    found = {r["model"]: r for r in of(records, step="ablations")}
    assert set(found) == {
        "integrated", "linear_scale_dependent", "unet_single", "unet_moments", "unet_integrated",
        "unet_wide", "integrated_wide",
    }  # fmt: skip
    (same,) = of(records, step="lambda", **{"lambda": 30.0})
    assert found["unet_single"]["r50"] == same["r50"]
    assert found["integrated_wide"]["r50"] != found["integrated"]["r50"]


def test_errors_of_the_map(records, folder):
    rows = of(records, step="coverage")
    assert {r["set"] for r in rows} == {"train", "validation", "test"}
    for row in rows:
        assert 0.3 < row["within1"] <= row["within2"] <= 1
        assert row["unit"] == "uK_RJ"
    (seams,) = of(records, step="seams")
    assert 0 < seams["over_rms"] < 0.1 < seams["missed"] / seams["rms"]
    (polarised,) = of(records, step="polarised_seams")
    assert 0 < polarised["over_rms"] < 0.3
    mean, std = hp.read_map(folder / "maps" / "dust.fits", field=(0, 1))
    seen = mean > hp.UNSEEN / 2
    assert seen.mean() == pytest.approx(0.72, abs=0.01)
    assert (std[seen] > 0).all()


def test_cleaning(records):
    found = of(records, step="cleaning")
    assert {r["frequency_ghz"] for r in found} == {143.0, 217.0}
    left = {
        r["model"]: r["share"] for r in found if r["frequency_ghz"] == 217 and r["ell_low"] == 50
    }
    assert set(left) == {"integrated", "linear", "unet", "perfect_gas", "true_dust"}
    assert left["true_dust"] < left["perfect_gas"] < left["integrated"] < 1


def test_cleaning_of_b_modes(records):
    found = of(records, step="polarised_cleaning")
    assert {r["frequency_ghz"] for r in found} == {95.0, 150.0, 220.0}
    rows = {r["model"]: r for r in found if r["frequency_ghz"] == 150 and "r_bias" in r}
    simple = {"none", "mean_field", "hough_averaged", "gradients", "unet_polarised"}
    both = {f"{name} + planck_353" for name in simple - {"none"}}
    assert set(rows) == simple | both | {"perfect_gas", "planck_353", "true_dust"}
    assert rows["true_dust"]["share"] < 0.01 < rows["perfect_gas"]["share"] < 1
    assert rows["none"]["r_bias"] > rows["perfect_gas"]["r_bias"] > rows["true_dust"]["r_bias"]
    bins = [r["ell_low"] for r in found if r["model"] == "none" and r["frequency_ghz"] == 95]
    assert bins == [30, *range(30, 240, 30)]


def test_polarisation_on_the_sphere(records):
    found = of(records, step="polarised_sphere", by="ell", target="truth", model="gradients")
    assert [r["low"] for r in found] == [20, 50, 100, 150, 200]
    assert all(0 < r["r_e"] < 1 for r in found)
    (whole,) = of(records, step="polarised_sphere", by="sphere", target="truth", model=POLARISED)
    assert 0 < whole["alignment"] < 1
    assert 0.2 < whole["sky_fraction"] < 0.4  # of the south


def test_records_are_flat(records):
    assert not any(isinstance(v, dict | list) for r in records for v in r.values())
    assert all("step" in r for r in records)


# ---- the rest of the run directory -----------------------------------------------------------


def test_what_it_leaves(folder):
    captions = json.loads((folder / "figures" / "captions.json").read_text())
    drawn = {p.stem for p in (folder / "figures").glob("*.png")}
    assert set(captions) == drawn == FIGURES
    numbers = {c["title"].split(":")[0] for c in captions.values() if "Figure" in c["title"]}
    assert numbers == {f"Figure {k}" for k in (1, 3, 4, 5, 6, 7)}
    assert {p.name for p in (folder / "model").iterdir()} == TRAINED
    for name in TRAINED:
        model = DustModel.load(folder / "model" / name)
        assert model.card["history"]["validation_r50"]
        region = "east" if name == "east_west" else "north"
        assert model.card["training"]["region"] == region
        assert model.card["validation"]["region"].startswith(f"{region}, longitudes")
    config = tomllib.loads((folder / "config.toml").read_text())
    assert config["experiment"] == "zhang2019"
    assert config["settings"]["unet"]["members"] == 2


def test_report(folder):
    page = (folder / "report.html").read_text()
    for path in (folder / "figures").glob("*.png"):
        assert base64.b64encode(path.read_bytes()).decode() in page
    view, polarised = (load_view(path) for path in saved_views(folder / "maps"))
    assert {"True polarised intensity", "Error of Q"} <= {one.name for one in polarised.layers}
    mean = hp.read_map(folder / "maps" / "dust.fits")
    mean[mean == hp.UNSEEN] = np.nan
    np.testing.assert_allclose(view.layers[0].values, averaged(mean), rtol=1e-5)
    assert view.spectra.tb.shape == (64, hp.nside2npix(64))
    assert '<h2 id="sky">' in page
    for name in ("models", "ceiling", "east_west", "lambda", "ablations", "coverage", "cleaning"):
        assert f'id="dust-{name}"' in page
    for name in ("polarisation", "polarised-cleaning"):
        assert f'id="dust-{name}"' in page
    for words in ("mock Galaxy, a stand-in", "paper 76.4%", "paper 88.9%", "Scale “smoke”"):
        assert words in page
    assert 'src="http' not in page


def test_printed(folder):
    table, polarised = printed_tables("zhang2019", folder)
    assert polarised.row_count == 10  # the truth, as observed, and another sky
    assert table.row_count == len(MODELS) + 1


def test_log(folder):
    log = (folder / "log.txt").read_text()
    for words in ("train unet", "template cleaning", "cannot be predicted from gas", "maps/dust"):
        assert words in log


@pytest.mark.parametrize("name", models.SHIPPED)
def test_a_shipped_model_is_judged_on_skies_that_are_as_its_own_and_that_it_never_saw(name):
    model = DustModel.load(name)
    training = model.card["training"]
    velocity = np.array(model.velocity_kms)

    def judged(seed=0, nside=model.nside, velocity_kms=velocity, gas=True):
        sky = SimpleNamespace(nside=nside, velocity_kms=velocity_kms)
        source = SimpleNamespace(gas=gas or None)
        return models._can_be_judged(model, SimpleNamespace(sky=sky, source=source, seed=seed))

    last = training["seed"] + training["skies"] - 1
    assert judged()
    assert judged(last + 1)
    assert judged(last, gas=False)
    wrong = [{"seed": last}, {"nside": 128}, {"velocity_kms": velocity + 50}]
    assert not any(judged(**change) for change in wrong)


# ---- resuming --------------------------------------------------------------------------------


@pytest.mark.slow
def test_resume_trains_no_more_and_changes_no_record(folder, records, monkeypatch):
    def no_training(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(experiment, "train", no_training)
    monkeypatch.setattr(experiment.figures, "save", lambda *_: None)
    models = {p: p.stat().st_mtime_ns for p in (folder / "model").rglob("*") if p.is_file()}
    zhang2019.reproduce(folder, "smoke", device="cpu", resume=True)
    assert read_records(folder) == records
    assert {p: p.stat().st_mtime_ns for p in models} == models


def test_resume_with_another_seed(folder):
    with pytest.raises(RunError, match="was begun with another seed"):
        zhang2019.reproduce(folder, "smoke", seed=1, device="cpu", resume=True)


# ---- scales and sources ----------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_can_be_resolved(scale):
    settings = read_settings("zhang2019", scale)
    east = "unet_polarised_east"  # where it is asked for
    assert set(settings) - {"pdf_fonts", east} == set(TINY)
    DustPlan(**settings.get(east, {}))
    assert 30.0 in settings["lambdas"]
    for table in (*NETWORKS, "variants"):
        DustPlan(**settings[table])
    plans = [DustPlan(**settings[f"unet_zhang2019{end}"]) for end in ("", "_annealed")]
    assert [(p.network, p.annealed) for p in plans] == [
        ("unet_zhang2019", False), ("unet_zhang2019", True),
    ]  # fmt: skip
    assert {p.width for p in plans} == {settings["unet_zhang2019"]["width"]}


def test_the_paper_scale_is_the_paper():
    settings = read_settings("zhang2019", "paper")
    plan = DustPlan(**settings["unet_zhang2019"])
    assert (plan.epochs, plan.batch, plan.width, plan.learning_rate) == (40, 64, 64, 1e-3)
    assert plan.steps == -(-50000 // plan.batch)
    assert (settings["nside"], settings["linear_cutouts"]) == (1024, 50000)


def test_unknown_paper_and_scale(tmp_path):
    assert PAPERS == ("farsian2020", "zhang2019")
    with pytest.raises(RunError, match="expected the paper farsian2020 or zhang2019, got 'x'"):
        reproduce("x", tmp_path, "smoke")
    with pytest.raises(RunError, match="expected scale smoke, laptop, evening, paper, got 'huge'"):
        read_settings("zhang2019", "huge")


def test_a_wide_range_holds_the_channels_of_the_paper():
    narrow, wide = paper_channels(LOW_KMS, HIGH_KMS), paper_channels(-120.0, 120.0)
    assert len(narrow) == 64
    assert (wide[0], wide[-1]) == pytest.approx((-119.9, 119.7), abs=0.2)
    first = np.abs(wide - narrow[0]).argmin()
    np.testing.assert_allclose(wide[first : first + 64], narrow, atol=1e-9)


@pytest.fixture
def own_sky(tmp_path):
    """A user's folder: a small cube on the paper's channels, a dust map, a mask."""
    nside, rng = 16, np.random.default_rng(0)
    velocity = paper_channels(-80.0, 30.0)
    n_pix = hp.nside2npix(nside)
    line = np.exp(-0.5 * (velocity / 10) ** 2)
    column = rng.lognormal(size=n_pix).astype(np.float32)
    cube = tmp_path / "cube.zarr"
    write_cube(cube, velocity, (a * column for a in line), nside, 16.2, "a test")
    write_maps(tmp_path / "dust.fits", {"I": (2 * column, "uK_RJ")}, frame="G")
    write_maps(tmp_path / "mask.fits", {"M": (np.ones(n_pix, np.float32), "")}, frame="G")
    (tmp_path / "sky.toml").write_text(
        '[hydrogen]\nfile = "cube.zarr"\n[dust_intensity]\nfile = "dust.fits"\nunit = "uK_RJ"\n'
        '[mask]\nfile = "mask.fits"\n'
    )
    return tmp_path


def test_a_sky_of_ones_own(own_sky):
    source = open_source(str(own_sky), 128, 0)
    assert source.gas is None
    sky = source.sky(LOW_KMS, HIGH_KMS)
    assert len(sky.velocity_kms) == 64
    assert (sky.nside, sky.target_unit) == (16, "uK_RJ")
    velocity, channels = source.channels(-120.0, 120.0)
    assert len(velocity) == len(list(channels)) == len(paper_channels(-80.0, 30.0))
    assert source.reaches(-80.0, 30.0)
    assert not source.reaches(-120.0, 120.0)


_CARD = '[hydrogen]\nfile = "{}"\n[dust_intensity]\nfile = "dust.fits"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "expected sky='mock', sky='hi4pi' or a directory with sky.toml, but .* does not e"),
        ("[hydrogen", "is not valid TOML"),
        ('[dust_intensity]\nfile = "dust.fits"', r"expected a table \[hydrogen\].*velocity cube"),
        (
            _CARD.format("dust.fits"),
            "expected under .hydrogen. a velocity cube.* still to be brought to one Nside",
        ),
        ('[hydrogen]\nfile = "none.zarr"', r"\[hydrogen\] names .*none.zarr, which does not exist"),
        ('[hydrogen]\nfile = "cube.zarr"', r"expected a table \[dust_intensity\]"),
    ],
)
def test_a_folder_that_lacks_something(own_sky, text, message):
    (own_sky / "sky.toml").unlink()
    if text is not None:
        (own_sky / "sky.toml").write_text(text)
    with pytest.raises(SkyError, match=message):
        open_source(str(own_sky), 128, 0)


def test_a_map_without_velocities_is_no_cube(own_sky):
    (own_sky / "sky.toml").write_text(_CARD.format("dust.fits"))
    with pytest.raises(SkyError, match=r"expected under .hydrogen. a velocity cube.*no velocit"):
        reproduce("zhang2019", own_sky / "run", "smoke", str(own_sky))
    assert not (own_sky / "run").exists()


def test_a_real_column_density_is_no_cube(real_data, tmp_path):
    """The HI4PI map at hand has no velocities; the message says what is needed."""
    folder = real_data / "nhi64"
    (tmp_path / "sky.toml").write_text(
        f'[hydrogen]\nfile = "{folder / "nhi_hi4pi_nside64.fits"}"\n'
        f'[dust_intensity]\nfile = "{folder / "ebv_planck13_nside64.fits"}"\nunit = "mag"\n'
    )
    with pytest.raises(SkyError, match=r"holds no velocities. Prepare a cube \(HI4PI"):
        reproduce("zhang2019", tmp_path / "run", "smoke", str(tmp_path))
    assert not (tmp_path / "run").exists()
