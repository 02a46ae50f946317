import healpy as hp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from foreglow.errors import ShapeError
from foreglow.report.page.mollweide import IMAGE_WIDTH, lonlat_to_xy
from foreglow.report.page.style import CLASS_HUES, NOT_OBSERVED
from foreglow.report.recognition import figures

NSIDE = 8
N_PIX = 12 * NSIDE**2
NAMES = ["power law", "curved", "power law + AME", "curved + AME"]


@pytest.fixture
def truth():
    lon, _ = hp.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)
    return (lon // 90).astype(int)


def certain(choice, n_class=4):
    """Probability 0.97 for the model chosen."""
    probability = np.full((n_class, N_PIX), 0.03 / (n_class - 1))
    probability[choice, np.arange(N_PIX)] = 0.97
    return probability


def images(figure):
    """Sky images of a figure in the order drawn; row 0 is the southernmost."""
    return [
        np.asarray(axes.images[0].get_array())
        for axes in figure.axes
        if axes.images and axes.images[0].get_array().shape[1] == IMAGE_WIDTH
    ]


def colour_at(image, lon, lat):
    x, y = lonlat_to_xy(lon, lat)
    row = int((float(y) + 1) / 2 * image.shape[0])
    column = int((float(x) + 2) / 4 * image.shape[1])
    return image[row, column, :3]


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def bars(figure):
    # every model has its bar, scaled from guessing to certainty
    return [
        axes for axes in figure.axes if [t.get_text() for t in axes.get_xticklabels()][-1:] == ["1"]
    ]


def test_recognition_map_shows_right_hue_and_wrong_white(truth):
    choice = truth.copy()
    wrong = hp.ang2pix(NSIDE, 45.0, 30.0, lonlat=True)
    choice[wrong] = 3
    left, right = images(figures.recognition_map(certain(choice), truth, NAMES, "Test"))
    for index, lon in enumerate((45, 135, 225, 315)):
        np.testing.assert_allclose(colour_at(left, lon, -20), to_rgb(CLASS_HUES[index]), atol=0.05)
        assert colour_at(right, lon, -20).max() < 0.2
    centre = hp.pix2ang(NSIDE, wrong, lonlat=True)
    np.testing.assert_array_equal(colour_at(left, *centre), 1)
    np.testing.assert_array_equal(colour_at(right, *centre), 1)


def test_recognition_map_is_paler_where_the_network_is_less_sure(truth):
    probability = certain(truth)
    unsure = hp.ang2pix(NSIDE, 45.0, 30.0, lonlat=True)
    probability[:, unsure] = [0.28, 0.24, 0.24, 0.24]
    left, right = images(figures.recognition_map(probability, truth, NAMES, "Test"))
    centre = hp.pix2ang(NSIDE, unsure, lonlat=True)
    pale = colour_at(left, *centre)
    assert colour_at(left, 45, -20).mean() + 0.2 < pale.mean() < 0.97  # yet clearly not white
    assert colour_at(right, *centre).max() < 0.2


def test_recognition_map_counts_only_what_was_observed(truth):
    observed = np.ones(N_PIX, bool)
    observed[:100] = False
    choice = np.where(np.arange(N_PIX) < 134, (truth + 1) % 4, truth)
    figure = figures.recognition_map(certain(choice), truth, NAMES, "Test", observed)
    left, right = images(figure)
    np.testing.assert_allclose(colour_at(left, 10, 88), to_rgb(NOT_OBSERVED), atol=1e-6)
    np.testing.assert_allclose(colour_at(right, 10, 88), to_rgb(NOT_OBSERVED), atol=1e-6)
    assert "634 of 668 pixels right (94.9%)" in texts(figure)
    assert "not observed" in texts(figure)


def test_recognition_map_has_a_colour_bar_for_each_model(truth):
    figure = figures.recognition_map(certain(truth), truth, NAMES, "Test")
    assert len(bars(figure)) == 4
    assert all(name in texts(figure) for name in NAMES)
    assert "not observed" not in texts(figure)
    two = figures.recognition_map(certain(truth % 2, 2), truth % 2, NAMES[:2], "Test")
    assert len(bars(two)) == 2


def test_before_after_draws_two_rows_of_one_sky(truth):
    figure = figures.recognition_maps_before_after(
        certain((truth + 1) % 4), certain(truth), truth, NAMES, "Test"
    )
    before_left, before_right, after_left, after_right = images(figure)
    np.testing.assert_array_equal(colour_at(before_left, 45, 20), 1)
    np.testing.assert_array_equal(colour_at(before_right, 45, 20), 1)
    np.testing.assert_allclose(colour_at(after_left, 45, 20), to_rgb(CLASS_HUES[0]), atol=0.05)
    assert colour_at(after_right, 45, 20).max() < 0.2
    assert len(bars(figure)) == 4
    assert "0 of 768 pixels right (0.0%)" in texts(figure)
    assert "768 of 768 pixels right (100.0%)" in texts(figure)


def test_recognition_map_refuses_shapes_that_do_not_agree(truth):
    with pytest.raises(ShapeError, match=r"probability of shape \(2, 768\), got \(4, 768\)"):
        figures.recognition_map(certain(truth), truth, NAMES[:2], "Test")
    with pytest.raises(ShapeError, match=r"observed of shape \(768,\), got \(3,\)"):
        figures.recognition_map(certain(truth), truth, NAMES, "Test", [True] * 3)
    with pytest.raises(ShapeError, match="full HEALPix map"):
        figures.recognition_map(certain(truth)[:, :10], truth[:10], NAMES, "Test")


def test_sky_map_shows_longitude_where_it_is():
    lon, _ = hp.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)
    figure = figures.sky_map(lon, "Longitude", "deg")
    (image,) = images(figure)
    brightness = [colour_at(image, at, 0).sum() for at in (20, 100, 200, 300, 340)]
    assert np.all(np.diff(brightness) > 0)
    assert "deg" in texts(figure)


def test_sky_map_of_either_sign_is_symmetric_about_zero():
    sky = np.where(np.arange(N_PIX) < N_PIX // 2, 3.0, -1.0)
    (image,) = images(figures.sky_map(sky, "Q", "uK", "asinh"))
    north, south = colour_at(image, 0, 60), colour_at(image, 0, -60)
    assert north[0] > north[2]  # red
    assert south[2] > south[0]  # blue
    assert south.sum() > north.sum()  # and paler, being nearer to zero


@pytest.mark.parametrize("bad", [np.nan, hp.UNSEEN, np.inf])
@pytest.mark.parametrize("stretch", ["linear", "log", "asinh"])
def test_sky_map_is_grey_where_not_observed(bad, stretch):
    sky = np.linspace(1, 100, N_PIX)
    sky[:40] = bad
    (image,) = images(figures.sky_map(sky, "I", "uK", stretch))
    np.testing.assert_allclose(colour_at(image, 10, 88), to_rgb(NOT_OBSERVED), atol=5e-3)
    assert np.abs(colour_at(image, 10, -80) - to_rgb(NOT_OBSERVED)).max() > 0.1


@pytest.mark.parametrize("value", [0.0, 5.0, np.nan])
@pytest.mark.parametrize("stretch", ["linear", "log", "asinh"])
def test_sky_map_of_one_value_can_be_drawn(value, stretch):
    figures.sky_map(np.full(N_PIX, value), "I", "uK", stretch).draw_without_rendering()


def test_sky_map_refuses_a_cut_map():
    with pytest.raises(ShapeError, match="full HEALPix map"):
        figures.sky_map(np.zeros(100), "I", "uK")


def test_component_rms_draws_each_component_with_noise_dashed():
    rms = {"CMB": [1.0, 0.9], "my own": [3.0, 2.0], "noise": [0.1, 0.2]}
    figure = figures.component_rms([30.0, 90.0], rms)
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines) == list(rms)
    for name, line in lines.items():
        np.testing.assert_array_equal(line.get_xydata(), np.transpose([[30, 90], rms[name]]))
        assert line.get_linestyle() == ("--" if name == "noise" else "-")
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert "GHz" in axes.get_xlabel()
    assert "µK" in axes.get_ylabel()
    with pytest.raises(ShapeError, match=r"rms of 'CMB' of shape \(2,\), got \(3,\)"):
        figures.component_rms([30.0, 90.0], {"CMB": [1, 2, 3]})


def test_training_history_skips_epochs_without_a_number():
    history = {
        "train_accuracy": [0.5, 0.7, 0.9],
        "validation_accuracy": [0.5, np.nan, 0.8],
        "train_loss": [1.0, 0.5, 0.2],
    }
    upper, lower = figures.training_history(history, "Curvature", 0.99).axes
    train, validation, paper = upper.lines
    np.testing.assert_array_equal(train.get_xydata(), [[1, 0.5], [2, 0.7], [3, 0.9]])
    np.testing.assert_array_equal(validation.get_xydata(), [[1, 0.5], [3, 0.8]])
    assert set(paper.get_ydata()) == {0.99}
    assert paper.get_label() == "paper, training set (99%)"
    assert len(lower.lines) == 1
    assert lower.get_xlabel() == "Epoch"
    assert len(figures.training_history(history, "Curvature").axes[0].lines) == 2


def test_training_history_without_loss_can_be_drawn():
    figure = figures.training_history({"train_accuracy": [0.5]}, "One epoch")
    figure.draw_without_rendering()


def test_noise_curve_holds_curves_ceilings_chance_and_paper():
    scale = [0.01, 0.1, 1.0]
    curves = {
        "curvature": (scale, [0.99, 0.9, 0.65], [0.01] * 3),
        "four": (scale, [0.98, 0.8, 0.45], [0.01] * 3),
    }
    ceiling = {"four": (scale, [0.99, 0.85, 0.5])}
    own = {"four": ([0.1, 1.0], [0.7, 0.4])}
    figure = figures.noise_curve(curves, {"curvature": 0.97}, (0.5, 0.25), ceiling, own)
    (axes,) = figure.axes
    drawn = [line.get_xydata().tolist() for line in axes.lines]
    assert np.transpose(curves["four"][:2]).tolist() in drawn
    assert np.transpose(ceiling["four"]).tolist() in drawn
    assert np.transpose(own["four"]).tolist() in drawn
    assert [[1.0, 0.97]] in drawn
    assert [[0, 0.5], [1, 0.5]] in drawn
    assert [[0, 0.25], [1, 0.25]] in drawn
    assert axes.get_xscale() == "log"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [
        "curvature",
        "four",
        "ceiling, one pixel",
        "paper's network",
        "paper",
    ]
    assert axes.get_ylim()[0] < 0.25


def test_confusion_divides_each_row_by_its_sum():
    figure = figures.confusion([[3, 1], [0, 0]], ["power law", "curved"], "Test")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["75.0", "25.0", "–", "–"]
    np.testing.assert_array_equal(axes.images[0].get_array()[0], [0.75, 0.25])
    with pytest.raises(ShapeError, match=r"shape \(3, 3\), got \(2, 2\)"):
        figures.confusion([[3, 1], [0, 0]], ["a", "b", "c"], "Test")


def test_save_writes_both_files_alike_and_leaves_nothing_else(tmp_path):
    written = []
    for _ in range(2):
        figure = figures.confusion([[3, 1], [1, 3]], ["a", "b"], "Test")
        png, pdf = figures.save(figure, tmp_path / "figures", "confusion")
        written.append((png.read_bytes(), pdf.read_bytes()))
    assert written[0] == written[1]
    assert written[0][0].startswith(b"\x89PNG")
    assert written[0][1].startswith(b"%PDF")
    assert sorted(path.name for path in png.parent.iterdir()) == ["confusion.pdf", "confusion.png"]


def test_figures_leave_the_global_state_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    figures.save(figures.confusion([[3, 1], [1, 3]], ["a", "b"], "Test"), tmp_path, "confusion")
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == []


# ---- fits ------------------------------------------------------------------------------------


def test_goodness_of_fit_draws_histograms_and_the_law_of_chi_square():
    rng = np.random.default_rng(0)
    dof = np.array([28, 26])
    values = rng.chisquare(dof[:, None], (2, 40_000)) / dof[:, None]
    correct = np.arange(N_PIX) % 4 > 0
    figure = figures.goodness_of_fit(values, dof, ["power law fit", "curved fit"], correct, "t")
    axes = figure.axes[0]
    assert f"{correct.sum():,} of {N_PIX:,} pixels right (75.0%)" in texts(figure)
    for patch, line in zip(axes.patches, axes.lines, strict=False):
        height, edges, _ = patch.get_data()
        assert np.sum(height * np.diff(edges)) == pytest.approx(1, abs=0.01)
        law = np.interp((edges[1:] + edges[:-1]) / 2, *line.get_data())
        np.testing.assert_allclose(height, law, atol=0.1)
    assert len(axes.patches) == 2
    image = images(figure)[0]
    assert {tuple(np.round(c, 2)) for c in image[200:400, 300:900, :3].reshape(-1, 3)} == {
        (0.08, 0.09, 0.1), (1.0, 1.0, 1.0),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "dof"),
    [(np.ones((1, 5)), [26, 28]), (np.ones((2, 5)), [26]), (np.ones(5), [26, 28])],
)
def test_goodness_of_fit_checks_its_shapes(values, dof):
    with pytest.raises(ShapeError, match="Expected"):
        figures.goodness_of_fit(values, dof, ["a", "b"], np.ones(N_PIX, bool), "t")


def test_sky_map_draws_the_borders_of_regions(truth):
    plain = figures.sky_map(np.ones(N_PIX), "t", "u")
    bordered = figures.sky_map(np.ones(N_PIX), "t", "u", regions=truth)
    assert len(bordered.axes[0].collections) > len(plain.axes[0].collections)
    with pytest.raises(ShapeError, match="regions"):
        figures.sky_map(np.ones(N_PIX), "t", "u", regions=truth[:-1])


def test_criteria_curves_share_their_axes_and_one_legend():
    curve = ([0.1, 1.0], [0.9, 0.6], [0.01, 0.01])
    panels = {"curvature": {"chi2": curve, "ceiling": curve}, "four": {"chi2": curve}}
    figure = figures.criteria_curves(panels)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["curvature", "four"]
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["ceiling, one pixel", "fits, reduced χ²"]
