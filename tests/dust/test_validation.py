"""The wedge that is kept out of a training: no pixel of it is read there."""

import healpy as hp
import numpy as np
import pytest
import torch

from foreglow.dust.cutouts import CutoutSampler
from foreglow.dust.sky_cube import SkyCube
from foreglow.dust.validation import hold_out, is_overfitted
from foreglow.maps.conventions import MapWarning
from foreglow.maps.gnomonic import Grid, cutout_interpolation, cutout_pixels
from foreglow.maps.hemispheres import EAST, NORTH, SOUTH, WEST

NSIDE = 128  # of the scale smoke
N_PIX = hp.nside2npix(NSIDE)
LAT = hp.pix2ang(NSIDE, np.arange(N_PIX), nest=True, lonlat=True)[1]
GRID = Grid()


def make_sampler(region, seen=None, method="nearest"):
    target = torch.from_numpy(np.tile(np.abs(LAT) > 15 if seen is None else seen, (2, 1)).T)
    return CutoutSampler(SkyCube(torch.ones(N_PIX, 1), target.float()), region, GRID, method)


def pixels_read(sampler, where):
    """Numbers of the open pixels that cutouts read, each once."""
    if sampler.method == "nearest":
        pixel = cutout_pixels(where, sampler.grid, NSIDE, nest=True)
    else:
        pixel = cutout_interpolation(where, sampler.grid, NSIDE, nest=True)[0]
    pixel = np.unique(pixel.numpy())
    return pixel[sampler.sky.target[pixel, 1].numpy() > 0]


@pytest.mark.parametrize(
    ("region", "method"),
    [(NORTH, "nearest"), (SOUTH, "bilinear"), (EAST, "bilinear"), (WEST, "nearest")],
)
def test_no_training_cutout_shares_a_pixel_with_a_validation_cutout(region, method):
    sampler = make_sampler(region, method=method)
    training, validation = hold_out(sampler)
    generator = torch.Generator().manual_seed(0)
    seen = pixels_read(training, training.draw_pointings(80, generator))
    judged = pixels_read(validation, validation.draw_pointings(80, generator))
    assert len(np.intersect1d(seen, judged)) == 0
    assert min(len(seen), len(judged)) > 0.05 * N_PIX
    # not even where a mask hides it from the validation
    wedge = cutout_pixels(validation.fixed_pointings(150), GRID, NSIDE, nest=True).unique()
    assert not training.sky.target[wedge].any()
    assert training.sky.inputs is sampler.sky.inputs
    assert float(sampler.sky.target[:, 1].mean()) > 0.7  # the sky itself is as it was


@pytest.mark.parametrize("region", [NORTH, SOUTH, EAST, WEST])
def test_the_wedge_has_its_share_of_the_centres(region):
    sampler = make_sampler(region)
    wedge = hold_out(sampler)[1].region
    centres = sampler.fixed_pointings(1000, 1)
    assert float(wedge.holds(centres).double().mean()) == pytest.approx(0.15, abs=0.03)
    low, high = wedge.longitudes_deg
    assert wedge.name == f"{region.name}, longitudes {low:g} to {high % 360:g}"
    assert 0 < high - low < 180
    assert wedge == hold_out(make_sampler(region))[1].region


def test_it_lies_in_what_is_observed():
    lon = hp.pix2ang(NSIDE, np.arange(N_PIX), nest=True, lonlat=True)[0]
    sampler = make_sampler(NORTH, (lon > 180) & (LAT > 10))
    training, validation = hold_out(sampler)
    assert validation.fixed_pointings(20).lon_deg.min() > 150
    assert len(training.draw_pointings(20, torch.Generator().manual_seed(0))) == 20


def test_too_little_sky():
    near = np.zeros(N_PIX)
    near[hp.query_disc(NSIDE, hp.dir2vec(120, 50, lonlat=True), np.radians(20), nest=True)] = 1
    sampler = make_sampler(NORTH, near)
    with pytest.warns(MapWarning, match="got too little sky in the north: validation is by the"):
        assert hold_out(sampler) == (sampler, sampler)


@pytest.mark.parametrize(
    ("training", "validation", "expected"),
    [
        ([0.85, 0.90, 0.93], [0.84, 0.87, 0.86], True),
        ([0.85, 0.90, 0.93], [0.84, 0.86, 0.87], False),  # still rising
        ([0.85, 0.86, 0.88], [0.84, 0.87, 0.86], False),  # no gap
    ],
)
def test_a_gap_that_has_opened(training, validation, expected):
    assert is_overfitted(np.array(training), np.array(validation)) is expected
