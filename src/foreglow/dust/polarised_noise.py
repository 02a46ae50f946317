"""The noise of a user's map of polarised dust, read from columns or a map beside it."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreglow.errors import MapError, warn
from foreglow.maps import healpix as hp
from foreglow.maps.arrays import GivenArray, given_array, is_array
from foreglow.maps.columns import NOISE_KINDS, find_covariance, find_noise, meanings
from foreglow.maps.conventions import MapWarning, power_of_unit
from foreglow.maps.given import GivenFile
from foreglow.maps.io import PolarisationMap
from foreglow.maps.noise import open_noise_map
from foreglow.maps.noise_map import NoiseMap
from foreglow.maps.table import Table, open_table


def read_variance(
    noise: Any,
    given: GivenFile | GivenArray,
    stored: PolarisationMap,
    seen: NDArray[np.bool_],
    nest: bool,
) -> NDArray[np.float64] | None:
    """The variance of the noise of a map of Q and U, the mean of both.

    Parameters
    ----------
    noise : path, text, array_like or (array_like, str), optional
        As `open_noise_map` takes it. Without it, columns beside Q and U that are called noise.
    given, stored
        The map.
    seen : ndarray of bool, shape (n_pix,)
        Where it holds something, RING in the frame of the map.
    nest : bool
        An array is NESTED.

    Returns
    -------
    ndarray, shape (n_pix,), or None
        In the square of the map's unit, RING in its frame; NaN where the noise is not known. None
        where no noise is.

    Raises
    ------
    MapError
        If `noise` is not clear, is of another Nside, frame or unit, or not above zero somewhere.

    Warns
    -----
    MapWarning
        If columns beside Q and U are called noise, and cannot be taken so.
    """
    if noise is not None:
        return _variance(_open(noise, stored, nest), stored, seen)
    part, *more = stored.parts
    if isinstance(given, GivenArray) or more or not _names_noise(part.table):
        return None
    try:
        return _variance(_open_beside(stored), stored, seen)
    except MapError as error:
        warn(f"the noise beside Q and U is not used: {error}; or say it with noise=", MapWarning)
        return None


def _names_noise(table: Table) -> bool:
    """Whether a column is called noise of Q or U."""
    kinds = (*NOISE_KINDS, "matrix")
    return any(m.kind in kinds and set(m.stokes) <= set("QU") for m in meanings(table).values())


def _open(noise: Any, stored: PolarisationMap, nest: bool) -> NoiseMap:
    """The noise that was given."""
    if is_array(noise):
        # of a covariance turned and mirrored the mean of QQ and UU stays
        return open_noise_map(given_array("noise", noise, nest, stored.frame, "COSMO"), stored.unit)
    if not isinstance(noise, str | Path):
        raise MapError(
            f"noise=: expected a FITS file, an array or (array, text), got {noise!r}; give the "
            "noise of each pixel"
        )
    said = GivenFile.of(noise)
    if not said.exists:
        raise MapError(
            f"noise=: expected an existing FITS file, perhaps with what it holds ('FILE[QQ,QU,UU] "
            f"as covariance in K_CMB^2', 'FILE[HITS] as hits of 1 mK_CMB'), got {str(noise)!r}; "
            "check the path"
        )
    return open_noise_map(said, None if said.unit or _states_unit(said) else stored.unit)


def _states_unit(said: GivenFile) -> bool:
    """Whether a column of some brightness stands in the files of the noise."""
    tables = [open_table(*one) for one in zip(said.paths, said.columns, strict=True)]
    return any(power_of_unit(c.unit or "") is not None for table in tables for c in table.columns)


def _open_beside(stored: PolarisationMap) -> NoiseMap:
    """The noise in columns beside Q and U, known by their units and names."""
    table = stored.parts[0].table
    try:
        numbers = find_covariance(table)
    except MapError:
        numbers = find_noise(table)
    names = tuple(table.column(number).name for number in dict.fromkeys(numbers))
    return open_noise_map(GivenFile((table.path,), (names,)), stored.unit)


def _variance(
    opened: NoiseMap, stored: PolarisationMap, seen: NDArray[np.bool_]
) -> NDArray[np.float64]:
    if (opened.nside, opened.unit) != (stored.nside, stored.unit):
        raise MapError(
            f"{opened.path}: expected noise of Nside {stored.nside} in {stored.unit}, as the map, "
            f"got Nside {opened.nside}, {opened.unit}; give the noise of the map's own pixels in "
            "its unit"
        )
    if opened.frame != stored.frame:
        raise MapError(
            f"{opened.path}: expected noise in frame {stored.frame}, as the map, got "
            f"{opened.frame}; give the noise of the map's own pixels"
        )
    qq, _, uu = opened.read_covariance(np.arange(hp.nside2npix(stored.nside)), seen)
    variance = 0.5 * (qq + uu)
    if not np.isfinite(variance[seen]).any():
        raise MapError(
            f"{opened.path}: expected noise that is known in some pixel of the map, got none; "
            "check its columns"
        )
    return variance
