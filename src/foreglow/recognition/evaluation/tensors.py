"""What foregrounds left in a CMB map do to r, the tensor-to-scalar ratio."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.optimize import minimize_scalar

from foreglow.errors import RunError, ShapeError
from foreglow.maps.cut_sky import CutSky
from foreglow.sky.cmb import cmb_spectra, tensor_bb

ELL_MIN = 2
_DOUBT = 0.01  # a p-value
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
        Without a prior: negative values are as likely as noise makes them. Tensors are those of
        `tensor_bb`: scale invariant, r at 0.05 per Mpc.
    lensing, lensing_error : float
        Amplitude of the lensing B modes; 1 and 0 where it is not free.
    edges : ndarray of int, shape (n_bin + 1,)
        Bin k holds edges[k] <= ell < edges[k + 1].
    ell, bb, bb_error : ndarray, shape (n_bin,)
        Mean multipole, and C_ell of BB [uK_CMB^2] less the noise, with the beam of the map in it.
    bb_tensor, bb_lensing : ndarray, shape (n_bin,)
        The same of tensors of r = 1, and of lensing.
    chi2 : float
    p_value : float or None
        Probability of a larger chi-square, if there are tensors, lensing and noise alone; None
        where there are as many bins as amplitudes.
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
    p_value: float | None
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
        if self.p_value is None:
            fits = "cannot be told from anything else, for there are no more bins"
        elif self.p_value > _DOUBT:
            fits = f"fit (p = {self.p_value:.2g})"
        else:
            fits = f"do not fit: something else is in it (p = {self.p_value:.2g})"
        return (
            f"r = {self.r:.3g} ± {self.error:.2g}{free} from BB at ell {self.edges[0]} to "
            f"{self.edges[-1] - 1} of {self.sky_fraction:.1%} of the sky; tensors, lensing and "
            f"noise {fits}"
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
    """Fit r, and the amplitude of lensing if asked for, to the band powers of B.

    By generalised least squares, twice: with the covariance at r = 0, then at the r found. All of
    it is done with each simulated sky of that r, too: their mean says by how much the fit is off,
    which is taken away, their scatter is the error, and their chi-squares are those of skies where
    nothing else is.

    Parameters
    ----------
    power : ndarray, shape (n_bin,)
        Of the map [uK_CMB^2].
    simulated : ndarray, shape (n, 3, n_bin)
        Of skies with lensing and noise; twice their cross powers with tensors of r = 1; of those.
    tensor, lensing : ndarray, shape (n_bin,)
        Expected of r = 1, and of lensing.
    free_lensing : bool
    cut : CutSky

    Returns
    -------
    MeasuredR

    Raises
    ------
    RunError
        If there are fewer bins than amplitudes.

    References
    ----------
    Hartlap, Simon & Schneider 2007; Dodelson & Schneider 2013 (what few skies cost).
    """
    n, _, n_bin = simulated.shape
    shapes = np.stack([tensor, lensing] if free_lensing else [tensor], 1)
    freedom = n_bin - shapes.shape[1]
    if freedom < 0:
        raise RunError("expected two bins of ell or more for r and lensing, got one; give more.")
    mean, away = simulated[:, 0].mean(0), simulated - simulated.mean(0)
    products = np.einsum("nia,njb->ijab", away, away, optimize=True) / (n - 1)

    def covariance(r: NDArray) -> NDArray:
        powers = np.sqrt(r.clip(0))[..., None] ** np.arange(3)
        return np.einsum("...i,...j,ijab->...ab", powers, powers, products, optimize=True)

    def fit(data: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        values = _least_squares(data - mean, shapes, covariance(np.zeros(data.shape[:-1])))
        spread = covariance(values[..., 0])
        values = _least_squares(data - mean, shapes, spread)
        left = data - mean - values @ shapes.T
        chi2 = (left * np.linalg.solve(spread, left[..., None])[..., 0]).sum(-1)
        return values, chi2, spread

    found, chi2, spread = fit(power)
    least = max(float(found[0]), 0.0)
    again, theirs, _ = fit(simulated.swapaxes(1, 2) @ least ** (0.5 * np.arange(3)))
    truth = np.array([least, 0.0])[: len(found)]
    values = found - (again.mean(0) - truth)
    few = (n - 1) / (n - n_bin - 2)  # the inverse of a covariance of n draws is too large by this
    errors = few * again.std(0, ddof=1)
    p_value = None
    if freedom:
        scale = theirs.var() / theirs.mean()
        p_value = float(stats.gamma.sf(chi2 / few, theirs.mean() / scale, scale=scale))
    return MeasuredR(
        float(values[0]), float(errors[0]),
        1 + float(values[1]) if free_lensing else 1.0, float(errors[1]) if free_lensing else 0.0,
        cut.edges, cut.ell, power - mean + lensing, np.sqrt(few * np.diag(spread)), tensor, lensing,
        float(chi2 / few), p_value, cut.sky_fraction, n,
    )  # fmt: skip


def _least_squares(data: NDArray, shapes: NDArray, covariance: NDArray) -> NDArray:
    """Amplitudes (..., n) of shapes (n_bin, n) in data (..., n_bin)."""
    weighed = np.linalg.solve(covariance, np.broadcast_to(shapes, (*data.shape, shapes.shape[1])))
    along = weighed.swapaxes(-1, -2) @ data[..., None]
    return np.linalg.solve(shapes.T @ weighed, along)[..., 0]
