import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from drawing import draw_coarse
from foreglow.errors import ShapeError
from foreglow.recognition.network.calibration import accuracy_against_coverage, reliability
from foreglow.report.recognition import curves


@pytest.fixture
def honest():
    rng = np.random.default_rng(0)
    first = rng.uniform(size=20000)
    return np.stack([first, 1 - first]), (rng.uniform(size=20000) > first).astype(int)


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def line(axes, label):
    return next(entry for entry in axes.lines if entry.get_label() == label)


def test_reliability_diagram_draws_full_bins_only(honest, tmp_path):
    bins = reliability(*honest)
    bins.count[-1] = 5
    figure = curves.reliability_diagram({"ours": bins, "theirs": bins}, "A title")
    upper, lower = figure.axes
    drawn = [c.lines[0] for c in upper.containers]
    assert len(drawn) == 2
    kept = bins.count >= 20
    np.testing.assert_array_equal(drawn[0].get_xdata(), bins.confidence[kept])
    np.testing.assert_array_equal(drawn[0].get_ydata(), bins.accuracy[kept])
    assert upper.get_xlim()[0] == pytest.approx(0.5, abs=0.06)  # two models: never below a half
    error = 100 * bins.expected_calibration_error
    assert f"calibration error {error:.1f}%" in texts(figure)
    assert lower.patches[0].get_data().values.sum() == pytest.approx(1)
    assert draw_coarse(figure, tmp_path, "reliability").stat().st_size > 0


def test_curves_differ_without_colour(honest):
    bins = reliability(*honest)
    figure = curves.reliability_diagram({str(k): bins for k in range(5)}, "")
    lines = [c.lines[0] for c in figure.axes[0].containers]
    assert len({entry.get_marker() for entry in lines}) == 5


def test_coverage_curve(honest, tmp_path):
    curve = accuracy_against_coverage(*honest)
    figure = curves.coverage_curve({"ours": curve}, "A title", chance=0.5)
    axes = figure.axes[0]
    np.testing.assert_array_equal(line(axes, "ours").get_ydata(), curve[1])
    assert "chance, 1 in 2" in texts(figure)
    assert axes.get_ylim()[0] < 0.5
    draw_coarse(figure, tmp_path, "coverage")


def test_coverage_curve_of_another_shape():
    with pytest.raises(ShapeError, match="accuracy of 'ours'"):
        curves.coverage_curve({"ours": ([0.5, 1.0], [0.9])}, "")


@pytest.mark.parametrize("n_real", [1, 10])
def test_residual_spectra(n_real, tmp_path):
    rng = np.random.default_rng(0)
    bb = rng.uniform(1e-7, 2e-7, (n_real, 48))
    lensing = np.full(100, 2e-6)
    options = {"power law": 10 * bb, "true models": bb}
    figure = curves.residual_spectra(options, "A title", lensing)
    axes, ratios = figure.axes
    mine = line(axes, "true models")
    assert mine.get_color() == "black"
    np.testing.assert_allclose(ratios.lines[0].get_ydata(), 10)
    np.testing.assert_allclose(ratios.lines[1].get_ydata(), 1)
    ell = np.arange(2, 48)
    np.testing.assert_array_equal(mine.get_xdata(), ell)
    np.testing.assert_allclose(mine.get_ydata(), ell * (ell + 1) / (2 * np.pi) * bb.mean(0)[2:])
    assert len(line(axes, "CMB, from lensing").get_xdata()) == 46
    assert len(axes.collections) == (2 if n_real > 1 else 0)  # one realisation has no error
    assert "K$^2_\\mathrm{CMB}$" in axes.get_ylabel()
    draw_coarse(figure, tmp_path, "spectra")


def test_residual_spectra_need_realisations():
    with pytest.raises(ShapeError, match="2 dimension"):
        curves.residual_spectra({"truth": np.ones(48)}, "")


def test_residual_spectra_of_other_lengths():
    with pytest.raises(ShapeError, match="spectra of 'other'"):
        curves.residual_spectra({"one": np.ones((3, 48)), "other": np.ones((3, 24))}, "")


def test_residual_spectra_without_the_truth_have_one_panel():
    assert len(curves.residual_spectra({"one": np.ones((3, 48))}, "").axes) == 1


def test_no_global_style_nor_pyplot_figure(honest):
    before = dict(matplotlib.rcParams)
    curves.reliability_diagram({"ours": reliability(*honest)}, "")
    assert dict(matplotlib.rcParams) == before
    assert not plt.get_fignums()
