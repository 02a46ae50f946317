"""Numbers of an HI cube that are no brightness temperature: what is stored in place of a value.

FITS has NaN for what was not observed, and BLANK among integers. Files hold other numbers too:
-32768, -9999, 1e20, healpy's UNSEEN. They are unobserved; many different ones are another unit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreglow.errors import MapError
from foreglow.maps.conventions import warn_assumed

LIMIT_K = 1000.0  # the line reaches some 200 K
_BRIGHT_K, _BRIGHT_SHARE = 300.0, 1e-3
PLACEHOLDERS = (-99.0, -999.0, -9999.0, -99999.0, -32768.0)  # to the bit, in the unit of the file
_FEW = 3  # different placeholders that a file may have
_SHARE = 0.01


@dataclass(eq=False)
class OddValues:
    """Numbers that were found and are no brightness temperature.

    Attributes
    ----------
    count, looked_at : int
        How many they are, of how many values that are not NaN.
    values : set of float
        As stored; not all, where there are many.
    zeros : int
        Of the others, how many are nought to the bit.
    """

    count: int = 0
    looked_at: int = 0
    values: set[float] = field(default_factory=set)
    zeros: int = 0

    def add(self, other: "OddValues") -> None:
        """Count those of another part too."""
        self.count += other.count
        self.looked_at += other.looked_at
        self.zeros += other.zeros
        if len(self.values) <= _FEW:
            self.values |= other.values

    def validate(self, where: str) -> None:
        """Check that they can be placeholders; `where` begins the message of the MapError."""
        if len(self.values) > _FEW and self.count > _SHARE * self.looked_at:
            shown = ", ".join(f"{value:.6g}" for value in sorted(self.values)[: _FEW + 1])
            raise MapError(
                f"{where}: expected brightness temperatures of the 21 cm line, within "
                f"{LIMIT_K:g} K of zero, got {shown} and more, in the unit of the file, "
                f"in {self.count} of {self.looked_at} values; correct the unit (BUNIT, TUNIT) if "
                "they have another, or set them to NaN"
            )

    def warn(self, where: str) -> None:
        """Say in one warning what is taken as not observed, and what may have to be."""
        said = []
        if self.count:
            shown = ", ".join(f"{value:.6g}" for value in sorted(self.values)[:_FEW])
            more = " and others" if len(self.values) > _FEW else ""
            said.append(
                f"{shown}{more} in {self.count} of {self.looked_at} values looked at, which is no "
                "brightness temperature of the 21 cm line: taken as not observed, wherever it is "
                "found"
            )
        if self.zeros > _SHARE * self.looked_at:
            said.append(
                f"exactly 0 in {self.zeros} of {self.looked_at} values looked at, taken as they "
                "are: set them to NaN if nothing was observed there"
            )
        if said:
            warn_assumed(f"{where}: {'; '.join(said)}")


def take_out_odd(
    values: NDArray[np.floating], stored: NDArray, placeholders: Sequence[float]
) -> OddValues:
    """Set to NaN what is no brightness temperature.

    Parameters
    ----------
    values : ndarray of float
        K, changed in place; Inf stays.
    stored : ndarray, of the same shape
        What the file holds for them, in its own unit.
    placeholders : sequence of float
        Numbers that stand for no value in `stored`.

    Returns
    -------
    OddValues
    """
    odd = _odd(values, stored, placeholders)
    found = OddValues(
        looked_at=values.size - int(np.isnan(values).sum()), zeros=int((values == 0).sum())
    )
    if odd is not None:
        found.count = int(odd.sum())
        found.values = set(np.unique(stored[odd])[: _FEW + 1].tolist())
        values[odd] = np.nan
    return found


def validate_brightness(where: str, values: NDArray[np.float32], named: str) -> None:
    """Check that values are brightness temperatures of the line, or NaN.

    Parameters
    ----------
    where : str
        Begins the message.
    values : ndarray of float32
        K.
    named : str
        Which they are: "channel 3".

    Raises
    ------
    MapError
        If one is infinite, or beyond what the line can be.
    """
    if np.isinf(values).any():
        raise MapError(
            f"{where}: expected finite values or NaN (not observed), got Inf in {named}; set such "
            "pixels to NaN"
        )
    odd = take_out_odd(values, values, PLACEHOLDERS)
    if odd.count:
        raise MapError(
            f"{where}: expected brightness temperatures of the 21 cm line in K, within "
            f"{LIMIT_K:g} K of zero, got {max(odd.values, key=abs):.6g} in {named}; set what was "
            "not observed to NaN, or bring the maps to K"
        )


@dataclass(frozen=True)
class Brightest:
    """How bright a cube is, or a part of it.

    Attributes
    ----------
    peak_k : float
        The highest value [K]; NaN where nothing was observed.
    bright, looked_at : int
        Values above what the line reaches, and in all, but for NaN.
    """

    peak_k: float = np.nan
    bright: int = 0
    looked_at: int = 0

    @classmethod
    def of(cls, values: NDArray[np.floating]) -> "Brightest":
        """Of some values [K], NaN where not observed."""
        peak = _extreme(np.fmax, values)
        bright = int((values > _BRIGHT_K).sum()) if peak > _BRIGHT_K else 0
        return cls(peak, bright, values.size - int(np.isnan(values).sum()))

    def __add__(self, other: "Brightest") -> "Brightest":
        """Of both parts."""
        return Brightest(
            float(np.fmax(self.peak_k, other.peak_k)),
            self.bright + other.bright,
            self.looked_at + other.looked_at,
        )

    def question(self, where: str) -> None:
        """Warn of a cube that is brighter than the line, as if its numbers were mK.

        Single pixels may be: a mock has them, and so have continuum sources.

        Warns
        -----
        MapWarning
        """
        if self.bright > _BRIGHT_SHARE * self.looked_at:
            warn_assumed(
                f"{where}: expected brightness temperatures of the 21 cm line, which reaches some "
                f"200 K, got up to {self.peak_k:.4g} K, and above {_BRIGHT_K:g} K in "
                f"{self.bright / self.looked_at:.2g} of the values; if the numbers are mK, say so "
                "(unit= with an array, BUNIT before the cube is prepared)"
            )


def _odd(
    values: NDArray[np.floating], stored: NDArray, placeholders: Sequence[float]
) -> NDArray[np.bool_] | None:
    """Where values are odd, None if they are nowhere: the extremes spare most the search."""
    highest, lowest = _extreme(np.fmax, values), _extreme(np.fmin, values)
    far = highest > LIMIT_K or lowest < -LIMIT_K
    near = len(placeholders) > 0 and _extreme(np.fmin, stored) <= max(placeholders)
    if not (far or near):
        return None
    odd = np.isfinite(values) & (np.abs(values) > LIMIT_K)
    return odd | np.isin(stored, placeholders) if near else odd


def _extreme(which: Any, values: NDArray) -> float:
    """Least or greatest but for NaN; NaN if there is nothing else."""
    return float(which.reduce(values, axis=None)) if values.size else np.nan
