"""Where fetched files lie: a folder that can be set and shared, and the checksums in it.

Beside FILE lies FILE.sha256, in the form that `sha256sum --check` reads, if foreglow fetched it or
was asked for it; FILE.part is a download that was cut off.
"""

import hashlib
import os
from pathlib import Path

from foreglow.data.registry import RemoteFile
from foreglow.errors import DataError

VARIABLE = "FOREGLOW_DATA"


def cache_folder(folder: Path | None = None) -> Path:
    """The folder asked for; else `FOREGLOW_DATA`, else `data` in foreglow's cache.

    The cache is `FOREGLOW_CACHE`, by default ``~/.cache/foreglow``.
    """
    if folder is not None:
        return folder.expanduser()
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE]).expanduser()
    root = os.environ.get("FOREGLOW_CACHE") or Path.home() / ".cache" / "foreglow"
    return Path(root) / "data"


def local_path(file: RemoteFile, folder: Path) -> Path:
    """Where a file lies, or would lie: its own name, or gzipped if that is what is there."""
    path = folder / file.place
    packed = path.with_name(f"{path.name}.gz")
    return packed if packed.is_file() and not path.is_file() else path


def partial_path(path: Path) -> Path:
    """A download of `path` that is not whole."""
    return path.with_name(f"{path.name}.part")


def checksum(path: Path, algorithm: str) -> str:
    """Compute the checksum of a file by "sha256" or "md5", in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def recorded_sha256(path: Path) -> str | None:
    """The checksum recorded beside a file, None where there is none.

    Raises
    ------
    DataError
        If the record is not one.
    """
    record = _record(path)
    try:
        words = record.read_text(encoding="ascii").split()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        words = []
    if not words or len(words[0]) != 64 or set(words[0].lower()) - set("0123456789abcdef"):
        raise DataError(
            f"{record}: expected a line of sha256sum, 64 hexadecimal digits first, got something "
            "else; remove it, and the checksum is recorded anew"
        )
    return words[0].lower()


def record_sha256(path: Path) -> str:
    """Compute the checksum of a file and record it beside it; returns it.

    A folder that cannot be written to, as a shared one, is left as it is.
    """
    sha256 = checksum(path, "sha256")
    record = _record(path)
    temporary = record.with_name(f".{record.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(f"{sha256}  {path.name}\n", encoding="ascii")
        os.replace(temporary, record)
    except OSError:
        temporary.unlink(missing_ok=True)
    return sha256


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
