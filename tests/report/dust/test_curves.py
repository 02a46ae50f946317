import matplotlib
import numpy as np
import pytest

from drawing import draw_coarse
from foreglow.errors import ShapeError
from foreglow.report.dust import curves as dust_curves

ELL = np.array([21.6, 36.1, 50.5, 64.9])


@pytest.fixture
def curves():
    rng = np.random.default_rng(0)
    base = rng.uniform(0.5, 0.9, (50, len(ELL)))
    return {"integrated": base, "linear": base - 0.01, "unet": base + 0.02}


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def line(axes, label):
    return next(entry for entry in axes.lines if entry.get_label() == label)


def test_velocity_profile(tmp_path):
    velocity = np.arange(-120, 120, 1.0)
    total = np.where(np.abs(velocity + 10) < 20, 1000.0, 10.0)
    figure = dust_curves.velocity_profile(velocity, total, (-64.5, 17.0), 10000)
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), total / 1e3)
    dotted = [entry.get_xdata()[0] for entry in axes.lines[1:]]
    assert dotted == [-64.5, 17.0]
    assert axes.get_xlabel() == "Velocity, local standard of rest [km/s]"
    assert "10,000 pointings [10³ K]" in axes.get_ylabel()
    inside = total[(velocity >= -64.5) & (velocity <= 17)].sum() / total.sum()
    assert f"{inside:.1%}" in axes.get_title(loc="left")
    assert draw_coarse(figure, tmp_path, "profile").stat().st_size > 0


def test_velocity_profile_of_other_channels():
    with pytest.raises(ShapeError, match="total"):
        dust_curves.velocity_profile(np.arange(3), np.ones(4), (0, 1), 10)


def test_win_scatter_counts_wins(tmp_path):
    rng = np.random.default_rng(1)
    base = rng.uniform(0.4, 0.9, (2, 200))
    unet = base.copy()
    unet[0, :150] += 0.05
    unet[1, :180] += 0.05
    unet[:, 180:] -= 0.05
    figure = dust_curves.win_scatter({"integrated": base, "linear": base - 0.01, "unet": unet})
    assert "U-Net: above in 150 of 200" in texts(figure.axes[0])
    assert "U-Net: above in 180 of 200" in texts(figure.axes[1])
    assert "linear: above in 0 of 200" in texts(figure.axes[0])
    for axes in figure.axes:
        assert axes.get_xlim() == axes.get_ylim()  # equal scores lie on the diagonal
        assert len(axes.collections) == 2
        markers = {tuple(map(tuple, c.get_paths()[0].vertices)) for c in axes.collections}
        assert len(markers) == 2  # told apart without colour
    assert figure.axes[0].get_xlabel() == "$r_{50}$, integrated intensity"
    draw_coarse(figure, tmp_path, "wins")


def test_win_scatter_of_other_cutouts():
    with pytest.raises(ShapeError, match="scores of 'unet'"):
        dust_curves.win_scatter({"integrated": np.ones((2, 5)), "unet": np.ones((2, 4))})


def test_correlation_by_ell(curves, tmp_path):
    figure = dust_curves.correlation_by_ell(ELL, {"train": curves, "test": curves})
    left, right = figure.axes
    mine = line(left, "U-Net")
    np.testing.assert_allclose(mine.get_ydata(), curves["unet"].mean(0))
    np.testing.assert_array_equal(mine.get_xdata(), ELL)
    assert len(left.collections) == 3  # a band each
    band = left.collections[2].get_paths()[0].vertices
    error = curves["unet"].std(0, ddof=1) / np.sqrt(50)
    assert band[:, 1].max() == pytest.approx((curves["unet"].mean(0) + error).max())
    assert len({entry.get_linestyle() + str(entry._dash_pattern) for entry in left.lines}) == 3
    assert right.get_xlabel() == "Multipole $\\ell$"
    assert "correlation" in left.get_ylabel()
    draw_coarse(figure, tmp_path, "correlation")


def test_one_cutout_has_no_error(curves):
    one = {name: values[:1] for name, values in curves.items()}
    assert not dust_curves.correlation_by_ell(ELL, {"test": one}).axes[0].collections


def test_correlation_of_other_bands(curves):
    with pytest.raises(ShapeError, match="curves of 'integrated'"):
        dust_curves.correlation_by_ell(ELL[:-1], {"test": curves})


def test_weights_have_looks_in_order(curves):
    weights = [0, 10, 30, 60, 120]
    looks = dust_curves.weight_looks(weights)
    shown = {f"lambda_{w}": curves["unet"] for w in weights}
    figure = dust_curves.correlation_by_ell(ELL, {"test": shown}, looks)
    lightness = [sum(matplotlib.colors.to_rgb(e.get_color())) for e in figure.axes[0].lines]
    assert lightness == sorted(lightness, reverse=True)
    assert "U-Net, λ = 120" in texts(figure)
    assert len({str(look["linestyle"]) for look in looks.values()}) == 5


def test_error_coverage(tmp_path):
    levels = np.array([1.0, 2.0, 3.0])
    figure = dust_curves.error_coverage(levels, {"south": [0.6, 0.9, 0.99]})
    axes = figure.axes[0]
    np.testing.assert_allclose(
        line(axes, "Gaussian errors").get_ydata(), [0.6827, 0.9545, 0.9973], atol=1e-4
    )
    np.testing.assert_array_equal(line(axes, "south").get_ydata(), [0.6, 0.9, 0.99])
    draw_coarse(figure, tmp_path, "coverage")
    with pytest.raises(ShapeError, match="shares of 'south'"):
        dust_curves.error_coverage(levels, {"south": [0.6]})


@pytest.mark.parametrize("n_real", [1, 8])
def test_residual_dust(n_real, tmp_path):
    dust = np.array([400.0, 300.0, 200.0, 100.0])
    factor = np.linspace(0.9, 1.1, n_real)[:, None] if n_real > 1 else np.ones((1, 1))
    power = {"integrated": 0.3 * dust * factor, "unet": 0.2 * dust * factor}
    figure = dust_curves.residual_dust(ELL, power, dust, "217 GHz", 10 * dust)
    upper, lower = figure.axes
    np.testing.assert_allclose(line(upper, "dust, not cleaned").get_ydata(), dust)
    np.testing.assert_allclose(line(upper, "U-Net").get_ydata(), 0.2 * dust)
    np.testing.assert_allclose(lower.lines[-1].get_ydata(), 0.2)
    assert "µK$^2_\\mathrm{CMB}$" in upper.get_ylabel()
    assert "CMB and noise" in texts(figure)
    assert len(upper.collections) == (2 if n_real > 1 else 0)
    draw_coarse(figure, tmp_path, "residual")


def test_residual_dust_of_other_bins():
    with pytest.raises(ShapeError, match="spectra of 'unet'"):
        dust_curves.residual_dust(ELL, {"unet": np.ones((2, 3))}, np.ones(4), "")


def test_no_global_style(curves):
    before = dict(matplotlib.rcParams)
    dust_curves.correlation_by_ell(ELL, {"test": curves})
    assert dict(matplotlib.rcParams) == before
