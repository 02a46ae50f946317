"""A day in the life of a survey: each stage of both jobs from files to files, by the command line.

`python benchmarks/survey.py` runs every stage at Nside 2048 in 17 bands, within 4 GiB a process,
serial and by two Dask workers, and writes benchmarks/survey.json; `python benchmarks/table.py` puts
its tables into docs/performance.md. A stage that is recorded is not run again unless `--again` or
`--stages` names it. `--nside 128` is a quick look.

Seconds are elapsed ones; those of processors are of `wait4`, of the command and what it waited for.
Memory is that of psutil and of `getrusage`: the largest resident set of one process, and of all of
them at once, 20 times a second (libraries that processes share count in each).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from limited_workers import limited_rows
from measure import processor

RESULTS = Path(__file__).parent / "survey.json"
MODEL, CONTEXT, BLOCK = "mock-four", "mock-four-neighbours", 1 << 14
PARTS = 8  # of what takes long one of so many blocks of pixels is done, evenly over the sky
TWO = ["--workers", "local:2"]
WIDE_ARCMIN = 70.0  # the widest beam of the 17 bands has 69.2
_LOOK_S, _FOLDER_S = 0.05, 1.0
_SIDE_ARCMIN = 3517.9  # of a pixel, times Nside


@dataclass(frozen=True)
class Day:
    """What a run is given."""

    nside: int
    folder: Path
    memory: str

    @property
    def n_pix(self) -> int:
        return 12 * self.nside**2

    @property
    def maps(self) -> list[str]:
        """Options for the maps of all bands."""
        bands = sorted((self.folder / "maps").glob("band_*.fits"))
        return [
            word for b in bands for word in ("--maps", f"{b.stem.removeprefix('band_')}={b}")
        ] + ["--memory", self.memory]

    @property
    def fine_arcmin(self) -> float:
        """The narrowest common beam that keeps the Nside: two pixels, a little less."""
        return round(1.9 * _SIDE_ARCMIN / self.nside, 3)

    def mask(self) -> list[str]:
        """The mask of the part of the sky, made once."""
        import numpy as np

        from foreglow.maps.write import write_maps

        path = self.folder / "part.fits"
        if not path.exists():
            kept = ((np.arange(self.n_pix) // BLOCK) % PARTS == 0).astype(np.float32)
            write_maps(path, {"MASK": (kept, "")}, frame="G")
        return ["--mask", str(path)]

    @property
    def n_part(self) -> int:
        """Pixels of the part."""
        whole, rest = divmod(self.n_pix, BLOCK)
        return BLOCK * -(-whole // PARTS) + (rest if whole % PARTS == 0 else 0)


@dataclass(frozen=True)
class Stage:
    """A command, what it is called in the table, and what must be there before.

    `words(day, out)` are those of the command; `size(day)` how many of `unit` it does; outputs that
    no later stage reads go once they are measured.
    """

    what: str
    words: Callable[[Day, Path], list[str]]
    size: Callable[[Day], int] = lambda day: day.n_pix
    unit: str = "pixels"
    out: str = "out.fits"
    needs: tuple[str, ...] = ()
    keep: bool = False
    skies: int = 1


def _recognize(command: str, *more: str, part: bool = False) -> Callable[[Day, Path], list[str]]:
    def words(day: Day, out: Path) -> list[str]:
        chosen = [str(day.folder / word[1:]) if word.startswith("@") else word for word in more]
        mask = day.mask() if part else []
        return ["recognize", command, *day.maps, *chosen, *mask, "--out", str(out)]

    return words


def _beam(arcmin: float | None) -> Callable[[Day, Path], list[str]]:
    def words(day: Day, out: Path) -> list[str]:
        fwhm = str(arcmin or day.fine_arcmin)
        return _recognize("classify", "--model", MODEL, "--common-fwhm", fwhm)(day, out)

    return words


def _simulate(day: Day, out: Path) -> list[str]:
    return ["recognize", "simulate", "--nside", str(day.nside), "--out", str(out)]


def _predict(*more: str) -> Callable[[Day, Path], list[str]]:
    def words(day: Day, out: Path) -> list[str]:
        sky = day.folder / "gas"
        given = ["--cube", str(sky / "cube.zarr"), "--mask", str(sky / "mask.fits")]
        return ["dust", "predict", "--model", "mock-dust", *given, "--memory", day.memory, *more,
                "--out", str(out)]  # fmt: skip

    return words


_CLASSIFY, _BY = ("--model", MODEL), ("--by", "@found.fits")
_MAPS, _FOUND, _GAS = ("simulate",), ("simulate", "classify"), ("dust simulate",)
_PART = f"one block in {PARTS}"
STAGES = {
    "simulate": Stage("simulate a sky", _simulate, out="maps", keep=True),
    "simulate two": Stage(
        "simulate two skies to Zarr, two workers",
        lambda day, out: [*_simulate(day, out), "--realisations", "2", *TWO],
        lambda day: 2 * day.n_pix, out="two.zarr", skies=2,
    ),
    "beam": Stage("to one beam of 70 arcmin, classified", _beam(WIDE_ARCMIN), needs=_MAPS),
    "beam fine": Stage(
        "to one beam of two pixels, at the same Nside, classified", _beam(None), needs=_MAPS
    ),
    "classify": Stage(
        "classify", _recognize("classify", *_CLASSIFY), out="found.fits", needs=_MAPS, keep=True
    ),
    "classify two": Stage(
        "classify, two workers", _recognize("classify", *_CLASSIFY, *TWO), needs=_MAPS
    ),
    "context": Stage(
        "classify with neighbours",
        _recognize("classify", *_CLASSIFY, "--context", CONTEXT), needs=_MAPS,
    ),
    "fit": Stage(
        f"fit four models, evidence; {_PART}", _recognize("fit", part=True),
        lambda day: day.n_part, needs=_MAPS,
    ),
    "fit two": Stage(
        f"fit four models, evidence; {_PART}, two workers", _recognize("fit", *TWO, part=True),
        lambda day: day.n_part, needs=_MAPS,
    ),
    "separate": Stage(
        f"separate by the model of each pixel; {_PART}",
        _recognize("separate", *_BY, part=True), lambda day: day.n_part, needs=_FOUND,
    ),
    "separate two": Stage(
        f"separate by the model of each pixel; {_PART}, two workers",
        _recognize("separate", *_BY, *TWO, part=True), lambda day: day.n_part, needs=_FOUND,
    ),
    "dust simulate": Stage(
        "dust: simulate cube, dust and mask",
        lambda day, out: ["dust", "simulate", "--nside", str(day.nside), "--out", str(out)],
        out="gas", keep=True,
    ),
    "dust predict": Stage("dust: predict", _predict(), needs=_GAS),
    "dust predict two": Stage("dust: predict, two workers", _predict(*TWO), needs=_GAS),
}  # fmt: skip
LIMITED = "limited"  # a scheduler and two workers of 1 GiB


def run_stage(name: str, day: Day) -> dict:
    """Run the command of a stage and measure it."""
    stage = STAGES[name]
    out = day.folder / stage.out
    _remove(out)
    words = stage.words(day, out)
    print(f"{name}: foreglow {_short(words)}", flush=True)
    found = measured([sys.executable, "-m", "foreglow", *words], day.folder)
    size = stage.size(day)
    row = {
        "benchmark": "survey", "device": "cpu", "stage": name, "what": stage.what,
        "nside": day.nside, "memory": day.memory, "n": size, "unit": stage.unit,
        "n_sky": stage.skies * day.n_pix, "skies": stage.skies,
        "command": f"foreglow {_short(words)}", **found, "per_s": size / found["seconds"],
        "read_bytes": sum(_bytes_of(day.folder / STAGES[n].out) for n in stage.needs),
        "written_bytes": _bytes_of(out), "cores": os.cpu_count(), "processor": processor(),
        "load": round(os.getloadavg()[1], 1), "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip
    if not stage.keep:
        _remove(out)
    return row


def measured(command: list[str], folder: Path) -> dict:
    """Seconds, memory, room on the disk and the last words of a command."""
    log = folder / "log.txt"
    before = _bytes_of(folder)
    begin = time.perf_counter()
    with log.open("w", encoding="utf-8") as written:
        child = subprocess.Popen(command, stdout=written, stderr=subprocess.STDOUT)
        ended, peaks = threading.Event(), {"process": 0, "all": 0, "disk": before}
        watches = [
            threading.Thread(target=_watch_memory, args=(child.pid, peaks, ended)),
            threading.Thread(target=_watch_disk, args=(folder, peaks, ended)),
        ]
        for watch in watches:
            watch.start()
        _, status, used = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - begin
        child.returncode = os.waitstatus_to_exitcode(status)  # else Popen would wait, too
        ended.set()
        for watch in watches:
            watch.join()
    said = " ".join(log.read_text(encoding="utf-8").replace(f"{folder}/", "").split())
    scale = 1024 if sys.platform == "linux" else 1
    return {
        "seconds": seconds, "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_mib": max(peaks["process"], used.ru_maxrss * scale) / 2**20,
        "all_mib": peaks["all"] / 2**20, "disk_bytes": peaks["disk"] - before,
        "code": child.returncode,
        "said": said[said.find("error: ") :] if child.returncode else said[-300:],
    }  # fmt: skip


def _watch_memory(pid: int, peaks: dict[str, int], ended: threading.Event) -> None:
    while not ended.wait(_LOOK_S):
        resident = []
        try:
            top = psutil.Process(pid)
            tree = [top, *top.children(recursive=True)]
        except psutil.Error:
            continue
        for process in tree:
            try:
                resident.append(process.memory_info().rss)
            except psutil.Error:
                continue
        peaks["process"] = max([peaks["process"], *resident])
        peaks["all"] = max(peaks["all"], sum(resident))


def _watch_disk(folder: Path, peaks: dict[str, int], ended: threading.Event) -> None:
    while not ended.wait(_FOLDER_S):
        peaks["disk"] = max(peaks["disk"], _bytes_of(folder))


def _bytes_of(path: Path) -> int:
    """What lies below a path; files that go meanwhile do not count."""
    if path.is_file():
        return path.stat().st_size
    total = 0
    for below, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(below, name)).st_size
            except OSError:
                continue
    return total


def _short(words: list[str]) -> str:
    """A command without the maps of all bands but the first, and without folders."""
    names = [
        f"{word.split('=')[0]}={Path(word).name}" if "=" in word else Path(word).name
        for word in words
    ]
    first = names.index("--maps") if "--maps" in names else len(names)
    last = len(names) - names[::-1].index("--maps") + 1 if "--maps" in names else len(names)
    return " ".join([*names[: first + 2], *(["..."] if last > first + 2 else []), *names[last:]])


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def recorded() -> list[dict]:
    """Rows that are there."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []


def keep(rows: list[dict], replaced: Callable[[dict], bool]) -> None:
    """Write rows in the place of those that they replace."""
    order = [*STAGES, LIMITED]
    every = [row for row in recorded() if not replaced(row)] + rows
    every.sort(key=lambda row: (-row["nside"], order.index(row["stage"])))
    temporary = RESULTS.with_suffix(".part")
    temporary.write_text(json.dumps(every, indent=1) + "\n", encoding="utf-8")
    temporary.replace(RESULTS)


def run(wanted: list[str], day: Day, again: bool) -> int:
    """Run stages that are not recorded, and those whose files later ones need; how many failed."""
    failed = 0
    done = {row["stage"] for row in recorded() if row["nside"] == day.nside}
    for name in wanted:
        if name in done and not again:
            print(f"{name}: recorded", flush=True)
            continue
        if name == LIMITED:
            gas = day.folder / STAGES["dust simulate"].out
            there = gas if (gas / "mask.fits").exists() else None
            rows = limited_rows(day.folder / LIMITED, day.nside, there)
            keep(rows, lambda row: row["stage"] == LIMITED)
            continue
        missing = [n for n in STAGES[name].needs if not (day.folder / STAGES[n].out).exists()]
        for stage in [*missing, name]:
            row = run_stage(stage, day)
            print(json.dumps(row), flush=True)
            keep([row], lambda old, s=stage: (old["stage"], old["nside"]) == (s, day.nside))
            failed += row["code"] not in (0, 2)  # what is refused is found, too
    return failed


def main() -> int:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [*STAGES, LIMITED]
    parser.add_argument("--nside", type=int, default=2048)
    parser.add_argument("--stages", help=f"separated by commas, of {', '.join(names)}; all")
    parser.add_argument("--again", action="store_true", help="run what is recorded, too")
    parser.add_argument("--folder", type=Path, default=Path("runs/survey-benchmark"))
    parser.add_argument("--memory", default="4 GiB")
    given = parser.parse_args()
    wanted = [name.strip() for name in given.stages.split(",")] if given.stages else names
    if strangers := [name for name in wanted if name not in names]:
        parser.error(f"expected stages among {', '.join(names)}, got {', '.join(strangers)}")
    folder = given.folder.absolute() / str(given.nside)
    folder.mkdir(parents=True, exist_ok=True)
    failed = run(wanted, Day(given.nside, folder, given.memory), given.again)
    print(f"written: {RESULTS}; maps and cube stay in {folder}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
