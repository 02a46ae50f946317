"""Both jobs of the demo, with plans of a few steps."""

import io
import json
from dataclasses import replace
from functools import partial

import healpy as hp
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from rich.console import Console

from drawing import draw_small
from foreglow import demo
from foreglow.demo import dust, recognise
from foreglow.dust.model import DustModel
from foreglow.errors import RunError
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.report.page import mollweide
from foreglow.report.page.skyview import load_view, saved_views
from foreglow.report.recognition import figures


def draw(figure, folder, name, pdf_fonts=42):
    """Small, and of the maps of models one."""
    alike = name.startswith("map_") and name != "map_1_foreglow_many_noise"
    draw_small(Figure(figsize=(1, 1)) if alike else figure, folder, name)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The demo's folder and what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    plans = tuple(replace(plan, epochs=1, steps=4, batch=256) for plan in recognise._PLANS)
    unet = dust._SETTINGS["unet"] | {"width": 1, "epochs": 1, "steps": 2, "batch": 4}
    small = {
        "nside": 128, "test_cutouts": 12, "linear_cutouts": 48, "profile_pointings": 100,
        "centres_nside": 2, "unet": unet,
    }  # fmt: skip
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recognise, "_PLANS", plans)
        patch.setattr(recognise, "_NSIDE", 8)
        patch.setattr("foreglow.reproduce.zhang2019.sky.PROFILE_KMS", 20.0)
        patch.setattr(dust, "_SETTINGS", dust._SETTINGS | small)
        for name in ("_STANDARDISATION_SAMPLE", "_CALIBRATION_SAMPLE"):
            patch.setattr(f"foreglow.recognition.network.train.{name}", 4096)
        patch.setattr("foreglow.dust.train._CALIBRATION_CUTOUTS", 16)
        patch.setattr("foreglow.dust.train.VALIDATION_CUTOUTS", 8)
        patch.setattr("foreglow.dust.train._STANDARDISATION_CUTOUTS", 16)
        patch.setattr("foreglow.dust.validation._CENTRES", 100)
        patch.setattr(figures, "save", draw)
        patch.setattr(mollweide, "mollweide_pixels", partial(mollweide.mollweide_pixels, width=100))
        torch.set_num_threads(1)
        report = demo.run_demo(folder, 0, "cpu", overwrite=True)
        torch.set_num_threads(threads)
    assert report == folder / "report.html"
    console = Console(file=io.StringIO(), width=200)
    for part in demo.printed(folder):
        console.print(part)
    return folder, console.file.getvalue()


def test_what_it_leaves(made):
    folder, _ = made
    captions = json.loads((folder / "figures" / "captions.json").read_text())
    assert set(captions) == {p.stem for p in (folder / "figures").glob("*.png")}
    page = (folder / "report.html").read_text()
    titles = [load_view(path).title for path in saved_views(folder / "maps")]
    assert titles == [
        "Four models, Table 1 noise",
        "Four models, a tenth of Table 1 noise",
        "Four models, noiseless",
        "Dust from hydrogen",
    ]
    assert '<h2 id="sky">' in page
    assert len(page) < 15e6
    assert all(f'id="figure-{name}"' in page for name in captions)
    for regime in ("noiseless", "many_noise", "conditioned"):
        assert Recogniser.load(folder / "model" / regime).models == PROBLEMS["four"]
    assert DustModel.load(folder / "model" / "unet").card["training"]["region"] == "north"
    for name in ("wins", "correlation_north_south", "predicted_map", "velocity_profile"):
        assert name in captions


def test_what_it_prints(made):
    folder, text = made
    assert str(folder / "report.html") in text.replace("\n", "")
    assert "Trained without noise" in text
    assert "a pixel alone does not hold what the paper claims" in text
    assert "paper 93%" in text
    assert "Dust from HI: southern test cutouts" in text
    assert "(paper 76.4%)" in text
    assert str(folder / "maps" / "dust.fits") in text.replace("\n", "")


def test_records_are_those_of_the_maps_on_disk(made):
    """Accuracy counted again from truth.fits and recognised_*.fits."""
    folder, _ = made
    records = json.loads((folder / "metrics.json").read_text())["records"]
    overall = [r for r in records if "problem" in r and r["class"] is None]
    assert len(overall) == 9  # six of the network trained here, three of the paper's
    for record in overall:
        maps = folder / "maps" / f"noise_{record['noise_scale']:g}"
        truth = hp.read_map(maps / "truth.fits")
        name = f"recognised_{record['network']}_{record['training']}.fits"
        *probability, best, _, _ = hp.read_map(maps / name, field=None)
        assert record["accuracy"] == pytest.approx(np.mean(best == truth))
        np.testing.assert_array_equal(best, np.argmax(probability, 0))
    papers = {(r["training"], r["noise_scale"]): r["paper"] for r in overall}
    assert papers["noiseless", 0.0] == 0.93
    assert papers["noiseless", 1.0] == 0.68
    assert papers["many_noise", 1.0] == 0.93
    assert papers["conditioned", 0.1] is None


def test_the_dust_on_disk_is_that_of_the_records(made):
    """Coverage counted again from the map, and the models of the table."""
    folder, _ = made
    records = json.loads((folder / "metrics.json").read_text())["records"]
    scored = {r["model"] for r in records if r.get("step") == "models"}
    assert scored == {"integrated", "linear", "linear_scale_dependent", "unet"}
    whole = [r for r in records if r.get("step") == "coverage" and r["bin"] == 0]
    mean, std = hp.read_map(folder / "maps" / "dust.fits", field=(0, 1))
    assert sum(r["n"] for r in whole) == np.count_nonzero(mean != hp.UNSEEN)
    assert hp.get_nside(std) == 128


def test_an_earlier_demo_is_replaced_only_if_asked(made):
    folder, _ = made
    with pytest.raises(RunError, match="is not empty"):
        demo.run_demo(folder, 0, "cpu", overwrite=False)


@pytest.mark.parametrize("content", [{}, {"config.toml": 'experiment = "farsian2020"\n'}])
def test_overwrite_spares_what_is_no_demo(tmp_path, content):
    (tmp_path / "thesis.tex").write_text("mine")
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(RunError, match="does not hold a demo, so it is not replaced"):
        demo.run_demo(tmp_path, 0, "cpu", overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "mine"
