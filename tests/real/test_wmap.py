"""WMAP's seven-year maps of V and W that healpy tests with, against healpy's own reader.

FOREGLOW_WMAP names the folder of healpy's `test/data`, or of another with its files
`wmap_band_iqumap_r9_7yr_{V,W}_v4_udgraded32.fits` and `..._masked.fits`. They state neither unit
nor frame nor convention: these are mK_CMB, Galactic and COSMO.
"""

import os
from pathlib import Path

import healpy as hp
import numpy as np
import pytest

from foreglow.errors import MapError
from foreglow.maps.conventions import MapWarning
from foreglow.maps.io import open_polarisation_map
from foreglow.recognition.observation.observations import open_observation
from foreglow.sky.instrument_files import load_instrument
from foreglow.survey.bands import load_survey

NSIDE = 32
quiet = pytest.mark.filterwarnings("ignore::foreglow.maps.conventions.MapWarning")


@pytest.fixture(scope="module")
def folder():
    named = os.environ.get("FOREGLOW_WMAP")
    if named is None:
        pytest.skip("needs FOREGLOW_WMAP, the folder of healpy's test/data")
    if not (Path(named) / name_of("V")).is_file():
        pytest.fail(f"FOREGLOW_WMAP={named}: expected {name_of('V')} there")
    return Path(named)


def name_of(band, masked=False):
    return f"wmap_band_iqumap_r9_7yr_{band}_v4_udgraded32{'_masked' if masked else ''}.fits"


@quiet
@pytest.mark.parametrize("masked", [False, True])
def test_q_and_u_are_those_of_healpy(folder, masked):
    """Columns, ordering, unit, sign and what is not observed, and so the table of bands."""
    bands = load_survey("wmap").instrument
    maps = {f"WMAP_{b}": f"{folder / name_of(b, masked)} in mK_CMB" for b in "VW"}
    data, _, _ = open_observation(bands, maps).read_all_noise(np.arange(hp.nside2npix(NSIDE)))
    for band in "VW":
        place = bands.index(f"WMAP_{band}")
        _, q, u = hp.read_map(folder / name_of(band, masked), field=None, dtype=np.float64)
        factor = 1e3 * bands.uk_rj_per_uk_cmb[place]
        seen = q > hp.UNSEEN / 2
        assert seen.all() != masked
        np.testing.assert_array_equal(np.isfinite(data[:, :, place]).all(1), seen)
        expected = factor * np.stack([q, u], 1)[seen]
        np.testing.assert_allclose(data[seen, :, place], expected, rtol=1e-6)


@quiet
def test_the_cmb_cancels_and_the_synchrotron_is_there(folder):
    """Brighter along the plane, in kelvins of the sky: uK, not mK or K."""
    read = [hp.read_map(folder / name_of(b), field=(1, 2), dtype=np.float64) for b in "VW"]
    opened = open_polarisation_map(folder / name_of("V"), unit="mK_CMB")
    assert opened.nside == NSIDE
    assert opened.frame == "G"
    polarised = 1e3 * np.hypot(*read[0])
    latitude = np.abs(hp.pix2ang(NSIDE, np.arange(hp.nside2npix(NSIDE)), lonlat=True)[1])
    assert 1 < np.median(polarised[latitude > 40]) < 20  # of noise in pixels of 110 arcmin
    assert np.median(polarised[latitude < 3]) > 1.3 * np.median(polarised[latitude > 40])


def test_what_they_do_not_state_is_asked_for_or_said(folder):
    instrument = load_instrument("wmap")
    with pytest.warns(MapWarning) as said:
        open_observation(instrument, {"WMAP_V": f"{folder / name_of('V')} in mK_CMB"})
    text = " ".join(str(one.message) for one in said)
    assert "no COORDSYS in the header, taken as Galactic" in text
    assert "no POLCCONV in the header, taken as COSMO" in text
    with pytest.warns(MapWarning), pytest.raises(MapError, match=r"udgraded32.fits: .*unit"):
        open_observation(instrument, {"WMAP_V": str(folder / name_of("V"))})
