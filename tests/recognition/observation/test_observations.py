"""A user's maps, opened together: bands left out read NaN, what does not fit together is named."""

import healpy as hp
import numpy as np
import pytest
from astropy.io import fits
from pysm3 import units as pysm_units

from foreglow.errors import InstrumentError, MapError
from foreglow.maps.arrays import GivenArray
from foreglow.maps.conventions import MapWarning
from foreglow.maps.write import write_maps, write_polarisation_map
from foreglow.recognition.observation.observations import open_observation, validate_output
from foreglow.recognition.observation.streaming import MapFiles

N_PIX = hp.nside2npix(16)


@pytest.fixture(scope="module")
def files(tmp_path_factory, sky):
    """Maps of three bands."""
    folder = tmp_path_factory.mktemp("maps")
    paths = {}
    for k, band in ((0, "11"), (3, "50"), (9, "119")):
        paths[band] = folder / f"{band}.fits"
        write_polarisation_map(paths[band], sky.data[:, k].astype(np.float64), "uK_RJ")
    return paths


def test_bands_left_out_are_not_observed(instrument, files, sky):
    found = open_observation(instrument, files, noise_scale=0.1)
    assert (found.nside, found.frame) == (16, "G")
    assert [one is not None for one in found.maps] == [k in (0, 3, 9) for k in range(17)]
    pixels = np.array([5, 3, 3000])
    data, sigma = found.read(pixels)
    assert data.shape == (3, 2, 17)
    for k in range(17):
        if k in (0, 3, 9):
            np.testing.assert_allclose(data[:, :, k], sky.data[:, k, pixels].T, rtol=1e-6)
        else:
            assert np.isnan(data[:, :, k]).all()
    np.testing.assert_allclose(sigma, np.tile(sky.sigma, (3, 1)), rtol=1e-6)


def test_noise_of_a_map_of_its_own(instrument, files, tmp_path):
    rms = np.linspace(0.1, 1, N_PIX)
    rms[7] = np.nan
    write_maps(tmp_path / "rms.fits", {"RMS": (rms, "uK_RJ")}, frame="G")
    found = open_observation(instrument, files, {"50": tmp_path / "rms.fits", "11": "2 uK_RJ"})
    _, sigma = found.read(np.array([6, 7, 8]))
    np.testing.assert_allclose(sigma[:, 3], rms[[6, 7, 8]], rtol=1e-6)
    assert (sigma[:, 0] == 2).all()


def test_noise_of_every_kind_is_the_same_noise(instrument, files, tmp_path):
    """Rms, variances, weights and hits of 2 mK_CMB, of one file, here and on a worker."""
    values = {"SIGMA": 2.0, "QQ": 4.0, "UU": 4.0, "WEI_Q": 0.25, "WEI_U": 0.25, "HITS": 9.0}
    columns = {name: (np.full(N_PIX, value), "") for name, value in values.items()}
    path = tmp_path / "noise.fits"
    write_maps(path, columns, frame="G")
    for said in (
        "[SIGMA] as rms in mK_CMB",
        "[QQ,UU] as variance in mK_CMB^2",
        "[WEI_Q,WEI_U] as inverse variance in mK_CMB^-2",
        "[HITS] as hits of 6 mK_CMB",
    ):
        given = {"50": f"{path}{said}"}
        for found in (
            open_observation(instrument, files, given),
            MapFiles.of(instrument, files, given).open(),
        ):
            _, sigma = found.read(np.array([0, 7]))
            rms = 2e3 * instrument.to_uk_rj_factor("uK_CMB", 3)
            np.testing.assert_allclose(sigma[:, 3], rms, rtol=1e-6)


def write_covariance(path, covariance, unit="uK_RJ^2", frame="G", convention="COSMO"):
    """QQ, QU, UU (3, n_pix) in a file."""
    columns = {name: (row, unit) for name, row in zip(("QQ", "QU", "UU"), covariance, strict=True)}
    write_maps(path, columns, frame=frame)
    fits.setval(path, "POLCCONV", value=convention, ext=1)
    return f"{path}[QQ,QU,UU] as covariance"


def random_covariance(seed=0):
    """Unequal and correlated, (3, n_pix) [uK_RJ^2]."""
    rng = np.random.default_rng(seed)
    q, u = rng.uniform(0.5, 2, (2, N_PIX))
    return np.stack([q**2, rng.uniform(-0.9, 0.9, N_PIX) * q * u, u**2])


def test_all_that_is_known_of_noise(instrument, files, tmp_path):
    """Covariances of files and arrays are the same bits; the rms is the mean square's root."""
    covariance = random_covariance()
    covariance[:, 7] = np.nan
    given = {"50": write_covariance(tmp_path / "n.fits", covariance), "11": "2 uK_RJ"}
    pixels = np.array([6, 7, 8])
    data, sigma, noise = open_observation(instrument, files, given).read_all_noise(pixels)
    assert noise.shape == (3, 3, 17)
    np.testing.assert_allclose(noise[:, :, 3], covariance[:, pixels].T, rtol=1e-12)
    assert (noise[:, :, 0] == [4, 0, 4]).all()
    np.testing.assert_allclose(noise[:, 0, 9], sigma[:, 9].astype(float) ** 2)
    np.testing.assert_allclose(
        sigma[:, 3], np.sqrt(covariance[[0, 2]][:, pixels].mean(0)), rtol=1e-6
    )
    again = open_observation(instrument, files, given).read(pixels)
    np.testing.assert_array_equal(again[0], data)
    np.testing.assert_array_equal(again[1], sigma)
    array = GivenArray("noise of 50", covariance * pysm_units.uK_RJ**2, False, "G", "COSMO")
    found = open_observation(instrument, files, given | {"50": array}).read_all_noise(pixels)
    np.testing.assert_array_equal(found[2], noise)
    elsewhere = MapFiles.of(instrument, files, given).open().read_all_noise(pixels)
    np.testing.assert_array_equal(elsewhere[2], noise)


@pytest.mark.parametrize("covariance", [(4.0, 0.0, 4.0), (4.0, np.nan, np.nan)])
def test_noise_that_is_alike_is_an_rms(instrument, files, tmp_path, covariance):
    values = np.tile(np.array([4.0, 0.0, 4.0])[:, None], N_PIX)
    values[:, 3] = covariance
    given = {"50": write_covariance(tmp_path / "n.fits", values)}
    _, sigma, noise = open_observation(instrument, files, given).read_all_noise(np.arange(9))
    assert noise is sigma
    values[1, 5] = 1e-6
    given = {"50": write_covariance(tmp_path / "m.fits", values)}
    assert open_observation(instrument, files, given).read_all_noise(np.arange(9))[2].ndim == 3


def test_noise_turns_with_q_and_u(instrument, sky, tmp_path):
    """Maps in celestial coordinates and IAU: chi-square of Q,U is that of the file's own axes."""
    covariance = random_covariance()
    qu = sky.data[:, 3].astype(np.float64)
    write_polarisation_map(tmp_path / "50.fits", qu, "uK_RJ", frame="C")
    iau = write_covariance(tmp_path / "n.fits", covariance, frame="C", convention="IAU")
    found = open_observation(instrument, {"50": tmp_path / "50.fits"}, {"50": iau})
    data, _, noise = found.read_all_noise(np.arange(N_PIX))

    def chi2(qu, covariance):
        qq, cross, uu = covariance
        return (uu * qu[0] ** 2 - 2 * cross * qu[0] * qu[1] + qq * qu[1] ** 2) / (
            qq * uu - cross**2
        )

    wanted = chi2(qu, covariance * np.array([[1], [-1], [1]]))  # the map is COSMO, N was IAU
    np.testing.assert_allclose(chi2(data[:, :, 3].T, noise[:, :, 3].T), wanted, rtol=1e-4)


def test_what_is_said_of_files_holds_in_another_folder(instrument, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in files.values():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    write_maps("n.fits", {"WEI_Q": (np.ones(N_PIX), ""), "WEI_U": (np.ones(N_PIX), "")}, frame="G")
    noise = {"50": "n.fits[WEI_Q,WEI_U] as inverse variance in uK_RJ^-2", "11": "2 uK_RJ"}
    maps = {band: f"{path.name} in uK_RJ" for band, path in files.items()}
    source = MapFiles.of(instrument, maps, noise)
    monkeypatch.chdir(tmp_path.parent)
    _, sigma = source.open().read(np.array([3]))
    assert sigma[0, [0, 3]].tolist() == [2, 1]
    assert source.state == MapFiles.of(instrument, dict(source.maps), dict(source.noise)).state
    assert len(source.state) == 4


def test_pixels_of_zeros_are_not_observed_with_a_word(instrument, files, sky, tmp_path):
    qu = sky.data[:, 3].astype(np.float64)
    qu[:, :600] = 0
    qu[0, 700] = 0  # of Q alone, which may be
    write_polarisation_map(tmp_path / "50.fits", qu, "uK_RJ")
    with pytest.warns(MapWarning, match=r"both exactly 0 in up to 0.2 of the pixels of 50; these"):
        found = open_observation(instrument, files | {"50": tmp_path / "50.fits"})
    data, _ = found.read(np.array([0, 599, 600, 700]))
    assert np.isnan(data[:, 0, 3]).tolist() == [True, True, False, False]
    assert np.isfinite(data[:, :, 0]).all()


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        ({"402": "1 uK_CMB"}, "noise came for 402, but no map; give both, or leave the noise out"),
        ({"50": "1 uK_CMB", "50.0": "1 uK_CMB"}, "band 50 has two noises; give one"),
        ({"51": "1 uK_CMB"}, "has bands 11, 13, .* got band '51'"),
    ],
)
def test_noise_that_belongs_to_no_map(instrument, files, noise, message):
    with pytest.raises(InstrumentError, match=message):
        open_observation(instrument, files, noise)


def test_noise_map_of_another_sky(instrument, files, tmp_path):
    write_maps(tmp_path / "rms.fits", {"RMS": (np.ones(768), "uK_RJ")}, frame="G")
    with pytest.raises(MapError, match=r"map of 50: Nside 16.*noise of 50: Nside 8"):
        open_observation(instrument, files, {"50": tmp_path / "rms.fits"})


def test_no_maps(instrument):
    with pytest.raises(InstrumentError, match="expected a map for one band at least, got none"):
        open_observation(instrument, {})


def test_a_band_twice(instrument, files):
    with pytest.raises(InstrumentError, match="band 11 has two maps; give one"):
        open_observation(instrument, files | {"11 GHz": files["11"]})


@pytest.mark.parametrize("scale", [-0.1, np.nan, np.inf])
def test_bad_noise_scale(instrument, files, scale):
    with pytest.raises(InstrumentError, match=f"expected noise_scale >= 0, got {scale}"):
        open_observation(instrument, files, noise_scale=scale)


def test_output_is_refused_before_the_work(tmp_path):
    (tmp_path / "there.fits").touch()
    for path, overwrite, error in (
        (tmp_path / "there.fits", False, "exists; give another out=, or overwrite=True"),
        (tmp_path / "no" / "where.fits", False, "its folder does not exist"),
        (tmp_path / "no" / "where.fits", True, "its folder does not exist"),
    ):
        with pytest.raises(MapError, match=error):
            validate_output(path, overwrite)
    for path, overwrite in ((tmp_path / "there.fits", True), (tmp_path / "new.fits", False)):
        validate_output(path, overwrite)
