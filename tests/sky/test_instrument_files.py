"""Instruments of presets, files and tables: the paper's table, and what bad files are told."""

import importlib
import re

import astropy.units as u
import numpy as np
import pytest
import tomli_w
from astropy.table import QTable, Table

from foreglow.errors import InstrumentError
from foreglow.sky.instrument_files import InstrumentWarning, available_instruments, load_instrument

# Farsian et al. 2020, Table 1: GHz, uK_CMB arcmin, arcmin
TABLE_1 = [
    (11, 840, 55.2), (13, 840, 55.2), (40, 36.1, 69.2), (50, 19.6, 56.9), (60, 20.2, 49.0),
    (68, 11.3, 40.8), (78, 10.3, 36.1), (89, 8.4, 32.3), (100, 7.0, 27.7), (119, 5.8, 23.7),
    (140, 4.7, 20.7), (166, 7.0, 24.2), (195, 5.8, 21.7), (235, 8.0, 19.6), (280, 9.1, 13.2),
    (337, 11.4, 11.2), (402, 19.6, 9.7),
]  # fmt: skip
LOW = {
    "name": "low",
    "frequency": "30 GHz",
    "sensitivity": "12 uK_CMB arcmin",
    "fwhm": "40 arcmin",
    "source": "a test",
}
HIGH = LOW | {"name": "high", "frequency": "150 GHz"}


@pytest.fixture(scope="module")
def instrument():
    return load_instrument("quijote+litebird")


def write(path, *bands, **top):
    path.write_text(tomli_w.dumps({"name": "mine"} | top | {"band": list(bands)}), "utf-8")
    return path


def without(row, key):
    return {k: v for k, v in row.items() if k != key}


def test_the_preset_is_table_1_of_the_paper(instrument):
    rows = zip(
        instrument.frequency_ghz,
        instrument.sensitivity_uk_arcmin,
        instrument.fwhm_arcmin,
        strict=True,
    )
    np.testing.assert_allclose(list(rows), TABLE_1, rtol=1e-12)
    assert instrument.name == "quijote+litebird"
    assert instrument.n_band == 17
    assert all("Farsian et al. 2020, Table 1" in source for source in instrument.source)


@pytest.mark.parametrize("name", available_instruments())
def test_every_preset_loads_and_every_row_has_its_source(name):
    preset = load_instrument(name)
    assert preset.name == name
    assert preset.frequency_ghz == tuple(sorted(preset.frequency_ghz))
    for source in preset.source:  # a publication: who and when, where to find it
        assert re.search(r"(19|20)\d\d", source) or "WMAP DR5" in source
        assert re.search(r"arXiv:\d{4}\.\d{4,5}|Farsian et al. 2020, Table 1", source)


def test_the_presets_that_users_have():
    expected = {
        "litebird": 22,
        "so-sat": 6,
        "planck": 7,
        "wmap": 5,
        "quijote-mfi": 4,
        "quijote-mfi2": 4,
    }
    expected |= {"c-bass": 1, "s-pass": 1, "quijote+litebird": 17}
    assert {name: load_instrument(name).n_band for name in available_instruments()} == expected


def test_published_numbers_of_some_rows():
    litebird = load_instrument("litebird")
    assert litebird.sensitivity_uk_arcmin[litebird.index("LFT_40")] == 37.42
    assert litebird.fwhm_arcmin[litebird.index("LFT_68b")] == 47.1
    # the best weighted sensitivity that the collaboration quotes: 2.16 uK arcmin
    weight = np.sum(np.array(litebird.sensitivity_uk_arcmin) ** -2)
    assert weight**-0.5 == pytest.approx(2.16, abs=0.01)
    planck = load_instrument("planck")
    assert planck.sensitivity_uk_arcmin[planck.index("353")] == pytest.approx(60 * 7.31)
    satellites = load_instrument("so-sat")
    in_both = [satellites.sensitivity_uk_arcmin[satellites.index(b)] for b in ("93", "145")]
    # "2 uK arcmin in combined 93 and 145 GHz", in temperature
    assert np.sum(np.array(in_both) ** -2.0) ** -0.5 / 2**0.5 == pytest.approx(2, rel=0.15)


def test_instruments_are_joined_by_plus_signs(tmp_path):
    both = load_instrument("s-pass+planck+quijote-mfi")
    assert both.name == "s-pass+planck+quijote-mfi"
    assert both.n_band == 12
    assert both.frequency_ghz == tuple(sorted(both.frequency_ghz))
    assert both.band[:2] == ("S-PASS", "MFI_11")
    mine = write(tmp_path / "i.toml", LOW, HIGH)
    assert load_instrument(f"{mine}+planck").n_band == 9
    with pytest.raises(InstrumentError, match="names band C-BASS twice"):
        load_instrument("c-bass+c-bass")
    with pytest.raises(InstrumentError, match="but 'nobody' is neither"):
        load_instrument("planck+nobody")


def test_two_bands_of_one_frequency_go_by_name(tmp_path):
    pair = load_instrument(write(tmp_path / "i.toml", LOW, LOW | {"name": "low2"}))
    assert pair.index("low2") == 1
    with pytest.raises(InstrumentError, match="got band '30 GHz'"):
        pair.index("30 GHz")


def test_a_users_file_goes_round(tmp_path, instrument):
    bands = [
        {
            "name": name,
            "frequency": f"{1e-3 * nu!r} THz",
            "sensitivity": f"{noise / 60000!r} mK_CMB deg",
            "fwhm": f"{fwhm / 60!r} deg",
            "source": source,
        }
        for name, nu, noise, fwhm, source in zip(
            instrument.band,
            instrument.frequency_ghz,
            instrument.sensitivity_uk_arcmin,
            instrument.fwhm_arcmin,
            instrument.source,
            strict=True,
        )
    ]
    read = load_instrument(write(tmp_path / "i.toml", *reversed(bands), name="mine"))
    assert (read.name, read.band, read.source) == ("mine", instrument.band, instrument.source)
    for column in ("frequency_ghz", "sensitivity_uk_arcmin", "fwhm_arcmin"):
        np.testing.assert_allclose(getattr(read, column), getattr(instrument, column), rtol=1e-12)


def test_pysm_may_be_imported_first(instrument):
    importlib.import_module("pysm3.units")  # it names K_CMB and uK_CMB among astropy's units
    assert load_instrument("quijote+litebird") == instrument


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        ([], "band: List should have at least 1 item"),
        ([LOW, without(HIGH, "fwhm")], r"band\.1\.fwhm: Field required"),
        ([LOW | {"beam": 1}, HIGH], r"band\.0\.beam: Extra inputs are not permitted \(got 1\)"),
        ([LOW | {"name": ""}, HIGH], r"band\.0\.name: String should have at least 1 character"),
        ([LOW | {"frequency": 30}, HIGH], r"a quantity in GHz: .*\(got 30\)"),
        ([LOW | {"frequency": "30 arcmin"}, HIGH], "a quantity in GHz: 'arcmin' .* not convert"),
        ([LOW | {"frequency": "30 furlong"}, HIGH], "a quantity in GHz: 'furlong' did not parse"),
        ([LOW | {"frequency": "-30 GHz"}, HIGH], r"frequency: .* greater than or equal to 0\.1"),
        ([LOW | {"frequency": "inf GHz"}, HIGH], "frequency: .* less than or equal to 3000"),
        (
            [LOW, HIGH | {"frequency": "11e9 GHz"}],
            r"band\.1\.frequency: .* less than or equal to 3000 \(got '11e9 GHz'\)",
        ),
        (
            [LOW | {"bandpass": {"edges": ["28 GHz", "32000 GHz"]}}, HIGH],
            r"band\.0\.bandpass\.edges\.1: .* less than or equal to 3000",
        ),
        ([LOW | {"fwhm": "nan arcmin"}, HIGH], "fwhm: Input should be greater than 0"),
        ([LOW | {"sensitivity": "0 uK_CMB arcmin"}, HIGH], "should be greater than 0"),
        (
            [LOW | {"sensitivity": "12 uK arcmin"}, HIGH],
            "in uK_CMB arcmin: .*spelled K_CMB.*'12 uK ",
        ),
        ([LOW | {"sensitivity": "12 uK_RJ arcmin"}, HIGH], "in uK_CMB arcmin: .* spelled K_CMB"),
        ([LOW | {"fwhm": "12 K_CMB"}, HIGH], "a quantity in arcmin: thermodynamic"),
        ([LOW, LOW], "instrument 'mine' names band low twice"),
    ],
)
def test_bad_instruments(tmp_path, bands, message):
    with pytest.raises(InstrumentError, match=message) as caught:
        load_instrument(write(tmp_path / "i.toml", *bands))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fwhm": "55.2 deg"}, "fwhm 3312 arcmin of band low (most lie between 0.1 and 600)"),
        ({"fwhm": "5 mas"}, "fwhm 8.33333e-05 arcmin of band low (most lie between 0.1 and 600)"),
        ({"frequency": "2.3 THz"}, "frequency 2300 GHz of band low (most lie between 1 and 1000)"),
        ({"frequency": "0.3 GHz"}, "frequency 0.3 GHz of band low (most lie between 1 and 1000)"),
        (
            {"sensitivity": "12 K_CMB arcmin"},
            "sensitivity 1.2e+07 uK_CMB arcmin of band low (most lie between 0.01 and 1e+06)",
        ),
    ],
)
def test_numbers_that_may_be_in_another_unit(tmp_path, change, message):
    path = write(tmp_path / "i.toml", LOW | change, HIGH)
    expected = f"{path}: unusual {message}; check the unit."
    with pytest.warns(InstrumentWarning, match=re.escape(expected)):
        assert load_instrument(path).n_band == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name = ", "i.toml is not valid TOML: Invalid value"),
        (b'name = "\xff"', "i.toml is not valid TOML: 'utf-8' codec"),
        (b"", 'name: Field required .* band: Field required .* Expected a name and one .*"36 uK'),
    ],
)
def test_files_that_are_no_instruments(tmp_path, content, message):
    path = tmp_path / "i.toml"
    path.write_bytes(content)
    with pytest.raises(InstrumentError, match=message):
        load_instrument(path)


def test_an_instrument_that_is_nowhere(tmp_path):
    with pytest.raises(
        InstrumentError, match=r"built-in instrument \(.*quijote\+litebird.*'plank'"
    ):
        load_instrument("plank")
    with pytest.raises(InstrumentError, match="is neither"):
        load_instrument(tmp_path)


def test_a_table_as_fgbuster_has_it():
    pandas = pytest.importorskip("pandas")
    columns = {"frequency": [353.0, 40.0], "depth_p": [20.5, 36.1], "fwhm": [11.0, 69.0]}
    for table in (columns, pandas.DataFrame(columns | {"depth_i": [1.0, 2.0]})):
        found = load_instrument(table)
        assert found.band == ("40", "353")
        assert found.sensitivity_uk_arcmin == (36.1, 20.5)
        assert found.fwhm_arcmin == (69.0, 11.0)


def test_a_table_of_quantities_and_texts():
    plain = {"frequency": [30.0, 90.0], "depth_p": [9.0, 3.0], "fwhm": [60.0, 30.0]}
    given = {
        "frequency": ["30 GHz", 9e10 * u.Hz], "depth_p": plain["depth_p"],
        "fwhm": [1.0 * u.deg, 30.0],
    }  # fmt: skip
    assert load_instrument(given) == load_instrument(plain)


@pytest.mark.parametrize("kind", [Table, QTable, dict])
def test_a_table_with_units(kind):
    import pysm3.units as pysm_u

    columns = {
        "frequency": [0.04, 0.353] * u.THz, "depth_p": [0.6, 0.35] * (pysm_u.uK_CMB * u.deg),
        "fwhm": [1.15, 0.2] * u.deg,
    }  # fmt: skip
    plain = {"frequency": [40.0, 353.0], "depth_p": [36.0, 21.0], "fwhm": [69.0, 12.0]}
    found, expected = load_instrument(kind(columns)), load_instrument(plain)
    assert found.band == expected.band
    for name in ("frequency_ghz", "sensitivity_uk_arcmin", "fwhm_arcmin"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name))


def test_a_unit_that_astropy_does_not_know():
    table = Table({"frequency": [40.0], "depth_p": [0.036], "fwhm": [69.0]})
    table["depth_p"].unit = "mK_CMB arcmin"
    assert load_instrument(table).sensitivity_uk_arcmin == pytest.approx((36.0,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth_p": None}, "got columns frequency, fwhm, depth_p is missing; give"),
        ({"depth_p": [-1.0]}, "does not describe an instrument"),
        ({"frequency": ["X"]}, "expected frequency in GHz, got 'X'"),
        ({"frequency": 40.0}, "column frequency with a number for every band, got 40.0;"),
        ({"fwhm": [1.0, 2.0]}, "of one length, got 1, 1, 2;"),
        ({"fwhm": [1.0] * u.K}, "expected fwhm in arcmin, got '1.0 K' .*not convertible"),
        (
            {"depth_p": [9.0] * (u.uK * u.arcmin)},
            "expected depth_p in uK_CMB arcmin, got '9.0 .*uK.*' .thermodynamic temperature is "
            "spelled K_CMB.; write a unit such as uK_CMB arcmin, or give plain numbers",
        ),
    ],
)
def test_a_table_that_is_no_instrument(change, message):
    table = {"frequency": [40.0], "depth_p": [36.1], "fwhm": [69.0]} | change
    with pytest.raises(InstrumentError, match=message):
        load_instrument({k: v for k, v in table.items() if v is not None})
