"""Ctrl+C: ends a command at any moment, with one message and nothing half written.

Libraries catch, delay or lose Python's KeyboardInterrupt, or print it where nobody can help. All
that foreglow writes survives a process that is killed, so the command line ends itself at once.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

CODE = 128 + signal.SIGINT
NOTHING_KEPT = "no result was written: run the command again"
_told = {"text": NOTHING_KEPT}
_SHOW_CURSOR = b"\x1b[?25h"  # which a progress bar hides


@contextlib.contextmanager
def ends_the_process() -> Iterator[None]:
    """Let Ctrl+C end this process with code 130, until the work is done; for the command line only.

    Afterwards Ctrl+C has no effect: what is left to do is to end.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # whoever started this process wants Ctrl+C to be ignored, as nohup does
        return
    signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def say(text: str) -> None:
    """What the user is to be told of the command that is running, when it is interrupted."""
    _told["text"] = text


def message() -> str:
    """What to tell."""
    return f"interrupted; {_told['text']}."


def is_spoken_for() -> bool:
    """Whether another process, which started this one, says what is to be said."""
    return "LOCAL_RANK" in os.environ


def _end(*_: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(Exception):
        if files := sys.modules.get("foreglow.files"):
            files.remove_open()
    with contextlib.suppress(Exception):
        cursor = _SHOW_CURSOR if os.isatty(2) else b""
        text = b"" if is_spoken_for() else f"\n{message()}\n".encode()
        os.write(2, cursor + text)
    os._exit(CODE)
