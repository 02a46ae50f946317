"""Kill and interrupt every command that takes long, at moments spread over its whole run.

`python tests/campaigns/killed.py [NAME ...] [--moments 20]`, or `make campaign` for all. Half of
the moments are just before a rename, a removal or a new folder, which are counted first; the others
are spread evenly in time. After each the same command runs again, with --resume where it has that,
and then there must be what an uninterrupted run leaves: the same files, no others, as they were.
"""

import shutil
import signal
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from commands import COMMANDS, Command, Ended, chosen, content, run, words_of, workshop

SIGNALS = (signal.SIGKILL, signal.SIGINT)


def judge(command: Command, words: list[str], folder: Path, whole: dict, struck: Ended, sig: int):
    """Run the command again; what is wrong with what came, or nothing."""
    if struck.code == 0:
        state = "ended first"
    elif sig == signal.SIGINT:
        lines = [line for line in struck.said.splitlines() if line.startswith("interrupted; ")]
        if struck.code != 130 or len(lines) != 1 or "Traceback" in struck.said:
            return "bad end", f"code {struck.code}: {struck.said[-1500:]}"
        state = "interrupted"
    elif struck.code != -signal.SIGKILL:
        return "bad end", f"code {struck.code}: {struck.said[-1500:]}"
    else:
        state = "killed"
    again = run([*words, *(["--resume"] if command.resume else [])], folder)
    there = again.code == 2 and "exist" in again.said  # it was done already
    if again.code and not there:
        return "no resume", f"code {again.code}: {again.said[-1500:]}"
    now = content(folder / "run")
    if now != whole:
        names = sorted(k for k in {*now, *whole} if now.get(k, 0) != whole.get(k, 0))
        return "differs", f"{names[:8]} ({again.said[-300:]})"
    return state, ""


def campaign(name: str, folder: Path, moments: int) -> Counter:
    """Strike one command; how often what came."""
    command = COMMANDS[name]
    words = words_of(command, folder)

    def fresh() -> None:
        shutil.rmtree(folder / "run", ignore_errors=True)
        (folder / "run").mkdir()

    fresh()
    calm = run(words, folder)
    if calm.code:
        raise SystemExit(f"{name}: uninterrupted, code {calm.code}: {calm.said}")
    whole = content(folder / "run")
    half = moments // 2
    seams = np.unique(np.linspace(1, calm.seams, half).round().astype(int))
    times = calm.seconds * (np.arange(moments - len(seams)) + 0.5) / (moments - len(seams))
    found: Counter = Counter()
    for sig in SIGNALS:
        for at in [*(("seam", int(n)) for n in seams), *(("after_s", float(t)) for t in times)]:
            fresh()
            struck = run(words, folder, sig, **dict([at]))
            state, why = judge(command, words, folder, whole, struck, sig)
            found[state] += 1
            if why:
                print(f"{name}: {signal.Signals(sig).name} {at}: {state}: {why}", flush=True)
    print(f"{name:12} {calm.seconds:6.1f} s {calm.seams:5} seams  {dict(found)}", flush=True)
    return found


if __name__ == "__main__":
    given, wrong = chosen(__doc__.splitlines()[0]), 0
    with workshop() as folder:
        for name in given.names:
            found = campaign(name, folder, given.moments)
            wrong += sum(found[state] for state in ("bad end", "no resume", "differs"))
    print(f"{wrong} wrong")
    sys.exit(wrong > 0)
