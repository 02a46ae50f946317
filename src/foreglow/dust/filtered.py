"""Filtered channels of a cube on disk: written a few channels at a time, read a part of the sky.

Beside the map to be predicted lies a folder that all workers see. Each of its files holds some
channels, low-passed, as (pixel, channel), NESTED: a part of the sky is a stretch of every file.
"""

import mmap
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foreglow.compute.workers import MapFn
from foreglow.dust.sky_cube import SkyCube
from foreglow.errors import MapError, warn
from foreglow.files import new_file
from foreglow.hi_cube.brightness import Brightest
from foreglow.hi_cube.cube import HICube, open_cube
from foreglow.maps import healpix as hp
from foreglow.maps.conventions import MapWarning
from foreglow.maps.gnomonic import Grid, Pointings
from foreglow.maps.harmonic import HarmonicFilter, low_pass

MAPS_TO_FILTER = 12  # of float32 that filtering takes beside the channels themselves, measured
_TILE_NSIDE = 16
_STEP = 1 << 18  # pixels at a time, to look at them or to write them
_MARGIN_DEG = 1.0  # around a cutout, for the pixels that it is interpolated from
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform.startswith("linux") else 0)

alone = threading.Lock()
"""Threads of one worker take turns: what is open and in memory is the process's."""


@dataclass(frozen=True)
class Filtered:
    """Channels of a cube, low-passed, in a folder.

    Attributes
    ----------
    folder : Path
        With `keep.npy`, bool (n_pix,) NESTED: where they count; `observed.npy`, likewise, where
        not all of the sky has been observed; and a file for each group of channels.
    cube : Path or HICube
        Where it lies; in memory only where no other process filters.
    channels : tuple of int
        Of the cube.
    nside : int
    cut, order : float, int
        Of the low-pass.
    at_a_time : int
        Channels in a file.
    """

    folder: Path
    cube: Path | HICube
    channels: tuple[int, ...]
    nside: int
    cut: float
    order: int
    at_a_time: int

    @property
    def groups(self) -> list[tuple[int, ...]]:
        """The channels of each file."""
        step = self.at_a_time
        return [self.channels[k : k + step] for k in range(0, len(self.channels), step)]

    @property
    def smoothing(self) -> HarmonicFilter:
        """The low-pass."""
        return HarmonicFilter(self.nside, low_pass(self.nside, self.cut, self.order))

    @property
    def keep(self) -> NDArray[np.bool_]:
        """Where the channels count, (n_pix,) NESTED."""
        return np.load(self.folder / "keep.npy")

    def file(self, group: int) -> Path:
        """The file of a group."""
        return self.folder / f"channels_{group}.f4"

    def write(
        self, wanted: NDArray[np.bool_], observed: NDArray[np.bool_], map_fn: MapFn = map
    ) -> None:
        """Filter all channels, a group a piece of work.

        Parameters
        ----------
        wanted, observed : ndarray of bool, shape (n_pix,)
            NESTED: where they are to count, and where all have observed. They count less far
            where too little around a pixel is observed to filter it.
        map_fn : MapFn
        """
        if not observed.all():
            np.save(self.folder / "observed.npy", observed)
            ring = observed[hp.ring2nest(self.nside, np.arange(observed.size))]
            nothing = np.zeros(observed.size, np.float32)
            good = np.isfinite(self.smoothing.partial_sky(nothing, ring))
            wanted = wanted & good[hp.nest2ring(self.nside, np.arange(observed.size))]
        np.save(self.folder / "keep.npy", wanted)
        try:
            for _ in map_fn(partial(_filter, self), range(len(self.groups))):
                pass
        finally:
            _opened_filter.cache_clear()


def observed_sky(
    cube: HICube,
    channels: NDArray[np.integer],
    wanted: NDArray[np.bool_] | None,
    map_fn: MapFn = map,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where to predict, and where all channels have observed.

    Parameters
    ----------
    cube : HICube
    channels : ndarray of int
    wanted : ndarray of bool, shape (n_pix,), or None
        RING; by default where the first channel has observed.
    map_fn : MapFn

    Returns
    -------
    wanted, everywhere : ndarray of bool, shape (n_pix,)
        NESTED.

    Raises
    ------
    MapError
        If a channel has not observed what is wanted, or nothing is wanted.
    """
    n_pix = hp.nside2npix(cube.nside)
    if wanted is None:
        warn(
            "no mask: dust is predicted wherever the cube has observed, the Galactic plane too, "
            "where models are not trained; pass mask=",
            MapWarning,
        )
    else:
        wanted = wanted[hp.nest2ring(cube.nside, np.arange(n_pix))]
    everywhere = np.ones(n_pix, bool)
    chunk = cube.tb.chunks[0]
    parts = [channels[channels // chunk == k] for k in np.unique(channels // chunk)]
    found = map_fn(partial(_observed, where_it_lies(cube)), parts)
    brightest = Brightest()
    for part, (bits, bright) in zip(parts, found, strict=True):
        brightest += bright
        for k, packed in zip(part, bits, strict=True):
            observed = np.unpackbits(packed, count=n_pix).view(bool)
            if not observed.any():
                raise _nothing(cube, int(k))
            wanted = observed if wanted is None else wanted
            everywhere &= observed
            if not observed[wanted].all():
                raise _unobserved(cube, int(k), wanted, wanted & ~observed)
    brightest.question(cube.name)
    assert wanted is not None  # there is a channel
    return wanted, everywhere


def where_it_lies(cube: HICube) -> Path | HICube:
    """A cube's folder, wherever its reader works; a cube in memory itself."""
    return cube if cube.path is None else cube.path.absolute()


def _nothing(cube: HICube, k: int) -> MapError:
    return MapError(
        f"{cube.name}: expected observed pixels, got none in the channel at "
        f"{cube.velocity_kms[k]:.4g} km/s; check what its source takes for unobserved"
    )


def _unobserved(
    cube: HICube, k: int, wanted: NDArray[np.bool_], missing: NDArray[np.bool_]
) -> MapError:
    first = hp.nest2ring(cube.nside, np.flatnonzero(missing)).min()
    return MapError(
        f"{cube.name}: expected values wherever the mask is above zero, and in all "
        f"channels alike, got NaN in {missing.sum()} of {wanted.sum()} such pixels in the "
        f"channel at {cube.velocity_kms[k]:.4g} km/s, the first at RING pixel {first}; mask those "
        "pixels"
    )


def _opened(cube: Path | HICube) -> HICube:
    return open_cube(cube) if isinstance(cube, Path) else cube


def _observed(
    cube: Path | HICube, channels: NDArray[np.integer]
) -> tuple[NDArray[np.uint8], Brightest]:
    """Where channels have observed, a bit a pixel, (channel, n_pix / 8) NESTED; how bright."""
    tb = _opened(cube).tb
    step = max(tb.chunks[1], _STEP)  # a multiple of 8: pixels of a chunk are a power of two
    parts, brightest = [], Brightest()
    for first in range(0, tb.shape[1], step):
        block = _rows(tb, channels, slice(first, first + step))
        parts.append(np.packbits(np.isfinite(block), axis=1))
        brightest += Brightest.of(block)
    return np.concatenate(parts, axis=1), brightest


def _rows(tb: Any, channels: Any, pixels: slice) -> NDArray[np.float32]:
    """Some channels (channel, pixel) of a cube; they ascend, most often without a gap."""
    first, last = int(channels[0]), int(channels[-1])
    block = np.asarray(tb[first : last + 1, pixels])
    return block if len(block) == len(channels) else block[np.asarray(channels) - first]


@lru_cache(maxsize=1)
def _opened_filter(job: Filtered) -> tuple[HarmonicFilter, NDArray[np.bool_] | None]:
    """The filter, and where the sky is observed (RING) if that is not everywhere."""
    path = job.folder / "observed.npy"
    if not path.exists():
        return job.smoothing, None
    order = hp.ring2nest(job.nside, np.arange(hp.nside2npix(job.nside)))
    return job.smoothing, np.load(path)[order]


def _filter(job: Filtered, group: int) -> None:
    """Write the file of a group of channels."""
    with alone:
        smoothing, observed = _opened_filter(job)
        pixels = np.arange(hp.nside2npix(job.nside))
        to_ring, to_nested = hp.ring2nest(job.nside, pixels), hp.nest2ring(job.nside, pixels)
        del pixels
        keep = job.keep
        block = _rows(_opened(job.cube).tb, job.groups[group], slice(None))
        for values in block:
            (filtered,) = smoothing.stream([values[to_ring]], observed)
            values[:] = filtered[to_nested]
            values[~keep] = 0
        path = job.file(group)
        with new_file(path) as temporary, temporary.open("wb") as stream:
            for first in range(0, keep.size, _STEP):
                np.ascontiguousarray(block[:, first : first + _STEP].T).tofile(stream)


class SkyPart:
    """The part of a filtered sky that cutouts need, in memory.

    Tiles of the sky are read when first needed. Before they would take more than is allowed, those
    that are not needed now are let go: cutouts that are neighbours should follow each other.

    Parameters
    ----------
    filtered : Filtered
    device : torch.device
    memory : int
        Bytes that the tiles may take; on a graphics card all of the sky has its place.
    """

    def __init__(self, filtered: Filtered, device: torch.device, memory: int) -> None:
        self.filtered, self.memory = filtered, memory
        self.keep = filtered.keep
        n_pix, n_channel = self.keep.size, len(filtered.channels)
        self._maps: list[mmap.mmap] = []
        self.sky = SkyCube(self._room((n_pix, n_channel), device), self._room((n_pix, 2), device))
        self.bytes_a_tile = bytes_a_tile(filtered.nside, n_channel)
        self._loaded = np.zeros(n_tile(filtered.nside), bool)
        self._useful: NDArray[np.bool_] = np.any(self.keep.reshape(self._loaded.size, -1), axis=1)
        with ExitStack() as stack:
            self._files = [
                stack.enter_context(filtered.file(k).open("rb", buffering=0))
                for k in range(len(filtered.groups))
            ]
            self.close = stack.pop_all().close

    def at(self, where: Pointings, grid: Grid) -> SkyCube:
        """The sky, with all that cutouts of these pointings look at."""
        tiles = tiles_around(self.filtered.nside, where, grid)
        lacking = tiles[self._useful[tiles] & ~self._loaded[tiles]]
        if (self._loaded.sum() + lacking.size) * self.bytes_a_tile > self.memory and self._maps:
            self._let_go(tiles)
            lacking = tiles[self._useful[tiles] & ~self._loaded[tiles]]
        size = self.keep.size // self._loaded.size
        for first, last in _stretches(lacking):
            self._read(slice(first * size, last * size))
        self._loaded[lacking] = True
        return self.sky

    def _read(self, rows: slice) -> None:
        count, n_channel = rows.stop - rows.start, len(self.filtered.channels)
        block = np.empty((count, n_channel), np.float32)
        first = 0
        for group, file in zip(self.filtered.groups, self._files, strict=True):
            part = np.empty((count, len(group)), np.float32)
            file.seek(part.itemsize * len(group) * rows.start)
            if file.readinto(part.data.cast("B")) != part.nbytes:  # pyright: ignore[reportAttributeAccessIssue]
                raise MapError(f"{file.name}: expected all of the sky, got less; predict again")
            block[:, first : first + len(group)] = part
            first += len(group)
        self.sky.inputs[rows] = torch.from_numpy(block).to(self.sky.inputs.device)
        self.sky.target[rows, 1] = torch.from_numpy(self.keep[rows]).to(self.sky.target)

    def _room(self, shape: tuple[int, int], device: torch.device) -> torch.Tensor:
        """Zeros; on the processor they take memory only where they are written to."""
        if device.type != "cpu":
            return torch.zeros(shape, device=device)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
        room = mmap.mmap(-1, 4 * shape[0] * shape[1], flags=flags)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            room.madvise(mmap.MADV_HUGEPAGE)
        self._maps.append(room)
        return torch.frombuffer(room, dtype=torch.float32).view(shape)

    def _let_go(self, needed: NDArray[np.integer]) -> None:
        """Let go all tiles but the needed ones; those too, where tiles are not whole pages."""
        unneeded = self._loaded.copy()
        if any(len(room) // unneeded.size % mmap.PAGESIZE for room in self._maps):
            unneeded[:] = True
        else:
            unneeded[needed] = False
        for room in self._maps if hasattr(mmap, "MADV_DONTNEED") else ():
            a_tile = len(room) // unneeded.size
            for first, last in _stretches(np.flatnonzero(unneeded)):
                room.madvise(mmap.MADV_DONTNEED, first * a_tile, (last - first) * a_tile)
        self._loaded &= ~unneeded


def n_tile(nside: int) -> int:
    """Tiles of the sky."""
    return hp.nside2npix(min(nside, _TILE_NSIDE))


def bytes_a_tile(nside: int, n_channel: int) -> int:
    """Of the memory that a tile of a `SkyPart` takes."""
    return hp.nside2npix(nside) // n_tile(nside) * (n_channel + 2) * 4


def tiles_around(nside: int, where: Pointings, grid: Grid) -> NDArray[np.int64]:
    """Tiles that cutouts reach, ascending."""
    reach = np.radians(grid.reach_deg + _MARGIN_DEG) + hp.max_pixrad(nside)
    vectors = hp.ang2vec(where.lon_deg.numpy(), where.lat_deg.numpy(), lonlat=True)
    coarse = min(nside, _TILE_NSIDE)
    found = [hp.query_disc(coarse, v, reach, inclusive=True, nest=True) for v in vectors]
    return np.unique(np.concatenate(found))


def _stretches(tiles: NDArray[np.integer]) -> Iterator[tuple[int, int]]:
    """Runs of neighbouring tiles: the first, and the one after the last."""
    if tiles.size:
        for part in np.split(tiles, np.flatnonzero(np.diff(tiles) != 1) + 1):
            yield int(part[0]), int(part[-1]) + 1
