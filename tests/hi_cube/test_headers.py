"""What headers of image cubes say, in all the ways they say it, and what they cannot mean."""

import re

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from foreglow.errors import MapError
from foreglow.hi_cube.cards import unit_factor
from foreglow.hi_cube.image_cube import open_image_cube
from foreglow.maps.conventions import MapWarning
from hi_cubes import HI4PI_STEP, hi4pi_header, raw_fits, write_fits

SHAPE = (3, 10, 20)
KMS = -3 + 1e-3 * HI4PI_STEP * np.arange(3)


@pytest.fixture
def look(tmp_path):
    """The cube that a changed header makes, opened and closed again."""

    def call(beam_arcmin=None, velocity_table=None, **changes):
        path = tmp_path / "c.fits"
        write_fits(path, np.ones(SHAPE, np.float32), hi4pi_header(SHAPE, 2.0, **changes))
        with open_image_cube(path, None, beam_arcmin, velocity_table) as cube:
            return cube

    return call


def set_as_told(message):
    """Run the call of astropy that a message names."""
    call = re.search(r"astropy\.io\.fits\.(setval\(.*?ext=\d\))", str(message))
    exec(call[1], {"setval": fits.setval})


# ---- units -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "factor"),
    [
        *((text, 1.0) for text in ("km/s", "km s-1", "km.s-1", "km / s", "kms-1", "km/sec", "KM/S",
          "KM S-1", "km s^-1", "km*s**-1", "km s**(-1)", "kilometers/second", "km per s", "kms",
          "10**3 m/s")),
        *((text, 1e-3) for text in ("m/s", "M/S", "m/S", "m s-1", "ms-1", "M/SEC", "metres/sec",
          "m.s**-1")),
        ("cm/s", 1e-5),
        ("Mm/s", 1e3),  # as it is written, whatever it means
        *((text, None) for text in ("Hz", "km", "s", "m/s/Hz", "", "channel", "deg")),
    ],
)  # fmt: skip
def test_spellings_of_a_velocity(text, factor):
    found = unit_factor(text, "km/s")
    assert found == (factor if factor is None else pytest.approx(factor))


@pytest.mark.parametrize(
    ("text", "factor"),
    [
        *((text, 1.0) for text in ("deg", "DEG", "degree", "Degrees")),
        *((text, 1 / 60) for text in ("arcmin", "ARCMIN", "arcminutes")),
        *((text, 1 / 3600) for text in ("arcsec", "arcsecs", "arcsecond")),
        ("rad", 180 / np.pi),
        ("pixel", None),
    ],
)
def test_spellings_of_an_angle(text, factor):
    found = unit_factor(text, "deg")
    assert found == (factor if factor is None else pytest.approx(factor))


def test_no_unit_is_that_of_the_standard_where_it_can_be(look):
    with pytest.warns(MapWarning, match=r"\(CUNIT3\), taken as m/s, .*: channels 1.288 km/s wide"):
        assert look(CUNIT3=None).velocity.kms == pytest.approx(KMS)


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ({"CUNIT3": None, "CDELT3": 2.0}, r"in CUNIT3, .* got 'none' for channels 2 wide"),
        ({"CUNIT3": "speed", "CDELT3": 2.0}, r"in CUNIT3, .* got 'speed' for channels 2 wide"),
        ({"CUNIT3": "m/s", "CDELT3": -2.0}, r"0.05 to 100 km/s wide, got 0.002 km/s by CUNIT3"),
        ({"CUNIT3": "km/s"}, r"0.05 to 100 km/s wide, got 1288 km/s by CUNIT3 = 'km/s'"),
        ({"CUNIT3": "speed"}, r"in CUNIT3, .* got 'speed' for channels 1288.23 wide"),
    ],
)
def test_a_unit_that_the_numbers_contradict(look, tmp_path, cards, message):
    """And what the message says to do gives the likely width, never a thousandth of it."""
    with pytest.raises(MapError, match=message) as refused:
        look(**cards)
    set_as_told(refused.value)
    with open_image_cube(tmp_path / "c.fits") as cube:
        assert 1 < np.diff(cube.velocity.kms)[0] < 3


def test_what_to_set_is_in_the_hdu_of_the_image(tmp_path):
    path = tmp_path / "c.fits"
    cards = hi4pi_header(SHAPE, 2.0, CUNIT3=None, CDELT3=2.0)
    image = fits.ImageHDU(np.ones(SHAPE, np.float32), cards)
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(path)
    with pytest.raises(MapError, match=r"value='km/s', ext=1\)") as refused:
        open_image_cube(path).__enter__()
    set_as_told(refused.value)
    with open_image_cube(path) as cube:
        assert np.diff(cube.velocity.kms) == pytest.approx(2.0)


def test_numbers_that_either_unit_would_suit_are_asked_for(look):
    with pytest.raises(MapError, match=r"for channels 70 wide; .*value=UNIT") as refused:
        look(CUNIT3=None, CDELT3=70.0)
    assert "velocity_table=" in str(refused.value)


# ---- velocities ------------------------------------------------------------------------------

REST = {"RESTFRQ": 1420405751.768, "RESTWAV": None}
OPTICAL = {"CRVAL3": -3000.0, "CRPIX3": 1.0, **REST}


@pytest.mark.parametrize(
    "cards",
    [
        {"CTYPE3": "FREQ", "CUNIT3": "Hz", "CRVAL3": 1.42e9, "CDELT3": -6000.0, **REST},
        {"CTYPE3": "WAVE", "CUNIT3": "m", "CRVAL3": 0.211, "CDELT3": 1e-6, **REST},
        {"CTYPE3": "VOPT", **OPTICAL},
        {"CTYPE3": "VOPT-F2W", **OPTICAL},
        {"CTYPE3": "FELO-LSR", **OPTICAL, "SPECSYS": None, "RESTFRQ": None},
        {"CTYPE3": "VELO-LSR", "VELREF": 1, **OPTICAL},
        {"CTYPE3": "VRAD-W2F", **OPTICAL},
    ],
)
@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")
def test_other_axes_are_read_by_the_table_of_the_message(look, tmp_path, cards, monkeypatch):
    with pytest.raises(MapError, match="velocity_table=") as refused:
        look(**cards)
    monkeypatch.chdir(tmp_path)
    exec(str(refused.value).partition("Python makes it: ")[2])
    table = tmp_path / "velocities.txt"
    velocity = look(velocity_table=table, **cards).velocity
    written = np.loadtxt(table)
    assert velocity.kms == pytest.approx(np.sort(written))
    if "CRPIX3" in cards:  # optical and radio velocity differ by v^2 / c
        assert velocity.kms[0] == pytest.approx(-3.0, abs=1e-4)


@pytest.mark.parametrize(
    "cards", [{"SPECSYS": None}, {"CUNIT3": "speed"}, {"CTYPE3": "HEIGHT"}, {"VELREF": "LSRK"},
              {"CDELT3": "2000 m/s"}]
)  # fmt: skip
def test_a_table_answers_whatever_is_asked_of_velocities(look, tmp_path, cards):
    with pytest.raises(MapError):
        look(**cards)
    table = tmp_path / "v.txt"
    table.write_text("5\n3\n1\n")
    velocity = look(velocity_table=table, **cards).velocity
    assert (velocity.kms.tolist(), velocity.flipped) == ([1.0, 3.0, 5.0], True)


def test_a_table_that_a_header_contradicts(look, tmp_path):
    table = tmp_path / "v.txt"
    np.savetxt(table, KMS)
    assert look(velocity_table=table).velocity.kms == pytest.approx(KMS)  # agrees: not a word
    np.savetxt(table, KMS[::-1])
    with pytest.warns(MapWarning, match=r"first channel at -3 .*v.txt at -0.423.* is taken"):
        look(velocity_table=table)
    with pytest.raises(MapError, match="SPECSYS says BARYCENT"):
        look(velocity_table=table, SPECSYS="BARYCENT")
    table.write_text("0\n1288\n2576\n")
    with pytest.warns(MapWarning, match="channels 1288 km/s wide, .*check that the numbers are km"):
        look(velocity_table=table, SPECSYS=None)


# ---- text where a number belongs ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "text"),
    [("CDELT3", "2000 m/s"), ("VELREF", "LSRK"), ("CRVAL1", "0h"), ("CDELT2", "2 deg"),
     ("CRPIX3", "first"), ("PC1_1", "one"), ("CROTA2", "none"), ("LONPOLE", "north"),
     ("EQUINOX", "B1950"), ("BSCALE", "unity"), ("BZERO", "none"), ("BLANK", "none"),
     ("CDELT3", "NaN")],
)  # fmt: skip
def test_text_in_a_card_of_numbers(tmp_path, key, text):
    header = hi4pi_header(SHAPE, 2.0, **{key: text})
    path = tmp_path / "c.fits"
    path.write_bytes(raw_fits(np.ones(SHAPE, np.int16), header))  # astropy would leave some out
    message = rf"expected a number in {key}, got '{text}'; .*'{key}', value=NUMBER, ext=0\)"
    with pytest.raises(MapError, match=message):
        open_image_cube(path).__enter__()


def test_numbers_in_quotes_and_empty_cards(look):
    cube = look(CDELT3="1288.23448620083", BMAJ="0.2706", CROTA2="", VELREF="", BSCALE=" ")
    assert cube.velocity.kms == pytest.approx(KMS)
    assert cube.beam_arcmin == pytest.approx(16.236)


def test_a_card_that_fits_does_not_know_as_a_value(tmp_path):
    path = write_fits(tmp_path / "c.fits", np.ones(SHAPE, np.float32), hi4pi_header(SHAPE, 2.0))
    content = path.read_bytes()
    at = content.index(b"CDELT3  =")
    card = b"CDELT3  = 1288.2 m/s".ljust(80)
    path.write_bytes(content[:at] + card + content[at + 80 :])
    with pytest.raises(MapError, match=r"in CDELT3, got .*not a value of FITS") as refused:
        open_image_cube(path).__enter__()
    set_as_told(str(refused.value).replace("NUMBER", "1288.2"))
    with open_image_cube(path) as cube:
        assert np.diff(cube.velocity.kms) == pytest.approx(1.2882)


# ---- the grid --------------------------------------------------------------------------------

ZEROS = {f"PC{i}_{j}": 0.0 for i in (1, 2, 3) for j in (1, 2, 3) if i != j}


@pytest.mark.parametrize(
    "cards",
    [
        {"CUNIT1": "arcmin", "CRVAL1": 3600.0, "CDELT1": -120.0},
        {"CUNIT1": "arcsec", "CRVAL1": 216000.0, "CDELT1": -7200.0, "CUNIT2": "DEGREES"},
        {"CUNIT2": "arcmin", "CDELT2": 120.0},
        ZEROS,
        {f"PC0{i}_0{j}": float(i == j) for i in (1, 2, 3) for j in (1, 2, 3)},
        {f"PC00{i}00{j}": float(i == j) for i in (1, 2, 3) for j in (1, 2, 3)},
        {"CDELT1": None, "CD01_01": -2.0, "CD02_02": 2.0, "CD03_03": HI4PI_STEP, "CD01_02": 0.0},
        {"CUNIT1": "arcmin", "CRVAL1": 3600.0, "CD1_1": -120.0, "CD2_2": 2.0},
    ],
)
@pytest.mark.parametrize("kind", ["CAR", "SIN"])
def test_other_ways_to_write_a_grid(look, cards, kind):
    """Pixels lie where those of the plain header lie, and all of it is for cylinders upright."""
    kinds = {"CTYPE1": f"GLON-{kind}", "CTYPE2": f"GLAT-{kind}", "CRVAL1": 60.0, "LATPOLE": None}
    plain, other = look(**kinds), look(**{**kinds, **cards})
    corners = ([0.0, 19.0, 5.0], [0.0, 9.0, 0.0])
    expected, found = (c.wcs.pixel_to_world(*corners) for c in (plain, other))
    assert found.separation(expected).deg.max() < 1e-9
    assert other.velocity.kms == pytest.approx(KMS)


def test_a_grid_around_the_sky_in_arcmin(look):
    """It is found to go around, and has its ends joined, in any unit and form of the matrix."""
    shape = {"CDELT1": -1080.0, "CUNIT1": "arcmin", "PC01_02": 0.0, "PC01_01": 1.0}
    assert look(**shape).shape == (10, 22)


def test_a_turned_grid_is_as_astropy_has_it(look, tmp_path):
    cards = {"PC01_01": 0.8, "PC01_02": -0.6, "PC02_01": 0.6, "PC02_02": 0.8, "CRVAL1": 60.0}
    cube = look(**cards)
    plain = {key.replace("0", ""): value for key, value in cards.items() if key[:2] == "PC"}
    header = hi4pi_header(SHAPE, 2.0, CRVAL1=60.0, **plain)
    expected = WCS(header).celestial.pixel_to_world(3.0, 4.0)
    assert cube.wcs.pixel_to_world(3.0, 4.0).separation(expected).deg < 1e-9


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ({"CDELT1": -120.0}, r"20 pixels of CDELT1 = -120.0 deg, 2400 deg; .*'CUNIT1', value=UNIT"),
        ({"CUNIT2": "pixel"}, r"the unit of an angle in CUNIT2, got 'pixel'; .*value='deg'"),
        ({"CDELT1": 0.0}, r"expected a projection of the sky|axes"),
    ],
)
def test_grids_that_cannot_be(look, cards, message):
    with pytest.raises(MapError, match=message):
        look(**cards)


# ---- beams -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cards", "why"),
    [
        ({"BMAJ": 972.0, "BMIN": 972.0}, "got BMAJ = 972, which would be 5.832e+04 arcmin with pi"),
        ({"BMAJ": 16.2, "BMIN": None}, "got BMAJ = 16.2, which would be 972 arcmin"),
        ({"BMAJ": -1.0, "BMIN": -1.0}, "got BMAJ = -1, which would be -60 arcmin"),
        ({"BMIN": -0.2}, "got BMAJ = 0.2706"),
        ({"BMAJ": None, "RESOL": 16.2}, "got RESOL = 16.2"),
        ({"BMAJ": "16.2 arcmin"}, "got BMAJ = '16.2 arcmin', BMIN = '0.2706'"),
        ({"BMAJ": None}, "no beam in the header"),
        ({"BMAJ": 0.0}, "no beam in the header"),
    ],
)
def test_beams_that_are_none(look, cards, why):
    """They are taken as unknown, with the reason, and an option says what the beam is."""
    cube = look(**cards)
    assert cube.beam_arcmin is None
    assert why in cube.no_beam
    cube = look(beam_arcmin=16.2, **cards)
    assert (cube.beam_arcmin, cube.no_beam) == (16.2, "")
