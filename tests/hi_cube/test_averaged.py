"""Cut-outs of surveys on the channels and pixels of a model: means, whatever finer they have."""

import healpy as hp
import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits

import product_forms as forms
from foreglow.dust import stitch
from foreglow.dust.model import DustModel
from foreglow.dust.own_cube import prepare_for_model, ready_cube
from foreglow.dust.predict import predict_dust
from foreglow.errors import MapError, ModelError
from foreglow.hi_cube.averaged import average_cube, overlap
from foreglow.hi_cube.cube import open_cube
from foreglow.hi_cube.lower import lower_cube
from foreglow.hi_cube.prepare import prepare
from foreglow.maps.conventions import MapWarning
from foreglow.maps.gnomonic import Grid
from hi_cubes import HI4PI_STEP, hi4pi_header, smooth_sky, write_fits

NSIDE = 16
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*no unit of velocity in the header"),
    pytest.mark.filterwarnings("ignore:no mask"),
    pytest.mark.filterwarnings("ignore:.*do not sample a beam"),  # forms are coarse
    pytest.mark.filterwarnings("ignore:the cube has observed"),
]


@pytest.mark.parametrize(("step", "shift"), [(0.184, 0.03), (0.82, 0.3), (1.0, 0.0), (1.3, 0.1)])
def test_a_channel_is_the_mean_over_its_width(step, shift):
    have, wanted = step * np.arange(-60, 60) + shift, np.arange(-5.0, 6.0)
    weights = overlap(have, wanted, "c")
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    # every channel of the cube counts in all as much as it is wide
    inner = (have > -4.5) & (have < 4.5)
    np.testing.assert_allclose(weights.sum(axis=0)[inner], step)
    if step < 1:
        np.testing.assert_allclose(weights @ have, wanted, atol=step**2 / 8)
    if step == 1:
        np.testing.assert_array_equal(weights[:, 55:66], np.eye(11))


def test_channels_that_a_cube_has_not():
    have = np.arange(-3.0, 4.0)
    np.testing.assert_allclose(overlap(have, np.array([-3.4, -2.4]), "c").sum(axis=1), 1)
    message = r"c: expected channels from -5.5 to 1.5 km/s, got -3.5 to 3.5 .* lack 2 of 7"
    with pytest.raises(MapError, match=message):
        overlap(have, np.arange(-5.0, 2.0), "c")


def test_pixels_are_those_of_the_averaged_cube(tmp_path):
    """The channels as they are: what `prepare` and `lower_cube` make of the same file."""
    rng = np.random.default_rng(0)
    data = rng.normal(size=(5, 30, 30)).astype(np.float32)
    path = write_fits(tmp_path / "c.fits", data, hi4pi_header(data.shape, 1.0, lon=200.0))
    fine = prepare(path, tmp_path / "fine.zarr", nside=64)
    expected = lower_cube(fine, tmp_path / "low.zarr", NSIDE)
    kms = fine.velocity_kms[1:4]
    found = average_cube(path, tmp_path / "c.zarr", velocity_kms=kms, nside=NSIDE)
    assert found.n_channel == 3
    assert "averaged to 3 channels and from Nside 64" in found.source
    wanted = list(expected.channels(slice(1, 4)))
    np.testing.assert_allclose(list(found.channels()), wanted, rtol=1e-5, atol=1e-6)
    assert 0 < np.isfinite(wanted[0]).sum() < 150


def on_the_sky(shape, header, frame):
    """`smooth_sky` by Galactic position on a plate carree, brighter by 1 K a km/s."""
    rows, columns = np.mgrid[1 : shape[1] + 1, 1 : shape[2] + 1]
    lon = header["CRVAL1"] + header["CDELT1"] * (columns - header["CRPIX1"])
    lat = header["CRVAL2"] + header["CDELT2"] * (rows - header["CRPIX2"])
    where = SkyCoord(lon * u.deg, lat * u.deg, frame=frame).galactic
    planes = np.arange(1, shape[0] + 1) - header["CRPIX3"]
    kms = (header["CRVAL3"] + header["CDELT3"] * planes) / 1000
    return smooth_sky(where.l.deg, where.b.deg) + kms[:, None, None]


def cut_out(form, folder):
    """A cube of a survey's form, coarser on the sky so that it covers some pixels of a model."""
    if form == "gass":
        shape = (40, 40, 40)
        header = forms.gass_header(shape, 0.5, first_kms=-20.0)
        return forms.stored(on_the_sky(shape, header, "galactic"), header, folder / "gass_1_2.fits")
    shape = (120, 40, 40)
    header = forms.galfa_header(shape, pixel_arcmin=30.0, centre=(148.0, 26.35))
    values = on_the_sky(shape, header, "icrs")
    return forms.stored(values, header, folder / "GALFA_HI_RA+DEC_148.00+26.35_N.fits")


@pytest.fixture
def model(tmp_path):
    velocity = -5.0 + HI4PI_STEP / 1000 * np.arange(8)
    made = DustModel.untrained("unet", "channels", 2, velocity, Grid(32, 46.8), NSIDE, "uK_RJ")
    made.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("form", ["gass", "galfa"])
def test_a_cut_out_is_predicted_by_one_command(form, run, model, tmp_path, monkeypatch):
    few = stitch.centres(4)
    monkeypatch.setattr(stitch, "centres", lambda: few)
    path = cut_out(form, tmp_path)
    out, mine = tmp_path / "dust.fits", tmp_path / "mine.zarr"
    given = ("dust", "predict", "--model", model, "--cube", path, "--out", out, "--device", "cpu")
    code, _, err = run(*given)
    assert code == 0, err
    assert {p.name for p in tmp_path.iterdir()} == {path.name, "model", "dust.fits"}
    seen = np.flatnonzero(hp.read_map(out) != hp.UNSEEN)
    assert 15 < seen.size < 60
    code, _, err = run("dust", "prepare", "--cube", path, "--model", model, "--out", mine)
    assert code == 0, err
    cube = open_cube(mine)
    assert (cube.nside, cube.n_channel) == (NSIDE, 8)
    lon, lat = hp.pix2ang(NSIDE, seen, lonlat=True)
    expected = smooth_sky(lon, lat) + cube.velocity_kms[:, None]
    # apart by the centre of channels of two (a tenth of a km/s) and of pixels seen in part
    np.testing.assert_allclose([c[seen] for c in cube.channels()], expected, atol=0.1)
    code, _, err = run(*given)
    assert (code, "give another --out, or --overwrite" in err) == (2, True)


def test_what_is_said_of_a_cut_out(model, tmp_path):
    """Its unit where the header has none; velocities it has itself, as is told before any work."""
    path = cut_out("gass", tmp_path)
    with fits.open(path, mode="update") as hdus:
        del hdus[0].header["BUNIT"]
    with pytest.raises(MapError, match=r"unit='K', on the command line that of `foreglow dust p"):
        predict_dust(path, model=model)
    loaded, velocity = DustModel.load(model), np.arange(40) * u.km / u.s
    with ready_cube(path, loaded, tmp_path / "dust", "4 GiB", unit="mK") as cube:
        of_mk = np.nanmax(next(cube.channels()))
    with ready_cube(path, loaded, tmp_path / "dust", "4 GiB", unit=u.K) as cube:
        assert np.nanmax(next(cube.channels())) == pytest.approx(1000 * of_mk, rel=1e-5)
    with pytest.raises(MapError, match=r"velocity: .* beside .*gass_1_2.fits, whose header states"):
        predict_dust(path, model=model, velocity=velocity)


def test_what_cannot_be_averaged(model, tmp_path):
    path = cut_out("gass", tmp_path)
    with pytest.raises(ModelError, match=r"expected model= without nside=, resume=: it says chan"):
        prepare_for_model(path, tmp_path / "c.zarr", model, nside=64, resume=True)
    with pytest.raises(MapError, match=r"not larger than those of Nside 256, got .* Nside 128"):
        average_cube(path, tmp_path / "c.zarr", velocity_kms=[-1.0, 0.0], nside=256)
    with pytest.raises(MapError, match=r"expected memory for 9 channels"):
        prepare_for_model(path, tmp_path / "c.zarr", model, memory="300 MiB")
    assert not (tmp_path / "c.zarr").exists()
    with pytest.warns(MapWarning, match="no unit of velocity in the header"):
        prepare_for_model(cut_out("galfa", tmp_path), tmp_path / "c.zarr", model)
