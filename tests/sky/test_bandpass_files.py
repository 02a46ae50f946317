"""Files of bandpasses as Planck and WMAP have them, from small ones of the exact form."""

import warnings

import numpy as np
import pytest
import torch

from foreglow.errors import InstrumentError
from foreglow.sky import seds
from foreglow.sky.bandpass import bands_of, measure, tabulated
from foreglow.sky.bandpass_files import LIGHT_GHZ_CM, BandpassWarning, read_bandpass
from foreglow.survey import recognize_survey
from foreglow.survey.bands import load_survey, with_bandpasses
from product_forms import rimo

NU = np.linspace(76.0, 124.0, 241)  # GHz
GAIN = np.exp(-(((NU - 101) / 17) ** 6)) * (1 + 0.1 * np.sin(NU))
SPECTRA = (seds.cmb, seds.modified_blackbody, lambda nu: seds.synchrotron(nu, -3.1))


def rimo_of(path, name, unit, nu, gain, **other):
    """A RIMO of one bandpass."""
    return rimo(path, {name: (nu, gain)}, unit, **other)


@pytest.fixture
def hfi(tmp_path):
    """In cm^-1, with a row at zero and noise below zero in the wings."""
    nu, gain = np.append(0.0, NU), np.append(0.0, GAIN)
    gain[5] = -1e-3
    return rimo_of(tmp_path / "HFI.fits", "BANDPASS_F100", "1/cm", nu / LIGHT_GHZ_CM, gain)


def means(nodes):
    """Of the spectra, with nodes."""
    bands = bands_of((nodes,))
    return np.array([bands.average(one(bands.node_ghz)).item() for one in SPECTRA])


def test_hfi_is_converted_as_pysm3_does(hfi):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pysm3
        import pysm3.units as u
    with pytest.warns(BandpassWarning, match=r"below zero in 1 of 241 rows, down to -0\.00"):
        nodes = read_bandpass(f"{hfi}[BANDPASS_F100] as power")
    gain = GAIN.copy()
    gain[4] = 0.0
    theirs = pysm3.utils.bandpass_unit_conversion(
        NU * u.GHz, gain, output_unit=u.uK_RJ, input_unit=u.uK_CMB
    )
    assert means(nodes)[0] == pytest.approx(theirs.value, rel=1e-5)
    np.testing.assert_allclose(means(nodes), means(tabulated(NU, gain)), rtol=1e-9)


def test_lfi_weighs_brightness_temperature(tmp_path):
    path = rimo_of(tmp_path / "LFI.fits", "BANDPASS_030", "GHz", NU, GAIN)
    found = means(read_bandpass(f"{path}[bandpass_030] as temperature"))
    np.testing.assert_allclose(found, means(tabulated(NU, GAIN / NU**2)), rtol=1e-9)
    exact = [
        np.trapezoid(GAIN * one(torch.from_numpy(NU)).numpy(), NU) / np.trapezoid(GAIN, NU)
        for one in SPECTRA
    ]
    np.testing.assert_allclose(found, exact, rtol=1e-5)


def test_detectors_of_wmap_are_averaged_as_calibrated(tmp_path):
    """Each sees the CMB as it is: of another spectrum the map has the mean of what they see."""
    second = np.where(NU > 90, 0.8 * GAIN, 0.0)
    np.savetxt(tmp_path / "K11.cbp", np.stack([NU, GAIN, second], 1), header="GHz, linear RJ")
    found = means(read_bandpass("K11.cbp[2,3] as temperature in GHz", tmp_path))
    each = [means(tabulated(*measure_of(gain), "power")) for gain in (GAIN, second)]
    ratio = np.mean([one[1:] / one[0] for one in each], 0)
    np.testing.assert_allclose(found[1:] / found[0], ratio, rtol=1e-5)
    with pytest.warns(BandpassWarning, match=r"of 3 columns the second is taken .* K11.cbp\[2,3\]"):
        one = means(read_bandpass("K11.cbp as temperature", tmp_path))
    np.testing.assert_allclose(one, each[0], rtol=1e-9)


def measure_of(gain):
    """A response to temperature as one in power."""
    return NU, gain / NU**2


def test_far_wings_take_more_nodes():
    nu = np.geomspace(30, 1200, 4000)
    gain = np.exp(-(((nu - 353) / 50) ** 4)) + 3e-4
    where, weight = measure(nu, gain)
    for one, found in zip(SPECTRA, means(tabulated(nu, gain)), strict=True):
        exact = weight @ one(torch.from_numpy(where)).numpy() / weight.sum()
        assert found == pytest.approx(exact, rel=2e-3)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("HFI.fits[BANDPASS_F100]", r"told what the transmission answers to, .* 'as power'"),
        ("HFI.fits as power", r"expected the extension .* got none; it has BANDPASS_F100\."),
        ("HFI.fits[BANDPASS_F143] as power", r"got BANDPASS_F143; it has BANDPASS_F100\."),
        ("HFI.fits[CHANNEL_PARAMETERS] as power", r"expected columns FREQUENCY or .* got DETECTOR"),
        ("HFI.fits[BANDPASS_F100] as power in GHz", r"in GHz, as given, got TUNIT cm\^-1; leave"),
        ("HFI.fits[BANDPASS_F100] as power in parsec", r"frequencies in Hz, .* got 'parsec'"),
        ("bare.fits[BANDPASS_F100] as power", r"without TUNIT; write 'in GHz' .* 'in cm\^-1'"),
        ("band.txt[4]", r"numbers of columns from 2 to 2, such as band.txt\[2\], got \[4\]"),
        ("absent.fits[BANDPASS_F100] as power", r"absent.fits does not exist; its path counts"),
    ],
)
def test_what_is_not_stated_is_asked_for(hfi, said, message):
    folder = hfi.parent
    rimo_of(folder / "bare.fits", "BANDPASS_F100", None, NU, GAIN)
    np.savetxt(folder / "band.txt", np.stack([NU, GAIN], 1))
    with pytest.raises(InstrumentError, match=message):
        read_bandpass(said, folder)


@pytest.mark.filterwarnings("ignore::foreglow.sky.bandpass_files.BandpassWarning")
def test_a_survey_takes_them(hfi, tmp_path):
    plain = load_survey("planck")
    wide = with_bandpasses(plain, {"Planck_100": f"{hfi}[BANDPASS_F100] as power"})
    k = plain.instrument.index("Planck_100")
    assert wide.instrument.nodes(k - 1) == plain.instrument.nodes(k - 1)
    ratio = wide.instrument.uk_rj_per_uk_cmb / plain.instrument.uk_rj_per_uk_cmb
    assert ratio[k] == pytest.approx(means(wide.instrument.nodes(k))[0] / ratio_of(plain, k))
    assert abs(ratio[k] - 1) > 1e-3
    with pytest.raises(InstrumentError, match=r"Planck_30 within its bandpass, .* 28.4 GHz"):
        recognize_survey(
            "planck", out=tmp_path / "x", bandpass={"Planck_30": f"{hfi}[BANDPASS_F100] as power"}
        )


def ratio_of(survey, k):
    """From uK_CMB to uK_RJ at the frequency of a band."""
    return survey.instrument.uk_rj_per_uk_cmb[k]
