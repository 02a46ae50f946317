"""Parts of the sky for cutouts: where centres may lie so that no pixel is read from two parts."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from foreglow.errors import MapError
from foreglow.maps import healpix as hp
from foreglow.maps.gnomonic import Grid, Pointings

Method = Literal["nearest", "bilinear"]
METHODS: tuple[Method, ...] = ("nearest", "bilinear")
_SAMPLES = 128  # Nside of the pixels that stand for the centres in a region


@dataclass(frozen=True)
class Region:
    """Where the centres of cutouts may lie: on one side of a great circle, with a distance.

    Attributes
    ----------
    name : str
    axis : tuple of 3 floats
        Unit vector (Galactic) of the pole of that side.
    distance_deg : float
        Least angle between a centre and the great circle.
    latitude_deg : float
        Least |b| of a centre.
    longitudes_deg : tuple of 2 floats, optional
        Centres lie between them, eastwards from the first, less than 180 deg on to the second.
    """

    name: str
    axis: tuple[float, float, float]
    distance_deg: float
    latitude_deg: float
    longitudes_deg: tuple[float, float] | None = None

    def holds(self, pointings: Pointings) -> Tensor:
        """Whether each centre lies in the region, bool, shape (n,)."""
        lat, lon = torch.deg2rad(pointings.lat_deg), torch.deg2rad(pointings.lon_deg)
        cos = torch.cos(lat)
        vector = torch.stack([cos * torch.cos(lon), cos * torch.sin(lon), torch.sin(lat)], -1)
        return self._holds(vector)

    def _holds(self, vector: Tensor, slack_deg: float = 0.0) -> Tensor:
        """Whether unit vectors (n, 3) lie in the region, or at most so far beside it."""

        def above(pole: tuple[float, float, float], angle_deg: float) -> Tensor:
            height = vector @ torch.tensor(pole, dtype=vector.dtype, device=vector.device)
            return height > math.sin(math.radians(max(angle_deg - slack_deg, -90)))

        inside = above(self.axis, self.distance_deg)
        inside &= above((0, 0, 1), self.latitude_deg) | above((0, 0, -1), self.latitude_deg)
        if self.longitudes_deg is not None:
            first, last = map(math.radians, self.longitudes_deg)
            inside &= above((-math.sin(first), math.cos(first), 0), 0)
            inside &= above((math.sin(last), -math.cos(last), 0), 0)
        return inside

    def draw(self, n: int, generator: torch.Generator) -> Pointings:
        """Centres uniform over the region's solid angle, with uniform rotations.

        Parameters
        ----------
        n : int
        generator : Generator
            Its state decides the draw; pointings are made on its device.

        Returns
        -------
        Pointings
        """
        found = [_uniform(n, generator)]
        found[0] = found[0][self.holds(found[0])]
        while sum(map(len, found)) < n:
            more = _uniform(n, generator)
            found.append(more[self.holds(more)])
        columns = ("lon_deg", "lat_deg", "rotation_deg")
        return Pointings(*(torch.cat([getattr(p, c) for p in found])[:n] for c in columns))


# Half of the diagonal of a cutout of 24.96 deg is 17.65 deg (Zhang et al. 2019, section 2, which
# says declination where Galactic latitude is meant).
NORTH = Region("north", (0.0, 0.0, 1.0), 17.65, 17.65)
SOUTH = Region("south", (0.0, 0.0, -1.0), 17.65, 17.65)
# "a buffer of 36 degrees, so at the equator the east and west hemisphere has RA ranges of
# (198, 342) and (18, 162)" (appendix C): the buffer is an angle on the sky, wider in longitude
# towards the poles, or else cutouts there would overlap.
EAST = Region("east", (0.0, -1.0, 0.0), 18.0, 17.65)
WEST = Region("west", (0.0, 1.0, 0.0), 18.0, 17.65)
SPLITS = {"north_south": (NORTH, SOUTH), "east_west": (EAST, WEST)}
REGIONS = {region.name: region for pair in SPLITS.values() for region in pair}


def split(name: str, grid: Grid, nside: int, method: Method) -> tuple[Region, Region]:
    """Training and test region of a split of the paper, proven to share no pixel.

    Parameters
    ----------
    name : str
        "north_south" (north trains) or "east_west" (east trains).
    grid : Grid
    nside : int
        Of the maps from which cutouts are made.
    method : str
        "nearest" or "bilinear".

    Returns
    -------
    train, test : Region

    Raises
    ------
    MapError
        If the split is unknown, or a cutout of one region could touch a pixel of the other.
    """
    if name not in SPLITS:
        raise MapError(f"expected a split {', '.join(SPLITS)}, got {name!r}; choose one of them")
    train, test = SPLITS[name]
    both = reached(train, grid, nside, method) & reached(test, grid, nside, method)
    if both.any():
        raise MapError(
            f"expected {name} cutouts that share no pixel, got {both.sum()} pixels of Nside "
            f"{nside} that cutouts of {grid.side_deg:.4g} deg ({method}) can touch from both "
            "sides; use maps of a higher Nside or smaller cutouts"
        )
    return train, test


def reached(region: Region, grid: Grid, nside: int, method: Method) -> np.ndarray:
    """Pixels that some cutout of a region may read: all of those, and perhaps a few more.

    Parameters are those of `split`.

    Returns
    -------
    ndarray of bool, shape (12 nside^2,), RING
    """
    nearest_deg = region.distance_deg - grid.reach_deg
    if region.axis[:2] == (0.0, 0.0):
        # By rings, which is tighter: a pixel is half a diamond high, 2 / (3 Nside) in z near the
        # equator, and interpolation reads the ring above and the ring below.
        lowest = math.sin(math.radians(nearest_deg)) - 2 / (3 * nside)
    else:
        # a direction lies within a radius of its pixel's centre, and of a neighbour within two
        radius = (1 if method == "nearest" else 2) * hp.max_pixrad(nside, degrees=True)
        lowest = math.sin(math.radians(nearest_deg - radius))
    vectors = hp.pix2vec(nside, np.arange(hp.nside2npix(nside)))
    height = sum(a * v for a, v in zip(region.axis, vectors, strict=True))
    touched = np.asarray(height >= lowest)
    if region.longitudes_deg is not None:
        radius = (1 if method == "nearest" else 2) * hp.max_pixrad(nside, degrees=True)
        touched &= _near(region, grid.reach_deg + radius, nside)
    return touched


def _near(region: Region, distance_deg: float, nside: int) -> np.ndarray:
    """Pixels (n_pix,), RING, that may lie within a distance of a centre of the region.

    The centres are sampled so finely that one of the samples, each taken a sample's radius beside
    the region too, is near any of them; fine maps are looked at by the samples' own pixels.
    """
    if nside <= _SAMPLES:
        return _near_coarsely(region, distance_deg, nside)
    near = _near_coarsely(region, distance_deg + hp.max_pixrad(_SAMPLES, degrees=True), _SAMPLES)
    return near[hp.vec2pix(_SAMPLES, *hp.pix2vec(nside, np.arange(hp.nside2npix(nside))))]


@lru_cache(maxsize=64)  # every training of a region asks for the same
def _near_coarsely(region: Region, distance_deg: float, nside: int) -> np.ndarray:
    """Pixels as of `_near`, of an Nside not above that of the samples."""
    slack = hp.max_pixrad(_SAMPLES, degrees=True)
    samples = _vectors(_SAMPLES)
    samples = samples[region._holds(torch.from_numpy(samples), slack).numpy()]
    chord = 2 * math.sin(math.radians(min(distance_deg + slack, 180)) / 2)
    far, _ = KDTree(samples).query(_vectors(nside), distance_upper_bound=chord)
    near = np.isfinite(far)
    near.setflags(write=False)
    return near


def _vectors(nside: int) -> np.ndarray:
    """Unit vectors (n_pix, 3) of pixels, RING."""
    return np.stack(hp.pix2vec(nside, np.arange(hp.nside2npix(nside))), -1)


def _uniform(n: int, generator: torch.Generator) -> Pointings:
    """Draw uniformly on the whole sphere; rotations too."""
    draw = torch.rand(n, 3, generator=generator, device=generator.device, dtype=torch.float64)
    lat = torch.rad2deg(torch.asin(2 * draw[:, 1] - 1))
    return Pointings(360 * draw[:, 0], lat, 360 * draw[:, 2])
