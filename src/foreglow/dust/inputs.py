"""A sky to learn the dust from: channels, dust and mask, filtered; the mock Galaxy's."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from foreglow.dust.cutouts import CutoutSampler
from foreglow.dust.networks import Target
from foreglow.dust.sky_cube import SkyCube
from foreglow.maps import healpix as hp
from foreglow.maps.gnomonic import Grid
from foreglow.maps.harmonic import PAPER_CUT, HarmonicFilter, low_pass
from foreglow.maps.hemispheres import Method, Region
from foreglow.sky.gas import MockGas, mock_gas
from foreglow.sky.hydrogen import velocity_channels

log = logging.getLogger("foreglow")

OPEN_SKY = 0.72  # of the sky is what the paper's mask LR72 leaves
PAPER_RANGE_KMS = (-64.5, 17.0)
MASK_SMOOTHING_DEG = 5.0  # FWHM
MOCK_UNIT = "uK_RJ"


@dataclass(frozen=True, eq=False)
class DustSky:
    """What the dust is learned from.

    Attributes
    ----------
    cube : SkyCube
        Channels [K] and dust [`target_unit`], low-passed, with the mask.
    velocity_kms : ndarray, shape (channel,)
        Centres of the channels (LSR), ascending.
    target_unit : str
    source : str
        "mock", or the files.
    """

    cube: SkyCube
    velocity_kms: np.ndarray
    target_unit: str
    source: str

    @property
    def nside(self) -> int:
        """Nside of the maps."""
        return self.cube.nside

    @property
    def target(self) -> Target:
        """What is learned: "intensity" or "polarisation"."""
        return "polarisation" if self.cube.polarised else "intensity"

    @property
    def filter_cut(self) -> float:
        """The ell at which its channels are cut."""
        return cut_of(self.target)

    def sampler(
        self, region: Region, grid: Grid | None = None, method: Method = "nearest"
    ) -> CutoutSampler:
        """Cutouts of this sky with centres in a region, on the paper's grid by default."""
        return CutoutSampler(self.cube, region, grid or Grid(), method)


def mock_sky(
    nside: int,
    velocity_kms: Sequence[float] | np.ndarray | None = None,
    seed: int = 0,
    target: Target = "intensity",
) -> DustSky:
    """The mock Galaxy as HI4PI and Planck might see it: a stand-in for the paper's maps.

    Parameters
    ----------
    nside : int
        A power of two.
    velocity_kms : sequence of float, optional
        Centres of channels; by default the paper's 64.
    seed : int
    target : str
        "intensity", or "polarisation": I, Q and U, with the noise of Planck.

    Returns
    -------
    DustSky
        Channels with HI4PI's noise and dust at 353 GHz [uK_RJ], low-passed (`channel_filter`); the
        mask leaves the 72% of the sky that are faintest in dust smoothed to 5 degrees.
    """
    return observed_sky(mock_gas(nside, seed), velocity_kms, target)


def observed_sky(
    gas: MockGas,
    velocity_kms: Sequence[float] | np.ndarray | None = None,
    target: Target = "intensity",
) -> DustSky:
    """The sky of `mock_sky` from gas at hand, which takes longer to make than its channels."""
    velocity = np.asarray(velocity_channels() if velocity_kms is None else velocity_kms)
    nside, dust, polarisation = gas.hydrogen.nside, gas.dust.total, None
    low_pass = paper_filter(nside)
    if target == "polarisation":
        polarisation = low_pass.polarised(gas.observed_polarisation)
    channels = channel_filter(nside, target).stream(gas.hydrogen.cube(velocity, noise=True))
    cube = SkyCube.from_maps(
        channels, velocity.size, low_pass.full_sky(dust), faint_sky(dust), polarisation=polarisation
    )
    return DustSky(cube, velocity, MOCK_UNIT, "mock")


def true_sky(gas: MockGas, observed: DustSky) -> DustSky:
    """A polarised sky of the mock with the Q and U that it alone knows, those without noise."""
    known = paper_filter(observed.nside).polarised(gas.polarisation)
    return replace(observed, cube=observed.cube.with_polarisation(known))


def paper_filter(nside: int) -> HarmonicFilter:
    """The Butterworth low-pass that every map goes through before it is cut out.

    References
    ----------
    Zhang et al. 2019, section 2.
    """
    return HarmonicFilter(nside, low_pass(nside))


def cut_of(target: Target) -> float:
    """The ell at which channels are cut: the paper's, and none for polarisation.

    Filaments are thin: what the paper's filter takes away tells where they run.
    """
    return PAPER_CUT if target == "intensity" else math.inf


def channel_filter(nside: int, target: Target) -> HarmonicFilter:
    """The low-pass of the channels of a sky, see `cut_of`."""
    return HarmonicFilter(nside, low_pass(nside, cut_of(target)))


def faint_sky(dust: np.ndarray, fraction: float = OPEN_SKY) -> np.ndarray:
    """A mask that leaves the part of the sky where the dust, smoothed to 5 degrees, is faintest.

    It stands for the mask LR72 of Planck 2018 XI, which is of this kind.

    Parameters
    ----------
    dust : ndarray, shape (n_pix,)
        RING, the full sky.
    fraction : float
        Of the sky that is left.

    Returns
    -------
    ndarray of bool, shape (n_pix,)
    """
    nside = hp.npix2nside(len(dust))
    beam = hp.gauss_beam(np.radians(MASK_SMOOTHING_DEG), lmax=2 * nside)
    smooth = HarmonicFilter(nside, beam).full_sky(dust)
    return smooth <= np.quantile(smooth, fraction)
