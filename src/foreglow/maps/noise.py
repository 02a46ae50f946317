"""Maps of noise: rms, covariances, their inverses or hits, read as rms or covariance of Q and U.

What a column holds is known by its unit, by its name, or because the user says so; where these
say nothing or contradict each other, it is asked for (`noise_kinds`).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from foreglow.errors import MapError
from foreglow.maps.arrays import GivenArray
from foreglow.maps.columns import (
    NOISE_KINDS,
    find_covariance,
    find_named,
    find_noise,
    find_one_noise,
    meaning_of,
    meanings,
    stokes_of_product,
)
from foreglow.maps.conventions import canonical_unit, power_of_unit, warn_assumed
from foreglow.maps.given import GivenFile
from foreglow.maps.io import is_iau, validate_numbers
from foreglow.maps.noise_kinds import (
    KIND_OF_POWER,
    kind_of_columns,
    no_such_rows,
    unclear_array,
    unit_of_rms,
    words_of_array,
)
from foreglow.maps.noise_map import NoiseMap
from foreglow.maps.stored import FilePart
from foreglow.maps.table import Table, open_table

_SAMPLE = 1 << 14  # pixels looked at to say what a map is like
_OFTEN = 0.1  # of the pixels
_UNEQUAL = 1.25  # rms of Q over that of U, or the reverse
_CORRELATED = 0.1


def open_noise_map(given: str | Path | GivenFile | GivenArray, unit: str | None = None) -> NoiseMap:
    """Open noise in a FITS file or an array: of Q and U alike, of each, or their covariance.

    What the columns hold is known by their unit (K_CMB: an rms, K_CMB^2: a variance, K_CMB^-2: an
    inverse variance) or their name (Q_RMS, QQ_COV); or is said:
    `map.fits[WEI_Q,WEI_U] as inverse variance in mK_CMB^-2`, `map.fits[NHITS] as hits of
    1.2 mK_CMB` (the rms of one hit), `map.fits[QQ,UU] as variance in uK_CMB^2`,
    `map.fits as rms in uK_CMB`. Three columns, in this order, are a covariance:
    `map.fits[QQ_COV,QU_COV,UU_COV] as covariance in K_CMB^2` (Planck's), `... as inverse covariance
    in K_CMB^-2`, `map.fits[QQ,QU,UU] as hits of 1.4 mK_CMB` (WMAP's: the inverse covariance is
    they over the rms squared).

    Parameters
    ----------
    given : path, str, GivenFile or GivenArray
        What an array holds is known by the unit of its Quantity and its rows: one for Q and U
        alike, Q and U, or QQ, QU and UU.
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
        If a column without unit is taken as an rms or a variance, a covariance of Q and U is left
        out, or POLCCONV (taken as COSMO) is absent beside one that is not.
    """
    if isinstance(given, GivenArray):
        return _noise_of_array(given, unit)
    given = GivenFile.of(given)
    pairs = zip(given.paths, given.columns, strict=True)
    tables = [open_table(path, names) for path, names in pairs]
    numbers = _numbers(given, tables)
    parts = tuple(FilePart.of(table, one) for table, one in zip(tables, numbers, strict=True))
    columns = [column for part in parts for column in part.columns]
    validate_numbers(given.paths[0], columns)
    kind = kind_of_columns(given, columns, unit)
    flip_u = len(columns) == 3 and is_iau(tables[0])
    opened = NoiseMap(parts, unit_of_rms(given, columns, kind, unit), kind, given.sigma0, flip_u)
    _say_of_intensity(opened)
    _say_covariance(opened)
    return opened


def _noise_of_array(given: GivenArray, unit: str | None) -> NoiseMap:
    """The noise that an array holds: by its words, or by the unit of the Quantity."""
    names = {1: ("QU",), 2: ("Q", "U"), 3: ("QQ", "QU", "UU")}
    rows = 1 if np.ndim(given.values) < 2 else len(given.values)
    if rows not in names:
        raise no_such_rows(given)
    table = given.table(names[rows])
    columns = tuple(table.column(i) for i in range(len(table.columns)))
    part = FilePart.of(table, [0, 0] if rows == 1 else range(rows))
    flip_u = rows == 3 and is_iau(table)
    power = power_of_unit(columns[0].unit) if columns[0].unit else None
    if unit is not None:
        unit = canonical_unit(f"{given.name}: unit=", unit, None)
        if power is not None and power[0] != unit.partition("_")[0]:
            unit = None  # it states its own
    if given.said:
        words = words_of_array(given, bool(power or unit))
        kind = kind_of_columns(words, columns, None)
        return NoiseMap(
            (part,), unit_of_rms(words, columns, kind, unit), kind, words.sigma0, flip_u
        )
    if power is None:
        raise unclear_array(given, columns[0].unit)
    if rows == 3 and power[1] == 1:
        raise no_such_rows(given)
    unit = canonical_unit(given.name, unit or power[0], None)
    return NoiseMap((part,), unit, KIND_OF_POWER[power[1]], flip_u=flip_u)


def _numbers(given: GivenFile, tables: Sequence[Table]) -> list[list[int]]:
    """Of each table the columns to take, by the names that were given or what they say."""
    if len(tables) == 2 and given.kind.endswith("covariance"):
        raise MapError(
            f"{given.paths[0]}: expected the {given.kind} in one file, got two; give that with the "
            "columns of QQ, QU and UU"
        )
    if len(tables) == 2:
        return [
            [find_named(table, names[0]) if len(names) == 1 else find_one_noise(table, letter)]
            for table, names, letter in zip(tables, given.columns, "QU", strict=True)
        ]
    table, names = tables[0], given.columns[0]
    if given.kind.endswith("covariance"):
        return [_named_three(table, names, given.kind) if names else find_covariance(table)]
    if len(names) == 3:
        return [_named_three(table, names, given.kind)]
    return [_named(table, names) or find_noise(table)]


def _named_three(table: Table, names: Sequence[str], kind: str) -> list[int]:
    """Columns of QQ, QU and UU that were named, and are said or called to be that."""
    numbers, called = [find_named(table, name) for name in names], [*map(stokes_of_product, names)]
    said = kind.endswith("covariance") or kind == "hits"
    wanted = ["Q", "QU", "U"]
    fits = len(names) == 3 and all(
        text == letter or (text == "" and said) for text, letter in zip(called, wanted, strict=True)
    )
    if not fits or kind in ("rms", "variance", "inverse variance"):
        raise MapError(
            f"{table.path}: expected the columns of QQ, QU and UU in this order, as covariance, as "
            f"inverse covariance or as hits, got {', '.join(names)}"
            f"{f' as {kind}' if kind else ''}; name and say these, or one column of noise or two, "
            "of Q and of U"
        )
    return numbers


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


def _say_of_intensity(opened: NoiseMap) -> None:
    names = [c.name for c in opened.columns if meaning_of(c.name).stokes == "I"]
    names = [n for n in names if meaning_of(n).kind in (*NOISE_KINDS, "matrix")]
    if names:
        warn_assumed(
            f"{opened.path}: {names[0]} is by its name noise of intensity, taken for Q and U as "
            "given; that of Q and U is often larger by the root of 2"
        )


def warn_of_one_rms(opened: NoiseMap, use: str) -> None:
    """Say so where one rms for Q and U is far from both, or leaves out how they correlate.

    Parameters
    ----------
    opened : NoiseMap
    use : str
        What one rms is used for, as the message says it.

    Warns
    -----
    MapWarning
    """
    first, last = opened.parts[0], opened.parts[-1]
    if (first.ordering, first.index is None) != (last.ordering, last.index is None):
        return  # their samples are not of the same pixels
    qq, qu, uu = opened.sample_covariance(_SAMPLE)
    ratio = np.exp(0.5 * np.abs(np.log(qq / uu)))
    correlation = np.abs(qu) / np.sqrt(qq * uu)
    if ratio.size and (ratio > _UNEQUAL).mean() > _OFTEN:
        how = f"differs, by a factor of {np.median(ratio):.3g} (median)"
    elif ratio.size and (correlation > _CORRELATED).mean() > _OFTEN:
        how = f"correlates, by {np.median(correlation):.2g} (median)"
    else:
        return
    warn_assumed(f"{opened.path}: the noise of Q and U {how}; {use}")


def _say_covariance(opened: NoiseMap) -> None:
    """Say so where a covariance of Q and U that matters is left out, and how to use it."""
    part, *more = opened.parts
    named = {i: m for i, m in meanings(part.table).items() if set(m.stokes) == {"Q", "U"}}
    if more or not named or opened.alike or len(opened.columns) == 3:
        return
    number, meaning = next(iter(named.items()))
    column = part.table.column(number)
    values = replace(part, columns=(*part.columns, column)).sample(_SAMPLE).astype(np.float64)
    q, u, qu = values[:, np.isfinite(values).all(axis=0) & (values[:2] > 0).all(axis=0)]
    advice = ""
    if meaning.kind in ("matrix", opened.kind) and opened.kind != "rms":
        correlation = np.abs(qu) / np.sqrt(q * u)
        names = f"{opened.columns[0].name},{column.name},{opened.columns[1].name}"
        kind = opened.kind.replace("variance", "covariance")
        one = f" of {opened.sigma0!r} {opened.unit}" if opened.sigma0 else ""
        advice = f"; to use it, say '{opened.path}[{names}] as {kind}{one}'"
    elif meaning.kind == "variance" and opened.kind != "hits":
        qq, _, uu = opened._covariance_of(np.stack([q, u]))
        correlation = np.abs(qu) / np.sqrt(qq * uu)
    else:
        return
    if correlation.size and (correlation > _CORRELATED).mean() > _OFTEN:
        warn_assumed(
            f"{opened.path}: {column.name}, the covariance of Q and U, is left out; they correlate "
            f"by {np.median(correlation):.2g} (median){advice}"
        )
