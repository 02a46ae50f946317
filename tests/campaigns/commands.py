"""Commands that take long, made small, and how a fork of this process runs one of them.

The process has imported the libraries, so that a run takes a second or two; its environment is that
of a user, its output goes to a file, and the signals that it gets are real.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.update({"OMP_NUM_THREADS": "1", "FOREGLOW_CACHE": tempfile.mkdtemp()})
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from safetensors.torch import save

from drawing import draw_small
from foreglow.__main__ import main
from foreglow.compute.checkpoints import PlainCheckpoints, _to_plain
from foreglow.hi_cube import prepare  # noqa: F401 - what a fork need not import again
from foreglow.reproduce.farsian2020 import experiment as farsian2020
from foreglow.reproduce.zhang2019 import experiment as zhang2019
from hi_cubes import hi4pi_header, smooth_data, write_fits
from reproduce import test_farsian2020_resumed, test_zhang2019

TINY = Path(__file__).parents[1] / "tiny.toml"
SEAMS = ("replace", "rename", "mkdir", "unlink", "rmdir")


@dataclass(frozen=True)
class Command:
    """Words after `foreglow`; `{}` is the folder in which all is done."""

    words: str
    resume: bool = False


COMMANDS = {
    "prepare": Command("dust prepare --cube {}/in/hi.fits --nside 16 --out {}/run/c.zarr", True),
    "dust-train": Command(
        "dust train --cube {}/in/sky/cube.zarr --dust {}/in/sky/dust.fits --mask "
        "{}/in/sky/mask.fits --region north --plan {tiny} --epochs 3 --steps 3 --batch 4 "
        "--out {}/run/model", True),
    "predict": Command(
        "dust predict --model {}/in/dust-model --cube {}/in/sky/cube.zarr --mask "
        "{}/in/sky/mask.fits --out {}/run/dust.fits"),
    "train": Command("recognize train --epochs 3 --steps 4 --batch 64 --out {}/run/model", True),
    "context": Command(
        "recognize context --model {}/in/model --epochs 2 --steps 2 --out {}/run/context", True),
    "simulate": Command("recognize simulate --nside 16 --realisations 8 --out {}/run/s.zarr", True),
    "classify": Command("recognize classify --model {}/in/model {maps} --out {}/run/k.fits"),
    "fit": Command("recognize fit {maps} --out {}/run/f.fits"),
    "farsian2020": Command("reproduce farsian2020 --scale smoke --out {}/run/r", True),
    "zhang2019": Command("reproduce zhang2019 --scale smoke --out {}/run/r", True),
}  # fmt: skip
INPUTS = (
    "recognize simulate --nside 16 --out {}/in/maps",
    "recognize train --epochs 1 --steps 2 --batch 64 --out {}/in/model",
    "dust simulate --nside 64 --out {}/in/sky",
    "dust train --cube {}/in/sky/cube.zarr --dust {}/in/sky/dust.fits --mask {}/in/sky/mask.fits "
    "--region north --plan {tiny} --epochs 1 --steps 2 --batch 4 --out {}/in/dust-model",
)


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit code, or minus the signal; what it printed; seconds; seams."""

    code: int
    said: str
    seconds: float
    seams: int


def words_of(command: Command, folder: Path) -> list[str]:
    """The words of a command on the inputs in a folder."""
    maps = " ".join(f"--maps {p.stem[5:]}={p}" for p in sorted((folder / "in/maps").glob("band_*")))
    filled = command.words.replace("{maps}", maps).replace("{tiny}", str(TINY))
    return filled.replace("{}", str(folder)).split()


def run(words: list[str], folder: Path, sig: int = 0, after_s: float = 0, seam: int = 0) -> Ended:
    """Run the command line in a fork, struck by a signal after some seconds or before a seam."""
    count, printed = folder / "count", folder / "printed"
    begin = time.monotonic()
    if not (child := os.fork()):
        _be_the_command(words, folder, sig, seam, count, printed)
    if after_s:
        while time.monotonic() < begin + after_s and os.waitid(
            os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT
        ) is None:  # fmt: skip
            time.sleep(0.002)
        os.kill(child, sig)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    seams = count.stat().st_size if count.exists() else 0
    said = printed.read_text(errors="replace")
    for path in (count, printed):
        path.unlink(missing_ok=True)
    return Ended(code, said, time.monotonic() - begin, seams)


def _be_the_command(
    words: list[str], folder: Path, sig: int, seam: int, count: Path, printed: Path
) -> None:
    output = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    counted = os.open(count, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    done = 0

    def watched(call):
        def strike(path, *others, **named):
            nonlocal done
            if str(path).startswith(str(folder / "run")) or "dir_fd" in named:
                done += 1
                os.write(counted, b".")
                if done == seam:
                    os.kill(os.getpid(), sig)
            return call(path, *others, **named)

        return strike

    for name in SEAMS:
        setattr(os, name, watched(getattr(os, name)))
    sys.argv = ["foreglow", *words]
    torch.set_num_threads(1)
    code = 1
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def content(folder: Path) -> dict[str, object]:
    """What lies in a folder, without what tells of time and of the command's own words."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            found[name] = None
        elif path.name == "config.toml":
            table = tomllib.loads(path.read_text())
            found[name] = {k: v for k, v in table.items() if k not in ("command", "git_revision")}
        elif path.name == "metrics.json":
            found[name] = json.loads(path.read_text())["records"]
        elif path.suffix == ".ckpt":
            found[name] = _checkpoint(path)
        elif path.name in ("log.txt", "report.html"):
            found[name] = "exists"
        else:
            found[name] = path.read_bytes()
    return found


def _checkpoint(path: Path) -> tuple[str, bytes]:
    """Less what Lightning notes of scores: a finished training, resumed, forgets the last one."""
    state = PlainCheckpoints().load_checkpoint(path)
    state.pop("callbacks")
    tensors = {}
    return json.dumps(_to_plain(state, tensors)), save(tensors)


def make_small_reproductions() -> None:
    """Let the reproductions be as small as their tests have them."""
    farsian2020.read_settings = lambda *_: test_farsian2020_resumed.TINY
    zhang2019.read_settings = lambda *_: test_zhang2019.TINY
    for module, name, value in test_farsian2020_resumed.SMALL:
        setattr(module, name, value)

    def save(figure, *named):  # of maps there is none
        return figure and draw_small(figure, *named)

    zhang2019.figures.save = save


def make_inputs(folder: Path) -> None:
    """All that the commands work on."""
    (folder / "in").mkdir()
    shape = (120, 46, 91)
    header = hi4pi_header(shape, 4.0, first_kms=-64.5)
    write_fits(folder / "in/hi.fits", smooth_data(shape, 4.0), header)
    for text in INPUTS:
        made = run(text.replace("{}", str(folder)).replace("{tiny}", str(TINY)).split(), folder)
        if made.code:
            raise SystemExit(f"{text}: code {made.code}: {made.said}")


def chosen(description: str) -> argparse.Namespace:
    """What the command line of a campaign asks for."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("names", nargs="*", help=", ".join(COMMANDS))
    parser.add_argument("--moments", type=int, default=20, help="of each command and fault")
    given = parser.parse_args()
    given.names = given.names or list(COMMANDS)
    if unknown := [name for name in given.names if name not in COMMANDS]:
        parser.error(f"expected commands of {', '.join(COMMANDS)}, got {', '.join(unknown)}")
    return given


@contextlib.contextmanager
def workshop() -> Iterator[Path]:
    """A folder with all that the commands work on."""
    make_small_reproductions()
    with tempfile.TemporaryDirectory(prefix="campaign-") as place:
        make_inputs(Path(place))
        yield Path(place)
