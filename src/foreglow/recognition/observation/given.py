"""What a user has in hand, files or arrays, brought into one form."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from astropy import units as u

from foreglow.errors import InstrumentError, RunError
from foreglow.maps.arrays import GivenArray, given_array, is_array
from foreglow.recognition.observation.band_noise import Noise
from foreglow.recognition.observation.bands import by_band
from foreglow.recognition.observation.observations import Observation, open_observation
from foreglow.recognition.observation.streaming import MapFiles, Source
from foreglow.sky.instrument import Instrument

Maps = Mapping[Any, str | Path | np.ndarray | u.Quantity] | np.ndarray | u.Quantity
"""A map for each band, by its name or frequency, or one array of all bands."""


@dataclass(frozen=True)
class Pixels:
    """What arrays cannot say of their pixels.

    Parameters
    ----------
    nest : bool
        Whether they are NESTED.
    frame : str, optional
        "G", "C" or "E".
    convention : str, optional
        Of the polarisation: "COSMO" or "IAU".
    """

    nest: bool = False
    frame: str | None = None
    convention: str | None = None


@dataclass(frozen=True, eq=False)
class OpenedMaps:
    """Maps some of which are arrays: they are of this process alone."""

    observation: Observation

    def open(self) -> Observation:
        """They are open."""
        return self.observation


def is_source(maps: Maps | Source) -> TypeGuard[Source]:
    """Whether something opens by itself, such as a sky of an ensemble."""
    return hasattr(maps, "open")


def source_of(
    instrument: Instrument | None,
    maps: Maps | Source,
    noise: Noise | u.Quantity | None,
    noise_scale: float,
    unit: str | None,
    pixels: Pixels,
) -> Source:
    """Maps and noise of a user as something to open, here or, if all are files, on a worker.

    Parameters
    ----------
    instrument : Instrument or None
        None only for a `Source`.
    maps : mapping of band to path or array, array, or Source
        For each band a FITS file, or an array, masked array or Quantity of shape (2, n_pix) or
        (3, n_pix); or one array of shape (n_band, 2 or 3, n_pix), in the order of the instrument.
    noise : mapping of band to path, Quantity or text, or Quantity, optional
        As `open_observation` takes it; besides, arrays of shape (n_pix,) or (2, n_pix) as
        Quantities, of which the unit says whether they are rms, variances or inverse variances,
        or of shape (3, n_pix), the covariance QQ, QU, UU or its inverse; or one Quantity for all
        bands, of shape (n_band, n_pix), (n_band, 2, n_pix) or (n_band, 3, n_pix).
        What numbers without such a unit are is said in words beside them: `(array, "hits of 1.2
        mK_CMB")`, `(array, "variance in uK_CMB^2")`.
    noise_scale, unit
        As `open_observation` takes them.
    pixels : Pixels
        What is to be said of arrays.

    Raises
    ------
    InstrumentError
        If an array has another number of bands than the instrument.
    MapError
        If an array is no map.
    """
    if is_source(maps):
        return maps
    assert instrument is not None
    unit = None if unit is None else str(unit)
    given = _each(instrument, maps, pixels, "map")
    said = None if noise is None else _each(instrument, noise, pixels, "noise")
    if any(isinstance(one, GivenArray) for one in (*given.values(), *(said or {}).values())):
        return OpenedMaps(open_observation(instrument, given, said, noise_scale, unit))
    return MapFiles.of(instrument, given, said, noise_scale, unit)


def validate_for_workers(source: Source) -> None:
    """Check that workers can open maps by themselves.

    Raises
    ------
    RunError
        If some are arrays of this process.
    """
    if isinstance(source, OpenedMaps):
        raise RunError(
            "expected maps and noise in files, which workers open by themselves, got arrays; write "
            "them (foreglow.maps.write.write_polarisation_map says unit, frame and convention in "
            "the header), or leave workers= and pool= out."
        )


def _each(instrument: Instrument, values: Any, pixels: Pixels, what: str) -> dict[str, Any]:
    """What was given for each band, by its name; arrays with what was said of them."""
    if isinstance(values, str | Path):
        raise InstrumentError(
            f"expected a {what} for each band, as a mapping of band to file or array, got "
            f"{str(values)!r}; give {{band: {str(values)!r}, ...}}."
        )
    if not isinstance(values, Mapping):
        if getattr(values, "ndim", None) == 0 or not hasattr(values, "__len__"):
            raise InstrumentError(
                f"expected a {what} for each band, as a mapping of band to {what} or one array of "
                f"all bands, got {values!r}; give {{band: {what}, ...}}."
            )
        if len(values) != instrument.n_band:
            raise InstrumentError(
                f"expected one {what} for each of the {instrument.n_band} bands of "
                f"{instrument.name!r}, got an array of {len(values)}; give a mapping of band to "
                f"{what} if some are missing."
            )
        values = dict(zip(instrument.band, values, strict=True))
    named = {instrument.band[k]: v for k, v in by_band(instrument, values, what).items()}
    said = (pixels.nest, pixels.frame, pixels.convention)
    return {
        band: given_array(f"{what} of {band}", value, *said) if is_array(value) else value
        for band, value in named.items()
    }
