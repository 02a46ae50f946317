"""Recognition: simulator, classification, and the memory of classification."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import healpy as hp
import numpy as np
import torch

from foreglow.compute.random import make_generator
from foreglow.maps.write import write_polarisation_map
from foreglow.recognition.classify import classify
from foreglow.recognition.fits.goodness import goodness_of_fit
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.recognition.simulation.vectors import NoiseLaw, VectorSimulator
from foreglow.sky.instrument_files import load_instrument
from foreglow.sky.templates import load_templates
from measure import OURS, REPEATS, in_turn, peak_mib, rate, side_by_side, wait
from stages import NO_BEAM

BATCH = 8192
MEMORY_NSIDES = (64, 256, 1024)
_INSTRUMENT = load_instrument("quijote+litebird")


def simulation(device: torch.device) -> Iterator[dict]:
    """Noisy vectors a second of our simulator, beside PySM3 components and noise."""
    simulator = VectorSimulator(load_templates("mock"), _INSTRUMENT, PROBLEMS["four"]).to(device)
    generator = make_generator(device, 0, 0)

    def ours() -> int:
        for _ in range(50):
            simulator.draw(BATCH, NoiseLaw.fixed(1.0), generator)
        wait(device)
        return 50 * BATCH

    works = {OURS: ours}
    if device.type == "cpu":
        works["PySM3, emission a band plus noise"] = _pysm_route()
    row = {"benchmark": "simulate", "device": device.type, "unit": "vectors"}
    yield from side_by_side(row, in_turn(works, REPEATS))


def _pysm_route() -> Callable[[], int]:
    """What an analyst does for the same maps: PySM3 emission of each component a band, noise."""
    import pysm3
    import pysm3.units as u

    templates = load_templates("mock")
    nside, n_pix = templates.nside, hp.nside2npix(templates.nside)
    rng = np.random.default_rng(0)
    zero = np.zeros(n_pix)
    beta = rng.normal(-3.0, 0.2, n_pix)
    synchrotron = pysm3.PowerLaw(
        np.stack([zero, *templates.synchrotron]) * u.uK_RJ, "23 GHz",
        beta * u.dimensionless_unscaled, nside, freq_ref_P="23 GHz",
    )  # fmt: skip
    dust = pysm3.ModifiedBlackBody(
        np.stack([zero, *templates.dust]) * u.uK_RJ, "353 GHz", "353 GHz",
        np.full(n_pix, 1.54) * u.dimensionless_unscaled, np.full(n_pix, 20.0) * u.K, nside,
    )  # fmt: skip
    sigma = _INSTRUMENT.noise_rms(nside)

    def route() -> int:
        for k, frequency in enumerate(_INSTRUMENT.frequency_ghz):
            emission = synchrotron.get_emission(frequency * u.GHz)
            emission += dust.get_emission(frequency * u.GHz)
            emission.value[1:] + sigma[k] * rng.standard_normal((2, n_pix))
        return n_pix

    return route


def classification(device: torch.device) -> Iterator[dict]:
    """Pixels a second through features and network, from memory; and with chi-square."""
    for kind in ("foreglow", "farsian2020"):
        model = Recogniser.untrained(kind, _INSTRUMENT, PROBLEMS["four"], 0)
        model.network.to(device)
        data = torch.randn(BATCH, 2, _INSTRUMENT.n_band, device=device) * 10
        sigma = torch.ones(BATCH, _INSTRUMENT.n_band, device=device)

        def work(model=model, data=data, sigma=sigma) -> int:
            for _ in range(25):
                model.log_probability(data, sigma)
            wait(device)
            return 25 * BATCH

        row = {"benchmark": "classify", "device": device.type, "unit": "pixels"}
        yield {**row, "what": f"{OURS}, network `{kind}`", **rate(work)}
    yield from _with_chi_square(device)


def _with_chi_square(device: torch.device) -> Iterator[dict]:
    """Network and chi-square, which says whether any model fits, beside the network alone."""
    model = Recogniser.load("mock-four", device)
    simulator = VectorSimulator(load_templates("mock"), _INSTRUMENT, model.models).to(device)
    vectors = simulator.draw(2 * BATCH, NoiseLaw.fixed(1.0), make_generator(device, 0, 0))

    def work(chi_square: bool) -> int:
        for _ in range(10):
            said = model.log_probability(vectors.data, vectors.sigma)
            if chi_square:
                goodness_of_fit(model.models, _INSTRUMENT, vectors.data, vectors.sigma, said)
        wait(device)
        return 20 * BATCH

    works = {OURS: partial(work, True), "the network alone": partial(work, False)}
    row = {"benchmark": "classify, and whether any model fits", "device": device.type}
    yield from side_by_side({**row, "unit": "pixels"}, in_turn(works, REPEATS))


def memory() -> Iterator[dict]:
    """Peak memory of classification from FITS, each Nside in a process of its own."""
    for nside in MEMORY_NSIDES:
        answer = subprocess.run(
            [sys.executable, __file__, str(nside)], capture_output=True, text=True, check=True
        )
        yield json.loads(answer.stdout.splitlines()[-1])


def _measure_memory(nside: int) -> dict:
    model = Recogniser.untrained("foreglow", _INSTRUMENT, PROBLEMS["four"], 0)
    n_pix = hp.nside2npix(nside)
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for name in _INSTRUMENT.band:
            qu = np.random.default_rng(0).standard_normal((2, n_pix), dtype=np.float32)
            paths[name] = Path(folder) / f"{name}.fits"
            write_polarisation_map(paths[name], qu, "uK_RJ", header=NO_BEAM)
            del qu
        # how much one map took is already in the peak: measure what classification adds to it
        before = peak_mib()
        start = time.perf_counter()
        found = classify(paths, model=model)
        seconds = time.perf_counter() - start
        found.to_fits(Path(folder) / "out.fits")
    maps = 2 * 4 * n_pix * _INSTRUMENT.n_band / 2**20
    probabilities = found.probability.nbytes / 2**20
    # memory-mapped maps count as resident once read, though the system may drop them at will
    return {
        "benchmark": "memory of classification", "device": "cpu", "nside": nside,
        "maps_mib": maps, "probabilities_mib": probabilities, "peak_mib": peak_mib(),
        "peak_less_maps_and_probabilities_mib": peak_mib() - maps - probabilities,
        "peak_before_mib": before, "pixels_per_s_from_fits": n_pix / seconds,
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(_measure_memory(int(sys.argv[1]))))
