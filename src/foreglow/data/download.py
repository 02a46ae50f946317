"""One file over HTTP, through cuts: on from where it stopped, or from the start if it must."""

import contextlib
import logging
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import requests

from foreglow.compute.progress import Progress
from foreglow.data.registry import in_words
from foreglow.errors import DataError

_LOG = logging.getLogger("foreglow.data")
_PIECE = 1 << 15  # bytes; a cut loses less than one
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # a server in trouble, not a file that is not there

Whole = Callable[[Path], str | None]


@dataclass(frozen=True)
class Patience:
    """How long a download is tried.

    Attributes
    ----------
    attempts : int
        In a row that bring nothing new.
    wait_s : float
        Before the second attempt; twice as long before each further one.
    stall_s : float
        Without a byte, after which an attempt is given up.
    """

    attempts: int = 5
    wait_s: float = 1.0
    stall_s: float = 60.0


class _Cut(Exception):
    """An attempt that ended too soon; another may do better."""


def download(
    url: str,
    part: Path,
    whole: Whole,
    patience: Patience,
    progress: Progress,
    least_bytes: int | None = None,
) -> None:
    """Bring all of a file into `part`, which may hold its beginning already.

    Parameters
    ----------
    url : str
    part : Path
        Kept when the download fails, to go on from; beside it, in `part`.tag, what the server
        calls this version of the file.
    whole : callable
        What is wrong with a file that ended, None if it is whole; for servers that state no size.
    patience : Patience
    progress : callable
        Called with the bytes there are, and those there will be (as many, if nobody says).
    least_bytes : int, optional
        Size that is known from elsewhere, for servers that state none.

    Raises
    ------
    DataError
        If the server has no such file, sends something else, or is cut off too often.
    """
    best, failures = _size(part), 0
    while True:
        try:
            _attempt(url, part, patience, progress)
            if least_bytes is not None and _size(part) < least_bytes:
                raise _Cut(f"the end after {_size(part)} of {least_bytes} bytes")
            if (reason := whole(part)) is not None:
                part.unlink()  # the server thinks that this is all: there is nothing to go on from
                raise _Cut(reason)
            _tag(part).unlink(missing_ok=True)
            return
        except (_Cut, requests.RequestException) as error:
            reason = str(error) if isinstance(error, _Cut) else _in_brief(error)
        failures = 0 if _size(part) > best else failures + 1
        best = max(best, _size(part))
        if failures >= patience.attempts:
            kept = f"{in_words(_size(part))} are kept in {part}: " if _size(part) else ""
            raise DataError(
                f"{url}: expected the file, got {reason}, and nothing new in {failures} attempts; "
                f"{kept}run the same command later, or put the file at {part.with_suffix('')} by "
                "hand"
            )
        wait = patience.wait_s * 2 ** max(0, failures - 1)
        _LOG.info("%s: %s; trying again in %.3g s", part.stem, reason, wait)
        time.sleep(wait)


def _attempt(url: str, part: Path, patience: Patience, progress: Progress) -> None:
    """Ask for what is missing and append it."""
    headers = {"Accept-Encoding": "identity", "User-Agent": f"foreglow/{version('foreglow')}"}
    if have := _size(part):
        headers["Range"] = f"bytes={have}-"
        if _tag(part).is_file():
            headers["If-Range"] = _tag(part).read_text(encoding="ascii")
    with requests.get(url, headers=headers, stream=True, timeout=patience.stall_s) as answer:
        if answer.status_code == 416:  # nothing is missing, or another file lies there now
            if _stated_total(answer) != have:
                part.unlink()
                raise _Cut(f"a file without byte {have}: it starts anew")
            return
        _validate_answer(url, part, answer)
        goes_on = answer.status_code == 206
        if have and not goes_on:
            _LOG.info("%s: the server sends it from the start", part.stem)
        if goes_on and _stated_start(answer) != have:
            part.unlink(missing_ok=True)
            raise _Cut("another part than was asked for")
        start = have if goes_on else 0
        total = _stated_total(answer)
        _validate_room(part, None if total is None else total - start)
        _keep_tag(part, answer)
        _write(answer, part, start, total, progress)
    if total is not None and _size(part) != total:
        raise _Cut(f"the end after {_size(part)} of {total} bytes")


def _write(
    answer: requests.Response, part: Path, start: int, total: int | None, progress: Progress
) -> None:
    done, tenth = start, 10 * start // (total or 1)
    try:
        with part.open("ab" if start else "wb") as stream:
            progress(done, total or done)
            for piece in answer.iter_content(_PIECE):
                stream.write(piece)
                done += len(piece)
                progress(done, total or done)
                if total and 10 * done // total > tenth:
                    tenth = 10 * done // total
                    _LOG.info("%s: %s of %s", part.stem, in_words(done), in_words(total))
    except requests.RequestException:
        raise
    except OSError as error:
        raise DataError(
            f"{part}: expected to write the download there, got {error}; check the folder and its "
            "free space, or choose another (cache=)"
        ) from error


def _validate_answer(url: str, part: Path, answer: requests.Response) -> None:
    status, kind = answer.status_code, answer.headers.get("Content-Type", "")
    if status in _PASSING:
        raise _Cut(f"HTTP {status} {answer.reason}")
    by_hand = f"find it in a browser and put it at {part.with_suffix('')}"
    if status not in (200, 206):
        raise DataError(
            f"{url}: expected the file, got HTTP {status} {answer.reason}; the archive may have "
            f"moved it: {by_hand}"
        )
    if kind.startswith("text/html"):
        raise DataError(
            f"{url}: expected the file, got a web page, as archives send that want a browser; "
            f"{by_hand}"
        )


def _validate_room(part: Path, missing: int | None) -> None:
    free = shutil.disk_usage(part.parent).free
    if missing is not None and missing > free:
        raise DataError(
            f"{part.parent}: expected room for {in_words(missing)}, got {in_words(free)}; free "
            "some, or choose another folder (cache=)"
        )


def _stated_total(answer: requests.Response) -> int | None:
    """Size of the whole file, if the server says."""
    ranged = re.fullmatch(r"bytes [\d*-]+/(\d+)", answer.headers.get("Content-Range", ""))
    if ranged:
        return int(ranged[1])
    length = answer.headers.get("Content-Length", "")
    return int(length) if answer.status_code == 200 and length.isdecimal() else None


def _stated_start(answer: requests.Response) -> int | None:
    ranged = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(ranged[1]) if ranged else None


def _keep_tag(part: Path, answer: requests.Response) -> None:
    """Remember what the server calls this version, so that no two are ever joined."""
    tag = answer.headers.get("ETag", "")
    if not tag or tag.startswith("W/"):
        tag = answer.headers.get("Last-Modified", "")
    with contextlib.suppress(OSError):
        if tag.isascii() and tag:
            _tag(part).write_text(tag, encoding="ascii")
        else:
            _tag(part).unlink(missing_ok=True)


def _tag(part: Path) -> Path:
    return part.with_name(f"{part.name}.tag")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _in_brief(error: requests.RequestException) -> str:
    """What went wrong, without the address that requests repeats."""
    if isinstance(error, requests.Timeout):
        return "no answer, or no byte, in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "a connection cut in the middle"
    if isinstance(error, requests.ConnectionError):
        stalled = "timed out" in str(error)
        return "no byte in time" if stalled else "no connection"
    return f"{type(error).__name__}: {error}"
