"""Side-by-side timings, written to benchmarks/results.json: `make bench`."""

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # both as the command line does

import torch

from cutouts import cutouts, filtering
from fits import fits, full_sky
from foreglow.runs import package_versions
from recognition import classification, memory, simulation
from unet import unet

RESULTS = Path(__file__).parent / "results.json"


def main() -> None:
    """Run every benchmark and write what came."""
    table = {
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "date": datetime.now(UTC).date().isoformat(),
        "versions": package_versions(),
        "results": [],
    }
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for device in devices:
        for part in (simulation, classification, fits, cutouts, unet):
            for row in part(torch.device(device)):
                print(row)
                table["results"].append(row)
    for part in (memory, full_sky, filtering):
        for row in part():
            print(row)
            table["results"].append(row)
    RESULTS.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(f"written: {RESULTS}")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
