"""Blending cutouts: what goes in comes out, without steps, whatever the mask."""

import healpy as hp
import numpy as np
import pytest
import torch

from foreglow.dust.evaluate import integrated_predictor
from foreglow.dust.sky_cube import SkyCube
from foreglow.dust.stitch import (
    Stitched,
    _continued,
    _interpolate,
    _spline_tables,
    _window,
    centres,
    stitch,
    target_maps,
)
from foreglow.errors import ShapeError
from foreglow.maps.gnomonic import Grid, cutout_vectors
from foreglow.maps.spin2 import carried

NSIDE = 64
N_PIX = hp.nside2npix(NSIDE)
GRID = Grid(32, 46.8)  # the paper's cutouts in coarser pixels
L_MAX = 60
FEW = centres(4)


def smooth_map(seed=0, l_max=L_MAX):
    """A band-limited map whose power falls as that of dust."""
    rng = np.random.default_rng(seed)
    size = hp.Alm.getsize(l_max)
    alm = hp.almxfl(rng.normal(size=size) + 0j, 1 / np.arange(1, l_max + 2) ** 1.3)
    values = hp.alm2map(alm, NSIDE)
    return values / values.std()


def cap(lowest_deg):
    return hp.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)[1] > lowest_deg


def sky_of(values, mask=None):
    mask = np.ones(N_PIX) if mask is None else mask
    return SkyCube.from_maps([values], 1, np.zeros(N_PIX), mask)


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


def test_a_flat_sky_stays_flat():
    found = stitch(integrated_predictor, sky_of(np.full(N_PIX, 7.0)), GRID, FEW)
    np.testing.assert_allclose(found.mean, 7, rtol=1e-5)
    assert found.cover.min() > 0.1


def test_the_full_sky_is_covered_by_default():
    found = stitch(integrated_predictor, sky_of(np.ones(N_PIX)), GRID, centres(8))
    assert found.cover.min() > 1
    np.testing.assert_allclose(found.mean, 1, rtol=1e-5)


def test_the_integrated_map_comes_back():
    """To the jitter of nearest pixels, or the smoothing of bilinear ones, which is all."""
    values = smooth_map()
    for method, tolerance in (("nearest", 0.05), ("bilinear", 0.05)):
        found = stitch(integrated_predictor, sky_of(values), GRID, FEW, method)
        assert rms(found.mean - values) < tolerance, method


def test_exact_cutouts_come_back_to_a_hundredth():
    """Cutouts of a map that is known between its pixels: what is left is the splines' own error."""
    alm = hp.map2alm(smooth_map(), lmax=L_MAX, iter=3)

    def exact(cutouts):
        vector = cutout_vectors(cutouts.pointings, GRID).numpy()
        theta, phi = np.arccos(vector[..., 2]), np.arctan2(vector[..., 1], vector[..., 0])
        fine = hp.alm2map(alm, 1024)
        return torch.from_numpy(hp.get_interp_val(fine, theta, phi)).float()

    mask = cap(60)
    found = stitch(exact, sky_of(np.zeros(N_PIX), mask), GRID, FEW)
    expected, inner = hp.alm2map(alm, NSIDE), cap(70)  # at its edge the sky is only continued
    assert rms((found.mean - expected)[inner]) < 0.001 * rms(expected[inner])


def test_splines_pass_through_the_pixels():
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    tables = _spline_tables(images)
    row, column = torch.meshgrid(*[torch.arange(8).double()] * 2, indexing="ij")
    place = torch.stack([row, column], -1).reshape(-1, 2)
    for k in range(3):
        found = _interpolate(tables[k], place, 8)
        torch.testing.assert_close(found.T.reshape(2, 8, 8), images[:, k], rtol=1e-4, atol=1e-5)


def test_splines_keep_amplitude_where_straight_lines_would_not():
    """A wave of the paper's ell 200: 4.6 pixels long."""
    wave = torch.cos(torch.arange(64) * 2 * np.pi / 4.62).expand(64, 64)
    rows = torch.linspace(20, 40, 400, dtype=torch.float64)
    place = torch.stack([torch.full_like(rows, 30.3), rows], -1)
    found = _interpolate(_spline_tables(wave[None, None])[0], place, 64)[:, 0]
    expected = torch.cos(rows * 2 * np.pi / 4.62)
    assert rms(found.numpy() - expected.numpy()) < 0.02


def test_weights_vanish_at_the_sides():
    n = GRID.n
    edge = torch.tensor([[-0.5, 10.0], [n - 0.5, 3.0], [4.0, -0.5], [5.0, n - 0.5]])
    torch.testing.assert_close(_window(edge, n), torch.zeros(4), rtol=0, atol=1e-9)
    middle = torch.full((1, 2), 0.5 * (n - 1))
    torch.testing.assert_close(_window(middle, n), torch.ones(1))


def test_no_step_where_a_cutout_ends():
    """Each cutout says another number: between pixels half as wide the blend changes half as much.

    Where a cutout began with a step, the largest changes would stay as they are.
    """

    def number(cutouts):
        return (cutouts.pointings.rotation_deg % 1).float()[:, None, None].expand(-1, 32, 32)

    largest = []
    for nside in (NSIDE, 2 * NSIDE):
        n_pix = hp.nside2npix(nside)
        sky = SkyCube.from_maps([np.ones(n_pix)], 1, np.zeros(n_pix), np.ones(n_pix))
        found = stitch(number, sky, GRID, FEW).mean
        neighbours = hp.get_all_neighbours(nside, np.arange(n_pix))
        changes = np.abs(np.where(neighbours >= 0, found[neighbours] - found, 0)).max(0)
        largest.append(np.quantile(changes, [0.5, 0.9, 0.999, 1]))
    ratio = largest[0] / largest[1]
    assert (ratio > 1.7).all(), ratio


def test_masked_sky_is_nan_and_does_not_leak():
    """A flat sky stays flat up to its edge, though zeros lie beyond it."""
    mask = cap(30)
    found = stitch(integrated_predictor, sky_of(np.where(mask, 7.0, np.nan), mask), GRID, FEW)
    np.testing.assert_array_equal(np.isfinite(found.mean), mask)
    np.testing.assert_allclose(found.mean[mask], 7, rtol=1e-4)
    assert not found.cover[~mask].any()


def test_a_lone_patch_is_predicted_too():
    """Every cutout that holds it is emptier than any of the training."""
    mask = np.zeros(N_PIX, bool)
    mask[hp.query_disc(NSIDE, hp.ang2vec(40, 10, lonlat=True), np.radians(3))] = True
    found = stitch(integrated_predictor, sky_of(mask * 5.0, mask), GRID, FEW)
    np.testing.assert_allclose(found.mean[mask], 5, rtol=1e-4)
    assert found.cover.max() < 0.1


def test_a_sky_without_footprint_is_all_nan():
    found = stitch(integrated_predictor, sky_of(np.ones(N_PIX), np.zeros(N_PIX)), GRID, FEW)
    assert np.isnan(found.mean).all()


def test_members_are_blended_one_by_one():
    values, mask = smooth_map(), cap(50)

    def three(cutouts):
        return torch.stack([k * cutouts.inputs.sum(1) for k in (1, 2, 3)])

    found = stitch(three, sky_of(values, mask), GRID, FEW)
    assert found.members.shape == (3, N_PIX)
    np.testing.assert_allclose(found.members[2][mask], 3 * found.members[0][mask], rtol=1e-4)
    np.testing.assert_allclose(found.mean[mask], found.members[1][mask], rtol=1e-4)
    np.testing.assert_allclose(
        found.scatter[mask], np.abs(found.members[0][mask]), rtol=1e-3, atol=1e-5
    )
    one = Stitched(found.members[:1], found.cover)
    assert not one.scatter[mask].any()


def test_a_turned_sky_gives_the_turned_map():
    """A quarter turn about the pole moves pixels onto pixels, and centres onto centres."""
    mask = cap(40)
    lon, lat = hp.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)
    before = hp.ang2pix(NSIDE, lon - 90, lat, lonlat=True)
    values = smooth_map()
    straight = stitch(integrated_predictor, sky_of(values, mask), GRID, centres(4))
    turned = stitch(integrated_predictor, sky_of(values[before], mask), GRID, centres(4, 90.0))
    np.testing.assert_allclose(turned.mean[mask], straight.mean[before][mask], atol=1e-4)


def test_batches_do_not_matter():
    mask, values, seen = cap(60), smooth_map(), []
    one = stitch(integrated_predictor, sky_of(values, mask), GRID, FEW, batch=7)
    other = stitch(
        integrated_predictor, sky_of(values, mask), GRID, FEW, batch=64,
        progress=lambda *a: seen.append(a),
    )  # fmt: skip
    np.testing.assert_allclose(one.mean[mask], other.mean[mask], rtol=1e-4, atol=1e-5)
    assert seen == [(64, 192), (128, 192), (192, 192)]


def test_the_sky_goes_on_under_the_mask():
    images = torch.arange(16.0).expand(1, 1, 16, 16).clone()
    mask = torch.ones(1, 16, 16, dtype=torch.bool)
    mask[:, :, 10:] = False
    images[..., 10:] = 1e6
    found = _continued(images, mask)
    torch.testing.assert_close(found[..., :10], images[..., :10])
    assert 6 < float(found[..., 10:16].min()) <= float(found[..., 10:16].max()) < 10


def test_neighbouring_centres_are_turned_by_different_angles():
    where = centres(8)
    assert len(where) == 768
    turns = torch.remainder(where.rotation_deg, 90)
    assert len(np.unique(np.round(turns.numpy(), 3))) == 768
    with pytest.raises(ValueError, match="expected an Nside, got -1"):
        centres(-1)


LATITUDE = hp.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)[1]


def polarised_sky(iqu, mask=None):
    mask = np.ones(N_PIX) if mask is None else mask
    return SkyCube.from_maps([iqu[0]], 1, iqu[0], mask, polarisation=iqu[1:])


def the_target(cutouts):
    return cutouts.target


def constant(axis, other):
    """Q and U (2, ...) along two axes (..., 3) of a tensor that is the same in all of space."""
    tensor = np.array([[1.0, 0.4, -0.3], [0.4, -0.2, 0.9], [-0.3, 0.9, -0.8]])

    def component(a, b):
        return np.einsum("...i,ij,...j", a, tensor, b)

    return np.stack([(component(axis, axis) - component(other, other)) / 2, component(axis, other)])


def test_a_constant_tensor_comes_back_everywhere():
    """Cutouts know it between pixels: what is left is the splines' own error, at the poles too."""
    phi = hp.pix2ang(NSIDE, np.arange(N_PIX))[1]
    east = np.stack([-np.sin(phi), np.cos(phi), 0 * phi], -1)
    south = np.cross(east, np.stack(hp.pix2vec(NSIDE, np.arange(N_PIX)), -1))

    def exact(cutouts):
        vector = cutout_vectors(cutouts.pointings, GRID)
        down, left = (a.numpy() for a in carried(cutouts.pointings, vector.flatten(1, 2)))
        qu = constant(down, left).reshape(2, *vector.shape[:3])
        return torch.from_numpy(np.stack([np.ones_like(qu[0]), *qu], 1))

    sky = polarised_sky(np.ones((3, N_PIX)))
    found = stitch(exact, sky, GRID, FEW, polarised=True)
    assert found.members.shape == (1, 3, N_PIX)
    expected = constant(south, east)
    assert np.abs(found.mean[1:] - expected).max() < 0.002 * rms(expected)
    np.testing.assert_allclose(found.mean[0], 1, rtol=1e-5)


def test_skies_of_e_and_b_come_back_without_seams():
    """Through bilinear cutouts and back: within a hundredth of the rms, pole, plane and all."""
    rng, l_max = np.random.default_rng(0), 10
    ell = np.arange(l_max + 1)
    alm = [rng.normal(size=hp.Alm.getsize(l_max)) + 0j for _ in "TEB"]
    iqu = np.stack(hp.alm2map([hp.almxfl(a, (ell > 1) / (ell + 1)) for a in alm], NSIDE))
    sky = polarised_sky(iqu)
    np.testing.assert_allclose(target_maps(sky), iqu, atol=1e-6)
    found = stitch(the_target, sky, GRID, FEW, polarised=True).mean - iqu
    plane, poles = np.abs(LATITUDE) < 10, np.abs(LATITUDE) > 85
    for error, expected in zip(found, iqu, strict=True):
        for where in (plane, poles, slice(None)):
            assert rms(error[where]) < 0.01 * rms(expected)
        assert np.abs(error).max() < 0.05 * rms(expected)  # no step at any side


def test_polarised_members_are_blended_one_by_one_within_their_mask():
    """Beyond the mask lies nothing: a constant tensor goes on to its edge."""
    mask = cap(50)
    theta, phi = hp.pix2ang(NSIDE, np.arange(N_PIX))
    iqu = np.where(mask, [np.full(N_PIX, 3.0), np.sin(theta) ** 2, 0 * phi], np.nan)

    def three(cutouts):
        return torch.stack([k * cutouts.target for k in (1, 2, 3)])

    found = stitch(three, polarised_sky(iqu, mask), GRID, FEW, polarised=True)
    assert found.members.shape == (3, 3, N_PIX)
    np.testing.assert_array_equal(np.isfinite(found.members), np.broadcast_to(mask, (3, 3, N_PIX)))
    np.testing.assert_allclose(found.members[0][:, mask], iqu[:, mask], atol=0.01)
    for k in (1, 2):
        expected = (k + 1) * found.members[0][:, mask]
        np.testing.assert_allclose(found.members[k][:, mask], expected, rtol=1e-4, atol=1e-5)
    assert found.mean.shape == found.scatter.shape == (3, N_PIX)
    nothing = stitch(three, polarised_sky(iqu, 0 * mask), GRID, FEW, polarised=True)
    assert nothing.mean.shape == (3, N_PIX)
    assert np.isnan(nothing.mean).all()


@pytest.mark.parametrize(
    ("predict", "polarised"), [(integrated_predictor, True), (the_target, False)]
)
def test_predictions_of_another_shape(predict, polarised):
    sky = polarised_sky(np.ones((3, N_PIX)))
    with pytest.raises(ShapeError, match=r"expected predictions of shape \(16, .* got \(16, "):
        stitch(predict, sky, GRID, FEW, polarised=polarised)
