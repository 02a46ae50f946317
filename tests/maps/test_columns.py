"""Names of columns: what they say, and which are taken for Q and U, intensity and noise."""

import numpy as np
import pytest
from astropy.io import fits

from foreglow.errors import MapError
from foreglow.maps.columns import find_noise, meaning_of
from foreglow.maps.conventions import MapWarning
from foreglow.maps.io import open_intensity_map, open_polarisation_map
from foreglow.maps.table import open_table
from healpix_tables import ALL, N_PIX, ramp, stokes_columns, write_raw

NAMES = {
    ("Q", "signal"): "Q Q_STOKES STOKES_Q Q-POLARISATION Q_POLARIZATION Q_ML_FULL Q_MEAN QSTOKES",
    ("I", "signal"): "I T I_STOKES TEMPERATURE INTENSITY I_ML_FULL DUST",
    ("U", "rms"): "U_RMS RMS_U U_SIGMA SIGMA_U U_NOISE U_NOISE_RMS U_STOKES_ERR U_STDDEV",
    ("", "rms"): "RMS SIGMA NOISE ERROR",
    ("Q", "variance"): "QQ_COV COV_QQ VAR_Q Q_VAR NOISE_VAR_Q Q_VARIANCE SIGMA_SQUARED_Q",
    ("QU", "variance"): "QU_COV COV_QU",
    ("U", "inverse variance"): "WEI_U U_WEIGHT IVAR_U INV_VAR_U INVVAR_U INVCOV_UU",
    ("", "hits"): "HITS NHITS N_OBS NOBS HIT_COUNT N_HITS",
    ("Q", "matrix"): "QQ",
    ("I", "matrix"): "II TT",
    ("", "silent"): ["", " ", "COLUMN_1", "column 2", "UNKNOWN3", "Unknown", "C1"],
    ("", ""): "SIGNAL POLARISED_INTENSITY POLARISATION_ANGLE Q_ML_HM1 GAL070 AME NHI MASK UNIT",
}  # fmt: skip


@pytest.mark.parametrize("meaning", NAMES)
def test_what_names_say(meaning):
    names = NAMES[meaning].split() if isinstance(NAMES[meaning], str) else NAMES[meaning]
    found = {name: (meaning_of(name).stokes, meaning_of(name).kind) for name in names}
    assert found == dict.fromkeys(names, meaning)


def table(tmp_path, names, unit="uK_CMB"):
    values = np.arange(1.0, len(names) + 1)[:, None] * ramp()[0]
    columns = stokes_columns(names, [unit] * len(names), qu=values)
    return write_raw(tmp_path / "m.fits", columns)


@pytest.mark.parametrize(
    ("names", "which"),
    [(("COLUMN_1", "COLUMN_2"), (1, 2)), (("UNKNOWN1", "column 2", "c"), (2, 3))],
)
def test_names_that_say_nothing_are_taken_by_place_with_a_word(tmp_path, names, which):
    path = table(tmp_path, names)
    with pytest.warns(MapWarning, match="taken as Q and U, by their places"):
        opened = open_polarisation_map(path)
    np.testing.assert_array_equal(opened.read(ALL), np.array(which)[:, None] * ramp()[0])


def test_an_intensity_by_its_place_with_a_word(tmp_path):
    path = table(tmp_path, ("COLUMN_1", "COLUMN_2", "COLUMN_3"))
    with pytest.warns(MapWarning, match="COLUMN_1 taken as intensity, by their places"):
        opened = open_intensity_map(path)
    np.testing.assert_array_equal(opened.read(ALL), ramp()[0])


@pytest.mark.parametrize(
    "names",
    [
        ("SIGNAL", "ERROR"),
        ("I_STOKES", "NHITS", "II_COV"),
        ("COLUMN_1", "HITS"),
        ("WEI_Q", "WEI_U"),
        ("QQ", "UU"),
        ("Q", "Q_STOKES", "U"),
    ],
)
def test_q_and_u_are_never_guessed_from_other_names(tmp_path, names):
    path = table(tmp_path, names)
    message = f"got columns {', '.join(names)}; name the two to take, m.fits.Q_COLUMN,U_COLUMN.$"
    with pytest.raises(MapError, match=message):
        open_polarisation_map(path)


def test_the_two_columns_named(tmp_path):
    path = table(tmp_path, ("Q_ML_HM1", "U_ML_HM1", "HITS"))
    opened = open_polarisation_map(f"{path}[q_ml_hm1, U_ML_HM1]")
    np.testing.assert_array_equal(opened.read(ALL), [ramp()[0], 2 * ramp()[0]])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("Q", r"expected two columns, \[Q_COLUMN,U_COLUMN\], got Q; name both"),
        ("U,Q", "expected the column of Q, got U, whose name says something else"),
        ("Q,WEI_U", "expected the column of U, got WEI_U"),
        ("Q,X", "expected one column X, got columns Q, U, WEI_U; name one of them"),
    ],
)
def test_columns_named_wrongly(tmp_path, columns, message):
    path = table(tmp_path, ("Q", "U", "WEI_U"))
    with pytest.raises(MapError, match=message):
        open_polarisation_map(f"{path}[{columns}]")


@pytest.mark.parametrize(
    ("names", "which"),
    [
        (("HITS", "II_COV", "QQ_COV", "QU_COV", "UU_COV"), (2, 4)),
        (("Q", "U", "WEI_I", "WEI_Q", "WEI_U", "COV_QU", "NHITS"), (3, 4)),
        (("T", "N_OBS"), (1, 1)),
        (("TEMPERATURE",), (0, 0)),
        (("II", "IQ", "IU", "QQ", "QU", "UU"), (3, 5)),
        (("I", "SIGMA"), (1, 1)),
    ],
)
def test_noise_is_found(tmp_path, names, which):
    assert find_noise(open_table(table(tmp_path, names))) == list(which)


@pytest.mark.parametrize(
    "names", [("II_COV",), ("Q_RMS",), ("Q_RMS", "U_RMS", "QQ_COV", "UU_COV"), ("A", "B")]
)
def test_noise_is_not_guessed(tmp_path, names):
    message = f"got columns {', '.join(names)}; name what to take, m.fits.Q_COLUMN,U_COLUMN. or"
    with pytest.raises(MapError, match=message):
        find_noise(open_table(table(tmp_path, names)))


def test_a_further_table_is_read_where_its_columns_are_named(tmp_path):
    more = [fits.Column(name=n, format="D", array=np.full(N_PIX, 4.0)) for n in ("QQ", "UU")]
    path = write_raw(tmp_path / "wmap.fits", more=more)
    assert open_table(path).listing == "Q_STOKES, U_STOKES; in a further table: QQ, UU"
    found = open_table(path, ["UU"])
    assert [c.name for c in found.columns] == ["QQ", "UU"]
    assert found.keyword("NSIDE") == "4"
    assert found.column(1).take(ALL[:2]).tolist() == [4.0, 4.0]
