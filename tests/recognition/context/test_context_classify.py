"""Neighbours from FITS to FITS and on test skies: the same answer as from arrays, holes kept."""

from dataclasses import replace

import healpy as hp
import numpy as np
import pytest
import torch
from astropy.io import fits

from foreglow.errors import MapError
from foreglow.maps.io import PolarisationMap
from foreglow.maps.regions import layout
from foreglow.maps.write import write_polarisation_map
from foreglow.recognition.classify import NoiseRangeWarning, classify
from foreglow.recognition.context.model import ContextModel
from foreglow.recognition.evaluation.evaluate import (
    accuracy_on_skies,
    evaluate,
    pixel_log_probability,
    summarise,
)
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.simulation.skies import simulate_sky

NSIDE, N_PIX = 16, hp.nside2npix(16)
SCALE = 0.5  # noise of the sky: pixels alone are often wrong
CAP = hp.query_disc(NSIDE, hp.ang2vec(40.0, 60.0, lonlat=True), np.radians(25))


@pytest.fixture(scope="module")
def context():
    """Neighbours at work without a training: the couplings of a fresh Potts field are not 0."""
    return ContextModel.untrained("potts", 0)


@pytest.fixture(scope="module")
def sky(instrument, templates):
    """Four models in quadrants."""
    label = layout("quadrants", NSIDE, 4)
    rng = np.random.default_rng(21)
    return simulate_sky(templates, instrument, PROBLEMS["four"], label, SCALE, rng)


@pytest.fixture(scope="module")
def files(tmp_path_factory, sky, instrument):
    folder = tmp_path_factory.mktemp("context_maps")
    for k, band in enumerate(instrument.band):
        write_polarisation_map(folder / f"{band}.fits", sky.data[:, k], "uK_RJ")
    return {band: folder / f"{band}.fits" for band in instrument.band}


@pytest.fixture(scope="module")
def part(files, sky, tmp_path_factory):
    """The same maps, one band of them masked in a cap."""
    qu = sky.data[:, 5].copy()
    qu[:, CAP] = np.nan
    path = tmp_path_factory.mktemp("part") / "68.fits"
    write_polarisation_map(path, qu, "uK_RJ")
    return files | {"68": path}


# ---- classify --------------------------------------------------------------------------------


def test_fits_gives_what_the_arrays_give(model, context, sky, files):
    found = classify(files, model=model, noise_scale=SCALE, context=context)
    np.testing.assert_allclose(
        found.probability, evaluate(model, sky, context=context).probability, atol=1e-4
    )
    np.testing.assert_allclose(found.probability.sum(0), 1, atol=1e-5)
    alone = classify(files, model=model, noise_scale=SCALE)
    assert abs(found.probability - alone.probability).mean() > 0.05
    assert (found.best == sky.label).mean() > (alone.best == sky.label).mean() + 0.1


def test_a_hole_stays_a_hole(model, context, part, tmp_path):
    alone = classify(part, model=model, noise_scale=SCALE)
    found = classify(part, model=model, noise_scale=SCALE, context=context)
    seen = ~np.isin(np.arange(N_PIX), CAP)
    np.testing.assert_array_equal(found.observed, seen)
    assert np.isnan(found.probability[:, ~seen]).all()
    assert (found.best[~seen] == -1).all()
    np.testing.assert_allclose(found.probability[:, seen].sum(0), 1, atol=1e-5)
    assert found.summary().startswith(f"{seen.sum()} of {N_PIX} pixels classified: ")
    # what lies in the hole is unknown to the neighbours, too
    said = context.log_probability(torch.from_numpy(alone.probability).log()).exp().numpy()
    np.testing.assert_allclose(found.probability[:, seen], said[:, seen], atol=1e-5)
    found.to_fits(tmp_path / "found.fits")
    *columns, best, none_fits, _ = hp.read_map(tmp_path / "found.fits", field=None)
    # what fits is asked of each pixel by itself
    np.testing.assert_array_equal(none_fits, np.where(seen, alone.none_fits, -1))
    assert (np.array(columns)[:, ~seen] == hp.UNSEEN).all()
    np.testing.assert_array_equal(np.array(columns)[:, seen], found.probability[:, seen])
    assert (best[~seen] == -1).all()


def test_the_columns_are_those_without(model, context, files, tmp_path):
    headers = []
    for name, one in (("alone", None), ("context", context)):
        path = tmp_path / f"{name}.fits"
        classify(files, model=model, noise_scale=SCALE, context=one).to_fits(path)
        headers.append(fits.getheader(path, 1))
    assert repr(headers[0]) == repr(headers[1])


def test_a_hole_does_not_reach_across_the_sky(model, context, files, part):
    """Far from it the answer hardly changes; at its edge it does."""
    whole, holed = (
        classify(one, model=model, noise_scale=SCALE, context=context).probability
        for one in (files, part)
    )
    change = abs(whole - holed).max(0)
    vectors = np.array(hp.pix2vec(NSIDE, np.arange(N_PIX)))
    distance = np.degrees(np.arccos(hp.ang2vec(40.0, 60.0, lonlat=True) @ vectors))
    edge = (distance > 25) & (distance < 35)
    assert np.nanmean(change[edge]) > 5 * np.nanmean(change[distance > 90])


def test_noise_beyond_what_neighbours_were_taught(model, context, files):
    taught = replace(context, card={"training": {"noise_range": [0.1, 0.2], "nside": 32}})
    with pytest.warns(NoiseRangeWarning, match=r"neighbours say beyond 0\.4 times, up to which"):
        classify(files, model=model, noise_scale=SCALE, context=taught)


# ---- maps that context does not take ---------------------------------------------------------


@pytest.fixture
def no_reading(monkeypatch):
    def read(*_):
        raise AssertionError("a map was read")

    monkeypatch.setattr(PolarisationMap, "read", read)


def test_an_nside_that_is_no_power_of_two(model, context, instrument, tmp_path, no_reading):
    files = {}
    for band in instrument.band:
        files[band] = tmp_path / f"{band}.fits"
        write_polarisation_map(files[band], np.ones((2, 108)), "uK_RJ")
    with pytest.raises(MapError, match="Nside that is a power of two, got 3"):
        classify(files, model=model, context=context)


# ---- evaluate --------------------------------------------------------------------------------


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr("foreglow.recognition.network.recogniser._BATCH", 1000)


def test_log_probabilities_of_pixels_are_those_of_evaluate(model, sky, small_batches):
    """Four blocks of pixels, the last one short."""
    said = pixel_log_probability(model, sky.data, sky.sigma)
    assert said.shape == (4, N_PIX)
    vectors = torch.from_numpy(np.moveaxis(sky.data, 2, 0).copy())
    sigma = torch.from_numpy(sky.sigma).float().expand(N_PIX, -1)
    torch.testing.assert_close(said, model.log_probability(vectors, sigma).T, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(said.exp(), evaluate(model, sky).probability, atol=1e-6)


def test_context_gets_the_candidates_alone(model, context, sky):
    """Fewer models than it knows: renormalised first, and then the neighbours."""
    models = PROBLEMS["ame"]  # the first and third of the four
    binary = replace(sky, label=sky.label // 2)
    said = pixel_log_probability(model, sky.data, sky.sigma)[[0, 2]]
    expected = context.log_probability(torch.log_softmax(said, 0)).exp()
    found = evaluate(model, binary, models, context)
    # one way goes through probabilities, rounded to 6e-8, and neighbours agree with each other:
    # what one pixel says counts some tens of times
    np.testing.assert_allclose(found.probability, expected, atol=1e-5)
    assert found.models == models


@pytest.mark.parametrize("neighbours", [False, True])
def test_accuracy_on_skies_is_that_of_its_skies(model, context, instrument, templates, neighbours):
    chosen = context if neighbours else None
    models = PROBLEMS["curvature"]
    (row,) = accuracy_on_skies(
        model, "mock", "curvature", "halves", NSIDE, [SCALE], 2, 3, context=chosen
    )
    tested = []
    for number in range(2):
        rng = np.random.default_rng([3, 8, number])
        label = layout("halves", NSIDE, 2)
        made = simulate_sky(templates, instrument, models, label, SCALE, rng)
        tested.append(evaluate(model, made, models, chosen))
    assert row == summarise(tested, SCALE)
    assert row.n_pixels == 2 * N_PIX


def test_neighbours_raise_the_accuracy_on_skies(model, context):
    alone, together = (
        accuracy_on_skies(model, "mock", "four", "quadrants", NSIDE, [SCALE], 2, 1, c)[0].accuracy
        for c in (None, context)
    )
    assert together > alone + 0.1
