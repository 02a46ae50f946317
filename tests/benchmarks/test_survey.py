"""The day of a survey: its commands are understood, its part of the sky is what it says."""

import importlib
from pathlib import Path

import healpy as hp
import pytest
import typer

from foreglow import cli

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def survey(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("survey")


@pytest.fixture
def day(survey, tmp_path):
    (tmp_path / "maps").mkdir()
    for band in ("100", "27.5"):
        (tmp_path / "maps" / f"band_{band}.fits").touch()
    return survey.Day(64, tmp_path, "4 GiB")


def test_every_command_is_understood(survey, day):
    every = typer.main.get_command(cli.app)
    for name, stage in survey.STAGES.items():
        group, command, *rest = stage.words(day, day.folder / stage.out)
        parser = every.commands[group].commands[command]
        given = parser.make_context(command, rest).params
        assert given["out"] == day.folder / stage.out
        assert (given.get("workers") == "local:2") == name.endswith(" two")
        assert given.get("memory") in (None, "4 GiB")
        if "simulate" not in name and not name.startswith("dust"):
            assert len(given["maps"]) == 2
        assert all(survey.STAGES[needed].keep for needed in stage.needs)


@pytest.mark.parametrize("nside", [16, 64, 256])
def test_the_part_is_whole_blocks_evenly_over_the_sky(survey, tmp_path, nside):
    day = survey.Day(nside, tmp_path, "4 GiB")
    open_pixels = hp.read_map(day.mask()[1]) > 0
    assert open_pixels.sum() == day.n_part
    assert open_pixels.reshape(-1, min(survey.BLOCK, day.n_pix)).all(axis=1).sum() * survey.PARTS \
        >= day.n_pix // survey.BLOCK  # fmt: skip


def test_a_command_is_measured(survey, tmp_path):
    script = "import sys; x = b'1' * (60 << 20); print('so'); sys.exit('error: expected a sky')"
    found = survey.measured([survey.sys.executable, "-c", script], tmp_path)
    assert (found["code"], found["said"]) == (1, "error: expected a sky")
    assert found["peak_mib"] > 60
    assert found["cpu_seconds"] > 0


def test_a_thousand_skies_are_those_of_one(survey, monkeypatch):
    table = importlib.import_module("survey_table")
    row = {"stage": "fit", "what": "fit; a part", "nside": 64, "code": 0, "seconds": 36.0, "n": 10,
           "n_sky": 80, "read_bytes": 10**9, "written_bytes": 2 * 10**9}  # fmt: skip
    refused = {**row, "stage": "context", "code": 2}
    older = {**row, "nside": 32, "seconds": 1.0}
    lines = list(table.paper_table([row, refused, older]))
    # 10 skies a node, each 8 x 36 s; 100 nodes move 3 GB in that time
    assert lines[2:] == ["| fit | 64 | 0.8 | 1 | 2 | 1 |", "| all | | 0.8 | | | |"]
