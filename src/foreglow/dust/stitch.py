"""Cutouts blended back onto the sphere: a map from overlapping predictions.

Cutouts lie around the pixels of a coarse HEALPix grid, each turned by another angle. What a model
says of a cutout is interpolated to the HEALPix pixels in it by cubic splines (straight lines
between its pixels would lose a seventh of the amplitude at ell 200) and counts with a weight that
falls smoothly to zero at the cutout's sides, where a network knows nothing of what lies beyond: no
cutout begins or ends with a step. Q and U are interpolated in the frame of the cutout, where
nothing turns about a pole, and then turned at each HEALPix pixel to the frame of the sphere.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, embedding_bag

from foreglow.compute.device import each_on_a_thread
from foreglow.dust.cutouts import Cutouts, CutoutSampler
from foreglow.dust.sky_cube import SkyCube
from foreglow.errors import ShapeError
from foreglow.maps import healpix as hp
from foreglow.maps.gnomonic import Grid, Pointings, cutout_corners, plane_coordinates
from foreglow.maps.hemispheres import NORTH, Method
from foreglow.maps.spin2 import N_TENSOR, on_the_sphere, polarisation_maps

GOLDEN_ANGLE_DEG = 180 * (3 - math.sqrt(5))
_GROWTH = 6  # pixels by which the sky is continued under the mask: the reach of a spline's ringing
_EMPTY_POWER = 4
_PIXELS = 1 << 15  # of a cutout that are interpolated at a time: the caches of a core hold them

# members of an ensemble (member, batch, n, n), or one prediction (batch, n, n); polarised ones
# (member, batch, 3, n, n) or (batch, 3, n, n): I, Q and U, those in the frame of the cutout
EachPredictor = Callable[[Cutouts], Tensor]


@dataclass(frozen=True, eq=False)
class Stitched:
    """Predictions of each member of an ensemble, blended onto the sphere.

    Attributes
    ----------
    members : ndarray of float32, shape (member, n_pix), or (member, 3, n_pix) of polarisation
        RING; NaN outside the footprint, and where no cutout reaches. Q and U are COSMO.
    cover : ndarray of float32, shape (n_pix,)
        Sum of the weights of the cutouts that speak of a pixel; 1 is that of the middle of one.
    """

    members: NDArray[np.float32]
    cover: NDArray[np.float32]

    @property
    def mean(self) -> NDArray[np.float32]:
        """Mean of the members, without their axis."""
        return self.members.mean(0)

    @property
    def scatter(self) -> NDArray[np.float32]:
        """Standard deviation among the members, unbiased; zero where there is but one."""
        if len(self.members) == 1:
            return np.zeros_like(self.members[0])
        return self.members.std(0, ddof=1)


TURN_DEG = 31.0
"""Of the centres of a second blend: pixels of the grid repeat every 22.5 deg near its poles."""


def centres(nside: int = 16, turn_deg: float = 0.0) -> Pointings:
    """Centres of cutouts all over the sky: the pixels of a HEALPix grid.

    Rotations go by the golden angle from pixel to pixel, so that neighbours are turned by
    different angles and sides of cutouts never line up.

    Parameters
    ----------
    nside : int
        Of the grid: centres are 58.6 / nside degrees apart.
    turn_deg : float
        Turns the whole grid about the Galactic pole, and each cutout by as much: two maps of
        different turns are independent blends of the same predictor.
    """
    number = np.arange(hp.nside2npix(nside))
    lon, lat = hp.pix2ang(nside, number, lonlat=True)
    angles = lon + turn_deg, lat, number * GOLDEN_ANGLE_DEG + turn_deg
    return Pointings(*(torch.from_numpy(np.asarray(a, float)) for a in angles))


def target_maps(sky: SkyCube) -> NDArray[np.float32]:
    """The target of a sky, (n_pix,) or I, Q and U (3, n_pix), RING, COSMO; zero where masked."""
    target = sky.target.cpu()
    order = hp.ring2nest(sky.nside, np.arange(len(target)))
    if not sky.polarised:
        return target[order, 0].numpy()
    vector = torch.from_numpy(np.stack(hp.pix2vec(sky.nside, order, nest=True), 1))
    qu = polarisation_maps(target[order, 2 : 2 + N_TENSOR], vector)
    return torch.cat([target[order, 0].unsqueeze(0), qu]).numpy()


def stitch(
    predict: EachPredictor,
    sky: SkyCube,
    grid: Grid,
    where: Pointings | None = None,
    method: Method = "bilinear",
    max_masked: float = 0.7,
    batch: int = 16,
    progress: Callable[[int, int], None] | None = None,
    fine: int = 1,
    polarised: bool = False,
) -> Stitched:
    """Blend predictions of overlapping cutouts into maps, a batch of cutouts in memory at a time.

    Parameters
    ----------
    predict : callable
        Gives (member, batch, n, n), or (batch, n, n), of `Cutouts`, with an axis of I, Q and U
        before the last two if polarised; what it gives under the mask is not used.
    sky : SkyCube
        Its mask is the footprint of the maps.
    grid : Grid
    where : Pointings, optional
        By default `centres()`.
    method : str
        How cutouts are made. Bilinear ones keep the jitter of nearest pixels out of the map, and
        networks trained on either correlate with the dust as well on both.
    max_masked : float
        Cutouts of which more than this fraction is masked are unlike those of the training: they
        count with the fourth power of what they hold over what the emptiest of those holds, and
        so matter only where there is nothing better.
    batch : int
        Cutouts at a time.
    progress : callable, optional
        Called with centres done and centres in all.
    fine : int
        Pixels of the inputs along a side of each pixel of the grid.
    polarised : bool
        I, Q and U are predicted.

    Returns
    -------
    Stitched
        Of the Nside of the sky.

    Raises
    ------
    ShapeError
        If predictions have another shape.
    """
    where = centres() if where is None else where
    # a sampler's region matters only to draws, and nothing is drawn here
    sampler = CutoutSampler(sky, NORTH, grid, method, max_masked, fine)
    sums = Sums((sky.target[:, 1] > 0).cpu().numpy(), polarised)
    for start in range(0, len(where), batch):
        sums.accumulate(predict, sampler, where[start : start + batch])
        if progress is not None:
            progress(min(start + batch, len(where)), len(where))
    return sums.blend()


@dataclass(frozen=True, eq=False)
class PartialSums:
    """Sums over some cutouts, of the parts of the sky that they reach.

    Attributes
    ----------
    tiles : ndarray of int, shape (tile,)
        Numbers of equal stretches of NESTED pixels.
    weight : ndarray of float32, shape (tile, pixel of a tile)
    value : ndarray of float32, shape (tile, pixel of a tile, map), or None
        None where nothing of the footprint was reached. A map for each member, or three: I, Q, U.
    """

    tiles: NDArray[np.int64]
    weight: NDArray[np.float32]
    value: NDArray[np.float32] | None


class Sums:
    """Weighted sums over the cutouts done so far, on the processor, NESTED.

    They take memory only where cutouts have been added.

    Parameters
    ----------
    footprint : ndarray of bool, shape (n_pix,)
        NESTED.
    polarised : bool
        Each member predicts I, Q and U.
    """

    def __init__(self, footprint: NDArray[np.bool_], polarised: bool = False) -> None:
        self.polarised = polarised
        self.nside = hp.npix2nside(footprint.size)
        self.footprint = footprint
        self.weight = torch.from_numpy(np.zeros(footprint.size, np.float32))
        self.value: Tensor | None = None  # (n_pix, map), made when their number is known

    @torch.inference_mode()
    def accumulate(self, predict: EachPredictor, sampler: CutoutSampler, where: Pointings) -> None:
        """Add what is predicted of the cutouts that hold pixels of the footprint."""
        grid = sampler.grid
        chosen, pixels = self.touched(where, grid)
        if chosen is None:
            return
        cutouts = sampler.at(chosen)
        seen = cutouts.mask.double().mean((1, 2)).cpu() / (1 - sampler.max_masked)
        self.add(self._maps(predict(cutouts), cutouts.mask), cutouts, pixels, seen, grid)

    def part(self, tiles: NDArray[np.int64], n_tile: int) -> PartialSums:
        """The sums in some of `n_tile` equal stretches of the sky; elsewhere nothing was added."""
        size = len(self.weight) // n_tile
        weight = self.weight.numpy().reshape(n_tile, size)[tiles]
        if self.value is None:
            return PartialSums(tiles, weight, None)
        return PartialSums(tiles, weight, self.value.numpy().reshape(n_tile, size, -1)[tiles])

    def add_part(self, part: PartialSums) -> None:
        """Add sums that were made elsewhere."""
        if part.value is None:
            return
        _, size, n_map = part.value.shape
        self._begin(n_map)
        assert self.value is not None
        self.weight.numpy().reshape(-1, size)[part.tiles] += part.weight
        self.value.numpy().reshape(-1, size, n_map)[part.tiles] += part.value

    def _begin(self, n_map: int) -> None:
        if self.value is None:
            room = np.zeros((len(self.weight), n_map), np.float32)
            self.value = torch.from_numpy(room)

    def _maps(self, predicted: Tensor, mask: Tensor) -> Tensor:
        """Predictions as (map, batch, n, n): one of each member, or its I, Q and U."""
        batch, *side = mask.shape
        each = (batch, 3, *side) if self.polarised else (batch, *side)
        if predicted.shape[-len(each) :] != each or predicted.ndim > len(each) + 1:
            raise ShapeError(
                f"expected predictions of shape {each}, or (member, ...) before it, got "
                f"{tuple(predicted.shape)}; polarised=True is for I, Q and U of each cutout"
            )
        members = predicted.reshape(-1, *each)
        return members.transpose(1, 2).flatten(0, 1) if self.polarised else members

    def touched(self, where: Pointings, grid: Grid) -> tuple[Pointings | None, list[Tensor]]:
        """The cutouts that hold pixels of the footprint, and those pixels of each."""
        found = []
        for corners in cutout_corners(where, grid).numpy():
            pixels = hp.query_polygon(self.nside, corners, nest=True)
            found.append(torch.from_numpy(pixels[self.footprint[pixels]]))
        kept = torch.tensor([k for k, pixels in enumerate(found) if len(pixels)], dtype=torch.long)
        return (where[kept] if len(kept) else None), [found[int(k)] for k in kept]

    def add(
        self, maps: Tensor, cutouts: Cutouts, pixels: list[Tensor], seen: Tensor, grid: Grid
    ) -> None:
        """Add a batch of predictions (map, batch, n, n) at its pixels."""
        mask = cutouts.mask.cpu()
        tables = _spline_tables(_continued(maps.float().cpu(), mask))  # (batch, (n + 4)^2, map)
        self._begin(len(maps))
        assert self.value is not None
        factor = seen.clamp(max=1) ** _EMPTY_POWER
        for k, where in enumerate(pixels):
            pointing = cutouts.pointings[k : k + 1].to(mask.device)

            def add(some: Tensor, k: int = k, pointing: Pointings = pointing) -> None:
                pixel = np.stack(hp.pix2vec(self.nside, some.numpy(), nest=True), -1)
                vector = torch.from_numpy(pixel)[None]
                place = plane_coordinates(vector, pointing, grid)[0]
                weight = (factor[k] * _window(place, grid.n) * _observed(place, mask[k])).float()
                values = _interpolate(tables[k], place, grid.n)  # (pixel, map)
                if self.polarised:
                    q, u = on_the_sphere(values[:, 1::3].T, values[:, 2::3].T, pointing, vector)
                    values = torch.stack([values[:, ::3], q.T, u.T], 2).flatten(1)
                assert self.value is not None
                self.weight[some] += weight
                self.value[some] += values * weight.unsqueeze(1)

            each_on_a_thread(torch.inference_mode()(add), where.split(_PIXELS), mask.device)

    def blend(self) -> Stitched:
        """The maps."""
        order = hp.ring2nest(self.nside, np.arange(len(self.weight)))
        cover = self.weight.numpy()[order]
        reached = cover > 0
        columns = [] if self.value is None else self.value.numpy().T
        stokes = 3 if self.polarised else 1
        maps = np.full((max(stokes, len(columns)), len(cover)), np.nan, np.float32)
        for one, values in zip(maps, columns, strict=False):
            one[reached] = values[order[reached]] / cover[reached]
        members = maps.reshape(-1, 3, len(cover)) if self.polarised else maps
        return Stitched(members, np.where(self.footprint[order], cover, np.float32(0)))


def _window(place: Tensor, n: int) -> Tensor:
    """Weight of places on a grid: cos^2 along rows and columns, zero at the sides."""
    offset = (place - 0.5 * (n - 1)) / n
    return torch.cos(math.pi * offset.clamp(-0.5, 0.5)).square().prod(-1)


def _observed(place: Tensor, mask: Tensor) -> Tensor:
    """How much of what surrounds each place counts, from 0 to 1, bilinear in the mask."""
    n = len(mask)
    inside = place.clamp(0, n - 1)
    low = inside.floor().clamp(max=n - 2)
    part = (inside - low).unbind(-1)
    row, column = low.long().unbind(-1)
    share = torch.zeros(len(place), dtype=place.dtype)
    for down in (0, 1):
        for right in (0, 1):
            weight = (part[0] if down else 1 - part[0]) * (part[1] if right else 1 - part[1])
            share += weight * mask[row + down, column + right]
    return share


def _continued(images: Tensor, mask: Tensor) -> Tensor:
    """Images (map, batch, n, n) whose masked pixels near the sky go on as the sky beside them.

    A step at the mask would ring through the splines a few pixels into the sky.
    """
    if bool(mask.all()):
        return images
    known = mask.to(images.dtype).unsqueeze(1)  # (batch, 1, n, n)
    values = images.transpose(0, 1) * known
    for _ in range(_GROWTH):
        around = avg_pool2d(values, 3, 1, 1), avg_pool2d(known, 3, 1, 1)
        grown = (around[1] > 0).to(values.dtype)
        values = torch.where(known > 0, values, around[0] / around[1].clamp(min=1e-9) * grown)
        known = torch.maximum(known, grown)
    return values.transpose(0, 1)


@cache
def _spline_matrix(n: int) -> Tensor:
    """From values on a row of n pixels to cubic spline coefficients on n + 4, mirrored at ends."""
    basis = np.zeros((n, n))
    for i in range(n):
        for neighbour, weight in ((i - 1, 1 / 6), (i, 2 / 3), (i + 1, 1 / 6)):
            basis[i, _mirrored(neighbour, n)] += weight
    padded = [_mirrored(i, n) for i in range(-2, n + 2)]
    return torch.from_numpy(np.linalg.inv(basis)[padded])


def _mirrored(i: int, n: int) -> int:
    return -i if i < 0 else 2 * (n - 1) - i if i >= n else i


def _spline_tables(images: Tensor) -> Tensor:
    """Spline coefficients (batch, (n + 4)^2, map) of images (map, batch, n, n)."""
    matrix = _spline_matrix(images.shape[-1]).to(images.dtype)
    found = torch.einsum("ay,mbyx,cx->bacm", matrix, images, matrix)
    return found.reshape(images.shape[1], -1, images.shape[0])


def _interpolate(table: Tensor, place: Tensor, n: int) -> Tensor:
    """Cubic splines at places (pixel, 2), shape (pixel, map)."""
    low = place.floor().clamp(-1, n - 1)
    row, column = (_cubic(part) for part in (place - low).unbind(-1))  # (pixel, 4) each
    first = low.long() + 1  # of the four coefficients, where the padding puts them
    step = torch.arange(4)
    index = (first[:, :1] + step).unsqueeze(2) * (n + 4) + (first[:, 1:] + step).unsqueeze(1)
    weight = (row.unsqueeze(2) * column.unsqueeze(1)).to(table.dtype)
    return embedding_bag(index.flatten(1), table, per_sample_weights=weight.flatten(1), mode="sum")


def _cubic(part: Tensor) -> Tensor:
    """The four cubic B-spline weights (pixel, 4) a fraction of a pixel beyond the second."""
    rest = 1 - part
    weights = [
        rest**3,
        3 * part**3 - 6 * part**2 + 4,
        3 * rest**3 - 6 * rest**2 + 4,
        part**3,
    ]
    return torch.stack(weights, -1) / 6
