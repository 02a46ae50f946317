"""Cutouts lie where healpy's projector puts them."""

import healpy as hp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foreglow.errors import ShapeError
from foreglow.maps.gnomonic import (
    Grid,
    Pointings,
    cutout_corners,
    cutout_interpolation,
    cutout_pixels,
    cutout_vectors,
    plane_coordinates,
)


def pointings(n, seed=0):
    rng = np.random.default_rng(seed)
    lat = np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    angles = rng.uniform(-180, 360, n), lat, rng.uniform(0, 360, n)
    return Pointings(*(torch.from_numpy(a) for a in angles))


def healpy_cutout(values, pointing, grid, nside, nest):
    rot = [float(t) for t in (pointing.lon_deg, pointing.lat_deg, pointing.rotation_deg)]
    projector = hp.projector.GnomonicProj(rot=rot, xsize=grid.n, reso=grid.pixel_arcmin)
    return projector.projmap(values, lambda *v: hp.vec2pix(nside, *v, nest=nest))


@pytest.mark.parametrize("nest", [True, False])
@pytest.mark.parametrize("grid", [Grid(), Grid(31, 10.0)])
def test_pixels_are_those_of_healpys_projector(grid, nest):
    nside = 512
    where = pointings(20)
    found = cutout_pixels(where, grid, nside, nest).numpy()
    number = np.arange(hp.nside2npix(nside))
    expected = [healpy_cutout(number, where[k : k + 1], grid, nside, nest) for k in range(20)]
    np.testing.assert_array_equal(found, np.stack(expected))


def test_bilinear_is_healpys_interpolation():
    nside, grid, where = 32, Grid(), pointings(5)
    values = np.random.default_rng(0).normal(size=hp.nside2npix(nside))
    pixel, weight = cutout_interpolation(where, grid, nside, True)
    found = (values[pixel.numpy()] * weight.numpy()).sum(-1)
    theta, phi = hp.vec2dir(cutout_vectors(where, grid).numpy().reshape(-1, 3).T)
    expected = hp.get_interp_val(values, theta, phi, nest=True).reshape(found.shape)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_default_grid_is_the_papers():
    grid = Grid()
    assert grid.side_deg == pytest.approx(24.96)
    assert 360 / grid.side_deg == pytest.approx(14.4, abs=0.03)
    # half of the diagonal is the 17.65 deg of the paper, on the plane; on the sky a bit less
    assert grid.side_deg / np.sqrt(2) == pytest.approx(17.65, abs=0.005)
    assert 16.8 < grid.reach_deg < 16.9


@settings(max_examples=50)
@given(st.floats(-720, 720), st.floats(-90, 90), st.floats(-720, 720), st.integers(2, 20))
def test_no_pixel_lies_beyond_the_reach(lon, lat, turn, n):
    grid = Grid(n, 60.0)
    where = Pointings(*(torch.tensor([t], dtype=torch.float64) for t in (lon, lat, turn)))
    vector = cutout_vectors(where, grid)[0].numpy()
    np.testing.assert_allclose(np.linalg.norm(vector, axis=-1), 1, atol=1e-12)
    centre = hp.ang2vec(lon, lat, lonlat=True)
    angle = np.degrees(
        np.arctan2(np.linalg.norm(np.cross(vector, centre), axis=-1), vector @ centre)
    )
    assert angle.max() == pytest.approx(grid.reach_deg, abs=1e-6)


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.floats(-180, 180))
def test_a_turned_sky_gives_the_same_cutout(seed, turn):
    """A turn of the sky about the pole is a shift in longitude of the pointing."""
    where = pointings(2, seed)
    vector = cutout_vectors(where, Grid(8))
    moved = Pointings(where.lon_deg + turn, where.lat_deg, where.rotation_deg)
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    matrix = torch.tensor([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(vector @ matrix.T, cutout_vectors(moved, Grid(8)))


def test_a_quarter_turn_turns_the_image():
    where = pointings(3)
    turned = Pointings(where.lon_deg, where.lat_deg, where.rotation_deg + 90)
    found, expected = cutout_vectors(turned, Grid()), cutout_vectors(where, Grid())
    images = [torch.rot90(expected, k, dims=(1, 2)) for k in (1, 3)]
    assert any(torch.allclose(found, image) for image in images)


def test_pointings_of_unlike_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"expected longitude, latitude and rotation of one shape"):
        Pointings(torch.zeros(2), torch.zeros(3), torch.zeros(2))


@pytest.mark.parametrize("grid", [Grid(), Grid(7, 60.0)])
def test_plane_coordinates_are_the_inverse(grid):
    where = pointings(20)
    vector = cutout_vectors(where, grid).flatten(1, 2)
    row, column = torch.meshgrid(*[torch.arange(grid.n).double()] * 2, indexing="ij")
    expected = torch.stack([row, column], -1).reshape(1, -1, 2).expand(20, -1, -1)
    torch.testing.assert_close(plane_coordinates(vector, where, grid), expected, rtol=0, atol=1e-9)


def test_nothing_lies_behind_the_plane():
    where, grid = pointings(3), Grid()
    behind = -cutout_vectors(where, grid).flatten(1, 2)
    assert bool(plane_coordinates(behind, where, grid).isnan().all())


def test_corners_are_half_a_pixel_beyond_the_corner_pixels():
    grid, where = Grid(16), pointings(5)
    found = plane_coordinates(cutout_corners(where, grid), where, grid)
    corner = [[15.5, -0.5], [-0.5, -0.5], [-0.5, 15.5], [15.5, 15.5]]
    expected = torch.tensor(corner, dtype=torch.float64).expand(5, 4, 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_sides_between_corners_are_great_circles():
    """So a polygon of healpy holds just the pixels of the cutout."""
    nside, grid, where = 32, Grid(), pointings(6, 3)
    every = torch.from_numpy(np.stack(hp.pix2vec(nside, np.arange(hp.nside2npix(nside))), -1))
    for k, corners in enumerate(cutout_corners(where, grid).numpy()):
        place = plane_coordinates(every[None], where[k : k + 1], grid)[0]
        inside = ((place > -0.5) & (place < grid.n - 0.5)).all(-1)
        found = np.sort(hp.query_polygon(nside, corners))
        np.testing.assert_array_equal(found, np.flatnonzero(inside))
