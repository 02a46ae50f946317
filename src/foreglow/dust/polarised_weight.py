"""What the pixels of a polarised dust map weigh in a training: by its noise, where that is known.

Weights are relative, so that hits and inverse variances of any unit serve.
"""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreglow.errors import MapError, warn
from foreglow.maps import healpix as hp
from foreglow.maps.arrays import GivenArray, given_array, is_array
from foreglow.maps.columns import (
    NOISE_KINDS,
    find_covariance,
    find_noise,
    meaning_of,
    meanings,
)
from foreglow.maps.conventions import MapWarning, power_of_unit
from foreglow.maps.given import GivenFile
from foreglow.maps.io import PolarisationMap
from foreglow.maps.noise import open_noise_map
from foreglow.maps.noise_kinds import unit_of_kind
from foreglow.maps.noise_map import NoiseMap
from foreglow.maps.table import open_table


def read_weight(
    noise: Any,
    given: GivenFile | GivenArray,
    stored: PolarisationMap,
    seen: NDArray[np.bool_],
    nest: bool,
) -> NDArray[np.float64] | None:
    """The relative inverse variance of a map of Q and U.

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
        Of mean 1 over `seen`; 0 where the noise is not known. None where no noise is.

    Raises
    ------
    MapError
        If `noise` is not clear, or of another Nside or frame, or negative somewhere.

    Warns
    -----
    MapWarning
        If columns beside Q and U are called noise, and cannot be taken so.
    """
    if noise is not None:
        return _weight_of(_open(noise, stored, nest), stored, seen)
    part, *more = stored.parts
    if isinstance(given, GivenArray) or more:
        return None
    table = part.table
    kinds = (*NOISE_KINDS, "matrix")
    named = meanings(table).values()
    if not any(one.kind in kinds and set(one.stokes) <= set("QU") for one in named):
        return None
    try:
        return _weight_of(_open_beside(stored), stored, seen)
    except MapError as error:
        warn(f"the noise beside Q and U is not used: {error}; or say it with noise=", MapWarning)
        return None


def _open(noise: Any, stored: PolarisationMap, nest: bool) -> NoiseMap:
    """The noise that was given."""
    if is_array(noise):
        # of a covariance turned and mirrored the mean of QQ and UU stays
        return open_noise_map(given_array("noise", noise, nest, stored.frame, "COSMO"))
    if not isinstance(noise, str | Path):
        raise MapError(
            f"noise=: expected a FITS file, an array or (array, text), got {noise!r}; of noise "
            "that is alike everywhere leave it out"
        )
    said = GivenFile.of(noise)
    if not said.exists:
        raise MapError(
            f"noise=: expected an existing FITS file, perhaps with what it holds ('FILE[QQ,QU,UU] "
            f"as covariance in K_CMB^2', 'FILE[HITS] as hits of 1 mK_CMB'), got {str(noise)!r}; "
            "check the path; of noise that is alike everywhere leave it out"
        )
    return open_noise_map(said, None if said.unit or _states_unit(said) else stored.unit)


def _states_unit(said: GivenFile) -> bool:
    """Whether a column of some brightness stands in the files of the noise."""
    tables = [open_table(*one) for one in zip(said.paths, said.columns, strict=True)]
    return any(power_of_unit(c.unit or "") is not None for table in tables for c in table.columns)


def _open_beside(stored: PolarisationMap) -> NoiseMap:
    """The noise in columns beside Q and U: known by unit or, as weights are relative, by name."""
    table = stored.parts[0].table
    try:
        numbers = find_covariance(table)
    except MapError:
        numbers = find_noise(table)
    columns = [table.column(number) for number in dict.fromkeys(numbers)]
    names = tuple(column.name for column in columns)
    kinds = {meaning_of(name).kind for name in names}
    kind, sigma0, unit = "", None, None
    if kinds == {"hits"}:
        kind, sigma0, unit = "hits", 1.0, stored.unit
    elif len(kinds) == 1 and kinds <= set(NOISE_KINDS) and not any(c.unit for c in columns):
        kind = kinds.pop()
        unit = unit_of_kind(stored.unit, kind)
        kind = kind.replace("variance", "covariance") if len(columns) == 3 else kind
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MapWarning)  # Q and U have said it
        opened = open_noise_map(GivenFile((table.path,), (names,), kind, sigma0, unit))
    return replace(opened, parts=tuple(replace(one, frame=stored.frame) for one in opened.parts))


def _weight_of(
    opened: NoiseMap, stored: PolarisationMap, seen: NDArray[np.bool_]
) -> NDArray[np.float64]:
    if (opened.nside, opened.frame) != (stored.nside, stored.frame):
        raise MapError(
            f"{opened.path}: expected noise of Nside {stored.nside} in frame {stored.frame}, as "
            f"the map, got Nside {opened.nside}, frame {opened.frame}; give the noise of the map's "
            "own pixels"
        )
    qq, _, uu = opened.read_covariance(np.arange(hp.nside2npix(stored.nside)), seen)
    weight = np.nan_to_num(2 / (qq + uu))
    mean = weight[seen].mean()
    if not mean > 0:
        raise MapError(
            f"{opened.path}: expected noise that is known in some pixel of the map, got none; "
            "check its columns"
        )
    return weight / mean
