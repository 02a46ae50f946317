"""Prepare, predict and fit by one process with all cores, in turn with two workers of Dask.

`python benchmarks/dask_workers.py` prints these rows alone. The workers run already when the clock
starts; what they make must be what one process does.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from foreglow.compute.cpu import tune

tune()  # as the command line does, before PyTorch is imported

import healpy as hp
import numpy as np
import torch
from astropy.io import fits

from foreglow.compute.workers import MapFn, open_workers
from foreglow.dust.predict import predict_dust
from foreglow.dust.simulate import make_sky_files
from foreglow.hi_cube.prepare import prepare
from foreglow.reproduce.farsian2020.fits import fit_sky
from foreglow.reproduce.farsian2020.worker import WorkerContext
from foreglow.sky.instrument_files import load_instrument
from foreglow.sky.templates import load_templates
from measure import side_by_side

WORKERS = 2
NSIDE = 256  # of the cubes
CHANNELS = 64
SKIES = 8
REPEATS = 3
# of the rms: networks add up in another order on other numbers of threads
TOLERANCE = {"prepare": 0.0, "predict": 1e-3, "fit": 0.0}
STEP_KMS, FIRST_KMS = 1.28823448620083, -64.5


def workers() -> Iterator[dict]:
    """Rates of each stage: two workers beside one process.

    Raises
    ------
    AssertionError
        If both did not find the same.
    """
    with tempfile.TemporaryDirectory() as folder, open_workers(f"local:{WORKERS}") as map_fn:
        list(map_fn(abs, range(WORKERS)))  # else the first turn would start them
        for name, (n, unit, work) in make_stages(Path(folder), NSIDE).items():
            ways = {"two workers": map_fn, "one process": map}
            rates: dict[str, list[float]] = {way: [] for way in ways}
            for turn in range(REPEATS):
                results = []
                for way, how in list(ways.items())[:: -1 if turn % 2 else 1]:
                    begin = time.perf_counter()
                    results.append(work(how))
                    rates[way].append(n / (time.perf_counter() - begin))
                apart = np.nanmax(np.abs(results[0] - results[1])) / np.nanstd(results[0])
                if apart > TOLERANCE[name]:
                    raise AssertionError(f"{name}: workers differ by {apart:.1g} of the rms")
            row = {"benchmark": f"{name} by two workers of Dask", "device": "cpu", "unit": unit}
            row |= {"n": n, "threads": torch.get_num_threads()}
            yield from side_by_side(row, rates, ours="two workers")


Stage = tuple[int, str, Callable[[MapFn], np.ndarray]]


def make_stages(folder: Path, nside: int) -> dict[str, Stage]:
    """Size, unit of it, and what is done with a `map_fn`."""
    cube = write_survey(folder / "CAR.fits", nside)
    sky = folder / "sky"
    make_sky_files(sky, nside, -64.5, 17.0, 0)
    bench = WorkerContext(
        load_templates("mock", 16), load_instrument("quijote+litebird"), 0, "cpu", folder / "none"
    )

    def run_prepare(map_fn: MapFn) -> np.ndarray:
        made = prepare(
            [cube],
            folder / "hi.zarr",
            nside=nside,
            pool=SimpleNamespace(map=map_fn),
            overwrite=True,
        )
        return np.array([np.nansum(channel, dtype=np.float64) for channel in made.channels()])

    def run_predict(map_fn: MapFn) -> np.ndarray:
        found = predict_dust(
            sky / "cube.zarr", mask=sky / "mask.fits", out=folder / "dust.fits",
            device="cpu", overwrite=True, pool=SimpleNamespace(map=map_fn),
        )  # fmt: skip
        return found.mean

    def run_fit(map_fn: MapFn) -> np.ndarray:
        found = map_fn(partial(fit_sky, bench, "four", 1.0), range(SKIES))
        return np.array([float(choice.log_evidence.sum()) for _, choice, _ in found])

    return {
        "prepare": (CHANNELS, "channels", run_prepare),
        "predict": (3072, "cutouts", run_predict),
        "fit": (SKIES * hp.nside2npix(16), "pixels", run_fit),
    }


def write_survey(path: Path, nside: int) -> Path:
    """A CAR cube in the form of HI4PI's, with pixels as large as those of the Nside."""
    step = 60 * 5.0 * 1024 / nside / 3600  # deg
    columns, rows_ = round(360 / step) + 1, round(180 / step) + 1
    header = fits.Header()
    cards: dict[str, Any] = {"BUNIT": "K", "BMAJ": 3 * step, "BMIN": 3 * step, "SPECSYS": "LSRK"}
    cards |= {"CTYPE1": "GLON-CAR", "CUNIT1": "deg", "CDELT1": -step, "CRVAL1": 0.0}
    cards |= {"CRPIX1": (columns + 1) / 2, "CRPIX2": (rows_ + 1) / 2}
    cards |= {"CTYPE2": "GLAT-CAR", "CUNIT2": "deg", "CDELT2": step, "CRVAL2": 0.0}
    cards |= {"CTYPE3": "VRAD", "CUNIT3": "km/s", "CDELT3": STEP_KMS, "CRVAL3": FIRST_KMS}
    header.update(cards | {"CRPIX3": 1.0, "RESTFRQ": 1420405751.77})
    data = np.random.default_rng(0).normal(size=(CHANNELS, rows_, columns)).astype(np.float32)
    fits.PrimaryHDU(data, header).writeto(path)
    return path


if __name__ == "__main__":
    for found in workers():
        print(json.dumps(found), flush=True)
