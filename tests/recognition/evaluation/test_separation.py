"""Component separation with maps of models: composition, what noise explains, spectra, records."""

from dataclasses import replace

import healpy as hp
import numpy as np
import pytest

from foreglow.errors import ModelError, ShapeError
from foreglow.recognition.evaluation.separation import (
    FULL_SKY,
    TRUTH,
    bb_spectrum,
    galactic_cuts,
    join_residuals,
    models_everywhere,
    residuals_of_sky,
    separate,
    summarise_residuals,
)
from foreglow.recognition.fits.skymodel import BETA_PRIOR, CURVATURE_PRIOR
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.simulation.skies import simulate_sky
from foreglow.sky.cmb import cmb_spectra

NSIDE = 4
N_PIX = hp.nside2npix(NSIDE)
FOUR = PROBLEMS["four"]
QUARTERS = np.arange(N_PIX) % 4


def make_sky(templates, instrument, label, noise_scale, seed=0, models=FOUR):
    rng = np.random.default_rng([31, seed])
    return simulate_sky(templates.degraded(NSIDE), instrument, models, label, noise_scale, rng)


@pytest.fixture(scope="module")
def noisy(templates, instrument):
    return make_sky(templates, instrument, QUARTERS, 0.1)


@pytest.fixture(scope="module")
def noiseless(templates, instrument, noisy):
    """The same sky without noise in it; the bands are weighed as if there were."""
    clean = make_sky(templates, instrument, QUARTERS, 0.0)
    np.testing.assert_array_equal(clean.cmb, noisy.cmb)
    return replace(clean, sigma=noisy.sigma)


def of_skies(seeds, templates, instrument, maps=lambda sky: {}, **options):
    """Residuals of skies of the four models, with noise and without."""
    pairs = [
        [make_sky(templates, instrument, QUARTERS, scale, seed) for scale in (0.1, 0.0)]
        for seed in seeds
    ]
    return join_residuals(
        residuals_of_sky(noisy, quiet, instrument, FOUR, maps(noisy), **options)
        for noisy, quiet in pairs
    )


def rms(values):
    return np.sqrt(np.mean(values**2))


def test_the_true_models_leave_nothing_where_there_is_no_noise(noiseless, instrument):
    maps = {TRUTH: noiseless.label, "shifted": (noiseless.label + 1) % 4}
    left = separate(noiseless, instrument, FOUR, maps)
    # float32 data: a ten millionth of the brightest band
    assert rms(left[TRUTH].residual) < 0.01 * rms(left[TRUTH].expected)
    assert rms(left["shifted"].residual) > 3 * rms(left[TRUTH].expected)


def test_the_true_models_leave_what_they_expect(templates, instrument):
    residual, expected = [], []
    for seed in range(8):
        sky = make_sky(templates, instrument, QUARTERS, 0.1, seed)
        cleaned = separate(sky, instrument, FOUR, {TRUTH: sky.label})[TRUTH]
        residual.append(cleaned.residual)
        expected.append(cleaned.expected)
    pull = np.array(residual) / np.array(expected)
    assert pull.std() == pytest.approx(1, abs=0.05)  # 3072 numbers: 1.3% of scatter
    assert np.abs(pull.mean()) < 0.07


def test_a_map_takes_its_pixels_from_the_fits_of_each_model(noisy, instrument):
    alone = {str(k): np.full(N_PIX, k) for k in range(4)}
    found = separate(noisy, instrument, FOUR, {**alone, "mixed": QUARTERS})
    for part in ("residual", "expected"):
        each = np.stack([getattr(found[str(k)], part) for k in range(4)])
        mixed = np.take_along_axis(each, QUARTERS[None, None], 0)[0]
        np.testing.assert_array_equal(getattr(found["mixed"], part), mixed)


def test_probabilities_average_the_maps(noisy, instrument):
    certain = np.eye(4)[QUARTERS].T
    even = np.full((4, N_PIX), 0.25, np.float32)
    maps = {"labels": QUARTERS, "certain": certain, "even": even}
    maps |= {str(k): np.full(N_PIX, k) for k in range(4)}
    found = separate(noisy, instrument, FOUR, maps)
    np.testing.assert_array_equal(found["certain"].residual, found["labels"].residual)
    mean = np.mean([found[str(k)].residual for k in range(4)], axis=0)
    np.testing.assert_allclose(found["even"].residual, mean, atol=1e-9)


def test_power_law_everywhere_is_a_map_of_power_laws(noisy, instrument):
    found = separate(noisy, instrument, FOUR, {"map": np.zeros(N_PIX, int)})
    np.testing.assert_array_equal(found["map"].residual, found["power law everywhere"].residual)


def test_models_everywhere_hold_what_the_sky_may_hold():
    curvature = models_everywhere(PROBLEMS["curvature"])
    assert list(curvature) == ["power law everywhere", "curved everywhere"]
    richest = models_everywhere(FOUR)["curved + AME everywhere"]
    assert richest.ame
    assert richest.free["curvature"].prior == CURVATURE_PRIOR
    assert richest.free["beta_s"].prior == BETA_PRIOR


def test_what_recognition_is_for(templates, instrument):
    """With the right models less is left than with any one model everywhere, sky by sky."""
    found = of_skies(range(3), templates, instrument, lambda sky: {"wrong": 3 - sky.label})
    by_option = {r.option: r for r in found if r.region == FULL_SKY}
    best = by_option.pop(TRUTH)
    assert set(by_option) == {*models_everywhere(FOUR), "wrong"}
    for other in by_option.values():
        assert (other.rms > 1.3 * best.rms).all()
    assert best.bb.shape == best.left.shape == (3, 3 * NSIDE)
    # true models leave noise alone, wrong ones foregrounds
    assert best.left[:, 2:].mean() < 1e-3 * best.bb[:, 2:].mean()
    assert by_option["wrong"].left[:, 2:].mean() > 0.5 * by_option["wrong"].bb[:, 2:].mean()
    records = {r["option"]: r for r in summarise_residuals(found) if r["region"] == FULL_SKY}
    assert abs(records[TRUTH]["r_bias"]) < 1e-3 * records["wrong"]["r_bias"]
    assert 0 < records[TRUTH]["r_error"] < 0.1


def test_records(templates, instrument):
    regions = galactic_cuts(NSIDE, 30)
    found = of_skies([0, 0], templates, instrument, regions=regions)
    records = summarise_residuals(found)
    assert {r["region"] for r in records} == {FULL_SKY, "|b| > 30 deg"}
    assert len(records) == 2 * 5
    by_option = {r["option"]: r for r in records if r["region"] == FULL_SKY}
    truth, plain = by_option[TRUTH], by_option["power law everywhere"]
    assert truth["rms_over_truth"] == truth["bb_over_truth"] == 1
    assert plain["rms_over_truth"] == pytest.approx(plain["rms"] / truth["rms"])
    assert plain["rms_sem"] == 0  # twice the same sky
    mine = next(r for r in found if r.option == TRUTH and r.region == FULL_SKY)
    assert truth["bb"] == pytest.approx(mine.bb[:, 2:].mean())
    assert {r["region"]: r for r in records}["|b| > 30 deg"]["r_error"] > truth["r_error"]
    found = of_skies([0], templates, instrument)
    alone = summarise_residuals(r for r in found if r.option == TRUTH)
    assert alone[0]["rms_sem"] is None
    assert alone[0]["realisations"] == 1


def test_records_without_the_truth(templates, instrument):
    found = of_skies([0], templates, instrument)
    records = summarise_residuals(r for r in found if r.option != TRUTH)
    assert not any("rms_over_truth" in record for record in records)


def test_galactic_cut():
    cuts = galactic_cuts(16, 20)
    assert cuts[FULL_SKY].all()
    assert cuts["|b| > 20 deg"].mean() == pytest.approx(1 - np.sin(np.radians(20)), abs=0.02)


def test_b_modes_of_pure_e_modes_are_negligible():
    nside, rng = 16, np.random.default_rng(1)
    ell_max = 3 * nside - 1
    ell, m = hp.Alm.getlm(ell_max)
    draw = rng.standard_normal((2, len(ell)))
    e = np.where(m == 0, draw[0], draw[0] + 1j * draw[1]) * np.sqrt(cmb_spectra(ell_max)[1][ell])
    maps = np.array(hp.alm2map_spin([e, 0 * e], nside, 2, ell_max))
    bb = bb_spectrum(maps)
    ee = hp.alm2cl(e)
    # to 2 Nside the pixels hold all; beyond it the largest leak
    assert (bb[2 : 2 * nside] < 1e-4 * ee[2 : 2 * nside]).all()
    assert bb[2:].mean() < 0.01 * ee[2:].mean()


@pytest.mark.parametrize("cut", [False, True])
def test_spectrum_of_white_noise(cut):
    nside, rng = 16, np.random.default_rng(2)
    inside = galactic_cuts(nside, 20)["|b| > 20 deg"] if cut else None
    maps = rng.standard_normal((40, 2, hp.nside2npix(nside)))
    bb = np.mean([bb_spectrum(qu, inside) for qu in maps], axis=0)
    expected = hp.nside2pixarea(nside)
    assert bb[2:].mean() == pytest.approx(expected, rel=0.05)
    assert bb[8:32].mean() == pytest.approx(expected, rel=0.03)
    np.testing.assert_array_equal(bb[:2], 0)


@pytest.mark.parametrize(
    "values",
    [
        np.full(N_PIX, 4),
        np.full(N_PIX, -1),
        np.zeros(N_PIX),
        np.zeros(N_PIX + 1, int),
        np.ones((4, N_PIX)),
        np.ones((3, N_PIX)) / 3,
        np.full((4, N_PIX), np.nan),
    ],
)
def test_bad_maps(noisy, instrument, values):
    with pytest.raises(ShapeError, match="expected map 'mine' as whole numbers from 0 to 3"):
        separate(noisy, instrument, FOUR, {"mine": values})


def test_a_noiseless_sky_cannot_be_weighed(templates, instrument):
    sky = make_sky(templates, instrument, QUARTERS, 0.0)
    with pytest.raises(ShapeError, match="expected noise above zero"):
        separate(sky, instrument, FOUR, {})


def test_names_of_their_own(noisy, instrument):
    with pytest.raises(ModelError, match=r"\['curved everywhere'\] twice"):
        separate(noisy, instrument, FOUR, {"curved everywhere": QUARTERS})


def test_unknown_model(noisy, instrument):
    with pytest.raises(ModelError, match="got 'wiggly'"):
        separate(noisy, instrument, ("wiggly",), {"mine": np.zeros(N_PIX, int)})
