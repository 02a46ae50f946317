import json
import re

from rich.console import Console

from foreglow.report.dust.sections import dust_sections
from foreglow.report.dust.tables import (
    cleaning_table,
    correlation_rows,
    correlation_table,
    correlation_text,
    coverage_table,
    unpredictable_table,
)
from foreglow.report.html import write_report


def scored(model, step="models", which="test", **fields):
    record = {
        "step": step, "model": model, "split": "north_south", "set": which, "lambda": None,
        "n": 1000, "r50": 0.86, "r50_sem": 0.003, "r150": 0.77, "r150_sem": 0.004,
        "paper_wins50": None, "paper_wins150": None,
    }  # fmt: skip
    if model != "integrated":
        record |= {"wins50": 0.801, "wins50_sem": 0.013, "wins150": 0.842, "wins150_sem": 0.011}
    return record | fields


UNET = scored("unet", paper_wins50=0.764, paper_wins150=0.889, **{"lambda": 30.0})
CLEANING = [
    {
        "step": "cleaning", "method": "cleaning", "model": model, "frequency_ghz": 217.0,
        "ell_low": low, "ell_high": low + 50, "realisations": 20, "dust": 10.0, "residual": 1.0,
        "share": share, "share_std": 0.01, "share_by_band": share,
    }
    for model, share in (("unet", 0.123), ("integrated", 0.2))
    for low in (50, 100)
]  # fmt: skip
COVERAGE = {
    "step": "coverage", "set": "test", "bin": 0, "unit": "uK_RJ", "low": 1.0, "high": 9.0,
    "n": 50000.0, "within1": 0.71, "within2": 0.95, "rms": 4.0, "std": 4.2, "bias": -0.1,
}  # fmt: skip
SHARE = {
    "step": "unpredictable", "ell_low": 50, "ell_high": 100, "unpredictable": 0.03,
    "orientation": 0.001, "radiation": 0.01, "background": 0.02, "noise": 0.002,
}  # fmt: skip
RECORDS = [
    UNET, scored("integrated", which="train"), scored("integrated"), SHARE,
    scored("perfect_gas", "ceiling"), COVERAGE | {"bin": 1}, *CLEANING,
    scored("unet_single", "lambda", **{"lambda": 120.0}),
    scored("unet_single", "lambda", **{"lambda": 0.0}), scored("unet_single", "east_west"),
    scored("unet_moments", "ablations"),
]  # fmt: skip


def plain(text):
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


def test_rows_are_of_a_step_and_in_order():
    rows = correlation_rows(RECORDS, "models")
    assert [(r["model"], r["set"]) for r in rows] == [
        ("integrated", "test"), ("unet", "test"), ("integrated", "train"),
    ]  # fmt: skip
    assert [r["lambda"] for r in correlation_rows(RECORDS, "lambda")] == [0.0, 120.0]


def test_correlations_beside_the_paper():
    text = plain(correlation_table(correlation_rows(RECORDS, "models")))
    assert "U-Net test region 0.8600 ± 0.0030 0.7700 ± 0.0040" in text
    assert "80.1% ± 1.3 paper 76.4%" in text
    assert "84.2% ± 1.1 paper 88.9%" in text
    assert "integrated intensity training region" in text
    assert correlation_table([]) == ""


def test_lambda_is_named():
    text = plain(correlation_table(correlation_rows(RECORDS, "lambda")))
    assert "U-Net, one network, λ = 120" in text


def test_terminal():
    console = Console(width=160, record=True, quiet=True)
    console.quiet = False
    with console.capture() as caught:
        console.print(correlation_text(correlation_rows(RECORDS, "models"), "Southern cutouts"))
    text = caught.get()
    assert "Southern cutouts" in text
    assert "80.1% (paper 76.4%)" in text


def test_other_tables():
    text = plain(unpredictable_table(RECORDS))
    assert "50 ≤ ℓ &lt; 100 3.0% 0.1% 1.0% 2.0% 0.2%" in text
    text = plain(coverage_table([COVERAGE]))
    assert "test region all 50,000 71.0% 95.0% 4 4.2 −0.1" in text
    assert "[uK_RJ]" in text
    assert "Prediction Pixels" in plain(coverage_table([COVERAGE | {"unit": "1"}]))
    text = plain(cleaning_table(RECORDS))
    assert text.index("integrated intensity 20 ± 1") < text.index("U-Net 12.3 ± 1")
    for table in (unpredictable_table, coverage_table, cleaning_table):
        assert table([UNET]) == ""


def test_sections_of_a_report(tmp_path):
    metrics = {"experiment": "zhang2019", "scale": "smoke", "sky": "mock", "seed": 0}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics | {"records": RECORDS}))
    page = write_report(tmp_path).read_text()
    for name in ("models", "ceiling", "east_west", "lambda", "ablations", "coverage", "cleaning"):
        assert f'id="dust-{name}"' in page
    assert "Zhang, Chiang, Sheehy, Slosar" in page
    assert "mock Galaxy, a stand-in" in page
    assert 'id="accuracy"' not in page  # nothing of the other paper
    assert 'id="separation"' not in page


def test_nothing_for_other_records():
    assert dust_sections([{"problem": "curvature", "accuracy": 0.9}]) == ""


def test_names_are_escaped():
    table = correlation_table([scored("<b>mine</b>")])
    assert "<b>mine" not in table
    assert "&lt;b&gt;mine" in table
