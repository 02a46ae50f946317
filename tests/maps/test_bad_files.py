"""Files that are no maps, or damaged, are refused with what is wrong with them."""

import gzip

import numpy as np
import pytest
from astropy.io import fits

from foreglow.errors import MapError
from foreglow.maps.io import open_polarisation_map
from healpix_tables import N_PIX, ramp, stokes_columns, write_raw


def bad_file(path, kind):
    noise = np.random.default_rng(0).normal(size=(2, N_PIX))  # does not compress
    whole = write_raw(path, stokes_columns(qu=noise)).read_bytes()
    if kind == "text":
        path.write_text("SIMPLE but not FITS")
    elif kind == "nothing":
        path.write_bytes(b"")
    elif kind == "truncated data":
        path.write_bytes(whole[:7000])
    elif kind == "truncated header":
        path.write_bytes(whole[:4000])
    elif kind == "truncated gzip":
        path.write_bytes(gzip.compress(whole)[:-200])
    elif kind == "gzip of truncated data":
        path.write_bytes(gzip.compress(whole[:7000]))
    elif kind == "unknown format":
        path.write_bytes(whole.replace(b"TFORM1  = 'D       '", b"TFORM1  = 'rubbish '"))
    elif kind == "wrong format":
        path.write_bytes(whole.replace(b"TFORM1  = 'D       '", b"TFORM1  = '9D      '"))
    elif kind == "image":
        fits.PrimaryHDU(np.zeros((3, 3))).writeto(path, overwrite=True)
    elif kind == "empty table":
        path.unlink()
        write_raw(path, stokes_columns(qu=ramp(0)))
    elif kind == "absent":
        path.unlink()
    elif kind == "folder":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("absent", "no such file"),
        ("folder", "cannot be read"),
        ("text", "cannot be read"),
        ("nothing", "cannot be read"),
        ("truncated header", r"no binary table \(.*\); .* complete"),
        ("truncated data", "truncated: the header promises 3072 bytes of data, the file has 1240"),
        ("gzip of truncated data", "truncated: .* has 1240"),
        ("truncated gzip", r"cannot be read \(Compressed file ended"),
        ("unknown format", "cannot be read .*'rubbish'"),
        ("wrong format", "take 80 bytes a row, NAXIS1 says 16"),
        ("image", "no binary table"),
        ("empty table", "the binary table is empty"),
    ],
)
def test_bad_files(tmp_path, kind, message):
    path = tmp_path / "m.fits"
    bad_file(path, kind)
    with pytest.raises(MapError, match=message) as caught:
        open_polarisation_map(path)
    assert str(path) in str(caught.value)
