"""A look through the channels of an image cube before any work: blank ones, and odd values."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from foreglow.errors import MapError
from foreglow.hi_cube.brightness import OddValues
from foreglow.hi_cube.image_cube import ImageCube


@dataclass(eq=False)
class Look:
    """What a look through a cube found.

    Attributes
    ----------
    blank : list of int
        Channels without any data.
    odd : OddValues
        In the channels that were read whole.
    """

    blank: list[int] = field(default_factory=list)
    odd: OddValues = field(default_factory=OddValues)


def look_through(cube: ImageCube, first: int, last: int) -> Look:
    """Look at all channels from `first` to `last` - 1.

    The two ends and the middle are read whole; of any other, if it can be, one row that held data
    in the one before. A gzipped cube, where all that lies before must be read anyway, is read
    whole, once.
    """
    found, row = Look(), None
    whole = {first, (first + last) // 2, last - 1}
    plane = np.empty(cube.stored_shape, np.float32)
    for k in cube.in_file_order(first, last):
        if k not in whole and not cube.gzipped and row is not None and _has_data(cube, k, row):
            continue
        found.odd.add(cube.read_channel(k, plane))
        rows = np.flatnonzero(np.isfinite(plane).any(axis=1))
        if rows.size:
            row = int(rows[rows.size // 2])
        else:
            found.blank.append(k)
    return found


def blank_channels(where: str, blank: list[int], kms: NDArray[np.float64]) -> MapError:
    """What to say of channels without data.

    Parameters
    ----------
    where : str
        Begins the message.
    blank : list of int
        Their numbers in `kms`.
    kms : ndarray, shape (n_channel,)
        Velocities of all channels that were asked for.
    """
    some = ", ".join(f"{k} at {kms[k]:.6g} km/s" for k in sorted(blank)[:3])
    listing = f"channel{'s' * (len(blank) > 1)} {some}{' and more' * (len(blank) > 3)}"
    message = f"{where}: expected data in every channel, got none but NaN in {listing}"
    first, last = _longest(np.isin(np.arange(len(kms)), blank, invert=True))
    if first == last:
        return MapError(f"{message}, which are all; copy or download the cube again")
    # halfway to the next channel, so that no rounding matters
    half = 0.5 * np.diff(kms).min()
    return MapError(
        f"{message}; take the longest stretch without, low_kms={kms[first] - half:.6g}, "
        f"high_kms={kms[last - 1] + half:.6g}, or fill it"
    )


def _has_data(cube: ImageCube, k: int, row: int) -> bool:
    values = np.empty((1, cube.stored_shape[1]), np.float32)
    cube.read_rows(k, row, values)
    return bool(np.isfinite(values).any())


def _longest(good: NDArray[np.bool_]) -> tuple[int, int]:
    """The longest stretch that is good, from the first to past the last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], good.astype(np.int8), [0]])))
    starts, ends = edges[::2], edges[1::2]
    if not starts.size:
        return 0, 0
    longest = int((ends - starts).argmax())
    return int(starts[longest]), int(ends[longest])
