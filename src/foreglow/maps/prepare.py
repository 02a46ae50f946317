"""HI cubes as surveys publish them, made into the cube that foreglow works on.

A chunk of channels at a time is read, put on HEALPix pixels and written. The memory of the whole
process is planned before the first is read: fewer channels go into a chunk where it is scarce.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from dask.utils import format_bytes, parse_bytes
from numpy.typing import NDArray

from foreglow.errors import MapError
from foreglow.maps.conventions import warn_assumed
from foreglow.maps.cube import HICube, open_cube, validate_nside, velocity_slice
from foreglow.maps.cube_fits import ImageCube, open_image_cube
from foreglow.maps.cube_healpix import HealpixCube, is_healpix, open_healpix_cube
from foreglow.maps.cube_store import (
    CHANNELS_A_CHUNK,
    PartialCube,
    PixelChunks,
    begin_cube,
    is_cube,
    resume_cube,
    stored_settings,
    validate_free,
    validate_same,
)
from foreglow.maps.projection import BATCH, BYTES_A_PIXEL
from foreglow.maps.tiles import (
    blank_channel,
    chunks_of_tiles,
    fill_from_tiles,
    finest_needed,
    lay_tiles,
    validate_ends,
    validate_same_beam,
    validate_same_velocity,
    warn_of_beam,
)

log = logging.getLogger("foreglow")

Progress = Callable[[int, int], None]

LIBRARIES = 250 << 20  # bytes that Python and the libraries take, measured: 180 MiB and buffers
_WRITING = 32 << 20  # bytes of chunks on their way to disk


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
    """

    velocity_kms: NDArray[np.float64]
    nside: int
    beam_arcmin: float | None
    records: list[dict[str, Any]]
    bytes_in_all: int
    bytes_a_channel: int
    chunks: PixelChunks
    fill: Callable[[NDArray[np.float32], int], None] = field(repr=False)


def prepare(
    cubes: Sequence[str | Path],
    out: str | Path,
    *,
    nside: int | None = None,
    low_kms: float | None = None,
    high_kms: float | None = None,
    memory: str = "2 GiB",
    unit: str | None = None,
    beam_arcmin: float | None = None,
    velocity_table: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda *_: None,
) -> HICube:
    """Make an HI cube from FITS: image cubes (one or tiles), or HEALPix maps.

    Image cubes are interpolated bilinearly onto the pixel centres, without smoothing. A pixel
    that several tiles cover has the value of the tile in which it lies farthest from an edge; if
    that is blank there, of the first other tile that has one. What no tile covers is NaN.
    HEALPix maps are taken as they are.

    Parameters
    ----------
    cubes : sequence of path
        FITS: image cubes of two celestial axes and one of radio velocity (LSRK); or one HEALPix
        table with a column a channel, or a table a channel.
    out : path
        Folder to make.
    nside : int, optional
        By default that of HEALPix maps, else the smallest whose pixels are not larger than those
        of the cube: 1024 for the 5 arcmin of HI4PI.
    low_kms, high_kms : float, optional
        Channels centred in this range; by default all.
    memory : str, optional
        The process stays below it, Python and libraries (250 MiB) included. Eight channels at a
        time at best; at least one.
    unit : str, optional
        K or mK, where the files state no unit.
    beam_arcmin : float, optional
        FWHM, where the files state none.
    velocity_table : path, optional
        For HEALPix maps: text, km/s LSRK, one a line.
    resume : bool, optional
        Go on with an interrupted run, if there is one.
    overwrite : bool, optional
        Replace a cube at `out`.
    progress : callable, optional
        Called with channels done and in all.

    Returns
    -------
    HICube

    Raises
    ------
    MapError
        If a file is not what is expected, the files do not go together, the settings of an
        interrupted run differ, a channel has no data at all, or the memory does not suffice.

    Warns
    -----
    MapWarning
        If the beam is unknown, or the pixels are too coarse for it.
    """
    out = Path(out)
    paths = _validate_paths(cubes, velocity_table)
    settings = _settings(
        paths,
        velocity_table,
        nside=nside,
        low_kms=low_kms,
        high_kms=high_kms,
        unit=unit,
        beam_arcmin=beam_arcmin,
    )
    if resume and is_cube(out):
        validate_same(out, stored_settings(out), settings)
        return open_cube(out)
    validate_free(out, overwrite)
    bound = _parse_memory(memory)
    table = None if velocity_table is None else Path(velocity_table)
    with _open_source(paths, nside, (low_kms, high_kms), unit, beam_arcmin, table, bound) as source:
        store = resume_cube(out, settings) if resume else None
        if store is None:
            chunk = _channels_at_a_time(source, bound)
            _validate_memory(source, bound, chunk)
            attributes = _attributes(paths, source, settings)
            store = begin_cube(out, source.velocity_kms, source.nside, attributes, settings, chunk)
        _validate_memory(source, bound, store.chunk)
        _fill(store, source, progress)
    _warn_of_uneven_cover(store)
    store.finish()
    return open_cube(out)


def _fill(store: PartialCube, source: Source, progress: Progress) -> None:
    """Channels that the store lacks, a chunk at a time."""
    total = len(source.velocity_kms)
    log.info("prepare: %d channels, %d at a time, Nside %d", total, store.chunk, source.nside)
    if store.done:
        log.info("prepare: going on at channel %d of %d", store.done, total)
    block = np.empty((store.chunk, len(source.chunks)), np.float32)
    for first in range(store.done, total, store.chunk):
        part = block[: min(store.chunk, total - first)]
        source.fill(part, first)
        _validate_observed(source, part, first)
        store.append(part, source.chunks)
        progress(store.done, total)
        if 10 * store.done // total > 10 * first // total:  # each tenth
            log.info("prepare: %d of %d channels", store.done, total)


@contextlib.contextmanager
def _open_source(
    paths: list[Path],
    nside: int | None,
    wanted: tuple[float | None, float | None],
    unit: str | None,
    beam_arcmin: float | None,
    velocity_table: Path | None,
    memory: int,
) -> Iterator[Source]:
    tables = [is_healpix(path) for path in paths]
    if any(tables) and not all(tables):
        raise MapError(
            f"expected image cubes alone or HEALPix maps alone, got {paths[tables.index(True)]} "
            f"with HEALPix maps and {paths[tables.index(False)]} without; prepare them apart"
        )
    if tables[0]:
        maps = open_healpix_cube(paths, unit, velocity_table, memory)
        yield _healpix_source(maps, nside, wanted, beam_arcmin)
        return
    if velocity_table is not None:
        raise MapError(
            f"{paths[0]}: expected a velocity table for HEALPix maps alone, got one for an image "
            "cube, which has its velocities in the header; leave --velocity-table out"
        )
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(open_image_cube(path, unit, beam_arcmin)) for path in paths]
        yield _image_source(opened, nside, wanted)


def _healpix_source(
    maps: HealpixCube,
    nside: int | None,
    wanted: tuple[float | None, float | None],
    beam_arcmin: float | None,
) -> Source:
    if nside not in (None, maps.nside):
        raise MapError(
            f"{maps.paths[0]}: expected the Nside of the maps, {maps.nside}, got --nside {nside}; "
            "leave it out, and change the maps with healpy.ud_grade before, if need be"
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
    )


def _image_source(
    cubes: list[ImageCube], nside: int | None, wanted: tuple[float | None, float | None]
) -> Source:
    parts = [velocity_slice(str(c.path), c.velocity.kms, *wanted) for c in cubes]
    validate_same_velocity(cubes, parts)
    validate_same_beam(cubes)
    pixel = min(cube.pixel_arcmin for cube in cubes)
    nside = nside or finest_needed(pixel)
    validate_nside("--nside", nside)
    warn_of_beam(cubes, nside)
    tiles = lay_tiles(cubes, [part.start for part in parts], nside)
    n_channel = parts[0].stop - parts[0].start
    validate_ends(tiles, n_channel)
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
    )


def _validate_paths(cubes: Sequence[str | Path], velocity_table: str | Path | None) -> list[Path]:
    paths = [Path(cube) for cube in cubes]
    if velocity_table is not None and not Path(velocity_table).is_file():
        raise MapError(
            f"{velocity_table}: expected a text file of velocities, got none; check the path"
        )
    if not paths:
        raise MapError("expected at least one cube, got none; name a FITS file (--cube)")
    for path in paths:
        if not path.is_file():
            raise MapError(f"{path}: expected a FITS file, got none; check the path")
    twice = {str(path) for path in paths if paths.count(path) > 1}
    if twice:
        raise MapError(f"expected each cube once, got {', '.join(sorted(twice))} twice; drop one")
    return paths


def _parse_memory(text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise MapError(f"expected memory as '2 GiB' or '500 MiB', got {text!r}") from error


def _settings(paths: list[Path], velocity_table: str | Path | None, **given: Any) -> dict[str, Any]:
    """What makes the output what it is, files by size and time; the memory is no part of it."""
    files = [*paths, *([] if velocity_table is None else [Path(velocity_table)])]
    stats = [path.stat() for path in files]
    return {
        "files": [
            [str(path.resolve()), stat.st_size, stat.st_mtime_ns]
            for path, stat in zip(files, stats, strict=True)
        ],
        **given,
    }


def _attributes(paths: list[Path], source: Source, settings: dict[str, Any]) -> dict[str, Any]:
    names = [path.name for path in paths]
    listing = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    return {
        "beam_arcmin": source.beam_arcmin,
        "source": listing,
        "inputs": source.records,
        "prepared_by": f"foreglow {version('foreglow')}",
        "settings": settings,
    }


def _bytes_needed(source: Source, channels: int) -> int:
    return LIBRARIES + _WRITING + source.bytes_in_all + channels * source.bytes_a_channel


def _channels_at_a_time(source: Source, memory: int) -> int:
    """The most channels that the memory takes: 8, 4, 2 or 1."""
    chunk = CHANNELS_A_CHUNK
    while chunk > 1 and _bytes_needed(source, chunk) > memory:
        chunk //= 2
    return chunk


def _validate_memory(source: Source, memory: int, channels: int) -> None:
    needed = _bytes_needed(source, channels)
    if needed > memory:
        raise MapError(
            f"expected memory for {channels} channel{'s' * (channels > 1)} of Nside "
            f"{source.nside} at a time, {format_bytes(needed)}, got {format_bytes(memory)}; allow "
            "more (command line: --memory), or choose a lower --nside"
        )


def _validate_observed(source: Source, block: NDArray[np.float32], first: int) -> None:
    for k, channel in enumerate(block, start=first):
        if np.isnan(channel).all():
            raise blank_channel(source.records[0]["file"], k, float(source.velocity_kms[k]))


def _warn_of_uneven_cover(store: PartialCube) -> None:
    low, high = min(store.observed), max(store.observed)
    if low < high:
        warn_assumed(
            f"{store.path}: {high} pixels are observed in some channels, but only {low} in channel "
            f"{store.observed.index(low)}; they are NaN where they are not"
        )
