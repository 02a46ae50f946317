"""The candidate models of a pixel, and the constants of the law that networks are trained on."""

import dataclasses
import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from foreglow.errors import ForeglowError, ModelError, with_nearest
from foreglow.sky import seds

REFERENCE_NSIDE = 16  # of the pixels in which depths of noise are stated
BETA_MEAN = -3.0
BETA_SCATTER = 0.2
AMPLITUDE_SCATTER = 0.3

_TABULATED_GHZ = tuple(10 ** (k / 40) for k in range(121))  # 1 to 1000
# what a number of `ForegroundModel` may be, from and to
_RANGES = {
    "curvature": (-1.0, 1.0),
    "curvature_scatter": (0.0, 0.5),
    "ame_fraction": (0.0, 1.0),
    "ame_peak_ghz": (10.0, 100.0),
    "beta_d_scatter": (0.0, 0.5),
    "dust_temperature_scatter": (0.0, 3.0),
    "dust_moments": (0.0, 0.5),
}


@dataclass(frozen=True)
class ForegroundModel:
    """A candidate parametrisation, beside CMB, dust and a synchrotron of index -3 with rms 0.2.

    Parameters
    ----------
    curvature : float
        Of the synchrotron, C a unit of natural log.
    curvature_scatter : float
        Rms of C over vectors or pixels; with it the fits and the evidence leave C free.
    ame_fraction : float
        Polarised fraction of the AME; 0 for none.
    ame_peak_ghz : float
        Where the emissivity of the AME peaks.
    beta_d_scatter : float
        Rms over vectors or pixels of the dust's index about 1.54.
    dust_temperature_scatter : float
        Rms over vectors or pixels of its temperature about 20 K [K].
    dust_moments : float
        Rms of the first moment of the dust's index along the line of sight, the sum of amplitude
        times (index - 1.54) over its clouds, in Q and in U each, over the polarised dust. Its
        spectrum is that of the dust times ln(nu / 353 GHz), so angles turn with frequency.
    two_temperatures : bool
        Whether the dust is that of `seds.two_temperature_dust`.
    synchrotron_factor, dust_factor : sequence of (GHz, factor), or function
        By which the spectrum of the synchrotron or of the dust is multiplied: two frequencies or
        more, rising, between and beyond which it is a power law; so a broken power law is three of
        them. Or a function of a frequency in GHz, of which such a table is made, from 1 to
        1000 GHz. What the factor is at 23 GHz, of dust at 353, is divided out.

    Raises
    ------
    ModelError
        If a number is none that a sky can have, or fields contradict each other.

    References
    ----------
    Chluba, Hill & Abitbol 2017; Vacher et al. 2023 (moments of Q and U).
    """

    curvature: float = 0.0
    curvature_scatter: float = 0.0
    ame_fraction: float = 0.0
    ame_peak_ghz: float = seds.AME_PEAK_GHZ
    beta_d_scatter: float = 0.0
    dust_temperature_scatter: float = 0.0
    dust_moments: float = 0.0
    two_temperatures: bool = False
    synchrotron_factor: seds.Factor = ()
    dust_factor: seds.Factor = ()

    def __post_init__(self):
        for name in ("synchrotron_factor", "dust_factor"):
            object.__setattr__(self, name, _factor(name, getattr(self, name)))
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ModelError(f"expected {name} as a number, got {value!r}.")
            if not low <= value <= high:
                raise ModelError(f"expected {name} from {low:g} to {high:g}, got {value:g}.")
        if not isinstance(self.two_temperatures, bool):
            raise ModelError(
                f"expected two_temperatures as true or false, got {self.two_temperatures!r}."
            )
        kinds = {
            "a varying index or temperature": self.dust_varies,
            "moments along the line of sight": bool(self.dust_moments),
            "two temperatures": self.two_temperatures,
        }
        if len(got := [kind for kind, present in kinds.items() if present]) > 1:
            raise ModelError(
                f"expected dust of one kind, got dust of {' and '.join(got)}; leave all but one "
                "out."
            )
        if self.ame_peak_ghz != seds.AME_PEAK_GHZ and not self.ame_fraction:
            raise ModelError(
                f"expected ame_fraction > 0 beside ame_peak_ghz = {self.ame_peak_ghz:g}, got 0; "
                "give the polarised fraction of the AME, or leave its peak out."
            )

    @property
    def curved(self) -> bool:
        """Whether C is other than 0, on average or here and there."""
        return bool(self.curvature or self.curvature_scatter)

    @property
    def dust_varies(self) -> bool:
        """Whether the spectrum of the dust scatters over vectors or pixels."""
        return bool(self.beta_d_scatter or self.dust_temperature_scatter)

    @property
    def changed(self) -> dict[str, Any]:
        """What is other than in a power law, by field."""
        plain = ForegroundModel()
        every = dataclasses.asdict(self)
        return {name: value for name, value in every.items() if value != getattr(plain, name)}


def _factor(name: str, given: Any) -> seds.Factor:
    """A table of frequencies and factors, of one or of a function.

    Raises
    ------
    ModelError
        If it is neither.
    """
    if callable(given):
        given = [(nu, given(nu)) for nu in _TABULATED_GHZ]
    try:
        table = tuple((float(nu), float(factor)) for nu, factor in given)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"expected {name} as pairs of a frequency in GHz and a factor, or as a function of the "
            f"frequency, got {given!r}."
        ) from error
    nus = [nu for nu, _ in table]
    rising = all(low < high for low, high in pairwise([0.0, *nus, math.inf]))
    if len(table) == 1 or not rising or not all(0 < f < math.inf for _, f in table):
        raise ModelError(
            f"expected {name} of two rising frequencies or more, with factors above zero, got "
            f"{table[:4]}{'...' if len(table) > 4 else ''}."
        )
    return table if len({factor for _, factor in table}) > 1 else ()


# a candidate is one line here: training, test skies, fits, evidence and FITS columns follow
MODELS = {
    "power_law": ForegroundModel(),
    "curved": ForegroundModel(seds.KOGUT_CURVATURE),
    "power_law_ame": ForegroundModel(ame_fraction=seds.AME_POLARISATION_FRACTION),
    "curved_ame": ForegroundModel(
        seds.KOGUT_CURVATURE, ame_fraction=seds.AME_POLARISATION_FRACTION
    ),
    # what MFI2 with WMAP and Planck can tell in the brightest pixels (arXiv:2511.14572)
    "strongly_curved": ForegroundModel(-0.14),
    "varying_beta_d": ForegroundModel(beta_d_scatter=0.05),
    # T = 19.4 +- 1.3 K over the sky, in intensity (Planck intermediate XLVIII, arXiv:1605.09387)
    "varying_dust": ForegroundModel(beta_d_scatter=0.05, dust_temperature_scatter=1.3),
    "dust_moments": ForegroundModel(dust_moments=0.05),
    "two_temperatures": ForegroundModel(two_temperatures=True),
}
PROBLEMS = {
    "curvature": ("power_law", "curved"),
    "ame": ("power_law", "power_law_ame"),
    "four": ("power_law", "curved", "power_law_ame", "curved_ame"),
}


class OwnModel(str):
    """The name of a candidate of the user's own, which brings along what it stands for.

    So it goes wherever names of `MODELS` go: to workers, into results, into a model's card.
    """

    definition: ForegroundModel

    def __new__(cls, name: str, definition: ForegroundModel) -> Self:
        """Check the name, from which columns of FITS tables are made.

        Raises
        ------
        ModelError
            If it is none, or that of a model of `MODELS` which is another.
        """
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,30}", name):
            raise ModelError(
                "expected a model's name of letters, digits and underscores, at most 31, a letter "
                f"first, got {name!r}."
            )
        if MODELS.get(name.lower(), definition) != definition:
            raise ModelError(
                f"{name} is a model of foreglow, and not the one that was given; give it a name of "
                "its own."
            )
        made = super().__new__(cls, name)
        made.definition = definition
        return made

    def __reduce__(self):
        return OwnModel, (str(self), self.definition)


def definition_of(name: str) -> ForegroundModel:
    """What a name of `MODELS`, or of a user's own model, stands for.

    Raises
    ------
    ModelError
        If it is neither.
    """
    if isinstance(name, OwnModel):
        return name.definition
    if name not in MODELS:
        got = with_nearest(name, MODELS)
        raise ModelError(f"expected models among {', '.join(MODELS)}, got {got!r}.")
    return MODELS[name]


def definitions_of(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What is to be written down of those models that are a user's own, by name."""
    return {str(name): name.definition.changed for name in names if isinstance(name, OwnModel)}


def defined(name: str, definitions: Mapping[str, Any]) -> str:
    """A name that was read from a file, with what `definitions_of` wrote of it, if anything."""
    return own_model(name, definitions[name]) if name in definitions else name


def class_cards(models: tuple[str, ...]) -> dict[str, str]:
    """Name the classes in the cards of a table, and say what those of the user's own stand for."""
    own = definitions_of(models)
    return {f"CLASS{k}": str(name) for k, name in enumerate(models)} | {
        f"DEFINE{k}": json.dumps(own[name]) for k, name in enumerate(models) if name in own
    }


def own_model(name: str, definition: Any) -> OwnModel:
    """A candidate by its name and what it stands for: a `ForegroundModel`, or its fields.

    Raises
    ------
    ModelError
        If a field does not exist, or it cannot be a model.
    """
    if isinstance(definition, ForegroundModel):
        return OwnModel(name, definition)
    fields = [field.name for field in dataclasses.fields(ForegroundModel)]
    if not isinstance(definition, Mapping):
        raise ModelError(
            f"model {name}: expected a ForegroundModel or a table of {', '.join(fields)}, got "
            f"{definition!r}."
        )
    if unknown := [str(key) for key in definition if key not in fields]:
        raise ModelError(
            f"model {name}: expected fields among {', '.join(fields)}, got "
            f"{', '.join(with_nearest(key, fields) for key in unknown)}."
        )
    try:
        return OwnModel(name, ForegroundModel(**definition))
    except ModelError as error:
        raise ModelError(f"model {name}: {error}") from error


def models_of(
    models: str | Path | Sequence[str] | Mapping[str, Any], least: int = 2
) -> tuple[str, ...]:
    """The candidate models that a user means.

    Parameters
    ----------
    models : str, path, sequence of str or mapping
        A problem (curvature, ame, four); names of `MODELS`, in a sequence or separated by commas;
        TOML files of own models, alone or among such names: a table for each, of fields of
        `ForegroundModel`. Or a mapping of name to `ForegroundModel`, or to such a table.
    least : int
        How many at least.

    Raises
    ------
    ForeglowError
        If there is no such problem, file or model, there are too few, or a model comes twice or is
        the same as another.
    """
    if isinstance(models, str) and models in PROBLEMS:
        return PROBLEMS[models]
    if isinstance(models, str):
        models = models.split(",")
    if not isinstance(models, Iterable | Path):
        raise ForeglowError(f"expected models by their names, got {models!r}.")
    names: list[str] = []
    for item in [models] if isinstance(models, Mapping | Path) else models:
        names += own_models(item) or [item if isinstance(item, OwnModel) else str(item).strip()]
    known = [isinstance(name, OwnModel) or name in MODELS for name in names]
    if len(names) < least or len({name.upper() for name in names}) < len(names) or not all(known):
        got = ", ".join(with_nearest(name, MODELS | PROBLEMS) for name in names)
        raise ForeglowError(
            f"expected models {', '.join(PROBLEMS)}, or {'two or more' if least > 1 else 'some'} "
            f"of the models {', '.join(MODELS)} or of TOML files, separated by commas, each once, "
            f"got {got!r}."
        )
    _validate_differ(names)
    return tuple(names)


def own_models(given: Any) -> list[OwnModel]:
    """A user's own models by a mapping of their names, or a TOML file; none by anything else.

    Raises
    ------
    ForeglowError
        If there is no such file, or it holds none.
    ModelError
        If one of them is none.
    """
    if isinstance(given, Mapping):
        return [own_model(name, fields) for name, fields in given.items()]
    if not str(given).strip().endswith(".toml"):
        return []
    path = Path(str(given).strip())
    if not path.is_file():
        raise ForeglowError(f"{path}: expected a TOML file of models, got no file.")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ForeglowError(f"{path}: expected a TOML file of models, got {error}.") from error
    if not tables:
        raise ForeglowError(
            f"{path}: expected a table for each model, as in [flattening] with curvature = 0.05 "
            "below it, got none."
        )
    try:
        return [own_model(name, table) for name, table in tables.items()]
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _validate_differ(names: Sequence[str]) -> None:
    seen: dict[ForegroundModel, str] = {}
    for name in names:
        other = seen.setdefault(definition_of(name), name)
        if other != name:
            raise ForeglowError(
                f"expected models that differ, got {other} and {name}, which are the same; leave "
                "one out."
            )


def columns_of_parameters(models: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Column and unit of each spectral parameter that tables have for some models, by its name."""
    known = [definition_of(name) for name in models]
    columns = {"beta_s": ("BETA_S", ""), "curvature": ("C", "")}
    if any(model.beta_d_scatter for model in known):
        columns["beta_d"] = ("BETA_D", "")
    if any(model.dust_temperature_scatter for model in known):
        columns["dust_temperature"] = ("T_D", "K")
    return columns


def dust_tests(models: tuple[str, ...]) -> tuple[str, ...]:
    """In what the dust of some candidates departs from the paper's.

    `beta`, in one pixel or along its line of sight; `temperature`; `two_temperatures`.
    """
    known = [definition_of(name) for name in models]
    departs = {
        "beta": any(model.beta_d_scatter or model.dust_moments for model in known),
        "temperature": any(model.dust_temperature_scatter for model in known),
        "two_temperatures": any(model.two_temperatures for model in known),
    }
    return tuple(name for name, does in departs.items() if does)
