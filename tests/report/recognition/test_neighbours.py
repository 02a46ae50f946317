import matplotlib
import numpy as np
import pytest

from drawing import draw_coarse
from foreglow.errors import ShapeError
from foreglow.report.recognition.neighbours import accuracy_by_distance, layout_rows, layout_table


def record(layout="halves", method="network", spatial=None, **changes):
    """A record of a method on skies of one layout; `spatial` names the context."""
    plain = {
        "problem": "curvature", "network": "foreglow", "training": "conditioned", "set": "test",
        "noise": "table1", "noise_scale": 1.0, "class": None, "layout": layout, "method": method,
        "context": "pixel" if method == "network" and spatial is None else "spatial",
        "spatial": spatial, "accuracy": 0.6, "error": 0.01, "ece": 0.02, "paper": None,
    }  # fmt: skip
    return plain | changes


RECORDS = [
    {"problem": "four", "set": "test", "noise_scale": 1.0, "accuracy": 0.9, "method": "network"},
    record("quadrants", problem="four", accuracy=0.5, noise_scale=0.1),
    record("quadrants", problem="four", accuracy=0.4),
    record("quadrants", spatial="unet", problem="four", accuracy=0.8),
    record(accuracy=0.655, paper=0.97),
    record(spatial="unet", accuracy=0.98, ece=0.031, paper=0.97),
    record(method="oracle_rings", accuracy=0.99, error=None, ece=None, paper=0.97),
    record("single", accuracy=0.65),
    record("blobs:15", accuracy=0.64),
    record("blobs:15", spatial="potts", accuracy=0.7),
]


# ---- table -----------------------------------------------------------------------------------


def test_rows_by_noise_problem_and_layout():
    rows = layout_rows(RECORDS)
    assert [(row.noise_scale, row.problem, row.layout) for row in rows] == [
        (1.0, "curvature", "halves"),
        (1.0, "curvature", "single"),
        (1.0, "curvature", "blobs:15"),
        (1.0, "four", "quadrants"),
        (0.1, "four", "quadrants"),
    ]
    halves, single, blobs, four, quiet = rows
    assert halves.scores == {
        "pixel": (0.655, 0.01, 0.02),
        "unet": (0.98, 0.01, 0.031),
        "oracle_rings": (0.99, None, None),
    }
    assert halves.paper == 0.97
    assert set(single.scores) == {"pixel"}
    assert set(blobs.scores) == {"pixel", "potts"}
    assert (four.scores["pixel"][0], quiet.scores["pixel"][0]) == (0.4, 0.5)
    assert four.paper is None


def test_table_by_hand():
    text = layout_table(layout_rows(RECORDS))
    assert text.startswith(
        '<table>\n<thead><tr><th scope="col">Noise</th><th scope="col">Problem</th>'
        '<th scope="col">Regions</th><th scope="col">One pixel</th><th scope="col">Potts field</th>'
        '<th scope="col">U-Net</th><th scope="col">Oracle, rings</th>'
        '<th scope="col">Paper</th></tr></thead>\n'
    )
    assert (
        '<tr><th scope="row">1</th><td>power law or curved</td><td>halves</td>'
        "<td><strong>65.5%</strong> <small>± 1.0</small>"
        "<br><small>calibration error 2.0%</small></td>"
        "<td>–</td>"
        "<td><strong>98.0%</strong> <small>± 1.0</small>"
        "<br><small>calibration error 3.1%</small></td>"
        "<td><strong>99.0%</strong></td><td>97%</td></tr>\n"
    ) in text
    assert text.count("<tr>") == 1 + 5
    assert "<td>patches of 15°</td>" in text
    assert "<td>one model everywhere</td>" in text


def test_no_layouts_no_table():
    assert layout_rows(RECORDS[:1]) == []
    assert layout_table([]) == ""


def test_escaped():
    """A layout, a problem and a method of another foreglow, too."""
    evil = [record("<stripes>", accuracy=0.9), record("blobs:<i>"), record(problem="<five>")]
    evil.append(record(spatial="<crf>", accuracy=0.7))
    text = layout_table(layout_rows(evil))
    for word in ("&lt;stripes&gt;", "patches of &lt;i&gt;°", "&lt;five&gt;"):
        assert f"<td>{word}</td>" in text
    assert not {"<stripes>", "<i>", "<five>", "<crf>"} & set(text.replace(">", "> ").split())
    assert text.index("power law or curved") < text.index("&lt;five&gt;")


# ---- figure ----------------------------------------------------------------------------------


def panels(n=400):
    """Right beyond 10 degrees, and half of the time before."""
    distance = np.linspace(0.5, 29.5, n)
    right = (distance > 10) | (np.arange(n) % 2 == 0)
    return {"curvature": (distance, {"one pixel": right, "U-Net": np.ones(n, bool)})}


def drawn(axes):
    """Distances, accuracies and half lengths of the error bars of each curve, by name."""
    found = {}
    for container in axes.containers:
        line, _, (bars,) = container.lines
        lengths = [np.ptp(bar[:, 1]) / 2 for bar in bars.get_segments() if len(bar)]
        found[container.get_label()] = (*line.get_data(), np.array(lengths))
    return found


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def test_accuracy_in_bins_of_distance(tmp_path):
    figure = accuracy_by_distance(panels(), "A title")
    (axes,) = figure.axes
    curves = drawn(axes)
    assert set(curves) == {"one pixel", "U-Net"}
    distance, right = panels()["curvature"][0], panels()["curvature"][1]["one pixel"]
    middle, accuracy, error = curves["one pixel"]
    for k, (low, high) in enumerate([(0, 3), (3, 6), (6, 9), (9, 12), (12, 16)]):
        mine = (distance >= low) & (distance < high)
        p = right[mine].mean()
        assert middle[k] == pytest.approx(distance[mine].mean())
        assert accuracy[k] == pytest.approx(p)
        assert error[k] == pytest.approx((p * (1 - p) / mine.sum()) ** 0.5, abs=1e-12)
    assert (curves["U-Net"][1] == 1).all()
    words = texts(figure)
    for word in ("power law or curved", "Distance from a boundary [deg]", "A title"):
        assert word in words
    assert draw_coarse(figure, tmp_path, "boundary").stat().st_size > 0


def test_bins_of_few_pixels_are_left_out():
    distance = np.concatenate([np.full(30, 1.0), np.full(29, 4.0), np.full(40, 10.0)])
    figure = accuracy_by_distance({"four": (distance, {"a": np.ones(99, bool)})}, "")
    np.testing.assert_allclose(drawn(figure.axes[0])["a"][0], [1.0, 10.0])


def test_a_sky_of_one_model_has_no_boundary(tmp_path):
    """Its pixels are infinitely far from one; no bin holds them."""
    one = {"four": (np.full(100, np.inf), {"a": np.ones(100, bool)})}
    figure = accuracy_by_distance(panels() | one, "")
    first, second = figure.axes
    assert len(drawn(second)["a"][0]) == 0
    assert np.isfinite(second.get_xlim()).all()
    assert len(drawn(first)["one pixel"][0]) > 5
    draw_coarse(figure, tmp_path, "boundary")


def test_a_panel_a_problem_and_one_legend():
    many = {name: panels()["curvature"] for name in ("curvature", "ame", "<other>")}
    figure = accuracy_by_distance(many, "")
    titles = [axes.get_title("left") or axes.get_title() for axes in figure.axes]
    assert titles == ["power law or curved", "with or without AME", "<other>"]
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["one pixel", "U-Net"]


def test_curves_differ_without_colour():
    distance = np.full(40, 1.0)
    right = {str(k): np.ones(40, bool) for k in range(5)}
    (axes,) = accuracy_by_distance({"x": (distance, right)}, "").axes
    lines = [container.lines[0] for container in axes.containers]
    assert len({str(line._unscaled_dash_pattern) for line in lines}) == 5


def test_verdicts_of_other_pixels():
    distance, right = panels()["curvature"]
    short = {"four": (distance, right | {"U-Net": np.ones(399, bool)})}
    with pytest.raises(ShapeError, match=r"verdicts of 'U-Net' of shape \(400,\), got \(399,\)"):
        accuracy_by_distance(short, "")
