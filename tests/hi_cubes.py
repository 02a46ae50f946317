"""FITS cubes for tests, in the header forms that surveys use."""

import numpy as np
from astropy.io import fits

HI4PI_STEP, HI4PI_ZERO = 1288.23448620083, 471.921630003202  # m/s; CRPIX3 of 933 channels


def hi4pi_header(shape=(5, 91, 181), pixel_deg=2.0, lon=0.0, crpix=None, first_kms=-3.0, **changes):
    """Header cards as those of HI4PI's CAR cubes, on a coarser grid; None removes a card."""
    ny, nx = shape[1:]
    x, y = crpix or ((nx + 1) / 2, (ny + 1) / 2)
    cards = {
        "OBJECT": "HI4PI",
        "TELESCOP": "Effelsberg 100m RT; ATNF Parkes 64-m",
        "ORIGIN": "AIfA/MPIfR Bonn; ATNF Sydney",
        "REFERENC": "HI4PI Collaboration 2016",
        "RESTFRQ": 1420405751.77,
        "RESTWAV": 0.211061140541,
        "CDELT1": -pixel_deg,
        "CRPIX1": x,
        "CRVAL1": lon,
        "CTYPE1": "GLON-CAR",
        "CUNIT1": "deg",
        "CDELT2": pixel_deg,
        "CRPIX2": y,
        "CRVAL2": 0.0,
        "CTYPE2": "GLAT-CAR",
        "CUNIT2": "deg",
        "CDELT3": HI4PI_STEP,
        "CRPIX3": 1 - 1000 * first_kms / HI4PI_STEP,
        "CRVAL3": 0.0,
        "CTYPE3": "VRAD",
        "CUNIT3": "m/s",
        "WCSAXES": 3,
        "LONPOLE": 0.0,
        "LATPOLE": 90.0,
        "SPECSYS": "LSRK",
        "BUNIT": "K",
        "BPA": 0.0,
        "BMAJ": 0.2706,
        "BMIN": 0.2706,
    }
    header = fits.Header()
    for key, value in (cards | changes).items():
        if value is not None:
            header[key] = value
    return header


def write_fits(path, data, header):
    fits.PrimaryHDU(np.asarray(data), header).writeto(path, overwrite=True)
    return path


def raw_fits(stored, header):
    """The bytes of a FITS file of numbers as they are: astropy would scale integers anew."""
    header = header.copy()
    sign = -1 if stored.dtype.kind == "f" else 1
    cards = {"SIMPLE": True, "BITPIX": sign * 8 * stored.dtype.itemsize, "NAXIS": stored.ndim}
    cards |= {f"NAXIS{i + 1}": n for i, n in enumerate(stored.shape[::-1])}
    full = fits.Header(list(cards.items()))
    full.extend(header, strip=False)
    content = full.tostring().encode() + stored.astype(stored.dtype.newbyteorder(">")).tobytes()
    return content + bytes(-len(content) % 2880)


def smooth_sky(lon_deg, lat_deg, k=0):
    """A sky that bilinear interpolation follows, different in each channel; K."""
    lon, lat = np.radians(lon_deg), np.radians(lat_deg)
    return 10 + k + 3 * np.cos(lat) * np.cos(lon - 0.5) + 2 * np.sin(lat)


def smooth_data(shape, pixel_deg=2.0, lon=0.0, crpix=None):
    """`smooth_sky` on the CAR grid of `hi4pi_header`."""
    n_velocity, ny, nx = shape
    x, y = crpix or ((nx + 1) / 2, (ny + 1) / 2)
    lat = pixel_deg * (np.arange(1, ny + 1) - y)[:, None]
    glon = lon - pixel_deg * (np.arange(1, nx + 1) - x)[None, :]
    return np.stack([smooth_sky(glon, lat, k) for k in range(n_velocity)]).astype(np.float32)
