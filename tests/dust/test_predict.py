"""Maps of predicted dust: scale, error, files, rotations of the sky, and every mistake."""

import re
from dataclasses import replace

import healpy as hp
import numpy as np
import pytest
import torch
from astropy.io import fits

from foreglow.dust import stitch
from foreglow.dust.model import DustModel
from foreglow.dust.predict import predict_dust, predict_map
from foreglow.dust.sky_cube import SkyCube
from foreglow.dust.stitch import centres
from foreglow.dust.uncertainty import Calibration, ResidualLaw, to_card
from foreglow.errors import MapError, ModelError
from foreglow.hi_cube.cube import write_cube
from foreglow.maps.conventions import MapWarning
from foreglow.maps.gnomonic import Grid, Pointings
from foreglow.maps.write import write_maps
from foreglow.model_files import write_model

NSIDE = 32
N_PIX = hp.nside2npix(NSIDE)
GRID = Grid(32, 46.8)
VELOCITY = tuple(np.arange(-30.0, 11.0, 10.0))
FEW = centres(4)
LATITUDE = hp.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)[1]
OPEN = np.abs(LATITUDE) > 20
CARD = to_card(Calibration(2.0, 1.0, "a test"), ResidualLaw((0.0, 50.0, 100.0), (1.0, 3.0)))


def make_model(seeds=(0, 1), card=None):
    """Networks that make more of the cube than its sum, though nothing taught them what."""
    model = DustModel.untrained("unet", "channels", 2, VELOCITY, GRID, 16, "uK_RJ", seeds)
    for k, network in enumerate(model.networks):
        generator = torch.Generator().manual_seed(k)
        with torch.no_grad():
            for values in network.parameters():
                values.add_(0.03 * torch.randn(values.shape, generator=generator))
    model.card = CARD if card is None else card
    return model


def channels(seed=0, l_max=48):
    """Band-limited channels above zero, alike as neighbouring ones are."""
    rng = np.random.default_rng(seed)
    size, fall = hp.Alm.getsize(l_max), 1 / np.arange(1, l_max + 2) ** 1.3
    alms = [hp.almxfl(rng.normal(size=size) + 0j, fall) for _ in range(len(VELOCITY) + 1)]
    maps = [hp.alm2map(alms[0] + 0.5 * alm, NSIDE) for alm in alms[1:]]
    return [10 + 3 * m / m.std() for m in maps]


def sky_of(maps, mask=OPEN):
    return SkyCube.from_maps(maps, len(maps), np.zeros(N_PIX), mask)


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


@pytest.fixture(scope="module")
def found():
    return predict_map(make_model(), sky_of(channels()), FEW, source="somewhere")


def test_scale_and_error_are_those_of_the_card(found):
    plain = predict_map(make_model(card={}), sky_of(channels()), FEW)
    np.testing.assert_allclose(found.mean[OPEN], 2 * plain.mean[OPEN] + 1, rtol=1e-5)
    law = ResidualLaw((0.0, 50.0, 100.0), (1.0, 3.0))
    expected = np.hypot(law(found.mean), 2 * plain.std)[OPEN]
    np.testing.assert_allclose(found.std[OPEN], expected, rtol=1e-5)
    assert plain.std[OPEN].min() > 0  # two members
    assert plain.calibration.slope == 1
    assert found.sigma == "residual rms by brightness and spread of 2"
    assert plain.sigma == "spread of 2"
    one = predict_map(make_model((0,), {}), sky_of(channels()), FEW)
    assert one.sigma == "none: one network, no law"
    assert not one.std[OPEN].any()


def test_the_footprint_is_the_mask(found):
    for values in (found.mean, found.std):
        np.testing.assert_array_equal(np.isfinite(values), OPEN)
    assert not found.cover[~OPEN].any()
    assert (found.unit, found.cube, found.n_member) == ("uK_RJ", "somewhere", 2)
    assert f"{OPEN.sum()} of {N_PIX} pixels predicted" in found.summary()


def test_a_target_replaces_scale_and_error_of_the_card():
    model, sky = make_model((0,)), sky_of(channels())
    plain = predict_map(make_model((0,), {}), sky, FEW).mean
    noise = np.random.default_rng(1).normal(0, 4, N_PIX)
    known = np.where(LATITUDE > 0, 5 * plain - 7 + noise, np.nan)
    again = predict_map(model, sky, FEW, target=known)
    assert again.calibration.slope == pytest.approx(5, rel=0.02)
    south = OPEN & (LATITUDE < 0)
    np.testing.assert_allclose(again.mean[south], 5 * plain[south] - 7, rtol=0.02, atol=2)
    assert np.median(again.std[south]) == pytest.approx(4, rel=0.15)


def turned_by_a_quarter(values):
    lon, lat = hp.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)
    return values[hp.ang2pix(NSIDE, lon - 90, lat, lonlat=True)]


def test_a_quarter_turn_of_the_sky_turns_the_map():
    """Pixels go to pixels: with the centres turned along, nothing else changes."""
    model, maps = make_model((0,), {}), channels()
    straight = predict_map(model, sky_of(maps), FEW).mean
    along = Pointings(FEW.lon_deg + 90, FEW.lat_deg, FEW.rotation_deg)
    turned = predict_map(model, sky_of(list(map(turned_by_a_quarter, maps))), along).mean
    expected = turned_by_a_quarter(straight)
    assert rms((turned - expected)[OPEN]) < 1e-4 * expected[OPEN].std()


def test_any_turn_of_the_sky_turns_the_map():
    """Cutouts lie elsewhere then: within 2% of the rms, with 768 centres on coarse pixels."""
    model, maps, everywhere = make_model((0,), {}), channels(), np.ones(N_PIX)
    rotate = hp.Rotator(rot=[40, 25, 70])
    turned = [rotate.rotate_map_alms(m, use_pixel_weights=False) for m in maps]
    straight = predict_map(model, sky_of(maps, everywhere), centres(8)).mean
    found = predict_map(model, sky_of(turned, everywhere), centres(8)).mean
    expected = rotate.rotate_map_alms(straight.astype(float), use_pixel_weights=False)
    integrated = rms(np.sum(maps, 0) / 5 - 10)
    assert rms(straight / 5 - straight.mean() / 5) > 0.3 * integrated  # not flat
    assert rms(found - expected) < 0.02 * expected.std()


@pytest.fixture(autouse=True)
def few_cutouts(monkeypatch):
    """A sixteenth of the cutouts: their number is not what is tested."""
    monkeypatch.setattr(stitch, "centres", lambda: FEW)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model, a cube and a mask on disk."""
    folder = tmp_path_factory.mktemp("predict")
    make_model().save(folder / "model")
    maps = [np.where(np.abs(LATITUDE) > 10, m, np.nan) for m in channels()]
    write_cube(folder / "hi.zarr", VELOCITY, maps, NSIDE, 16.2, "a made-up survey")
    write_maps(folder / "mask.fits", {"MASK": (OPEN.astype(np.float32), "")}, frame="G")
    return folder


def run(files, tmp_path, model="model", cube="hi.zarr", mask="mask.fits", **options):
    paths = [p if p is None or isinstance(p, type(files)) else files / p for p in (cube, mask)]
    model = model if isinstance(model, type(files)) else files / model
    out = tmp_path / "dust.fits"
    return predict_dust(paths[0], model=model, mask=paths[1], out=out, device="cpu", **options)


def test_from_files_to_a_file(files, tmp_path):
    seen = []
    found = run(files, tmp_path, progress=lambda *a: seen.append(a))
    assert seen[-1] == (192, 192)
    with fits.open(tmp_path / "dust.fits") as opened:
        table, header = opened[1], opened[1].header
        assert table.columns.names == ["DUST", "DUST_STD", "COVER"]
        assert [header[f"TUNIT{k}"] for k in (1, 2)] == ["uK_RJ", "uK_RJ"]
        assert (header["SLOPE"], header["OFFSET"], header["CALIB_TO"]) == (2, 1, "a test")
        assert header["HICUBE"] == "a made-up survey"
        assert header["SIGMA"] == found.sigma
        assert len(header["MODEL"]) == 16
        assert (header["ORDERING"], header["COORDSYS"], header["NMEMBER"]) == ("RING", "G", 2)
    mean, std = hp.read_map(tmp_path / "dust.fits", field=(0, 1))
    seen = mean != hp.UNSEEN
    np.testing.assert_array_equal(mean[seen], found.mean[np.isfinite(found.mean)])
    assert (std[seen] > 0).all()
    # all of the mask, though the cube ends ten degrees beyond it
    np.testing.assert_array_equal(seen, OPEN)


def test_channels_half_a_step_aside_are_found(files, tmp_path):
    finer = np.arange(-52.0, 30.0, 10.0)
    extra = [channels(9)[0]] * 2
    write_cube(tmp_path / "hi.zarr", finer, [*extra, *channels(), *extra], NSIDE, None, "")
    other = run(files, tmp_path, cube=tmp_path / "hi.zarr")
    write_cube(tmp_path / "same.zarr", VELOCITY, channels(), NSIDE, None, "")
    same = run(files, tmp_path, cube=tmp_path / "same.zarr", overwrite=True)
    np.testing.assert_allclose(other.mean[OPEN], same.mean[OPEN], rtol=1e-4)


def test_a_dust_map_sets_the_scale(files, tmp_path):
    first = run(files, tmp_path).mean
    dust = np.where(OPEN, 0.5 * first + 3, 1).astype(np.float32)
    dust = np.where(np.abs(LATITUDE) > 10, dust, np.nan)
    write_maps(tmp_path / "given.fits", {"I_STOKES": (dust, "uK_RJ")}, frame="G")
    again = run(files, tmp_path, dust=tmp_path / "given.fits", overwrite=True)
    # the scale is of what the networks say, which the card doubles
    assert again.calibration.slope == pytest.approx(1, abs=0.15)
    assert again.calibration.to.startswith("the dust map given")


@pytest.mark.parametrize(
    ("unit", "stated", "given", "said"),
    [
        ("W/m2/sr", "W m-2 sr-1", None, " W/m2/sr (16-84%"),
        ("1", "", "1", " (16-84%"),
    ],
)
def test_the_map_has_the_unit_of_the_target(files, tmp_path, unit, stated, given, said):
    replace(make_model(), target_unit=unit).save(tmp_path / "model")
    dust = np.where(OPEN, sum(channels()), np.nan).astype(np.float32)
    write_maps(tmp_path / "own.fits", {"OWN": (dust, stated)}, frame="G")
    options = {"model": tmp_path / "model", "dust": tmp_path / "own.fits"}
    found = run(files, tmp_path, **options, dust_unit=given)
    number = r"[\d.]+"
    text = rf"mean \|b\| 45 deg: dust {number}{re.escape(said)}: .*\), error {number}"
    assert re.search(text, found.summary())
    with fits.open(tmp_path / "dust.fits") as opened:
        assert [opened[1].header[f"TUNIT{k}"] for k in (1, 2)] == [unit, unit]


def test_a_dust_map_upside_down(files, tmp_path):
    dust = np.where(OPEN, -sum(channels()), np.nan).astype(np.float32)
    write_maps(tmp_path / "own.fits", {"OWN": (dust, "uK_RJ")}, frame="G")
    with pytest.warns(MapWarning, match=r"own.fits falls where it rises \(slope -"):
        run(files, tmp_path, dust=tmp_path / "own.fits")


def test_without_a_mask_all_that_is_observed_is_predicted(files, tmp_path):
    with pytest.warns(MapWarning, match=r"no mask: dust is predicted wherever the cube"):
        found = run(files, tmp_path, mask=None)
    assert np.isfinite(found.mean).mean() == pytest.approx(1 - np.sin(np.radians(10)), abs=0.03)


def test_less_sky_than_a_cutout_is_warned_of(files, tmp_path):
    cap = LATITUDE > 82  # 201 square degrees
    maps = [np.where(cap, m, np.nan) for m in channels()]
    write_cube(tmp_path / "small.zarr", VELOCITY, maps, NSIDE, None, "")
    write_maps(tmp_path / "cap.fits", {"MASK": (cap.astype(np.float32), "")}, frame="G")
    with pytest.warns(MapWarning, match=r"observed 2\d\d\S* square degrees, less than one cutout"):
        found = run(files, tmp_path, cube=tmp_path / "small.zarr", mask=tmp_path / "cap.fits")
    assert "% of the sky" in found.summary()


class TestMistakes:
    def test_a_model_of_another_job(self, files, tmp_path):
        network = torch.nn.Linear(1, 1)
        write_model(tmp_path / "model", network, "recognition", {})
        with pytest.raises(ModelError, match=r"holds a model for recognition, not for dust"):
            run(files, tmp_path, model=tmp_path / "model")

    def test_no_model(self, files, tmp_path):
        with pytest.raises(ModelError, match=r"expected a model directory .* `foreglow dust train"):
            run(files, tmp_path, model=tmp_path / "nowhere")

    def test_channels_that_the_cube_lacks(self, files, tmp_path):
        write_cube(tmp_path / "hi.zarr", VELOCITY[1:], channels()[1:], NSIDE, None, "")
        with pytest.raises(ModelError, match=r"expected the 5 channels .* got 4 from -20 to 10"):
            run(files, tmp_path, cube=tmp_path / "hi.zarr")

    def test_a_cube_that_does_not_cover_the_mask(self, files, tmp_path):
        maps = [np.where(LATITUDE < 50, m, np.nan) for m in channels()]
        write_cube(tmp_path / "hi.zarr", VELOCITY, maps, NSIDE, None, "")
        with pytest.raises(
            MapError, match=r"wherever the mask is above zero, .* got NaN in \d+ of"
        ):
            run(files, tmp_path, cube=tmp_path / "hi.zarr")

    def test_nan_in_one_channel_alone(self, files, tmp_path):
        maps = channels()
        maps[3][np.flatnonzero(OPEN)[5]] = np.nan
        write_cube(tmp_path / "hi.zarr", VELOCITY, maps, NSIDE, None, "")
        for mask in ("mask.fits", None):
            with (
                pytest.warns(MapWarning) if mask is None else pytest.MonkeyPatch.context(),
                pytest.raises(MapError, match=r"got NaN in 1 of \d+ such pixels .* at 0 km/s"),
            ):
                run(files, tmp_path, cube=tmp_path / "hi.zarr", mask=mask)

    def test_a_truncated_cube(self, files, tmp_path):
        write_cube(tmp_path / "hi.zarr", VELOCITY, channels(), NSIDE, None, "")
        chunk = next(p for p in (tmp_path / "hi.zarr" / "tb").rglob("*") if "c" in p.parts[-1:][0])
        next(p for p in sorted(chunk.rglob("*")) if p.is_file()).unlink()
        with pytest.raises(MapError, match=r"files of data, got \d+; it was copied"):
            run(files, tmp_path, cube=tmp_path / "hi.zarr")

    def test_wider_pixels_than_the_model_has_seen(self, files, tmp_path):
        write_cube(tmp_path / "hi.zarr", VELOCITY, np.ones((5, 768)), 8, None, "")
        with pytest.raises(MapError, match=r"a cube of Nside 16 or more, .* got Nside 8"):
            run(files, tmp_path, cube=tmp_path / "hi.zarr")

    def test_a_mask_of_another_nside(self, files, tmp_path):
        write_maps(tmp_path / "mask.fits", {"MASK": (np.ones(768), "")}, frame="G")
        with pytest.raises(MapError, match=r"a map of Nside 32 or more in the .* Nside 8"):
            run(files, tmp_path, mask=tmp_path / "mask.fits")

    def test_a_mask_that_leaves_nothing(self, files, tmp_path):
        write_maps(tmp_path / "mask.fits", {"MASK": (np.zeros(N_PIX), "")}, frame="G")
        with pytest.raises(MapError, match=r"a mask that is above zero somewhere, got none"):
            run(files, tmp_path, mask=tmp_path / "mask.fits")

    def test_dust_in_another_unit(self, files, tmp_path):
        write_maps(tmp_path / "given.fits", {"I_STOKES": (np.ones(N_PIX), "MJy/sr")}, frame="G")
        with pytest.raises(MapError, match=r"a dust map in uK_RJ, .* got MJy/sr of"):
            run(files, tmp_path, dust=tmp_path / "given.fits")

    def test_dust_in_a_unit_that_is_no_temperature(self, files, tmp_path):
        write_maps(tmp_path / "given.fits", {"EBV": (np.arange(N_PIX), "mag")}, frame="G")
        with pytest.raises(MapError, match=r"a dust map in uK_RJ, .* got mag of"):
            run(files, tmp_path, dust=tmp_path / "given.fits")

    def test_dust_that_contradicts_the_unit_given(self, files, tmp_path):
        write_maps(tmp_path / "given.fits", {"I_STOKES": (np.ones(N_PIX), "MJy/sr")}, frame="G")
        with pytest.raises(
            MapError, match=r"expected the unit uK_RJ, as given .*, got .MJy/sr. in"
        ):
            run(files, tmp_path, dust=tmp_path / "given.fits", dust_unit="uK_RJ")

    def test_dust_that_does_not_vary(self, files, tmp_path):
        write_maps(tmp_path / "given.fits", {"I_STOKES": (np.ones(N_PIX), "uK_RJ")}, frame="G")
        with pytest.raises(MapError, match=r"a dust map that varies .* got 1 uK_RJ in all 8064"):
            run(files, tmp_path, dust=tmp_path / "given.fits")

    def test_output_that_exists(self, files, tmp_path):
        (tmp_path / "dust.fits").touch()
        with pytest.raises(MapError, match=r"exists; give another out=, or overwrite=True"):
            run(files, tmp_path)
        assert (tmp_path / "dust.fits").stat().st_size == 0

    def test_output_without_a_folder(self, files, tmp_path):
        with pytest.raises(MapError, match=r"its folder does not exist"):
            run(files, tmp_path / "nowhere")
