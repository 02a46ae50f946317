"""Maps larger than memory: classified and fitted from file to file, beside the rate from memory.

`python streaming.py` measures Nside 2048 (7 GB of maps, in a folder that goes away), as
`classification_from_files` and `fit_from_files` do; `python streaming.py 256` is a quick look.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from foreglow.compute.cpu import tune

tune()  # as the command line does, before PyTorch is imported

import healpy as hp
import numpy as np
import torch

from foreglow.maps.write import write_map_blocks
from foreglow.recognition.classify import classify
from foreglow.recognition.fit_maps import fit
from foreglow.recognition.fits.choice import choose
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.recognition.observation.streaming import BLOCK, MapFiles
from foreglow.recognition.simulation.vectors import NoiseLaw, VectorSimulator
from foreglow.sky.instrument_files import load_instrument
from foreglow.sky.templates import load_templates
from measure import peak_mib, rate_once, ratio

MEMORY = "4 GiB"
MODEL = "mock-four"
_INSTRUMENT = load_instrument("quijote+litebird")
_TILE_NSIDE = 256  # vectors that are drawn, and repeated over the sky
_TURN = {"classify": 1 << 18, "fit": 1 << 15}  # pixels from memory
_LAPS = 8


def classification_from_files(nside: int = 2048) -> Iterator[dict]:
    """Pixels a second and peak memory of classification within `MEMORY`, beside from memory."""
    yield _in_a_process("classify", nside)


def fit_from_files(nside: int = 128) -> Iterator[dict]:
    """Pixels a second and peak memory of the fit of four models within `MEMORY`, likewise."""
    yield _in_a_process("fit", nside)


def _in_a_process(what: str, nside: int) -> dict:
    """The maps are made here, so that the peak is that of the work alone."""
    with tempfile.TemporaryDirectory() as folder:
        write_sky(Path(folder), nside)
        answer = subprocess.run(
            [sys.executable, __file__, what, folder, str(nside)],
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    return json.loads(answer.stdout.splitlines()[-1])


def write_sky(folder: Path, nside: int) -> None:
    """Maps of all bands, of vectors of the training law with the noise of such small pixels."""
    n_pix = hp.nside2npix(nside)
    tile, _ = _vectors(min(n_pix, hp.nside2npix(_TILE_NSIDE)), nside)
    for k, band in enumerate(_INSTRUMENT.band):
        q, u = np.ascontiguousarray(tile[:, :, k].T)
        columns = {"Q_STOKES": (q, "uK_RJ"), "U_STOKES": (u, "uK_RJ")}
        header = {"FWHM": (0.0, "[arcmin] no beam")}
        blocks = (columns for _ in range(n_pix // len(q)))
        write_map_blocks(folder / f"{band}.fits", blocks, nside, frame="G", header=header)


def _vectors(n: int, nside: int) -> tuple[np.ndarray, np.ndarray]:
    law = VectorSimulator(load_templates("mock", 64), _INSTRUMENT, PROBLEMS["four"], nside)
    drawn = law.draw(n, NoiseLaw.fixed(0.01), torch.Generator().manual_seed(0))
    return drawn.data.numpy(), drawn.sigma.numpy()


def _measure(what: str, folder: Path, nside: int) -> dict:
    maps = {band: folder / f"{band}.fits" for band in _INSTRUMENT.band}
    source = MapFiles.of(_INSTRUMENT, maps, noise_scale=0.01)
    out = folder / "out.fits"
    from_memory = {"classify": _classify_memory, "fit": _fit_memory}[what](nside)
    from_memory()

    rates: dict[str, list[float]] = {"files": [], "memory": []}
    peak_before = peak_mib()
    begun, before = time.perf_counter(), 0

    def take_turns(done: int, total: int) -> None:
        """After each part of the sky, as much from memory: on a shared machine rates wander."""
        nonlocal begun, before
        if done * _LAPS // total == len(rates["files"]):
            return
        rates["files"].append((done - before) / (time.perf_counter() - begun))
        rates["memory"].append(rate_once(from_memory))
        begun, before = time.perf_counter(), done

    if what == "classify":
        classify(source, model=MODEL, out=out, memory=MEMORY, progress=take_turns)
    else:
        fit(source, models=PROBLEMS["four"], out=out, memory=MEMORY, progress=take_turns)
    return {
        "benchmark": f"{what} maps of Nside {nside}", "device": "cpu", "nside": nside,
        "bands": _INSTRUMENT.n_band, "memory": MEMORY, "peak_before_mib": peak_before,
        "peak_mib": peak_mib(), "unit": "pixels", "what": "foreglow, file to file",
        "beside": "from memory", **ratio(rates["files"], rates["memory"]),
    }  # fmt: skip


def _classify_memory(nside: int) -> Callable[[], int]:
    model = Recogniser.load(MODEL)

    def work(data: torch.Tensor, sigma: torch.Tensor) -> None:
        model.log_probability(data, sigma).exp()

    return _block_by_block(work, "classify", nside)


def _fit_memory(nside: int) -> Callable[[], int]:
    def work(data: torch.Tensor, sigma: torch.Tensor) -> None:
        choose(PROBLEMS["four"], _INSTRUMENT.bands, data, sigma).probability()

    return _block_by_block(work, "fit", nside)


def _block_by_block(
    work: Callable[[torch.Tensor, torch.Tensor], None], what: str, nside: int
) -> Callable[[], int]:
    """A turn's pixels, each once: one block again and again would lie in the processor's cache."""
    data, sigma = (torch.from_numpy(a).contiguous() for a in _vectors(_TURN[what], nside))

    def turn() -> int:
        for block in zip(data.split(BLOCK), sigma.split(BLOCK), strict=True):
            work(*block)
        return len(data)

    return turn


if __name__ == "__main__":
    if sys.argv[1:2] in (["classify"], ["fit"]):
        print(json.dumps(_measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
    else:
        sizes = [int(nside) for nside in sys.argv[1:]]
        for part in (classification_from_files, fit_from_files):
            for row in part(*sizes):
                print(json.dumps(row, indent=1))
