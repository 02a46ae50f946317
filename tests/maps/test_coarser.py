"""Maps brought to a lower Nside, against healpy."""

import healpy as hp
import numpy as np
import pytest

from foreglow.errors import MapError
from foreglow.maps import coarser
from foreglow.maps.coarser import mean_map, open_mask_at, open_share
from foreglow.maps.io import open_plain_map
from healpix_tables import columns_of, write_raw

FINE = 16
N_PIX = hp.nside2npix(FINE)
VALUES = np.random.default_rng(0).lognormal(size=N_PIX)


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setattr(coarser, "_PIXELS", 1 << 9)  # several blocks

    def one(values, ordering="RING", form="D", name="m.fits"):
        from astropy.io import fits

        column = fits.Column(name="I", format=form, array=values)
        path = tmp_path / name
        write_raw(path, [column], NSIDE=FINE, ORDERING=ordering)
        return open_plain_map(path)

    return one


@pytest.mark.parametrize("ordering", ["RING", "NESTED"])
def test_means_are_those_of_healpy(write, ordering):
    values = VALUES.copy()
    values[100:104] = hp.UNSEEN
    stored = write(hp.reorder(values, r2n=True) if ordering == "NESTED" else values, ordering)
    expected = hp.ud_grade(values, 4)
    np.testing.assert_allclose(mean_map(stored, 4), expected, rtol=1e-6)
    own = np.where(values == hp.UNSEEN, np.nan, values)
    np.testing.assert_array_equal(mean_map(stored, FINE), own)


def test_a_mask_of_bytes_is_not_rounded_to_nothing(write):
    """healpy's ud_grade of unsigned bytes gives zeros."""
    lat = hp.pix2ang(FINE, np.arange(N_PIX), lonlat=True)[1]
    kept = np.abs(lat) > 20
    mask = write(kept.astype("u1"), form="B")
    share = hp.ud_grade(kept.astype(float), 4)
    np.testing.assert_allclose(open_share(mask, 4), share, atol=1e-6)
    np.testing.assert_array_equal(open_mask_at(mask, 4), share >= 0.5)
    assert open_mask_at(mask, 4).mean() == pytest.approx(kept.mean(), abs=0.1)


def test_holes_are_left_out_of_the_means_and_zeros_if_asked(write):
    child = np.arange(16)  # of pixel 0 of Nside 4, NESTED
    values = np.full(N_PIX, 5.0)
    values[child[:7]] = 1000.0  # sources
    values[child[7]] = 0.0
    holes = np.ones(N_PIX, "u1")
    holes[child[:7]] = 0
    stored = write(values, "NESTED")
    mask = write(holes, "NESTED", "B", "holes.fits")
    where = hp.nest2ring(4, 0)
    assert mean_map(stored, 4)[where] == pytest.approx((7000 + 40) / 16)
    assert mean_map(stored, 4, mask)[where] == pytest.approx(40 / 9)
    assert mean_map(stored, 4, mask, zero_is_unobserved=True)[where] == 5.0
    holes[child[:9]] = 0
    mask = write(holes, "NESTED", "B", "holes.fits")
    found = mean_map(stored, 4, mask)
    assert np.isnan(found[where])
    assert np.isfinite(np.delete(found, where)).all()


def test_a_map_of_larger_pixels_is_refused(tmp_path):
    path = write_raw(tmp_path / "m.fits", columns_of(I=1.0))
    with pytest.raises(MapError, match=r"expected a map of Nside 8 or a higher .* got Nside 4"):
        open_share(open_plain_map(path), 8)
