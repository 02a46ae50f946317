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
from foreglow.recognition.evaluation.measure_r import measure_r
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


@pytest.mark.parametrize("r", [0.0, 0.01])
def test_r_is_recovered_over_a_hundred_skies(r):
    """The covariance is simulated once, as a hundred calls of `measure_r` would each do."""
    cut = CutSky(apodised(mask(), 18), [2, 8, 14, 20, 26, 32])
    _, ee, bb, _ = cmb_spectra(cut.l_max)
    null = np.array([cut.spectra(drawn(0.0, [1, k]))[1] for k in range(150)])
    tensor, lensing = (cut.expected(0 * ee, cl)[1] for cl in (tensor_bb(cut.l_max), bb))
    found = [
        fit_r(cut.spectra(drawn(r, [2, k]))[1], null, tensor, lensing, False, cut)
        for k in range(100)
    ]
    values, errors = np.array([(one.r, one.error) for one in found]).T
    spread = values.std(ddof=1)
    # the mean of the 150 skies taken off has an error of its own, which all share
    assert values.mean() == pytest.approx(r, abs=3.5 * spread * (1 / 100 + 1 / 150) ** 0.5)
    assert errors.mean() == pytest.approx(spread, rel=0.3)
    assert 0.5 < np.mean(np.abs(values - r) < errors) < 0.85


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
    by_rms, by_draws = (
        measure_r(sky, mask(), **{**ONE, "noise": n}) for n in (ONE["noise"], noise)
    )
    assert by_draws.r == pytest.approx(by_rms.r, abs=by_rms.error)
    assert by_draws.error == pytest.approx(by_rms.error, rel=0.5)


def test_a_beam_is_of_the_map_and_of_what_it_is_compared_with():
    window = hp.gauss_beam(np.radians(10.0), 3 * NSIDE - 1) ** 2
    sky = drawn(0.05, 9, window)
    with pytest.warns(MapWarning, match="simulations of its noise"):
        right = measure_r(sky, mask(), **{**ONE, "fwhm_arcmin": 600.0})
    assert right.r == pytest.approx(0.05, abs=4 * right.error)
    wrong = measure_r(sky, mask(), **ONE)
    assert wrong.p_value < right.p_value


def test_foregrounds_left_are_told(tmp_path):
    sky = drawn(0.0, 6)
    sky += 0.3 * np.random.default_rng(7).standard_normal(sky.shape)
    found = measure_r(sky, mask(), **ONE)
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


def weight(value):
    return np.where(mask(), value, 0.0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"fwhm_arcmin": None}, RunError, "expected the beam of the CMB map"),
        ({"fwhm_arcmin": -1}, RunError, "a beam of 0 arcmin or more"),
        ({"noise": None}, RunError, "expected the noise of the CMB map"),
        ({"noise": np.zeros((60, 2, 48))}, ShapeError, "simulations of noise of shape"),
        ({"noise": np.zeros((3, 2, N_PIX))}, ShapeError, "50 or more"),
        ({"noise": (np.ones(48), "rms in uK_CMB")}, ShapeError, "noise of the Nside of the map"),
        ({"noise": (np.ones(N_PIX), "rms in MJy/sr")}, MapError, "expected the noise in uK_CMB"),
        ({"unit": "uK_RJ"}, MapError, "a ratio of CMB temperatures"),
        ({"unit": None}, MapError, "expected a unit"),
        ({"mask": np.ones(48)}, MapError, "expected a mask of Nside 16"),
        ({"mask": np.zeros(N_PIX)}, MapError, "above zero somewhere"),
        ({"mask": weight(1.7) + weight(-1.2)}, RunError, "leave out apodise_deg"),
        ({"mask": weight(3.0) * 0.5 + 0.1, "apodise_deg": None}, MapError, "weights from 0 to 1"),
        ({"apodise_deg": 120}, RunError, "apodise_deg from 0 to 90"),
        ({"skies": 10}, RunError, "50 skies or more"),
        ({"ell_edges": [2, 90]}, MapError, "within 2 to 48"),
        ({"cmb": np.zeros((4, N_PIX)) + 1}, ForeglowError, "expected"),
    ],
)
def test_what_cannot_be_measured(change, error, message):
    given = {"cmb": np.zeros((2, N_PIX)) + 1e-3, "mask": mask(), "apodise_deg": 18, **ONE, **change}
    with pytest.raises(error, match=message):
        measure_r(**given)
