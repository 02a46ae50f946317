"""What the header of a cube says: numbers as numbers, units however they are spelled."""

import contextlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.io import fits

from foreglow.errors import MapError

_MATRIX = re.compile(r"(PC|CD)(?:0*(\d+)_0*(\d+)|(\d{3})(\d{3}))")
# What astropy does not read: METERS/SEC, kms-1, km per second
_VELOCITY = re.compile(
    r"(k|kilo|)m(?:et(?:er|re)s?)?[\s.*_]*(?:(?:/|per)\s*)?s(?:ec(?:ond)?s?)?[\s^*(]*(?:-1)?\)?"
)
_MOST_PIXELS = 30  # a beam that spans more is more likely of another unit
_WIDEST_DEG = 10.0


@dataclass(frozen=True, eq=False)
class Cards:
    """Header of an image or a table, with what is needed to say how to correct it.

    Attributes
    ----------
    path : Path
    header : astropy.io.fits.Header
        With the matrix as PCi_j or CDi_j, whichever older form the file has (PC01_01, PC001001).
    ext : int
        Number of the HDU in its file.
    """

    path: Path
    header: Any = field(repr=False)
    ext: int

    def __contains__(self, key: str) -> bool:
        """Whether there is such a card."""
        return key in self.header

    def text(self, key: str) -> str:
        """A card as text, "" where it is absent or blank."""
        try:
            value = self.header.get(key, "")
        except fits.VerifyError:
            return "(not a value of FITS)"  # 2000 m/s without quotes
        return "" if isinstance(value, fits.card.Undefined) else str(value).strip()

    def number(self, key: str, absent: float = 0.0) -> float:
        """A card as a number, `absent` where there is none or it is blank.

        Raises
        ------
        MapError
            If it is text that is no number, or not finite.
        """
        text = self.text(key)
        try:
            number = float(text) if text else absent
        except ValueError:
            number = np.nan
        if not np.isfinite(number):
            raise MapError(
                f"{self.path}: expected a number in {key}, got {text!r}; write there the number "
                f"alone, with {self.setting(key, 'NUMBER')}"
            )
        return number

    def setting(self, key: str, value: str) -> str:
        """The call of astropy that sets a card, for messages; `value` as Python writes it."""
        return f"astropy.io.fits.setval({str(self.path)!r}, {key!r}, value={value}, ext={self.ext})"


def read_cards(path: Path, header: Any, ext: int) -> Cards:
    """Cards of a copy of a header, older forms of the matrix in that of the standard."""
    header = header.copy()
    for key in list(header):
        found = _MATRIX.fullmatch(key)
        if found:
            row, column = (int(n) for n in found.groups()[1:] if n)
            standard = f"{found[1]}{row}_{column}"
            if standard != key:
                value = header.pop(key)
                header.setdefault(standard, value)
    return Cards(path, header, ext)


def unit_factor(text: str, to: str) -> float | None:
    """Factor to a unit from any usual spelling of one of its kind, None if it is not of this kind.

    The case counts where astropy makes sense of it as it is (Mm/s), else not (KM/S, DEGREES).

    Examples
    --------
    >>> unit_factor("KM/SEC", "m/s")
    1000.0
    >>> unit_factor("arcminutes", "arcsec")
    60.0
    >>> unit_factor("Hz", "km/s")
    """
    plain = text.strip().lower()
    velocity = _VELOCITY.fullmatch(plain)
    candidates = [text.strip(), plain, plain.rstrip("s")]
    candidates += [f"{'k' * bool(velocity[1])}m/s"] if velocity else []
    for spelling in candidates:
        with contextlib.suppress(ValueError, TypeError, u.UnitConversionError):
            factor: Any = u.Unit(spelling).to(to)
            return float(factor)
    return None


def kelvin_factor(path: Path, card: str, stated: str, unit: str | None) -> float:
    """Factor to K from the unit of a header card, or from `unit` where the card says none.

    Raises
    ------
    MapError
        If neither is a temperature, or they disagree.
    """
    found = kelvin_or_none(stated)
    if unit is not None:
        given = kelvin_or_none(unit)
        if given is None:
            raise MapError(f"{path}: expected unit='K' or 'mK', got {unit!r}; name one of them")
        if found not in (None, given):
            raise MapError(
                f"{path}: expected unit= to agree with {card} = {stated!r}, got {unit!r}; leave "
                "unit= out, or correct the header"
            )
        return given
    if found is None:
        raise MapError(
            f"{path}: expected brightness temperature ({card} = K), got {stated.strip() or 'none'};"
            " convert Jy/beam with astropy.units.brightness_temperature, or name what has no unit "
            "with unit='K', on the command line that of `foreglow dust prepare`"
        )
    return found


def kelvin_or_none(text: str) -> float | None:
    """Factor to K of a unit, None if it is not a temperature."""
    text = re.sub(r"[\s_({]*T_?(B|MB|A\*?)[)}]*\s*$", "", text.strip(), flags=re.IGNORECASE)
    text = {"k": "K", "kelvin": "K", "mk": "mK"}.get(text.lower(), text) if text != "MK" else text
    try:
        scale: Any = u.Unit(text).to(u.K) if text else None
        return None if scale is None else float(scale)
    except (ValueError, TypeError, u.UnitConversionError):
        return None


def read_beam(cards: Cards, given: float | None, pixel_arcmin: float) -> tuple[float | None, str]:
    """FWHM by BMAJ and BMIN, else RESOL (both deg), else as given.

    A header whose number is not a likely beam says none: `given` is taken then, and must agree
    with the header else.

    Parameters
    ----------
    cards : Cards
    given : float or None
        FWHM (arcmin).
    pixel_arcmin : float
        Side of a pixel.

    Returns
    -------
    beam : float or None
        FWHM (arcmin).
    why : str
        Why there is none, "" if there is one.

    Raises
    ------
    MapError
        If `given` is not above zero, or disagrees with the header.
    """
    if given is not None and not given > 0:
        raise MapError(
            f"{cards.path}: expected a beam (FWHM, arcmin) above zero, got {given:g}; give the "
            "beam of the survey (beam_arcmin=), or leave it out"
        )
    stated, why = _stated_beam(cards, pixel_arcmin)
    if stated is None:
        return given, why if given is None else ""
    if given is not None and abs(given - stated) > 0.01 * stated:
        raise MapError(
            f"{cards.path}: expected beam_arcmin= to agree with the header, which says "
            f"{stated:.4g} arcmin, got {given:g}; leave beam_arcmin= out, or correct the header"
        )
    return round(stated, 4), ""


def _stated_beam(cards: Cards, pixel_arcmin: float) -> tuple[float | None, str]:
    """FWHM (arcmin) of the header, or why it has none."""
    key = "BMAJ" if cards.text("BMAJ") else "RESOL"
    try:
        major = cards.number(key)
        minor = cards.number("BMIN") or major
    except MapError:
        texts = [f"{k} = {cards.text(k)!r}" for k in (key, "BMIN") if cards.text(k)]
        return None, f"expected a beam in deg in the header, got {', '.join(texts)}"
    if not major:
        return None, "no beam in the header (BMAJ)"
    most = min(60 * _WIDEST_DEG, _MOST_PIXELS * pixel_arcmin)
    if min(major, minor) <= 0 or 60 * max(major, minor) > most:
        return None, (
            f"expected a beam in deg in the header, got {key} = {major:g}, which would be "
            f"{60 * major:.4g} arcmin with pixels of {pixel_arcmin:.3g} arcmin"
        )
    return 60 * float(np.sqrt(major * minor)), ""
