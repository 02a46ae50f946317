"""Commands on a Dask scheduler and two workers that have 1 GiB each: what happens, what is said.

`python benchmarks/limited_workers.py 512` prints these rows alone. The limit of a worker is Dask's
own (`--memory-limit`: it is ended at 95%), that of the scheduler one of its address space. Each
command has once its own `--memory`, once what leaves the worker a tenth.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

LIMIT = 1 << 30
MOST_NSIDE = 512
BOUNDS = ("4 GiB", "920 MiB")
_START_S = 60


def limited_rows(folder: Path, nside: int, gas: Path | None = None) -> list[dict]:
    """What classify and fit do with such workers at Nside 512 or less, and predict at any.

    `gas` is what `dust simulate` made at that Nside; without it predict has 512 or less, too.
    """
    lower = min(nside, MOST_NSIDE)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for command, words in commands(folder, lower, gas).items():
        for memory in BOUNDS:
            with cluster(folder) as (address, processes):
                row = _try([*words, "--memory", memory, "--workers", address], folder, processes)
            here = nside if gas and command == "dust predict" else lower
            row = {"benchmark": "survey", "stage": "limited", "device": "cpu", "nside": here,
                   "what": command, "memory": memory, **row}  # fmt: skip
            print(json.dumps(row), flush=True)
            rows.append(row)
    return rows


def commands(folder: Path, nside: int, gas: Path | None = None) -> dict[str, list[str]]:
    """Commands without `--memory`, by name; their input is made where it is not there."""
    maps, out = folder / "maps", folder / "out.fits"
    if not (maps / "truth.fits").exists():
        _foreglow("recognize", "simulate", "--nside", str(nside), "--out", str(maps))
    if gas is None:
        gas = folder / "gas"
        if not (gas / "mask.fits").exists():
            _foreglow("dust", "simulate", "--nside", str(nside), "--out", str(gas))
    files = sorted(maps.glob("band_*.fits"))
    bands = [w for f in files for w in ("--maps", f"{f.stem.removeprefix('band_')}={f}")]
    end = ["--out", str(out), "--overwrite"]
    sky = ["--cube", str(gas / "cube.zarr"), "--mask", str(gas / "mask.fits")]
    return {
        "classify": ["recognize", "classify", "--model", "mock-four", *bands, *end],
        "fit": ["recognize", "fit", *bands, *end],
        "dust predict": ["dust", "predict", "--model", "mock-dust", *sky, *end],
    }


def _foreglow(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "foreglow", *words], check=True)


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, list[psutil.Process]]]:
    """A scheduler and two workers of 1 GiB each, ended with the context."""
    with tempfile.TemporaryDirectory() as local:
        file = Path(local) / "scheduler.json"
        scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard",
                     "--port", "0", "--scheduler-file", str(file)]  # fmt: skip
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file",
                  str(file), "--no-dashboard", "--nworkers", "1", "--nthreads", "1",
                  "--memory-limit", str(LIMIT), "--local-directory", local]  # fmt: skip
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with (folder / "dask.log").open("a", encoding="utf-8") as log:
            started = [_start(scheduler, log, environment, LIMIT)]
            started += [_start(worker, log, environment) for _ in range(2)]
            try:
                yield _address(file), [psutil.Process(child.pid) for child in started]
            finally:
                for child in started[::-1]:
                    child.terminate()
                for child in started:
                    child.wait(_START_S)


def _start(command: list[str], log, environment: dict[str, str], limit: int = 0):
    def within() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    return subprocess.Popen(command, stdout=log, stderr=log, env=environment, preexec_fn=within)


def _address(file: Path) -> str:
    for _ in range(10 * _START_S):
        if file.exists():
            return json.loads(file.read_text(encoding="utf-8"))["address"]
        time.sleep(0.1)
    raise RuntimeError(f"expected a scheduler within {_START_S} s, got none; see dask.log")


def _try(words: list[str], folder: Path, processes: list[psutil.Process]) -> dict:
    """A command on that cluster: how it ended, and the most memory of each process."""
    log = folder / "log.txt"
    begin = time.perf_counter()
    most = {"scheduler_mib": 0.0, "worker_mib": 0.0, "command_mib": 0.0}
    workers: set[int] = set()
    with log.open("w", encoding="utf-8") as written:
        child = subprocess.Popen(
            [sys.executable, "-m", "foreglow", *words], stdout=written, stderr=subprocess.STDOUT
        )
        while child.poll() is None:
            below = [c for p in processes[1:] for c in _children(p)]
            workers |= {c.pid for c in below if "spawn_main" in "".join(_line(c))}
            _note(most, "scheduler_mib", processes[:1])
            _note(most, "worker_mib", below)
            _note(most, "command_mib", [psutil.Process(child.pid)])
            time.sleep(0.05)
    text = " ".join(log.read_text(encoding="utf-8").replace(f"{folder}/", "").split())
    return {
        "seconds": time.perf_counter() - begin, "code": child.returncode,
        **most, "workers_started": len(workers),
        "said": text[text.find("error: ") :] if child.returncode else "",
    }  # fmt: skip


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _note(most: dict[str, float], key: str, processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            most[key] = max(most[key], process.memory_info().rss / 2**20)
        except psutil.Error:
            continue


if __name__ == "__main__":
    sides = [int(word) for word in sys.argv[1:]] or [MOST_NSIDE]
    with tempfile.TemporaryDirectory() as temporary:
        for side in sides:
            limited_rows(Path(temporary), side)
