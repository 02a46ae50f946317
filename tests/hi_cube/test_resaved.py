"""Cubes that xarray opened and saved again, in any layout; and what a copy of them lost."""

import shutil

import numpy as np
import pytest
import xarray as xr

from foreglow.data.check import check_file
from foreglow.errors import MapError
from foreglow.hi_cube.cube import open_cube, write_cube

NSIDE = 16
N_PIX = 12 * NSIDE**2
VELOCITY = -10 + 2.0 * np.arange(12)

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")


@pytest.fixture
def maps():
    values = np.random.default_rng(0).normal(size=(12, N_PIX)).astype(np.float32)
    values[:, :900] = np.nan
    return values


@pytest.fixture
def loaded(maps, tmp_path):
    """The cube as a user has it in xarray, without what its store was."""
    path = write_cube(tmp_path / "c.zarr", VELOCITY, maps, NSIDE, 16.2, "test").path
    opened = xr.open_zarr(path).load()
    for name in opened.variables:
        opened[name].encoding = {}
    return opened


def with_chunks(**encoding):
    return lambda cube, path: cube.to_zarr(path, encoding={"tb": encoding})


SAVED = {
    "as it comes": lambda cube, path: cube.to_zarr(path),
    "not consolidated": lambda cube, path: cube.to_zarr(path, consolidated=False),
    "Zarr 2": lambda cube, path: cube.to_zarr(path, zarr_format=2),
    "Zarr 2, not consolidated": lambda c, p: c.to_zarr(p, zarr_format=2, consolidated=False),
    "one chunk": with_chunks(chunks=(12, N_PIX)),
    "small chunks": with_chunks(chunks=(5, 700)),
    "shards": with_chunks(chunks=(2, 512), shards=(4, 1024)),
    "a fill value": with_chunks(_FillValue=np.float32(-9999), chunks=(4, 1024)),
    "packed": with_chunks(dtype="i2", scale_factor=1e-3, _FillValue=-32768, chunks=(4, 1024)),
    "double": with_chunks(dtype="f8"),
    "velocities as float32": lambda c, p: c.to_zarr(p, encoding={"velocity": {"dtype": "f4"}}),
    "axes swapped": lambda cube, path: cube.transpose("pixel", "velocity").to_zarr(path),
    "axes swapped, chunks": lambda cube, path: cube.transpose("pixel", "velocity").to_zarr(
        path, encoding={"tb": {"chunks": (1024, 4)}}
    ),
    "descending": lambda cube, path: cube.isel(velocity=slice(None, None, -1)).to_zarr(path),
    "shuffled": lambda cube, path: cube.isel(velocity=[3, 0, 7, 1, 2, 4, 5, 6, 8, 9, 10, 11])
    .to_zarr(path),
    "pixels numbered": lambda c, p: c.assign_coords(pixel=np.arange(N_PIX)).to_zarr(p),
    "pixels shuffled": lambda cube, path: cube.assign_coords(pixel=np.arange(N_PIX))
    .isel(pixel=np.random.default_rng(1).permutation(N_PIX)).to_zarr(path),
}  # fmt: skip


@pytest.mark.parametrize("how", SAVED)
def test_it_is_read(loaded, maps, tmp_path, how):
    SAVED[how](loaded, tmp_path / "again.zarr")
    cube = open_cube(tmp_path / "again.zarr")
    np.testing.assert_array_equal(cube.velocity_kms, VELOCITY)
    assert cube.observed_fraction == 1 - 900 / N_PIX
    assert (cube.beam_arcmin, cube.source) == (16.2, "test")
    found = np.stack(list(cube.channels()))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, maps, atol=6e-4 if how == "packed" else 0)
    np.testing.assert_allclose(cube.channel(7), maps[7], atol=6e-4 if how == "packed" else 0)
    some = cube.tb[2:9, 800:1700]
    np.testing.assert_allclose(some, loaded.tb[2:9, 800:1700], atol=6e-4 if how == "packed" else 0)
    assert check_file(cube.path).sound


def test_saved_with_what_its_store_was(loaded, maps, tmp_path):
    xr.open_zarr(tmp_path / "c.zarr").to_zarr(tmp_path / "again.zarr")
    np.testing.assert_array_equal(open_cube(tmp_path / "again.zarr").channel(3), maps[3])


def test_some_of_its_channels(loaded, maps, tmp_path):
    loaded.sel(velocity=slice(-4, 6)).to_zarr(tmp_path / "again.zarr")
    cube = open_cube(tmp_path / "again.zarr")
    np.testing.assert_array_equal(np.stack(list(cube.channels())), maps[3:9])


def test_saved_once_more_in_its_place(loaded, tmp_path):
    """What was counted of the one before is not taken for it."""
    path = tmp_path / "again.zarr"
    loaded.to_zarr(path)
    open_cube(path)
    del loaded.attrs["observed_fraction"]
    loaded.where(np.arange(N_PIX) >= 2000).to_zarr(path, mode="w")
    assert open_cube(path).observed_fraction < 0.4


def test_overwriting_it(loaded, maps, tmp_path):
    for how in ("as it comes", "Zarr 2"):
        SAVED[how](loaded, tmp_path / "again.zarr")
        cube = write_cube(
            tmp_path / "again.zarr", VELOCITY, 2 * maps, NSIDE, None, "new", overwrite=True
        )
        np.testing.assert_array_equal(cube.channel(1), 2 * maps[1])
        shutil.rmtree(cube.path)


@pytest.mark.parametrize(
    ("how", "lost", "message"),
    [
        ("as it comes", 0, "expected 2172 to 2172 observed pixels in each channel, got 0"),
        ("small chunks", 7, "expected 2172 to 2172 observed pixels in each channel, got "),
        ("shards", 4, "expected 2172 to 2172 observed pixels in each channel, got "),
        ("Zarr 2", 0, "observed pixels in each channel, got "),
        ("a fill value", 5, "observed pixels in each channel, got "),
        ("packed", 8, "expected 9 files of data, got 8"),
        ("axes swapped, chunks", 4, "observed pixels in each channel, got "),
    ],
)
def test_what_a_copy_lost_is_found(loaded, tmp_path, how, lost, message):
    path = tmp_path / "again.zarr"
    SAVED[how](loaded, path)
    assert open_cube(path).n_channel == 12
    names = sorted(p for p in (path / "tb").rglob("*") if p.is_file() and p.name[0].isdecimal())
    names[lost].unlink()
    with pytest.raises(MapError, match=f"{message}.*; it was copied or deleted in part: copy it"):
        open_cube(path)


def test_a_whole_column_of_chunks_that_a_copy_lost(loaded, tmp_path):
    path = tmp_path / "again.zarr"
    loaded.to_zarr(path, encoding={"tb": {"chunks": (4, 1024)}})
    for chunk in path.glob("tb/c/*/2"):
        chunk.unlink()
    with pytest.raises(MapError, match=r"expected 2172 to 2172 observed .* got 1148; it was"):
        open_cube(path)


def test_cut_on_purpose(loaded, tmp_path):
    """The message says how to keep what a mask took out."""
    loaded["tb"] = loaded.tb.where(np.arange(N_PIX) >= 1000)
    loaded.to_zarr(tmp_path / "a.zarr")
    with pytest.raises(MapError, match="save it without its attribute observed_fraction"):
        open_cube(tmp_path / "a.zarr")
    del loaded.attrs["observed_fraction"]
    loaded.to_zarr(tmp_path / "b.zarr")
    assert open_cube(tmp_path / "b.zarr").observed_fraction == loaded.tb[0].notnull().mean()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.isel(pixel=slice(0, 768)), r"with 3072 pixels, got .*768.*save all pixels"),
        (lambda c: c.rename(velocity="v"), "something else|got .*'v': 12"),
        (lambda c: c.assign_coords(pixel=np.zeros(N_PIX, int)), "each pixel number once .* 0 to 0"),
    ],
)
def test_what_is_no_cube_any_more(loaded, tmp_path, change, message):
    change(loaded).to_zarr(tmp_path / "a.zarr")
    with pytest.raises(MapError, match=message):
        open_cube(tmp_path / "a.zarr")
