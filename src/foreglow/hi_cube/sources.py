"""What an HI cube is made from: image cubes or HEALPix maps, opened the same way in any process."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreglow.errors import MapError
from foreglow.extras import require
from foreglow.hi_cube.cube import validate_nside, velocity_slice
from foreglow.hi_cube.healpix_cube import HealpixCube, is_healpix, open_healpix_cube
from foreglow.hi_cube.image_cube import ImageCube, open_image_cube
from foreglow.hi_cube.projection import BATCH, BYTES_A_PIXEL
from foreglow.hi_cube.store import PixelChunks
from foreglow.hi_cube.tiles import (
    chunks_of_tiles,
    fill_from_tiles,
    finest_needed,
    lay_tiles,
    validate_channels,
    validate_same_beam,
    validate_same_velocity,
    warn_of_beam,
)


@dataclass(frozen=True)
class Recipe:
    """What a cube is made from, as any process can open it.

    Attributes
    ----------
    paths : tuple of Path
        Absolute.
    stamps : tuple of (int, int)
        Size and time of each: another file of the same name is opened anew.
    nside, low_kms, high_kms, unit, beam_arcmin, velocity_table
        As for `foreglow.hi_cube.prepare.prepare`.
    memory : int
        Bytes that the process may take.
    """

    paths: tuple[Path, ...]
    stamps: tuple[tuple[int, int], ...]
    nside: int | None
    low_kms: float | None
    high_kms: float | None
    unit: str | None
    beam_arcmin: float | None
    velocity_table: Path | None
    memory: int

    @classmethod
    def of(cls, paths: Sequence[Path], *rest: Any) -> "Recipe":
        """Of files that are there; what follows them as in the class."""
        stamps = tuple((path.stat().st_size, path.stat().st_mtime_ns) for path in paths)
        return cls(tuple(path.absolute() for path in paths), stamps, *rest)


@dataclass(frozen=True, eq=False)
class Source:
    """What a cube is made from, image tiles or HEALPix maps.

    Attributes
    ----------
    velocity_kms : ndarray, shape (n_channel,)
        Those wanted.
    nside : int
    beam_arcmin : float or None
    records : list of dict
        What the files said.
    bytes_in_all, bytes_a_channel : int
        Memory to fill a block: fixed, and for each of its channels.
    chunks : PixelChunks
        Those with data.
    fill : callable
        (block (channel, pixel of `chunks`) K, first channel) -> None
    validate : callable
        Checks at once what would otherwise be found after hours.
    close : callable
        Closes the files.
    """

    velocity_kms: NDArray[np.float64]
    nside: int
    beam_arcmin: float | None
    records: list[dict[str, Any]]
    bytes_in_all: int
    bytes_a_channel: int
    chunks: PixelChunks
    fill: Callable[[NDArray[np.float32], int], None] = field(repr=False)
    validate: Callable[[], None] = field(default=lambda: None, repr=False)
    close: Callable[[], None] = field(default=lambda: None, repr=False)


@lru_cache(maxsize=1)
def open_source(recipe: Recipe) -> Source:
    """The files of a recipe, opened once in each process.

    Raises
    ------
    MapError
        If a file is not what is expected, or the files do not go together.
    """
    paths, wanted = list(recipe.paths), (recipe.low_kms, recipe.high_kms)
    tables = [is_healpix(path) for path in paths]
    if any(tables) and not all(tables):
        raise MapError(
            f"expected image cubes alone or HEALPix maps alone, got {paths[tables.index(True)]} "
            f"with HEALPix maps and {paths[tables.index(False)]} without; prepare them apart"
        )
    if tables[0]:
        maps = open_healpix_cube(paths, recipe.unit, recipe.velocity_table, recipe.memory)
        return _healpix_source(maps, recipe.nside, wanted, recipe.beam_arcmin)
    require("cubes")
    with contextlib.ExitStack() as files:
        opened = [
            files.enter_context(
                open_image_cube(path, recipe.unit, recipe.beam_arcmin, recipe.velocity_table)
            )
            for path in paths
        ]
        source = _image_source(opened, recipe.nside, wanted)
        return replace(source, close=files.pop_all().close)


def _healpix_source(
    maps: HealpixCube,
    nside: int | None,
    wanted: tuple[float | None, float | None],
    beam_arcmin: float | None,
) -> Source:
    if nside not in (None, maps.nside):
        raise MapError(
            f"{maps.paths[0]}: expected the Nside of the maps, {maps.nside}, got nside={nside}; "
            "leave it out, and change the maps with healpy.ud_grade before, if need be"
        )
    if beam_arcmin is not None and not beam_arcmin > 0:
        raise MapError(
            f"expected a beam (FWHM, arcmin) above zero, got {beam_arcmin:g}; correct it"
        )
    chunks = maps.chunks
    part = velocity_slice(str(maps.paths[0]), maps.velocity.kms, *wanted)
    return Source(
        velocity_kms=maps.velocity.kms[part],
        nside=maps.nside,
        beam_arcmin=beam_arcmin,
        records=[maps.record()],
        bytes_in_all=maps.bytes_loaded + (160 << 20),  # a step of pixels, and pages of files
        bytes_a_channel=4 * len(chunks),
        chunks=chunks,
        fill=lambda block, first: maps.fill(chunks, block, part.start + first),
        validate=lambda: maps.validate(part),
    )


def _image_source(
    cubes: list[ImageCube], nside: int | None, wanted: tuple[float | None, float | None]
) -> Source:
    parts = [velocity_slice(str(c.path), c.velocity.kms, *wanted) for c in cubes]
    validate_same_velocity(cubes, parts)
    validate_same_beam(cubes)
    pixel = min(cube.pixel_arcmin for cube in cubes)
    nside = nside or finest_needed(pixel)
    validate_nside("nside=", nside)
    warn_of_beam(cubes, nside)
    tiles = lay_tiles(cubes, [part.start for part in parts], nside)
    n_channel = parts[0].stop - parts[0].start
    chunks = chunks_of_tiles(tiles)
    grid = max(cube.shape[0] * cube.shape[1] for cube in cubes)
    return Source(
        velocity_kms=cubes[0].velocity.kms[parts[0]],
        nside=nside,
        beam_arcmin=cubes[0].beam_arcmin,
        records=[cube.record() for cube in cubes],
        bytes_in_all=BATCH * BYTES_A_PIXEL
        + max(cube.bytes_to_read for cube in cubes)
        + sum(9 * len(tile.covered) for tile in tiles if tile.covered.pixels is not None)
        + 6 * len(chunks) * (len(tiles) > 1),
        bytes_a_channel=4 * len(chunks) + 4 * grid + 24 * BATCH,
        chunks=chunks,
        fill=lambda block, first: fill_from_tiles(tiles, chunks, block, first),
        validate=lambda: validate_channels(tiles, n_channel),
    )
