"""The gas of the mock Galaxy: its atomic hydrogen and the dust that goes with it.

Both come from the layers that give the polarised templates of `galaxy`, so every difference
between them has a cause: cold lines saturate, fast clouds hold little dust, molecules shine in
dust alone, and some of the dust has no gas at all. A stand-in for HI4PI and Planck.

Units inside: columns in 1e20 cm-2, dust in uK_RJ at 353 GHz.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from foreglow.errors import SkyError
from foreglow.maps import healpix as hp
from foreglow.maps.memory import release_pages
from foreglow.sky.fields import (
    BACKGROUND,
    NOISE,
    SLOW,
    Array,
    blocks,
    by_block,
    directions,
    gaussian_map,
    slow_field,
    validate,
)
from foreglow.sky.galaxy import GRAINS, RADIATION, aligned_dust
from foreglow.sky.hydrogen import Hydrogen, HydrogenLayer
from foreglow.sky.layers import ShellMaps, shell_maps, shell_velocity
from foreglow.sky.shells import GAS_SHELLS, Shell

EXTRAGALACTIC, DETECTOR = 103, 104  # streams of what no shell of gas owns
EDGE_DEG = 10.0  # a mask falls off over this many degrees of latitude


class Unrelated(NamedTuple):
    """Constants of the parts of the dust map that have no gas.

    The level of the background is set so that integrated HI correlates with the dust as on the
    real sky (r50 of 0.75 to 0.85), not to a measured spectrum: it stands for whatever of a dust
    map no gas explains. The slope is that of the measured one.
    """

    background: float = 1.5e-3  # C_ell at ell = 100 of the infrared background, uK_RJ^2 sr
    background_slope: float = -1.47  # Mak et al. 2017 (arXiv:1609.08942): D_ell as ell^0.53
    noise: float = 7.0  # white, uK_RJ arcmin: of the order of Planck's at 353 GHz
    # of Q and of U: Planck 2018 I (arXiv:1807.06205), table 4, 7.31 uK_CMB deg at 353 GHz
    polarisation_noise: float = 34.0


UNRELATED = Unrelated()


@dataclass(frozen=True)
class DustIntensity:
    """Dust of the mock Galaxy at 353 GHz by its causes; they add up to `total`.

    Attributes
    ----------
    atomic, molecular : ndarray, float32, shape (n_pix,)
        What each layer's gas shines at its dust-to-gas ratio, uK_RJ.
    orientation : ndarray
        Aligned grains shine less along the field than across it.
    radiation : ndarray
        The slow radiation-field factor, less one, times all of the above.
    background, noise : ndarray
        The infrared background's fluctuations and detector noise, both of mean zero.
    """

    atomic: Array
    molecular: Array
    orientation: Array
    radiation: Array
    background: Array
    noise: Array

    @property
    def predictable(self) -> Array:
        """What perfect knowledge of every layer's gas would predict, uK_RJ, shape (n_pix,)."""
        return self.atomic + self.molecular

    @property
    def galactic(self) -> Array:
        """The dust of `mock_galaxy`, uK_RJ, shape (n_pix,)."""
        return self.predictable + self.orientation + self.radiation

    @property
    def total(self) -> Array:
        """The map to predict, uK_RJ, shape (n_pix,)."""
        return self.galactic + self.background + self.noise


@dataclass(frozen=True)
class MockGas:
    """Atomic hydrogen and dust of one mock Galaxy, RING order, Galactic coordinates.

    Attributes
    ----------
    hydrogen : Hydrogen
        Makes the velocity channels.
    dust : DustIntensity
        The map to predict and its parts.
    polarisation : ndarray, float32, shape (2, n_pix)
        Q and U of the dust of `mock_galaxy`, uK_RJ at 353 GHz, COSMO, without noise.
    """

    hydrogen: Hydrogen
    dust: DustIntensity
    polarisation: Array

    @property
    def observed_polarisation(self) -> Array:
        """Q and U with white noise of the depth of Planck at 353 GHz, shape (2, n_pix)."""
        nside, seed = self.hydrogen.nside, self.hydrogen.seed
        noise = _white(UNRELATED.polarisation_noise, nside)
        parts = [gaussian_map(seed, DETECTOR, NOISE + 1 + k, nside, noise) for k in range(2)]
        return self.polarisation + np.stack(parts)


def mock_gas(
    nside: int, seed: int = 0, filaments: float = 1.0, folder: Path | None = None
) -> MockGas:
    """Atomic hydrogen and dust of the mock Galaxy of this seed.

    Parameters
    ----------
    nside, seed : int
        As for `mock_galaxy`, whose dust this is too.
    filaments : float
        So many times as much of the small-scale variance of each shell is drawn out along the
        field, from 0 to 1; 1 for the dust of `mock_galaxy`.
    folder : Path, optional
        Where the hydrogen lies, in files that are read as they are needed: 18 of the maps.

    Returns
    -------
    MockGas
        Holds 26 maps of float32; channels are made when asked for.

    Raises
    ------
    SkyError
        If `nside` or `seed` is not as for `mock_galaxy`, or `filaments` not as above.

    References
    ----------
    Heiles & Troland 2003 (arXiv:astro-ph/0207104): cold and warm gas, and its spin temperature.
    Planck Collaboration XXIV 2011 (arXiv:1101.2036): dust of local, intermediate- and
    high-velocity gas, and what the infrared background adds.
    """
    validate(nside, seed)
    if not 0 <= filaments <= 1:
        raise SkyError(f"expected filaments from 0 to 1 times the mock's, got {filaments:g}.")
    n_pix, hydrogen = hp.nside2npix(nside), []
    shone = np.zeros((5, n_pix), np.float32)  # atomic, molecular; I, Q, U
    # the transfer goes from the nearest layer outwards, whatever the order of the table
    for known in sorted(GAS_SHELLS, key=lambda shell: shell.near):
        shell = known._replace(filaments=filaments * known.filaments)
        layer = _layer_room(folder, shell, n_pix)
        _add_shell(shell_maps(shell, nside, seed), layer, shone)
        layer.velocity[:] = shell_velocity(shell, nside, seed)
        release_pages(layer.velocity)
        hydrogen.append(layer)
    radiation = slow_field(seed, RADIATION, SLOW, nside)
    np.exp(GRAINS.radiation_rms * radiation, out=radiation)
    dust = _dust(shone[0], shone[1], shone[2], radiation, seed)
    polarisation = shone[3:] * radiation
    return MockGas(Hydrogen(nside, seed, tuple(hydrogen)), dust, polarisation)


def _layer_room(folder: Path | None, shell: Shell, n_pix: int) -> HydrogenLayer:
    """Room for the hydrogen of a shell, in memory or in a file."""
    if folder is None:
        return HydrogenLayer(*np.empty((3, n_pix), np.float32))
    name = folder / f"shell{shell.stream}.f32"
    return HydrogenLayer(*np.memmap(name, np.float32, "w+", shape=(3, n_pix)))


def _add_shell(maps: ShellMaps, hydrogen: HydrogenLayer, shone: Array) -> None:
    """Note a shell's columns of hydrogen, and add what its dust shines."""

    def add(part: slice) -> None:
        layer = maps.gas(part)
        scale = GRAINS.dust_per_column * layer.dust_ratio
        cold = layer.cold_fraction * layer.column
        hydrogen.cold[part], hydrogen.warm[part] = cold, layer.column - cold
        shone[0, part] += scale * layer.column
        shone[1, part] += scale * layer.molecular
        shone[2:, part] += scale * aligned_dust(layer, GRAINS.polarisation)

    by_block(add, blocks(shone.shape[1]))


def _dust(
    atomic: Array, molecular: Array, shone: Array, radiation: Array, seed: int
) -> DustIntensity:
    nside = hp.npix2nside(shone.size)
    ell = np.maximum(np.arange(2 * nside + 1), 2)
    background = UNRELATED.background * (ell / 100) ** UNRELATED.background_slope
    background[0] = 0
    return DustIntensity(
        atomic,
        molecular,
        shone - atomic - molecular,
        shone * (radiation - 1),
        gaussian_map(seed, EXTRAGALACTIC, BACKGROUND, nside, background),
        gaussian_map(seed, DETECTOR, NOISE, nside, _white(UNRELATED.noise, nside)),
    )


def _white(depth: float, nside: int) -> Array:
    """Power of white noise without a mean, to ell 2 Nside, of a depth in uK_RJ arcmin."""
    power = np.full(2 * nside + 1, np.radians(depth / 60) ** 2)
    power[0] = 0
    return power


def unpredictable_share(
    dust: DustIntensity,
    ell_edges: Sequence[tuple[int, int]] = ((50, 100), (100, 200)),
    latitude_deg: float = 20.0,
) -> dict[str, Array]:
    """How much of the dust's variance no knowledge of the gas can predict, scale by scale.

    Pseudo-spectra at high latitude, the mask's edge drawn out over ten degrees.

    Parameters
    ----------
    dust : DustIntensity
    ell_edges : sequence of pairs of int, optional
        First multipole of each bin and the one after its last, at most 2 Nside.
    latitude_deg : float, optional
        The mask begins to open here and is open ten degrees on.

    Returns
    -------
    dict of ndarray, shape (n_bin,)
        `unpredictable`: 1 - r^2 of the predictable map and the total, which is what the true gas
        leaves once scaled to the bin; a network that sees only its lines leaves more.
        `orientation`, `radiation`, `background`, `noise`:
        the power of this part over that of the total (parts correlate, so these need not add up).
    """
    lmax = max(last for _, last in ell_edges) - 1
    z = np.abs(directions(hp.get_nside(dust.atomic))[2])
    opened = np.clip((np.degrees(np.arcsin(z)) - latitude_deg) / EDGE_DEG, 0, 1)
    mask = 0.5 - 0.5 * np.cos(np.pi * opened)

    def harmonics(name: str) -> Array:
        return hp.map2alm(getattr(dust, name) * mask, lmax=lmax, iter=1)

    def binned(one: Array, other: Array) -> Array:
        power = hp.alm2cl(one, other) * (2 * np.arange(lmax + 1) + 1)
        return np.array([power[first:last].sum() for first, last in ell_edges])

    total, gas = harmonics("total"), harmonics("predictable")
    variance = binned(total, total)
    shares = {"unpredictable": 1 - binned(gas, total) ** 2 / (binned(gas, gas) * variance)}
    for name in ("orientation", "radiation", "background", "noise"):
        part = harmonics(name)
        shares[name] = binned(part, part) / variance
    return shares
