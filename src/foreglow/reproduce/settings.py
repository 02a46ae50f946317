"""Presets of the reproductions: how much of everything, by scale."""

import tomllib
from importlib import resources
from typing import Any

from foreglow.errors import RunError

SCALES = ("smoke", "laptop", "evening", "paper")


def read_settings(paper: str, scale: str) -> dict[str, Any]:
    """The preset of a paper at a scale; what it does not say is as in the scale that it is `like`.

    Raises
    ------
    RunError
        If there is no such scale.
    """
    if scale not in SCALES:
        raise RunError(f"expected scale {', '.join(SCALES)}, got {scale!r}.")
    preset = resources.files("foreglow") / "presets" / f"{paper}.toml"
    scales = tomllib.loads(preset.read_text(encoding="utf-8"))
    settings = scales[scale]
    return scales.get(settings.pop("like", None), {}) | settings
