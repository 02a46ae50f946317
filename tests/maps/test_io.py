"""Maps on disk: round trips, agreement with healpy and PySM, and what bad files are told."""

import gzip
import tracemalloc

import healpy as hp
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from foreglow.errors import MapError, ShapeError
from foreglow.maps.conventions import UNITS, MapWarning
from foreglow.maps.io import open_intensity_map, open_polarisation_map
from foreglow.maps.stored import check_same_sky
from foreglow.maps.write import write_polarisation_map
from healpix_tables import ALL, N_PIX, NSIDE, ramp, stokes_columns, write_raw

# ---- round trips -----------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    nside=st.sampled_from([4, 16]),
    nest=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64]),
    unit=st.sampled_from(UNITS),
    frame=st.sampled_from("GCE"),
    partial=st.booleans(),
    iau=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_reads_what_healpy_wrote(
    tmp_path_factory, nside, nest, dtype, unit, frame, partial, iau, seed
):
    path = tmp_path_factory.mktemp("maps") / "map.fits"
    rng = np.random.default_rng(seed)
    n_pix = hp.nside2npix(nside)
    ring = rng.normal(size=(2, n_pix)).astype(dtype)
    seen = rng.random(n_pix) < 0.7
    seen[-1] = True  # healpy fails on partial maps of no pixel, or of none above 127
    ring[:, ~seen] = hp.UNSEEN
    stored = hp.reorder(ring, r2n=True) if nest else ring
    hp.write_map(
        path,
        list(np.atleast_2d(stored)),
        nest=nest,
        dtype=dtype,
        coord=frame,
        partial=partial,
        column_units=unit,
        extra_header=[("POLCCONV", "IAU" if iau else "COSMO")],
    )
    opened = open_polarisation_map(path)
    pixels = rng.permutation(n_pix)[: n_pix // 2 + 1]
    qu = opened.read(pixels)
    expected = np.where(seen, ring, np.nan)[:, pixels]
    expected[1] *= -1 if iau else 1
    np.testing.assert_array_equal(qu, expected)
    assert qu.dtype == dtype
    assert qu.dtype.isnative
    assert (opened.nside, opened.frame, opened.unit) == (nside, frame, unit)
    assert opened.ordering == ("NESTED" if nest else "RING")
    assert opened.flip_u is iau


@settings(max_examples=25)
@given(
    nside=st.sampled_from([1, 2, 3, 8, 16, 32]),
    dtype=st.sampled_from(["f4", "f8", ">f4"]),
    unit=st.sampled_from(UNITS),
    nest=st.booleans(),
    suffix=st.sampled_from([".fits", ".fits.gz"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_reads_what_it_wrote(tmp_path_factory, nside, dtype, unit, nest, suffix, seed):
    nest = nest and hp.isnsideok(nside, nest=True)
    path = tmp_path_factory.mktemp("maps") / f"map{suffix}"
    rng = np.random.default_rng(seed)
    n_pix = hp.nside2npix(nside)
    ring = rng.normal(size=(2, n_pix)).astype(dtype)
    ring[:, rng.random(n_pix) < 0.2] = np.nan
    stored = ring[:, hp.nest2ring(nside, np.arange(n_pix))] if nest else ring
    write_polarisation_map(path, stored, unit, "C", ordering="NESTED" if nest else "RING")
    opened = open_polarisation_map(path)
    np.testing.assert_array_equal(opened.read(np.arange(n_pix)), ring)
    assert (opened.unit, opened.frame, opened.flip_u) == (unit, "C", False)


# ---- what files look like --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "which"),
    [
        (("I_STOKES", "Q_STOKES", "U_STOKES", "HITS"), (1, 2)),
        (("u-polarisation", "Q-POLARISATION", "TEMPERATURE", "N_OBS"), (1, 0)),
        (("Q_Stokes", "junk", "more", "U_Stokes"), (0, 3)),
        (("q", "u"), (0, 1)),
        (("I", "WEI_Q", "Q", "WEI_U", "U", "COV_QU"), (2, 4)),
        (("Q_MEAN", "U_MEAN", "Q_RMS", "U_RMS"), (0, 1)),
    ],
)
def test_finds_stokes_columns(tmp_path, names, which):
    maps = np.random.default_rng(0).normal(size=(len(names), N_PIX))
    path = write_raw(tmp_path / "m.fits", stokes_columns(names, ["uK_CMB"] * len(names), qu=maps))
    np.testing.assert_array_equal(open_polarisation_map(path).read(ALL), maps[list(which)])


@pytest.mark.parametrize(
    ("spelling", "unit"),
    [
        ("uK_CMB", "uK_CMB"), ("muK_CMB", "uK_CMB"), ("uKcmb", "uK_CMB"), ("K_CMB", "K_CMB"),
        ("Kcmb", "K_CMB"), ("mK_CMB", "mK_CMB"), ("K_RJ", "K_RJ"), ("uK_RJ", "uK_RJ"),
        ("mK,thermodynamic", "mK_CMB"), ("microK_CMB", "uK_CMB"), ("K_{CMB}", "K_CMB"),
        ("uK (RJ)", "uK_RJ"), ("MJy/sr", "MJy/sr"), ("MJy sr-1", "MJy/sr"), ("Mjy/sr", "MJy/sr"),
        ("MJy sr^-1", "MJy/sr"), ("MJy / sr", "MJy/sr"), ("MJy.sr**-1", "MJy/sr"),
    ],
)  # fmt: skip
def test_reads_units_generously(tmp_path, spelling, unit):
    path = write_raw(tmp_path / "m.fits", stokes_columns(units=(spelling, f" {spelling} ")))
    assert open_polarisation_map(path).unit == unit
    assert open_polarisation_map(path, unit=unit).unit == unit


@pytest.mark.parametrize(
    ("spelling", "frame"),
    [("g", "G"), ("GALACTIC", "G"), ("CEL", "C"), ("icrs", "C"), ("EQU", "C"), ("ECL ", "E")],
)
def test_reads_frames_generously(tmp_path, spelling, frame):
    assert open_polarisation_map(write_raw(tmp_path / "m.fits", COORDSYS=spelling)).frame == frame


def test_scaled_integers_and_null(tmp_path):
    stored = np.stack([ALL, ALL - 50]).astype(np.int16)
    columns = [
        fits.Column(name="Q", format="I", array=stored[0], unit="uK_RJ", null=7),
        fits.Column(name="U", format="I", array=stored[1], unit="uK_RJ"),
    ]
    path = write_raw(tmp_path / "m.fits", columns)
    for key, value in {"TSCAL1": 0.5, "TZERO1": 3.0, "TSCAL2": 2.0}.items():
        fits.setval(path, key, value=value, ext=1)
    expected = np.stack([stored[0] * 0.5 + 3.0, stored[1] * 2.0])
    expected[:, 7] = np.nan
    np.testing.assert_array_equal(open_polarisation_map(path).read(ALL), expected)


def test_vector_columns_of_one_row_each(tmp_path):
    nside = 16
    qu = ramp(hp.nside2npix(nside)).astype("f4")
    hp.write_map(
        tmp_path / "m.fits", list(qu), dtype=np.float32, coord="G", column_units="K_CMB",
        extra_header=[("POLCCONV", "COSMO")],
    )  # fmt: skip
    opened = open_polarisation_map(tmp_path / "m.fits")
    assert opened.columns[0].cells.shape == (3, 1024)
    np.testing.assert_array_equal(opened.read(np.array([3071, 0, 1024])), qu[:, [3071, 0, 1024]])


def test_partial_map_in_any_pixel_order(tmp_path):
    pixels = np.array([100, 3, 50])
    columns = [
        fits.Column(name="PIXEL", format="J", array=pixels),
        *stokes_columns(qu=ramp(3)),
    ]
    path = write_raw(tmp_path / "m.fits", columns, drop=["INDXSCHM"], OBJECT="PARTIAL")
    read = open_polarisation_map(path).read(np.array([3, 4, 100, 191]))
    np.testing.assert_array_equal(read, [[2, np.nan, 1, np.nan], [-3, np.nan, -1, np.nan]])


def test_unseen_in_one_is_unseen_in_both(tmp_path):
    qu = ramp()
    qu[0, 3] = np.float32(hp.UNSEEN)
    qu[1, 5] = hp.UNSEEN * (1 + 5e-6)
    path = write_raw(tmp_path / "m.fits", stokes_columns(qu=qu))
    read = open_polarisation_map(path).read(ALL)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(read[0])), [3, 5])
    np.testing.assert_array_equal(np.isnan(read[0]), np.isnan(read[1]))


def test_gzip_by_content_not_by_name(tmp_path):
    plain = write_raw(tmp_path / "m.fits")
    packed = tmp_path / "packed.fits"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    np.testing.assert_array_equal(open_polarisation_map(packed).read(ALL), ramp())


def test_absent_conventions_are_assumed_aloud(tmp_path):
    path = write_raw(tmp_path / "m.fits", drop=["POLCCONV", "COORDSYS"])
    with pytest.warns(MapWarning) as caught:
        opened = open_polarisation_map(path)
    messages = sorted(str(w.message) for w in caught)
    assert len(messages) == 2
    assert "no COORDSYS in the header, taken as Galactic" in messages[0]
    assert "no POLCCONV in the header, taken as COSMO" in messages[1]
    assert {w.filename for w in caught} == {__file__}
    assert (opened.frame, opened.flip_u) == ("G", False)


def test_a_block_of_a_large_map_does_not_load_it(tmp_path):
    nside = 1024
    path = tmp_path / "large.fits"
    write_raw(
        path,
        [
            fits.Column(name=n, format="1024E", array=np.zeros((1, 1024)), unit="K_CMB")
            for n in "QU"
        ],
        NSIDE=nside,
    )
    size = hp.nside2npix(nside) * 8
    with path.open("r+b") as stream:  # a sparse file: 100 MB promised, one row written
        text = stream.read(5760).replace(
            b"NAXIS2  =                    1", b"NAXIS2  = %20d" % (size // 8192)
        )
        stream.seek(0)
        stream.write(text)
        stream.truncate(5760 + size + -size % 2880)
    tracemalloc.start()
    opened = open_polarisation_map(path)
    block = opened.read(np.arange(5_000_000, 5_010_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(opened.columns[0].cells, np.memmap)
    assert block.shape == (2, 10_000)
    assert peak < size / 20


@pytest.mark.parametrize("name", ["ame_a2_30GHz", "synchrotron_s1_30GHz", "thermal_dust_d1_353GHz"])
def test_real_maps_as_healpy_reads_them(real_data, name):
    path = real_data / "pysm64" / f"{name}_iqu.fits"
    with pytest.warns(MapWarning, match="POLCCONV"):
        opened = open_polarisation_map(path)
    assert (opened.nside, opened.frame, opened.unit) == (64, "G", "uK_RJ")
    expected = hp.read_map(path, field=(0, 1, 2))
    pixels = np.random.default_rng(0).permutation(expected.shape[1])
    np.testing.assert_array_equal(opened.read(pixels), expected[1:, pixels])
    np.testing.assert_array_equal(open_intensity_map(path).read(pixels), expected[0, pixels])


# ---- intensity -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "which"),
    [
        (("I_STOKES", "Q_STOKES", "U_STOKES"), 0),
        (("HITS", "Temperature"), 1),
        (("Q_POLARISATION", "U_POLARISATION", "I", "N_OBS"), 2),
        (("DUST", "DUST_STD", "COVER"), 0),
        (("AME",), 0),
    ],
)
def test_intensity_maps(tmp_path, names, which):
    maps = np.random.default_rng(0).normal(size=(len(names), N_PIX))
    columns = stokes_columns(names, ["MJy/sr"] * len(names), qu=maps)
    opened = open_intensity_map(write_raw(tmp_path / "m.fits", columns, drop=["POLCCONV"]))
    assert opened.unit == "MJy/sr"
    np.testing.assert_array_equal(opened.read(ALL[::-1]), maps[which, ::-1])


@pytest.mark.parametrize(
    "names",
    [("Q",), ("HITS",), ("II_COV",), ("A", "B"), ("I", "T"), ("Q", "U", "V"), ("A", "B", "C")],
)
def test_intensity_is_never_guessed_from_polarisation_or_hits(tmp_path, names):
    maps = np.ones((len(names), N_PIX))
    path = write_raw(tmp_path / "m.fits", stokes_columns(names, ["K_RJ"] * len(names), qu=maps))
    message = f"expected one column I_STOKES .* got columns {', '.join(names)}; name the"
    with pytest.raises(MapError, match=message):
        open_intensity_map(path)


def test_intensity_of_a_partial_map_with_unseen_pixels(tmp_path):
    values = np.array([1.0, hp.UNSEEN, 3.0])
    columns = [
        fits.Column(name="PIXEL", format="J", array=[7, 5, 3]),
        *stokes_columns(["I"], ["uK_RJ"], qu=[values]),
    ]
    opened = open_intensity_map(write_raw(tmp_path / "m.fits", columns, INDXSCHM="EXPLICIT"))
    np.testing.assert_array_equal(opened.read(np.array([3, 4, 5, 7])), [3, np.nan, np.nan, 1])


# ---- bad input -------------------------------------------------------------------------------


def explicit(pixels, nside=NSIDE, name="PIXEL", format="J"):
    columns = [fits.Column(name=name, format=format, array=pixels)]
    return {
        "columns": columns + stokes_columns(qu=ramp(len(pixels))),
        "INDXSCHM": "EXPLICIT",
        "NSIDE": nside,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": ["ORDERING"]}, "ORDERING RING or NESTED in the header, got none; set ORDERING"),
        ({"ORDERING": "SPIRAL"}, "got SPIRAL; set ORDERING"),
        ({"drop": ["NSIDE"]}, "expected NSIDE in the header, .* got none"),
        ({"NSIDE": "big"}, "got BIG; set NSIDE"),
        ({"NSIDE": 3, "ORDERING": "NESTED"}, "a power of two for NESTED, got 3"),
        ({"NSIDE": 8}, r"expected 768 pixels in column Q_STOKES \(NSIDE = 8\), got 192"),
        ({"COORDSYS": "SUPERGALACTIC"}, "COORDSYS: expected a frame G .* got 'SUPERGALACTIC'"),
        ({"POLCCONV": "LEFT"}, "COSMO or IAU, got POLCCONV = 'LEFT'; corr"),
        ({"columns": stokes_columns(units=("uK", "uK"))}, "got unit 'uK', .*thermodynamic.*unit="),
        ({"columns": stokes_columns(units=("K", "K"))}, "got unit 'K', .* Rayleigh-Jeans"),
        ({"columns": stokes_columns(units=(None, None))}, r"\(TUNIT\) for column Q_STOKES.*unit="),
        ({"columns": stokes_columns(units=("uK_CMB", None))}, "for column U_STOKES, got none"),
        (
            {"columns": stokes_columns(units=("uK_CMB", "K_CMB"))},
            "one unit for Q and U, got uK_CMB",
        ),
        ({"columns": stokes_columns(units=("mJy/sr", "mJy/sr"))}, "got unit 'mJy/sr'"),
        ({"columns": stokes_columns(units=("MK_CMB", "MK_CMB"))}, "got unit 'MK_CMB'"),
        (
            {"columns": stokes_columns(names=("A", "U_STOKES"))},
            "got columns A, U_STOKES; if the other lies in a file",
        ),
        (
            {"columns": stokes_columns(names=("TEMPERATURE", "N_OBS"))},
            r"N_OBS; name the two to take, m.fits\[Q_COL",
        ),
        ({"columns": stokes_columns()[:1]}, "both, Q first, as 'Q.fits,U.fits'"),
        (
            {"columns": [fits.Column(name=n, format="4A", array=["a"] * N_PIX) for n in "QU"]},
            "expected numbers in column 'Q', got TFORM 4A",
        ),
        (explicit([1, 2, 2]), "distinct pixel numbers, got 1 to 2, 1 of them repeated"),
        (explicit([1, 2, 192]), "got 1 to 192"),
        (explicit([-1, 2, 3]), "got -1 to 3"),
        (explicit([1, 2, 3], name="WHERE"), "integer column PIXEL.*got columns WHERE, Q_STOKES"),
        (explicit([1, 2, 3], format="D"), "integer column PIXEL"),
    ],
)
def test_bad_headers(tmp_path, change, message):
    path = write_raw(tmp_path / "m.fits", **change)
    with pytest.raises(MapError, match=message) as caught:
        open_polarisation_map(path)
    assert str(path) in str(caught.value)


def test_a_bare_kelvin_passed_as_unit_is_refused_too(tmp_path):
    path = write_raw(tmp_path / "m.fits")
    with pytest.raises(MapError, match=r"unit=: expected one of .* got unit 'uK'"):
        open_polarisation_map(path, unit="uK")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_are_refused_where_read(tmp_path, value):
    qu = ramp()
    qu[1, [30, 20]] = value
    opened = open_polarisation_map(write_raw(tmp_path / "m.fits", stokes_columns(qu=qu)))
    assert np.isfinite(opened.read(np.arange(20))).all()
    message = "NaN or Inf in 2 of 91 pixels of this block, the first at RING pixel 20; mark"
    with pytest.raises(MapError, match=message):
        opened.read(np.arange(9, 100))


@pytest.mark.parametrize(
    ("pixels", "error", "message"),
    [
        (np.array([0, 192]), MapError, "expected pixels from 0 to 191 .* got 0 to 192"),
        (np.array([-1]), MapError, "got -1 to -1"),
        (np.ones(N_PIX, bool), ShapeError, "got bool .* numpy.flatnonzero"),
        (np.array([[1]]), ShapeError, r"shape \(1, 1\)"),
    ],
)
def test_bad_pixels(tmp_path, pixels, error, message):
    opened = open_polarisation_map(write_raw(tmp_path / "m.fits"))
    with pytest.raises(error, match=message):
        opened.read(pixels)


def test_no_pixels_is_no_error(tmp_path):
    opened = open_polarisation_map(write_raw(tmp_path / "m.fits"))
    assert opened.read(np.array([], dtype=int)).shape == (2, 0)


def test_same_sky(tmp_path):
    ring = open_polarisation_map(write_raw(tmp_path / "a.fits"))
    nest = open_polarisation_map(write_raw(tmp_path / "b.fits", ORDERING="NESTED"))
    other = open_polarisation_map(write_raw(tmp_path / "c.fits", COORDSYS="C"))
    check_same_sky({"11 GHz": ring, "13 GHz": nest})
    with pytest.raises(MapError, match="11 GHz: Nside 4, frame G; 13 GHz: Nside 4, frame C; bring"):
        check_same_sky({"11 GHz": ring, "13 GHz": other})
