"""Dust predicted from arrays: the same bits as from files, and every wrong array told of."""

import re
import sys

import astropy.units as u
import healpy as hp
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray
from astropy.utils.masked import Masked

import foreglow as fg
from foreglow.dust import stitch
from foreglow.dust.model import DustModel
from foreglow.dust.stitch import centres
from foreglow.dust.uncertainty import Calibration, ResidualLaw, to_card
from foreglow.errors import ForeglowError, MapError, ShapeError
from foreglow.hi_cube.arrays import as_cube
from foreglow.hi_cube.cube import open_cube, write_cube
from foreglow.maps.conventions import MapWarning
from foreglow.maps.gnomonic import Grid
from foreglow.maps.write import write_maps

NSIDE = 16
N_PIX = hp.nside2npix(NSIDE)
KMS = np.arange(-45.0, 46.0, 10.0)  # two chunks of a cube
LATITUDE = hp.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)[1]
OPEN, OBSERVED = np.abs(LATITUDE) > 25, np.abs(LATITUDE) > 15
NEST = hp.nest2ring(NSIDE, np.arange(N_PIX))  # what reorders a RING map to NESTED
FEW = centres(2)
VELOCITY = KMS * u.km / u.s
CARD = to_card(Calibration(2.0, 1.0, "a test"), ResidualLaw((0.0, 50.0, 100.0), (1.0, 3.0)))
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def few_cutouts(monkeypatch):
    monkeypatch.setattr(stitch, "centres", lambda: FEW)


@pytest.fixture(scope="module")
def model():
    """Networks that make more of the cube than its sum, though nothing taught them what."""
    made = DustModel.untrained("unet", "channels", 2, KMS, Grid(32, 46.8), NSIDE, "uK_RJ", (0, 1))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for values in made.members.parameters():
            values.add_(0.03 * torch.randn(values.shape, generator=generator))
    made.card = CARD
    return made


@pytest.fixture(scope="module")
def tb():
    """K, RING, float32, NaN where not observed."""
    rng = np.random.default_rng(0)
    maps = [rng.lognormal(1, 0.3, N_PIX) for _ in KMS]
    return np.where(OBSERVED, maps, np.nan).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory, model, tb):
    folder = tmp_path_factory.mktemp("arrays")
    model.save(folder / "model")
    write_cube(folder / "hi.zarr", KMS, tb, NSIDE, 16.2, "made up")
    write_maps(folder / "mask.fits", {"MASK": (OPEN.astype(np.float32), "")}, frame="G")
    return folder


def predict(cube, model, **options):
    given = {"mask": OPEN, "velocity": VELOCITY, "frame": "G", "device": "cpu"} | options
    return fg.predict_dust(cube, model=model, **given)


@pytest.fixture(scope="module")
def from_file(files):
    """What the command line would make of the files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stitch, "centres", lambda: FEW)
        given = {"model": files / "model", "mask": files / "mask.fits"}
        return fg.predict_dust(files / "hi.zarr", **given, out=files / "dust.fits", device="cpu")


def assert_same(found, expected):
    for name in ("mean", "std", "cover"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert (found.unit, found.model, found.sigma) == (expected.unit, expected.model, expected.sigma)


def unseen(tb):
    return np.where(np.isnan(tb), hp.UNSEEN, tb)


def masked_quantity(tb):
    return Masked(np.nan_to_num(tb, nan=7.0), mask=np.isnan(tb)) * u.K


FORMS = {
    "Quantity": lambda tb: (tb * u.K, {}),
    "float64 and its unit": lambda tb: (tb.astype(float), {"unit": "K"}),
    "NESTED": lambda tb: (tb[:, NEST] * u.K, {"nest": True, "mask": OPEN[NEST]}),
    "mK": lambda tb: (tb.astype(float) * 1e3 * u.mK, {}),
    "UNSEEN": lambda tb: (unseen(tb).astype(np.float32), {"unit": u.K}),
    "UNSEEN in mK": lambda tb: (unseen(1e3 * tb.astype(float)) * u.mK, {}),
    "of FITS": lambda tb: (tb.astype(">f4"), {"unit": "K", "mask": OPEN.astype(">f4")}),
    "masked array": lambda tb: (
        np.ma.array(np.nan_to_num(tb, nan=7.0), mask=np.isnan(tb)), {"unit": "K"},
    ),
    "masked Quantity": lambda tb: (masked_quantity(tb), {}),
    "descending": lambda tb: (tb[::-1] * u.K, {"velocity": (VELOCITY[::-1]).to("m/s")}),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_arrays_give_the_bits_of_the_file(files, tb, from_file, form):
    cube, said = FORMS[form](tb)
    before = np.array(cube, copy=True) if form == "Quantity" else None
    assert_same(predict(cube, files / "model", **said), from_file)
    if before is not None:
        np.testing.assert_array_equal(before, cube.value)


def test_a_model_and_a_cube_at_hand(files, model, from_file):
    cube = open_cube(files / "hi.zarr")
    assert_same(predict(cube, model, velocity=None, mask=files / "mask.fits"), from_file)


def dataset(tb, **attributes):
    """As somebody's own script makes one."""
    stated = {"ordering": "NESTED", "frame": "G", "source": "somewhere"} | attributes
    coordinate = xarray.Variable("velocity", KMS, {"units": "km/s"})
    data = xarray.DataArray(tb[:, NEST], dims=("velocity", "pixel"), attrs={"units": "K"})
    return xarray.Dataset({"tb": data.assign_coords(velocity=coordinate)}, attrs=stated)


def test_xarray(files, tb, from_file):
    said = {"velocity": None, "frame": None}
    opened = xarray.open_zarr(files / "hi.zarr", chunks=None)
    assert_same(predict(opened, files / "model", **said), from_file)
    turned = dataset(tb).isel(velocity=slice(None, None, -1)).transpose("pixel", "velocity")
    found = predict(turned, files / "model", **said)
    assert_same(found, from_file)
    assert found.cube == "somewhere"
    alone = dataset(tb)["tb"].assign_attrs({})  # attributes go in arithmetic, say what they said
    alone.attrs = {}
    found = predict(alone, files / "model", unit="K", nest=True, mask=OPEN[NEST])
    assert_same(found, from_file)


def test_a_path_has_the_same_numbers(files, tb, from_file, tmp_path):
    found = predict(tb * u.K, files / "model", out=tmp_path / "dust.fits")
    assert_same(found, from_file)
    read = [hp.read_map(folder / "dust.fits", field=(0, 1, 2)) for folder in (tmp_path, files)]
    np.testing.assert_array_equal(*read)
    assert [path.name for path in tmp_path.iterdir()] == ["dust.fits"]


def test_a_dust_map_to_calibrate_to(files, tb, from_file):
    dust = np.where(OPEN, 3 * from_file.mean - 1, np.nan)
    write_maps(files / "given.fits", {"I_STOKES": (dust, "uK_RJ")}, frame="G")
    expected = predict(files / "hi.zarr", files / "model", velocity=None, dust=files / "given.fits")
    array = {"dust": np.ma.masked_invalid(dust), "dust_unit": "muK_RJ"}
    assert_same(predict(tb * u.K, files / "model", **array), expected)
    nested = {"nest": True, "mask": OPEN[NEST], "dust": dust[NEST], "dust_unit": "uK_RJ"}
    assert_same(predict(tb[:, NEST] * u.K, files / "model", **nested), expected)
    assert expected.calibration.to.startswith("the dust map given")


def test_arrays_go_to_workers(files, tb, from_file, pool):
    found = predict(tb[::-1] * u.K, files / "model", velocity=VELOCITY[::-1], pool=pool)
    np.testing.assert_allclose(found.mean[OPEN], from_file.mean[OPEN], rtol=1e-3)


def test_a_frame_that_is_not_stated_is_said_once(files, tb):
    with pytest.warns(MapWarning) as said:
        predict(tb * u.K, files / "model", frame=None)
    assert [str(one.message) for one in said] == [
        'cube: its frame is not stated, taken as Galactic; pass frame="G" if it is'
    ]
    assert said[0].filename == __file__


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # healpy's, of matplotlib
def test_a_result_is_shown(from_file, tmp_path):
    mpl.use("agg")
    for column in (None, "DUST_STD", "COVER"):
        assert from_file.plot(column).get_title() == (column or "DUST")
        plt.close("all")
    from_file.plot("DUST_STD", vmin=0)  # its scale is logarithmic else
    plt.close("all")
    with pytest.raises(ForeglowError, match="expected a column among DUST, DUST_STD, COVER, got"):
        from_file.plot("sum")
    shown = from_file._repr_html_()
    share = f"<td>{np.isfinite(from_file.mean).mean():.1%}</td>"
    for word in ("<td>uK_RJ</td>", "<td>16</td>", "<td>G</td>", share, "made up"):
        assert word in shown
    table = from_file.to_xarray()
    np.testing.assert_array_equal(table.DUST_STD, from_file.std)
    assert (table.attrs["nside"], table.attrs["ordering"], table.DUST.units) == (
        16,
        "RING",
        "uK_RJ",
    )
    from_file.to_fits(tmp_path / "again.fits")
    with pytest.raises(MapError, match=r"again.fits: exists already"):
        from_file.to_fits(tmp_path / "again.fits")


def test_without_xarray(from_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ForeglowError) as told:
        from_file.to_xarray()
    assert str(told.value) == (
        "to_xarray needs xarray, not installed here; install it: "
        f"{sys.executable} -m pip install xarray"
    )


WRONG = {
    "transposed": (
        lambda tb: (tb.T * u.K, {}), ShapeError,
        "cube: expected an array (n_velocity, n_pix), got shape (3072, 10), which is the other way "
        "round; pass cube.T",
    ),
    "transposed, of few channels": (
        lambda tb: (np.ones((N_PIX, 12)) * u.K, {"velocity": np.arange(12) * u.km / u.s}),
        ShapeError,
        "cube: expected an array (n_velocity, n_pix), got shape (3072, 12), which is the other way "
        "round; pass cube.T",
    ),
    "an odd Nside": (
        lambda tb: (np.ones((10, 108)) * u.K, {}), MapError,
        "cube: expected an Nside that is a power of two, got 3; cubes are NESTED inside, which has "
        "no other",
    ),
    "larger pixels than the model's": (
        lambda tb: (np.ones((10, 768)) * u.K, {}), MapError,
        "expected a cube of Nside 16 or more, as the model was trained with, got Nside 8 of cube: "
        "its pixels are wider than any that the model has seen; prepare it again at that Nside",
    ),
    "one map": (
        lambda tb: (tb[0] * u.K, {}), ShapeError,
        "cube: expected an array (n_velocity, n_pix), got shape (3072,); give a spectrum for each "
        "pixel of the sky, NaN where nothing was observed",
    ),
    "part of the sky": (
        lambda tb: (tb[:, :3000] * u.K, {}), ShapeError,
        "cube: expected 12 nside^2 HEALPix pixels along its second axis, got 3000; give a spectrum "
        "for each pixel of the sky, NaN where nothing was observed",
    ),
    "text": (
        lambda tb: (tb.astype(str), {"unit": "K"}), MapError,
        "cube: expected real numbers, got <U32; convert them",
    ),
    "no velocity": (
        lambda tb: (tb * u.K, {"velocity": None}), MapError,
        "velocity: expected the velocity of each channel, got none; pass a Quantity in km/s, from "
        "the local standard of rest (LSRK)",
    ),
    "another velocity than xarray's": (
        lambda tb: (
            xarray.DataArray(
                tb, dims=("velocity", "pixel"), attrs={"units": "K", "frame": "G"},
                coords={"velocity": ("velocity", VELOCITY.value, {"units": "km/s"})},
            ),
            {"velocity": VELOCITY + 1 * u.km / u.s},
        ), MapError,
        "velocity: expected -45 to 45 km/s, as the cube says, got -44 to 46; leave velocity= out, "
        "or correct the coordinate",
    ),
    "a bare kelvin of dust": (
        lambda tb: (tb * u.K, {"dust": np.arange(N_PIX) * u.uK}), MapError,
        "dust: expected one of K_CMB, mK_CMB, uK_CMB, K_RJ, mK_RJ, uK_RJ, MJy/sr, got unit 'uK', "
        "which does not say thermodynamic (_CMB) or Rayleigh-Jeans (_RJ); pass dust_unit=",
    ),
    "numbers of channels": (
        lambda tb: (tb * u.K, {"velocity": np.arange(10)}), MapError,
        "velocity: expected a Quantity in km/s, LSRK, got numbers without a unit; if they are "
        "velocities and not numbers of channels, multiply them by astropy.units.Unit('km/s')",
    ),
    "frequencies": (
        lambda tb: (tb * u.K, {"velocity": np.arange(10) * u.GHz}), MapError,
        "velocity: expected a Quantity in km/s, LSRK, got one in GHz; bring it to radio "
        "velocities, as with astropy.units.doppler_radio",
    ),
    "edges of channels": (
        lambda tb: (tb * u.K, {"velocity": np.arange(11) * u.km / u.s}), ShapeError,
        "velocity: expected 10 velocities, one a channel of the cube (10, 3072), got 11; give the "
        "centre of each channel",
    ),
    "velocities in no order": (
        lambda tb: (tb * u.K, {"velocity": np.array([0, 2, 1, *range(3, 10)]) * u.km / u.s}),
        MapError,
        "velocity: expected one velocity a channel, ascending or descending, got [0. 2. 1. ... 7. "
        "8. 9.] km/s; sort the channels",
    ),
    "no unit": (
        lambda tb: (tb, {}), MapError,
        "unit: expected K or mK, got none, and the cube does not say; pass unit=, or a Quantity",
    ),
    "no temperature": (
        lambda tb: (tb * u.Jy, {}), MapError,
        "cube: expected brightness temperature, K or mK, got 'Jy'; convert it, as with "
        "astropy.units.brightness_temperature",
    ),
    "column density": (
        lambda tb: (tb, {"unit": "cm-2"}), MapError,
        "unit: expected brightness temperature, K or mK, got 'cm-2'; convert it, as with "
        "astropy.units.brightness_temperature",
    ),
    "two units": (
        lambda tb: (tb * u.K, {"unit": "mK"}), MapError,
        "unit: expected 'K', as the cube says, got 'mK'; leave unit= out",
    ),
    "mK taken for K": (
        lambda tb: (np.where(np.isnan(tb), tb, 2000) * u.K, {}), MapError,
        "cube: expected brightness temperatures of the 21 cm line in K, within 1000 K of zero, got "
        "2000 in channels 0 to 7; set what was not observed to NaN, or bring the maps to K",
    ),
    "Inf": (
        lambda tb: (np.where(np.isnan(tb), np.inf, tb) * u.K, {}), MapError,
        "cube: expected finite values or NaN (not observed), got Inf in channels 0 to 7; set such "
        "pixels to NaN",
    ),
    "nothing observed": (
        lambda tb: (np.full_like(tb, np.nan) * u.K, {}), MapError,
        "cube: expected observed pixels, got none in the channel at -45 km/s; check what its "
        "source takes for unobserved",
    ),
    "nothing observed, and no mask": (
        lambda tb: (np.full_like(tb, np.nan) * u.K, {"mask": None}), MapError,
        "cube: expected observed pixels, got none in the channel at -45 km/s; check what its "
        "source takes for unobserved",
    ),
    "a mask of another Nside": (
        lambda tb: (tb * u.K, {"mask": np.ones(768)}), ShapeError,
        "mask: expected a map of shape (3072,), Nside 16 as the cube, got Nside 8; bring it there, "
        "as with healpy.ud_grade (of a mask of floats)",
    ),
    "an empty mask": (
        lambda tb: (tb * u.K, {"mask": np.full(N_PIX, hp.UNSEEN)}), MapError,
        "mask: expected a mask that is above zero somewhere, got none such pixel",
    ),
    "another frame": (
        lambda tb: (tb * u.K, {"frame": "equatorial"}), MapError,
        "frame: expected a cube in the Galactic frame (G), got C; rotate each channel, as with "
        "healpy.Rotator(coord=['C', 'G']).rotate_map_pixel",
    ),
    "dust without unit": (
        lambda tb: (tb * u.K, {"dust": np.arange(N_PIX)}), MapError,
        "dust: expected its unit, got a plain array; pass dust_unit=, any "
        "text, such as mag or W/m2/sr; 1 for a number without a unit, such as an optical depth",
    ),
    "dust in another unit": (
        lambda tb: (tb * u.K, {"dust": np.arange(N_PIX) * u.mag}), MapError,
        "expected a dust map in uK_RJ, as the model was trained with, got mag of dust; convert it, "
        "or leave dust= out for the model's own scale",
    ),
    "dust in two units": (
        lambda tb: (tb * u.K, {"dust": np.arange(N_PIX) * u.mag, "dust_unit": "uK_RJ"}), MapError,
        "dust_unit: expected the unit of the dust map, mag, got uK_RJ; leave it out, or convert "
        "the map",
    ),
    "xarray of another variable": (
        lambda tb: (dataset(tb).rename(tb="T"), {}), MapError,
        "cube: expected the variable tb(velocity, pixel), got T; rename it to tb",
    ),
    "xarray of other axes": (
        lambda tb: (dataset(tb).rename(pixel="cell"), {}), ShapeError,
        "cube: expected tb(velocity, pixel), got axes ('velocity', 'cell'); rename them",
    ),
    "xarray without a unit of velocity": (
        lambda tb: (dataset(tb).assign_coords(velocity=KMS), {"velocity": None}), MapError,
        "cube: expected the coordinate velocity in km/s, as its attribute units states, got 'no "
        "unit'; state it, or pass velocity= as a Quantity",
    ),
    "xarray of another ordering": (
        lambda tb: (dataset(tb), {"nest": False}), MapError,
        "nest: expected True, as the cube says (ordering NESTED), got False; leave nest= out, or "
        "bring all arrays to one ordering",
    ),
    "xarray of no ordering": (
        lambda tb: (dataset(tb, ordering="ring2"), {}), MapError,
        "cube: expected ordering RING or NESTED, got 'RING2'; correct it",
    ),
    "xarray of another Nside": (
        lambda tb: (dataset(tb, nside=32), {}), ShapeError,
        "cube: expected the pixels of Nside 32, as its attribute nside states, got those of Nside "
        "16; correct the attribute",
    ),
    "xarray in another frame": (
        lambda tb: (dataset(tb, frame="C"), {"frame": None}), MapError,
        "frame: expected a cube in the Galactic frame (G), got C; rotate each channel, as with "
        "healpy.Rotator(coord=['C', 'G']).rotate_map_pixel",
    ),
}  # fmt: skip


def test_a_cube_brighter_than_the_line(model, tb):
    """As mK taken as K, where the sky is faint."""
    bright = np.minimum(130 * tb, 431.2)
    message = r"cube: .* some 200 K, got up to 431.2 K, and above 300 K in 0.\d+ of .*; if the num"
    with pytest.warns(MapWarning, match=message) as caught:
        predict(bright, model, unit="K")
    assert len(caught) == 1


@pytest.mark.parametrize("name", ["units", "unit", "BUNIT"])
def test_an_attribute_in_mk(name, tb):
    coordinate = xarray.Variable("velocity", KMS, {"units": "km/s"})
    attributes = {name: "mK", "frame": "G"}
    data = xarray.DataArray(
        1e3 * tb.astype(float), dims=("velocity", "pixel"), attrs=attributes,
        coords={"velocity": coordinate},
    )  # fmt: skip
    np.testing.assert_allclose(as_cube(data).tb[:][:, hp.ring2nest(NSIDE, 0)], tb[:, 0], rtol=1e-6)
    with pytest.raises(MapError, match="unit: expected 'mK', as the cube says, got 'K'"):
        as_cube(data, unit="K")


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.filterwarnings("ignore:no mask")
def test_mistakes(model, tb, kind):
    make, error, message = WRONG[kind]
    cube, said = make(tb)
    with pytest.raises(error, match=re.escape(message) + "$"):
        predict(cube, model, **said)


def test_workers_that_are_none(model, tb):
    with pytest.raises(ForeglowError, match=r"local:N \(processes here\) .*'2'"):
        predict(tb * u.K, model, workers=2)


def test_nothing_is_said_of_a_file(files):
    with pytest.raises(MapError) as told:
        predict(files / "hi.zarr", files / "model")
    assert str(told.value) == (
        "velocity: expected it with an array alone, got it beside an HI cube of foreglow, which "
        "states its own; leave it out"
    )
