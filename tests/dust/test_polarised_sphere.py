"""A predicted map of polarised dust beside a map of the dust, from files, results and arrays."""

import healpy as hp
import numpy as np
import pytest
from astropy.io import fits

from foreglow.dust import polarised_sphere
from foreglow.dust.polarised_sphere import compare_polarisation
from foreglow.dust.results import PolarisedDustMap
from foreglow.dust.uncertainty import Calibration
from foreglow.errors import MapError, ShapeError
from foreglow.maps.conventions import MapWarning
from foreglow.maps.write import write_maps
from foreglow.sky.gas import mock_gas

NSIDE = 32
N_PIX = 12 * NSIDE**2
EDGES = (20, 40)


@pytest.fixture(scope="module")
def dust():
    gas = mock_gas(NSIDE, 1)
    return np.stack([gas.dust.total, *gas.polarisation]).astype(np.float32)


@pytest.fixture(scope="module")
def predicted(dust):
    """The dust with something else, nothing around the pole."""
    rng = np.random.default_rng(0)
    i, q, u = dust + dust.std(1, keepdims=True) * rng.normal(size=dust.shape).astype(np.float32)
    q[:40] = u[:40] = i[:40] = np.nan
    same = Calibration()
    return PolarisedDustMap(
        i, abs(i) + 1, np.ones_like(i), "uK_RJ", same, "none", 1, "hash", "cube",
        q=q, u=u, q_std=abs(i) + 1, u_std=abs(i) + 1, qu_calibration=same, qu_sigma="none",
    )  # fmt: skip


@pytest.fixture(scope="module")
def mask():
    return (np.abs(hp.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)[1]) > 15).astype(float)


def test_results_files_and_arrays_are_compared_alike(dust, predicted, mask, tmp_path):
    words = {"dust_unit": "uK_RJ", "frame": "G", "convention": "COSMO", "ell_edges": EDGES}
    expected = compare_polarisation(predicted, dust, mask, **words)
    assert 0.1 < expected.values["r_e"][0] < 0.99
    predicted.to_fits(tmp_path / "predicted.fits")
    columns = dict(zip("IQU", [dust[0], dust[1], -dust[2]], strict=True))
    write_maps(tmp_path / "dust.fits", {k: (v, "uK_RJ") for k, v in columns.items()}, frame="G")
    fits.setval(tmp_path / "dust.fits", "POLCCONV", value="IAU", ext=1)
    nested = hp.nest2ring(NSIDE, np.arange(N_PIX))
    three = np.stack([predicted.mean, predicted.q, predicted.u])
    for found in (
        compare_polarisation(
            tmp_path / "predicted.fits", tmp_path / "dust.fits", mask, ell_edges=EDGES
        ),
        compare_polarisation(three[:, nested], dust[:, nested], mask[nested], nest=True, **words),
    ):
        for key, values in expected.values.items():
            np.testing.assert_allclose(found.values[key], values, rtol=1e-5, atol=1e-9)


def test_what_training_reached_does_not_count(dust, predicted, mask):
    words = {"dust_unit": "uK_RJ", "frame": "G", "convention": "COSMO", "ell_edges": EDGES}
    found = compare_polarisation(predicted, dust, mask, trained="north", **words)
    other = dust.copy()
    other[:, : N_PIX // 2] += 1e3 * np.random.default_rng(0).normal(size=(3, N_PIX // 2))
    again = compare_polarisation(predicted, other, mask, trained="north", **words)
    assert 0.2 < found.sky_fraction < 0.45
    for key, values in found.values.items():
        np.testing.assert_array_equal(again.values[key], values)


def test_a_wrong_sign_of_u_is_questioned(dust, monkeypatch):
    monkeypatch.setattr(polarised_sphere, "score_sphere", lambda *_: {("predicted", "dust"): None})
    words = {"dust_unit": "uK_RJ", "frame": "G", "convention": "COSMO"}
    with pytest.warns(MapWarning, match="U seems to have the wrong sign"):
        compare_polarisation(dust, dust * [[1], [1], [-1]], **words)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"predicted": np.ones(N_PIX)}, MapError, r"predicted=: expected I, Q and U of shape \(3"),
        ({"trained": "up"}, MapError, "expected trained= as one of north, south, east, west"),
        ({"mask": np.ones(48)}, ShapeError, "Nside 32 as the cube, got Nside 2"),
        ({"dust": np.ones((3, 48))}, ShapeError, "Nside 32 as the cube of the prediction, got"),
        ({"dust_unit": None}, MapError, "dust_unit="),
    ],
)
def test_what_cannot_be_compared(dust, predicted, mask, change, error, message):
    given = {"predicted": predicted, "dust": dust, "mask": mask, "dust_unit": "uK_RJ"} | change
    with pytest.raises(error, match=message):
        compare_polarisation(frame="G", convention="COSMO", **given)
