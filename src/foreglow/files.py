"""Files and folders that appear whole or not at all, whatever interrupts their writing.

What is being written lies beside its place as `.NAME.HOST-PID-N.tmp`. A process that was killed
leaves such a file; the next one that writes to the same folder removes it.
"""

import contextlib
import errno
import itertools
import os
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import filelock

from foreglow.errors import WriteError

REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ENAMETOOLONG)
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # NumPy's, which has no errno
_HOST = re.sub(r"\W", "_", platform.node())
_LEFT = re.compile(rf"\..*\.{re.escape(_HOST)}-(\d+)-(\d+)\.tmp")
_numbers = itertools.count()
_open: set[Path] = set()  # being written by this process


@contextlib.contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """A path to write a file to; it takes the place of `path` when the context ends well.

    A reader of `path` finds the earlier file or the whole new one, whenever this process is killed.

    Raises
    ------
    WriteError
        If there is no room, no permission, or no such folder.
    """
    path = Path(path)
    with _temporary(path) as temporary:
        yield temporary
        os.replace(temporary, path)


@contextlib.contextmanager
def new_directory(path: str | Path) -> Iterator[Path]:
    """An empty folder to fill; it takes the place of `path` when the context ends well.

    Whoever reads `path` calls `settle` first, and then finds the earlier folder or the whole new
    one, whenever this process is killed. An empty folder is not replaced but filled: somebody may
    have made it with care, or stand in it.

    Raises
    ------
    WriteError
        As `new_file`.
    """
    path = Path(path).absolute()
    with _temporary(path) as temporary:
        temporary.mkdir(parents=True)
        yield temporary
        if path.is_dir() and not any(path.iterdir()):
            for part in temporary.iterdir():
                os.replace(part, path / part.name)
        else:
            replace_directory(temporary, path)


@contextlib.contextmanager
def scratch_directory(beside: str | Path) -> Iterator[Path]:
    """A folder beside a path, for as long as the context lasts.

    Raises
    ------
    WriteError
        As `new_file`.
    """
    beside = Path(beside)
    with _temporary(beside) as folder:
        folder.mkdir()
        yield folder


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all, in a folder that is made if it is missing.

    Raises
    ------
    WriteError
        As `new_file`.
    """
    make_folder(Path(path).parent)
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are missing.

    Raises
    ------
    WriteError
        As `new_file`.
    """
    with _refusal_told(folder):
        folder.mkdir(parents=True, exist_ok=True)


def lock_of(path: Path) -> filelock.BaseFileLock:
    """Build the lock `.NAME.lock` beside a path, which whoever writes there holds meanwhile.

    It is let go of when its process ends, however that ends.
    """
    return filelock.FileLock(path.with_name(f".{path.name}.lock"), mode=0o666)


def replace_directory(new: Path, target: Path) -> None:
    """Put the folder `new` in the place of `target`; see `settle`.

    No system call of every platform swaps two folders, so `target` has another name for a moment.
    """
    settle(target)
    earlier = _earlier(target)
    if target.exists():
        os.replace(target, earlier)
    os.replace(new, target)
    remove_directory(earlier)


def settle(target: Path) -> None:
    """Bring back the earlier folder, if a process was killed while it replaced `target`."""
    earlier = _earlier(target)
    if not earlier.exists():
        return
    if target.exists():  # killed when the new one stood in its place
        remove_directory(earlier)
    else:
        os.replace(earlier, target)


def remove_directory(path: Path) -> None:
    """Remove a folder and what is in it, if it is there."""
    shutil.rmtree(path, ignore_errors=True)


def remove_open() -> None:
    """Remove what this process is writing, before it ends without ado."""
    for path in list(_open):
        _remove(path)


def remove_half_written(store: Path) -> None:
    """Remove what a writer that was killed left of a chunk, once nobody writes to a Zarr store."""
    for path in store.rglob("*.partial"):
        path.unlink(missing_ok=True)


def is_refusal(error: OSError, *places: Path) -> bool:
    """Whether an error means that a place cannot be written, and not that an input is bad."""
    if error.errno in REFUSED or _SHORT_WRITE.fullmatch(str(error)):
        return True
    named = Path(str(error.filename or ""))
    return any(named.is_relative_to(place) or named in place.parents for place in places)


def refusal(path: Path, error: OSError) -> WriteError:
    """What to tell of a path that cannot be written."""
    reason = error.strerror or str(error)
    return WriteError(
        f"{path}: cannot be written ({reason}); check that its folder exists, may be written to "
        "and has room, or give another place (out=)."
    )


@contextlib.contextmanager
def _refusal_told(path: Path, *places: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not is_refusal(error, path, *places):
            raise
        raise refusal(path, error) from error


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A free name beside a path; what lies there when the context ends is removed."""
    _remove_left_over(path.parent)
    temporary = path.with_name(f".{path.name}.{_HOST}-{os.getpid()}-{next(_numbers)}.tmp")
    _open.add(temporary.absolute())
    try:
        with _refusal_told(path, temporary):
            yield temporary
    finally:
        _remove(temporary)
        _open.discard(temporary.absolute())


def _remove_left_over(folder: Path) -> None:
    """Remove what killed processes of this machine left in a folder."""
    for path in folder.glob(".*.tmp"):
        found = _LEFT.fullmatch(path.name)
        if found and path.absolute() not in _open and not _runs(int(found[1])):
            _remove(path)


def _runs(pid: int) -> bool:
    """Whether another process of this number is running."""
    if pid == os.getpid():  # what this process writes is in `_open`
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        remove_directory(path)
    else:
        with contextlib.suppress(OSError):  # an error on the way out would hide the first
            path.unlink()


def _earlier(target: Path) -> Path:
    return target.with_name(f".{target.name}.earlier")
