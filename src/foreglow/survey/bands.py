"""Surveys: the bands of an instrument, and which files of which products hold them.

A survey is a TOML file: `instrument`, a preset or a file that `load_instrument` reads, and a table
for each band. `files` are PRODUCT/FILE of the registry or paths of one's own, which count from the
folder of the TOML file; `map` and `noise` say what is in them, as the maps and the noise of
`foreglow.fit` are said, with {0} for the first file, {1} for the second.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from foreglow.data.cache import local_path
from foreglow.data.registry import RemoteFile, find_files, load_registry
from foreglow.errors import InstrumentError, with_nearest
from foreglow.sky.bandpass_files import read_bandpass, validate_centre
from foreglow.sky.instrument import Instrument, joined
from foreglow.sky.instrument_files import load_instrument, wrong_fields

_PRESETS = resources.files("foreglow") / "presets" / "surveys"
HALVES = (0, 1)


class SurveyBand(BaseModel):
    """A band: its files, and what is in them.

    Attributes
    ----------
    name : str
        As the instrument has it.
    files : tuple of str
        PRODUCT/FILE of the registry, or paths.
    map, noise : str
        As `foreglow.fit` takes them, {0} for the first file.
    halves : tuple of 2 tuples of str, optional
        Files of two halves of the data, in the place of `files`.
    systematic : float
        Rms of what white noise leaves out, over the polarised brightness: calibration and the like.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(min_length=1)
    files: tuple[str, ...] = Field(min_length=1)
    map: str = Field(min_length=1)
    noise: str = Field(min_length=1)
    halves: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    systematic: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def files_of(self, half: int | None) -> tuple[str, ...]:
        """Files of all the data, or of a half; of all where there are no halves."""
        return self.files if half is None or self.halves is None else self.halves[half]


class _SurveyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    instrument: str
    band: list[SurveyBand] = Field(min_length=1)


@dataclass(frozen=True)
class Survey:
    """Bands of one survey, or of several.

    Attributes
    ----------
    name : str
        As it was asked for.
    instrument : Instrument
        Those bands alone, in ascending frequency.
    bands : tuple of SurveyBand
        In the same order; files are absolute paths or PRODUCT/FILE.
    """

    name: str
    instrument: Instrument
    bands: tuple[SurveyBand, ...]

    def remote_files(self, halves: bool = False) -> list[RemoteFile]:
        """Files of the registry that are needed, each once."""
        which = (None, *HALVES) if halves else (None,)
        names = [f for half in which for band in self.bands for f in band.files_of(half)]
        return [find_files(name)[0] for name in dict.fromkeys(names) if is_of_registry(name)]

    @property
    def undivided(self) -> list[str]:
        """Bands without halves of their data."""
        return [band.name for band in self.bands if band.halves is None]

    def said(self, folder: Path, half: int | None = None) -> tuple[dict[str, str], dict[str, str]]:
        """Maps and noise of each band, as `foreglow.fit` takes them.

        Parameters
        ----------
        folder : Path
            Of the cache.
        half : int, optional
            0 or 1; bands without halves give all of their data.
        """
        maps, noise = {}, {}
        for band in self.bands:
            paths = [_path(name, folder) for name in band.files_of(half)]
            maps[band.name] = band.map.format(*paths)
            noise[band.name] = band.noise.format(*paths)
        return maps, noise


def available_surveys() -> list[str]:
    """Names of the surveys that foreglow knows."""
    return sorted(Path(i.name).stem for i in _PRESETS.iterdir() if i.name.endswith(".toml"))


def load_survey(name: str) -> Survey:
    """Surveys by their names, or TOML files of one's own, joined by plus signs.

    Raises
    ------
    InstrumentError
        If there is none of that name, a file is damaged, or two name a band alike.
    DataError
        If a file is none of its product.
    """
    parts = [_load_one(part.strip()) for part in name.split("+")]
    instrument = joined([part.instrument for part in parts])
    named = {band.name: band for part in parts for band in part.bands}
    survey = Survey(name, instrument, tuple(named[band] for band in instrument.band))
    survey.remote_files(halves=True)
    return survey


def with_bandpasses(survey: Survey, given: Mapping[str, str]) -> Survey:
    """A survey whose spectra are taken over measured bandpasses, by band, as files are said.

    Raises
    ------
    InstrumentError
        If there is no such band, or no such file, or it is not of that band.
    """
    instrument = survey.instrument
    nodes = [instrument.nodes(k) for k in range(instrument.n_band)]
    for name, said in given.items():
        k = instrument.index(name)
        nodes[k] = read_bandpass(said)
        validate_centre(instrument.band[k], instrument.frequency_ghz[k], nodes[k])
    return replace(survey, instrument=replace(instrument, bandpass=tuple(nodes)))


def _load_one(name: str) -> Survey:
    path = Path(name)
    preset = _PRESETS / f"{name}.toml"
    if not preset.is_file() and not path.is_file():
        known = available_surveys()
        raise InstrumentError(
            f"expected a survey, of {', '.join(known)}, or the path of a TOML file, several joined "
            f"by plus signs, got {with_nearest(name, known)!r}."
        )
    source = preset if preset.is_file() else path
    try:
        table = _SurveyFile.model_validate(tomllib.loads(source.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InstrumentError(f"{name}: expected a TOML file of a survey, got {error}.") from error
    except ValidationError as error:
        raise InstrumentError(f"{name}: expected a survey: {wrong_fields(error)}.") from error
    folder = None if preset.is_file() else path.absolute().parent
    own = folder is not None and (folder / table.instrument).is_file()
    instrument = load_instrument(folder / table.instrument if folder and own else table.instrument)
    bands = tuple(_validated(name, band, folder) for band in table.band)
    return Survey(name, _some(instrument, [band.name for band in bands]), bands)


def _validated(survey: str, band: SurveyBand, folder: Path | None) -> SurveyBand:
    """A band whose words fit its files; paths become absolute."""
    for name, words in (("map", band.map), ("noise", band.noise)):
        for files in (band.files, *(band.halves or ())):
            try:
                words.format(*files)
            except (IndexError, KeyError, ValueError) as error:
                raise InstrumentError(
                    f"{survey}: expected {name} of band {band.name} with {{0}} for its first file "
                    f"and so on, of which there are {len(files)}, got {words!r}."
                ) from error
    if folder is None:
        return band

    def absolute(files: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f if is_of_registry(f) else str(folder / f) for f in files)

    halves = band.halves and tuple(absolute(files) for files in band.halves)
    return band.model_copy(update={"files": absolute(band.files), "halves": halves})


def _some(instrument: Instrument, names: list[str]) -> Instrument:
    """Those bands of an instrument alone."""
    if unknown := [name for name in names if name not in instrument.band]:
        raise InstrumentError(
            f"instrument {instrument.name!r} has bands {', '.join(instrument.band)}, got "
            f"{', '.join(unknown)}; name them as the instrument does."
        )
    places = sorted(instrument.band.index(name) for name in names)
    columns = {
        column: tuple(getattr(instrument, column)[k] for k in places)
        for column in ("band", "frequency_ghz", "sensitivity_uk_arcmin", "fwhm_arcmin", "source")
    }
    bandpass = tuple(instrument.bandpass[k] for k in places if instrument.bandpass)
    return replace(instrument, **columns, bandpass=bandpass)


def is_of_registry(name: str) -> bool:
    """Whether a name begins with a product; a path of such a name is written ./NAME."""
    return name.partition("/")[0] in {product.name for product in load_registry()}


def _path(name: str, folder: Path) -> Path:
    return local_path(find_files(name)[0], folder) if is_of_registry(name) else Path(name)
