"""The CMB: spectra against the reference, the cache, and maps that follow the spectra."""

import healpy as hp
import numpy as np
import pytest

from foreglow.sky import cmb


@pytest.fixture
def no_camb(monkeypatch):
    """Make a call to CAMB fail."""
    cmb.cmb_spectra(2)  # fills the cache of the session
    monkeypatch.setattr(cmb, "_run_camb", lambda: pytest.fail("CAMB ran"))


def test_spectra_agree_with_the_planck_best_fit(real_data):
    table = np.loadtxt(real_data / "pysm64" / "planck2018_lensed_cl_uK2.txt", unpack=True)
    ell = slice(30, 1001)
    tt, ee, bb, te = cmb.cmb_spectra(1000)[:, ell]
    expected_tt, expected_ee, expected_bb, expected_te = table[1:, ell]
    np.testing.assert_allclose(ee, expected_ee, rtol=0.03)
    np.testing.assert_allclose(tt, expected_tt, rtol=0.03)
    np.testing.assert_allclose(bb, expected_bb, rtol=0.05)
    scale = np.sqrt(expected_tt * expected_ee)  # TE crosses zero
    np.testing.assert_allclose(te / scale, expected_te / scale, atol=0.02)


def test_tensors_have_their_two_bumps():
    bb, ell = cmb.tensor_bb(600), np.arange(601)
    power = ell * (ell + 1) * bb / (2 * np.pi)
    assert 75 < power[20:].argmax() + 20 < 100
    assert power.max() == pytest.approx(0.066, rel=0.05)  # of r = 1 [uK^2]
    assert power[3] > 3 * power[10]
    assert not bb[:2].any()
    with pytest.raises(ValueError, match="expected 2 <= l_max <= 600, got 601"):
        cmb.tensor_bb(601)


def test_spectra_have_the_shape_of_the_cmb():
    tt, ee, bb, te = cmb.cmb_spectra(1500)
    ell = np.arange(1501)
    power = ell * (ell + 1) / (2 * np.pi)
    assert tt.shape == (1501,)
    assert 200 < (power * tt)[100:400].argmax() + 100 < 240  # the first acoustic peak
    assert (power * tt)[220] == pytest.approx(5750, rel=0.03)
    assert (power * ee)[1001 - 200 : 1200].max() == pytest.approx(42, rel=0.1)
    assert np.mean(bb[10:100]) == pytest.approx(2e-6, rel=0.2)  # lensing, 5 uK arcmin
    assert (te**2 <= tt * ee)[2:].all()
    for spectrum in (tt, ee, bb, te):
        np.testing.assert_array_equal(spectrum[:2], 0)


def test_camb_runs_once(no_camb):
    assert cmb.cmb_spectra(100).shape == (4, 101)
    assert cmb.cmb_spectra(3072).shape == (4, 3073)


def fake_run(monkeypatch):
    spectra = np.arange(4.0 * 3073).reshape(4, 3073)
    calls = []
    monkeypatch.setattr(cmb, "_run_camb", lambda: calls.append(1) or spectra)
    return spectra, calls


def test_the_cache_is_made_with_its_folder_and_read_back(tmp_path, monkeypatch):
    monkeypatch.setenv("FOREGLOW_CACHE", str(tmp_path / "new" / "folder"))
    spectra, calls = fake_run(monkeypatch)
    for _ in range(3):
        np.testing.assert_array_equal(cmb.cmb_spectra(50), spectra[:, :51])
    assert len(calls) == 1
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 1  # no temporary left


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\x93NUMPY\x01\x00"])
def test_a_damaged_cache_is_made_again(tmp_path, monkeypatch, content):
    monkeypatch.setenv("FOREGLOW_CACHE", str(tmp_path))
    spectra, calls = fake_run(monkeypatch)
    cmb.cmb_spectra(2)
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    np.testing.assert_array_equal(cmb.cmb_spectra(50), spectra[:, :51])
    np.testing.assert_array_equal(cmb.cmb_spectra(50), spectra[:, :51])
    assert len(calls) == 2


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FOREGLOW_CACHE", str(tmp_path / "file"))
    spectra, _ = fake_run(monkeypatch)
    np.testing.assert_array_equal(cmb.cmb_spectra(50), spectra[:, :51])


@pytest.mark.parametrize("l_max", [1, 3073])
def test_l_max_out_of_range(l_max):
    with pytest.raises(ValueError, match=f"expected 2 <= l_max <= 3072, got {l_max}"):
        cmb.cmb_spectra(l_max)


def test_maps_follow_their_generator(no_camb):
    maps = [cmb.cmb_map(16, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert maps[0].shape == (2, hp.nside2npix(16))
    np.testing.assert_array_equal(maps[0], maps[1])
    assert not np.allclose(maps[0], maps[2])
    rng = np.random.default_rng(1)
    np.random.seed(0)  # noqa: NPY002 (the global generator must not matter)
    np.testing.assert_array_equal(cmb.cmb_map(16, rng), maps[0])
    assert not np.allclose(cmb.cmb_map(16, rng), maps[0])


@pytest.mark.parametrize("nside", [16, 64])
def test_variance_of_maps(no_camb, nside):
    rng = np.random.default_rng(3)
    squares = np.mean([(cmb.cmb_map(nside, rng) ** 2).mean(axis=1) for _ in range(60)], axis=0)
    np.testing.assert_allclose(np.sqrt(squares), cmb.cmb_polarisation_rms(nside), rtol=0.02)


def test_spectra_of_a_map_are_those_it_was_drawn_from(no_camb):
    nside, l_max = 128, 200
    q, u = cmb.cmb_map(nside, np.random.default_rng(4))
    e, b = hp.map2alm_spin([q, u], 2, lmax=l_max)
    _, ee, bb, _ = cmb.cmb_spectra(l_max)
    ell = np.arange(20, l_max + 1)
    for alm, cl in ((e, ee), (b, bb)):
        ratio = hp.alm2cl(alm)[ell] / cl[ell]
        # 2 ell + 1 modes a multipole; without ring weights the transform leaks E into B a little
        mean = np.average(ratio, weights=2 * ell + 1)
        assert mean == pytest.approx(1, abs=0.03)
        chi2 = np.sum((2 * ell + 1) / 2 * (ratio - 1) ** 2) / len(ell)
        assert chi2 == pytest.approx(1, abs=0.35)
    cross = hp.alm2cl(e, b)[ell] / np.sqrt(ee * bb)[ell]
    assert abs(np.average(cross, weights=2 * ell + 1)) < 0.03
