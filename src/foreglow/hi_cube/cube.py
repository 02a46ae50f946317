"""HI cubes: brightness temperature by velocity channel and HEALPix pixel, in Zarr.

A cube is an xarray Dataset on disk, `tb(velocity, pixel)` in K; `xarray.open_zarr` opens it too.
Inside chunks pixels are NESTED, so that a cutout touches few of them; maps go in and come out in
RING order, as healpy and the transforms want them. Chunks are not compressed: noise in float32
shrinks by a fifth at best, at half the speed.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from foreglow.errors import MapError, ShapeError
from foreglow.files import settle
from foreglow.hi_cube.brightness import validate_brightness
from foreglow.hi_cube.resaved import is_as_written, open_resaved
from foreglow.hi_cube.store import (
    FORMAT,
    VERSION,
    PartialCube,
    PixelChunks,
    begin_cube,
    count_chunk_files,
    partial_folder,
    validate_free,
    validate_velocity,
)
from foreglow.maps import healpix as hp

_UNSEEN = np.float32(hp.UNSEEN)


@dataclass(frozen=True, eq=False)
class HICube:
    """An opened cube; nothing but its velocities is in memory.

    Attributes
    ----------
    path : Path or None
        None for a cube in memory, see `foreglow.hi_cube.arrays`.
    nside : int
    velocity_kms : ndarray of float64, shape (n_channel,)
        Centres of the channels, LSRK, radio convention, ascending.
    beam_arcmin : float or None
        FWHM, None where the source did not state it.
    source : str
        Where the cube is from.
    observed_fraction : float or None
        Of the sky, in the channel that covers least; None where that was not counted.
    """

    path: Path | None
    nside: int
    velocity_kms: NDArray[np.float64]
    beam_arcmin: float | None
    source: str
    observed_fraction: float | None
    tb: Any = field(repr=False)  # zarr.Array, or as much of it as is used here

    @property
    def name(self) -> str:
        """What messages call it: its path, or the argument that it came as."""
        return "cube" if self.path is None else str(self.path)

    @property
    def n_channel(self) -> int:
        """Number of channels."""
        return len(self.velocity_kms)

    def summary(self) -> str:
        """The cube in a line."""
        beam = "unknown" if self.beam_arcmin is None else f"{self.beam_arcmin:g} arcmin"
        share = self.observed_fraction
        sky = "" if share is None else f", {100 * share:.3g}% of the sky"
        return (
            f"{self.name}: {self.n_channel} channels from {self.velocity_kms[0]:.2f} to "
            f"{self.velocity_kms[-1]:.2f} km/s (LSRK), Nside {self.nside}, beam {beam}{sky}"
        )

    def channel(self, k: int) -> NDArray[np.float32]:
        """One channel: K, RING, shape (n_pix,), NaN where not observed.

        Each call reads all channels of a chunk; for several, `channels` reads them once.
        """
        return next(self.channels([k]))

    def channels(
        self, which: slice | Sequence[int] | NDArray[np.integer] = slice(None)
    ) -> Iterator[NDArray[np.float32]]:
        """Some channels, one map at a time.

        A chunk of channels (8) is read at once and held until the next one is needed.

        Parameters
        ----------
        which : slice or sequence of int, optional
            As in indexing an array of channels; all by default.

        Yields
        ------
        ndarray of float32, shape (n_pix,)
            K, RING, NaN where not observed.

        Raises
        ------
        MapError
            If there is no such channel.
        """
        try:
            wanted = np.arange(self.n_channel)[which]
        except IndexError as error:
            raise MapError(
                f"{self.name}: expected channels from 0 to {self.n_channel - 1}, got {which}; "
                "name those that the cube has"
            ) from error
        return self._read(wanted)

    def between(self, low_kms: float | None, high_kms: float | None) -> slice:
        """The channels centred from `low_kms` to `high_kms`, an end that is None being open.

        Raises
        ------
        MapError
            If there is none.
        """
        return velocity_slice(self.name, self.velocity_kms, low_kms, high_kms)

    def _read(self, wanted: NDArray[np.integer]) -> Iterator[NDArray[np.float32]]:
        nested = hp.ring2nest(self.nside, np.arange(hp.nside2npix(self.nside)))
        chunk, held, block = self.tb.chunks[0], -1, np.empty(0, np.float32)
        for k in wanted:
            if k // chunk != held:
                held = k // chunk
                block = np.asarray(self.tb[held * chunk : (held + 1) * chunk])
            yield block[k % chunk][nested]


def open_cube(path: str | Path) -> HICube:
    """Open an HI cube.

    Parameters
    ----------
    path : path
        A folder that `write_cube` or `prepare` made, or xarray from such a one.

    Returns
    -------
    HICube

    Raises
    ------
    MapError
        If there is none, it is not whole, or it is not a cube of foreglow.
    """
    path = Path(path)
    settle(path)
    if not path.exists():
        half = partial_folder(path)
        advice = (
            f"its preparation was interrupted (see {half}): go on with resume=True"
            if half.exists()
            else "make one with `foreglow dust prepare`"
        )
        raise MapError(f"{path}: expected an HI cube, got no such folder; {advice}")
    try:
        # what is there, not what consolidated metadata say of it
        group = zarr.open_group(path, mode="r", use_consolidated=False)
        attributes: dict[str, Any] = dict(group.attrs)
        # FileNotFoundError, and what zarr raises on a file, on damaged JSON or a lacking array
        tb: Any = group["tb"]
        velocity = np.asarray(group["velocity"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _not_a_cube(path, f"{type(error).__name__}: {error}") from error
    if attributes.get("format") != FORMAT or not isinstance(tb, zarr.Array):
        raise _not_a_cube(path, f"format {attributes.get('format')!r}")
    if attributes.get("version") != VERSION or attributes.get("ordering") != "NESTED":
        raise _not_a_cube(path, f"version {attributes.get('version')!r}")
    nside = attributes["nside"]
    if is_as_written(tb, nside, attributes):
        _validate_whole(path, attributes["chunk_files"])
        observed_fraction = attributes["observed_fraction"][0]
    else:
        tb, velocity, observed_fraction = open_resaved(path.absolute(), tb, nside, attributes)
    if tb.shape != (len(velocity), hp.nside2npix(nside)):
        raise _not_a_cube(path, f"an array of shape {tb.shape} for Nside {nside}")
    return HICube(
        path,
        nside,
        validate_velocity(str(path), velocity),
        attributes.get("beam_arcmin"),
        attributes.get("source", ""),
        observed_fraction,
        tb,
    )


def _validate_whole(path: Path, expected: int) -> None:
    found = count_chunk_files(path)
    if found != expected:
        raise MapError(
            f"{path}: expected {expected} files of data, got {found}; it was copied or deleted in "
            "part: copy it again"
        )


def write_cube(
    path: str | Path,
    velocity_kms: Sequence[float] | NDArray,
    maps: Iterable[NDArray],
    nside: int,
    beam_arcmin: float | None,
    source: str,
    overwrite: bool = False,
) -> HICube:
    """Write an HI cube, a map after the other; it appears whole or not at all.

    Eight maps are held at a time, a chunk of the store.

    Parameters
    ----------
    path : path
        Folder to make.
    velocity_kms : sequence of float, shape (n_channel,)
        Centres of the channels, LSRK, ascending.
    maps : iterable of ndarray, shape (n_pix,)
        K, RING, Galactic, one a channel; NaN or UNSEEN where not observed.
    nside : int
        A power of two.
    beam_arcmin : float or None
        FWHM.
    source : str
        Where the maps are from.
    overwrite : bool, optional
        Replace a cube of this name, once the new one is whole.

    Returns
    -------
    HICube

    Raises
    ------
    MapError
        If the name is taken, the velocities do not ascend, or a map holds Inf.
    ShapeError
        If a map has another shape, or there are more or fewer than velocities.
    """
    path = Path(path)
    velocity = validate_velocity(str(path), velocity_kms)
    validate_nside(str(path), nside)
    validate_free(path, overwrite)
    store = begin_cube(path, velocity, nside, {"beam_arcmin": beam_arcmin, "source": source})
    chunks = PixelChunks.of_all(nside)
    ring = hp.nest2ring(nside, np.arange(hp.nside2npix(nside)))
    block = np.empty((store.chunk, ring.size), np.float32)
    count = 0
    for count, values in enumerate(maps, start=1):
        if count > len(velocity):
            break
        filled = (count - 1) % store.chunk
        block[filled] = _validate_map(path, count - 1, values, ring.size)[ring]
        if filled + 1 == store.chunk or count == len(velocity):
            store.append(block[: filled + 1], chunks)
    _validate_count(path, count, store)
    store.finish()
    return open_cube(path)


def velocity_slice(
    where: str, velocity_kms: NDArray, low_kms: float | None, high_kms: float | None
) -> slice:
    """Channels of ascending velocities in a range; `where` begins the message of the MapError.

    A channel on the edge of the range, to a thousandth of a channel, is in it.
    """
    low = -np.inf if low_kms is None else low_kms
    high = np.inf if high_kms is None else high_kms
    slack = 1e-3 * np.diff(velocity_kms).min() if len(velocity_kms) > 1 else 1e-6
    first, last = np.searchsorted(velocity_kms, [low - slack, high + slack])
    if first >= last:
        raise MapError(
            f"{where}: expected channels from {low:g} to {high:g} km/s, got a cube from "
            f"{velocity_kms[0]:.6g} to {velocity_kms[-1]:.6g} km/s with none there; choose another "
            "range (low_kms=, high_kms=)"
        )
    return slice(int(first), int(last))


def validate_nside(where: str, nside: int) -> None:
    """Check that an Nside can be NESTED; `where` begins the message of the MapError."""
    if not hp.isnsideok(nside, nest=True):
        raise MapError(
            f"{where}: expected an Nside that is a power of two, got {nside}; cubes are "
            "NESTED inside, which has no other"
        )


def _validate_map(path: Path, k: int, values: NDArray, n_pix: int) -> NDArray[np.float32]:
    values = np.asarray(values, dtype=np.float32)
    if values.shape != (n_pix,):
        raise ShapeError(
            f"{path}: expected maps of shape ({n_pix},), got {values.shape} for channel {k}; "
            "bring all channels to one Nside"
        )
    values = np.where(values == _UNSEEN, np.float32(np.nan), values)
    validate_brightness(str(path), values, f"channel {k}")
    return values


def _validate_count(path: Path, count: int, store: PartialCube) -> None:
    n_channel = store.tb.shape[0]
    if count != n_channel:
        came = f"only {count}" if count < n_channel else "more"
        raise ShapeError(
            f"{path}: expected {n_channel} maps, one a velocity, got {came}; give as many "
            "velocities as maps"
        )


def _not_a_cube(path: Path, what: str) -> MapError:
    return MapError(
        f"{path}: expected an HI cube of foreglow, got something else ({what}); make one with "
        "`foreglow dust prepare`"
    )
