"""Tables whole, results as JSON, versions, completion and the doctor."""

import json
import os
from importlib.metadata import version

import pytest
from rich.console import Console
from rich.table import Table
from typer.main import get_command

from foreglow import cli, demo, doctor, reproduce
from foreglow.cli import screen
from foreglow.data.cache import local_path
from foreglow.data.registry import load_registry
from foreglow.dust.evaluate import score_table
from foreglow.report.dust.style import model_name
from foreglow.report.dust.tables import correlation_text
from foreglow.report.page.tables import accuracy_rows, rich_table
from foreglow.runs import package_versions

SCORES = {f"{kind}{what}": 0.8123 for kind in ("", "spectrum_") for what in ("r50", "r150")}
WINS = {f"{kind}wins{s}": 0.76 for kind in ("", "spectrum_") for s in ("50", "150")}
DUST = {"model": "unet_zhang2019", "n": 1000, **SCORES, **WINS}
DUST |= {f"{key}_sem": 0.01 for key in [*SCORES, *WINS]}
SKY = {
    "problem": "four", "network": "foreglow_template", "training": "noiseless", "noise": "table1",
    "noise_scale": 1.0, "method": "network", "set": "test", "n_pixels": 3072, "accuracy": 0.5,
    "paper": 0.68,
}  # fmt: skip


# ---- tables and JSON ---------------------------------------------------------------------------


def printed(monkeypatch, capsys, table, width=80):
    monkeypatch.setattr(screen, "console", Console(width=width))
    screen.show([table], [], as_json=False)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("table", "name"),
    [
        (score_table([DUST], "a model"), "unet_zhang2019"),
        (correlation_text([DUST], "a model"), model_name("unet_zhang2019")),
        (rich_table(accuracy_rows([SKY], 3)), "foreglow_template"),
    ],
    ids=["dust evaluate", "reproduce zhang2019", "reproduce farsian2020"],
)
def test_no_table_is_cut_at_80_columns(monkeypatch, capsys, table, name):
    text = printed(monkeypatch, capsys, table)
    assert all(word in text for word in name.split())
    assert "…" not in text


def test_a_long_name_in_another_column_is_broken_and_not_cut(monkeypatch, capsys):
    table = Table("a", "b")
    table.add_row("unet_zhang2019", "x" * 90)
    text = printed(monkeypatch, capsys, table)
    assert text.count("x") == 90
    assert "unet_zhang2019" in text


@pytest.fixture
def doctored(monkeypatch):
    """A machine that takes no time to look at."""
    found = [doctor.Finding("torch", "ok", "2.13"), doctor.Finding("CUDA", "absent", "none")]
    monkeypatch.setattr(doctor, "examine", lambda: found)
    return found


def test_json_is_all_that_is_printed(run, doctored):
    code, out, err = run("doctor", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == [finding.record() for finding in doctored]


def test_with_json_all_else_goes_to_standard_error(run, monkeypatch, tmp_path):
    """The report's path and what is logged."""
    monkeypatch.setattr(reproduce, "reproduce", _log_and_finish)
    monkeypatch.setattr(reproduce, "printed_tables", lambda *_: [Table("a")])
    monkeypatch.setattr(reproduce, "read_records", lambda _: [SKY])
    code, out, err = run("reproduce", "farsian2020", "--out", tmp_path, "--json")
    assert code == 0
    assert json.loads(out) == [SKY]
    assert "first step" in err
    assert "report.html" in err


def _log_and_finish(paper, folder, *_):
    import logging

    logging.getLogger("foreglow").info("first step")
    return folder / "report.html"


def test_demo_has_json(run, monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "run_demo", lambda *_: tmp_path / "report.html")
    (tmp_path / "metrics.json").write_text(json.dumps({"records": [SKY, DUST]}))
    monkeypatch.setattr(demo, "printed", lambda _: ["a line"])
    code, out, _ = run("demo", "--out", tmp_path, "--json")
    assert code == 0
    assert json.loads(out) == [SKY, DUST]


def test_recognize_evaluate_has_json(run, model_folder):
    arguments = ["--model", model_folder, "--skies", 1, "--noise-scale", 1]
    code, out, _ = run("recognize", "evaluate", *arguments, "--json")
    (record,) = json.loads(out)
    assert code == 0
    assert record["n_pixels"] == 3072
    assert set(record) == {"noise_scale", "accuracy", "error", "n_pixels"}


# ---- versions ----------------------------------------------------------------------------------


def test_version(run):
    code, out, err = run("--version")
    assert (code, err) == (0, "")
    lines = dict(line.split(" ", 1) for line in out.splitlines())
    assert list(lines)[:2] == ["foreglow", "python"]
    assert lines["healpy"] == version("healpy")
    assert {"torch", "astropy", "pysm3", "camb", "numpy"} <= set(lines)


# ---- doctor ------------------------------------------------------------------------------------


def test_this_machine(run):
    code, out, _ = run("doctor", "--json")
    found = {record["what"]: record for record in json.loads(out)}
    assert code == 0, [record for record in found.values() if record["state"] == "fails"]
    assert set(package_versions()) <= set(found)
    assert found["mock Galaxy"]["state"] == "ok"
    assert os.environ["FOREGLOW_CACHE"] in found["cache folder"]["found"]


def test_what_fails_is_told_by_the_exit_code(run, doctored):
    doctored.append(doctor.Finding("healpy", "fails", "1.20, but ImportError: libcfitsio"))
    code, out, _ = run("doctor")
    assert code == 1
    assert "libcfitsio" in out


def test_a_broken_package_is_found(monkeypatch):
    def refuse(name):
        raise ImportError(f"no {name}")

    monkeypatch.setattr(doctor, "import_module", refuse)
    found = {f.what: f for f in doctor._python()}
    assert found["torch"].state == "fails"
    assert "ImportError: no torch" in found["torch"].found


def test_a_cache_that_cannot_be_written_is_found(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("FOREGLOW_CACHE", str(tmp_path / "file"))
    cache, here = doctor._folders()
    assert cache.state == "fails"
    assert "set FOREGLOW_CACHE" in cache.found
    assert here.state == "ok"


def test_data_that_is_there_is_found(monkeypatch, tmp_path):
    monkeypatch.setenv("FOREGLOW_DATA", str(tmp_path))
    (found,) = doctor._data()
    assert (found.state, str(tmp_path) in found.found) == ("absent", True)
    product = next(p for p in load_registry() if p.pattern is None)
    path = local_path(product.all_files()[0], tmp_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"here")
    (found,) = doctor._data()
    assert (found.state, f"{product.name} (1)" in found.found) == ("ok", True)


@pytest.mark.parametrize(("value", "state"), [(None, "absent"), ("nowhere", "fails"), (".", "ok")])
def test_templates(monkeypatch, tmp_path, value, state):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYSM_LOCAL_DATA", raising=False)
    if value:
        monkeypatch.setenv("PYSM_LOCAL_DATA", value)
    assert [f.state for f in doctor._templates()] == [state]


# ---- completion --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("foreglow rec", {"recognize"}),
        ("foreglow reproduce f", {"farsian2020"}),
        ("foreglow reproduce farsian2020 --scale ", {"smoke", "laptop", "evening", "paper"}),
        ("foreglow recognize cl", {"classify"}),
        ("foreglow recognize train --instrument quijote+", {"quijote+litebird"}),
        ("foreglow recognize train --models ", {"curvature", "ame", "four"}),
        ("foreglow dust train --region ", {"north", "south", "east", "west"}),
        ("foreglow demo --device c", {"cpu", "cuda"}),
        ("foreglow demo --over", {"--overwrite"}),
    ],
)
def test_completion(run, monkeypatch, words, offered):
    """What bash is told when Tab is pressed."""
    monkeypatch.setenv("_FOREGLOW_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    code, out, err = run()
    assert (code, err) == (0, "")
    assert set(out.split()) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(run, monkeypatch, shell):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    monkeypatch.setattr(cli, "command_of", get_command)  # made where that is set
    code, out, _ = run("--show-completion", shell)
    assert code == 0
    assert f"_FOREGLOW_COMPLETE=complete_{shell}" in out
