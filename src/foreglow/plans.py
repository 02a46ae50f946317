"""Plans of trainings: a dataclass, some of its fields, or a TOML file of them."""

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from foreglow.errors import RunError, with_nearest

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]

_Plan = TypeVar("_Plan")


def read_plan(given: Any, default: _Plan, **fields: Any) -> _Plan:
    """Find the plan that a user means.

    Parameters
    ----------
    given : dataclass of the kind of `default`, mapping of its fields, path of a TOML file, or None
    default : dataclass
        For fields that are not given.
    **fields
        Given one by one, in the place of those in `given`; None is not given.

    Raises
    ------
    RunError
        If there is no such file, or a field does not exist or cannot have its value.
    """
    name, table = _table(given, default)
    said = {field: value for field, value in fields.items() if value is not None}
    known = {field.name: getattr(default, field.name) for field in dataclasses.fields(default)}  # pyright: ignore[reportArgumentType]
    if unknown := sorted(map(str, table.keys() - known.keys())):
        raise RunError(
            f"{name}: expected fields among {', '.join(known)}, got "
            f"{', '.join(with_nearest(one, known) for one in unknown)}; "
            "correct their names, or take them out."
        )
    try:
        return TypeAdapter(type(default)).validate_python(known | table | said)
    except ValidationError as error:
        wrong = error.errors()[0]
        name = "plan" if wrong["loc"][0] in said else name
        raise RunError(
            f"{name}: expected {wrong['loc'][0]}= as a training can have it, got "
            f"{wrong['input']!r} ({wrong['msg']}); correct it."
        ) from error


def _table(given: Any, default: Any) -> tuple[str, dict[str, Any]]:
    if given is None:
        return "plan", {}
    if isinstance(given, type(default)):
        return "plan", dataclasses.asdict(given)  # pyright: ignore[reportArgumentType]
    if isinstance(given, Mapping):
        return "plan", dict(given)
    if not isinstance(given, str | Path):
        raise RunError(
            f"plan: expected a {type(default).__name__}, a mapping of its fields or a TOML file, "
            f"got {given!r}; give one of them."
        )
    try:
        return str(given), tomllib.loads(Path(given).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RunError(
            f"{given}: expected the plan of a training in TOML, but it cannot be read ({error}); "
            "give a file with lines such as epochs = 20."
        ) from error
