"""What a reproduction on a real sky will take: disk, memory and time, before it begins.

Sizes follow from headers and Nside. Times are estimates from rates that docs/performance.md and
docs/tutorials/real_sky.md tell of, measured on two cores: another machine has others.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreglow.data import room
from foreglow.data.cost import cost_lines
from foreglow.dust.plan import DustPlan
from foreglow.dust.train import VALIDATION_CUTOUTS
from foreglow.errors import SkyError
from foreglow.hi_cube.cube import open_cube, velocity_slice
from foreglow.hi_cube.healpix_cube import is_healpix, open_healpix_cube, spectrum_length
from foreglow.hi_cube.image_cube import open_image_cube
from foreglow.hi_cube.tiles import finest_needed
from foreglow.maps import healpix as hp
from foreglow.maps.table import open_table
from foreglow.reproduce.zhang2019.paper import HIGH_KMS, LOW_KMS
from foreglow.sky.hydrogen import CHANNEL_KMS

_PREPARED = 9.7e6  # pixels times channels a second, of one core: measured at Nside 1024
_FILTERED = 3.8e7  # pixels a second of a low-pass at Nside 1024, two cores
_CUTOUTS = {"unet": (154.0, 12.8), "unet_zhang2019": (95.0, 12.7)}  # a second, of widths below
_WIDTHS = {"unet": (8, 64), "unet_zhang2019": (16, 64)}
_MEASURED = 512  # cutouts that standardise a network, and measure its scale and errors
_BESIDE = 1.3  # validation, calibration and figures beside the trainings; `laptop` took that
_BEFORE = 400 << 20  # bytes of libraries while a cube is prepared, 8 channels held twice
_LIBRARIES = 3 << 29  # PyTorch, figures and batches that are judged: a run at `smoke` took 1.7 GiB
_LOADING = 320  # bytes a pixel, beside the sky itself, while it is filtered: measured at Nside 512
_WEIGHTS = 31e6 * 4  # bytes of a network of width 64
_CHECKPOINTS = 4  # weights, and those of a checkpoint with its optimiser


@dataclass(frozen=True)
class CubeFacts:
    """What matters of a cube: its own Nside, and its channels in a range."""

    nside: int
    n_channel: int


@dataclass(frozen=True)
class Cost:
    """What a run will take.

    Attributes
    ----------
    download, prepared, run : int
        Bytes: still to be fetched; of the cube at its own Nside; of the run directory.
    memory : int
        Bytes, at the peak.
    hours : dict of str to float
        By stage, on two cores.
    """

    download: int
    prepared: int
    run: int
    memory: int
    hours: dict[str, float]

    def lines(self) -> Iterator[str]:
        """For the log."""
        disk = {
            "or more to fetch": self.download, "for the prepared cube": self.prepared,
            "for the run": self.run,
        }  # fmt: skip
        seconds = {stage: 3600 * hours for stage, hours in self.hours.items()}
        beside = "; trainings are many times faster on a graphics card"
        return cost_lines(disk, self.memory, seconds, "two cores", beside)


def cube_facts(paths: Sequence[Path], low_kms: float, high_kms: float) -> CubeFacts:
    """Look at the headers of cubes.

    Raises
    ------
    MapError, SkyError
        If one is not what `foreglow dust prepare` takes.
    """
    path = paths[0]
    if path.is_dir():
        cube = open_cube(path)
        return CubeFacts(cube.nside, _count(path, cube.velocity_kms, low_kms, high_kms))
    if not is_healpix(path):
        with open_image_cube(path) as image:
            count = _count(path, image.velocity.kms, low_kms, high_kms)
            return CubeFacts(finest_needed(image.pixel_arcmin), count)
    table = open_table(path)
    if len(paths) == 1 and "CTYPE3" not in table.header and spectrum_length(table) == 1:
        raise SkyError(
            f"{path}: expected under [hydrogen] a velocity cube, as a survey publishes it or as "
            "`foreglow dust prepare` writes it, got a HEALPix table without velocities: a map of "
            "the column density holds no velocities. Prepare a cube (HI4PI: CDS J/A+A/594/A116)."
        )
    maps = open_healpix_cube(list(paths), None, None, _LIBRARIES)
    return CubeFacts(maps.nside, _count(path, maps.velocity.kms, low_kms, high_kms))


def predict_cost(
    settings: dict[str, Any], facts: CubeFacts, nside: int, download: int, there: int
) -> Cost:
    """What a run takes.

    Parameters
    ----------
    settings : dict
        The preset at a scale.
    facts : CubeFacts
    nside : int
        Of the run.
    download : int
        Bytes still to be fetched.
    there : int
        Bytes of the prepared cube that are there.
    """
    wide = min(facts.n_channel, round(2 * settings["wide_kms"] / CHANNEL_KMS))
    narrow = min(facts.n_channel, round((HIGH_KMS - LOW_KMS) / CHANNEL_KMS))
    pixels, fine = hp.nside2npix(nside), hp.nside2npix(facts.nside)
    plans = _plans(settings)
    prepared = 4 * facts.n_channel * fine
    weights = sum(p.members * _WEIGHTS * (p.width / 64) ** 2 for p, _ in plans)
    lowered = 4 * facts.n_channel * pixels if nside < facts.nside else 0
    batch = max(p.batch * 64**2 * 4 * (3 * narrow + 40 * p.width) for p, _ in plans)
    sky = 4 * pixels * (narrow + wide + 4)
    return Cost(
        download,
        max(0, prepared - there),
        int(lowered + 12 * pixels + _CHECKPOINTS * weights) + (64 << 20),
        int(
            max(
                _BEFORE + 16 * 4 * fine if there < prepared else 0,
                _LIBRARIES + sky + _LOADING * pixels + batch,
            )
        ),
        {
            "preparing": 0 if there >= prepared else facts.n_channel * fine / _PREPARED / 3600,
            "filtering": (narrow + wide) * pixels / _FILTERED / 3600,
            "training and judging": _BESIDE * sum(n / _rate(p) for p, n in plans) / 3600,
        },
    )


def validate_room(cost: Cost, data: Path, out: Path) -> None:
    """Check that the disks can hold what is to come.

    Raises
    ------
    RunError
        If one cannot.
    """
    room.validate_room(((data, cost.download + cost.prepared), (out, cost.run)))


def _count(path: Path, kms: Any, low_kms: float, high_kms: float) -> int:
    part = velocity_slice(str(path), kms, low_kms, high_kms)
    return part.stop - part.start


def _plans(settings: dict[str, Any]) -> list[tuple[DustPlan, float]]:
    """Plans of all networks, and the cutouts that each sees: in training, then judged."""
    tests = settings["test_cutouts"]
    named = [(DustPlan(**settings[name]), 2.25 * tests) for name in settings["networks"]]
    if "variants" in settings:
        variant = DustPlan(**settings["variants"])
        named += [(variant, tests)] * (len(settings["lambdas"]) + 4)
    named = [(plan, judged + _MEASURED) for plan, judged in named]
    centres = 12 * settings["centres_nside"] ** 2
    found = [
        (
            plan,
            plan.members * (plan.epochs * (plan.steps * plan.batch + VALIDATION_CUTOUTS) + judged),
        )
        for plan, judged in named
    ]
    plan, seen = found[0]
    return [(plan, seen + 2 * plan.members * centres), *found[1:]]  # the map, twice


def _rate(plan: DustPlan) -> float:
    """Cutouts a second of a network: a power law of the width between those measured."""
    (narrow, wide), (first, last) = _WIDTHS[plan.network], _CUTOUTS[plan.network]
    slope = math.log(last / first) / math.log(wide / narrow)
    return first * (max(plan.width, 4) / narrow) ** slope
