"""Cubes that cannot be prepared: each with what was expected, what came and what to do."""

import gzip

import filelock
import healpy as hp
import numpy as np
import pytest
from astropy.io import fits

from foreglow.errors import MapError
from foreglow.hi_cube.prepare import prepare
from foreglow.maps.conventions import MapWarning
from foreglow.maps.write import write_maps
from hi_cubes import hi4pi_header, smooth_data, write_fits

pytestmark = pytest.mark.filterwarnings("ignore:Nside .* do not sample a beam")

SHAPE = (3, 10, 20)


def header(**changes):
    return hi4pi_header(SHAPE, 18.0, **changes)


@pytest.fixture
def data():
    return smooth_data(SHAPE, 18.0)


@pytest.fixture
def refuse(tmp_path):
    """Prepare what must be refused; nothing may be left where the cube would be."""

    def call(message, *paths, **options):
        with pytest.raises(MapError, match=message) as caught:
            prepare(list(paths), tmp_path / "out.zarr", **{"nside": 8, **options})
        assert not (tmp_path / "out.zarr").exists()
        assert "; " in str(caught.value) or options  # what to do

    return call


OPTICAL = r"an axis of radio velocity \(CTYPE3 = VRAD or VELO-LSR\), got one of optical velocity"
FRAME = r"from the local standard of rest"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"CTYPE3": "FREQ", "CUNIT3": "Hz"}, r"got one of frequency \(FREQ\); .*velocity_table="),
        ({"CTYPE3": "WAVE", "CUNIT3": "m"}, r"got one of wavelength \(WAVE\)"),
        ({"CTYPE3": "VOPT"}, OPTICAL + r" \(VOPT\); write the radio velocity"),
        ({"CTYPE3": "VOPT-F2W"}, OPTICAL),
        ({"CTYPE3": "FELO-LSR", "SPECSYS": None}, OPTICAL + r" \(FELO-LSR\)"),
        ({"CTYPE3": "VELO-LSR", "VELREF": 1}, OPTICAL + r" \(VELO-LSR with VELREF = 1\)"),
        ({"CTYPE3": "VRAD-W2F"}, r"got one that is not linear \(VRAD-W2F\)"),
        ({"CTYPE3": "HEIGHT"}, r"expected an axis of radio velocity .*, got 'HEIGHT'"),
        ({"CTYPE3": None}, "expected an axis of radio velocity .*, got 'none'"),
        ({"SPECSYS": "BARYCENT"}, FRAME + r" \(LSRK\), got SPECSYS says BARYCENT; the shift diff"),
        ({"SPECSYS": "HELIOCEN"}, "SPECSYS says HELIOCEN"),
        ({"SPECSYS": "LSRD"}, "SPECSYS says LSRD"),
        ({"CTYPE3": "VELO-HEL", "SPECSYS": None}, "CTYPE3 says BARYCENT"),
        ({"CTYPE3": "VELO-HEL"}, "SPECSYS says LSRK, CTYPE3 says BARYCENT"),
        ({"SPECSYS": None}, r"\(SPECSYS = LSRK\), got a header that does not say .*setval\(.*LSRK"),
        (
            {"CUNIT3": "Hz"},
            "unit of velocity in CUNIT3, m/s or km/s, got 'Hz' for channels 1288.23",
        ),
        ({"CDELT3": 0.0}, "the width of a channel in CDELT3, got 0.0"),
        ({"PC3_1": 0.1}, "a velocity axis of its own, got one coupled to axis 1"),
        ({"BUNIT": None}, r"\(BUNIT = K\), got none; .* unit='K'"),
        ({"BUNIT": "Jy/beam"}, r"\(BUNIT = K\), got Jy/beam; convert Jy/beam"),
        (
            {"BUNIT": "MK "},
            "temperatures of the 21 cm line, within 1000 K of zero, got 6.42",
        ),
        ({"CTYPE1": "OFFSET", "CTYPE2": "OFFSET"}, "axes 1 and 2 on the sky .*got OFFSET and OFF"),
        ({"CTYPE1": "GLON-XXX", "CTYPE2": "GLAT-XXX"}, "a projection of the sky .* cannot be read"),
    ],
)
def test_headers(refuse, data, tmp_path, changes, message):
    path = write_fits(tmp_path / "c.fits", data, header(**changes))
    refuse(message, path)


def test_a_unit_for_a_cube_without_one(refuse, data, tmp_path):
    bare = write_fits(tmp_path / "c.fits", data, header(BUNIT=None))
    stated = write_fits(tmp_path / "s.fits", data, header())
    refuse("expected unit='K' or 'mK', got 'Jy'", bare, unit="Jy")
    refuse("unit= to agree with BUNIT = 'K', got 'mK'", stated, unit="mK")
    cube = prepare([bare], tmp_path / "out.zarr", nside=8, unit="mK")
    whole = prepare([stated], tmp_path / "k.zarr", nside=8, unit="K")
    np.testing.assert_allclose(cube.channel(0), 1e-3 * whole.channel(0), rtol=1e-6)


def test_files(refuse, data, tmp_path):
    whole = write_fits(tmp_path / "c.fits", data, header())
    content = whole.read_bytes()
    (tmp_path / "t.fits").write_bytes(content[:-2000])
    refuse("where the header promises 2400: the file is truncated or damaged", tmp_path / "t.fits")
    (tmp_path / "h.fits").write_bytes(content[:1000])
    refuse("got a file that cannot be read", tmp_path / "h.fits")
    (tmp_path / "text.fits").write_text("not FITS")
    refuse("got a file that cannot be read", tmp_path / "text.fits")
    flat = write_fits(tmp_path / "flat.fits", data[0], None)
    refuse(r"an image of three axes .* got \(10, 20\); give the cube", flat)
    refuse("expected a FITS file, got none", tmp_path / "absent.fits")
    refuse("at least one cube, got none; name")
    refuse("expected each cube once, got .*c.fits twice", whole, whole)
    packed = fits.CompImageHDU(data, header(WCSAXES=None))
    packed.writeto(tmp_path / "packed.fits")
    refuse("expected a plain image, got one in compressed tiles", tmp_path / "packed.fits")


def test_axes(refuse, data, tmp_path):
    four = write_fits(tmp_path / "c.fits", np.stack([data, data]), header(CTYPE4="STOKES"))
    refuse(r"all others of length 1, got CTYPE3 = 'VRAD' \(3\), CTYPE4 = 'STOKES' \(2\)", four)


def test_pixels_observed_in_some_channels_only(data, tmp_path):
    data[1, :5] = np.nan
    path = write_fits(tmp_path / "c.fits", data, header())
    with pytest.warns(MapWarning, match="768 pixels are observed in some channels, but only .* 1;"):
        cube = prepare([path], tmp_path / "out.zarr", nside=8)
    assert 0.3 < cube.observed_fraction < 0.6


def test_infinite_values(refuse, data, tmp_path):
    data[1, 3, 3] = np.inf
    path = write_fits(tmp_path / "c.fits", data, header())
    refuse("expected finite values or NaN .*, got Inf in plane 2", path)


def test_options(refuse, data, tmp_path):
    path = write_fits(tmp_path / "c.fits", data, header())
    refuse("an Nside that is a power of two, got 100", path, nside=100)
    refuse("channels from 50 to inf km/s, got a cube from -3 to -0.42", path, low_kms=50)
    refuse("memory as '2 GiB' or '500 MiB', got 'much'", path, memory="much")
    refuse(
        "for 1 channel of Nside 8 at a time, .* got 20.00 MiB; give more memory=",
        path,
        memory="20MiB",
    )
    refuse(
        "beam_arcmin= to agree with the header, which says 16.24 arcmin, got 9", path, beam_arcmin=9
    )
    refuse("a velocity in km/s on each line", path, velocity_table=path)
    refuse(r"a beam \(FWHM, arcmin\) above zero, got -1; give the beam", path, beam_arcmin=-1)
    small = write_fits(tmp_path / "small.fits", data, hi4pi_header(SHAPE, 0.1))
    refuse("covers the centre of at least one pixel of Nside 8", small)


def test_output(data, tmp_path):
    path = write_fits(tmp_path / "c.fits", data, header())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    prepare([path], tmp_path / "c.zarr", nside=8)
    with pytest.raises(MapError, match="a name that is free, got one that exists already"):
        prepare([path], tmp_path / "c.zarr", nside=8)
    with pytest.raises(MapError, match="something else, which overwrite=True will not delete"):
        prepare([path], tmp_path / "mine", nside=8, overwrite=True)
    assert prepare([path], tmp_path / "c.zarr", nside=4, overwrite=True).nside == 4


def test_two_at_once(refuse, data, tmp_path):
    """The second says so and leaves alone what the first has begun; no lock stays behind."""
    path = write_fits(tmp_path / "c.fits", data, header())
    begun = tmp_path / "out.zarr.partial" / "mine"
    begun.mkdir(parents=True)
    with filelock.FileLock(tmp_path / ".out.zarr.lock"):
        refuse("got another process at it; wait for that one, then .* with resume=True", path)
    assert begun.is_dir()
    prepare(path, tmp_path / "out.zarr", nside=8)
    assert {p.name for p in tmp_path.iterdir()} == {"c.fits", "out.zarr"}


def test_tiles_that_do_not_go_together(refuse, data, tmp_path):
    path = write_fits(tmp_path / "c.fits", data, header())
    shifted = write_fits(tmp_path / "s.fits", data, header(CRVAL3=300.0))
    refuse("tiles with the same velocity channels, got 3 from -3 to .*regrid", path, shifted)
    blurred = write_fits(tmp_path / "b.fits", data, header(BMAJ=0.6, BMIN=0.6))
    refuse("tiles of one beam, got 16.236 arcmin in .* but 36.0 arcmin in", path, blurred)
    unknown = write_fits(tmp_path / "u.fits", data, header(BMAJ=None, BMIN=None))
    refuse("but none in .*u.fits; pass beam_arcmin=", path, unknown)
    write_maps(tmp_path / "h.fits", {"A": (np.ones(768, np.float32), "K")}, frame="G")
    refuse("image cubes alone or HEALPix maps alone", path, tmp_path / "h.fits")


def test_an_oblique_plate_carree(data, tmp_path):
    """Old files mean a plain grid by CRVAL2 = 40; the standard does not."""
    path = write_fits(tmp_path / "c.fits", data, header(CRVAL2=40.0, LATPOLE=None, LONPOLE=None))
    with pytest.warns(MapWarning, match="CAR with CRVAL2 = 40.0 is taken as the standard has it"):
        prepare([path], tmp_path / "out.zarr", nside=8)


# ---- HEALPix maps ----------------------------------------------------------------------------


def channel_file(path, values, velocity=None, unit="K", **options):
    cards = {} if velocity is None else {"VELO-LSR": velocity}
    write_maps(path, {"TB": (values, unit)}, header=cards, **{"frame": "G", **options})
    return path


def test_healpix_maps(refuse, tmp_path):
    ones, finer = np.ones(768, np.float32), np.ones(3072, np.float32)
    a = channel_file(tmp_path / "a.fits", ones, 0.0)
    none = channel_file(tmp_path / "none.fits", ones)
    fine = channel_file(tmp_path / "fine.fits", finer, 1000.0)
    nested = channel_file(tmp_path / "nested.fits", ones, 1000.0, ordering="NESTED")
    celestial = channel_file(tmp_path / "celestial.fits", ones, 1000.0, frame="C")
    bare = channel_file(tmp_path / "bare.fits", ones, 1000.0, unit="")
    refuse("one Nside and ordering, got Nside 8 RING .*; Nside 16 RING in", a, fine, nside=None)
    refuse("one Nside and ordering, got .*; Nside 8 NESTED in", a, nested)
    refuse(r"Galactic coordinates \(COORDSYS = G\), got C", a, celestial)
    refuse(r"\(TUNIT of TB = K\), got none; .*unit='K'", a, bare)
    refuse("the velocity of each channel, .*, got none for 2 channels; write them", a, none)
    refuse("expected the Nside of the maps, 8, got nside=16; leave it out", a, nside=16)
    write_maps(tmp_path / "two.fits", dict.fromkeys("AB", (ones, "K")), frame="G")
    refuse("one channel in each of several files, got 2, columns A, B", a, tmp_path / "two.fits")
    hp.write_map(tmp_path / "six.fits", np.ones(432), column_units="K", dtype=np.float32)
    refuse("expected NSIDE, a power of two, .* got 6 and RING", tmp_path / "six.fits", nside=None)


def test_velocities_of_healpix_maps(refuse, tmp_path):
    columns = {f"C{k}": (np.full(768, k, np.float32), "K") for k in range(4)}
    write_maps(tmp_path / "c.fits", columns, frame="G")
    for text, message in (
        ("1\n2\n", r"expected 4 velocities, one a channel, got an array of shape \(2,\)"),
        ("1\n3\n2\n4\n", "velocities in km/s that ascend"),
        ("1\n2\n2\n3\n", "velocities in km/s that ascend"),
        ("1\n2\n4\n5\n", "in even steps, got 2 km/s from 2 to 4 km/s, where most steps are 1 km/s"),
        ("1\nfast\n", "expected a velocity in km/s on each line"),
    ):
        (tmp_path / "v.txt").write_text(text)
        refuse(message, tmp_path / "c.fits", velocity_table=tmp_path / "v.txt")
    files = [channel_file(tmp_path / f"{k}.fits", np.ones(768), 1000.0 * k) for k in (0, 1, 3, 4)]
    refuse("in even steps, got 2 km/s from 1 to 3 km/s", *files)
    refuse("velocities in km/s that ascend", *files[:1], copy(files[0]), *files[1:2])


def copy(path):
    other = path.with_name("copy.fits")
    other.write_bytes(path.read_bytes())
    return other


def test_a_gzipped_table_that_is_too_large(refuse, tmp_path):
    path = channel_file(tmp_path / "c.fits", np.zeros(12 * 64**2), 0.0)
    with gzip.open(tmp_path / "c.fits.gz", "wb") as stream:
        stream.write(path.read_bytes())
    refuse(
        "a gzipped table, which has to be loaded, .*; gunzip it",
        tmp_path / "c.fits.gz", nside=None, memory="700 kB",
    )  # fmt: skip
