"""The README's tables are those of the recorded runs."""

import importlib
import json
from pathlib import Path

import pytest
import tomli_w

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def papers(monkeypatch):
    """The script, which is part of no package."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("papers")


def record(**fields):
    return {
        "problem": "ame", "network": "foreglow", "training": "noiseless", "noise_scale": 0.0,
        "set": "test", "method": "network", "context": "pixel", "class": None, "accuracy": 0.9876,
        "paper": 0.97,
    } | fields  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """A run directory as `reproduce` leaves it, less all that is not looked at."""
    config = {
        "experiment": "farsian2020", "scale": "smoke", "sky": "mock", "seed": 3, "device": "cpu",
        "versions": {"torch": "2.13.0"}, "git_revision": "abc",
    }  # fmt: skip
    (tmp_path / "config.toml").write_text(tomli_w.dumps(config))
    records = [record(), record(**{"class": "power_law"}), record(layout="blobs:15", accuracy=0.1)]
    found = {"records": records, "timings_s": {"train": 61.26, "fits": 1.0}}
    (tmp_path / "metrics.json").write_text(json.dumps(found))
    return tmp_path


def test_readme_is_that_of_the_records(papers):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert papers.filled(text) == text, "run python benchmarks/papers.py"


def test_a_run_is_kept_with_what_made_it(papers, run, tmp_path, monkeypatch):
    monkeypatch.setattr(papers, "KEPT", tmp_path / "kept")
    kept = json.loads(papers.keep(run).read_text())
    assert kept["command"] == "foreglow reproduce farsian2020 --scale smoke --sky mock --seed 3"
    assert (kept["timings_s"]["train"], kept["versions"]) == (61.3, {"torch": "2.13.0"})
    assert kept["machine"]["cores"] >= 1
    assert [r["class"] for r in kept["records"]] == [None, None]
    rows = list(papers.recognition_networks())
    assert "| ame | `foreglow`, smoke | 98.8 | – | – | – |" in rows


def test_a_page_without_its_marks(papers):
    with pytest.raises(SystemExit, match="expected the mark '<!-- farsian2020: networks -->'"):
        papers.filled("no tables")
