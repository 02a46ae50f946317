"""What foregrounds left in a CMB map do to r, the tensor-to-scalar ratio."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.optimize import minimize_scalar

from foreglow.errors import ShapeError
from foreglow.maps.cut_sky import CutSky
from foreglow.sky.cmb import cmb_spectra, tensor_bb

ELL_MIN = 2
_MOST = 100.0  # of r: whatever a wrong model leaves


@dataclass(frozen=True)
class TensorRatio:
    """What would be measured of r where there is none.

    Parameters
    ----------
    bias : ndarray, shape (n_real,)
        The r of largest likelihood, by the foregrounds left in each realisation.
    error : float
        Rms of r by cosmic variance, lensing included, and noise, where nothing is left.
    """

    bias: NDArray[np.float64]
    error: float


@dataclass(frozen=True)
class MeasuredR:
    """r of one CMB map, and the band powers of B that it comes from.

    Parameters
    ----------
    r, error : float
        Without a prior: negative values are as likely as noise makes them.
    lensing, lensing_error : float
        Amplitude of the lensing B modes; 1 and 0 where it is not free.
    edges : ndarray of int, shape (n_bin + 1,)
        Bin k holds edges[k] <= ell < edges[k + 1].
    ell, bb, bb_error : ndarray, shape (n_bin,)
        Mean multipole, and C_ell of BB [uK_CMB^2] less the noise, with the beam of the map in it.
    bb_tensor, bb_lensing : ndarray, shape (n_bin,)
        The same of tensors of r = 1, and of lensing.
    chi2 : float
    p_value : float
        Probability of a larger chi-square, if there are tensors, lensing and noise alone.
    sky_fraction : float
        Effective, of the weight.
    skies : int
        Simulated for noise and covariance.
    """

    r: float
    error: float
    lensing: float
    lensing_error: float
    edges: NDArray[np.int64]
    ell: NDArray[np.float64]
    bb: NDArray[np.float64]
    bb_error: NDArray[np.float64]
    bb_tensor: NDArray[np.float64]
    bb_lensing: NDArray[np.float64]
    chi2: float
    p_value: float
    sky_fraction: float
    skies: int

    def record(self) -> dict[str, Any]:
        """All of it as plain numbers and lists, for JSON."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
        }

    def summary(self) -> str:
        """A sentence: r, where from, and whether anything else is in the map."""
        free = ""
        if self.lensing_error:
            free = f", lensing {self.lensing:.3g} ± {self.lensing_error:.2g}"
        return (
            f"r = {self.r:.3g} ± {self.error:.2g}{free} from BB at ell {self.edges[0]} to "
            f"{self.edges[-1] - 1} of {self.sky_fraction:.1%} of the sky; tensors, lensing and "
            f"noise {'fit' if self.p_value > 0.01 else 'do not fit: something else is in it'} "
            f"(p = {self.p_value:.2g})"
        )


def tensor_ratio(left: ArrayLike, noise: ArrayLike, sky_fraction: float = 1.0) -> TensorRatio:
    """The r that BB spectra with some foregrounds left would give.

    The spectrum that is observed is the mean one: lensing, noise and what is left. It is fitted
    by r times that of tensors, lensing and noise, as Gaussian fields of a part of the sky whose
    multipoles are independent; the noise is known, and lensing is not removed.

    Parameters
    ----------
    left : array_like, shape (n_real, n_ell)
        C_ell of BB [uK_CMB^2] of the foregrounds left, from ell 0.
    noise : array_like, shape (n_ell,)
        C_ell of BB of the noise after separation.
    sky_fraction : float

    Raises
    ------
    ShapeError
        If the shapes do not agree.

    References
    ----------
    Stompor, Errard & Poletti 2016 (the mean log likelihood).
    """
    left, noise = np.atleast_2d(np.asarray(left, float)), np.asarray(noise, float)
    if left.ndim != 2 or noise.shape != left.shape[1:] or len(noise) <= ELL_MIN:
        raise ShapeError(
            f"expected spectra of shape (n_real, n_ell) and (n_ell,), from ell 0 to {ELL_MIN} at "
            f"least, got {left.shape} and {noise.shape}."
        )
    l_max = len(noise) - 1
    used = slice(ELL_MIN, None)
    tensors = tensor_bb(l_max)[used]
    known = cmb_spectra(l_max)[2][used] + noise[used]
    modes = sky_fraction * (2 * np.arange(l_max + 1)[used] + 1)

    def best(observed: NDArray) -> float:
        def cost(r: float) -> float:
            model = known + r * tensors
            return float(np.sum(modes * (observed / model + np.log(model))))

        least = -0.99 * float(np.min(known / tensors))  # below, a spectrum would be negative
        top = max(1.0, float(np.max((observed - known) / tensors)))
        found = minimize_scalar(
            cost, bounds=(least, min(top, _MOST)), method="bounded", options={"xatol": 1e-7}
        )
        return float(found.x)

    error = float(np.sum(0.5 * modes * (tensors / known) ** 2) ** -0.5)
    return TensorRatio(np.array([best(known + one[used]) for one in left]), error)


def fit_r(
    power: NDArray,
    simulated: NDArray,
    tensor: NDArray,
    lensing: NDArray,
    free_lensing: bool,
    cut: CutSky,
) -> MeasuredR:
    """Fit r to the band powers of B, by a Gaussian likelihood.

    Parameters
    ----------
    power : ndarray, shape (n_bin,)
        Of the map [uK_CMB^2].
    simulated : ndarray, shape (n, n_bin)
        Of skies with lensing and noise, without tensors.
    tensor, lensing : ndarray, shape (n_bin,)
        Expected of r = 1, and of lensing.
    free_lensing : bool
    cut : CutSky

    Returns
    -------
    MeasuredR
        By generalised least squares, a second time with the sample variance of the tensors found.
    """
    n, n_bin = simulated.shape
    mean, null = simulated.mean(0), np.cov(simulated.T).reshape(n_bin, n_bin)
    null *= (n - 1) / (n - n_bin - 2)  # the inverse of a covariance of n draws is too large
    shapes = np.stack([tensor, lensing] if free_lensing else [tensor], 1)
    modes = cut.sky_fraction * np.diff(cut.edges) * (2 * cut.ell + 1)
    excess = power - mean
    values, _ = _least_squares(excess, shapes, null)
    # (lensing and noise + r tensors)^2 less that without tensors, over half the modes
    more, alone = max(float(values[0]), 0.0) * tensor, np.sqrt(0.5 * modes * np.diag(null))
    covariance = null + np.diag((2 * alone * more + more**2) * 2 / modes)
    values, errors = _least_squares(excess, shapes, covariance)
    left = excess - shapes @ values
    chi2 = float(left @ np.linalg.solve(covariance, left))
    freedom = n_bin - shapes.shape[1]
    return MeasuredR(
        float(values[0]), float(errors[0]),
        1 + float(values[1]) if free_lensing else 1.0, float(errors[1]) if free_lensing else 0.0,
        cut.edges, cut.ell, excess + lensing, np.sqrt(np.diag(covariance)), tensor, lensing,
        chi2, float(stats.chi2.sf(chi2, freedom)) if freedom else 1.0, cut.sky_fraction, n,
    )  # fmt: skip


def _least_squares(data: NDArray, shapes: NDArray, covariance: NDArray) -> tuple[NDArray, NDArray]:
    """Amplitudes of shapes (n_bin, n) in data, and their errors."""
    weighed = np.linalg.solve(covariance, shapes)
    inverse = np.linalg.inv(shapes.T @ weighed)
    return inverse @ weighed.T @ data, np.sqrt(np.diag(inverse))
