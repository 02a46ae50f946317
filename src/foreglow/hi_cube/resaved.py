"""A cube of foreglow that was opened and saved again, as by xarray, in whatever layout.

Values may be packed or compressed, the fill value another, the axes swapped or turned: xarray
decodes them. What was written by foreglow itself is read without it.
"""

import os
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from foreglow.errors import MapError
from foreglow.hi_cube.store import CHANNELS_A_CHUNK, pixels_a_chunk
from foreglow.maps import healpix as hp

_CHUNK = re.compile(r"(?:c[/.])?(\d+)[/.](\d+)")


@dataclass(frozen=True, eq=False)
class Decoded:
    """(velocity, pixel) in K, decoded where it is read; as much of `zarr.Array` as cubes need."""

    data: Any = field(repr=False)  # xarray.DataArray
    shape: tuple[int, int]
    chunks: tuple[int, int]

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        """Channels, or channels and pixels, as slices or arrays."""
        channels, pixels = key if isinstance(key, tuple) else (key, slice(None))
        part = self.data.isel(velocity=channels, pixel=pixels).transpose("velocity", "pixel")
        return np.asarray(part.to_numpy(), np.float32)


def is_as_written(tb: zarr.Array, nside: int, attributes: dict[str, Any]) -> bool:
    """Whether an array has the layout that `begin_cube` makes, and no other encoding."""
    metadata: Any = tb.metadata
    return (
        metadata.zarr_format == 3
        and metadata.dimension_names == ("velocity", "pixel")
        and tb.chunks[1] == pixels_a_chunk(nside)
        and tb.dtype == np.float32
        and bool(np.isnan(tb.fill_value))
        and "_FillValue" not in tb.attrs
        and "chunk_files" in attributes
    )


def open_resaved(
    path: Path, tb: zarr.Array, nside: int, attributes: dict[str, Any]
) -> tuple[Decoded, NDArray[np.float64], float]:
    """Open a cube of any layout.

    Parameters
    ----------
    path : Path
    tb : zarr.Array
        The array as it is stored.
    nside : int
    attributes : dict
        Of the cube.

    Returns
    -------
    tb : Decoded
    velocity_kms : ndarray, shape (n_channel,)
        Ascending, if they can be sorted.
    observed_fraction : float
        In the channel that covers least, of those that were looked at.

    Raises
    ------
    MapError
        If chunks lack, or the axes are others.
    """
    import xarray

    opened = xarray.open_zarr(path, chunks=None, consolidated=False, decode_times=False)
    data, n_pix = opened["tb"], hp.nside2npix(nside)
    if set(data.dims) != {"velocity", "pixel"} or data.sizes["pixel"] != n_pix:
        raise MapError(
            f"{path}: expected tb(velocity, pixel) with {n_pix} pixels, got {dict(data.sizes)}; "
            "save all pixels of the cube, under these names"
        )
    observed = _least_observed(path, tb, data, attributes.get("observed_fraction"))
    velocity = np.asarray(opened["velocity"], np.float64)
    if not (np.diff(velocity) > 0).all():
        data = data.isel(velocity=np.argsort(velocity))
    if "pixel" in data.coords and not (data["pixel"].to_numpy() == np.arange(n_pix)).all():
        data = data.isel(pixel=pixels_in_order(str(path), data["pixel"].to_numpy()))
    chunks = (min(CHANNELS_A_CHUNK, len(velocity)), pixels_a_chunk(nside))
    return Decoded(data, (len(velocity), n_pix), chunks), np.sort(velocity), observed / n_pix


def pixels_in_order(where: str, pixels: NDArray) -> NDArray[np.integer]:
    """Places of the pixels 0, 1, 2, ... in a coordinate that has each of them.

    `where` begins the message of the MapError that is raised if it has not.
    """
    order = np.argsort(pixels)
    if not (pixels[order] == np.arange(len(pixels))).all():
        raise MapError(
            f"{where}: expected each pixel number once in the coordinate pixel, got "
            f"{pixels.min()} to {pixels.max()}; number them as NESTED pixels, or drop it"
        )
    return order


def _least_observed(path: Path, tb: zarr.Array, data: Any, fractions: Any) -> int:
    """Pixels observed in the channel that covers least, checked that no chunk lacks.

    A chunk that a copy lost reads as its fill value. Where that is a value, all chunks have to be
    there. Where it is NaN, chunks without data need not be; so one channel is read of each set of
    chunks that some channels have, and its pixels counted: as many as the cube had when it was
    made. Where all is well that is a channel in all.
    """
    chunk_files = _chunk_files(path, tb, data.dims.index("velocity"))
    grid = [-(-n // size) for n, size in zip(tb.shape, tb.shards or tb.chunks, strict=True)]
    found = sum(map(len, chunk_files.values()))
    fill: Any = tb.fill_value
    if not (np.isnan(fill) or fill == data.encoding.get("_FillValue")) and found < np.prod(grid):
        raise _lacking(path, f"{np.prod(grid)} files of data", str(found))
    axis = data.dims.index("velocity")
    size = (tb.shards or tb.chunks)[axis]
    sets = {frozenset(chunk_files.get(k, ())): k for k in reversed(range(grid[axis]))}
    stamp = found, max(f.stat().st_mtime_ns for f in (path / tb.basename).iterdir())
    counts = [_count(path, k * size, stamp) for k in sets.values()]
    if fractions is not None:
        least, most = (round(f * data.sizes["pixel"]) for f in fractions)
        for count in counts:
            if not least <= count <= most:
                raise _lacking(path, f"{least} to {most} observed pixels in each channel", count)
    return min(counts)


def _lacking(path: Path, expected: str, got: Any) -> MapError:
    return MapError(
        f"{path}: expected {expected}, got {got}; it was copied or deleted in part: copy it again, "
        "or, if it was cut on purpose, save it without its attribute observed_fraction and with "
        "NaN as fill value"
    )


def _chunk_files(path: Path, tb: zarr.Array, axis: int) -> dict[int, set[int]]:
    """By place along an axis of the grid of chunks: places along the other that have a file."""
    found: dict[int, set[int]] = {}
    root = path / tb.basename
    for folder, _, names in os.walk(root):
        for name in names:
            chunk = _CHUNK.fullmatch((Path(folder).relative_to(root) / name).as_posix())
            if chunk:
                places = int(chunk[1]), int(chunk[2])
                found.setdefault(places[axis], set()).add(places[1 - axis])
    return found


@lru_cache(maxsize=256)
def _count(path: Path, k: int, stamp: tuple[int, int]) -> int:  # noqa: ARG001
    """Pixels observed in a channel as stored; once in a process, while `stamp` stays the same."""
    import xarray

    data = xarray.open_zarr(path, chunks=None, consolidated=False, decode_times=False)["tb"]
    return int(np.isfinite(data.isel(velocity=k).to_numpy()).sum())
