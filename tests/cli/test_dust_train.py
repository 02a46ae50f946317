"""`foreglow dust train`: a model comes out, and every mistake in one paragraph."""

import json
from pathlib import Path

import healpy as hp
import numpy as np
import pytest

from foreglow.dust import polarised_sphere
from foreglow.dust import train as training
from foreglow.dust.load import SkySource
from foreglow.dust.model import DustModel
from foreglow.errors import MapError
from foreglow.hi_cube.cube import write_cube
from foreglow.maps.write import write_maps
from foreglow.sky.gas import mock_gas
from words import is_one_paragraph

NSIDE = 16
VELOCITY = np.arange(-66.0, 19.0, 6.0)
TINY_PLAN = Path(__file__).parents[1] / "tiny.toml"
TINY = ("--epochs", 1, "--steps", 2, "--batch", 2, "--plan", TINY_PLAN, "--device", "cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name in ("VALIDATION_CUTOUTS", "_STANDARDISATION_CUTOUTS"):
        monkeypatch.setattr(training, name, 4)
    monkeypatch.setattr(polarised_sphere, "CENTRES_NSIDE", 2)


@pytest.fixture
def own(tmp_path):
    """A user's cube, dust map and mask as options."""
    gas = mock_gas(NSIDE)
    write_cube(tmp_path / "hi.zarr", VELOCITY, gas.hydrogen.cube(VELOCITY), NSIDE, 16.2, "mock")
    mask = np.ones(hp.nside2npix(NSIDE), np.float32)
    write_maps(tmp_path / "dust.fits", {"DUST": (gas.dust.total, "MJy/sr")}, frame="G")
    write_maps(tmp_path / "mask.fits", {"MASK": (mask, "")}, frame="G")
    names = {"--cube": "hi.zarr", "--dust": "dust.fits", "--mask": "mask.fits"}
    return [part for option, name in names.items() for part in (option, tmp_path / name)]


def test_on_the_mock(run, tmp_path):
    out = tmp_path / "model"
    code, said, err = run(
        "dust", "train", "--sky", "mock", "--nside", 16, "--low", -40, "--high", 10,
        "--members", 2, "--region", "south", "--out", out, *TINY,
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert f"model: {out} (validation cutouts, south, longitudes" in said
    assert ": r50 0." in said.replace("\n", " ")
    assert "epoch 1/1" in said
    model = DustModel.load(out)
    assert (len(model.members), model.nside, model.card["training"]["region"]) == (2, 16, "south")
    assert model.velocity_kms[0] == -40


def test_polarisation_of_the_mock(run, tmp_path):
    out = tmp_path / "model"
    code, said, err = run(
        "dust", "train", "--sky", "mock", "--nside", 16, "--low", -40, "--high", 10,
        "--target", "polarisation", "--out", out, *TINY,
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert ": e50 " in said.replace("\n", " ")
    model = DustModel.load(out)
    assert (model.target, model.fine) == ("polarisation", 2)
    assert model.card["cutouts"]["filter_cut"] == np.inf
    options = ("--sky", "mock", "--nside", 16, "--cutouts", 6, "--device", "cpu", "--json")
    code, said, err = run("dust", "evaluate", "--model", out, *options)
    assert code == 0
    every = json.loads(said)
    records = [record for record in every if "by" not in record]
    assert [record["model"] for record in records] == ["gradients", "unet"] * 2
    assert [record["target"] for record in records] == ["observed"] * 2 + ["truth"] * 2
    (whole, *_) = sphere = [r for r in every if r.get("by") == "sphere"]
    assert [(r["model"], r["target"]) for r in sphere] == [
        (r["model"], r["target"]) for r in records
    ]
    assert 0.2 < whole["sky_fraction"] < 0.4
    assert -1 <= whole["alignment"] <= 1
    assert {"e50", "b150", "spectrum_e50", "alignment", "wins_b50", "i50", "wins_i50"} <= records[
        1
    ].keys()
    assert -1 <= records[1]["alignment"] <= 1


def test_the_convention_of_a_map_that_states_none(run, own, monkeypatch, tmp_path):
    """Said on the command line, it is what the sky is read with; and never against a header."""
    seen = []

    def load(self):
        seen.append((self.target, self.convention))
        raise MapError("enough")

    code, _, err = run("dust", "train", *own, "--convention", "IAU", "--out", tmp_path / "m", *TINY)
    assert code == 2
    assert "expected --convention of Q and U, got a target of intensity" in " ".join(err.split())
    monkeypatch.setattr(SkySource, "load", load)
    options = ("--target", "polarisation", "--convention", "IAU", "--out", tmp_path / "m")
    assert run("dust", "train", *own, *options, *TINY)[0] == 2
    model = ("--model", "mock-dust-polarised", "--convention", "IAU", "--device", "cpu")
    code, _, err = run("dust", "evaluate", *own, *model)
    assert (code, "enough" in err) == (2, True)
    assert seen == [("polarisation", "IAU")] * 2
    code, _, err = run("dust", "train", "--sky", "mock", "--convention", "IAU", *options[4:], *TINY)
    assert code == 2
    assert "expected --sky 'mock' or files, got --convention beside it" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target", "q"), "expected target intensity or polarisation, got 'q'"),
        (
            ("--target", "polarisation", "--network", "unet_zhang2019"),
            "expected network unet of inputs channels for target polarisation, got unet_zhang2019",
        ),
    ],
)
def test_targets_that_cannot_be(run, tmp_path, options, message):
    code, _, err = run(
        "dust", "train", "--sky", "mock", "--nside", 16, "--out", tmp_path / "m", *TINY, *options
    )
    assert code == 2
    assert message in err.replace("\n", " ")
    assert is_one_paragraph(err)


def test_on_own_files(run, tmp_path, own):
    out = tmp_path / "model"
    plan = tmp_path / "plan.toml"
    plan.write_text('width = 2\ninputs = "moments"\nweight = 5\nepochs = 9\n', encoding="utf-8")
    options = ("--network", "unet_zhang2019", "--plan", plan)
    code, _, err = run("dust", "train", *own, "--out", out, *TINY, *options)
    assert (code, err) == (0, "")
    model = DustModel.load(out)
    assert (model.target_unit, model.network, model.inputs) == (
        "MJy/sr", "unet_zhang2019", "moments",
    )  # fmt: skip
    training = model.card["training"]
    assert (training["weight"], training["epochs"]) == (5, 1)  # options go before the file
    assert "dust.fits" in model.card["training"]["sky"]
    assert len(model.velocity_kms) == 13
    code, _, err = run("dust", "train", *own, "--out", out, *TINY)
    assert code == 2
    assert "exists; give another --out" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "expected --sky 'mock', or both --cube and --dust, got none"),
        (("--sky", "mars"), "got --sky 'mars'"),
        (("--sky", "mock", "--unit", "K"), "got --unit beside it"),
        (("--cube", "hi.zarr", "--dust", "d.fits"), "expected an HI cube, got no such folder"),
        (("--sky", "mock", "--region", "up"), "expected region north, south, east, west"),
        (("--sky", "mock", "--network", "vnet"), "expected network unet or unet_zhang2019"),
        (
            ("--sky", "mock", "--plan", "no.toml"),
            "no.toml: expected the plan of a training",
        ),
        (("--sky", "mock", "--nside", 20), "20"),
        (("--sky", "mock", "--low", 20), "from a lower to a higher velocity"),
        (("--sky", "mock", "--device", "tpu"), "expected device auto, cpu or cuda"),
    ],
)
def test_mistakes(run, tmp_path, options, message):
    code, _, err = run("dust", "train", "--out", tmp_path / "model", *TINY, *options)
    assert code == 2
    assert message in err
    assert is_one_paragraph(err)
    assert not (tmp_path / "model").exists()
