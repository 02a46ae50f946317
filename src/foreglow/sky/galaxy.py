"""The mock Galaxy: shells of gas and one magnetic field that cause every emission map.

A stand-in for real templates: no download, seeded, any Nside. Each shell along the line of
sight has a column of hydrogen, a cold fraction, molecular gas and a dust-to-gas ratio; one
magnetic field threads all shells, draws their gas out into filaments and polarises both the
dust and the synchrotron. Constants are set so that the maps resemble the PySM templates d1,
s1 and a2 in medians by latitude and in spectra.

Units inside: columns in 1e20 cm-2, distances in kpc, brightness in uK_RJ.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from foreglow.maps import healpix as hp
from foreglow.sky.fields import SLOW, Array, blocks, by_block, slow_field, validate
from foreglow.sky.layers import GasLayer, ShellMaps, shell_maps
from foreglow.sky.shells import ELECTRON_SHELLS, GAS_SHELLS


class Grains(NamedTuple):
    """Constants of the dust emission shared by all shells."""

    dust_per_column: float = 8.5  # uK_RJ at 353 GHz for 1e20 cm-2 of local gas
    radiation_rms: float = 0.12  # slow radiation-field factor, rms of its logarithm
    polarisation: float = 0.175  # intrinsic polarisation fraction p0 of aligned grains
    ame_per_dust: float = 0.61  # uK_RJ of AME at 30 GHz for each of dust at 353 GHz
    ame_molecular: float = 0.3  # small grains coagulate: share that still spins in molecules
    ame_rms: float = 0.10  # slow emissivity factor, rms of its logarithm


GRAINS = Grains()
ELECTRON_POLARISATION = 0.75  # of electrons with an energy spectrum E^-3 in an ordered field

RADIATION, EMISSIVITY = 101, 102  # streams of what no single shell owns


@dataclass(frozen=True)
class MockGalaxy:
    """Polarised emission of the mock Galaxy, a stand-in for real templates.

    RING order, Galactic coordinates, COSMO polarisation convention.

    Attributes
    ----------
    nside, seed : int
    dust : ndarray, float32, shape (3, n_pix)
        I, Q, U of thermal dust at 353 GHz, uK_RJ.
    synchrotron : ndarray, float32, shape (3, n_pix)
        I, Q, U of synchrotron at 30 GHz, uK_RJ.
    ame : ndarray, float32, shape (n_pix,)
        Intensity of anomalous microwave emission at 30 GHz, uK_RJ.
    """

    nside: int
    seed: int
    dust: Array
    synchrotron: Array
    ame: Array


def mock_galaxy(nside: int, seed: int = 0) -> MockGalaxy:
    """Mock Galaxy: dust, synchrotron and AME maps from shells of gas and one field.

    Parameters
    ----------
    nside : int
        HEALPix Nside, a power of two from 16 to 2048. A seed gives the same Galaxy at every
        Nside: a finer one adds detail.
    seed : int, optional
        Not negative. The same seed and Nside give the same maps.

    Returns
    -------
    MockGalaxy
        Maps in uK_RJ, RING, Galactic, COSMO.

    Raises
    ------
    SkyError
        If `nside` or `seed` is not as above.

    References
    ----------
    Vansyngel et al. 2017 (arXiv:1611.02577): a few shells, mean plus turbulent field.
    Clark & Hensley 2019 (arXiv:1909.11673): HI filaments along the field give E above B.
    """
    validate(nside, seed)
    dust, ame = _dust_and_ame(nside, seed)
    return MockGalaxy(nside, seed, dust, _synchrotron(nside, seed), ame)


# --- what the Galaxy shines


def _dust_and_ame(nside: int, seed: int) -> tuple[Array, Array]:
    """Dust I, Q, U at 353 GHz and AME at 30 GHz: the sum over the shells of gas."""
    n_pix = hp.nside2npix(nside)
    dust = np.zeros((3, n_pix), np.float32)
    ame = np.zeros(n_pix, np.float32)  # what spins, in the unit of the dust intensity
    for shell in GAS_SHELLS:
        _add_shell(shell_maps(shell, nside, seed), dust, ame)
    radiation = slow_field(seed, RADIATION, SLOW, nside)
    emissivity = slow_field(seed, EMISSIVITY, SLOW, nside)

    def shine(part: slice) -> None:
        bright = np.exp(GRAINS.radiation_rms * radiation[part])
        dust[:, part] *= bright
        ame[part] *= GRAINS.ame_per_dust * bright * np.exp(GRAINS.ame_rms * emissivity[part])

    by_block(shine, blocks(n_pix))
    return dust, ame


def _add_shell(maps: ShellMaps, dust: Array, ame: Array) -> None:
    def add(part: slice) -> None:
        layer = maps.gas(part)
        scale = GRAINS.dust_per_column * layer.dust_ratio
        dust[:, part] += scale * aligned_dust(layer, GRAINS.polarisation)
        ame[part] += scale * (layer.column + GRAINS.ame_molecular * layer.molecular)

    by_block(add, blocks(ame.size))


def aligned_dust(layer: GasLayer, p0: float) -> Array:
    """I, Q, U of a layer's aligned grains for a unit of emission per column."""
    amount = layer.column + layer.molecular
    south, east, outwards = layer.field
    across = south**2 + east**2 + 2 / 3 * layer.tangled
    squared = np.maximum(south**2 + east**2 + outwards**2 + layer.tangled, 1e-12)
    # grains emit across the field: hence the minus signs of Q and U
    polarised = p0 * amount / squared
    inclination = across / squared  # cos^2 of the angle to the plane of the sky
    intensity = amount * (1 - p0 * (inclination - 2 / 3))
    return np.stack([intensity, polarised * (east**2 - south**2), -2 * polarised * south * east])


def _synchrotron(nside: int, seed: int) -> Array:
    """Synchrotron I, Q, U at 30 GHz: emissivity goes with the square of the field across."""
    total = np.zeros((3, hp.nside2npix(nside)), np.float32)
    for shell in ELECTRON_SHELLS:
        _add_electrons(shell_maps(shell, nside, seed, gas=False), total)
    return total


def _add_electrons(maps: ShellMaps, total: Array) -> None:
    def add(part: slice) -> None:
        amount, (south, east, _) = maps.electrons(part)
        total[0, part] += amount * (south**2 + east**2 + 2 / 3 * maps.shell.tangled)
        polarised = ELECTRON_POLARISATION * amount
        total[1, part] += polarised * (east**2 - south**2)
        total[2, part] -= polarised * 2 * south * east

    by_block(add, blocks(total.shape[1]))
