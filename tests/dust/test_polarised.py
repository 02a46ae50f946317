"""Polarised dust: E and B of cutouts, orientations of the gas, the network, its loss and scores."""

import math

import healpy as hp
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from foreglow.dust.cutouts import CutoutSampler, SkyCube
from foreglow.dust.loss import PAPER_WEIGHT, polarised_loss
from foreglow.dust.networks import PolarisedUNet
from foreglow.dust.orientation import finer, gradient_polarisation, orientations
from foreglow.dust.polarised_scores import gradient_predictor, score_polarisation
from foreglow.dust.spectra import alignment, e_and_b, paper_bands, spectrum_correlation
from foreglow.errors import ShapeError
from foreglow.maps.gnomonic import Grid
from foreglow.maps.hemispheres import SOUTH
from foreglow.sky.gas import UNRELATED, mock_gas

N = 32
GRID = Grid(N, 46.8)
BANDS = paper_bands(GRID)
VELOCITY = np.linspace(-50, 15, 6)
OPEN = torch.ones(2, N, N, dtype=torch.bool)


def stripes(angle_deg: float, n: int = 2 * N, wave: float = 8.0) -> torch.Tensor:
    """A map (1, 1, n, n) that changes along a direction, counted from rows towards columns."""
    row, column = torch.meshgrid(*2 * [torch.arange(n, dtype=torch.float32)], indexing="ij")
    along = math.cos(math.radians(angle_deg)) * row + math.sin(math.radians(angle_deg)) * column
    return torch.sin(2 * math.pi * along / wave)[None, None]


@pytest.mark.parametrize("angle", [0, 20, 45, 90, 130])
def test_gradients_point_across_stripes(angle):
    found = orientations(stripes(angle), finer(OPEN[:1], 2), 2)[0, :, 0, :, 8:-8, 8:-8]
    direction = math.radians(2 * angle)
    expected = torch.tensor([math.cos(direction), math.sin(direction)])[:, None, None, None]
    assert_allclose(found, expected.expand_as(found), atol=0.05)  # differences of pixels


def test_orientations_turn_with_the_map_and_are_mirrored():
    maps = torch.rand(2, 3, 2 * N, 2 * N, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(2, N, N, generator=torch.Generator().manual_seed(1)) > 0.05
    seen = finer(mask, 2)
    found = orientations(maps, seen, 2)
    turned = orientations(maps.rot90(1, (2, 3)), seen.rot90(1, (1, 2)), 2)
    assert_allclose(turned, -found.rot90(1, (4, 5)), atol=1e-5)  # both Q and U change their sign
    mirrored = orientations(maps.flip(3), seen.flip(2), 2)
    sign = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1, 1)
    assert_allclose(mirrored, sign * found.flip(5), atol=1e-5)


def test_edges_of_a_mask_are_no_filaments():
    maps = torch.rand(1, 1, 2 * N, 2 * N, generator=torch.Generator().manual_seed(0))
    mask = OPEN[:1].clone()
    mask[:, :, N // 2 :] = False
    fine = finer(mask, 2)
    found = orientations(maps * fine, fine, 2)
    other = orientations(maps * fine - 9.0 * ~fine, fine, 2)
    assert_allclose(found, other, atol=1e-6)
    assert torch.isfinite(orientations(0 * maps, fine, 2)).all()


def test_finer_pixels_that_are_masked_are_no_filaments():
    """The mask of a cutout says nothing of a part of its pixels: there inputs are zero."""
    inputs = 1 + torch.rand(1, 3, 2 * N, 2 * N, generator=torch.Generator().manual_seed(0))
    whole = gradient_polarisation(inputs, OPEN[:1])
    inputs[:, :, N + 1, N + 1] = 0
    some = gradient_polarisation(inputs, OPEN[:1])
    assert float((some - whole).abs().max()) < 0.2 * float(whole.abs().max())


def test_e_and_b_of_one_mode():
    """A wave whose Q goes along it is E alone, at 45 degrees B alone."""
    wave = torch.cos(2 * math.pi * 3 * torch.arange(N) / N)
    q = wave[:, None].expand(N, N)[None]
    e, b = e_and_b(torch.stack([q, torch.zeros_like(q)], 1))[0]
    assert_allclose(e, q[0], atol=1e-5)
    assert_allclose(b, torch.zeros_like(b), atol=1e-5)
    e, b = e_and_b(torch.stack([torch.zeros_like(q), q], 1))[0]
    assert_allclose(e, torch.zeros_like(e), atol=1e-5)
    assert_allclose(b, q[0], atol=1e-5)


def test_alignment_is_blind_to_amplitude():
    qu = torch.randn(2, 2, N, N, generator=torch.Generator().manual_seed(0))
    mask = OPEN.clone()
    mask[:, :4] = False
    assert_allclose(alignment(3 * qu, qu, mask), torch.ones(2), atol=1e-5)
    assert_allclose(alignment(-qu, qu, mask), -torch.ones(2), atol=1e-5)
    swapped = torch.stack([-qu[:, 1], qu[:, 0]], 1)  # turned by 45 degrees
    assert_allclose(alignment(swapped, qu, mask), torch.zeros(2), atol=1e-6)


@pytest.fixture(scope="module")
def sky():
    gas = mock_gas(64, 3)
    velocity = np.linspace(-50, 15, 6)
    channels = list(gas.hydrogen.cube(velocity))
    latitude = hp.pix2ang(64, np.arange(12 * 64**2), lonlat=True)[1]
    return SkyCube.from_maps(
        channels, 6, gas.dust.total, np.abs(latitude) > 20, polarisation=gas.polarisation
    )


@pytest.fixture(scope="module")
def cutouts(sky):
    sampler = CutoutSampler(sky, SOUTH, GRID, fine=2)
    return sampler.draw(16, torch.Generator().manual_seed(0))


def make(cutouts) -> PolarisedUNet:
    torch.manual_seed(0)
    network = PolarisedUNet("channels", VELOCITY, 4)
    network.standardise(cutouts.inputs, cutouts.target, cutouts.mask, BANDS)
    return network


def test_the_network_starts_from_gradients(cutouts):
    """Its start is about the simplest model; both terms of the loss are alike, of I and of Q, U."""
    network = make(cutouts)
    with torch.no_grad():
        made = network(cutouts.inputs, cutouts.mask) * cutouts.mask.unsqueeze(1)
        _, parts = polarised_loss(made / network.unit, cutouts.target / network.unit, BANDS)
    assert made.shape == cutouts.target.shape
    plain = gradient_polarisation(cutouts.inputs, cutouts.mask)
    assert float(alignment(made[:, 1:], plain, cutouts.mask).mean()) > 0.97
    lacking = PAPER_WEIGHT * (2 - parts["r50"] - parts["r150"])
    difference = ((made - cutouts.target) / network.unit).abs().mean((0, 2, 3))
    # the difference of the intensity is measured of an integrated map scaled as here
    assert_allclose(float(difference[0]), float(lacking), rtol=0.3)
    lacking = PAPER_WEIGHT * (4 - sum(parts[key] for key in ("e50", "e150", "b50", "b150"))) / 2
    assert_allclose(float(difference[1:].mean()), float(lacking), rtol=1e-3)


def test_the_network_turns_with_its_input(cutouts):
    """By 90 degrees exactly but for padding: what it sees of directions is how clear they are."""
    network = make(cutouts).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in (network.pixel_gain, network.unet_gain):
            layer.weight.add_(0.05 * torch.randn(layer.weight.shape, generator=generator))
        for values in network.unet.parameters():
            if values.ndim == 4 and values.shape[-1] == 3:  # the same in all four directions
                values.copy_(sum(values.rot90(k, (2, 3)) for k in range(4)) / 4)
            elif values.ndim == 4:
                values.copy_(values.mean((2, 3), keepdim=True).expand_as(values))
        made = network(cutouts.inputs, cutouts.mask)
        turned = network(cutouts.inputs.rot90(1, (2, 3)), cutouts.mask.rot90(1, (1, 2)))
    expected = made.rot90(1, (2, 3)) * torch.tensor([1.0, -1.0, -1.0]).view(3, 1, 1)
    size = made.square().mean((0, 2, 3)).sqrt().view(3, 1, 1)
    assert float(((turned - expected) / size).abs().max()) < 2e-3


def test_scores_of_the_dust_itself_and_of_gradients(sky):
    sampler = CutoutSampler(sky, SOUTH, GRID, fine=2)
    where = sampler.fixed_pointings(12)
    predictors = {
        "gradients": gradient_predictor,
        "dust": lambda cut: 2 * cut.target,
        "mirrored": lambda cut: cut.target[:, 1:] * torch.tensor([1.0, -1.0]).view(2, 1, 1),
    }
    found = score_polarisation(predictors, sampler, where, batch=5)
    own = found["dust"].record(found["gradients"])
    keys = ("e50", "e150", "b50", "b150", "i50", "spectrum_e50", "spectrum_b150", "alignment")
    assert_allclose([own[key] for key in keys], 1, atol=1e-3)
    assert own["wins_e50"] == own["wins_i150"] == own["wins_spectrum_i50"] == 1.0
    simple = found["gradients"].record(found["gradients"])
    assert "wins_e50" not in simple
    # gradients tell of the field, and the sign of U is that of the cutouts
    assert simple["alignment"] > 0.5
    assert simple["spectrum_e50"] > 0.4
    assert simple["spectrum_i50"] > 0.6  # the integrated map
    mirrored = found["mirrored"].record(found["dust"])
    assert mirrored["alignment"] < 0.5
    assert not [key for key in mirrored if "i50" in key]  # it predicts no I
    assert found["gradients"].curve.shape == (12, 2, N // 2 - 1)
    with pytest.raises(ShapeError, match="of model bad, got"):
        score_polarisation({"bad": lambda cut: cut.target[:, :2, :4]}, sampler, where)


def test_pure_e_of_the_sphere_is_e_in_cutouts():
    l_max, nside = 120, 64
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(2, hp.Alm.getsize(l_max)))
    alm = parts[0] + 1j * parts[1]
    alm[hp.Alm.getlm(l_max)[0] < 60] = 0
    q, u = hp.alm2map_spin([alm, 0 * alm], nside, 2, l_max)

    def powers(polarisation):
        ones = np.ones(q.size)
        sky = SkyCube.from_maps([ones], 1, ones, ones, polarisation=polarisation)
        sampler = CutoutSampler(sky, SOUTH, GRID, "bilinear")
        cut = sampler.draw(24, torch.Generator().manual_seed(0))
        window = torch.hann_window(N, periodic=False)
        return e_and_b(cut.target[:, 1:] * window * window[:, None]).square().mean((0, 2, 3))

    e, b = powers(np.stack([q, u]))
    assert float(b / e) < 0.05
    e, b = powers(np.stack([q, -u]))  # the other convention makes as much B as E
    assert 0.5 < float(b / e) < 2


def test_noise_of_the_mock_is_that_of_planck():
    gas = mock_gas(32)
    noise = gas.observed_polarisation - gas.polarisation
    assert np.corrcoef(noise)[0, 1] == pytest.approx(0, abs=0.03)
    depth = noise.std() * np.sqrt(hp.nside2pixarea(32, degrees=True)) * 60
    # multipoles beyond 2 Nside are not there
    assert depth == pytest.approx(
        UNRELATED.polarisation_noise * np.sqrt(65**2 / (12 * 32**2)), rel=0.03
    )


def test_spectra_of_e_and_b_on_the_mock_are_those_of_dust(sky):
    """More E than B, and both well above nothing."""
    cut = CutoutSampler(sky, SOUTH, GRID).draw(24, torch.Generator().manual_seed(0))
    e, b = (e_and_b(cut.target[:, 1:])[:, k] for k in range(2))
    assert float(b.square().mean() / e.square().mean()) < 1
    assert float(spectrum_correlation(e, b, BANDS).mean().abs()) < 0.2


def test_gradients_of_a_cutout_do_not_depend_on_those_beside_it():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(2, 3, 64, 64, generator=generator)
    inputs[1] *= 50
    mask = torch.ones(2, 32, 32, dtype=torch.bool)
    mask[:, 20:] = False
    both = gradient_polarisation(inputs, mask)
    torch.testing.assert_close(both[:1], gradient_polarisation(inputs[:1], mask[:1]))
    torch.testing.assert_close(both[1:], 50 * gradient_polarisation(inputs[1:] / 50, mask[1:]))
    empty = torch.stack([inputs[0], torch.zeros_like(inputs[0])])
    assert not gradient_polarisation(empty, mask)[1].any()
