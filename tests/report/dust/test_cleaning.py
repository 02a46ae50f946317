import pytest

from foreglow.report.page.cleaning import cleaning_rows, cleaning_table

CUT = "|b| > 20 deg"


def record(option="true models", region=CUT, **changes):
    plain = {
        "problem": "curvature", "noise_scale": 1.0, "method": "separation", "nside": 16,
        "option": option, "region": region, "realisations": 100, "rms": 0.01, "rms_sem": 0.0001,
        "expected": 0.01, "expected_sem": 0.0, "bb": 2e-6, "bb_sem": 1e-8, "rms_over_truth": 1.0,
        "rms_over_truth_sem": 0.0, "bb_over_truth": 1.0, "bb_over_truth_sem": 0.0,
        "r_bias": 0.00123, "r_bias_sem": 0.00002, "r_error": 0.0004,
    }  # fmt: skip
    return plain | changes


RECORDS = [
    {"problem": "four", "method": "network", "noise_scale": 1.0, "accuracy": 0.9},
    {"problem": "four", "noise_scale": 1.0, "accuracy": 0.9},
    record(problem="four", noise_scale=0.1),
    record(problem="four"),
    record("power law everywhere", "full sky", rms=9.0),
    record("power law everywhere", rms=0.02345, bb=7.1234e-6, rms_over_truth=2.345),
    record(),
]


def test_rows_of_the_cut_sky_in_order():
    rows = cleaning_rows(RECORDS)
    assert [(row["noise_scale"], row["problem"], row["option"]) for row in rows] == [
        (1.0, "curvature", "power law everywhere"),
        (1.0, "curvature", "true models"),
        (1.0, "four", "true models"),
        (0.1, "four", "true models"),
    ]
    assert {row["region"] for row in rows} == {CUT}


def test_table_by_hand():
    """Micro to nano kelvin, and 1e-6 uK^2."""
    text = cleaning_table(cleaning_rows(RECORDS))
    assert text.count('<th scope="col">') == 9
    assert "Residual rms [nK]" in text
    assert "Residual BB [10⁻⁶ µK²]" in text
    assert (
        '<tr><th scope="row">1</th><td>power law or curved</td><td>power law everywhere</td>'
        "<td><strong>23.45</strong> <small>± 0.10</small></td>"
        "<td><strong>2.345</strong> <small>± 0.000</small></td>"
        "<td><strong>7.123</strong> <small>± 0.010</small></td>"
        "<td><strong>1.00</strong> <small>± 0.00</small></td>"
        "<td><strong>1.230</strong> <small>± 0.020</small></td><td>0.400</td></tr>\n"
    ) in text
    assert text.count("<tr>") == 1 + 4


def test_one_sky_has_no_error():
    names = ("rms", "expected", "bb", "rms_over_truth", "bb_over_truth", "r_bias")
    (row,) = cleaning_rows([record(realisations=1, **{f"{name}_sem": None for name in names})])
    assert "±" not in cleaning_table([row])
    assert "<td><strong>10.00</strong></td>" in cleaning_table([row])


def test_no_separation_no_table():
    assert cleaning_rows(RECORDS[:2]) == []
    assert cleaning_rows([record(region="full sky")]) == []
    assert cleaning_table([]) == ""


@pytest.mark.parametrize("field", ["option", "problem"])
def test_escaped(field):
    text = cleaning_table(cleaning_rows([record(**{field: "<b>&"}), record()]))
    assert "<td>&lt;b&gt;&amp;</td>" in text
    assert "<b>" not in text
