"""A wrong unit shows in how bright the bands are; no honest sky looks like one."""

import re
import warnings
from functools import partial

import healpy as hp
import numpy as np
import pytest

from foreglow.maps.write import write_polarisation_map
from foreglow.recognition.classify import classify
from foreglow.recognition.fit_maps import fit
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.observation.levels import Levels, LevelWarning, warn_of_levels
from foreglow.recognition.simulation.skies import simulate_sky
from foreglow.sky.instrument_files import load_instrument
from foreglow.sky.templates import TYPICAL_UK_RJ, load_templates

WORDS = {"unit": "uK_RJ", "frame": "G", "convention": "COSMO", "nest": False}
NSIDE, N_PIX = 16, hp.nside2npix(16)
LON, LAT = hp.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)
PATCHES = {
    "full": np.ones(N_PIX, bool),
    "plane": np.abs(LAT) < 5,
    "centre": (np.abs(LAT) < 3) & (np.abs((LON + 180) % 360 - 180) < 10),
    "pole": LAT > 60,
}


def vectors(templates, instrument, scale, seed=0):
    """Data (n, stokes, band) and noise (n, band) of a test sky."""
    label = np.arange(templates.dust.shape[1]) % 4
    rng = np.random.default_rng(seed)
    sky = simulate_sky(templates, instrument, PROBLEMS["four"], label, scale, rng)
    return np.moveaxis(sky.data, 2, 0).copy(), np.tile(sky.sigma, (len(label), 1))


def said(data, sigma, instrument):
    """The warnings, as text."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_levels(Levels.of(data, sigma), instrument)
    return [str(w.message) for w in caught]


def named(message):
    return re.search(r"the maps of (?:bands? )?(.*) are far (\w+) than any sky", message).groups()


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("name", ["quijote+litebird", "s-pass+wmap+planck"])
def test_no_honest_sky_is_questioned(templates, patch, scale, name):
    bands, where = load_instrument(name), PATCHES[patch]
    data, sigma = vectors(templates, bands, scale)
    assert said(data[where], sigma[where], bands) == []
    assert said(data[where], bands.noise_rms(NSIDE) + 0 * sigma[where], bands) == []


def test_nor_the_real_one_nor_fine_pixels(real_data, instrument):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no POLCCONV
        templates = load_templates(str(real_data / "pysm64"))
    lat = hp.pix2ang(64, np.arange(hp.nside2npix(64)), lonlat=True)[1]
    data, sigma = vectors(templates, instrument, 1.0)
    for where in (np.abs(lat) < 3, np.abs(lat) > 60, lat > -99):
        assert said(data[where], sigma[where], instrument) == []


@pytest.mark.parametrize("patch", ["full", "pole"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("factor", [1e6, 1e3, 1e-3, 1e-6])
def test_a_wrong_unit_is(templates, instrument, patch, scale, factor):
    where = PATCHES[patch]
    data, sigma = (x[where] for x in vectors(templates, instrument, scale))
    how = "brighter" if factor > 1 else "fainter"
    for k, band in enumerate(instrument.band):
        wrong = data.copy()
        wrong[:, :, k] *= factor
        (message,) = said(wrong, sigma, instrument)
        assert named(message) == (band, how)
    (message,) = said(factor * data, sigma, instrument)
    assert named(message)[1] == how


def test_the_message_says_what_to_look_at(templates, instrument):
    data, sigma = vectors(templates, instrument, 1.0)
    data[:, :, [2, 4]] *= 1e6
    (message,) = said(data, sigma, instrument)
    assert message.startswith(
        "the maps of bands 40, 60 are far brighter than any sky: expected sqrt(Q^2 + U^2) in uK_RJ "
        "as the other bands and the noise have it, got typically "
    )
    looked_at = data[::3, :, 4].astype(float)  # a thousand pixels tell it
    amplitude = np.exp(np.log(np.hypot(*looked_at.T)).mean())
    assert f"{amplitude:.3g} in 60 (at most " in message
    assert message.endswith(
        "; check the unit of these maps and of their noise (TUNIT in the header, unit= where "
        "there is none): if it is wrong, so is all that was found."
    )
    (message,) = said(1e-6 * vectors(templates, instrument, 0.0)[0], sigma, instrument)
    assert message.startswith("the maps of all bands are far fainter than any sky: ")
    assert " and 13 more; check" in message


def test_noise_in_another_unit(templates, instrument):
    """Maps a thousand times quieter than their noise is stated to be."""
    data, sigma = vectors(templates, instrument, 1.0)
    sigma[:, 0] *= 1e6
    assert named(said(data, sigma, instrument)[0]) == ("11", "fainter")


def test_levels_of_blocks_add_up_and_holes_do_not_count(instrument):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(40, 2, 17)).astype(np.float32)
    sigma = np.ones((40, 17), np.float32)
    data[:3, :, 5] = 0
    data[7, 1, 6] = np.nan
    whole, parts = Levels.of(data, sigma), Levels.none(17)
    for k in range(0, 40, 8):
        parts = parts + Levels.of(data[k : k + 8], sigma[k : k + 8])
    np.testing.assert_array_equal(parts.count, whole.count)
    np.testing.assert_allclose(parts.log_amplitude, whole.log_amplitude)
    np.testing.assert_array_equal(whole.count[4:8], [40, 37, 39, 40])
    warn_of_levels(Levels.none(17), instrument)  # of nothing there is nothing to say


def test_typical_amplitudes_are_the_mocks(templates):
    for found, name in ((templates.synchrotron, "synchrotron"), (templates.dust, "thermal_dust")):
        typical = np.exp(np.log(np.hypot(*found)).mean())
        assert typical == pytest.approx(TYPICAL_UK_RJ[name], rel=0.05)
    assert np.exp(np.log(templates.ame).mean()) == pytest.approx(TYPICAL_UK_RJ["ame"], rel=0.05)


@pytest.mark.parametrize("job", ["classify", "fit"])
def test_whoever_reads_the_maps_says_it(model, sky, instrument, tmp_path, job):
    """Uneven coverage too: levels are those of the pixels that were used."""
    files = {}
    for k, band in enumerate(instrument.band):
        qu = np.where(LAT > 60, sky.data[:, k], np.nan).astype(np.float64)
        files[band] = tmp_path / f"{band}.fits"
        write_polarisation_map(files[band], qu, "K_RJ" if band == "60" else "uK_RJ")
    given = {"model": model} if job == "classify" else {"models": PROBLEMS["curvature"]}
    ask = classify if job == "classify" else partial(fit, instrument=instrument)
    with pytest.warns(LevelWarning, match="the maps of band 60 are far brighter") as caught:
        ask(files, noise_scale=0.1, **given)
    assert len(caught) == 1


def test_a_map_that_holds_nothing_is_told_of(sky, instrument):
    """The fit does without it, as without a band that was not given."""
    maps = {band: sky.data[:, k].astype(float) for k, band in enumerate(instrument.band)}
    del maps["11"]
    maps["68"] = np.full((2, N_PIX), np.nan)
    said = r"the maps of 68 hold no value where the other bands are observed"
    with pytest.warns(LevelWarning, match=said) as caught:
        fit(maps, instrument=instrument, models=PROBLEMS["curvature"], noise_scale=0.1, **WORDS)
    assert len(caught) == 1
