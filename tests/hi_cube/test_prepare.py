"""Cubes as surveys publish them, made into ours: what lands where, and with which value."""

import gzip
import shutil

import healpy as hp
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from reproject import reproject_to_healpix

from foreglow.errors import MapError
from foreglow.hi_cube.cube import open_cube
from foreglow.hi_cube.prepare import prepare
from foreglow.hi_cube.tiles import finest_needed
from foreglow.maps.conventions import MapWarning
from hi_cubes import HI4PI_STEP, hi4pi_header, raw_fits, smooth_data, smooth_sky, write_fits

pytestmark = pytest.mark.filterwarnings("ignore:Nside .* do not sample a beam")

SHAPE = (5, 91, 181)  # 2 deg, columns at l = 180 on both sides, as HI4PI has
LON, LAT = hp.pix2ang(32, np.arange(12 * 32**2), lonlat=True)


@pytest.fixture
def all_sky(tmp_path):
    return write_fits(tmp_path / "CAR.fits", smooth_data(SHAPE), hi4pi_header())


def stack(cube):
    return np.stack(list(cube.channels()))


# ---- one cube --------------------------------------------------------------------------------


def test_all_sky_in_the_form_of_hi4pi(all_sky, tmp_path):
    cube = prepare([all_sky], tmp_path / "c.zarr", nside=32)
    found = stack(cube)
    assert cube.beam_arcmin == pytest.approx(16.236)
    np.testing.assert_allclose(cube.velocity_kms, -3 + 1e-3 * HI4PI_STEP * np.arange(5), atol=1e-9)
    for k in range(5):
        np.testing.assert_allclose(found[k], smooth_sky(LON, LAT, k), atol=3e-3)
    assert cube.observed_fraction == 1


def test_it_is_what_reproject_makes(all_sky, tmp_path):
    """Channel by channel the library's own function, apart from its edges."""
    cube = prepare([all_sky], tmp_path / "c.zarr", nside=32)
    data, header = fits.getdata(all_sky), fits.getheader(all_sky)
    for k in (0, 4):
        expected = reproject_to_healpix(
            (data[k].astype(np.float32), WCS(header).celestial), "galactic", nside=32
        )[0]
        np.testing.assert_allclose(cube.channel(k), expected, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [{}, {"CTYPE1": "RA---CAR", "CTYPE2": "DEC--CAR", "RADESYS": "FK5", "EQUINOX": 2000.0}],
)
def test_a_point_source_is_where_it_is(tmp_path, changes):
    """A bright pixel of the grid is the brightest HEALPix pixel, at its own l and b."""
    from astropy.coordinates import SkyCoord

    data = np.ones(SHAPE, np.float32)
    column, row = 40, 60
    data[2, row, column] = 100
    header = hi4pi_header(**changes)
    path = write_fits(tmp_path / "c.fits", data, header)
    cube = prepare([path], tmp_path / "c.zarr", nside=64)
    lon, lat = -2.0 * (column + 1 - 91), 2.0 * (row + 1 - 46)  # l grows to the left
    where = SkyCoord(lon, lat, unit="deg", frame="fk5" if changes else "galactic").galactic
    pixel = hp.ang2pix(64, where.l.deg, where.b.deg, lonlat=True)
    brightest = int(np.argmax(cube.channel(2)))
    away = hp.rotator.angdist(hp.pix2ang(64, pixel), hp.pix2ang(64, brightest))
    assert np.degrees(away) < 1.2 * hp.nside2resol(64, arcmin=True) / 60
    assert np.nanmax(cube.channel(1)) == 1


def test_a_sin_projection_stays_partial(tmp_path):
    header = hi4pi_header(
        (2, 61, 61), 0.5, CTYPE1="RA---SIN", CTYPE2="DEC--SIN", CRVAL1=83.8, CRVAL2=-5.4,
        LONPOLE=180.0, LATPOLE=None, RADESYS="ICRS",
    )  # fmt: skip
    sky = WCS(header).celestial.pixel_to_world(*np.meshgrid(np.arange(61), np.arange(61))).galactic
    data = np.stack([smooth_sky(sky.l.deg, sky.b.deg, k) for k in range(2)])
    path = write_fits(tmp_path / "orion.fits", data, header)
    cube = prepare([path], tmp_path / "c.zarr", nside=64)
    found = cube.channel(1)
    lon, lat = hp.pix2ang(64, np.arange(found.size), lonlat=True)
    seen = np.isfinite(found)
    assert seen.mean() == pytest.approx(953 / 41253, rel=0.02)  # square degrees
    away = np.abs(found - smooth_sky(lon, lat, 1))[seen]
    assert np.quantile(away, 0.9) < 1e-3
    assert away.max() < 2e-2  # within half a pixel of the edge
    assert cube.observed_fraction == seen.mean()


def test_a_grid_around_the_sky_without_a_column_twice(tmp_path):
    """The gap between its last and its first column is interpolated across."""
    shape = (1, 91, 180)
    crpix = (90.0, 46.0)
    path = write_fits(
        tmp_path / "c.fits", smooth_data(shape, crpix=crpix), hi4pi_header(shape, crpix=crpix)
    )
    found = prepare([path], tmp_path / "c.zarr", nside=32).channel(0)
    np.testing.assert_allclose(found, smooth_sky(LON, LAT), atol=3e-3)


def test_a_tile_beyond_the_end_of_the_native_longitude(tmp_path):
    """Cut from a grid around l = 0, at l = 180: its reference pixel is half a turn away."""
    shape, crpix = (2, 31, 31), (106.0, 16.0)  # column 16 lies at l = 180
    data = smooth_data(shape, crpix=crpix)
    path = write_fits(tmp_path / "c.fits", data, hi4pi_header(shape, crpix=crpix))
    found = prepare([path], tmp_path / "c.zarr", nside=32).channel(0)
    inside = (np.abs(LON - 180) < 30.9) & (np.abs(LAT) < 30.9)
    assert np.isfinite(found[inside]).all()
    inner = (np.abs(LON - 180) < 30) & (np.abs(LAT) < 30)
    np.testing.assert_allclose(found[inner], smooth_sky(LON, LAT)[inner], atol=3e-3)


# ---- velocities, units, blanks ---------------------------------------------------------------


def test_a_range_of_velocities(all_sky, tmp_path):
    cube = prepare([all_sky], tmp_path / "c.zarr", nside=16, low_kms=-2, high_kms=0)
    whole = prepare([all_sky], tmp_path / "w.zarr", nside=16)
    np.testing.assert_array_equal(cube.velocity_kms, whole.velocity_kms[1:3])
    np.testing.assert_array_equal(stack(cube), stack(whole)[1:3])


@pytest.mark.parametrize(
    ("changes", "scale"),
    [
        ({"CUNIT3": "km/s", "CDELT3": HI4PI_STEP / 1000}, 1),
        ({"CTYPE3": "VRAD-F2F"}, 1),
        ({f"PC0{i}_0{j}": float(i == j) for i in (1, 2, 3) for j in (1, 2, 3)}, 1),
        ({f"CD00{i}00{i}": step for i, step in ((1, -2.0), (2, 2.0), (3, HI4PI_STEP))}, 1),
        ({"CUNIT1": "arcmin", "CUNIT2": "ARCSEC", "CDELT1": -120.0, "CDELT2": 7200.0}, 1),
        ({"CUNIT3": "M/S", "CTYPE3": "VELO-LSRK", "SPECSYS": None}, 1),
        ({"CTYPE3": "VELO-LSR", "SPECSYS": None, "VELREF": 257}, 1),
        ({"CTYPE3": "VELOCITY"}, 1),
        ({"CDELT3": None, "CD3_3": HI4PI_STEP, "CD1_1": -2.0, "CD2_2": 2.0}, 1),
        ({"BUNIT": "mK"}, 1e-3),
        ({"BUNIT": "K (Tb)"}, 1),
    ],
)
def test_other_ways_to_say_the_same(all_sky, tmp_path, changes, scale):
    path = write_fits(tmp_path / "o.fits", fits.getdata(all_sky), hi4pi_header(**changes))
    reference = prepare([all_sky], tmp_path / "r.zarr", nside=16)
    cube = prepare([path], tmp_path / "c.zarr", nside=16)
    np.testing.assert_allclose(cube.velocity_kms, reference.velocity_kms, atol=1e-9)
    np.testing.assert_allclose(stack(cube), scale * stack(reference), rtol=1e-6)


def test_a_descending_axis_is_flipped_and_recorded(all_sky, tmp_path):
    header = hi4pi_header()
    header["CRVAL3"], header["CRPIX3"] = -3000 + 4 * HI4PI_STEP, 1
    header["CDELT3"] = -HI4PI_STEP
    path = write_fits(tmp_path / "d.fits", fits.getdata(all_sky)[::-1], header)
    cube = prepare([path], tmp_path / "c.zarr", nside=16)
    reference = prepare([all_sky], tmp_path / "r.zarr", nside=16)
    np.testing.assert_allclose(cube.velocity_kms, reference.velocity_kms, atol=1e-9)
    np.testing.assert_array_equal(stack(cube), stack(reference))
    import zarr

    assert "flipped" in zarr.open_group(cube.path, mode="r").attrs["inputs"][0]["velocity"]


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.float64])
def test_scaled_integers_and_blanks(tmp_path, kind):
    values = smooth_data(SHAPE)
    header = hi4pi_header()
    integers = np.issubdtype(kind, np.integer)
    if integers:
        header["BSCALE"], header["BZERO"], header["BLANK"] = 0.001, 12.0, -32768
        stored = np.round((values - 12.0) / 0.001).astype(kind)
        stored[:, 40:50, 80:100] = -32768
        (tmp_path / "s.fits").write_bytes(raw_fits(stored, header))
    else:
        values[:, 40:50, 80:100] = np.nan
        write_fits(tmp_path / "s.fits", values.astype(kind), header)
    found = prepare([tmp_path / "s.fits"], tmp_path / "c.zarr", nside=32).channel(3)
    lon = (LON + 180) % 360 - 180
    blank = (lon < 22) & (lon > -20) & (LAT > -12) & (LAT < 10)  # and the neighbours
    assert np.isnan(found[(np.abs(lon) < 18) & (LAT > -10) & (LAT < 6)]).all()
    tolerance = 4e-3 if integers else 3e-3
    np.testing.assert_allclose(found[~blank], smooth_sky(LON, LAT, 3)[~blank], atol=tolerance)


@pytest.mark.parametrize("stokes", [3, 4])
def test_an_axis_of_length_one(all_sky, tmp_path, stokes):
    """Polarisation as the fourth axis or, as CASA has it, the third."""
    data = fits.getdata(all_sky)
    header = hi4pi_header(WCSAXES=4)
    if stokes == 3:
        for key in ("CDELT", "CRPIX", "CRVAL", "CTYPE", "CUNIT"):
            header[f"{key}4"] = header[f"{key}3"]
            del header[f"{key}3"]
    header[f"CTYPE{stokes}"] = "STOKES"
    path = write_fits(tmp_path / "s.fits", data[None] if stokes == 4 else data[:, None], header)
    cube = prepare([path], tmp_path / "c.zarr", nside=16)
    reference = prepare([all_sky], tmp_path / "r.zarr", nside=16)
    np.testing.assert_array_equal(stack(cube), stack(reference))


def test_gzipped(all_sky, tmp_path):
    packed = tmp_path / "c.fits.gz"
    with all_sky.open("rb") as plain, gzip.open(packed, "wb") as stream:
        shutil.copyfileobj(plain, stream)
    cube = prepare([packed], tmp_path / "c.zarr", nside=16)
    reference = prepare([all_sky], tmp_path / "r.zarr", nside=16)
    np.testing.assert_array_equal(stack(cube), stack(reference))
    packed.write_bytes(packed.read_bytes()[:-5000])
    with pytest.raises(MapError, match=r"complete|truncated or damaged"):
        prepare([packed], tmp_path / "t.zarr", nside=16)


# ---- tiles -----------------------------------------------------------------------------------


def cut(tmp_path, columns, shift=0.0, name=None, **changes):
    """A tile from the columns of the all-sky grid, with its own reference pixel."""
    data = smooth_data(SHAPE)[:, 20:70, columns] + np.float32(shift)
    crpix = (91.0 - columns.start, 46.0 - 20)
    path = tmp_path / (name or f"CAR_{columns.start}.fits")
    return write_fits(path, data, hi4pi_header(data.shape, crpix=crpix, **changes))


def test_tiles_make_one_cube(all_sky, tmp_path):
    tiles = [cut(tmp_path, slice(start, start + 70)) for start in (0, 56, 111)]
    found = stack(prepare(tiles, tmp_path / "c.zarr", nside=32))
    whole = stack(prepare([all_sky], tmp_path / "w.zarr", nside=32))
    inside = (LAT > -51) & (LAT < 47)
    np.testing.assert_allclose(found[:, inside], whole[:, inside], atol=3e-6)
    assert np.isnan(found[:, (LAT < -53.5) | (LAT > 49.5)]).all()


def test_where_tiles_overlap_the_deeper_one_counts(tmp_path):
    """Whatever their order; a blank of the one is filled by the other."""
    left, right = cut(tmp_path, slice(40, 90), 0.0), cut(tmp_path, slice(80, 130), 100.0)
    found = prepare([left, right], tmp_path / "a.zarr", nside=32).channel(0)
    turned = prepare([right, left], tmp_path / "b.zarr", nside=32).channel(0)
    column = 90 - ((LON + 180) % 360 - 180) / 2  # counted from 0 in the whole grid
    midway = np.abs(column - 84.5) < 1e-3  # the first given counts
    np.testing.assert_array_equal(found[~midway], turned[~midway])
    inside = (np.abs(LAT) < 40) & (column > 50) & (column < 120)
    shift = found - smooth_sky(LON, LAT)
    np.testing.assert_allclose(shift[inside & (column < 84.4)], 0, atol=3e-3)
    np.testing.assert_allclose(shift[inside & (column > 84.6)], 100, atol=3e-3)
    with fits.open(left, mode="update") as hdus:
        hdus[0].data[:, :, 40:44] = np.nan  # columns 80 to 83
    filled = prepare([left, right], tmp_path / "f.zarr", nside=32).channel(0)
    np.testing.assert_allclose(
        filled[inside & (column > 80) & (column < 83)]
        - smooth_sky(LON, LAT)[inside & (column > 80) & (column < 83)],
        100,
        atol=3e-3,
    )


# ---- Nside and beam --------------------------------------------------------------------------


@pytest.mark.parametrize(("pixel", "nside"), [(5, 1024), (30, 128), (4.8, 1024), (3.4, 2048)])
def test_the_nside_that_a_grid_needs(pixel, nside):
    assert finest_needed(pixel) == nside


@pytest.mark.filterwarnings("default:Nside")
def test_what_is_said_of_the_beam(all_sky, tmp_path):
    with pytest.warns(MapWarning, match=r"pixels of 110 arcmin, .* a beam of 16.2 arcmin.*512"):
        prepare([all_sky], tmp_path / "a.zarr")
    bare = write_fits(tmp_path / "b.fits", fits.getdata(all_sky), hi4pi_header(BMAJ=None))
    with pytest.warns(MapWarning, match=r"no beam in the header \(BMAJ\)") as said:
        assert prepare([bare], tmp_path / "b.zarr", nside=16).beam_arcmin is None
    assert len(said) == 1
    assert "do not sample the cube's of 120 arcmin" in str(said[0].message)
    assert prepare([bare], tmp_path / "c.zarr", nside=64, beam_arcmin=240).beam_arcmin == 240


def test_the_default_nside_is_that_of_the_pixels(all_sky, tmp_path):
    assert prepare([all_sky], tmp_path / "a.zarr").nside == 32


# ---- going on --------------------------------------------------------------------------------


@pytest.fixture
def long_cube(tmp_path):
    shape = (20, 46, 91)
    header = hi4pi_header(shape, 4.0)
    return write_fits(tmp_path / "long.fits", smooth_data(shape, 4.0), header)


def stop_after(n):
    def progress(done, total):
        if done >= n:
            raise KeyboardInterrupt

    return progress


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_resume_gives_the_same_files(long_cube, tmp_path):
    whole = prepare([long_cube], tmp_path / "whole.zarr", nside=16)
    with pytest.raises(KeyboardInterrupt):
        prepare([long_cube], tmp_path / "c.zarr", nside=16, progress=stop_after(16))
    with pytest.raises(MapError, match=r"was interrupted.*resume=True"):
        open_cube(tmp_path / "c.zarr")
    done = []
    cube = prepare(
        [long_cube], tmp_path / "c.zarr", nside=16, resume=True, memory="3 GiB",
        progress=lambda d, n: done.append(d),
    )  # fmt: skip
    assert done == [20]
    assert files_of(cube.path) == files_of(whole.path)
    again = prepare([long_cube], tmp_path / "c.zarr", nside=16, resume=True)  # whole: nothing to do
    np.testing.assert_array_equal(again.channel(3), whole.channel(3))


def test_resume_keeps_to_the_settings(long_cube, tmp_path):
    out = tmp_path / "c.zarr"
    with pytest.raises(KeyboardInterrupt):
        prepare([long_cube], out, nside=16, progress=stop_after(8))
    with pytest.raises(MapError, match=r"another nside \(nside: 16 then, 8 now\); resume with the"):
        prepare([long_cube], out, nside=8, resume=True)
    with pytest.raises(MapError, match=r"expected memory for 8 channels .*give more memory="):
        prepare([long_cube], out, nside=16, resume=True, memory="10 MiB")
    write_fits(long_cube, fits.getdata(long_cube) + 1, fits.getheader(long_cube))
    with pytest.raises(MapError, match="another files"):
        prepare([long_cube], out, nside=16, resume=True)
    cube = prepare([long_cube], out, nside=16)  # anew
    with pytest.raises(MapError, match="another low_kms"):
        prepare([long_cube], cube.path, nside=16, low_kms=0, resume=True)


def test_a_damaged_half_is_not_gone_on_with(long_cube, tmp_path):
    out = tmp_path / "c.zarr"
    with pytest.raises(KeyboardInterrupt):
        prepare([long_cube], out, nside=16, progress=stop_after(8))
    (tmp_path / "c.zarr.partial" / "progress.json").write_text("{")
    with pytest.raises(MapError, match=r"something damaged .* remove it and begin anew"):
        prepare([long_cube], out, nside=16, resume=True)


def test_less_memory_takes_fewer_channels_at_a_time(long_cube, tmp_path):
    """And gives the same values."""
    needed = r"expected memory for 1 channel of Nside 256 at a time, (\d+\.\d+) MiB, got 250.00 MiB"
    with pytest.raises(MapError, match=needed):
        prepare([long_cube], tmp_path / "c.zarr", nside=256, memory="250 MiB", high_kms=0)
    thin = prepare([long_cube], tmp_path / "t.zarr", nside=256, memory="370 MiB", high_kms=7)
    thick = prepare([long_cube], tmp_path / "w.zarr", nside=256, high_kms=7)
    assert thin.tb.chunks[0] < thick.tb.chunks[0]
    np.testing.assert_array_equal(stack(thin), stack(thick))
