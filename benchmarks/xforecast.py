"""r beside FGBuster's xForecast: the same sky, one spectral index everywhere, the same likelihood.

    FGBUSTER_PYTHON=... python benchmarks/xforecast.py

prints bias and error of r of both, where the index of synchrotron is one, as the fit supposes, and
where it scatters from pixel to pixel. Error: up to where the likelihood has fallen by a half.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import healpy as hp
import numpy as np
import torch
from scipy.optimize import brentq

from foreglow.recognition.evaluation.separation import bb_spectrum
from foreglow.recognition.evaluation.tensors import tensor_ratio
from foreglow.recognition.fits.patches import fit_patches
from foreglow.recognition.fits.skymodel import candidate
from foreglow.recognition.simulation.law import PAPER_LAW
from foreglow.recognition.simulation.skies import simulate_sky
from foreglow.sky import seds
from foreglow.sky.cmb import cmb_spectra, tensor_bb
from foreglow.sky.instrument_files import load_instrument
from foreglow.sky.templates import load_templates

NSIDE, CUT_DEG, NOISES = 64, 20.0, 8
L_MAX = 2 * NSIDE - 1


def main() -> None:
    """Both forecasts of each sky."""
    templates, instrument = load_templates("mock", NSIDE), load_instrument("quijote+litebird")
    n = hp.nside2npix(NSIDE)
    inside = np.abs(hp.pix2ang(NSIDE, np.arange(n), lonlat=True)[1]) > CUT_DEG
    for scatter in (0.0, 0.01, 0.05, PAPER_LAW.beta_scatter):
        law = replace(PAPER_LAW, beta_scatter=scatter)
        make = lambda scale, law=law: simulate_sky(  # noqa: E731
            templates, instrument, ("power_law",), np.zeros(n, int), scale,
            np.random.default_rng(5), law,
        )  # fmt: skip
        loud = make(1.0)
        bias, error = ours(make(0.0), loud.sigma, instrument, inside)
        theirs = xforecast(make(0.0), loud.sigma, instrument, inside)
        print(
            f"scatter of beta_s {scatter:g}: r {bias:.3e} +- {error:.3e}, "
            f"xForecast {theirs['r']:.3e} +- {theirs['error']:.3e}",
            flush=True,
        )


def ours(quiet, sigma, instrument, inside) -> tuple[float, float]:
    """Bias and error of r where beta_s is fitted once to all the sky that is kept."""

    def left(data: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(np.ascontiguousarray(np.moveaxis(data, 2, 0)[inside])).double()
        noise = torch.from_numpy(sigma).double().expand(len(pixels), -1)
        one = torch.zeros(len(pixels), dtype=torch.int64)
        model = candidate("power_law")
        found = fit_patches(model, instrument.bands, pixels, noise, one).pixels
        residual = np.zeros((2, inside.size))
        cmb = found.amplitudes[:, :, model.components.index("cmb")].T.numpy()
        residual[:, inside] = cmb - quiet.cmb[:, inside]
        return bb_spectrum(residual, inside)[: L_MAX + 1]

    rng = np.random.default_rng(6)
    silent = left(quiet.data)
    noisy = [
        left(quiet.data + sigma[:, None] * rng.standard_normal(quiet.data.shape))
        for _ in range(NOISES)
    ]
    noise = np.mean(noisy, 0) - silent
    sky_fraction = float(inside.mean())
    best = float(tensor_ratio(silent[None], noise.clip(0), sky_fraction).bias[0])
    # xForecast's error: to where the likelihood of what is seen, foregrounds too, has fallen
    known, tensors = (cmb_spectra(L_MAX)[2] + noise)[2:], tensor_bb(L_MAX)[2:]
    modes = sky_fraction * (2 * np.arange(2, L_MAX + 1) + 1)

    def cost(r: float) -> float:
        model = known + r * tensors
        return float(modes @ (np.log(model) + (known + silent[2:]) / model))

    return best, brentq(lambda r: cost(r) - cost(best) - 1, best, best + 1) - best


def xforecast(quiet, sigma, instrument, inside) -> dict[str, float]:
    """The same by FGBuster, in its own environment."""
    frequency = torch.tensor(instrument.frequency_ghz, dtype=torch.float64)
    cmb = quiet.cmb[:, None] * seds.cmb(frequency).numpy()[:, None]
    with tempfile.TemporaryDirectory() as folder:
        sky = Path(folder) / "sky.npz"
        np.savez(
            sky, frequency_ghz=instrument.frequency_ghz, l_max=L_MAX,
            lensing=cmb_spectra(L_MAX)[2], tensors=tensor_bb(L_MAX),
            depth_p=sigma * hp.nside2resol(NSIDE, arcmin=True),
            maps=np.where(inside, np.moveaxis(quiet.data - cmb, 1, 0), 0.0),
        )  # fmt: skip
        script = Path(__file__).with_name("fgbuster_xforecast.py")
        python = os.environ.get("FGBUSTER_PYTHON")
        if not python:
            sys.exit("set FGBUSTER_PYTHON to the Python of an environment that has FGBuster")
        command = [python, str(script), str(sky)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(told.splitlines()[-1])


if __name__ == "__main__":
    main()
