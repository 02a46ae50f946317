"""Maps of several beams: refused, or brought to one resolution with the noise that is left."""

import itertools
import warnings

import healpy as hp
import numpy as np
import pytest

from foreglow.errors import InstrumentError, MapError
from foreglow.maps.io import PolarisationMap, open_polarisation_map
from foreglow.maps.noise import open_noise_map
from foreglow.maps.table import Table
from foreglow.maps.write import write_maps, write_polarisation_map
from foreglow.recognition.observation.beams import at_one_resolution, bring_to_one_resolution
from foreglow.recognition.observation.observations import BeamWarning, open_observation
from foreglow.recognition.observation.smoothing import (
    Resolution,
    smooth_difference,
    smooth_polarisation,
    smooth_variance,
)
from foreglow.sky.instrument_files import load_instrument

NSIDE = 64
PIXELS = np.arange(hp.nside2npix(NSIDE))
SO = ("SAT_27", "SAT_39", "SAT_93")  # 91, 63 and 30 arcmin


def draw_alm(spectra, seed):
    """T, E and B, independent, of some spectra."""
    rng = np.random.default_rng(seed)
    ell, m = hp.Alm.getlm(len(spectra[0]) - 1)
    white = rng.standard_normal((3, len(ell))) + 1j * rng.standard_normal((3, len(ell)))
    white = np.where(m == 0, white.real, white / np.sqrt(2))
    return white * np.sqrt(np.asarray(spectra)[:, ell])


@pytest.fixture(scope="module")
def instrument():
    return load_instrument("so-sat")


@pytest.fixture(scope="module")
def sky():
    """E and B of a red sky, none above ell = 1.5 Nside."""
    ell = np.arange(3 * NSIDE)
    spectrum = np.where((ell > 1) & (ell < 1.5 * NSIDE), 1e4 / (ell + 1.0) ** 2.5, 0)
    return draw_alm([0 * spectrum, spectrum, 0.5 * spectrum], 3)


def observed(alm, fwhm_arcmin, nside=NSIDE):
    """Q,U of the sky through a beam."""
    smooth = hp.smoothalm(alm, fwhm=np.radians(fwhm_arcmin / 60), pol=True, inplace=False)
    return np.asarray(hp.alm2map(smooth, nside, pol=True))[1:]


def write(folder, sky, beams, header=True, nside=NSIDE, mask=None):
    folder.mkdir(exist_ok=True)
    paths = {}
    for name, beam in beams.items():
        paths[name] = folder / f"{name}.fits"
        card = {"FWHM": (beam, "[arcmin]")} if header else {}
        qu = observed(sky, beam, nside)
        if mask is not None:
            qu[:, ~mask] = np.nan
        write_polarisation_map(paths[name], qu, "uK_RJ", header=card, overwrite=True)
    return paths


BEAMS = {"SAT_27": 91.0, "SAT_39": 63.0, "SAT_93": 30.0}


def test_maps_of_several_beams_become_one(tmp_path, instrument, sky):
    maps, noise = bring_to_one_resolution(
        instrument, write(tmp_path / "in", sky, BEAMS), tmp_path / "out", 120.0
    )
    assert list(maps) == list(noise) == list(SO)
    aim = Resolution(120.0, 32)  # pixels of 110 arcmin: those of 55 are less than half a beam
    expected = smooth_polarisation(observed(sky, 0.0), aim.transfer(0.0), 32)
    for name in SO:
        found = open_polarisation_map(maps[name])
        assert (found.nside, found.beam_arcmin) == (32, 120.0)
        qu = found.read(np.arange(12 * 32**2))
        np.testing.assert_allclose(qu, expected, atol=2e-3 * expected.std())
    assert not open_observation(instrument, maps, noise).maps[3]


def test_the_transfer_ends_before_it_aliases():
    aim = Resolution.of(60.0, 512)
    assert aim.nside == 64
    transfer = aim.transfer(30.0)
    assert len(transfer) == 129
    assert transfer[-1] == pytest.approx(0, abs=1e-12)
    assert transfer[0] == 1
    assert (np.diff(transfer) <= 0).all()
    sharp = hp.gauss_beam(np.radians(1.0), 60) / hp.gauss_beam(np.radians(0.5), 60)
    np.testing.assert_allclose(transfer[:61], sharp, rtol=1e-10)


def test_nothing_above_is_folded_back():
    """Power beyond what the lower Nside can carry leaves no trace in it."""
    ell = np.arange(3 * NSIDE)
    high = np.where((ell > 80) & (ell < 1.9 * NSIDE), 1.0, 0)
    qu = np.asarray(hp.alm2map(draw_alm([0 * high, high, high], 1), NSIDE, pol=True))[1:]
    low = smooth_polarisation(qu, Resolution(120.0, 32).transfer(30.0), 32)
    assert low.std() < 1e-3 * qu.std()


def test_noise_is_that_of_a_monte_carlo():
    """White noise, uneven over the sky, smoothed sixty times."""
    rng = np.random.default_rng(0)
    sigma = 3 * (1 + 0.8 * np.cos(hp.pix2ang(32, np.arange(12 * 32**2))[0]))
    transfer = Resolution(240.0, 16).transfer(60.0)
    predicted = smooth_variance(sigma**2, transfer, 16)
    measured = np.zeros((2, 12 * 16**2))
    for _ in range(60):
        noise = sigma * rng.standard_normal((2, len(sigma)))
        measured += smooth_polarisation(noise, transfer, 16) ** 2 / 60
    z = np.cos(hp.pix2ang(16, np.arange(12 * 16**2))[0])
    for low, high in ((-1.1, -0.6), (-0.6, 0), (0, 0.6), (0.6, 1.1)):
        band = (z >= low) & (z < high)
        ratio = measured[:, band].mean() / predicted[band].mean()
        assert ratio == pytest.approx(1, abs=0.03)


def test_noise_of_q_and_u_that_differs_is_that_of_a_monte_carlo():
    """Of scans along the ecliptic: how Q and U differ and correlate turns over the sky."""
    n_pix, rng = 12 * 32**2, np.random.default_rng(0)
    theta, phi = hp.pix2ang(32, np.arange(n_pix))
    angle = hp.Rotator(coord=["E", "G"]).angle_ref(theta, phi)
    sigma = np.array([[3.0], [1.0]]) * (1 + 0.5 * np.cos(theta))
    turn = np.exp(2j * angle)
    white = sigma[:, :, None] * rng.standard_normal((2, n_pix, 100))
    noise = turn[:, None] * (white[0] + 1j * white[1])
    apart = 0.5 * (sigma[0] ** 2 - sigma[1] ** 2) * turn**2
    transfer = Resolution(240.0, 16).transfer(60.0)
    found = smooth_difference(np.stack([apart.real, apart.imag]), transfer, 16)
    mean = smooth_variance((sigma**2).mean(0), transfer, 16)
    measured = np.zeros(12 * 16**2, complex)
    for one in noise.T:
        q, u = smooth_polarisation(np.stack([one.real, one.imag]), transfer, 16)
        measured += 0.5 * (q + 1j * u) ** 2 / 100
    ours = found[0] + 1j * found[1]
    share = (measured * ours.conj()).sum() / (np.abs(ours) ** 2).sum()
    assert abs(share - 1) < 0.03
    assert 0.6 < (np.abs(ours) / mean).mean() < 0.9  # 0.8 before
    scatter = np.abs(measured - ours).std() / mean.mean()
    assert scatter < 2 / np.sqrt(100)


def test_covariances_come_out_as_covariances(tmp_path, instrument, sky):
    paths = write(tmp_path / "in", sky, BEAMS)
    n = np.ones(len(PIXELS))
    columns = {"A": (4 * n, "uK_RJ^2"), "B": (n, "uK_RJ^2"), "C": (n, "uK_RJ^2")}
    write_maps(tmp_path / "n.fits", columns, frame="G")
    given = {
        "SAT_27": f"{tmp_path / 'n.fits'}[A,B,C] as covariance",
        "SAT_39": f"{tmp_path / 'n.fits'}[A,C] as variance",
    }
    maps, noise = bring_to_one_resolution(instrument, paths, tmp_path / "o", 120.0, given)
    assert str(noise["SAT_27"]).endswith("noise_SAT_27.fits[QQ,QU,UU] as covariance")
    opened = open_observation(instrument, maps, noise)
    assert opened.bands_of_unlike_noise == 2
    equator = np.flatnonzero(np.abs(np.cos(hp.pix2ang(32, np.arange(12 * 32**2))[0])) < 0.5)
    _, sigma, found = opened.read_all_noise(equator)
    kept = smooth_variance(n, Resolution(120.0, 32).transfer(91.0), 32)[equator]
    np.testing.assert_allclose(
        found[:, :, 0] / kept[:, None], [[4, 1, 1]] * len(equator), rtol=0.03
    )
    np.testing.assert_allclose(sigma[:, 0] ** 2, 2.5 * kept, rtol=1e-3)


def test_white_noise_alike_everywhere_is_the_sum_over_ell():
    transfer = Resolution(120.0, 32).transfer(30.0)
    ell = np.arange(len(transfer))
    area = 4 * np.pi / len(PIXELS)
    exact = 4.0 * area * ((2 * ell + 1) * transfer**2)[2:].sum() / (4 * np.pi)
    found = smooth_variance(np.full(len(PIXELS), 4.0), transfer, 32)
    np.testing.assert_allclose(found, exact, rtol=1e-4)


def test_an_edge_of_the_noise_leaves_no_ring():
    """A field 25 times deeper: the kernel squared has twice the harmonics of the kernel."""
    n_pix, rng = 12 * 16**2, np.random.default_rng(0)
    deep = hp.pix2vec(16, np.arange(n_pix))[0] > np.cos(np.radians(25))
    variance = np.where(deep, 0.04, 1.0)
    transfer = Resolution(700.0, 8).transfer(0.0)
    found = smooth_variance(variance, transfer, 8)
    measured = np.zeros((2, 12 * 8**2))
    for _ in range(200):
        noise = np.sqrt(variance) * rng.standard_normal((2, n_pix))
        measured += smooth_polarisation(noise, transfer, 8) ** 2 / 200
    ratio = found / measured.mean(0)
    assert ratio.mean() == pytest.approx(1, abs=0.01)
    assert ratio.std() < 1.25 * np.sqrt(1 / 200)  # with a ring three times as much


def test_noise_of_sensitivities_and_maps(tmp_path, instrument, sky):
    paths = write(tmp_path / "in", sky, BEAMS)
    rms = np.full(len(PIXELS), 2.0, np.float32)
    write_maps(tmp_path / "rms.fits", {"RMS": (rms, "uK_RJ")}, frame="G")
    given = {"SAT_27": "2 uK_RJ", "SAT_39": tmp_path / "rms.fits"}
    _, noise = bring_to_one_resolution(instrument, paths, tmp_path / "o", 120.0, given, 0.5)
    left = {n: open_noise_map(p).read(np.arange(100))[0].mean() for n, p in noise.items()}
    assert left["SAT_39"] < left["SAT_27"] < 2.0  # its beam is sharper: more was smoothed away
    pixel = hp.nside2resol(NSIDE, arcmin=True)
    factor = instrument.uk_rj_per_uk_cmb[2]
    area = 4 * np.pi / len(PIXELS)
    transfer = Resolution(120.0, 32).transfer(30.0)
    kept = np.sqrt(area * ((2 * np.arange(65) + 1) * transfer**2)[2:].sum() / (4 * np.pi))
    assert left["SAT_93"] == pytest.approx(0.5 * 4.0 / pixel * factor * kept, rel=1e-4)


def test_a_part_of_the_sky_keeps_its_inside(tmp_path, instrument, sky):
    mask = hp.pix2ang(NSIDE, PIXELS)[0] < 1.2
    paths = write(tmp_path / "in", sky, BEAMS, mask=mask)
    maps, noise = bring_to_one_resolution(instrument, paths, tmp_path / "out", 120.0)
    low = np.arange(12 * 32**2)
    theta = hp.pix2ang(32, low)[0]
    expected = smooth_polarisation(observed(sky, 0.0), Resolution(120.0, 32).transfer(0.0), 32)
    for name in SO:
        qu = open_polarisation_map(maps[name]).read(low)
        seen = np.isfinite(qu).all(0)
        assert seen[theta < 1.1].all()
        assert not seen[theta > 1.25].any()
        inside = theta < 1.0
        gap = (qu - expected)[:, inside].std() / expected[:, inside].std()
        assert gap < 0.02
        rms = open_noise_map(noise[name]).read(low)
        assert np.isfinite(rms[0][seen]).all()


def test_bands_agree_up_to_the_edge(tmp_path, instrument, sky):
    """One sky in all bands is one sky afterwards, also where one of them observed less."""
    theta = hp.pix2ang(NSIDE, PIXELS)[0]
    dead = np.isin(PIXELS, [1000, 9000, 9001])
    paths = write(tmp_path / "in", sky, BEAMS, mask=(theta < 1.8) & ~dead)
    paths |= write(tmp_path / "less", sky, {"SAT_27": 91.0}, mask=theta < 1.2)
    maps, _ = bring_to_one_resolution(instrument, paths, tmp_path / "out", 120.0)
    low = np.arange(12 * 32**2)
    qu = np.stack([open_polarisation_map(maps[name]).read(low) for name in SO])
    seen = np.isfinite(qu).all(1)
    theta = hp.pix2ang(32, low)[0]
    assert seen[0, theta < 1.05].mean() > 0.97
    assert seen[1:, theta < 1.7].mean() > 0.97
    for one in (0, 1):
        both = seen[one] & seen[2]
        assert np.abs(qu[one] - qu[2])[:, both].max() < 0.01 * qu[2][:, both].std()


def test_noise_is_asked_for_where_the_map_observed_alone(tmp_path, instrument, sky):
    mask = hp.pix2ang(NSIDE, PIXELS)[0] < 1.2
    paths = write(tmp_path / "in", sky, BEAMS, mask=mask)
    left = {}
    for name, beyond in (("zero", 0.0), ("unseen", hp.UNSEEN)):
        file = tmp_path / f"{name}.fits"
        write_maps(file, {"RMS": (np.where(mask, 2.0, beyond), "uK_RJ")}, frame="G")
        noise = bring_to_one_resolution(
            instrument, paths, tmp_path / name, 120.0, {"SAT_93": file}
        )[1]
        left[name] = open_noise_map(noise["SAT_93"]).read(np.arange(1000))
    np.testing.assert_array_equal(left["zero"], left["unseen"])


def test_maps_of_several_nsides_are_brought_together(tmp_path, instrument, sky):
    fine = write(tmp_path / "fine", sky, {"SAT_93": 30.0}, nside=128)
    coarse = write(tmp_path / "coarse", sky, {"SAT_27": 91.0})
    maps, noise = bring_to_one_resolution(instrument, fine | coarse, tmp_path / "out", 120.0)
    both = [open_polarisation_map(maps[n]).read(np.arange(12 * 32**2)) for n in maps]
    np.testing.assert_allclose(*both, atol=5e-3 * both[0].std())
    assert open_observation(instrument, maps, noise).nside == 32


def test_beams_that_differ_are_refused(tmp_path, instrument, sky):
    paths = write(tmp_path / "in", sky, BEAMS)
    with pytest.raises(MapError, match=r"SAT_27: 91, SAT_39: 63, SAT_93: 30, .*of 91 arcmin or"):
        open_observation(instrument, paths)
    alike = write(tmp_path / "in", sky, dict.fromkeys(SO, 91.0))
    assert open_observation(instrument, alike).nside == NSIDE
    half = alike | {"SAT_93": write(tmp_path / "x", sky, {"SAT_93": 30.0}, header=False)["SAT_93"]}
    with pytest.raises(MapError, match="the instrument's where a header states none"):
        open_observation(instrument, half)


def test_silent_headers_are_warned_of_where_it_matters(tmp_path, instrument, sky):
    paths = write(tmp_path / "in", sky, BEAMS, header=False)
    with pytest.warns(
        BeamWarning, match="no map states .* from 30 to 91 arcmin.* give common_fwhm=,"
    ):
        open_observation(instrument, paths)
    coarse = write(tmp_path / "in", sky, BEAMS, header=False, nside=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", BeamWarning)
        open_observation(instrument, coarse)


@pytest.mark.parametrize(
    ("value", "beam"),
    [((1.5, "[deg] beam"), 90.0), ((30, "arcmin"), 30.0), ((30, ""), None), ((-1, "[deg]"), None)],
)
def test_beams_of_headers(tmp_path, sky, value, beam):
    write_polarisation_map(tmp_path / "m.fits", observed(sky, 0.0), "uK_RJ", header={"FWHM": value})
    assert open_polarisation_map(tmp_path / "m.fits").beam_arcmin == beam


@pytest.mark.parametrize(
    ("fwhm", "message"),
    [
        (60.0, r"at least 91 arcmin, the beam of band SAT_27, got 60"),
        (0.0, "above 0 arcmin, got 0.0"),
        (np.nan, "above 0 arcmin"),
    ],
)
def test_a_common_beam_that_cannot_be(tmp_path, instrument, sky, fwhm, message):
    paths = write(tmp_path / "in", sky, BEAMS)
    with pytest.raises(MapError, match=message):
        bring_to_one_resolution(instrument, paths, tmp_path / "out", fwhm)
    assert not (tmp_path / "out").exists()


def test_noise_that_makes_no_sense(tmp_path, instrument, sky):
    paths = write(tmp_path / "in", sky, BEAMS)
    with pytest.raises(InstrumentError, match="noise came for SAT_225, but no map"):
        bring_to_one_resolution(instrument, paths, tmp_path / "o", 120.0, {"225": "3 uK_RJ"})
    with pytest.raises(InstrumentError, match="expected noise_scale >= 0, got -1"):
        bring_to_one_resolution(instrument, paths, tmp_path / "o", 120.0, noise_scale=-1)
    maps, noise = bring_to_one_resolution(instrument, paths, tmp_path / "o", 120.0, noise_scale=0)
    assert set(noise.values()) == {"0 uK_RJ"}
    assert open_observation(instrument, maps, noise).noise[0] == 0


def test_blocks_of_pixels_leave_no_trace(tmp_path, instrument, sky, monkeypatch):
    mask = (hp.pix2ang(NSIDE, PIXELS)[0] < 1.2) & (PIXELS != 1000)
    paths = write(tmp_path / "in", sky, {"SAT_27": 91.0, "SAT_39": 63.0}, mask=mask)
    found = []
    for size in (1 << 18, 1000):
        monkeypatch.setattr("foreglow.recognition.observation.common_beam._BLOCK", size)
        maps, noise = bring_to_one_resolution(
            instrument, paths, tmp_path / f"{size}", 120.0, memory="2 GiB"
        )
        files = [hp.read_map(f, field=None, dtype=None) for f in (*maps.values(), *noise.values())]
        found.append(np.concatenate([np.atleast_2d(values) for values in files]))
    np.testing.assert_array_equal(*found)
    assert np.isfinite(found[0][0][found[0][0] > hp.UNSEEN]).all()


def test_each_block_is_let_go_before_the_next(tmp_path, instrument, sky, monkeypatch):
    """Else all of a mapped file would be in memory in the end."""
    events, read, release = [], PolarisationMap.read, Table.release
    paths = write(tmp_path / "in", sky, {"SAT_27": 91.0})
    monkeypatch.setattr("foreglow.recognition.observation.common_beam._BLOCK", 1000)
    monkeypatch.setattr(PolarisationMap, "read", lambda *a: events.append("read") or read(*a))
    monkeypatch.setattr(Table, "release", lambda one: events.append("release") or release(one))
    bring_to_one_resolution(instrument, paths, tmp_path / "out", 120.0)
    assert events.count("read") > 12 * NSIDE**2 / 1000
    assert ("read", "read") not in itertools.pairwise(events)


def test_a_dead_pixel_that_nobody_misses(tmp_path, instrument, sky):
    paths = write(tmp_path / "in", sky, {"SAT_27": 91.0}, mask=PIXELS != 1000)
    maps, _ = bring_to_one_resolution(instrument, paths, tmp_path / "out", 1200.0)
    assert np.isfinite(open_polarisation_map(maps["SAT_27"]).read(np.arange(12 * 4**2))).all()


def test_too_little_memory_is_refused_before_anything_is_made(tmp_path, instrument, sky):
    paths = write(tmp_path / "in", sky, BEAMS)
    with pytest.raises(MapError, match=r"memory of 5\d\d\.\d\d MiB or more, got 400.00 MiB"):
        bring_to_one_resolution(instrument, paths, tmp_path / "out", 120.0, memory="400 MiB")
    assert not any((tmp_path / "out").iterdir())


def test_the_folder_goes_away(tmp_path, instrument, sky):
    paths = write(tmp_path / "in", sky, BEAMS)
    with at_one_resolution(instrument, paths, None, 1.0, None, "2 deg", tmp_path) as (maps, noise):
        assert open_observation(instrument, maps, noise).nside == 32
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
