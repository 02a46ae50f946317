"""The magnetic field of the mock Galaxy: a spiral and turbulence, shell by shell."""

import numpy as np
import torch

from foreglow.compute.device import each_on_a_thread
from foreglow.maps import healpix as hp
from foreglow.maps.harmonic import synthesise
from foreglow.sky.fields import FIELD, Array, power_law, white_alm
from foreglow.sky.shells import SUN_RADIUS_KPC, Shell

PITCH_DEG = 20.0  # the mean field at the Sun points to l = 90 - 20 = 70 deg (Planck int. XLIV)
COMMON_FIELD = 100  # stream of the turbulence that shells share


def turbulence(shell: Shell, nside: int, seed: int, out: Array) -> None:
    """Write the turbulent field of a shell, Galactic x, y, z, to an array (3, n_pix)."""
    lmax = 2 * nside
    spectrum = np.sqrt(power_law(shell.turbulence_slope, 2, lmax))
    spectrum *= shell.turbulence / np.sqrt(3)
    kind = np.result_type(out.dtype, np.complex64)

    def draw(axis: int) -> Array:
        alm = white_alm(seed, shell.stream, FIELD + axis, lmax)
        alm *= np.sqrt(1 - shell.shared)
        if shell.shared:
            alm += np.sqrt(shell.shared) * white_alm(seed, COMMON_FIELD, FIELD + axis, lmax)
        return hp.almxfl(alm, spectrum, inplace=True).astype(kind, copy=False)

    for axis, alm in enumerate(each_on_a_thread(draw, range(3), torch.device("cpu"))):
        synthesise(alm[np.newaxis], nside, lmax, out=out[axis : axis + 1])


def spiral(shell: Shell, direction: Array) -> Array:
    """Unit mean field at the typical distance of a shell: circles opened by the pitch.

    Parameters
    ----------
    shell : Shell
    direction : ndarray, shape (3, n)

    Returns
    -------
    ndarray, shape (3, n)
        Galactic x, y, z.
    """
    x, y, _ = direction
    distance = np.sqrt(shell.near * shell.far)
    out = np.stack([distance * x - SUN_RADIUS_KPC, distance * y])  # from the centre
    out /= np.maximum(np.sqrt(out[0] ** 2 + out[1] ** 2), 1e-6)
    pitch = np.radians(PITCH_DEG)
    around = np.stack([out[1], -out[0]])  # towards l = 90 at the Sun
    return np.stack([*(np.cos(pitch) * around - np.sin(pitch) * out), np.zeros_like(x)])


def to_the_sky(field: Array, direction: Array) -> Array:
    """Parts to the south, to the east and outwards of vectors of Galactic x, y, z, (3, n)."""
    x, y, z = direction
    sin_theta = np.sqrt(x**2 + y**2)  # no pixel lies at a pole
    cos_phi, sin_phi = x / sin_theta, y / sin_theta
    flat = cos_phi * field[0] + sin_phi * field[1]
    south = z * flat - sin_theta * field[2]
    east = cos_phi * field[1] - sin_phi * field[0]
    return np.stack([south, east, sin_theta * flat + z * field[2]])
