"""The registry as a reader sees it: two lines a product, or all of one."""

from pathlib import Path
from typing import Any

from foreglow.data.cache import local_path
from foreglow.data.registry import Product, RemoteFile, in_words


def files_there(product: Product, folder: Path) -> list[Path]:
    """Files of a product that lie in the cache."""
    if product.pattern is None:
        files = product.all_files()
    else:
        place = folder / product.folder
        names = sorted(p.name for p in place.glob("*")) if place.is_dir() else []
        files = [RemoteFile(product, name) for name in names if product.has_file(name)]
    return [path for path in (local_path(f, folder) for f in files) if path.is_file()]


def product_record(product: Product, folder: Path) -> dict[str, Any]:
    """All of a product and where it lies, for JSON."""
    return product.record() | {"there": [str(p) for p in files_there(product, folder)]}


def listing(products: list[Product], folder: Path) -> str:
    """Two lines a product."""
    lines = [f"Public data; in the cache, {folder}, what is marked with *"]
    for product in products:
        grid = "" if product.nside is None else f"Nside {product.nside}"
        mark = "*" if files_there(product, folder) else " "
        unit = (product.unit or "").partition(" (")[0]
        facts = f"{product.size:14} {unit:7} {grid:11} {product.column or ''}"
        lines += [f"{mark} {product.name:23} {facts}".rstrip(), f"    {product.title}"]
    return "\n".join([*lines, "All of one: foreglow data list PRODUCT"])


def unverified(files: list[RemoteFile]) -> list[str]:
    """What of some files' products could not be verified."""
    products = {file.product.name: file.product for file in files}.values()
    return [f"{p.name}: {text}" for p in products for text in p.unverified]


def details(product: Product, folder: Path) -> str:
    """All of a product, a line a fact."""
    several = product.pattern or len(product.files) > 1
    md5 = f"md5 {product.md5}, by {product.md5_source}" if product.md5 else "none published"
    grid, frames = product.grid, {"G": "Galactic", "C": "equatorial"}
    if product.kind != "cube":
        grid = f"HEALPix, Nside {product.nside}, {product.ordering or 'ordering not known'}"
    facts = [
        ("name", f"{product.name}/FILE" if several else product.name),
        ("files", product.example or ", ".join(product.files)),
        ("where", product.base or "no public address is known"),
        ("in the cache", str(folder / product.folder)),
        ("size", product.size + (" a file" if several and product.bytes else "")),
        ("checksum", md5 + "; recorded when fetched"),
        *([("pixels", f"{grid}, {frames.get(product.frame or '')}")] if product.frame else []),
        *([("polarisation", product.convention)] if product.convention else []),
        *([("unit", product.unit)] if product.unit else []),
        ("columns", ", ".join(product.columns) or "-"),
        ("take", product.column or "-"),
        ("for", product.use),
        ("cite", product.cite),
        *[("source", text) for text in product.sources],
        *[("NOT VERIFIED", text) for text in product.unverified],
    ]
    there = files_there(product, folder)
    if there:
        total = in_words(sum(p.stat().st_size for p in there))
        facts.append(("there", f"{len(there)} files, {total}"))
    return "\n".join([product.title, *(f"  {key + ':':14}{text}" for key, text in facts)])
