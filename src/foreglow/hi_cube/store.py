"""How an HI cube lies on disk: Zarr, written beside its place and moved there when whole.

Until it is whole a cube is `NAME.partial/`, which holds `cube.zarr` and `progress.json`; a cube
under its own name is never half written.
"""

import itertools
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from foreglow.errors import MapError, ShapeError
from foreglow.files import (
    refusal,
    remove_directory,
    remove_half_written,
    replace_directory,
    write_text,
)
from foreglow.maps import healpix as hp

FORMAT = "foreglow HI cube"
VERSION = 1
CHANNELS_A_CHUNK = 8
_PIXELS_A_CHUNK = 1 << 14


@dataclass(frozen=True, eq=False)
class PixelChunks:
    """The chunks of pixels that hold data: of a small cube, few of the sky's.

    Attributes
    ----------
    nside : int
    numbers : ndarray of int, shape (n,)
        Ascending.
    """

    nside: int
    numbers: NDArray[np.integer]

    @classmethod
    def of_all(cls, nside: int) -> "PixelChunks":
        """All of the sky."""
        return cls(nside, np.arange(hp.nside2npix(nside) // pixels_a_chunk(nside)))

    @classmethod
    def around(cls, nside: int, pixels: Sequence[NDArray[np.integer]]) -> "PixelChunks":
        """Those that some lists of NESTED pixels touch."""
        size = pixels_a_chunk(nside)
        return cls(nside, np.unique(np.concatenate([np.unique(part // size) for part in pixels])))

    def __len__(self) -> int:
        """Number of their pixels."""
        return len(self.numbers) * pixels_a_chunk(self.nside)

    def places(self, pixels: NDArray[np.integer]) -> NDArray[np.int64]:
        """Where NESTED pixels lie in an array of the pixels of these chunks; below 0: not there."""
        size = pixels_a_chunk(self.nside)
        slot = np.full(hp.nside2npix(self.nside) // size, -1)
        slot[self.numbers] = np.arange(len(self.numbers))
        chunk, inside = np.divmod(pixels, size)
        return slot[chunk] * size + inside - (slot[chunk] < 0) * size

    def runs(self) -> Iterator[tuple[slice, slice]]:
        """Stretches of neighbouring chunks: their places, and their pixels."""
        size = pixels_a_chunk(self.nside)
        breaks = np.flatnonzero(np.diff(self.numbers) != 1) + 1
        edges = [0, *breaks.tolist(), len(self.numbers)]
        for first, last in itertools.pairwise(edges):
            start = int(self.numbers[first]) * size
            yield (
                slice(first * size, last * size),
                slice(start, start + (last - first) * size),
            )


@dataclass(eq=False)
class PartialCube:
    """A cube on its way to disk.

    Attributes
    ----------
    path : Path
        Where the cube will be.
    tb : zarr.Array
        (velocity, pixel), K, NESTED.
    settings : dict
        What a resumed run must have in common with the run that began the cube.
    observed : list of int
        Pixels observed in each of the channels that are safely written, from the first.
    """

    path: Path
    tb: zarr.Array
    settings: dict[str, Any]
    observed: list[int] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Channels that are safely written."""
        return len(self.observed)

    @property
    def chunk(self) -> int:
        """Channels in a chunk of the store: what to write at a time."""
        return self.tb.chunks[0]

    def append(self, block: NDArray[np.float32], chunks: PixelChunks) -> None:
        """Write the next channels, see `write_channels`, and note that they are written."""
        self.note(write_channels(self.tb, self.done, block, chunks))

    def note(self, observed: list[int]) -> None:
        """Remember that the next channels are safely written, with so many pixels observed."""
        self.observed += observed
        self._note_progress()

    def finish(self) -> None:
        """Give the cube its name; what had it before goes."""
        folder = partial_folder(self.path)
        store = folder / "cube.zarr"
        remove_half_written(store)
        n_pix = self.tb.shape[1]
        zarr.open_group(store, mode="r+").attrs.update(
            {
                "chunk_files": count_chunk_files(store),
                "observed_fraction": [min(self.observed) / n_pix, max(self.observed) / n_pix],
            }
        )
        with warnings.catch_warnings():
            # zarr says that this is not in the standard yet; xarray warns where it is absent
            warnings.filterwarnings("ignore", "Consolidated metadata")
            zarr.consolidate_metadata(store)
        replace_directory(store, self.path)
        remove_directory(folder)

    def _note_progress(self) -> None:
        content = {"settings": self.settings, "observed": self.observed}
        write_text(partial_folder(self.path) / "progress.json", json.dumps(content))


def write_channels(
    tb: zarr.Array, first: int, block: NDArray[np.float32], chunks: PixelChunks
) -> list[int]:
    """Write channels of a cube, from any process: no two chunks share a file.

    Parameters
    ----------
    tb : zarr.Array
        (velocity, pixel), K, NESTED.
    first : int
        Where a chunk of channels begins.
    block : ndarray of float32, shape (channel, pixel of `chunks`)
        A whole chunk of channels, or what is left, K, NESTED; other pixels stay NaN.
    chunks : PixelChunks

    Returns
    -------
    list of int
        Pixels observed in each channel.

    Raises
    ------
    ShapeError
        If the block is not a chunk of channels.
    """
    count = min(tb.chunks[0], tb.shape[0] - first)
    if block.shape != (count, len(chunks)):
        raise ShapeError(
            f"expected the next chunk of the cube, ({count}, {len(chunks)}), got "
            f"{block.shape}; write whole chunks"
        )
    for places, pixels in chunks.runs():
        tb[first : first + count, pixels] = block[:, places]
    return [int(np.isfinite(channel).sum()) for channel in block]


def open_partial(path: Path) -> zarr.Array:
    """The (velocity, pixel) array of a cube on its way to disk, to be written to."""
    tb: Any = zarr.open_group(partial_folder(path) / "cube.zarr", mode="r+")["tb"]
    return tb


def partial_folder(path: Path) -> Path:
    """Where a cube lies until it is whole."""
    return path.with_name(f"{path.name}.partial")


def begin_cube(
    path: Path,
    velocity_kms: NDArray[np.float64],
    nside: int,
    attributes: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    channels_a_chunk: int = CHANNELS_A_CHUNK,
) -> PartialCube:
    """Make an empty cube beside its place; what an interrupted run left there goes.

    Parameters
    ----------
    path : Path
    velocity_kms : ndarray, shape (n_channel,)
        LSRK, ascending.
    nside : int
        A power of two.
    attributes : mapping
        `beam_arcmin` (None where unknown), `source` and whatever else the cube should say.
    settings : mapping, optional
        See `PartialCube`.
    channels_a_chunk : int, optional
        Whoever writes the cube holds this many full-sky maps.

    Raises
    ------
    WriteError
        If the folder cannot be written.
    """
    folder = partial_folder(path)
    n_channel, n_pix = len(velocity_kms), hp.nside2npix(nside)
    chunk = min(channels_a_chunk, n_channel)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_directory(folder)
        folder.mkdir()
        group = zarr.open_group(folder / "cube.zarr", mode="w", zarr_format=3)
        common: dict[str, Any] = {"compressors": None, "fill_value": np.nan}
        tb = group.create_array(
            "tb",
            shape=(n_channel, n_pix),
            chunks=(chunk, pixels_a_chunk(nside)),
            dtype="float32",
            dimension_names=("velocity", "pixel"),
            attributes={"units": "K", "long_name": "brightness temperature of the 21 cm line"},
            **common,
        )
        velocity = group.create_array(
            "velocity",
            shape=(n_channel,),
            chunks=(n_channel,),
            dtype="float64",
            dimension_names=("velocity",),
            attributes={"units": "km/s", "long_name": "radio velocity, LSRK"},
            **common,
        )
        velocity[:] = velocity_kms
        group.attrs.update(
            {
                "format": FORMAT,
                "version": VERSION,
                "nside": nside,
                "ordering": "NESTED",
                "frame": "G",
                "velocity_frame": "LSRK",
                **attributes,
            }
        )
    except OSError as error:
        raise refusal(path, error) from error
    cube = PartialCube(path, tb, dict(settings or {}))
    cube._note_progress()
    return cube


def resume_cube(path: Path, settings: Mapping[str, Any]) -> PartialCube | None:
    """The cube that an interrupted run left, None if there is none.

    Raises
    ------
    MapError
        If it was begun with other settings, or is damaged.
    """
    if not is_begun(path):
        return None
    folder = partial_folder(path)
    try:
        progress = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
        before, observed = progress["settings"], list(map(int, progress["observed"]))
        tb = open_partial(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MapError(
            f"{folder}: expected what an interrupted run left, got something damaged ({error}); "
            "remove it and begin anew, without resume=True"
        ) from error
    validate_same(path, before, settings)
    return PartialCube(path, tb, before, observed)


def is_begun(path: Path) -> bool:
    """Whether an interrupted run left a cube on its way to `path`; if a whole one, clear away."""
    folder = partial_folder(path)
    begun = (folder / "progress.json").is_file() and (folder / "cube.zarr").is_dir()
    if not begun:
        remove_directory(folder)
    return begun


def validate_same(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that a run goes on with the settings it began with.

    Raises
    ------
    MapError
        Naming those that differ.
    """
    now = json.loads(json.dumps(dict(now)))
    differ = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if differ:
        listing = "; ".join(f"{k}: {before.get(k)!r} then, {now.get(k)!r} now" for k in differ)
        raise MapError(
            f"{path}: expected the settings that the earlier run began with, got another "
            f"{', '.join(differ)} ({listing}); resume with the same, or begin anew without "
            "resume=True"
        )


def validate_free(path: Path, overwrite: bool) -> None:
    """Check that a cube may be written at a path.

    Raises
    ------
    MapError
        If something is there and `overwrite` is not set, or it is not a cube of ours.
    """
    if not path.exists():
        return
    if not overwrite:
        raise MapError(
            f"{path}: expected a name that is free, got one that exists already; choose another "
            "or pass overwrite=True"
        )
    if not is_cube(path):
        raise MapError(
            f"{path}: expected an HI cube of foreglow to replace, got something else, which "
            "overwrite=True will not delete; remove it yourself or choose another name"
        )


def is_cube(path: Path) -> bool:
    """Whether a path holds a whole cube that `begin_cube` made, perhaps saved again."""
    try:
        group = zarr.open_group(path, mode="r", use_consolidated=False)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return group.attrs.get("format") == FORMAT


def stored_settings(path: Path) -> dict[str, Any]:
    """Settings that a whole cube was prepared with, none if it was not prepared."""
    attributes: Any = zarr.open_group(path, mode="r").attrs
    return dict(attributes.get("settings") or {})


def count_chunk_files(store: Path) -> int:
    """Chunks of a cube that have a file: one where nothing is observed has none.

    A chunk that an interrupted copy lost would be read as unobserved, were they not counted. What
    a writer that was killed left half written has another name, and does not count.
    """
    found = itertools.chain.from_iterable(files for _, _, files in os.walk(store / "tb" / "c"))
    return sum(name.isdecimal() for name in found)


def pixels_a_chunk(nside: int) -> int:
    """Pixels in a chunk: a square of the sky, a sixteenth of a base pixel or 16,384 pixels.

    Few enough that a cutout of 25 deg does not drag the sky in, enough that a chunk is worth a
    file.
    """
    return min(max(nside**2 // 16, _PIXELS_A_CHUNK), hp.nside2npix(nside))


def validate_velocity(where: str, velocity_kms: Sequence[float] | NDArray) -> NDArray[np.float64]:
    """Velocities as an array, checked to ascend; `where` begins the message of the MapError."""
    velocity = np.atleast_1d(np.asarray(velocity_kms, dtype=np.float64))
    good = velocity.ndim == 1 and velocity.size > 0 and np.isfinite(velocity).all()
    if not (good and (np.diff(velocity) > 0).all()):
        raise MapError(
            f"{where}: expected velocities in km/s that ascend, one a channel, got "
            f"{np.array2string(velocity, threshold=8, precision=6)}; sort the channels"
        )
    return velocity
