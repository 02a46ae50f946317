"""The sky that a reproduction was asked for: what it costs, whether it is there, and making it."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from foreglow.compute.workers import MapFn
from foreglow.data.gather import bytes_missing, gather
from foreglow.errors import RunError
from foreglow.hi_cube.store import is_cube, partial_folder
from foreglow.reproduce.zhang2019 import sky as steps
from foreglow.reproduce.zhang2019.cost import (
    Cost,
    CubeFacts,
    cube_facts,
    predict_cost,
    validate_room,
)
from foreglow.reproduce.zhang2019.hi4pi import NAME, PaperSky
from foreglow.reproduce.zhang2019.paper import HIGH_KMS, LOW_KMS
from foreglow.reproduce.zhang2019.sky_files import FINE, SkyFiles, build_sky, read_card
from foreglow.reproduce.zhang2019.source import open_source
from foreglow.runs import Run
from foreglow.sky.hydrogen import CHANNEL_KMS

log = logging.getLogger("foreglow")

FOLDER = "sky"
_HI4PI_NSIDE = 1024  # of pixels not larger than HI4PI's of 5 arcmin


@dataclass(frozen=True)
class AskedSky:
    """A sky that can be had.

    Attributes
    ----------
    name : str
        As the configuration of a run has it.
    paper : PaperSky or None
        Of public data.
    files : SkyFiles or None
        Of a user, to be brought to one Nside.
    nside : int
        To which public data are brought.
    kms : tuple of 2 floats
        Range of velocities that is prepared.
    download : bool
    """

    name: str
    paper: PaperSky | None = None
    files: SkyFiles | None = None
    nside: int = 0
    kms: tuple[float, float] = (LOW_KMS, HIGH_KMS)
    download: bool = False

    def made(self, run: Run, map_fn: MapFn) -> str:
        """What `open_source` takes, made in the run where it must be; what is there is kept."""
        if self.paper is None and self.files is None:
            return self.name
        files, fine = self.files, None
        if self.paper is not None:
            with run.stage("files of the sky"):
                files, fine = self.paper.gathered(self.download, self.nside), self.paper.fine
        assert files is not None
        with run.stage("the sky, brought to one Nside"):
            return str(build_sky(files, run.folder / FOLDER, *self.kms, fine, map_fn))


def ask_sky(sky: str, settings: dict[str, Any], out: Path, seed: int, download: bool) -> AskedSky:
    """Find the sky, say what it will take, and refuse what cannot be had.

    Parameters
    ----------
    sky : str
        `mock`, `hi4pi` with words, or a folder with `sky.toml`.
    settings : dict
        The preset at a scale.
    out : Path
        Run directory.
    seed : int
        Of the mock.
    download : bool
        Fetch what is missing.

    Raises
    ------
    ForeglowError
        If it cannot be used, files are missing and are not to be fetched, or there is no room.
    """
    if download and not _is_public(sky):
        raise RunError(
            f"expected download=True with sky='hi4pi', got sky={sky!r}, of which nothing is "
            "fetched; leave it out."
        )
    if sky == "mock":
        return AskedSky(sky)
    kms = _range(settings)
    if _is_public(sky):
        return _ask_public(sky, settings, out, kms, download)
    name = str(Path(sky).absolute())  # workers may be elsewhere
    files = read_card(Path(name))
    if files.prepared:
        open_source(name, settings["nside"], seed)
        return AskedSky(name)
    return _ask_own(name, files, settings, out, kms)


def _ask_own(
    name: str, files: SkyFiles, settings: dict[str, Any], out: Path, kms: tuple[float, float]
) -> AskedSky:
    """A user's files, which must be brought to one Nside."""
    facts = cube_facts(files.cubes, *kms)
    prepared = files.cubes[0].is_dir() or is_cube(out / FOLDER / FINE)
    nside = files.nside or facts.nside
    cost = predict_cost(settings, facts, nside, 0, _PREPARED if prepared else 0)
    _say(cost)
    validate_room(replace(cost, prepared=0, run=cost.run + cost.prepared), out, out)
    return AskedSky(name, files=files, kms=kms)


def _ask_public(
    sky: str, settings: dict[str, Any], out: Path, kms: tuple[float, float], download: bool
) -> AskedSky:
    """The sky of the paper; its cube may still be to come."""
    paper = PaperSky.of(sky)
    facts = CubeFacts(_HI4PI_NSIDE, round((kms[1] - kms[0]) / CHANNEL_KMS) + 1)
    if all(path.exists() for path in paper.cubes):
        facts = cube_facts(paper.cubes, *kms)
    there = _PREPARED if is_cube(paper.fine) else _bytes_of(partial_folder(paper.fine))
    fetched = bytes_missing(paper.files, paper.folder)
    cost = predict_cost(settings, facts, settings["nside"], fetched, there)
    _say(cost)
    if not download:
        gather(paper.files, paper.folder, download)  # says what is missing
    validate_room(cost, paper.folder, out)
    return AskedSky(sky, paper, None, settings["nside"], kms, download)


_PREPARED = 1 << 62  # bytes: no cube has more


def _is_public(sky: str) -> bool:
    return sky.partition(":")[0] == NAME


def _range(settings: dict[str, Any]) -> tuple[float, float]:
    """Velocities that some step looks at."""
    reach = max(settings["wide_kms"], steps.PROFILE_KMS)
    return min(LOW_KMS, -reach), max(HIGH_KMS, reach)


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _say(cost: Cost) -> None:
    for line in cost.lines():
        log.info("%s", line)
