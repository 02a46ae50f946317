"""Predicted polarised dust beside the dust on the sphere: identities, healpy, known answers."""

from itertools import pairwise

import healpy as hp
import numpy as np
import pytest

from foreglow.dust.sphere_scores import default_edges, score_sphere
from foreglow.errors import MapError, ShapeError

NSIDE = 32
N_PIX = 12 * NSIDE**2
KEPT = hp.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)[1] < -10
EDGES = (20, 40, 60)


def drawn(seed: int) -> np.ndarray:
    """I, Q and U of a Gaussian sky as steep as dust, with half as much power in B as in E."""
    ell, m = hp.Alm.getlm(3 * NSIDE - 1)
    rng = np.random.default_rng(seed)
    real, imaginary = rng.standard_normal((2, 3, ell.size))
    alm = np.where(m == 0, real, (real + 1j * imaginary) / np.sqrt(2)) * (ell + 1.0) ** -1.2
    alm[:, ell < 2] = 0
    t, e, b = alm
    return np.stack(hp.alm2map([t, 0.5 * t + e, 0.8 * b], NSIDE, pol=True))


@pytest.fixture(scope="module")
def sky():
    return drawn(0)


def score(mine, other, kept=KEPT, edges=EDGES):
    return score_sphere({"mine": mine}, {"dust": other}, kept, edges)["mine", "dust"]


def test_a_map_and_itself_whatever_its_scale(sky):
    found = score(-3.0 * sky + [[7.0], [0], [0]], sky)
    for key in ("r_t", "r_e", "r_b", "alignment", "alignment_latitude", "alignment_polarised"):
        np.testing.assert_allclose(found.values[key], -1, atol=1e-9)
        np.testing.assert_allclose(found.errors[key], 0, atol=1e-6)
    np.testing.assert_allclose(found.values["bb_over_ee"], found.values["target_bb_over_ee"])
    for pair in ("ee", "bb", "te", "tb", "eb"):
        ours, theirs = found.values[f"cross_{pair}"], found.values[f"target_{pair}"]
        np.testing.assert_allclose(ours, -3 * theirs, rtol=1e-6, atol=1e-9 * abs(theirs).max())


def test_turned_by_45_degrees_e_is_b(sky):
    t, q, u = sky
    found = score(np.stack([t, u, -q]), sky).values
    assert np.abs(found["alignment"]).max() < 1e-9
    assert np.abs(found["r_e"]).max() < 0.3
    np.testing.assert_allclose(np.abs(found["cross_be"]), found["target_ee"], rtol=0.05)


def test_without_a_mask_spectra_are_those_of_healpy(sky):
    other = sky + 0.5 * drawn(1)
    found = score(sky, other, np.ones(N_PIX, bool)).values
    ell = np.arange(3 * NSIDE)
    for key, maps in (
        ("predicted", (sky, sky)),
        ("target", (other, other)),
        ("cross", (sky, other)),
    ):
        plain = hp.anafast(*maps, pol=True)
        for pair, power in zip(("tt", "ee", "bb", "te", "eb", "tb"), plain, strict=True):
            if key == "cross" and pair in ("te", "eb", "tb"):  # healpy means both ways
                ours = 0.5 * (found[f"cross_{pair}"] + found[f"cross_{pair[::-1]}"])
            else:
                ours = found[f"{key}_{pair}"]
            binned = [np.average(power[a:b], weights=2 * ell[a:b] + 1) for a, b in pairwise(EDGES)]
            # a narrow bin is a mean over its ell, and dust is steep
            scale = np.sqrt(found[f"{key}_{pair[0] * 2}"] * found[f"{key}_{pair[1] * 2}"])
            assert (np.abs(ours - binned) < 0.02 * scale).all(), (key, pair)


def test_another_sky_beside_it_lowers_r_as_it_must(sky):
    found = score(sky, sky + 0.5 * drawn(1))
    for letter in "teb":
        r, error = found.values[f"r_{letter}"], found.errors[f"r_{letter}"]
        assert (np.abs(r - 1.25**-0.5) < 5 * error + 0.02).all()
    assert (found.errors["r_e"] > 1e-3).all()
    brightest, faintest = found.values["alignment_polarised"][[-1, 0]]
    assert brightest > faintest


def test_records_are_flat_and_a_map_without_i_has_none(sky):
    without = np.where([[True], [False], [False]], np.nan, sky)
    found = score(without, sky)
    rows = found.records()
    assert [r["by"] for r in rows] == [
        "sphere", *["ell"] * 2, *["latitude"] * 5, *["polarised_intensity"] * 5
    ]  # fmt: skip
    first = rows[1]
    assert (first["low"], first["high"], first["r_t"], first["cross_te"]) == (20, 40, None, None)
    assert first["r_e"] == pytest.approx(1)
    assert {"r_e_sem", "target_bb_sem", "cross_be"} <= first.keys()
    np.testing.assert_allclose(found.ell, [29.5, 49.5])


def test_edges_end_with_the_pixels():
    assert default_edges(256)[-1] == 300
    assert default_edges(64) == (20, 50, 100)
    assert default_edges(8) == (20,)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"mine": np.ones((2, N_PIX))},
            ShapeError,
            r"mine: expected I, Q and U of shape \(3",
        ),
        (
            {"other": np.full((3, N_PIX), np.nan)},
            MapError,
            "dust: expected I, Q and U where",
        ),
        ({"kept": np.arange(N_PIX) < 9}, MapError, "100 pixels or more to compare, got 9"),
        ({"edges": (20, 200)}, MapError, "within 2 to 96, 3 Nside"),
    ],
)
def test_what_cannot_be_compared(sky, change, error, message):
    with pytest.raises(error, match=message):
        score(**{"mine": sky, "other": sky, **change})
