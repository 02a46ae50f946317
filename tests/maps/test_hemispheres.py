"""Halves of the sky: where centres lie, and proof that no training pixel is a test pixel."""

from dataclasses import replace
from functools import cache

import healpy as hp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foreglow.errors import MapError
from foreglow.maps.gnomonic import Grid, Pointings, cutout_interpolation, cutout_pixels
from foreglow.maps.hemispheres import EAST, METHODS, NORTH, SOUTH, SPLITS, WEST, reached, split

REGIONS = (NORTH, SOUTH, EAST, WEST)
WEDGES = (
    replace(NORTH, longitudes_deg=(330.0, 384.0)),
    replace(SOUTH, longitudes_deg=(100.0, 250.0)),
    replace(EAST, longitudes_deg=(255.0, 280.0)),
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pixels_read(where, grid, nside, method):
    """RING numbers of all the pixels that cutouts read."""
    if method == "nearest":
        return np.unique(cutout_pixels(where, grid, nside, nest=False).numpy())
    pixel, weight = cutout_interpolation(where, grid, nside, nest=False)
    return np.unique(pixel[weight > 1e-12].numpy())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("nside", [128, 512, pytest.param(1024, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SPLITS)
def test_no_training_pixel_is_a_test_pixel(name, nside, method):
    """With `test_reached_holds_every_pixel_read`: disjoint supersets have disjoint subsets."""
    train, test = split(name, Grid(), nside, method)
    both = [reached(region, Grid(), nside, method) for region in (train, test)]
    assert not (both[0] & both[1]).any()
    assert min(map(np.mean, both)) > 0.45


@settings(max_examples=60)
@given(
    st.sampled_from(REGIONS),
    st.sampled_from(METHODS),
    st.sampled_from([16, 64, 256]),
    st.integers(0, 2**31),
    st.floats(0, 360),
)
def test_reached_holds_every_pixel_read(region, method, nside, seed, turn):
    """Centres on the very edge of the region, corners turned every way, coarse pixels too."""
    where = on_the_edge(region, seed, turn)
    read = pixels_read(where, Grid(), nside, method)
    assert reached_once(region, nside, method)[read].all()


@settings(max_examples=15)
@given(
    st.sampled_from(WEDGES),
    st.sampled_from(METHODS),
    st.sampled_from([16, 64, 256]),
    st.integers(0, 2**31),
)
def test_reached_holds_every_pixel_that_a_wedge_reads(wedge, method, nside, seed):
    """Centres all over it, some close to its edges; and it is far less than the whole region."""
    where = wedge.draw(60, generator(seed))
    assert wedge.holds(where).all()
    touched = reached_once(wedge, nside, method)
    assert touched[pixels_read(where, Grid(), nside, method)].all()
    assert touched.mean() < 0.45


def test_a_wedge_holds_what_lies_between_its_longitudes():
    where = NORTH.draw(2000, generator())
    lon = where.lon_deg.numpy()
    assert (WEDGES[0].holds(where).numpy() == ((lon > 330) | (lon < 24))).all()


@cache
def reached_once(region, nside, method):
    return reached(region, Grid(), nside, method)


def on_the_edge(region, seed, turn):
    """Twenty centres as near to the great circle as the region allows, a corner towards it."""
    rng = np.random.default_rng(seed)
    axis = np.array(region.axis)
    along = np.linalg.qr(np.column_stack([axis, np.eye(3)]))[0][:, 1:3]
    angle = rng.uniform(0, 2 * np.pi, 20)
    flat = np.cos(angle)[:, None] * along[:, 0] + np.sin(angle)[:, None] * along[:, 1]
    edge = np.radians(region.distance_deg)
    centre = np.sin(edge) * axis + np.cos(edge) * flat
    lon, lat = hp.vec2dir(centre.T, lonlat=True)
    turns = np.where(np.arange(20) % 2, 45.0, turn)  # 45: a corner points to the equator
    return Pointings(*(torch.from_numpy(a) for a in (lon, lat, turns)))


@pytest.mark.parametrize("name", SPLITS)
def test_drawn_cutouts_share_no_pixel(name):
    """The plain experiment beside the proof, at the Nside of the real maps in the tests."""
    train, test = split(name, Grid(), 64, "nearest")
    read = [pixels_read(r.draw(400, generator(1)), Grid(), 64, "nearest") for r in (train, test)]
    assert not np.intersect1d(*read).size
    assert min(map(len, read)) > 0.4 * hp.nside2npix(64)


@pytest.mark.parametrize("region", REGIONS, ids=lambda r: r.name)
def test_centres_are_uniform_in_the_region(region):
    where = region.draw(20_000, generator())
    assert len(where) == 20_000
    assert bool(region.holds(where).all())
    assert float(where.lat_deg.abs().min()) > 17.65
    sin_lat = np.sin(np.radians(where.lat_deg.numpy()))
    if region in (NORTH, SOUTH):
        assert bool((np.sign(sin_lat) == region.axis[2]).all())
        least = np.sin(np.radians(17.65))
        assert abs(np.abs(sin_lat).mean() - (1 + least) / 2) < 0.005
    else:
        lon = where.lon_deg.numpy()
        inside = (lon > 198) & (lon < 342) if region is EAST else (lon > 18) & (lon < 162)
        assert inside.all()
        assert abs(sin_lat.mean()) < 0.02
    counts, _ = np.histogram(where.rotation_deg.numpy(), bins=12, range=(0, 360))
    assert counts.min() > 0.9 * 20_000 / 12


def test_the_buffer_is_an_angle_on_the_sky():
    """At 60 degrees of latitude a longitude of 18 is 9 degrees from the meridian: too near."""
    ones = torch.ones(2, dtype=torch.float64)
    where = Pointings(torch.tensor([20.0, 45.0], dtype=torch.float64), 60 * ones, 0 * ones)
    assert WEST.holds(where).tolist() == [False, True]
    assert EAST.holds(where).tolist() == [False, False]


def test_draws_follow_their_generator():
    first, again, other = (SOUTH.draw(50, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first.lon_deg, again.lon_deg)
    assert not torch.equal(first.lon_deg, other.lon_deg)


def test_a_split_of_coarse_maps_is_refused():
    with pytest.raises(MapError, match=r"got 128 pixels of Nside 32 that cutouts of 24\.96 deg"):
        split("north_south", Grid(), 32, "nearest")
    with pytest.raises(MapError, match=r"touch from both sides; use maps of a higher Nside"):
        split("east_west", Grid(128, 23.4), 512, "nearest")


def test_an_unknown_split_is_refused():
    with pytest.raises(MapError, match=r"expected a split north_south, east_west, got 'up'"):
        split("up", Grid(), 512, "nearest")
