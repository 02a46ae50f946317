"""How bright the bands of a sky are beside what any sky is: a wrong unit shows there.

A map in K taken as uK is a millionth of itself, and a network says of it what it says of noise.
So each band's typical brightness is compared with that of synchrotron, dust, CMB and noise, of
which the amounts are those that the bands together speak for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreglow.errors import warn
from foreglow.sky import seds
from foreglow.sky.instrument import Instrument
from foreglow.sky.templates import TYPICAL_UK_RJ

_SAMPLE = 1024  # pixels of a block, at least, that tell its level
# levels of patches of 200 square degrees lie between .1 and 30 times that of the whole sky
_AMOUNTS = np.logspace(-1, np.log10(30), 31)
# beyond these an unit is wrong: spectra vary by 3 at most, smoothing and depolarisation dim by 10
_TOO_BRIGHT, _TOO_FAINT = 10.0, 30.0
_CMB_UK = 5.0  # rms of Q or U at any resolution [uK_CMB], at most; none where it was subtracted
_LEAST_NOISE = 0.3  # of what is stated: maps that were smoothed hold less of it
_FAVOUR = 0.1  # a decade of amount costs this much of a decade of one band
_NAMED = 4  # bands that a message tells of


@dataclass(frozen=True)
class Levels:
    """Sums over some pixels, from which the typical brightness of each band follows.

    Parameters
    ----------
    count : ndarray of int, shape (n_band,)
        Pixels that are not zero.
    log_amplitude, log_noise : ndarray, shape (n_band,)
        Sums of the natural logs of sqrt(Q^2 + U^2) and of the noise rms [uK_RJ].
    """

    count: NDArray[np.int64]
    log_amplitude: NDArray[np.float64]
    log_noise: NDArray[np.float64]

    @classmethod
    def none(cls, n_band: int) -> "Levels":
        """Of no pixel."""
        return cls(np.zeros(n_band, int), np.zeros(n_band), np.zeros(n_band))

    @classmethod
    def of(cls, data: NDArray, sigma: NDArray) -> "Levels":
        """Of a block of pixels, of which a thousand or two are looked at.

        Parameters
        ----------
        data : ndarray, shape (n, 2, n_band)
            Q, U [uK_RJ]; NaN where not observed.
        sigma : ndarray, shape (n, n_band)
            Noise rms [uK_RJ].
        """
        step = max(1, len(data) // _SAMPLE)
        amplitude = np.hypot(*np.moveaxis(data[::step].astype(np.float64), 1, 0))
        noise = np.maximum(sigma[::step], np.finfo(np.float32).tiny).astype(np.float64)
        seen = (amplitude > 0) & np.isfinite(noise)  # a map may hold zeros where it has no data
        logs = (np.log(np.where(seen, one, 1.0)).sum(0) for one in (amplitude, noise))
        return cls(seen.sum(0), *logs)

    def __add__(self, other: "Levels") -> "Levels":
        """Of both."""
        return Levels(
            self.count + other.count,
            self.log_amplitude + other.log_amplitude,
            self.log_noise + other.log_noise,
        )


def warn_of_levels(levels: Levels, instrument: Instrument) -> None:
    """Say which bands are far brighter or fainter than any sky.

    Parameters
    ----------
    levels : Levels
        Of all pixels that were looked at.
    instrument : Instrument

    Warns
    -----
    LevelWarning
    """
    there = np.flatnonzero(levels.count)
    if not there.size:
        return
    count = levels.count[there]
    found, noise = (
        np.exp(total[there] / count) for total in (levels.log_amplitude, levels.log_noise)
    )
    low, high = _expected(found, noise, *(s[there] for s in _spectra(instrument)))
    names = [instrument.band[k] for k in there]
    for wrong, limit, how in (
        (found > _TOO_BRIGHT * high, high, "brighter"),
        (found < low / _TOO_FAINT, low, "fainter"),
    ):
        if wrong.any():
            rows = [(names[k], found[k], limit[k]) for k in np.flatnonzero(wrong)]
            warn(_message(rows, how, bool(wrong.all())), LevelWarning)


def warn_of_empty_maps(levels: Levels, instrument: Instrument, given: Sequence[bool]) -> None:
    """Say which of the bands that were given have no value in any pixel that was looked at.

    Parameters
    ----------
    levels : Levels
        Of all pixels that were looked at.
    instrument : Instrument
    given : sequence of bool
        Whether there is a map, by band.

    Warns
    -----
    LevelWarning
    """
    empty = [
        name
        for name, one, count in zip(instrument.band, given, levels.count, strict=True)
        if one and not count
    ]
    if empty:
        warn(
            f"the maps of {', '.join(empty)} hold no value where the other bands are observed, or "
            "zeros: nothing was learned from them. Check their masks, blank values and columns, or "
            "leave these bands out.", LevelWarning,
        )  # fmt: skip


def _spectra(instrument: Instrument) -> list[NDArray]:
    """Typical synchrotron and dust of each band, and the CMB's most [uK_RJ]."""
    bands = instrument.bands
    typical = (
        TYPICAL_UK_RJ["synchrotron"] * seds.synchrotron(bands.node_ghz, -3.0),
        TYPICAL_UK_RJ["thermal_dust"] * seds.modified_blackbody(bands.node_ghz),
        _CMB_UK * seds.cmb(bands.node_ghz),
    )
    return [bands.average(spectrum).numpy() for spectrum in typical]


def _expected(
    found: NDArray, noise: NDArray, synchrotron: NDArray, dust: NDArray, cmb: NDArray
) -> tuple[NDArray, NDArray]:
    """The least and the most (n_band,) that the amounts which suit most bands let expect."""
    power = _AMOUNTS[:, None] ** 2 * synchrotron**2
    foreground = power[:, None] + _AMOUNTS[:, None] ** 2 * dust**2  # (amount, amount, band)
    low = np.sqrt(foreground + (_LEAST_NOISE * noise) ** 2)
    high = np.sqrt(foreground + cmb**2 + noise**2)
    miss = np.maximum(np.log10(found / high), 0) + np.maximum(np.log10(low / found), 0)
    far = np.abs(np.log10(_AMOUNTS))
    cost = miss.sum(2) + _FAVOUR * (far[:, None] + far)  # a sum of sizes lets single bands be wrong
    best = np.unravel_index(cost.argmin(), cost.shape)
    return low[best], high[best]


def _message(rows: Sequence[tuple[str, float, float]], how: str, every: bool) -> str:
    edge = "most" if how == "brighter" else "least"
    told = [f"{found:.3g} in {name} (at {edge} {limit:.3g})" for name, found, limit in rows]
    more = f" and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
    which = "all bands" if every else f"band{'s' if len(rows) > 1 else ''} "
    which += "" if every else ", ".join(name for name, *_ in rows)
    return (
        f"the maps of {which} are far {how} than any sky: expected sqrt(Q^2 + U^2) in uK_RJ as the "
        f"other bands and the noise have it, got typically {', '.join(told[:_NAMED])}{more}; "
        "check the unit of these maps and of their noise (TUNIT in the header, unit= where there "
        "is none): if it is wrong, so is all that was found."
    )


class LevelWarning(UserWarning):
    """Maps are far brighter or fainter than any sky, as if their unit were wrong, or empty."""
