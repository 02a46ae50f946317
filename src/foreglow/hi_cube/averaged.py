"""A survey's cut-out on the channels and pixels of a model: means over what is finer.

A survey of narrower channels and smaller pixels than a model was trained with holds more than the
nearest channel and the nearest point: the mean over all that lie in a channel and a pixel has less
noise. The full sky at the survey's own Nside is never written, so a cut-out fits a laptop.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foreglow.compute.progress import Progress, Shown, shown
from foreglow.errors import MapError
from foreglow.hi_cube.cube import HICube, write_cube
from foreglow.hi_cube.prepare import alone, validate_memory_for, validate_paths
from foreglow.hi_cube.sources import Recipe, Source, open_source
from foreglow.hi_cube.store import PixelChunks, validate_free
from foreglow.maps import healpix as hp
from foreglow.maps.coarser import mean_of_groups
from foreglow.maps.memory import parse_memory

_HALF = 0.5  # of a channel that the cube must have


def average_cube(
    cubes: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    velocity_kms: Sequence[float] | NDArray,
    nside: int,
    memory: str = "2 GiB",
    unit: str | None = None,
    beam_arcmin: float | None = None,
    velocity_table: str | Path | None = None,
    overwrite: bool = False,
    progress: Shown = None,
) -> HICube:
    """Make an HI cube of given channels and Nside from a survey's, whatever finer those are.

    Each channel is the mean of the spectrum over its width, a channel of the survey counting as
    much as it overlaps; each pixel is the mean over the pixels of the survey's own Nside in it.

    Parameters
    ----------
    cubes, out, memory, unit, beam_arcmin, velocity_table, overwrite, progress
        As for `foreglow.hi_cube.prepare.prepare`.
    velocity_kms : sequence of float, shape (n_channel,)
        Centres of the channels wanted, in even steps, LSRK, ascending.
    nside : int
        A power of two, not above the Nside that the survey's pixels make.

    Returns
    -------
    HICube
        NaN where less than half of a pixel is observed.

    Raises
    ------
    MapError
        As `prepare`; or if the cube's pixels are larger than wanted, or it lacks more than half of
        a channel.

    Warns
    -----
    MapWarning
        As `prepare`.
    """
    out, wanted = Path(out), np.asarray(velocity_kms, dtype=np.float64)
    paths = validate_paths([cubes] if isinstance(cubes, str | Path) else cubes, velocity_table)
    table = None if velocity_table is None else Path(velocity_table).absolute()
    width = float(np.diff(wanted).min())
    around = (float(wanted[0]) - width, float(wanted[-1]) + width)
    recipe = Recipe.of(paths, None, *around, unit, beam_arcmin, table, parse_memory(memory))
    validate_free(out, overwrite)
    with alone(out), shown("prepare", progress) as show:
        source = open_source(recipe)
        try:
            weights = overlap(source.velocity_kms, wanted, str(paths[0]))
            _validate_nside(paths[0], source, nside)
            most = int((weights > 0).sum(axis=1).max())
            # the block, and the spectra that are averaged in it
            validate_memory_for(source, recipe.memory, 3 * most)
            source.validate()
            maps = _averaged(source, weights, nside, show)
            name = (
                paths[0].name if len(paths) == 1 else f"{paths[0].name} and {len(paths) - 1} more"
            )
            said = f"{name}, averaged to {len(wanted)} channels and from Nside {source.nside}"
            return write_cube(out, wanted, maps, nside, source.beam_arcmin, said, overwrite)
        finally:
            source.close()
            open_source.cache_clear()


def overlap(have: NDArray, wanted: NDArray, where: str) -> NDArray[np.float64]:
    """How much each channel of a cube counts in each channel wanted.

    Parameters
    ----------
    have, wanted : ndarray, shapes (n_have,), (n_wanted,)
        Centres of channels in even steps, km/s, ascending.
    where : str
        Begins the message of the MapError.

    Returns
    -------
    ndarray, shape (n_wanted, n_have)
        Rows add up to 1.

    Raises
    ------
    MapError
        If more than half of a channel lies outside the cube's.
    """
    width = float(np.diff(wanted).min())
    step = float(np.diff(have).mean()) if len(have) > 1 else width
    high = np.minimum(have + step / 2, (wanted + width / 2)[:, None])
    low = np.maximum(have - step / 2, (wanted - width / 2)[:, None])
    shared = np.clip(high - low, 0, None)
    shared[shared < 1e-6 * width] = 0  # edges that meet
    share = shared.sum(axis=1) / width
    if (lacking := np.flatnonzero(share < _HALF)).size:
        raise MapError(
            f"{where}: expected channels from {wanted[0] - width / 2:.6g} to "
            f"{wanted[-1] + width / 2:.6g} km/s, got {have[0] - step / 2:.6g} to "
            f"{have[-1] + step / 2:.6g} km/s there, which lack {lacking.size} of {len(wanted)}; "
            "take a cube of that range, or a model of fewer channels"
        )
    return shared / shared.sum(axis=1, keepdims=True)


def _validate_nside(path: Path, source: Source, nside: int) -> None:
    if source.nside < nside:
        raise MapError(
            f"{path}: expected pixels not larger than those of Nside {nside}, got those of Nside "
            f"{source.nside}; take a finer survey, or interpolate by nside={nside} without model="
        )


def _averaged(
    source: Source, weights: NDArray[np.float64], nside: int, progress: Progress
) -> Iterator[NDArray[np.float32]]:
    """The channels wanted, RING; each channel of the survey is read once, in order."""
    inside = (source.nside // nside) ** 2
    places = _coarse_places(source.chunks, inside, nside)
    held = np.empty((0, len(source.chunks)), np.float32)  # channels that the next one shares
    first = 0  # of them
    for number, row in enumerate(weights, start=1):
        used = np.flatnonzero(row)
        kept = held[max(0, used[0] - first) :]
        start = used[0] + len(kept)
        block = np.empty((used[-1] + 1 - start, held.shape[1]), np.float32)
        if len(block):
            source.fill(block, int(start))
        held, first = np.concatenate([kept, block]), int(used[0])
        mean = np.einsum("k,kp->p", row[used].astype(np.float32), held)
        whole = np.full(hp.nside2npix(nside), np.nan, np.float32)
        whole[places] = mean_of_groups(mean, inside)[0]
        yield whole
        progress(number, len(weights))


def _coarse_places(chunks: PixelChunks, inside: int, nside: int) -> NDArray[np.int64]:
    """RING pixels of a lower Nside that the pixels of some chunks lie in, in their order."""
    parts = [
        np.arange(pixels.start // inside, pixels.stop // inside) for _, pixels in chunks.runs()
    ]
    return hp.nest2ring(nside, np.concatenate(parts))
