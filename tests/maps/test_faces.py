import healpy as hp
import numpy as np
import pytest
import torch

from foreglow.maps.faces import (
    bordered_faces,
    double,
    face_order,
    halve,
    with_borders,
    without_borders,
)

NSIDES = (1, 2, 4, 16)


@pytest.mark.parametrize("nside", NSIDES)
def test_every_pixel_has_one_place(nside):
    order = face_order(nside).numpy()
    assert np.array_equal(np.sort(order), np.arange(hp.nside2npix(nside)))


@pytest.mark.parametrize("nside", NSIDES)
def test_borders_are_neighbours_on_the_sphere(nside):
    order = face_order(nside).numpy()
    table = bordered_faces(nside).numpy().reshape(12, nside + 2, nside + 2)
    inside = table[:, 1:-1, 1:-1]
    assert np.array_equal(inside.reshape(-1), np.arange(hp.nside2npix(nside)))
    for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1), (1, 1), (-1, 1), (1, -1), (-1, -1)):
        shifted = table[:, 1 + dx : nside + 1 + dx, 1 + dy : nside + 1 + dy]
        mine, other = order[inside.reshape(-1)], order[shifted.reshape(-1)]
        around = hp.get_all_neighbours(nside, mine)
        is_neighbour = (around == other).any(0) | (mine == other)
        assert is_neighbour.all()
        if 0 in (dx, dy):
            assert not (mine == other).any()
        else:  # a corner without a neighbour: eight on the sphere, three faces at each
            assert (mine == other).sum() <= 8


@pytest.mark.parametrize("nside", [2, 4, 16])
def test_halving_is_healpys_degrading(nside):
    rng = np.random.default_rng(0)
    ring = rng.standard_normal(hp.nside2npix(nside))
    faces = torch.from_numpy(ring)[face_order(nside)][None, :, None]
    half = halve(faces)[0, :, 0].numpy()
    expected = hp.ud_grade(ring, nside // 2)[face_order(nside // 2).numpy()]
    np.testing.assert_allclose(half, expected, rtol=0, atol=1e-12)


def test_halving_undoes_doubling():
    values = torch.randn(3, 48, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(halve(double(values)), values)


def test_images_and_back():
    values = torch.randn(2, 12 * 16, 3, generator=torch.Generator().manual_seed(0))
    images = with_borders(values)
    assert images.shape == (24, 3, 6, 6)
    torch.testing.assert_close(without_borders(images[:, :, 1:-1, 1:-1]), values)


def test_what_inference_made_serves_training():
    face_order.cache_clear()
    bordered_faces.cache_clear()
    values = torch.randn(1, 48, 1)
    with torch.inference_mode():
        with_borders(values)
    weight = torch.ones((), requires_grad=True)
    with_borders(weight * values).sum().backward()
    assert weight.grad is not None
