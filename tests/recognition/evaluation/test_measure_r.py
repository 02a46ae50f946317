"""r of a CMB map: drawn with a known one, from arrays, files and a separated sky."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from foreglow.errors import ForeglowError, MapError, RunError, ShapeError
from foreglow.maps import healpix as hp
from foreglow.maps.conventions import MapWarning
from foreglow.maps.cut_sky import CutSky, apodised
from foreglow.maps.write import write_maps
from foreglow.recognition.evaluation.measure_r import measure_r, simulated_powers
from foreglow.recognition.evaluation.tensors import fit_r
from foreglow.recognition.separate import separate
from foreglow.recognition.simulate import simulate_sky
from foreglow.report.recognition.curves import bb_of_a_map
from foreglow.sky.cmb import cmb_spectra, polarisation_map, tensor_bb

NSIDE = 16
N_PIX = 12 * NSIDE**2
RMS = 0.02  # uK_CMB a pixel
SAID = {"fwhm_arcmin": 0, "frame": "G", "convention": "COSMO", "progress": False, "skies": 60}
ONE = {**SAID, "unit": "uK_CMB", "noise": (np.full(N_PIX, RMS), "rms in uK_CMB")}


def drawn(r, seed, window=1.0):
    """Q, U of lensed CMB, tensors and white noise."""
    _, ee, bb, _ = cmb_spectra(3 * NSIDE - 1)
    rng = np.random.default_rng(seed)
    sky = polarisation_map(ee * window, (bb + r * tensor_bb(len(bb) - 1)) * window, NSIDE, rng)
    return sky + RMS * rng.standard_normal(sky.shape)


def mask():
    return np.abs(hp.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)[1]) > 15


@pytest.fixture(scope="module", params=["full sky", "cut"])
def cut_and_skies(request):
    """Where r is measured, and simulated skies, made once as every `measure_r` makes its own."""
    weight = np.ones(N_PIX) if request.param == "full sky" else apodised(mask(), 18)
    cut = CutSky(weight, [2, 8, 14, 20, 26, 32], pure=request.param == "cut")
    _, ee, bb, _ = cmb_spectra(cut.l_max)
    tensors = tensor_bb(cut.l_max)
    noise = RMS**2 * np.stack([np.ones(N_PIX), np.zeros(N_PIX), np.ones(N_PIX)])
    skies = [simulated_powers(cut, ee, bb, tensors, 0, (k, noise)) for k in range(120)]
    tensor, lensing = (cut.expected(0 * ee, cl)[1] for cl in (tensors, bb))
    return cut, (np.array(skies), tensor, lensing)


@pytest.mark.parametrize("r", [0.0, 0.02])
def test_r_is_recovered_over_a_hundred_skies(cut_and_skies, r):
    cut, about = cut_and_skies
    found = [fit_r(cut.spectra(drawn(r, [2, k]))[1], *about, False, cut) for k in range(100)]
    values, errors, p = np.array([(one.r, one.error, one.p_value) for one in found]).T
    spread = values.std(ddof=1)
    # the mean of the simulated skies, taken off, has an error of its own, which all share
    assert values.mean() == pytest.approx(r, abs=3.5 * spread * (1 / 100 + 1 / 120) ** 0.5)
    assert errors.mean() == pytest.approx(spread, rel=0.3)
    assert 0.55 < np.mean(np.abs(values - r) < errors) < 0.9
    assert np.mean(p < 0.01) <= 0.06


def test_arrays_with_a_mask_and_lensing():
    sky = drawn(0.02, 5)
    plain = measure_r(sky, mask(), **ONE)
    assert plain.r == pytest.approx(0.02, abs=4 * plain.error)
    assert (plain.lensing, plain.lensing_error) == (1.0, 0.0)
    assert plain.edges[0] == 2
    assert plain.edges[-1] <= 32
    assert plain.p_value > 1e-3
    assert "fit" in plain.summary()
    free = measure_r(sky, mask(), free_lensing=True, **ONE)
    assert free.lensing == pytest.approx(1, abs=4 * free.lensing_error)
    assert free.error > plain.error
    assert "lensing" in free.summary()
    with ThreadPoolExecutor(2) as pool:
        again = measure_r(sky, mask(), pool=pool, **ONE)
    assert (again.r, again.error) == pytest.approx((plain.r, plain.error))


def test_nested_millikelvin_and_the_iau_convention_are_one_sky():
    sky = drawn(0.02, 5)
    plain = measure_r(sky, mask(), **ONE)
    order = hp.nest2ring(NSIDE, np.arange(N_PIX))
    turned = (sky * [[1.0], [-1.0]])[:, order] * 1e-3
    given = {**ONE, "unit": "mK_CMB", "nest": True, "convention": "IAU"}
    other = measure_r(turned, mask()[order], **given)
    assert other.r == pytest.approx(plain.r, rel=1e-6)


def test_simulations_of_noise_serve_as_well_as_its_rms():
    rng = np.random.default_rng(8)
    noise = RMS * rng.standard_normal((60, 2, N_PIX))
    sky = drawn(0.02, 5)
    by_rms = measure_r(sky, mask(), **ONE)
    by_draws = measure_r(sky, mask(), **{**ONE, "noise": (noise, "uK_CMB")})
    assert by_draws.r == pytest.approx(by_rms.r, abs=by_rms.error)
    assert by_draws.error == pytest.approx(by_rms.error, rel=0.5)
    order = hp.nest2ring(NSIDE, np.arange(N_PIX))
    turned = noise[:, :, order] * [[1e-3], [-1e-3]]
    given = {**ONE, "noise": (turned, "mK_CMB"), "nest": True, "convention": "IAU"}
    again = measure_r((sky * [[1.0], [-1.0]])[:, order], mask()[order], **given)
    assert (again.r, again.error) == pytest.approx((by_draws.r, by_draws.error))


@pytest.mark.parametrize("text", ["0.02 uK_CMB", "0.00002 mK_CMB", "4.397 uK_CMB arcmin"])
def test_noise_in_words(text):
    sky = drawn(0.02, 5)
    plain = measure_r(sky, mask(), **ONE)
    assert measure_r(sky, mask(), **{**ONE, "noise": text}).r == pytest.approx(plain.r, rel=1e-3)


def test_zeros_are_unobserved_with_a_word():
    sky = drawn(0.02, 5)
    hole = np.arange(N_PIX) > 2500
    plain = measure_r(np.where(hole, np.nan, sky), **ONE)
    with pytest.warns(MapWarning, match=f"exactly 0 in {hole.sum()} pixels of the CMB map"):
        zeros = measure_r(np.where(hole, 0.0, sky), **ONE)
    assert zeros.r == plain.r
    assert zeros.sky_fraction < 0.85


def test_bins_that_are_too_few_to_tell():
    found = measure_r(drawn(0.02, 5), mask(), ell_edges=[2, 30], **ONE)
    assert found.p_value is None
    assert "cannot be told from anything else" in found.summary()
    assert json.loads(json.dumps(found.record()))["p_value"] is None
    assert "p =" not in bb_of_a_map(found).axes[0].get_title()
    with pytest.raises(RunError, match="two bins of ell or more for r and lensing"):
        measure_r(drawn(0.02, 5), mask(), ell_edges=[2, 30], free_lensing=True, **ONE)


def test_a_beam_is_of_the_map_and_of_what_it_is_compared_with():
    window = hp.gauss_beam(np.radians(10.0), 3 * NSIDE - 1) ** 2
    sky = drawn(0.05, 9, window)
    with pytest.warns(MapWarning, match="simulations of its noise"):
        right = measure_r(sky, mask(), **{**ONE, "fwhm_arcmin": 600.0})
    assert right.r == pytest.approx(0.05, abs=4 * right.error)
    wrong = measure_r(sky, mask(), **ONE)
    assert wrong.p_value < right.p_value
    rest = hp.gauss_beam(np.radians(8.0), 3 * NSIDE - 1)
    with pytest.warns(MapWarning, match="simulations of its noise"):
        parts = measure_r(sky, mask(), **{**ONE, "fwhm_arcmin": 360.0, "window": rest})
    assert parts.r == pytest.approx(right.r, rel=1e-6)  # 6 and 8 degrees make 10


def test_foregrounds_left_are_told(tmp_path):
    sky = drawn(0.0, 6)
    sky += 0.1 * np.random.default_rng(7).standard_normal(sky.shape)
    found = measure_r(sky, **ONE)
    assert found.p_value < 0.01
    assert "something else is in it" in found.summary()
    bb_of_a_map(found).savefig(tmp_path / "figure.png")
    assert np.asarray(Image.open(tmp_path / "figure.png")).std() > 10


def test_a_separated_sky_in_memory_and_in_its_file(tmp_path, run):
    sky = simulate_sky(layout="single:0", models="curvature", noise_scale=0.1, seed=4)
    separated = separate(sky.maps, sky.instrument, noise_scale=0.1, progress=False)
    found = measure_r(separated, mask(), **SAID)
    assert found.r == pytest.approx(0, abs=4 * found.error)
    separated.to_fits(tmp_path / "cmb.fits")
    write_maps(tmp_path / "mask.fits", {"MASK": (mask().astype(float), "")}, frame="G")
    command = ("recognize", "measure-r", tmp_path / "cmb.fits", "--fwhm-arcmin", 0, "--skies", 60)
    where = ("--mask", tmp_path / "mask.fits", "--out", tmp_path / "r")
    code, text, err = run(*command, *where, "--json")
    assert code == 0, err
    (record,) = json.loads(text)
    assert record["r"] == pytest.approx(found.r, rel=1e-3)
    assert json.loads((tmp_path / "r" / "r.json").read_text()) == record
    assert (tmp_path / "r" / "bb.png").is_file()
    code, text, err = run(*command)
    assert code == 0, err
    assert "r = " in text + err  # a run with --json before it in this process keeps the screen
    code, _, err = run(*command[:3], "--ell-edges", "2;9")
    assert code == 2
    assert "expected --ell-edges as whole numbers" in err


def test_the_beam_goes_with_what_was_separated(tmp_path):
    sky = simulate_sky(layout="single:0", models="curvature", noise_scale=0.1, seed=4)
    path = tmp_path / "cmb.fits"
    common = {"noise_scale": 0.1, "common_fwhm": "500 arcmin", "progress": False}
    separate(sky.maps, sky.instrument, out=path, **common)
    with pytest.warns(MapWarning, match="a beam of 500 arcmin, more than a pixel"):
        found = measure_r(path, skies=50, progress=False)
    assert found.bb_lensing[-1] < 0.85 * found.bb_lensing[0]
    with pytest.raises(MapError, match=r"expected one beam, got 30 arcmin .* and 500 arcmin"):
        measure_r(path, fwhm_arcmin=30, progress=False)


def torn():
    """Simulations of which one has no value in a pixel."""
    draws = np.random.default_rng(3).standard_normal((60, 2, N_PIX))
    draws[7, 0, 100] = np.nan
    return draws


def weight(value):
    return np.where(mask(), value, 0.0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"fwhm_arcmin": None}, RunError, "expected the beam of the CMB map"),
        ({"fwhm_arcmin": -1}, RunError, "a beam as a number of arcmin, from 0 to 1800, got -1"),
        ({"fwhm_arcmin": "30 arcmin"}, RunError, "got '30 arcmin'"),
        ({"fwhm_arcmin": 5000.0}, RunError, "got 5000.0"),
        ({"noise": None}, RunError, "expected the noise of the CMB map"),
        ({"noise": np.ones((60, 2, N_PIX))}, RunError, "simulations of noise with their unit"),
        ({"noise": (np.zeros((60, 2, 48)), "uK_CMB")}, ShapeError, "simulations of noise of"),
        ({"noise": (np.zeros((3, 2, N_PIX)), "uK_CMB")}, ShapeError, "50 or more"),
        ({"noise": (np.zeros((60, 2, N_PIX)), "uK_CMB")}, RunError, "or all alike"),
        ({"noise": (torn(), "uK_CMB")}, RunError, "with NaN or UNSEEN where others have none"),
        ({"noise": (np.zeros((60, 2, N_PIX)), "uK")}, MapError, "thermodynamic"),
        ({"noise": (np.ones(48), "rms in uK_CMB")}, ShapeError, "noise of the Nside of the map"),
        ({"noise": (np.ones(N_PIX), "rms in MJy/sr")}, MapError, "expected the noise in uK_CMB"),
        ({"noise": "loud"}, MapError, "a sensitivity such as"),
        ({"unit": "uK_RJ"}, MapError, "a ratio of CMB temperatures"),
        ({"unit": None}, MapError, "expected a unit"),
        ({"mask": np.ones(48)}, MapError, "expected a mask of Nside 16"),
        ({"mask": np.zeros(N_PIX)}, MapError, "above zero somewhere"),
        ({"mask": np.arange(N_PIX) == 1500}, RunError, "modes or more in every bin"),
        ({"mask": weight(1.7) + weight(-1.2)}, RunError, "leave out apodise_deg"),
        ({"mask": weight(3.0) * 0.5 + 0.1, "apodise_deg": None}, MapError, "weights from 0 to 1"),
        ({"apodise_deg": 120}, RunError, "apodise_deg as a number from 0 to 90"),
        ({"apodise_deg": "ten"}, RunError, "got 'ten'"),
        ({"window": np.ones(20)}, ShapeError, r"window of shape \(48,\), 3 Nside"),
        ({"skies": 10}, RunError, "50 skies or more"),
        ({"skies": "100"}, RunError, "got '100'"),
        (
            {"ell_edges": range(5, 45), "mask": None},
            RunError,
            "twice as many skies as bins of ell, 78",
        ),
        ({"seed": -1}, RunError, "a seed as a whole number of 0 or more, got -1"),
        ({"ell_edges": [2, 90]}, MapError, "within 2 to 48"),
        ({"ell_edges": [2, 10.5, 20]}, MapError, "whole numbers as edges of ell"),
        ({"ell_edges": "2,10,20"}, RunError, "a list of whole numbers, got '2,10,20'"),
        ({"cmb": np.zeros((4, N_PIX)) + 1}, ForeglowError, "expected"),
    ],
)
def test_what_cannot_be_measured(change, error, message):
    given = {"cmb": np.zeros((2, N_PIX)) + 1e-3, "mask": mask(), "apodise_deg": 18, **ONE, **change}
    with pytest.raises(error, match=message):
        measure_r(**given)
