import matplotlib
import numpy as np
import pytest

from drawing import draw_coarse
from foreglow.errors import ShapeError
from foreglow.report.dust import maps as dust_maps
from foreglow.report.recognition.figures import save


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def test_cutout_maps(tmp_path):
    rng = np.random.default_rng(0)
    mask = np.ones((8, 8), bool)
    mask[:2] = False
    scales = {"target": 1, "integrated": 9, "linear": 2, "unet": 3}
    maps = {name: scale * rng.uniform(0.1, 1, (8, 8)) for name, scale in scales.items()}
    figure = dust_maps.cutout_maps(maps, mask, 23.4, "Around l = 3°")
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 4
    for axes, values in zip(panels, maps.values(), strict=True):
        image = axes.images[0].get_array()
        assert image.mask[:2].all()  # masked pixels are grey
        assert not image.mask[2:].any()
        assert image.max() == pytest.approx(1)  # each over its largest, the mask left out
        np.testing.assert_allclose(image[2:], values[2:] / values[2:].max())
    half = 8 * 23.4 / 60 / 2
    assert tuple(panels[0].images[0].get_extent()) == pytest.approx((-half, half, -half, half))
    words = texts(figure)
    for wanted in ("dust, the target", "integrated intensity", "U-Net", "Offset [deg]"):
        assert wanted in words
    assert all(path.stat().st_size > 0 for path in save(figure, tmp_path, "cutout"))


def test_cutout_maps_of_another_shape():
    with pytest.raises(ShapeError, match="map of 'target'"):
        dust_maps.cutout_maps({"target": np.ones((4, 4))}, np.ones((8, 8), bool), 23.4, "")


def test_predicted_sky(tmp_path):
    rng = np.random.default_rng(0)
    dust = rng.lognormal(2, 0.5, 12 * 8**2)
    mean = dust * rng.normal(1, 0.1, dust.size)
    mean[:100] = np.nan
    figure = dust_maps.predicted_sky(dust, mean, 0.1 * mean, "µK_RJ", "Predicted dust")
    words = texts(figure)
    for wanted in ("Dust, the target", "Prediction", "Error of the prediction", "less prediction"):
        assert wanted in words
    bars = [axes for axes in figure.axes if "µK_RJ" in axes.get_xlabel()]
    assert len(bars) == 4
    # target and prediction have one scale of colours
    assert bars[0].get_xlim() == bars[1].get_xlim()
    draw_coarse(figure, tmp_path, "sky")


def test_predicted_sky_of_one_network_without_error(tmp_path):
    """No error stated anywhere: the map is drawn all the same."""
    mean = np.random.default_rng(0).lognormal(2, 0.5, 192)
    draw_coarse(dust_maps.predicted_sky(mean, mean, 0 * mean, "K", ""), tmp_path, "sky")


def test_predicted_sky_of_other_pixels():
    with pytest.raises(ShapeError, match="std"):
        dust_maps.predicted_sky(np.ones(48), np.ones(48), np.ones(12), "K", "")
