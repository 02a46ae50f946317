"""Inference starts without what it does not need, and the command line without PyTorch."""

import json
import subprocess
import sys

import pytest

INFERENCE = (
    "ContextModel", "DustModel", "Recogniser", "classify", "fit", "load_instrument",
    "open_cube", "predict_dust",
)  # fmt: skip
NOT_NEEDED = (
    "camb", "dask", "distributed", "healpy", "lightning", "matplotlib", "pysm3",
    "pytorch_lightning", "reproject", "torchmetrics",
)  # fmt: skip
SCRIPT = """
import contextlib, io, json, sys

def loaded():
    return sorted({name.partition(".")[0] for name in sys.modules})

from foreglow.cli import main

for arguments in (["--help"], ["models"]):
    sys.argv = ["foreglow", *arguments]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main()
command_line = loaded()

import foreglow

for name in sys.stdin.read().split():
    getattr(foreglow, name)
foreglow.Recogniser.load("mock-four")
foreglow.ContextModel.load("mock-four-neighbours")
foreglow.DustModel.load("mock-dust")
print(json.dumps([command_line, loaded()]))
"""


@pytest.fixture(scope="module")
def loaded():
    """Packages in memory after help and `models`, and after every name of inference."""
    answer = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=" ".join(INFERENCE), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(answer.stdout)


def test_inference_loads_no_more_than_it_needs(loaded):
    assert "torch" in loaded[1]
    assert not set(NOT_NEEDED) & set(loaded[1])


def test_the_command_line_starts_without_what_commands_need(loaded):
    assert "typer" in loaded[0]
    assert not {"torch", "numpy", "astropy", *NOT_NEEDED} & set(loaded[0])
