"""Where the sky of the reproduction comes from: the mock Galaxy, or a user's folder."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from foreglow.dust import load
from foreglow.dust.inputs import DustSky, observed_sky
from foreglow.errors import SkyError
from foreglow.hi_cube.cube import open_cube
from foreglow.reproduce.zhang2019.paper import LOW_KMS
from foreglow.reproduce.zhang2019.sky_files import read_card
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
    about: str = ""

    gas = None

    def sky(self, low_kms: float, high_kms: float) -> DustSky:
        """See `Source`."""
        sky = load.load_sky(self.cube, self.dust, self.mask, low_kms, high_kms, self.unit)
        return replace(sky, source=self.about) if self.about else sky

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
        `mock`, or a folder with `sky.toml`, see `sky_files.read_card`, whose cube is prepared.
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
    files = read_card(Path(sky))
    if not files.prepared:
        raise SkyError(
            f"{sky}: expected under [hydrogen] a velocity cube as `foreglow dust prepare` writes "
            "it, and one mask, got files that are still to be brought to one Nside; `foreglow "
            "reproduce zhang2019` does."
        )
    return FileSource(
        files.cubes[0],
        Path(files.dust),
        files.unit,
        Path(files.masks[0]) if files.masks else None,
        files.about,
    )
