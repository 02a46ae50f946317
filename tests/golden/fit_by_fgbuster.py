"""Makes `fgbuster.npz`: pixels, and what FGBuster's fits find in each of them, and in patches.

    PYTHON tests/golden/fit_by_fgbuster.py

PYTHON is that of an environment of its own with FGBuster, which is not on the package index:

    python3.11 -m venv ENV
    ENV/bin/pip install hatchling hatch-vcs setuptools wheel six corner numdifftools pandas \
        parameterized pyaml pysm3 sympy tqdm
    ENV/bin/pip install --no-deps git+https://github.com/dpole/cmbdb.git
    ENV/bin/pip install --no-deps git+https://github.com/fgbuster/fgbuster.git@40ef92c

Made with the versions that the file holds as `versions`: FGBuster 2.0.0 (commit 40ef92c), NumPy
2.4.6, SciPy 1.17.1, healpy 1.20.1, Python 3.11. The pixels are drawn by NumPy from a seed.
"""

import platform
import warnings
from importlib.metadata import version
from pathlib import Path

import fgbuster
import healpy as hp
import numpy as np

SEED = 20200306
NSIDE = 4  # 192 pixels, handed over as a map (RING) so that each is fitted by itself
PATCH_NSIDE = 1  # and sixteen together
PIVOT_GHZ = 23.0
# quijote+litebird: rms of Q and of U in a pixel of Nside 16 [uK_RJ]
FREQUENCY_GHZ = np.array(
    [11, 13, 40, 50, 60, 68, 78, 89, 100, 119, 140, 166, 195, 235, 280, 337, 402], float
)
SIGMA = np.array([
    3.80851, 3.80380, 0.157564, 0.0836013, 0.0837831, 0.0456697, 0.0401271, 0.0312591, 0.0247444,
    0.0185262, 0.0131873, 0.0163363, 0.0107161, 0.0102648, 0.00737364, 0.0048595, 0.0037713,
])  # fmt: skip


def components(curved: bool) -> list:
    """CMB, dust and synchrotron, the last with or without a running."""
    return [
        fgbuster.CMB(units="K_RJ"),
        fgbuster.Dust(353.0, temp=20.0, beta_d=1.54, units="K_RJ"),
        fgbuster.Synchrotron(
            PIVOT_GHZ, nu_pivot=PIVOT_GHZ, running=None if curved else 0.0, units="K_RJ"
        ),
    ]


def draw() -> tuple[np.ndarray, np.ndarray]:
    """Q, U (192, 2, 17) [uK_RJ], and which pixels have a curved synchrotron (192,)."""
    rng = np.random.default_rng(SEED)
    n = hp.nside2npix(NSIDE)
    is_curved = rng.random(n) < 0.5
    beta, curvature = rng.normal(-3.0, 0.2, n), np.where(is_curved, -0.052, 0.0)
    modulus = np.stack([np.full(n, 0.5), rng.lognormal(0.5, 1, n), rng.lognormal(2.5, 1, n)])
    amplitude = modulus * rng.normal(size=(2, 3, n))
    cmb, dust, _ = components(curved=True)
    synchrotron = components(curved=True)[2].eval(FREQUENCY_GHZ, beta, curvature)
    fixed = np.stack([np.broadcast_to(c.eval(FREQUENCY_GHZ), (n, 17)) for c in (cmb, dust)])
    spectra = np.concatenate([fixed, synchrotron[None]])  # (component, pixel, band)
    clean = np.einsum("scp,cpb->psb", amplitude, spectra)
    return clean + SIGMA * rng.normal(size=clean.shape), is_curved


def main() -> None:
    """Draw, fit with both models, and write."""
    data, is_curved = draw()
    found = {"frequency_ghz": FREQUENCY_GHZ, "sigma_uK_RJ": SIGMA, "data_uK_RJ": data}
    depth = SIGMA * hp.nside2resol(NSIDE, arcmin=True)
    instrument = {"frequency": FREQUENCY_GHZ, "depth_p": depth}
    maps = np.ascontiguousarray(data.transpose(2, 1, 0))  # (band, stokes, pixel)
    warnings.simplefilter("ignore")
    for name in ("power_law", "curved"):
        for nside, where in ((NSIDE, ""), (PATCH_NSIDE, "_patches")):
            fit = fgbuster.basic_comp_sep(
                components(name == "curved"), instrument, maps, nside=nside
            )
            found[f"parameters_{name}{where}"] = fit.x.T
            found[f"chi2_{name}{where}"] = (fit.chi**2).sum((0, 1))
    packages = ("fgbuster", "numpy", "scipy", "healpy")
    versions = [f"Python {platform.python_version()}", *(f"{p} {version(p)}" for p in packages)]
    np.savez_compressed(
        Path(__file__).with_name("fgbuster.npz"), is_curved=is_curved, versions=versions, **found
    )


if __name__ == "__main__":
    main()
