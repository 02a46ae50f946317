"""Open a file and say what it is, which commands it fits, and what is wrong with it."""

import logging
import re
import warnings
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning

from foreglow.data.check_table import check_table, velocity_notes
from foreglow.data.registry import Product, find_product, identify
from foreglow.data.report import ColumnFound, Report
from foreglow.errors import DataError
from foreglow.hi_cube.cube import open_cube
from foreglow.hi_cube.healpix_cube import is_healpix
from foreglow.hi_cube.image_cube import ImageCube, open_image_cube
from foreglow.hi_cube.survey import blank_channels, look_through
from foreglow.maps.conventions import MapWarning
from foreglow.maps.given import split_column

log = logging.getLogger("foreglow")

# words of OBJECT, and the product of a file whose name is none: GALFA's cubes are wide or narrow
_OBJECTS = {"HI4PI": "hi4pi-tiles", "GASS_III": "gass-cutouts", "GALFA-HI": ""}
_OF_ANY_NAME = ("hi4pi-cube", "hi4pi-tiles")


def check_file(path: Path) -> Report:
    """Open a file, read it and compare it with what the registry says of its product.

    Parameters
    ----------
    path : Path
        FITS (HEALPix table or cube), an HI cube of `foreglow dust prepare`, a sky directory, or a
        table of PySM. `mask.fits[GAL070]` looks at one column.

    Raises
    ------
    ForeglowError
        If it cannot be read at all, with the reader's own message.
    """
    path, column = split_column(path)
    if path.is_dir():
        return _check_folder(path)
    if not path.is_file():
        raise DataError(f"{path}: expected a file or folder to check, got none; check the path")
    with path.open("rb") as stream:
        begins = stream.read(64).lstrip()
    if not begins:
        raise DataError(f"{path}: expected a file, got an empty one; fetch or copy it again")
    if begins[:1] == b"<":
        raise DataError(
            f"{path}: expected FITS, got a web page, as archives send that want a browser; open "
            "its address in one and save the file from there"
        )
    if path.suffix == ".txt":
        return _check_text(path)
    if not begins.startswith((b"SIMPLE", b"\x1f\x8b")):
        raise DataError(
            f"{path}: expected FITS, got a file that does not begin as FITS does; check what it is "
            "and how it was made"
        )
    product = identify(path.name, [])
    if product is not None and product.kind == "bandpass":
        return _check_bandpasses(path, product)
    return check_table(path, column) if is_healpix(path) else _check_image(path)


def validate_product(product: Product, path: Path, known: str | None = None) -> None:
    """Check that a file is a product: columns, unit, frame, whole; what is odd of it is logged.

    Parameters
    ----------
    product : Product
    path : Path
    known : str, optional
        A pattern of what the caller knows of the file and need not be told.

    Raises
    ------
    DataError
        With all that is wrong.
    """
    report = check_file(path)
    for note in report.notes:
        if known is None or not re.match(known, note):
            log.info("%s: %s", path, note)
    problems = list(report.problems)
    if report.product != product.name:
        problems.append(f"expected {product.title}, got {report.what}")
    if problems:
        reasons = "; ".join(re.sub(r"\s+", " ", problem) for problem in problems)
        raise DataError(f"{path}: {reasons}; remove it and fetch {product.name} again")


def _check_folder(path: Path) -> Report:
    if (path / "sky.toml").is_file():
        from foreglow.sky.templates import load_templates

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", MapWarning)
            templates = load_templates(str(path))
        said = tuple(dict.fromkeys(str(warning.message) for warning in caught))
        what = f"a sky directory, synchrotron, dust and AME at Nside {templates.nside}"
        return Report(str(path), what, fits=(f"foreglow reproduce PAPER --sky {path}",), notes=said)
    if not any((path / name).is_file() for name in ("zarr.json", ".zgroup")):
        raise DataError(
            f"{path}: expected a sky directory, which has sky.toml, or an HI cube, which has "
            "zarr.json, got a folder without either; name the file that is to be checked"
        )
    cube = open_cube(path)
    what = cube.summary().removeprefix(f"{path}: ")
    fits = (f"foreglow dust train --cube {path}", f"foreglow dust predict --cube {path}")
    notes = velocity_notes(cube.velocity_kms)
    return Report(str(path), f"an HI cube of foreglow, {what}", fits=fits, notes=notes)


def _check_text(path: Path) -> Report:
    try:
        table = np.loadtxt(path, ndmin=2)
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: expected a table of numbers, as PySM's emissivity.txt, got {error}; fetch it "
            "again with `foreglow data fetch pysm-templates/emissivity.txt`"
        ) from error
    product = identify(path.name, [])
    what = f"a text table of {table.shape[0]} rows and {table.shape[1]} columns"
    problems = []
    if product is not None and (table.shape[1] != 2 or (np.diff(table[:, 0]) <= 0).any()):
        problems.append("expected two columns, frequency (GHz) ascending and emissivity")
    name = product.name if product else None
    fits = (product.use,) if product and not problems else ()
    return Report(str(path), what, name, fits=fits, problems=tuple(problems))


def _check_bandpasses(path: Path, product: Product) -> Report:
    names, problems = [], []
    try:
        with warnings.catch_warnings(), fits.open(path, memmap=False) as hdus:
            warnings.simplefilter("error", AstropyUserWarning)  # of a file that is cut
            extensions = [str(row[1]) for row in hdus.info(output=False) or ()]
    except (OSError, TypeError, ValueError, AstropyUserWarning) as error:
        problems.append(f"expected a whole FITS file, got {error}; fetch it again")
    else:
        names = [name for name in extensions if name.startswith("BANDPASS")]
        if not names:
            problems.append("expected extensions BANDPASS_..., got none; fetch it again")
    uses = [
        f"foreglow recognize survey --bandpass 'BAND={path}[{name}] as "
        f"{'power' if name.startswith('BANDPASS_F') else 'temperature'}'"  # HFI's F100, LFI's 030
        for name in names[:1]
    ]
    what = f"{product.title}: {', '.join(names) or 'none'}"
    return Report(str(path), what, product.name, fits=tuple(uses), problems=tuple(problems))


def _check_image(path: Path) -> Report:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MapWarning)
        with open_image_cube(path) as cube:
            kms, no_beam = cube.velocity.kms, cube.no_beam
            beam = "unknown" if cube.beam_arcmin is None else f"{cube.beam_arcmin:g} arcmin"
            rows, columns = cube.shape
            what = (
                f"a cube of {len(kms)} channels from {kms[0]:.2f} to {kms[-1]:.2f} km/s (LSRK), "
                f"{columns} x {rows} pixels of {cube.pixel_arcmin:.3g} arcmin, beam {beam}"
            )
            column, problems = _look_at_channels(cube)
            product = _survey(path, str(cube.header.get("OBJECT", "")).upper())
    said = [str(warning.message).removeprefix(f"{path}: ") for warning in caught]
    said += [f"{no_beam}; it is taken as unknown without --beam"] if no_beam else []
    command = f"foreglow dust prepare --cube {path}"
    return Report(
        str(path),
        what if product is None else f"{product.title}: {what}",
        None if product is None else product.name,
        (column,),
        (command,) if not problems else (),
        (*velocity_notes(kms), *dict.fromkeys(said)),
        problems,
    )


def _survey(path: Path, stated: str) -> Product | None:
    """The survey's product, by name and OBJECT; by one alone where no other cube has it.

    CAR.fits is a name that any cube may have.
    """
    product = identify(path.name, [])
    survey = next((word for word in _OBJECTS if word in stated), None)
    if product is None:
        return find_product(_OBJECTS[survey]) if survey and _OBJECTS[survey] else None
    there = path.resolve().parent.name == product.folder
    return product if survey or there or product.name not in _OF_ANY_NAME else None


def _look_at_channels(cube: ImageCube) -> tuple[ColumnFound, tuple[str, ...]]:
    """What the middle channel holds, and what is wrong with any; of a gzipped cube with that."""
    n_channel = len(cube.velocity.kms)
    middle = n_channel // 2
    found = look_through(cube, *((middle, middle + 1) if cube.gzipped else (0, n_channel)))
    found.odd.warn(str(cube.path))
    problems = []
    if found.blank:
        problems.append(str(blank_channels(str(cube.path), found.blank, cube.velocity.kms)))
    values = cube.read(middle, middle + 1)
    seen = values[np.isfinite(values)]
    unobserved = values.size - seen.size
    least, greatest = (float(seen.min()), float(seen.max())) if seen.size else (None, None)
    above = float((seen > 0).sum() / values.size)
    column = ColumnFound(f"(channel {middle + 1})", "K", unobserved, 0, least, greatest, above)
    return column, tuple(text.removeprefix(f"{cube.path}: ") for text in problems)
