"""Filaments of the mock Galaxy: noise drawn out along the magnetic field, octave by octave.

A walk goes from pixel to pixel of the octave's own grid, so the field is in double precision: in
single precision some steps in a thousand would end in the next pixel.
"""

import math

import numpy as np
import torch

from foreglow.maps import healpix as hp
from foreglow.maps.harmonic import analyse
from foreglow.maps.pixels import ring_pixel
from foreglow.sky.fields import (
    DENSITY,
    WALK,
    Array,
    blocks,
    by_block,
    directions,
    power_law,
    white_alm,
)
from foreglow.sky.magnetic import spiral, turbulence
from foreglow.sky.shells import Shell

FILAMENT_NSIDE = 8  # the coarsest octave of filaments
WALK_STEPS, STEP_PIXELS = 12, 1.0  # to each side along the field, at every octave


def ln_column_alm(shell: Shell, nside: int, seed: int) -> tuple[Array, Array]:
    """Fluctuations of the logarithm of a shell's column, and its turbulent field.

    Returns
    -------
    alm : ndarray of complex128, shape (n_alm,)
        To ell 2 Nside, of unit variance: a round part and filaments.
    field : ndarray of float32, shape (3, n_pix)
        Of `turbulence`: the finest octave walks along it too, so it is made once.
    """
    lmax = 2 * nside
    field = np.empty((3, hp.nside2npix(nside)), np.float32)
    drawn_out = np.zeros(lmax + 1)  # share of the variance in filaments
    total = np.zeros((lmax + 1) * (lmax + 2) // 2, complex)
    if shell.filaments == 0:
        turbulence(shell, nside, seed, field)
    octave = FILAMENT_NSIDE
    while octave <= nside and shell.filaments > 0:
        window = _octave_window(octave, lmax, finest=octave == nside)
        alm = _filament_alm(shell, octave, seed, field if octave == nside else None)
        _add(total, alm, np.sqrt(shell.filaments) * window)
        drawn_out += shell.filaments * window**2
        octave *= 2
    _add(total, white_alm(seed, shell.stream, DENSITY, lmax), np.sqrt(1 - drawn_out))
    spectrum = np.sqrt(power_law(shell.slope, shell.outer_ell, lmax))
    return hp.almxfl(total, spectrum, inplace=True), field


def _add(total: Array, alm: Array, factor: Array) -> None:
    """Add harmonics of the same or fewer multipoles, times a factor by ell."""
    lmax, fewer = factor.size - 1, int(np.sqrt(2 * alm.size)) - 1
    for m in range(fewer + 1):
        first, there = m * (2 * lmax + 1 - m) // 2, m * (2 * fewer + 1 - m) // 2
        part = slice(first + m, first + fewer + 1)
        total[part] += factor[m : fewer + 1] * alm[there + m : there + fewer + 1]


def _octave_window(octave: int, lmax: int, finest: bool = False) -> Array:
    """Amplitude of an octave, centred on ell = octave; the squares of all octaves sum to one."""
    octaves_away = np.log2(np.maximum(np.arange(lmax + 1), 0.5) / octave)
    # the finest octave also stands for the finer ones that the map cannot hold
    return np.cos(np.pi / 2 * np.clip(octaves_away, -1, 0 if finest else 1))


def _filament_alm(shell: Shell, octave: int, seed: int, kept: Array | None) -> Array:
    """Harmonics, of about unit power, of noise smeared along the field on the octave's own grid.

    The turbulent field goes to `kept` as well, if that is given.
    """
    lmax = 2 * octave
    alm = analyse(_smeared(shell, octave, seed, kept)[np.newaxis], lmax)[0].astype(complex)
    weight = (2 * np.arange(lmax + 1) + 1) * _octave_window(octave, lmax)
    alm /= np.sqrt(np.average(hp.alm2cl(alm), weights=weight))
    return alm


def _smeared(shell: Shell, octave: int, seed: int, kept: Array | None) -> Array:
    """Noise smeared along the field, float32, shape (n_pix,)."""
    n_pix = hp.nside2npix(octave)
    steps = np.empty((n_pix, 3))
    turbulence(shell, octave, seed, steps.T)
    if kept is not None:
        kept[:] = steps.T
    noise = _noise([seed, shell.stream, WALK, octave], n_pix)
    smeared = np.empty(n_pix, np.float32)

    def make_steps(part: slice) -> None:
        start = directions(octave, part)
        field = steps[part].T + spiral(shell, start)
        field -= start * np.sum(field * start, axis=0)
        field *= STEP_PIXELS * hp.nside2resol(octave) / np.maximum(_length(field), 1e-6)
        steps[part] = field.T

    def smear(part: slice) -> None:
        start = directions(octave, part)
        walks = [_walk(part, start, sense, steps, noise) for sense in (-1, 1)]
        smeared[part] = noise[part] + sum(walks)

    for work in (make_steps, smear):
        by_block(work, blocks(n_pix))
    return smeared


def _noise(key: list[int], n_pix: int) -> Array:
    """Normal deviates, drawn in double precision, float32."""
    rng, noise = np.random.default_rng(key), np.empty(n_pix, np.float32)
    for part in blocks(n_pix):
        noise[part] = rng.standard_normal(noise[part].size)
    return noise


def _walk(part: slice, start: Array, sense: int, steps: Array, noise: Array) -> Array:
    """Sum of the noise met on a walk along the field (or against it), tapered to its end."""
    octave = hp.npix2nside(noise.size)
    pixel = np.arange(part.start, part.stop)
    total, position = torch.zeros(pixel.size, dtype=torch.float64), torch.from_numpy(start.copy())
    for step in range(1, WALK_STEPS + 1):
        # numpy takes rows in half the time
        position.add_(torch.from_numpy(steps.take(pixel, axis=0)).t(), alpha=sense)
        x, y, z = position
        position.mul_((x * x).addcmul_(y, y).addcmul_(z, z).rsqrt_())
        pixel = ring_pixel(position, octave).numpy()
        taper = math.cos(math.pi / 2 * step / (WALK_STEPS + 1))
        total.add_(torch.from_numpy(noise.take(pixel)), alpha=taper)
    return total.numpy()


def _length(vector: Array) -> Array:
    return np.sqrt(vector[0] ** 2 + vector[1] ** 2 + vector[2] ** 2)
