"""A user's maps to probabilities: every convention gives one answer, every mistake is named."""

import gzip
from dataclasses import replace

import astropy.units as u
import healpy as hp
import numpy as np
import pysm3.units as pysm_units
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits

from foreglow.errors import ForeglowError, MapError
from foreglow.maps.conventions import MapWarning
from foreglow.maps.write import write_maps, write_polarisation_map
from foreglow.recognition import classify as module
from foreglow.recognition.classify import NoiseRangeWarning, classify
from foreglow.recognition.evaluation.evaluate import evaluate
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network.recogniser import Recogniser

NSIDE, N_PIX = 16, hp.nside2npix(16)
SCALE = 0.1  # noise of the sky, in units of the instrument's


@pytest.fixture(scope="module")
def files(tmp_path_factory, sky, instrument):
    """The sky as its user has it: a file a band, uK_RJ, RING, Galactic."""
    folder = tmp_path_factory.mktemp("maps")
    return {band: write(folder / f"{band}.fits", sky, k) for k, band in enumerate(instrument.band)}


def write(path, sky, k, unit="uK_RJ", factor=1.0, **options):
    write_polarisation_map(path, factor * sky.data[:, k].astype(np.float64), unit, **options)
    return path


@pytest.fixture(scope="module")
def expected(model, sky):
    return evaluate(model, sky).probability


@pytest.fixture(scope="module")
def paper_expected(paper_model, sky):
    return evaluate(paper_model, sky).probability


def test_the_network_has_something_to_say(expected, sky):
    """Else agreement would mean nothing."""
    assert evaluate_accuracy(expected, sky) > 0.6
    assert expected.std() > 0.1


def evaluate_accuracy(probability, sky):
    return np.mean(probability.argmax(0) == sky.label)


def test_fits_gives_what_the_arrays_give(model, files, expected):
    found = classify(files, model=model, noise_scale=SCALE)
    np.testing.assert_allclose(found.probability, expected, atol=1e-5)
    np.testing.assert_allclose(found.probability.sum(0), 1, atol=1e-5)
    assert (found.models, found.nside, found.frame) == (PROBLEMS["four"], 16, "G")
    assert found.observed.all()
    np.testing.assert_array_equal(found.best, found.probability.argmax(0))


def test_default_noise_is_the_instruments(model, sky, files):
    loud = evaluate(model, replace(sky, sigma=sky.sigma / SCALE)).probability
    np.testing.assert_allclose(classify(files, model=model).probability, loud, atol=1e-5)
    assert abs(loud - classify(files, model=model, noise_scale=SCALE).probability).max() > 0.1


# ---- conventions -----------------------------------------------------------------------------


def kelvin_cmb_per_uk_rj(nu):
    band, one = nu * u.GHz, 1 * u.uK
    intensity = one.to(u.MJy / u.sr, u.brightness_temperature(band))
    return intensity.to_value(u.K, u.thermodynamic_temperature(band, 2.7255 * u.K))


def mjy_per_uk_rj(nu):
    return (1 * u.uK).to_value(u.MJy / u.sr, u.brightness_temperature(nu * u.GHz))


def test_units_and_orderings_mixed(model, sky, instrument, files, expected, tmp_path):
    mixed = dict(files)
    for k, (band, nu) in enumerate(zip(instrument.band, instrument.frequency_ghz, strict=True)):
        to_kelvin = kelvin_cmb_per_uk_rj(nu)
        unit, factor = [
            ("uK_RJ", 1.0), ("K_CMB", to_kelvin), ("uK_CMB", 1e6 * to_kelvin),
            ("mK_RJ", 1e-3), ("MJy/sr", mjy_per_uk_rj(nu)),
        ][k % 5]  # fmt: skip
        nested = k % 2 == 0
        data = sky.data[:, k][:, hp.nest2ring(16, np.arange(N_PIX))] if nested else sky.data[:, k]
        mixed[band] = tmp_path / f"{band}.fits"
        ordering = "NESTED" if nested else "RING"
        write_polarisation_map(
            mixed[band], factor * data.astype(np.float64), unit, ordering=ordering
        )
    found = classify(mixed, model=model, noise_scale=SCALE)
    np.testing.assert_allclose(found.probability, expected, atol=2e-4)


def test_a_map_of_healpy(model, sky, files, expected, tmp_path):
    """I,Q,U as healpy writes them, with no POLCCONV."""
    path = tmp_path / "iqu.fits"
    iqu = [np.full(N_PIX, hp.UNSEEN), *sky.data[:, 3]]
    hp.write_map(path, iqu, coord="G", column_units="uK_RJ", nest=False, dtype=np.float64)
    with pytest.warns(MapWarning, match="no POLCCONV"):
        found = classify(files | {"50": path}, model=model, noise_scale=SCALE)
    np.testing.assert_allclose(found.probability, expected, atol=1e-5)


def test_iau_flips_u(paper_model, sky, files, paper_expected, tmp_path):
    path = tmp_path / "iau.fits"
    write_polarisation_map(path, sky.data[:, 0] * np.array([[1], [-1]], np.float32), "uK_RJ")
    fits.setval(path, "POLCCONV", value="IAU", ext=1)
    found = classify(files | {"11": path}, model=paper_model, noise_scale=SCALE)
    np.testing.assert_allclose(found.probability, paper_expected, atol=1e-5)


def test_bands_by_frequency(model, files, expected):
    renamed = {f"{float(band):.1f} GHz": path for band, path in files.items()}
    found = classify(renamed, model=model, noise_scale=SCALE)
    np.testing.assert_allclose(found.probability, expected, atol=1e-5)


def test_the_order_of_the_bands_does_not_matter(model, files, expected):
    turned = dict(reversed(files.items()))
    found = classify(turned, model=model, noise_scale=SCALE)
    np.testing.assert_allclose(found.probability, expected, atol=1e-5)


def test_celestial_maps_are_turned_to_the_galactic_basis(
    paper_model, sky, instrument, paper_expected, tmp_path
):
    """The same polarisation, referred to celestial north by spherical trigonometry of astropy."""
    lon, lat = hp.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)
    position = SkyCoord(lon, lat, unit="deg", frame="icrs")
    pole = SkyCoord(0, 90, unit="deg", frame="galactic").icrs
    turn = position.position_angle(pole).rad  # of Galactic north, from celestial north through east
    paths = {}
    for k, band in enumerate(instrument.band):
        q, cosmo_u = sky.data[:, k].astype(np.float64)
        angle = 0.5 * np.arctan2(-cosmo_u, q) + turn  # IAU
        modulus = np.hypot(q, cosmo_u)
        celestial = modulus * np.stack([np.cos(2 * angle), -np.sin(2 * angle)])
        paths[band] = tmp_path / f"{band}.fits"
        write_polarisation_map(paths[band], celestial, "uK_RJ", frame="C")
    found = classify(paths, model=paper_model, noise_scale=SCALE)
    assert found.frame == "C"
    np.testing.assert_allclose(found.probability, paper_expected, atol=2e-3)
    for path in paths.values():
        fits.setval(path, "COORDSYS", value="G", ext=1)
    untold = classify(paths, model=paper_model, noise_scale=SCALE)
    assert abs(untold.probability - paper_expected).max() > 0.05


@pytest.mark.parametrize("block", [100, 257, N_PIX - 1, N_PIX, 10**6])
def test_blocks_do_not_matter(model, files, expected, monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK", block)
    calls = []
    note = lambda *done: calls.append(done)  # noqa: E731
    found = classify(files, model=model, noise_scale=SCALE, progress=note)
    np.testing.assert_allclose(found.probability, expected, atol=1e-4)
    assert calls[-1] == (N_PIX, N_PIX)
    assert len(calls) == -(-N_PIX // block)
    assert [c[0] for c in calls] == sorted({c[0] for c in calls})


# ---- coverage --------------------------------------------------------------------------------


def test_masked_and_partial_sky(model, sky, files, expected, tmp_path):
    rng = np.random.default_rng(0)
    unseen = rng.random(N_PIX) < 0.3
    absent = rng.random(N_PIX) < 0.3
    masked = sky.data[:, 2].copy()
    masked[0, unseen] = np.nan  # written as UNSEEN; Q alone is enough
    write_polarisation_map(tmp_path / "40.fits", masked, "uK_RJ")
    part = sky.data[:, 9].copy()
    part[:, absent] = hp.UNSEEN
    hp.write_map(
        tmp_path / "119.fits", [part[0], *part], coord="G", column_units="uK_RJ", partial=True,
        extra_header=[("POLCCONV", "COSMO")], dtype=np.float32,
    )  # fmt: skip
    changed = files | {"40": tmp_path / "40.fits", "119": tmp_path / "119.fits"}
    found = classify(changed, model=model, noise_scale=SCALE)
    seen = ~(unseen | absent)
    np.testing.assert_array_equal(found.observed, seen)
    np.testing.assert_allclose(found.probability[:, seen], expected[:, seen], atol=1e-5)
    assert np.isnan(found.probability[:, ~seen]).all()
    assert (found.best[~seen] == -1).all()
    assert found.summary().startswith(f"{seen.sum()} of 3072 pixels classified: power_law ")
    found.to_fits(tmp_path / "out.fits")
    *columns, best, none_fits, p_value = hp.read_map(tmp_path / "out.fits", field=None)
    assert (np.array([*columns, p_value])[:, ~seen] == hp.UNSEEN).all()
    np.testing.assert_array_equal(np.array(columns)[:, seen], found.probability[:, seen])
    np.testing.assert_array_equal(best[seen], found.best[seen])
    np.testing.assert_array_equal(p_value[seen], found.p_value[seen])
    np.testing.assert_array_equal(none_fits, np.where(seen, found.none_fits, -1))


def test_what_no_model_fits_is_said(model, sky, files, tmp_path):
    """One band whose U has the other sign: the network does not notice, chi-square does."""
    found = classify(files, model=model, noise_scale=SCALE)
    assert found.counts.none_fits < 20
    assert found.counts.misfits == (found.p_value < 1e-3).sum() >= found.counts.none_fits
    turned = sky.data[:, 4] * np.array([[1], [-1]], np.float32)
    write_polarisation_map(tmp_path / "60.fits", turned, "uK_RJ")
    odd = classify(files | {"60": tmp_path / "60.fits"}, model=model, noise_scale=SCALE)
    assert odd.none_fits.mean() > 0.5
    assert f"none of these models {odd.none_fits.mean():.1%}" in odd.summary()


def test_output(model, files, tmp_path):
    found = classify(files, model=model, noise_scale=SCALE)
    path = tmp_path / "found.fits"
    found.to_fits(path)
    header = fits.getheader(path, 1)
    names = [header[f"TTYPE{k}"] for k in range(1, 8)]
    probabilities = [f"P_{name.upper()}" for name in PROBLEMS["four"]]
    assert names == [*probabilities, "CLASS", "NONE_FITS", "P_VALUE"]
    assert header["LEVEL"] == 1e-3
    assert [header[f"CLASS{k}"] for k in range(4)] == list(PROBLEMS["four"])
    assert header["COORDSYS"] == "G"
    with pytest.raises(MapError, match="exists already"):
        found.to_fits(path)
    found.to_fits(path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["found.fits"]


def test_summary_shares_add_up(model, files):
    text = classify(files, model=model, noise_scale=SCALE).summary()
    shared, fitting = text.split("; ")
    assert fitting.startswith("the most probable model does not fit 0.")
    shares = [float(word.rstrip("%,")) for word in shared.split() if "%" in word]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert len(shares) == 4


# ---- noise -----------------------------------------------------------------------------------


def with_sigma(sky, k, value):
    """The sky as it is, with another rms [uK_RJ] in one band."""
    sigma = sky.sigma.copy()
    sigma[k] = value
    return replace(sky, sigma=sigma)


def texts(nu, rms):
    """One rms in a pixel of Nside 16 [uK_RJ], in every way that says it."""
    pixel_arcmin = (4 * np.pi / N_PIX) ** 0.5 * 180 * 60 / np.pi
    cmb = 1e6 * kelvin_cmb_per_uk_rj(nu) * rms
    sensitivity = cmb * pixel_arcmin
    return {
        "rj": f"{rms} uK_RJ",
        "cmb": f"{cmb:.9g} uK_CMB",
        "kelvin": f"{1e-6 * cmb:.9e} K_CMB",
        "mjy": f"{mjy_per_uk_rj(nu) * rms:.9e} MJy/sr",
        "sensitivity": f"{sensitivity:.9g} uK_CMB arcmin",
        "turned": f"{sensitivity:.9g} arcmin uK_CMB",
        "tight": f"  {sensitivity:.9g}uK_CMB arcmin ",
        "quantity": sensitivity * pysm_units.uK_CMB * u.arcmin,
        "quantity_rj": rms * pysm_units.uK_RJ,
        "quantity_mjy": mjy_per_uk_rj(nu) * rms * u.MJy / u.sr,
    }


@pytest.mark.parametrize("way", texts(40.0, 1.0))
def test_noise_by_text_or_quantity(model, sky, files, way):
    wanted = evaluate(model, with_sigma(sky, 2, 0.7)).probability
    noise = {"40": texts(40.0, 0.7)[way]}
    found = classify(files, model=model, noise=noise, noise_scale=SCALE)
    np.testing.assert_allclose(found.probability, wanted, atol=1e-4)


def test_noise_by_map(model, sky, files, expected, instrument, tmp_path):
    """Uneven coverage: each pixel has the answer of its own depth."""
    deep = np.arange(N_PIX) % 3 == 0
    rms = np.where(deep, sky.sigma[4], 30 * sky.sigma[4])
    cmb = rms * 1e6 * kelvin_cmb_per_uk_rj(60.0)
    write_maps(tmp_path / "noise.fits", {"RMS": (cmb, "uK_CMB")}, frame="G")
    found = classify(files, model=model, noise={"60": tmp_path / "noise.fits"}, noise_scale=SCALE)
    shallow = evaluate(model, with_sigma(sky, 4, 30 * sky.sigma[4])).probability
    wanted = np.where(deep, expected, shallow)
    np.testing.assert_allclose(found.probability, wanted, atol=1e-4)
    assert abs(expected - shallow).max() > 0.1


def test_noise_map_of_q_and_u(model, sky, files, tmp_path):
    """Unequal rms of Q and U count as their root mean square."""
    n = np.ones(N_PIX)
    columns = {"Q_RMS": (0.6 * n, "uK_RJ"), "U_RMS": (0.2 * n, "uK_RJ")}
    write_maps(tmp_path / "noise.fits", columns, frame="G")
    noise = {"40": tmp_path / "noise.fits"}
    message = "noise of Q and U differs, by a factor of 3 .*; the network knows one rms for both"
    with pytest.warns(MapWarning, match=message):
        found = classify(files, model=model, noise=noise, noise_scale=SCALE)
    wanted = evaluate(model, with_sigma(sky, 2, 0.2**0.5)).probability
    np.testing.assert_allclose(found.probability, wanted, atol=1e-5)


def test_unobserved_noise_masks(model, files, tmp_path):
    rms = np.full(N_PIX, 0.1)
    rms[:100] = np.nan
    write_maps(tmp_path / "noise.fits", {"RMS": (rms, "uK_RJ")}, frame="G")
    found = classify(files, model=model, noise={"40": tmp_path / "noise.fits"}, noise_scale=SCALE)
    np.testing.assert_array_equal(found.observed, np.arange(N_PIX) >= 100)


def test_noiseless_maps(model, sky, files):
    quiet = evaluate(model, replace(sky, sigma=np.zeros(17))).probability
    found = classify(files, model=model, noise_scale=0.0)
    np.testing.assert_allclose(found.probability, quiet, atol=1e-5)


def test_warns_beyond_the_noise_of_training(model, files):
    with pytest.warns(NoiseRangeWarning, match="reaches 50 times.*trained up to 4 times"):
        classify(files, model=model, noise_scale=50.0)


def test_a_stated_unit_is_not_overruled(model, sky, files, expected, tmp_path):
    """A unit for all maps must not turn uK_RJ into uK_CMB; it is said for one without."""
    bare = write(tmp_path / "50.fits", sky, 3, factor=1e6 * kelvin_cmb_per_uk_rj(50.0))
    for card in ("TUNIT1", "TUNIT2"):
        fits.delval(bare, card, ext=1)
    noise = tmp_path / "noise.fits"
    write_maps(noise, {"RMS": (np.full(N_PIX, sky.sigma[4]), "uK_RJ")}, frame="G")
    with pytest.raises(MapError, match=r"expected the unit uK_CMB, as given .* got 'uK_RJ' in the"):
        classify(files | {"50": bare}, model=model, noise_scale=SCALE, unit="uK_CMB")
    found = classify(
        files | {"50": f"{bare} in uK_CMB"}, model=model, noise={"60": noise}, noise_scale=SCALE
    )
    np.testing.assert_allclose(found.probability, expected, atol=1e-4)


# ---- bad input -------------------------------------------------------------------------------


def rewritten(path, sky, **cards):
    """Band 50 with header cards changed; None drops one."""
    write(path, sky, 3)
    with fits.open(path, mode="update") as hdus:
        for key, value in cards.items():
            if value is None:
                del hdus[1].header[key]
            else:
                hdus[1].header[key] = value
    return path


def bad_maps(files, sky, folder, what):
    """The maps of `files` with one mistake."""
    path = folder / "bad.fits"
    if what == "missing band":
        return {b: p for b, p in files.items() if b not in ("50", "337")}
    if what == "unknown band":
        return files | {"999": files["50"]}
    if what == "band twice":
        return files | {"50.0": files["50"]}
    if what == "no maps":
        return {}
    if what == "missing file":
        return files | {"50": folder / "nowhere.fits"}
    if what == "folder":
        return files | {"50": folder}
    if what == "not FITS":
        path.write_text("Q U\n1 2\n")
    elif what == "empty":
        path.touch()
    elif what == "truncated":
        path.write_bytes(files["50"].read_bytes()[:-9000])
    elif what == "truncated gzip":
        path.write_bytes(gzip.compress(files["50"].read_bytes())[:-4000])
    elif what == "image":
        fits.PrimaryHDU(np.zeros((4, 4))).writeto(path)
    elif what == "one column":
        write_maps(path, {"Q_STOKES": (sky.data[0, 3], "uK_RJ")}, frame="G")
    elif what == "intensity":
        columns = dict.fromkeys(("TEMPERATURE", "HITS"), (sky.data[0, 3], "uK_RJ"))
        write_maps(path, columns, frame="G")
    elif what == "Nside":
        write_polarisation_map(path, hp.ud_grade(list(sky.data[:, 3]), 8), "uK_RJ")
    elif what == "frame":
        write(path, sky, 3, frame="E")
    elif what in ("nan", "inf"):
        with fits.open(files["50"]) as hdus:
            hdus[1].data["Q_STOKES"][1, 7] = float(what)
            hdus.writeto(path)
    elif what == "all masked":
        write_polarisation_map(path, np.full((2, N_PIX), np.nan), "uK_RJ")
    else:
        cards = {
            "unknown unit": {"TUNIT1": "furlong", "TUNIT2": "furlong"},
            "no unit": {"TUNIT1": None},
            "bare kelvin": {"TUNIT1": "uK", "TUNIT2": "uK"},
            "two units": {"TUNIT2": "uK_CMB"},
            "no ordering": {"ORDERING": None},
            "wrong ordering": {"ORDERING": "SPIRAL"},
            "pixels": {"NSIDE": 32, "LASTPIX": 12287},
            "no nside": {"NSIDE": None},
            "wrong frame": {"COORDSYS": "Z"},
            "convention": {"POLCCONV": "MINE"},
        }[what]
        rewritten(path, sky, **cards)
    return files | {"50": path}


BAD_MAPS = {
    "missing band": "maps came for 15, and none for 50, 337. Give a map for every band",
    "unknown band": "has bands 11, 13, 40.*got band '999'",
    "band twice": "band 50 has two maps; give one",
    "no maps": "expected a map for one band at least",
    "missing file": "nowhere.fits: no such file",
    "folder": "expected a HEALPix FITS file",
    "not FITS": "bad.fits: expected a HEALPix FITS file|no binary table",
    "empty": "bad.fits",
    "truncated": "truncated: the header promises",
    "truncated gzip": "check that it is FITS and complete",
    "image": "no binary table",
    "one column": "expected one column Q_STOKES and one U_STOKES",
    "intensity": "expected one column Q_STOKES and one U_STOKES",
    "Nside": "expected one Nside and one frame for all bands.*50: Nside 8",
    "frame": "expected one Nside and one frame for all bands.*50: Nside 16, frame E",
    "nan": "expected finite values, got NaN or Inf in 1 of",
    "inf": "expected finite values, got NaN or Inf in 1 of",
    "all masked": "no pixel is observed in every band",
    "unknown unit": "got unit 'furlong'; pass unit=",
    "no unit": r"expected a unit \(TUNIT\) for column Q_STOKES, got none; pass unit=",
    "bare kelvin": "does not say thermodynamic",
    "two units": "expected one unit for Q and U, got uK_RJ",
    "no ordering": "expected ORDERING RING or NESTED in the header, got none",
    "wrong ordering": "expected ORDERING RING or NESTED in the header, got SPIRAL",
    "pixels": "expected 12288 pixels in column Q_STOKES",
    "no nside": "expected NSIDE in the header",
    "wrong frame": "expected a frame G",
    "convention": "expected POLCCONV COSMO or IAU, got POLCCONV = 'MINE'",
}


@pytest.mark.parametrize("what", BAD_MAPS)
def test_bad_maps(model, files, sky, tmp_path, what):
    with pytest.raises(ForeglowError, match=BAD_MAPS[what]):
        classify(bad_maps(files, sky, tmp_path, what), model=model, noise_scale=SCALE)


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        ({"50": "loud"}, "expected noise as an existing FITS file.*got 'loud'"),
        ({"50": "0.5"}, "expected noise as an existing FITS file"),
        ({"50": ""}, "expected"),
        ({"50": "1-2 uK_CMB"}, "expected noise as an existing FITS file"),
        ({"50": "3 arcmin uK_CMB arcmin"}, "expected noise as an existing FITS file"),
        ({"50": "-1 uK_CMB"}, "noise must be a number >= 0"),
        ({"50": "1e999 uK_CMB"}, "noise must be a number >= 0"),
        ({"50": "36 uK arcmin"}, "does not say thermodynamic"),
        ({"50": "36 furlong"}, "got unit 'furlong'"),
        ({"50": "0.5 arcmin"}, "got unit 'arcmin'"),
        ({"51": "0.5 uK_CMB"}, "got band '51'"),
        ({"50": "0.5 uK_CMB", "50 GHz": "0.5 uK_CMB"}, "band 50 has two noises; give one"),
        ({"50": "missing.fits"}, "expected noise as an existing FITS file"),
    ],
)
def test_bad_noise(model, files, noise, message):
    with pytest.raises(ForeglowError, match=message):
        classify(files, model=model, noise=noise, noise_scale=SCALE)


@pytest.mark.parametrize(
    ("values", "frame", "unit", "message"),
    [
        (np.ones(768), "G", "uK_RJ", "noise of 50: Nside 8"),
        (np.ones(N_PIX), "C", "uK_RJ", "noise of 50: Nside 16, frame C"),
        (np.ones(N_PIX), "G", "", r"expected a unit \(TUNIT\)"),
        (-np.ones(N_PIX), "G", "uK_RJ", "expected a noise rms above zero"),
        (np.zeros(N_PIX), "G", "uK_RJ", "expected a noise rms above zero"),
        (np.full(N_PIX, np.nan), "G", "uK_RJ", "no pixel is observed in every band"),
    ],
)
def test_bad_noise_map(model, files, tmp_path, values, frame, unit, message):
    path = tmp_path / "noise.fits"
    write_maps(path, {"RMS": (values, unit)}, frame=frame)
    with pytest.raises(MapError, match=message):
        classify(files, model=model, noise={"50": path}, noise_scale=SCALE)


@pytest.mark.parametrize("scale", [-0.1, np.nan, np.inf])
def test_bad_noise_scale(model, files, scale):
    with pytest.raises(ForeglowError, match="expected noise_scale >= 0"):
        classify(files, model=model, noise_scale=scale)


def test_bad_unit(model, files):
    with pytest.raises(MapError, match="got unit 'parsec'"):
        classify(files, model=model, unit="parsec")


def test_model_of_another_instrument(instrument, files):
    names = ("frequency_ghz", "sensitivity_uk_arcmin", "fwhm_arcmin", "source")
    other = replace(
        instrument,
        name="other",
        band=("30", *instrument.band[1:]),
        **{name: getattr(instrument, name) for name in names},
    )
    other = replace(other, frequency_ghz=(30.0, *instrument.frequency_ghz[1:]))
    model = Recogniser.untrained("foreglow", other, PROBLEMS["four"], 0)
    with pytest.raises(ForeglowError, match=r"instrument 'other' has bands 30, 13.*'11'") as said:
        classify(files, model=model)
    assert str(said.value).count(", 337") == 1
    assert "train one for others (fg.train_recogniser, `foreglow rec" in str(said.value)


# ---- evaluate --------------------------------------------------------------------------------


def test_evaluation_counts(model, sky):
    found = evaluate(model, sky)
    assert found.accuracy == pytest.approx(np.mean(found.predicted == sky.label))
    confusion = np.array(
        [[np.sum((sky.label == t) & (found.predicted == p)) for p in range(4)] for t in range(4)]
    )
    np.testing.assert_array_equal(found.confusion, confusion)
    overall, *classes = found.records(problem="four", paper=0.9)
    assert overall["accuracy"] == found.accuracy
    assert (overall["class"], overall["paper"], overall["n_pixels"]) == (None, 0.9, N_PIX)
    for k, record in enumerate(classes):
        assert record["class"] == PROBLEMS["four"][k]
        assert record["accuracy"] == pytest.approx(confusion[k, k] / confusion[k].sum())
        assert record["paper"] is None


def test_fewer_candidates_are_renormalised(model, sky):
    two = PROBLEMS["ame"]
    binary = replace(sky, label=sky.label % 2)
    whole = evaluate(model, sky).probability[[0, 2]]
    found = evaluate(model, binary, two)
    np.testing.assert_allclose(found.probability, whole / whole.sum(0), atol=1e-4)


def test_a_stranger_among_the_candidates(instrument, sky):
    model = Recogniser.untrained("foreglow", instrument, PROBLEMS["ame"], 0)
    with pytest.raises(ForeglowError, match="the sky holds curved, but the model knows power_law"):
        evaluate(model, sky, PROBLEMS["curvature"])


def test_a_class_without_pixels_has_no_accuracy(model, sky):
    alone = replace(sky, label=np.zeros(N_PIX, np.int64))
    records = evaluate(model, alone).records()
    assert [r["accuracy"] for r in records[2:]] == [None] * 3
