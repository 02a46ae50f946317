"""Run every command that writes on a disk without room, and in a folder that is read-only.

`python tests/campaigns/full_disk.py [NAME ...] [--moments 8]`, as root on Linux: the disk is a
small tmpfs, of sizes spread up to what the command needs. Each run must end with code 2, one
message that names the place and no traceback, and leave nothing half written; with room again, the
command goes on, or begins anew, to what it leaves on a large disk.
"""

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from commands import COMMANDS, Command, Ended, chosen, content, run, words_of, workshop

LARGE = 1 << 30
PAGE = 4096


@contextmanager
def disk(folder: Path, size: int) -> Iterator[Path]:
    """A tmpfs of so many bytes on `folder/run`."""
    place = folder / "run"
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def mount_again(place: Path, option: str) -> None:
    """Change what a tmpfs allows."""
    subprocess.run(["mount", "-o", f"remount,{option}", place], check=True)


def wrong_end(refused: Ended) -> str:
    """What is wrong with how a command ended that could not write, or nothing."""
    told = "cannot be written" in refused.said or "No space left" in refused.said
    if refused.code != 2 or not told or "Traceback" in refused.said:
        return f"code {refused.code}: {refused.said[-1500:]}"
    return ""


def judge(command: Command, words: list[str], folder: Path, whole: dict, size: int) -> str:
    """Run on a disk of a size, then with room; what is wrong, or nothing."""
    with disk(folder, size) as place:
        refused = run(words, folder)
        if refused.code == 0:
            return "" if content(place) == whole else "ended well, but differs"
        if why := wrong_end(refused):
            return why
        half = {name for name in content(place) if Path(name).name.endswith(".tmp")}
        if half:
            return f"left {half}"
        mount_again(place, f"size={LARGE}")
        again = run([*words, *(["--resume"] if command.resume else [])], folder)
        if again.code:
            return f"with room, code {again.code}: {again.said[-1500:]}"
        now = content(place)
        return "" if now == whole else f"differs: {sorted(set(now) ^ set(whole))[:8]}"


def read_only(words: list[str], folder: Path) -> str:
    """What is wrong with how a command ends in a folder that is read-only, or nothing."""
    with disk(folder, LARGE) as place:
        mount_again(place, "ro")
        refused = run(words, folder)
        named = "Read-only file system" in refused.said
        return wrong_end(refused) or ("" if named else refused.said)


def campaign(name: str, folder: Path, moments: int) -> Counter:
    """All sizes of one command."""
    command = COMMANDS[name]
    words = words_of(command, folder)
    with disk(folder, LARGE) as place:
        calm = run(words, folder)
        if calm.code:
            raise SystemExit(f"{name}: on a large disk, code {calm.code}: {calm.said}")
        whole, size = content(place), LARGE - shutil.disk_usage(place).free
    found: Counter = Counter()
    for part in np.linspace(0, 1, moments, endpoint=False):
        bytes_given = max(PAGE, int(size * part) // PAGE * PAGE)
        why = judge(command, words, folder, whole, bytes_given)
        found["wrong" if why else "right"] += 1
        if why:
            print(f"{name}: {bytes_given} of {size} bytes: {why}", flush=True)
    why = read_only(words, folder)
    found["wrong" if why else "right"] += 1
    if why:
        print(f"{name}: read-only: {why}", flush=True)
    print(f"{name:12} {size:10} bytes  {dict(found)}", flush=True)
    return found


if __name__ == "__main__":
    given = chosen(__doc__.splitlines()[0])
    with workshop() as folder:
        wrong = sum(campaign(name, folder, given.moments)["wrong"] for name in given.names)
    print(f"{wrong} wrong")
    sys.exit(wrong > 0)
