"""Skies for the dust networks: the mock, and a user's cube, dust map and mask."""

import healpy as hp
import numpy as np
import pytest

from foreglow.dust.inputs import faint_sky, mock_sky, paper_filter
from foreglow.dust.load import SkySource, load_sky
from foreglow.errors import MapError, SkyError
from foreglow.hi_cube.cube import write_cube
from foreglow.maps.conventions import MapWarning
from foreglow.maps.hemispheres import NORTH
from foreglow.maps.write import write_maps
from foreglow.sky.gas import mock_gas

NSIDE = 16
N_PIX = hp.nside2npix(NSIDE)
VELOCITY = np.arange(-90.0, 31.0, 10.0)
NEST = hp.nest2ring(NSIDE, np.arange(N_PIX))
POLE = hp.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)[1]


@pytest.fixture(scope="module")
def gas():
    return mock_gas(NSIDE)


@pytest.fixture
def files(gas, tmp_path):
    """Writes a cube, a dust map and a mask; changes go to `load_sky` by name."""

    def write(channels=None, dust=gas.dust.total, mask=None, nside=NSIDE, frame="G"):
        channels = list(gas.hydrogen.cube(VELOCITY)) if channels is None else channels
        write_cube(tmp_path / "hi.zarr", VELOCITY, channels, NSIDE, 16.2, "made up")
        dust = hp.ud_grade(dust, nside).astype(np.float32)
        write_maps(tmp_path / "dust.fits", {"DUST": (dust, "uK_RJ")}, frame=frame)
        mask = np.ones(N_PIX, np.float32) if mask is None else mask
        write_maps(tmp_path / "mask.fits", {"GAL070": (mask, "")}, frame="G")
        return [tmp_path / name for name in ("hi.zarr", "dust.fits", "mask.fits")]

    return write


# ---- the mock ---------------------------------------------------------------------------------


def test_the_mock_sky_is_the_mock_gas(gas):
    sky = mock_sky(NSIDE)
    assert sky.cube.inputs.shape == (N_PIX, 64)
    assert (sky.nside, sky.source, sky.target_unit) == (NSIDE, "mock", "uK_RJ")
    np.testing.assert_allclose(sky.velocity_kms[[0, -1]], [-64.5, 16.644])
    keep = sky.cube.target[:, 1].numpy() > 0
    low_pass = paper_filter(NSIDE)
    dust = low_pass.full_sky(gas.dust.total)[NEST]
    np.testing.assert_array_equal(sky.cube.target[:, 0].numpy(), np.where(keep, dust, 0))
    channel = next(low_pass.stream(gas.hydrogen.cube(sky.velocity_kms, noise=True)))[NEST]
    np.testing.assert_array_equal(sky.cube.inputs[:, 0].numpy(), np.where(keep, channel, 0))


def test_other_channels_and_another_galaxy():
    sky = mock_sky(NSIDE, VELOCITY, seed=1)
    assert sky.cube.inputs.shape == (N_PIX, VELOCITY.size)
    assert not np.array_equal(sky.cube.target, mock_sky(NSIDE, VELOCITY).cube.target)


def test_the_mask_leaves_the_faintest_72_percent(gas):
    mask = faint_sky(gas.dust.total)
    assert mask.mean() == pytest.approx(0.72, abs=1e-3)
    assert np.median(gas.dust.total[mask]) < 0.3 * np.median(gas.dust.total[~mask])
    assert (~mask[np.abs(POLE) < 2]).mean() > 0.9
    assert mask[np.abs(POLE) > 70].all()


def test_cutouts_of_the_sky():
    sampler = mock_sky(NSIDE, VELOCITY).sampler(NORTH)
    assert sampler.grid.n == 64
    cut = sampler.at(sampler.fixed_pointings(3))
    assert cut.inputs.shape == (3, VELOCITY.size, 64, 64)


# ---- files ------------------------------------------------------------------------------------


def test_a_cube_of_the_whole_sky(gas, files):
    mask = (np.abs(POLE) > 20).astype(np.float32)
    sky = load_sky(*files(mask=mask), low_kms=-60, high_kms=10)
    np.testing.assert_array_equal(sky.velocity_kms, np.arange(-60.0, 11.0, 10.0))
    keep = mask[NEST] > 0
    np.testing.assert_array_equal(sky.cube.target[:, 1].numpy(), keep)
    channel = paper_filter(NSIDE).full_sky(gas.hydrogen.channel(-60.0, 10.0))[NEST]
    np.testing.assert_allclose(sky.cube.inputs[:, 0].numpy(), np.where(keep, channel, 0), atol=1e-5)
    dust = paper_filter(NSIDE).full_sky(gas.dust.total)[NEST]
    np.testing.assert_allclose(sky.cube.target[:, 0].numpy(), np.where(keep, dust, 0), rtol=1e-5)
    assert sky.target_unit == "uK_RJ"
    assert "hi.zarr" in sky.source
    assert "mask.fits" in sky.source


def test_a_part_of_the_sky_stays_a_part(gas, files):
    """What is not observed, in the cube or in the dust map, does not count."""
    gone = (POLE < -20) & (POLE > -50)
    no_dust = POLE > 60
    channels = list(gas.hydrogen.cube(VELOCITY))
    channels[5] = np.where(gone, np.nan, channels[5])
    channels[0] = np.full(N_PIX, np.nan)  # beyond the range: nobody's business
    dust = np.where(no_dust, hp.UNSEEN, gas.dust.total)
    sky = load_sky(*files(channels, dust), low_kms=-60, high_kms=10)
    counts = sky.cube.target[:, 1].numpy() > 0
    assert not counts[(gone | no_dust)[NEST]].any()
    assert counts.mean() > 0.5
    assert np.isfinite(sky.cube.inputs.numpy()).all()
    observed = ~(gone | no_dust)
    channel = paper_filter(NSIDE).partial_sky(gas.hydrogen.channel(-60.0, 10.0), observed)[NEST]
    np.testing.assert_array_equal(counts, np.isfinite(channel))
    filtered = sky.cube.inputs[:, 0].numpy()
    np.testing.assert_allclose(filtered[counts], channel[counts], rtol=1e-4, atol=1e-4)


def test_without_a_mask_all_counts(files, caplog):
    cube, dust, _ = files()
    message = "no mask: all of the sky that cube and dust map hold counts, .* pass mask="
    with pytest.warns(MapWarning, match=message), caplog.at_level("INFO", "foreglow"):
        assert load_sky(cube, dust, None, -60, 10).cube.target[:, 1].all()
    assert "hi.zarr: 8 of 13 channels, from -60 to 10 km/s" in caplog.text


@pytest.mark.parametrize(
    ("stated", "given", "unit", "scale"),
    [("mag", None, "mag", 1e-2), ("", "1", "1", 1e-6), ("W/m2/sr", None, "W/m2/sr", 1e-8)],
)
def test_a_target_in_its_own_unit(gas, files, tmp_path, caplog, stated, given, unit, scale):
    """E(B-V), an optical depth and a radiance: the same sky but for the scale."""
    cube, _, mask = files()
    dust = (scale * gas.dust.total).astype(np.float32)
    write_maps(tmp_path / "own.fits", {"OWN": (dust, stated)}, frame="G")
    with caplog.at_level("INFO", "foreglow"):
        sky = load_sky(cube, tmp_path / "own.fits", mask, -60, 10, given)
    assert sky.target_unit == unit
    expected = scale * paper_filter(NSIDE).full_sky(gas.dust.total)[NEST]
    found = sky.cube.target[:, 0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3 * scale)
    stated = "no unit" if unit == "1" else unit
    assert f"own.fits [{stated}]: 3072 of 3072 pixels count (100.0% of the sky)" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda dust, mask: (-dust, mask), "the map falls where there is more gas; check its sign"),
        (lambda dust, mask: (dust[NEST], mask), "hardly follows the gas"),
        (lambda dust, mask: (dust, 1 - mask), "mask.fits keeps 28% of the sky that is observed"),
    ],
    ids=["negated", "NESTED said to be RING", "inverted mask"],
)
def test_a_sky_that_may_not_be_meant(gas, files, change, message):
    dust, mask = change(gas.dust.total, faint_sky(gas.dust.total).astype(np.float32))
    with pytest.warns(MapWarning, match=message) as caught:
        load_sky(*files(dust=dust, mask=mask), low_kms=-60, high_kms=10)
    assert len(caught) == 1


def test_a_cube_brighter_than_the_line(gas, files):
    channels = [np.minimum(50 * channel, 400.0) for channel in gas.hydrogen.cube(VELOCITY)]
    with pytest.warns(
        MapWarning,
        match=r"hi.zarr: .* up to 400 K, and above 300 K in .* are mK",
    ):
        load_sky(*files(channels), low_kms=-60, high_kms=10)


@pytest.mark.parametrize("unit", ["MJy/sr", "mag", "K_RJ"])
def test_a_unit_against_the_header_is_refused(files, unit):
    cube, dust, mask = files()
    message = f"dust.fits: expected the unit {unit}, as given .*, got 'uK_RJ' in the header"
    with pytest.raises(MapError, match=message):
        load_sky(cube, dust, mask, -60, 10, unit)


def test_a_boolean_mask_of_healpy(files, tmp_path):
    cube, dust, mask = files(mask=(np.abs(POLE) > 20).astype(np.float32))
    hp.write_map(tmp_path / "bool.fits", np.abs(POLE) > 20, dtype=bool, coord="G")
    skies = [load_sky(cube, dust, path, -60, 10) for path in (mask, tmp_path / "bool.fits")]
    plain, logical = (sky.cube.target[:, 1].numpy() for sky in skies)
    assert 0.5 < plain.mean() < 0.9
    np.testing.assert_array_equal(plain, logical)


@pytest.mark.parametrize(
    ("written", "asked", "message"),
    [
        ({"nside": 8}, {}, r"expected a map of Nside 16 or more in the Gal.*got Nside 8, frame G"),
        ({"frame": "C"}, {}, r"got Nside 16, frame C; prepare the cube at its Nside, or turn"),
        ({"mask": np.zeros(N_PIX, np.float32)}, {}, "expected a mask that is above zero"),
        ({"dust": np.full(N_PIX, hp.UNSEEN)}, {}, "all hold, got none"),
        ({"dust": np.zeros(N_PIX)}, {}, r"dust.fits: expected a dust map that varies .* got 0 uK"),
        ({"mask": np.ones(12 * 8**2, np.float32)}, {}, "mask.fits: expected a map of Nside 16"),
        ({}, {"low_kms": -120.0}, "channels that reach from -120 to 10 km/s, got 13 channels from"),
        ({}, {"low_kms": -15.0}, "expected 4 or more channels from -15 to 10 km/s, got 3 of 13"),
        ({}, {"low_kms": 10.0, "high_kms": -60.0}, "got 0 of 13 channels from -90 to 30 km/s"),
        ({}, {"cube": "no.zarr"}, "expected an HI cube, got no such folder"),
        ({}, {"dust": "no.fits"}, "no.fits"),
    ],
    ids=["dust nside", "frame", "mask zero", "no dust", "dust zero", "mask nside", "range", "few",
         "order", "no cube", "no map"],
)  # fmt: skip
def test_what_does_not_fit(files, tmp_path, written, asked, message):
    cube, dust, mask = files(**written)
    options = {"cube": cube, "dust": dust, "mask": mask, "low_kms": -60.0, "high_kms": 10.0}
    options |= {k: tmp_path / v if isinstance(v, str) else v for k, v in asked.items()}
    with pytest.raises(MapError, match=message):
        load_sky(**options)


def test_files_or_the_mock(files):
    rest = {"low_kms": -60.0, "high_kms": 10.0, "nside": NSIDE}
    cube, dust, mask = files()
    assert SkySource(None, cube, dust, mask, **rest).load().source.endswith("mask.fits")
    assert SkySource("mock", None, None, None, **rest).load().source == "mock"
    for wrong, message in (
        (("mock", cube, None, None), "expected sky='mock' or files, got cube= beside it"),
        ((None, cube, None, None), "both cube= and dust=, got cube="),
        ((None, None, None, None), "got none"),
        (("pysm", None, None, None), "got sky='pysm'"),
    ):
        with pytest.raises(SkyError, match=message):
            SkySource(*wrong, **rest)
