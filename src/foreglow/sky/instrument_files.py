"""Instruments read from TOML presets, the user's own files and tables."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from astropy import units as u
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from foreglow.errors import InstrumentError, warn
from foreglow.sky.bandpass import Nodes, top_hat
from foreglow.sky.bandpass_files import read_bandpass, validate_centre
from foreglow.sky.instrument import Instrument, in_order, joined

LOWEST_GHZ, HIGHEST_GHZ = 0.1, 3000.0  # what lies beyond is in another unit
_PRESETS = resources.files("foreglow") / "presets" / "instruments"
_COLUMNS = {"frequency": "GHz", "depth_p": "uK_CMB arcmin", "fwhm": "arcmin"}
# beyond these a number is more often in another unit than true
_USUAL = {
    "frequency": (1.0, 1000.0, "GHz"),
    "sensitivity": (0.01, 1e6, "uK_CMB arcmin"),
    "fwhm": (0.1, 600.0, "arcmin"),
}


def available_instruments() -> list[str]:
    """Names of the built-in instruments."""
    return sorted(
        Path(item.name).stem for item in _PRESETS.iterdir() if item.name.endswith(".toml")
    )


def load_instrument(name_or_path: str | Path | Any) -> Instrument:
    """Read an instrument: a built-in one by its name, a TOML file of the same form, or a table.

    Parameters
    ----------
    name_or_path : str, Path, table or Instrument
        `quijote+litebird`, or the path of a file with a `name` and one `[[band]]` table a band:
        `name`, `frequency = "11 GHz"`, `sensitivity = "840 uK_CMB arcmin"`,
        `fwhm = "55.2 arcmin"`, `source`, and if it has a width, `bandpass = { width = 0.3 }`
        (relative), `{ edges = ["9 GHz", "12 GHz"] }` or `{ table = "band.txt" }` (GHz and
        response in power units, or as `read_bandpass` takes it; its path counts from the folder of
        the file). Several of them joined by plus signs are the bands of all: `s-pass+wmap+planck`.
        A table is a DataFrame, an astropy Table, or a mapping, with columns `frequency` [GHz],
        `depth_p` [uK_CMB arcmin] and `fwhm` [arcmin], as FGBuster's `get_instrument` gives it;
        Quantities, and columns with another unit, are converted. Kelvins of `depth_p` must say
        K_CMB, as those of PySM3 do. Its bands are named by their frequency. An Instrument stays
        what it is.

    Raises
    ------
    InstrumentError
        If there is no such preset or file, a row or column is wrong, or two instruments name a
        band alike.

    Warns
    -----
    InstrumentWarning
        If a frequency, sensitivity or beam is far from what instruments have.

    Examples
    --------
    >>> bands = load_instrument("quijote+litebird")
    >>> bands.n_band
    17
    >>> bands.index("40 GHz")
    2
    >>> [round(float(rms), 2) for rms in bands.noise_rms(16)[:3]]  # uK_RJ in a pixel
    [3.81, 3.8, 0.16]
    """
    if isinstance(name_or_path, Instrument):
        return name_or_path
    if not isinstance(name_or_path, str | Path):
        return _of_table(name_or_path)
    text = str(name_or_path)
    if "+" not in text or (_PRESETS / f"{text}.toml").is_file() or Path(text).is_file():
        return _load_one(name_or_path)
    return joined([_load_one(part.strip()) for part in text.split("+")])


def _load_one(name_or_path: str | Path) -> Instrument:
    try:
        table = _InstrumentFile.model_validate(tomllib.loads(_read(name_or_path)))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InstrumentError(f"{name_or_path} is not valid TOML: {error}.") from error
    except ValidationError as error:
        raise InstrumentError(
            f"{name_or_path} does not describe an instrument: {wrong_fields(error)}. Expected a "
            'name and one [[band]] table a band with name, frequency = "40 GHz", '
            'sensitivity = "36 uK_CMB arcmin", fwhm = "69 arcmin", source, and for a wide band '
            "bandpass = { width = 0.3 }, { edges = [...] } or { table = ... }."
        ) from error
    _question(name_or_path, table.band)
    return _instrument_from_rows(table.name, table.band, Path(name_or_path).parent)


def _of_table(table: Any) -> Instrument:
    """An instrument of columns as FGBuster names them."""
    columns = [_column(table, name, unit) for name, unit in _COLUMNS.items()]
    if len({len(column) for column in columns}) > 1:
        raise InstrumentError(
            f"expected columns {', '.join(_COLUMNS)} of one length, got "
            f"{', '.join(str(len(column)) for column in columns)}; give a number for every band."
        )
    rows = [
        {
            "name": f"{nu:g}", "frequency": f"{nu!r} GHz",
            "sensitivity": f"{depth!r} uK_CMB arcmin",
            "fwhm": f"{fwhm!r} arcmin", "source": "a table of frequency, depth_p and fwhm",
        }
        for nu, depth, fwhm in zip(*columns, strict=True)
    ]  # fmt: skip
    try:
        found = _InstrumentFile.model_validate({"name": "table", "band": rows})
    except ValidationError as error:
        raise InstrumentError(
            f"the table does not describe an instrument: {wrong_fields(error)}."
        ) from error
    _question("the table", found.band)
    return _instrument_from_rows(found.name, found.band, Path())


def _column(table: Any, name: str, unit: str) -> list[float]:
    """A column in `unit`; its numbers, or the whole column, may state another."""
    dtype = getattr(table, "dtype", None)  # of an array with named fields
    there = table.keys() if hasattr(table, "keys") else getattr(dtype, "names", None)
    if there is None or name not in there:
        got = type(table).__name__ if there is None else f"columns {', '.join(map(str, there))}"
        missing = "" if there is None else f", {name} is missing"
        raise InstrumentError(
            "expected the name of an instrument, a TOML file, or a table with columns frequency "
            f"(GHz), depth_p (uK_CMB arcmin) and fwhm (arcmin), got {got}{missing}; give one of "
            "them."
        )
    column = table[name]
    own = getattr(column, "unit", None) or unit
    try:
        values = list(column)
    except TypeError:
        raise InstrumentError(
            f"expected a column {name} with a number for every band, got {column!r}; give a list."
        ) from None
    return [_number_of(value, name, own, unit) for value in values]


def _number_of(value: Any, name: str, own: Any, unit: str) -> float:
    """A number in `unit`, from one in the unit `own` of its column, a Quantity or a text."""
    if value is np.ma.masked:
        raise InstrumentError(f"expected {name} for every band, got a masked one; fill it in.")
    try:
        text = f"{float(value)!r} {own}"
    except (TypeError, ValueError):
        text = str(value)
    try:
        return _number_in(unit, text)
    except ValueError as error:
        raise InstrumentError(
            f"expected {name} in {unit}, got {text!r} ({error}); write a unit such "
            f"as {unit}, or give plain numbers in {unit}."
        ) from error


def _question(name_or_path: str | Path, rows: list["_BandRow"]) -> None:
    """Warn of numbers that are more often in another unit than true."""
    odd = [
        f"{key} {value:g} {unit} of band {row.name} (most lie between {low:g} and {high:g})"
        for row in rows
        for key, (low, high, unit) in _USUAL.items()
        if not low <= (value := getattr(row, key)) <= high
    ]
    if odd:
        warn(
            f"{name_or_path}: unusual {', '.join(odd[:3])}; check the unit.",
            InstrumentWarning,
        )


class InstrumentWarning(UserWarning):
    """A number of an instrument is unusual."""


def wrong_fields(error: ValidationError) -> str:
    """The first few fields that a file got wrong, on one line."""
    return "; ".join(
        f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})"
        for e in error.errors()[:3]
    )


def _read(name_or_path: str | Path) -> str:
    preset = _PRESETS / f"{name_or_path}.toml"
    if preset.is_file():
        return preset.read_text(encoding="utf-8")
    path = Path(name_or_path)
    if not path.is_file():
        raise InstrumentError(
            f"expected a built-in instrument ({', '.join(available_instruments())}) or the path "
            f"of a TOML file, but {str(name_or_path)!r} is neither."
        )
    return path.read_text(encoding="utf-8")


def _number_in(unit: str, text: object) -> float:
    """What a text of a number with its unit is in `unit`; a ValueError says why not."""
    try:
        if ("K_CMB" in unit) != ("K_CMB" in str(text)):
            raise ValueError("thermodynamic temperature is spelled K_CMB")
        # to astropy a plain kelvin: a unit K_CMB of our own would clash with that of PySM3
        quantity = u.Quantity(str(text).replace("K_CMB", "K"))
        return float(np.asarray(quantity.to_value(unit.replace("K_CMB", "K"))))
    except (TypeError, ValueError, u.UnitConversionError) as error:
        raise ValueError(str(error).split(". ")[0]) from error


def _quantity_in(unit: str) -> BeforeValidator:
    """Read a number with a unit as the number in `unit`."""

    def convert(text: object) -> float:
        try:
            return _number_in(unit, text)
        except ValueError as error:
            raise ValueError(f"expected a quantity in {unit}: {error}") from error

    return BeforeValidator(convert)


_POSITIVE = Field(gt=0, allow_inf_nan=False)


_Frequency = Annotated[
    float, _quantity_in("GHz"), Field(ge=LOWEST_GHZ, le=HIGHEST_GHZ, allow_inf_nan=False)
]


class _Bandpass(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: Annotated[float, Field(gt=0, lt=2)] | None = None
    edges: tuple[_Frequency, _Frequency] | None = None
    table: str | None = None

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        if sum(value is not None for value in (self.width, self.edges, self.table)) != 1:
            raise ValueError("expected one of width, edges or table")
        return self


class _BandRow(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1)
    frequency: _Frequency
    sensitivity: Annotated[float, _quantity_in("uK_CMB arcmin"), _POSITIVE]
    fwhm: Annotated[float, _quantity_in("arcmin"), _POSITIVE]
    source: str = Field(min_length=1)
    bandpass: _Bandpass | None = None

    def nodes(self, folder: Path) -> Nodes:
        """Of its bandpass; a table's path counts from `folder`."""
        given = self.bandpass
        if given is None:
            return ((self.frequency, 1.0),)
        if given.width is not None:
            half = 0.5 * given.width * self.frequency
            found = top_hat(self.frequency - half, self.frequency + half)
        elif given.edges is not None:
            found = top_hat(*given.edges)
        else:
            found = read_bandpass(str(given.table), folder)
        validate_centre(self.name, self.frequency, found)
        return found


class _InstrumentFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1)
    band: list[_BandRow] = Field(min_length=1)


def _instrument_from_rows(name: str, rows: list[_BandRow], folder: Path) -> Instrument:
    wide = any(row.bandpass for row in rows)
    return in_order(
        Instrument(
            name=name,
            band=tuple(row.name for row in rows),
            frequency_ghz=tuple(row.frequency for row in rows),
            sensitivity_uk_arcmin=tuple(row.sensitivity for row in rows),
            fwhm_arcmin=tuple(row.fwhm for row in rows),
            source=tuple(row.source for row in rows),
            bandpass=tuple(row.nodes(folder) for row in rows) if wide else (),
        )
    )
