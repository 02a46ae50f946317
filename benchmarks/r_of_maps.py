"""r of drawn CMB maps with a known one: `python benchmarks/r_of_maps.py`.

Lensed CMB with tensors and white noise at Nside 16, full sky and |b| > 15 degrees, r alone and with
the amplitude of lensing: mean, scatter, stated error, pull and how often p is small.
"""

import healpy as hp
import numpy as np

from foreglow.maps.cut_sky import CutSky, apodised
from foreglow.recognition.evaluation.measure_r import simulated_powers
from foreglow.recognition.evaluation.tensors import fit_r
from foreglow.sky.cmb import cmb_spectra, polarisation_map, tensor_bb

NSIDE, RMS, SKIES = 16, 0.02, 200


def main() -> None:
    """A line for each sky, r and fit."""
    n, l_max = hp.nside2npix(NSIDE), 3 * NSIDE - 1
    _, ee, bb, _ = cmb_spectra(l_max)
    tensors = tensor_bb(l_max)
    noise = RMS**2 * np.stack([np.ones(n), np.zeros(n), np.ones(n)])
    beyond = np.abs(hp.pix2ang(NSIDE, np.arange(n), lonlat=True)[1]) > 15
    for name, weight in (("full sky", np.ones(n)), ("|b| > 15", apodised(beyond, 18.0))):
        edges = range(2, 33, 5) if name == "full sky" else range(2, 33, 6)
        cut = CutSky(weight, list(edges), pure=bool((weight < 1).any()))
        about = [simulated_powers(cut, ee, bb, tensors, 0, (k, noise)) for k in range(SKIES)]
        tensor, lensing = (cut.expected(0 * ee, cl)[1] for cl in (tensors, bb))
        for r in (0.0, 0.01, 0.02, 0.1):
            powers = []
            for k in range(SKIES):
                rng = np.random.default_rng([7, k])
                sky = polarisation_map(ee, bb + r * tensors, NSIDE, rng)
                powers.append(cut.spectra(sky + RMS * rng.standard_normal(sky.shape))[1])
            for free in (False, True):
                found = [fit_r(one, np.array(about), tensor, lensing, free, cut) for one in powers]
                value, error, p = np.array([(f.r, f.error, f.p_value) for f in found]).T
                print(
                    f"{name}, r {r:g}{', lensing free' * free}: mean {value.mean():.5f} +- "
                    f"{value.std() / SKIES**0.5:.5f}, scatter {value.std():.5f}, error "
                    f"{error.mean():.5f}, pull {np.sqrt(np.mean(((value - r) / error) ** 2)):.2f}, "
                    f"p < .01 in {np.mean(p < 0.01):.1%}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
