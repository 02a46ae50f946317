"""Networks of the dust: what they see, where they start, what must not matter."""

import numpy as np
import pytest
import torch

from foreglow.dust.networks import INPUTS, MOMENTS, NETWORKS, make_network
from foreglow.dust.spectra import paper_bands
from foreglow.dust.unet import Dropout, UNet
from foreglow.errors import ModelError, ShapeError
from foreglow.maps.gnomonic import Grid

N, CHANNELS = 32, 6
VELOCITY = np.linspace(-50, 15, CHANNELS)
BANDS = paper_bands(Grid(N))


def make_maps(batch=3, seed=0):
    """Inputs [K], target and mask, as cutouts have them: zero where masked."""
    g = torch.Generator().manual_seed(seed)
    inputs = (
        torch.rand(batch, CHANNELS, N, N, generator=g)
        * torch.linspace(1, 30, CHANNELS)[:, None, None]
    )
    mask = torch.rand(batch, N, N, generator=g) > 0.2
    inputs = inputs * mask.unsqueeze(1)
    target = 0.7 * inputs.sum(1) * (1 + 0.1 * torch.randn(batch, N, N, generator=g)) * mask
    return inputs, target, mask


def make(network, inputs="channels", width=4):
    torch.manual_seed(0)
    made = make_network(network, inputs, VELOCITY, width).eval()
    x, target, mask = make_maps()
    made.standardise(x, target, mask, BANDS)
    return made


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("inputs", INPUTS)
def test_a_map_comes_out(network, inputs):
    x, _, mask = make_maps()
    out = make(network, inputs)(x, mask)
    assert out.shape == mask.shape
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("inputs", INPUTS)
def test_ours_starts_as_the_integrated_map(inputs):
    x, target, mask = make_maps()
    out = make("unet", inputs)(x, mask)
    factor = out[mask] / x.sum(1)[mask]
    torch.testing.assert_close(factor, factor[:1].expand_as(factor))
    assert factor[0].item() == pytest.approx(0.7, rel=0.02)  # target per K, as it was made
    assert target[mask].median().item() == pytest.approx(out[mask].median().item(), rel=0.03)


@pytest.mark.parametrize("network", NETWORKS)
def test_both_terms_of_the_loss_start_alike(network):
    from foreglow.dust.loss import PAPER_WEIGHT, correlation_loss

    x, target, mask = make_maps()
    unit = make(network).unit
    start = make("unet")(x, mask) * mask
    loss, parts = correlation_loss(start / unit, target / unit, BANDS)
    assert parts["difference"].item() == pytest.approx(loss.item() / 2, rel=1e-3)
    assert parts["difference"].item() < 2 * PAPER_WEIGHT


@pytest.mark.parametrize("network", NETWORKS)
def test_scales_are_the_networks_own(network):
    """Brighter gas or another unit of the target change nothing but the unit of the output."""
    x, target, mask = make_maps()
    torch.manual_seed(0)
    other = make_network(network, "channels", VELOCITY, 4).eval()
    other.standardise(8 * x, 64 * target, mask, BANDS)
    torch.testing.assert_close(
        other(8 * x, mask), 64 * make(network)(x, mask), rtol=1e-4, atol=1e-4
    )


def test_moments_are_sums_of_powers_of_velocity():
    made = make("unet", "moments")
    x, _, _ = make_maps()
    seen = made.see(x)
    assert seen.shape == (3, MOMENTS, N, N)
    v = torch.linspace(-1, 1, CHANNELS)
    for m in range(MOMENTS):
        expected = (x * (v**m)[:, None, None]).sum(1)
        torch.testing.assert_close(seen[:, m], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(make("unet", "integrated").see(x)[:, 0], x.sum(1))


def test_channels_and_sizes_that_do_not_fit():
    made = make("unet")
    x, _, mask = make_maps()
    with pytest.raises(
        ShapeError, match=r"expected inputs \(batch, 6, n, n\), got \(3, 5, 32, 32\)"
    ):
        made(x[:, 1:], mask)
    with pytest.raises(ShapeError, match=r"a multiple of 16 pixels a side, got \(32, 24\)"):
        made(x[..., :24], mask[..., :24])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vnet", "channels", VELOCITY, 4), "expected network unet or unet_zhang2019, got 'vnet'"),
        (("unet", "spectra", VELOCITY, 4), "expected inputs channels, moments, integrated, got"),
        (("unet", "channels", VELOCITY[:1], 4), "expected two or more channels"),
        (("unet", "channels", VELOCITY, 0), "got 6 channels and width 0"),
    ],
)
def test_networks_that_cannot_be_made(arguments, message):
    with pytest.raises(ModelError, match=message):
        make_network(*arguments)


def test_the_papers_network_is_that_of_figure_2():
    made = make_network("unet_zhang2019", "channels", np.arange(64.0), 64)
    shapes = [tuple(m.weight.shape) for m in made.modules() if isinstance(m, torch.nn.Conv2d)]
    down = [(64, 64), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (512, 256)]
    down += [(512, 512), (1024, 512), (1024, 1024)]
    up = [(512, 1024), (512, 512), (256, 512), (256, 256), (128, 256), (128, 128), (64, 128)]
    up += [(64, 64)]
    assert shapes == [(*s, 3, 3) for s in down + up] + [(1, 64, 1, 1)]
    kinds = [type(m).__name__ for m in made.modules()]
    assert kinds.count("BatchNorm2d") == kinds.count("Dropout") == kinds.count("ReLU") == 18
    assert {m.p for m in made.modules() if isinstance(m, torch.nn.Dropout)} == {0.3}
    grow = [m for m in made.modules() if isinstance(m, torch.nn.ConvTranspose2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size, m.stride) for m in grow] == [
        (2 * c, c, (2, 2), (2, 2)) for c in (512, 256, 128, 64)
    ]


def test_a_unet_sees_far_and_near():
    torch.manual_seed(0)
    unet = UNet(2, 4, lambda a, b: torch.nn.Conv2d(a, b, 3, padding=1))
    x = torch.zeros(1, 2, 64, 64, requires_grad=True)
    unet(x + torch.rand(x.shape, generator=torch.Generator().manual_seed(1)))[
        0, :, 32, 32
    ].sum().backward()
    seen = x.grad.abs().sum((0, 1)) > 0
    assert seen[32, 32]
    assert seen[:, 32].sum() > 40


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dropout_drops_its_share_and_keeps_the_mean(layout):
    x = torch.full((8, 16, 32, 32), 3.0).to(memory_format=layout).requires_grad_()
    layer = Dropout(0.3)
    torch.manual_seed(0)
    out = layer(x)
    assert float((out == 0).float().mean()) == pytest.approx(0.3, abs=0.005)
    torch.testing.assert_close(out[out != 0].unique(), torch.tensor([3 / 0.7]))
    out.sum().backward()
    torch.testing.assert_close(x.grad, (out / 3).detach())
    torch.manual_seed(0)
    assert torch.equal(layer(x), out)
    assert not torch.equal(layer(x), out)
    assert layer.eval()(x) is x
