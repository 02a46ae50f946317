"""How an HI cube lies on disk: Zarr, written beside its place and moved there when whole.

Until it is whole a cube is `NAME.partial/`, which holds `cube.zarr` and `progress.json`; a cube
under its own name is never half written.
"""

import json
import os
import shutil
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import healpy as hp
import numpy as np
import zarr
from numpy.typing import NDArray

from foreglow.errors import MapError, ShapeError
from foreglow.runs import write_text

FORMAT = "foreglow HI cube"
VERSION = 1
CHANNELS_A_CHUNK = 8
_PIXELS_A_CHUNK, _BYTES_A_CHUNK = 1 << 14, 1 << 19


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
        What a `--resume` must have in common with the run that began the cube.
    done : int
        Channels that are safely written, from the first.
    """

    path: Path
    tb: zarr.Array
    settings: dict[str, Any]
    done: int = 0

    @property
    def chunk(self) -> int:
        """Channels in a chunk of the store: what to write at a time."""
        return self.tb.chunks[0]

    def append(self, block: NDArray[np.float32]) -> None:
        """Write the next channels, (channel, n_pix) NESTED: a whole chunk, or what is left."""
        n_channel = self.tb.shape[0]
        if len(block) != min(self.chunk, n_channel - self.done):
            raise ShapeError(
                f"expected {min(self.chunk, n_channel - self.done)} channels, the next chunk of "
                f"the cube, got {len(block)}; write whole chunks"
            )
        self.tb[self.done : self.done + len(block)] = block
        self.done += len(block)
        self._note_progress()

    def finish(self) -> None:
        """Give the cube its name; what had it before goes."""
        folder = partial_folder(self.path)
        store = folder / "cube.zarr"
        zarr.open_group(store, mode="r+").attrs["chunk_files"] = count_chunk_files(store)
        with warnings.catch_warnings():
            # zarr says that this is not in the standard yet; xarray warns where it is absent
            warnings.filterwarnings("ignore", "Consolidated metadata")
            zarr.consolidate_metadata(store)
        old = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex[:8]}.old")
        if self.path.exists():
            os.replace(self.path, old)
        os.replace(store, self.path)
        _remove(old)
        _remove(folder)

    def _note_progress(self) -> None:
        content = {"settings": self.settings, "done": self.done}
        write_text(partial_folder(self.path) / "progress.json", json.dumps(content, indent=1))


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
    MapError
        If the folder cannot be written.
    """
    folder = partial_folder(path)
    n_channel, n_pix = len(velocity_kms), hp.nside2npix(nside)
    chunk = min(channels_a_chunk, n_channel)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(folder)
        folder.mkdir()
        group = zarr.open_group(folder / "cube.zarr", mode="w", zarr_format=3)
        common: dict[str, Any] = {"compressors": None, "fill_value": np.nan}
        tb = group.create_array(
            "tb",
            shape=(n_channel, n_pix),
            chunks=(chunk, pixels_a_chunk(nside, chunk)),
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
        raise MapError(f"{path}: cannot be written ({error}); check folder and space") from error
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
    folder = partial_folder(path)
    if not folder.exists():
        return None
    try:
        progress = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
        before, done = progress["settings"], int(progress["done"])
        tb: Any = zarr.open_group(folder / "cube.zarr", mode="r+")["tb"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MapError(
            f"{folder}: expected what an interrupted run left, got something damaged ({error}); "
            "remove it and begin anew, without --resume"
        ) from error
    now = json.loads(json.dumps(dict(settings)))
    differ = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if differ:
        listing = "; ".join(f"{k}: {before.get(k)!r} then, {now.get(k)!r} now" for k in differ)
        raise MapError(
            f"{path}: expected the settings that the interrupted run began with, got another "
            f"{', '.join(differ)} ({listing}); resume with the same, or begin anew without --resume"
        )
    return PartialCube(path, tb, before, done)


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
            "or pass overwrite=True (command line: --overwrite)"
        )
    if not is_cube(path):
        raise MapError(
            f"{path}: expected an HI cube of foreglow to replace, got something else, which "
            "--overwrite will not delete; remove it yourself or choose another name"
        )


def is_cube(path: Path) -> bool:
    """Whether a path holds a cube that `begin_cube` made."""
    try:
        content = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
        return content["attributes"]["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        return False


def count_chunk_files(store: Path) -> int:
    """Chunks of a cube that have a file: one where nothing is observed has none.

    A chunk that an interrupted copy lost would be read as unobserved, were they not counted.
    """
    return sum(len(files) for _, _, files in os.walk(store / "tb" / "c"))


def pixels_a_chunk(nside: int, channels: int) -> int:
    """Pixels in a chunk: a square of the sky, a sixteenth of a base pixel or more.

    Few enough that a cutout of 25 deg does not drag the sky in, enough that a chunk is worth a
    file: half a MiB.
    """
    pixels = max(nside**2 // 16, _PIXELS_A_CHUNK)
    while 4 * channels * pixels < _BYTES_A_CHUNK and pixels < nside**2:
        pixels *= 4
    return min(pixels, hp.nside2npix(nside))


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


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
