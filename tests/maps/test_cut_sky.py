"""Purified, decoupled spectra of a part of the sky: beside NaMaster, and of drawn skies."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from foreglow.errors import MapError, ShapeError
from foreglow.maps import healpix as hp
from foreglow.maps.coupling import coupling, plain_shares, pure_shares
from foreglow.maps.cut_sky import CutSky, apodised
from foreglow.sky.cmb import polarisation_map

GOLDEN = Path(__file__).parents[1] / "golden" / "namaster.npz"
NSIDE = 16


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as found:
        return dict(found)


def test_the_weight_is_that_of_namaster(golden):
    weight = apodised(golden["mask"], float(golden["width_deg"]))
    np.testing.assert_allclose(weight, golden["weight"], atol=1e-10)


@pytest.mark.parametrize("name", ["plain", "pure"])
def test_spectra_and_their_expectation_are_those_of_namaster(golden, name):
    cut = CutSky(golden["weight"], golden["edges"], pure=name == "pure")
    np.testing.assert_allclose(cut.spectra(golden["maps"]), golden[f"spectra_{name}"], rtol=1e-7)
    expected = cut.expected(golden["ee"], golden["bb"])
    np.testing.assert_allclose(expected, golden[f"expected_{name}"], rtol=1e-7)


@pytest.mark.parametrize("name", ["plain", "pure"])
def test_all_spectra_of_two_maps_are_those_of_namaster(golden, name):
    cut = CutSky(golden["weight"], golden["edges"], pure=name == "pure")
    one = cut.multipoles([golden["intensity"], *golden["maps"]])
    other = cut.multipoles(golden["other"])
    found, exchanged = cut.cross_powers(one, other), cut.cross_powers(other, one)
    pairs = ("TT", "TE", "TB", "EE", "EB", "BE", "BB", "ET", "BT")
    for pair, expected in zip(pairs, golden[f"crosses_{name}"], strict=True):
        np.testing.assert_allclose(found[pair], expected, rtol=1e-7)
        np.testing.assert_allclose(exchanged[pair[::-1]], expected, rtol=1e-7)
    own = cut.cross_powers(one, one)
    np.testing.assert_allclose([own["EE"], own["BB"]], cut.spectra(golden["maps"]))


def test_what_lies_beyond_the_mask_does_not_count(golden):
    cut = CutSky(golden["weight"], golden["edges"])
    maps = golden["maps"].copy()
    maps[:, golden["weight"] == 0] = np.nan
    np.testing.assert_array_equal(cut.spectra(maps), cut.spectra(golden["maps"]))


def test_pure_b_modes_see_no_e_modes(golden):
    """In the mean, by the matrices, and on one sky far below what plain ones see."""
    power = hp.alm2cl(hp.map2alm(golden["weight"], iter=3))
    plain, pure = (
        coupling(power, 3 * NSIDE - 1, *2 * [shares(3 * NSIDE - 1)])[1]
        for shares in (plain_shares, pure_shares)
    )
    low = np.s_[2:20, 2:30]  # the weight's own multipoles end with the pixels
    assert np.abs(pure[low]).max() < 1e-3 * plain[low].max()
    e_alone = polarisation_map(golden["ee"], 0 * golden["bb"], NSIDE, np.random.default_rng(1))
    plain, pure = (CutSky(golden["weight"], golden["edges"], p).spectra(e_alone) for p in (0, 1))
    np.testing.assert_allclose(pure[0], plain[0], rtol=0.05)
    assert np.abs(pure[1]).max() < 0.05 * np.abs(plain[1]).max()


def test_the_mean_over_skies_is_what_is_expected(golden):
    cut = CutSky(golden["weight"], golden["edges"])
    bb = 0.3 * golden["ee"]
    rng = np.random.default_rng(2)
    found = np.array(
        [cut.spectra(polarisation_map(golden["ee"], bb, NSIDE, rng)) for _ in range(60)]
    )
    pull = (found.mean(0) - cut.expected(golden["ee"], bb)) / (found.std(0, ddof=1) / 60**0.5)
    assert np.abs(pull[:, :-1]).max() < 4  # the last bin is beyond 2 Nside


def test_the_full_sky_needs_no_matrix():
    ell = np.arange(3 * NSIDE)
    ee, bb = (np.where(ell > 1, a / (ell + 1.0) ** 2, 0) for a in (1.0, 0.1))
    sky = polarisation_map(ee, bb, NSIDE, np.random.default_rng(3))
    edges = [2, 6, 12, 20]
    found = CutSky(np.ones(sky.shape[1]), edges, pure=False)
    plain = hp.anafast([np.zeros(sky.shape[1]), *sky], pol=True, iter=3)[1:3]
    binned = [[one[a:b].mean() for a, b in itertools.pairwise(edges)] for one in plain]
    np.testing.assert_allclose(found.spectra(sky), binned, rtol=1e-4)
    assert found.sky_fraction == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight": np.ones(100)}, ShapeError, "expected a weight of shape"),
        ({"ell_edges": [2, 60]}, MapError, "within 2 to 48, 3 Nside"),
        ({"ell_edges": [2, 9, 9]}, MapError, "rising edges"),
        ({"ell_edges": [0, 9]}, MapError, "rising edges"),
        ({"weight": "small", "ell_edges": range(2, 40)}, MapError, "can tell apart"),
    ],
)
def test_what_cannot_be_measured(change, error, message):
    given = {"weight": np.ones(12 * NSIDE**2), "ell_edges": [2, 8, 16], **change}
    if isinstance(given["weight"], str):
        given["weight"] = np.zeros(12 * NSIDE**2)
        given["weight"][:40] = 1.0
    with pytest.raises(error, match=message):
        CutSky(**given)


def test_maps_that_do_not_fit(golden):
    cut = CutSky(golden["weight"], golden["edges"])
    with pytest.raises(ShapeError, match="expected Q, U of shape"):
        cut.spectra(golden["maps"][:, :-1])
    with pytest.raises(ShapeError, match=r"or T, Q, U \(3, 3072\), got \(1, 3072\)"):
        cut.multipoles(golden["maps"][:1])
    maps = golden["maps"].copy()
    maps[0, np.flatnonzero(golden["weight"])[3]] = np.nan
    with pytest.raises(MapError, match="1 pixels that are not"):
        cut.spectra(maps)
    with pytest.raises(MapError, match="above zero somewhere"):
        apodised(np.zeros(48), 5)
