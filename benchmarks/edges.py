"""sigma(r) by the width of a mask's edge, purified or not: `python benchmarks/edges.py [NSIDE]`.

Lensed CMB and white noise of 3 uK_CMB arcmin, |b| > 20 degrees, bins as `measure_r` makes them;
beside what the modes of so much sky allow.
"""

import sys

import healpy as hp
import numpy as np

from foreglow.maps.cut_sky import CutSky, apodised
from foreglow.recognition.evaluation.tensors import fit_r, tensor_ratio
from foreglow.sky.cmb import cmb_spectra, polarisation_map, tensor_bb

NOISE_UK_ARCMIN, CUT_DEG, SKIES = 3.0, 20.0, 150


def main(nside: int = 64) -> None:
    """A line for each width."""
    l_max = 3 * nside - 1
    _, ee, bb, _ = cmb_spectra(l_max)
    n = hp.nside2npix(nside)
    mask = np.abs(hp.pix2ang(nside, np.arange(n), lonlat=True)[1]) > CUT_DEG
    rms = NOISE_UK_ARCMIN / hp.nside2resol(nside, arcmin=True)
    noise = np.full(2 * nside, np.radians(NOISE_UK_ARCMIN / 60) ** 2)
    print(f"by modes: {tensor_ratio(0 * noise, noise, mask.mean()).error:.2e}", flush=True)
    skies = []
    for k in range(SKIES):
        rng = np.random.default_rng([0, k])
        skies.append(polarisation_map(ee, bb, nside, rng) + rms * rng.standard_normal((2, n)))
    edges = list(range(2, 2 * nside + 1, 6))
    for width in (3.0, 6.0, 10.0, 20.0):
        for pure in (True, False):
            cut = CutSky(apodised(mask, width), edges, pure)
            found = np.array([cut.spectra(sky)[1] for sky in skies])
            tensor, lensing = (cut.expected(0 * ee, cl)[1] for cl in (tensor_bb(l_max), bb))
            nothing = np.zeros_like(found)  # of tensors: r is 0
            skies_of_r = np.stack([found, nothing, nothing], 1)
            error = fit_r(found.mean(0), skies_of_r, tensor, lensing, False, cut).error
            print(f"{width:g} deg, {'pure' if pure else 'plain'}: {error:.2e}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
