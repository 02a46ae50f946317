"""Fetch products into the cache, with checksums, when asked."""

import logging
import os
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning

from foreglow.data.cache import (
    checksum,
    local_path,
    partial_path,
    record_sha256,
    recorded_sha256,
)
from foreglow.data.download import Patience, Progress, download
from foreglow.data.registry import RemoteFile, in_words
from foreglow.errors import DataError
from foreglow.files import lock_of

_LOG = logging.getLogger("foreglow.data")
_FITS = (b"SIMPLE  =", b"\x1f\x8b")


@dataclass(frozen=True)
class Plan:
    """What fetching a file would do; attributes as printed by a dry run.

    Attributes
    ----------
    product, url : str
    path : Path
        Where it lies, or will lie.
    size : str
        Of the file, in words.
    state : str
        "there", "begun" or "to fetch".
    bytes_there : int
    """

    product: str
    url: str
    path: Path
    size: str
    state: str
    bytes_there: int

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"path": str(self.path)}

    def summary(self) -> str:
        """In a line."""
        if self.state == "there":
            return f"{self.path}: there already, {in_words(self.bytes_there)}"
        begun = f", {in_words(self.bytes_there)} there" if self.state == "begun" else ""
        return f"{self.url} -> {self.path} ({self.size}{begun})"


@dataclass(frozen=True)
class Fetched:
    """A file in the cache.

    Attributes
    ----------
    product, url : str
    path : Path
    bytes : int
    sha256 : str
        Of the file as it is; recorded beside it.
    new : bool
        Whether it was downloaded now.
    published : str
        How it compares with a published checksum: "agrees", "differs" or "none".
    """

    product: str
    url: str
    path: Path
    bytes: int
    sha256: str
    new: bool
    published: str

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"path": str(self.path)}

    def summary(self) -> str:
        """In a line."""
        words = {
            "agrees": "the published checksum agrees",
            "differs": "it DIFFERS from the published checksum",
            "none": "no checksum is published, this one is recorded",
        }
        return (
            f"{self.path}: {'fetched' if self.new else 'there already'}, {in_words(self.bytes)}, "
            f"sha256 {self.sha256[:12]}..., {words[self.published]}"
        )


def plan(file: RemoteFile, folder: Path) -> Plan:
    """What `fetch` would do with a file; touches neither network nor disk."""
    path = local_path(file, folder)
    part = partial_path(path)
    there = path if path.is_file() else part if part.is_file() else None
    state = "there" if there == path else "begun" if there else "to fetch"
    n_bytes = there.stat().st_size if there else 0
    return Plan(file.product.name, file.url, path, file.product.size, state, n_bytes)


def fetch(
    file: RemoteFile,
    folder: Path,
    patience: Patience = Patience(),  # noqa: B008 - immutable
    progress: Progress = lambda done, total: None,  # noqa: ARG005
) -> Fetched:
    """Bring a file into the cache, or accept the one that lies there, whoever put it.

    Parameters
    ----------
    file : RemoteFile
    folder : Path
        Of the cache.
    patience : Patience
    progress : callable
        Called with the bytes there are, and those there will be (as many, if nobody says).

    Returns
    -------
    Fetched

    Raises
    ------
    DataError
        If it cannot be had, is not whole, or is not what its checksum says.
    """
    path = local_path(file, folder)
    if path.is_file():
        return _accept(file, path)
    validate_address(file, folder)
    _make_folder(path.parent)
    try:
        with lock_of(path).acquire(timeout=0):
            if not path.is_file():
                _retrieve(file, path, patience, progress)
    except filelock.Timeout as error:
        raise DataError(
            f"{path}: expected to be the only one who fetches it, got another process at it; wait "
            "for that one"
        ) from error
    except PermissionError as error:
        raise _cannot_write(path.parent, error) from error
    return _accept(file, path, new=True)


def validate_address(file: RemoteFile, folder: Path) -> None:
    """Check that a file can be fetched at all.

    Raises
    ------
    DataError
        If no public address of it is known.
    """
    if not file.product.base:
        raise DataError(
            f"{file.name}: expected a public address of {file.product.title}, got none, as none is "
            f"known; put the file at {folder / file.place} by hand"
        )


def validate_whole(file: RemoteFile, path: Path) -> None:
    """Check that a file that lies in the cache is FITS, and as long as its headers say.

    Raises
    ------
    DataError
        If it is not.
    """
    if path.suffix == ".fits" and (missing := _what_is_missing(path)) is not None:
        raise DataError(
            f"{path}: expected {file.product.title}, got {missing}; remove it and fetch it again"
        )


def _retrieve(file: RemoteFile, path: Path, patience: Patience, progress: Progress) -> None:
    """Download a file, verify it and put it in its place at once."""
    product = file.product
    least = product.bytes if product.bytes_exact else None
    part = partial_path(path)
    whole = _what_is_missing if path.suffix == ".fits" else _anything
    _LOG.info("%s: fetching %s (%s)", product.name, file.url, product.size)
    download(file.url, part, whole, patience, progress, least)
    try:
        if product.md5 and checksum(part, "md5") != product.md5:
            part.unlink()
            raise DataError(
                f"{file.url}: expected md5 {product.md5} ({product.md5_source}), got another file; "
                "fetch again, and if it comes again the archive has a new version: put it at "
                f"{path} by hand, and it is accepted"
            )
        os.replace(part, path)
    except OSError as error:
        raise _cannot_write(path.parent, error) from error


def _accept(file: RemoteFile, path: Path, new: bool = False) -> Fetched:
    """Check a file that lies in the cache against what is known of it, and record its checksum."""
    validate_whole(file, path)
    recorded = recorded_sha256(path)
    actual = checksum(path, "sha256") if recorded else record_sha256(path)
    if recorded not in (None, actual):
        raise DataError(
            f"{path}: expected the file whose checksum was recorded, sha256 {recorded}, got "
            f"{actual}; if you replaced it remove {path.name}.sha256, else remove the file and "
            "fetch it again"
        )
    published = "none"
    if file.product.md5 and path.suffix != ".gz":
        agrees = checksum(path, "md5") == file.product.md5
        published = "agrees" if agrees else "differs"
    return Fetched(file.product.name, file.url, path, path.stat().st_size, actual, new, published)


def _what_is_missing(path: Path) -> str | None:
    """What is wrong with a FITS file that may have been cut, None if it is whole."""
    with path.open("rb") as stream:
        begins = stream.read(9)
    if not begins.startswith(_FITS):
        page = begins.lstrip()[:1] == b"<"
        return "a web page" if page else "a file that does not begin as FITS does"
    if begins.startswith(_FITS[1]):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)  # of the first: its size is looked at
            with fits.open(path, memmap=True) as hdus:
                warnings.simplefilter("error", AstropyWarning)
                warnings.filterwarnings("ignore", "Invalid 'BLANK' keyword")  # surveys have it
                return _is_cut(hdus, path)
    except (OSError, AstropyWarning, fits.VerifyError) as error:
        return f"a FITS file that is cut or damaged ({' '.join(str(error).split())})"


def _is_cut(hdus: fits.HDUList, path: Path) -> str | None:
    """What is wrong with the sizes of a FITS file, None if nothing is."""
    for hdu in hdus:
        any_hdu: Any = hdu
        if any_hdu.fileinfo()["datLoc"] + any_hdu.size > path.stat().st_size:
            return "a file cut in its data"
    return None if len(hdus) else "an empty file"


def _anything(path: Path) -> str | None:
    return None if path.stat().st_size else "an empty file"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    if not os.access(folder, os.W_OK):
        raise _cannot_write(folder, PermissionError("permission denied"))


def _cannot_write(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"{folder}: expected a folder that can be written to, got {error}; choose another "
        "(cache=, or set FOREGLOW_DATA)"
    )
