"""HEALPix pixel numbers of directions, whole batches at once, on any device.

On the processor by ducc0 and healpy; on a graphics card, where those cannot go, by the same
algorithms (Gorski et al. 2005 and the HEALPix C++ library) as tensor functions in double precision.
"""

import math
from functools import cache

import ducc0
import numpy as np
import torch
from torch import Tensor

from foreglow.maps import healpix as hp

_TWO_THIRDS = 2.0 / 3.0


def vector_to_pixel(vector: Tensor, nside: int, nest: bool) -> Tensor:
    """Pixel that holds each direction.

    Parameters
    ----------
    vector : Tensor of float64, shape (..., 3)
        Unit vectors.
    nside : int
        A power of two.
    nest : bool
        NESTED numbers, else RING.

    Returns
    -------
    Tensor of int64, shape (...)

    References
    ----------
    Gorski et al. 2005, section 5 and appendix A.
    """
    if vector.device.type != "cpu":
        return _vector_to_pixel(vector, nside, nest)
    base = ducc0.healpix.Healpix_Base(nside, "NEST" if nest else "RING")
    return torch.from_numpy(base.vec2pix(vector.contiguous().numpy(), torch.get_num_threads()))


def _vector_to_pixel(vector: Tensor, nside: int, nest: bool) -> Tensor:
    x, y, z = vector.unbind(-1)
    quarter = _quarter_turns(x, y)
    polar_radius = nside * torch.hypot(x, y) / torch.sqrt((1 + z.abs()) / 3)
    number = _nested_pixel if nest else _ring_pixel
    return number(z, quarter, polar_radius, nside)


def ring_pixel(vector: Tensor, nside: int) -> Tensor:
    """RING pixel that holds each direction, quick where all lie in the belt or in one cap.

    Parameters
    ----------
    vector : Tensor of float64, shape (3, n)
        Unit vectors, on the processor.
    nside : int
        A power of two.

    Returns
    -------
    Tensor of int64, shape (n,)
    """
    x, y, z = vector
    low, high = (float(end) for end in z.aminmax())
    if low >= -_TWO_THIRDS and high <= _TWO_THIRDS:
        return _belt_pixel(x, y, z, nside)
    if low > _TWO_THIRDS or high < -_TWO_THIRDS:
        return _cap_pixel(x, y, z, nside, north=low > 0)
    return vector_to_pixel(vector.t(), nside, nest=False)


# in floating point as long as possible, in place: whole numbers are exact, and there are fewer and
# shorter steps than where every direction may be anywhere
def _belt_pixel(x: Tensor, y: Tensor, z: Tensor, nside: int) -> Tensor:
    across = z * (0.75 * nside)
    along = torch.atan2(y, x).mul_(2 * nside / math.pi).add_(0.5 * nside)
    rising, falling = (along - across).floor_(), (along + across).floor_()
    place = (rising + falling).add_(1 - nside).mul_(0.5).floor_().long()
    before = rising.sub_(falling).add_(nside).mul_(4 * nside).add_(2 * nside * (nside - 1))
    return before.long().add_(place.bitwise_and_(4 * nside - 1))


def _cap_pixel(x: Tensor, y: Tensor, z: Tensor, nside: int, north: bool) -> Tensor:
    quarter = _quarter_turns(x, y)
    radius = (x * x).addcmul_(y, y).div_(z.abs().add_(1)).mul_(3).sqrt_().mul_(nside)
    near = (quarter - quarter.floor()).mul_(radius)
    ring = radius.sub_(near).floor_().add_(near.floor_()).add_(1)  # from the pole
    place = quarter.mul_(ring).floor_()
    if north:
        return (ring - 1).mul_(ring).mul_(2).add_(place).long()
    return (ring + 1).mul_(ring).mul_(-2).add_(12 * nside**2).add_(place).long()


def interpolation(vector: Tensor, nside: int, nest: bool) -> tuple[Tensor, Tensor]:
    """Pixels and weights of bilinear interpolation, as healpy's `get_interp_weights`.

    Two neighbours on the ring above each direction, two on the ring below; around a pole, its
    four pixels.

    Parameters
    ----------
    vector, nside, nest
        As in `vector_to_pixel`.

    Returns
    -------
    pixel : Tensor of int64, shape (..., 4)
    weight : Tensor of float64, shape (..., 4)
        Sums to 1.
    """
    if vector.device.type != "cpu":
        return _interpolation(vector, nside, nest)
    x, y, z = vector.numpy().reshape(-1, 3).T
    theta, phi = np.arctan2(np.hypot(x, y), z), np.arctan2(y, x)
    found = hp.get_interp_weights(nside, theta, phi, nest=nest)  # (4, n)
    pixel, weight = (torch.from_numpy(part.T).reshape(*vector.shape[:-1], 4) for part in found)
    return pixel, weight


def _interpolation(vector: Tensor, nside: int, nest: bool) -> tuple[Tensor, Tensor]:
    x, y, z = vector.unbind(-1)
    theta = torch.atan2(torch.hypot(x, y), z)
    quarter = _quarter_turns(x, y)
    above = _ring_above(z, nside)
    below = above + 1
    upper, upper_part, upper_theta = _neighbours_on_ring(above.clamp(min=1), quarter, nside)
    lower, lower_part, lower_theta = _neighbours_on_ring(
        below.clamp(max=4 * nside - 1), quarter, nside
    )
    north, south = above == 0, below == 4 * nside
    upper_theta = torch.where(north, 0.0, upper_theta)  # the pole itself stands in for a ring
    lower_theta = torch.where(south, math.pi, lower_theta)
    fraction = ((theta - upper_theta) / (lower_theta - upper_theta)).unsqueeze(-1)
    weight_up, weight_down = upper_part * (1 - fraction), lower_part * fraction
    north, south = north.unsqueeze(-1), south.unsqueeze(-1)
    # a pole has the mean of its four pixels; the other two lie opposite to those of the ring
    last = 12 * nside**2 - 4
    at_north, at_south = (1 - fraction) / 4, fraction / 4
    pixel = torch.cat(
        [
            torch.where(north, (lower + 2) & 3, upper),
            torch.where(south, ((upper - last + 2) & 3) + last, lower),
        ],
        -1,
    )
    weight = torch.cat(
        [
            torch.where(north, at_north, torch.where(south, weight_up + at_south, weight_up)),
            torch.where(south, at_south, torch.where(north, weight_down + at_north, weight_down)),
        ],
        -1,
    )
    return (ring_to_nested(pixel, nside) if nest else pixel), weight


def ring_to_nested(pixel: Tensor, nside: int) -> Tensor:
    """NESTED numbers of RING pixels, int64, any shape."""
    ring, place = _ring_and_place(pixel, nside)
    in_north, in_south = ring < nside, ring > 3 * nside
    length = torch.where(in_north, ring, torch.where(in_south, 4 * nside - ring, nside))
    shift = torch.where(in_north | in_south, 0, (ring + nside) & 1)
    descent = ring - nside + 1  # of the lines that bound the equatorial faces
    rising = (place - descent // 2 + nside - 1) // nside
    falling = (place - (2 * nside + 2 - descent) // 2 + nside - 1) // nside
    face = _equatorial_face(falling, rising)
    face = torch.where(in_north, (place - 1) // length, face)
    face = torch.where(in_south, 8 + (place - 1) // length, face)
    row = face // 4
    down = ring - (2 + row) * nside + 1
    # longitude of a face's middle in eighths of a turn: 1 3 5 7, 0 2 4 6, 1 3 5 7
    middle = 2 * (face % 4) + torch.where(row == 1, 0, 1)
    along = 2 * place - middle * length - shift - 1
    along = torch.where(along >= 2 * nside, along - 8 * nside, along)
    return _interleave((along - down) >> 1, (-along - down) >> 1, face, nside)


def _quarter_turns(x: Tensor, y: Tensor) -> Tensor:
    """Longitude in quarters of a turn, from 0 to below 4."""
    quarter = torch.atan2(y, x) * (2 / math.pi)
    quarter = torch.where(quarter < 0, quarter + 4, quarter)
    return torch.where(quarter >= 4, 0.0, quarter)  # a hair below zero rounds to 4


def _nested_pixel(z: Tensor, quarter: Tensor, polar_radius: Tensor, nside: int) -> Tensor:
    along, across = nside * (0.5 + quarter), (0.75 * nside) * z
    rising, falling = (along - across).long(), (along + across).long()
    order = nside.bit_length() - 1
    face = _equatorial_face(rising >> order, falling >> order)
    ix, iy = falling & (nside - 1), nside - 1 - (rising & (nside - 1))
    sector, near, far = _polar_lines(quarter, polar_radius, nside)
    top = nside - 1
    polar, north = z.abs() > _TWO_THIRDS, z > 0
    face = torch.where(polar, torch.where(north, sector, sector + 8), face)
    ix = torch.where(polar, torch.where(north, top - far, near), ix)
    iy = torch.where(polar, torch.where(north, top - near, far), iy)
    return _interleave(ix, iy, face, nside)


def _ring_pixel(z: Tensor, quarter: Tensor, polar_radius: Tensor, nside: int) -> Tensor:
    along, across = nside * (0.5 + quarter), (0.75 * nside) * z
    rising, falling = (along - across).long(), (along + across).long()
    ring = nside + 1 + rising - falling  # from 1, at z = 2/3
    place = ((rising + falling - nside + 2 - (ring & 1)) >> 1) % (4 * nside)
    cap = 2 * nside * (nside - 1)
    equatorial = cap + (ring - 1) * (4 * nside) + place
    _, near, far = _polar_lines(quarter, polar_radius, nside)
    ring = near + far + 1  # from the pole
    place = (quarter * ring).long() % (4 * ring)
    north = 2 * ring * (ring - 1) + place
    south = 12 * nside**2 - 2 * ring * (ring + 1) + place
    polar = torch.where(z > 0, north, south)
    return torch.where(z.abs() > _TWO_THIRDS, polar, equatorial)


def _equatorial_face(rising: Tensor, falling: Tensor) -> Tensor:
    """Face between the lines that rise and fall towards the east, counted in faces."""
    beside = torch.where(rising < falling, rising, falling + 8)
    return torch.where(rising == falling, rising | 4, beside)


def _polar_lines(quarter: Tensor, polar_radius: Tensor, nside: int) -> tuple[Tensor, ...]:
    """Quadrant of a cap, and the pixel line counted from either of its edges."""
    sector = quarter.long()
    part = quarter - sector
    near = (part * polar_radius).long().clamp(max=nside - 1)
    far = ((1 - part) * polar_radius).long().clamp(max=nside - 1)
    return sector, near, far


def _interleave(ix: Tensor, iy: Tensor, face: Tensor, nside: int) -> Tensor:
    map_fn = _spread_bits(nside, ix.device)
    return face * nside**2 + map_fn[ix] + 2 * map_fn[iy]


@cache
def _spread_bits(nside: int, device: torch.device) -> Tensor:
    """Each number below Nside with a zero after each of its bits: a table is the quickest way."""
    number = torch.arange(nside)
    bits = sum(((number >> k) & 1) << (2 * k) for k in range(nside.bit_length()))
    return torch.as_tensor(bits, device=device)


def _ring_above(z: Tensor, nside: int) -> Tensor:
    """Ring (1 to 4 Nside - 1) whose centres lie north of z, or on it; 0 above them all."""
    belt = (nside * (2 - 1.5 * z)).long()
    cap = (nside * torch.sqrt(3 * (1 - z.abs()).clamp(min=0))).long()
    cap = torch.where(z > 0, cap, 4 * nside - cap - 1)
    return torch.where(z.abs() <= _TWO_THIRDS, belt, cap)


def _neighbours_on_ring(ring: Tensor, quarter: Tensor, nside: int) -> tuple[Tensor, ...]:
    """RING pixels (..., 2) left and right of a longitude, their weights, the ring's colatitude."""
    mirrored = torch.where(ring > 2 * nside, 4 * nside - ring, ring)
    in_cap = mirrored < nside
    length = 4 * torch.where(in_cap, mirrored, nside)
    shifted = torch.where(in_cap, True, (mirrored - nside) % 2 == 0)
    cap = 2 * nside * (nside - 1)
    start = torch.where(
        in_cap, 2 * mirrored * (mirrored - 1), cap + (mirrored - nside) * (4 * nside)
    )
    depth = mirrored.double() ** 2 / (3 * nside**2)  # 1 - z in a cap
    theta = torch.where(
        in_cap,
        torch.atan2(torch.sqrt(depth * (2 - depth)), 1 - depth),
        torch.acos(((2 * nside - mirrored).double() * (_TWO_THIRDS / nside)).clamp(max=1)),
    )
    south = ring > 2 * nside
    start = torch.where(south, 12 * nside**2 - start - length, start)
    theta = torch.where(south, math.pi - theta, theta)
    position = quarter * (length / 4) - 0.5 * shifted
    left = torch.floor(position)
    part = position - left
    left = left.long()
    pair = torch.stack([left, left + 1], -1) % length.unsqueeze(-1) + start.unsqueeze(-1)
    return pair, torch.stack([1 - part, part], -1), theta


def _ring_and_place(pixel: Tensor, nside: int) -> tuple[Tensor, Tensor]:
    """Ring from 1 and place on it from 1, of RING pixels."""
    cap, n_pix = 2 * nside * (nside - 1), 12 * nside**2
    north = _cap_ring(pixel)
    inside = pixel - cap
    belt = inside // (4 * nside)
    from_end = n_pix - 1 - pixel
    south = _cap_ring(from_end)
    ring = torch.where(pixel < cap, north, belt + nside)
    place = torch.where(pixel < cap, pixel - 2 * north * (north - 1), inside - belt * (4 * nside))
    at_end = pixel >= n_pix - cap
    ring = torch.where(at_end, 4 * nside - south, ring)
    end_place = 4 * south - 1 - (from_end - 2 * south * (south - 1))
    return ring, torch.where(at_end, end_place, place) + 1


def _cap_ring(pixel: Tensor) -> Tensor:
    """Ring from 1 of a pixel counted from the pole; exact in double precision to Nside 2^13."""
    return (1 + torch.sqrt(1.0 + 2.0 * pixel.clamp(min=0).double()).long()) >> 1
