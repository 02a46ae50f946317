"""Component amplitude maps from the mock Galaxy, a sky directory or PySM3 presets."""

import os
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import healpy as hp
import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from foreglow.errors import SkyError
from foreglow.sky import seds

MOCK_NSIDE = 64
_COMPONENTS = ("synchrotron", "thermal_dust", "ame")
# amplitudes are brought from the frequency of a file to that of the SED with these mean laws
_TO_REFERENCE: dict[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "synchrotron": (seds.SYNCHROTRON_PIVOT_GHZ, lambda nu: seds.synchrotron(nu, beta=-3.0)),
    "thermal_dust": (seds.DUST_REFERENCE_GHZ, seds.modified_blackbody),
    "ame": (seds.AME_REFERENCE_GHZ, seds.spinning_dust),
}


@dataclass(frozen=True)
class Templates:
    """Amplitudes of the foregrounds on the sky, RING, Galactic, COSMO, uK_RJ.

    Parameters
    ----------
    source : str
        Where they come from: `mock`, `pysm:...` or a directory.
    nside : int
    synchrotron : ndarray, float32, shape (2, n_pix)
        Q, U at 23 GHz.
    dust : ndarray, float32, shape (2, n_pix)
        Q, U at 353 GHz.
    ame : ndarray, float32, shape (n_pix,)
        Intensity at 30 GHz; its polarisation follows the dust's direction.
    """

    source: str
    nside: int
    synchrotron: np.ndarray
    dust: np.ndarray
    ame: np.ndarray

    def degraded(self, nside: int) -> "Templates":
        """The same sky averaged over larger pixels.

        Raises
        ------
        SkyError
            If `nside` is finer than these maps.
        """
        if nside == self.nside:
            return self
        if nside > self.nside:
            raise SkyError(
                f"the templates of {self.source} have Nside {self.nside}, but Nside {nside} was "
                "asked for; ask for the same or less, or give finer maps."
            )
        maps = [*self.synchrotron, *self.dust, self.ame]
        low = np.asarray(hp.ud_grade(maps, nside, dtype=np.float64), dtype=np.float32)
        return Templates(self.source, nside, low[:2], low[2:4], low[4])


def load_templates(sky: str, nside: int | None = None) -> Templates:
    """Amplitude maps of a sky, by its name.

    Parameters
    ----------
    sky : str
        `mock`: the embedded mock Galaxy; `pysm:s1,d1,a2`: PySM3 presets of synchrotron, dust and
        AME; else a sky directory, which holds `sky.toml` and the maps it names.
    nside : int, optional
        Resolution wanted; by default that of the files (mock and PySM3: 64).

    Raises
    ------
    SkyError
        If the sky is unknown, incomplete or coarser than `nside`.
    """
    if sky == "mock":
        return _from_mock(nside or MOCK_NSIDE)
    if sky.startswith("pysm:"):
        return _from_pysm(sky, nside or MOCK_NSIDE)
    templates = _from_directory(Path(sky))
    return templates if nside is None else templates.degraded(nside)


def _from_mock(nside: int) -> Templates:
    from foreglow.sky.galaxy import mock_galaxy

    galaxy = mock_galaxy(nside)
    to_pivot = _amplitude_factor("synchrotron", 30.0)
    return Templates("mock", nside, galaxy.synchrotron[1:] * to_pivot, galaxy.dust[1:], galaxy.ame)


class _Component(BaseModel):
    model_config = ConfigDict(extra="forbid")
    file: str
    reference_frequency_ghz: float = Field(gt=0)
    unit: str


class _SkyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    synchrotron: _Component
    thermal_dust: _Component
    ame: _Component


def _from_directory(folder: Path) -> Templates:
    table = _read_sky_toml(folder)
    maps = {}
    for name in _COMPONENTS:
        component: _Component = getattr(table, name)
        maps[name] = _read_component(folder, name, component)
    nside = {name: hp.get_nside(m[0]) for name, m in maps.items()}
    if len(set(nside.values())) != 1:
        raise SkyError(f"the maps of {folder} must share one Nside, but have {nside}.")
    return Templates(
        str(folder), nside["ame"], maps["synchrotron"], maps["thermal_dust"], maps["ame"][0]
    )


def _read_sky_toml(folder: Path) -> _SkyFile:
    path = folder / "sky.toml"
    if not path.is_file():
        raise SkyError(
            f"expected `mock`, `pysm:s1,d1,a2` or a directory with a sky.toml, but {path} does not "
            "exist."
        )
    try:
        return _SkyFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise SkyError(
            f"{path} does not describe a sky: {error}. Expected tables [synchrotron], "
            "[thermal_dust] and [ame], each with file, reference_frequency_ghz and unit."
        ) from error


def _read_component(folder: Path, name: str, component: _Component) -> np.ndarray:
    """Q,U (AME: I) at the reference frequency of the SED, float32, shape (2 or 1, n_pix)."""
    if component.unit != "uK_RJ":
        raise SkyError(
            f"[{name}] of {folder} has unit {component.unit!r}; amplitude maps must be in uK_RJ."
        )
    fields = (0,) if name == "ame" else (1, 2)
    try:
        maps = hp.read_map(folder / component.file, field=fields, dtype=np.float64)
    except (OSError, IndexError, ValueError) as error:
        raise SkyError(f"cannot read {folder / component.file}: {error}") from error
    maps = np.atleast_2d(maps)
    if not np.all(np.isfinite(maps)) or np.any(hp.mask_bad(maps)):
        raise SkyError(
            f"{folder / component.file} has UNSEEN or NaN pixels; templates must be full sky."
        )
    factor = _amplitude_factor(name, component.reference_frequency_ghz)
    return (maps * factor).astype(np.float32)


def _amplitude_factor(name: str, from_ghz: float) -> float:
    reference_ghz, sed = _TO_REFERENCE[name]
    frequencies = torch.tensor([reference_ghz, from_ghz], dtype=torch.float64)
    to, at = sed(frequencies)
    return float(to / at)


def _from_pysm(sky: str, nside: int) -> Templates:
    import pysm3
    import pysm3.units as pysm_units
    from astropy.utils.data import conf

    presets = sky.removeprefix("pysm:").split(",")
    if len(presets) != len(_COMPONENTS):
        raise SkyError(
            f"expected pysm:SYNCHROTRON,DUST,AME, such as pysm:s1,d1,a2, but {sky!r} came."
        )
    maps = {}
    for name, preset in zip(_COMPONENTS, presets, strict=True):
        reference_ghz, _ = _TO_REFERENCE[name]
        try:
            with conf.set_temp("allow_internet", False):  # foreglow downloads nothing unasked
                component = pysm3.Sky(nside=nside, preset_strings=[preset])
                emission = component.get_emission(reference_ghz * pysm_units.GHz)
        except Exception as error:  # PySM3 raises many kinds for a file it cannot have
            raise SkyError(_pysm_message(preset, nside, error)) from error
        maps[name] = np.asarray(emission.value, dtype=np.float32)
    return Templates(sky, nside, maps["synchrotron"][1:], maps["thermal_dust"][1:], maps["ame"][0])


def _pysm_message(preset: str, nside: int, error: Exception) -> str:
    local = os.environ.get("PYSM_LOCAL_DATA")
    return (
        f"PySM3 cannot make preset {preset!r}: {error}. Its templates were looked for in "
        f"PYSM_LOCAL_DATA ({local or 'not set'}) and in PySM3's own cache; foreglow does not "
        "download unasked. With a network, fill the cache once by: python -c "
        f"\"import pysm3; pysm3.Sky(nside={nside}, preset_strings=['{preset}'])\"; without, copy "
        "the folder pysm_2 of the PySM data to a disk and set PYSM_LOCAL_DATA to what holds it; or "
        "use --sky mock."
    )
