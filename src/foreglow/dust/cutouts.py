"""Cutouts of the HI cube and of the dust, drawn on the fly from one copy of the sky in memory.

What is gathered is in channels-last order already: nothing is transposed. On a graphics card all
of this happens there.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from foreglow.compute.random import make_generator
from foreglow.dust.sky_cube import SkyCube
from foreglow.errors import MapError, ShapeError
from foreglow.maps.gnomonic import (
    Grid,
    Pointings,
    cutout_interpolation,
    cutout_pixels,
    cutout_vectors,
)
from foreglow.maps.hemispheres import METHODS, Method, Region
from foreglow.maps.spin2 import N_TENSOR, in_cutouts

_BLEND_AT_ONCE = 8  # cutouts whose blended channels stay in the cache until they are copied
_MAX_ROUNDS = 100


@dataclass(frozen=True, eq=False)
class Cutouts:
    """A batch of cutouts; inputs and target are zero where masked.

    Attributes
    ----------
    inputs : Tensor, shape (batch, channel, fine n, fine n)
        Channels last in memory.
    target : Tensor, shape (batch, n, n), or (batch, 3, n, n) of a polarised sky
        I, or I, Q and U, those in the frame of the cutout (see `foreglow.maps.spin2`).
    mask : Tensor of bool, shape (batch, n, n)
        True where the sky counts.
    pointings : Pointings
    """

    inputs: Tensor
    target: Tensor
    mask: Tensor
    pointings: Pointings

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True, eq=False)
class CutoutSampler:
    """Cutouts of one sky with centres in one region.

    Attributes
    ----------
    sky : SkyCube
    region : Region
        Where centres may lie; see `foreglow.maps.hemispheres.split`.
    grid : Grid
    method : str
        "nearest" or "bilinear"; bilinear values are means over the pixels that count, and a
        pixel of a cutout counts where they hold at least half of the weight.
    max_masked : float
        A cutout of which more than this fraction is masked is dropped, and another drawn.
    fine : int
        Pixels of the inputs along a side of each pixel of the grid.
    """

    sky: SkyCube
    region: Region
    grid: Grid = field(default_factory=Grid)
    method: Method = "nearest"
    max_masked: float = 0.7
    fine: int = 1

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise MapError(f"expected a method {', '.join(METHODS)}, got {self.method!r}")

    def draw(self, n: int, generator: torch.Generator, out: Tensor | None = None) -> Cutouts:
        """Draw cutouts with random centres and rotations.

        Parameters
        ----------
        n : int
        generator : Generator
            On any device: pointings are drawn there, cutouts made where the sky is.
        out : Tensor, optional
            Where to put the inputs, from `room`: what an earlier batch had there is lost. A loop
            that is done with each batch before the next saves the making of memory.

        Returns
        -------
        Cutouts

        Raises
        ------
        MapError
            If the mask leaves no cutout in the region.
        ShapeError
            If `out` is not room for the inputs.
        """
        return self._gather(*self._find(n, generator), out)

    def room(self, n: int) -> Tensor:
        """Memory for the inputs of n cutouts, to be used again and again as `out`."""
        cube, side = self.sky.inputs, self.grid.n * self.fine
        return _empty((n, side, side, cube.shape[1]), cube)

    def draw_pointings(self, n: int, generator: torch.Generator) -> Pointings:
        """The pointings of `draw`, without the cutouts."""
        return self._find(n, generator)[0]

    def fixed_pointings(self, n: int = 1000, seed: int = 0) -> Pointings:
        """Pointings that depend on mask, region, grid and seed only, whatever the device."""
        return self.draw_pointings(n, make_generator(torch.device("cpu"), seed, n))

    def at(self, pointings: Pointings, out: Tensor | None = None) -> Cutouts:
        """Cutouts at given pointings, all of them, in their order; `out` as in `draw`."""
        return self._gather(*self._look(pointings.to(self.sky.inputs.device)), out)

    def batches(self, pointings: Pointings, size: int = 64) -> Iterator[Cutouts]:
        """Cutouts at given pointings, `size` at a time."""
        for start in range(0, len(pointings), size):
            yield self.at(pointings[start : start + size])

    def _find(self, n: int, generator: torch.Generator) -> "_Found":
        parts: list[_Found] = []
        missing = n
        for _ in range(_MAX_ROUNDS):
            where = self.region.draw(missing, generator)
            found = self._look(where.to(self.sky.inputs.device))
            good = (~found[-1]).float().mean((1, 2)) <= self.max_masked
            parts.append(found if bool(good.all()) else _select(found, good.nonzero().squeeze(1)))
            missing -= len(parts[-1][0])
            if not missing:
                return _join(parts)
        raise MapError(
            f"expected cutouts in the {self.region.name} of which at most {self.max_masked:.0%} "
            f"is masked, found {n - missing} of {n}; use a mask that leaves more of the sky"
        )

    def _look(self, where: Pointings) -> "_Found":
        """Pixels, weights, target and mask: all that decides whether a cutout is kept."""
        nside, aside = self.sky.nside, self.sky.target
        if self.method == "nearest":
            pixel, weight = cutout_pixels(where, self.grid, nside, nest=True), None
            both = aside.index_select(0, pixel.reshape(-1)).view(*pixel.shape, -1)
            return where, pixel, weight, both, both[..., 1] > 0
        pixel, weight = cutout_interpolation(where, self.grid, nside, nest=True)
        weight = weight.to(aside.dtype)
        both = _blend(aside, pixel, weight)
        counts = both[..., 1] >= 0.5
        # weights become those of a mean over the pixels that count
        share = torch.where(counts, 1 / both[..., 1].clamp(min=0.5), 0.0).unsqueeze(-1)
        return where, pixel, weight * share, both * share, counts

    def _gather(
        self,
        where: Pointings,
        pixel: Tensor,
        weight: Tensor | None,
        aside: Tensor,
        mask: Tensor,
        out: Tensor | None,
    ) -> Cutouts:
        cube, side = self.sky.inputs, self.grid.n * self.fine
        values = self.room(len(where)) if out is None else out
        if values.shape != (len(where), side, side, cube.shape[1]):
            raise ShapeError(
                f"expected room for inputs of shape {(len(where), side, side, cube.shape[1])}, got "
                f"{tuple(values.shape)}; make it with room({len(where)})"
            )
        if self.fine > 1:
            pixel, weight = self._finer(where)
        if weight is None:
            torch.index_select(cube, 0, pixel.reshape(-1), out=values.view(-1, cube.shape[1]))
        else:
            for part in range(0, len(pixel), _BLEND_AT_ONCE):
                rows = slice(part, part + _BLEND_AT_ONCE)
                values[rows] = _blend(cube, pixel[rows], weight[rows])
        maps = aside[..., 0]
        if self.sky.polarised:
            turned = in_cutouts(
                aside[..., 2 : 2 + N_TENSOR], where, cutout_vectors(where, self.grid)
            )
            maps = torch.cat([maps.unsqueeze(1), turned], 1)
        # (batch, n, n, channel) in memory, (batch, channel, n, n) to a network
        return Cutouts(values.permute(0, 3, 1, 2), maps, mask, where)

    def _finer(self, where: Pointings) -> tuple[Tensor, Tensor | None]:
        """Pixels of the inputs, and their weights, where pixels of the grid are divided."""
        grid = Grid(self.grid.n * self.fine, self.grid.pixel_arcmin / self.fine)
        if self.method == "nearest":
            return cutout_pixels(where, grid, self.sky.nside, nest=True), None
        pixel, weight = cutout_interpolation(where, grid, self.sky.nside, nest=True)
        weight = weight.to(self.sky.inputs.dtype)
        # a mean over the pixels that count
        weight = weight * self.sky.target[:, 1][pixel]
        return pixel, weight / weight.sum(-1, keepdim=True).clamp(min=1e-6)


# pointings; pixels (batch, n, n[, 4]); their weights if bilinear; target and what
# goes with it (batch, n, n, column); mask (batch, n, n)
_Found = tuple[Pointings, Tensor, Tensor | None, Tensor, Tensor]


def _select(found: _Found, which: Tensor) -> _Found:
    where, pixel, weight, aside, mask = found
    weight = None if weight is None else weight[which]
    return where[which], pixel[which], weight, aside[which], mask[which]


def _join(parts: list[_Found]) -> _Found:
    if len(parts) == 1:
        return parts[0]
    where, pixel, weight, aside, mask = zip(*parts, strict=True)
    columns = [[getattr(p, c) for p in where] for c in ("lon_deg", "lat_deg", "rotation_deg")]
    return (
        Pointings(*map(torch.cat, columns)),
        torch.cat(pixel),
        None if weight[0] is None else torch.cat(weight),
        torch.cat(aside),
        torch.cat(mask),
    )


def _blend(table: Tensor, pixel: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums (..., column) of the rows (..., 4) of a table: gathered and added in one go."""
    rows = embedding_bag(
        pixel.reshape(-1, 4), table, per_sample_weights=weight.reshape(-1, 4), mode="sum"
    )
    return rows.view(*pixel.shape[:-1], -1)


def _empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Room for values, on the processor by numpy.

    numpy asks the system for huge pages and torch does not: for a batch of a hundred MiB, the
    hundred thousand small pages would cost three times what the gathering costs.
    """
    if like.device.type != "cpu":
        return torch.empty(shape, dtype=like.dtype, device=like.device)
    return torch.from_numpy(np.empty(shape, torch.empty(0, dtype=like.dtype).numpy().dtype))
