"""Gnomonic cutouts: square grids on the tangent plane, anywhere on the sphere, at any angle.

Orientation is healpy's `GnomonicProj`: without rotation, latitude rises with the row and longitude
falls with the column (astronomers' east on the left).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from foreglow.errors import ShapeError
from foreglow.maps.pixels import interpolation, vector_to_pixel


@dataclass(frozen=True)
class Grid:
    """A square grid of pixels on the tangent plane.

    Attributes
    ----------
    n : int
        Pixels on a side.
    pixel_arcmin : float
        Side of a pixel, in the middle of the grid.

    References
    ----------
    Zhang et al. 2019, section 2: 64 pixels of 23.4 arcmin.

    Examples
    --------
    The paper's cutouts:

    >>> round(Grid().side_deg, 2)
    24.96
    """

    n: int = 64
    pixel_arcmin: float = 23.4

    @property
    def pixel_rad(self) -> float:
        """Side of a pixel [rad]."""
        return math.radians(self.pixel_arcmin / 60)

    @property
    def side_deg(self) -> float:
        """Side of the grid [deg], 24.96 for the default."""
        return self.n * self.pixel_arcmin / 60

    @property
    def reach_deg(self) -> float:
        """Angle on the sky from the middle to the centre of a corner pixel [deg]."""
        return math.degrees(math.atan(math.sqrt(0.5) * (self.n - 1) * self.pixel_rad))

    def vectors(self, device: torch.device) -> Tensor:
        """Unit vectors (n, n, 3), float64, of a grid whose middle is on the x axis."""
        offset = (torch.arange(self.n, dtype=torch.float64) - 0.5 * (self.n - 1)) * self.pixel_rad
        up, left = torch.meshgrid(offset, -offset, indexing="ij")
        vector = torch.stack([torch.ones_like(up), left, up], -1)
        return (vector / vector.norm(dim=-1, keepdim=True)).to(device)


@dataclass(frozen=True, eq=False)
class Pointings:
    """Where cutouts lie: centre and rotation of each.

    Attributes
    ----------
    lon_deg, lat_deg : Tensor of float64, shape (n,)
        Longitude and latitude of the centre, in the frame of the map.
    rotation_deg : Tensor of float64, shape (n,)
        The third angle of healpy's `rot`.
    """

    lon_deg: Tensor
    lat_deg: Tensor
    rotation_deg: Tensor

    def __post_init__(self) -> None:
        shapes = {tuple(t.shape) for t in (self.lon_deg, self.lat_deg, self.rotation_deg)}
        if len(shapes) > 1 or self.lon_deg.ndim != 1:
            raise ShapeError(
                "expected longitude, latitude and rotation of one shape (n,), "
                f"got {', '.join(map(str, sorted(shapes)))}"
            )

    def __len__(self) -> int:
        return len(self.lon_deg)

    def __getitem__(self, which: slice | Tensor) -> "Pointings":
        return Pointings(self.lon_deg[which], self.lat_deg[which], self.rotation_deg[which])

    def to(self, device: torch.device) -> "Pointings":
        """These pointings on a device."""
        return Pointings(*(t.to(device) for t in (self.lon_deg, self.lat_deg, self.rotation_deg)))


def cutout_vectors(pointings: Pointings, grid: Grid) -> Tensor:
    """Unit vectors of the pixels of cutouts.

    Parameters
    ----------
    pointings : Pointings
    grid : Grid

    Returns
    -------
    Tensor of float64, shape (batch, n, n, 3)
    """
    base = grid.vectors(pointings.lon_deg.device).view(-1, 3)
    turned = base @ _rotations(pointings).transpose(-1, -2)  # (batch, pixel, 3)
    return turned.view(len(pointings), grid.n, grid.n, 3)


def plane_coordinates(vector: Tensor, pointings: Pointings, grid: Grid) -> Tensor:
    """Where directions lie on the grids of cutouts: the inverse of `cutout_vectors`.

    Parameters
    ----------
    vector : Tensor of float64, shape (batch, direction, 3)
        Unit vectors.
    pointings : Pointings
        One for each of the batch.
    grid : Grid

    Returns
    -------
    Tensor of float64, shape (batch, direction, 2)
        Row and column, in pixels: whole numbers from 0 to n - 1 are centres of pixels. NaN for
        directions that lie behind the tangent plane.
    """
    middle, left, up = (vector @ _rotations(pointings)).unbind(-1)
    distance = torch.where(middle > 0, middle, torch.nan) * grid.pixel_rad
    return torch.stack([up / distance, -left / distance], -1) + 0.5 * (grid.n - 1)


def cutout_corners(pointings: Pointings, grid: Grid) -> Tensor:
    """Unit vectors of the outer corners of cutouts, in turn around each.

    The sides between them are great circles, which are straight on the tangent plane.

    Returns
    -------
    Tensor of float64, shape (batch, 4, 3)
    """
    half = 0.5 * grid.n * grid.pixel_rad
    corners = [(1.0, y, z) for y, z in ((half, half), (half, -half), (-half, -half), (-half, half))]
    base = torch.tensor(corners, dtype=torch.float64, device=pointings.lon_deg.device)
    return (base / base.norm(dim=-1, keepdim=True)) @ _rotations(pointings).transpose(-1, -2)


def cutout_axes(pointings: Pointings) -> tuple[Tensor, Tensor, Tensor]:
    """Unit vectors (n, 3) of the middle, the left and the upper side of cutouts, float64."""
    middle, left, up = _rotations(pointings).unbind(-1)
    return middle, left, up


def cutout_pixels(pointings: Pointings, grid: Grid, nside: int, nest: bool) -> Tensor:
    """HEALPix pixel under the centre of each pixel of cutouts, as healpy's `projmap` picks it.

    Parameters
    ----------
    pointings : Pointings
    grid : Grid
    nside : int
    nest : bool
        NESTED numbers, else RING.

    Returns
    -------
    Tensor of int64, shape (batch, n, n)
    """
    return vector_to_pixel(cutout_vectors(pointings, grid), nside, nest)


def cutout_interpolation(
    pointings: Pointings, grid: Grid, nside: int, nest: bool
) -> tuple[Tensor, Tensor]:
    """The four HEALPix pixels around each pixel of cutouts and their bilinear weights.

    Parameters are those of `cutout_pixels`.

    Returns
    -------
    pixel : Tensor of int64, shape (batch, n, n, 4)
    weight : Tensor of float64, shape (batch, n, n, 4)
    """
    return interpolation(cutout_vectors(pointings, grid), nside, nest)


def _rotations(pointings: Pointings) -> Tensor:
    """Matrices (batch, 3, 3) from the frame of the grid to that of the map."""
    lon, lat = torch.deg2rad(pointings.lon_deg), torch.deg2rad(pointings.lat_deg)
    turn = torch.deg2rad(pointings.rotation_deg)
    cos_lat, sin_lat, zero = torch.cos(lat), torch.sin(lat), torch.zeros_like(lat)
    centre = torch.stack([cos_lat * torch.cos(lon), cos_lat * torch.sin(lon), sin_lat], -1)
    east = torch.stack([-torch.sin(lon), torch.cos(lon), zero], -1)
    north = torch.linalg.cross(centre, east)
    cos, sin = torch.cos(turn).unsqueeze(-1), torch.sin(turn).unsqueeze(-1)
    # columns: images of the axes x (middle), y (left) and z (up) of the grid
    return torch.stack([centre, cos * east + sin * north, cos * north - sin * east], -1)
