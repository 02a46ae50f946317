"""Templates from skies of PySM3: its presets, or a `pysm3.Sky` at hand."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from foreglow.errors import SkyError
from foreglow.extras import require
from foreglow.sky.templates import COMPONENTS, TO_REFERENCE, Templates

_LETTER = {"synchrotron": "s", "thermal_dust": "d", "ame": "a"}


def from_presets(sky: str, nside: int) -> Templates:
    """The emission of PySM3's presets at the reference frequencies, by their names.

    Parameters
    ----------
    sky : str
        `pysm:SYNCHROTRON,DUST,AME`.
    nside : int

    Raises
    ------
    SkyError
        If there is no such preset, or its files are not at hand.
    """
    presets = sky.removeprefix("pysm:").split(",")
    if len(presets) != len(COMPONENTS):
        raise SkyError(f"expected pysm:SYNCHROTRON,DUST,AME, such as pysm:s1,d1,a2, got {sky!r}.")
    synchrotron, dust, ame = (
        _preset(name, preset.strip(), nside)
        for name, preset in zip(COMPONENTS, presets, strict=True)
    )
    return Templates(sky, nside, synchrotron[1:], dust[1:], ame[0])


def _preset(name: str, preset: str, nside: int) -> np.ndarray:
    """I,Q,U of a PySM3 preset at the reference frequency of the SED, float32, shape (3, n_pix)."""
    require("pysm")
    import pysm3  # slow to import, and not needed by every sky
    from pysm3.sky import PRESET_MODELS

    choice = [p for p in PRESET_MODELS if re.fullmatch(rf"{_LETTER[name]}\d+", p)]
    if preset not in choice:
        raise SkyError(
            f"expected a PySM3 preset of {name.replace('_', ' ')}, one of {', '.join(choice)}, got "
            f"{preset!r}."
        )
    reference_ghz, _ = TO_REFERENCE[name]
    try:
        with _no_download():
            component = pysm3.Sky(nside=nside, preset_strings=[preset])
            return _emission(component, reference_ghz)
    except Exception as error:  # PySM3 raises many kinds for a file it cannot have
        raise SkyError(_message(preset, nside, error)) from error


def from_sky(sky: Any) -> Templates:
    """The emission of a sky of PySM3 at the reference frequencies, component by component.

    Parameters
    ----------
    sky : pysm3.Sky
        With synchrotron, thermal dust and spinning dust. CMB and what is not polarised are left
        out; of the spectral laws of the others nothing is taken.

    Raises
    ------
    SkyError
        If it is no sky of PySM3, lacks one of the three, or has polarised emission of another kind.
    """
    require("pysm")
    import pysm3

    if not isinstance(sky, pysm3.Sky):
        raise SkyError(
            "expected `mock`, `pysm:s1,d1,a2`, a directory with a sky.toml, Templates or a "
            f"pysm3.Sky, got {sky!r}; give one of them."
        )
    found: dict[str, np.ndarray] = {}
    for component in sky.components:
        kind = _kind(component)
        if kind is not None:
            emission = _emission(component, TO_REFERENCE[kind][0])
            found[kind] = found.get(kind, 0) + emission
    if missing := [name for name in COMPONENTS if name not in found]:
        raise SkyError(
            "expected a pysm3.Sky with synchrotron, thermal dust and AME, got one without "
            f"{', '.join(missing)}; add a component, as by preset_strings=['s1', 'd1', 'a2']."
        )
    names = ", ".join(type(component).__name__ for component in sky.components)
    maps = [found["synchrotron"][1:], found["thermal_dust"][1:], found["ame"][0]]
    return Templates(f"pysm3.Sky of {names}", sky.nside, *maps)


def _kind(component: Any) -> str | None:
    """Which of our components one of PySM3's is; None for what has no say in polarisation."""
    from pysm3 import models

    if isinstance(component, models.SpDust):
        return "ame"
    dust = (models.ModifiedBlackBody, models.HensleyDraine2017, models.ModifiedBlackBodyLayers)
    if isinstance(component, dust):
        return "thermal_dust"
    if isinstance(component, models.PowerLaw):
        return "synchrotron" if component.has_polarization else None  # else free-free
    if isinstance(component, models.CMBMap | models.COLines):
        return None  # foreglow draws the CMB itself; lines are narrower than bands
    raise SkyError(
        "expected components of PySM3 that say what they are (power law, modified black body, "
        f"spinning dust), got {type(component).__name__}; leave it out, or put its amplitudes "
        "into a sky directory."
    )


def _emission(component: Any, frequency_ghz: float) -> np.ndarray:
    """I,Q,U [uK_RJ], float32, shape (3, n_pix)."""
    import pysm3.units as pysm_units

    emission = component.get_emission(frequency_ghz * pysm_units.GHz)
    return np.asarray(emission.value, dtype=np.float32)  # of a component always uK_RJ


@contextmanager
def _no_download() -> Iterator[None]:
    """Keep PySM3 to files at hand, and its advice on failed downloads off the terminal."""
    from astropy.utils.data import conf

    logger = logging.getLogger("pysm3")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with conf.set_temp("allow_internet", False):
            yield
    finally:
        logger.setLevel(level)


def _message(preset: str, nside: int, error: Exception) -> str:
    local = os.environ.get("PYSM_LOCAL_DATA") or "not set"
    absent = re.search(r"pysm-data/([^']+)'", str(error))  # a URL it would have downloaded from
    reason = f"it needs {absent[1]}" if absent else f"{type(error).__name__}: {error}"
    return (
        f"PySM3 cannot make preset {preset!r}: {reason}. Templates are looked for in "
        f"PYSM_LOCAL_DATA ({local}) and in astropy's cache; foreglow does not download unasked. "
        "With a network, fill the cache once by: python -c "
        f"\"import pysm3; pysm3.Sky(nside={nside}, preset_strings=['{preset}'])\"; without, set "
        "PYSM_LOCAL_DATA to a copy of the PySM data; or give sky='mock'."
    )
