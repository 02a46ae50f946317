"""From a projected grid to HEALPix pixels, by the reproject library.

`reproject_interp` takes many channels at once and works out their common pixels once; its
`reproject_to_healpix` takes one map a call. So HEALPix pixels are given to it as a WCS: a row of
pixels, each with its longitude and latitude.
"""

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS
from astropy.wcs.wcsapi import BaseLowLevelWCS, HighLevelWCSWrapper
from numpy.typing import NDArray

from foreglow.errors import MapError
from foreglow.hi_cube.cards import Cards, unit_factor
from foreglow.maps import healpix as hp
from foreglow.maps.conventions import warn_assumed

BATCH = 1 << 17  # pixels that are projected at a time
BYTES_A_PIXEL = 500  # that astropy and reproject hold of each of them, measured
_CYLINDERS = ("CAR", "CEA", "MER", "CYP")
_MORE_THAN_SKY = re.compile(
    r"(NAXIS|CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA|CNAME)[3-9]|(PC|CD)(\d_[3-9]|[3-9]_\d)"
    r"|PV[3-9]_\d+|SPECSYS|SSYS(OBS|SRC)|REST(FRQ|FREQ|WAV)|VEL(REF|OSYS|ANGL)|ZSOURCE"
    r"|(DATE|MJD|JD).*|OBSGEO.*|TIMESYS"
)
_NUMBERS = re.compile(
    r"(CRVAL|CRPIX|CDELT|CROTA)[12]|(PC|CD)[12]_[12]|PV[12]_\d+|(LON|LAT)POLE|EQUINOX|EPOCH"
)
_MOST_DEG = 400.0  # that a grid may take


class HealpixRow(BaseLowLevelWCS):
    """NESTED pixels in Galactic coordinates as a grid of one row, in the terms of APE 14."""

    def __init__(self, nside: int, pixels: NDArray[np.integer]):
        self.nside, self.pixels = nside, pixels

    pixel_n_dim: Any = 2
    world_n_dim: Any = 2
    world_axis_physical_types: Any = ("pos.galactic.lon", "pos.galactic.lat")
    world_axis_units: Any = ("deg", "deg")
    world_axis_object_components: Any = (
        ("celestial", 0, "spherical.lon.degree"),
        ("celestial", 1, "spherical.lat.degree"),
    )
    world_axis_object_classes: Any = {  # noqa: RUF012
        "celestial": (SkyCoord, (), {"frame": "galactic", "unit": u.deg})
    }

    def pixel_to_world_values(self, *pixel_arrays: Any) -> Any:
        """Galactic longitude and latitude (deg) of places in the row."""
        places = np.asarray(pixel_arrays[0]).astype(np.int64)
        return hp.pix2ang(self.nside, self.pixels[places], nest=True, lonlat=True)

    def world_to_pixel_values(self, *world_arrays: Any) -> Any:
        """Not needed to fill a row."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Footprint:
    """HEALPix pixels that a grid covers.

    Attributes
    ----------
    nside : int
    pixels : ndarray of int32 or int64, shape (n,), or None
        NESTED, ascending; None for all of the sky.
    """

    nside: int
    pixels: NDArray[np.integer] | None = field(repr=False)

    def __len__(self) -> int:
        return hp.nside2npix(self.nside) if self.pixels is None else len(self.pixels)

    def batches(self) -> Iterator[tuple[slice, NDArray[np.integer]]]:
        """Places in the footprint, and the pixels there, `BATCH` at a time."""
        for first in range(0, len(self), BATCH):
            part = slice(first, min(first + BATCH, len(self)))
            if self.pixels is None:
                yield part, np.arange(part.start, part.stop)
            else:
                yield part, self.pixels[part]


def footprint(wcs: WCS, shape: tuple[int, int], nside: int) -> Footprint:
    """Pixels whose centres lie within a grid, its outermost half pixels included.

    Parameters
    ----------
    wcs : WCS
        Of two axes, celestial.
    shape : (int, int)
        Rows and columns.
    nside : int
    """
    near = _near(wcs, shape, nside)
    if near.pixels is None:
        return near
    inside = [pixels[depth(wcs, shape, nside, pixels) >= 0] for _, pixels in near.batches()]
    kind = np.int32 if nside < 1 << 13 else np.int64
    return Footprint(nside, np.concatenate([*inside, np.empty(0, kind)]).astype(kind))


def depth(
    wcs: WCS, shape: tuple[int, int], nside: int, pixels: NDArray[np.integer]
) -> NDArray[np.float32]:
    """How deep HEALPix centres lie in a grid: less than 0 outside.

    1 / (1/x + 1/y), with x and y the distances in grid pixels to the nearest edge along each
    axis: unlike the smaller of the two it tells two tiles apart that share an edge.
    """
    lon, lat = hp.pix2ang(nside, pixels, nest=True, lonlat=True)
    column, row = wcs.world_to_pixel(SkyCoord(lon, lat, unit="deg", frame="galactic"))
    x, y = np.asarray(column) + 0.5, np.asarray(row) + 0.5
    x, y = np.minimum(x, shape[1] - x), np.minimum(y, shape[0] - y)
    inside = (x >= 0) & (y >= 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        # on an edge both terms may be nought over nought
        deep = np.where(inside, np.nan_to_num(x * y / (x + y)), -1.0)
    return deep.astype(np.float32)


def to_healpix(
    block: NDArray[np.float32], wcs: WCS, nside: int, pixels: NDArray[np.integer]
) -> NDArray[np.float32]:
    """Maps on a grid, interpolated bilinearly onto HEALPix pixel centres.

    Nothing is smoothed. Within half a grid pixel of the edge the outermost pixel is taken; a
    pixel with one NaN among its four neighbours is NaN.

    Parameters
    ----------
    block : ndarray of float32, shape (channel, row, column)
    wcs : WCS
        Of rows and columns; any projection and frame that astropy knows.
    nside : int
    pixels : ndarray of int, shape (n,)
        NESTED, Galactic.

    Returns
    -------
    ndarray of float32, shape (channel, n)
        NaN outside the grid.
    """
    from reproject import reproject_interp  # an extra: who opens image cubes has asked for it

    out = np.empty((len(block), 1, len(pixels)), np.float32)
    reproject_interp(
        (block, wcs),
        HighLevelWCSWrapper(HealpixRow(nside, pixels)),
        shape_out=out.shape,
        output_array=out,
        return_footprint=False,
        roundtrip_coords=False,
    )
    return out[:, 0]


def _near(wcs: WCS, shape: tuple[int, int], nside: int) -> Footprint:
    """Pixels of a disc around a grid: all of the sky for a large grid."""
    rows, columns = (np.linspace(-0.5, n - 0.5, 65) for n in shape)
    grid: Any = wcs.pixel_to_world(*np.meshgrid(columns, rows))
    vectors = np.asarray(grid.galactic.cartesian.xyz.value).reshape(3, -1)
    vectors = vectors[:, np.isfinite(vectors).all(axis=0)]
    centre = vectors.mean(axis=1) if vectors.size else np.zeros(3)
    if np.linalg.norm(centre) < 0.5:
        return Footprint(nside, None)
    centre /= np.linalg.norm(centre)
    radius = np.arccos(np.clip(centre @ vectors, -1, 1)).max()
    # between the samples a grid may reach a little farther
    radius = 1.1 * radius + hp.max_pixrad(nside)
    return Footprint(nside, hp.query_disc(nside, centre, min(radius, np.pi), nest=True))


def sky_wcs(cards: Cards) -> tuple[WCS, bool]:
    """Celestial WCS of the first two axes, and whether they go once around the sky.

    The native longitude of a cylinder ends half a turn from its reference point. Where the grid
    goes past that, the reference point moves to the middle of the grid (the same projection as
    long as it is on the equator). A grid that goes once around gets a column more on either side,
    so that its ends are interpolated across.

    Raises
    ------
    MapError
        If the header has no projection that can be read, or one of the cards is no number.
    """
    path, sky = cards.path, _sky_header(cards)
    kinds = [cards.text(f"CTYPE{axis}").upper() for axis in (1, 2)]
    around = False
    if all(kind[-3:] in _CYLINDERS for kind in kinds) and _is_upright(sky):
        lon = 1 if kinds[0][:4] in ("GLON", "RA--", "ELON") else 2
        if sky.get(f"CRVAL{3 - lon}", 0.0) == 0:
            _centre(sky, lon)
            around = lon == 1 and _goes_around(sky)
            sky["CRPIX1"] += around
        elif kinds[0].endswith("CAR"):
            warn_assumed(
                f"{path}: CAR with CRVAL{3 - lon} = {cards.text(f'CRVAL{3 - lon}')} is taken as "
                "the standard has it, a grid turned away from the equator; check the map"
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            wcs = WCS(sky)
    except (ValueError, MemoryError) as error:  # wcslib's errors are ValueErrors
        raise MapError(
            f"{path}: expected a projection of the sky (WCS), got one that cannot be read "
            f"({' '.join(str(error).split())}); correct the header"
        ) from error
    if not wcs.has_celestial or wcs.naxis != 2:
        raise MapError(
            f"{path}: expected axes 1 and 2 on the sky (CTYPE1 = GLON-CAR, CTYPE2 = GLAT-CAR, "
            f"RA---SIN, ...), got {kinds[0] or 'none'} and {kinds[1] or 'none'}; bring the axes "
            "into the order longitude, latitude, velocity"
        )
    return wcs, around


def _sky_header(cards: Cards) -> Any:
    """The cards of the first two axes alone: numbers, in deg, an upright grid by CDELT alone."""
    sky: Any = cards.header.copy()
    for card in [key for key in sky if _MORE_THAN_SKY.fullmatch(key)]:
        sky.remove(card, remove_all=True)
    sky["NAXIS"] = sky["WCSAXES"] = 2
    for key in [key for key in sky if _NUMBERS.fullmatch(key)]:
        if cards.text(key):
            sky[key] = cards.number(key)
        else:
            sky.remove(key)
    for axis in (1, 2):
        _to_deg(cards, sky, axis)
    if _is_upright(sky):
        for axis in (1, 2):
            scale = sky.pop(f"PC{axis}_{axis}", 1.0)
            step = sky.pop(f"CD{axis}_{axis}", scale * sky.get(f"CDELT{axis}", 1.0))
            sky[f"CDELT{axis}"] = step
            for kind in ("PC", "CD"):
                sky.pop(f"{kind}{axis}_{3 - axis}", None)
    return sky


def _to_deg(cards: Cards, sky: Any, axis: int) -> None:
    """Bring the numbers of an axis of the sky to deg, and check that they can be so."""
    key = f"CUNIT{axis}"
    factor = unit_factor(cards.text(key) or "deg", "deg")
    if factor is None:
        raise MapError(
            f"{cards.path}: expected the unit of an angle in {key}, got {cards.text(key)!r}; "
            f"correct it with {cards.setting(key, repr('deg'))} if the numbers are in deg"
        )
    for card in (f"CRVAL{axis}", f"CDELT{axis}", f"CD{axis}_1", f"CD{axis}_2"):
        if card in sky and factor != 1:
            sky[card] *= factor
    sky[key] = "deg"
    pixels = cards.header[f"NAXIS{axis}"]
    width = pixels * abs(sky.get(f"CDELT{axis}", 0.0))
    if width > _MOST_DEG:
        raise MapError(
            f"{cards.path}: expected a grid within the sky, got {pixels} pixels of CDELT{axis} = "
            f"{cards.text(f'CDELT{axis}')} {cards.text(key)}, {width:.4g} deg; say what unit the "
            f"numbers have with {cards.setting(key, 'UNIT')}, UNIT being 'arcmin' or 'arcsec'"
        )


def _is_upright(sky: Any) -> bool:
    """Whether the axes are those of longitude and latitude, not turned or mixed."""
    mixed = ("CROTA1", "CROTA2", *(f"{kind}{ij}" for kind in ("PC", "CD") for ij in ("1_2", "2_1")))
    projected = any(re.fullmatch(r"PV\d_\d+", key) for key in sky)
    return not projected and not any(sky.get(key, 0.0) for key in mixed)


def _centre(sky: Any, lon: int) -> None:
    """Move the reference point of a cylinder along the equator to the middle of the grid."""
    steps = round((sky[f"NAXIS{lon}"] + 1) / 2 - sky.get(f"CRPIX{lon}", 0.0))
    sky[f"CRPIX{lon}"] = sky.get(f"CRPIX{lon}", 0.0) + steps
    sky[f"CRVAL{lon}"] = (sky.get(f"CRVAL{lon}", 0.0) + steps * sky[f"CDELT{lon}"]) % 360


def _goes_around(sky: Any) -> bool:
    """Whether the columns go once around the sky, each of them once."""
    return bool(sky["CDELT1"]) and abs(360 / abs(sky["CDELT1"]) - sky["NAXIS1"]) < 1e-3
