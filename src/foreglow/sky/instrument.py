"""Instruments: bands, sensitivities, beams, noise."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from foreglow.errors import InstrumentError
from foreglow.maps import healpix as hp
from foreglow.sky import seds
from foreglow.sky.bandpass import Bands, Nodes, bands_of

_COLUMNS = ("band", "frequency_ghz", "sensitivity_uk_arcmin", "fwhm_arcmin", "source")


@dataclass(frozen=True)
class Instrument:
    """Frequency bands of a polarisation experiment, in ascending frequency.

    Parameters
    ----------
    name : str
    band : tuple of str
        Names of the bands.
    frequency_ghz : tuple of float
        Centres [GHz], by which bands are named and drawn; spectra are taken there unless there
        are bandpasses.
    sensitivity_uk_arcmin : tuple of float
        White noise of Q and of U [uK_CMB arcmin].
    fwhm_arcmin : tuple of float
        Beams [arcmin].
    source : tuple of str
        Where each row was published.
    bandpass : tuple of Nodes
        Where the spectra of each band are taken, and the weights of their mean; none if all bands
        are infinitely narrow.
    """

    name: str
    band: tuple[str, ...]
    frequency_ghz: tuple[float, ...]
    sensitivity_uk_arcmin: tuple[float, ...]
    fwhm_arcmin: tuple[float, ...]
    source: tuple[str, ...]
    bandpass: tuple[Nodes, ...] = ()

    @property
    def n_band(self) -> int:
        """Number of bands."""
        return len(self.band)

    @cached_property
    def uk_rj_per_uk_cmb(self) -> np.ndarray:
        """Factor from uK_CMB to uK_RJ, shape (n_band,)."""
        return self.bands.average(seds.cmb(self.bands.node_ghz)).numpy()

    @cached_property
    def bands(self) -> Bands:
        """Where spectra are evaluated, and how they are averaged, in double precision."""
        if self.bandpass:
            return bands_of(self.bandpass)
        return Bands(torch.tensor(self.frequency_ghz, dtype=torch.float64))

    def nodes(self, band: int) -> Nodes:
        """Frequency [GHz] and weight of each node of a band."""
        return self.bandpass[band] if self.bandpass else ((self.frequency_ghz[band], 1.0),)

    def to_uk_rj_factor(self, unit: str, band: int) -> float:
        """Factor from a unit to uK_RJ in a band, with its bandpass.

        As PySM3: thermodynamic temperature is that of the CMB through the band, MJy/sr the mean
        intensity over the response.

        Raises
        ------
        MapError
            If the unit is unknown.
        """
        from foreglow.maps.conventions import (
            to_uk_rj_factor,  # by astropy, which networks do without
        )

        return sum(weight * to_uk_rj_factor(unit, nu) for nu, weight in self.nodes(band))

    def noise_rms(self, nside: int) -> np.ndarray:
        """Noise of Q and of U in a HEALPix pixel.

        Returns
        -------
        ndarray, shape (n_band,)
            [uK_RJ]: sensitivity / sqrt(pixel area), white.
        """
        pixel_arcmin = hp.nside2resol(nside, arcmin=True)
        return np.array(self.sensitivity_uk_arcmin) / pixel_arcmin * self.uk_rj_per_uk_cmb

    def index(self, band: str) -> int:
        """Place of a band, by its name or its frequency in GHz ('40', '40.0', '40 GHz').

        Raises
        ------
        InstrumentError
            If no band is meant, or more than one.
        """
        if band in self.band:
            return self.band.index(band)
        try:
            frequency = float(band.lower().removesuffix("ghz"))
        except ValueError:
            frequency = np.nan
        found = np.flatnonzero(np.isclose(self.frequency_ghz, frequency, rtol=1e-4))
        if len(found) != 1:
            known = (
                name if name == f"{frequency:g}" else f"{name} ({frequency:g} GHz)"
                for name, frequency in zip(self.band, self.frequency_ghz, strict=True)
            )
            raise InstrumentError(
                f"instrument {self.name!r} has bands {', '.join(known)}, got band {band!r}; "
                "name the band as the instrument does, or give its frequency in GHz."
            )
        return int(found[0])


def joined(parts: list[Instrument]) -> Instrument:
    """Make one instrument of the bands of several.

    Raises
    ------
    InstrumentError
        If two of them name a band alike.
    """
    name = "+".join(part.name for part in parts)
    columns: dict[str, Any] = {
        c: tuple(value for part in parts for value in getattr(part, c)) for c in _COLUMNS
    }
    if any(part.bandpass for part in parts):
        columns["bandpass"] = tuple(part.nodes(k) for part in parts for k in range(part.n_band))
    return in_order(Instrument(name, **columns))


def in_order(instrument: Instrument) -> Instrument:
    """Put the bands of an instrument in ascending frequency.

    Raises
    ------
    InstrumentError
        If two bands have one name.
    """
    names = instrument.band
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise InstrumentError(
            f"instrument {instrument.name!r} names band {', '.join(twice)} twice; each needs its "
            "own name."
        )
    order = np.argsort(instrument.frequency_ghz, kind="stable")
    columns: dict[str, Any] = {c: tuple(getattr(instrument, c)[k] for k in order) for c in _COLUMNS}
    columns["bandpass"] = tuple(instrument.bandpass[k] for k in order if instrument.bandpass)
    return Instrument(instrument.name, **columns)


def instrument_of(table: dict[str, Any]) -> Instrument:
    """An instrument of what `dataclasses.asdict` made of it, and TOML or JSON kept."""
    columns = {k: _tuples(v) for k, v in table.items() if k != "name"}
    return Instrument(table["name"], **columns)


def _tuples(values: list[Any]) -> tuple[Any, ...]:
    """Lists of a card as an instrument holds them."""
    return tuple(_tuples(v) if isinstance(v, list) else v for v in values)
