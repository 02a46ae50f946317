"""Templates: a sky directory, PySM3 presets and the mock Galaxy, and what bad ones are told."""

import logging
import re
import socket

import healpy as hp
import numpy as np
import pytest
import tomli_w
import torch
from astropy.config import set_temp_cache

from foreglow.errors import MapError, SkyError
from foreglow.maps.conventions import MapWarning, to_uk_rj_factor
from foreglow.maps.write import write_maps
from foreglow.sky import seds
from foreglow.sky.galaxy import mock_galaxy
from foreglow.sky.templates import SkyWarning, Templates, load_templates

NSIDE = 4
N_PIX = hp.nside2npix(NSIDE)


AT_GHZ = {"synchrotron": 23.0, "thermal_dust": 353.0, "ame": 30.0}


def at(sed, frequency_ghz, **parameters):
    return sed(torch.tensor(frequency_ghz, dtype=torch.float64), **parameters).item()


def make_maps(n_pix=N_PIX):
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(3, n_pix)) for name in ("synchrotron", "thermal_dust", "ame")}


def make_sky(folder, change=None, toml=None, **written):
    """A sky directory of three IQU maps; `change` edits its table, `written` the files."""
    table = {
        "synchrotron": {"file": "s.fits", "reference_frequency_ghz": 23.0, "unit": "uK_RJ"},
        "thermal_dust": {"file": "d.fits", "reference_frequency_ghz": 353.0, "unit": "uK_RJ"},
        "ame": {"file": "a.fits", "reference_frequency_ghz": 30.0, "unit": "uK_RJ"},
    }
    for name, entries in (change or {}).items():
        table[name] |= entries
    how = {"frame": "G", "ordering": "RING", "unit": "uK_RJ", "maps": make_maps()} | written
    for name, iqu in how["maps"].items():
        columns = {f"{s}_STOKES": (m, how["unit"]) for s, m in zip("IQU", iqu, strict=True)}
        path = folder / f"{name[0] if name != 'thermal_dust' else 'd'}.fits"
        write_maps(path, columns, frame=how["frame"], ordering=how["ordering"])
    (folder / "sky.toml").write_text(tomli_w.dumps(table) if toml is None else toml, "utf-8")
    return str(folder)


# ---- a sky directory -------------------------------------------------------------------------


def test_a_sky_directory_at_the_reference_frequencies(tmp_path):
    templates = load_templates(make_sky(tmp_path))
    maps = {name: iqu.astype(np.float32) for name, iqu in make_maps().items()}
    assert (templates.source, templates.nside) == (str(tmp_path), NSIDE)
    np.testing.assert_allclose(templates.synchrotron, maps["synchrotron"][1:], rtol=1e-6)
    np.testing.assert_allclose(templates.dust, maps["thermal_dust"][1:], rtol=1e-6)
    np.testing.assert_allclose(templates.ame, maps["ame"][0], rtol=1e-6)
    assert {a.dtype for a in (templates.synchrotron, templates.dust, templates.ame)} == {
        np.dtype(np.float32)
    }


def test_amplitudes_are_brought_to_the_reference_frequencies(tmp_path):
    frequencies = {"synchrotron": 30.0, "thermal_dust": 217.0, "ame": 22.8}
    change = {name: {"reference_frequency_ghz": nu} for name, nu in frequencies.items()}
    templates, maps = load_templates(make_sky(tmp_path, change)), make_maps()
    expected = maps["synchrotron"][1:] * (23 / 30) ** -3.0
    np.testing.assert_allclose(templates.synchrotron, expected, rtol=1e-6)
    expected = maps["thermal_dust"][1:] / at(seds.modified_blackbody, 217.0)
    np.testing.assert_allclose(templates.dust, expected, rtol=1e-6)
    expected = maps["ame"][0] / at(seds.spinning_dust, 22.8)
    np.testing.assert_allclose(templates.ame, expected, rtol=1e-6)


@pytest.mark.parametrize("ordering", ["RING", "NESTED"])
@pytest.mark.parametrize(
    ("stated", "unit"),
    [("K_CMB", "K_CMB"), ("", "MJy/sr"), ("mK", "mK_RJ"), ("K,thermodynamic", "Kcmb")],
)
def test_units_and_orderings_are_converted(tmp_path, ordering, stated, unit):
    # as bright as the sky, or a word would be said
    maps = {k: m * 10 / to_uk_rj_factor(unit, AT_GHZ[k]) for k, m in make_maps().items()}
    stored = maps if ordering == "RING" else {k: hp.reorder(m, r2n=True) for k, m in maps.items()}
    change = {name: {"unit": unit} for name in maps}
    sky = make_sky(tmp_path, change, maps=stored, unit=stated, ordering=ordering)
    templates = load_templates(sky)
    expected = maps["thermal_dust"][1:] * to_uk_rj_factor(unit, 353.0)
    np.testing.assert_allclose(templates.dust, expected, rtol=1e-6)
    np.testing.assert_allclose(
        templates.ame, maps["ame"][0] * to_uk_rj_factor(unit, 30.0), rtol=1e-6
    )


def test_degraded_maps_are_averages(tmp_path):
    sky = make_sky(tmp_path)
    templates = load_templates(sky)
    low = load_templates(sky, 2)
    assert low.nside == 2
    children = hp.nest2ring(4, 4 * hp.ring2nest(2, np.arange(48))[:, None] + np.arange(4))
    np.testing.assert_allclose(low.dust, templates.dust[:, children].mean(-1), rtol=1e-5)
    np.testing.assert_allclose(low.ame, templates.ame[children].mean(-1), rtol=1e-5)
    assert templates.degraded(NSIDE) is templates
    with pytest.raises(SkyError, match=f"of {tmp_path} have Nside 4, but Nside 8 was asked for"):
        load_templates(sky, 8)


def test_the_real_sky(real_data):
    folder = real_data / "pysm64"
    with pytest.warns(MapWarning, match="no POLCCONV") as caught:
        templates = load_templates(str(folder))
    assert len(caught) == 2  # synchrotron and dust; an intensity has no sign of U
    q, u = hp.read_map(folder / "synchrotron_s1_30GHz_iqu.fits", field=(1, 2))
    np.testing.assert_allclose(templates.synchrotron, np.stack([q, u]) * (23 / 30) ** -3, rtol=1e-5)
    q, u = hp.read_map(folder / "thermal_dust_d1_353GHz_iqu.fits", field=(1, 2))
    np.testing.assert_array_equal(templates.dust, [q, u])
    np.testing.assert_array_equal(templates.ame, hp.read_map(folder / "ame_a2_30GHz_iqu.fits"))
    theta, _ = hp.pix2ang(64, np.arange(hp.nside2npix(64)))
    caps = np.abs(np.degrees(theta) - 90) > 60
    assert np.median(np.hypot(*templates.dust)[caps]) == pytest.approx(1.3, abs=0.05)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("", "synchrotron: Field required .*; thermal_dust: .* Expected tables"),
        ("[ame", "sky.toml does not describe a sky: "),
        ('[ame]\nunit = "K"\n', "ame.file: Field required"),
    ],
)
def test_bad_sky_files(tmp_path, toml, message):
    with pytest.raises(SkyError, match=message) as caught:
        load_templates(make_sky(tmp_path, toml=toml))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "written", "error", "message"),
    [
        ({"ame": {"reference_frequency_ghz": -1.0}}, {}, SkyError, "ame.reference_frequency_ghz"),
        ({"ame": {"nu": 1}}, {}, SkyError, r"ame\.nu: Extra inputs are not permitted"),
        ({"ame": {"unit": "K"}}, {}, MapError, r"sky.toml: \[ame\]: expected one of .* got unit"),
        ({"ame": {"file": "none.fits"}}, {}, MapError, "none.fits: no such file"),
        (
            {"thermal_dust": {"unit": "K_CMB"}},
            {},
            MapError,
            r"d.fits: expected the unit K_CMB, as given .* got 'uK_RJ' in the header .*; correct",
        ),
        ({}, {"frame": "C"}, SkyError, "s.fits: expected a Galactic map, COORDSYS G, got C; rot"),
    ],
)
def test_bad_sky_directories(tmp_path, change, written, error, message):
    with pytest.raises(error, match=message):
        load_templates(make_sky(tmp_path, change, **written))


@pytest.mark.parametrize("ghz", [23e9, 23000.0, 0.05])
def test_frequencies_in_another_unit(tmp_path, ghz):
    sky = make_sky(tmp_path, {"synchrotron": {"reference_frequency_ghz": ghz}})
    limit = "less than or equal to 3000" if ghz > 1 else "greater than or equal to 0.1"
    message = (
        f"{tmp_path}/sky.toml does not describe a sky: synchrotron.reference_frequency_ghz: Input "
        f"should be {limit} (got {ghz!r}). Expected tables [synchrotron], [thermal_dust] and "
        "[ame], each with file, reference_frequency_ghz (in GHz) and unit."
    )
    with pytest.raises(SkyError, match=re.escape(message)):
        load_templates(sky)


def bright(factor, name="synchrotron"):
    return make_maps() | {name: 20 * factor * make_maps()[name]}


@pytest.mark.parametrize(
    ("change", "maps", "message"),
    [
        (
            {"synchrotron": {"reference_frequency_ghz": 353.0}},
            bright((23 / 353) ** 3),
            "[synchrotron]: unusual reference_frequency_ghz = 353 (most templates of this "
            "component are of 0.3 to 100 GHz)",
        ),
        ({}, bright(1e6), "[synchrotron]: unusual amplitudes of typically "),
        ({}, bright(1e-3, "ame"), "[ame]: unusual amplitudes of typically "),
        (
            {"thermal_dust": {"reference_frequency_ghz": 3.0}},
            make_maps(),
            "[thermal_dust]: unusual reference_frequency_ghz = 3 (most templates of this "
            "component are of 100 to 3000 GHz) and amplitudes of typically ",
        ),
    ],
    ids=["frequency", "bright", "faint", "both"],
)
def test_templates_unlike_any_sky(tmp_path, change, maps, message):
    sky = make_sky(tmp_path, change, maps=maps)
    with pytest.warns(SkyWarning) as caught:
        load_templates(sky)
    (text,) = [str(w.message) for w in caught]
    assert text.startswith(f"{tmp_path}/sky.toml: {message}")
    assert text.endswith("; check reference_frequency_ghz and unit.")


def test_a_component_that_is_absent_is_no_mistake(tmp_path):
    maps = make_maps() | {"ame": np.zeros((3, N_PIX))}
    assert not load_templates(make_sky(tmp_path, maps=maps)).ame.any()


def test_amplitudes_beyond_numbers_name_file_and_keys(tmp_path):
    maps = make_maps() | {"thermal_dust": 1e35 * make_maps()["thermal_dust"]}
    change = {name: {"unit": "K_RJ"} for name in maps}
    message = r"sky.toml: \[thermal_dust\]: expected amplitudes that float32 can hold at 353 GHz, "
    message += r"got up to \S+e\+35 K_RJ at 353 GHz in d.fits; check the file, reference_freq"
    maps["synchrotron"] *= 1e-6
    with pytest.raises(SkyError, match=message):
        load_templates(make_sky(tmp_path, change, maps=maps, unit="K_RJ"))


def test_holes_in_a_template(tmp_path):
    maps = make_maps()
    maps["ame"][0, [3, 5]] = np.nan
    maps["thermal_dust"][0, 0] = np.nan  # in I of the dust, which is not read
    with pytest.raises(SkyError, match=r"a.fits: expected a full sky, got 2 unobserved"):
        load_templates(make_sky(tmp_path, maps=maps))


def test_maps_of_different_nside(tmp_path):
    maps = make_maps() | {"ame": make_maps(48)["ame"]}
    with pytest.raises(SkyError, match=r"expected maps of one Nside .*'thermal_dust': 4, 'ame': 2"):
        load_templates(make_sky(tmp_path, maps=maps))


def test_a_sky_that_is_nowhere(tmp_path):
    with pytest.raises(SkyError, match=r"expected `mock`, .* sky.toml, but .*nowhere.* not exist"):
        load_templates(str(tmp_path / "nowhere"))


# ---- the mock Galaxy -------------------------------------------------------------------------


def test_the_mock_galaxy_at_the_reference_frequencies():
    templates, galaxy = load_templates("mock", 16), mock_galaxy(16)
    assert (templates.source, templates.nside) == ("mock", 16)
    expected = galaxy.synchrotron[1:] * (23 / 30) ** -3  # it is made at 30 GHz
    np.testing.assert_allclose(templates.synchrotron, expected, rtol=1e-5)
    np.testing.assert_array_equal(templates.dust, galaxy.dust[1:])
    np.testing.assert_array_equal(templates.ame, galaxy.ame)


# ---- PySM3 -----------------------------------------------------------------------------------


def test_pysm_presets(pysm_data, monkeypatch):
    folder, maps = pysm_data
    monkeypatch.setenv("PYSM_LOCAL_DATA", str(folder))
    templates = load_templates("pysm:s1,d1,a2", 32)
    assert isinstance(templates, Templates)
    assert (templates.source, templates.nside) == ("pysm:s1,d1,a2", 32)
    for ours, name in ((templates.synchrotron, "synch"), (templates.dust, "dust")):
        expected = [maps[f"{name}_q_new"], maps[f"{name}_u_new"]]
        np.testing.assert_allclose(ours, expected, rtol=1e-5)
    # a2 is the sum of two components, the second with its peak moved from 30 to 33.35 GHz
    shift = 33.35 / 30
    second = at(seds.spinning_dust, 30 / shift, reference_ghz=41 / shift)
    expected = maps["ame_t_new"] / at(seds.spinning_dust, 22.8) + maps["ame2_t_new"] * second
    np.testing.assert_allclose(templates.ame, expected, rtol=1e-4)


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Fail at any try to reach the network, with no PySM template at hand."""

    def refuse(*arguments, **_):
        pytest.fail(f"the network was tried: {arguments}")

    for where, name in ((socket.socket, "connect"), (socket, "getaddrinfo")):
        monkeypatch.setattr(where, name, refuse)
    monkeypatch.delenv("PYSM_LOCAL_DATA", raising=False)
    with set_temp_cache(tmp_path):
        yield


@pytest.mark.parametrize(
    ("sky", "absent"),
    [
        ("pysm:s1,d1,a2", "preset 's1': it needs pysm_2/synch_t_new.fits"),
        ("pysm:s5,d10,a1", r"preset 's5': it needs synch/synch_template_nside2048\S*.fits"),
    ],
)
def test_pysm_templates_are_not_downloaded(no_network, caplog, sky, absent):
    caplog.set_level(logging.WARNING)
    message = rf"{absent}\. Templates .* \(not set\) .* not download unasked.* or give sky='mock'\."
    with pytest.raises(SkyError, match=message) as caught:
        load_templates(sky, 16)
    assert len(str(caught.value)) < 600
    assert not caplog.messages  # PySM3 would advise to look for its latest version


def test_what_pysm_looked_at_is_named(no_network, tmp_path, monkeypatch):
    monkeypatch.setenv("PYSM_LOCAL_DATA", str(tmp_path))
    with pytest.raises(SkyError, match=rf"in PYSM_LOCAL_DATA \({tmp_path}\)"):
        load_templates("pysm:s1,d1,a2", 16)


def test_a_damaged_pysm_template(no_network, tmp_path, monkeypatch):
    (tmp_path / "pysm_2").mkdir()
    (tmp_path / "pysm_2" / "synch_t_new.fits").write_text("not FITS")
    monkeypatch.setenv("PYSM_LOCAL_DATA", str(tmp_path))
    with pytest.raises(SkyError, match="preset 's1': OSError: "):
        load_templates("pysm:s1,d1,a2", 16)


@pytest.mark.parametrize(
    ("sky", "message"),
    [
        ("pysm:s1,d1", "expected pysm:SYNCHROTRON,DUST,AME, .* got 'pysm:s1,d1'"),
        ("pysm:s1,d1,a2,c1", "expected pysm:SYNCHROTRON,DUST,AME"),
        ("pysm:", "expected pysm:SYNCHROTRON,DUST,AME"),
        ("pysm:s99,d1,a2", "a PySM3 preset of synchrotron, one of s0, s1, .* got 's99'"),
        ("pysm:d1,s1,a2", "a PySM3 preset of synchrotron, .* got 'd1'"),
    ],
)
def test_bad_pysm_skies(no_network, sky, message):
    with pytest.raises(SkyError, match=message):
        load_templates(sky, 16)
