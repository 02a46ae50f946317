"""The CMB: CAMB spectra of the Planck 2018 best fit, and Gaussian maps."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np

from foreglow.errors import WriteError
from foreglow.extras import require
from foreglow.files import make_folder, new_file
from foreglow.maps import healpix as hp
from foreglow.maps.harmonic import synthesise

# Planck 2018 VI, Table 2, TT,TE,EE+lowE+lensing: base LCDM, lensed, no tensors
PLANCK_2018 = {
    "H0": 67.36,
    "ombh2": 0.02237,
    "omch2": 0.1200,
    "mnu": 0.06,
    "omk": 0.0,
    "tau": 0.0544,
    "ln10A_s": 3.044,
    "ns": 0.9649,
}
_L_MAX = 3072
_L_MAX_TENSOR = 600


def cmb_spectra(l_max: int) -> np.ndarray:
    """Lensed spectra of the Planck 2018 best fit, computed by CAMB once and cached.

    Parameters
    ----------
    l_max : int
        At most 3072.

    Returns
    -------
    ndarray, shape (4, l_max + 1)
        C_ell of TT, EE, BB, TE [uK_CMB^2].

    Raises
    ------
    ValueError
        If `l_max` is out of range.

    Notes
    -----
    The cache lies in the folder `FOREGLOW_CACHE`, by default `~/.cache/foreglow`.

    References
    ----------
    Lewis, Challinor & Lasenby 2000; Planck 2018 VI.
    """
    if not 2 <= l_max <= _L_MAX:
        raise ValueError(f"expected 2 <= l_max <= {_L_MAX}, got {l_max}")
    return _cached(f"lmax{_L_MAX}", (4, _L_MAX + 1), _run_camb)[:, : l_max + 1]


def tensor_bb(l_max: int) -> np.ndarray:
    """B modes of primordial gravitational waves of r = 1, scale invariant, not lensed.

    Parameters
    ----------
    l_max : int
        At most 600, above which there are hardly any.

    Returns
    -------
    ndarray, shape (l_max + 1,)
        C_ell of BB [uK_CMB^2], by CAMB once and cached, as `cmb_spectra`; r at 0.05 per Mpc.

    Raises
    ------
    ValueError
        If `l_max` is out of range.
    """
    if not 2 <= l_max <= _L_MAX_TENSOR:
        raise ValueError(f"expected 2 <= l_max <= {_L_MAX_TENSOR}, got {l_max}")
    shape = (_L_MAX_TENSOR + 1,)
    return _cached(f"tensor{_L_MAX_TENSOR}", shape, _run_camb_for_tensors)[: l_max + 1]


def cmb_polarisation_rms(nside: int) -> float:
    """Rms of Q, which is that of U, of a CMB map of `cmb_map` [uK_CMB]."""
    spectra = cmb_spectra(_l_max(nside))
    ell = np.arange(spectra.shape[1])
    return float(np.sqrt(np.sum((2 * ell + 1) * (spectra[1] + spectra[2])) / (8 * np.pi)))


def cmb_map(nside: int, rng: np.random.Generator) -> np.ndarray:
    """One Gaussian realisation, without beam or pixel window, ell < 3 Nside (at most 3072).

    Parameters
    ----------
    nside : int
    rng : Generator
        The same state gives the same map.

    Returns
    -------
    ndarray, shape (2, n_pix)
        Q, U [uK_CMB], RING, COSMO.
    """
    _, ee, bb, _ = cmb_spectra(_l_max(nside))
    return polarisation_map(ee, bb, nside, rng)


def polarisation_map(
    ee: np.ndarray, bb: np.ndarray, nside: int, rng: np.random.Generator
) -> np.ndarray:
    """One Gaussian realisation of E and B modes of spectra from ell 0, (2, n_pix), as `cmb_map`."""
    l_max = len(ee) - 1
    e, b = (_draw_alm(cl, l_max, rng) for cl in (ee, bb))
    return synthesise(np.stack([e, b]), nside, l_max, spin=2)


def cmb_temperature(
    nside: int, rng: np.random.Generator, window: np.ndarray, noise_uk_arcmin: float = 0.0
) -> np.ndarray:
    """One Gaussian realisation of the temperature, with white noise if asked for, both smoothed.

    Parameters
    ----------
    nside : int
    rng : Generator
        The same state gives the same map.
    window : ndarray, shape (l_max + 1,)
        Amplitude of a beam or filter by ell, at most 3072; CMB and noise end with it.
    noise_uk_arcmin : float
        Of white noise [uK_CMB arcmin], before the smoothing.

    Returns
    -------
    ndarray, shape (n_pix,)
        T [uK_CMB], RING; monopole and dipole of the CMB are zero.
    """
    l_max = len(window) - 1
    power = cmb_spectra(l_max)[0] + np.radians(noise_uk_arcmin / 60) ** 2
    return np.asarray(hp.alm2map(_draw_alm(power * window**2, l_max, rng), nside, lmax=l_max))


def _l_max(nside: int) -> int:
    return min(3 * nside - 1, _L_MAX)


def _draw_alm(cl: np.ndarray, l_max: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a_lm from an explicit generator (healpy's synalm uses numpy's global one)."""
    ell, m = hp.Alm.getlm(l_max)
    draw = rng.standard_normal((2, len(ell)))
    alm = np.where(m == 0, draw[0], (draw[0] + 1j * draw[1]) / np.sqrt(2))
    return alm * np.sqrt(cl[ell])


def cache_folder() -> Path:
    """Folder of what need not be made twice: `FOREGLOW_CACHE`, by default ~/.cache/foreglow."""
    return Path(os.environ.get("FOREGLOW_CACHE") or Path.home() / ".cache" / "foreglow")


def _cached(name: str, shape: tuple[int, ...], make: Callable[[], np.ndarray]) -> np.ndarray:
    cache = cache_folder() / f"camb_planck2018_{name}.npy"
    # a cache that is absent, damaged or another user's costs two seconds, not the run
    with suppress(OSError, ValueError, EOFError):
        spectra = np.load(cache, allow_pickle=False)
        if spectra.shape == shape:
            return spectra
    spectra = make()
    with suppress(OSError, WriteError):
        _save(cache, spectra)
    return spectra


def _save(path: Path, array: np.ndarray) -> None:
    make_folder(path.parent)
    with new_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def _run_camb() -> np.ndarray:
    total = _camb_results(lmax=_L_MAX + 500, lens_potential_accuracy=1).get_lensed_scalar_cls(
        lmax=_L_MAX, CMB_unit="muK", raw_cl=True
    )
    return np.ascontiguousarray(total.T)


def _run_camb_for_tensors() -> np.ndarray:
    results = _camb_results(lmax=_L_MAX_TENSOR, WantScalars=False, WantTensors=True, r=1.0, nt=0.0)
    return results.get_tensor_cls(lmax=_L_MAX_TENSOR, CMB_unit="muK", raw_cl=True)[:, 2].copy()


def _camb_results(**options: Any) -> Any:
    require("simulate")
    import camb  # slow to import, and needed once only

    parameters = camb.set_params(
        As=1e-10 * np.exp(PLANCK_2018["ln10A_s"]),
        **cast(Any, {key: value for key, value in PLANCK_2018.items() if key != "ln10A_s"}),
        **options,
    )
    return camb.get_results(parameters)
