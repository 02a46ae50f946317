"""HI cubes on disk: round trips, what xarray sees, crashes, and cubes that are none."""

import json
import shutil

import healpy as hp
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from foreglow.errors import MapError, ShapeError
from foreglow.hi_cube.cube import open_cube, velocity_slice, write_cube
from foreglow.hi_cube.store import PixelChunks, partial_folder, pixels_a_chunk

NSIDE, N_PIX = 8, 768
VELOCITY = -64.5 + 1.288 * np.arange(19)  # two chunks and a part


@pytest.fixture
def maps():
    values = np.random.default_rng(0).normal(size=(19, N_PIX)).astype(np.float32)
    values[:, :100] = np.nan
    return values


@pytest.fixture
def cube(maps, tmp_path):
    return write_cube(tmp_path / "c.zarr", VELOCITY, maps, NSIDE, 16.2, "test")


# ---- what goes in comes out ------------------------------------------------------------------


def test_round_trip(cube, maps):
    again = open_cube(cube.path)
    assert (again.nside, again.beam_arcmin, again.source) == (8, 16.2, "test")
    np.testing.assert_array_equal(again.velocity_kms, VELOCITY)
    np.testing.assert_array_equal(np.stack(list(again.channels())), maps)
    np.testing.assert_array_equal(again.channel(18), maps[18])
    assert again.channel(0).dtype == np.float32
    assert not partial_folder(cube.path).exists()


@pytest.mark.parametrize(
    "which", [slice(3, 12), slice(None, None, -1), [17, 0, 8, 8], np.array([-1]), []]
)
def test_some_channels(cube, maps, which):
    found = list(cube.channels(which))
    assert len(found) == len(maps[which])
    for one, expected in zip(found, maps[which], strict=True):
        np.testing.assert_array_equal(one, expected)


def test_a_chunk_is_read_once(cube):
    """All channels of a chunk come of one read."""
    reads, stored = [], cube.tb

    class Counting:
        chunks = cube.tb.chunks

        def __getitem__(self, key):
            reads.append(key)
            return stored[key]

    object.__setattr__(cube, "tb", Counting())
    assert len(list(cube.channels())) == 19
    assert reads == [slice(0, 8), slice(8, 16), slice(16, 24)]


def test_xarray_opens_it(cube, maps):
    data = xr.open_zarr(cube.path)  # warnings are errors here
    assert data.tb.dims == ("velocity", "pixel")
    assert data.tb.dtype == np.float32
    assert data.tb.attrs["units"] == "K"
    assert data.velocity.attrs["units"] == "km/s"
    np.testing.assert_array_equal(data.velocity, VELOCITY)
    wanted = {"nside": 8, "ordering": "NESTED", "frame": "G", "beam_arcmin": 16.2, "source": "test"}
    assert wanted.items() <= data.attrs.items()
    nested = data.tb.sel(velocity=VELOCITY[5], method="nearest").to_numpy()
    np.testing.assert_array_equal(nested[hp.ring2nest(8, np.arange(N_PIX))], maps[5])


def test_unseen_is_not_observed(tmp_path):
    values = np.ones(N_PIX)
    values[3] = hp.UNSEEN
    cube = write_cube(tmp_path / "c.zarr", [0.0], [values], NSIDE, None, "test")
    assert cube.beam_arcmin is None
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(cube.channel(0))), [3])


@pytest.mark.parametrize("order", range(14))
def test_chunks_tile_the_sky(order):
    """A chunk is a NESTED pixel of a coarser map, or some base pixels, or the sky."""
    nside = 2**order
    pixels = pixels_a_chunk(nside)
    assert pixels <= max(nside**2, 1 << 14)
    if pixels < 12 * nside**2:
        assert pixels & (pixels - 1) == 0
    assert 12 * nside**2 % pixels == 0


@given(st.sets(st.integers(0, 12 * 64**2 - 1), min_size=1))
@settings(max_examples=20)
def test_pixels_have_places_in_their_chunks(chosen):
    pixels = np.array(sorted(chosen))
    chunks = PixelChunks.around(64, [pixels[::2], pixels])
    places = chunks.places(pixels)
    assert ((places >= 0) & (places < len(chunks))).all()
    there = np.concatenate([np.arange(12 * 64**2)[part] for _, part in chunks.runs()])
    np.testing.assert_array_equal(there[places], pixels)
    others = np.setdiff1d(np.arange(12 * 64**2), there)
    assert (chunks.places(others) < 0).all()


def test_velocity_ranges():
    velocity = np.arange(-10.0, 11.0)
    assert velocity_slice("x", velocity, None, None) == slice(0, 21)
    assert velocity_slice("x", velocity, -3, 2.9) == slice(7, 13)
    assert velocity_slice("x", velocity, -3 + 1e-9, 3 - 1e-9) == slice(7, 14)
    with pytest.raises(MapError, match=r"20 to inf km/s, got a cube from -10 to 10 km/s"):
        velocity_slice("x", velocity, 20, None)


# ---- whole or not at all ---------------------------------------------------------------------


def interrupted(maps):
    yield from maps[:10]
    raise KeyboardInterrupt


def test_half_a_cube_is_none(maps, tmp_path):
    path = tmp_path / "c.zarr"
    with pytest.raises(KeyboardInterrupt):
        write_cube(path, VELOCITY, interrupted(maps), NSIDE, 16.2, "test")
    with pytest.raises(MapError, match=r"got no such folder; its preparation was interrupted"):
        open_cube(path)
    write_cube(path, VELOCITY, maps, NSIDE, 16.2, "test")
    assert [p.name for p in tmp_path.iterdir()] == ["c.zarr"]


def test_what_was_there_stays_until_the_new_one_is_whole(cube, maps):
    with pytest.raises(KeyboardInterrupt):
        write_cube(cube.path, VELOCITY, interrupted(2 * maps), NSIDE, 16.2, "new", overwrite=True)
    np.testing.assert_array_equal(open_cube(cube.path).channel(1), maps[1])
    write_cube(cube.path, VELOCITY, 2 * maps, NSIDE, 16.2, "new", overwrite=True)
    np.testing.assert_array_equal(open_cube(cube.path).channel(1), 2 * maps[1])
    assert [p.name for p in cube.path.parent.iterdir()] == ["c.zarr"]


# ---- mistakes --------------------------------------------------------------------------------


def test_name_taken(cube, maps, tmp_path):
    with pytest.raises(MapError, match="a name that is free, got one that exists already"):
        write_cube(cube.path, VELOCITY, maps, NSIDE, 16.2, "test")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(MapError, match="got something else, which overwrite=True will not delete"):
        write_cube(tmp_path / "mine", VELOCITY, maps, NSIDE, 16.2, "test", overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"velocity_kms": VELOCITY[::-1]}, MapError, "velocities in km/s that ascend"),
        ({"velocity_kms": [np.nan] * 19}, MapError, "velocities in km/s that ascend"),
        ({"velocity_kms": VELOCITY[:12]}, ShapeError, "expected 12 maps, one a velocity, got more"),
        ({"velocity_kms": np.arange(20)}, ShapeError, "expected 20 maps.* got only 19"),
        ({"nside": 6}, MapError, "a power of two, got 6"),
        ({"nside": 16}, ShapeError, r"maps of shape \(3072,\), got \(768,\) for channel 0"),
        ({"maps": [np.full(N_PIX, np.inf)] * 19}, MapError, "got Inf in channel 0"),
    ],
)
def test_what_cannot_be_written(maps, tmp_path, change, kind, message):
    given = {"velocity_kms": VELOCITY, "maps": maps, "nside": NSIDE} | change
    with pytest.raises(kind, match=message):
        write_cube(tmp_path / "c.zarr", beam_arcmin=None, source="test", **given)
    assert not (tmp_path / "c.zarr").exists()


def test_no_such_channel(cube):
    with pytest.raises(MapError, match="channels from 0 to 18, got"):
        cube.channel(19)


def test_not_a_cube(cube, tmp_path):
    with pytest.raises(MapError, match="got no such folder; make one with `foreglow dust prepare`"):
        open_cube(tmp_path / "absent.zarr")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    xr.Dataset({"tb": ("pixel", np.zeros(3))}).to_zarr(tmp_path / "other.zarr", consolidated=False)
    for name in ("folder", "file", "other.zarr"):
        with pytest.raises(MapError, match="an HI cube of foreglow, got something else"):
            open_cube(tmp_path / name)
    shutil.rmtree(cube.path / "tb")
    with pytest.raises(MapError, match="an HI cube of foreglow, got something else"):
        open_cube(cube.path)


def test_a_cube_copied_in_part(cube):
    (cube.path / "tb" / "c" / "1" / "0").unlink()
    with pytest.raises(MapError, match="expected 3 files of data, got 2; it was copied"):
        open_cube(cube.path)


def test_a_later_version_is_not_read(cube):
    content = json.loads((cube.path / "zarr.json").read_text())
    content["attributes"]["version"] = 2
    (cube.path / "zarr.json").write_text(json.dumps(content))
    with pytest.raises(MapError, match="version 2"):
        open_cube(cube.path)
