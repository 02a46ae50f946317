"""The report's interactive sky in a browser: headless Chromium, driven by Selenium."""

import shutil

import healpy as hp
import numpy as np
import pytest

from foreglow.dust.inputs import DustSky
from foreglow.dust.results import PolarisedDustMap
from foreglow.dust.sky_cube import SkyCube
from foreglow.dust.uncertainty import Calibration
from foreglow.recognition.evaluation.evaluate import choose_on_sky
from foreglow.recognition.simulation.skies import SimulatedSky
from foreglow.report.dust.view import polarised_view
from foreglow.report.html import write_report
from foreglow.report.page.skyview import Layer, LineSpectra, SkyView, save_view
from foreglow.report.recognition.view import recognition_view
from foreglow.sky.instrument_files import load_instrument

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage",
)  # fmt: skip
MODELS = ("power_law", "curved")
NSIDE, DUST_NSIDE = 8, 16
DESKTOP, PHONE = (1200, 900), (390, 844)


@pytest.fixture(scope="module")
def recognised():
    """A sky of power laws with its fits, and what a made-up network says."""
    instrument = load_instrument("quijote+litebird")
    rng = np.random.default_rng(11)
    n_pix = hp.nside2npix(NSIDE)
    frequency = np.array(instrument.frequency_ghz)
    sigma = 0.05 * np.ones(frequency.size)
    data = rng.normal(0, 300, (2, 1, n_pix)) * (frequency[:, None] / 23) ** -3.0
    data += sigma[:, None] * rng.standard_normal(data.shape)
    label = (hp.pix2ang(NSIDE, np.arange(n_pix), lonlat=True)[0] > 180).astype(np.int64)
    sky = SimulatedSky(data.astype(np.float32), sigma, label, np.zeros((2, n_pix)))
    chance = rng.dirichlet([1, 1], n_pix).T
    choice = choose_on_sky(sky, instrument, MODELS)
    view = recognition_view(
        "1", "Made up", "", sky, instrument, MODELS, {"a network": chance}, choice
    )
    return view, choice


@pytest.fixture(scope="module")
def dusty():
    rng = np.random.default_rng(12)
    n_pix = hp.nside2npix(DUST_NSIDE)
    tb = rng.lognormal(size=(64, n_pix)).astype(np.float32)
    tb[:, 1000] = np.nan
    dust = tb.sum(0)
    layers = (
        Layer("Predicted dust", "Dust", "µK_RJ", dust, "log"),
        Layer("Error of the prediction", "Dust", "µK_RJ", dust / 10, "log"),
    )
    return SkyView("2", "Dust", "", layers, LineSpectra(np.linspace(-64.5, 17, 64), tb))


@pytest.fixture(scope="module")
def polarised():
    """Dust polarised from south to north in the east, from west to east in the west."""
    rng = np.random.default_rng(13)
    n_pix = hp.nside2npix(DUST_NSIDE)
    east = hp.pix2ang(DUST_NSIDE, np.arange(n_pix), lonlat=True)[0] < 180
    q = np.where(east, 3.0, -3.0)
    q[1000] = np.nan
    zero, error = np.zeros(n_pix), np.full(n_pix, 0.5)
    dust = PolarisedDustMap(
        10 + q, error, error, "uK_RJ", Calibration(), "", 1, "", "", q=q, u=zero, q_std=error,
        u_std=2 * error, qu_calibration=Calibration(), qu_sigma="",
    )  # fmt: skip
    gas = rng.lognormal(size=(8, n_pix))
    cube = SkyCube.from_maps(gas, 8, zero, np.isfinite(q))
    sky = DustSky(cube, np.linspace(-60, 10, 8), "uK_RJ", "made up")
    return polarised_view("3", "Polarised", "", dust, np.stack([q + 1, zero - 1]), sky)


@pytest.fixture(scope="module")
def page(tmp_path_factory, recognised, dusty, polarised):
    folder = tmp_path_factory.mktemp("run")
    (folder / "metrics.json").write_text('{"experiment": "demo", "sky": "mock", "records": []}')
    for view in (recognised[0], dusty, polarised):
        save_view(view, folder / "maps")
    return write_report(folder).as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip(
            "CHROMIUM ABSENT: the report's interactive sky goes untested; on Debian "
            "`apt-get install chromium chromium-driver`"
        )
    webdriver = pytest.importorskip("selenium.webdriver", reason="SELENIUM ABSENT")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield made
    made.quit()


def show(browser, page, size=DESKTOP, colours="light"):
    """Open the page in a window of a size, light or dark; phones have fingers."""
    phone = size == PHONE
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1 + phone, "mobile": phone}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": colours}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get_log("browser")
    browser.get(page)
    settle(browser)


@pytest.fixture
def desktop(browser, page):
    show(browser, page)
    yield browser
    assert browser.get_log("browser") == []


def settle(browser):
    """Until what was asked for is drawn."""
    browser.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done));"
    )


def run(browser, script, *arguments):
    return browser.execute_script(script, *arguments)


def at(browser, name):
    return browser.find_element("id", f"sky-{name}")


def hammer(lon, lat):
    """Hammer's projection about the Galactic centre, x to the east."""
    lon, lat = np.radians((lon + 180) % 360 - 180), np.radians(lat)
    size = np.sqrt(2 / (1 + np.cos(lat) * np.cos(lon / 2)))
    return 2 * size * np.cos(lat) * np.sin(lon / 2), size * np.sin(lat)


def click(browser, nside, pixel):
    """Click where a pixel of the whole sky must be."""
    from selenium.webdriver import ActionChains

    x, y = hammer(*hp.pix2ang(nside, pixel, lonlat=True))
    canvas = at(browser, "canvas")
    run(browser, "arguments[0].scrollIntoView({block: 'center'})", canvas)
    unit = (run(browser, "return arguments[0].clientWidth", canvas) / 2 - 2) / (2 * np.sqrt(2))
    place = ActionChains(browser).move_to_element_with_offset(
        canvas, round(-x * unit), round(-y * unit)
    )
    place.click().perform()
    settle(browser)


OPEN = """const select = arguments[0]; select.value = arguments[1];
  select.dispatchEvent(new Event("change"))"""
SUPERSCRIPT = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹−", "-0123456789-")


def number(text):
    """A number as the page writes it: 1.5, −2.1 × 10⁻⁴."""
    return float(text.translate(SUPERSCRIPT).replace(" × 10", "e"))


def facts(browser):
    """Title, and the lines of the tables as lists of text."""
    box = at(browser, "facts")
    title = box.find_element("tag name", "h3").text
    rows = box.find_elements("css selector", "tbody tr")
    lines = [[c.text for c in row.find_elements("css selector", "th, td")] for row in rows]
    return title, lines


# ---- geometry ----------------------------------------------------------------------------------


def test_pixels_are_healpys(desktop):
    for nside in (1, 2, 3, 8, 64, 1024):
        validate_pixels(desktop, nside)


def validate_pixels(desktop, nside):
    rng = np.random.default_rng(nside)
    z, lon = rng.uniform(-1, 1, 3000), rng.uniform(-10, 10, 3000)
    z[:4], lon[4:8] = (-1, 1, 2 / 3, -2 / 3), (0, np.pi / 2, np.pi, 2 * np.pi)
    script = "return arguments[1].map((z, k) => foreglow.pixelOf(arguments[0], z, arguments[2][k]))"
    found = run(desktop, script, nside, z.tolist(), lon.tolist())
    np.testing.assert_array_equal(found, hp.ang2pix(nside, np.arccos(z), lon % (2 * np.pi)))
    pixels = np.unique(rng.integers(0, hp.nside2npix(nside), 3000))
    script = "return arguments[1].map((pixel) => foreglow.centreOf(arguments[0], pixel))"
    centre = np.array(run(desktop, script, nside, pixels.tolist()))
    theta, phi = hp.pix2ang(nside, pixels)
    np.testing.assert_allclose(centre, np.stack([np.cos(theta), phi], 1), atol=1e-12)


def test_projection_there_and_back(desktop):
    rng = np.random.default_rng(0)
    v = rng.standard_normal((500, 3))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    script = """const frame = foreglow.frameAt(0, 0);
      return arguments[0].map((v) => foreglow.project(frame, v))"""
    found = np.array(run(desktop, script, v.tolist()))
    expected = hammer(*hp.vec2ang(v, lonlat=True))
    np.testing.assert_allclose(found, np.stack(expected, 1), atol=1e-9)
    script = "return arguments[0].map((p) => foreglow.unproject(p[0], p[1]))"
    np.testing.assert_allclose(run(desktop, script, found.tolist()), v, atol=1e-6)
    assert run(desktop, "return foreglow.unproject(2.9, 0)") is None


# ---- what the page shows -----------------------------------------------------------------------


def test_the_page_loads_nothing_and_says_nothing_wrong(desktop):
    assert run(desktop, "return performance.getEntriesByType('resource').length") == 0
    assert at(desktop, "viewer").is_displayed()
    titles = [option.text for option in at(desktop, "view").find_elements("tag name", "option")]
    assert titles == ["Made up", "Dust", "Polarised"]
    assert "Most probable model" in at(desktop, "status").text


def test_a_click_shows_the_numbers_of_its_pixel(desktop, recognised):
    for lon, lat in ((0.1, 0.2), (75, 40), (250, -55), (170, 10)):
        validate_click(desktop, *recognised, hp.ang2pix(NSIDE, lon, lat, lonlat=True))


def validate_click(desktop, view, choice, pixel):
    click(desktop, NSIDE, pixel)
    title, lines = facts(desktop)
    assert title == f"Pixel {pixel}"
    for k, (name, line) in enumerate(zip(view.classes, lines[:2], strict=True)):
        assert line[0].startswith(name)
        assert ("true model" in line[0]) == (view.truth[pixel] == k)
        for cell, chance in zip(line[1:], view.chances.values(), strict=True):
            p = chance[k, pixel]
            assert cell == ("<0.001" if p < 0.001 else f"{p:.3f}")
    for k, line in enumerate(lines[2:]):
        numbers = [number(text) for text in line[1:] if text]
        expected = [choice.reduced_chi2[pixel, k], *choice.fits[k].parameters[pixel]]
        np.testing.assert_allclose(numbers, expected, rtol=6e-3)
    drawn = run(desktop, "return foreglow.panel.drawn.map((plot) => plot.data.map((d) => [...d]))")
    for stokes, (frequency, data, *fits) in enumerate(drawn):
        np.testing.assert_allclose(frequency, view.spectra.frequency_ghz)
        np.testing.assert_allclose(data, view.spectra.data[stokes, :, pixel], rtol=1e-6)
        for found, fit in zip(fits, view.spectra.fits, strict=True):
            off = np.array(found) - fit.brightness[stokes, :, pixel]
            assert np.abs(off).max() < 0.01 * view.spectra.sigma[0]
    values = [float(at(desktop, name).get_attribute("value")) for name in ("pixel", "lon", "lat")]
    np.testing.assert_allclose(values[1:], hp.pix2ang(NSIDE, pixel, lonlat=True), atol=0.006)
    assert values[0] == pixel


def test_residuals_are_data_less_fit_in_units_of_the_noise(desktop, recognised):
    _, choice = recognised
    click(desktop, NSIDE, 400)
    at(desktop, "residuals").click()
    settle(desktop)
    drawn = run(desktop, "return foreglow.panel.drawn.map((plot) => plot.data.map((d) => [...d]))")
    rest = np.array([lines[1:] for lines in drawn])  # (stokes, fit, band)
    chi2 = (rest**2).sum((0, 2))
    np.testing.assert_allclose(chi2, choice.chi2[400].numpy(), rtol=5e-3)


def test_every_map_of_a_sky_can_be_shown(desktop, recognised):
    view, _ = recognised
    choice = at(desktop, "layer")
    names = [option.text for option in choice.find_elements("tag name", "option")]
    assert len(names) == 1 + 2 * 3 + 2 + 2 * 17
    colours = set()
    for k, name in enumerate(names):
        script = """const select = arguments[0]; select.value = arguments[1];
          select.dispatchEvent(new Event("change")); foreglow.map.draw();
          return foreglow.map.canvas.toDataURL()"""
        colours.add(run(desktop, script, choice, k))
        assert name in at(desktop, "status").text
    assert len(colours) > 0.9 * len(names)
    last = view.spectra.data[1, -1]
    pixel = run(desktop, "return foreglow.state.pixel")
    assert f"{last[pixel]:.4g}".replace("-", "−") in at(desktop, "status").text


def test_the_line_and_the_dust_of_a_pixel(desktop, dusty):
    run(desktop, OPEN, at(desktop, "view"), 1)
    settle(desktop)
    click(desktop, DUST_NSIDE, 1500)
    title, lines = facts(desktop)
    assert title == "Pixel 1500"
    dust = dusty.layers[0].values[1500]
    assert lines == [
        ["Predicted dust", f"{dust:.4g} µK_RJ"],
        ["Error of the prediction", f"{dust / 10:.4g} µK_RJ"],
    ]
    (velocity, line), *_ = run(
        desktop, "return foreglow.panel.drawn.map((plot) => plot.data.map((d) => [...d]))"
    )
    np.testing.assert_allclose(velocity, dusty.spectra.velocity_kms, atol=1e-3)
    tb = dusty.spectra.tb[:, 1500]
    np.testing.assert_allclose(line, tb, atol=0.51 * np.ptp(tb) / 255)
    click(desktop, DUST_NSIDE, 1000)
    assert "masked" in at(desktop, "plots").text
    assert "masked" in at(desktop, "status").text


def test_q_and_u_their_errors_and_the_direction_of_a_pixel(desktop, polarised):
    run(desktop, OPEN, at(desktop, "view"), 2)
    settle(desktop)
    lines = {}
    for lon in (60, 300):
        pixel = hp.ang2pix(DUST_NSIDE, lon, 20, lonlat=True)
        click(desktop, DUST_NSIDE, pixel)
        lines[lon] = dict(facts(desktop)[1])
    assert lines[60]["Predicted polarised intensity"] == "3 µK_RJ"
    assert lines[60]["True Q"] == "4 µK_RJ"
    assert lines[300]["Predicted Q"] == "−3 µK_RJ"
    assert [lines[60][f"Error of {letter}"] for letter in "QU"] == ["0.5 µK_RJ", "1 µK_RJ"]
    assert lines[300]["True U less predicted, in errors"] == "−1"
    assert len(polarised.spectra.velocity_kms) == 2
    # what is drawn on the map: up and down in the east, across in the west, none where masked
    script = """const { map, state, pixelOf } = foreglow, made = [];
      const { paint } = map, before = [paint.moveTo, paint.lineTo];
      let from = null;
      paint.moveTo = (...at) => { from = at; };
      paint.lineTo = (x, y) => { made.push([from[0], from[1], x, y]); };
      map.drawDirections();
      [paint.moveTo, paint.lineTo] = before;
      return made.slice(made.length / 2).map(([a, b, x, y]) => (
        [a, b, x, y, map.pixelAt((a + x) / 2, (b + y) / 2)]))"""
    drawn = np.array(run(desktop, script))
    assert len(drawn) > 300
    lon, lat = hp.pix2ang(DUST_NSIDE, drawn[:, 4].astype(int), lonlat=True)
    upright = np.abs(drawn[:, 3] - drawn[:, 1]) > 3 * np.abs(drawn[:, 2] - drawn[:, 0])
    flat = np.abs(drawn[:, 2] - drawn[:, 0]) > 3 * np.abs(drawn[:, 3] - drawn[:, 1])
    near = np.abs(lat) < 20
    assert upright[near & (lon > 5) & (lon < 45)].all()
    assert flat[near & (lon > 315) & (lon < 355)].all()
    assert 1000 not in drawn[:, 4]
    run(desktop, OPEN, at(desktop, "layer"), 2)  # Q itself has no direction
    assert run(desktop, "return foreglow.map.angleOf") is None


# ---- how it is used ----------------------------------------------------------------------------


def test_by_keyboard_alone(desktop):
    from selenium.webdriver import Keys

    canvas = at(desktop, "canvas")
    canvas.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_UP, "+", Keys.ENTER)
    settle(desktop)
    pixel = hp.ang2pix(NSIDE, 30.0, 15.0, lonlat=True)
    assert facts(desktop)[0] == f"Pixel {pixel}"
    assert run(desktop, "return foreglow.map.zoom") == 1.5
    canvas.send_keys("0", Keys.ARROW_RIGHT, Keys.ENTER)
    settle(desktop)
    assert facts(desktop)[0] == f"Pixel {hp.ang2pix(NSIDE, -15.0, 0.0, lonlat=True)}"
    box = at(desktop, "pixel")
    box.clear()
    box.send_keys("17", Keys.TAB)
    settle(desktop)
    assert facts(desktop)[0] == "Pixel 17"
    for name, value in (("lon", "200"), ("lat", "-45")):
        at(desktop, name).clear()
        at(desktop, name).send_keys(value, Keys.TAB)
    settle(desktop)
    assert facts(desktop)[0] == f"Pixel {hp.ang2pix(NSIDE, 200, -45, lonlat=True)}"
    # everything that can be clicked can be reached by the tabulator key
    script = """const all = "#sky-viewer :is(select, button, input, #sky-canvas)";
      return [...document.querySelectorAll(all)].every((one) => one.tabIndex >= 0)"""
    assert run(desktop, script)


def test_drag_and_zoom(desktop):
    from selenium.webdriver import ActionChains

    canvas = at(desktop, "canvas")
    run(desktop, "arguments[0].scrollIntoView({block: 'center'})", canvas)
    ActionChains(desktop).drag_and_drop_by_offset(canvas, 60, 30).perform()
    settle(desktop)
    lon, lat, before = run(
        desktop, "const m = foreglow.map; return [m.lon, m.lat, foreglow.state.pixel]"
    )
    assert 0 < lon < 90  # what was to the east has come to the middle
    assert 0 < lat < 45
    assert facts(desktop)[0] == f"Pixel {before}"
    at(desktop, "in").click()
    at(desktop, "in").click()
    assert run(desktop, "return foreglow.map.zoom") == 2.25
    pixel = hp.ang2pix(NSIDE, lon, lat, lonlat=True)
    run(desktop, "foreglow.map.goTo(...foreglow.map.lonLat(arguments[0]))", int(pixel))
    settle(desktop)
    run(desktop, "arguments[0].scrollIntoView({block: 'center'})", canvas)
    # zoomed and turned, the middle of the canvas is still what it says
    ActionChains(desktop).click(canvas).perform()
    settle(desktop)
    assert facts(desktop)[0] == f"Pixel {pixel}"
    at(desktop, "home").click()
    assert run(desktop, "return [foreglow.map.zoom, foreglow.map.lon]") == [1, 0]


def touch(browser, *tracks):
    """Fingers that go down, move in five steps and come up; a track is the first and last place."""

    def send(kind, share):
        points = [
            {"x": a[0] + share * (b[0] - a[0]), "y": a[1] + share * (b[1] - a[1]), "id": k}
            for k, (a, b) in enumerate(tracks)
        ]
        event = {"type": kind, "touchPoints": points if kind != "touchEnd" else []}
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", event)

    send("touchStart", 0)
    for step in range(1, 6):
        send("touchMove", step / 5)
    send("touchEnd", 1)
    settle(browser)


def test_by_fingers(browser, page):
    show(browser, page, PHONE)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    canvas = at(browser, "canvas")
    run(browser, "arguments[0].scrollIntoView({block: 'center'})", canvas)
    box = run(browser, "return arguments[0].getBoundingClientRect().toJSON()", canvas)
    x, y = box["left"] + box["width"] / 2, box["top"] + box["height"] / 2
    before = run(browser, "return foreglow.state.pixel")
    touch(browser, [(x - 40, y), (x + 40, y)])
    assert 20 < run(browser, "return foreglow.map.lon") < 120
    touch(browser, [(x - 20, y), (x - 80, y)], [(x + 20, y), (x + 80, y)])
    assert run(browser, "return foreglow.map.zoom") > 2
    assert run(browser, "return foreglow.state.pixel") == before
    pixel = 300
    run(browser, "foreglow.map.goTo(...foreglow.map.lonLat(arguments[0]))", pixel)
    settle(browser)
    touch(browser, [(x, y), (x, y)])
    assert facts(browser)[0] == f"Pixel {pixel}"
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_on_a_phone_and_in_the_dark(browser, page, colours):
    show(browser, page, PHONE, colours)
    width = run(browser, "return document.documentElement.scrollWidth")
    assert width == PHONE[0]
    click(browser, NSIDE, 300)
    assert facts(browser)[0] == "Pixel 300"
    plots = run(
        browser, "return foreglow.panel.drawn.map((p) => p.root.getBoundingClientRect().right)"
    )
    assert len(plots) == 2
    assert max(plots) <= PHONE[0]
    ground = run(browser, "return getComputedStyle(document.body).backgroundColor")
    levels = [int(level) for level in ground[4:-1].split(",")]
    assert (max(levels) < 60) == (colours == "dark")
    assert browser.get_log("browser") == []


def test_plots_follow_the_readers_colours(desktop):
    script = "return foreglow.panel.drawn[0].series.at(-1).stroke()"
    before = run(desktop, script)
    media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    desktop.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    settle(desktop)
    assert run(desktop, script) != before
