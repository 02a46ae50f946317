"""Pixel numbers agree with healpy's, those made for a graphics card too."""

import healpy as hp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foreglow.maps import pixels as module
from foreglow.maps.pixels import ring_to_nested

# what the processor uses, and what a graphics card uses
TO_PIXEL = [module.vector_to_pixel, module._vector_to_pixel]
INTERPOLATION = [module.interpolation, module._interpolation]


def directions(n, seed=0):
    vector = np.random.default_rng(seed).normal(size=(n, 3))
    return vector / np.linalg.norm(vector, axis=1, keepdims=True)


def near_the_poles(n, seed=0):
    vector = directions(n, seed)
    vector[:, :2] *= 10.0 ** np.random.default_rng(seed).uniform(-6, 0, (n, 1))
    return vector / np.linalg.norm(vector, axis=1, keepdims=True)


@pytest.mark.parametrize("nside", [8, 64, 2048])
@pytest.mark.parametrize("draw", [directions, near_the_poles])
def test_neighbours_have_healpys_pixels(nside, draw):
    """In the belt, in a cap, and where a stretch has some of both."""
    vector = draw(50_000)
    z = vector[:, 2]
    for place in (np.abs(z) < 2 / 3, z > 2 / 3, z < -2 / 3, z > 0.5):
        expected = hp.vec2pix(nside, *vector[place].T)
        found = module.ring_pixel(torch.from_numpy(np.ascontiguousarray(vector[place].T)), nside)
        np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("nest", [True, False])
@pytest.mark.parametrize("nside", [1, 2, 64, 1024])
@pytest.mark.parametrize("draw", [directions, near_the_poles])
@pytest.mark.parametrize("vector_to_pixel", TO_PIXEL)
def test_pixels_are_healpys(nside, nest, draw, vector_to_pixel):
    vector = draw(100_000)
    expected = hp.vec2pix(nside, *vector.T, nest=nest)
    found = vector_to_pixel(torch.from_numpy(vector), nside, nest)
    assert found.dtype == torch.int64
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("nest", [True, False])
@pytest.mark.parametrize("nside", [1, 4, 64, 512])
@pytest.mark.parametrize("vector_to_pixel", TO_PIXEL)
def test_every_centre_lies_in_its_own_pixel(nside, nest, vector_to_pixel):
    pixel = np.arange(hp.nside2npix(nside))[: 12 * 128**2]
    vector = np.stack(hp.pix2vec(nside, pixel, nest=nest), -1)
    found = vector_to_pixel(torch.from_numpy(vector), nside, nest)
    np.testing.assert_array_equal(found.numpy(), pixel)


@pytest.mark.parametrize("nside", [1, 2, 8, 128])
def test_ring_to_nested_is_healpys(nside):
    pixel = torch.arange(hp.nside2npix(nside))
    expected = hp.ring2nest(nside, pixel.numpy())
    np.testing.assert_array_equal(ring_to_nested(pixel, nside).numpy(), expected)


@pytest.mark.parametrize("nest", [True, False])
@pytest.mark.parametrize("nside", [1, 2, 64, 512])
@pytest.mark.parametrize("draw", [directions, near_the_poles])
@pytest.mark.parametrize("interpolation", INTERPOLATION)
def test_interpolation_is_healpys(nside, nest, draw, interpolation):
    """The same interpolated values: on a boundary two sets of pixels and weights may mean one."""
    vector = draw(20_000)
    values = np.random.default_rng(1).normal(size=hp.nside2npix(nside))
    # healpy's vec2dir takes an arc cosine, which loses half of the digits near a pole
    theta, phi = np.arctan2(np.hypot(*vector.T[:2]), vector.T[2]), np.arctan2(*vector.T[1::-1])
    expected = hp.get_interp_val(values, theta, phi, nest=nest)
    pixel, weight = interpolation(torch.from_numpy(vector), nside, nest)
    found = (values[pixel.numpy()] * weight.numpy()).sum(-1)
    np.testing.assert_allclose(found, expected, atol=1e-9)


@settings(max_examples=200)
@given(
    st.floats(-1, 1),
    st.floats(0, 2 * np.pi),
    st.sampled_from([1, 2, 16, 1024, 8192]),
    st.booleans(),
    st.sampled_from(TO_PIXEL),
    st.sampled_from(INTERPOLATION),
)
def test_numbers_are_in_range(z, phi, nside, nest, vector_to_pixel, interpolation):
    """Boundaries and poles included, where rounding decides between two pixels."""
    sin = np.sqrt(1 - z**2)
    vector = torch.tensor([sin * np.cos(phi), sin * np.sin(phi), z], dtype=torch.float64)
    pixel = int(vector_to_pixel(vector, nside, nest))
    assert 0 <= pixel < 12 * nside**2
    centre = np.array(hp.pix2vec(nside, pixel, nest=nest))
    assert np.arccos(np.clip(centre @ vector.numpy(), -1, 1)) <= hp.max_pixrad(nside) + 1e-7
    pixels, weights = interpolation(vector, nside, nest)
    assert bool(((pixels >= 0) & (pixels < 12 * nside**2)).all())
    assert bool((weights >= -1e-9).all())
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
