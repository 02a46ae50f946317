"""Maps written: healpy reads them, they appear whole or not at all, bad calls are refused."""

import gzip

import healpy as hp
import numpy as np
import pytest
from astropy.io import fits

from foreglow.errors import ForeglowError, MapError, ShapeError, WriteError
from foreglow.maps.io import open_polarisation_map
from foreglow.maps.write import write_map_blocks, write_maps, write_polarisation_map

NSIDE = 4
N_PIX = hp.nside2npix(NSIDE)
ALL = np.arange(N_PIX)


def ramp(n=N_PIX):
    """Q,U that differ in every pixel."""
    return np.stack([np.arange(n) + 1.0, -2.0 * np.arange(n) - 1.0])


@pytest.mark.parametrize("ordering", ["RING", "NESTED"])
def test_healpy_reads_what_was_written(tmp_path, ordering):
    nside = 32
    n_pix = hp.nside2npix(nside)
    rng = np.random.default_rng(1)
    amplitude = rng.normal(size=n_pix)
    amplitude[5] = np.nan
    labels = rng.integers(-1, 4, n_pix).astype(np.int16)
    maps = {"CLASS": (labels, ""), "P": (amplitude.astype("f4"), "uK_RJ"), "S": (amplitude, "K")}
    cards = {"model": "four", "SEED": 3, "A long key": 0.5, "HISTORY": "made in a test"}
    path = tmp_path / "maps.fits"
    write_maps(path, maps, frame="GAL", ordering=ordering, header=cards)
    read = hp.read_map(path, field=None, nest=None)
    np.testing.assert_array_equal(read[0], labels)
    np.testing.assert_array_equal(read[1], hp.read_map(path, field=1, nest=None))
    np.testing.assert_array_equal(read[2], np.where(np.isnan(amplitude), hp.UNSEEN, amplitude))
    with fits.open(path) as hdus:
        hdus.verify("exception")
        header = hdus[1].header
        assert [header[f"TUNIT{i}"] for i in (2, 3)] == ["uK_RJ", "K"]
        assert "TUNIT1" not in header
        assert header["TNULL1"] == -1
        expected = ("G", ordering, nside, "HEALPIX", "COSMO")
        keys = ("COORDSYS", "ORDERING", "NSIDE", "PIXTYPE", "POLCCONV")
        assert tuple(header[key] for key in keys) == expected
        assert (header["model"], header["SEED"], header["A long key"]) == ("four", 3, 0.5)
    assert path.stat().st_size % 2880 == 0
    assert [p.name for p in tmp_path.iterdir()] == ["maps.fits"]  # no temporary left


def test_writing_replaces_only_when_told_and_never_by_half(tmp_path):
    path = tmp_path / "map.fits"
    write_polarisation_map(path, ramp(), "uK_RJ")
    with pytest.raises(MapError, match=r"map.fits: exists already; .* overwrite=True"):
        write_polarisation_map(path, ramp(), "uK_RJ")
    before = path.read_bytes()
    broken = ramp()
    broken[1, 7] = np.inf
    with pytest.raises(MapError, match="got Inf in column 2"):
        write_polarisation_map(path, broken, "uK_RJ", overwrite=True)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["map.fits"]
    write_polarisation_map(path, 2 * ramp(), "uK_RJ", overwrite=True)
    np.testing.assert_array_equal(open_polarisation_map(path).read(ALL), 2 * ramp())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": {}}, "at least one"),
        ({"columns": {"A": (ALL, ""), "a": (ALL, "")}}, "distinct column names"),
        ({"columns": {"A B": (ALL, "")}}, "letters, digits and underscores, got 'A B'"),
        ({"columns": {"A": (ALL[:-1], "")}}, r"12 Nside\^2,\), got \(191,\) for A"),
        ({"columns": {"A": (ALL > 3, "")}}, "got bool for A"),
        ({"columns": {"A": (ALL, "µK")}}, "plain ASCII.*write u for micro"),
        ({"frame": "X"}, "expected a frame G .* got 'X'"),
        ({"ordering": "ring"}, "expected ordering RING or NESTED, got 'ring'"),
        ({"header": {"nside": 3}}, "nside is written by foreglow"),
        ({"header": {"A": "two\nlines"}}, "header card A = .* plain ASCII"),
        ({"header": {"A": np.nan}}, "header card A = nan"),
        ({"path": "absent/map.fits"}, "cannot be written"),
    ],
)
def test_refuses_to_write(tmp_path, change, message):
    call = {"path": "m.fits", "columns": {"A": (ALL, "")}, "frame": "G"} | change
    with pytest.raises((MapError, WriteError), match=message):
        write_maps(tmp_path / call.pop("path"), call.pop("columns"), **call)
    assert not list(tmp_path.iterdir())


def test_write_polarisation_map_wants_two_maps(tmp_path):
    with pytest.raises(ShapeError, match=r"\(2, n_pix\), got \(192,\)"):
        write_polarisation_map(tmp_path / "m.fits", ramp()[0], "uK_RJ")


# ---- block by block --------------------------------------------------------------------------


def columns_of(maps, part):
    return {name: (values[part], unit) for name, (values, unit) in maps.items()}


@pytest.mark.parametrize("size", [1024, 2048, 3072])
@pytest.mark.parametrize("name", ["m.fits", "m.fits.gz"])
def test_blocks_make_the_same_file(tmp_path, size, name):
    rng = np.random.default_rng(0)
    maps = {
        "P": (rng.normal(size=3072), "uK_RJ"),
        "CLASS": (rng.integers(-1, 4, 3072).astype(np.int16), ""),
    }
    maps["P"][0][7] = np.nan
    write_maps(tmp_path / "whole.fits", maps, frame="G", header={"SEED": 1})
    parts = (columns_of(maps, slice(k, k + size)) for k in range(0, 3072, size))
    write_map_blocks(tmp_path / name, parts, 16, frame="G", header={"SEED": 1})
    content = (tmp_path / name).read_bytes()
    content = gzip.decompress(content) if name.endswith("gz") else content
    assert content == (tmp_path / "whole.fits").read_bytes()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([1024, 1024], "expected 3072 pixels in all blocks, got 2048"),
        ([1024, 1000, 1048], "a multiple of 1024 pixels, got 1000"),
        ([], "at least one"),
    ],
)
def test_blocks_that_are_no_sky(tmp_path, sizes, message):
    parts = [{"A": (np.ones(n), "")} for n in sizes]
    with pytest.raises(ForeglowError, match=message):
        write_map_blocks(tmp_path / "m.fits", parts, 16, frame="G")
    assert not list(tmp_path.iterdir())


def test_blocks_of_other_columns(tmp_path):
    parts = [{"A": (np.ones(1024), "")}, {"A": (np.ones(1024), ""), "B": (np.ones(1024), "")}]
    with pytest.raises(ShapeError, match="the same columns"):
        write_map_blocks(tmp_path / "m.fits", parts, 16, frame="G")


def test_a_failure_on_the_way_goes_through_and_leaves_nothing(tmp_path):
    def parts():
        yield {"A": (np.ones(1024), "")}
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        write_map_blocks(tmp_path / "m.fits", parts(), 16, frame="G")
    assert not list(tmp_path.iterdir())


def test_a_masked_array_is_written_with_its_mask(tmp_path):
    qu = np.ma.masked_array(np.ones((2, N_PIX)), [np.arange(N_PIX) % 5 == 0] * 2)
    write_polarisation_map(tmp_path / "qu.fits", qu, "uK_CMB")
    missing = np.isnan(open_polarisation_map(tmp_path / "qu.fits").read(np.arange(N_PIX)))
    np.testing.assert_array_equal(missing, qu.mask)
    counts = np.ma.masked_array(np.arange(N_PIX, dtype=np.int16), qu.mask[0])
    write_maps(tmp_path / "counts.fits", {"CLASS": (counts, "")}, frame="G")
    stored = fits.getdata(tmp_path / "counts.fits")["CLASS"].ravel()
    np.testing.assert_array_equal(stored, np.where(counts.mask, -1, counts.data))
