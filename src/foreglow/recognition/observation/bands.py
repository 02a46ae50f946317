"""What a user gives for each band, and the maps among it opened."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from astropy import units as u

from foreglow.errors import InstrumentError
from foreglow.maps.arrays import GivenArray
from foreglow.maps.conventions import warn_assumed
from foreglow.maps.io import PolarisationMap, open_polarisation_map
from foreglow.sky.instrument import Instrument

_SAMPLE = 1 << 14  # pixels of a map that are looked at when it is opened


def by_band(instrument: Instrument, values: Mapping[Any, Any], what: str) -> dict[int, Any]:
    """What a user gave by the name or frequency of a band, by its place in the instrument.

    Raises
    ------
    InstrumentError
        If a band is not the instrument's, or named twice; `what` says what of it.
    """
    placed = {}
    for band, value in values.items():
        k = instrument.index(_name_of(band))
        if k in placed:
            raise InstrumentError(f"band {instrument.band[k]} has two {what}s; give one.")
        placed[k] = value
    return placed


def _name_of(band: Any) -> str:
    """A band by its name or frequency in GHz, as text."""
    return str(band.to_value("GHz") if isinstance(band, u.Quantity) else band)


def open_bands(
    instrument: Instrument, maps: Mapping[Any, str | Path | GivenArray], unit: str | None = None
) -> dict[str, PolarisationMap]:
    """Open the maps of a user by the name of their band, in the order of the instrument.

    Raises
    ------
    InstrumentError
        If a band is not the instrument's or named twice, or none came.
    MapError
        If a map cannot be used.

    Warns
    -----
    MapWarning
        If pixels are taken as unobserved because Q and U are both exactly 0.
    """
    paths = by_band(instrument, maps, "map")
    if not paths:
        raise InstrumentError("expected a map for one band at least, got none.")
    opened: dict[str, PolarisationMap] = {}
    for k, name in enumerate(instrument.band):
        if k in paths:
            one = open_polarisation_map(paths[k], unit).sharing_index(list(opened.values()))
            # no sky is 0 in both: files of a part of the sky are filled so
            opened[name] = replace(one, zero_is_unobserved=True)
    _say_zeros(opened)
    return opened


def _say_zeros(maps: Mapping[str, PolarisationMap]) -> None:
    """Say of which bands pixels are left out that hold 0."""
    shares = {name: one.share_of_zeros(_SAMPLE) for name, one in maps.items()}
    bands = [name for name, share in shares.items() if share > 0]
    if bands:
        warn_assumed(
            f"Q and U are both exactly 0 in up to {max(shares.values()):.2g} of the pixels of "
            f"{', '.join(bands)}; these are taken as unobserved (write UNSEEN there to silence "
            "this)"
        )
