"""Whether a map of Q and U can be polarised dust, with the signs it was meant to have.

Filaments of gas lie along the magnetic field and grains shine across it, so that the E modes of
dust have twice the power of its B modes and go with the gas (TE > 0), while TB is about 0. What was
measured at ell 30 to 255 (30 to 127 on d1), levelled, on 62% of the sky (|b| > 20 deg), of three
mock Galaxies and of PySM's d1, whose own intensity stands for the gas:

==================  ===================  ==================  ======================================
map                 (EE - BB)/(EE + BB)  the same with U     correlation with the gas
                                         negated
==================  ===================  ==================  ======================================
right               .29 to .36           -.01 to .02         TE .55 to .60; d1 .10
U negated           -.01 to .02          .29 to .36          TE with U negated again .55; d1 .10
Q and U swapped     -.01 to .02          -.29 to -.36        TB with U negated -.55; d1 -.10
turned by 45 deg    -.29 to -.36         -.01 to .02         TB .55; d1 .10
Q and U negated     .29 to .36           -.01 to .02         TE -.55; d1 -.10
==================  ===================  ==================  ======================================

So a wrong sign of U makes E and B alike, and not B the greater; as noise does. It is told from
noise by the map with U negated. Q and U both negated (or turned by 90 degrees) are told by the gas
alone, as are Q negated from U negated. Below 5% of the sky nothing is told: in a disc of 20 degrees
all filaments may lie along one direction, and the two asymmetries come within .07 of each other.
"""

from dataclasses import dataclass

import ducc0
import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from foreglow.dust.target import validate_varies, with_unit
from foreglow.errors import MapError, warn
from foreglow.maps import healpix as hp
from foreglow.maps.conventions import MapWarning
from foreglow.maps.cut_sky import apodised

_NSIDE = 128  # at most, of the maps whose spectra are looked at
_ELL = (30, 256)
_TILT = 2.4  # of the power of dust: what undoes it lets each mode count alike
_LEVEL_DEG = 10.0  # FWHM over which the brightness is levelled
_EDGE_DEG = 5.0
_FAINTEST = 1e-3  # of the median level
_LEAST_SKY = 0.05
_LEAST_MODES = 1000  # fewer scatter by more than an asymmetry may: Nside 16 has none to speak of
_CLEAR, _CLEARER = 0.12, 0.1  # an asymmetry, and by how much more than that of the map as given
_CLEAR_CROSS = 0.15  # correlation that tells alone, where noise leaves E and B alike
_FAINT_CROSS = 0.05  # one that tells a sign, where E and B have told the rest
_COARSE_NSIDE = 32  # where noise is averaged away
_FOLLOWS = 0.2  # rank correlation of polarised intensity with the gas; on dust .3 to .95
_FAINT_SKY = 0.72  # by gas: the plane alone would correlate in any order of pixels
_FEW = 50  # pixels that tell nothing
_TOO_BRIGHT = 0.1  # of the sky polarised by more than all of its intensity
_POSSIBLE_UK = (1e-4, 1e6)  # median polarised intensity
_MICRO = {"K": 1e6, "mK": 1e3, "uK": 1.0}


@dataclass(frozen=True)
class Parity:
    """What tells the signs of Q and U, of a map as it is and (`mirrored`) with U negated.

    Attributes
    ----------
    sky_fraction : float
    modes : float
        How many have been looked at.
    asymmetry, mirrored_asymmetry : float
        (EE - BB) / (EE + BB).
    te, tb, mirrored_te, mirrored_tb : float
        Correlation of E and of B with the gas; 0 without it.
    """

    sky_fraction: float
    modes: float
    asymmetry: float
    te: float
    tb: float
    mirrored_asymmetry: float
    mirrored_te: float
    mirrored_tb: float


def question_polarisation(
    name: str,
    qu: NDArray[np.floating],
    gas: NDArray[np.floating] | None,
    kept: NDArray[np.bool_],
    *,
    unit: str = "",
    intensity: NDArray[np.floating] | None = None,
) -> None:
    """Warn of a map of Q and U that cannot be polarised dust as it is.

    Parameters
    ----------
    name : str
        What to call the map.
    qu : ndarray, shape (2, n_pix)
        RING, COSMO, Galactic; NaN where not observed.
    gas : ndarray, shape (n_pix,), optional
        Summed over its channels; NaN where not observed.
    kept : ndarray of bool, shape (n_pix,)
        Where the sky counts.
    unit : str, optional
        Of Q and U, for what depends on it.
    intensity : ndarray, shape (n_pix,), optional
        In the unit of Q and U.

    Raises
    ------
    MapError
        If Q or U does not vary where the sky counts, or nothing of them does.

    Warns
    -----
    MapWarning
    """
    kept = kept & np.isfinite(qu).all(0)
    if not kept.any():
        raise MapError(
            f"{name}: expected Q and U somewhere in the sky that counts, got none; check the frame "
            "of the map, and where the mask is above zero"
        )
    for letter, values in zip("QU", qu, strict=True):
        validate_varies(f"{name}, {letter}", values[kept], unit or "1")
    _question_size(name, qu[:, kept], unit)
    if intensity is not None:
        _question_fraction(name, np.where(kept, np.stack([*qu, intensity]), np.nan))
    if kept.mean() < _LEAST_SKY:
        return
    if (qu[0][kept] >= 0).all():
        _say(
            name,
            "Q of both signs",
            "none below zero",
            "check that the two are Q and U, and not I and Q, or polarised intensity and angle "
            "(Q = P cos 2 psi, U = P sin 2 psi)",
        )
        return
    follows = 1.0
    if gas is not None:
        around = np.where(kept, gas, np.nan)
        follows = _follows(qu, around)
        if _question_order(name, qu, around, follows):
            return
    parity = measure_parity(qu, gas, kept)
    if parity is None or parity.sky_fraction < _LEAST_SKY or _question_signs(name, parity):
        return
    if follows < _FOLLOWS and parity.asymmetry < _CLEAR:
        _say(
            name,
            "polarised dust that is brighter where there is more gas",
            f"a rank correlation of {follows:.2f} and E and B alike",
            "check that both show one sky (COORDSYS in the header, frame= of an array), and that "
            "it is not all noise",
        )


def _question_size(name: str, qu: NDArray, unit: str) -> None:
    """Say so where kelvins must be micro-kelvins, or the reverse, whatever the frequency."""
    micro = _MICRO.get(unit.partition("_")[0])
    if micro is None:
        return
    median = float(np.median(np.hypot(*qu)))
    low, high = _POSSIBLE_UK
    if not low <= median * micro <= high:
        _say(
            name,
            "polarised dust of micro- to millikelvins",
            f"a median of {with_unit(f'{median:.3g}', unit)}",
            "check the unit (TUNIT in the header, dust_unit=)",
        )


def _question_fraction(name: str, maps: NDArray) -> None:
    """Say so where dust is polarised by more than all of its intensity."""
    q, v, intensity = _degraded(maps, _COARSE_NSIDE)
    seen = np.isfinite(q)
    share = (np.hypot(q, v) > intensity)[seen].mean() if seen.any() else 0.0
    if share > _TOO_BRIGHT:
        _say(
            name,
            "polarised intensity below the intensity",
            f"more in {share:.0%} of the sky that counts",
            "check that I, Q and U are in one unit and their columns, and the zero of I",
        )


def _question_signs(name: str, parity: Parity) -> bool:
    """Say so where signs or places of Q and U must be others; whether it did."""
    found = _what_is_wrong(parity)
    if found:
        _say(name, "polarised dust, with twice as much power in E as in B", *found)
    return bool(found)


def _what_is_wrong(parity: Parity) -> tuple[str, str] | None:
    """What was got, and what to do; None where nothing is told."""
    p, least = parity, max(_FAINT_CROSS, 5 / np.sqrt(parity.modes))
    marks = {
        "right": (p.asymmetry, p.te),
        "mirrored": (p.mirrored_asymmetry, p.mirrored_te),
        "swapped": (-p.mirrored_asymmetry, -p.mirrored_tb),
        "turned": (-p.asymmetry, p.tb),
    }
    best = max(marks, key=lambda kind: marks[kind][0])
    told_by = f"EE - BB of {p.asymmetry:.0%} of their sum, with U negated {{:.0%}}"
    got = told_by.format(p.mirrored_asymmetry)
    if marks[best][0] < _CLEAR:  # noise: the gas may tell
        best = max(marks, key=lambda kind: abs(marks[kind][1]))
        cross = marks[best][1]
        if abs(cross) < max(_CLEAR_CROSS, least) or p.te > 0.5 * abs(cross):
            return None
    elif best != "right" and marks[best][0] < p.asymmetry + _CLEARER:
        return None
    cross = marks[best][1]
    negated = cross < -least
    if best == "right" and not negated:
        return None
    if abs(cross) > least:
        got += f", and {abs(cross):.2f} for the correlation with the gas that tells the sign"
    return got, _ADVICE[best, negated]


_ADVICE = {
    ("right", True): (
        "E falls where there is more gas (TE < 0), so that Q and U both seem to have the wrong "
        "sign, as those of the magnetic field have, across which dust shines; negate both"
    ),
    ("mirrored", False): (
        "U seems to have the wrong sign; check the convention (POLCCONV in the header, or "
        "convention='IAU' for what states none; IAU is COSMO with U negated)"
    ),
    ("mirrored", True): (
        "Q seems to have the wrong sign; negate it, or, if U was meant to be of the other "
        "convention, check POLCCONV and negate both"
    ),
    ("swapped", False): (
        "Q and U seem to be in each other's place; check the columns, and give Q first"
    ),
    ("swapped", True): (
        "Q and U seem to be in each other's place, with the wrong sign; check the columns, give Q "
        "first and negate both"
    ),
    ("turned", False): (
        "they seem to be turned by 45 deg, as if Q stood in the place of U and -U in that of Q; "
        "check the columns and their signs"
    ),
    ("turned", True): (
        "they seem to be turned by 45 deg, as if -Q stood in the place of U and U in that of Q; "
        "check the columns and their signs"
    ),
}


def _question_order(name: str, qu: NDArray, gas: NDArray, follows: float) -> bool:
    """Say so where the map would go with the gas in the other order of pixels; whether it did."""
    nside, ring = hp.npix2nside(gas.size), np.arange(gas.size)
    others = {
        "NESTED": _follows(qu[:, hp.ring2nest(nside, ring)], gas),
        "RING": _follows(qu[:, hp.nest2ring(nside, ring)], gas),
    }
    order = max(others, key=lambda one: others[one])
    wrong = others[order] > max(follows, 0.0) + _FOLLOWS
    if wrong:
        _say(
            name,
            "polarised dust that is brighter where there is more gas",
            f"a rank correlation of {follows:.2f}; taken as {order} it is {others[order]:.2f}",
            f"check the ordering (ORDERING in the header, nest={order == 'NESTED'} for an array)",
        )
    return wrong


def _follows(qu: NDArray, gas: NDArray) -> float:
    """Rank correlation of polarised intensity and gas where there is little gas."""
    maps = np.stack([*qu, gas])
    q, v, gas = _degraded(np.where(np.isfinite(maps).all(0), maps, np.nan), _COARSE_NSIDE)
    seen = np.isfinite(q)
    if seen.any():
        seen &= gas <= np.quantile(gas[seen], _FAINT_SKY)
    if seen.sum() < _FEW or np.ptp(gas[seen]) <= 0:
        return 0.0
    return float(spearmanr(np.hypot(q, v)[seen], gas[seen])[0])  # pyright: ignore[reportArgumentType]


def _say(name: str, expected: str, got: str, do: str) -> None:
    warn(f"{name}: expected {expected}, got {got}; {do}", MapWarning)


def measure_parity(
    qu: NDArray[np.floating], gas: NDArray[np.floating] | None, kept: NDArray[np.bool_]
) -> Parity | None:
    """Measure E and B modes, and how they go with the gas.

    All are levelled by their own brightness over ten degrees, or the Galactic plane alone would
    count, and each mode counts alike.

    Parameters
    ----------
    qu : ndarray, shape (2, n_pix)
        RING, COSMO, Galactic; NaN where not observed.
    gas : ndarray, shape (n_pix,), optional
        Summed over its channels.
    kept : ndarray of bool, shape (n_pix,)

    Returns
    -------
    Parity or None
        None where too few pixels or modes are left.
    """
    maps = np.stack([*qu, np.ones_like(qu[0]) if gas is None else gas])
    maps = _degraded(np.where(kept & np.isfinite(maps).all(0), maps, np.nan), _NSIDE)
    seen = np.isfinite(maps[0])
    if not seen.any():
        return None
    weight = apodised(seen, _EDGE_DEG)
    top = min(_ELL[1], 2 * hp.npix2nside(seen.size))
    sky = float(np.mean(weight**2) ** 2 / np.mean(weight**4))
    modes = sky * float((2 * np.arange(_ELL[0], top) + 1).sum())
    if modes < _LEAST_MODES:
        return None
    q, v, total = np.where(seen, maps, 0.0)
    polarised = _levelled(np.stack([q, v]), np.hypot(q, v), seen)
    total = _levelled(total[None], np.abs(total), seen)
    total -= np.average(total[0], weights=weight)
    (t,) = _analyse(total * weight, 0, top - 1)
    given = _marks(t, polarised * weight, top)
    mirrored = _marks(t, polarised * weight * [[1.0], [-1.0]], top)
    return Parity(sky, modes, *given, *mirrored)


def _marks(t: NDArray, qu: NDArray, top: int) -> tuple[float, float, float]:
    """Asymmetry of E and B, and correlations of E and of B with T, over ell below `top`."""
    ell = np.arange(top)
    counts = np.where(ell >= _ELL[0], (2.0 * ell + 1) * np.maximum(ell, 1.0) ** _TILT, 0.0)
    e, b = _analyse(qu, 2, top - 1)
    tt, ee, bb, te, tb = (
        float(counts @ hp.alm2cl(one, other, lmax=top - 1))
        for one, other in ((t, t), (e, e), (b, b), (t, e), (t, b))
    )
    return (ee - bb) / (ee + bb), _over(te, tt * ee), _over(tb, tt * bb)


def _over(cross: float, product: float) -> float:
    return float(cross / np.sqrt(product)) if product > 0 else 0.0


def _degraded(maps: NDArray, most: int) -> NDArray[np.float64]:
    """Means over pixels of an Nside or larger ones, of those half of which are seen; else NaN."""
    nside = hp.npix2nside(maps.shape[1])
    to = min(nside, most)
    nested = maps[:, hp.nest2ring(nside, np.arange(maps.shape[1]))]
    blocks = nested.reshape(len(maps), 12 * to**2, -1).astype(np.float64)
    seen = np.isfinite(blocks)
    count = seen.sum(-1)
    mean = np.where(seen, blocks, 0.0).sum(-1) / np.maximum(count, 1)
    mean[2 * count < blocks.shape[-1]] = np.nan
    return mean[:, hp.ring2nest(to, np.arange(12 * to**2))]


def _levelled(maps: NDArray, level: NDArray, seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Maps over their brightness around each pixel."""
    nside = hp.npix2nside(seen.size)
    window = hp.gauss_beam(np.radians(_LEVEL_DEG), lmax=2 * nside)
    around, share = (
        hp.alm2map(hp.almxfl(_analyse(one[None], 0, 2 * nside)[0], window), nside, lmax=2 * nside)
        for one in (np.where(seen, level, 0.0), seen.astype(float))
    )
    around = around / np.maximum(share, _FAINTEST)
    least = _FAINTEST * float(np.median(around[seen]))
    return np.where(seen, maps / np.maximum(around, max(least, np.finfo(float).tiny)), 0.0)


def _analyse(maps: NDArray, spin: int, l_max: int) -> NDArray[np.complex128]:
    nside = hp.npix2nside(maps.shape[1])
    rings = ducc0.healpix.Healpix_Base(nside, "RING").sht_info()
    alm = ducc0.sht.adjoint_synthesis(
        map=np.ascontiguousarray(maps), spin=spin, lmax=l_max, nthreads=1, **rings
    )
    return alm * hp.nside2pixarea(nside)
