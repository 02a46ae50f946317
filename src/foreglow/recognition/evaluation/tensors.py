"""What foregrounds left in a CMB map do to r, the tensor-to-scalar ratio."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from foreglow.errors import ShapeError
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
