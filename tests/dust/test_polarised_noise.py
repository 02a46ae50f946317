"""The noise of a user's map of Q and U: in columns beside them, or given."""

import warnings

import astropy.units as u
import healpy as hp
import numpy as np
import pytest
from astropy.io import fits

from foreglow.dust.given_dust import read_given
from foreglow.dust.load import load_sky
from foreglow.dust.polarised_target import read_polarised
from foreglow.errors import MapError
from foreglow.hi_cube.arrays import as_cube
from foreglow.maps.conventions import MapWarning
from foreglow.maps.harmonic import HarmonicFilter, low_pass

NSIDE = 8
N_PIX = hp.nside2npix(NSIDE)
VELOCITY = np.arange(4) * u.km / u.s
RNG = np.random.default_rng(0)
IQU = np.stack([50 + np.arange(N_PIX) / 10, *RNG.normal(size=(2, N_PIX))])
STATED = {"frame": "G", "convention": "COSMO"}
RMS = np.linspace(1, 2, N_PIX)
# as Planck's maps of 2018 and of NPIPE have them: (column, unit, values)
SIGNAL = [(f"{s}_STOKES", "K_CMB", m) for s, m in zip("IQU", IQU, strict=True)]
COVARIANCE = [
    ("II_COV", "K_CMB^2", RMS**2),
    ("IQ_COV", "K_CMB^2", 0 * RMS),
    ("IU_COV", "K_CMB^2", 0 * RMS),
    ("QQ_COV", "K_CMB^2", 1.2 * RMS**2),
    ("QU_COV", "K_CMB^2", 0.1 * RMS**2),
    ("UU_COV", "K_CMB^2", 0.8 * RMS**2),
]
HITS = [("HITS", "", RMS**-2)]


@pytest.fixture(scope="module")
def cube():
    values = 1 + np.arange(N_PIX) / 100 + np.zeros((4, 1))
    return as_cube(values.astype("f4"), VELOCITY, "K", frame="G")


@pytest.fixture
def write(tmp_path):
    """Writes columns and cards."""

    def written(columns, name="dust.fits", **cards):
        made = [fits.Column(n, "D", unit or None, array=m) for n, unit, m in columns]
        table = fits.BinTableHDU.from_columns(made)
        usual = {"ORDERING": "RING", "NSIDE": NSIDE, "COORDSYS": "G", "POLCCONV": "COSMO"}
        table.header.update(usual | cards)
        table.writeto(tmp_path / name)
        return tmp_path / name

    return written


def read(dust, cube, noise=None, unit=None, nest=False):
    return read_polarised(dust, unit, cube, nest, noise=noise, **STATED)


@pytest.mark.parametrize("columns", [SIGNAL + HITS + COVARIANCE, SIGNAL + COVARIANCE])
def test_planck_says_it_in_columns_beside(write, cube, columns):
    found = read(write(columns), cube)
    np.testing.assert_allclose(found.variance, RMS**2)
    order = hp.nest2ring(NSIDE, np.arange(N_PIX))
    nested = [(name, unit, values[order]) for name, unit, values in columns]
    again = read(write(nested, "nested.fits", ORDERING="NESTED"), cube)
    np.testing.assert_allclose(again.variance, RMS**2)


def test_a_map_without_noise_and_one_of_hits_alone(write, cube):
    assert read(write(SIGNAL), cube).variance is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(IQU, cube, unit="K_CMB").variance is None
    path = write(SIGNAL + HITS, "hits.fits")
    with pytest.warns(MapWarning, match="the noise beside Q and U is not used: .*; or say it with"):
        assert read(path, cube).variance is None


@pytest.mark.parametrize(
    ("noise", "factor"),
    [
        ("{}[HITS] as hits of 2 K_CMB", 4.0),
        ("{}[QQ_COV,QU_COV,UU_COV]", 1.0),
        ("{}[QQ_COV,UU_COV]", 1.0),
        ("{}[II_COV] as variance in K_CMB^2", 1.0),
    ],
)
@pytest.mark.filterwarnings("ignore:.*by its name noise of intensity", "ignore:.*is left out")
def test_noise_in_a_file_with_words(write, cube, noise, factor):
    path = write(HITS + COVARIANCE, "noise.fits")
    found = read(write(SIGNAL), cube, noise.format(path))
    np.testing.assert_allclose(found.variance, factor * RMS**2)


@pytest.mark.parametrize(
    "noise",
    [
        (RMS, "rms in K_CMB"),
        u.Quantity(RMS, u.def_unit("K_CMB", u.K)),
        (np.stack([1.2 * RMS**2, 0.8 * RMS**2]), "variance in K_CMB^2"),
        (RMS**-2, "hits of 1 K_CMB"),
    ],
)
def test_noise_in_an_array(cube, noise):
    np.testing.assert_allclose(read(IQU, cube, noise, "K_CMB").variance, RMS**2)
    order = hp.nest2ring(NSIDE, np.arange(N_PIX))
    if isinstance(noise, tuple):
        nested = (noise[0][..., order], noise[1])
        again = read(IQU[:, order], cube, nested, "K_CMB", nest=True)
        np.testing.assert_allclose(again.variance, RMS**2)


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (
            3.0,
            "noise=: expected a FITS file, an array or .*, got 3.0; give the noise of ea",
        ),
        ("nowhere.fits", "noise=: expected an existing FITS file, perhaps with what it holds"),
        (RMS, "noise: expected .*"),
        (
            (RMS, "rms in uK_RJ"),
            "expected noise of Nside 8 in K_CMB, as the map, got Nside 8, u",
        ),
        (
            (RMS[:192], "rms in K_CMB"),
            "as the map, got Nside 4, K_CMB; give the noise of ",
        ),
        ((RMS - 1.5, "rms in K_CMB"), "expected a noise rms above zero in every observed pixel"),
        (
            (RMS * np.nan, "rms in K_CMB"),
            "expected noise that is known in some pixel of the m",
        ),
    ],
)
def test_noise_that_cannot_be_used(cube, noise, message):
    with pytest.raises(MapError, match=message):
        read(IQU, cube, noise, "K_CMB")


def test_noise_is_of_q_and_u_alone(cube):
    words = {"unit": "K_CMB", "frame": "G", "convention": None, "noise": (RMS, "rms in K_CMB")}
    with pytest.raises(MapError, match=r"expected noise= of Q and U, got a target of intensity"):
        read_given(IQU[0], cube, False, "intensity", **words)


@pytest.mark.filterwarnings("ignore:.*expected polarised dust")
def test_a_sky_holds_the_noise_that_the_filter_leaves(write, cube):
    """And where noise is not known nothing counts."""
    rms = np.where(np.arange(N_PIX) < 40, hp.UNSEEN, RMS)
    path = write([("RMS", "K_CMB", rms)], "noise.fits")
    words = {"target": "polarisation", "noise": str(path)}
    sky = load_sky(cube, write(SIGNAL), np.ones(N_PIX), 0, 3, **words).cube
    ring = sky.variance.numpy()[hp.ring2nest(NSIDE, np.arange(N_PIX))]
    counts = sky.target[hp.ring2nest(NSIDE, np.arange(N_PIX)), 1].numpy() > 0
    assert not counts[:40].any()
    assert counts.mean() > 0.8
    left = HarmonicFilter(NSIDE, low_pass(NSIDE)).noise_left
    np.testing.assert_allclose(ring[counts], left * RMS[counts] ** 2, rtol=1e-5)


def test_white_noise_that_a_filter_leaves():
    nside, rng = 32, np.random.default_rng(3)
    chosen = HarmonicFilter(nside, low_pass(nside))
    noise = chosen.polarised(rng.normal(size=(2, hp.nside2npix(nside))))
    assert noise.var() == pytest.approx(chosen.noise_left, rel=0.03)
    assert HarmonicFilter(nside, np.zeros(0)).noise_left == 1
