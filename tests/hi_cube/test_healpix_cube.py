"""HI cubes that are HEALPix already: columns or files, whole or partial, RING or NESTED."""

import gzip

import healpy as hp
import numpy as np
import pytest
from astropy.io import fits

from foreglow.data.check import check_file
from foreglow.errors import MapError
from foreglow.hi_cube import healpix_cube as cube_healpix
from foreglow.hi_cube.prepare import prepare
from foreglow.maps.conventions import MapWarning
from foreglow.maps.write import write_maps

pytestmark = pytest.mark.filterwarnings("error")
NSIDE, N_PIX, N = 16, 3072, 10
VELOCITY = -5 + 0.5 * np.arange(N)


@pytest.fixture
def maps():
    values = np.random.default_rng(1).normal(size=(N, N_PIX)).astype(np.float32)
    values[:, 500:900] = np.nan
    return values


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    monkeypatch.setattr(cube_healpix, "_BATCH", 1024)
    monkeypatch.setattr(cube_healpix, "_SAMPLE", 100)


def axis_cards(path, step=500.0, first=-5000.0):
    with fits.open(path, mode="update") as hdus:
        hdus[1].header.update(
            {"CTYPE3": "VRAD", "CUNIT3": "m/s", "CRVAL3": first, "CRPIX3": 1.0, "CDELT3": step,
             "SPECSYS": "LSRK"}
        )  # fmt: skip
    return path


def check(cube, maps):
    np.testing.assert_allclose(cube.velocity_kms, VELOCITY)
    np.testing.assert_array_equal(np.stack(list(cube.channels())), maps)
    assert cube.nside == NSIDE


@pytest.mark.parametrize("ordering", ["RING", "NESTED"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_column_a_channel(maps, tmp_path, ordering, packed):
    stored = hp.reorder(maps, r2n=True) if ordering == "NESTED" else maps
    columns = {f"C{k}": (stored[k], "K") for k in range(N)}
    path = tmp_path / "c.fits"
    write_maps(path, columns, frame="G", ordering=ordering)
    axis_cards(path)
    if packed:
        with gzip.open(tmp_path / "c.fits.gz", "wb") as stream:
            stream.write(path.read_bytes())
        path = tmp_path / "c.fits.gz"
    check(prepare([path], tmp_path / "c.zarr", beam_arcmin=16.2), maps)


def test_velocities_from_a_table(maps, tmp_path):
    """Descending ones are flipped; mK becomes K."""
    columns = {f"C{k}": (1000 * maps[k], "mK") for k in range(N)[::-1]}
    write_maps(tmp_path / "c.fits", columns, frame="G")
    (tmp_path / "v.txt").write_text("# km/s LSRK\n" + "\n".join(f"{v}" for v in VELOCITY[::-1]))
    cube = prepare([tmp_path / "c.fits"], tmp_path / "c.zarr", velocity_table=tmp_path / "v.txt")
    np.testing.assert_allclose(np.stack(list(cube.channels())), maps, rtol=1e-6)


def test_a_file_a_channel(maps, tmp_path):
    """In the order of their velocities, whatever that of their names."""
    files = []
    for k in range(N):
        path = tmp_path / f"channel_{k}.fits"
        cards = {"VELO-LSR": 1000 * VELOCITY[k]}
        write_maps(path, {"TB": (maps[k], "K")}, frame="G", header=cards)
        files.insert(0 if k % 2 else len(files), path)
    check(prepare(files, tmp_path / "c.zarr", beam_arcmin=16.2), maps)
    part = prepare(files, tmp_path / "p.zarr", low_kms=-4, high_kms=-3)
    np.testing.assert_array_equal(np.stack(list(part.channels())), maps[2:5])


@pytest.mark.parametrize("nest", [False, True])
def test_partial_maps(maps, tmp_path, nest):
    """Explicit pixels, as healpy writes them: few chunks of the sky are touched."""
    nside = 128
    whole = np.full((3, hp.nside2npix(nside)), hp.UNSEEN, np.float32)
    whole[:, 1000:1300] = np.random.default_rng(0).normal(size=(3, 300))
    hp.write_map(tmp_path / "c.fits", whole, nest=nest, partial=True, coord="G", column_units="K")
    axis_cards(tmp_path / "c.fits")
    cube = prepare([tmp_path / "c.fits"], tmp_path / "c.zarr")
    expected = np.where(whole == hp.UNSEEN, np.nan, whole)
    expected = hp.reorder(expected, n2r=True) if nest else expected
    np.testing.assert_array_equal(np.stack(list(cube.channels())), expected)
    assert len(list((cube.path / "tb" / "c").rglob("*/*"))) <= 4


# ---- a spectrum in each row ------------------------------------------------------------------


def spectra(path, maps, pixels=None, more=(), ordering="RING"):
    """A table whose rows are pixels and whose one column has all channels."""
    stored = hp.reorder(maps, r2n=True) if ordering == "NESTED" else maps
    cards = {"PIXTYPE": "HEALPIX", "ORDERING": ordering, "COORDSYS": "G", "NSIDE": NSIDE}
    columns = [fits.Column("SPECTRUM", f"{N}E", unit="K", array=stored.T), *more]
    if pixels is not None:
        columns[0] = fits.Column("SPECTRUM", f"{N}E", unit="K", array=stored.T[pixels])
        columns.insert(0, fits.Column("PIXEL", "J", array=pixels))
        cards["INDXSCHM"] = "EXPLICIT"
    table = fits.BinTableHDU.from_columns(columns)
    table.header.update(cards)
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    return path


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "v.txt"
    np.savetxt(path, VELOCITY)
    return path


@pytest.mark.parametrize("ordering", ["RING", "NESTED"])
def test_a_spectrum_a_row(maps, tmp_path, ordering):
    path = axis_cards(spectra(tmp_path / "c.fits", maps, ordering=ordering))
    check(prepare([path], tmp_path / "c.zarr", beam_arcmin=16.2), maps)
    assert f"an HI cube of {N} channels from -5.00" in check_file(path).what


def test_a_spectrum_a_row_of_some_pixels(maps, tmp_path, table):
    pixels = np.arange(100, 2000, 3)
    path = spectra(tmp_path / "c.fits", maps, pixels)
    expected = np.full_like(maps, np.nan)
    expected[:, pixels] = maps[:, pixels]
    check(prepare([path], tmp_path / "c.zarr", velocity_table=table), expected)


def test_spectra_without_velocities_are_told_what_they_are(maps, tmp_path):
    path = spectra(tmp_path / "c.fits", maps)
    with pytest.raises(MapError, match=f"got none for {N} channels; .* velocity_table="):
        prepare([path], tmp_path / "c.zarr")
    report = check_file(path)
    assert report.what.startswith(f"an HI cube of {N} channels, a spectrum in each row")
    assert "--velocity-table FILE" in report.fits[0]
    assert "does not say the velocity of its 10 channels" in report.notes[0]


def test_other_columns_beside_spectra(maps, tmp_path, table):
    noise = fits.Column("NOISE", "E", unit="K", array=maps[0])
    path = spectra(tmp_path / "c.fits", maps, more=[noise])
    with pytest.raises(MapError, match="one column of spectra alone, got columns SPECTRUM, NOISE"):
        prepare([path], tmp_path / "c.zarr", velocity_table=table)
    with pytest.raises(MapError, match=r"or as many rows .* got 7680 values in 768 rows"):
        prepare([spectra(tmp_path / "d.fits", maps[:, :768])], tmp_path / "c.zarr")


# ---- what is found before the work -----------------------------------------------------------


def test_placeholders_and_blank_channels(maps, tmp_path):
    maps[:, 900:1200] = -32768
    path = axis_cards(spectra(tmp_path / "c.fits", maps))
    with pytest.warns(MapWarning, match=r"-32768 in 9\d of 8[6-8]\d values looked at") as said:
        cube = prepare([path], tmp_path / "c.zarr")
    assert len(said) == 1
    maps[:, 900:1200] = np.nan
    check(cube, maps)
    maps[4] = np.nan
    maps[4, 5] = 1.0
    path = axis_cards(spectra(tmp_path / "d.fits", maps))
    with pytest.warns(MapWarning, match="but only 1 in channel 4"):  # which no sample has
        assert prepare([path], tmp_path / "d.zarr").n_channel == N
    maps[4] = np.nan
    path = axis_cards(spectra(tmp_path / "e.fits", maps))
    with pytest.raises(MapError, match=r"NaN in channel 4 at -3 km/s; .* low_kms=-2.75, hi"):
        prepare([path], tmp_path / "e.zarr")
    assert not (tmp_path / "e.zarr.partial").exists()
    report = check_file(path)
    assert ("none but NaN in channel 4" in report.problems[0], report.fits) == (True, ())


def test_another_unit_than_it_says(maps, tmp_path):
    path = axis_cards(spectra(tmp_path / "c.fits", 1000 * maps + 3000))
    with pytest.raises(MapError, match="expected brightness temperatures of the 21 cm line"):
        prepare([path], tmp_path / "c.zarr")


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ([-5.0, -4.5], r"wide, got 0.0005 km/s by VELO-LSR, which is in m/s; correct the cards"),
        (["-5 km/s", -4.5], r"expected a number in VELO-LSR, got '-5 km/s'"),
    ],
)
def test_velocities_of_files_that_cannot_be(maps, tmp_path, table, cards, message):
    paths = [tmp_path / f"{k}.fits" for k in range(2)]
    for path, values, velocity in zip(paths, maps, cards, strict=False):
        write_maps(path, {"TB": (values, "K")}, frame="G", header={"VELO-LSR": velocity})
    with pytest.raises(MapError, match=message):
        prepare(paths, tmp_path / "c.zarr")
