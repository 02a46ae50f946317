"""A HEALPix table: read, and compared with what the registry says of its product."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from foreglow.data.registry import Product, identify
from foreglow.data.report import ColumnFound, Report
from foreglow.errors import ForeglowError, MapError
from foreglow.hi_cube.healpix_cube import open_healpix_cube, spectrum_length
from foreglow.maps import healpix as hp
from foreglow.maps.columns import NOISE_KINDS, find_named, meanings
from foreglow.maps.conventions import MapWarning, canonical_frame, canonical_unit
from foreglow.maps.io import open_intensity_map, open_plain_map, open_polarisation_map
from foreglow.maps.noise import open_noise_map
from foreglow.maps.stored import ORDERINGS, StoredMap
from foreglow.maps.table import Column, Table, open_table

_BLOCK = 1 << 21  # pixels at a time
_LOOKED_AT = 3  # columns whose values are read, where the registry names none
_MEMORY = 1 << 30  # bytes that a gzipped table may take
_RECOGNISE = "foreglow recognize classify, fit"
_DUST = "foreglow dust train, predict, evaluate (averaged to the Nside of the cube)"
_SURVEY = "foreglow recognize survey"
_PAPER_KMS = (-64.5, 17.0)


def check_table(path: Path, column: str | None = None) -> Report:
    """Read a HEALPix table; see `foreglow.data.check.check_file`."""
    table = open_table(path)
    names = [c.name or "" for c in table.columns]
    product = identify(path.name, names)
    if "CTYPE3" in table.header:
        return _check_channels(path, product)
    length = spectrum_length(table)
    if length > 1:
        return _report_spectra(table, length)
    columns, unread = _read_columns(table, _columns_of_interest(table, product, column))
    notes, problems = _compare(table, product, columns) if product else ([], [])
    problems += unread + _bad_values(columns)
    fits, said, reasons = _uses(path, table, product, column)
    if not fits and (product is None or product.kind not in ("table", "template")):
        problems += reasons
    if product is not None and product.kind in ("table", "template"):
        fits = [product.use]
    return Report(
        str(path),
        f"{product.title if product else 'no product of the registry'}: {_in_words(table)}",
        product.name if product else None,
        tuple(columns),
        tuple(fits) if not problems else (),
        tuple(notes + said),
        tuple(problems),
    )


def _check_channels(path: Path, product: Product | None) -> Report:
    problems = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MapWarning)
        cube = open_healpix_cube([path], None, None, _MEMORY)
        kms = cube.velocity.kms
        try:
            cube.validate(slice(0, len(kms)))
        except MapError as error:
            problems.append(_without_path(str(error), path))
    what = (
        f"an HI cube of {len(kms)} channels from {kms[0]:.2f} to {kms[-1]:.2f} km/s (LSRK), HEALPix"
        f" {cube.ordering}, Nside {cube.nside}"
    )
    fits = () if problems else (f"foreglow dust prepare --cube {path}",)
    notes = (*velocity_notes(kms), *(_without_path(str(w.message), path) for w in caught))
    name = product.name if product else None
    return Report(str(path), what, name, fits=fits, notes=notes, problems=tuple(problems))


def _report_spectra(table: Table, length: int) -> Report:
    """Of a table that does not say which velocities its spectra have."""
    what = f"an HI cube of {length} channels, a spectrum in each row: {_in_words(table)}"
    note = (
        f"it does not say the velocity of its {length} channels: write them into a text file, km/s "
        "LSRK, one a line, for --velocity-table"
    )
    command = f"foreglow dust prepare --cube {table.path} --velocity-table FILE"
    return Report(str(table.path), what, fits=(command,), notes=(note,))


def _in_words(table: Table) -> str:
    nside = table.keyword("NSIDE").removesuffix(".0") or "not stated"
    ordering = ORDERINGS.get(table.keyword("ORDERING"), "ordering not stated")
    frame = table.keyword("COORDSYS") or "frame not stated"
    shown = table.listing if len(table.listing) < 200 else f"{table.listing[:200]}..."
    return f"HEALPix table, Nside {nside}, {ordering}, {frame}, columns {shown}"


def _columns_of_interest(table: Table, product: Product | None, column: str | None) -> list[int]:
    """Numbers of the columns to read: the one asked for, else those that the registry takes."""
    if column is not None:
        return [find_named(table, column)]
    wanted = re.findall(r"\w+", product.column or "") if product else []
    named = [i for i in table.sky_columns if table.columns[i].name in wanted]
    return named or table.sky_columns[: 1 if product else _LOOKED_AT]


def _read_columns(table: Table, numbers: list[int]) -> tuple[list[ColumnFound], list[str]]:
    found, unread = [], []
    for number in numbers:
        try:
            found.append(_look_at(table, table.column(number)))
        except MapError as error:
            unread.append(str(error))
    return found, unread


def _look_at(table: Table, column: Column) -> ColumnFound:
    """Read all of a column, a block at a time."""
    unobserved = bad = above = 0
    least, greatest = np.inf, -np.inf
    for first in range(0, column.cells.size, _BLOCK):
        values = column.take(np.arange(first, min(first + _BLOCK, column.cells.size)))
        unobserved += int(np.isnan(values).sum())
        bad += int(np.isinf(values).sum())
        seen = values[np.isfinite(values)]
        above += int((seen > 0).sum())
        if seen.size:
            least, greatest = min(least, float(seen.min())), max(greatest, float(seen.max()))
        table.release()
    ends = (least, greatest) if least <= greatest else (None, None)
    return ColumnFound(column.name, column.unit, unobserved, bad, *ends, above / column.cells.size)


def _bad_values(columns: list[ColumnFound]) -> list[str]:
    problems = [
        f"expected finite values in column {c.name}, got NaN or Inf in {c.bad} pixels; mark "
        f"unobserved pixels as UNSEEN ({hp.UNSEEN})"
        for c in columns
        if c.bad
    ]
    problems += [
        f"expected a map in column {c.name}, got no observed pixel; fetch or copy it again"
        for c in columns
        if c.least is None and not c.bad
    ]
    return problems


def _compare(
    table: Table, product: Product, columns: list[ColumnFound]
) -> tuple[list[str], list[str]]:
    """Notes and problems: what the file says of itself beside what the registry says."""
    notes, problems = [], []
    missing = [name for name in product.columns if name not in [c.name for c in table.columns]]
    if missing:
        problems.append(
            f"expected the columns of {product.name}, got none called {', '.join(missing)}; the "
            "file is another product, or a copy with other names"
        )
    ordering = ORDERINGS.get(table.keyword("ORDERING"))
    if product.ordering and ordering not in (None, product.ordering):
        notes.append(f"ordering {ordering}, the archive's is {product.ordering}: a copy")
    nside = table.keyword("NSIDE").removesuffix(".0")
    if product.nside and nside != str(product.nside):
        notes.append(f"Nside {nside or 'not stated'}, the archive's is {product.nside}: a copy")
    frame = table.keyword("COORDSYS")
    if product.frame and frame and canonical_frame("COORDSYS", frame) != product.frame:
        problems.append(
            f"expected COORDSYS {product.frame}, got {frame}; it was turned, or is another product"
        )
    said, wrong = _compare_convention(table, product)
    notes, problems = notes + said, problems + wrong
    problems += [p for c in columns if (p := _wrong_unit(product, c)) is not None]
    if product.kind == "mask":
        notes += [f"{100 * c.above_zero:.3g}% of the sky is above zero" for c in columns]
        problems += [
            f"expected some sky above zero in column {c.name}, got none; take another column"
            for c in columns
            if c.above_zero == 0
        ]
    return notes, problems


def _compare_convention(table: Table, product: Product) -> tuple[list[str], list[str]]:
    """Notes and problems of the sign of U: it is read as the header says, or as COSMO."""
    stated = next(filter(None, map(table.keyword, ("POLCCONV", "POLCONV"))), "")
    if product.convention is None or stated == product.convention:
        return [], []
    if stated:
        return [
            f"POLCCONV {stated}, the archive's is {product.convention}: a copy, whose U is read as "
            "its header says"
        ], []
    if product.convention == "IAU":
        return [], [
            "expected POLCCONV IAU in the header, as the archive's has it, got none; the sign of U "
            "is lost: fetch it again"
        ]
    return [], []


def _wrong_unit(product: Product, column: ColumnFound) -> str | None:
    """What is wrong with a unit that the header states, where the registry names one."""
    expected = product.unit or ""
    if product.kind not in ("map", "table") or not column.unit:
        return None
    try:
        agrees = canonical_unit("", column.unit) == canonical_unit("", expected)
    except MapError:
        agrees = _plain(column.unit) == _plain(expected)
        # a bare kelvin leaves its scale to us
        agrees |= _plain(column.unit) == _plain(expected.partition("_")[0])
    if agrees:
        return None
    return (
        f"expected {expected} in column {column.name}, got unit {column.unit!r}; the file is "
        "another product, or was converted"
    )


def _plain(unit: str) -> str:
    return re.sub(r"[\s^*{}()]", "", unit).lower().replace("1/cm2", "cm-2")


def _uses(
    path: Path, table: Table, product: Product | None, column: str | None
) -> tuple[list[str], list[str], list[str]]:
    """Commands that take the file, what their readers warned of, and why others do not."""
    if product is not None and product.kind == "mask":
        named = product.column if " " not in (product.column or " ") else None
        return _try([_as_mask(path, column or named)], path)
    if column is not None:
        file = f"{path}[{column}]"
        either = f"--mask '{file}', or --dust '{file}', of {_DUST}"
        return _try([(either, _any_unit, file)], path)
    logical = [c.name for i in table.sky_columns if (c := table.columns[i]).format.format == "L"]
    if logical and len(logical) == len(table.sky_columns):
        return _try([_as_mask(path, n if len(logical) > 1 else None) for n in logical], path)
    named = ""  # the one column of the product that is the dust
    if product is not None and product.column in [c.name for c in table.columns]:
        named = f"[{product.column}]"
    fits, said, reasons = _try(
        [
            (f"--maps BAND=FILE of {_RECOGNISE} (Q,U)", _polarised, str(path)),
            (f"--dust FILE{named} of {_DUST}", _intensity, f"{path}{named}"),
        ],
        path,
    )
    if any(m.kind in NOISE_KINDS for m in meanings(table).values()):
        noise, also_said, unclear = _try(
            [(f"--noise BAND=FILE of {_RECOGNISE}", open_noise_map, str(path))], path
        )
        fits, said = fits + noise, list(dict.fromkeys(said + also_said + unclear))
    if fits or product is not None:
        return fits, said, reasons
    either = f"--mask FILE, or --dust FILE --unit UNIT, of {_DUST}"
    without_unit, said, _ = _try([(either, _any_unit, str(path))], path)
    return without_unit, said, reasons


def _as_mask(path: Path, column: str | None) -> tuple[str, Callable[[str], StoredMap], str]:
    file = str(path) if column is None else f"{path}[{column}]"
    return f"--mask '{file}' of {_DUST}, and of {_SURVEY}", _any_unit, file


def _try(
    trials: list[tuple[str, Callable[[str], StoredMap], str]], path: Path
) -> tuple[list[str], list[str], list[str]]:
    fits, said, reasons = [], [], []
    for use, opener, file in trials:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", MapWarning)
            try:
                opener(file)
                fits.append(use)
            except ForeglowError as error:
                reasons.append(f"{use.split(' of ')[0]}: {_without_path(str(error), path)}")
                continue
        said += [_without_path(str(w.message), path) for w in caught]
    return fits, list(dict.fromkeys(said)), reasons


def _polarised(path: str) -> StoredMap:
    return open_polarisation_map(path)


def _intensity(path: str) -> StoredMap:
    return _galactic(open_intensity_map(path))


def _any_unit(path: str) -> StoredMap:
    return _galactic(open_plain_map(path))


def _galactic(stored: StoredMap) -> StoredMap:
    if stored.frame != "G":
        raise MapError(
            f"{stored.path}: expected a Galactic map (COORDSYS = G), got frame {stored.frame}; "
            "turn it with healpy.Rotator"
        )
    return stored


def _without_path(message: str, path: Path) -> str:
    return message.replace(f"{path}: ", "")


def velocity_notes(kms: np.ndarray) -> tuple[str, ...]:
    """What to know of the velocities of a cube (km/s, ascending)."""
    low, high = _PAPER_KMS
    if kms[0] <= low + 2 and kms[-1] >= high - 2:
        return ()
    return (f"it does not reach over {low:g} to {high:g} km/s, the range of Zhang et al. 2019",)
