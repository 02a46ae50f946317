"""The Mollweide projection of a HEALPix map, centred on the Galactic centre.

Projected coordinates: x in [-2, 2], y in [-1, 1]; the sky fills the ellipse with those half-axes.
Longitude grows to the left, as on the sky seen from inside.
"""

from functools import lru_cache

import matplotlib.patheffects as patheffects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse
from numpy.typing import ArrayLike, NDArray

from foreglow.errors import ShapeError
from foreglow.maps import healpix as hp
from foreglow.report.page.style import INK

IMAGE_WIDTH = 1200
"""Width of a projected map, in image pixels."""

_GRATICULE_LON = (-120, -60, 0, 60, 120)
_GRATICULE_LAT = (-60, -30, 0, 30, 60)


def nside_of(n_pixel: int) -> int:
    """Nside of a full map with `n_pixel` pixels.

    Raises
    ------
    ShapeError
        If no Nside has that many pixels.
    """
    nside = round((n_pixel / 12) ** 0.5)
    if n_pixel == 0 or 12 * nside**2 != n_pixel:
        raise ShapeError(
            f"Expected a full HEALPix map (12 Nside^2 pixels), got {n_pixel} pixels. "
            "Fill what was not observed with NaN and pass the whole sky."
        )
    return nside


def lonlat_to_xy(lon: ArrayLike, lat: ArrayLike) -> tuple[NDArray, NDArray]:
    """Projected position of Galactic longitude and latitude.

    Parameters
    ----------
    lon, lat : array_like [deg]
        Shapes that broadcast; longitude is taken within (-180, 180].

    Returns
    -------
    x, y : ndarray
        x in [-2, 2], y in [-1, 1].
    """
    lon, lat = np.broadcast_arrays(np.asarray(lon, float), np.asarray(lat, float))
    lon = 180.0 - (180.0 - lon) % 360.0
    # 2 theta + sin 2 theta = pi sin lat has no closed inverse; a fine table is exact enough to draw
    theta_grid = np.linspace(-np.pi / 2, np.pi / 2, 4001)
    sin_lat = (2 * theta_grid + np.sin(2 * theta_grid)) / np.pi
    theta = np.interp(np.sin(np.radians(lat)), sin_lat, theta_grid)
    return -lon / 90.0 * np.cos(theta), np.sin(theta)


def xy_to_lonlat(x: ArrayLike, y: ArrayLike) -> tuple[NDArray, NDArray]:
    """Galactic longitude and latitude of a projected position.

    Parameters
    ----------
    x, y : array_like
        Projected coordinates, shapes that broadcast. A point left or right of the ellipse gets the
        edge of the sky beside it, so that an image may be cut along the ellipse without a seam.

    Returns
    -------
    lon, lat : ndarray [deg]
        Longitude in [-180, 180].
    """
    x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
    theta = np.arcsin(y)
    lat = np.degrees(np.arcsin((2 * theta + np.sin(2 * theta)) / np.pi))
    cosine = np.maximum(np.cos(theta), 1e-12)
    return np.clip(-90.0 * x / cosine, -180.0, 180.0), lat


@lru_cache(maxsize=4)  # a report draws tens of maps of the same Nside
def mollweide_pixels(nside: int, width: int = IMAGE_WIDTH) -> NDArray[np.int64]:
    """Find the HEALPix pixel that each pixel of a projected image shows.

    Parameters
    ----------
    nside : int
    width : int
        Of the image; its height is half of it.

    Returns
    -------
    ndarray of int, shape (width // 2, width)
        RING indices; row 0 is the southernmost, column 0 the easternmost (lon = 180 deg).
    """
    height = width // 2
    x = (np.arange(width) + 0.5) / width * 4 - 2
    y = (np.arange(height) + 0.5) / height * 2 - 1
    lon, lat = xy_to_lonlat(x[None, :], y[:, None])
    pixels = np.asarray(hp.ang2pix(nside, lon, lat, lonlat=True), np.int64)
    pixels.setflags(write=False)
    return pixels


def draw_map(axes: Axes, colours: NDArray, labels: bool = True) -> None:
    """Draw a map of colours with its outline and Galactic graticule.

    Parameters
    ----------
    axes : Axes
    colours : ndarray, shape (n_pix, 4)
        RGBA of each pixel in [0, 1], RING ordering.
    labels : bool
        Write longitudes and latitudes on the graticule.

    Raises
    ------
    ShapeError
        If `n_pix` is not that of a full HEALPix map.
    """
    pixels = mollweide_pixels(nside_of(len(colours)))
    sky = Ellipse((0, 0), 4, 2, transform=axes.transData)
    image = axes.imshow(colours[pixels], extent=(-2, 2, -1, 1), origin="lower")
    image.set_clip_path(sky)
    _draw_graticule(axes, labels)
    axes.add_patch(Ellipse((0, 0), 4, 2, fill=False, edgecolor=INK, linewidth=0.9, zorder=5))
    axes.set(xlim=(-2.03, 2.03), ylim=(-1.03, 1.03), aspect="equal")
    axes.set_axis_off()


def draw_borders(axes: Axes, regions: NDArray) -> None:
    """Draw a thin line around every region of a map.

    Parameters
    ----------
    axes : Axes
        One on which `draw_map` has drawn.
    regions : ndarray of int, shape (n_pix,)
        Label of the region of each pixel, RING ordering.
    """
    image = regions[mollweide_pixels(nside_of(len(regions)))]
    sky = Ellipse((0, 0), 4, 2, transform=axes.transData)
    for region in np.unique(image)[1:]:
        lines = axes.contour(
            (image >= region).astype(float),
            levels=[0.5],
            extent=(-2, 2, -1, 1),
            colors=INK,
            linewidths=0.7,
            zorder=3,
        )
        lines.set_clip_path(sky)


def _draw_graticule(axes: Axes, labels: bool) -> None:
    halo = [patheffects.withStroke(linewidth=1.0, foreground="white", alpha=0.45)]  # on black
    line = {"color": INK, "linewidth": 0.4, "alpha": 0.45, "linestyle": (0, (4, 3)), "zorder": 4}
    line["path_effects"] = halo
    for lon in _GRATICULE_LON:
        axes.plot(*lonlat_to_xy(lon, np.linspace(-90, 90, 181)), **line)
    for lat in _GRATICULE_LAT:
        # the two ends are the same meridian; just short of it, each stays on its own side
        axes.plot(*lonlat_to_xy(np.linspace(-179.99, 179.99, 181), lat), **line)
    if labels:
        _label_graticule(axes)


def _label_graticule(axes: Axes) -> None:
    halo = [patheffects.withStroke(linewidth=1.8, foreground="white")]
    text = {"fontsize": 6.5, "color": INK, "zorder": 6}
    axes.text(-2, -1, "Galactic", ha="left", va="bottom", **text)
    for lon in _GRATICULE_LON:
        x, y = lonlat_to_xy(lon, -1.5)
        label = f"{lon % 360}°"
        axes.text(float(x), float(y), label, ha="center", va="top", path_effects=halo, **text)
    for lat in _GRATICULE_LAT:
        x, y = lonlat_to_xy(179.99, lat)
        label = f"{lat:+d}°".replace("-", "−") if lat else "0°"
        # outwards along the edge, so that no label touches the outline
        y_label = float(y) * 1.05
        axes.text(float(x) * 1.015 - 0.02, y_label, label, ha="right", va="center", **text)
