"""Q and U between the sphere and cutouts: there and back, turned, mirrored, E that stays E."""

import healpy as hp
import numpy as np
import pytest
import torch

from foreglow.maps.gnomonic import Grid, Pointings, cutout_interpolation, cutout_vectors
from foreglow.maps.spin2 import in_cutouts, on_the_sphere, polarisation_maps, polarisation_tensors

NSIDE = 32
N_PIX = hp.nside2npix(NSIDE)
GRID = Grid(16, 93.6)
VECTOR = torch.from_numpy(np.stack(hp.pix2vec(NSIDE, np.arange(N_PIX)), 1))


def pointings(lon, lat, rotation):
    return Pointings(*(torch.tensor(a, dtype=torch.float64) for a in (lon, lat, rotation)))


# at both poles, across the plane and the zero of longitude
WHERE = pointings([0.0, 200, 359, 77], [90.0, -88, 2, 40], [0.0, 31, 200, -75])


def turned(where, degrees):
    return Pointings(where.lon_deg, where.lat_deg, where.rotation_deg + degrees)


def random_polarisation(n=N_PIX):
    return torch.randn(2, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def cutouts_of(qu, where, nside=NSIDE, grid=GRID):
    """Q and U (batch, 2, n, n) in cutouts of maps, bilinear."""
    vector = torch.from_numpy(np.stack(hp.pix2vec(nside, np.arange(hp.nside2npix(nside))), 1))
    tensors = polarisation_tensors(*torch.as_tensor(qu), vector)
    pixel, weight = cutout_interpolation(where, grid, nside, nest=False)
    blended = (tensors[pixel] * weight.unsqueeze(-1)).sum(-2)
    return in_cutouts(blended, where, cutout_vectors(where, grid))


def test_tensors_and_back():
    qu = random_polarisation()
    tensors = polarisation_tensors(*qu, VECTOR)
    torch.testing.assert_close(polarisation_maps(tensors, VECTOR), qu)
    xx, _, _, yy, _, zz = tensors.T
    torch.testing.assert_close(xx + yy + zz, torch.zeros(len(VECTOR), dtype=torch.float64))
    torch.testing.assert_close((tensors**2 @ torch.tensor([1.0, 2, 2, 1, 2, 1]).double()) / 2,
                               (qu**2).sum(0))  # fmt: skip


def test_into_cutouts_and_back_to_the_sphere():
    vector = cutout_vectors(WHERE, GRID)
    flat = vector.flatten(1, 2)
    qu = random_polarisation(flat.shape[0] * flat.shape[1])
    tensors = polarisation_tensors(*qu, flat.flatten(0, 1)).view(*vector.shape[:3], 6)
    inside = in_cutouts(tensors, WHERE, vector).flatten(2)
    found = on_the_sphere(inside[:, 0], inside[:, 1], WHERE, flat)
    torch.testing.assert_close(torch.stack(found).flatten(1), qu)


def test_at_the_middle_of_a_cutout_angles_are_those_of_healpix():
    """Down is south and left is east, where the cutout is not turned."""
    where, vector = WHERE[2:], cutout_vectors(WHERE[2:], Grid(1, 60.0))
    qu = random_polarisation(2)
    tensors = polarisation_tensors(*qu, vector.view(-1, 3)).view(2, 1, 1, 6)
    straight = in_cutouts(tensors, turned(where, -where.rotation_deg), vector)[:, :, 0, 0]
    torch.testing.assert_close(straight.T, qu)


@pytest.mark.parametrize(("degrees", "factor"), [(90, -1), (180, 1), (45, -1j), (30, None)])
def test_a_turned_cutout_turns_q_and_u(degrees, factor):
    """P' = P exp(-2 i alpha), alpha from south towards east, which is how `rot` turns the axes."""
    vector = cutout_vectors(WHERE, GRID)
    tensors = polarisation_tensors(*random_polarisation(4 * 256), vector.view(-1, 3))
    tensors = tensors.view(4, 16, 16, 6)
    straight, other = (
        torch.complex(*in_cutouts(tensors, where, vector).unbind(1))
        for where in (WHERE, turned(WHERE, degrees))
    )
    expected = np.exp(-2j * np.radians(degrees)) if factor is None else factor
    torch.testing.assert_close(other, straight * expected)


def test_a_cutout_turned_by_a_quarter_is_the_image_turned_by_a_quarter():
    qu = random_polarisation()
    straight, other = cutouts_of(qu, WHERE), cutouts_of(qu, turned(WHERE, 90))
    torch.testing.assert_close(torch.rot90(other, 1, (2, 3)), -straight)


def test_a_mirrored_sky_flips_u():
    q, u = random_polarisation()
    lon, lat = hp.pix2ang(NSIDE, np.arange(len(q)), lonlat=True)
    mirrored = hp.ang2pix(NSIDE, -lon, lat, lonlat=True)
    there = cutouts_of(torch.stack([q[mirrored], -u[mirrored]]),
                       Pointings(-WHERE.lon_deg, WHERE.lat_deg, -WHERE.rotation_deg))  # fmt: skip
    here = cutouts_of(torch.stack([q, u]), WHERE).flip(3)
    torch.testing.assert_close(there[:, 0], here[:, 0])
    torch.testing.assert_close(there[:, 1], -here[:, 1])


def e_and_b(qu):
    """Power of E and B in flat cutouts (batch, 2, n, n), with cosine edges."""
    n = qu.shape[-1]
    edge = np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2
    mode = np.fft.fftfreq(n)
    phi = np.arctan2(*np.meshgrid(mode, mode))  # of columns over rows
    q, u = (np.fft.fft2(part * np.outer(edge, edge)) for part in qu.numpy().swapaxes(0, 1))
    turn_cos, turn_sin = np.cos(2 * phi), np.sin(2 * phi)
    e, b = q * turn_cos + u * turn_sin, u * turn_cos - q * turn_sin
    return [float((np.abs(part) ** 2).sum()) for part in (e, b)]


@pytest.mark.parametrize("pure", ["E", "B"])
def test_a_sky_of_e_alone_has_no_b_in_cutouts(pure):
    """But for a few per cent, which the edges of cutouts make of it."""
    nside, l_max = 128, 160
    rng, size = np.random.default_rng(0), hp.Alm.getsize(160)
    ell, m = hp.Alm.getlm(l_max)
    alm = np.where(ell >= 80, rng.normal(size=size) + 1j * rng.normal(size=size) * (m > 0), 0)
    alms = [alm, 0 * alm] if pure == "E" else [0 * alm, alm]
    qu = hp.alm2map_spin(alms, nside, 2, l_max)
    e, b = e_and_b(cutouts_of(np.stack(qu), WHERE, nside, Grid()))
    wrong = b / e if pure == "E" else e / b
    assert wrong < 0.03
