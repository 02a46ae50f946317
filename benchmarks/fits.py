"""Parametric fits: pixels a second beside FGBuster, agreement, and memory over the full sky."""

import json
import os
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
from torch import Tensor

from foreglow.compute.random import make_generator
from foreglow.recognition.fits.optimise import Fit, fit
from foreglow.recognition.fits.skymodel import candidate
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.simulation.vectors import NoiseLaw, VectorSimulator
from foreglow.sky.instrument_files import load_instrument
from foreglow.sky.templates import load_templates
from measure import OURS, devices, median_and_range, peak_mib, rate, rate_once, ratio, wait

MODELS = ("power_law", "curved")
N_PIXEL = 2**17
FGBUSTER_NSIDE = 4  # 192 pixels
REPEATS = 5
MEMORY_NSIDES = (64, 128, 256)
BLOCK = 2**16  # pixels read, fitted and written at once
SAME = 1e-3  # chi-squares closer than this are of one minimum
_INSTRUMENT = load_instrument("quijote+litebird")
_FREQUENCY = torch.tensor(_INSTRUMENT.frequency_ghz, dtype=torch.float64)


def fits(device: torch.device) -> Iterator[dict]:
    """Pixels a second of the fits, in turn with FGBuster's on the processor."""
    data, sigma = (t.to(device) for t in _draw(N_PIXEL, 0))
    row = {"benchmark": "fit", "device": device.type, "unit": "pixels"}
    for name in MODELS:
        if device.type == "cuda":

            def work(name=name) -> int:
                fit(candidate(name), _FREQUENCY, data, sigma)
                wait(device)
                return len(data)

            yield {**row, "model": name, "what": OURS, **rate(work)}
        else:
            yield from ({**row, "model": name, **found} for found in _in_turn(name, data, sigma))


def _draw(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pixels of the mock Galaxy, half of them curved, and Table 1 noise of Nside 16."""
    simulator = VectorSimulator(
        load_templates("mock"), _INSTRUMENT, PROBLEMS["curvature"], noise_nside=16
    )
    generator = make_generator(torch.device("cpu"), seed, 0)
    vectors = simulator.draw(n, NoiseLaw.fixed(1.0), generator)
    return vectors.data, vectors.sigma


def _in_turn(name: str, data: Tensor, sigma: Tensor) -> Iterator[dict]:
    """Ours and theirs, again and again by turns, so that a busy machine slows both."""
    mine: dict[int, list[float]] = {count: [] for count in sorted({torch.get_num_threads(), 1})}
    theirs: dict[tuple[str, str], list[float]] = {}
    _fit_with(max(mine), name, data, sigma)
    with tempfile.TemporaryDirectory() as folder:
        n = hp.nside2npix(FGBUSTER_NSIDE)
        fgbuster = FGBuster(Path(folder), name, data[:n], sigma[:n])
        for _ in range(REPEATS):
            for count, rates in mine.items():
                rates.append(rate_once(lambda c=count: _fit_with(c, name, data, sigma)))
            for threads in ("1", "as it likes"):
                for setting, per_s in fgbuster.rates(threads).items():
                    theirs.setdefault((setting, threads), []).append(per_s)
        for count, rates in mine.items():
            yield {"what": OURS, "threads": count, **median_and_range(rates)}
        if not theirs:
            yield {"what": "FGBuster was not there", "why": fgbuster.missing}
            return
        for (setting, threads), rates in theirs.items():
            yield {"what": fgbuster.name(setting), "threads": threads, **median_and_range(rates)}
        best = fgbuster.quickest(theirs)
        ours = fit(candidate(name), _FREQUENCY, data[: fgbuster.n], sigma[: fgbuster.n])
        for setting, threads in dict.fromkeys([("default settings", "1"), best]):
            for count, rates in mine.items():
                yield {
                    "what": OURS, "threads": count, "beside": fgbuster.name(setting),
                    "beside_threads": threads, **ratio(rates, theirs[setting, threads]),
                }  # fmt: skip
            yield {
                "what": f"agreement with {fgbuster.name(setting)}",
                **_agreement(ours, *fgbuster.found(setting)),
            }


def _fit_with(threads: int, name: str, data: Tensor, sigma: Tensor) -> int:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    fit(candidate(name), _FREQUENCY, data, sigma)
    torch.set_num_threads(before)
    return len(data)


class FGBuster:
    """FGBuster's fits of a map of pixels, by the Python that FGBUSTER_PYTHON names.

    Each pixel by itself, or together those of patches of some Nside.
    """

    def __init__(
        self, folder: Path, model: str, data: Tensor, sigma: Tensor, patch_nside: int | None = None
    ):
        self.n = len(data)
        self.version = ""
        self.missing = ""
        self._model = model
        self._patches = [] if patch_nside is None else [str(patch_nside)]
        self._pixels, self._result = folder / "pixels.npz", folder / "result.npz"
        np.savez(
            self._pixels, frequency_ghz=_FREQUENCY.numpy(), sigma=sigma[0].double().numpy(),
            data=data.double().numpy(),
        )  # fmt: skip

    def rates(self, threads: str) -> dict[str, float]:
        """Pixels a second by setting; none where FGBuster cannot be had."""
        python = os.environ.get("FGBUSTER_PYTHON")
        if not python:
            self.missing = "set FGBUSTER_PYTHON to the Python of an environment that has it"
        if self.missing:
            return {}
        environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
        if threads == "1":
            environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        script = Path(__file__).with_name("fgbuster_fits.py")
        files = [str(self._pixels), self._model, str(self._result)]
        command = [python, str(script), *files, *self._patches]
        try:
            answer = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            self.missing = f"{python} failed: {getattr(error, 'stderr', '')[-500:] or error}"
            return {}
        told = json.loads(answer.stdout.splitlines()[-1])
        self.version = told["version"]
        return told["rates"]

    def name(self, setting: str) -> str:
        """What a row calls it."""
        return f"FGBuster {self.version}, {setting}"

    def found(self, setting: str) -> tuple[np.ndarray, np.ndarray]:
        """Parameters (n, n_param) and chi-square (n,)."""
        with np.load(self._result) as file:
            return file[f"{setting}/parameters"], file[f"{setting}/chi2"]

    def quickest(self, rates: dict[tuple[str, str], list[float]]) -> tuple[str, str]:
        """Setting and threads that are quickest and, in 99% of pixels, as near the minimum."""
        reference = self.found("default settings")[1]

        def agrees(setting: str) -> bool:
            return bool(np.mean(self.found(setting)[1] > reference + SAME) <= 0.01)

        return max((key for key in rates if agrees(key[0])), key=lambda key: np.median(rates[key]))


def _agreement(ours: Fit, parameters: np.ndarray, chi2: np.ndarray) -> dict[str, float]:
    excess = ours.chi2.numpy() - chi2
    same = np.abs(excess) < SAME
    error = torch.diagonal(ours.covariance, dim1=1, dim2=2).sqrt().numpy()
    shift = np.abs(ours.parameters.numpy() - parameters) / error
    return {
        "n_pixels": len(chi2),
        "converged": float(ours.converged.double().mean()),
        "largest_chi2_excess_of_ours": float(excess.max()),
        "same_minimum": float(same.mean()),
        "ours_lower": float((excess <= -SAME).mean()),
        "largest_parameter_shift_in_sigma_where_same": float(shift[same].max()),
    }


def full_sky() -> Iterator[dict]:
    """Full skies fitted from file to file, a block at a time, each in a process of its own."""
    for nside in MEMORY_NSIDES:
        with tempfile.TemporaryDirectory() as folder:
            maps = Path(folder) / "maps.float32"
            n_pixel = hp.nside2npix(nside)
            with maps.open("wb") as file:
                for start in range(0, n_pixel, BLOCK):
                    data, sigma = _draw(min(BLOCK, n_pixel - start), start)
                    torch.cat([data, sigma[:, None]], 1).numpy().tofile(file)
            for name in MODELS:
                command = [sys.executable, __file__, name, str(maps)]
                answer = subprocess.run(command, capture_output=True, text=True, check=True)
                yield {
                    "benchmark": "full sky fit", "device": "cpu", "model": name, "nside": nside,
                    **json.loads(answer.stdout.splitlines()[-1]),
                }  # fmt: skip


def _fit_file(name: str, path: str) -> dict:
    """Fit maps in a file (n, Q and U and sigma, band) and write parameters, errors, chi-square."""
    before = peak_mib()
    done, start = 0, time.perf_counter()
    with Path(path).open("rb") as maps, Path(f"{path}.{name}").open("wb") as out:
        for block in _blocks(lambda count: np.fromfile(maps, np.float32, count)):
            found = fit(candidate(name), _FREQUENCY, block[:, :2], block[:, 2])
            covariance = found.covariance.flatten(1)
            columns = torch.cat([found.parameters, covariance, found.chi2[:, None]], dim=1)
            columns.float().numpy().tofile(out)
            done += len(block)
    # neither input nor output is ever held whole, or mapped: all of the peak is working memory
    return {
        "pixels": done, "threads": torch.get_num_threads(),
        "pixels_per_s_from_file_to_file": done / (time.perf_counter() - start),
        "peak_mib": peak_mib(), "peak_before_mib": before, "added_mib": peak_mib() - before,
    }  # fmt: skip


def _blocks(read: Callable[[int], np.ndarray]) -> Iterator[Tensor]:
    size = 3 * _INSTRUMENT.n_band
    while len(values := read(BLOCK * size)):
        yield torch.from_numpy(values.reshape(-1, 3, _INSTRUMENT.n_band))


def main() -> None:
    """Only these: `python benchmarks/fits.py`."""
    for device in devices():
        for row in fits(device):
            print(row, flush=True)
    for row in full_sky():
        print(row, flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(_fit_file(*sys.argv[1:])))
    else:
        main()
