"""Maps of Q and U predicted from a cube: turned skies, scale, error, files, workers, mistakes."""

from multiprocessing.pool import ThreadPool

import healpy as hp
import numpy as np
import pytest
import torch
from astropy.io import fits
from matplotlib import pyplot

from foreglow.dust import stitch
from foreglow.dust.cutouts import CutoutSampler
from foreglow.dust.model import DustModel
from foreglow.dust.parts import in_order, make_plan
from foreglow.dust.predict import from_stitched, predict_dust, predict_map, stitched_members
from foreglow.dust.results import PolarisedDustMap
from foreglow.dust.sky_cube import SkyCube
from foreglow.dust.stitch import centres
from foreglow.dust.uncertainty import Calibration, ResidualLaw, measure, to_card
from foreglow.dust.validation import calibrate
from foreglow.errors import ForeglowError, MapError, ModelError, ShapeError
from foreglow.hi_cube.cube import write_cube
from foreglow.maps.conventions import MapWarning
from foreglow.maps.gnomonic import Grid, Pointings, cutout_axes
from foreglow.maps.harmonic import HarmonicFilter, low_pass
from foreglow.maps.hemispheres import NORTH
from foreglow.maps.io import open_intensity_map, open_polarisation_map
from foreglow.maps.noise import open_noise_map
from foreglow.maps.write import write_maps

NSIDE = 32
N_PIX = hp.nside2npix(NSIDE)
GRID = Grid(32, 46.8)
VELOCITY = tuple(np.arange(-30.0, 11.0, 10.0))
FEW = centres(4)
LATITUDE = hp.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)[1]
OPEN = np.abs(LATITUDE) > 20
CAP = LATITUDE > 50
CARD = to_card(Calibration(2.0, 1.0, "a test"), ResidualLaw((0.0, 50.0, 100.0), (1.0, 3.0)))
CARD["polarisation"] = to_card(Calibration(0.5, 0.0, "a test"), ResidualLaw((0.0, 1e4), (2.0,)))


def make_model(seeds=(0, 1), card=None):
    """Networks whose directions and gains depend on all around, though nothing taught them how."""
    model = DustModel.untrained(
        "unet", "channels", 2, VELOCITY, GRID, 16, "uK_RJ", seeds, "polarisation"
    )
    for k, network in enumerate(model.networks):
        generator = torch.Generator().manual_seed(k)
        network.rms.fill_(10.0)  # K, that of `channels`
        with torch.no_grad():
            for values in network.parameters():
                values.add_(0.03 * torch.randn(values.shape, generator=generator))
    model.card = CARD if card is None else card
    return model


def channels(seed=0, l_max=24):
    """Band-limited channels above zero, alike as neighbouring ones are."""
    rng = np.random.default_rng(seed)
    size, fall = hp.Alm.getsize(l_max), 1 / np.arange(1, l_max + 2) ** 1.3
    alms = [hp.almxfl(rng.normal(size=size) + 0j, fall) for _ in range(len(VELOCITY) + 1)]
    maps = [hp.alm2map(alms[0] + 0.5 * alm, NSIDE) for alm in alms[1:]]
    return [10 + 2 * m / m.std() for m in maps]


def sky_of(maps, mask=OPEN):
    return SkyCube.from_maps(maps, len(maps), np.zeros(N_PIX), mask)


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


def three(found):
    return np.stack([found.mean, found.q, found.u])


@pytest.fixture(scope="module")
def stitched():
    return stitched_members(make_model(), sky_of(channels()), FEW)


@pytest.fixture(scope="module")
def plain(stitched):
    """What the networks say."""
    return from_stitched(make_model(), stitched, {})


@pytest.fixture(scope="module")
def found(stitched):
    return from_stitched(make_model(), stitched, CARD, "somewhere")


def test_scale_and_error_are_those_of_the_card(found, plain):
    assert isinstance(found, PolarisedDustMap)
    np.testing.assert_allclose(found.mean[OPEN], 2 * plain.mean[OPEN] + 1, rtol=1e-5)
    np.testing.assert_allclose(found.q, 0.5 * plain.q, rtol=1e-5)
    np.testing.assert_allclose(found.u_std, np.hypot(2, 0.5 * plain.u_std), rtol=1e-4)
    assert plain.q_std[OPEN].min() > 0  # two members
    assert (found.qu_calibration.slope, plain.qu_calibration.slope) == (0.5, 1)
    for values in (found.q, found.u, found.q_std, found.u_std, found.polarised_intensity):
        np.testing.assert_array_equal(np.isfinite(values), OPEN)
    turned = found.polarised_intensity * np.exp(2j * np.radians(found.angle_deg))
    np.testing.assert_allclose(turned[OPEN].real, found.q[OPEN], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(turned[OPEN].imag, found.u[OPEN], rtol=1e-3, atol=1e-4)


def test_scale_and_error_are_measured_on_a_target(stitched, plain):
    noise = np.random.default_rng(1).normal(0, 0.1, (3, N_PIX)).astype(np.float32)
    factor = np.array([[5.0], [-3.0], [-3.0]])
    target = np.where(LATITUDE > 0, factor * three(plain) + noise, np.nan)
    again = from_stitched(make_model(), stitched, measure(stitched, target, "made up"))
    assert again.calibration.slope == pytest.approx(5, rel=0.01)
    assert again.qu_calibration.slope == pytest.approx(-3, rel=0.01)
    assert again.qu_calibration.offset == 0
    np.testing.assert_allclose(again.q[OPEN], -3 * plain.q[OPEN], rtol=0.01)
    assert (again.q_std >= 2.9 * plain.q_std)[OPEN].all()
    with pytest.raises(ShapeError, match=r"a target of shape \(3, 12288\), .* got \(12288,\); giv"):
        measure(stitched, target[0], "")


def test_q_and_u_have_their_law_by_polarised_intensity():
    """Of one member: the noise of the target is all there is."""
    rng = np.random.default_rng(2)
    qu = rng.normal(size=(2, N_PIX)).astype(np.float32)
    noise = rng.normal(size=qu.shape) * (0.1 + 0.2 * np.hypot(*qu))
    iqu = np.stack([np.hypot(*qu), *qu])
    members = stitch.Stitched(iqu[None], np.ones(N_PIX, np.float32))
    card = measure(members, np.stack([iqu[0], *(2 * qu + noise)]), "made up")
    line, table = card["polarisation"]["calibration"], card["polarisation"]["residual"]
    assert line["slope"] == pytest.approx(2, rel=0.01)
    law = ResidualLaw(table["predicted_edges"], table["rms"])
    bright = np.array([1.0, 2.5, 4.0])  # twice the polarised intensity
    np.testing.assert_allclose(law(bright), 0.1 + 0.1 * bright, rtol=0.07)
    with pytest.raises(MapError, match="expected a polarised prediction, got Q and U of zero"):
        measure(stitch.Stitched(members.members * [[1], [0], [0]], members.cover), iqu, "")


def test_a_training_measures_both(plain):
    """On cutouts of its own region."""
    model, (mean, q, u) = make_model(card={"seed": 1}), three(plain)
    sky = SkyCube.from_maps(channels(), len(VELOCITY), 3 * mean, OPEN, polarisation=[2 * q, 2 * u])
    calibrate(model, CutoutSampler(sky, NORTH, GRID, fine=model.fine), 40, "the mock")
    assert set(model.card) == {"seed", "calibration", "residual", "polarisation"}
    assert model.card["calibration"]["slope"] == pytest.approx(3, rel=0.1)
    line = model.card["polarisation"]["calibration"]
    assert line == {"slope": pytest.approx(2, rel=0.1), "offset": 0, "to": "the mock"}


@pytest.mark.parametrize("table", [3, {"calibration": {"slope": 1.0}}])
def test_damaged_cards(stitched, table):
    with pytest.raises(ModelError, match="expected numbers under calibration and residual"):
        from_stitched(make_model(), stitched, CARD | {"polarisation": table})


def test_a_quarter_turn_of_the_sky_turns_the_map(plain):
    """Pixels go to pixels, with the centres turned along: Q and U stay, the pole is the same."""
    lon, lat = hp.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)
    before = hp.ang2pix(NSIDE, lon - 90, lat, lonlat=True)
    along = Pointings(FEW.lon_deg + 90, FEW.lat_deg, FEW.rotation_deg)
    turned = predict_map(make_model(card={}), sky_of([m[before] for m in channels()]), along)
    difference = (three(turned) - three(plain)[:, before])[:, OPEN]
    assert rms(difference[1:]) < 1e-3 * rms(three(plain)[1:, OPEN])


def turned_along(where, rotate):
    """Pointings turned as a sky is: their middles, and the axes of the cutouts."""
    middle, left = (torch.from_numpy(a.numpy() @ rotate.mat.T) for a in cutout_axes(where)[:2])
    lon, lat = torch.atan2(middle[:, 1], middle[:, 0]), torch.asin(middle[:, 2])
    lon_lat = torch.rad2deg(lon), torch.rad2deg(lat)
    _, east, north = cutout_axes(Pointings(*lon_lat, torch.zeros_like(lon)))
    rotation = torch.atan2((left * north).sum(1), (left * east).sum(1))
    return Pointings(*lon_lat, torch.rad2deg(rotation))


def test_any_turn_of_the_sky_turns_the_map():
    """What was at a pole is elsewhere, and the map the same, to the width of the pixels."""
    model, maps, everywhere = make_model((0,), {}), channels(0, 12), np.ones(N_PIX)
    rotate = hp.Rotator(rot=[40, 65, 70])
    turned = [rotate.rotate_map_alms(m, use_pixel_weights=False) for m in maps]
    straight = three(predict_map(model, sky_of(maps, everywhere), FEW))
    found = three(predict_map(model, sky_of(turned, everywhere), turned_along(FEW, rotate)))
    expected = rotate.rotate_map_alms(straight.astype(float), use_pixel_weights=False)
    for where in (slice(None), np.abs(LATITUDE) > 80):
        assert rms((found - expected)[1:, where]) < 0.05 * rms(expected[1:])


def test_a_file_is_read_back(found, tmp_path):
    path = tmp_path / "dust.fits"
    found.to_fits(path)
    seen = np.flatnonzero(OPEN)
    with fits.open(path) as opened:
        table, header = opened[1], opened[1].header
        assert table.columns.names == ["I", "Q", "U", "I_STD", "Q_STD", "U_STD", "COVER"]
        assert [header[f"TUNIT{k}"] for k in range(1, 7)] == ["uK_RJ"] * 6
        assert [header[k] for k in ("POLCCONV", "ORDERING", "COORDSYS")] == ["COSMO", "RING", "G"]
        assert (header["SLOPE"], header["OFFSET"], header["QU_SLOPE"]) == (2, 1, 0.5)
    for values, expected in zip(hp.read_map(path, field=(0, 1, 2)), three(found), strict=True):
        np.testing.assert_array_equal(values[seen], expected[seen])
    polarised = open_polarisation_map(path)
    assert (polarised.unit, polarised.frame) == ("uK_RJ", "G")
    np.testing.assert_array_equal(polarised.read(seen), three(found)[1:, seen])
    assert [c.name for c in open_noise_map(path).columns] == ["Q_STD", "U_STD"]
    np.testing.assert_array_equal(open_intensity_map(path).read(seen), found.mean[seen])


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # healpy's, of matplotlib
def test_what_a_notebook_shows(found):
    assert "; polarised " in found.summary()
    assert "error of Q and U" in found._repr_html_()
    assert set(found.to_xarray().data_vars) == set(found.columns())
    assert found._looks("Q", "uK_RJ")["min"] == -found._looks("Q", "uK_RJ")["max"] < 0
    assert [found.plot(name).get_title() for name in ("Q", None)] == ["Q", "I"]
    pyplot.close("all")
    with pytest.raises(ForeglowError, match="expected a column among I, Q, U, I_STD"):
        found.plot("DUST")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("polarised")
    make_model().save(folder / "model")
    maps = [np.where(LATITUDE > 35, m, np.nan) for m in channels()]
    write_cube(folder / "hi.zarr", VELOCITY, maps, NSIDE, 16.2, "a made-up survey")
    write_maps(folder / "mask.fits", {"MASK": (CAP.astype(np.float32), "")}, frame="G")
    return folder


@pytest.fixture
def few_cutouts(monkeypatch):
    """A sixteenth of the cutouts: their number is not what is tested."""
    monkeypatch.setattr(stitch, "centres", lambda: FEW)


@pytest.mark.usefixtures("few_cutouts")
def test_files_workers_and_memory_give_the_same(files, tmp_path):
    given = {"model": files / "model", "mask": files / "mask.fits", "device": "cpu"}
    out = tmp_path / "dust.fits"
    here = predict_dust(files / "hi.zarr", **given, out=out)
    expected = np.stack([values for values, _ in here.columns().values()])
    assert np.isfinite(expected).all(0).sum() == CAP.sum()
    np.testing.assert_array_equal(hp.read_map(out, field=1)[CAP], here.q[CAP])
    assert (here.calibration.slope, here.qu_calibration.slope) == (2, 0.5)
    with ThreadPool(2) as pool:
        others = [
            predict_dust(files / "hi.zarr", **given, pool=pool),
            predict_dust(files / "hi.zarr", **given, memory="1.2 GiB"),
        ]
    for other in others:
        for (values, _), one in zip(other.columns().values(), expected, strict=True):
            np.testing.assert_allclose(values, one, rtol=0, atol=1e-4 * rms(one[CAP]))


@pytest.mark.usefixtures("few_cutouts")
def test_the_low_pass_is_that_of_the_training(files):
    """Where it ends below all structure of the gas, the prediction is nearly flat."""
    low = CARD | {"cutouts": {"filter_cut": 2.0, "filter_order": 4}}
    given = {"mask": files / "mask.fits", "device": "cpu"}
    found = [
        predict_dust(files / "hi.zarr", model=make_model((0,), card), **given)
        for card in (CARD, low)
    ]
    assert np.nanstd(found[1].mean) < 0.5 * np.nanstd(found[0].mean)


def test_the_plan_counts_three_maps_a_member_and_finer_inputs():
    model, where, cpu = make_model(), in_order(FEW), torch.device("cpu")
    plain = DustModel.untrained("unet", "channels", 2, VELOCITY, GRID, 16, "uK_RJ", (0, 1))
    plans = [make_plan(m, 512, where, 4 << 30, cpu) for m in (model, plain)]
    maps = 4 * hp.nside2npix(512) * 2 * (3 * 2 + 8)  # those of Q and U
    finer = 16 * 64**2 * len(VELOCITY) * 4
    assert plans[0].sky_bytes == plans[1].sky_bytes - maps - 5 * finer
    with pytest.raises(MapError, match=r"expected memory to predict a map of Nside 512"):
        make_plan(model, 512, where, 1300 << 20, cpu)
    assert make_plan(plain, 512, where, 1300 << 20, cpu).batch > 0


@pytest.fixture(scope="module")
def observed(files):
    """What is predicted of the files, and a dust map of it: scaled, with errors and noise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stitch, "centres", lambda: FEW)
        given = {"model": make_model(card={}), "mask": files / "mask.fits", "device": "cpu"}
        plain = predict_dust(files / "hi.zarr", **given)
    rng, typical = np.random.default_rng(4), rms(np.stack([plain.q, plain.u])[:, CAP])
    longitude = hp.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)[0]
    noise = typical * np.exp(1 + 1.5 * np.cos(np.radians(longitude)))
    wrong = noise * rng.normal(size=(2, N_PIX)) + typical * rng.normal(size=(2, N_PIX))
    iqu = np.stack([4 * plain.mean, *(3 * np.stack([plain.q, plain.u]) + wrong)])
    return given, plain, iqu, noise, typical


@pytest.mark.usefixtures("few_cutouts")
@pytest.mark.filterwarnings("ignore:dust. expected polarised intensity below")
def test_scale_and_error_of_q_and_u_are_measured_on_a_dust_map(files, observed):
    given, plain, iqu, noise, typical = observed
    words = {"dust_unit": "uK_RJ", "convention": "COSMO", "frame": "G"}
    given = given | words | {"dust": iqu, "mask": CAP}
    with_noise, of_dust = (
        predict_dust(files / "hi.zarr", **given, noise=told)
        for told in (None, (noise, "rms in uK_RJ"))
    )
    left = HarmonicFilter(NSIDE, low_pass(NSIDE)).noise_left
    for found in (with_noise, of_dust):
        np.testing.assert_allclose(found.mean[CAP], found.calibration(plain.mean[CAP]), rtol=1e-3)
        assert found.qu_calibration.to == "the dust map given, over the footprint"
    assert of_dust.qu_calibration.slope == pytest.approx(3, abs=0.15)
    middle = np.nanmedian(of_dust.q_std**2 - (of_dust.qu_calibration.slope * plain.q_std) ** 2)
    assert np.sqrt(middle / left) == pytest.approx(typical, rel=0.25)  # without the noise
    assert np.nanmedian(with_noise.q_std) > 3 * np.nanmedian(of_dust.q_std)
    assert "of the map with its noise" in with_noise.header()["QU_SIGMA"]
    assert "of the dust, without noise of a map" in of_dust._repr_html_()


@pytest.mark.usefixtures("few_cutouts")
@pytest.mark.filterwarnings("ignore:dust. expected polarised intensity below")
def test_a_dust_map_that_falls_where_q_and_u_rise_is_said(files, observed):
    given, plain, *_ = observed
    dust = np.stack([plain.mean, -plain.q, -plain.u])
    given = given | {"mask": CAP, "dust": dust, "dust_unit": "uK_RJ", "frame": "G"}
    with pytest.warns(MapWarning, match="the Q and U of dust falls where it rises"):
        predict_dust(files / "hi.zarr", **given, convention="COSMO")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            {"dust": np.ones(N_PIX)},
            r"dust=: expected I, Q and U of shape \(3, n_pix\), got one",
        ),
        (
            {"dust": np.ones((3, N_PIX)), "dust_unit": "K_CMB"},
            r"expected a dust map in uK_RJ, as the model was trained with, got K_CMB of dust",
        ),
        (
            {"dust": np.ones((2, N_PIX)), "dust_unit": "uK_RJ"},
            "dust: expected I, Q and U in one map and one unit, got Q and U alone",
        ),
        (
            {"noise": np.ones(N_PIX)},
            "expected noise= of the Q and U of dust=, .*, got no dust=",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*taken as frame='G'", "ignore:no mask")
def test_dust_maps_that_cannot_be_used(files, words, message):
    with pytest.raises(ForeglowError, match=message):
        predict_dust(files / "hi.zarr", model=make_model(), **words)
