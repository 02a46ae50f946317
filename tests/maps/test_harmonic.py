"""Filters in ell: agreement with healpy, and what happens where the sky ends."""

import healpy as hp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreglow.errors import MapError, ShapeError
from foreglow.maps import harmonic
from foreglow.maps.harmonic import HarmonicFilter, butterworth, low_pass_l_max

NSIDE = 64


def sky(l_max=2 * NSIDE, seed=0):
    """A steep field, as gas and dust are."""
    rng = np.random.default_rng(seed)
    ell, m = hp.Alm.getlm(l_max)
    alm = rng.normal(size=ell.size) + 1j * rng.normal(size=ell.size) * (m > 0)
    return 5 + hp.alm2map(alm * (1 + ell) ** -1.4, NSIDE)


def low_pass(**options):
    window = butterworth(low_pass_l_max(NSIDE, 30.0), 30.0)
    return HarmonicFilter(NSIDE, window, threads=1, **options)


@pytest.mark.parametrize("iterations", [0, 1, 3])
@pytest.mark.parametrize("kind", ["low", "high"])
def test_filter_is_healpys(iterations, kind):
    window = butterworth(2 * NSIDE, 30.0, 3, kind)
    found = HarmonicFilter(NSIDE, window, iterations, threads=1).full_sky(sky())
    alm = hp.map2alm(sky(), lmax=2 * NSIDE, iter=iterations)
    expected = hp.alm2map(hp.almxfl(alm, window), NSIDE)
    np.testing.assert_allclose(found, expected, atol=1e-11)


def test_quadrature_error_is_as_stated():
    """1% of the pole's value near the pole, little elsewhere; one iteration: a sixteenth."""
    exact = low_pass(iterations=5).full_sky(sky())
    errors = [np.abs(low_pass(iterations=n).full_sky(sky()) - exact) for n in (0, 1)]
    assert errors[0].max() < 0.012 * exact[[0, -1]].max()
    assert errors[1].max() < errors[0].max() / 10
    latitude = np.abs(hp.pix2ang(NSIDE, np.arange(exact.size), lonlat=True)[1])
    assert errors[0][latitude < 80].max() < 5e-4 * exact.mean()


def test_float32_is_float64_within_its_digits():
    found = low_pass().full_sky(sky().astype(np.float32))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, low_pass().full_sky(sky()), rtol=3e-6, atol=3e-6)
    assert low_pass().full_sky(sky().astype(np.float16)).dtype == np.float32


def test_a_single_harmonic_is_scaled_by_the_window():
    alm = np.zeros(hp.Alm.getsize(128), complex)
    alm[hp.Alm.getidx(128, 40, 17)] = 1 + 2j
    values = hp.alm2map(alm, NSIDE)
    found = low_pass(iterations=3).full_sky(values)
    expected = values / np.sqrt(1 + (40 / 30) ** 8)
    np.testing.assert_allclose(found, expected, atol=1e-7)


@given(st.floats(1, 2000), st.integers(1, 12), st.integers(10, 3000))
def test_low_and_high_share_the_power(cut, order, l_max):
    low, high = (butterworth(l_max, cut, order, kind) for kind in ("low", "high"))
    np.testing.assert_allclose(low**2 + high**2, 1, rtol=1e-12)
    assert low[0] == 1
    assert high[0] == 0
    assert (np.diff(low) <= 0).all()


def test_papers_filter():
    window = butterworth(1500)
    assert window[460] == pytest.approx(np.sqrt(0.5))
    assert window[200] == pytest.approx(0.9994, abs=1e-4)
    assert window[920] == pytest.approx(0.0624, abs=1e-4)
    assert low_pass_l_max(1024) == 1455
    assert butterworth(1455)[-1] <= 0.01
    assert low_pass_l_max(256) == 512


def test_channels_are_streamed():
    """One map is asked for at a time."""
    asked = []

    def maps():
        for seed in range(3):
            asked.append(seed)
            yield sky(seed=seed)

    stream = low_pass().stream(maps())
    for seed in range(3):
        found = next(stream)
        assert asked == list(range(seed + 1))
        np.testing.assert_array_equal(found, low_pass().full_sky(sky(seed=seed)))


class TestPartialSky:
    mask = np.abs(hp.pix2ang(NSIDE, np.arange(hp.nside2npix(NSIDE)), lonlat=True)[1]) > 25

    def test_a_flat_sky_stays_flat_up_to_its_edge(self):
        found = low_pass().partial_sky(np.where(self.mask, 3.0, np.nan), self.mask)
        np.testing.assert_allclose(found[np.isfinite(found)], 3, rtol=1e-9)
        assert np.isnan(found[~self.mask]).all()
        assert np.isfinite(found[self.mask]).mean() > 0.98

    def test_zero_fill_alone_would_not(self):
        found = low_pass().full_sky(np.where(self.mask, 3.0, 0.0))
        assert found[self.mask].min() < 0.6 * 3

    def test_far_from_the_edge_it_is_the_full_sky(self):
        latitude = np.abs(hp.pix2ang(NSIDE, np.arange(self.mask.size), lonlat=True)[1])
        full = low_pass(iterations=3).full_sky(sky())
        found = low_pass(iterations=3).partial_sky(sky(), self.mask)
        difference = np.abs(found - full) / full.std()
        assert difference[latitude > 60].max() < 0.01
        assert np.nanmax(difference) < 1.5

    def test_what_is_masked_has_no_say(self):
        dirty = np.where(self.mask, sky(), np.random.default_rng(0).normal(size=self.mask.size))
        found = low_pass().partial_sky(dirty, self.mask)
        np.testing.assert_array_equal(found, low_pass().partial_sky(sky(), self.mask))

    def test_each_mask_has_its_own_cover(self):
        one = low_pass()
        south = ~self.mask
        one.partial_sky(sky(), self.mask)
        np.testing.assert_array_equal(
            one.partial_sky(sky(), south), low_pass().partial_sky(sky(), south)
        )

    def test_stream_takes_a_mask(self):
        found = next(low_pass().stream([sky()], self.mask))
        np.testing.assert_array_equal(found, low_pass().partial_sky(sky(), self.mask))

    def test_a_high_pass_is_refused(self):
        high = HarmonicFilter(NSIDE, butterworth(128, 30.0, kind="high"))
        with pytest.raises(MapError, match=r"expected a low-pass .* subtract the low-passed map"):
            high.partial_sky(sky(), self.mask)


def test_bad_maps_are_refused():
    with pytest.raises(
        ShapeError, match=r"full-sky map of Nside 64, shape \(49152,\), got \(12,\)"
    ):
        low_pass().full_sky(np.zeros(12))
    values = sky()
    values[:3] = np.nan, np.inf, -np.inf
    with pytest.raises(MapError, match=r"got 3 of 49152 that are not; pass a mask"):
        low_pass().full_sky(values)


@pytest.mark.parametrize("bad", [{"cut": 0.0}, {"cut": np.nan}, {"order": 0}])
def test_bad_filters_are_refused(bad):
    with pytest.raises(MapError, match="expected a cut and an order above 0"):
        butterworth(10, **bad)
    with pytest.raises(MapError, match="expected a filter 'low' or 'high', got 'band'"):
        butterworth(10, kind="band")


def test_a_low_pass_beyond_the_map_ends_smoothly():
    """At the map's own limit there is no step to ring; where the map reaches, it is Butterworth."""
    window = harmonic.low_pass(128)
    np.testing.assert_array_equal(window[:193], butterworth(256)[:193])
    assert window[-1] == pytest.approx(0, abs=1e-12)
    assert np.abs(np.diff(window)).max() < 0.03
    np.testing.assert_array_equal(harmonic.low_pass(1024), butterworth(low_pass_l_max(1024)))


def test_a_bright_plane_does_not_ring():
    nside = 64
    z = hp.pix2vec(nside, np.arange(hp.nside2npix(nside)))[2]
    plane = np.where(np.abs(z) < 0.02, 1.0, 0.0)
    smooth, cut_off = (
        HarmonicFilter(nside, window).full_sky(plane)[np.abs(z) > 0.7]
        for window in (harmonic.low_pass(nside), butterworth(2 * nside))
    )
    assert np.abs(smooth).max() < 0.1 * np.abs(cut_off).max()


def test_polarisation_is_filtered_by_its_e_and_b():
    """As healpy does, on the whole sky; on a part a pure tensor field stays as it is inside."""
    nside, l_max = 32, 64
    rng = np.random.default_rng(0)
    size = hp.Alm.getsize(40)
    alm = [(rng.normal(size=size) + 1j * rng.normal(size=size)) for _ in range(2)]
    for one in alm:
        one[hp.Alm.getlm(40)[0] < 2] = 0
    qu = np.stack(hp.alm2map_spin(alm, nside, 2, 40))
    window = 1 / (1 + (np.arange(l_max + 1) / 20.0) ** 2)
    found = HarmonicFilter(nside, window).polarised(qu)
    expected = hp.alm2map_spin([hp.almxfl(one, window[:41]) for one in alm], nside, 2, 40)
    assert np.abs(found - expected).std() < 5e-3 * np.std(expected)  # the quadrature
    part = hp.pix2ang(nside, np.arange(12 * nside**2), lonlat=True)[1] > 0
    inside = hp.pix2ang(nside, np.arange(12 * nside**2), lonlat=True)[1] > 40
    some = HarmonicFilter(nside, window).polarised(np.where(part, qu, np.nan), part)
    assert np.isnan(some[:, ~part]).all()
    assert np.abs(some - expected)[:, inside].std() < 0.1 * np.std(expected)
    np.testing.assert_array_equal(HarmonicFilter(nside, np.zeros(0)).full_sky(qu[0]), qu[0])
