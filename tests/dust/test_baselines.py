"""Linear models on maps made from known weights."""

import pytest
import torch

from foreglow.dust.baselines import (
    LinearModel,
    NormalEquations,
    _mode_band,
    _sorted_modes,
    integrated,
)
from foreglow.dust.cutouts import Cutouts
from foreglow.dust.spectra import independent_modes, mode_correlation, mode_ell, paper_bands
from foreglow.errors import ModelError, ShapeError
from foreglow.maps.gnomonic import Grid, Pointings

GRID = Grid(16, 60.0)
N_CHANNEL = 5


def draw(n, seed=0, n_channel=N_CHANNEL, grid=GRID):
    """Steep maps that are alike, as neighbouring channels are, and of very unlike brightness."""
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(n, n_channel + 1, grid.n, grid.n, generator=generator, dtype=torch.float64)
    modes = torch.fft.rfft2(white) * (1 + mode_ell(grid)) ** -1.25
    maps = torch.fft.irfft2(modes, s=(grid.n, grid.n))
    brightness = 10.0 ** torch.linspace(-2, 2, n_channel, dtype=torch.float64)
    return (maps[:, 1:] + 2 * maps[:, :1]) * brightness.view(-1, 1, 1) + 3


def batches(inputs, target, size=7):
    nowhere = Pointings(*(torch.zeros(1, dtype=torch.float64),) * 3)
    for i, t in zip(inputs.split(size), target.split(size), strict=True):
        yield Cutouts(i, t, torch.ones_like(t, dtype=torch.bool), nowhere)


def fitted(inputs, target, **options):
    equations = NormalEquations.of(batches(inputs, target), inputs.shape[1], GRID)
    assert equations.n_cutout == len(inputs)
    return equations.solve(**options)


WEIGHTS = torch.tensor([3.0, -1.0, 0.5, 0.0, 2.0], dtype=torch.float64)


def test_integrated_is_the_sum():
    inputs = draw(3)
    torch.testing.assert_close(integrated(inputs), sum(inputs.unbind(1)))


def test_known_weights_are_found_whatever_the_zero_level():
    inputs = draw(40)
    target = torch.einsum("bcyx,c->byx", inputs, WEIGHTS) - 17
    model = fitted(inputs, target)
    torch.testing.assert_close(model.weights, WEIGHTS, rtol=1e-6, atol=1e-6)
    assert not model.scale_dependent
    torch.testing.assert_close(model(inputs), target + 17)


def test_known_weights_of_each_scale_are_found():
    inputs = draw(60)
    true = torch.randn(8, N_CHANNEL, generator=torch.Generator().manual_seed(1)).double()
    target = LinearModel(true, GRID)(inputs)
    model = fitted(inputs, target, scale_dependent=True)
    assert model.scale_dependent
    torch.testing.assert_close(model.weights, true, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model(inputs), target)
    # and one set of weights for all scales cannot do it
    assert (fitted(inputs, target)(inputs) - target).std() > 0.1 * target.std()


def test_scale_dependent_with_equal_weights_is_scale_independent():
    inputs = draw(2)
    every = LinearModel(WEIGHTS.expand(8, -1), GRID)
    torch.testing.assert_close(every(inputs), LinearModel(WEIGHTS, GRID)(inputs))


def test_is_least_squares():
    """The weights of torch's own solver on all modes as one tall matrix."""
    inputs, noise = draw(20), draw(20, seed=1)[:, 2]
    target = torch.einsum("bcyx,c->byx", inputs, WEIGHTS) + noise
    keep = independent_modes(16).clone()
    keep[0, 0] = False
    rows = torch.fft.rfft2(inputs)[..., keep].permute(0, 2, 1).reshape(-1, N_CHANNEL)
    right = torch.fft.rfft2(target)[..., keep].reshape(-1, 1)
    tall, tall_right = torch.cat([rows.real, rows.imag]), torch.cat([right.real, right.imag])
    expected = torch.linalg.lstsq(tall, tall_right).solution.squeeze(1)
    torch.testing.assert_close(fitted(inputs, target).weights, expected, rtol=1e-7, atol=1e-9)


def test_maximises_the_mean_correlation_of_spectra():
    """Eqs. A.7 to A.13: no other weights make r-bar larger."""
    inputs, noise = draw(30), draw(30, seed=1)[:, 2]
    target = torch.einsum("bcyx,c->byx", inputs, WEIGHTS) + 20 * noise
    equations = NormalEquations.of(batches(inputs, target), N_CHANNEL, GRID)
    total = equations.products.sum(0)

    def r_bar(w):
        return (w @ total[:-1, -1]) / (w @ total[:-1, :-1] @ w).sqrt() / total[-1, -1].sqrt()

    best = equations.solve().weights
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        other = best * (1 + 0.1 * torch.randn(5, generator=generator, dtype=torch.float64))
        assert r_bar(other) < r_bar(best)


def test_batches_and_merging_do_not_matter():
    inputs, target = draw(30), draw(30, seed=1)[:, 2]
    whole = NormalEquations.of(batches(inputs, target, 30), N_CHANNEL, GRID)
    parts = NormalEquations.of(batches(inputs[:12], target[:12], 5), N_CHANNEL, GRID)
    parts.merge(NormalEquations.of(batches(inputs[12:], target[12:], 4), N_CHANNEL, GRID))
    torch.testing.assert_close(parts.products, whole.products)
    assert parts.n_cutout == whole.n_cutout == 30


def test_each_independent_mode_is_in_one_band():
    for n in (15, 16, 64):
        grid = Grid(n, 60.0)
        order, lengths = _sorted_modes(grid)
        assert order.unique().numel() == order.numel() == sum(lengths)
        assert sum(lengths) == int(independent_modes(n).sum()) - 1
        assert len(lengths) == n // 2
        assert min(lengths) > 0
        band = _mode_band(grid).flatten()[order]
        assert bool((band.diff() >= 0).all())
    assert _mode_band(GRID)[0, :4].tolist() == [0, 0, 1, 2]


def test_many_weights_overfit_few_cutouts():
    """What the paper saw: better where it was fitted, worse elsewhere."""
    grid, n_channel = Grid(16, 60.0), 30
    inputs, other = draw(20, 0, n_channel), draw(200, 1, n_channel)
    bands = paper_bands(Grid(16, 60.0))

    def truth(x, seed):
        return integrated(x) + 3 * integrated(draw(len(x), seed, n_channel))

    target, new = truth(inputs, 2), truth(other, 3)
    equations = NormalEquations.of(batches(inputs, target), n_channel, grid)
    r = {}
    for dependent in (False, True):
        model = equations.solve(scale_dependent=dependent, ridge=1e-9)
        r[dependent] = [
            mode_correlation(model(x), t, bands)[:, 0].mean()
            for x, t in ((inputs, target), (other, new))
        ]
    assert r[True][0] > r[False][0]
    assert r[True][1] < r[False][1]


def test_a_repeated_or_empty_channel_needs_a_ridge():
    inputs = draw(40)
    target = torch.einsum("bcyx,c->byx", inputs, WEIGHTS)
    inputs[:, 1] = inputs[:, 0]
    with pytest.raises(ModelError, match=r"expected 5 channels of which none follows from the"):
        fitted(inputs, target)
    with pytest.raises(ModelError, match=r"40 cutouts; add cutouts, drop empty channels, or pass"):
        fitted(inputs, target, scale_dependent=True)
    weights = fitted(inputs, target, ridge=1e-6).weights
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-3, atol=0.0)
    inputs[:, 1] = 0
    with pytest.raises(ModelError, match="drop empty channels"):
        fitted(inputs, target)
    with pytest.raises(ModelError, match="from 0 cutouts"):
        NormalEquations(N_CHANNEL, GRID).solve()


def test_wrong_shapes_are_refused():
    equations = NormalEquations(N_CHANNEL, GRID)
    with pytest.raises(ShapeError, match=r"expected inputs \(batch, 5, 16, 16\) and target"):
        equations.add(draw(2, n_channel=4), draw(2)[:, 0])
    with pytest.raises(
        ShapeError, match=r"expected inputs \(batch, 5, n, n\), got \(2, 4, 16, 16\)"
    ):
        LinearModel(WEIGHTS, GRID)(draw(2, n_channel=4))
    with pytest.raises(ShapeError, match="expected cutouts of 16 pixels a side, got 8"):
        LinearModel(WEIGHTS.expand(8, -1), GRID)(draw(2, grid=Grid(8, 60.0)))
    with pytest.raises(ShapeError, match="expected sums over 5 channels"):
        equations.merge(NormalEquations(4, GRID))
