import pytest

from foreglow.report.recognition.robustness import Trial, law_in_words, law_rows, law_table


def record(law, noise_scale=1.0, **changes):
    plain = {
        "problem": "four", "set": "outside", "noise_scale": noise_scale, "n_pixels": 9998,
        "accuracy": 0.5, "law": law, "ece": 0.02, "none_fits": 0.001,
        "sure_wrong": 0.25, "flagged": 0.996,
    }  # fmt: skip
    return plain | changes


RECORDS = [
    {"problem": "four", "set": "test", "noise_scale": 1.0, "accuracy": 0.9},
    record("as trained"),
    record("as trained", 0.1, accuracy=0.9),
    record("noise=1.1"),
    record(
        "curvature=0",
        problem="curvature",
        accuracy=0.61,
        ece=0.046,
        none_fits=0.0,
        sure_wrong=0.0,
        flagged=None,
    ),
]


def test_rows_by_problem_and_law():
    rows = law_rows(RECORDS)
    assert [(row.problem, row.law) for row in rows] == [
        ("curvature", "curvature=0"),
        ("four", "as trained"),
        ("four", "noise=1.1"),
    ]
    assert set(rows[1].trials) == {1.0, 0.1}
    error = (0.61 * 0.39 / 9998) ** 0.5
    assert rows[0].trials[1.0] == Trial(0.61, pytest.approx(error, rel=1e-3), 0.046, 0.0, 0.0, None)


def test_table_by_hand():
    text = law_table(law_rows(RECORDS))
    assert text.index("Noise 1 of") < text.index("Noise 0.1 of")
    assert (
        '<tr><th scope="rowgroup" colspan="9">power law or curved</th></tr>\n'
        '<tr><td class="words">C is 0: accuracy is the share of pixels called power law</td>'
        "<td><strong>61.0%</strong> <small>± 0.5</small></td><td>4.6%</td><td>0.0%</td>"
        "<td><strong>0.0%</strong></td><td>–</td><td>–</td><td>–</td><td>–</td></tr>"
    ) in text
    assert "<strong>25.0%</strong>" in text
    assert "100% flagged" in text


def test_a_run_that_did_not_look_for_sure_mistakes():
    old = record("noise=1.1")
    del old["sure_wrong"], old["flagged"]
    assert "<td>0.1%</td><td>–</td></tr>" in law_table(law_rows([old]))


def test_no_such_records_no_table():
    assert law_table(law_rows(RECORDS[:1])) == ""


@pytest.mark.parametrize(
    ("law", "words"),
    [
        ("as trained", "nothing: the law of the training"),
        ("curvature=-0.2", "C of the curved model is −0.2 (trained: −0.052)"),
        ("ame_fraction=0.04", "AME is polarised by 4% (trained: 2%)"),
        ("ame_fraction=0", "no AME: accuracy is the share of pixels called so"),
        ("<another>=1", "<another>=1"),
    ],
)
def test_words(law, words):
    assert law_in_words(law) == words


def test_escaped():
    assert "&lt;another&gt;" in law_table(law_rows([record("<another>=1")]))
