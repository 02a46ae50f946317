"""Cutouts: the same pixels as healpy's, masks, dropping, generators and devices."""

import healpy as hp
import numpy as np
import pytest
import torch

from foreglow.dust.cutouts import CutoutSampler
from foreglow.dust.sky_cube import SkyCube
from foreglow.errors import MapError, ShapeError
from foreglow.maps.gnomonic import Grid, Pointings
from foreglow.maps.hemispheres import EAST, METHODS, NORTH, SOUTH, Region, split

NSIDE = 64
N_PIX = hp.nside2npix(NSIDE)
EVERYWHERE = Region("sky", (0.0, 0.0, 1.0), -90.0, -1.0)


def maps(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, N_PIX)).astype(np.float32)


def plane_mask(width_deg=20.0):
    latitude = hp.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)[1]
    return (np.abs(latitude) > width_deg).astype(float)


@pytest.fixture(scope="module")
def sky():
    return SkyCube.from_maps(maps(20), 20, maps(1, 1)[0], plane_mask())


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def projected(values, where, grid):
    """Cutouts by healpy's projector."""
    images = []
    for k in range(len(where)):
        rot = [float(t[k]) for t in (where.lon_deg, where.lat_deg, where.rotation_deg)]
        projector = hp.projector.GnomonicProj(rot=rot, xsize=grid.n, reso=grid.pixel_arcmin)
        images.append(projector.projmap(values, lambda *v: hp.vec2pix(NSIDE, *v)))
    return np.stack(images)


@pytest.mark.parametrize("nest", [True, False])
def test_nearest_cutouts_are_healpys_pixel_by_pixel(nest):
    channels, target, mask = maps(20), maps(1, 1)[0], plane_mask()
    stored = [hp.reorder(m, r2n=True) if nest else m for m in (*channels, target, mask)]
    sky = SkyCube.from_maps(stored[:20], 20, stored[20], stored[21], nest=nest)
    cut = CutoutSampler(sky, EAST).draw(4, generator())
    for k in (0, 15, 16, 19):
        expected = projected(channels[k] * mask, cut.pointings, Grid())
        np.testing.assert_array_equal(cut.inputs[:, k].numpy(), expected)
    expected = projected(target * mask, cut.pointings, Grid())
    np.testing.assert_array_equal(cut.target.numpy(), expected)
    np.testing.assert_array_equal(cut.mask.numpy(), projected(mask, cut.pointings, Grid()) > 0)


def test_bilinear_without_a_mask_is_healpys_interpolation():
    values = maps(1)[0]
    sky = SkyCube.from_maps([values, values**2], 2, values, np.ones(N_PIX))
    grid = Grid(16, 60.0)
    cut = CutoutSampler(sky, NORTH, grid, "bilinear").draw(20, generator())
    for k in range(20):
        rot = [float(t[k]) for t in vars(cut.pointings).values()]
        projector = hp.projector.GnomonicProj(rot=rot, xsize=grid.n, reso=grid.pixel_arcmin)
        vector = np.stack(projector.xy2vec(*projector.ij2xy()))
        theta, phi = np.arctan2(np.hypot(*vector[:2]), vector[2]), np.arctan2(vector[1], vector[0])
        expected = hp.get_interp_val(values, theta.ravel(), phi.ravel()).reshape(16, 16)
        np.testing.assert_allclose(cut.inputs[k, 0], expected, atol=1e-5)
        np.testing.assert_allclose(cut.target[k], expected, atol=1e-5)
    assert bool(cut.mask.all())


def test_bilinear_means_are_over_the_pixels_that_count():
    """A flat sky stays flat up to the mask, whatever lies beyond it."""
    flat = np.where(plane_mask() > 0, 7.0, np.nan)
    sky = SkyCube.from_maps([flat], 1, flat, plane_mask())
    cut = CutoutSampler(sky, NORTH, method="bilinear").draw(30, generator())
    assert 0.02 < float((~cut.mask).float().mean()) < 0.5
    for values in (cut.inputs[:, 0], cut.target):
        torch.testing.assert_close(values, 7.0 * cut.mask, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("method", METHODS)
def test_masked_is_zero_and_shapes_are_as_stated(sky, method):
    cut = CutoutSampler(sky, SOUTH, Grid(32, 46.8), method).draw(5, generator())
    assert cut.inputs.shape == (5, 20, 32, 32)
    assert cut.inputs.is_contiguous(memory_format=torch.channels_last)
    assert cut.target.shape == cut.mask.shape == (5, 32, 32)
    assert len(cut) == len(cut.pointings) == 5
    masked = ~cut.mask
    assert bool(masked.any())
    assert not cut.target[masked].any()
    assert not cut.inputs.permute(0, 2, 3, 1)[masked].any()


@pytest.mark.parametrize("method", METHODS)
def test_a_draw_can_be_repeated_at_its_pointings(sky, method):
    sampler = CutoutSampler(sky, NORTH, method=method)
    cut = sampler.draw(7, generator(5))
    again = sampler.at(cut.pointings)
    torch.testing.assert_close(again.inputs, cut.inputs)
    assert torch.equal(again.target, cut.target)
    parts = list(sampler.batches(cut.pointings, 3))
    assert [len(p) for p in parts] == [3, 3, 1]
    torch.testing.assert_close(torch.cat([p.inputs for p in parts]), cut.inputs)


@pytest.mark.parametrize("method", METHODS)
def test_room_is_used_again(sky, method):
    sampler = CutoutSampler(sky, NORTH, method=method)
    room = sampler.room(10)
    first = sampler.draw(10, generator(1), out=room)
    kept = first.inputs.clone()
    torch.testing.assert_close(kept, sampler.draw(10, generator(1)).inputs)
    second = sampler.draw(10, generator(2), out=room)
    assert first.inputs.data_ptr() == second.inputs.data_ptr() == room.data_ptr()
    torch.testing.assert_close(second.inputs, sampler.at(second.pointings).inputs)
    with pytest.raises(ShapeError, match=r"expected room for inputs of shape \(9, 64, 64, 20\)"):
        sampler.draw(9, generator(), out=room)


def test_same_seed_same_cutouts(sky):
    sampler = CutoutSampler(sky, NORTH)
    first, again, other = (sampler.draw(3, generator(s)) for s in (1, 1, 2))
    assert torch.equal(first.inputs, again.inputs)
    assert not torch.equal(first.inputs, other.inputs)
    assert torch.equal(sampler.draw_pointings(3, generator(1)).lon_deg, first.pointings.lon_deg)


def test_drawing_leaves_the_global_generator_alone(sky):
    before = torch.get_rng_state()
    CutoutSampler(sky, NORTH).draw(3, generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_test_set_is_fixed(sky):
    """These pointings are what every published number of the test set refers to."""
    where = CutoutSampler(sky, SOUTH).fixed_pointings()
    again = CutoutSampler(sky, SOUTH).fixed_pointings()
    assert len(where) == 1000
    for name in ("lon_deg", "lat_deg", "rotation_deg"):
        assert torch.equal(getattr(where, name), getattr(again, name))
    found = [float(t[0]) for t in vars(where).values()]
    assert found == pytest.approx(FIRST_POINTING, abs=1e-9)
    other = CutoutSampler(sky, SOUTH).fixed_pointings(seed=1)
    assert not torch.equal(other.lon_deg, where.lon_deg)


FIRST_POINTING = [51.4850617820392, -49.12531692894363, 18.597200802245162]


def test_more_than_seventy_per_cent_masked_is_dropped():
    mask = plane_mask(28.0)
    sky = SkyCube.from_maps(maps(1), 1, maps(1)[0], mask)
    keeps_all = CutoutSampler(sky, NORTH, max_masked=1.0)
    some = keeps_all.draw_pointings(400, generator())
    masked = (~keeps_all.at(some).mask).float().mean((1, 2))
    assert bool((masked > 0.7).any())
    kept = CutoutSampler(sky, NORTH).draw_pointings(400, generator())
    left = (~keeps_all.at(kept).mask).float().mean((1, 2))
    assert float(left.max()) <= 0.7


def test_training_and_test_cutouts_read_different_pixels():
    """Number the pixels, draw both sets, compare what was read."""
    number = np.arange(1, N_PIX + 1, dtype=np.float32)
    sky = SkyCube.from_maps([number], 1, number, np.ones(N_PIX))
    for name in ("north_south", "east_west"):
        regions = split(name, Grid(), NSIDE, "nearest")
        read = [
            np.unique(CutoutSampler(sky, region).draw(200, generator(k)).target.numpy())
            for k, region in enumerate(regions)
        ]
        assert not np.intersect1d(*read).size


def test_a_mask_that_leaves_nothing_is_refused():
    mask = np.zeros(N_PIX)
    mask[0] = 1
    sky = SkyCube.from_maps(maps(1), 1, maps(1)[0], mask)
    with pytest.raises(
        MapError, match=r"in the south of which at most 70% is masked, found 0 of 2"
    ):
        CutoutSampler(sky, SOUTH).draw(2, generator())


def test_values_under_the_mask_are_never_read():
    values = maps(1)[0]
    dirty = np.where(plane_mask() > 0, values, np.nan)
    sky = SkyCube.from_maps([dirty], 1, dirty, plane_mask())
    cut = CutoutSampler(sky, NORTH).draw(3, generator())
    assert bool(torch.isfinite(cut.inputs).all())


def test_column_densities_of_half_precision_are_cast():
    sky = SkyCube.from_maps(maps(1).astype(np.float16), 1, maps(1)[0] * 1e20, np.ones(N_PIX))
    assert sky.inputs.dtype == torch.float32
    assert float(sky.target.abs().max()) > 1e20


class TestBadMaps:
    def test_of_another_nside(self):
        with pytest.raises(ShapeError, match=r"expected channel 1 on the pixels of the mask"):
            SkyCube.from_maps([maps(1)[0], np.zeros(12)], 2, maps(1)[0], plane_mask())
        with pytest.raises(ShapeError, match=r"expected the target on the pixels of the mask"):
            SkyCube.from_maps(maps(1), 1, np.zeros(12), plane_mask())

    @pytest.mark.parametrize("n", [1, 17, 40])
    def test_too_few_or_many_channels(self, n):
        with pytest.raises(ShapeError, match=rf"expected {n} channels, got 20; correct n_channel"):
            SkyCube.from_maps(maps(20), n, maps(1)[0], plane_mask())

    def test_not_finite(self):
        values = maps(1)
        values[0, 0] = np.nan
        with pytest.raises(MapError, match=r"finite values of channel 0 where the mask .* got 1"):
            SkyCube.from_maps(values, 1, maps(1, 1)[0], plane_mask())

    def test_no_healpix(self):
        with pytest.raises(MapError, match=r"expected a HEALPix mask of shape \(n_pix,\)"):
            SkyCube.from_maps(maps(1), 1, maps(1)[0], np.ones(100))

    def test_no_power_of_two(self):
        with pytest.raises(MapError, match=r"an Nside that is a power of two, .* got 3; bring"):
            SkyCube.from_maps([np.zeros(108)], 1, np.zeros(108), np.ones(108))

    def test_unknown_method(self, sky):
        with pytest.raises(MapError, match="expected a method nearest, bilinear, got 'cubic'"):
            CutoutSampler(sky, NORTH, method="cubic")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a graphics card")
@pytest.mark.parametrize("method", METHODS)
def test_a_graphics_card_gives_the_same_cutouts(sky, method):
    cut = CutoutSampler(sky, NORTH, method=method).draw(8, generator())
    device = torch.device("cuda")
    other = CutoutSampler(sky.to(device), NORTH, method=method).draw(8, generator())
    assert other.inputs.device.type == "cuda"
    torch.testing.assert_close(other.inputs.cpu(), cut.inputs)
    torch.testing.assert_close(other.target.cpu(), cut.target)
    assert torch.equal(other.mask.cpu(), cut.mask)


def test_pointings_anywhere(sky):
    """Poles and the date line too."""
    where = [[0.0, 180, 360, -10, 90], [90.0, -90, 0, 89.9, -45], [0.0, 10, 20, 30, 40]]
    pointings = Pointings(*(torch.tensor(t, dtype=torch.float64) for t in where))
    cut = CutoutSampler(sky, EVERYWHERE).at(pointings)
    expected = projected(maps(1, 1)[0] * plane_mask(), pointings, Grid())
    np.testing.assert_array_equal(cut.target.numpy(), expected)
