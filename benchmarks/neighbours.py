"""What neighbours are worth on pixels finer than those they were taught on, and what it takes.

`python benchmarks/neighbours.py [NSIDE CONTEXT NOISE_SCALE ...]`: of mock skies of four models,
accuracy and calibration error of each pixel alone, with its neighbours, and where the
log-probabilities are summed to pixels of Nside 16 first, which all their pixels then share.
`python benchmarks/neighbours.py stream NSIDE`: seconds and peak memory of the neighbours alone.
"""

import resource
import sys
import time

from foreglow.compute.cpu import tune

tune()  # as the command line does, before PyTorch is imported

import healpy as hp
import numpy as np

from foreglow.maps.regions import layout
from foreglow.recognition.context.model import ContextModel
from foreglow.recognition.evaluation.evaluate import Evaluation, evaluate
from foreglow.recognition.models import PROBLEMS, REFERENCE_NSIDE
from foreglow.recognition.network.calibration import expected_calibration_error
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.recognition.simulation.skies import simulate_sky
from foreglow.sky.templates import load_templates

SEED = 5


def worth(nside: int, context: ContextModel, noise_scales: list[float]) -> None:
    """A line for each layout and noise."""
    model, templates = Recogniser.load("mock-four"), load_templates("mock", nside)
    for kind in ("quadrants", "blobs"):
        label = layout(kind, nside, 4, SEED)
        for scale in noise_scales:
            rng = np.random.default_rng([SEED, int(1000 * scale)])
            sky = simulate_sky(templates, model.instrument, PROBLEMS["four"], label, scale, rng)
            alone = evaluate(model, sky)
            found = {"alone": alone, "with neighbours": alone.with_neighbours(context)}
            if nside > REFERENCE_NSIDE:
                found["summed first"] = _summed(alone, context, nside)
            words = [f"{name} {_words(one)}" for name, one in found.items()]
            print(f"Nside {nside}, {kind}, noise {scale:g}: {', '.join(words)}", flush=True)


def _summed(alone: Evaluation, context: ContextModel, nside: int) -> Evaluation:
    """The context on what the pixels of Nside 16 say as a whole."""
    nest = hp.ring2nest(nside, np.arange(hp.nside2npix(nside)))
    parent = hp.nest2ring(REFERENCE_NSIDE, nest // (nside // REFERENCE_NSIDE) ** 2)
    said = np.log(np.maximum(alone.probability, 1e-14))
    total = np.array([np.bincount(parent, one) for one in said])
    coarse = np.exp(total - total.max(0))
    refined = context.refine((coarse / coarse.sum(0)).astype(np.float32))
    return Evaluation(alone.models, refined[:, parent], alone.label)


def _words(found: Evaluation) -> str:
    error = expected_calibration_error(found.probability, found.label)
    return f"{found.accuracy:.3f} ({error:.3f})"


def stream(nside: int) -> None:
    """Of four models, whatever they say."""
    context, rng = ContextModel.load("mock-four-neighbours"), np.random.default_rng(0)
    said = np.empty((4, hp.nside2npix(nside)), np.float32)
    for part in np.array_split(said, 64, axis=1):
        part[:] = rng.dirichlet([1.0] * 4, part.shape[1]).T
    before, start = _processor_s(), time.perf_counter()
    context.refine(said)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(
        f"Nside {nside}: {time.perf_counter() - start:.0f} s, {_processor_s() - before:.0f} s of "
        f"processors, {peak:.2f} GiB, of which {said.nbytes / 1024**3:.2f} are given"
    )


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    if sys.argv[1:2] == ["stream"]:
        stream(int(sys.argv[2]))
    else:
        nside, name, *scales = sys.argv[1:] or ["64", "mock-four-neighbours", "0.1", "0.25", "1"]
        worth(int(nside), ContextModel.load(name), list(map(float, scales)))
