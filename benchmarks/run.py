"""Side-by-side timings, cost against work, and limits: `make bench` -> benchmarks/results.json."""

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from foreglow.compute.cpu import tune

tune()  # as the command line does, before PyTorch is imported

import torch

from cutouts import cutouts, filtering
from dask_workers import workers
from ddp import distributed
from fits import fits, full_sky
from foreglow.runs import package_versions
from limits import limits
from machine import machine
from measure import devices, processor
from patches import patch_fits
from polarised import polarised
from precision import precision
from recognition import classification, memory, simulation
from scaling import scaling
from settings import settings
from streaming import classification_from_files, fit_from_files
from unet import unet
from vectors import accuracy, classifying, training

RESULTS = Path(__file__).parent / "results.json"
OF_A_DEVICE = (
    machine,
    scaling,
    simulation,
    classification,
    training,
    fits,
    cutouts,
    unet,
    polarised,
    precision,
)
OF_THE_PROCESSOR = (
    filtering, patch_fits, classifying, accuracy, memory, full_sky, classification_from_files,
    fit_from_files, distributed, workers, settings,
)  # fmt: skip

Part = Callable[[], Iterator[dict]]


def parts() -> list[tuple[str, Part]]:
    """Every benchmark that is timed, by name."""
    found: list[tuple[str, Part]] = []
    for device in devices():
        found += [(f"{part.__name__}, {device}", partial(part, device)) for part in OF_A_DEVICE]
    return found + [(part.__name__, part) for part in OF_THE_PROCESSOR]


def choose(wanted: list[str]) -> list[tuple[str, Part]]:
    """The benchmarks named, or all; a name that is none ends the script before anything is done."""
    every = parts()
    known = list(dict.fromkeys([*(name.split(",")[0] for name, _ in every), "limits"]))
    strangers = [name for name in wanted if name not in known]
    if strangers:
        print(
            f"expected names of benchmarks, got {', '.join(strangers)}; give one or more of "
            f"{', '.join(known)}, or none for all",
            file=sys.stderr,
        )
        sys.exit(2)
    return [part for part in every if not wanted or part[0].split(",")[0] in wanted]


def main(wanted: list[str]) -> None:
    """Run every benchmark, or those named, and write what came after each.

    With names, rows of the others stay as they are: `python benchmarks/run.py filtering`; `limits`
    are always counted again from what was measured.
    """
    chosen = choose(wanted)
    rows, seconds = _old() if wanted else ([], {})
    for name, part in chosen:
        start = time.perf_counter()
        found = []
        for row in part():
            print(json.dumps(row), flush=True)
            found.append({"part": name, **row})
        seconds[name] = round(time.perf_counter() - start, 1)
        print(f"{name}: {seconds[name]} s", flush=True)
        rows = [row for row in rows if row["part"] != name] + found
        _write(rows, seconds)
    _write(rows, seconds)
    print(f"written: {RESULTS}")


def _old() -> tuple[list[dict], dict[str, float]]:
    table = json.loads(RESULTS.read_text(encoding="utf-8"))
    return table["results"], table["seconds"]


def _write(rows: list[dict], seconds: dict[str, float]) -> None:
    names = [name for name, _ in parts()]
    rows = [row for row in rows if row["part"] != "limits"]
    rows += [{"part": "limits", **row} for row in limits(rows)]
    table = {
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "system": platform.platform(),
            "load": round(os.getloadavg()[2], 1),  # of the last 15 minutes
        },
        "date": datetime.now(UTC).date().isoformat(),
        "versions": package_versions(),
        "seconds": seconds,
        "results": sorted(rows, key=lambda row: [*names, "limits"].index(row["part"])),
    }
    temporary = RESULTS.with_suffix(".part")
    temporary.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    temporary.replace(RESULTS)


if __name__ == "__main__":
    main(sys.argv[1:])
