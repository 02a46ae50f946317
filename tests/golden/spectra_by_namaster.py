"""Makes `namaster.npz`: two T,Q,U maps, a mask, and what NaMaster makes of them.

    PYTHON tests/golden/spectra_by_namaster.py

PYTHON is that of an environment of its own with NaMaster (pymaster), which is built from source:

    apt-get install libgsl-dev libfftw3-dev libcfitsio-dev
    python3.11 -m venv ENV
    ENV/bin/pip install wheel setuptools numpy healpy
    ENV/bin/pip install pymaster

(its build fetches libchealpix; where that fails, `apt-get install libchealpix-dev` and link it in
setup.py, in the place of `_deps/lib/libchealpix.a`). Made with the versions that the file holds as
`versions`: pymaster 3.0.1, NumPy 2.4.6, healpy 1.20.1, Python 3.11. The sky is drawn by NumPy from
a seed, with a thousandth of E in B; T and the other map share half of their modes with it.
"""

import platform
from importlib.metadata import version
from pathlib import Path

import healpy as hp
import numpy as np
import pymaster as nmt

SEED = 20091217
NSIDE = 16
WIDTH_DEG = 25.0
EDGES = np.array([2, 8, 14, 20, 26, 32, 48])  # to 3 Nside, which NaMaster asks for
ITERATIONS = 3


def drawn(spectrum: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Multipoles of a Gaussian field."""
    l_max = len(spectrum) - 1
    ell, m = hp.Alm.getlm(l_max)
    real, imaginary = rng.standard_normal((2, ell.size))
    return np.where(m == 0, real, (real + 1j * imaginary) / np.sqrt(2)) * np.sqrt(spectrum[ell])


def beside(q: np.ndarray, u: np.ndarray, l_max: int, rng: np.random.Generator):
    """T of a sky, and T, Q, U of another that is like it, of the precision that is kept."""
    e, b = hp.map2alm_spin([q, u], 2, l_max)
    power = hp.alm2cl(e)
    own = [drawn(power, rng) for _ in range(3)]
    t = hp.alm2map(e + b + own[0], NSIDE, l_max)
    qu = hp.alm2map_spin([e + own[1] + b, b + 0.03 * (own[2] + e)], NSIDE, 2, l_max)
    other = np.stack([t + 0.5 * hp.alm2map(own[2], NSIDE, l_max), *qu])
    return np.float64(np.float16(t)), np.float64(np.float16(other))


def crosses(name: str, weight: np.ndarray, bins: nmt.NmtBin, maps: tuple) -> dict:
    """Decoupled spectra of two maps T, Q, U: TT, TE, TB, EE, EB, BE, BB, ET, BT, (9, n_bin)."""
    words = {"lmax": 3 * NSIDE - 1, "n_iter": ITERATIONS, "n_iter_mask": ITERATIONS}
    scalar = [nmt.NmtField(weight, [one[0]], **words) for one in maps]
    spin = [nmt.NmtField(weight, list(m[1:]), purify_b=name == "pure", **words) for m in maps]
    rows = []
    for a, b in ((scalar[0], scalar[1]), (scalar[0], spin[1]), (spin[0], spin[1]),
                 (spin[0], scalar[1])):  # fmt: skip
        work = nmt.NmtWorkspace.from_fields(a, b, bins)
        rows += list(work.decouple_cell(nmt.compute_coupled_cell(a, b)))
    return {f"crosses_{name}": np.stack(rows)}


def main() -> None:
    """Measure the sky plainly and purified, and what is expected of it."""
    rng = np.random.default_rng(SEED)
    ell = np.arange(3 * NSIDE)
    ee = np.where(ell > 1, 1 / (ell * (ell + 1.0) + 1), 0)
    bb = 1e-3 * ee
    q, u = hp.alm2map_spin([drawn(ee, rng), drawn(bb, rng)], NSIDE, 2, ell[-1])
    t, other = beside(q, u, ell[-1], np.random.default_rng(SEED + 1))
    longitude, latitude = hp.pix2ang(NSIDE, np.arange(q.size), lonlat=True)
    mask = (np.abs(latitude) > 25) & ~((latitude > 0) & (longitude < 60))
    weight = nmt.mask_apodization(mask.astype(float), WIDTH_DEG, "C1")
    seen = weight > 0  # NaMaster also looks at what lies beyond the mask
    bins = nmt.NmtBin.from_edges(EDGES[:-1], EDGES[1:])
    found = {}
    for name, pure in (("plain", False), ("pure", True)):
        field = nmt.NmtField(
            weight, [q * seen, u * seen], purify_b=pure, lmax=3 * NSIDE - 1,
            n_iter=ITERATIONS, n_iter_mask=ITERATIONS,
        )  # fmt: skip
        work = nmt.NmtWorkspace.from_fields(field, field, bins)
        spectra = work.decouple_cell(nmt.compute_coupled_cell(field, field))
        theory = work.decouple_cell(work.couple_cell([ee, 0 * ee, 0 * ee, bb]))
        found[f"spectra_{name}"] = spectra[[0, 3]]
        found[f"expected_{name}"] = theory[[0, 3]]
        found |= crosses(name, weight, bins, (np.stack([t, q, u]) * seen, other * seen))
    packages = ("pymaster", "numpy", "healpy")
    np.savez_compressed(
        Path(__file__).with_name("namaster.npz"), maps=np.stack([q, u]),
        intensity=t.astype("f2"), other=other.astype("f2"), mask=mask, weight=weight,
        width_deg=WIDTH_DEG, edges=EDGES, ee=ee, bb=bb, **found,
        versions=[f"python {platform.python_version()}", *(f"{p} {version(p)}" for p in packages)],
    )  # fmt: skip


if __name__ == "__main__":
    main()
