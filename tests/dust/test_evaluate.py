"""Scores of predictors whose answers are known."""

from types import SimpleNamespace

import healpy as hp
import numpy as np
import pytest
import torch

from foreglow.dust.cutouts import CutoutSampler
from foreglow.dust.evaluate import _trained_on
from foreglow.dust.load import SkySource
from foreglow.dust.scores import Scores, integrated_predictor, score
from foreglow.dust.sky_cube import SkyCube
from foreglow.dust.spectra import mode_correlation, paper_bands, spectrum_correlation
from foreglow.errors import ShapeError
from foreglow.maps.gnomonic import Grid
from foreglow.maps.hemispheres import SOUTH

NSIDE = 32
GRID = Grid(32, 46.8)


@pytest.fixture(scope="module")
def sampler():
    """Two channels whose sum is the target and something else."""
    rng = np.random.default_rng(0)
    n_pix = hp.nside2npix(NSIDE)
    target, other = rng.normal(size=(2, n_pix))
    latitude = hp.pix2ang(NSIDE, np.arange(n_pix), lonlat=True)[1]
    sky = SkyCube.from_maps([target, other], 2, target, np.abs(latitude) > 15)
    return CutoutSampler(sky, SOUTH, GRID)


PREDICTORS = {
    "integrated": integrated_predictor,
    "perfect": lambda c: 3 * c.inputs[:, 0] + 5,
    "blind": lambda c: torch.zeros_like(c.target),
    "opposite": lambda c: -c.inputs[:, 0],
}


@pytest.fixture(scope="module")
def scores(sampler):
    return score(PREDICTORS, sampler, sampler.fixed_pointings(10), batch=4)


def test_known_answers(scores):
    for name, expected in (("blind", 0), ("opposite", -1)):
        for values in (scores[name].r50, scores[name].spectrum_r150, scores[name].curve):
            np.testing.assert_allclose(values, expected, atol=1e-5)
    # the offset is no part of the map once the mask is on: what is left is nearly perfect
    assert scores["perfect"].r50.mean() > 0.9
    assert 0.5 < scores["integrated"].r150.mean() < 0.9


def test_one_pass_gives_what_the_correlations_of_all_cutouts_give(sampler, scores):
    cut = sampler.at(sampler.fixed_pointings(10))
    bands = paper_bands(GRID)
    both = cut.inputs.sum(1), cut.target
    for found, function in (
        (("r50", "r150"), mode_correlation),
        (("spectrum_r50", "spectrum_r150"), spectrum_correlation),
    ):
        expected = function(*both, bands).numpy()
        mine = np.stack([getattr(scores["integrated"], f) for f in found], 1)
        # transforms of another number of maps at once; a mode a thousandth of the strongest is
        # rounded to 6e-5 of itself, a band is the mean of 70 or more
        np.testing.assert_allclose(mine, expected, atol=1e-5)
    assert scores["integrated"].curve.shape == (10, GRID.n // 2 - 1)


def test_what_is_predicted_under_the_mask_is_not_looked_at(sampler):
    where = sampler.fixed_pointings(5)
    wild = {"wild": lambda c: c.inputs[:, 0] + 1e6 * ~c.mask, "tame": lambda c: c.inputs[:, 0]}
    found = score(wild, sampler, where)
    assert not bool(sampler.at(where).mask.all())
    np.testing.assert_array_equal(found["wild"].r50, found["tame"].r50)


def scores_of(name, r50, r150=None):
    r50 = np.array(r50)
    r150 = r50 if r150 is None else np.array(r150)
    return Scores(name, r50, r150, r50 - 0.1, r150 - 0.1, np.zeros((len(r50), 3)))


def test_records_by_hand():
    reference = scores_of("integrated", [0.5, 0.6, 0.7, 0.8])
    record = scores_of("unet", [0.6, 0.7, 0.6, 0.9], [0.9] * 4).record(reference)
    assert record["model"] == "unet"
    assert record["n"] == 4
    assert record["r50"] == pytest.approx(0.7)
    assert record["r50_sem"] == pytest.approx(np.std([0.6, 0.7, 0.6, 0.9], ddof=1) / 2)
    assert record["r150_sem"] == 0
    assert record["wins50"] == 0.75
    assert record["wins50_sem"] == pytest.approx(np.sqrt(0.75 * 0.25 / 4))
    assert record["wins150"] == 1
    assert record["spectrum_r50"] == pytest.approx(0.6)
    assert record["spectrum_wins50"] == 0.75


def test_no_model_wins_against_itself():
    reference = scores_of("integrated", [0.5, 0.6])
    assert not [key for key in reference.record(reference) if "wins" in key]


def test_one_cutout_has_no_error():
    assert scores_of("unet", [0.5]).record(scores_of("integrated", [0.4]))["r50_sem"] is None


def test_progress(sampler):
    seen = []
    score(PREDICTORS, sampler, sampler.fixed_pointings(5), 2, lambda *a: seen.append(a))
    assert seen == [(2, 5), (4, 5), (5, 5)]


class TestBadInput:
    def test_maps_of_another_shape(self, sampler):
        wrong = {"wrong": lambda c: c.inputs}
        with pytest.raises(ShapeError, match=r"expected maps \(2, 32, 32\) of model wrong, got"):
            score(wrong, sampler, sampler.fixed_pointings(2))

    def test_scores_of_other_cutouts(self):
        with pytest.raises(ShapeError, match=r"the same cutouts, got 2 of unet and 1 of integ"):
            scores_of("unet", [0.5, 0.6]).record(scores_of("integrated", [0.5]))


@pytest.mark.parametrize(
    ("sky", "seed", "left_out"),
    [
        ("mock", 100, ("north",)),
        ("mock", 101, ("north", "south")),  # of further skies both halves were trained on
        ("mock", 102, ()),
        (None, 0, ()),
    ],
)
def test_what_a_training_has_seen_of_a_sky(sky, seed, left_out):
    card = {"training": {"sky": "mock", "seed": 100, "skies": 2, "region": "north"}}
    given = SkySource(sky, *((None, None) if sky else ("cube", "dust")), seed=seed)
    assert _trained_on(SimpleNamespace(card=card), given) == left_out
