"""All files that a command needs: those there, those missing and, if asked for, fetched."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from foreglow.compute.progress import Shown, shown
from foreglow.data.cache import local_path, partial_path
from foreglow.data.download import Patience
from foreglow.data.fetch import fetch, validate_address, validate_whole
from foreglow.data.registry import RemoteFile, in_words
from foreglow.errors import DataError

log = logging.getLogger("foreglow")

_SHOWN = 4  # files of one product that a message names


def missing_files(files: Sequence[RemoteFile], folder: Path) -> list[RemoteFile]:
    """Those that do not lie in the cache."""
    return [file for file in files if not local_path(file, folder).is_file()]


def bytes_missing(files: Sequence[RemoteFile], folder: Path) -> int:
    """What is to be downloaded of some files, at least: not all sizes are known."""
    total = 0
    for file in missing_files(files, folder):
        part = partial_path(local_path(file, folder))
        begun = part.stat().st_size if part.is_file() else 0
        total += max(0, file.product.bytes_expected - begun)
    return total


def say_missing(files: Sequence[RemoteFile], folder: Path) -> list[str]:
    """What is missing, how large it is and where to put it: a line a product.

    Parameters
    ----------
    files : sequence of RemoteFile
        Those that are missing.
    folder : Path
        Of the cache.
    """
    lines = []
    for product in {file.product.name: file.product for file in files}.values():
        own = [file.name for file in files if file.product.name == product.name]
        names = ", ".join(own[:_SHOWN]) + f" and {len(own) - _SHOWN} more" * (len(own) > _SHOWN)
        size = product.size
        if product.bytes is None and product.bytes_expected:
            size = f"{in_words(product.bytes_expected)} or more"
        if product.bytes is not None and len(own) > 1:
            size = f"{size} each, {in_words(len(own) * product.bytes)} in all"
        where = product.base or "no public address is known"
        lines.append(
            f"missing: {names} ({product.title}; {size}) of {where}, to lie in "
            f"{folder / product.folder}"
        )
    return lines


def gather(
    files: Sequence[RemoteFile],
    folder: Path,
    download: bool,
    patience: Patience = Patience(),  # noqa: B008 - immutable
    progress: Shown = None,
) -> list[Path]:
    """Where all files lie, fetched if need be and asked for.

    Parameters
    ----------
    files : sequence of RemoteFile
    folder : Path
        Of the cache.
    download : bool
        Fetch what is missing; else it is an error.
    patience : Patience
    progress : callable or bool, optional
        As for `foreglow.hi_cube.prepare.prepare`, of each file.

    Returns
    -------
    list of Path
        In the order of the files.

    Raises
    ------
    DataError
        If files are missing and are not to be fetched, there is no room, or a download fails.
    """
    missing = missing_files(files, folder)
    if missing and not download:
        for line in say_missing(missing, folder):
            log.info("%s", line)
        names = list(dict.fromkeys(file.product.name for file in missing))
        raise DataError(
            f"expected {len(files)} files of public data in {folder}, of which {len(missing)} are "
            f"missing, {in_words(bytes_missing(missing, folder))} or more of {', '.join(names)}; "
            "give download=True to fetch them, or put them there by hand, gzipped or not (`foreglow"
            f" data list {names[0]}` tells all of one); FOREGLOW_DATA names another folder"
        )
    for file in missing:
        validate_address(file, folder)
    _validate_room(missing, folder)
    for number, file in enumerate(missing, start=1):
        log.info("fetching %d of %d: %s", number, len(missing), file.url)
        with shown(file.name, progress) as show:
            log.info("%s", fetch(file, folder, patience, show).summary())
    paths = [local_path(file, folder) for file in files]
    for file, path in zip(files, paths, strict=True):
        validate_whole(file, path)
    return paths


def _validate_room(files: Sequence[RemoteFile], folder: Path) -> None:
    """Check that the disk can hold what is to come, before any of it comes."""
    needed, existing = bytes_missing(files, folder), folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise DataError(
            f"{folder}: expected room for {in_words(needed)} to fetch, got {in_words(free)}; free "
            "some, or name another folder by FOREGLOW_DATA"
        )
