"""Prepare, predict and fit in one process with all cores, beside two workers of Dask.

    python benchmarks/dask_workers.py [--nside 256] [--out dask.json]

Each row says how long both took, and whether their files are the same. The start of the workers is
a row of its own: the others have them running.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from foreglow.tuning import tune

tune()  # as the command line does, before PyTorch is imported

import healpy as hp
import numpy as np
import torch
from astropy.io import fits

from foreglow.dust.predict import predict
from foreglow.dust.simulate import make_sky_files
from foreglow.maps.prepare import prepare
from foreglow.reproduce.farsian2020.bench import Bench
from foreglow.reproduce.farsian2020.fits import fit_sky
from foreglow.sky.instrument import load_instrument
from foreglow.sky.templates import load_templates
from foreglow.workers import Spread, open_workers

WORKERS = 2
CHANNELS = 64
SKIES = 8
STEP_KMS, FIRST_KMS = 1.28823448620083, -64.5


def rows(folder: Path, nside: int, workers: int = WORKERS) -> Iterator[dict[str, Any]]:
    """One row a stage; results must agree, or the row says so.

    Parameters
    ----------
    folder : Path
        For some GB of files at Nside 256 and above; the caller removes it.
    nside : int
        Of the cubes; 256 or more, as the shipped model asks.
    workers : int
    """
    stages = make_stages(folder, nside)
    start = time.perf_counter()
    with open_workers(f"local:{workers}") as spread:
        list(spread(abs, range(workers)))
        yield {"stage": "start workers", "workers": workers, "s": time.perf_counter() - start}
        for name, (n, unit, work) in stages.items():
            if name != "predict":  # which takes so long that imports are no part of it
                work(spread)
            times, results = {}, {}
            for who, how in (("workers", spread), ("one process", map)):
                begin = time.perf_counter()
                results[who] = work(how)
                times[who] = time.perf_counter() - begin
            yield {
                "stage": name, "workers": workers, "n": n, "unit": unit, "nside": nside,
                "threads": torch.get_num_threads(), "s": times["workers"],
                "s_one_process": times["one process"],
                "ratio": times["one process"] / times["workers"],
                "same": results["workers"] == results["one process"],
            }  # fmt: skip


Stage = tuple[int, str, Callable[[Spread], object]]


def make_stages(folder: Path, nside: int) -> dict[str, Stage]:
    """Size, unit of it, and what is done with a `spread`; the result tells whether two agree."""
    cube = write_survey(folder / "CAR.fits", nside)
    sky = folder / "sky"
    make_sky_files(sky, nside, -64.5, 17.0, 0)
    bench = Bench(
        load_templates("mock", 16), load_instrument("quijote+litebird"), 0, "cpu", folder / "none"
    )

    def run_prepare(spread: Spread) -> object:
        made = prepare([cube], folder / "hi.zarr", nside=nside, spread=spread, overwrite=True)
        return [float(np.nansum(channel, dtype=np.float64)) for channel in made.channels()]

    def run_predict(spread: Spread) -> object:
        files = sky / "cube.zarr", folder / "dust.fits", sky / "mask.fits"
        predict("mock-dust", *files, device="cpu", overwrite=True, spread=spread)
        return Path(files[1]).read_bytes()

    def run_fit(spread: Spread) -> object:
        found = spread(partial(fit_sky, bench, "four", 1.0), range(SKIES))
        return [float(choice.log_evidence.sum()) for _, choice, _ in found]

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


def main() -> None:
    """Print the rows, and write them if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nside", type=int, default=256)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for row in rows(Path(folder), options.nside):
            found.append(row)
            print(json.dumps(row), flush=True)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
