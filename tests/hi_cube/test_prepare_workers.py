"""Cubes prepared by workers: the same bytes as here, whatever happens to a worker."""

import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from foreglow.errors import MapError
from foreglow.hi_cube.cube import open_cube
from foreglow.hi_cube.prepare import prepare
from foreglow.maps.write import write_maps
from hi_cubes import hi4pi_header, smooth_data, write_fits
from pieces import where_done

pytestmark = [
    pytest.mark.filterwarnings("ignore:Nside .* do not sample a beam"),
]

SHAPE = (44, 46, 91)


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    path = tmp_path_factory.mktemp("survey") / "CAR.fits"
    return write_fits(path, smooth_data(SHAPE, 4.0), hi4pi_header(SHAPE, 4.0))


@pytest.fixture(scope="module")
def here(survey, tmp_path_factory):
    """The bytes of the cube that one process makes."""
    return files_of(prepare([survey], tmp_path_factory.mktemp("here") / "c.zarr", nside=64).path)


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_bytes(survey, here, pool, tmp_path):
    seen = []
    made = prepare(
        [survey],
        tmp_path / "c.zarr",
        nside=64,
        progress=lambda *a: seen.append(a),
        pool=pool,
    )
    assert files_of(made.path) == here
    assert seen == [(n, 44) for n in (8, 16, 24, 32, 40, 44)]
    assert list(tmp_path.iterdir()) == [made.path]


def test_relative_names(survey, here, pool, tmp_path, monkeypatch):
    """Workers are in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "CAR.fits").symlink_to(survey)
    assert files_of(prepare(["CAR.fits"], "c.zarr", nside=64, pool=pool).path) == here


def test_a_lost_worker_costs_time_only(survey, here, map_fn, pool, tmp_path):
    victim = next(map_fn(where_done, [0]))

    def lose(done, _):
        if done == 16:
            os.kill(victim, signal.SIGKILL)

    made = prepare([survey], tmp_path / "c.zarr", nside=64, progress=lose, pool=pool)
    assert files_of(made.path) == here


def test_interrupted_with_workers_and_resumed_without(survey, here, pool, tmp_path):
    def stop(done, _):
        if done == 24:
            raise KeyboardInterrupt

    out = tmp_path / "c.zarr"
    with pytest.raises(KeyboardInterrupt):
        prepare([survey], out, nside=64, progress=stop, pool=pool)
    assert not out.exists()
    assert files_of(prepare([survey], out, nside=64, resume=True).path) == here


def test_what_is_wrong_with_a_channel_is_told(pool, tmp_path):
    data = smooth_data(SHAPE, 4.0)
    data[20] = np.nan
    path = write_fits(tmp_path / "CAR.fits", data, hi4pi_header(SHAPE, 4.0))
    with pytest.raises(MapError, match="none but NaN in channel 20"):
        prepare([path], tmp_path / "c.zarr", nside=16, pool=pool)
    assert not (tmp_path / "c.zarr").exists()


def test_a_file_that_changed_is_opened_anew(pool, tmp_path):
    for change in (0, 7):
        data = smooth_data((8, 46, 91), 4.0) + change
        path = write_fits(tmp_path / "CAR.fits", data, hi4pi_header((8, 46, 91), 4.0))
        prepare([path], tmp_path / "c.zarr", nside=16, pool=pool, overwrite=True)
    alone = prepare([path], tmp_path / "alone.zarr", nside=16)
    np.testing.assert_array_equal(open_cube(tmp_path / "c.zarr").channel(3), alone.channel(3))


def test_healpix_maps(map_fn, tmp_path):
    paths = []
    for k in range(10):
        values = np.random.default_rng(k).normal(size=12 * 16**2).astype(np.float32)
        paths.append(tmp_path / f"{k}.fits")
        write_maps(paths[-1], {"TB": (values, "K")}, frame="G")
    velocity = tmp_path / "v.txt"
    velocity.write_text("\n".join(str(float(k)) for k in range(10)))
    made = [
        prepare(paths, tmp_path / name, velocity_table=velocity, pool=SimpleNamespace(map=how)).path
        for name, how in (("w.zarr", map_fn), ("h.zarr", map))
    ]
    assert files_of(made[0]) == files_of(made[1])
