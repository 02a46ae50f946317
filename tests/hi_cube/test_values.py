"""What an image cube holds in place of values, and channels that hold nothing."""

import gzip
import re

import numpy as np
import pytest
from astropy.io import fits

from foreglow.data.check import check_file
from foreglow.errors import MapError
from foreglow.hi_cube.cube import write_cube
from foreglow.hi_cube.image_cube import open_image_cube
from foreglow.hi_cube.prepare import prepare
from foreglow.hi_cube.survey import look_through
from foreglow.maps.conventions import MapWarning
from hi_cubes import hi4pi_header, raw_fits, smooth_data, write_fits

pytestmark = pytest.mark.filterwarnings("ignore:Nside .* do not sample a beam")

SHAPE = (8, 10, 20)
HOLE = (slice(None), slice(2, 4), slice(5, 9))


def header(**changes):
    return hi4pi_header(SHAPE, 18.0, **changes)


@pytest.fixture
def data():
    return smooth_data(SHAPE, 18.0)


def whole(path, unit=None):
    with open_image_cube(path, unit) as cube:
        return cube.read(0, SHAPE[0]), look_through(cube, 0, SHAPE[0])


# ---- numbers that are no temperatures --------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 1000.0])
@pytest.mark.parametrize(
    "value", [-1.6375e30, -32768.0, 1e20, -9999.0, -999.0, -99.0, -3.4028235e38, 2e6, 1e300]
)
def test_placeholders_among_floats(data, tmp_path, value, scale):
    """Of K and of mK: the number is that of the file, not its temperature."""
    stored = (data * scale).astype(np.float64 if value > 1e38 else np.float32)
    stored[HOLE] = value
    path = write_fits(tmp_path / "c.fits", stored, header(BUNIT="K" if scale == 1 else "mK"))
    found, look = whole(path)
    expected = data.copy()
    expected[HOLE] = np.nan
    np.testing.assert_allclose(found[..., 1:-1], expected, rtol=1e-6)
    assert look.odd.count == 3 * 8  # the three channels that are read whole
    assert list(look.odd.values) == [pytest.approx(value)]
    with pytest.warns(MapWarning, match="in 24 of 600 values looked at, which is no bright"):
        look.odd.warn("c.fits")


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32])
@pytest.mark.parametrize("blank", [True, False])
def test_placeholders_among_integers(data, tmp_path, kind, blank):
    """BLANK where the header has it; else the least of the type, which nothing else needs."""
    least = int(np.iinfo(kind).min)
    stored = np.round(data * 5).astype(kind)
    stored[HOLE] = least if blank or kind != np.uint8 else 250
    cards = {"BSCALE": 0.2, "BZERO": 0.0, "BLANK": least if blank else None}
    path = tmp_path / "c.fits"
    path.write_bytes(raw_fits(stored, header(**cards)))
    found, look = whole(path)
    if kind == np.uint8 and not blank:
        assert np.isfinite(found).all()  # any value of the type is one
        return
    assert np.isnan(found[..., 1:-1][HOLE]).all()
    assert np.isnan(found).sum() == 8 * 8
    assert look.odd.count == (0 if blank else 24)  # what is declared needs no word


def test_the_zero_of_unsigned_integers_is_a_value(data, tmp_path):
    """BZERO = 32768 says that the integers are unsigned: stored as -32768, it is nought."""
    stored = np.round(10 * data).astype(np.uint16)
    stored[HOLE] = 0
    write_fits(tmp_path / "c.fits", stored, header())
    assert fits.getheader(tmp_path / "c.fits")["BZERO"] == 32768
    found, look = whole(tmp_path / "c.fits", unit="K")
    assert (np.isfinite(found).all(), look.odd.count) == (True, 0)


def test_a_blank_card_among_floats_says_what_it_says(data, tmp_path):
    data[HOLE] = -1.0
    path = tmp_path / "c.fits"
    path.write_bytes(raw_fits(data.astype(">f4"), header(BLANK=-1)).replace(b" 32 ", b"-32 ", 1))
    found, look = whole(path)
    assert np.isnan(found[..., 1:-1][HOLE]).all()
    assert look.odd.count == 0


def test_values_of_another_unit_are_refused(data, tmp_path):
    """Many different numbers are no placeholders: here mK that are called K."""
    path = write_fits(tmp_path / "c.fits", 1000 * data, header())
    message = r"plane 1: expected brightness temperatures .* got .* and more.*; correct the unit"
    with pytest.raises(MapError, match=message):
        prepare([path], tmp_path / "out.zarr", nside=8)
    assert not (tmp_path / "out.zarr.partial").exists()
    with pytest.raises(MapError, match=message):
        check_file(path)


def test_prepare_says_it_and_so_does_a_check(data, tmp_path):
    data[HOLE] = -32768
    path = write_fits(tmp_path / "c.fits", data, header())
    with pytest.warns(MapWarning, match="-32768 in 24 of 600 values") as said:
        cube = prepare([path], tmp_path / "out.zarr", nside=8)
    assert len([w for w in said if "Nside" not in str(w.message)]) == 1
    assert np.nanmin(cube.channel(3)) > 0
    assert np.isnan(cube.channel(3)).any()
    report = check_file(path)
    assert report.sound
    assert any("-32768 in 24 of 600 values" in note for note in report.notes)
    assert (report.columns[0].unobserved, report.columns[0].least > 0) == (8, True)


def test_nought_is_a_value_that_is_asked_about(data, tmp_path):
    data[:, :, 5:9] = 0
    path = write_fits(tmp_path / "c.fits", data, header())
    with pytest.warns(MapWarning, match="exactly 0 in 120 of 600 values looked at, taken as they"):
        assert (prepare([path], tmp_path / "out.zarr", nside=8).channel(2) == 0).any()
    data[:, 0, 9] = -999
    report = check_file(write_fits(tmp_path / "c.fits", data, header()))
    assert [("-999 in 3 of" in n, "; exactly 0 in 120" in n) for n in report.notes[-1:]] == [
        (True, True)
    ]


def test_arrays_hold_temperatures(tmp_path):
    maps = np.ones((2, 192))
    maps[1, 5] = -32768
    with pytest.raises(MapError, match=r"within 1000 K of zero, got -32768 in channel 1; set what"):
        write_cube(tmp_path / "c.zarr", [0.0, 1.0], maps, 4, None, "test")


# ---- channels that hold nothing --------------------------------------------------------------


def packed(path):
    with gzip.open(path.with_suffix(".fits.gz"), "wb") as stream:
        stream.write(path.read_bytes())
    return path.with_suffix(".fits.gz")


@pytest.mark.parametrize(
    ("blank", "listing", "kept"),
    [
        ([0], "channel 0 at", (1, 8)),
        ([3], "channel 3 at", (4, 8)),
        ([7], "channel 7 at", (0, 7)),
        ([0, 1, 6], "channels 0 at .*, 1 at .*, 6 at", (2, 6)),
        ([0, 2, 3, 4], "channels 0 at .*, 2 at .*, 3 at .* and more", (5, 8)),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("descending", [False, True])
def test_blank_channels_are_found_before_the_work(
    data, tmp_path, blank, listing, kept, zipped, descending
):
    """Wherever they are; and the range that the message names can be prepared."""
    data[blank] = np.nan
    data[:, 5] = np.nan  # a row that every channel lacks
    cards = header()
    if descending:
        cards["CDELT3"] *= -1
        cards["CRPIX3"] = 8 + 1 - cards["CRPIX3"]
    path = write_fits(tmp_path / "c.fits", data[::-1] if descending else data, cards)
    path = packed(path) if zipped else path
    with pytest.raises(MapError, match=f"but NaN in {listing}.*; take the longest") as refused:
        prepare([path], tmp_path / "out.zarr", nside=8)
    assert not (tmp_path / "out.zarr.partial").exists()
    low, high = map(float, re.findall(r"_kms=([-.e0-9]+)", str(refused.value)))
    cube = prepare([path], tmp_path / "out.zarr", nside=8, low_kms=low, high_kms=high)
    with open_image_cube(path) as source:
        np.testing.assert_allclose(cube.velocity_kms, source.velocity.kms[slice(*kept)])


def test_nothing_at_all(data, tmp_path):
    path = write_fits(tmp_path / "c.fits", np.full_like(data, np.nan), header())
    with pytest.raises(MapError, match="and more, which are all; copy or download the cube again"):
        prepare([path], tmp_path / "out.zarr", nside=8)
    assert not check_file(path).sound


def test_a_check_finds_blank_channels_too(data, tmp_path):
    data[6] = np.nan
    report = check_file(write_fits(tmp_path / "c.fits", data, header()))
    assert report.fits == ()
    assert "none but NaN in channel 6" in report.problems[0]


def test_a_channel_is_blank_where_all_tiles_are(data, tmp_path):
    """One tile may lack a channel that the other has."""
    full = write_fits(tmp_path / "full.fits", data, header())
    data[3] = np.nan
    part = write_fits(tmp_path / "part.fits", data, header())
    assert prepare([part, full], tmp_path / "a.zarr", nside=8).n_channel == 8
    again = write_fits(tmp_path / "again.fits", data, header())
    with pytest.raises(MapError, match="none but NaN in channel 3"):
        prepare([part, again], tmp_path / "b.zarr", nside=8)


def test_few_rows_are_read_to_find_them(data, tmp_path, monkeypatch):
    """Channels that are not read whole cost a row each."""
    path = write_fits(tmp_path / "c.fits", data, header())
    with open_image_cube(path) as cube:
        rows, read = [], type(cube).read_rows
        monkeypatch.setattr(
            type(cube),
            "read_rows",
            lambda c, k, i, out: rows.append(len(out)) or read(c, k, i, out),
        )
        look_through(cube, 0, 8)
    assert sorted(rows) == [1] * 5 + [10] * 3
