"""What an instrument does beside white noise."""

import healpy as hp
import numpy as np
import pytest
import torch

from foreglow.errors import ForeglowError, InstrumentError
from foreglow.plans import read_plan
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network.train import TrainingPlan
from foreglow.recognition.simulate import simulate_sky as door
from foreglow.recognition.simulation.law import SkyLaw
from foreglow.recognition.simulation.skies import simulate_sky
from foreglow.recognition.simulation.systematics import Systematics, systematics_of
from foreglow.recognition.simulation.vectors import NoiseLaw, VectorSimulator
from foreglow.sky import seds

FOUR = PROBLEMS["four"]


@pytest.fixture(scope="module")
def make(templates, instrument):
    label = np.arange(hp.nside2npix(templates.nside)) % 4

    def sky(noise_scale=0.0, **sizes):
        law = SkyLaw(systematics=Systematics(**sizes))
        rng = np.random.default_rng(3)
        return simulate_sky(templates, instrument, FOUR, label, noise_scale, rng, law)

    return sky


def test_gains_are_a_factor_a_band(make):
    plain, wrong = make(), make(gain=0.1)
    ratio = wrong.data / plain.data
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:1, :, :1], ratio.shape), rtol=1e-4)
    gains = ratio[0, :, 0] - 1
    assert 0.05 < gains.std() < 0.2
    np.testing.assert_array_equal(make(gain=0.1).data, wrong.data)  # the same seed
    np.testing.assert_allclose(make(gain=0.2).data / plain.data - 1, 2 * (ratio - 1), rtol=1e-3)


def test_angles_turn_each_band(make):
    plain, wrong = make(), make(angle_deg=1.0)
    before, after = (s.data[0] + 1j * s.data[1] for s in (plain, wrong))
    turn = np.angle(after / before)
    np.testing.assert_allclose(turn, np.broadcast_to(turn[:, :1], turn.shape), atol=1e-5)
    assert 0.4 < np.degrees(turn[:, 0] / 2).std() < 2.0
    np.testing.assert_allclose(np.abs(after), np.abs(before), rtol=1e-5)


def test_band_centres_leave_the_cmb_alone(make, templates, instrument):
    """Dust is brighter where a high band lies higher; what is calibrated on the CMB stays."""
    plain, wrong = make(), make(band_centre=0.02)
    stretch = Systematics(band_centre=0.02).draw(17, np.random.default_rng(0)).stretch
    assert 0.01 < (stretch - 1).std() < 0.03
    bright = np.hypot(*templates.dust) > np.quantile(np.hypot(*templates.dust), 0.9)
    cmb = seds.cmb(torch_of(instrument.frequency_ghz)).numpy()
    dust_only = [s.data - cmb[:, None] * s.cmb[:, None] for s in (plain, wrong)]
    change = np.hypot(*dust_only[1][:, -1, bright]) / np.hypot(*dust_only[0][:, -1, bright])
    assert change.std() < 1e-3 < abs(change.mean() - 1) < 0.2
    quiet = [hp.query_disc(16, hp.pix2vec(16, 0), 0.3)]
    left = np.abs(wrong.data[:, 7] - plain.data[:, 7])[:, quiet].max()
    assert left < 0.2 * np.abs(plain.data[:, 7])[:, quiet].max()


def torch_of(values):
    return torch.tensor(values, dtype=torch.float64)


def test_noise_rises_at_low_multipoles(templates, instrument):
    """The white part keeps its rms, and below the knee there is more."""
    label = np.zeros(hp.nside2npix(templates.nside), int)
    law = SkyLaw(systematics=Systematics(knee_ell=20.0))

    def noise(which):
        skies = [
            simulate_sky(templates, instrument, FOUR, label, scale, np.random.default_rng(7), which)
            for scale in (1.0, 0.0)
        ]
        left = skies[0].data[:, 3] - skies[1].data[:, 3]
        return skies[0].sigma[3], hp.anafast([0 * left[0], *left], lmax=40, iter=3)[1]

    sigma, red = noise(law)
    white = sigma**2 * 4 * np.pi / hp.nside2npix(templates.nside)
    ell = np.arange(41)
    low, high = slice(3, 8), slice(32, 41)
    expected = 1 + (20.0 / ell[low]) ** 2.4
    assert (red[low] / white / expected).mean() == pytest.approx(1, abs=0.35)
    assert (red[high] / white).mean() == pytest.approx(1.25, abs=0.3)
    _, plain = noise(SkyLaw())
    assert (plain[low] / white).mean() == pytest.approx(1, abs=0.4)


def test_beams_blur_what_is_small(make, templates, instrument):
    """By the ratio of two Gaussian beams, band by band."""
    plain, wrong = make(), make(beam=0.1)
    factor = Systematics(beam=0.1).draw(17, np.random.default_rng(0)).beam
    assert 0.05 < (factor - 1).std() < 0.2
    for band in (0, 5):
        before, after = (hp.map2alm_spin(s.data[:, band], 2, 40)[0] for s in (plain, wrong))
        ell = np.arange(4, 31)
        ratio = hp.alm2cl(before, after)[4:31] / hp.alm2cl(before)[4:31]
        sigma2 = np.radians(instrument.fwhm_arcmin[band] / 60) ** 2 / (8 * np.log(2))
        # from the ratio at one multipole those at all others
        power = np.log(ratio[-1]) / (30 * 31)
        np.testing.assert_allclose(np.log(ratio), power * ell * (ell + 1), atol=4e-3)
        assert abs(power) < 0.5 * sigma2 * 0.8
    np.testing.assert_array_equal(make(beam=0.1).data, wrong.data)


def test_noise_is_least_at_the_ecliptic_poles(make):
    quiet, even, uneven = make(), make(1.0), make(1.0, uneven_noise=0.3)
    noises = ((sky.data - quiet.data) / sky.sigma[:, None] for sky in (uneven, even))
    high, plain = (np.sqrt(np.mean(noise.astype(float) ** 2, axis=(0, 1))) for noise in noises)
    factor = high / plain
    assert np.log(factor).std() == pytest.approx(0.3, abs=0.01)
    assert np.mean(factor**2) == pytest.approx(1, abs=0.01)
    pole = hp.ang2pix(16, 96.38, 29.81, lonlat=True)  # the north ecliptic pole
    assert factor[pole] < 1.02 * factor.min()
    np.testing.assert_array_equal(uneven.sigma, even.sigma)  # nobody knows


def test_none_changes_nothing(make):
    np.testing.assert_array_equal(make(1.0).data, make(1.0, gain=0.0, knee_ell=0.0).data)


def test_from_the_door_and_the_command_line(run, tmp_path):
    plain = door(models="curvature", noise_scale=0.0)
    wrong = door(models="curvature", noise_scale=0.0, systematics={"gain": 0.05})
    assert not np.allclose(wrong.maps["40"].value, plain.maps["40"].value, rtol=1e-4)
    code, _, err = run(
        "recognize", "simulate", "--models", "curvature", "--noise-scale", 0, "--systematics",
        "gain=0.05", "--out", tmp_path / "maps",
    )  # fmt: skip
    assert code == 0, err
    stored = hp.read_map(tmp_path / "maps" / "band_40.fits", field=(0, 1))
    np.testing.assert_allclose(stored, wrong.maps["40"].value, rtol=1e-5)
    for words, said in (
        ("gain", "expected --systematics as NAME=SIZE, such as gain=0.01, got 'gain'"),
        ("gain=much", "got 'gain=much'"),
        (
            "gains=0.1",
            "expected systematic errors among gain, band_centre, angle_deg, beam, knee_ell",
        ),
        ("gain=-1", "expected the systematic error gain from 0 to 0.5, got -1"),
    ):
        code, _, err = run("recognize", "simulate", "--systematics", words, "--out", tmp_path / "x")
        assert code == 2
        assert said in err


def test_mistakes():
    with pytest.raises(InstrumentError, match=r"systematic error gain from 0 to 0.5, got nan"):
        Systematics(gain=float("nan"))
    with pytest.raises(InstrumentError, match="knee_ell from 0 to 1000, got '30'"):
        systematics_of({"knee_ell": "30"})
    assert systematics_of(None) == Systematics() == systematics_of({})
    with pytest.raises(InstrumentError, match=r"uneven_noise from 0 to 1, got 3"):
        Systematics(uneven_noise=3)


# ---- in training -----------------------------------------------------------------------------


def draw(templates, instrument, noise=0.0, n=3000, **sizes):
    simulator = VectorSimulator(templates, instrument, FOUR, 16, Systematics(**sizes))
    return simulator.draw(n, NoiseLaw.fixed(noise), torch.Generator().manual_seed(4))


def test_vectors_have_the_errors_of_skies(templates, instrument, make):
    """Relative changes of the brightest pixels, band by band: the same rms as of many skies."""
    plain = draw(templates, instrument)
    bright = plain.data[:, :, -1].norm(dim=1) > 20
    for sizes in ({"gain": 0.01}, {"band_centre": 0.005}, {"angle_deg": 0.5}):
        wrong = draw(templates, instrument, **sizes)
        assert torch.equal(wrong.label, plain.label)
        change = (wrong.data - plain.data).norm(dim=1) / plain.data.norm(dim=1)
        vectors = change[bright].square().mean(0).sqrt().numpy()[[0, -1]]
        changes = []
        for seed in range(40):
            errors = Systematics(**sizes).draw(17, np.random.default_rng(seed))
            changes.append(relative_change(instrument, errors))
        skies = np.sqrt(np.mean(np.square(changes), axis=0))[[0, -1]]
        np.testing.assert_allclose(vectors, skies, rtol=0.3)


def relative_change(instrument, errors):
    """Of synchrotron in the lowest band and dust in the highest, as skies are made."""
    changes = []
    for k, sed in ((0, lambda nu: seds.synchrotron(nu, -3.0)), (-1, seds.modified_blackbody)):
        nu = torch_of(instrument.frequency_ghz[k])
        there = errors.stretch[k] * nu
        ratio = sed(there) / sed(nu) * seds.cmb(nu) / seds.cmb(there)
        changes.append(abs(float(ratio) * errors.gain[k] * errors.turn[k] - 1))
    return np.array(changes)


def test_noise_is_louder_than_said_where_it_is_red(templates, instrument):
    quiet = draw(templates, instrument).data
    for knee in (0.0, 30.0):
        loud = draw(templates, instrument, noise=1.0, knee_ell=knee)
        ratio = ((loud.data - quiet) / loud.sigma[:, None]).square().mean()
        assert float(ratio) == pytest.approx(1 + Systematics(knee_ell=knee).red_share(16), rel=0.02)
    assert Systematics(knee_ell=30.0).red_share(16) > 1


def test_a_plan_of_training_names_them(tmp_path):
    (tmp_path / "plan.toml").write_text("epochs = 1\n[systematics]\ngain = 0.002\n")
    plan = read_plan(tmp_path / "plan.toml", TrainingPlan())
    assert plan.systematics == Systematics(gain=0.002)
    with pytest.raises(ForeglowError, match="expected systematic errors among gain"):
        read_plan({"systematics": {"gains": 0.002}}, TrainingPlan())
    with pytest.raises(ForeglowError, match="systematic error gain from 0 to"):
        read_plan({"systematics": {"gain": -0.002}}, TrainingPlan())


def test_uneven_noise_of_vectors_is_that_of_a_sky(templates, instrument, make):
    quiet, even, uneven = (
        draw(templates, instrument, scale, uneven_noise=size)
        for scale, size in ((0.0, 0.0), (1.0, 0.0), (1.0, 0.3))
    )
    assert torch.equal(even.sigma, uneven.sigma)
    vectors = uneven.data - draw(templates, instrument, 0.0).data
    sky = make(1.0, uneven_noise=0.3).data - make(0.0).data
    ours, theirs = (
        np.log(np.mean(np.square(noise / scale), axis=axes)) / 2
        for noise, scale, axes in (
            (vectors.numpy(), even.sigma.numpy()[:, None], (1, 2)),
            (sky, make(1.0).sigma[:, None], (0, 1)),
        )
    )
    assert ours.std() == pytest.approx(theirs.std(), rel=0.1)
    assert np.quantile(ours, 0.02) == pytest.approx(np.quantile(theirs, 0.02), abs=0.08)
    assert torch.equal(quiet.data, draw(templates, instrument, 0.0).data)


def test_no_vector_has_the_error_of_a_beam(templates, instrument):
    with pytest.raises(InstrumentError, match=r"one of maps, .* got beam = 0.02; leave it out"):
        draw(templates, instrument, beam=0.02)


def test_sizes_without_names():
    with pytest.raises(InstrumentError, match=r"by name, such as \{'gain': 0.01\}, got 0.1"):
        systematics_of(0.1)
