"""A user's Q,U map as the target: what is read of it, and what is said of what it does not say."""

import warnings

import astropy.units as u
import healpy as hp
import numpy as np
import pytest
from astropy.io import fits

from foreglow.dust.load import load_sky
from foreglow.dust.polarised_target import read_polarised
from foreglow.dust.stitch import target_maps
from foreglow.errors import MapError, ShapeError
from foreglow.hi_cube.arrays import as_cube
from foreglow.maps.conventions import MapWarning

UK_RJ = u.def_unit("uK_RJ", u.uK)
NSIDE = 8
N_PIX = hp.nside2npix(NSIDE)
VELOCITY = np.arange(4) * u.km / u.s
RNG = np.random.default_rng(0)
IQU = np.stack([np.full(N_PIX, 50.0), *RNG.normal(size=(2, N_PIX))]).astype("f4")
QU = IQU[1:]
STATED = {"frame": "G", "convention": "COSMO"}
ORDER = hp.nest2ring(NSIDE, np.arange(N_PIX))


@pytest.fixture(scope="module")
def cube():
    return as_cube(np.zeros((4, N_PIX), "f4"), VELOCITY, "K", frame="G")


@pytest.fixture
def write(tmp_path):
    """Writes a table of columns by name, with units and cards."""

    def written(columns, units=(), name="dust.fits", **cards):
        units = [*units, *["uK_RJ"] * len(columns)]
        table = fits.BinTableHDU.from_columns(
            [
                fits.Column(name, "D", unit or None, array=values)
                for (name, values), unit in zip(columns.items(), units, strict=False)
            ]
        )
        usual = {"ORDERING": "RING", "NSIDE": NSIDE, "COORDSYS": "G", "POLCCONV": "COSMO"}
        for key, value in (usual | cards).items():
            if value is not None:
                table.header[key] = value
        table.writeto(tmp_path / name)
        return tmp_path / name

    return written


def two(q=QU[0], v=QU[1], **more):
    return {"Q_STOKES": q, "U_STOKES": v, **more}


def read(dust, cube, unit=None, nest=False, **words):
    return read_polarised(dust, unit, cube, nest, **words)


def load(dust, cube, **words):
    sky = load_sky(cube, dust, np.ones(N_PIX), 0, 3, target="polarisation", **words)
    return target_maps(sky.cube)


# ---- what is read -----------------------------------------------------------------------------


def test_a_file(write, cube):
    path = write({"I_STOKES": IQU[0], **two()})
    found = read(path, cube)
    np.testing.assert_array_equal(found.qu, QU)
    np.testing.assert_array_equal(found.intensity, IQU[0])
    assert (found.unit, found.name) == ("uK_RJ", str(path))


def test_any_ordering_convention_and_gap(write, cube):
    q, v = QU[:, ORDER].astype(float)
    q[5] = hp.UNSEEN
    v[7] = -9999.0
    with pytest.warns(MapWarning, match=r"hold one of Q and U and not the other; neither is taken"):
        found = read(write(two(q, -v), ORDERING="NESTED", POLCCONV="IAU", BAD_DATA=9999.0), cube)
    expected = QU.copy()
    expected[:, ORDER[[5, 7]]] = np.nan
    np.testing.assert_array_equal(found.qu.astype("f4"), expected)


@pytest.mark.parametrize("unit", ["K_CMB", "uK_RJ", "MJy/sr"])
def test_the_unit_is_carried_along(write, cube, unit):
    assert read(write(two(), [unit, unit]), cube).unit == unit
    assert read(write(two(), ["", ""], name="b.fits"), cube, unit).unit == unit


def test_what_the_text_says(write, cube, tmp_path):
    path = write({"A": QU[0], "B": QU[1], "C": QU[1]}, [""] * 3)
    found = read(f"{path}[A,C] in mK_CMB", cube)
    np.testing.assert_array_equal(found.qu, QU)
    assert found.unit == "mK_CMB"
    q = write({"Q": QU[0]}, name="q.fits")
    v = write({"U": QU[1]}, name="u.fits")
    found = read(f"{q},{v}", cube)
    np.testing.assert_array_equal(found.qu, QU)
    assert found.name == f"{q},{v}"


def test_arrays(cube):
    quantity = u.Quantity(IQU, UK_RJ)
    found = read(quantity, cube, **STATED)
    np.testing.assert_array_equal(found.qu, QU)
    np.testing.assert_array_equal(found.intensity, IQU[0])
    assert (found.unit, found.name) == ("uK_RJ", "dust")
    np.testing.assert_array_equal(read(QU[:, ORDER], cube, "K_CMB", True, **STATED).qu, QU)
    iau = read(QU, cube, "K_CMB", frame="G", convention="IAU")
    np.testing.assert_array_equal(iau.qu, [QU[0], -QU[1]])
    for rows in ([u.Quantity(row, UK_RJ) for row in QU], list(u.Quantity(QU, UK_RJ))):
        np.testing.assert_array_equal(read(rows, cube, **STATED).qu, QU)


def test_masks_of_rows_in_a_list_stay(cube):
    hidden = np.zeros((2, N_PIX), bool)
    hidden[0, 3] = hidden[1, 4] = True
    rows = [np.ma.array(row, mask=mask) for row, mask in zip(QU, hidden, strict=True)]
    for given in (rows, np.ma.array(QU, mask=hidden)):
        with pytest.warns(MapWarning, match=r"dust: 0\.0026 of its pixels hold one of Q and U"):
            found = read(given, cube, "uK_RJ", **STATED)
        assert np.flatnonzero(np.isnan(found.qu).all(0)).tolist() == [3, 4]


def test_zeros_are_not_observed(cube):
    part = np.where(np.arange(N_PIX) < 200, 0, QU)
    with pytest.warns(MapWarning, match=r"Q and U are both exactly 0 in 0\.26 of its pixels; thes"):
        found = read(part, cube, "uK_RJ", **STATED)
    assert np.isnan(found.qu[:, :200]).all()


def test_another_frame_is_turned(write, cube):
    part = QU.astype(float)
    part[:, :100] = hp.UNSEEN
    columns = {"I_STOKES": IQU[0], **two(*part)}
    found = read(write(columns, ["uK_RJ"] * 3, COORDSYS="C"), cube)
    seen = np.isfinite(found.qu[0])
    assert 0.8 < seen.mean() < 0.9
    np.testing.assert_allclose(found.intensity, IQU[0])
    silent = write(columns, ["uK_RJ"] * 3, name="b.fits", COORDSYS=None)
    again = read(silent, cube, frame="C")
    np.testing.assert_array_equal(again.qu, found.qu)


def test_what_a_file_does_not_state(write, cube):
    path = write(two(), POLCCONV=None)
    with pytest.warns(MapWarning, match="no POLCCONV in the header, taken as COSMO"):
        read(path, cube)
    np.testing.assert_array_equal(read(path, cube, convention="IAU").qu[1], -QU[1])
    with pytest.warns(MapWarning, match="taken as frame='G' and convention='COSMO'"):
        read(QU, cube, "uK_RJ")


# ---- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "units", "cards", "message"),
    [
        (
            {"TEMPERATURE": QU[0]}, [], {},
            r"expected columns of I, Q and U, got columns TEMPERATURE; give a file of the three, "
            r"or learn the intensity \(target='intensity'\)",
        ),
        ({"Q_STOKES": QU[0]}, [], {}, "expected columns of I, Q and U, got columns Q_STOKES; g"),
        (
            {"P": QU[0], "PSI": QU[1]}, [], {},
            r"got columns P, PSI; if these are polarised intensity and angle, make Q = P cos\(2 "
            r"psi\) and U = P sin\(2 psi\) of them, with psi from south towards east",
        ),
        (two(), ["uK_RJ", "K_RJ"], {}, "one unit for Q and U, got uK_RJ for Q_STOKES and K_RJ"),
        (two(), ["", ""], {}, r"\(TUNIT\) for column Q_STOKES, got none; pass dust_unit= as"),
        (two(), ["K", "K"], {}, r"got unit 'K', which does not say thermodynamic .*pass dust_un"),
        (
            {"Q_STOKES": QU[0][:48], "U_STOKES": QU[1][:48]}, [], {"NSIDE": 2},
            "expected a map of Nside 8, as the cube cube, got Nside 2; bring it there: the plain "
            "way is healpy.ud_grade of Q and of U.*prepare the cube at Nside 2",
        ),
        (two(QU[0] * np.inf), [], {}, "expected finite values, got NaN or Inf in 768 of 768"),
        (two(QU[0] * 0, QU[1] * 0), [], {}, "expected Q and U in some pixels, got none that holds"),
        (two(), [], {"POLCCONV": "EAST"}, "expected POLCCONV COSMO or IAU, got POLCCONV = 'EAST'"),
        (two(), [], {"ORDERING": None}, "expected ORDERING RING or NESTED in the header"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*both exactly 0", "ignore:invalid value:RuntimeWarning")
def test_bad_files(write, cube, columns, units, cards, message):
    with pytest.raises(MapError, match=message):
        read(write(columns, units, **cards), cube)


def test_p_and_psi_by_name_are_not_q_and_u(write, cube):
    path = write({"P": QU[0], "PSI": QU[1]})
    with pytest.raises(MapError, match="expected the column of Q, got P, whose name says somethin"):
        read(f"{path}[P,PSI]", cube)
    one, other = write({"P": QU[0]}, name="p.fits"), write({"PSI": QU[1]}, name="psi.fits")
    with pytest.raises(MapError, match="expected one column Q_STOKES"):
        read(f"{one},{other}", cube)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            {"convention": "IAU"},
            "agrees with convention='IAU', got POLCCONV = 'COSMO'; correct the",
        ),
        ({"frame": "C"}, "agrees with frame='C', got COORDSYS = 'G'; correct the one"),
        ({"unit": "K_CMB"}, r"the unit K_CMB, as given \(dust_unit=\), got 'uK_RJ'"),
        ({"unit": "mag"}, "dust_unit=: expected one of K_CMB, .* got unit 'mag'"),
        ({"convention": "east"}, "convention=: expected the polarisation convention COSMO"),
        ({"frame": "B1950"}, "frame=: expected a frame G"),
    ],
)
def test_words_that_contradict_a_file(write, cube, words, message):
    with pytest.raises(MapError, match=message):
        read(write(two()), cube, **words)


def test_files_that_are_none(write, cube, tmp_path):
    path = write(two())
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(MapError, match=r"dust.fits: truncated"):
        read(path, cube)
    (tmp_path / "text.fits").write_text("Q U\n1 2\n")
    with pytest.raises(MapError, match="expected a HEALPix FITS file, got one that cannot be rea"):
        read(tmp_path / "text.fits", cube)
    with pytest.raises(MapError, match="no such file; check the path"):
        read("nowhere.fits", cube)
    with pytest.raises(
        MapError, match=r"dust=: expected a map of Q and U, got .*leave out `as rms"
    ):
        read(f"{path} as rms in uK_RJ", cube)


@pytest.mark.parametrize(
    ("dust", "error", "message"),
    [
        (
            QU[0],
            ShapeError,
            r"dust=: expected I, Q and U of shape \(3, n_pix\), got.*'intensity'",
        ),
        (QU.T, ShapeError, r"dust: expected an array of shape \(2, n_pix\) .* got \(768, 2\)"),
        (np.ones((4, N_PIX)), ShapeError, r"expected an array of shape .*, got \(4, 768\)"),
        (QU[:, :700], ShapeError, r"dust=: expected 768 pixels, Nside 8 .*, got shape \(2, 700\)"),
        (
            np.ones((2, 192)),
            ShapeError,
            "got Nside 4; bring it there: the plain way is healpy.ud_g",
        ),
        (QU + 1j * QU, MapError, "dust: expected numbers, got complex"),
        ([QU[0], QU[1][:5]], MapError, r"dust=: expected maps .* got shape \(768,\), shape \(5,\)"),
        ([QU[0] * u.K, QU[1] * u.mag], MapError, "got shape .* in K, shape .* in mag"),
        (3.0, MapError, "dust=: expected a file of Q and U, or an array .*, got float"),
        (QU * np.nan, MapError, "expected Q and U in some pixels, got none"),
        (QU * np.inf, MapError, "expected finite values, got NaN or Inf"),
    ],
)
def test_bad_arrays(cube, dust, error, message):
    with pytest.raises(error, match=message):
        read(dust, cube, "uK_RJ", **STATED)


def test_units_of_arrays(cube):
    with pytest.raises(MapError, match="for column Q, got none; pass dust_unit= as one of K_CMB"):
        read(QU, cube, **STATED)
    with pytest.raises(MapError, match=r"'K', which does not say thermodynamic .* pass dust_unit="):
        read(QU * u.K, cube, **STATED)
    assert read(QU * u.K, cube, "K_CMB", **STATED).unit == "K_CMB"


def test_an_array_that_states_another_convention(cube):
    stated = u.Quantity(QU, UK_RJ)
    stated.info.meta = {"frame": "G", "convention": "COSMO"}
    with pytest.raises(MapError, match="an array of convention='IAU', as given, got 'COSMO' in it"):
        read(stated, cube, convention="IAU")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read(stated, cube, convention="cosmo").qu, QU)


# ---- what a training asks of it ---------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::foreglow.maps.conventions.MapWarning")
@pytest.mark.parametrize(
    ("columns", "units", "got"),
    [
        (two(), (), "got Q and U alone; give a map of the three"),
        (two(I_STOKES=IQU[0]), ("", "", "K_RJ"), "got K_RJ of I_STOKES and uK_RJ of Q_STOKES; gi"),
        (two(I_STOKES=IQU[0] * np.nan), (), r"got an intensity that cannot be read \(.*NaN or"),
    ],
)
def test_a_training_needs_the_intensity_in_the_same_map(write, cube, columns, units, got):
    units = [unit or "uK_RJ" for unit in units]
    with pytest.raises(MapError, match=got):
        load(write(columns, units), cube)


def test_files_of_q_and_of_u_lack_the_intensity(write, cube):
    files = [write({name: QU[0]}, name=f"{name}.fits") for name in "QU"]
    with pytest.raises(MapError, match="got Q and U in files of their own; give a map of the th"):
        load(",".join(map(str, files)), cube)


def test_arrays_of_a_training_are_said_to_be_iau(recwarn):
    gas = 50 + np.abs(np.random.default_rng(1).normal(size=N_PIX))
    cube = as_cube(np.tile(gas, (4, 1)), VELOCITY, "K", frame="G")
    dust = np.stack([gas, *(3 * QU)])
    cosmo = load(u.Quantity(dust, UK_RJ), cube, frame="G", convention="COSMO")
    iau = load(dust * [[1], [1], [-1]], cube, dust_unit="uK_RJ", frame="G", convention="IAU")
    np.testing.assert_array_equal(iau, cosmo)
    assert not [w for w in recwarn if "states" in str(w.message)]
