import healpy as hp
import numpy as np
import pytest

from foreglow.errors import ShapeError
from foreglow.maps.regions import layout
from foreglow.recognition.context.limits import (
    _left_probability,
    boundary_oracle,
    distance_to_boundary,
)


def test_distance_of_halves():
    label = layout("halves", 16, 2)
    distance = distance_to_boundary(label)
    longitude, latitude = hp.pix2ang(16, np.arange(3072), lonlat=True)
    # the nearest of the planes through the meridians 0 and 180
    expected = np.degrees(
        np.arcsin(np.abs(np.cos(np.radians(latitude)) * np.sin(np.radians(longitude))))
    )
    assert np.abs(distance - expected).max() < np.degrees(hp.nside2resol(16)) * 1.5


def test_one_class_has_no_boundary():
    assert np.isinf(distance_to_boundary(np.zeros(48, int))).all()


@pytest.mark.parametrize("ring_by_ring", [True, False])
@pytest.mark.parametrize(("kind", "n_class"), [("halves", 2), ("quadrants", 4)])
def test_pixels_that_know_leave_nothing_to_guess(kind, n_class, ring_by_ring):
    label = (layout(kind, 16, n_class) + 1) % n_class
    said = np.where(np.arange(n_class)[:, None] == label, 0.0, -30.0)
    assert boundary_oracle(said, label, ring_by_ring).all()


def test_pixels_that_know_nothing_put_the_boundary_in_the_middle():
    label = layout("halves", 16, 2)
    # where all cuts are alike, a pixel goes to the side of the nearer centre
    assert boundary_oracle(np.zeros((2, 3072)), label, False).mean() > 0.95


def test_a_meridian_is_easier_than_rings_of_their_own():
    label = layout("halves", 16, 2)
    rng = np.random.default_rng(0)
    ratio = np.where(label == 0, 1, -1) * 0.1 + rng.normal(0, np.sqrt(0.2), 3072)
    said = np.stack([ratio / 2, -ratio / 2])
    # a boundary away from the middle between the centres is what must be found
    alone, rings, meridian = (
        np.mean(x)
        for x in (
            (said.argmax(0) == label),
            boundary_oracle(said, label, True),
            boundary_oracle(said, label, False),
        )
    )
    assert alone < rings < meridian


def test_long_sums_keep_their_digits():
    """Pixels that are sure of one side, then of the other, and in the middle of neither."""
    sure = np.full(5000, 40.1, np.float32)
    ratio = np.concatenate([sure, np.float32([0.3]), -sure])
    # of 200,000 a float32 keeps a hundredth
    found = _left_probability(ratio)[len(sure)]
    assert found == pytest.approx(1 / (1 + np.exp(-0.3)), rel=1e-6)


def test_other_layouts_are_refused():
    with pytest.raises(ShapeError, match="equal sectors of longitude"):
        boundary_oracle(np.zeros((2, 3072)), np.zeros(3072, int), True)
