"""HI cubes as surveys publish them, made into the cube that foreglow works on.

A chunk of channels at a time is read, put on HEALPix pixels and written, here or by workers, each
of which opens the files itself. The memory of a process is planned before the first is read: fewer
channels go into a chunk where it is scarce.
"""

import contextlib
import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from numpy.typing import NDArray

from foreglow.compute.progress import Progress, Shown, shown
from foreglow.compute.workers import MapFn, map_over
from foreglow.errors import MapError
from foreglow.files import lock_of, make_folder, refusal, settle
from foreglow.hi_cube.cube import HICube, open_cube
from foreglow.hi_cube.sources import Recipe, Source, open_source
from foreglow.hi_cube.store import (
    CHANNELS_A_CHUNK,
    PartialCube,
    begin_cube,
    is_begun,
    is_cube,
    open_partial,
    resume_cube,
    stored_settings,
    validate_free,
    validate_same,
    write_channels,
)
from foreglow.hi_cube.survey import blank_channels
from foreglow.maps.conventions import MapWarning, warn_assumed
from foreglow.maps.memory import format_bytes, parse_memory

log = logging.getLogger("foreglow")

LIBRARIES = 250 << 20  # bytes that Python and the libraries take, measured: 180 MiB and buffers
_WRITING = 32 << 20  # bytes of chunks on their way to disk
_ALONE = threading.Lock()  # threads of one worker take turns: files and the memory are one


def prepare(
    cubes: str | Path | Sequence[str | Path],
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
    progress: Shown = None,
    workers: str | None = None,
    pool: Any = None,
) -> HICube:
    """Make an HI cube from FITS: image cubes (one or tiles), or HEALPix maps.

    Image cubes are interpolated bilinearly onto the pixel centres, without smoothing. A pixel
    that several tiles cover has the value of the tile in which it lies farthest from an edge; if
    that is blank there, of the first other tile that has one. What no tile covers is NaN.
    HEALPix maps are taken as they are. Values beyond 1000 K, and numbers such as -32768 that stand
    for none, are taken as not observed.

    Parameters
    ----------
    cubes : path or sequence of path
        FITS: image cubes of two celestial axes and one of radio velocity (LSRK); or one HEALPix
        table with a column a channel or a spectrum a row, or a table a channel.
    out : path
        Folder to make.
    nside : int, optional
        By default that of HEALPix maps, else the smallest whose pixels are not larger than those
        of the cube: 1024 for the 5 arcmin of HI4PI.
    low_kms, high_kms : float, optional
        Channels centred in this range; by default all.
    memory : str, optional
        The process stays below it, Python and libraries (250 MiB) included; so does each worker.
        Eight channels at a time at best; at least one.
    unit : str, optional
        K or mK, where the files state no unit.
    beam_arcmin : float, optional
        FWHM, where the files state none, or none that is likely.
    velocity_table : path, optional
        Velocities of the channels in the order of the files, in place of what they say of them:
        text, km/s LSRK, one a line.
    resume : bool, optional
        Go on with an interrupted run, if there is one.
    overwrite : bool, optional
        Replace a cube at `out`.
    progress : callable or bool, optional
        Called with channels done and in all; by default a bar shows them on a terminal or in a
        notebook, with False nothing does.
    workers : str, optional
        Where the chunks of channels are done: "local:N", "slurm:FILE" or "tcp://HOST:PORT", see
        `open_workers`. Workers read the files and write the cube themselves; it is the same to the
        byte.
    pool : object with a method `map`, optional
        In the place of `workers`: of multiprocessing, mpi4py.futures, a client of Dask, ...

    Returns
    -------
    HICube

    Raises
    ------
    MapError
        If a file is not what is expected, the files do not go together, the settings of an
        interrupted run differ, a channel has no data at all, the memory does not suffice, or
        another process prepares the same cube.

    Warns
    -----
    MapWarning
        If the beam is unknown, or the pixels are too coarse for it; of a unit that is assumed, and
        of values that are taken as not observed.
    """
    out = Path(out)
    cubes = [cubes] if isinstance(cubes, str | Path) else cubes
    paths = validate_paths(cubes, velocity_table)
    settings = _settings(
        paths,
        velocity_table,
        nside=nside,
        low_kms=low_kms,
        high_kms=high_kms,
        unit=unit,
        beam_arcmin=beam_arcmin,
    )
    table = None if velocity_table is None else Path(velocity_table).absolute()
    recipe = Recipe.of(
        paths, nside, low_kms, high_kms, unit, beam_arcmin, table, parse_memory(memory)
    )
    with alone(out):
        settle(out)
        if resume and is_cube(out) and not is_begun(out):
            validate_same(out, stored_settings(out), settings)
            return open_cube(out)
        validate_free(out, overwrite)
        with shown("prepare", progress) as show, map_over(workers, pool) as map_fn:
            store = _make_cube(out, recipe, settings, resume, show, map_fn)
        _warn_of_uneven_cover(store)
        store.finish()
    return open_cube(out)


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep a second process from what this one writes: both would fill one unfinished cube."""
    make_folder(out.parent)
    lock = lock_of(out)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise MapError(
            f"{out}: expected to be the only one who prepares it, got another process at it; wait "
            "for that one, then give the same command again, with resume=True"
        ) from error
    except OSError as error:
        raise refusal(out, error) from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _make_cube(
    out: Path,
    recipe: Recipe,
    settings: dict[str, Any],
    resume: bool,
    progress: Progress,
    map_fn: MapFn,
) -> PartialCube:
    """Fill the cube, from where an interrupted run left it if that is to be gone on with."""
    source = open_source(recipe)
    try:
        source.validate()
        store = resume_cube(out, settings) if resume else None
        if store is None:
            chunk = _channels_at_a_time(source, recipe.memory)
            validate_memory_for(source, recipe.memory, chunk)
            attributes = _attributes(list(recipe.paths), source, settings)
            store = begin_cube(out, source.velocity_kms, source.nside, attributes, settings, chunk)
        validate_memory_for(source, recipe.memory, store.chunk)
        _fill(store, source, partial(_make_chunk, recipe, out.absolute()), progress, map_fn)
    finally:
        source.close()
        open_source.cache_clear()
    return store


def _fill(
    store: PartialCube,
    source: Source,
    make: Callable[[int], list[int]],
    progress: Progress,
    map_fn: MapFn,
) -> None:
    """Channels that the store lacks, a chunk at a time."""
    total = len(source.velocity_kms)
    log.info("prepare: %d channels, %d at a time, Nside %d", total, store.chunk, source.nside)
    if store.done:
        log.info("prepare: going on at channel %d of %d", store.done, total)
    for observed in map_fn(make, range(store.done, total, store.chunk)):
        before = store.done
        store.note(observed)
        progress(store.done, total)
        if 10 * store.done // total > 10 * before // total:  # each tenth
            log.info("prepare: %d of %d channels", store.done, total)


def _make_chunk(recipe: Recipe, out: Path, first: int) -> list[int]:
    """Write the chunk of channels that begins at one; pixels observed in each."""
    with _ALONE, warnings.catch_warnings():
        warnings.simplefilter("ignore", MapWarning)  # said when the source was opened first
        source = open_source(recipe)
        tb = open_partial(out)
        count = min(tb.chunks[0], len(source.velocity_kms) - first)
        block = np.empty((count, len(source.chunks)), np.float32)
        source.fill(block, first)
        _validate_observed(source, block, first)
        return write_channels(tb, first, block, source.chunks)


def validate_paths(cubes: Sequence[str | Path], velocity_table: str | Path | None) -> list[Path]:
    """Paths of files that are there, each once."""
    paths = [Path(cube) for cube in cubes]
    if velocity_table is not None and not Path(velocity_table).is_file():
        raise MapError(
            f"{velocity_table}: expected a text file of velocities, got none; check the path"
        )
    if not paths:
        raise MapError("expected at least one cube, got none; name a FITS file")
    for path in paths:
        if not path.is_file():
            raise MapError(f"{path}: expected a FITS file, got none; check the path")
    twice = {str(path) for path in paths if paths.count(path) > 1}
    if twice:
        raise MapError(f"expected each cube once, got {', '.join(sorted(twice))} twice; drop one")
    return paths


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


def validate_memory_for(source: Source, memory: int, channels: int) -> None:
    """Check that a process can hold so many channels of a source at a time.

    Raises
    ------
    MapError
        If it cannot.
    """
    needed = _bytes_needed(source, channels)
    if needed > memory:
        raise MapError(
            f"expected memory for {channels} channel{'s' * (channels > 1)} of Nside "
            f"{source.nside} at a time, {format_bytes(needed)}, got {format_bytes(memory)}; give "
            "more memory=, or a lower nside="
        )


def _validate_observed(source: Source, block: NDArray[np.float32], first: int) -> None:
    for k, channel in enumerate(block, start=first):
        if np.isnan(channel).all():
            raise blank_channels(source.records[0]["file"], [k], source.velocity_kms)


def _warn_of_uneven_cover(store: PartialCube) -> None:
    low, high = min(store.observed), max(store.observed)
    if low < high:
        warn_assumed(
            f"{store.path}: {high} pixels are observed in some channels, but only {low} in channel "
            f"{store.observed.index(low)}; they are NaN where they are not"
        )
