"""Polarisation on the sphere and in cutouts: Q and U turned from one frame into the other.

On HEALPix Q and U count from south towards east, which turn about the poles. As a symmetric tensor
in space, P_ij = Q (s_i s_j - e_i e_j) + U (s_i e_j + e_i s_j), polarisation knows of no pole: it is
averaged and read at any angle without a seam. In a cutout the angle counts from rising rows
towards rising columns (which is from down towards left, two axes turned by 180 degrees), along
axes that are carried from the middle of the cutout to each pixel on a great circle: turn a
cutout, and its Q and U turn as much everywhere.
"""

import torch
from torch import Tensor

from foreglow.maps.gnomonic import Pointings, cutout_axes

N_TENSOR = 6  # xx, xy, xz, yy, yz, zz
_ROWS, _COLUMNS = (0, 0, 0, 1, 1, 2), (0, 1, 2, 1, 2, 2)


def polarisation_tensors(q: Tensor, u: Tensor, vector: Tensor) -> Tensor:
    """Polarisation as tensors in space.

    Parameters
    ----------
    q, u : Tensor, shape (n,)
        COSMO: from south towards east.
    vector : Tensor of float64, shape (n, 3)
        Unit vectors of the pixels, none at a pole.

    Returns
    -------
    Tensor, shape (n, 6), dtype of `q`
        xx, xy, xz, yy, yz, zz.
    """
    south, east = _south_east(vector)
    parts = []
    for i, j in zip(_ROWS, _COLUMNS, strict=True):
        along = south[:, i] * south[:, j] - east[:, i] * east[:, j]
        across = south[:, i] * east[:, j] + east[:, i] * south[:, j]
        parts.append(q * along.to(q.dtype) + u * across.to(q.dtype))
    return torch.stack(parts, -1)


def in_cutouts(tensors: Tensor, pointings: Pointings, vector: Tensor) -> Tensor:
    """Q and U of tensors in the frame of cutouts.

    Parameters
    ----------
    tensors : Tensor, shape (batch, n, n, 6)
        See `polarisation_tensors`.
    pointings : Pointings
        One for each of the batch.
    vector : Tensor of float64, shape (batch, n, n, 3)
        Directions of the pixels.

    Returns
    -------
    Tensor, shape (batch, 2, n, n)
    """
    flat = vector.flatten(1, 2)
    row, column = (axis.view(vector.shape) for axis in carried(pointings, flat))
    return torch.stack(_along(tensors, row, column), 1)


def polarisation_maps(tensors: Tensor, vector: Tensor) -> Tensor:
    """Q and U (2, n), COSMO, of tensors (n, 6): what undoes `polarisation_tensors`."""
    return torch.stack(_along(tensors, *_south_east(vector)))


def on_the_sphere(q: Tensor, u: Tensor, pointings: Pointings, vector: Tensor) -> tuple[Tensor, ...]:
    """Q and U of cutouts as they are on HEALPix: what undoes `in_cutouts`.

    Parameters
    ----------
    q, u : Tensor, shape (batch, direction)
        In the frame of the cutouts.
    pointings : Pointings
        One for each of the batch.
    vector : Tensor of float64, shape (batch, direction, 3)
        Unit vectors, none at a pole.

    Returns
    -------
    q, u : Tensor, shape (batch, direction)
        COSMO.
    """
    row, _ = carried(pointings, vector)
    south, east = _south_east(vector)
    cos, sin = (row * south).sum(-1), (row * east).sum(-1)
    cos2, sin2 = (cos**2 - sin**2).to(q.dtype), (2 * cos * sin).to(q.dtype)
    return q * cos2 - u * sin2, q * sin2 + u * cos2


def carried(pointings: Pointings, vector: Tensor) -> tuple[Tensor, Tensor]:
    """The axes of cutouts, down and left, carried along great circles to directions.

    Parameters
    ----------
    pointings : Pointings
    vector : Tensor of float64, shape (batch, direction, 3)
        Unit vectors, less than 180 degrees from the middles.

    Returns
    -------
    down, left : Tensor of float64, shape (batch, direction, 3)
        Unit vectors at right angles to the directions and to each other.
    """
    middle, left, up = (axis.unsqueeze(1) for axis in cutout_axes(pointings))
    both = (middle + vector) / (1 + (middle * vector).sum(-1, keepdim=True))

    def carry(axis: Tensor) -> Tensor:
        return axis - (axis * vector).sum(-1, keepdim=True) * both

    return carry(-up), carry(left)


def _along(tensors: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Q and U of tensors, counted from the first axis towards the second.

    What is averaged from around has a trace across the direction, which is in neither.
    """
    first, second = first.to(tensors.dtype), second.to(tensors.dtype)
    xx, xy, xz, yy, yz, zz = tensors.unbind(-1)

    def seen(axis: Tensor) -> Tensor:
        x, y, z = axis.unbind(-1)
        rows = [xx * x + xy * y + xz * z, xy * x + yy * y + yz * z, xz * x + yz * y + zz * z]
        return torch.stack(rows, -1)

    along = seen(first)
    q = 0.5 * ((along * first).sum(-1) - (seen(second) * second).sum(-1))
    return q, (along * second).sum(-1)


def _south_east(vector: Tensor) -> tuple[Tensor, Tensor]:
    x, y, z = vector.unbind(-1)
    radius = torch.hypot(x, y)
    east = torch.stack([-y / radius, x / radius, torch.zeros_like(z)], -1)
    south = torch.stack([z * x / radius, z * y / radius, -radius], -1)
    return south, east
