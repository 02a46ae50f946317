"""How well the evidence tells kinds of dust apart: numbers of "Candidate models" in the docs.

`python benchmarks/dusts.py [SKY]`: SKY as `load_templates` takes it, the mock Galaxy by default.
Prints, for some instruments, how alike the first moments of the dust's index and temperature are
beside CMB, dust and synchrotron; then the share of vectors of the training law (1,000 for each set
of models and noise, QUIJOTE + LiteBIRD) in which the evidence of the fits chooses the true model.
"""

import sys
import time

import torch

from foreglow.recognition.evaluation.ceiling import draw_vectors
from foreglow.recognition.fits.choice import choose
from foreglow.sky import seds
from foreglow.sky.instrument import Instrument
from foreglow.sky.instrument_files import load_instrument
from foreglow.sky.templates import load_templates

VECTORS = 1000
SETS = (
    ("power_law", "varying_beta_d"),
    ("power_law", "varying_dust"),
    ("power_law", "dust_moments"),
    ("power_law", "varying_beta_d", "dust_moments", "two_temperatures"),
    ("power_law", "varying_beta_d", "varying_dust", "dust_moments", "two_temperatures"),
)


def likeness(instrument: Instrument) -> tuple[float, float, float]:
    """Cosine of the moments of index and temperature, what is left of the latter's length, and [K]
    the temperature that is as much as an index of 0.05.
    """
    nu = torch.tensor(instrument.frequency_ghz, dtype=torch.float64)
    dust, sigma = seds.modified_blackbody(nu), torch.from_numpy(instrument.noise_rms(16))
    slopes = torch.stack([torch.log(nu / 353), seds.dust_temperature_slope(nu, 20.0)], 1)
    known = torch.stack([seds.cmb(nu), dust, seds.synchrotron(nu, -3.0)], 1) / sigma[:, None]
    basis = torch.linalg.qr(known).Q
    moments = slopes * (dust / sigma)[:, None]
    moments = moments - basis @ (basis.T @ moments)
    length = moments.norm(dim=0)
    index, temperature = (moments / length).unbind(1)
    cosine = float(index @ temperature)
    return cosine, (1 - cosine**2) ** 0.5, 0.05 * float(length[0] / length[1])


def main(sky: str = "mock") -> None:
    """Print all of it."""
    for name in ("quijote+litebird", "litebird", "so-sat", "planck"):
        cosine, left, kelvin = likeness(load_instrument(name))
        print(
            f"{name}: moments of beta_d and T_d {cosine:.4f} alike, {left:.1%} of T_d's is left; "
            f"0.05 of beta_d is {kelvin:.1f} K of T_d"
        )
    instrument, templates = load_instrument("quijote+litebird"), load_templates(sky, 16)
    for models in SETS:
        for scale in (1.0, 0.1, 0.01):
            vectors = draw_vectors(templates, instrument, models, scale, VECTORS, 0)
            start = time.perf_counter()
            chosen = choose(models, instrument.bands, vectors.data, vectors.sigma).best()
            seconds = time.perf_counter() - start
            right = chosen == vectors.label
            each = ", ".join(
                f"{name} {right[vectors.label == k].double().mean():.1%}"
                for k, name in enumerate(models)
            )
            share = f"{right.double().mean():.1%} right"
            print(f"noise {scale:g}: {share} ({each}); {VECTORS / seconds:.0f} vectors a second")


if __name__ == "__main__":
    main(*sys.argv[1:])
