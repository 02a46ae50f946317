"""A sky of files: what its card names, and how it is brought to one Nside in a run.

Cubes as surveys publish them, dust maps and masks of any higher Nside become a folder of
`cube.zarr`, `dust.fits`, `mask.fits` and a card, one after the other: what is there is kept.
"""

import json
import logging
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tomli_w

from foreglow.compute.workers import MapFn
from foreglow.dust.beside import read_dust_file, read_mask_file, validate_frame
from foreglow.dust.target import open_target
from foreglow.errors import RunError, SkyError
from foreglow.files import make_folder, write_text
from foreglow.hi_cube.cube import HICube, open_cube
from foreglow.hi_cube.lower import lower_cube
from foreglow.hi_cube.prepare import prepare
from foreglow.maps.given import split_column
from foreglow.maps.io import IntensityMap, open_plain_map
from foreglow.maps.write import write_maps

log = logging.getLogger("foreglow")

CARD, CUBE, FINE, DUST, MASK = "sky.toml", "cube.zarr", "fine.zarr", "dust.fits", "mask.fits"
_INPUTS = "inputs.json"
_MEMORY = "4 GiB"  # bound of the preparation


@dataclass(frozen=True)
class SkyFiles:
    """Files of a sky.

    Attributes
    ----------
    cubes : tuple of Path
        A cube of `foreglow dust prepare`, or what that takes.
    dust : str
        FITS, perhaps with a column: `FILE[COLUMN]`.
    unit : str or None
        Of the dust, where its header states none.
    masks : tuple of str
        The sky counts where all of them are above zero.
    sources : str or None
        A mask of the Nside of the dust map, of point sources: left out of its means.
    nside : int or None
        To which all is brought; None: that of the cube.
    scale : tuple of (float, str) or None
        Factor on the dust map, and the unit that it then has.
    about : str
        What these are, for figures; "": the names of the files.
    """

    cubes: tuple[Path, ...]
    dust: str
    unit: str | None = None
    masks: tuple[str, ...] = ()
    sources: str | None = None
    nside: int | None = None
    scale: tuple[float, str] | None = None
    about: str = ""

    @property
    def prepared(self) -> bool:
        """Whether it can be read as it is: one prepared cube, and one mask at most."""
        return (
            len(self.cubes) == 1
            and self.cubes[0].is_dir()
            and len(self.masks) < 2
            and self.sources is None
            and self.nside is None
        )


def read_card(folder: Path) -> SkyFiles:
    """What `sky.toml` names.

    Parameters
    ----------
    folder : Path
        With `sky.toml`: tables `hydrogen` (`file`: a cube that `foreglow dust prepare` made, or one
        or a list of what it takes; `nside`, to which all is brought), `dust_intensity` (`file`,
        `unit` where the map states none, `sources`: a mask of point sources) and, if there is one,
        `mask` (`file`, one or a list). `FILE[COLUMN]` names a column. Files are relative to it.

    Raises
    ------
    SkyError
        If there is no card, it cannot be read, or it lacks what is needed.
    """
    card = folder / CARD
    if not card.is_file():
        raise SkyError(
            f"expected sky='mock', sky='hi4pi' or a directory with sky.toml, but {card} does not "
            "exist; the card names a cube, a dust map and a mask."
        )
    try:
        table = tomllib.loads(card.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SkyError(f"{card} is not valid TOML: {error}.") from error
    hydrogen = _table(card, table, "hydrogen")
    cubes = tuple(Path(name) for name in _named(card, hydrogen["file"], "hydrogen"))
    dust = _table(card, table, "dust_intensity")
    unit, sources, nside = dust.get("unit"), dust.get("sources"), hydrogen.get("nside")
    if nside is not None and not isinstance(nside, int):
        raise SkyError(f"{card}: expected nside of [hydrogen] as an integer, got {nside!r}.")
    masks = ()
    if "mask" in table:
        masks = _named(card, _table(card, table, "mask")["file"], "mask")
    return SkyFiles(
        cubes,
        _named(card, dust["file"], "dust_intensity")[0],
        None if unit is None else str(unit),  # 1: a number without a unit
        masks,
        None if sources is None else _named(card, sources, "dust_intensity")[0],
        nside,
        about=str(table.get("about", "")),
    )


def build_sky(
    files: SkyFiles,
    folder: Path,
    low_kms: float,
    high_kms: float,
    fine: Path | None = None,
    map_fn: MapFn = map,
) -> Path:
    """Bring all of a sky to one Nside; what an interrupted run has made is kept.

    Parameters
    ----------
    files : SkyFiles
    folder : Path
        To write to.
    low_kms, high_kms : float
        Channels that are prepared, as far as the cube has them.
    fine : Path, optional
        Where the cube is prepared at its own Nside; by default in the folder.
    map_fn : MapFn
        Where channels are done.

    Returns
    -------
    Path
        The folder, with its card.

    Raises
    ------
    ForeglowError
        If a file is not what is expected, or is another than when the folder was begun.
    """
    make_folder(folder)
    _validate_inputs(files, folder)
    cube = _cube(files, folder, (low_kms, high_kms), fine or folder / FINE, map_fn)
    _write_dust(files, folder / DUST, cube.nside)
    card: dict[str, Any] = {
        "about": files.about or _names(files),
        "hydrogen": {"file": str(cube.path)},
        "dust_intensity": {"file": DUST},
    }
    if files.masks:
        _write_mask(files, folder / MASK, cube.nside)
        card["mask"] = {"file": MASK}
    write_text(folder / CARD, tomli_w.dumps(card))
    return folder


def _cube(
    files: SkyFiles, folder: Path, kms: tuple[float, float], fine: Path, map_fn: MapFn
) -> HICube:
    """The cube at the Nside wanted: prepared at its own, then averaged."""
    low = folder / CUBE
    if low.is_dir():
        return open_cube(low)
    if len(files.cubes) == 1 and files.cubes[0].is_dir():
        made = open_cube(files.cubes[0])
    else:
        pool = None if map_fn is map else SimpleNamespace(map=map_fn)
        make_folder(fine.parent)
        made = prepare(
            list(files.cubes), fine, low_kms=kms[0], high_kms=kms[1], memory=_MEMORY, resume=True,
            pool=pool,
        )  # fmt: skip
    log.info("%s", made.summary())
    if files.nside is None or files.nside == made.nside:
        return replace(made, path=made.path.absolute()) if made.path else made
    if files.nside > made.nside:
        raise SkyError(
            f"{made.name}: expected a cube of Nside {files.nside} or more, got pixels of Nside "
            f"{made.nside}; ask for a lower nside, or a smaller scale="
        )
    log.info("the cube, averaged from Nside %d to %d", made.nside, files.nside)
    return lower_cube(made, low, files.nside)


def _write_dust(files: SkyFiles, path: Path, nside: int) -> None:
    if path.is_file():
        return
    stored, unit = open_target(Path(files.dust), files.unit)
    holes = None if files.sources is None else _holes(files.sources, stored)
    values = read_dust_file(Path(files.dust), stored, nside, holes)
    if files.scale is not None:
        values, unit = (files.scale[0] * values).astype(np.float32), files.scale[1]
    write_maps(path, {"I": (values, "" if unit == "1" else unit)}, frame="G", overwrite=True)


def _holes(name: str, dust: IntensityMap) -> IntensityMap:
    """A mask of point sources, on the pixels of the dust map."""
    holes = open_plain_map(name)
    validate_frame(Path(name), holes, dust.nside)
    if holes.nside != dust.nside:
        raise SkyError(
            f"{name}: expected a mask of point sources of the Nside of the dust map, {dust.nside}, "
            f"got {holes.nside}; leave it out, or bring it there."
        )
    return holes


def _write_mask(files: SkyFiles, path: Path, nside: int) -> None:
    if path.is_file():
        return
    kept = np.logical_and.reduce([read_mask_file(Path(name), nside) for name in files.masks])
    log.info("mask: %.1f%% of the sky is open", 100 * kept.mean())
    write_maps(path, {"MASK": (kept.astype(np.float32), "")}, frame="G", overwrite=True)


def _validate_inputs(files: SkyFiles, folder: Path) -> None:
    """Files are those with which the folder was begun."""
    named = [*map(str, files.cubes), files.dust, *files.masks]
    named += [files.sources] if files.sources else []
    paths = [split_column(Path(name))[0] for name in named]
    stamps = [
        [name, *((s.st_size, s.st_mtime_ns) if not p.is_dir() and (s := p.stat()) else ())]
        for name, p in zip(named, paths, strict=True)
    ]
    note = folder / _INPUTS
    if not note.is_file():
        write_text(note, json.dumps(stamps))
    elif json.loads(note.read_text(encoding="utf-8")) != stamps:
        raise RunError(
            f"{folder}: expected the files of the sky as they were when the run was begun, got "
            "others, or other sizes or dates; begin anew with another out=."
        )


def _names(files: SkyFiles) -> str:
    named = [path.name for path in files.cubes[:2]] + ["..."] * (len(files.cubes) > 2)
    return " + ".join([*named, *(Path(name).name for name in (files.dust, *files.masks))])


def _table(card: Path, table: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = table.get(name)
    names = found.get("file") if isinstance(found, dict) else None
    if not isinstance(found, dict) or not isinstance(names, str | list) or not names:
        have = ", ".join(f"[{key}]" for key in table) or "none"
        needs = (
            " A velocity cube is needed: as a survey publishes it, or made by `foreglow dust "
            "prepare`."
            if name == "hydrogen"
            else ""
        )
        raise SkyError(
            f"{card}: expected a table [{name}] with file = ..., but the tables are {have}.{needs}"
        )
    return found


def _named(card: Path, names: str | list[str], table: str) -> tuple[str, ...]:
    """Files that are there, relative to the card; each perhaps with a column."""
    found = []
    for name in [names] if isinstance(names, str) else names:
        path = card.parent / str(name)
        if not split_column(path)[0].exists():
            raise SkyError(f"{card}: [{table}] names {path}, which does not exist; mend the name.")
        found.append(str(path))
    return tuple(found)
