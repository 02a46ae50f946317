"""HEALPix tables as other programs write them, for tests of the readers."""

import healpy as hp
import numpy as np
from astropy.io import fits

NSIDE = 4
N_PIX = hp.nside2npix(NSIDE)
ALL = np.arange(N_PIX)
CARDS = {
    "ORDERING": "RING",
    "COORDSYS": "G",
    "NSIDE": NSIDE,
    "POLCCONV": "COSMO",
    "INDXSCHM": "IMPLICIT",
}


def write_raw(path, columns=None, drop=(), primary=None, more=(), **cards):
    """A FITS map; `columns` are astropy columns, `primary` cards, `more` columns of a 2nd table."""
    table = fits.BinTableHDU.from_columns(stokes_columns() if columns is None else columns)
    for key, value in (CARDS | cards).items():
        if key not in drop:
            table.header[key] = value
    first = fits.PrimaryHDU()
    first.header.update(primary or {})
    others = [fits.BinTableHDU.from_columns(more)] if more else []
    fits.HDUList([first, table, *others]).writeto(path, overwrite=True)
    return path


def ramp(n=N_PIX):
    """Q,U that differ in every pixel."""
    return np.stack([np.arange(n) + 1.0, -2.0 * np.arange(n) - 1.0])


def stokes_columns(names=("Q_STOKES", "U_STOKES"), units=("uK_CMB", "uK_CMB"), qu=None):
    qu = ramp() if qu is None else qu
    return [
        fits.Column(name=n, format="D", array=a, unit=x)
        for n, a, x in zip(names, qu, units, strict=True)
    ]


def columns_of(unit=None, **values):
    """Columns by name, one number or one a pixel."""
    return [
        fits.Column(name=name, format="D", unit=unit, array=np.broadcast_to(value, N_PIX))
        for name, value in values.items()
    ]
