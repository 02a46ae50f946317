"""FGBuster's own fits of given pixels: run by the Python of an environment that has FGBuster.

`python fgbuster_fits.py PIXELS.npz MODEL RESULT.npz [NSIDE]` prints a line of JSON: its version,
and pixels a second for each of its settings. Pixels are handed over as maps (RING), so that
`basic_comp_sep(..., nside=NSIDE)` fits those of each patch together, or each by itself, Q and U
with the same spectral parameters.
"""

import json
import sys
import time
import warnings
from importlib.metadata import version

import fgbuster
import healpy as hp
import numpy as np

PIVOT_GHZ = 23.0
# minimize's: its defaults, and what was found quicker and about as close to the minimum
SETTINGS = {
    "default settings": {},
    "tol=1e-3": {"tol": 1e-3},
    "L-BFGS-B, tol=1e-10": {"method": "L-BFGS-B", "tol": 1e-10},
}


def main(pixels: str, model: str, result: str, patch_nside: str = "") -> None:
    """Time every setting, and save parameters and chi-square of each."""
    with np.load(pixels) as file:
        frequency, sigma, data = file["frequency_ghz"], file["sigma"], file["data"]
    nside = hp.npix2nside(len(data))
    patches = int(patch_nside or nside)
    instrument = {"frequency": frequency, "depth_p": sigma * hp.nside2resol(nside, arcmin=True)}
    maps = np.ascontiguousarray(data.transpose(2, 1, 0))  # (band, stokes, pixel)
    components = [
        fgbuster.CMB(units="K_RJ"),
        fgbuster.Dust(353.0, temp=20.0, beta_d=1.54, units="K_RJ"),
        fgbuster.Synchrotron(
            PIVOT_GHZ, nu_pivot=PIVOT_GHZ, running=None if model == "curved" else 0.0, units="K_RJ"
        ),
    ]
    rates, found = {}, {}
    warnings.simplefilter("ignore")
    for name, settings in SETTINGS.items():
        start = time.perf_counter()
        fit = fgbuster.basic_comp_sep(components, instrument, maps, nside=patches, **settings)
        rates[name] = len(data) / (time.perf_counter() - start)
        found[f"{name}/parameters"] = fit.x.T
        found[f"{name}/chi2"] = (fit.chi**2).sum((0, 1))
    np.savez(result, **found)
    print(json.dumps({"version": version("fgbuster"), "rates": rates}))


if __name__ == "__main__":
    main(*sys.argv[1:])
