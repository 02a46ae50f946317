"""Spectra of every candidate model as components of FGBuster, beside our own.

    FGBUSTER_PYTHON benchmarks/fgbuster_components.py

FGBUSTER_PYTHON is that of an environment with FGBuster (tests/golden/fit_by_fgbuster.py says how to
make one) and foreglow. Prints the largest relative difference, and fails above 1e-12.
"""

import numpy as np
import torch

from foreglow.recognition.fits.fgbuster import fgbuster_components
from foreglow.recognition.fits.skymodel import bent_spectra, candidate, fixed_spectra
from foreglow.recognition.models import MODELS
from foreglow.sky import seds

FREQUENCY_GHZ = np.array(
    [11, 13, 40, 50, 60, 68, 78, 89, 100, 119, 140, 166, 195, 235, 280, 337, 402], float
)
VALUES = {"beta_s": -3.1, "curvature": -0.07, "beta_d": 1.6}
THEIRS = {"beta_pl": "beta_s", "running": "curvature", "beta_d": "beta_d"}
COMPONENTS = ("cmb", "dust", "synchrotron", "ame")
REFERENCE_GHZ = {"dust": 353.0, "synchrotron": 23.0, "ame": 30.0}


def our_spectra(name: str) -> dict[str, np.ndarray]:
    """What the fits use for a model [uK_RJ], by component."""
    sky, frequency = candidate(name), torch.tensor(FREQUENCY_GHZ)
    parameters = torch.tensor([[VALUES[free] for free in sky.free]], dtype=torch.float64)
    columns = [fixed_spectra(sky, frequency), bent_spectra(sky, frequency, parameters)[0][0]]
    return dict(zip(sky.components, torch.cat(columns, 1).T.numpy(), strict=True))


def main() -> None:
    """Compare them all."""
    cmb, worst = seds.cmb(torch.tensor(FREQUENCY_GHZ)).numpy(), 0.0
    for name in MODELS:
        ours = our_spectra(name)
        for units in ("K_RJ", "K_CMB"):
            found = fgbuster_components(name, units=units)
            for what, component in zip(COMPONENTS, found, strict=False):
                free = component.params
                spectrum = component.eval(FREQUENCY_GHZ, *(VALUES[THEIRS[p]] for p in free))
                expected = ours[what]
                if units == "K_CMB":
                    at = torch.tensor(REFERENCE_GHZ.get(what, 1e-9), dtype=torch.float64)
                    expected = expected * float(seds.cmb(at)) / cmb
                apart = np.abs(spectrum / expected - 1).max()
                print(f"{name:16s} {units:6s} {what:12s} {', '.join(free):20s} {apart:.1e}")
                worst = max(worst, float(apart))
    print(f"largest relative difference: {worst:.1e}")
    if not worst < 1e-12:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
