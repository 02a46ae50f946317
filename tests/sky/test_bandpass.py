"""Bandpasses: the same means as PySM3's, from a few nodes; and what bad ones are told."""

import re
import warnings

import numpy as np
import pytest
import tomli_w
import torch

from foreglow.errors import InstrumentError
from foreglow.sky import seds
from foreglow.sky.bandpass import Bands, bands_of, tabulated, top_hat
from foreglow.sky.instrument_files import load_instrument

ROW = {
    "name": "a",
    "frequency": "40 GHz",
    "sensitivity": "12 uK_CMB arcmin",
    "fwhm": "40 arcmin",
    "source": "a test",
}
SEDS = {
    "cmb": seds.cmb,
    "synchrotron": lambda nu: seds.synchrotron(nu, -3.1, -0.052),
    "dust": seds.modified_blackbody,
    "ame": seds.spinning_dust,
}


@pytest.fixture(scope="module")
def pysm3():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pysm3
        import pysm3.units
        import pysm3.utils
    return pysm3


def rippled(low, high, n=401):
    """A measured-looking response: sloped edges, ripples, a tilt."""
    nu = np.linspace(low, high, n)
    x = (nu - low) / (high - low)
    return nu, (1 + 0.2 * np.sin(25 * x) + 0.5 * x) * np.clip(8 * x * (1 - x), 1e-3, 1)


def write(path, *rows):
    path.write_text(tomli_w.dumps({"name": "mine", "band": list(rows)}), "utf-8")
    return path


@pytest.mark.parametrize("name", SEDS)
@pytest.mark.parametrize(("low", "high"), [(9.0, 12.0), (34.0, 46.0), (63.0, 73.0)])
def test_a_top_hat_is_the_integral_in_power(name, low, high):
    nu = torch.linspace(low, high, 20001, dtype=torch.float64)
    exact = torch.trapezoid(nu**2 * SEDS[name](nu), nu) / torch.trapezoid(nu**2, nu)
    bands = bands_of((top_hat(low, high),))
    assert bands.average(SEDS[name](bands.node_ghz)).item() == pytest.approx(exact.item(), rel=1e-6)


@pytest.mark.parametrize("edges", [(30.0, 50.0), (120.0, 160.0), (340.0, 460.0)])
def test_units_are_converted_as_pysm3_does(pysm3, tmp_path, edges):
    u, nu = pysm3.units, np.linspace(*edges, 2001)
    centre = f"{np.mean(edges)} GHz"
    response = np.stack(rippled(*edges), 1)
    np.savetxt(tmp_path / "b.txt", response, header="GHz response")
    flat = {"edges": [f"{e} GHz" for e in edges]}
    rows = [
        ROW | {"name": "flat", "frequency": centre, "bandpass": flat},
        ROW | {"name": "table", "frequency": centre, "bandpass": {"table": "b.txt"}},
    ]
    mine = load_instrument(write(tmp_path / "i.toml", *rows))
    for band, (grid, weight) in enumerate([(nu, np.ones_like(nu)), response.T]):
        for unit in ("uK_CMB", "MJy/sr"):
            theirs = pysm3.utils.bandpass_unit_conversion(
                grid * u.GHz, weight, output_unit=u.uK_RJ, input_unit=u.Unit(unit)
            )
            assert mine.to_uk_rj_factor(unit, band) == pytest.approx(theirs.value, rel=2e-6)
        assert mine.to_uk_rj_factor("mK_RJ", band) == pytest.approx(1e3, rel=1e-12)
    np.testing.assert_allclose(
        mine.uk_rj_per_uk_cmb, [mine.to_uk_rj_factor("uK_CMB", k) for k in (0, 1)], rtol=1e-9
    )


def test_emission_is_that_of_pysm3(pysm3):
    u = pysm3.units
    nu, gain = rippled(20.0, 27.0)
    bands = bands_of((tabulated(nu, gain),))
    amplitude = np.full(12, 50.0) * u.uK_RJ
    law = pysm3.PowerLaw(amplitude, 23 * u.GHz, np.full(12, -3.1) * u.dimensionless_unscaled, 1,
                         has_polarization=False)  # fmt: skip
    theirs = law.get_emission(nu * u.GHz, gain)[0, 0].to_value(u.uK_RJ)
    ours = 50 * bands.average(seds.synchrotron(bands.node_ghz, -3.1)).item()
    assert ours == pytest.approx(theirs, rel=1e-6)
    plain = u.dimensionless_unscaled
    dust = pysm3.ModifiedBlackBody(
        amplitude, map_Q=amplitude, map_U=amplitude, nside=1,
        freq_ref_I=353 * u.GHz, freq_ref_P=353 * u.GHz,
        map_mbb_index=np.full(12, 1.54) * plain, map_mbb_temperature=np.full(12, 20.0) * u.K,
    )  # fmt: skip
    theirs = dust.get_emission(nu * u.GHz, gain)[0, 0].to_value(u.uK_RJ)
    ours = 50 * bands.average(seds.modified_blackbody(bands.node_ghz)).item()
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_a_narrow_band_tends_to_its_frequency():
    bands = bands_of((top_hat(99.999, 100.001),))
    exact = seds.synchrotron(torch.tensor([100.0], dtype=torch.float64), -3.0)
    assert bands.average(seds.synchrotron(bands.node_ghz, -3.0)).item() == pytest.approx(exact)


def test_single_frequencies_are_taken_as_they_are():
    nu = torch.tensor([30.0, 44.0], dtype=torch.float64)
    spectrum = seds.synchrotron(nu, -3.0)
    assert Bands.of(nu).average(spectrum) is spectrum
    assert len(Bands.of(nu)) == 2


def test_a_table_of_few_rows_is_integrated_exactly():
    nodes = tabulated([30.0, 31.0, 33.0], [1.0, 2.0, 0.0])
    weight = np.array([0.5 * 1 * 30**2, 1.5 * 2 * 31**2])
    np.testing.assert_allclose([n for n, _ in nodes], [30, 31])
    np.testing.assert_allclose([w for _, w in nodes], weight / weight.sum())


def test_widths_edges_and_joins(tmp_path):
    rows = [
        ROW | {"bandpass": {"width": 0.3}},
        ROW | {"name": "b", "bandpass": {"edges": ["34 GHz", "0.046 THz"]}},
        ROW | {"name": "c", "frequency": "30 GHz"},
    ]
    mine = load_instrument(write(tmp_path / "i.toml", *rows))
    assert mine.band == ("c", "a", "b")
    assert mine.nodes(0) == ((30.0, 1.0),)
    np.testing.assert_allclose(mine.nodes(1), mine.nodes(2))
    both = load_instrument(f"{tmp_path / 'i.toml'}+planck")
    assert len(both.bandpass) == both.n_band == 10
    narrow = load_instrument("planck")
    for name in narrow.band:
        assert both.nodes(both.index(name)) == narrow.nodes(narrow.index(name))
    assert narrow.bandpass == ()


def test_the_bands_of_litebird_are_wide():
    litebird = load_instrument("litebird")
    bands, centre = litebird.bands, torch.tensor(litebird.frequency_ghz, dtype=torch.float64)
    k = litebird.index("LFT_40")
    # a power law of -3 is nu^-1 in power: its mean over a top-hat is known, and hardly changes
    ratio = bands.average(seds.synchrotron(bands.node_ghz, -3.0)) / seds.synchrotron(centre, -3.0)
    expected = np.log(46 / 34) / ((46**3 - 34**3) / 3) * 40**3
    assert ratio[k].item() == pytest.approx(expected, rel=1e-6)
    dust = bands.average(seds.modified_blackbody(bands.node_ghz)) / seds.modified_blackbody(centre)
    assert dust[k].item() == pytest.approx(1.025, abs=1e-3)


@pytest.mark.parametrize(
    ("bandpass", "message"),
    [
        ({}, "expected one of width, edges or table"),
        ({"width": 0.3, "table": "a.txt"}, "expected one of width, edges or table"),
        ({"width": 2.5}, r"bandpass\.width: Input should be less than 2"),
        ({"width": "12 GHz"}, r"bandpass\.width: Input should be a valid number"),
        ({"edges": ["34 GHz"]}, r"bandpass\.edges"),
        ({"edges": ["46 GHz", "34 GHz"]}, "edges of a band above 0 GHz, the lower first"),
        ({"edges": [34, 46]}, "expected a quantity in GHz"),
        ({"edges": ["44 GHz", "46 GHz"]}, "the frequency of band a within its bandpass, but .* 40"),
        ({"table": "absent.txt"}, "absent.txt does not exist; its path counts from"),
        ({"table": "words.txt"}, "words.txt: expected columns of numbers"),
        ({"table": "one.txt"}, "two columns, frequency in GHz and response, .*shape"),
        ({"table": "down.txt"}, "down.txt: expected frequencies above 0 GHz that ascend"),
        ({"table": "dark.txt"}, "dark.txt: expected finite numbers, and a response above 0"),
        ({"table": "hertz.txt"}, r"within its bandpass, but it is 40 GHz .* about .*e\+10"),
    ],
)
def test_bad_bandpasses(tmp_path, bandpass, message):
    (tmp_path / "words.txt").write_text("forty one\n")
    np.savetxt(tmp_path / "one.txt", [30.0, 40.0])
    np.savetxt(tmp_path / "down.txt", [[50.0, 1.0], [40.0, 1.0], [45.0, 1.0]])
    np.savetxt(tmp_path / "dark.txt", [[30.0, 0.0], [50.0, -1.0]])
    np.savetxt(tmp_path / "hertz.txt", [[3e10, 1.0], [4e10, 1.0], [5e10, 1.0]])
    path = write(tmp_path / "i.toml", ROW | {"bandpass": bandpass})
    with pytest.raises(InstrumentError, match=re.compile(message, re.DOTALL)):
        load_instrument(path)
