"""What surveys and scripts write that no header ought to: read as it is meant, or refused."""

from dataclasses import replace

import healpy as hp
import numpy as np
import pytest
from astropy.io import fits

from foreglow.errors import MapError
from foreglow.maps.conventions import MapWarning
from foreglow.maps.io import open_intensity_map, open_plain_map, open_polarisation_map
from healpix_tables import ALL, N_PIX, ramp, stokes_columns, write_raw


@pytest.mark.parametrize("where", ["table", "primary"])
@pytest.mark.parametrize(("key", "value", "sign"), [
    ("POLCCONV", "IAU", -1), ("POLCONV", "IAU", -1), ("POLCONV", "COSMO", 1),
])  # fmt: skip
def test_the_convention_is_read_wherever_and_however_it_is_written(
    tmp_path, where, key, value, sign
):
    cards = {"COORDSYS": "GALACTIC", key: value}
    place = cards if where == "table" else {"primary": cards}
    dropped = [k for k in ("POLCCONV", "COORDSYS") if k not in place]
    path = write_raw(tmp_path / "m.fits", drop=dropped, **place)
    opened = open_polarisation_map(path)
    assert opened.frame == "G"
    np.testing.assert_array_equal(opened.read(ALL), ramp() * [[1], [sign]])


def test_conventions_that_contradict_each_other(tmp_path):
    path = write_raw(tmp_path / "m.fits", POLCONV="IAU")
    with pytest.raises(MapError, match="got POLCCONV = 'COSMO', POLCONV = 'IAU'; correct the head"):
        open_polarisation_map(path)


@pytest.mark.parametrize("bad", [-9999.0, 0.0, -3.40282e38, "nan"])
@pytest.mark.parametrize("where", ["table", "primary"])
def test_bad_data_of_the_header_is_not_observed(tmp_path, where, bad):
    qu = ramp().astype(np.float32)
    qu[0, 3] = np.float32(bad)
    cards = {"BAD_DATA": bad}
    path = write_raw(
        tmp_path / "m.fits",
        stokes_columns(qu=qu),
        **(cards if where == "table" else {"primary": cards}),
    )
    read = open_polarisation_map(path).read(ALL)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(read[1])), [3])


def test_bad_data_that_is_no_number(tmp_path):
    path = write_raw(tmp_path / "m.fits", BAD_DATA="UNSEEN")
    with pytest.raises(MapError, match=r"expected a number in BAD_DATA, .* got 'UNSEEN'; correct"):
        open_polarisation_map(path)


@pytest.mark.parametrize(
    "column",
    [
        {"format": "B"},
        {"format": "B", "bzero": -128},
        {"format": "I"},
        {"format": "I", "bzero": 2**15},
        {"format": "J"},
        {"format": "J", "bzero": 2**31},
        {"format": "K"},
        {"format": "K", "bzero": 2**63},
    ],
)
def test_pixel_numbers_of_any_integer_type(tmp_path, column):
    types = {"B": "u1", "I": "i2", "J": "i4", "K": "i8"}
    type_ = types[column["format"]]
    if "bzero" in column:
        type_ = "i1" if type_ == "u1" else type_.replace("i", "u")
    pixels = np.array([100, 3, 50]).astype(type_)
    columns = [fits.Column(name="PIXEL", array=pixels, **column), *stokes_columns(qu=ramp(3))]
    path = write_raw(tmp_path / "m.fits", columns, INDXSCHM="EXPLICIT")
    read = open_polarisation_map(path).read(np.array([3, 4, 100]))
    np.testing.assert_array_equal(read, [[2, np.nan, 1], [-3, np.nan, -1]])


def test_pixel_numbers_beyond_the_sky_in_unsigned_64_bits(tmp_path):
    pixels = np.array([1, 2**63 + 5], "u8")
    columns = [
        fits.Column(name="PIXEL", format="K", bzero=2**63, array=pixels),
        *stokes_columns(qu=ramp(2)),
    ]
    path = write_raw(tmp_path / "m.fits", columns, INDXSCHM="EXPLICIT")
    with pytest.raises(MapError, match=f"below 192 .* got 1 to {2**63 + 5}; correct NSIDE"):
        open_polarisation_map(path)


@pytest.mark.parametrize(
    ("value", "beam"),
    [
        ((60.0, "[arcmin]"), 60.0),
        ((60.0, "of the degraded map [arcmin]"), 60.0),
        ((60.0, "arcmin, degraded"), 60.0),
        ((1.0, "[deg] from 5 arcmin"), 60.0),
        ((3600.0, "beam [arcsec]"), 60.0),
        ((np.pi / 180, "radians"), 60.0),
        (("60 arcmin", ""), 60.0),
        ((60.0, "of the degraded map"), None),
        ((60.0, "arcmin or deg"), None),
        (("60 arcmin", "[deg]"), None),
        (("wide", "[deg]"), None),
        (("1e", "[deg]"), None),
    ],
)
def test_the_unit_of_a_beam_is_a_word(tmp_path, value, beam):
    found = open_polarisation_map(write_raw(tmp_path / "m.fits", FWHM=value)).beam_arcmin
    assert found == (None if beam is None else pytest.approx(beam))


@pytest.mark.parametrize("text", ["unknown", "Unknown", "n/a", "none", "NONE", "-", "(unknown)"])
def test_a_unit_that_says_nothing_is_as_one_absent(tmp_path, text):
    path = write_raw(tmp_path / "m.fits", stokes_columns(units=(text, text)))
    assert open_polarisation_map(path, "uK_RJ").unit == "uK_RJ"
    with pytest.raises(MapError, match="for column Q_STOKES, got none; pass unit="):
        open_polarisation_map(path)


@pytest.mark.parametrize(
    ("stated", "given"),
    [("MJy/sr", "uK_RJ"), ("mK", "uK_CMB"), ("mag", "K_CMB"), ("K_RJ", "K_CMB")],
)
def test_a_unit_against_the_header_is_refused(tmp_path, stated, given):
    path = write_raw(
        tmp_path / "m.fits", stokes_columns(("I", "Q", "U"), (stated,) * 3, np.ones((3, N_PIX)))
    )
    message = f"expected the unit {given}, as given .*, got {stated!r} in the header .*TUNIT of"
    for opener in (open_polarisation_map, open_intensity_map):
        with pytest.raises(MapError, match=message):
            opener(path, given)
    with pytest.raises(MapError, match=message):
        open_polarisation_map(f"{path} in {given}")


def test_a_unit_that_nobody_knows_gives_way_to_what_is_said_aloud(tmp_path):
    path = write_raw(tmp_path / "m.fits", stokes_columns(units=("furlong", "furlong")))
    with pytest.warns(MapWarning, match="'furlong', is no unit .*; taken as uK_RJ, as given"):
        assert open_polarisation_map(path, "uK_RJ").unit == "uK_RJ"


def test_what_is_said_of_one_file_counts_before_what_is_said_of_all(tmp_path):
    path = write_raw(tmp_path / "m.fits", stokes_columns(units=("mK", "")))
    assert open_polarisation_map(f"{path} in mK_CMB", "uK_RJ").unit == "mK_CMB"


@pytest.mark.parametrize("names", [("Q_STOKES", "U_STOKES"), ("SIGNAL", "TEMPERATURE")])
def test_q_and_u_in_files_of_their_own(tmp_path, names):
    files = []
    for name, order, values in zip(names, ("RING", "NESTED"), ramp(), strict=True):
        stored = hp.reorder(values, r2n=True) if order == "NESTED" else values
        columns = stokes_columns([name], ["mK"], [stored])
        files.append(write_raw(tmp_path / f"{name}.fits", columns, ORDERING=order, POLCCONV="IAU"))
    opened = open_polarisation_map(f"{files[0]},{files[1]} in mK_CMB")
    assert (opened.unit, opened.ordering) == ("mK_CMB", "RING")
    np.testing.assert_array_equal(opened.read(ALL), ramp() * [[1], [-1]])


def test_q_and_u_in_files_that_do_not_go_together(tmp_path):
    q, u = (
        write_raw(tmp_path / f"{n}.fits", stokes_columns([n], ["mK_RJ"], [ramp()[0]])) for n in "QU"
    )
    turned = write_raw(
        tmp_path / "c.fits", stokes_columns(["U"], ["mK_RJ"], [ramp()[0]]), COORDSYS="C"
    )
    other = write_raw(tmp_path / "k.fits", stokes_columns(["U"], ["K_RJ"], [ramp()[0]]))
    for text, message in (
        (
            f"{u},{q}",
            "expected one column Q_STOKES .* in the file given for Q, got columns U; give",
        ),
        (f"{q},{turned}", "expected one Nside and one frame .* frame C"),
        (f"{q},{other}", "expected one unit for Q and U, got mK_RJ for Q and K_RJ for U"),
        (f"{q},{u} as rms", "expected a map of Q and U, .* leave out `as rms`"),
    ):
        with pytest.raises(MapError, match=message):
            open_polarisation_map(text)


def test_truth_values_are_a_mask_and_no_map(tmp_path):
    seen = ALL % 3 > 0
    hp.write_map(
        tmp_path / "m.fits",
        [seen, ~seen],
        dtype=bool,
        coord="G",
        extra_header=[("POLCCONV", "COSMO")],
    )
    for number, name in enumerate(("Q_POLARISATION", "U_POLARISATION")):
        read = open_plain_map(f"{tmp_path / 'm.fits'}[{name}]").read(ALL)
        np.testing.assert_array_equal(read, seen == (number == 0))
    with pytest.raises(MapError, match=r"expected numbers, got truth values in column Q_POL.*"):
        open_polarisation_map(tmp_path / "m.fits", "uK_RJ")


def test_exact_zeros_are_kept_unless_asked(tmp_path):
    qu = ramp()
    qu[:, :10] = 0
    qu[0, 10] = 0
    opened = open_polarisation_map(write_raw(tmp_path / "m.fits", stokes_columns(qu=qu)))
    assert opened.share_of_zeros(1 << 14) == 10 / N_PIX
    np.testing.assert_array_equal(opened.read(ALL), qu)
    qu[:, :10] = np.nan
    np.testing.assert_array_equal(replace(opened, zero_is_unobserved=True).read(ALL), qu)
