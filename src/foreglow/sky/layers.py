"""The shells of the mock Galaxy: their gas, their electrons and the field that threads them.

Units inside: columns in 1e20 cm-2, distances in kpc, the field over its mean strength.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from foreglow.maps import healpix as hp
from foreglow.sky.fields import (
    COLD,
    DENSITY,
    FIELD,
    VELOCITY,
    WALK,
    Array,
    directions,
    power_law,
    slow_field,
    validate,
    white_alm,
)

SUN_RADIUS_KPC = 8.2  # distance of the Sun from the Galactic centre
GAS_LENGTH_KPC = 6.0  # radial scale length of the gas and of the synchrotron emissivity
SMALLEST_RADIUS_KPC = 3.0  # the gas does not rise further inside
PITCH_DEG = 20.0  # the mean field at the Sun points to l = 90 - 20 = 70 deg (Planck int. XLIV)
CHIMNEY = 0.5  # shells begin this much farther away at the poles: the Local Bubble opens there
ROTATION_KMS = 230.0  # of the Sun around the Galaxy, and of the disc at every radius
THICK_DISC_KPC = 0.5  # gas of a greater scale height does not turn with the disc
VELOCITY_OUTER_ELL = 16  # clouds of ten degrees move together, smaller ones follow Larson's law
VELOCITY_LMAX = 512  # beyond, a field of slope -3 holds a thirtieth of its variance
CHUNK = 1 << 14  # pixels walked at a time: they stay in the cache of a core
MOLECULAR_THRESHOLD = 3.0  # cold column where molecules form, 1e20 cm-2
MOLECULAR_YIELD = 1.6  # H nuclei in molecules for each cold one above the threshold


class Shell(NamedTuple):
    """One layer along the line of sight: an exponential disc between two distances."""

    stream: int  # names the shell's own random draws; never reuse or renumber
    near: float  # kpc
    far: float  # kpc
    height: float  # scale height, kpc
    density: float  # midplane, 1e20 cm-2 per kpc (1 cm-3 is 31); relative for synchrotron
    rms: float  # of the logarithm of the column
    slope: float  # of its angular spectrum
    outer_ell: int  # no structure on scales larger than this multipole
    filaments: float  # share of the small-scale variance drawn out along the field
    turbulence: float  # turbulent over mean field strength
    turbulence_slope: float
    shared: float  # share of the turbulent variance common to all shells
    tangled: float  # mean square of the field tangled below every scale, over the mean field's
    cold_logit: float = 0.0  # logit of the typical cold fraction
    dust_ratio: float = 1.0  # dust to gas, relative to the local gas
    velocity: float = 0.0  # mean motion away from the local standard of rest, km/s
    velocity_rms: float = 0.0  # of the field of velocities around it, km/s


GAS_SHELLS = (  # local, local, near arm, far arm, intermediate and high velocity
    #    near  far   height dens  rms  slope l0  fil  turb tslope shar tang cold dust  vel  rms
    Shell(1, 0.08, 0.20, 0.12, 36.0, 0.75, -2.6, 4, 0.95, 0.65, -2.75, 0.4, 0.0, -0.5, 1.0, 1, 4),
    Shell(2, 0.20, 0.50, 0.12, 45.0, 0.75, -2.6, 5, 0.90, 0.65, -2.75, 0.3, 0.0, 0.3, 1.0, -5, 5),
    Shell(3, 0.50, 2.00, 0.12, 34.0, 0.75, -2.6, 8, 0.60, 0.65, -2.75, 0.2, 1.2, 0.3, 1.0, -8, 6),
    Shell(6, 2.00, 10.0, 0.12, 23.0, 0.75, -2.6, 12, 0.0, 0.65, -2.75, 0.1, 2.5, 0.3, 1.0, -8, 8),
    Shell(4, 0.50, 1.50, 1.00, 0.80, 0.75, -2.6, 4, 0.0, 0.80, -2.75, 0.3, 0.5, -1, 0.55, -45, 10),
    Shell(5, 3.00, 10.0, 10.0, 0.06, 0.75, -2.6, 4, 0.0, 0.80, -2.75, 0.0, 0.5, -2, 0.1, -110, 20),
)

ELECTRON_SHELLS = (  # the nearby field lines, the thick disc, the thin disc
    #     near  far   height dens rms  slope  l0  fil  turb tslope shar tang
    Shell(11, 0.05, 1.00, 0.60, 10.6, 0.60, -2.55, 6, 0.98, 0.45, -4.0, 0.2, 0.5),
    Shell(12, 1.00, 12.0, 4.00, 1.95, 0.40, -3.40, 5, 0.00, 0.45, -4.0, 0.2, 4.0),
    Shell(13, 0.30, 12.0, 0.25, 10.0, 0.60, -2.70, 10, 0.0, 0.40, -4.0, 0.2, 1.5),
)

COMMON_FIELD = 100  # stream of the turbulence that shells share
FILAMENT_NSIDE = 8  # the coarsest octave of filaments
WALK_STEPS, STEP_PIXELS = 12, 1.0  # to each side along the field, at every octave


@dataclass(frozen=True)
class GasLayer:
    """What a shell of gas holds, per pixel: the causes of everything it emits."""

    column: Array  # atomic hydrogen, 1e20 cm-2
    cold_fraction: Array  # of the column
    molecular: Array  # hydrogen nuclei in molecules, 2 H2, 1e20 cm-2
    dust_ratio: float  # relative to the local gas
    tangled: float  # mean square field without direction, over the mean field's
    field: Array  # (3, n_pix) resolved magnetic field over the mean one: south, east, outwards


def gas_layer(shell: Shell, nside: int, seed: int) -> GasLayer:
    """Gas of one shell: column, phases and the field in it.

    Parameters
    ----------
    shell : Shell
        One of `GAS_SHELLS`.
    nside, seed : int
        As for `mock_galaxy`.

    Returns
    -------
    GasLayer
        Columns in 1e20 cm-2, RING, Galactic.

    Raises
    ------
    SkyError
        If `nside` or `seed` is not as for `mock_galaxy`.
    """
    validate(nside, seed)
    column = shell_column(shell, nside, seed)
    slow = slow_field(seed, shell.stream, COLD, nside)
    cold = 1 / (1 + np.exp(-shell.cold_logit - slow))
    molecular = MOLECULAR_YIELD * np.maximum(cold * column - MOLECULAR_THRESHOLD, 0)
    field = shell_field(shell, nside, seed)
    return GasLayer(column, cold, molecular, shell.dust_ratio, shell.tangled, field)


def shell_column(shell: Shell, nside: int, seed: int) -> Array:
    """Lognormal column of a shell around its smooth disc."""
    lmax = 2 * nside
    ln_column = hp.alm2map(_ln_column_alm(shell, nside, seed), nside, lmax=lmax)
    # the variance this Nside holds, so that the mean column is the same at every Nside
    power = power_law(shell.slope, shell.outer_ell, lmax)
    variance = np.sum((2 * np.arange(lmax + 1) + 1) / (4 * np.pi) * power)
    return _disc(shell, nside) * np.exp(shell.rms * ln_column - shell.rms**2 * variance / 2)


def _disc(shell: Shell, nside: int) -> Array:
    """Column of an exponential disc between two distances: 1/|sin b|, capped by the far one."""
    x, y, z = directions(nside)
    fall = np.maximum(np.abs(z), 1e-4) / shell.height  # of the density, per kpc along the line
    near = np.minimum(shell.near * (1 + CHIMNEY * z**2), shell.far)
    column = (np.exp(-near * fall) - np.exp(-shell.far * fall)) / fall
    return (
        shell.density * column * np.exp((SUN_RADIUS_KPC - _radius(shell, x, y, z)) / GAS_LENGTH_KPC)
    )


def _radius(shell: Shell, x: Array, y: Array, z: Array) -> Array:
    """Distance from the Galactic axis of most of a column, kpc."""
    fall = np.maximum(np.abs(z), 1e-4) / shell.height
    # one scale height away, or the middle of the shell
    distance = np.minimum(np.sqrt(shell.near * shell.far), shell.near + 1 / fall)
    radius = np.hypot(distance * x - SUN_RADIUS_KPC, distance * y)
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
    ndarray, shape (n_pix,)
        RING, Galactic.
    """
    lmax = min(VELOCITY_LMAX, 2 * nside)
    alm = white_alm(seed, shell.stream, VELOCITY, lmax)
    alm = hp.almxfl(alm, np.sqrt(power_law(-3.0, VELOCITY_OUTER_ELL, lmax)))
    velocity = shell.velocity + shell.velocity_rms * hp.alm2map(alm, nside, lmax=lmax)
    if shell.height < THICK_DISC_KPC:
        x, y, z = directions(nside)  # y is sin l cos b
        turn = SUN_RADIUS_KPC / _radius(shell, x, y, z) - 1
        velocity += ROTATION_KMS * turn * y
    return velocity


def shell_field(shell: Shell, nside: int, seed: int) -> Array:
    """Field of a shell over the mean one: its parts to the south, to the east and outwards."""
    b = _field_xyz(shell, nside, seed)
    theta, phi = hp.pix2ang(nside, np.arange(b.shape[1]))
    flat = np.cos(phi) * b[0] + np.sin(phi) * b[1]
    south = np.cos(theta) * flat - np.sin(theta) * b[2]
    east = np.cos(phi) * b[1] - np.sin(phi) * b[0]
    return np.stack([south, east, np.sin(theta) * flat + np.cos(theta) * b[2]])


def _field_xyz(shell: Shell, nside: int, seed: int) -> Array:
    """Mean spiral plus turbulence, Galactic x, y, z: shape (3, n_pix)."""
    lmax = 2 * nside
    spectrum = np.sqrt(power_law(shell.turbulence_slope, 2, lmax))
    field = _spiral(shell, nside)
    for axis in range(3):
        common = white_alm(seed, COMMON_FIELD, FIELD + axis, lmax)
        own = white_alm(seed, shell.stream, FIELD + axis, lmax)
        alm = np.sqrt(shell.shared) * common + np.sqrt(1 - shell.shared) * own
        turbulent = hp.alm2map(hp.almxfl(alm, spectrum), nside, lmax=lmax)
        field[axis] += shell.turbulence / np.sqrt(3) * turbulent
    return field


def _spiral(shell: Shell, nside: int) -> Array:
    """Unit mean field at the typical distance of a shell: circles opened by the pitch."""
    x, y, _ = directions(nside)
    distance = np.sqrt(shell.near * shell.far)
    out = np.stack([distance * x - SUN_RADIUS_KPC, distance * y])  # from the centre
    out /= np.maximum(np.hypot(*out), 1e-6)
    pitch = np.radians(PITCH_DEG)
    around = np.stack([out[1], -out[0]])  # towards l = 90 at the Sun
    return np.stack([*(np.cos(pitch) * around - np.sin(pitch) * out), np.zeros_like(x)])


# --- filaments


def _ln_column_alm(shell: Shell, nside: int, seed: int) -> Array:
    """Harmonics of the fluctuations of ln column, of unit variance: a round part and filaments."""
    lmax = 2 * nside
    drawn_out = np.zeros(lmax + 1)  # share of the variance in filaments
    filaments = np.zeros(hp.Alm.getsize(lmax), dtype=complex)
    octave = FILAMENT_NSIDE
    while octave <= nside and shell.filaments > 0:
        window = _octave_window(octave, lmax, finest=octave == nside)
        alm = hp.resize_alm(_filament_alm(shell, octave, seed), 2 * octave, 2 * octave, lmax, lmax)
        filaments += hp.almxfl(alm, window)
        drawn_out += shell.filaments * window**2
        octave *= 2
    round_part = white_alm(seed, shell.stream, DENSITY, lmax)
    total = hp.almxfl(round_part, np.sqrt(1 - drawn_out)) + np.sqrt(shell.filaments) * filaments
    return hp.almxfl(total, np.sqrt(power_law(shell.slope, shell.outer_ell, lmax)))


def _octave_window(octave: int, lmax: int, finest: bool = False) -> Array:
    """Amplitude of an octave, centred on ell = octave; the squares of all octaves sum to one."""
    octaves_away = np.log2(np.maximum(np.arange(lmax + 1), 0.5) / octave)
    # the finest octave also stands for the finer ones that the map cannot hold
    return np.cos(np.pi / 2 * np.clip(octaves_away, -1, 0 if finest else 1))


def _filament_alm(shell: Shell, octave: int, seed: int) -> Array:
    """Harmonics, of about unit power, of noise smeared along the field on the octave's own grid."""
    n_pix = hp.nside2npix(octave)
    noise = np.random.default_rng([seed, shell.stream, WALK, octave]).standard_normal(n_pix)
    field = _field_xyz(shell, octave, seed)
    start = directions(octave)
    field -= start * np.sum(field * start, axis=0)
    field /= np.maximum(np.linalg.norm(field, axis=0), 1e-6)
    smeared = np.empty(n_pix)
    for first in range(0, n_pix, CHUNK):
        part = slice(first, min(first + CHUNK, n_pix))
        smeared[part] = noise[part]
        for sense in (-1, 1):
            smeared[part] += _walk(start[:, part], sense, field, noise, octave)
    alm = hp.map2alm(smeared, lmax=2 * octave, iter=0)
    ell = np.arange(2 * octave + 1)
    power = np.average(hp.alm2cl(alm), weights=(2 * ell + 1) * _octave_window(octave, 2 * octave))
    return alm / np.sqrt(power)


def _walk(start: Array, sense: int, field: Array, noise: Array, octave: int) -> Array:
    """Sum of the noise met on a walk along the field (or against it), tapered to its end."""
    length = sense * STEP_PIXELS * hp.nside2resol(octave)
    total, position = np.zeros(start.shape[1]), start
    pixel = hp.vec2pix(octave, *position)
    for step in range(1, WALK_STEPS + 1):
        position = position + length * field[:, pixel]
        position = position / np.linalg.norm(position, axis=0)
        pixel = hp.vec2pix(octave, *position)
        total += np.cos(np.pi / 2 * step / (WALK_STEPS + 1)) * noise[pixel]
    return total
