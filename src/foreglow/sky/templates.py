"""Component amplitude maps from the mock Galaxy, a sky directory or PySM3."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from foreglow.errors import SkyError, warn
from foreglow.maps import healpix as hp
from foreglow.maps.conventions import canonical_unit, to_uk_rj_factor
from foreglow.maps.io import open_intensity_map, open_polarisation_map
from foreglow.maps.stored import StoredMap
from foreglow.sky import seds
from foreglow.sky.instrument_files import HIGHEST_GHZ, LOWEST_GHZ, wrong_fields

MOCK_NSIDE = 64
COMPONENTS = ("synchrotron", "thermal_dust", "ame")
# amplitudes are brought from the frequency of a file to that of the SED with these mean laws
TO_REFERENCE: dict[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "synchrotron": (seds.SYNCHROTRON_PIVOT_GHZ, lambda nu: seds.synchrotron(nu, beta=-3.0)),
    "thermal_dust": (seds.DUST_REFERENCE_GHZ, seds.modified_blackbody),
    "ame": (seds.AME_REFERENCE_GHZ, seds.spinning_dust),
}
# geometric means over the sky, of the polarised amplitude and of AME's intensity, at the reference
# frequencies: those of the mock, and within a tenth those of PySM's s1, d1 and a2
TYPICAL_UK_RJ = {"synchrotron": 18.0, "thermal_dust": 4.2, "ame": 36.0}
_FAR = 100.0  # from these there is no sky
_SAMPLE = 1 << 16  # pixels, at least, that tell it
# where templates of a component are made
_USUAL_GHZ = {"synchrotron": (0.3, 100.0), "thermal_dust": (100.0, 3000.0), "ame": (5.0, 100.0)}


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


def load_templates(sky: Any, nside: int | None = None) -> Templates:
    """Amplitude maps of a sky, by its name or as it is at hand.

    Parameters
    ----------
    sky : str, path, pysm3.Sky or Templates
        `mock`: the embedded mock Galaxy; `pysm:s1,d1,a2`: PySM3 presets of synchrotron, dust and
        AME; a sky directory, which holds `sky.toml` and the maps it names; or a sky of PySM3,
        whose emission at the reference frequencies is taken.
    nside : int, optional
        Resolution wanted; by default that of the sky (mock and PySM3's presets: 64).

    Raises
    ------
    SkyError
        If the sky is unknown, incomplete or coarser than `nside`.

    Warns
    -----
    SkyWarning
        If a template is far brighter or fainter than the sky, or of an unusual frequency.
    """
    if isinstance(sky, str) and sky == "mock":
        return _from_mock(nside or MOCK_NSIDE)
    if isinstance(sky, str) and sky.startswith("pysm:"):
        from foreglow.sky.pysm import from_presets

        return from_presets(sky, nside or MOCK_NSIDE)
    if isinstance(sky, Templates):
        templates = sky
    elif isinstance(sky, str | Path):
        templates = _from_directory(Path(sky))
    else:
        from foreglow.sky.pysm import from_sky

        templates = from_sky(sky)
    return templates if nside is None else templates.degraded(nside)


def _from_mock(nside: int) -> Templates:
    from foreglow.sky.galaxy import mock_galaxy

    galaxy = mock_galaxy(nside)
    to_pivot = _amplitude_factor("synchrotron", 30.0)
    return Templates("mock", nside, galaxy.synchrotron[1:] * to_pivot, galaxy.dust[1:], galaxy.ame)


class _Component(BaseModel):
    model_config = ConfigDict(extra="forbid")
    file: str
    reference_frequency_ghz: float = Field(ge=LOWEST_GHZ, le=HIGHEST_GHZ, allow_inf_nan=False)
    unit: str


class _SkyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    synchrotron: _Component
    thermal_dust: _Component
    ame: _Component


def _from_directory(folder: Path) -> Templates:
    table = _read_sky_toml(folder / "sky.toml")
    maps = {name: _read_component(folder, name, getattr(table, name)) for name in COMPONENTS}
    nside = {name: hp.npix2nside(m.shape[-1]) for name, m in maps.items()}
    if len(set(nside.values())) != 1:
        raise SkyError(
            f"expected maps of one Nside in {folder}, got {nside}; bring them to the coarsest "
            "(healpy.ud_grade)."
        )
    return Templates(
        str(folder), nside["ame"], maps["synchrotron"], maps["thermal_dust"], maps["ame"]
    )


def _read_sky_toml(path: Path) -> _SkyFile:
    if not path.is_file():
        raise SkyError(
            f"expected `mock`, `pysm:s1,d1,a2` or a directory with a sky.toml, but {path} does not "
            "exist."
        )
    try:
        return _SkyFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValidationError) as error:
        reason = wrong_fields(error) if isinstance(error, ValidationError) else error
        raise SkyError(
            f"{path} does not describe a sky: {reason}. Expected tables [synchrotron], "
            "[thermal_dust] and [ame], each with file, reference_frequency_ghz (in GHz) and unit."
        ) from error


def _read_component(folder: Path, name: str, component: _Component) -> np.ndarray:
    """Q,U (AME: I) at the reference frequency of the SED, float32, shape (2, n_pix) or (n_pix,)."""
    unit = canonical_unit(f"{folder / 'sky.toml'}: [{name}]", component.unit)
    open_map = open_intensity_map if name == "ame" else open_polarisation_map
    opened = open_map(folder / component.file, unit)
    _validate_frame(opened)
    n_pix = hp.nside2npix(opened.nside)
    values = opened.read(np.arange(n_pix))
    missing = np.isnan(values).reshape(-1, n_pix).any(axis=0).sum()
    if missing:
        raise SkyError(
            f"{opened.path}: expected a full sky, got {missing} unobserved (UNSEEN) pixels; fill "
            "them, templates are needed everywhere."
        )
    from_ghz = component.reference_frequency_ghz
    factor = to_uk_rj_factor(unit, from_ghz) * _amplitude_factor(name, from_ghz)
    with np.errstate(over="ignore"):
        amplitude = (values * factor).astype(np.float32)
    where = f"{folder / 'sky.toml'}: [{name}]"
    if not np.isfinite(amplitude).all():
        raise SkyError(
            f"{where}: expected amplitudes that float32 can hold at {TO_REFERENCE[name][0]:g} "
            f"GHz, got up to {np.abs(values).max():.3g} {unit} at {from_ghz:g} GHz in "
            f"{component.file}; check the file, reference_frequency_ghz and unit."
        )
    _question(where, name, from_ghz, amplitude)
    return amplitude


def _question(where: str, name: str, from_ghz: float, amplitude: np.ndarray) -> None:
    """Warn of a template that is no sky's, or of a frequency where none is made."""
    odd = []
    low, high = _USUAL_GHZ[name]
    if not low <= from_ghz <= high:
        odd.append(
            f"reference_frequency_ghz = {from_ghz:g} (most templates of this component are of "
            f"{low:g} to {high:g} GHz)"
        )
    some = amplitude[..., :: max(1, amplitude.shape[-1] // _SAMPLE)].astype(np.float64)
    size = np.hypot(*some) if some.ndim == 2 else some
    size = size[size > 0]  # a component may be absent, here or everywhere
    typical = np.exp(np.log(size).mean()) if size.size else TYPICAL_UK_RJ[name]
    if not 1 / _FAR < typical / TYPICAL_UK_RJ[name] < _FAR:
        odd.append(
            f"amplitudes of typically {typical:.3g} uK_RJ at {TO_REFERENCE[name][0]:g} GHz (the "
            f"sky's are {TYPICAL_UK_RJ[name]:g})"
        )
    if odd:
        warn(
            f"{where}: unusual {' and '.join(odd)}; check reference_frequency_ghz and unit.",
            SkyWarning,
        )


class SkyWarning(UserWarning):
    """A template is unlike any sky."""


def _validate_frame(opened: StoredMap) -> None:
    if opened.frame != "G":
        raise SkyError(
            f"{opened.path}: expected a Galactic map, COORDSYS G, got {opened.frame}; rotate it "
            "(healpy.Rotator.rotate_map_alms)."
        )


def _amplitude_factor(name: str, from_ghz: float) -> float:
    reference_ghz, sed = TO_REFERENCE[name]
    to, at = sed(torch.tensor([reference_ghz, from_ghz], dtype=torch.float64))
    return float(to / at)
