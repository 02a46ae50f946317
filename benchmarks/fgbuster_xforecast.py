"""FGBuster's xForecast of given maps: run by the Python of an environment that has FGBuster.

`python fgbuster_xforecast.py SKY.npz` prints a line of JSON: r of largest likelihood and its error,
of foreground maps [uK_RJ] without noise, where there are no tensors and lensing is not removed. The
spectra of lensing and tensors are those of the file, for FGBuster's own have another optical depth.
"""

import json
import sys
import warnings

import fgbuster
import fgbuster.cosmology
import numpy as np


def main(sky: str) -> None:
    """Run it."""
    with np.load(sky) as file:
        instrument = {"frequency": file["frequency_ghz"], "depth_p": file["depth_p"]}
        maps, l_max = file["maps"].astype(float), int(file["l_max"])
        lensing, tensors = file["lensing"], file["tensors"]

    def spectra(Alens: float = 1.0, r: float = 0.0) -> np.ndarray:
        none = np.zeros_like(lensing)
        return np.stack([none, none, Alens * lensing + r * tensors, none])

    fgbuster.cosmology._get_Cl_cmb = spectra
    components = [
        fgbuster.CMB(units="K_RJ"),
        fgbuster.Dust(353.0, temp=20.0, beta_d=1.54, units="K_RJ"),
        fgbuster.Synchrotron(23.0, units="K_RJ"),
    ]
    warnings.simplefilter("ignore")
    found = fgbuster.xForecast(components, instrument, maps, 2, l_max, Alens=1.0, r=0.0)
    r, error = found.cosmo_params["r"]
    print(json.dumps({"r": float(np.squeeze(r)), "error": float(np.squeeze(error))}))


if __name__ == "__main__":
    main(*sys.argv[1:])
