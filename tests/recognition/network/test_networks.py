"""The paper's networks layer by layer, and what both must be blind to."""

import numpy as np
import pytest
import torch
from torch import nn

from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network import networks
from foreglow.recognition.network.networks import NETWORKS, FarsianNetwork, ForeglowNetwork
from foreglow.recognition.simulation.vectors import NoiseLaw, VectorSimulator


@pytest.fixture
def vectors(templates, instrument):
    law = VectorSimulator(templates, instrument, PROBLEMS["four"])
    return law.draw(400, NoiseLaw.fixed(0.3), torch.Generator().manual_seed(2))


def make(kind, instrument, n_class):
    torch.manual_seed(1)
    return kind(instrument, n_class).eval()


# Farsian et al. 2020, section 3, and the parameters that make
@pytest.mark.parametrize(
    ("n_class", "widths", "n_parameter"),
    [
        (2, [34, 68, 34, 17, 1], 2380 + 2346 + 595 + 18),
        (4, [34, 272, 136, 68, 34, 17, 4], 9520 + 37128 + 9316 + 2346 + 595 + 72),
    ],
)
def test_layers_of_the_paper(instrument, n_class, widths, n_parameter):
    network = make(FarsianNetwork, instrument, n_class)
    layers = [m for m in network.modules() if isinstance(m, nn.Linear)]
    assert [layers[0].in_features, *(layer.out_features for layer in layers)] == widths
    assert sum(p.numel() for p in network.parameters()) == n_parameter
    for layer in layers:  # Keras's defaults
        assert (layer.bias == 0).all()
        limit = (6 / (layer.in_features + layer.out_features)) ** 0.5
        assert layer.weight.detach().abs().max() <= limit
        assert layer.weight.detach().std() == pytest.approx(limit / 3**0.5, rel=0.35)


def inputs_of_layers(network, vectors, generator=None):
    """What comes into each linear layer."""
    seen = []
    layers = [m for m in network.modules() if isinstance(m, nn.Linear)]
    hooks = [m.register_forward_pre_hook(lambda _, x: seen.append(x[0].detach())) for m in layers]
    network(vectors.data, vectors.sigma, generator)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("n_class", [2, 4])
def test_tanh_and_min_max(instrument, vectors, n_class):
    seen = inputs_of_layers(make(FarsianNetwork, instrument, n_class), vectors)
    flat = vectors.data.flatten(1).numpy()
    low, high = flat.min(1, keepdims=True), flat.max(1, keepdims=True)
    np.testing.assert_allclose(seen[0], (flat - low) / (high - low), atol=1e-6)
    weight = make(FarsianNetwork, instrument, n_class).hidden[0].weight.detach().numpy()
    np.testing.assert_allclose(seen[1], np.tanh(seen[0].numpy() @ weight.T), atol=1e-5)


@pytest.mark.parametrize("n_class", [2, 4])
def test_dropout_on_the_widest_layer_in_training_only(instrument, vectors, n_class):
    network = make(FarsianNetwork, instrument, n_class)
    calm = inputs_of_layers(network, vectors)
    trained = inputs_of_layers(network.train(), vectors, torch.Generator().manual_seed(0))
    assert not any((x == 0).any() for x in calm[1:])
    assert not any((x == 0).any() for x in trained[2:])
    dropped = trained[1] == 0
    assert dropped.float().mean() == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(trained[1][~dropped], 2 * calm[1][~dropped], rtol=1e-5)


def test_dropout_is_drawn_from_the_generator(instrument, vectors):
    network = make(FarsianNetwork, instrument, 2).train()
    out = [
        network(vectors.data, vectors.sigma, torch.Generator().manual_seed(s)) for s in (4, 4, 5)
    ]
    assert torch.equal(out[0], out[1])
    assert not torch.equal(out[0], out[2])


def test_binary_output_is_a_sigmoid(instrument, vectors):
    logits = make(FarsianNetwork, instrument, 2)(vectors.data, vectors.sigma).detach()
    first = torch.softmax(logits, 1)[:, 0]
    torch.testing.assert_close(first, 1 / (1 + torch.exp(-logits[:, 0])))
    assert (logits[:, 1] == 0).all()
    assert first.std() > 1e-3


@pytest.mark.parametrize("n_class", [2, 4])
def test_farsian_sees_neither_scale_nor_offset_nor_noise(instrument, vectors, n_class):
    network = make(FarsianNetwork, instrument, n_class)
    rng = np.random.default_rng(0)
    scale, shift = (torch.from_numpy(rng.uniform(0.5, 50, (400, 1, 1))).float() for _ in range(2))
    plain = network(vectors.data, vectors.sigma)
    other = network(scale * vectors.data + shift, 7 * vectors.sigma)
    torch.testing.assert_close(plain, other, atol=2e-3, rtol=0)
    negative = network(-vectors.data, vectors.sigma)
    assert (plain - negative).abs().max() > 0.1


def test_farsian_survives_a_flat_vector(instrument):
    for value in (0.0, 3.0):
        data = torch.full((2, 2, 17), value)
        assert torch.isfinite(make(FarsianNetwork, instrument, 4)(data, torch.ones(2, 17))).all()


@pytest.mark.parametrize("kind", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("n_class", [2, 3, 4])
def test_pixels_do_not_see_each_other(instrument, templates, vectors, kind, n_class):
    network = make(kind, instrument, n_class)
    if isinstance(network, ForeglowNetwork):
        network.remember(templates)
        network.standardise(vectors.data, vectors.sigma)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    together = network(vectors.data, vectors.sigma)
    shuffled = network(vectors.data[order], vectors.sigma[order])
    assert together.shape == (400, n_class)
    # products of layers go by other kernels for one vector and for many: float32, 6e-8, of numbers
    # up to 10 after the clip, over some hundred terms and ten layers that keep the size
    torch.testing.assert_close(shuffled, together[order], atol=1e-4, rtol=1e-4)
    for one in range(0, 400, 40):
        part = slice(one, one + 1)
        alone = network(vectors.data[part], vectors.sigma[part])
        torch.testing.assert_close(alone, together[part], atol=1e-4, rtol=1e-4)


def test_standardise(instrument, vectors):
    network = make(ForeglowNetwork, instrument, 4)
    network.standardise(vectors.data, vectors.sigma)
    seen = []
    network.input.register_forward_pre_hook(lambda _, x: seen.append(x[0].detach().double()))
    network(vectors.data, vectors.sigma)
    x = seen[0]
    varied = x.std(0) > 0
    # the depth does not vary in these vectors: its 17 features are ignored
    assert (~varied).sum() == 17
    assert (x[:, ~varied] == 0).all()
    tame = (x.abs() < 9).all(0) & varied  # what is clipped at 10 has less spread
    assert tame.sum() > 50
    np.testing.assert_allclose(x[:, tame].mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(x[:, tame].std(0), 1, atol=1e-3)


def test_outliers_are_clipped(instrument, vectors):
    network = make(ForeglowNetwork, instrument, 4)
    network.standardise(vectors.data, vectors.sigma)
    seen = []
    network.input.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    out = network(1e6 * vectors.data, vectors.sigma)
    assert seen[0].abs().max() == 10
    assert torch.isfinite(out).all()


def test_statistics_travel_with_the_weights(instrument, vectors):
    network = make(ForeglowNetwork, instrument, 4)
    network.standardise(vectors.data, vectors.sigma)
    other = make(ForeglowNetwork, instrument, 4)
    assert not torch.equal(network(vectors.data, vectors.sigma), other(vectors.data, vectors.sigma))
    other.load_state_dict(network.state_dict())
    assert torch.equal(network(vectors.data, vectors.sigma), other(vectors.data, vectors.sigma))


@pytest.mark.parametrize("n", [100, 512, 1000])
def test_layers_of_large_batches_are_convolutions_of_the_same_result(n):
    layer, x = nn.Linear(90, 128), torch.randn(n, 90)
    expected = layer(x)
    torch.testing.assert_close(networks._affine(layer, x), expected, rtol=1e-5, atol=1e-5)
    (ours,) = torch.autograd.grad(networks._affine(layer, x).square().sum(), layer.weight)
    (theirs,) = torch.autograd.grad(expected.square().sum(), layer.weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
