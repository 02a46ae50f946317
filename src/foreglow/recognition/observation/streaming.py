"""The sky a block of pixels at a time, within a memory that is stated, here or on Dask's workers.

A worker is told what to open, and keeps it open for the blocks that follow.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from foreglow.compute.progress import Progress
from foreglow.errors import MapError
from foreglow.maps import healpix as hp
from foreglow.maps.blocks import PixelBlock
from foreglow.maps.given import GivenFile
from foreglow.maps.memory import format_bytes, parse_memory
from foreglow.maps.write import Columns
from foreglow.recognition.observation.band_noise import Noise, noise_map
from foreglow.recognition.observation.observations import Observation, open_observation
from foreglow.sky.instrument import Instrument

BLOCK = 1 << 14  # pixels worked on at a time: what the caches of a processor hold
LIBRARIES = 500 << 20  # bytes that Python and the libraries take, measured: 440 MiB


class Source(Protocol):
    """What to open, told in few words: hashable, and small to send."""

    def open(self) -> Observation:
        """Open it."""
        ...


@dataclass(frozen=True)
class MapFiles:
    """A user's maps and their noise, as `open_observation` takes them.

    Parameters
    ----------
    instrument : Instrument
    maps, noise : tuple of (str, str)
        Band and file; band and what was said of its noise.
    noise_scale : float
    unit : str or None
    state : tuple
        Size and time of each file, so that one that was replaced is opened anew.
    """

    instrument: Instrument
    maps: tuple[tuple[str, str], ...]
    noise: tuple[tuple[str, str], ...]
    noise_scale: float
    unit: str | None
    state: tuple[Any, ...]

    @classmethod
    def of(
        cls,
        instrument: Instrument,
        maps: Mapping[str, str | Path],
        noise: Noise | None = None,
        noise_scale: float = 1.0,
        unit: str | None = None,
    ) -> "MapFiles":
        """From what a user gives; paths become absolute, as a worker may be elsewhere."""
        given = {band: GivenFile.of(path).absolute() for band, path in maps.items()}
        found = {band: noise_map(value) for band, value in (noise or {}).items()}
        there = {b: file.absolute() for b, file in found.items() if isinstance(file, GivenFile)}
        files = tuple((band, str(file)) for band, file in given.items())
        said = tuple((band, str(there.get(band, value))) for band, value in (noise or {}).items())
        paths = [path for file in (*given.values(), *there.values()) for path in file.paths]
        return cls(instrument, files, said, noise_scale, unit, tuple(map(file_state, paths)))

    def open(self) -> Observation:
        """Open them, with the errors and warnings of `open_observation`."""
        return open_observation(
            self.instrument, dict(self.maps), dict(self.noise), self.noise_scale, self.unit
        )


@lru_cache(maxsize=1)
def open_source(source: Source) -> Observation:
    """What a source says, opened once in a process for all blocks that follow."""
    return source.open()


def file_state(path: str | Path) -> tuple[int, int] | None:
    """Size and time of last change; None for what is no file."""
    try:
        stat = Path(path).stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def open_quietly(source: Source) -> Observation:
    """As `open_source`, for workers: without the warnings, which the client has given already."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return open_source(source)


def validate_memory(memory: str, needed: int, loaded: int = 0) -> None:
    """Check that a process can keep to a bound.

    Parameters
    ----------
    memory : str
        Such as "4 GiB".
    needed : int
        Bytes of the work.
    loaded : int
        Bytes among them of files that have to be loaded.

    Raises
    ------
    MapError
        If it cannot, or the text is not understood.
    """
    bound = parse_memory(memory)
    if needed <= bound:
        return
    of_files = (
        f", of which {format_bytes(loaded)} are gzipped maps and pixel numbers of partial maps"
        if loaded
        else ""
    )
    raise MapError(
        f"expected memory of {format_bytes(needed)} or more{of_files}, got {format_bytes(bound)}; "
        f"give more memory={', or gunzip the maps' if loaded else ''}"
    )


_Part = TypeVar("_Part")


def gather(parts: Iterable[_Part], blocks: Iterable[PixelBlock]) -> _Part:
    """What was found in all blocks, in one object: its arrays of shape (..., n_pix), RING."""
    whole: Any = None
    for part, block in zip(parts, blocks, strict=True):
        table: Any = part
        names = [f.name for f in fields(table) if isinstance(getattr(table, f.name), np.ndarray)]
        if whole is None:
            n_pix = hp.nside2npix(block.nside)
            empty = {name: _empty_like(getattr(table, name), n_pix) for name in names}
            whole = replace(table, **empty)
        place = block.numbers("RING")
        for name in names:
            getattr(whole, name)[..., place] = getattr(table, name)
    return whole


def _empty_like(array: np.ndarray, n_pix: int) -> np.ndarray:
    return np.empty((*array.shape[:-1], n_pix), array.dtype)


def with_progress(
    parts: Iterable[_Part], blocks: Iterable[PixelBlock], progress: Progress
) -> Iterator[_Part]:
    """Say after each part how many pixels are done."""
    done, n_pix = 0, None
    for part, block in zip(parts, blocks, strict=True):
        yield part
        n_pix = n_pix or hp.nside2npix(block.nside)
        done += len(block)
        progress(done, n_pix)


def counted(parts: Iterable[Any], counts: list[Any]) -> Iterator[Columns]:
    """Columns of parts, whose `counts` are kept as they go by."""
    for part in parts:
        counts.append(part.counts)
        yield part.columns()
