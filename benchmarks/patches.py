"""Fits by patch beside FGBuster's: pixels a second, and whether both find the same minimum."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from foreglow.compute.cpu import tune

tune()  # as the command line does, before PyTorch is imported

import healpy as hp
import numpy as np
import torch

from fits import FGBuster
from foreglow.recognition.fits.patches import fit_patches
from foreglow.recognition.fits.skymodel import candidate
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.simulation.law import PAPER_LAW
from foreglow.recognition.simulation.skies import simulate_sky
from foreglow.sky.instrument_files import load_instrument
from foreglow.sky.templates import load_templates
from measure import OURS, median_and_range, rate_once, ratio

MODELS = ("power_law", "curved")
NSIDE, PATCH_NSIDE = 64, 4
REPEATS = 3


def patch_fits() -> Iterator[dict]:
    """Both fits of one sky, by turns; beta_s is one everywhere, as patches suppose."""
    instrument = load_instrument("quijote+litebird")
    n = hp.nside2npix(NSIDE)
    number = hp.ring2nest(NSIDE, np.arange(n)) // (NSIDE // PATCH_NSIDE) ** 2
    for k, name in enumerate(MODELS):
        sky = simulate_sky(
            load_templates("mock", NSIDE), instrument, PROBLEMS["curvature"],
            np.full(n, k), 1.0, np.random.default_rng(0), replace(PAPER_LAW, beta_scatter=0.0),
        )  # fmt: skip
        data = torch.from_numpy(np.moveaxis(sky.data, 2, 0).copy())
        sigma = torch.from_numpy(sky.sigma).expand(n, -1)
        work = (candidate(name), instrument.bands, data, sigma, torch.from_numpy(number))
        row = {
            "benchmark": "fit by patches", "device": "cpu", "model": name, "unit": "pixels",
            "nside": NSIDE, "patch_nside": PATCH_NSIDE,
        }  # fmt: skip
        found = fit_patches(*work)
        mine, theirs = [], {}
        with tempfile.TemporaryDirectory() as folder:
            fgbuster = FGBuster(Path(folder), name, data, sigma, PATCH_NSIDE)
            for _ in range(REPEATS):
                mine.append(rate_once(lambda work=work: len(fit_patches(*work).region)))
                for setting, per_s in fgbuster.rates("as it likes").items():
                    theirs.setdefault(setting, []).append(per_s)
            yield {**row, "what": OURS, **median_and_range(mine)}
            if not theirs:
                yield {**row, "what": "FGBuster was not there", "why": fgbuster.missing}
                continue
            for setting, rates in theirs.items():
                beside = fgbuster.name(setting)
                yield {**row, "what": OURS, "beside": beside, **ratio(mine, rates)}
                parameters, chi2 = fgbuster.found(setting)
                # theirs by patch as RING numbers them
                ring = hp.nest2ring(PATCH_NSIDE, np.arange(hp.nside2npix(PATCH_NSIDE)))
                excess = found.chi2.numpy() - np.bincount(number, chi2)
                values = torch.stack(list(found.values.values()), 1).numpy()
                errors = torch.stack(list(found.errors.values()), 1).numpy()
                shift = np.abs(values - parameters[ring]) / errors
                yield {
                    **row, "what": f"agreement with {beside}", "n_patches": len(excess),
                    "largest_chi2_excess_of_ours": float(excess.max()),
                    "ours_lower_by": float(-excess.min()),
                    "largest_parameter_shift_in_sigma": float(shift.max()),
                }  # fmt: skip


if __name__ == "__main__":
    for row in patch_fits():
        print(row, flush=True)
