"""What the numbers of a map mean: units, frames and the polarisation basis."""

import re
import warnings
from functools import lru_cache

import astropy.units as u
import numpy as np

from foreglow.errors import MapError, ShapeError, warn
from foreglow.maps import healpix as hp

UNITS = ("K_CMB", "mK_CMB", "uK_CMB", "K_RJ", "mK_RJ", "uK_RJ", "MJy/sr")
T_CMB_K = 2.7255  # Fixsen 2009, as in pysm3.units

# what programs write as a unit that they do not know
_NO_UNIT = {"", "unknown", "unkn", "unk", "na", "none", "null", "nan", "nounit", "notstated",
            "undefined", "undef", "unspecified", "unset", "tbd", "unitless", "dimensionless",
            "1"}  # fmt: skip

_FRAMES = {
    "G": ("G", "GAL", "GALACTIC"),
    "C": ("C", "CEL", "CELESTIAL", "EQU", "EQUATORIAL", "ICRS"),
    "E": ("E", "ECL", "ECLIPTIC"),
}


class MapWarning(UserWarning):
    """A convention that a map does not state and that was assumed."""


def rotate_to_galactic(qu: np.ndarray, pixels: np.ndarray, nside: int, frame: str) -> np.ndarray:
    """Refer Q,U to the Galactic meridians, without resampling.

    Pixel centres stay those of the stored frame; only the polarisation basis turns.

    Parameters
    ----------
    qu : ndarray, shape (2, n)
        COSMO, any unit.
    pixels : ndarray of int, shape (n,)
        RING indices in `frame`.
    nside : int
    frame : str
        "G", "C" or "E".

    Returns
    -------
    ndarray, shape (2, n), dtype of `qu`; `qu` itself if `frame` is "G".

    Raises
    ------
    MapError
        If the frame is unknown.
    ShapeError
        If `qu` is not (2, n).
    """
    frame = canonical_frame("rotate_to_galactic", frame)
    if np.shape(qu) != (2, len(pixels)):
        raise ShapeError(f"expected Q,U of shape (2, {len(pixels)}), got {np.shape(qu)}")
    if frame == "G":
        return qu
    return turn(qu, angle_to_galactic(pixels, nside, frame))


def angle_to_galactic(pixels: np.ndarray, nside: int, frame: str) -> np.ndarray:
    """Angle [rad] by which `turn` refers Q,U of RING pixels of a frame to Galactic meridians."""
    theta, phi = hp.pix2ang(nside, pixels)
    return 2 * hp.Rotator(coord=[frame, "G"]).angle_ref(theta, phi)


def turn(qu: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Q,U (2, n) turned by angles (n,) [rad] in their plane, in the precision of `qu`."""
    cos, sin = np.cos(angle).astype(qu.dtype), np.sin(angle).astype(qu.dtype)
    return np.stack([qu[0] * cos - qu[1] * sin, qu[0] * sin + qu[1] * cos])


def turn_covariance(covariance: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Covariances QQ, QU, UU (3, n) of Q,U that are turned by angles (n,) [rad], see `turn`."""
    half, qu = 0.5 * (covariance[0] - covariance[2]), covariance[1]
    mean = 0.5 * (covariance[0] + covariance[2])
    cos, sin = np.cos(2 * angle), np.sin(2 * angle)
    stretch = half * cos - qu * sin
    return np.stack([mean + stretch, half * sin + qu * cos, mean - stretch])


def to_uk_rj_factor(unit: str, frequency_ghz: float) -> float:
    """Factor from `unit` to uK_RJ at a frequency, for a delta-function band.

    Parameters
    ----------
    unit : str
        One of `UNITS`, or another spelling of it.
    frequency_ghz : float

    Returns
    -------
    float

    Raises
    ------
    MapError
        If the unit is unknown or the frequency is not a positive number.

    Examples
    --------
    One uK_CMB is much less in uK_RJ at 353 GHz:

    >>> round(to_uk_rj_factor("uK_CMB", 353.0), 4)
    0.0775
    >>> round(to_uk_rj_factor("mK_RJ", 353.0))
    1000
    """
    base, _, scale = canonical_unit("to_uk_rj_factor", unit).partition("_")
    if not (np.isfinite(frequency_ghz) and frequency_ghz > 0):
        raise MapError(f"expected a frequency above 0 GHz, got {frequency_ghz}")
    frequency = u.Quantity(frequency_ghz, "GHz")
    one = u.Quantity(1.0, base)
    if scale == "CMB":
        one = one.to("MJy/sr", u.thermodynamic_temperature(frequency, u.Quantity(T_CMB_K, "K")))
    return float(np.asarray(one.to_value("uK", u.brightness_temperature(frequency))))


def canonical_frame(where: str, text: str) -> str:
    """Frame "G", "C" or "E" from any spelling; `where` begins the message of the MapError."""
    for frame, spellings in _FRAMES.items():
        if text.strip().upper() in spellings:
            return frame
    raise MapError(
        f"{where}: expected a frame G (Galactic), C (celestial, ICRS) or E (ecliptic), "
        f"got {text!r}; name one of them"
    )


def canonical_convention(where: str, text: str) -> str:
    """Polarisation convention "COSMO" or "IAU" from any case, as `canonical_frame`."""
    found = text.strip().upper()
    if found not in ("COSMO", "IAU"):
        raise MapError(
            f"{where}: expected the polarisation convention COSMO (that of HEALPix and Planck) or "
            f"IAU, got {text!r}; name one of them"
        )
    return found


def canonical_unit(where: str, text: str, argument: str | None = "unit") -> str:
    """One of `UNITS` from any spelling; `where` begins the message of the MapError.

    `argument` is what the message calls the argument that states a unit; None where there is none.

    Examples
    --------
    >>> canonical_unit("a map", "muK_{CMB}")
    'uK_CMB'
    >>> canonical_unit("a map", "K")
    Traceback (most recent call last):
        ...
    foreglow.errors.MapError: a map: expected one of K_CMB, mK_CMB, uK_CMB, ...
    """
    compact = re.sub(r"[\s{}()_,.-]", "", text)
    # The case of M is not ours to guess: mJy/sr is not MJy/sr and MK is not mK.
    if re.fullmatch(r"M[Jj][Yy](/[Ss][Rr]|\*?[Ss][Rr](\^|\*\*)?1)", compact):
        return "MJy/sr"
    kelvin = re.fullmatch(
        r"(?P<prefix>m|[uUµμ]|mu|micro)?[Kk](?i:elvin)?"
        r"(?i:(?P<cmb>cmb|thermo(dynamic)?)|(?P<rj>rj|antenna))?",
        compact,
    )
    expected = f"{where}: expected one of {', '.join(UNITS)}, got unit {text!r}"
    advice = f"pass {argument}=" if argument else "name one of them"
    if kelvin is None:
        raise MapError(f"{expected}; {'convert the map' if _by_astropy(text) else advice}")
    if not kelvin["cmb"] and not kelvin["rj"]:
        raise MapError(
            f"{expected}, which does not say thermodynamic (_CMB) or Rayleigh-Jeans (_RJ); {advice}"
        )
    prefix = {"": "", "m": "m"}.get(kelvin["prefix"] or "", "u")
    return f"{prefix}K_{'CMB' if kelvin['cmb'] else 'RJ'}"


def what_says_a_unit(text: str) -> str:
    """The text of a unit without blanks around it, or "" if it says nothing.

    Examples
    --------
    >>> what_says_a_unit(" K_CMB "), what_says_a_unit("n/a"), what_says_a_unit("Unknown")
    ('K_CMB', '', '')
    """
    plain = re.sub(r"[\s/._?()\[\]'-]", "", text).lower()
    return "" if plain in _NO_UNIT else text.strip()


def unit_agrees(stated: str, unit: str) -> bool:
    """Whether what a header states, perhaps nothing or a bare kelvin, can mean a unit.

    What neither foreglow nor astropy understands is as if it were not stated.

    Parameters
    ----------
    stated : str
        TUNIT, or "" where there is none.
    unit : str
        One of `UNITS`, or any other text.
    """
    stated = what_says_a_unit(stated)
    if not stated or stated == unit:
        return True
    scale = unit.partition("_")[2]
    texts = (stated, f"{stated}_{scale}") if scale else (stated,)  # of a bare kelvin
    meant = [known for text in texts if (known := _known(text)) is not None]
    if meant:
        return _known(unit) in meant
    there, here = _by_astropy(stated), _by_astropy(unit)
    return there is None or there == here


def unit_is_understood(text: str) -> bool:
    """Whether foreglow or astropy knows a unit, a bare kelvin included."""
    return power_of_unit(text) is not None or _by_astropy(text) is not None


def power_of_unit(text: str) -> tuple[str, int] | None:
    """A unit of brightness and the power to which it stands; None if it is none.

    Parameters
    ----------
    text : str

    Returns
    -------
    (str, int) or None
        One of `UNITS`, or a bare K, mK or uK, which leaves its scale to somebody; and 1 (of an
        rms), 2 (a variance) or -2 (an inverse variance).

    Examples
    --------
    >>> power_of_unit("K_CMB^2"), power_of_unit("1/mK^2"), power_of_unit("(MJy/sr)**2")
    (('K_CMB', 2), ('mK', -2), ('MJy/sr', 2))
    """
    known = _known(text)
    if known is not None:
        return known, 1
    text = re.sub(r"\^\{([+-]?\d+)\}", r"^\1", text)
    scales = set()
    words = r"cmb|thermodynamic|thermo|rj|antenna"
    for word in re.findall(rf"(?i){words}", text):
        scales.add("_CMB" if word.lower()[0] in "ct" else "_RJ")
    plain = re.sub(rf"(?i)[\s_,.]*(\{{({words})\}}|\(({words})\)|({words}))", "", text)
    plain = re.sub(r"(micro|mu|[Uµμ])[Kk]", "uK", plain)
    unit = _by_astropy(re.sub(r"(?i)jy", "Jy", plain))
    if unit is None or len(scales) > 1:
        return None
    scale = scales.pop() if scales else ""
    for base in ("K", "mK", "uK", "MJy/sr"):
        for power in (1, 2, -2):
            if unit == u.Unit(base) ** power:
                return base + (scale if base != "MJy/sr" else ""), power
    return None


def _known(text: str) -> str | None:
    """One of `UNITS`, if the text is one."""
    try:
        return canonical_unit("", text)
    except MapError:
        return None


@lru_cache  # what it does not understand takes it long: it looks for units of similar names
def _by_astropy(text: str) -> u.UnitBase | None:
    """What astropy understands of a unit."""
    power = re.fullmatch(r"\s*\((.+)\)\s*(?:\^|\*\*)?\s*\(?([+-]?\d+)\)?\s*", text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", u.UnitsWarning)  # of a second slash
            return u.Unit(power[1]) ** int(power[2]) if power else u.Unit(text)
    except (ValueError, TypeError):
        return None


def warn_assumed(message: str) -> None:
    """Warn of an assumed convention."""
    warn(message, MapWarning)
