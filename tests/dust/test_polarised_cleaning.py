"""B modes cleaned by templates where what must be left is known, and the r that remains."""

import healpy as hp
import numpy as np
import pytest

from foreglow.dust.cleaning import dust_factor
from foreglow.dust.polarised_cleaning import DUST_SLOPE, clean_polarisation
from foreglow.errors import MapError, ShapeError
from foreglow.maps.cut_sky import CutSky, apodised
from foreglow.maps.harmonic import butterworth
from foreglow.sky.cmb import polarisation_map, tensor_bb

NSIDE = 32
L_MAX = 2 * NSIDE
EDGES = (10, 20, 30, 40, 50, 60)
WINDOW = butterworth(L_MAX)
LATITUDE = np.abs(hp.pix2ang(NSIDE, np.arange(hp.nside2npix(NSIDE)), lonlat=True)[1])
WEIGHT = apodised(LATITUDE > 15, 10.0)
BANDS = {150.0: 4.7, 220.0: 8.9}


def field(seed, amplitude):
    """Q and U whose B modes have the mock's slope; E twice as strong."""
    power = np.zeros(L_MAX + 1)
    power[2:] = 0.02 * amplitude**2 * (np.arange(2, L_MAX + 1) / 80.0) ** DUST_SLOPE
    power *= WINDOW**2
    return polarisation_map(2 * power, power, NSIDE, np.random.default_rng(seed))


DUST, OTHER = field(0, 1.0), field(1, 0.5)


@pytest.fixture(scope="module")
def cleaned():
    templates = {
        "true": 7 * np.where(WEIGHT > 0, DUST, np.nan),
        "half": DUST + OTHER,
        "unrelated": OTHER,
        "both": np.stack([DUST + OTHER, OTHER]),
    }
    found = clean_polarisation(DUST, templates, WEIGHT, WINDOW, BANDS, EDGES, realisations=16)
    return {one.frequency_ghz: one for one in found}


def share(found, name):
    return (found.residual[name] / found.dust).mean()


def test_the_true_dust_leaves_only_what_the_fit_gets_wrong(cleaned):
    for frequency, one in cleaned.items():
        assert share(one, "true") < 0.02
        found = 7 * one.amplitude["true"].mean()
        assert found == pytest.approx(dust_factor(frequency), rel=0.05)


def test_nothing_fitted_leaves_all_of_it(cleaned):
    for one in cleaned.values():
        np.testing.assert_allclose(one.residual["none"], one.dust[None].repeat(16, 0))
        assert one.amplitude["none"].shape == (16, 0)


def test_a_template_leaves_one_less_r_squared(cleaned):
    """Half of the amplitude again of something else: r^2 = 1 / 1.25 at any scale."""
    assert share(cleaned[220.0], "half") == pytest.approx(0.2, abs=0.08)
    assert share(cleaned[220.0], "unrelated") == pytest.approx(1, abs=0.1)


def test_maps_fitted_together_know_what_their_sums_know(cleaned):
    one = cleaned[220.0]
    assert share(one, "both") < 0.02
    first, second = one.amplitude["both"].mean(0)
    assert first == pytest.approx(-second, rel=0.1)


def test_the_bias_of_r_is_that_of_the_bands_left(cleaned):
    """With weights of these variances, r is a sum over bins; here its bias by hand."""
    one = cleaned[150.0]
    cut = CutSky(WEIGHT, EDGES)
    beam = np.pad(WINDOW, (0, 3 * NSIDE - L_MAX - 1))
    tensors = cut.expected(0 * beam, tensor_bb(3 * NSIDE - 1) * beam**2)[1]
    inverse = (one.background + one.dust) ** -2 * cut.modes
    by_hand = (inverse * tensors) @ one.dust / ((inverse * tensors) @ tensors)
    # CMB and dust correlate by chance: the mean over skies is off by their scatter
    scatter = one.r_bias["none"].std() / 16**0.5
    assert abs(one.r_bias["none"].mean() - by_hand) < 4 * scatter
    assert by_hand > 20 * abs(one.r_bias["true"].mean())


def test_a_free_dust_spectrum_takes_the_bias_away_and_adds_to_the_error(cleaned):
    row = next(r for r in cleaned[150.0].rows() if r["model"] == "none")
    assert abs(row["r_bias_dust_free"]) < 0.5 * row["r_bias"]
    assert row["r_error_dust_free"] > 0
    assert row["realisations"] == 16
    assert row["share"] == pytest.approx(1)
    assert (row["ell_low"], row["ell_high"]) == (EDGES[0], EDGES[-1])
    bins = [r for r in cleaned[150.0].rows() if r["model"] == "half" and "r_bias" not in r]
    assert [r["ell_low"] for r in bins] == list(EDGES[:-1])
    assert np.mean([r["share"] for r in bins]) == pytest.approx(share(cleaned[150.0], "half"))


def test_the_same_seed_gives_the_same_skies():
    def run(seed):
        one = clean_polarisation(
            DUST, {"t": OTHER}, WEIGHT, WINDOW, {150.0: 5.0}, EDGES, realisations=1, seed=seed
        )[0]
        assert one.rows()[0]["r_error"] is None
        return one.amplitude["t"][0, 0]

    assert run(3) == run(3) != run(4)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"dust": DUST[:, :12]}, ShapeError, "dust: expected Q, U of shape"),
        ({"templates": {"t": OTHER[:1]}}, ShapeError, "t: expected Q, U of shape"),
        ({"templates": {"t": OTHER * np.nan}}, MapError, "t: expected finite Q and U"),
        ({"template_noise": {"t": (1.0,)}}, ShapeError, "of no template, a number a map"),
        ({"ell_edges": (10, 80)}, MapError, "expected edges of ell up to 65, where the window"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(changes, error, words):
    good = {"dust": DUST, "templates": {}, "weight": WEIGHT, "window": WINDOW}
    with pytest.raises(error, match=words):
        clean_polarisation(**({**good, "ell_edges": EDGES, "realisations": 1} | changes))
