"""Noise of maps: what the columns hold is known or asked for, and the rms is right."""

import healpy as hp
import numpy as np
import pytest
from astropy.io import fits

from foreglow.errors import MapError
from foreglow.maps.conventions import MapWarning
from foreglow.maps.given import GivenFile
from foreglow.maps.noise import open_noise_map, warn_of_one_rms
from healpix_tables import ALL, N_PIX, columns_of, ramp, stokes_columns, write_raw

QU_RMS = (2.0, 2.2)  # of what follows


def noise(tmp_path, unit=None, **values):
    return write_raw(tmp_path / "n.fits", columns_of(unit, **values), drop=["POLCCONV"])


def matrix(tmp_path, unit=None, convention="COSMO", **values):
    return write_raw(tmp_path / "n.fits", columns_of(unit, **values), POLCCONV=convention)


@pytest.mark.parametrize("names", [("SIGMA",), ("Q_RMS", "U_RMS"), ("sigma_q", "sigma_u")])
def test_an_rms(tmp_path, names):
    rms = np.stack([ramp()[0], 1.1 * ramp()[0]])
    rms[:, 9] = hp.UNSEEN
    columns = stokes_columns(names, ["uK_CMB"] * len(names), qu=rms[: len(names)])
    read = open_noise_map(write_raw(tmp_path / "n.fits", columns, drop=["POLCCONV"])).read(ALL)
    rms[:, 9] = np.nan
    np.testing.assert_array_equal(read, rms if len(names) == 2 else rms[[0, 0]])


# what is in the file, its TUNIT, how it is said, unit=
SAID = {
    "variance by unit": ({"QQ_COV": 4.0, "UU_COV": 4.84, "II_COV": 9.0}, "K_CMB^2", "", None),
    "variance, healpy's names": ({"QQ": 4.0, "QU": 0.0, "UU": 4.84}, "(K_CMB)**2", "", None),
    "variance by unit alone": ({"A": 4.0, "B": 4.84}, "K_CMB^2", "[A,B]", None),
    "variance, bare kelvin": ({"QQ_COV": 4.0, "UU_COV": 4.84}, "K^2", "", "K_CMB"),
    "variance, said": ({"QQ": 4.0, "UU": 4.84}, None, " as variance in K_CMB^2", None),
    "weights by unit": ({"WEI_Q": 0.25, "WEI_U": 1 / 4.84}, "1/K_CMB^2", "", None),
    "weights, latex": ({"WEI_Q": 0.25, "WEI_U": 1 / 4.84}, "K_{CMB}^{-2}", "", None),
    "weights, said": (
        {"WEI_Q": 0.25, "WEI_U": 1 / 4.84, "NHITS": 7.0},
        None,
        "[WEI_Q,WEI_U] as inverse  variance in K_CMB^-2",
        None,
    ),
    "weights, unit= for rms": (
        {"WEI_Q": 0.25, "WEI_U": 1 / 4.84},
        "unknown",
        " as inverse variance",
        "K_CMB",
    ),
    "hits": ({"QQ": 9.0, "UU": 9 / 1.21}, None, "[QQ,UU] as hits of 6 K_CMB", "uK_RJ"),
    "hits, counted": ({"Q_HITS": 9.0, "U_HITS": 9 / 1.21}, "counts", " as hits of 6 K_CMB", None),
    "rms, said": ({"X": 2.0, "Y": 2.2}, None, "[X,Y] as rms in K_CMB", None),
    "rms by unit": ({"Q_STOKES": 2.0, "U_STOKES": 2.2}, "K_CMB", "", None),
}


@pytest.mark.parametrize("case", SAID)
def test_every_kind_is_usable_once_it_is_known(tmp_path, case):
    values, tunit, said, unit = SAID[case]
    opened = open_noise_map(f"{noise(tmp_path, tunit, **values)}{said}", unit)
    assert opened.unit == "K_CMB"
    np.testing.assert_allclose(opened.read(ALL), np.broadcast_to(QU_RMS, (N_PIX, 2)).T)


@pytest.mark.parametrize("said", ["", " as variance", " as variance in K_CMB^2"])
def test_one_column_for_both(tmp_path, said):
    path = noise(tmp_path, "K_CMB^2", QQ_COV=4.0, UU_COV=9.0)
    assert (open_noise_map(f"{path}[QQ_COV]{said}").read(ALL) == np.full((2, N_PIX), 2)).all()


@pytest.mark.parametrize("kind", ["inverse variance in K_CMB^-2", "hits of 6 K_CMB"])
def test_without_weight_a_pixel_is_not_observed(tmp_path, kind):
    weight = np.full(N_PIX, 4.0)
    weight[[3, 5]] = 0, hp.UNSEEN
    read = open_noise_map(f"{noise(tmp_path, W=weight)} as {kind}").read(ALL)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(read[1])), [3, 5])
    assert (read[0, [0, 191]] == (0.5 if "-2" in kind else 3.0)).all()


WEIGHTS = {"WEI_Q": 4.0, "WEI_U": 4.0}
MATRIX = {"QQ": 4.0, "UU": 4.0}
COV = {"QQ_COV": 4.0, "UU_COV": 4.0}
HITS = {"N_OBS": 4.0}
SIGMA = {"SIGMA": 4.0}
UNCLEAR = {
    "weights": (WEIGHTS, None, "", "uK_RJ", r"columns WEI_Q,WEI_U of weights, without a unit; .* "
        r"such as '\S+n.fits\[WEI_Q,WEI_U\] as inverse variance in mK_CMB\^-2'"),
    "hits": (HITS, None, "", "uK_RJ", r"of hits, .*n.fits\[N_OBS\] as hits of 1.2 mK_CMB'"),
    "counts": (MATRIX, "counts", "", "uK_RJ", "QQ,UU of hits, without the rms of one hit"),
    "matrix": (MATRIX, None, "", "uK_RJ",
        "QQ,UU without a unit; .* as rms in .* as variance .* as inverse variance .* as hits"),
    "some name": ({"DEPTH": 4.0}, None, "", "uK_RJ", "DEPTH without a unit"),
    "name against unit": (WEIGHTS, "K_CMB", "", None,
        r"fits the name of WEI_Q \(inverse variance\), got 'K_CMB', .* that of rms; if .* as rms'"),
    "kind against unit": (COV, "K_CMB^2", " as rms", None,
        r"expected rms, as given, got 'K_CMB\^2' as unit of QQ_COV, which is that of variance"),
    "unit against unit": (SIGMA, "K_CMB", "", "uK_CMB",
        r"expected uK_CMB, as given .* got 'K_CMB' in the header \(TUNIT of SIGMA\)"),
    "said against unit": (SIGMA, "K_CMB", " in mK_CMB", None, "expected mK_CMB, as given"),
    "kelvin of two kinds": (SIGMA, "mK", "", "uK_CMB", "expected uK_CMB, as given"),
    "no unit": (SIGMA, None, "", None, r"expected a unit \(TUNIT\) .*n.fits in uK_CMB'"),
    "no unit of variance": (COV, None, "", None, r"in uK_CMB\^2'"),
    "power": (MATRIX, None, " as variance in mK_CMB", None,
        r"expected variance, as given, got 'mK_CMB' as unit of QQ, which is that of rms"),
    "no noise": (SIGMA, "mag", "", None, "got unit 'mag' for column SIGMA; convert"),
    "hits alone": (HITS, None, " as hits", None, "hits with the rms of one hit and its unit"),
    "hits of 0": (HITS, None, " as hits of 0 K_CMB", None, "hits with the rms of one hit"),
    "hits of what": (HITS, None, " as hits of 3 s", None, "hits of 3: expected one of K_CMB"),
    "hits in kelvin": (HITS, "K_CMB", " as hits of 3 K_CMB", None, "expected hits, as given"),
    "turned round": ({"Q": 4.0, "U": 4.0}, "K_CMB", "[U,Q]", None, "then that of U, got U, Q"),
    "three": ({"A": 4.0, "B": 0.0, "C": 1.0}, "K_CMB^2", "[A,B,C]", None,
        r"expected the columns of QQ, QU and UU in this order, as cov.* got A, B, C; name"),
    "three as variance": ({"QQ": 4.0, "QU": 0.0, "UU": 4.0}, None,
        "[QQ,QU,UU] as variance in K_CMB^2", None, "got QQ, QU, UU as variance; name and say"),
    "three in another order": ({"QQ": 4.0, "QU": 0.0, "UU": 4.0}, None,
        "[QQ,UU,QU] as covariance in K_CMB^2", None, "in this order, .* got QQ, UU, QU as covari"),
    "two as covariance": ({"QQ": 4.0, "UU": 4.0}, None, "[QQ,UU] as covariance in K_CMB^2", None,
        "in this order, .* got QQ, UU as covariance; name and say these"),
    "no three to find": (COV, "K_CMB^2", " as covariance", None,
        r"such as QQ_COV, QU_COV and UU_COV, got columns QQ_COV, UU_COV; name them in this order"),
    "three of an rms": ({"QQ": 4.0, "QU": 0.0, "UU": 4.0}, "K_CMB", "[QQ,QU,UU]", None,
        r"QQ,QU,UU in the unit of an rms; .*QQ,QU,UU\] as covariance in mK_CMB\^2' or .* inverse"),
    "three of what": ({"QQ": 4.0, "QU": 0.0, "UU": 4.0}, None, "[QQ,QU,UU]", "K_CMB",
        "without a unit; .* as covariance in .* as inverse covariance in .* as hits of 1.2 mK_"),
    "covariance in the unit of an rms": ({"A": 4.0, "B": 0.0, "C": 4.0}, None,
        "[A,B,C] as covariance in K_CMB", None, "expected covariance, as given, got 'K_CMB' as u"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNCLEAR)
def test_what_is_not_clear_is_asked_for(tmp_path, case):
    values, tunit, said, unit, message = UNCLEAR[case]
    with pytest.raises(MapError, match=message):
        open_noise_map(f"{noise(tmp_path, tunit, **values)}{said}", unit)


@pytest.mark.parametrize(
    ("values", "message", "rms"),
    [
        ({"QQ_COV": 4.0, "UU_COV": 4.0}, r"QQ_COV and UU_COV .* as variance in K_CMB\^2; say", 2),
        ({"TEMPERATURE": 4.0}, r"TEMPERATURE .* taken as rms in K_CMB; .* as rms in K_CMB'", 4),
    ],
)
def test_what_is_assumed_is_said(tmp_path, values, message, rms):
    path = noise(tmp_path, **values)
    with pytest.warns(MapWarning, match=message):
        opened = open_noise_map(path, "K_CMB")
    assert (opened.read(ALL) == rms).all()


@pytest.mark.parametrize(
    ("values", "unit", "said", "message"),
    [
        ({"Q_RMS": 2.0, "U_RMS": 3.0}, "K_CMB", "", "differs, by a factor of 1.5 .median.; one is"),
        ({"WEI_Q": 4.0, "WEI_U": 9.0}, "K_CMB^-2", "", "Q and U differs, by a factor of 1.5"),
        (
            {"QQ": 4.0, "QU": 1.0, "UU": 4.0}, "K_CMB^2", "[QQ,QU,UU]",
            "noise of Q and U correlates, by 0.25 .median.; one is",
        ),
    ],
)  # fmt: skip
def test_what_one_rms_leaves_out_is_said_where_it_is_used(tmp_path, values, unit, said, message):
    opened = open_noise_map(f"{matrix(tmp_path, unit, **values)}{said}")
    with pytest.warns(MapWarning, match=message):
        warn_of_one_rms(opened, "one is used")


@pytest.mark.parametrize(
    ("values", "unit", "message"),
    [
        (
            {"QQ_COV": 4.0, "UU_COV": 4.0, "QU_COV": -2.0}, "K_CMB^2",
            r"QU_COV, .* correlate by 0.5 .*; to use it, .*n.fits\[QQ_COV,QU_COV,UU_COV\] as cov",
        ),
        (
            {"WEI_Q": 4.0, "WEI_U": 4.0, "QU_WEI": 1.0}, "K_CMB^-2",
            r"QU_WEI, .* by 0.25 .*n.fits\[WEI_Q,QU_WEI,WEI_U\] as inverse covariance'",
        ),
    ],
)  # fmt: skip
def test_a_covariance_left_out_is_said(tmp_path, values, unit, message):
    path = matrix(tmp_path, unit, **values)
    with pytest.warns(MapWarning, match=message) as said:
        open_noise_map(path)
    words = str(said[0].message).split("say '")[1].rstrip("'")
    correlation = open_noise_map(words).read_covariance(ALL)[1, 0]
    assert np.sign(correlation) == -1


def test_weights_and_a_covariance(tmp_path):
    path = noise(tmp_path, WEI_Q=0.25, WEI_U=0.25, COV_QU=2.0)  # as QUIJOTE has them
    with pytest.warns(MapWarning, match="COV_QU, the covariance of Q and U, .* correlate by 0.5"):
        open_noise_map(f"{path} as inverse variance in mK_CMB^-2")


def test_noise_of_intensity_is_said_to_be_it(tmp_path):
    path = noise(tmp_path, "K_CMB^2", II_COV=4.0, IQ_COV=0.0)
    with pytest.warns(MapWarning, match="II_COV is by its name noise of intensity, taken for Q"):
        assert (open_noise_map(f"{path}[II_COV]").read(ALL) == 2).all()


def test_noise_of_q_and_u_in_files_of_their_own(tmp_path):
    paths = [
        write_raw(tmp_path / f"{name}.fits", columns_of("mK_CMB", **{name: value}))
        for name, value in (("Q_ERR", 2.0), ("U_ERR", 2.2))
    ]
    with pytest.raises(MapError, match="got columns Q_ERR; name what to take"):
        open_noise_map(paths[0])
    both = [f"{path}[{name}]" for path, name in zip(paths, ("Q_ERR", "U_ERR"), strict=True)]
    for said in (",".join(map(str, paths)), ",".join(both)):
        read = open_noise_map(said).read(ALL)
        np.testing.assert_array_equal(read, np.broadcast_to(QU_RMS, (N_PIX, 2)).T)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("rms in K_CMB", (0, -1), "noise rms above zero .* 2 of 192 at or below zero .* 11; mark"),
        ("variance in K_CMB^2", (0, -1), "noise variance above zero .* 2 of 192 at or below zero"),
        ("hits of 1 K_CMB", (0, -1), "noise hits zero or above .* 1 of 192 below zero .* pixel 12"),
    ],
)
def test_noise_must_be_positive_where_observed(tmp_path, kind, values, message):
    column = np.ones(N_PIX)
    column[[11, 12]] = values
    opened = open_noise_map(f"{noise(tmp_path, X=column)} as {kind}")
    assert opened.read(np.arange(11)).shape == (2, 11)
    with pytest.raises(MapError, match=message):
        opened.read(ALL)


def test_hits_of_a_further_table(tmp_path):
    more = columns_of(N_OBS=1.0, QQ=9.0, QU=0.0, UU=9.0)
    path = write_raw(tmp_path / "wmap.fits", [*stokes_columns(), *columns_of(N_OBS=4.0)], more=more)
    opened = open_noise_map(f"{path}[QQ,UU] as hits of 1.5 mK_CMB")
    assert opened.unit == "mK_CMB"
    assert (opened.read(ALL) == 0.5).all()


def test_unsigned_hits(tmp_path):
    hits = np.arange(1, N_PIX + 1).astype("u8")
    column = fits.Column(name="NHITS", format="K", bzero=2**63, array=hits)
    path = write_raw(tmp_path / "n.fits", [column])
    read = open_noise_map(f"{path} as hits of 2 K_CMB").read(ALL)
    np.testing.assert_allclose(read[0], 2 / np.sqrt(ALL + 1))


# ---- covariances -----------------------------------------------------------------------------

QQ, QU, UU = 4.0, -1.5, 2.25
DETERMINANT = QQ * UU - QU**2
INVERSE = {"A": UU / DETERMINANT, "B": -QU / DETERMINANT, "C": QQ / DETERMINANT}
COVARIANCES = {
    "Planck's, named": ({"QQ_COV": QQ, "QU_COV": QU, "UU_COV": UU},
        "Kcmb^2", "[QQ_COV,QU_COV,UU_COV]"),
    "Planck's, found": ({"II_COV": 1.0, "IQ_COV": 0.1, "QQ_COV": QQ, "QU_COV": QU, "UU_COV": UU},
        "Kcmb^2", " as covariance"),
    "said": ({"A": QQ, "B": QU, "C": UU}, None, "[A,B,C] as covariance in K_CMB^2"),
    "inverse": (INVERSE, None, "[A,B,C] as inverse  covariance in K_CMB^-2"),
    "WMAP's": ({k: 9 * v for k, v in INVERSE.items()}, "counts", "[A,B,C] as hits of 3 K_CMB"),
}  # fmt: skip


@pytest.mark.parametrize("convention", ["COSMO", "IAU"])
@pytest.mark.parametrize("case", COVARIANCES)
def test_covariances_of_q_and_u(tmp_path, case, convention):
    values, tunit, said = COVARIANCES[case]
    path = matrix(tmp_path, tunit, convention, **values)
    opened = open_noise_map(f"{path}{said}")
    sign = -1 if convention == "IAU" else 1
    wanted = np.broadcast_to([QQ, sign * QU, UU], (N_PIX, 3)).T
    np.testing.assert_allclose(opened.read_covariance(ALL), wanted, rtol=1e-6)
    np.testing.assert_allclose(opened.read(ALL), np.sqrt(wanted[[0, 2]]), rtol=1e-6)
    again = open_noise_map(str(GivenFile.of(f"{path}{said}").absolute()))
    np.testing.assert_array_equal(again.read_covariance(ALL), opened.read_covariance(ALL))


def test_a_covariance_without_a_convention_is_taken_as_cosmo_with_a_word(tmp_path):
    path = noise(tmp_path, "K_CMB^2", QQ=QQ, QU=QU, UU=UU)
    with pytest.warns(MapWarning, match="no POLCCONV in the header, taken as COSMO"):
        assert open_noise_map(f"{path}[QQ,QU,UU]").read_covariance(ALL)[1, 0] == QU


def test_one_or_two_columns_do_not_correlate(tmp_path):
    rms = np.full(N_PIX, 2.0)
    rms[3] = hp.UNSEEN
    opened = open_noise_map(noise(tmp_path, "K_CMB", Q_RMS=rms, U_RMS=3.0))
    assert not opened.alike
    assert opened.read_covariance(np.array([2, 3])).T[0].tolist() == [4, 0, 9]
    assert np.isnan(opened.read_covariance(np.array([3]))).all()
    assert open_noise_map(f"{opened.path}[Q_RMS]").alike


@pytest.mark.parametrize("kind", ["covariance in K_CMB^2", "hits of 1 K_CMB"])
def test_a_matrix_must_be_positive_definite_where_observed(tmp_path, kind):
    values = np.ones((3, N_PIX)) * np.array([[2.0], [1.0], [2.0]])
    values[:, 5] = 2, hp.UNSEEN, 2
    values[:, 11], values[:, 12] = (2, 2.5, 2), (-2, 1, -2)
    path = matrix(tmp_path, A=values[0], B=values[1], C=values[2])
    opened = open_noise_map(f"{path}[A,B,C] as {kind}")
    assert np.flatnonzero(np.isnan(opened.read(np.arange(11))[0])).tolist() == [5]
    message = (
        "expected a positive definite matrix of A, B, C in every observed pixel, got 2 of 192 that "
        "are not in this block, the first at RING pixel 11; give QQ, QU and UU in this order, and"
    )
    with pytest.raises(MapError, match=message):
        opened.read_covariance(ALL)


@pytest.mark.parametrize("value", [(0, 0, 0), (4, 0, 0), (4, 2, 1)])
def test_what_leaves_a_combination_unmeasured(tmp_path, value):
    """One hit at one angle knows nothing of the other: not observed; as a covariance, no noise."""
    path = matrix(tmp_path, **dict(zip("ABC", map(float, value), strict=True)))
    for kind in ("hits of 1 K_CMB", "inverse covariance in K_CMB^-2"):
        assert np.isnan(open_noise_map(f"{path}[A,B,C] as {kind}").read_covariance(ALL)).all()
    with pytest.raises(MapError, match="got 192 of 192 that are not"):
        open_noise_map(f"{path}[A,B,C] as covariance in K_CMB^2").read(ALL)


def test_a_covariance_in_two_files(tmp_path):
    paths = [write_raw(tmp_path / f"{x}.fits", columns_of("K_CMB^2", **{x: 1.0})) for x in "QU"]
    with pytest.raises(MapError, match="expected the covariance in one file, got two; give that"):
        open_noise_map(f"{paths[0]},{paths[1]} as covariance")
