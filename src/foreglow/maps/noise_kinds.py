"""What columns of noise hold, and in which unit: known by unit or name, or said, or asked for."""

from collections.abc import Iterable, Sequence

import numpy as np

from foreglow.errors import MapError, ShapeError
from foreglow.maps.arrays import GivenArray
from foreglow.maps.columns import NOISE_KINDS, meaning_of
from foreglow.maps.conventions import (
    UNITS,
    canonical_unit,
    power_of_unit,
    unit_is_understood,
    warn_assumed,
)
from foreglow.maps.given import GivenFile
from foreglow.maps.table import Column

_POWERS = {"rms": 1, "variance": 2, "inverse variance": -2}
KIND_OF_POWER = {power: kind for kind, power in _POWERS.items()}
_COUNTS = ("counts", "count", "ct", "hits", "hit", "samples", "observations", "obs", "number")
_WAYS = {
    "rms": "rms in mK_CMB",
    "variance": "variance in mK_CMB^2",
    "inverse variance": "inverse variance in mK_CMB^-2",
    "hits": "hits of 1.2 mK_CMB",  # the rms of one
}
_AS_WORDS = (
    "as in (array, 'rms in uK_CMB'), (array, 'variance in uK_CMB^2') or (array, 'hits of 1.2 "
    "mK_CMB')"
)
_WAYS_OF_THREE = {
    "variance": "covariance in mK_CMB^2",
    "inverse variance": "inverse covariance in mK_CMB^-2",
    "hits": _WAYS["hits"],
}


def kind_of_columns(given: GivenFile, columns: Sequence[Column], unit: str | None) -> str:
    """What the columns hold: as given, by their units, or by their names.

    Returns
    -------
    str
        One of `NOISE_KINDS`; of three columns, of QQ, QU and UU.

    Raises
    ------
    MapError
        If it is not clear, or contradictory.
    """
    by_unit = {_kind_by_unit(given, column) for column in columns}
    named = {meaning_of(column.name).kind for column in columns}
    if given.kind:
        said = given.kind.replace("covariance", "variance")
        if other := by_unit - {"", said}:
            raise MapError(
                f"{given.paths[0]}: expected {given.kind}, as given, got "
                f"{columns[0].unit or given.unit!r} as unit of {columns[0].name}, which is that of "
                f"{other.pop()}; correct the one that is wrong"
            )
        return said
    if len(by_unit) > 1:
        raise _unclear(given, columns, "in units of two kinds", _WAYS)
    unit_says = by_unit.pop()
    if unit_says == "rms" and len(columns) == 3:
        raise _unclear(given, columns, "in the unit of an rms", _WAYS)
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
    return KIND_OF_POWER[power[1]]


def _unclear(
    given: GivenFile, columns: Sequence[Column], why: str, kinds: Iterable[str]
) -> MapError:
    """What to say where it is not clear what columns hold."""
    told = _WAYS if len(columns) == 2 else _WAYS_OF_THREE
    names = ",".join(dict.fromkeys(column.name for column in columns))
    one = f"{given.paths[0]}[{names}]"
    file = one if len(given.paths) == 1 else ",".join(map(str, given.paths))
    ways = " or ".join(f"'{file} as {told[kind]}'" for kind in kinds if kind in told)
    return MapError(
        f"{given.paths[0]}: expected noise of which it is clear what it is, got columns {names} "
        f"{why}; say what they are and in which unit (noise=), such as {ways}"
    )


def unit_of_rms(given: GivenFile, columns: Sequence[Column], kind: str, unit: str | None) -> str:
    """The unit of the rms: of the header, as given with the file, or for all files.

    Raises
    ------
    MapError
        If none is known, or several.
    """
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
                f"say it with the file, '{given} in {unit_of_kind('uK_CMB', kind)}', or pass unit= "
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
            f"{unit_of_kind('mK_CMB', kind)}, got {text!r}; write it as the file has it"
        )
    return power[0]


def unit_of_kind(unit: str, kind: str) -> str:
    """The unit of noise of a kind, by that of its rms.

    Examples
    --------
    >>> unit_of_kind("mK_CMB", "inverse variance"), unit_of_kind("MJy/sr", "variance")
    ('mK_CMB^-2', '(MJy/sr)^2')
    """
    power = _POWERS[kind]
    base = f"({unit})" if "/" in unit else unit
    return unit if power == 1 else f"{base}^{power}"


def _say_kind(given: GivenFile, columns: Sequence[Column], unit: str | None) -> None:
    """Say what a column without unit is taken as, where its name is all that is known."""
    named = meaning_of(columns[0].name).kind
    if unit is None or named == "rms":
        return
    kind = "variance" if named == "variance" else "rms"
    word = "covariance" if len(columns) == 3 else kind
    names = " and ".join(dict.fromkeys(column.name for column in columns))
    text = unit_of_kind(unit, kind)
    warn_assumed(
        f"{given.paths[0]}: {names} without a unit taken as {word} in {text}; say what it is to "
        f"silence this, '{given} as {word} in {text}'"
    )


def words_of_array(given: GivenArray, has_unit: bool) -> GivenFile:
    """What was said of an array, as of a file.

    Parameters
    ----------
    given : GivenArray
    has_unit : bool
        Whether a unit is known without these words.

    Raises
    ------
    MapError
        If the words do not say what the numbers are, or leave the unit open.
    ShapeError
        If they say that QQ, QU and UU are an rms.
    """
    words = GivenFile.of(f"{given.name} as {given.said}")
    understood = words.kind or given.said.split()[:1] == ["in"]
    if not understood or not (words.unit or has_unit):
        raise MapError(
            f"{given.name}: expected words that say what the numbers are and in which unit, got "
            f"{given.said!r}; write them {_AS_WORDS}"
        )
    power = power_of_unit(words.unit) if words.unit else None
    is_rms = words.kind == "rms" or (not words.kind and power is not None and power[1] == 1)
    if is_rms and np.ndim(given.values) == 2 and len(given.values) == 3:
        raise no_such_rows(given)
    return words


def unclear_array(given: GivenArray, unit: str) -> MapError:
    """What to say of an array without words whose unit does not say what it holds."""
    return MapError(
        f"{given.name}: expected noise as a Quantity in one of {', '.join(UNITS)} (an rms), its "
        f"square (a variance) or one over that, got {unit or 'no unit'}; say what it holds, "
        f"{_AS_WORDS}"
    )


def no_such_rows(given: GivenArray) -> ShapeError:
    """What to say of an array whose rows are no noise of Q and U."""
    unit = getattr(given.values, "unit", "no unit")
    what = f", said to be {given.said!r}" if given.said else f" in {unit}"
    return ShapeError(
        f"{given.name}: expected noise of shape (n_pix,) for Q and U alike, (2, n_pix) of Q and of "
        f"U, or (3, n_pix) of QQ, QU and UU in the square of a unit or one over that, got "
        f"{np.shape(given.values)}{what}; give the rows of Q and of U, or their covariance"
    )
