"""Instruments: noise in a pixel, bands by name and by frequency."""

import numpy as np
import pytest

from foreglow.errors import InstrumentError
from foreglow.sky.instrument import Instrument
from foreglow.sky.instrument_files import load_instrument


@pytest.fixture(scope="module")
def instrument():
    return load_instrument("quijote+litebird")


def test_noise_of_a_pixel(instrument):
    # Nside 16: 4 pi sr / 3072 = 48343.1 arcmin^2, 219.871 arcmin a side
    rms = instrument.noise_rms(16)
    x = 0.04799243073366221 * 100 / 2.7255
    to_rj = x**2 * np.exp(x) / (np.exp(x) - 1) ** 2
    assert rms.shape == (17,)
    assert rms[instrument.index("100")] == pytest.approx(7.0 / 219.871 * to_rj, rel=1e-5)
    assert rms[0] == pytest.approx(840 / 219.871, rel=4e-3)  # Rayleigh-Jeans but for x^2/12
    np.testing.assert_allclose(instrument.noise_rms(32), 2 * rms)


@pytest.mark.parametrize("band", ["40", "40.0", "40 GHz", "40GHz", "40 ghz"])
def test_bands_by_name_or_frequency(instrument, band):
    assert instrument.index(band) == 2


def test_a_name_comes_before_a_frequency():
    swapped = Instrument("x", ("40", "30"), (30.0, 40.0), (1, 1), (1, 1), ("", ""))
    assert swapped.index("40") == 0
    assert swapped.index("40 GHz") == 1


@pytest.mark.parametrize("band", ["41", "K", "nan", ""])
def test_bands_that_are_not_there(instrument, band):
    with pytest.raises(InstrumentError, match=rf"bands 11, 13, .* got band '{band}'; name"):
        instrument.index(band)
