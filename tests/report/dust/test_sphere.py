import numpy as np
import pytest

from foreglow.errors import ShapeError
from foreglow.report.dust.sphere import correlation_on_the_sphere, sphere_table

ELL = np.array([35.0, 75.0])


def test_error_bars_by_model():
    curves = {"gradients": ([0.8, 0.7], [0.01, 0.02]), "unet_polarised": ([0.9, 0.6], [0.1, 0.1])}
    figure = correlation_on_the_sphere(ELL, {"E modes": curves, "B modes": curves})
    axes = figure.axes[0]
    assert [line.lines[0].get_ydata().tolist() for line in axes.containers] == [
        [0.8, 0.7], [0.9, 0.6]
    ]  # fmt: skip
    assert axes.get_title(loc="left") == "E modes"
    with pytest.raises(ShapeError, match="curve of 'one'"):
        correlation_on_the_sphere(ELL, {"E modes": {"one": ([0.8], [0.1])}})


def test_rows_by_target_model_and_ell():
    keys = ("r_t", "r_e", "r_b", "bb_over_ee", "target_bb_over_ee")
    numbers = dict.fromkeys(keys, 0.5) | {f"{key}_sem": 0.01 for key in keys}
    rows = [
        {"step": "polarised_sphere", "by": by, "target": target, "model": model, "low": low,
         "high": 50, **numbers, "r_t": None}
        for target in ("observed", "truth")
        for model in ("unet_polarised", "gradients")
        for by, low in (("ell", 20), ("latitude", 0))
    ]  # fmt: skip
    table = str(sphere_table(rows))
    assert table.count("20 ≤ ℓ &lt; 50") == 4
    assert "0 ≤ ℓ &lt; 50</td>" not in table.replace("20 ≤", "")
    assert table.index("without noise") < table.index("as observed")
    assert table.index("gradients") < table.index("U-Net, polarised")
    assert "± 0.010" in table
    assert "–" in table
    assert sphere_table([]) == ""
