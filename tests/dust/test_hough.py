"""Filaments of known angle and brightness, turned, mirrored, crossed and cut by masks."""

import math
import re

import pytest
import torch

from foreglow.dust.hough import (
    _lines,
    hough_polarisation,
)
from foreglow.errors import ShapeError
from foreglow.maps.gnomonic import Grid

N = 48
GRID = Grid(N, 10.0)


def hough(inputs, grid=GRID, mask=None):
    return hough_polarisation(inputs, grid, mask)


def averaged(inputs, grid=GRID, mask=None):
    return hough_polarisation(inputs, grid, mask, average_arcmin=60)


METHODS = pytest.mark.parametrize("method", [hough, averaged])


def filament(angle_deg, n=N, width=1.3, row=0.0, column=0.0):
    """A ridge through the middle, or past it, at an angle from rising row to rising column."""
    offset = torch.arange(n) - 0.5 * (n - 1)
    angle = math.radians(angle_deg)
    across = (offset - column) * math.cos(angle) - (offset.unsqueeze(1) - row) * math.sin(angle)
    return torch.exp(-0.5 * (across / width) ** 2)


def noise(*shape, seed=0):
    """Maps of a red spectrum, positive."""
    white = torch.randn(*shape, N, N, generator=torch.Generator().manual_seed(seed))
    k = torch.fft.fftfreq(N, 1 / N)
    modes = torch.fft.fft2(white) / (1 + torch.hypot(k.unsqueeze(1), k)) ** 1.3
    maps = torch.fft.ifft2(modes).real
    return (maps / maps.std()).exp()


def angle_deg(made, at=N // 2):
    q, u = made[0, :, at, at]
    return math.degrees(0.5 * math.atan2(u, q))


def apart_deg(a, b):
    return abs((a - b + 90) % 180 - 90)


@METHODS
@pytest.mark.parametrize("angle", [0, 17, 30, 45, 60, 90, 118, 135, 163])
def test_polarisation_is_across_a_filament(method, angle):
    made = method(filament(angle)[None, None])
    # lines of 7 pixels are 11 degrees apart
    assert apart_deg(angle_deg(made), angle + 90) < (6 if method in (hough, averaged) else 3)
    assert made[0, :, N // 2, N // 2].norm() > 0.05


@pytest.mark.parametrize("angle", [0, 7, 17, 30, 45, 101])
def test_a_finer_grid_gives_a_finer_angle(angle):
    made = hough(filament(angle, width=2.5)[None, None], Grid(N, 4.0))
    assert apart_deg(angle_deg(made), angle + 90) < 1.5


def test_strength_is_the_brightness_of_the_filament():
    one = hough(filament(90)[None, None])
    assert one[0, 0, N // 2, N // 2] == pytest.approx(0.86, abs=0.1)
    torch.testing.assert_close(hough(3 * filament(90)[None, None]), 3 * one)


@METHODS
def test_a_quarter_turn_changes_both_signs(method):
    inputs = noise(2, 3)
    turned = method(torch.rot90(inputs, 1, (2, 3)))
    made = method(inputs)
    assert made.std() > 0
    torch.testing.assert_close(turned, -torch.rot90(made, 1, (2, 3)), rtol=1e-3, atol=1e-4)


@METHODS
@pytest.mark.parametrize("axis", [2, 3])
def test_a_mirror_changes_the_sign_of_u(method, axis):
    inputs = noise(2, 3)
    sign = torch.tensor([1.0, -1.0]).view(2, 1, 1)
    mirrored = sign * method(inputs).flip(axis)
    torch.testing.assert_close(method(inputs.flip(axis)), mirrored, rtol=1e-3, atol=1e-4)


@METHODS
def test_crossing_filaments_weigh_by_brightness(method):
    """Filaments of 0 and 90 degrees, in channels of their own: Q is the difference."""
    first, second = filament(0), filament(90)
    middle = slice(N // 2 - 1, N // 2 + 1)  # around the crossing

    def q(a, b):
        made = method(torch.stack([a * first, b * second])[None])
        return float(made[0, 0, middle, middle].mean())

    assert abs(q(1, 1)) < 0.02 * abs(q(0, 1))
    assert q(1, 3) == pytest.approx(q(0, 2), rel=0.02)
    assert q(3, 1) == pytest.approx(-q(0, 2), rel=0.02)


@METHODS
@pytest.mark.parametrize("level", [0.0, 1.0, 0.1, -0.3, 1e4])
def test_a_flat_map_gives_nothing(method, level):
    made = method(torch.full((2, 3, N, N), level))
    assert torch.equal(made, torch.zeros(2, 2, N, N))


@METHODS
def test_a_mask_leaves_no_trace_of_its_edge(method):
    """A bright flat map with a hole; beyond the hole, what lies in it changes nothing."""
    mask = torch.ones(1, N, N, dtype=torch.bool)
    mask[0, 10:25, 5:30] = False
    flat = torch.where(mask.unsqueeze(1), 7.0, torch.nan)
    assert torch.equal(method(flat, mask=mask), torch.zeros(1, 2, N, N))
    inputs = noise(1, 2)
    other = torch.where(mask.unsqueeze(1), inputs, 1e3)
    made = method(inputs, mask=mask)
    assert torch.equal(made, method(other, mask=mask))
    assert not made[:, :, ~mask[0]].any()
    assert made[:, :, 35:40, 20:28].norm(dim=1).mean() > 0.01


@METHODS
def test_far_from_a_mask_it_changes_nothing(method):
    mask = torch.ones(1, N, N, dtype=torch.bool)
    mask[0, :4, :4] = False
    inputs = noise(1, 2)
    far = (..., slice(25, N), slice(25, N))
    torch.testing.assert_close(method(inputs, mask=mask)[far], method(inputs)[far])


@METHODS
def test_float32_and_one_cutout_or_many(method):
    inputs = noise(5, 3)
    made = method(inputs)
    assert made.dtype == torch.float32
    assert made.shape == (5, 2, N, N)
    one_by_one = torch.cat([method(part) for part in inputs.split(1)])
    torch.testing.assert_close(made, one_by_one, rtol=1e-4, atol=1e-5)
    assert method(inputs.double()).dtype == torch.float64


@METHODS
def test_one_channel_will_do(method):
    assert method(noise(2, 1)).shape == (2, 2, N, N)


def test_lines_are_of_one_pixel_a_step_and_turn_into_themselves():
    lines = _lines(3.5)
    assert lines.shape[0] % 2 == 0
    turned = torch.rot90(lines, 1, (1, 2)).roll(lines.shape[0] // 2, 0)
    assert torch.equal(lines, turned)
    assert torch.equal(lines, lines.flip(1, 2))
    along_rows = torch.zeros(7, 7, dtype=torch.float64)
    along_rows[:, 3] = 1
    assert torch.equal(lines[0], along_rows)


def test_a_coarse_grid_is_refused_with_one_that_will_do():
    expected = (
        "expected pixels of at most 12.5 arcmin, for a window of 75 and a smoothing radius of 15 "
        "arcmin, got 23.4; draw cutouts on Grid(n=128, pixel_arcmin=11.7), from maps as fine, or "
        "use gradient_polarisation"
    )
    with pytest.raises(ShapeError, match="^" + re.escape(expected) + "$"):
        hough_polarisation(torch.zeros(1, 2, 64, 64), Grid())
    hough_polarisation(
        torch.zeros(1, 2, 64, 64), Grid(), window_arcmin=150, smoothing_radius_arcmin=30
    )


@METHODS
def test_shapes_that_do_not_agree(method):
    with pytest.raises(
        ShapeError, match=r"expected inputs \(batch, channel, 48, 48\), got \(2, 48"
    ):
        method(torch.zeros(2, N, N))
    with pytest.raises(ShapeError, match=r"expected a mask \(2, 48, 48\) as inputs have it"):
        method(torch.zeros(2, 1, N, N), mask=torch.ones(1, N, N, dtype=torch.bool))


def test_an_average_reaches_edges_and_shares_the_angle_of_what_is_around():
    """Noise over filaments of one angle: beside the edge too, the average has their angle."""
    offset = torch.arange(float(N))
    stripes = (2 * math.pi / 9 * (0.8 * offset.unsqueeze(1) - 0.6 * offset)).sin()
    inputs = (3 + stripes + 0.1 * noise(1)[0]).expand(1, 1, N, N).contiguous()
    plain = hough(inputs)
    made = hough_polarisation(inputs, GRID, average_arcmin=150)
    assert not plain[:, :, 0].any()
    angle = math.degrees(math.atan2(0.8, 0.6))  # of the stripes from rising row
    chi = torch.rad2deg(0.5 * torch.atan2(made[0, 1], made[0, 0]))
    away = ((chi - angle - 90 + 90) % 180 - 90).abs()
    assert away.max() < 12
    assert away.mean() < 5
