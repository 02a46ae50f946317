"""What the shells of the mock Galaxy hold: gas or electrons, and the field that threads them.

Fields of a shell are made for the whole sky, all that follows from them for a stretch of pixels.
Units inside: columns in 1e20 cm-2, distances in kpc, the field over its mean strength.
"""

from dataclasses import dataclass

import numpy as np

from foreglow.maps import healpix as hp
from foreglow.maps.harmonic import synthesise
from foreglow.sky.fields import (
    COLD,
    VELOCITY,
    Array,
    blocks,
    by_block,
    directions,
    gaussian_map,
    power_law,
    slow_field,
)
from foreglow.sky.filaments import ln_column_alm
from foreglow.sky.magnetic import spiral, to_the_sky
from foreglow.sky.shells import SUN_RADIUS_KPC, Shell

GAS_LENGTH_KPC = 6.0  # radial scale length of the gas and of the synchrotron emissivity
SMALLEST_RADIUS_KPC = 3.0  # the gas does not rise further inside
CHIMNEY = 0.5  # shells begin this much farther away at the poles: the Local Bubble opens there
ROTATION_KMS = 230.0  # of the Sun around the Galaxy, and of the disc at every radius
THICK_DISC_KPC = 0.5  # gas of a greater scale height does not turn with the disc
VELOCITY_OUTER_ELL = 16  # clouds of ten degrees move together, smaller ones follow Larson's law
VELOCITY_LMAX = 512  # beyond, a field of slope -3 holds a thirtieth of its variance
MOLECULAR_THRESHOLD = 3.0  # cold column where molecules form, 1e20 cm-2
MOLECULAR_YIELD = 1.6  # H nuclei in molecules for each cold one above the threshold


@dataclass(frozen=True)
class GasLayer:
    """What a shell of gas holds, per pixel: the causes of everything it emits."""

    column: Array  # atomic hydrogen, 1e20 cm-2
    cold_fraction: Array  # of the column
    molecular: Array  # hydrogen nuclei in molecules, 2 H2, 1e20 cm-2
    dust_ratio: float  # relative to the local gas
    tangled: float  # mean square field without direction, over the mean field's
    field: Array  # (3, n_pix) resolved magnetic field over the mean one: south, east, outwards


@dataclass(frozen=True)
class ShellMaps:
    """Random fields of a shell on the whole sky, from which its stretches are made.

    Attributes
    ----------
    shell : Shell
    ln_column : ndarray of float32, shape (n_pix,)
        Of unit variance, less its mean of exp.
    turbulence : ndarray of float32, shape (3, n_pix)
        Galactic x, y, z.
    cold : ndarray of float32, shape (n_pix,), or None
        Logit of the cold fraction, beyond the typical one; None of electrons.
    """

    shell: Shell
    ln_column: Array
    turbulence: Array
    cold: Array | None

    def electrons(self, part: slice = slice(None)) -> tuple[Array, Array]:
        """Column (n,) and field (3, n): south, east, outwards, of a stretch of pixels."""
        direction = directions(hp.npix2nside(self.ln_column.size), part)
        column = _disc(self.shell, direction) * np.exp(self.ln_column[part].astype(float))
        field = self.turbulence[:, part] + spiral(self.shell, direction)
        return column, to_the_sky(field, direction)

    def gas(self, part: slice = slice(None)) -> GasLayer:
        """Gas and field of a stretch of pixels."""
        assert self.cold is not None
        shell, (column, field) = self.shell, self.electrons(part)
        cold = 1 / (1 + np.exp(-shell.cold_logit - self.cold[part].astype(float)))
        molecular = MOLECULAR_YIELD * np.maximum(cold * column - MOLECULAR_THRESHOLD, 0)
        return GasLayer(column, cold, molecular, shell.dust_ratio, shell.tangled, field)


def shell_maps(shell: Shell, nside: int, seed: int, gas: bool = True) -> ShellMaps:
    """Fields of a shell; without `gas` those of electrons."""
    alm, turbulence = ln_column_alm(shell, nside, seed)
    lmax = 2 * nside
    ln_column = synthesise(alm[np.newaxis].astype(np.complex64), nside, lmax)[0]
    # the variance this Nside holds, so that the mean column is the same at every Nside
    power = power_law(shell.slope, shell.outer_ell, lmax)
    variance = np.sum((2 * np.arange(lmax + 1) + 1) / (4 * np.pi) * power)
    ln_column *= np.float32(shell.rms)
    ln_column -= np.float32(shell.rms**2 * variance / 2)
    cold = slow_field(seed, shell.stream, COLD, nside) if gas else None
    return ShellMaps(shell, ln_column, turbulence, cold)


def _disc(shell: Shell, direction: Array) -> Array:
    """Column of an exponential disc between two distances: 1/|sin b|, capped by the far one."""
    z = direction[2]
    fall = np.maximum(np.abs(z), 1e-4) / shell.height  # of the density, per kpc along the line
    near = np.minimum(shell.near * (1 + CHIMNEY * z**2), shell.far)
    column = (np.exp(-near * fall) - np.exp(-shell.far * fall)) / fall
    rise = np.exp((SUN_RADIUS_KPC - _radius(shell, direction)) / GAS_LENGTH_KPC)
    return shell.density * column * rise


def _radius(shell: Shell, direction: Array) -> Array:
    """Distance from the Galactic axis of most of a column, kpc."""
    x, y, z = direction
    fall = np.maximum(np.abs(z), 1e-4) / shell.height
    # one scale height away, or the middle of the shell
    distance = np.minimum(np.sqrt(shell.near * shell.far), shell.near + 1 / fall)
    radius = np.sqrt((distance * x - SUN_RADIUS_KPC) ** 2 + (distance * y) ** 2)
    return np.maximum(radius, SMALLEST_RADIUS_KPC)


def shell_velocity(shell: Shell, nside: int, seed: int) -> Array:
    """Bulk velocity of a shell along the line of sight, km/s from the local standard of rest.

    Its mean, the rotation of a Galaxy of flat rotation curve, and a field of slope -3. Near the
    Sun the rotation is the Oort law, 14 sin 2l cos^2 b km/s a kpc; what stands far above the disc
    (the intermediate- and high-velocity gas) does not turn with it.

    Parameters
    ----------
    shell : Shell
        One of `GAS_SHELLS`.
    nside, seed : int
        As for `mock_galaxy`.

    Returns
    -------
    ndarray of float32, shape (n_pix,)
        RING, Galactic.
    """
    power = power_law(-3.0, VELOCITY_OUTER_ELL, min(VELOCITY_LMAX, 2 * nside))
    velocity = gaussian_map(seed, shell.stream, VELOCITY, nside, power)
    velocity *= np.float32(shell.velocity_rms)
    velocity += np.float32(shell.velocity)
    if shell.height < THICK_DISC_KPC:

        def turn(part: slice) -> None:
            direction = directions(nside, part)  # y is sin l cos b
            around = SUN_RADIUS_KPC / _radius(shell, direction) - 1
            velocity[part] += ROTATION_KMS * around * direction[1]

        by_block(turn, blocks(velocity.size))
    return velocity
