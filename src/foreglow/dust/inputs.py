"""HI cube, dust map and mask of one sky, brought together, filtered and ready for cutouts."""

from collections.abc import Sequence
from dataclasses import dataclass

import healpy as hp
import numpy as np

from foreglow.dust.cutouts import CutoutSampler, SkyCube
from foreglow.maps.gnomonic import Grid
from foreglow.maps.harmonic import HarmonicFilter, butterworth, low_pass_l_max
from foreglow.maps.hemispheres import Method, Region
from foreglow.sky.gas import MockGas, mock_gas
from foreglow.sky.hydrogen import velocity_channels

OPEN_SKY = 0.72  # of the sky is what the paper's mask LR72 leaves
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

    def sampler(
        self, region: Region, grid: Grid | None = None, method: Method = "nearest"
    ) -> CutoutSampler:
        """Cutouts of this sky with centres in a region, on the paper's grid by default."""
        return CutoutSampler(self.cube, region, grid or Grid(), method)


def mock_sky(
    nside: int, velocity_kms: Sequence[float] | np.ndarray | None = None, seed: int = 0
) -> DustSky:
    """The mock Galaxy as HI4PI and Planck might see it: a stand-in for the paper's maps.

    Parameters
    ----------
    nside : int
        A power of two.
    velocity_kms : sequence of float, optional
        Centres of channels; by default the paper's 64.
    seed : int

    Returns
    -------
    DustSky
        Channels with HI4PI's noise and dust at 353 GHz [uK_RJ], low-passed (`paper_filter`); the
        mask leaves the 72% of the sky that are faintest in dust smoothed to 5 degrees.
    """
    return observed_sky(mock_gas(nside, seed), velocity_kms)


def observed_sky(gas: MockGas, velocity_kms: Sequence[float] | np.ndarray | None = None) -> DustSky:
    """The sky of `mock_sky` from gas at hand, which takes longer to make than its channels."""
    velocity = np.asarray(velocity_channels() if velocity_kms is None else velocity_kms)
    low_pass = paper_filter(gas.hydrogen.nside)
    dust = gas.dust.total
    channels = low_pass.stream(gas.hydrogen.cube(velocity, noise=True))
    cube = SkyCube.from_maps(channels, velocity.size, low_pass.full_sky(dust), faint_sky(dust))
    return DustSky(cube, velocity, MOCK_UNIT, "mock")


def paper_filter(nside: int) -> HarmonicFilter:
    """The Butterworth low-pass that every map goes through before it is cut out.

    References
    ----------
    Zhang et al. 2019, section 2.
    """
    return HarmonicFilter(nside, butterworth(low_pass_l_max(nside)))


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
