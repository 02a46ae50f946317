"""Directions of real gas: gradients beside the Rolling Hough Transform. No validation of either.

Both look at the same gas, so that they agree says nothing of the dust. What is tested is that signs
and frames of the two are one on real maps, and what the small GASS cube cannot tell.
"""

import healpy as hp
import numpy as np
import pytest
import torch
from astropy.io import fits

from foreglow.dust.cutouts import CutoutSampler, SkyCube
from foreglow.dust.hough import hough_polarisation
from foreglow.dust.orientation import gradient_polarisation
from foreglow.maps.gnomonic import Grid
from foreglow.maps.hemispheres import REGIONS

GRID = Grid(32, 46.8)  # for pixels of 55 arcmin, as those of the columns
LINES = {"window_arcmin": 288.0, "smoothing_radius_arcmin": 60.0}
AVERAGE_ARCMIN = 12 * GRID.pixel_arcmin  # as gradients are


@pytest.fixture(scope="module")
def columns(real_data):
    """HI4PI, in 1e20 cm^-2, the dust not looked at."""
    folder = real_data / "nhi64"
    column, mask = (
        hp.read_map(folder / f"{name}_nside64.fits").astype(np.float32)
        for name in ("nhi_hi4pi", "mask_fsky0.7")
    )
    return SkyCube.from_maps([column / 1e20], 1, np.ones_like(column), mask > 0)


@pytest.mark.parametrize(("half", "measured"), [("north", 0.68), ("south", 0.59)])
def test_gradients_point_where_lines_do(columns, half, measured):
    sampler = CutoutSampler(columns, REGIONS[half], GRID, "bilinear", max_masked=0.3)
    cut = sampler.at(sampler.fixed_pointings(40))
    lines = hough_polarisation(cut.inputs, GRID, cut.mask, average_arcmin=AVERAGE_ARCMIN, **LINES)
    gradients = gradient_polarisation(cut.inputs, cut.mask)
    seen = cut.mask & (lines.abs().sum(1) > 0)
    seen[:, :5] = seen[:, -5:] = seen[:, :, :5] = seen[:, :, -5:] = False
    assert measured - 0.05 < aligned(lines, gradients, seen) < measured + 0.05
    assert abs(aligned(lines, gradients.roll(1, 0), seen)) < 0.15  # those of another cutout


def aligned(one, other, seen):
    """Mean cos 2 (angle between the directions)."""
    size = (one.square().sum(1) * other.square().sum(1)).sqrt()
    return float(((one * other).sum(1) / size.clamp(min=1e-20))[seen & (size > 0)].mean())


@pytest.mark.parametrize(("window", "radius"), [(75.0, 15.0), (30.0, 10.0)])
def test_the_gass_cube_is_too_small_for_a_line(real_data, window, radius):
    """13 pixels of 4.8 arcmin: a line and the disc around its end leave it everywhere."""
    planes = torch.from_numpy(fits.getdata(real_data / "hi" / "gass_295_-41.fits.gz").astype("f4"))
    gas = planes[520:620].clamp(min=0).sum(0)[None, None]
    assert gas.shape[-2:] == (13, 13)
    found = hough_polarisation(
        gas, Grid(13, 4.8), window_arcmin=window, smoothing_radius_arcmin=radius
    )
    assert not found.any()
