import io

import pytest
from rich.console import Console

from foreglow.report.page.tables import (
    METHODS,
    AccuracyRow,
    Score,
    accuracy_rows,
    binomial_error,
    html_table,
    method_rows,
    method_table,
    rich_table,
)


def record(**changes):
    plain = {
        "problem": "curvature",
        "network": "foreglow",
        "training": "noiseless",
        "noise": "none",
        "noise_scale": 0.0,
        "context": "pixel",
        "method": "network",
        "set": "test",
        "nside": 16,
        "n_pixels": 3072,
        "accuracy": 0.9,
        "paper": None,
    }
    return plain | changes


def noisy(**changes):
    return record(**{"noise": "table1", "noise_scale": 1.0} | changes)


RECORDS = [
    record(problem="four", accuracy=0.5, paper=0.93),
    record(set="train", accuracy=0.97, paper=0.99, n_pixels=10_000),
    record(accuracy=0.985, paper=0.98),
    noisy(accuracy=0.6, paper=0.82),
    noisy(training="many_noise", accuracy=0.655, paper=0.97),
    noisy(training="many_noise", noise_scale=0.1, accuracy=0.88),
    noisy(training="many_noise", context="spatial", accuracy=0.8),
    noisy(training="many_noise", set="train", accuracy=0.67),
    noisy(training="many_noise", **{"class": "curved"}, accuracy=0.1),
    noisy(training=None, network=None, method="ceiling", accuracy=0.66),
    noisy(training=None, network=None, method="chi2", accuracy=0.58, paper=0.73),
    record(training="one_noise", accuracy=0.2),
]


def test_table_2_holds_training_and_testing_without_noise():
    curvature, four = accuracy_rows(RECORDS, 2)
    assert (curvature.problem, curvature.network, curvature.context) == (
        "curvature",
        "foreglow",
        "pixel",
    )
    assert set(curvature.scores) == {"train", "test"}
    assert curvature.scores["train"].paper == 0.99
    assert curvature.scores["test"].accuracy == 0.985
    assert four.problem == "four"
    assert four.scores["test"] == Score(0.5, binomial_error(0.5, 3072), 0.93)


def test_table_3_holds_noisy_tests_by_training_and_the_ceiling():
    pixel, spatial = accuracy_rows(RECORDS, 3)
    assert {name: score.accuracy for name, score in pixel.scores.items()} == {
        "noiseless": 0.6,
        "many_noise": 0.655,
        "ceiling": 0.66,
    }
    assert spatial.context == "spatial"
    assert spatial.scores["many_noise"].accuracy == 0.8
    assert spatial.scores["many_noise"].paper is None


def test_the_later_of_two_records_stands():
    (row,) = accuracy_rows([record(accuracy=0.1), record(accuracy=0.2)], 2)
    assert row.scores["test"].accuracy == 0.2


@pytest.mark.parametrize(
    ("accuracy", "n_pixels", "error"),
    [
        (0.5, 98, 0.5 / 98**0.5),  # p = 50 / 100
        (1.0, 98, (0.99 * 0.01 / 98) ** 0.5),  # not zero
    ],
)
def test_binomial_error(accuracy, n_pixels, error):
    assert binomial_error(accuracy, n_pixels) == pytest.approx(error, rel=1e-12)


def test_small_and_unknown_errors():
    rows = accuracy_rows(
        [record(accuracy=0.99999, n_pixels=10**7), record(set="train", n_pixels=None)], 2
    )
    cells = (
        "<td><strong>90.0%</strong></td><td><strong>100.0%</strong> <small>± &lt;0.1</small></td>"
    )
    assert cells in html_table(rows)


def test_html_by_hand_and_escaped():
    row = AccuracyRow(3, "<four>", "a&b", "spatial", {"noiseless": Score(0.6, 0.004, 0.82)})
    text = html_table([row])
    assert '<th scope="row">&lt;four&gt;</th><td>a&amp;b, spatial</td>' in text
    assert (
        "<td><strong>60.0%</strong> <small>± 0.4</small><br><small>paper 82% (−22.0)</small></td>"
        in text
    )
    assert text.count('<th scope="col">') == 3
    assert "&lt;0.1" in html_table([AccuracyRow(2, "ame", "x", "pixel", {"test": Score(1, 1e-5)})])


def test_rich_table_says_the_same():
    console = Console(width=140, file=io.StringIO())
    with console.capture() as capture:
        console.print(rich_table(accuracy_rows(RECORDS, 3)))
    text = capture.get()
    for words in ("65.5% ± 0.9", "paper 97% (−31.5)", "66.0% ± 0.9", "foreglow, spatial"):
        assert words in text


def test_no_rows_make_no_table():
    assert accuracy_rows([], 2) == []
    assert html_table([]) == ""


def fitted(method, problem="curvature", **changes):
    return noisy(training=None, network=None, method=method, problem=problem, **changes)


FITTED = [
    *RECORDS,
    fitted("evidence", accuracy=0.65),
    fitted("evidence", "ame", accuracy=0.75),
    fitted("evidence", accuracy=0.9, noise_scale=0.1),
    fitted("evidence", **{"class": "curved"}, accuracy=0.2),
    noisy(training="conditioned", spatial="unet", layout="halves", accuracy=0.9),
    noisy(training="conditioned", spatial="unet", layout="blobs:30", accuracy=0.8),
]


def test_methods_beside_networks_and_ceiling():
    rows = {row.name: row.scores for row in method_rows(FITTED)}
    assert list(rows) == [
        "Fits, reduced χ²",
        "Fits, evidence",
        "Network foreglow",
        "Network foreglow, spatial",
        "Ceiling, one pixel",
        "Network foreglow, neighbours by unet",
    ]
    assert rows["Network foreglow, neighbours by unet"]["curvature"].accuracy == 0.9
    assert rows["Fits, reduced χ²"]["curvature"].paper == 0.73
    assert {p: s.accuracy for p, s in rows["Fits, evidence"].items()} == {
        "curvature": 0.65, "ame": 0.75,
    }  # fmt: skip
    assert rows["Network foreglow"]["curvature"].accuracy == 0.655
    assert rows["Ceiling, one pixel"]["curvature"].accuracy == 0.66


def test_no_fits_no_methods():
    assert method_rows([r for r in RECORDS if r["method"] not in METHODS]) == []
    assert method_table([]) == ""


def test_method_table_by_hand():
    text = method_table(method_rows(FITTED))
    assert text.count('<th scope="col">') == 3  # the method, two problems
    assert (
        '<th scope="row">Fits, reduced χ²</th><td><strong>58.0%</strong> <small>± 0.9</small><br>'
        "<small>paper 73% (−15.0)</small></td><td>–</td>"
    ) in text
