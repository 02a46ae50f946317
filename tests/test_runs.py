"""Run directories: whole files or none, and one configuration for one folder."""

import json
import logging
import os
import tomllib
from importlib.metadata import version

import pytest

from foreglow.errors import RunError
from foreglow.files import write_text
from foreglow.runs import open_run

CONFIG = {
    "experiment": "test",
    "scale": "smoke",
    "sky": "mock",
    "seed": 0,
    "device": "cpu",
    "settings": {"problems": ["ame"], "noise_scales": [0.1, 1.0]},
}


def begin(folder, resume=False, **changes):
    """Open and close a run."""
    with open_run(folder, CONFIG | changes, resume) as run:
        return run


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "deep" / "run"


def test_config_says_all(folder):
    begin(folder)
    config = tomllib.loads((folder / "config.toml").read_text())
    assert {key: config[key] for key in CONFIG} == CONFIG
    for package in ("foreglow", "torch", "lightning", "numpy", "healpy", "astropy", "camb"):
        assert config["versions"][package] == version(package)
    assert config["versions"]["python"].startswith("3.")
    assert config["git_revision"]
    assert config["command"].startswith("foreglow")


def test_metrics(folder):
    with open_run(folder, CONFIG, resume=False) as run:
        run.records.append({"accuracy": 0.5, "paper": None})
        with run.stage("work"):
            pass
        run.save_metrics()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["records"] == [{"accuracy": 0.5, "paper": None}]
    assert list(metrics["timings_s"]) == ["work"]
    assert (metrics["experiment"], metrics["scale"], metrics["sky"], metrics["seed"]) == (
        "test", "smoke", "mock", 0,
    )  # fmt: skip
    assert run.figures == folder / "figures"
    assert run.models == folder / "model"


def test_log_is_written_whatever_the_callers_level(folder):
    log = logging.getLogger("foreglow")
    before = log.level, list(log.handlers)
    with open_run(folder, CONFIG, resume=False) as run, run.stage("the work"):
        log.info("a line of it")
    log.info("afterwards")
    text = (folder / "log.txt").read_text()
    assert "INFO the work" in text
    assert "INFO a line of it" in text
    assert "afterwards" not in text
    assert (log.level, list(log.handlers)) == before


def test_log_is_closed_after_an_error(folder):
    log = logging.getLogger("foreglow")
    before = list(log.handlers)
    with pytest.raises(ZeroDivisionError), open_run(folder, CONFIG, resume=False):
        _ = 1 / 0
    assert list(log.handlers) == before


def test_a_failed_stage_has_no_time(folder):
    with open_run(folder, CONFIG, resume=False) as run:
        with pytest.raises(ZeroDivisionError), run.stage("work"):
            _ = 1 / 0
        assert run.timings_s == {}


def test_refuses_a_folder_that_holds_something(folder):
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("mine")
    for resume in (False, True):
        with pytest.raises(RunError, match="is not empty; give another out="):
            begin(folder, resume)
    assert [p.name for p in folder.iterdir()] == ["thesis.tex"]


def test_an_empty_folder_will_do(folder):
    folder.mkdir(parents=True)
    begin(folder)
    assert (folder / "config.toml").is_file()


def test_refuses_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="is a file; give another out="):
        begin(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_run_is_not_begun_twice(folder):
    begin(folder)
    with pytest.raises(RunError, match="resume=True to go on"):
        begin(folder)


def test_resume_keeps_what_is_there(folder):
    with open_run(folder, CONFIG, resume=False):
        logging.getLogger("foreglow").warning("first")
    (folder / "model").mkdir()
    begin(folder, resume=True)
    assert (folder / "model").is_dir()
    assert "first" in (folder / "log.txt").read_text()


def test_resume_begins_where_nothing_is(folder):
    begin(folder, resume=True)
    assert (folder / "config.toml").is_file()


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"scale": "paper"},
        {"sky": "elsewhere"},
        {"experiment": "demo"},
        {"settings": CONFIG["settings"] | {"noise_scales": [0.1]}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_resume_refuses_another_configuration(folder, change):
    begin(folder)
    before = (folder / "config.toml").read_bytes()
    (name,) = change
    with pytest.raises(RunError, match=f"was begun with another {name} .*then, .*now"):
        begin(folder, resume=True, **change)
    assert (folder / "config.toml").read_bytes() == before


def test_resume_on_another_device_is_fine(folder):
    begin(folder)
    begin(folder, resume=True, device="cuda")


@pytest.mark.parametrize("content", [b"seed = ", b"\xff\xfe"])
def test_resume_of_a_damaged_configuration(folder, content):
    begin(folder)
    (folder / "config.toml").write_bytes(content)
    with pytest.raises(RunError, match=r"config\.toml is damaged"):
        begin(folder, resume=True)


def test_text_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "file.txt"
    write_text(path, "µ first\n")
    assert path.read_text(encoding="utf-8") == "µ first\n"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            write_text(path, "second")
    assert path.read_text(encoding="utf-8") == "µ first\n"
    write_text(path, "third")
    assert path.read_text(encoding="utf-8") == "third"
