"""What stands in for healpy, beside healpy."""

import healpy
import numpy as np
import pytest

from foreglow.maps import healpix


@pytest.mark.parametrize("nside", [1, 2, 3, 16, 100, 2048, 1 << 29])
def test_sizes_are_healpys(nside):
    assert healpix.nside2npix(nside) == healpy.nside2npix(nside)
    assert healpix.npix2nside(12 * nside**2) == nside
    for name, option in (("nside2resol", "arcmin"), ("nside2pixarea", "degrees")):
        for asked in (False, True):
            ours, theirs = (getattr(hp, name)(nside, **{option: asked}) for hp in (healpix, healpy))
            assert ours == pytest.approx(theirs, rel=1e-14)


@pytest.mark.parametrize("nside", [0, -1, 1, 3, 16, 48, 1 << 29, 1 << 30])
@pytest.mark.parametrize("nest", [False, True])
def test_which_nside_there_is(nside, nest):
    assert healpix.isnsideok(nside, nest=nest) == healpy.isnsideok(nside, nest=nest)


@pytest.mark.parametrize("npix", [1, 11, 12, 13, 48, 108, 3072, 12 * 4096**2, 12 * 4096**2 + 1])
def test_which_number_of_pixels_there_is(npix):
    assert healpix.isnpixok(npix) == healpy.isnpixok(npix)


@pytest.mark.parametrize(
    ("name", "value"), [("npix2nside", 13), ("nside2npix", 0), ("nside2resol", -2)]
)
def test_what_there_is_not_is_an_error(name, value):
    with pytest.raises(ValueError, match=f"got {value}"):
        getattr(healpix, name)(value)


@pytest.mark.parametrize("name", ["ring2nest", "nest2ring"])
@pytest.mark.parametrize("nside", [1, 8, 1024])
def test_orders_are_healpys(name, nside):
    pixels = np.random.default_rng(nside).integers(12 * nside**2, size=(3, 40))
    found = getattr(healpix, name)(nside, pixels)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, getattr(healpy, name)(nside, pixels))
    assert getattr(healpix, name)(nside, 7) == getattr(healpy, name)(nside, 7)


def test_only_powers_of_two_have_two_orders():
    with pytest.raises(ValueError, match="power of two, got 12"):
        healpix.ring2nest(12, np.arange(3))


def test_all_else_is_healpys():
    assert healpix.UNSEEN == healpy.UNSEEN
    assert healpix.map2alm is healpy.map2alm
    with pytest.raises(AttributeError):
        _ = healpix.no_such_function
