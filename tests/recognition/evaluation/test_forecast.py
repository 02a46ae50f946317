"""A forecast of r by the way in which foreground models are chosen."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from foreglow.errors import ForeglowError, InstrumentError, RunError
from foreglow.recognition.evaluation.forecast import forecast
from foreglow.recognition.models import ForegroundModel
from foreglow.report.recognition.curves import r_forecast
from foreglow.sky.instrument import Instrument

RECOGNISED = [
    f"{how} by {where}" for where in ("pixel", "patch") for how in ("recognised", "averaged")
]


@pytest.fixture(scope="module")
def found(instrument):
    return forecast(
        instrument, "curvature", layout="quadrants", skies=2, noise_scale=0.1, progress=False
    )


def test_options_and_numbers(found):
    by_option = {record["option"]: record for record in found.records}
    everywhere = ["power law everywhere", "curved everywhere"]
    assert list(by_option) == [*everywhere, *RECOGNISED, "true models"]
    assert (found.region, found.ell) == ("|b| > 20 deg", (2, 47))
    assert all(record["realisations"] == 2 for record in found.records)
    wrong, right = by_option["power law everywhere"], by_option["true models"]
    assert wrong["r_bias"] > 1e-3 > 1e-5 > right["r_bias"]
    assert right["rms"] < by_option["recognised by patch"]["rms"] < wrong["rms"]
    averaged = by_option["averaged by patch"]
    assert averaged["r_bias"] < 0.1 * wrong["r_bias"]
    assert 5e-5 < averaged["r_error"] < 2e-4
    assert json.loads(json.dumps(found.records)) == found.records


def test_summary_and_figure(found, tmp_path):
    lines = found.summary().splitlines()
    assert len(lines) == 1 + len(found.records)
    assert lines[-1].startswith("true models")
    r_forecast(found).savefig(tmp_path / "figure.png")
    assert np.asarray(Image.open(tmp_path / "figure.png")).std() > 10


def test_a_pool_own_models_and_a_mask(instrument):
    mask = np.arange(3072) < 1024
    models = {"power_law": {}, "flattening": ForegroundModel(curvature=0.08)}
    with ThreadPoolExecutor(2) as pool:
        own = forecast(
            instrument, models, pool=pool, layout="halves", skies=2, noise_scale=0.1, mask=mask,
            progress=False,
        )  # fmt: skip
    assert own.region == "mask, 33.3% of the sky"
    assert own.records[1]["option"] == "flattening everywhere"
    assert own.records[-1]["r_bias"] < 1e-5 < own.records[0]["r_bias"]


def test_moments_of_the_dust(instrument):
    own = forecast(
        instrument, "power_law,dust_moments", layout="halves", skies=2, noise_scale=0.1,
        progress=False,
    )  # fmt: skip
    by_option = {record["option"]: record["r_bias"] for record in own.records}
    assert by_option["recognised by pixel"] < 0.1 * by_option["power law everywhere"]
    assert by_option["dust moments everywhere"] < 0.01 * by_option["power law everywhere"]


def test_from_the_command_line(run, found, tmp_path):
    out = tmp_path / "forecast"
    command = ("recognize", "forecast", "--models", "curvature", "--skies", 2, "--noise-scale", 0.1,
               "--layout", "quadrants")  # fmt: skip
    code, text, err = run(*command, "--out", out)
    assert code == 0, err
    assert "recognised by patch" in text
    assert {p.name for p in out.iterdir()} == {"forecast.json", "r_forecast.png", "r_forecast.pdf"}
    # the same numbers as by the door, two skies of one seed
    assert json.loads((out / "forecast.json").read_text()) == found.records
    code, _, err = run(*command, "--out", out)
    assert code == 2
    assert "exists; give another --out" in err


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"noise_scale": 0.0}, InstrumentError, "expected noise_scale > 0, .* got 0"),
        ({"noise_scale": float("nan")}, InstrumentError, "expected noise_scale > 0, .* got nan"),
        ({"skies": 1}, RunError, "expected 2 skies or more, for the errors, got 1"),
        ({"models": "five"}, ForeglowError, "expected models curvature"),
        ({"layout": "stripes"}, ForeglowError, "stripes"),
        ({"patch_nside": 3}, RunError, "a power of 2 from 1 to that of the maps, 16, got 3"),
        ({"patch_nside": 32}, RunError, "to that of the maps, 16, got 32"),
        ({"mask": np.ones(48)}, ForeglowError, "expected a mask of Nside 16"),
        ({"mask": np.arange(3072) == 9}, RunError, "a mask that keeps 1% of the sky or more"),
        ({"mask": np.ones(3072), "cut_deg": 10.0}, RunError, "a mask or cut_deg, got both, 10 deg"),
        ({"skies": "2"}, RunError, "got '2'"),
        ({"cut_deg": 95.0}, ForeglowError, "expected cut_deg from 0 to 80, got 95"),
    ],
)  # fmt: skip
def test_mistakes(instrument, options, error, message):
    with pytest.raises(error, match=message):
        forecast(instrument, **({"skies": 2, "progress": False} | options))


def test_too_few_bands():
    few = Instrument(
        "few", ("a", "b", "c"), (30.0, 100.0, 353.0), (1.0,) * 3, (30.0,) * 3, ("",) * 3
    )
    with pytest.raises(InstrumentError, match=r"expected 6 bands or more to fit power_.* got 3"):
        forecast(few, "four", skies=2)
