"""Noise that is left at the common beam: the formula's over that of drawn maps, by pixel.

python benchmarks/noise_left.py [DRAWS]: Nside 64 to 16, 440 arcmin, a minute a hundred draws.
"""

import sys
import tempfile
import warnings
from pathlib import Path

import healpy as hp
import numpy as np

from foreglow.maps.write import write_maps, write_polarisation_map
from foreglow.recognition.observation.beams import bring_to_one_resolution
from foreglow.recognition.observation.observations import open_observation
from foreglow.sky.instrument_files import load_instrument

NSIDE, AIM, FWHM = 64, 16, 440.0
BAND = "MFI_11"


def cases():
    """Title, QQ, where it was observed, whether UU is 1.4 QQ and QU 0.3 QQ (else alike)."""
    x, _, z = hp.pix2vec(NSIDE, np.arange(hp.nside2npix(NSIDE)))
    ones, everywhere = np.ones_like(z), np.ones(z.size, bool)
    north = z > np.sin(np.radians(10))
    deep = np.where(x > np.cos(np.radians(20)), 0.04, 1.0)
    yield "all of the sky, uniform", ones, everywhere, False
    yield "all, variance by e^4 from pole to pole, Q and U unlike", np.exp(2 * z), everywhere, True
    yield "all, a field of 20 deg with 25 times the hits", deep, everywhere, False
    yield "north of 10 deg, uniform", ones, north, False
    yield "north of 10 deg, e^3 from pole to edge, unlike", np.exp(-4 * (z - 0.17)), north, True
    dead = np.random.default_rng(1).random(z.size) < 0.02
    yield "2% dead pixels", ones, ~dead, False


def left(folder, variance, seen, unlike, draws):
    """QQ, QU, UU (n_pix, 3) by the formula and by drawn maps."""
    qu = np.where(seen, 1.0, np.nan) * np.ones((2, 1))
    write_polarisation_map(folder / "map.fits", qu, "uK_RJ", overwrite=True)
    factors = (1, 0.3, 1.4) if unlike else (1, 0, 1)
    columns = {
        name: (np.where(seen, factor * variance, np.nan).astype(np.float32), "uK_RJ^2")
        for name, factor in zip(("QQ", "QU", "UU"), factors, strict=True)
    }
    write_maps(folder / "noise.fits", columns, frame="G", overwrite=True)
    noise = {BAND: f"{folder / 'noise.fits'}[QQ,QU,UU] as covariance"}
    bands = load_instrument("quijote-mfi")
    for number in (None, draws):
        out = bring_to_one_resolution(
            bands, {BAND: folder / "map.fits"}, folder / str(number), FWHM, noise,
            nside=AIM, draws=number,
        )  # fmt: skip
        opened = open_observation(bands, *out)
        noise_left = opened.read_all_noise(np.arange(hp.nside2npix(AIM)))[2]
        if noise_left.ndim == 2:  # rms: Q and U are alike
            noise_left = noise_left[:, None].astype(float) ** 2 * np.array([[1], [0], [1]])
        yield noise_left[:, :, bands.index(BAND)]


def rows_from_edge(seen):
    """Rows of pixels between each pixel and the edge; 0 outside, 99 far inside."""
    neighbours = hp.get_all_neighbours(AIM, np.arange(len(seen)))
    depth = np.where(seen, 99, 0)
    for row in range(1, 7):
        near = (np.where(neighbours >= 0, depth[neighbours], 99) == row - 1).any(0)
        depth[near & (depth == 99)] = row
    return depth


def main(draws):
    """Print the ratio of the rms of both, its mean, scatter and range, and by row from an edge."""
    print(f"{draws} draws, which alone scatter by {1 / np.sqrt(4 * draws):.3f}")
    for title, variance, seen, unlike in cases():
        with tempfile.TemporaryDirectory() as folder:
            formula, drawn = left(Path(folder), variance, seen, unlike, draws)
        found = np.isfinite(formula).all(1)
        ratio = np.sqrt(formula[:, ::2].sum(1) / drawn[:, ::2].sum(1))
        of = ratio[found]
        print(f"{title}: {found.sum()} pixels, {of.mean():.3f} +- {of.std():.3f}, "
              f"{of.min():.3f} to {of.max():.3f}")  # fmt: skip
        if not found.all():
            depth = rows_from_edge(found)
            rows = [(k, ratio[depth == k]) for k in np.unique(depth[found])]
            print("  rows from the edge:", ", ".join(f"{k}: {r.mean():.3f}" for k, r in rows))
        if unlike:
            for name, c in (("formula", formula[found]), ("drawn", drawn[found])):
                correlation = (c[:, 1] / np.sqrt(c[:, 0] * c[:, 2])).mean()
                print(f"  correlation of Q and U, {name}: {correlation:.3f}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
