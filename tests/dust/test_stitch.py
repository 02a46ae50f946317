"""Blending cutouts: what goes in comes out, without steps, whatever the mask."""

import healpy as hp
import numpy as np
import pytest
import torch

from foreglow.dust.cutouts import SkyCube
from foreglow.dust.evaluate import integrated_predictor
from foreglow.dust.stitch import (
    Stitched,
    _continued,
    _interpolate,
    _spline_tables,
    _window,
    centres,
    stitch,
)
from foreglow.maps.gnomonic import Grid, cutout_vectors

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
