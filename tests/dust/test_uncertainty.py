"""Calibration and error laws on maps whose scale and error are known."""

import numpy as np
import pytest

from foreglow.dust.uncertainty import Calibration, ResidualLaw, coverage, from_card, to_card
from foreglow.errors import MapError, ModelError

RNG = np.random.default_rng(0)
N = 40_000
PREDICTED = RNG.lognormal(3, 0.8, N)


def error_of(predicted):
    """A true error that grows with the brightness."""
    return 2 + 0.1 * predicted


TARGET = PREDICTED + error_of(PREDICTED) * RNG.standard_normal(N)
NOTHING = np.zeros(N)


def test_a_line_is_found():
    line = Calibration.fit(PREDICTED, 3 * TARGET - 5, "made up")
    assert line.slope == pytest.approx(3, rel=0.02)
    assert line.offset == pytest.approx(-5, abs=0.5)
    np.testing.assert_allclose(line(PREDICTED).mean(), (3 * TARGET - 5).mean(), rtol=1e-6)
    np.testing.assert_array_equal(Calibration()(PREDICTED), PREDICTED)


def test_float32_maps_keep_their_digits():
    line = Calibration.fit((PREDICTED + 1e4).astype(np.float32), TARGET.astype(np.float32), "")
    assert line.slope == pytest.approx(Calibration.fit(PREDICTED, TARGET, "").slope, rel=1e-3)


def test_the_law_is_found():
    law = ResidualLaw.fit(PREDICTED, NOTHING, TARGET)
    probe = np.quantile(PREDICTED, [0.05, 0.2, 0.5, 0.8, 0.95])
    np.testing.assert_allclose(law(probe), error_of(probe), rtol=0.1)
    assert len(law.predicted_edges) == len(law.rms) + 1
    assert (np.diff(law.predicted_edges) > 0).all()


def test_beyond_the_brightest_bin_the_error_grows_with_brightness():
    law = ResidualLaw((0.0, 10.0, 20.0), (1.0, 3.0))
    np.testing.assert_allclose(law(np.array([-5.0, 5, 10, 15, 30])), [1, 1, 2, 3, 6])
    assert np.isnan(law(np.array([np.nan])))[0]


def test_the_spread_of_an_ensemble_is_not_counted_twice():
    scatter = np.full(N, 1.5)
    law = ResidualLaw.fit(PREDICTED, scatter, TARGET)
    total = law.std(PREDICTED, scatter)
    alone = ResidualLaw.fit(PREDICTED, NOTHING, TARGET)(PREDICTED)
    np.testing.assert_allclose(np.mean(total**2), np.mean(alone**2), rtol=0.01)
    # where the members agree less than elsewhere, the error is larger
    assert (law.std(PREDICTED, 2 * scatter) > total).all()


def test_a_spread_wider_than_the_residual_leaves_nothing_to_add():
    law = ResidualLaw.fit(PREDICTED, np.full(N, 1e4), TARGET)
    assert law.rms == (0.0,) * len(law.rms)


def test_coverage_of_a_gaussian():
    rows = coverage(PREDICTED, error_of(PREDICTED), TARGET, n_bin=4)
    assert [round(row["n"]) for row in rows] == [N, *[N // 4] * 4]
    for row in rows:
        assert row["within1"] == pytest.approx(0.683, abs=0.015)
        assert row["within2"] == pytest.approx(0.954, abs=0.01)
        assert row["rms"] == pytest.approx(row["std"], rel=0.03)
        assert abs(row["bias"]) < 0.2
    assert rows[1]["high"] <= rows[2]["low"]


def test_card_and_back():
    line, law = Calibration(1.5, -2.0, "here"), ResidualLaw((0.0, 1.0, 2.0), (0.5, 0.7))
    assert from_card(to_card(line, law)) == (line, law)
    assert from_card({}) == (None, None)


class TestBadInput:
    @pytest.mark.parametrize(
        "card",
        [
            {"calibration": {"slope": 1.0}},
            {"calibration": 3},
            {"residual": {"predicted_edges": [1.0, 2.0], "rms": [1.0, 2.0]}},
            {"residual": {"predicted_edges": [1.0], "rms": []}},
        ],
    )
    def test_damaged_cards(self, card):
        with pytest.raises(ModelError, match=r"expected numbers under calibration and residual"):
            from_card(card)

    def test_too_little_sky(self):
        with pytest.raises(MapError, match=r"on at least 200 pixels, got \(10,\)"):
            Calibration.fit(PREDICTED[:10], TARGET[:10], "")
        with pytest.raises(MapError, match=r"on at least 200 pixels"):
            ResidualLaw.fit(PREDICTED[:10], NOTHING[:10], TARGET[:10])

    def test_a_flat_prediction(self):
        with pytest.raises(MapError, match=r"a prediction that varies over the sky, got a flat"):
            Calibration.fit(np.ones(N), TARGET, "")


def test_noise_of_the_map_is_no_part_of_the_error_of_the_dust():
    """A third of the pixels ten times noisier: what is left is the error itself, from the quiet."""
    noise = np.where(np.arange(N) % 3 == 0, 100.0, 10.0)
    noisy = TARGET + noise * RNG.standard_normal(N)
    law = ResidualLaw.fit(PREDICTED, NOTHING, noisy, noise**2)
    plain = ResidualLaw.fit(PREDICTED, NOTHING, noisy)
    probe = np.quantile(PREDICTED, [0.3, 0.5, 0.8, 0.95])
    np.testing.assert_allclose(law(probe), error_of(probe), rtol=0.25)
    assert (plain(probe) > 5 * law(probe)).all()
    assert (law.of, plain.of) == ("dust", "map")
    equal = ResidualLaw.fit(PREDICTED, NOTHING, TARGET, np.zeros(N) + 1e-6)
    np.testing.assert_allclose(
        equal.rms, ResidualLaw.fit(PREDICTED, NOTHING, TARGET).rms, rtol=1e-5
    )


def test_pixels_count_by_what_they_tell_of_a_scale():
    """Weighted, the scatter of the slope is that of the quiet pixels."""
    predicted, noise = RNG.standard_normal((2, 300)), np.where(np.arange(300) < 100, 10.0, 1.0)
    slopes = []
    for _ in range(100):
        target = 2 * predicted + noise * RNG.standard_normal((2, 300))
        slopes.append(
            [
                Calibration.through_origin(predicted, target, "", weight).slope
                for weight in (1.0, noise**-2)
            ]
        )
    scatter = np.std(slopes, axis=0)
    expected = 1 / np.sqrt((predicted**2 / noise**2).sum())
    assert scatter[1] == pytest.approx(expected, rel=0.25)
    assert scatter[0] > 3 * scatter[1]
