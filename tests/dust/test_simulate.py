import healpy as hp
import numpy as np
import pytest

from foreglow.dust.inputs import mock_sky
from foreglow.dust.load import load_sky
from foreglow.dust.simulate import make_sky_files
from foreglow.errors import MapError, SkyError
from foreglow.hi_cube.cube import open_cube
from foreglow.maps.conventions import MapWarning

NSIDE, LOW, HIGH = 16, -10.0, 5.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_sky_files(tmp_path_factory.mktemp("sky") / "mock", NSIDE, LOW, HIGH, seed=3)


def test_files_hold_the_mock_sky(folder):
    """What is read back from files is the sky that is made in memory."""
    cube = open_cube(folder / "cube.zarr")
    assert cube.nside == NSIDE
    there = load_sky(folder / "cube.zarr", folder / "dust.fits", folder / "mask.fits", LOW, HIGH)
    here = mock_sky(NSIDE, cube.velocity_kms, seed=3)
    np.testing.assert_allclose(there.cube.inputs, here.cube.inputs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(there.cube.target, here.cube.target, rtol=1e-5, atol=1e-4)
    assert there.target_unit == here.target_unit == "uK_RJ"


def test_files_hold_the_polarised_sky(folder):
    files = [folder / name for name in ("cube.zarr", "dust.fits", "mask.fits")]
    there = load_sky(*files, LOW, HIGH, target="polarisation")
    here = mock_sky(NSIDE, open_cube(files[0]).velocity_kms, seed=3, target="polarisation")
    assert there.target == here.target == "polarisation"
    assert there.cube.target.shape == here.cube.target.shape == (12 * NSIDE**2, 8)
    np.testing.assert_allclose(there.cube.inputs, here.cube.inputs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(there.cube.target, here.cube.target, rtol=1e-4, atol=1e-3)
    assert there.filter_cut == here.filter_cut == np.inf


def test_q_and_u_alone_are_no_target_of_polarisation(folder):
    q_and_u = np.stack(hp.read_map(folder / "dust.fits", field=(1, 2)))
    told = {"dust_unit": "uK_RJ", "target": "polarisation"}
    with (
        pytest.warns(MapWarning),
        pytest.raises(MapError, match="got Q and U alone; give a map of"),
    ):
        load_sky(folder / "cube.zarr", q_and_u, folder / "mask.fits", LOW, HIGH, **told)


def test_nothing_is_written_over(folder):
    with pytest.raises(SkyError, match="not empty"):
        make_sky_files(folder, NSIDE, LOW, HIGH, seed=3)


def test_nothing_is_left_where_nothing_can_be_made(tmp_path):
    with pytest.raises(SkyError, match="velocity channels"):
        make_sky_files(tmp_path / "sky", NSIDE, HIGH, LOW, seed=3)
    with pytest.raises(SkyError, match="Nside"):
        make_sky_files(tmp_path / "sky", 3, LOW, HIGH, seed=3)
    assert not (tmp_path / "sky").exists()
