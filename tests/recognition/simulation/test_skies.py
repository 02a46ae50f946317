"""Whole test skies against formulas of their own, and their FITS files as healpy reads them."""

from dataclasses import replace
from types import SimpleNamespace

import healpy as hp
import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.io import fits

from foreglow.errors import ForeglowError, InstrumentError, MapError, ShapeError
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.simulate import simulate_sky as simulate
from foreglow.recognition.simulation import skies
from foreglow.recognition.simulation.law import SkyLaw
from foreglow.recognition.simulation.skies import component_maps, simulate_sky, write_sky
from foreglow.recognition.simulation.vectors import NoiseLaw, VectorSimulator
from foreglow.sky.cmb import cmb_map

NU = np.array([11, 13, 40, 50, 60, 68, 78, 89, 100, 119, 140, 166, 195, 235, 280, 337, 402.0])
N_PIX = hp.nside2npix(16)
FOUR = PROBLEMS["four"]


def to_rj(nu):
    """uK_RJ per uK_CMB, by astropy."""
    band, one = nu * u.GHz, 1 * u.uK
    thermodynamic = u.thermodynamic_temperature(band, 2.7255 * u.K)
    return one.to(u.MJy / u.sr, thermodynamic).to_value(u.uK, u.brightness_temperature(band))


def planck(nu, temperature):
    return nu**3 / np.expm1(6.62607015e-34 * nu * 1e9 / 1.380649e-23 / temperature)


@pytest.fixture
def quiet_cmb(monkeypatch):
    monkeypatch.setattr(skies, "cmb_map", lambda nside, rng: np.zeros((2, 12 * nside**2)))


def everywhere(k):
    return np.full(N_PIX, k)


def test_slopes_of_a_sky_of_one_model(templates, instrument, quiet_cmb):
    bare = replace(templates, dust=np.zeros_like(templates.dust), ame=np.zeros_like(templates.ame))
    for k, curvature in enumerate((0.0, -0.052)):
        sky = simulate_sky(bare, instrument, FOUR, everywhere(k), 0.0, np.random.default_rng(1))
        ratio = sky.data.astype(float) / bare.synchrotron[:, None]
        x = np.log(NU / 23)
        for qu in ratio:
            c, beta, log_amplitude = np.polyfit(x, np.log(qu), 2)
            np.testing.assert_allclose(c, curvature, atol=1e-4)
            np.testing.assert_allclose(log_amplitude, 0, atol=1e-3)  # templates as they are
            assert beta.mean() == pytest.approx(-3, abs=5 * 0.2 / 55)
            assert beta.std() == pytest.approx(0.2, rel=0.05)


def test_dust_and_cmb_as_pysm_writes_them(templates, instrument):
    bare = replace(templates, synchrotron=np.zeros_like(templates.synchrotron))
    sky = simulate_sky(bare, instrument, FOUR, everywhere(0), 0.0, np.random.default_rng(3))
    # brightness temperature of a modified blackbody: nu^beta B(nu) / nu^2
    dust = (NU / 353) ** (1.54 - 2) * planck(NU, 20.0) / planck(353.0, 20.0)
    left = sky.data - dust[:, None] * templates.dust[:, None]
    cmb = left / to_rj(NU)[:, None]
    # one CMB map in uK_CMB at every frequency, with the rms of a fresh one
    np.testing.assert_allclose(cmb[:, 3:15], cmb[:, :1].repeat(12, 1), atol=2e-3)
    fresh = np.std([cmb_map(16, np.random.default_rng(s)) for s in range(10)])
    assert cmb[:, 5].std() == pytest.approx(fresh, rel=0.15)


def test_ame_is_two_percent_along_the_dust(templates, instrument):
    rng = [np.random.default_rng(4) for _ in range(2)]
    with_ame, without = (
        simulate_sky(templates, instrument, FOUR, everywhere(k), 0.0, r)
        for k, r in zip((2, 0), rng, strict=True)
    )
    ame = (with_ame.data - without.data)[:, 0].astype(float) / 1.1201  # 11 over 30 GHz, SpDust2
    angle = np.arctan2(templates.dust[1], templates.dust[0])
    expected = 0.02 * templates.ame * np.stack([np.cos(angle), np.sin(angle)])
    np.testing.assert_allclose(ame, expected, rtol=0.02, atol=1e-3)


def test_ame_beside_the_dust(templates, instrument):
    """As far as the law says, at random in each pixel."""
    laws = SkyLaw(ame_scatter=0.3), SkyLaw()
    scattered, along = (
        simulate_sky(templates, instrument, FOUR, everywhere(2), 0.0, np.random.default_rng(4), law)
        for law in laws
    )
    ame = (scattered.data - along.data)[:, 0].astype(float) / 1.1201  # 11 over 30 GHz, SpDust2
    beside = ame / (0.02 * templates.ame)
    np.testing.assert_allclose(beside.std(1), 0.3, rtol=0.06)
    assert abs(np.corrcoef(beside)[0, 1]) < 0.09


def test_each_pixel_has_the_model_of_its_label(templates, instrument):
    label = np.random.default_rng(2).integers(0, 4, N_PIX)
    mixed = simulate_sky(templates, instrument, FOUR, label, 0.0, np.random.default_rng(4))
    for k in range(4):
        one = simulate_sky(
            templates, instrument, FOUR, everywhere(k), 0.0, np.random.default_rng(4)
        )
        np.testing.assert_array_equal(mixed.data[:, :, label == k], one.data[:, :, label == k])
    np.testing.assert_array_equal(mixed.label, label)


def test_agrees_with_the_training_law(templates, instrument):
    """The same distribution in every band as vectors of the same model."""
    sky = simulate_sky(templates, instrument, FOUR, everywhere(3), 0.0, np.random.default_rng(5))
    generator = torch.Generator().manual_seed(5)
    law = VectorSimulator(templates, instrument, FOUR[3:])
    vectors = law.draw(100_000, NoiseLaw.fixed(0), generator).data
    levels = (0.25, 0.5, 0.75)
    one = np.quantile(np.hypot(*sky.data), levels, axis=1)
    other = np.quantile(np.hypot(*vectors.numpy().transpose(1, 2, 0)), levels, axis=1)
    # amplitudes shaken by 30% widen the law a little
    np.testing.assert_allclose(other, one, rtol=0.08)


def test_noise_is_white_and_as_asked(templates, instrument):
    rng = [np.random.default_rng(6) for _ in range(2)]
    label = everywhere(0)
    clean, noisy = (
        simulate_sky(templates, instrument, FOUR, label, s, r)
        for s, r in zip((0.0, 3.0), rng, strict=True)
    )
    white = (noisy.data - clean.data) / noisy.sigma[:, None]
    np.testing.assert_allclose(noisy.sigma, 3 * instrument.noise_rms(16))
    assert (clean.sigma == 0).all()
    np.testing.assert_allclose(white.std((0, 2)), 1, rtol=0.05)
    np.testing.assert_allclose(white.mean((0, 2)), 0, atol=5 / 78)
    assert abs(np.corrcoef(white.reshape(34, -1)) - np.eye(34)).max() < 0.09


def test_the_same_generator_gives_the_same_sky(templates, instrument):
    one, same, other = (
        simulate_sky(templates, instrument, FOUR, everywhere(0), 1.0, np.random.default_rng(s))
        for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.data, same.data)
    assert (one.data != other.data).all()


def test_components_add_up_to_a_sky(templates, instrument, monkeypatch):
    """With one beta of -3 everywhere, the sky is the sum of the parts of Figure 1."""
    monkeypatch.setattr(
        skies, "cmb_map", lambda nside, rng: cmb_map(nside, np.random.default_rng(8))
    )
    rng = np.random.default_rng(0)
    parts = component_maps(templates, instrument, rng)
    law = SkyLaw(beta_scatter=0.0)
    sky = simulate_sky(templates, instrument, FOUR, everywhere(3), 0.0, rng, law)
    names = ("CMB", "synchrotron curved", "thermal dust", "AME")
    together = sum(parts[name] for name in names).transpose(1, 0, 2)
    np.testing.assert_allclose(sky.data, together, rtol=1e-4, atol=1e-5)


def test_another_law(templates, instrument):
    """C, AME fraction and dust as the law says; what it does not name stays the paper's."""
    law = SkyLaw(0.0, dust_beta_scatter=0.1, curvature=-0.2, ame_fraction=0.04)
    assert law.candidates(FOUR).tolist() == [[0, 0], [-0.2, 0], [0, 0.04], [-0.2, 0.04]]
    beta, temperature = law.draw_dust(64, np.random.default_rng(0))
    assert beta.std() == pytest.approx(0.1, rel=0.02)
    assert set(temperature) == {20.0}
    smooth = SkyLaw(0.2, beta_smoothing_deg=20.0).draw_beta(16, np.random.default_rng(0))
    assert smooth.std() == pytest.approx(0.2)
    nested = hp.ring2nest(16, np.arange(N_PIX))
    order = np.argsort(nested)  # neighbours in NESTED order are near on the sky
    assert np.abs(np.diff(smooth[order])).mean() < 0.5 * smooth.std()  # white: 1.13
    given = [
        simulate_sky(
            templates, instrument, FOUR, everywhere(1), 0.0, np.random.default_rng(3), one
        ).data
        for one in (SkyLaw(0.0), SkyLaw(0.0, curvature=-0.2))
    ]
    band = instrument.index("40")
    ratio = np.exp((-0.2 + 0.052) * np.log(40 / 23) ** 2)
    change = given[1][:, band] - given[0][:, band]
    curved = templates.synchrotron * np.exp((-3 - 0.052 * np.log(40 / 23)) * np.log(40 / 23))
    np.testing.assert_allclose(change, (ratio - 1) * curved, atol=1e-4)


@pytest.mark.parametrize("shape", [(N_PIX - 1,), (2, N_PIX), (12,)])
def test_refuses_labels_of_another_shape(templates, instrument, shape):
    with pytest.raises(ShapeError, match=r"expected label of shape \(3072,\)"):
        simulate_sky(templates, instrument, FOUR, np.zeros(shape, int), 0, np.random.default_rng())


@pytest.mark.parametrize("scale", [-1.0, np.nan, np.inf])
def test_refuses_noise_that_is_no_scale(templates, instrument, scale):
    with pytest.raises(InstrumentError, match="expected noise_scale >= 0"):
        simulate_sky(templates, instrument, FOUR, everywhere(0), scale, np.random.default_rng())


# ---- files -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files") / "sky"
    paths = simulate(layout="quadrants", seed=3, out=folder)
    return folder, paths


def test_writes_a_file_a_band_that_healpy_reads(tmp_path, instrument, sky):
    paths = write_sky(sky, instrument, FOUR, tmp_path / "new")
    assert list(paths) == list(instrument.band)
    for k, path in enumerate(paths.values()):
        q, u_ = hp.read_map(path, field=None)
        np.testing.assert_array_equal(np.stack([q, u_]), sky.data[:, k])
        header = fits.getheader(path, 1)
        assert header["FREQ"] == NU[k]
        assert header["TUNIT1"] == header["TUNIT2"] == "uK_RJ"
        assert (header["COORDSYS"], header["POLCCONV"]) == ("G", "COSMO")
    np.testing.assert_array_equal(hp.read_map(tmp_path / "new" / "truth.fits"), sky.label)
    header = fits.getheader(tmp_path / "new" / "truth.fits", 1)
    assert tuple(header[f"CLASS{k}"] for k in range(4)) == FOUR


def test_files_hold_the_regions_asked_for(files):
    truth = hp.read_map(files[0] / "truth.fits")
    longitude = hp.pix2ang(16, np.arange(N_PIX), lonlat=True)[0]
    inside = (longitude % 90 > 1) & (longitude % 90 < 89)
    np.testing.assert_array_equal(truth[inside], (longitude // 90)[inside])


def test_the_same_seed_writes_the_same_files(files, tmp_path):
    paths = simulate(layout="quadrants", seed=3, out=tmp_path)
    for name, path in paths.items():
        assert path.read_bytes() == files[1][name].read_bytes()


def test_leaves_files_that_are_there(files, sky, instrument):
    before = {p: p.stat().st_mtime_ns for p in files[0].iterdir()}
    with pytest.raises(MapError, match="expected an empty folder or none"):
        write_sky(sky, instrument, FOUR, files[0])
    assert before == {p: p.stat().st_mtime_ns for p in files[0].iterdir()}


def test_refuses_a_file_for_a_folder(tmp_path, sky, instrument):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(MapError, match="expected an empty folder or none, got a file"):
        write_sky(sky, instrument, FOUR, tmp_path / "file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": "three"}, "expected models curvature, ame, four, or .* got 'three'"),
        ({"models": "powerlaw,curved"}, r"got 'powerlaw \(do you mean power_law\?\), curved'"),
        ({"layout": "stripes"}, "expected a layout"),
        ({"layout": "halves"}, "holds 2 classes, got 4"),
        ({"layout": "single:4"}, "expected a class from 0 to 3"),
        ({"nside": 0}, "expected a positive integer Nside"),
        ({"blob_deg": 0.0, "layout": "blobs"}, "expected a scale from one pixel"),
        ({"noise_scale": -1.0}, "expected noise_scale >= 0"),
        ({"instrument": "nobody"}, "expected a built-in instrument"),
        ({"sky": "nowhere"}, "sky.toml does not exist"),
    ],
)
def test_simulate_refuses(tmp_path, change, message):
    options = {
        "sky": "mock", "models": "four", "layout": "quadrants", "blob_deg": 30.0, "nside": 16,
        "noise_scale": 1.0, "instrument": "quijote+litebird", "seed": 0,
    }  # fmt: skip
    with pytest.raises(ForeglowError, match=message):
        simulate(out=tmp_path / "out", **options | change)
    assert not (tmp_path / "out").exists()


def test_maps_in_memory_are_those_of_the_files(files, instrument):
    made = simulate("quijote+litebird", layout="quadrants", seed=3)
    for band, path in files[1].items():
        np.testing.assert_array_equal(made.maps[band].value, hp.read_map(path, field=None))
        assert str(made.maps[band].unit) == "uK_RJ"
    np.testing.assert_array_equal(made.truth, hp.read_map(files[0] / "truth.fits"))
    assert (made.models, made.instrument) == (FOUR, instrument)
    found = SimpleNamespace(models=made.models, best=made.truth)
    assert made.accuracy(found) == 1.0
    # the models in another order, and a pixel that was not observed
    order = {name: k for k, name in enumerate(reversed(made.models))}
    best = np.array([order[made.models[k]] for k in made.truth])
    best[0] = -1
    found = SimpleNamespace(models=tuple(reversed(made.models)), best=best)
    assert made.accuracy(found) == 1.0
    assert made.accuracy(SimpleNamespace(models=("two_temperatures",), best=0 * best)) == 0.0
    two = simulate(instrument, models=FOUR[:2], layout="halves", noise_scale=0.0)
    assert two.models == FOUR[:2]
