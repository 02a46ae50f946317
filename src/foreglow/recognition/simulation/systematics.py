"""What an instrument does to its maps beside white noise: errors that no analyst knows."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from foreglow.errors import InstrumentError, with_nearest
from foreglow.maps import healpix as hp
from foreglow.sky.cmb import polarisation_map

_SLOPE = 2.4  # of 1/f noise, as from the ground
_LARGEST = {
    "gain": 0.5, "band_centre": 0.2, "angle_deg": 45.0, "beam": 0.2, "knee_ell": 1000.0,
    "uneven_noise": 1.0,
}  # fmt: skip
_LET_THROUGH = 2.0  # multipole times the sigma of a beam, beyond which nobody uses the band


@dataclass(frozen=True)
class Systematics:
    """Sizes of the errors of a band, each drawn anew for every band and sky from a Gaussian.

    Parameters
    ----------
    gain : float
        Rms relative error of the calibration: 0.002 as of Planck and WMAP, 0.05 as of QUIJOTE MFI.
    band_centre : float
        Rms relative error of the frequencies; the map is calibrated on the CMB, which stays.
    angle_deg : float
        Rms error of the polarisation angle.
    beam : float
        Rms relative error of the FWHM: multipoles are brought to the common beam by another than
        the band's. It is an error of maps, and no vector has it.
    knee_ell : float
        Multipole below which noise rises: N_ell (1 + (knee_ell / ell)^2.4), the same in all bands;
        the rms that is stated is that of the white part.
    uneven_noise : float
        Rms over the sky of the logarithm of the noise, in all bands alike, where one rms is stated,
        whose square is the mean: 0.3 or so of a satellite, which sees the ecliptic poles best.

    Raises
    ------
    InstrumentError
        If a size is negative or beyond all instruments.
    """

    gain: float = 0.0
    band_centre: float = 0.0
    angle_deg: float = 0.0
    beam: float = 0.0
    knee_ell: float = 0.0
    uneven_noise: float = 0.0

    def __post_init__(self):
        for name, most in _LARGEST.items():
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value <= most:
                raise InstrumentError(
                    f"expected the systematic error {name} from 0 to {most:g}, got {value!r}."
                )

    def draw(self, n_band: int, rng: np.random.Generator) -> "BandErrors":
        """The errors of the bands of one sky; nothing is drawn where there are none."""

        def each(size: float) -> np.ndarray:
            return size * rng.standard_normal(n_band) if size else np.zeros(n_band)

        gain, centre, angle = each(self.gain), each(self.band_centre), each(self.angle_deg)
        turn, beam = np.exp(2j * np.radians(angle)), 1 + each(self.beam)
        return BandErrors(1 + gain, 1 + centre, turn, beam, self.knee_ell, self.uneven_noise)

    def red_share(self, nside: int) -> float:
        """Variance of a pixel by what 1/f noise has beyond its white part, over that part."""
        ell = np.arange(2, 3 * nside)
        rise = (self.knee_ell / ell) ** _SLOPE
        return float(np.sum((2 * ell + 1) * rise) / (12 * nside**2)) if self.knee_ell else 0.0


NO_SYSTEMATICS = Systematics()


@dataclass(frozen=True, eq=False)
class BandErrors:
    """The errors of each band of one sky, shape (n_band,) each.

    Parameters
    ----------
    gain, stretch : ndarray
        Factors on the brightness and on the frequencies.
    turn : ndarray, complex
        Factor on Q + iU.
    beam : ndarray
        Factor on the FWHM.
    knee_ell, uneven_noise : float
    """

    gain: np.ndarray
    stretch: np.ndarray
    turn: np.ndarray
    beam: np.ndarray
    knee_ell: float
    uneven_noise: float

    def distort(self, band: int, qu: np.ndarray) -> np.ndarray:
        """Q, U (2, n) as a band of this gain and angle sees them."""
        factor = self.gain[band] * self.turn[band]
        if factor == 1:
            return qu
        seen = factor * (qu[0] + 1j * qu[1])
        return np.stack([seen.real, seen.imag])

    def blur(self, band: int, qu: np.ndarray, fwhm_arcmin: float) -> np.ndarray:
        """Q, U (2, n_pix) of the whole sky, of a band whose FWHM is another than is believed."""
        nside = hp.npix2nside(qu.shape[1])
        l_max = 3 * nside - 1
        sigma = np.radians(fwhm_arcmin / 60) / np.sqrt(8 * np.log(2))
        ell = np.minimum(np.arange(l_max + 1), _LET_THROUGH / sigma)
        window = np.exp(-0.5 * ell * (ell + 1) * sigma**2 * (self.beam[band] ** 2 - 1))
        change = [
            hp.almxfl(alm, window - 1) for alm in hp.map2alm_spin(qu.astype(np.float64), 2, l_max)
        ]
        return qu + np.stack(hp.alm2map_spin(change, nside, 2, l_max))

    def noise_factor(self, nside: int) -> np.ndarray | None:
        """Noise of each pixel over that which is stated, shape (n_pix,); None where it is one."""
        if not self.uneven_noise:
            return None
        _, _, z = hp.Rotator(coord="GE")(hp.pix2vec(nside, np.arange(hp.nside2npix(nside))))
        return depth(self.uneven_noise, z)

    def red_noise(self, nside: int, sigma: float, rng: np.random.Generator) -> np.ndarray | None:
        """What 1/f noise has beyond white noise of rms `sigma`, (2, n_pix)."""
        if not self.knee_ell or not sigma:
            return None
        ell = np.arange(2, 3 * nside)
        white = sigma**2 * 4 * np.pi / (12 * nside**2)
        power = np.concatenate([[0.0, 0.0], white * (self.knee_ell / ell) ** _SLOPE])
        return polarisation_map(power, power, nside, rng)


def depth(size: float, sin_beta: Any) -> Any:
    """Noise over its rms where it is uneven, by the sine of the ecliptic latitude, an array.

    exp(-size sqrt(5) P2(sin beta)), whose logarithm has an rms of `size` on the sphere, over the
    root of its mean square there.
    """
    node, weight = np.polynomial.legendre.leggauss(64)

    def raw(x: Any) -> Any:
        return np.e ** (-size * 5**0.5 * (1.5 * x**2 - 0.5))

    return raw(sin_beta) / float(np.sqrt(0.5 * weight @ raw(node) ** 2))


def systematics_of(given: Systematics | Mapping[str, Any] | None) -> Systematics:
    """Systematic errors by their sizes.

    Raises
    ------
    InstrumentError
        If there is no such error, or its size makes no sense.
    """
    if isinstance(given, Systematics):
        return given
    if given is not None and not isinstance(given, Mapping):
        raise InstrumentError(
            f"expected systematic errors by name, such as {{'gain': 0.01}}, got {given!r}."
        )
    names = [field.name for field in dataclasses.fields(Systematics)]
    if unknown := [str(key) for key in given or {} if key not in names]:
        raise InstrumentError(
            f"expected systematic errors among {', '.join(names)}, got "
            f"{', '.join(with_nearest(key, names) for key in unknown)}."
        )
    return Systematics(**(given or {}))
