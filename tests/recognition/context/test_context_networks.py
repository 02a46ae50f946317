import healpy as hp
import pytest
import torch

from foreglow.maps.faces import face_order
from foreglow.recognition.context.networks import CONTEXT_NETWORKS

NSIDE = 8
N_PIX = hp.nside2npix(NSIDE)


def logs(n, n_class, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(3 * torch.randn(n, n_class, N_PIX, generator=generator), 1)


@pytest.fixture(params=CONTEXT_NETWORKS)
def network(request):
    """With weights that are all at work."""
    torch.manual_seed(1)
    network = CONTEXT_NETWORKS[request.param]()
    with torch.no_grad():
        for weights in network.parameters():
            weights.add_(0.1 * torch.randn_like(weights))
    return network.eval()


SEEN = torch.ones(2, N_PIX, dtype=torch.bool)


def test_the_classes_are_alike(network):
    x = logs(2, 4)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(network(x[:, order], SEEN), network(x, SEEN)[:, order])


@pytest.mark.parametrize("n_class", [2, 3, 4])
def test_any_number_of_classes(network, n_class):
    assert network(logs(2, n_class), SEEN).shape == (2, n_class, N_PIX)


def test_a_quarter_turn_of_the_sky_turns_the_answer(network):
    order = face_order(NSIDE)
    theta, phi = hp.pix2ang(NSIDE, order.numpy())
    turned = torch.from_numpy(hp.ang2pix(NSIDE, theta, phi + torch.pi / 2))
    place = torch.empty(N_PIX, dtype=torch.int64)
    place[order] = torch.arange(N_PIX)
    turn = place[turned]  # position of each position's pixel after the turn
    x = logs(2, 2)
    torch.testing.assert_close(
        network(x[..., turn], SEEN), network(x, SEEN)[..., turn], rtol=1e-4, atol=1e-4
    )


def test_what_was_not_observed_does_not_matter(network):
    x = logs(2, 2)
    seen = SEEN.clone()
    seen[:, :300] = False
    other = x.clone()
    other[:, :, :300] = logs(2, 2, seed=5)[:, :, :300]
    assert torch.equal(network(x, seen), network(other, seen))
    assert not torch.equal(network(x, SEEN), network(other, SEEN))


def test_neighbours_matter(network):
    x = logs(1, 2)
    other = x.clone()
    other[..., 100] = other[:, [1, 0], 100]
    change = (network(x, SEEN[:1]) - network(other, SEEN[:1])).abs().amax(1)[0]
    assert (change > 1e-6).sum() > 9


def test_certainty_of_one_pixel_is_bounded(network):
    x = logs(1, 2)
    x[0, 0, 7], x[0, 1, 7] = 0.0, -torch.inf
    assert torch.isfinite(network(x, SEEN[:1])).all()


def test_a_fresh_unet_leaves_the_pixels_alone():
    torch.manual_seed(0)
    x = torch.log_softmax(logs(2, 4) / 3, 1)  # so that none is clipped
    said = torch.log_softmax(CONTEXT_NETWORKS["unet"]()(x, SEEN), 1)
    torch.testing.assert_close(said, x)


@pytest.mark.parametrize("nside", [1, 2, 16, 64])
def test_any_nside(nside):
    torch.manual_seed(0)
    n_pix = hp.nside2npix(nside)
    x = torch.log_softmax(torch.randn(1, 2, n_pix), 1)
    for kind in CONTEXT_NETWORKS.values():
        assert kind()(x, torch.ones(1, n_pix, dtype=torch.bool)).shape == (1, 2, n_pix)
