"""A map predicted part by part: bounded, by workers, whatever happens to one of them."""

import os
import signal

import healpy as hp
import numpy as np
import pytest
import torch

from foreglow.dust import stitch
from foreglow.dust.filtered import Filtered, SkyPart, bytes_a_tile, tiles_around
from foreglow.dust.model import DustModel
from foreglow.dust.parts import Job, blend, in_order, make_plan, weights_hash
from foreglow.dust.predict import predict_dust, stitched_members
from foreglow.dust.sky_cube import SkyCube
from foreglow.dust.stitch import centres
from foreglow.errors import MapError
from foreglow.hi_cube.cube import open_cube, write_cube
from foreglow.maps.gnomonic import Grid
from foreglow.maps.write import write_maps
from pieces import where_done

NSIDE = 64
N_PIX = hp.nside2npix(NSIDE)
GRID = Grid(32, 46.8)
VELOCITY = tuple(np.arange(-50.0, 41.0, 10.0))  # two chunks of the cube
FEW = centres(4)
LATITUDE = hp.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)[1]
OPEN = np.abs(LATITUDE) > 20
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def few_cutouts(monkeypatch):
    """A sixteenth of the cutouts: their number is not what is tested."""
    monkeypatch.setattr(stitch, "centres", lambda: FEW)


def channels():
    rng = np.random.default_rng(0)
    fall = 1 / np.arange(1, 66) ** 1.3
    for _ in VELOCITY:
        alm = hp.almxfl(rng.normal(size=hp.Alm.getsize(64)) + 0j, fall)
        yield 10 + hp.alm2map(alm, NSIDE)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model, a cube and a mask; the cube ends between the mask and the Galactic plane."""
    folder = tmp_path_factory.mktemp("parts")
    model = DustModel.untrained("unet", "channels", 2, VELOCITY, GRID, 16, "uK_RJ", (0, 1))
    for k, network in enumerate(model.networks):
        generator = torch.Generator().manual_seed(k)
        with torch.no_grad():
            for values in network.parameters():
                values.add_(0.03 * torch.randn(values.shape, generator=generator))
    model.save(folder / "model")
    maps = [np.where(np.abs(LATITUDE) > 10, m, np.nan) for m in channels()]
    write_cube(folder / "hi.zarr", VELOCITY, maps, NSIDE, 16.2, "made up")
    write_maps(folder / "mask.fits", {"MASK": (OPEN.astype(np.float32), "")}, frame="G")
    return folder


def run(files, out, **options):
    given = {"model": files / "model", "mask": files / "mask.fits", "out": out}
    return predict_dust(files / "hi.zarr", **given, device="cpu", **options)


@pytest.fixture(scope="module")
def here(files, tmp_path_factory):
    """What one process predicts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stitch, "centres", lambda: FEW)
        return run(files, tmp_path_factory.mktemp("here") / "dust.fits")


def assert_same(one, other):
    """But for the last digits: threads share sums in another way, and networks amplify it."""
    for name in ("mean", "std", "cover"):
        expected = getattr(other, name)
        close = 1e-4 * np.sqrt(np.nanmean(np.square(expected)))
        np.testing.assert_allclose(getattr(one, name), expected, rtol=0, atol=close)


@pytest.fixture(scope="module")
def filtered(files, tmp_path_factory):
    """The filtered channels of the cube, three in a file."""
    sky = Filtered(
        tmp_path_factory.mktemp("filtered"), files / "hi.zarr", tuple(range(10)), NSIDE, 460.0, 4, 3
    )
    nested = hp.nest2ring(NSIDE, np.arange(N_PIX))
    sky.write(OPEN[nested], (np.abs(LATITUDE) > 10)[nested])
    return sky


@pytest.fixture(scope="module")
def whole(files, filtered):
    """All of it in memory at once."""
    smoothing, observed = filtered.smoothing, np.abs(LATITUDE) > 10
    keep = OPEN & np.isfinite(smoothing.partial_sky(np.zeros(N_PIX, np.float32), observed))
    maps = smoothing.stream(open_cube(files / "hi.zarr").channels(), observed)
    return SkyCube.from_maps(maps, 10, np.zeros(N_PIX), keep)


def job(files, filtered, memory=1 << 40):
    model = DustModel.load(files / "model")
    return Job(str(files / "model"), weights_hash(model), "cpu", filtered, memory)


def test_files_hold_the_filtered_channels(filtered, whole):
    part = SkyPart(filtered, CPU, 1 << 40)
    sky = part.at(FEW, GRID)
    torch.testing.assert_close(sky.inputs, whole.inputs, rtol=0, atol=0)
    torch.testing.assert_close(sky.target, whole.target, rtol=0, atol=0)
    part.close()


def test_only_what_cutouts_see_is_in_memory(filtered, whole):
    where = in_order(FEW)
    most = max(len(tiles_around(NSIDE, where[k : k + 1], GRID)) for k in range(len(where)))
    part = SkyPart(filtered, CPU, most * bytes_a_tile(NSIDE, 10))
    size = N_PIX // 3072
    let_go = 0
    for k in range(0, len(where), 8):
        before = part.sky.target[:, 1].count_nonzero()
        sky = part.at(where[k : k + 1], GRID)
        let_go += int(sky.target[:, 1].count_nonzero() < before)
        tiles = tiles_around(NSIDE, where[k : k + 1], GRID)
        for tile in tiles:
            rows = slice(tile * size, (tile + 1) * size)
            assert torch.equal(sky.inputs[rows], whole.inputs[rows])
        assert sky.target[:, 1].count_nonzero() <= most * size
    assert let_go > 3
    part.close()


def test_the_map_is_that_of_the_sky_in_memory(files, filtered, whole):
    model = DustModel.load(files / "model")
    expected = stitched_members(model, whole, FEW)
    found = blend(job(files, filtered), in_order(FEW), 16)
    np.testing.assert_allclose(found.members, expected.members, rtol=1e-5)
    np.testing.assert_allclose(found.cover, expected.cover, rtol=1e-5, atol=1e-6)


def test_a_small_memory_changes_nothing(files, filtered):
    where = in_order(FEW)
    least = max(len(tiles_around(NSIDE, where[k : k + 4], GRID)) for k in range(0, 192, 4))
    small = job(files, filtered, least * bytes_a_tile(NSIDE, 10))
    np.testing.assert_array_equal(
        blend(small, where, 4).members, blend(job(files, filtered), where, 4).members
    )


def test_the_plan_keeps_to_the_memory(files):
    model = DustModel.load(files / "model")
    where = in_order(centres(4))
    plans = [make_plan(model, 1024, where, n << 30, CPU) for n in (8, 2)]
    assert [plan.channels_at_a_time for plan in plans] == [8, 8]
    assert plans[0].sky_bytes > plans[1].sky_bytes > 0
    wide = make_plan(model, 2048, where, 4 << 30, CPU)
    most = max(len(tiles_around(2048, where[k : k + 16], GRID)) for k in range(0, 192, 16))
    spare = wide.sky_bytes - most * bytes_a_tile(2048, 10)
    assert spare > 0
    assert make_plan(model, 2048, where, (4 << 30) - spare - 1, CPU).batch < wide.batch == 16
    with pytest.raises(MapError, match=r"a map of Nside 2048, .* got 2.00 GiB; give more memory="):
        make_plan(model, 2048, where, 2 << 30, CPU)


def test_workers_predict_the_same(files, here, pool, tmp_path):
    seen = []
    out = tmp_path / "dust.fits"
    found = run(files, out, pool=pool, progress=lambda *a: seen.append(a))
    assert_same(found, here)
    assert seen == [(n, 192) for n in range(16, 193, 16)]
    assert list(tmp_path.iterdir()) == [out]


def test_a_lost_worker_costs_time_only(files, here, map_fn, pool, tmp_path):
    victim = next(map_fn(where_done, [0]))

    def lose(done, _):
        if done == 64:
            os.kill(victim, signal.SIGKILL)

    assert_same(run(files, tmp_path / "dust.fits", pool=pool, progress=lose), here)


def test_an_interrupted_run_leaves_nothing(files, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(files, tmp_path / "dust.fits", progress=stop)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("memory", "message"), [("much", "memory as"), ("1 MiB", "got 1.00 MiB")])
def test_memory_that_does_not_suffice(files, tmp_path, memory, message):
    with pytest.raises(MapError, match=message):
        run(files, tmp_path / "dust.fits", memory=memory)
    assert not list(tmp_path.iterdir())
