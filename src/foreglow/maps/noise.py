"""Maps of noise: rms, variances, inverse variances or hits, read as the rms of Q and U.

What a column holds is known by its unit, by its name, or because the user says so; where these
say nothing or contradict each other, it is asked for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from foreglow.errors import MapError, ShapeError
from foreglow.maps import healpix as hp
from foreglow.maps.arrays import GivenArray
from foreglow.maps.blocks import PixelBlock, ring_numbers
from foreglow.maps.columns import (
    NOISE_KINDS,
    find_named,
    find_noise,
    find_one_noise,
    meaning_of,
    meanings,
)
from foreglow.maps.conventions import (
    UNITS,
    canonical_unit,
    power_of_unit,
    unit_is_understood,
    warn_assumed,
)
from foreglow.maps.given import GivenFile
from foreglow.maps.io import validate_numbers
from foreglow.maps.stored import FilePart, StoredMap
from foreglow.maps.table import Column, Table, open_table

_POWERS = {"rms": 1, "variance": 2, "inverse variance": -2}
_KIND_OF_POWER = {power: kind for kind, power in _POWERS.items()}
_COUNTS = ("counts", "count", "ct", "hits", "hit", "samples", "observations", "obs", "number")
_WAYS = {
    "rms": "rms in mK_CMB",
    "variance": "variance in mK_CMB^2",
    "inverse variance": "inverse variance in mK_CMB^-2",
    "hits": "hits of 1.2 mK_CMB",  # the rms of one
}
_SAMPLE = 1 << 14  # pixels looked at to say what a map is like
_OFTEN = 0.1  # of the pixels
_UNEQUAL = 1.25  # rms of Q over that of U, or the reverse
_CORRELATED = 0.1


@dataclass(frozen=True, eq=False)
class NoiseMap(StoredMap):
    """A map of noise opened for streaming; attributes as in `StoredMap`, and two more.

    Attributes
    ----------
    unit : str
        Of the rms that `read` gives, one of `foreglow.maps.conventions.UNITS`.
    kind : str
        What the columns hold, one of `foreglow.maps.columns.NOISE_KINDS`.
    sigma0 : float or None
        Rms of one hit, in `unit`.
    """

    kind: str = "rms"
    sigma0: float | None = None

    def read(self, pixels: np.ndarray | PixelBlock) -> np.ndarray:
        """Noise rms of Q and U of some pixels; a one-column file gives both the same.

        Parameters and shapes are those of `PolarisationMap.read`; NaN too where the weight or the
        number of hits is 0.

        Raises
        ------
        MapError
            As `PolarisationMap.read`, and if an observed rms or variance is zero or negative, or
            a weight negative.
        """
        values = self._read(pixels)
        counts = self.kind in ("inverse variance", "hits")
        bad = ((values < 0) if counts else (values <= 0)).any(axis=0)
        if bad.any():
            first = ring_numbers(pixels)[bad.argmax()]
            above, below = ("zero or above", "below") if counts else ("above zero", "at or below")
            raise MapError(
                f"{self.path}: expected a noise {self.kind} {above} in every observed pixel, got "
                f"{bad.sum()} of {bad.size} {below} zero in this block, the first at RING "
                f"pixel {first}; mark unobserved pixels as UNSEEN ({hp.UNSEEN})"
            )
        return self.rms_of(values)

    def rms_of(self, values: np.ndarray) -> np.ndarray:
        """The rms that stored values, (column, n), stand for; NaN in all where one has none."""
        if self.kind == "rms":
            return values
        if self.kind == "variance":
            return np.sqrt(values)
        values[:, (values == 0).any(axis=0)] = np.nan
        return (1.0 if self.sigma0 is None else self.sigma0) / np.sqrt(values)


def open_noise_map(given: str | Path | GivenFile | GivenArray, unit: str | None = None) -> NoiseMap:
    """Open noise in a FITS file or an array: one column for Q and U alike, or one for each.

    What the columns hold is known by their unit (K_CMB: an rms, K_CMB^2: a variance, K_CMB^-2: an
    inverse variance) or their name (Q_RMS, QQ_COV); or is said:
    `map.fits[WEI_Q,WEI_U] as inverse variance in mK_CMB^-2`, `map.fits[NHITS] as hits of
    1.2 mK_CMB` (the rms of one hit), `map.fits[QQ,UU] as variance in uK_CMB^2`,
    `map.fits as rms in uK_CMB`.

    Parameters
    ----------
    given : path, str, GivenFile or GivenArray
        What an array holds is known by the unit of its Quantity.
    unit : str, optional
        Of an rms, one of `foreglow.maps.conventions.UNITS`, where neither header nor `given`
        states one.

    Returns
    -------
    NoiseMap

    Raises
    ------
    MapError
        As `open_polarisation_map`, and if it is not clear what the columns hold.

    Warns
    -----
    MapWarning
        If a column without unit is taken as an rms or a variance, the noise of Q and U differs
        much (one rms is used for both) or a covariance of Q and U is left out.
    """
    if isinstance(given, GivenArray):
        return _noise_of_array(given)
    given = GivenFile.of(given)
    pairs = zip(given.paths, given.columns, strict=True)
    tables = [open_table(path, names) for path, names in pairs]
    if len(tables) == 1:
        numbers = [_named(tables[0], given.columns[0]) or find_noise(tables[0])]
    else:
        numbers = [
            [find_named(table, names[0]) if len(names) == 1 else find_one_noise(table, letter)]
            for table, names, letter in zip(tables, given.columns, "QU", strict=True)
        ]
    parts = tuple(FilePart.of(table, one) for table, one in zip(tables, numbers, strict=True))
    columns = [column for part in parts for column in part.columns]
    validate_numbers(given.paths[0], columns)
    kind = _kind(given, columns, unit)
    opened = NoiseMap(parts, _unit(given, columns, kind, unit), kind, given.sigma0)
    _say_of_intensity(opened)
    _say_unequal(opened)
    _say_covariance(opened)
    return opened


def _noise_of_array(given: GivenArray) -> NoiseMap:
    """The noise that a Quantity holds: an rms, a variance or an inverse variance by its unit."""
    rows = 1 if np.ndim(given.values) == 1 else len(given.values)
    if rows > 2:  # whether of I, Q, U or of QQ, QU, UU is not ours to guess
        raise ShapeError(
            f"{given.name}: expected noise of shape (n_pix,) for Q and U alike or (2, n_pix) of Q "
            f"and of U, got {np.shape(given.values)}; give the rows of Q and of U"
        )
    table = given.table(("Q", "U") if rows > 1 else ("QU",))
    columns = tuple(table.column(i) for i in range(len(table.columns)))
    power = power_of_unit(columns[0].unit) if columns[0].unit else None
    if power is None:
        raise MapError(
            f"{given.name}: expected noise as a Quantity in one of {', '.join(UNITS)} (an rms), "
            f"its square (a variance) or one over that, got {columns[0].unit or 'no unit'}; "
            "multiply the array by its unit"
        )
    part = FilePart.of(table, [0, rows - 1])
    opened = NoiseMap((part,), canonical_unit(given.name, power[0]), _KIND_OF_POWER[power[1]])
    _say_unequal(opened)
    return opened


def _named(table: Table, names: Sequence[str]) -> list[int]:
    """Columns of Q and U that were named, perhaps one for both; none where none was."""
    if len(names) > 2:
        raise MapError(
            f"{table.path}: expected one column of noise or two, of Q and of U, got "
            f"{', '.join(names)}; name those"
        )
    numbers = [find_named(table, name) for name in names]
    order = [meaning_of(name).stokes for name in names]
    if order == ["U", "Q"]:
        raise MapError(
            f"{table.path}: expected the noise of Q, then that of U, got {', '.join(names)}; name "
            f"them in this order"
        )
    return numbers * 2 if len(numbers) == 1 else numbers


def _kind(given: GivenFile, columns: Sequence[Column], unit: str | None) -> str:
    """What the columns hold: as given, by their units, or by their names."""
    by_unit = {_kind_by_unit(given, column) for column in columns}
    named = {meaning_of(column.name).kind for column in columns}
    if given.kind:
        if other := by_unit - {"", given.kind}:
            raise MapError(
                f"{given.paths[0]}: expected {given.kind}, as given, got "
                f"{columns[0].unit or given.unit!r} as unit of {columns[0].name}, which is that of "
                f"{other.pop()}; correct the one that is wrong"
            )
        return given.kind
    if len(by_unit) > 1:
        raise _unclear(given, columns, "in units of two kinds", _WAYS)
    unit_says = by_unit.pop()
    if unit_says == "hits":
        raise _unclear(given, columns, "of hits, without the rms of one hit", ("hits",))
    if unit_says:
        if other := named & set(NOISE_KINDS) - {unit_says}:
            raise MapError(
                f"{given.paths[0]}: expected a unit that fits the name of {columns[0].name} "
                f"({other.pop()}), got {columns[0].unit or given.unit!r}, which is that of "
                f"{unit_says}; if the unit is right, say so, '{given} as {unit_says}', else "
                "correct TUNIT"
            )
        return unit_says
    if named == {"hits"}:
        raise _unclear(given, columns, "of hits, without the rms of one hit", ("hits",))
    if named == {"inverse variance"}:
        raise _unclear(given, columns, "of weights, without a unit", ("inverse variance",))
    if len(named) > 1 or named & {"", "matrix"}:
        raise _unclear(given, columns, "without a unit", _WAYS)
    _say_kind(given, columns, unit)
    return "variance" if named == {"variance"} else "rms"


def _kind_by_unit(given: GivenFile, column: Column) -> str:
    """What a unit says of a column, "" if nothing."""
    if column.unit.lower() in _COUNTS:
        return "hits"
    text = column.unit if unit_is_understood(column.unit) else ""
    if not text and given.kind != "hits":  # whose unit is that of one hit
        text = given.unit or ""
    if not text:
        return ""
    power = power_of_unit(text)
    if power is None:
        raise MapError(
            f"{given.paths[0]}: expected noise in one of {', '.join(UNITS)} (an rms), its square "
            f"(a variance) or one over that, got unit {text!r} for column {column.name}; convert it"
        )
    return _KIND_OF_POWER[power[1]]


def _unclear(
    given: GivenFile, columns: Sequence[Column], why: str, kinds: Iterable[str]
) -> MapError:
    """What to say where it is not clear what columns hold."""
    names = ",".join(dict.fromkeys(column.name for column in columns))
    one = f"{given.paths[0]}[{names}]"
    file = one if len(given.paths) == 1 else ",".join(map(str, given.paths))
    ways = " or ".join(f"'{file} as {_WAYS[kind]}'" for kind in kinds)
    return MapError(
        f"{given.paths[0]}: expected noise of which it is clear what it is, got columns {names} "
        f"{why}; say what they are and in which unit (noise=), such as {ways}"
    )


def _unit(given: GivenFile, columns: Sequence[Column], kind: str, unit: str | None) -> str:
    """The unit of the rms: of the header, as given with the file, or for all files."""
    if kind == "hits":
        return str(given.unit)
    said = _base(given, given.unit, kind) if given.unit else unit
    found = []
    for column in columns:
        power = power_of_unit(column.unit) if column.unit else None
        stated = power[0] if power else ""
        if said is None and not stated:
            raise MapError(
                f"{given.paths[0]}: expected a unit (TUNIT) for column {column.name}, got none; "
                f"say it with the file, '{given} in {_written('uK_CMB', kind)}', or pass unit= "
                f"as one of {', '.join(UNITS)}"
            )
        found.append(_agreed(given, column, stated, said))
    if len(set(found)) > 1:
        raise MapError(
            f"{given.paths[0]}: expected one unit for Q and U, got {found[0]} for "
            f"{columns[0].name} and {found[1]} for {columns[1].name}; correct TUNIT"
        )
    return found[0]


def _agreed(given: GivenFile, column: Column, stated: str, said: str | None) -> str:
    """The unit of an rms by what the header states, perhaps a bare kelvin, and what was said."""
    where = f"{given.paths[0]}: unit of {column.name}"
    if said is None:
        return canonical_unit(where, stated)
    said = canonical_unit(where, said)
    if stated in ("", said, said.partition("_")[0]):
        return said
    raise MapError(
        f"{given.paths[0]}: expected {said}, as given (unit= or with the file), got "
        f"{column.unit!r} in the header (TUNIT of {column.name}); correct the one that is "
        "wrong, or leave the unit out and state it for those files alone that lack one "
        "(BAND='FILE in UNIT')"
    )


def _base(given: GivenFile, text: str, kind: str) -> str:
    """The unit of the rms by that of the columns."""
    power = power_of_unit(text)
    if power is None or power[1] != _POWERS[kind]:
        raise MapError(
            f"{given.paths[0]}: expected the unit of {kind}, such as "
            f"{_written('mK_CMB', kind)}, got {text!r}; write it as the file has it"
        )
    return power[0]


def _written(unit: str, kind: str) -> str:
    power = _POWERS[kind]
    return unit if power == 1 else f"{unit}^{power}"


def _say_kind(given: GivenFile, columns: Sequence[Column], unit: str | None) -> None:
    """Say what a column without unit is taken as, where its name is all that is known."""
    named = meaning_of(columns[0].name).kind
    if unit is None or named == "rms":
        return
    kind = "variance" if named == "variance" else "rms"
    names = " and ".join(dict.fromkeys(column.name for column in columns))
    text = _written(unit, kind)
    warn_assumed(
        f"{given.paths[0]}: {names} without a unit taken as {kind} in {text}; say what it is to "
        f"silence this, '{given} as {kind} in {text}'"
    )


def _say_of_intensity(opened: NoiseMap) -> None:
    names = [c.name for c in opened.columns if meaning_of(c.name).stokes == "I"]
    names = [n for n in names if meaning_of(n).kind in (*NOISE_KINDS, "matrix")]
    if names:
        warn_assumed(
            f"{opened.path}: {names[0]} is by its name noise of intensity, taken for Q and U as "
            "given; that of Q and U is often larger by the root of 2"
        )


def _say_unequal(opened: NoiseMap) -> None:
    """Say so where one rms for Q and U is far from both."""
    first, last = opened.parts[0], opened.parts[-1]
    if (first.ordering, first.index is None) != (last.ordering, last.index is None):
        return  # their samples are not of the same pixels
    values = np.concatenate([part.sample(_SAMPLE) for part in opened.parts]).astype(np.float64)
    good = (np.isfinite(values) & (values > 0)).all(axis=0)
    rms = opened.rms_of(values[:, good])
    ratio = np.exp(np.abs(np.log(rms[0] / rms[1])))
    if ratio.size and (ratio > _UNEQUAL).mean() > _OFTEN:
        warn_assumed(
            f"{opened.path}: the noise of Q and U differs, by a factor of {np.median(ratio):.3g} "
            "(median); one rms is used for both, the root of their mean square"
        )


def _say_covariance(opened: NoiseMap) -> None:
    """Say so where a covariance of Q and U that matters is left out."""
    part, *more = opened.parts
    named = {i: m for i, m in meanings(part.table).items() if set(m.stokes) == {"Q", "U"}}
    if more or not named or opened.columns[0].name == opened.columns[1].name:
        return
    number, meaning = next(iter(named.items()))
    column = part.table.column(number)
    values = replace(part, columns=(*part.columns, column)).sample(_SAMPLE).astype(np.float64)
    q, u, qu = values[:, np.isfinite(values).all(axis=0) & (values[:2] > 0).all(axis=0)]
    if meaning.kind in ("matrix", opened.kind) and opened.kind != "rms":
        correlation = np.abs(qu) / np.sqrt(q * u)
    elif meaning.kind == "variance" and opened.kind != "hits":
        correlation = np.abs(qu) / opened.rms_of(np.stack([q, u])).prod(axis=0)
    else:
        return
    if correlation.size and (correlation > _CORRELATED).mean() > _OFTEN:
        warn_assumed(
            f"{opened.path}: {column.name}, the covariance of Q and U, is left out; they correlate "
            f"by {np.median(correlation):.2g} (median)"
        )
