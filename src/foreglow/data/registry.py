"""The products that foreglow knows, read from registry.toml."""

import re
import tomllib
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from foreglow.errors import DataError

_REGISTRY = resources.files("foreglow") / "data" / "registry.toml"
Kind = Literal["cube", "table", "map", "mask", "template", "bandpass"]


@dataclass(frozen=True, kw_only=True)
class Product:
    """A public data product: one file, several, or one of many (`pattern`).

    Attributes
    ----------
    name, title : str
    kind : str
        "cube", "table", "map", "mask", "template" or "bandpass".
    base : str
        What comes before a file's name in its address.
    folder : str
        Of the cache, where the files lie.
    files : tuple of str
        Their names; empty where there is a pattern.
    pattern, example : str or None
        Names of the files of a survey, of which each is fetched by its name.
    bytes : int or None
        Size of a file, exact if `bytes_exact`; None where it was not found.
    md5, md5_source : str or None
        Checksum of the only file, and who published it.
    nside : int or None
    ordering, frame, unit : str or None
        "RING" or "NESTED"; "G" or "C"; as the header states it.
    grid : str or None
        How the pixels of a cube lie.
    convention : str or None
        "COSMO" or "IAU", of the polarisation, whether the header states it or not.
    columns : tuple of str
        Those that are known to be there.
    n_columns : int or None
        Of the table, where it has more than `columns`.
    column : str or None
        The one to take.
    use, cite : str
        What foreglow does with it, and what to cite.
    sources, unverified : tuple of str
        Where these facts are from, and which could not be verified.
    """

    name: str
    title: str
    kind: Kind
    base: str
    folder: str
    use: str
    cite: str
    sources: tuple[str, ...]
    unverified: tuple[str, ...]
    files: tuple[str, ...] = ()
    pattern: str | None = None
    example: str | None = None
    bytes: int | None = None
    bytes_exact: bool = False
    md5: str | None = None
    md5_source: str | None = None
    nside: int | None = None
    ordering: Literal["RING", "NESTED"] | None = None
    frame: str | None = None
    grid: str | None = None
    convention: Literal["COSMO", "IAU"] | None = None
    unit: str | None = None
    columns: tuple[str, ...] = ()
    n_columns: int | None = None
    column: str | None = None

    @property
    def size(self) -> str:
        """Of a file, in words."""
        if self.bytes is None:
            return "not known"
        return ("" if self.bytes_exact else "about ") + in_words(self.bytes)

    @property
    def bytes_expected(self) -> int:
        """Of a file: as known, else what the known columns of a map take, which may be too few."""
        if self.bytes is not None or self.nside is None:
            return self.bytes or 0
        return 4 * (self.n_columns or len(self.columns) or 1) * 12 * self.nside**2

    def has_file(self, file: str) -> bool:
        """Whether a file of this name, perhaps gzipped, is one of the product's."""
        file = file.removesuffix(".gz")
        if self.pattern is not None:
            return re.fullmatch(self.pattern, file) is not None
        return file in self.files

    def record(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return asdict(self) | {"urls": [f.url for f in self.all_files()]}

    def all_files(self) -> list["RemoteFile"]:
        """Its files; of a pattern, the example."""
        names = self.files or (self.example or "",)
        return [RemoteFile(self, name) for name in names]


@dataclass(frozen=True)
class RemoteFile:
    """One file of a product."""

    product: Product
    name: str

    @property
    def url(self) -> str:
        """Where it lives."""
        return self.product.base + self.name

    @property
    def place(self) -> PurePosixPath:
        """Where it lies in the cache."""
        return PurePosixPath(self.product.folder) / self.name


@cache
def load_registry() -> tuple[Product, ...]:
    """All products, in the order of the file.

    Raises
    ------
    DataError
        If the file is damaged.
    """
    try:
        table = tomllib.loads(_REGISTRY.read_text(encoding="utf-8"))
        return TypeAdapter(tuple[Product, ...]).validate_python(table["product"])
    except (tomllib.TOMLDecodeError, KeyError, ValidationError, OSError) as error:
        raise DataError(
            f"{_REGISTRY}: expected the registry of products, got {error}; install foreglow again"
        ) from error


def find_files(name: str) -> list[RemoteFile]:
    """The files that a name asks for: PRODUCT, or PRODUCT/FILE for one of several.

    Raises
    ------
    DataError
        If there is no such product or file, or the product has too many files to take all.
    """
    wanted, slash, file = name.partition("/")
    product = find_product(wanted)
    if slash:
        if not product.has_file(file):
            has = product.example or ", ".join(product.files)
            raise DataError(
                f"expected a file of {product.name}, as {has}, got {file!r}; see `foreglow data "
                f"list {product.name}`"
            )
        return [RemoteFile(product, file)]
    if product.pattern is not None:
        raise DataError(
            f"expected one file of {product.name}, which has many of {product.size} each, got none;"
            f" name it: {product.name}/{product.example}"
        )
    return product.all_files()


def find_product(name: str) -> Product:
    """The product of a name.

    Raises
    ------
    DataError
        Naming those there are.
    """
    for product in load_registry():
        if product.name == name:
            return product
    known = [p.name for p in load_registry()]
    names = ", ".join([n for n in known if name and name in n] or known)
    raise DataError(f"expected a product, one of {names}, got {name!r}; see `foreglow data list`")


def identify(file: str, columns: list[str]) -> Product | None:
    """The product of a file, by its name, else by its columns."""
    known = load_registry()
    for product in known:
        if product.has_file(file):
            return product
    for product in known:
        has_all = len(product.columns) > 1 and set(product.columns) <= set(columns)
        if has_all and len(columns) == (product.n_columns or len(product.columns)):
            return product
    return None


def in_words(n_bytes: int) -> str:
    """A number of bytes as 33 GiB or 252 MiB."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}"
    return f"{n_bytes} bytes"
