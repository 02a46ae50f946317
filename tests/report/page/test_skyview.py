"""What a run keeps of a sky, and what the page makes of it."""

import base64
import json
import re

import healpy as hp
import numpy as np
import pytest

from foreglow.errors import RunError, ShapeError
from foreglow.recognition.evaluation.evaluate import choose_on_sky
from foreglow.recognition.simulation.skies import SimulatedSky
from foreglow.report.html import write_report
from foreglow.report.page.sky_section import script_policy, sky_section, view_card, viewer_script
from foreglow.report.page.skyview import (
    Layer,
    LineSpectra,
    SkyView,
    averaged,
    load_view,
    save_view,
    saved_views,
)
from foreglow.report.recognition.view import fitted_brightness, recognition_view
from foreglow.sky.instrument_files import load_instrument

NSIDE = 2
N_PIX = hp.nside2npix(NSIDE)
DTYPES = {"f4": "<f4", "f2": "<f2", "u1": "u1"}


def array_of(card, *shape):
    return np.frombuffer(base64.b64decode(card["base64"]), DTYPES[card["dtype"]]).reshape(shape)


@pytest.fixture(scope="module")
def instrument():
    return load_instrument("quijote+litebird")


@pytest.fixture(scope="module")
def recognised(instrument):
    """A power law sky with little noise, its fits, and a made-up network's word."""
    rng = np.random.default_rng(3)
    frequency = np.array(instrument.frequency_ghz)
    sigma = 1e-2 * np.ones(frequency.size)
    amplitude = rng.normal(300.0, 50.0, (2, 1, N_PIX))
    data = amplitude * (frequency[:, None] / 23) ** -3.0 + sigma[:, None] * rng.standard_normal(
        (2, frequency.size, N_PIX)
    )
    label = np.zeros(N_PIX, np.int64)
    sky = SimulatedSky(data.astype(np.float32), sigma, label, np.zeros((2, N_PIX)))
    models = ("power_law", "curved_ame")
    choice = choose_on_sky(sky, instrument, models)
    chance = rng.dirichlet([1, 1], N_PIX).T
    view = recognition_view(
        "1_four",
        "A <sky> & more",
        "A note.",
        sky,
        instrument,
        models,
        {"a network": chance},
        choice,
    )
    return view, sky, choice


@pytest.fixture(scope="module")
def dusty():
    rng = np.random.default_rng(4)
    velocity = np.linspace(-64.0, 17.0, 9)
    tb = rng.lognormal(size=(9, N_PIX)).astype(np.float32)
    tb[:, 5] = np.nan
    dust = tb.sum(0)
    layers = (
        Layer("Predicted dust", "Dust", "µK_RJ", dust, "log"),
        Layer("Error of the prediction", "Dust", "µK_RJ", 0.1 * dust, "log", is_error=True),
        Layer("Target less prediction", "Dust", "µK_RJ", rng.normal(size=N_PIX), "asinh"),
    )
    return SkyView("9_dust", "Dust", "", layers, LineSpectra(velocity, tb), shown_from=128)


def same(a, b):
    """Whether two views hold the same, arrays to float32."""
    if isinstance(a, np.ndarray):
        return np.array_equal(np.float32(a), np.float32(b), equal_nan=True)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and all(
            same(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__
        )
    return a == b


def test_a_view_comes_back_from_its_file(tmp_path, recognised, dusty):
    for view in (dusty, recognised[0]):
        save_view(view, tmp_path)
    assert [p.name for p in saved_views(tmp_path)] == ["view_1_four.npz", "view_9_dust.npz"]
    first, last = map(load_view, saved_views(tmp_path))
    assert same(first, recognised[0])
    assert same(last, dusty)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["view_1_four.npz", "view_9_dust.npz"]


@pytest.mark.parametrize("content", [b"", b"not a zip", "no card", "pickled"])
def test_a_damaged_file(tmp_path, content):
    path = tmp_path / "view_1.npz"
    if content == "no card":
        np.savez(path, a=np.zeros(3))
    elif content == "pickled":
        np.savez(path, card=np.array({"kind": "SkyView"}, dtype=object))
    else:
        path.write_bytes(content)
    with pytest.raises(RunError, match=r"Expected a sky to show in .*view_1.npz, got: .*remove"):
        load_view(path)


def test_maps_of_one_view_have_one_nside(dusty):
    layer = Layer("Other", "Dust", "", np.zeros(12 * 4**2))
    with pytest.raises(ShapeError, match=r"Expected 48 pixels in layer 'Other' .* got 192"):
        SkyView("x", "x", "", (layer,), dusty.spectra)
    with pytest.raises(ShapeError, match="Expected a full HEALPix map"):
        SkyView("x", "x", "", (), LineSpectra(np.zeros(1), np.zeros((1, 47))))


def test_averaging_is_that_of_healpy_and_skips_what_is_missing():
    fine = np.random.default_rng(0).normal(size=(2, hp.nside2npix(8)))
    expected = hp.ud_grade(fine, 4)
    np.testing.assert_allclose(averaged(fine, 4), expected, rtol=1e-6)
    assert averaged(fine, 8).dtype == np.float32
    np.testing.assert_array_equal(averaged(fine, 64), fine.astype(np.float32))
    fine[0, hp.ang2pix(8, 10, 50, lonlat=True)] = np.nan
    assert np.isfinite(averaged(fine, 4)).all()
    assert np.isnan(averaged(np.full(hp.nside2npix(8), np.nan), 4)).all()


def test_the_brightness_of_a_fit_has_the_chi_square_that_the_fit_states(recognised, instrument):
    _, sky, choice = recognised
    data = np.moveaxis(sky.data.astype(float), 2, 0)  # (pix, stokes, band)
    for fit in choice.fits:
        rest = (data - fitted_brightness(fit, instrument.bands).numpy()) / sky.sigma
        np.testing.assert_allclose((rest**2).sum((1, 2)), fit.chi2.numpy(), rtol=1e-5)


def test_what_the_page_holds_of_a_recognised_sky(recognised):
    view, sky, choice = recognised
    card = view_card(view)
    n_band = len(card["spectra"]["frequency"])
    shape = (2, n_band, N_PIX)
    np.testing.assert_array_equal(array_of(card["spectra"]["data"], *shape), sky.data)
    assert card["classes"] == ["power law", "curved + AME"]
    assert [c["name"] for c in card["chances"]] == ["a network", "fits, evidence"]
    layers = {(layer["group"], layer["name"]): layer for layer in card["layers"]}
    assert card["layers"][card["first"]]["name"] == "Most probable model"
    best = array_of(layers["a network", "Most probable model"]["values"], N_PIX)
    np.testing.assert_array_equal(best, view.chances["a network"].argmax(0))
    chi2 = array_of(layers["Fits", "χ² per degree of freedom, power law"]["values"], N_PIX)
    np.testing.assert_allclose(chi2, choice.reduced_chi2[:, 0].numpy(), rtol=1e-6)
    data = layers["Data, U", "U at 11 GHz"]
    assert (data["stokes"], data["band"]) == (1, 0)
    assert len(layers) == 1 + 2 * 3 + 2 + 2 * n_band
    fit = card["spectra"]["fits"][0]
    rest = array_of(fit["residual"], *shape).astype(float)
    np.testing.assert_allclose((rest**2).sum((0, 1)), choice.chi2[:, 0].numpy(), rtol=5e-3)


def test_what_the_page_holds_of_a_line(dusty):
    card = view_card(dusty)
    low, high = (array_of(card["spectra"][end], N_PIX) for end in ("low", "high"))
    assert np.flatnonzero(np.isnan(low)).tolist() == [5]
    seen = np.isfinite(low)
    steps = array_of(card["spectra"]["steps"], N_PIX - 1, 9)
    size = (high - low)[seen, None] / 255
    tb = dusty.spectra.tb[:, seen].T
    assert (np.abs(low[seen, None] + size * steps - tb) < 0.51 * size).all()
    assert "Nside 128, shown at Nside 2" in card["note"]
    assert card["start"] == np.nanargmax(dusty.layers[0].values)
    colours = {layer["name"]: layer["colours"] for layer in card["layers"]}
    assert colours == {
        "Predicted dust": "magma",
        "Error of the prediction": "viridis",
        "Target less prediction": "RdBu_r",
    }
    residual = card["layers"][2]
    assert residual["low"] == -residual["high"]


def test_maps_without_contrast_or_without_values_have_colours(dusty):
    for values in (np.zeros(N_PIX), np.full(N_PIX, np.nan), np.full(N_PIX, 2.0)):
        for stretch in ("linear", "log", "asinh"):
            layer = Layer("x", "x", "", values, stretch)
            card = view_card(SkyView("x", "x", "", (layer,), dusty.spectra))["layers"][0]
            assert card["low"] < card["high"]
            assert stretch != "log" or card["low"] > 0
    json.dumps(view_card(dusty), allow_nan=False)


def test_the_page_runs_one_script_and_names_it(tmp_path, recognised, dusty):
    (tmp_path / "metrics.json").write_text("{}")
    plain = write_report(tmp_path).read_text(encoding="utf-8")
    assert "<script" not in plain
    assert "script-src" not in plain
    for view in (recognised[0], dusty):
        save_view(view, tmp_path / "maps")
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert script_policy() in page
    kinds = re.findall(r"<script([^>]*)>", page)
    assert [k for k in kinds if "application/json" not in k] == [""]
    assert viewer_script() in page
    assert page.count("</script>") == len(kinds)
    assert "Copyright (c) 2022 Leon Sorokin" in page  # its licence travels with the library
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert "A &lt;sky&gt; &amp; more" in page
    assert "A <sky>" not in page


def test_no_views_no_section():
    assert sky_section([]) == ""
