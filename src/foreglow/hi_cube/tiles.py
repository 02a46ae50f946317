"""Image cubes laid side by side on the sky: which pixels each fills, and whether they agree."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreglow.errors import MapError
from foreglow.hi_cube.image_cube import ImageCube
from foreglow.hi_cube.projection import Footprint, depth, footprint, to_healpix
from foreglow.hi_cube.store import PixelChunks
from foreglow.hi_cube.survey import blank_channels, look_through
from foreglow.maps import healpix as hp
from foreglow.maps.conventions import warn_assumed

_SAME_VELOCITY = 0.01  # of a channel, by which the velocities of tiles may differ
_SAME_BEAM = 0.01


@dataclass(frozen=True, eq=False)
class Tile:
    """One image cube and the pixels it fills.

    Attributes
    ----------
    cube : ImageCube
    first : int
        Its channel that is the first of the output.
    covered : Footprint
    owned : ndarray of bool, shape (n,), or None
        Pixels of the footprint that lie deeper in this tile than in any other; None if it is the
        only tile.
    """

    cube: ImageCube
    first: int
    covered: Footprint
    owned: NDArray[np.bool_] | None = field(default=None, repr=False)


def chunks_of_tiles(tiles: list[Tile]) -> PixelChunks:
    """Chunks of pixels that some tile covers."""
    nside = tiles[0].covered.nside
    lists = [tile.covered.pixels for tile in tiles]
    if any(pixels is None for pixels in lists):
        return PixelChunks.of_all(nside)
    return PixelChunks.around(nside, [pixels for pixels in lists if pixels is not None])


def fill_from_tiles(
    tiles: list[Tile], chunks: PixelChunks, block: NDArray[np.float32], first: int
) -> None:
    """Fill (channel, pixel of `chunks`) with channels from `first` of the output on; K."""
    block.fill(np.nan)
    for tile in tiles:
        start = tile.first + first
        grid = tile.cube.read(start, start + len(block))
        for part, pixels in tile.covered.batches():
            places: Any = part if tile.covered.pixels is None else chunks.places(pixels)
            values = to_healpix(grid, tile.cube.wcs, tile.covered.nside, pixels)
            if tile.owned is not None:
                there = block[:, places]
                better = np.isfinite(values) & (tile.owned[part] | np.isnan(there))
                values = np.where(better, values, there)
            block[:, places] = values


def lay_tiles(cubes: list[ImageCube], firsts: list[int], nside: int) -> list[Tile]:
    """Footprints of all cubes, each with its first channel wanted."""
    covered = [footprint(cube.wcs, cube.shape, nside) for cube in cubes]
    for cube, pixels in zip(cubes, covered, strict=True):
        if not len(pixels):
            raise MapError(
                f"{cube.path}: expected a cube that covers the centre of at least one pixel of "
                f"Nside {nside}, got one that covers none; give a larger nside="
            )
    tiles = [Tile(*parts) for parts in zip(cubes, firsts, covered, strict=True)]
    return _with_owners(tiles) if len(tiles) > 1 else tiles


def _with_owners(tiles: list[Tile]) -> list[Tile]:
    """Tiles that know which of their pixels lie deeper in them than in any other."""
    chunks = chunks_of_tiles(tiles)
    deepest = np.full(len(chunks), -1.0, np.float32)  # arcmin
    owner = np.zeros(len(chunks), np.uint16)
    for number, tile in enumerate(tiles):
        cube = tile.cube
        for _, pixels in tile.covered.batches():
            places = chunks.places(pixels)
            here = cube.pixel_arcmin * depth(cube.wcs, cube.shape, chunks.nside, pixels)
            deeper = here > deepest[places]
            deepest[places[deeper]] = here[deeper]
            owner[places[deeper]] = number
    return [
        replace(
            tile,
            owned=np.concatenate(
                [owner[chunks.places(pixels)] == number for _, pixels in tile.covered.batches()]
            ),
        )
        for number, tile in enumerate(tiles)
    ]


def finest_needed(pixel_arcmin: float) -> int:
    """The smallest Nside whose pixels are not larger than a pixel of this side."""
    nside = 1
    while hp.nside2resol(nside, arcmin=True) > pixel_arcmin:
        nside *= 2
    return nside


def validate_same_velocity(cubes: list[ImageCube], parts: list[slice]) -> None:
    """Check that tiles have the same channels in the range wanted.

    Raises
    ------
    MapError
    """
    first = cubes[0].velocity.kms[parts[0]]
    width = np.diff(first).mean() if len(first) > 1 else 1.0
    for cube, part in zip(cubes[1:], parts[1:], strict=True):
        kms = cube.velocity.kms[part]
        if len(kms) != len(first) or np.abs(kms - first).max() > _SAME_VELOCITY * width:
            raise MapError(
                f"expected tiles with the same velocity channels, got {len(first)} from "
                f"{first[0]:.6g} to {first[-1]:.6g} km/s in {cubes[0].path}, but {len(kms)} from "
                f"{kms[0]:.6g} to {kms[-1]:.6g} km/s in {cube.path}; choose a range that all have "
                "(low_kms=, high_kms=), or regrid the spectra"
            )


def validate_same_beam(cubes: list[ImageCube]) -> None:
    """Check that tiles have one beam, or none says its beam.

    Raises
    ------
    MapError
    """
    first = cubes[0].beam_arcmin
    for cube in cubes[1:]:
        beam = cube.beam_arcmin
        same = beam == first or (beam and first and abs(beam - first) <= _SAME_BEAM * first)
        if not same:
            advice = "smooth them to one beam, or prepare them apart"
            if first is None or beam is None:
                advice = "pass beam_arcmin= if it is the same"
            raise MapError(
                f"expected tiles of one beam, got {_in_words(first)} in {cubes[0].path}, but "
                f"{_in_words(beam)} in {cube.path}; {advice}"
            )


def _in_words(beam: float | None) -> str:
    return "none" if beam is None else f"{beam} arcmin"


def warn_of_beam(cubes: list[ImageCube], nside: int) -> None:
    """Say, in one warning, that the beam is not known or finer than the pixels can carry."""
    pixel, beam = hp.nside2resol(nside, arcmin=True), cubes[0].beam_arcmin
    finest = beam / 2 if beam else cubes[0].pixel_arcmin
    said = []
    if beam is None:
        said.append(
            f"{cubes[0].path}: {cubes[0].no_beam}; the beam is taken as unknown, pass beam_arcmin= "
            "if you know it"
        )
    if pixel > finest:
        what = f"a beam of {beam:.3g} arcmin" if beam else f"the cube's of {finest:.3g} arcmin"
        said.append(
            f"Nside {nside} has pixels of {pixel:.3g} arcmin, which do not sample {what}: maps are "
            "interpolated, not averaged, so what is finer is aliased and noise stays as it is; "
            f"choose nside={finest_needed(finest)} or more"
        )
    if said:
        warn_assumed(". ".join(said))


def validate_channels(tiles: list[Tile], n_channel: int) -> None:
    """Check before the work that every channel holds data, and say what values are taken as none.

    Raises
    ------
    MapError
    """
    blank = set(range(n_channel))
    for tile in tiles:
        found = look_through(tile.cube, tile.first, tile.first + n_channel)
        found.odd.warn(str(tile.cube.path))
        blank &= {k - tile.first for k in found.blank}
    if blank:
        cube, first = tiles[0].cube, tiles[0].first
        kms = cube.velocity.kms[first : first + n_channel]
        raise blank_channels(str(cube.path), list(blank), kms)
