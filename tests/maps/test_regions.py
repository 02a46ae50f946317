"""Layouts of classes on the sky."""

import healpy as hp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreglow.errors import MapError
from foreglow.maps.regions import distance_to, equal_parts, layout


@settings(max_examples=15)
@given(
    kind=st.sampled_from(["quadrants", "blobs", "single:0"]),
    nside=st.sampled_from([4, 8, 16]),
    n_class=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_pixel_has_one_of_the_classes(kind, nside, n_class, seed):
    classes = layout(kind, nside, n_class, seed)
    assert classes.shape == (hp.nside2npix(nside),)
    assert classes.dtype == np.int64
    assert set(np.unique(classes)) == set(range(1 if kind == "single:0" else n_class))
    np.testing.assert_array_equal(classes, layout(kind, nside, n_class, seed))


def test_halves_split_galactic_longitude():
    nside = 8
    longitude, latitude = hp.pix2ang(nside, np.arange(hp.nside2npix(nside)), lonlat=True)
    classes = layout("halves", nside, 2)
    np.testing.assert_array_equal(classes, longitude >= 180)
    counts = [np.unique(latitude[classes == k], return_counts=True)[1] for k in (0, 1)]
    np.testing.assert_array_equal(*counts)


@pytest.mark.parametrize("n_class", [2, 3, 4])
def test_quadrants_are_equal_sectors(n_class):
    nside = 16
    longitude, _ = hp.pix2ang(nside, np.arange(hp.nside2npix(nside)), lonlat=True)
    classes = layout("quadrants", nside, n_class)
    for k in range(n_class):
        inside = longitude[classes == k]
        assert inside.min() >= 360 / n_class * k
        assert inside.max() < 360 / n_class * (k + 1)


@pytest.mark.parametrize("n_class", [2, 4, 6])
@pytest.mark.parametrize("scale_deg", [10.0, 30.0, 90.0])
def test_blobs_share_the_sky_about_equally(n_class, scale_deg):
    classes = layout("blobs", 32, n_class, seed=5, scale_deg=scale_deg)
    area = np.bincount(classes, minlength=n_class) / classes.size * n_class
    np.testing.assert_allclose(area, 1, atol=0.1)


def edge_fraction(nside, scale_deg):
    classes = layout("blobs", nside, 4, seed=0, scale_deg=scale_deg)
    neighbours = hp.get_all_neighbours(nside, np.arange(classes.size))
    return (classes[neighbours[0]] != classes).mean()


def test_blobs_grow_with_the_scale():
    assert edge_fraction(32, 15.0) > 1.5 * edge_fraction(32, 30.0) > 2 * edge_fraction(32, 90.0)


def test_blobs_are_the_same_at_every_nside():
    coarse, fine = (layout("blobs", nside, 4, seed=2) for nside in (16, 64))
    theta, phi = hp.pix2ang(16, np.arange(coarse.size))
    assert (fine[hp.ang2pix(64, theta, phi)] == coarse).mean() > 0.9


def test_blobs_differ_by_seed():
    assert (layout("blobs", 16, 2, seed=0) != layout("blobs", 16, 2, seed=1)).mean() > 0.2


def test_single_is_one_class_everywhere():
    assert (layout("single:2", 4, 3) == 2).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("stripes", 4, 2), "expected a layout halves, quadrants, blobs, single:K, got 'stripes'"),
        (("single:", 4, 2), "got 'single:'"),
        (("single:2", 4, 2), "a class from 0 to 1, got 'single:2'"),
        (("halves", 4, 3), "'halves' holds 2 classes, got 3; use"),
        (("quadrants", 0, 2), "a positive integer Nside, got 0"),
        (("quadrants", 4.0, 2), "a positive integer Nside, got 4.0"),
        (("quadrants", 4, 0), "at least one class, got 0"),
        (("blobs", 4, 2, 0, 2.0), r"from one pixel \(14.7 deg at Nside 4\) to 180 deg, got 2.0"),
        (("blobs", 4, 2, 0, np.nan), "got nan"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(MapError, match=message):
        layout(*call)


def test_near_distances_are_those_of_all():
    inside = np.zeros(12 * 16**2, bool)
    inside[[5, 700]] = True
    every, near = distance_to(inside), distance_to(inside, 0.3)
    np.testing.assert_array_equal(near[every < 0.3], every[every < 0.3])
    assert np.isinf(near[every > 0.31]).all()


def test_equal_parts_are_equal_and_compact():
    latitude = hp.pix2ang(32, np.arange(12 * 32**2), lonlat=True)[1]
    weight = np.clip(latitude - 20, 0, 30.0)
    label = equal_parts(weight, 3)
    np.testing.assert_array_equal(label == -1, weight == 0)
    share = np.bincount(label[label >= 0], weights=weight[label >= 0]) / weight.sum()
    np.testing.assert_allclose(share, 1 / 8, atol=2e-3)
    for part in range(8):
        centre = hp.pix2vec(32, np.flatnonzero(label == part))
        assert np.linalg.norm(np.mean(centre, axis=1)) > 0.9
