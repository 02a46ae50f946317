import numpy as np
import pytest

from foreglow.dust.inputs import mock_sky
from foreglow.dust.load import load_sky
from foreglow.dust.simulate import make_sky_files
from foreglow.errors import SkyError
from foreglow.hi_cube.cube import open_cube

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


def test_nothing_is_written_over(folder):
    with pytest.raises(SkyError, match="not empty"):
        make_sky_files(folder, NSIDE, LOW, HIGH, seed=3)


def test_nothing_is_left_where_nothing_can_be_made(tmp_path):
    with pytest.raises(SkyError, match="velocity channels"):
        make_sky_files(tmp_path / "sky", NSIDE, HIGH, LOW, seed=3)
    with pytest.raises(SkyError, match="Nside"):
        make_sky_files(tmp_path / "sky", 3, LOW, HIGH, seed=3)
    assert not (tmp_path / "sky").exists()
