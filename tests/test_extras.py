"""Optional parts: what they take, and what is said where they are not installed."""

import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from foreglow import doctor, extras
from foreglow.errors import ForeglowError
from hi_cubes import hi4pi_header, smooth_data, write_fits
from words import is_one_paragraph

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
IMPORTED_AS = {"pillow": "PIL", "dask-jobqueue": "dask_jobqueue"}
TAKES_EXTRAS = re.compile(r"foreglow\.(report|reproduce|demo|compute\.training|.*\btrain$)")


def hide(monkeypatch, *modules):
    """As if they were not installed, for modules of foreglow that are imported from now on too."""
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)
    for name in list(sys.modules):
        if TAKES_EXTRAS.match(name):
            monkeypatch.delitem(sys.modules, name)


def declared():
    return tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]


def test_extras_are_those_of_the_package():
    names = {
        extra: {re.split(r"[<>=]", text)[0] for text in declared()[extra]}
        for extra in extras.EXTRAS
    }
    for extra, packages in names.items():
        assert set(extras.EXTRAS[extra].modules) == {IMPORTED_AS.get(p, p) for p in packages}
    assert declared()["all"] == [f"foreglow[{','.join(extras.EXTRAS)}]"]
    assert set(declared()) == {*extras.EXTRAS, "all", "dev", "docs"}


def test_what_is_there_needs_no_word():
    extras.require(*extras.EXTRAS)


def test_what_is_not_is_named_with_what_installs_it(monkeypatch):
    hide(monkeypatch, "lightning", "matplotlib", "PIL")
    with pytest.raises(ForeglowError) as caught:
        extras.require("simulate", "train", "report")
    assert str(caught.value) == (
        "trainings and figures and reports need lightning, matplotlib, PIL, not installed here; "
        f"install the extra train and report: {sys.executable} -m pip install "
        "'foreglow[train,report]'"
    )


def test_the_command_is_one_for_a_shell(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/my env/bin/python")
    assert shlex.split(extras.command("pysm")) == [
        "/my env/bin/python", "-m", "pip", "install", "foreglow[pysm]",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("module", "extra", "arguments"),
    [
        ("camb", "simulate", "recognize simulate --out {out}"),
        ("lightning", "train", "recognize train --out {out}"),
        ("lightning", "train", "recognize context --model mock-four --out {out}"),
        ("lightning", "train", "dust train --sky mock --out {out}"),
        ("lightning", "train", "dust train --sky mock --devices 2 --out {out}"),
        ("matplotlib", "report", "report {out}"),
        ("PIL", "report", "reproduce zhang2019 --out {out}"),
        ("lightning", "train", "reproduce farsian2020 --out {out}"),
        ("matplotlib", "report", "demo --out {out}"),
        ("distributed", "cluster", "reproduce zhang2019 --workers local:1 --out {out}"),
        ("pysm3", "pysm", "recognize simulate --sky pysm:s1,d1,a2 --out {out}"),
    ],
)  # fmt: skip
def test_commands_say_what_they_lack(run, monkeypatch, tmp_path, module, extra, arguments):
    monkeypatch.setenv("FOREGLOW_CACHE", str(tmp_path / "cache"))  # without spectra of CAMB
    hide(monkeypatch, module)
    code, _, err = run(*arguments.format(out=tmp_path / "out").split())
    assert code == 2
    assert is_one_paragraph(err)
    assert f"need {module}, not installed here; install the extra {extra}: " in err
    assert err.rstrip().endswith(f"-m pip install 'foreglow[{extra}]'")
    assert not (tmp_path / "out").exists()


def test_the_demo_names_all_that_it_lacks_at_once(run, monkeypatch, tmp_path):
    hide(monkeypatch, "lightning", "matplotlib")
    for command in ("demo", "reproduce zhang2019"):
        code, _, err = run(*command.split(), "--out", tmp_path / "out")
        assert (code, err.rstrip()[-24:]) == (2, "'foreglow[train,report]'")


def test_image_cubes_lack_reproject(run, monkeypatch, tmp_path):
    shape = (3, 46, 91)
    header = hi4pi_header(shape, pixel_deg=4.0, first_kms=-1.0)
    write_fits(tmp_path / "car.fits", smooth_data(shape, pixel_deg=4.0), header)
    hide(monkeypatch, "reproject")
    code, _, err = run("dust", "prepare", "--cube", tmp_path / "car.fits", "--out", tmp_path / "hi")
    assert (code, err.rstrip()[-17:]) == (2, "'foreglow[cubes]'")
    assert [path.name for path in tmp_path.iterdir()] == ["car.fits"]


def test_the_doctor_tells_of_extras(monkeypatch):
    hide(monkeypatch, "dask")
    found = {finding.what: finding for finding in doctor._extras()}
    assert set(found) == {f"extra {name}" for name in extras.EXTRAS}
    assert found["extra train"].state == "ok"
    assert found["extra cluster"].state == "absent"
    assert found["extra cluster"].found.endswith("-m pip install 'foreglow[cluster]'")
