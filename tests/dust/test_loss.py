"""Eq. 2.3, term by term."""

import pytest
import torch

from foreglow.dust.loss import correlation_loss
from foreglow.dust.spectra import mode_correlation, paper_bands
from foreglow.maps.gnomonic import Grid

BANDS = paper_bands(Grid())


def maps(seed):
    return torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(seed))


def test_is_the_papers():
    target, predicted = maps(0), maps(0) + maps(1)
    loss, parts = correlation_loss(predicted, target, BANDS)
    r50, r150 = mode_correlation(predicted, target, BANDS).mean(0)
    difference = (target - predicted).abs().mean()
    torch.testing.assert_close(loss, 30 * (1 - r50 + 1 - r150) + difference)
    assert parts["r50"] == pytest.approx(float(r50))
    assert parts["r150"] == pytest.approx(float(r150))
    assert parts["difference"] == pytest.approx(float(difference))


def test_nothing_is_left_of_a_perfect_prediction():
    assert float(correlation_loss(maps(0), maps(0), BANDS)[0]) == pytest.approx(0, abs=1e-4)


def test_weight_zero_leaves_the_pixels():
    loss, parts = correlation_loss(maps(1), maps(0), BANDS, weight=0.0)
    assert float(loss) == pytest.approx(float(parts["difference"]))


def test_an_empty_prediction_has_a_gradient():
    """As a network gives at its start, or where all is masked."""
    predicted = torch.zeros(3, 64, 64, requires_grad=True)
    loss, parts = correlation_loss(predicted, maps(0), BANDS)
    loss.backward()
    assert predicted.grad is not None
    assert bool(torch.isfinite(predicted.grad).all())
    assert not any(p.requires_grad for p in parts.values())
