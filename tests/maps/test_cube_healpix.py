"""HI cubes that are HEALPix already: columns or files, whole or partial, RING or NESTED."""

import gzip

import healpy as hp
import numpy as np
import pytest
from astropy.io import fits

from foreglow.maps import cube_healpix
from foreglow.maps.prepare import prepare
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
