"""The command line: help, exit codes, and one paragraph for every mistake."""

import os
import re
import subprocess
import sys

import healpy as hp
import numpy as np
import pytest

from foreglow import interrupt
from foreglow.maps.write import write_polarisation_map
from words import is_one_paragraph, pairs

COMMANDS = [
    [],
    ["demo"],
    ["reproduce"],
    ["report"],
    ["doctor"],
    ["recognize"],
    ["recognize", "simulate"],
    ["recognize", "train"],
    ["recognize", "context"],
    ["recognize", "classify"],
    ["recognize", "fit"],
    ["recognize", "evaluate"],
]


# ---- help ------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c) or "foreglow")
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(run, command, flag):
    code, out, err = run(*command, flag)
    assert (code, err) == (0, "")
    assert "Usage: foreglow " + " ".join(command) in out


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["demo"], ["default: foreglow-demo", "default: auto", "auto, cpu or cuda"]),
        (
            ["reproduce"],
            [
                "farsian2020",
                "runs/PAPER-SCALE",
                "smoke, laptop",
                "default: laptop",
                "mock",
                "--resume",
            ],
        ),
        (
            ["recognize", "simulate"],
            ["(deg)", "(uK_RJ)", "default: 30", "default: 16", "default: quijote+litebird"],
        ),
        (
            ["recognize", "train"],
            [
                "default: (conditioned)",
                "default: (4096)",
                "foreglow, foreglow_template or farsian2020",
                "curvature, ame",
            ],
        ),
        (
            ["recognize", "classify"],
            ["BAND=FILE", "uK_CMB arcmin", "GHz", "default: 4 GiB", "--overwrite", "--context"],
        ),
        (
            ["recognize", "context"],
            ["unet or potts", "default: unet", "default: (14)", "12 skies", "--resume"],
        ),
        (
            ["recognize", "evaluate"],
            ["all the model's", "default: blobs", "default: 8", "default: 16"],
        ),
    ],
    ids=lambda value: " ".join(value) if value[0] in ("demo", "reproduce", "recognize") else "",
)
def test_help_names_units_and_defaults(run, command, words):
    _, out, _ = run(*command, "--help")
    out = re.sub(r"[\s│]+", " ", out)
    for word in words:
        assert word in out


def test_no_command_shows_help(run):
    code, out, err = run()
    assert "Usage: foreglow" in out + err
    assert code in (0, 2)  # Click changed its mind in 8.2


# ---- mistakes of a user ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["reproduce", "einstein1905"],
            "expected the paper farsian2020 or zhang2019, got 'einstein1905'",
        ),
        (
            ["reproduce", "farsian2020", "--scale", "huge"],
            "expected scale smoke, laptop, evening, paper",
        ),
        (["reproduce", "farsian2020", "--scale", "smoke", "--device", "tpu"], "expected device"),
        (["reproduce", "farsian2020", "--scale", "smoke", "--sky", "nowhere"], "sky.toml does not"),
        (["reproduce", "farsian2020", "--scale", "smoke", "--sky", "pysm:s1"], "pysm:SYNCHROTRON"),
        (["demo", "--device", "tpu"], "expected device auto, cpu or cuda"),
        (["report", "nowhere"], "Expected a run directory with metrics.json"),
        (["recognize", "simulate", "--models", "five"], "expected models curvature, ame, four"),
        (["recognize", "simulate", "--layout", "stripes"], "expected a layout"),
        (["recognize", "simulate", "--nside", "-3"], "positive integer Nside"),
        (["recognize", "simulate", "--noise-scale", "inf"], "expected noise_scale >= 0"),
        (
            ["recognize", "train", "--regime", "loud"],
            "plan: expected --regime as a training can have it",
        ),
        (["recognize", "train", "--network", "cnn"], "expected network farsian2020 or foreglow"),
        (["recognize", "train", "--models", "x"], "expected models curvature, ame, four"),
        (["recognize", "train", "--instrument", "x"], "expected a built-in instrument"),
        (["recognize", "train", "--device", "tpu"], "expected device"),
        (["recognize", "train", "--sky", "nowhere"], "sky.toml does not exist"),
        (
            ["recognize", "context", "--network", "crf", "--model", "nowhere", "--seed", "1"],
            "expected context unet or potts, got 'crf'",
        ),
        (["recognize", "context", "--model", "nowhere", "--seed", "1"], "expected a model"),
        (["recognize", "context", "--model", "nowhere", "--device", "tpu"], "expected device"),
        (["recognize", "evaluate", "--model", "nowhere"], "expected a model directory"),
    ],
    ids=lambda value: " ".join(value[:4]) if isinstance(value, list) else "",
)
def test_mistakes(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    if arguments[0] != "report" and arguments[-2] != "--model":
        arguments = [*arguments, "--out", "out"]
    code, out, err = run(*arguments)
    assert code == 2
    assert message in err
    assert is_one_paragraph(err)
    assert out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--seed", "-1"], "--seed"),
        (["recognize", "train"], "--out"),
        (["recognize", "train", "--out", "x", "--epochs", "0"], "--epochs"),
        (["recognize", "classify", "--model", "m", "--out", "o"], "--maps"),
        (["recognize", "simulate", "--out", "x", "--noise-scale", "-1"], "--noise-scale"),
        (["recognize", "simulate", "--out", "x", "--noise-scale", "nan"], "--noise-scale"),
        (["fly"], "fly"),
        (["demo", "--fly"], "--fly"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--maps", "11"], "expected --maps BAND=VALUE, got '11'"),
        (["--maps", "=file.fits"], "expected --maps BAND=VALUE"),
        (["--maps", "11="], "expected --maps BAND=VALUE"),
        (["--maps", "11=other.fits"], "--maps names band 11 twice"),
        (["--maps", "11.0=other.fits"], "band 11 has two maps"),
        (["--maps", "999=other.fits"], "got band '999'"),
        (["--noise", "11"], "expected --noise BAND=VALUE, got '11'"),
        (["--noise", "11=loud"], "expected noise as an existing FITS file"),
        (["--noise", "11=-1 uK_CMB"], "noise must be a number >= 0"),
        (["--noise", "11=1 uK_CMB", "--noise", "11=2 uK_CMB"], "--noise names band 11 twice"),
        (["--unit", "parsec"], "got unit 'parsec'"),
        (["--noise-scale", "inf"], "expected noise_scale >= 0"),
        (["--device", "tpu"], "expected device auto, cpu or cuda"),
        (["--model", "nowhere"], "expected a model directory"),
        (["--out", "no/where.fits"], "its folder does not exist"),
        (["--out", "there.fits"], "exists; give another --out, or --overwrite"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_in_classify(run, model_folder, maps, tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.fits").write_text("mine")
    arguments = ["--model", model_folder, "--out", "out.fits", *pairs(maps), *change]
    code, out, err = run("recognize", "classify", *arguments)
    assert code == 2
    assert message in err
    assert is_one_paragraph(err)
    assert out == ""
    assert [p.name for p in tmp_path.iterdir()] == ["there.fits"]
    assert (tmp_path / "there.fits").read_text() == "mine"


@pytest.mark.parametrize("what", ["missing", "missing file", "truncated", "nan", "other nside"])
def test_bad_maps_leave_nothing(run, model_folder, maps, tmp_path, what):
    bad = tmp_path / "bad.fits"
    changed = maps | {"50": bad}
    if what == "missing":
        changed = {band: path for band, path in maps.items() if band != "50"}
    elif what == "truncated":
        bad.write_bytes(maps["50"].read_bytes()[:-4000])
    elif what == "nan":
        content = bytearray(maps["50"].read_bytes())
        content[-2880:-2872] = np.array([np.nan], ">f8").tobytes()
        bad.write_bytes(content)
    elif what == "other nside":
        write_polarisation_map(bad, np.ones((2, 12)), "uK_RJ")
    before = sorted(tmp_path.iterdir())
    out = tmp_path / "out.fits"
    code, _, err = run(
        "recognize", "classify", "--model", model_folder, "--out", out, *pairs(changed)
    )
    assert code == 2
    assert is_one_paragraph(err)
    assert (
        "none for 50" if what == "missing" else "Nside" if "nside" in what else "bad.fits"
    ) in err
    assert sorted(tmp_path.iterdir()) == before


def test_damaged_model(run, maps, model_folder, tmp_path):
    (tmp_path / "model").mkdir()
    for name in ("model.toml", "weights.safetensors"):
        (tmp_path / "model" / name).write_bytes((model_folder / name).read_bytes()[:-5])
    code, _, err = run(
        "recognize",
        "classify",
        "--model",
        tmp_path / "model",
        "--out",
        tmp_path / "o.fits",
        *pairs(maps),
    )
    assert code == 2
    assert is_one_paragraph(err)


@pytest.mark.parametrize("name", ["[synchrotron]", "[/red]", "[bold", "a\\"])
def test_brackets_are_no_markup(run, name):
    """Rich takes [word] for a style: a path or a table of TOML must come out as it is."""
    code, _, err = run("recognize", "evaluate", "--model", name)
    assert code == 2
    assert name in err
    assert is_one_paragraph(err)


def test_debug_shows_the_traceback_of_a_mistake(run):
    code, _, err = run("--debug", "recognize", "evaluate", "--model", "nowhere")
    assert code == 2
    assert "Traceback" in err
    assert "ModelError" in err
    assert "error: expected a model directory" in err


# ---- our own failures ------------------------------------------------------------------------


def fail(*_, **__):
    raise ValueError("a bug [/]")


def test_our_failure(run, monkeypatch):
    monkeypatch.setattr("foreglow.report.html.write_report", fail)
    code, out, err = run("report", "anything")
    assert code == 1
    assert err.startswith("failure in foreglow: ValueError: a bug [/]")
    assert "--debug" in err
    assert "Traceback" not in err
    assert out == ""


def test_our_failure_with_debug(run, monkeypatch):
    monkeypatch.setattr("foreglow.report.html.write_report", fail)
    with pytest.raises(ValueError, match="a bug"):  # Python prints the traceback and exits with 1
        run("--debug", "report", "anything")


def test_interruption(run, monkeypatch):
    said = []

    def strike(_):
        said.append(interrupt.message())
        raise KeyboardInterrupt

    monkeypatch.setattr("foreglow.report.html.write_report", strike)
    code, _, err = run("report", "anything")
    assert code == 130
    assert said == ["interrupted; no result was written: run the command again."]
    assert "Traceback" not in err
    assert said[0] in err


# ---- success ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_samples")
def test_simulate_train_classify_evaluate(run, tmp_path):
    sky = tmp_path / "a sky [of mine]"
    code, out, err = run("recognize", "simulate", "--out", sky, "--nside", 16, "--noise-scale", 0.1)
    assert (code, err) == (0, "")
    assert f"17 maps and truth.fits in {sky}" in out
    code, out, err = run(
        "-q", "recognize", "train", "--out", tmp_path / "model", "--epochs", 1, "--steps", 2,
        "--batch", 64, "--device", "cpu",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert re.search(r"model: .*model \(validation accuracy 0\.\d{4}\)", out)
    bands = {p.stem.removeprefix("band_"): p for p in sky.glob("band_*.fits")}
    arguments = [
        "recognize", "classify", "--model", tmp_path / "model", "--out", tmp_path / "out.fits",
        *pairs(bands), "--noise-scale", 0.1, "--noise", "40=3.6 uK_CMB arcmin", "--device", "cpu",
    ]  # fmt: skip
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert "3072 of 3072 pixels classified: power_law" in out
    probability = np.array(hp.read_map(tmp_path / "out.fits", field=(0, 1, 2, 3)))
    np.testing.assert_allclose(probability.sum(0), 1, atol=1e-5)
    first = (tmp_path / "out.fits").read_bytes()
    assert run(*arguments)[0] == 2
    assert run(*arguments, "--overwrite")[0] == 0
    assert (tmp_path / "out.fits").read_bytes() == first
    code, out, err = run(
        "recognize", "evaluate", "--model", tmp_path / "model", "--skies", 2, "--noise-scale", 0,
        "--noise-scale", 1, "--models", "ame", "--device", "cpu",
    )  # fmt: skip
    assert (code, err) == (0, "")
    rows = re.findall(r"([01]) +│ (0\.\d{4}) +│ (0\.\d{4}) │ 6144", out)
    assert [row[0] for row in rows] == ["0", "1"]


def test_as_a_program(tmp_path):
    """`python -m foreglow` as a shell sees it."""
    environment = os.environ | {"COLUMNS": "80"}
    ended = subprocess.run(
        [sys.executable, "-m", "foreglow", "report", "nowhere"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: Expected a run directory with metrics.json")
    assert ended.stderr.count("\n") == 1
