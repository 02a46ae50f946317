"""Gas in a uniform field, whose direction is known."""

import healpy as hp
import numpy as np
import pytest

from foreglow.dust.mean_field import mean_field
from foreglow.errors import ShapeError

NSIDE = 16
VECTOR = np.stack(hp.pix2vec(NSIDE, np.arange(hp.nside2npix(NSIDE))), 1)


def uniform(direction):
    """Q and U of grains across a uniform field, by the angle on the sky."""
    theta, phi = hp.vec2ang(VECTOR)
    south = np.stack([np.cos(theta) * np.cos(phi), np.cos(theta) * np.sin(phi), -np.sin(theta)], 1)
    east = np.stack([-np.sin(phi), np.cos(phi), 0 * phi], 1)
    a, b = south @ direction, east @ direction
    return -np.stack([a**2 - b**2, 2 * a * b])


@pytest.mark.parametrize("direction", [(1.0, 0, 0), (0.6, 0.0, 0.8), (0.48, 0.64, 0.6)])
def test_a_uniform_field_is_found_everywhere_from_a_part_of_the_sky(direction):
    column = np.random.default_rng(0).gamma(2, size=len(VECTOR))
    dust = 3 * column * uniform(np.array(direction))
    north = VECTOR[:, 2] > 0.3
    found = mean_field(column, np.where(north, dust, np.nan), north)
    np.testing.assert_allclose(found, dust, atol=1e-4 * abs(dust).max())


def test_what_is_not_observed_stays_so():
    column = np.ones(len(VECTOR))
    column[5] = np.nan
    found = mean_field(column, uniform(np.array([1.0, 0, 0])), np.arange(len(VECTOR)) > 100)
    assert np.isnan(found[:, 5]).all()
    assert np.isfinite(np.delete(found, 5, 1)).all()


def test_maps_of_other_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"expected a column \(n_pix,\), Q and U \(2, n_pix\)"):
        mean_field(np.ones(48), np.ones((3, 48)), np.ones(48, bool))
