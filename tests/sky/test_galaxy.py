"""The mock Galaxy against published numbers, its own symmetries and the real templates."""

from itertools import pairwise
from pathlib import Path

import healpy as hp
import numpy as np
import pytest

from foreglow.errors import SkyError
from foreglow.sky.galaxy import mock_galaxy
from foreglow.sky.layers import shell_maps
from foreglow.sky.shells import GAS_SHELLS

REAL = Path(__file__).resolve().parents[2].parent / "shared/data/pysm64"
NSIDE, SEEDS = 64, (0, 1, 2, 3, 4)
BANDS = ((0, 5), (5, 15), (15, 30), (30, 60), (60, 90))  # |b| in degrees

# Medians in uK_RJ of the PySM templates s1 and a2 at 30 GHz, d1 at 353 GHz, band by band
MEDIANS = {
    "synchrotron P": (23.2, 12.7, 8.2, 6.5, 5.8),
    "synchrotron I": (173, 72, 44, 32, 27),
    "dust P": (36.2, 11.9, 5.3, 2.4, 1.3),
    "dust I": (935, 238, 75, 30, 11),
    "ame I": (428, 113, 41, 18, 7.6),
}


@pytest.fixture(scope="module")
def galaxies():
    return [mock_galaxy(NSIDE, seed) for seed in SEEDS]


@pytest.fixture(scope="module")
def real():
    if not REAL.is_dir():
        pytest.skip(f"real templates are absent: {REAL}")
    names = ("thermal_dust_d1_353GHz_iqu.fits", "synchrotron_s1_30GHz_iqu.fits")
    return [hp.read_map(REAL / name, field=(0, 1, 2), dtype=np.float64) for name in names]


def latitude(nside):
    theta, _ = hp.pix2ang(nside, np.arange(hp.nside2npix(nside)))
    return np.abs(90 - np.degrees(theta))


def medians(values):
    b = latitude(hp.get_nside(values))
    return np.array([np.median(values[(b >= low) & (b < high)]) for low, high in BANDS])


def polarised(iqu):
    return np.hypot(iqu[1], iqu[2])


def measured(galaxy):
    return {
        "synchrotron P": medians(polarised(galaxy.synchrotron)),
        "synchrotron I": medians(galaxy.synchrotron[0]),
        "dust P": medians(polarised(galaxy.dust)),
        "dust I": medians(galaxy.dust[0]),
        "ame I": medians(galaxy.ame),
    }


def slopes_and_ratio(iqu):
    """Slopes of EE and BB over 10 <= ell <= 100 and the mean BB/EE, at |b| > 20 deg.

    Pseudo-spectra with a cosine edge from 20 to 30 deg: a sky of pure E shows BB/EE = 0.04.
    """
    edge = np.clip((latitude(hp.get_nside(iqu)) - 20) / 10, 0, 1)
    mask = 0.5 - 0.5 * np.cos(np.pi * edge)
    _, ee, bb, *_ = hp.anafast(np.asarray(iqu, dtype=float) * mask, lmax=128, iter=1)
    ell, edges = np.arange(129), np.geomspace(10, 100, 9)
    bins = [(ell >= low) & (ell < high) for low, high in pairwise(edges)]
    centre = np.log([ell[inside].mean() for inside in bins])
    e, b = (np.log([np.average(c[i], weights=2 * ell[i] + 1) for i in bins]) for c in (ee, bb))
    return np.polyfit(centre, e, 1)[0], np.polyfit(centre, b, 1)[0], np.exp(np.mean(b - e))


def angle_difference(one, other):
    """Difference of polarisation angles in degrees: 0 aligned, 45 on average if unrelated."""
    product = (one[1] + 1j * one[2]) * (other[1] - 1j * other[2])
    return np.degrees(np.abs(np.angle(product))) / 2


def test_maps_are_what_the_docstring_says(galaxies):
    galaxy, n_pix = galaxies[0], hp.nside2npix(NSIDE)
    assert (galaxy.nside, galaxy.seed) == (NSIDE, 0)
    assert galaxy.dust.shape == galaxy.synchrotron.shape == (3, n_pix)
    assert galaxy.ame.shape == (n_pix,)
    for values in (galaxy.dust, galaxy.synchrotron, galaxy.ame):
        assert values.dtype == np.float32
        assert np.isfinite(values).all()


def test_light_is_positive_and_never_more_polarised_than_its_physics_allows(galaxies):
    for galaxy in galaxies:
        assert galaxy.ame.min() > 0
        for iqu, limit in ((galaxy.dust, 0.25), (galaxy.synchrotron, 0.75)):
            assert iqu[0].min() > 0
            assert polarised(iqu).min() > 0
            assert (polarised(iqu) / iqu[0]).max() < limit


def test_same_seed_same_maps_and_another_seed_another_sky():
    one, again, other = mock_galaxy(16, 3), mock_galaxy(16, 3), mock_galaxy(16, 4)
    np.testing.assert_array_equal(one.dust, again.dust)
    np.testing.assert_array_equal(one.synchrotron, again.synchrotron)
    np.testing.assert_array_equal(one.ame, again.ame)
    assert np.corrcoef(one.dust[1], other.dust[1])[0, 1] < 0.9


def test_the_sky_of_a_seed_stays():
    """Models are trained on it: seed 5 at Nside 32, by healpy's transforms and whole maps."""
    galaxy, pixel = mock_galaxy(32, 5), [0, 6143, 12287]
    known = {
        "dust": [
            [14.56613, 2051.101, 11.79702],
            [1.956447, 120.0187, 0.09079223],
            [-1.273019, -107.5621, -1.119328],
        ],
        "synchrotron": [
            [30.752417, 121.82172, 20.61809],
            [-4.461358, 30.282236, 3.39219],
            [-9.441751, -8.983518, -5.775066],
        ],
        "ame": [10.619137, 727.18854, 8.280501],
    }
    for name, values in known.items():
        np.testing.assert_allclose(getattr(galaxy, name)[..., pixel], values, rtol=1e-4)


def test_global_random_state_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    mock_galaxy(16)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_a_coarse_galaxy_is_the_fine_one_degraded(galaxies):
    coarse, off_plane = mock_galaxy(16), latitude(16) > 20
    for name in ("dust", "synchrotron"):
        fine = hp.ud_grade(np.asarray(getattr(galaxies[0], name), dtype=float), 16)
        for a, b in zip(getattr(coarse, name), fine, strict=True):
            assert np.corrcoef(a[off_plane], b[off_plane])[0, 1] > 0.9
        assert getattr(coarse, name)[0].mean() == pytest.approx(fine[0].mean(), rel=0.1)


@pytest.mark.parametrize("nside", [0, 8, 48, 4096, 64.0])
def test_bad_nside_is_refused(nside):
    with pytest.raises(SkyError, match=r"expected a power of two from 16 to 2048 .* got"):
        mock_galaxy(nside)


def test_negative_seed_is_refused():
    with pytest.raises(SkyError, match=r"whole number of 0 or more as the seed .* got -1"):
        mock_galaxy(16, -1)


@pytest.mark.parametrize("name", MEDIANS)
def test_medians_by_latitude(galaxies, name):
    ratios = np.array([measured(galaxy)[name] for galaxy in galaxies]) / MEDIANS[name]
    assert np.abs(np.log(ratios)).max() < np.log(1.5)
    assert np.abs(np.log(ratios.mean(axis=0))).max() < np.log(1.3)


def test_dust_spectra(galaxies):
    ee, bb, ratio = np.mean([slopes_and_ratio(galaxy.dust) for galaxy in galaxies], axis=0)
    assert ee == pytest.approx(-2.42, abs=0.3)  # Planck 2018 XI
    assert bb == pytest.approx(-2.54, abs=0.3)
    assert 0.35 < ratio < 0.7


def test_synchrotron_spectra(galaxies):
    ee, _, ratio = np.mean([slopes_and_ratio(galaxy.synchrotron) for galaxy in galaxies], axis=0)
    assert ee == pytest.approx(-2.9, abs=0.3)
    assert 0.15 < ratio < 0.45


def test_polarisation_fraction_of_dust(galaxies):
    fraction = np.median(polarised(galaxies[0].dust) / galaxies[0].dust[0])
    assert 0.03 < fraction < 0.10


def test_dust_and_synchrotron_share_the_field_in_part(galaxies):
    difference = [np.median(angle_difference(g.dust, g.synchrotron)) for g in galaxies]
    assert all(5 < value < 30 for value in difference)


def test_cap_columns_and_molecules():
    layers = [shell_maps(shell, 32, 0).gas() for shell in GAS_SHELLS]
    column = medians(sum(layer.column for layer in layers))
    molecular = medians(sum(layer.molecular for layer in layers))
    assert column[-1] == pytest.approx(2.0, rel=0.4)  # 1e20 cm-2
    assert molecular[-1] == 0
    assert molecular[0] > 0.3 * column[0]
    assert all(((layer.cold_fraction > 0) & (layer.cold_fraction < 1)).all() for layer in layers)


def test_polarisation_is_across_the_mean_field(galaxies):
    # COSMO: Q > 0 along the meridian, so a field along the plane gives Q > 0 there
    in_plane = latitude(NSIDE) < 5
    for galaxy in galaxies:
        for iqu in (galaxy.dust, galaxy.synchrotron):
            assert np.median(iqu[1, in_plane]) > np.abs(np.median(iqu[2, in_plane]))


def test_no_seam_between_base_pixels(galaxies):
    """Steps across the twelve HEALPix base pixels are like steps inside them."""
    nest = np.arange(hp.nside2npix(NSIDE))
    neighbour = hp.get_all_neighbours(NSIDE, nest, nest=True)[::2]  # the four that share an edge
    across = neighbour // NSIDE**2 != nest // NSIDE**2
    ring = hp.nest2ring(NSIDE, nest)
    off_plane = latitude(NSIDE)[ring] > 20
    ln_dust = np.log(np.mean([g.dust[0] for g in galaxies], axis=0))[ring]
    step = np.abs(ln_dust[neighbour] - ln_dust)
    ratio = step[across & off_plane].mean() / step[~across & off_plane].mean()
    assert ratio == pytest.approx(1, abs=0.15)


def test_against_the_real_templates(galaxies, real):
    """The same estimators on the PySM maps: the mock lies near, in sign too."""
    real_dust, real_synchrotron = real
    pairs = {"dust": real_dust, "synchrotron": real_synchrotron}
    for name, template in pairs.items():
        mock = np.mean([slopes_and_ratio(getattr(g, name)) for g in galaxies], axis=0)
        want = np.array(slopes_and_ratio(template))
        print(f"{name}: slopes EE, BB and BB/EE: mock {mock.round(2)} real {want.round(2)}")
        assert np.abs(mock - want).max() < 0.5
    off_plane = latitude(NSIDE) > 20
    for name, template in pairs.items():
        # averaged over seeds only the mean field is left; its sense is that of the Galaxy
        mean = np.mean([getattr(g, name)[1:] / getattr(g, name)[0] for g in galaxies], axis=0)
        agreement = np.cos(2 * np.radians(angle_difference([0, *mean], template)))
        assert agreement[off_plane].mean() > 0.1
    want = np.median(angle_difference(real_dust, real_synchrotron))
    got = np.median([angle_difference(g.dust, g.synchrotron) for g in galaxies])
    assert got == pytest.approx(want, abs=12)
