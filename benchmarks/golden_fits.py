"""Fits and evidence of the same pixels before and after a change, compared.

    python benchmarks/golden_fits.py before.pt            # writes what there is now
    python benchmarks/golden_fits.py after.pt before.pt   # and compares it with what was

Faint, usual and bright pixels, with bands missing in some, of four models each: chi-square within
1e-6 of itself, parameters within 1e-3 of their errors, evidence within 1e-4 (1e-8 of
itself where that is more). Where there are two
minima of one depth the parameters may be those of either: chi-square says so. Prints processor
time a pixel too. Exit 1 where anything differs.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from foreglow.compute.cpu import tune

tune()

import torch

from foreglow.compute.random import make_generator
from foreglow.recognition.fits.choice import choose
from foreglow.recognition.fits.laplace import log_evidence
from foreglow.recognition.fits.optimise import fit
from foreglow.recognition.fits.skymodel import candidate
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.simulation.vectors import NoiseLaw, VectorSimulator
from foreglow.sky.instrument_files import load_instrument
from foreglow.sky.templates import load_templates

MODELS = PROBLEMS["four"]
SCALES = {"faint": 30.0, "usual": 1.0, "bright": 0.01}
N = 8192
_Made = TypeVar("_Made")


def pixels(scale: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Frequencies, data and noise of pixels, a tenth of which lack some bands."""
    instrument = load_instrument("quijote+litebird")
    simulator = VectorSimulator(load_templates("mock"), instrument, MODELS, noise_nside=16)
    generator = make_generator(torch.device("cpu"), 0, 0)
    vectors = simulator.draw(N, NoiseLaw.fixed(scale), generator)
    missing = torch.rand(N, len(instrument.frequency_ghz), generator=generator) < 0.3
    missing[N // 10 :] = False
    frequency = torch.tensor(instrument.frequency_ghz, dtype=torch.float64)
    return frequency, vectors.data, torch.where(missing, torch.nan, vectors.sigma)


def timed(name: str, work: Callable[[], _Made]) -> _Made:
    """What work gives; processor time a pixel is printed."""
    start = time.process_time()
    made = work()
    print(f"{name:40s} {1e6 * (time.process_time() - start) / N:6.1f} us a pixel", flush=True)
    return made


def results(data: dict[str, tuple[torch.Tensor, ...]]) -> dict[str, dict[str, torch.Tensor]]:
    """Of each scale and model."""
    found = {}
    for scale, given in data.items():
        if not found:
            choose(MODELS, given[0], given[1][:2000], given[2][:2000])  # what is cached
        for name in MODELS:
            key, plain, known = f"{scale} {name}", candidate(name), candidate(name, priors=True)
            best = timed(f"{key}: fit", partial(fit, plain, *given))
            evidence = timed(
                f"{key}: evidence", partial(log_evidence, known, *given, best.parameters)
            )
            found[key] = {
                "chi2": best.chi2, "parameters": best.parameters, "evidence": evidence,
                "error": torch.diagonal(best.covariance, dim1=1, dim2=2).sqrt(),
                "amplitudes": best.amplitudes, "converged": best.converged,
            }  # fmt: skip
        timed(f"{scale}: choose", partial(choose, MODELS, *given))
    return found


def compare(now: dict[str, torch.Tensor], then: dict[str, torch.Tensor], key: str) -> bool:
    """Print how far results are apart; whether all are within bounds."""
    chi2 = ((now["chi2"] - then["chi2"]) / then["chi2"]).nan_to_num(0.0)
    pull = ((now["parameters"] - then["parameters"]) / then["error"]).abs().amax(1).nan_to_num(0.0)
    # to 1e-8 of itself where it is as large as the chi-square of bright pixels
    evidence = (now["evidence"] - then["evidence"]).nan_to_num(0.0)
    evidence = evidence / (1e-4 * then["evidence"].abs()).clamp_min(1.0).nan_to_num(1.0)
    unlike = sum(int((now[k].isnan() != then[k].isnan()).sum()) for k in ("chi2", "evidence"))
    numbers = {
        "chi2 above": (chi2 > 1e-6).sum(),
        "chi2 below": (chi2 < -1e-6).sum(),
        "parameters apart": (pull > 1e-3).sum(),
        "evidence above": (evidence > 1e-4).sum(),
        "evidence below": (evidence < -1e-4).sum(),
        "NaN": unlike,
        "not converged": (~now["converged"]).sum(),
        "were": (~then["converged"]).sum(),
    }
    said = ", ".join(f"{name} {int(number)}" for name, number in numbers.items())
    print(
        f"{key:24s} {said}, most {float(pull.amax()):.0e} sigma, {float(evidence.abs().amax()):.0e}"
    )
    return not ((chi2.abs() > 1e-6) | (pull > 1e-3) | (evidence.abs() > 1e-4)).any() and not unlike


def main() -> int:
    """Write results, and compare them with those of before if these are given."""
    torch.set_num_threads(1)
    into, *others = sys.argv[1:]
    before = torch.load(others[0]) if others else {}
    data = before.get("data") or {scale: pixels(factor) for scale, factor in SCALES.items()}
    now = results(data)
    torch.save({"data": data, "results": now}, into)
    same = [compare(now[key], then, key) for key, then in before.get("results", {}).items()]
    return 0 if all(same) else 1


if __name__ == "__main__":
    sys.exit(main())
