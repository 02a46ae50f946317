"""The benchmarks can run, and docs/performance.md says what they found; nothing is timed."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def load(monkeypatch):
    """Modules of benchmarks/, which is a folder of scripts and no package."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(
        "foreglow.compute.cpu.tune", lambda: None
    )  # else the scripts would, for good
    return importlib.import_module


@pytest.fixture(scope="module")
def results():
    return json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))


def test_rows_have_what_the_tables_need(load, results):
    assert load("table").problems(results["results"]) == []


def test_a_row_that_lacks_something_is_named(load):
    table = load("table")
    row = {"benchmark": "cut", "device": "cpu", "what": "foreglow", "beside": "healpy"}
    (problem,) = table.problems([row])
    assert problem.endswith("lacks beside_per_s, highest, lowest, per_s, ratio, unit")


def test_page_is_that_of_the_results(load, results):
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert page == load("table").filled(page, results), "run benchmarks/table.py"


def test_every_part_left_rows(load, results):
    run = load("run")
    there = {row["part"] for row in results["results"]}
    assert there >= {name for name, _ in run.parts()} | {"limits"}


@pytest.mark.parametrize("names", [["NOSUCH"], ["filtering", "NOSUCH"]])
def test_a_name_that_is_no_benchmark(load, monkeypatch, capsys, names):
    run = load("run")
    monkeypatch.setattr(run, "RESULTS", ROOT / "never" / "written")
    with pytest.raises(SystemExit) as stop:
        run.main(names)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("expected names of benchmarks, got NOSUCH; give one or more of machine, ")
    assert err.endswith(", settings, limits, or none for all\n")
    assert [name for name, _ in run.choose(["filtering"])] == ["filtering"]


def test_every_stage_has_a_limit_and_four_sizes(load, results):
    table, stages, limits = load("table"), load("stages"), load("limits")
    sizes = {(r["stage"], r["size"]) for r in table.sized(results)}
    assert sizes >= {(stage.name, size) for stage in stages.STAGES for size in stage.sizes}
    assert all(stage.sizes[-1] >= 16 * stage.sizes[0] for stage in stages.STAGES)
    limited = {row["stage"] for row in results["results"] if row["benchmark"] == "limit"}
    assert limited == {stage for stage, *_ in limits.NEEDS}


def test_what_every_stage_needs_can_be_counted(load, one_thread):
    for stage, _, count in load("limits").NEEDS:
        need = count()
        assert need.amount, stage
        assert min(need.amount.values()) > 0, stage


def test_exponent_of_a_power_and_its_error(load):
    scaling = load("scaling")
    sizes = [1, 4, 16, 64]
    found, error = scaling.exponent(sizes, [3 * n**1.5 for n in sizes])
    assert found == pytest.approx(1.5)
    assert error == pytest.approx(0, abs=1e-9)
    rng = np.random.default_rng(0)
    many = sizes * 500
    seconds = [n * np.exp(0.1 * g) for n, g in zip(many, rng.standard_normal(2000), strict=True)]
    found, error = scaling.exponent(many, seconds)
    assert abs(found - 1) < 4 * error
    assert error == pytest.approx(0.1 / np.sqrt(2000 * np.var(np.log(sizes))), rel=0.1)


def test_limit_is_the_longest_of_the_times(load):
    limits = load("limits")
    need = limits.Need({"a": 10.0, "b": 1.0}, "nothing")
    row = limits._limit("stage", "items", need, 0.5, {"a": 100.0, "b": 1.0}, "cpu")
    assert (row["bound"], row["limit_per_s"], row["share"]) == ("b", 1.0, 0.5)


@pytest.mark.parametrize(
    ("stage", "size"),
    [
        ("simulate", 8192),
        ("fit, curved", 64),
        ("train, `foreglow`", 1),
        ("classify", 65536),
        ("classify, FITS to FITS", 3072),
        ("filter", 1),
    ],
)
def test_a_stage_does_its_work(load, stage, size):
    stages = load("stages")
    chosen = next(s for s in stages.STAGES if s.name == stage)
    assert chosen.make(torch.device("cpu"), size)() > 0
