"""Where the sky of the reproduction comes from: the mock Galaxy, or a user's folder."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from foreglow.dust import load
from foreglow.dust.inputs import DustSky, observed_sky
from foreglow.errors import SkyError
from foreglow.hi_cube.cube import open_cube
from foreglow.reproduce.zhang2019.paper import LOW_KMS
from foreglow.sky.gas import MockGas, mock_gas
from foreglow.sky.hydrogen import CHANNEL_KMS, velocity_channels


class Source(Protocol):
    """A sky at any range of velocities."""

    @property
    def gas(self) -> MockGas | None:
        """All that the mock knows of itself; None for a real sky."""
        ...

    def sky(self, low_kms: float, high_kms: float) -> DustSky:
        """Channels from one velocity to another, dust and mask, filtered, for cutouts."""
        ...

    def channels(
        self, low_kms: float, high_kms: float
    ) -> tuple[NDArray[np.float64], Iterator[NDArray]]:
        """Velocities of channels, and their maps as observed: RING, K."""
        ...

    def reaches(self, low_kms: float, high_kms: float) -> bool:
        """Whether there are channels from one velocity to the other."""
        ...


@dataclass(frozen=True, eq=False)
class MockSource:
    """The mock Galaxy of a seed."""

    gas: MockGas

    def sky(self, low_kms: float, high_kms: float) -> DustSky:
        """See `Source`."""
        return observed_sky(self.gas, paper_channels(low_kms, high_kms))

    def channels(
        self, low_kms: float, high_kms: float
    ) -> tuple[NDArray[np.float64], Iterator[NDArray]]:
        """See `Source`."""
        velocity = paper_channels(low_kms, high_kms)
        return velocity, self.gas.hydrogen.cube(velocity, noise=True)

    def reaches(self, low_kms: float, high_kms: float) -> bool:
        """The mock is made at any velocity."""
        return True


@dataclass(frozen=True, eq=False)
class FileSource:
    """A user's HI cube, dust map and mask, as `sky.toml` names them."""

    cube: Path
    dust: Path
    unit: str | None
    mask: Path | None

    gas = None

    def sky(self, low_kms: float, high_kms: float) -> DustSky:
        """See `Source`."""
        return load.load_sky(self.cube, self.dust, self.mask, low_kms, high_kms, self.unit)

    def channels(
        self, low_kms: float, high_kms: float
    ) -> tuple[NDArray[np.float64], Iterator[NDArray]]:
        """See `Source`."""
        opened = open_cube(self.cube)
        which = opened.between(low_kms, high_kms)
        return opened.velocity_kms[which], opened.channels(which)

    def reaches(self, low_kms: float, high_kms: float) -> bool:
        """See `Source`; a channel may be missing at each end."""
        velocity = open_cube(self.cube).velocity_kms
        return velocity[0] < low_kms + 2 * CHANNEL_KMS and velocity[-1] > high_kms - 2 * CHANNEL_KMS


def paper_channels(low_kms: float, high_kms: float) -> NDArray[np.float64]:
    """Channels of a range on the grid of the paper's 64, so that a wide cube holds those."""
    below = max(0, int(np.floor((LOW_KMS - low_kms) / CHANNEL_KMS + 1e-9)))
    return velocity_channels(LOW_KMS - below * CHANNEL_KMS, high_kms)


def open_source(sky: str, nside: int, seed: int) -> Source:
    """The source that `sky` names.

    Parameters
    ----------
    sky : str
        `mock`, or a folder with `sky.toml`: tables `hydrogen` (`file`, a cube as `foreglow dust
        prepare` writes it), `dust_intensity` (`file`, and `unit` where the map does not state it)
        and, if there is one, `mask` (`file`).
    nside : int
        Of the mock; a folder has its own.
    seed : int
        Of the mock.

    Raises
    ------
    SkyError
        If it names neither, or the folder lacks what is needed.
    """
    if sky == "mock":
        return MockSource(mock_gas(nside, seed))
    folder = Path(sky)
    card = folder / "sky.toml"
    if not card.is_file():
        raise SkyError(
            f"expected sky='mock' or a directory with sky.toml, but {card} does not exist; see "
            "`foreglow dust prepare --help` for the cube that it names."
        )
    try:
        table = tomllib.loads(card.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SkyError(f"{card} is not valid TOML: {error}.") from error
    cube = _file(card, table, "hydrogen")
    if not cube.is_dir():
        raise SkyError(
            f"{card}: expected under [hydrogen] a velocity cube as `foreglow dust prepare` writes "
            f"it, a directory, but {cube} is a file; a map of the column density holds no "
            "velocities. Prepare a cube (HI4PI: CDS J/A+A/594/A116)."
        )
    unit = _table(card, table, "dust_intensity").get("unit")
    unit = None if unit is None else str(unit)  # 1: a number without a unit
    mask = _file(card, table, "mask") if "mask" in table else None
    return FileSource(cube, _file(card, table, "dust_intensity"), unit, mask)


def _table(card: Path, table: dict[str, Any], name: str) -> dict[str, Any]:
    found = table.get(name)
    if not isinstance(found, dict) or not isinstance(found.get("file"), str):
        have = ", ".join(f"[{key}]" for key in table) or "none"
        needs = (
            " A velocity cube is needed: make one with `foreglow dust prepare`."
            if name == "hydrogen"
            else ""
        )
        raise SkyError(
            f"{card}: expected a table [{name}] with file = ..., but the tables are {have}.{needs}"
        )
    return found


def _file(card: Path, table: dict[str, Any], name: str) -> Path:
    path = card.parent / _table(card, table, name)["file"]
    if not path.exists():
        raise SkyError(f"{card}: [{name}] names {path}, which does not exist; mend the name.")
    return path
