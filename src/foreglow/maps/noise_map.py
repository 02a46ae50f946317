"""A map of the noise of Q and U, of any kind, read pixel by pixel as rms or covariance."""

from dataclasses import dataclass

import numpy as np

from foreglow.errors import MapError
from foreglow.maps import healpix as hp
from foreglow.maps.blocks import PixelBlock, ring_numbers
from foreglow.maps.noise_kinds import (
    unit_of_kind,
)
from foreglow.maps.stored import StoredMap

_SINGULAR = 1e-6  # of QQ times UU: less of a determinant is rounding of single precision


@dataclass(frozen=True, eq=False)
class NoiseMap(StoredMap):
    """A map of noise opened for streaming; attributes as in `StoredMap`, and some more.

    Its columns are those of Q and U, or QQ, QU and UU.

    Attributes
    ----------
    unit : str
        Of the rms that `read` gives, one of `foreglow.maps.conventions.UNITS`.
    kind : str
        What the columns hold, one of `foreglow.maps.columns.NOISE_KINDS`.
    sigma0 : float or None
        Rms of one hit, in `unit`.
    flip_u : bool
        QU is of the IAU convention, so `read_covariance` changes its sign.
    """

    kind: str = "rms"
    sigma0: float | None = None
    flip_u: bool = False

    @property
    def alike(self) -> bool:
        """Whether one column counts for both Q and U."""
        return len(self.parts) == 1 and len({column.name for column in self.columns}) == 1

    def read(self, pixels: np.ndarray | PixelBlock, seen: np.ndarray | None = None) -> np.ndarray:
        """Noise rms of Q and U of some pixels; a one-column file gives both the same.

        Parameters and shapes are those of `PolarisationMap.read`; NaN too where the weight or the
        number of hits is 0.

        Raises
        ------
        MapError
            As `PolarisationMap.read`, and if an observed rms or variance is zero or negative, a
            weight negative, or a covariance not positive definite.
        """
        if len(self.columns) == 3:
            return np.sqrt(self.read_covariance(pixels, seen)[[0, 2]])
        values = self._read_seen(pixels, seen)
        counts = self.kind in ("inverse variance", "hits")
        bad = ((values < 0) if counts else (values <= 0)).any(axis=0)
        if bad.any():
            first = ring_numbers(pixels)[bad.argmax()]
            above, below = ("zero or above", "below") if counts else ("above zero", "at or below")
            raise MapError(
                f"{self.path}: expected a noise {self.kind} {above} in every observed pixel, got "
                f"{bad.sum()} of {bad.size} {below} zero in this block, the first at RING "
                f"pixel {first}; mark unobserved pixels as UNSEEN ({hp.UNSEEN})"
            )
        return self._rms_of(values)

    def read_covariance(
        self, pixels: np.ndarray | PixelBlock, seen: np.ndarray | None = None
    ) -> np.ndarray:
        """Noise covariance of Q and U of some pixels; QU is 0 where the file has none.

        Parameters
        ----------
        pixels : ndarray of int, shape (n,), or PixelBlock
            As of `PolarisationMap.read`.
        seen : ndarray of bool, shape (n,), optional
            Which of them the map has observed; of the others nothing is asked, and they are NaN.

        Returns
        -------
        ndarray, float64, shape (3, n)
            QQ, QU, UU in COSMO and in `unit` squared; NaN where `read` is, and where hits or an
            inverse covariance leave a combination of Q and U unmeasured.

        Raises
        ------
        MapError
            As `read`.
        """
        if len(self.columns) == 2:
            return _diagonal(self.read(pixels, seen))
        values = self._read_seen(pixels, seen).astype(np.float64)
        qq, qu, uu = values
        determinant, most = qq * uu - qu**2, qq * uu
        positive = (qq > 0) & (uu > 0) & (determinant > _SINGULAR * most)
        if self.kind != "variance":
            singular = (qq >= 0) & (uu >= 0) & (np.abs(determinant) <= _SINGULAR * most)
            values[:, singular] = np.nan
        bad = ~positive & np.isfinite(values[0])
        if bad.any():
            raise MapError(
                f"{self.path}: expected a positive definite matrix of {self._names} in every "
                f"observed pixel, got {bad.sum()} of {bad.size} that are not in this block, the "
                f"first at RING pixel {ring_numbers(pixels)[bad.argmax()]}; give QQ, QU and UU in "
                f"this order, and mark unobserved pixels as UNSEEN ({hp.UNSEEN})"
            )
        return self._covariance_of(values)

    def sample_covariance(self, size: int) -> np.ndarray:
        """As `read_covariance`, of about `size` pixels spread over the file that have noise."""
        values = np.concatenate([part.sample(size) for part in self.parts]).astype(np.float64)
        good = np.isfinite(values).all(axis=0) & (values[[0, -1]] > 0).all(axis=0)
        if len(values) == 3:
            good &= values[1] ** 2 < values[0] * values[2]
        return self._covariance_of(values[:, good])

    def _read_seen(self, pixels: np.ndarray | PixelBlock, seen: np.ndarray | None) -> np.ndarray:
        values = self._read(pixels)
        if seen is not None:
            values[:, ~seen] = np.nan
        return values

    @property
    def names(self) -> tuple[str, ...]:
        """Of its columns, each once."""
        return tuple(dict.fromkeys(column.name for column in self.columns))

    @property
    def words(self) -> str:
        """What its columns hold, as a user would say it after their names."""
        if self.kind == "hits":
            return f"as hits of {self.sigma0!r} {self.unit}"
        three = len(self.columns) == 3
        kind = self.kind.replace("variance", "covariance") if three else self.kind
        return f"as {kind} in {unit_of_kind(self.unit, self.kind)}"

    @property
    def _names(self) -> str:
        return ", ".join(column.name for column in self.columns)

    def _rms_of(self, values: np.ndarray) -> np.ndarray:
        """The rms that stored values, (2, n), stand for; NaN in both where one has none."""
        if self.kind == "rms":
            return values
        if self.kind == "variance":
            return np.sqrt(values)
        values[:, (values == 0).any(axis=0)] = np.nan
        return (1.0 if self.sigma0 is None else self.sigma0) / np.sqrt(values)

    def _covariance_of(self, values: np.ndarray) -> np.ndarray:
        """The covariance (3, n) that stored values, (2 or 3, n), stand for."""
        if len(values) == 2:
            return _diagonal(self._rms_of(values))
        qq, qu, uu = values
        if self.kind != "variance":
            square = 1.0 if self.sigma0 is None else self.sigma0**2
            qq, qu, uu = square / (qq * uu - qu**2) * np.stack([uu, -qu, qq])
        return np.stack([qq, -qu if self.flip_u else qu, uu])


def _diagonal(rms: np.ndarray) -> np.ndarray:
    """Covariances (3, n) of noise of Q and U, (2, n), that does not correlate."""
    qq, uu = rms.astype(np.float64) ** 2
    return np.stack([qq, np.where(np.isnan(qq), np.nan, 0.0), uu])
