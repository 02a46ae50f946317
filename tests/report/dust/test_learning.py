import numpy as np
import pytest

from foreglow.errors import ShapeError
from foreglow.report.dust.learning import learning_curves


def make_history(n):
    keys = [f"{stage}_{band}" for stage in ("train", "validation") for band in ("r50", "r150")]
    return {key: np.linspace(0.5 + 0.1 * k, 0.9, n) for k, key in enumerate(keys)}


def test_learning_curves():
    histories = {"unet": make_history(4), "unet_zhang2019_annealed": make_history(6)}
    cutouts = {"unet": 1600, "unet_zhang2019_annealed": 800}
    test = {"unet": (0.89, 0.82), "unet_zhang2019_annealed": (0.88, 0.8)}
    figure = learning_curves(histories, cutouts, test)
    for index, axes in enumerate(figure.axes):
        train, validation, star = axes.lines[:3]
        np.testing.assert_allclose(validation.get_xdata(), [1600, 3200, 4800, 6400])
        np.testing.assert_allclose(train.get_ydata()[0], 0.5 + 0.1 * index)
        np.testing.assert_allclose(validation.get_ydata()[0], 0.7 + 0.1 * index)
        assert star.get_xydata().tolist() == [[6400, test["unet"][index]]]
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    assert labels == {
        "U-Net", "U-Net of the paper, annealed", "training", "validation", "test",
    }  # fmt: skip


def test_epochs_that_do_not_fit():
    history = make_history(4) | {"validation_r50": np.ones(3)}
    with pytest.raises(ShapeError, match="validation of 'unet'"):
        learning_curves({"unet": history}, {"unet": 1}, {"unet": (0.9, 0.8)})
