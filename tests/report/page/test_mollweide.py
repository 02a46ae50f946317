import healpy as hp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreglow.errors import ShapeError
from foreglow.report.page.mollweide import lonlat_to_xy, mollweide_pixels, nside_of, xy_to_lonlat


@pytest.mark.parametrize(
    ("lon", "lat", "x", "y"),
    [
        (0, 0, 0, 0),
        (90, 0, -1, 0),  # longitude grows to the left
        (270, 0, 1, 0),
        (180, 0, -2, 0),
        (-179.9999, 0, 2, 0),
        (0, 90, 0, 1),
        (123, -90, 0, -1),
    ],
)
def test_lonlat_to_xy_at_known_places(lon, lat, x, y):
    np.testing.assert_allclose(lonlat_to_xy(lon, lat), (x, y), atol=1e-5)


@given(st.floats(-179, 179), st.floats(-85, 85))
def test_projection_there_and_back(lon, lat):
    np.testing.assert_allclose(xy_to_lonlat(*lonlat_to_xy(lon, lat)), (lon, lat), atol=2e-3)


def test_projection_agrees_with_healpy():
    projector = hp.projector.MollweideProj()
    lon, lat = np.array([10.0, -100.0, 170.0]), np.array([-50.0, 20.0, 75.0])
    np.testing.assert_allclose(
        lonlat_to_xy(lon, lat), projector.ang2xy(lon, lat, lonlat=True), atol=1e-4
    )


def test_image_shows_the_pixel_that_lies_there():
    nside = 64
    lon, lat = hp.pix2ang(nside, np.arange(12 * nside**2), lonlat=True)
    pixels = mollweide_pixels(nside, 800)
    assert pixels.shape == (400, 800)
    # a quarter from the left on the equator is longitude 90 degrees
    assert abs(lon[pixels[200, 200]] - 90) < 1.5
    assert abs(lon[pixels[200, 600]] - 270) < 1.5
    # rows start in the south
    assert lat[pixels[2, 400]] < -75
    assert lat[pixels[397, 400]] > 75


def test_image_is_equal_area():
    pixels = mollweide_pixels(1, 800)
    x = (np.arange(800) + 0.5) / 200 - 2
    y = (np.arange(400) + 0.5) / 200 - 1
    inside = (x[None, :] / 2) ** 2 + y[:, None] ** 2 < 1
    counts = np.bincount(pixels[inside], minlength=12)
    np.testing.assert_allclose(counts / counts.sum(), 1 / 12, rtol=0.02)


@pytest.mark.parametrize("n_pixel", [0, 11, 13, 24])
def test_nside_of_refuses_what_is_not_a_full_map(n_pixel):
    with pytest.raises(ShapeError, match=rf"Expected a full HEALPix map .* got {n_pixel} pixels"):
        nside_of(n_pixel)


def test_nside_of_full_map():
    assert nside_of(3072) == 16
