"""Neighbours on the command line: taught, used, evaluated; and every mistake in one paragraph."""

import re
from functools import cache, partial

import healpy as hp
import numpy as np
import pytest
from astropy.io import fits

from foreglow.maps.write import write_polarisation_map
from foreglow.recognition import train as doors
from foreglow.recognition.context import train as training
from foreglow.recognition.context.model import ContextModel
from foreglow.sky.templates import load_templates
from words import is_one_paragraph, pairs

TINY = ("--epochs", 1, "--steps", 2, "--device", "cpu")


@cache
def coarse_templates(sky):
    return load_templates(sky, 16)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Ensembles, validations and calibrations of a second."""
    monkeypatch.setattr(
        training, "pixel_ensemble", partial(training.pixel_ensemble, realisations=3)
    )
    monkeypatch.setattr(doors, "load_templates", coarse_templates)
    monkeypatch.setattr(training, "_VALIDATION_STEPS", 1)
    monkeypatch.setattr(training, "_TEMPERATURE_BATCHES", 1)


@pytest.fixture(scope="module")
def context_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "context"
    ContextModel.untrained("potts", 0).save(folder)
    return folder


def columns(path):
    header = fits.getheader(path, 1)
    return [header[f"TTYPE{k + 1}"] for k in range(header["TFIELDS"])]


# ---- taught, used, evaluated -----------------------------------------------------------------


def test_context_classify_evaluate(run, model_folder, tmp_path):
    sky, folder = tmp_path / "sky", tmp_path / "a context [of mine]"
    assert run("-q", "recognize", "simulate", "--out", sky, "--layout", "quadrants")[0] == 0
    code, out, err = run(
        "-q", "recognize", "context", "--model", model_folder, "--out", folder, *TINY
    )
    assert (code, err) == (0, "")
    assert re.search(r"^context: .*\[of mine\] \(validation accuracy 0\.\d{4}\)$", out.strip())
    card = ContextModel.load(folder).card
    assert card["training"]["steps"] == 2
    assert card["training"]["sky"] == "mock"
    files = {p.stem.removeprefix("band_"): p for p in sky.glob("band_*.fits")}
    qu = np.array(hp.read_map(files["40"], field=None))
    qu[:, :500] = np.nan
    write_polarisation_map(tmp_path / "part.fits", qu, "uK_RJ")
    files["40"] = tmp_path / "part.fits"
    for name, words in (("alone", []), ("together", ["--context", folder])):
        code, out, err = run(
            "recognize", "classify", "--model", model_folder, *words, *pairs(files), "--out",
            tmp_path / f"{name}.fits", "--device", "cpu",
        )  # fmt: skip
        assert (code, err) == (0, "")
        assert "2572 of 3072 pixels classified: power_law" in out
    assert columns(tmp_path / "alone.fits") == columns(tmp_path / "together.fits")
    alone, together = (
        np.array(hp.read_map(tmp_path / f"{name}.fits", field=(0, 1, 2, 3)))
        for name in ("alone", "together")
    )
    for probability in (alone, together):
        assert (probability[:, :500] == hp.UNSEEN).all()
        np.testing.assert_allclose(probability[:, 500:].sum(0), 1, atol=1e-5)
    assert abs(alone - together).max() > 1e-3
    shown = {}
    for name, words in (("alone", []), ("together", ["--context", folder])):
        code, shown[name], err = run(
            "recognize", "evaluate", "--model", model_folder, *words, "--skies", 2,
            "--noise-scale", 1, "--layout", "quadrants", "--device", "cpu",
        )  # fmt: skip
        assert (code, err) == (0, "")
        assert re.search(r"1 +│ 0\.\d{4} +│ 0\.\d{4} │ 6144", shown[name])
    assert shown["alone"] != shown["together"]


def test_interrupted_and_resumed(run, model_folder, tmp_path, monkeypatch):
    """Killed before it is saved: nothing half, and --resume makes what was to be made."""
    arguments = ["recognize", "context", "--model", model_folder, "--network", "potts", *TINY]
    assert run(*arguments, "--out", tmp_path / "whole")[0] == 0
    out = tmp_path / "context"
    with monkeypatch.context() as patch:
        patch.setattr(ContextModel, "save", interrupt)
        assert run(*arguments, "--out", out)[0] in (1, 130)
    assert not out.exists()
    for words, message in (
        ([], "holds an interrupted training; --resume goes on with it"),
        (["--resume", "--seed", 1], "was begun with another seed; resume with the same"),
        (["--resume", "--network", "unet"], "was begun with another network"),
        (["--resume", "--epochs", 2], "was begun with another plan"),
    ):
        code, printed, err = run(*arguments, "--out", out, *words)
        assert (code, printed) == (2, "")
        assert message in err
        assert is_one_paragraph(err)
        assert not out.exists()
    code, _, err = run(*arguments, "--out", out, "--resume")
    assert (code, err) == (0, "")
    weights = [(p / "weights.safetensors").read_bytes() for p in (out, tmp_path / "whole")]
    assert weights[0] == weights[1]
    assert not (tmp_path / "context.training").exists()


def interrupt(*_):
    raise KeyboardInterrupt


# ---- mistakes --------------------------------------------------------------------------------


def no_training(*_, **__):
    raise AssertionError("trained")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--out", "there"], "there exists; give another --out, or remove it first"),
        (["--network", "crf"], "expected context unet or potts, got 'crf'"),
        (["--sky", "nowhere"], "sky.toml does not exist"),
        (["--device", "tpu"], "expected device auto, cpu or cuda"),
        (["--model", "nowhere"], "that `foreglow recognize train --out` wrote"),
        (["--model", "CONTEXT"], "holds a model for context, not for recognition"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_in_context(
    run, model_folder, context_folder, tmp_path, monkeypatch, change, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "pixel_ensemble", no_training)
    (tmp_path / "there").mkdir()
    change = [context_folder if word == "CONTEXT" else word for word in change]
    code, out, err = run(
        "recognize", "context", "--model", model_folder, "--out", "out", *TINY, *change
    )
    assert (code, out) == (2, "")
    assert message in err
    assert is_one_paragraph(err)
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("command", ["classify", "evaluate"])
@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("nowhere", "that `foreglow recognize context --out` wrote"),
        ("MODEL", "holds a model for recognition, not for context; give the folder that"),
        ("DAMAGED", "its SHA-256 differs"),
    ],
)
def test_wrong_context(
    run, model_folder, context_folder, maps, tmp_path, monkeypatch, command, which, message
):
    monkeypatch.chdir(tmp_path)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for name in ("model.toml", "weights.safetensors"):
        content = bytearray((context_folder / name).read_bytes())
        if name != "model.toml":
            content[-1] ^= 1
        (damaged / name).write_bytes(content)
    context = {"MODEL": model_folder, "DAMAGED": damaged}.get(which, which)
    words = [*pairs(maps), "--out", "out.fits"] if command == "classify" else []
    code, out, err = run(
        "recognize", command, "--model", model_folder, "--context", context, *words
    )
    assert (code, out) == (2, "")
    assert message in err
    assert is_one_paragraph(err)
    assert not (tmp_path / "out.fits").exists()
