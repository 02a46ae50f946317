"""Template cleaning: how much dust is left in a CMB map once a predicted map is fitted away.

The sky of a band is CMB, dust and white noise. To the fit, CMB and noise are noise of known
spectrum: one amplitude of the template (and an offset) is fitted to the harmonics of the masked
sky, each weighted by the inverse of its variance. What is left of the dust, the true dust less the
fitted template, is known here exactly, realisation by realisation.

All maps have one resolution, that of the filter that the templates went through; beams are
ignored. The dust of a band is that of 353 GHz times one modified blackbody, the infrared
background's too, so the true map would clean it perfectly.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foreglow.compute.workers import MapFn
from foreglow.errors import MapError, ShapeError
from foreglow.files import scratch_directory
from foreglow.maps import healpix as hp
from foreglow.maps.gnomonic import Grid
from foreglow.maps.hemispheres import Method, Region, reached
from foreglow.sky import seds
from foreglow.sky.cmb import cmb_spectra, cmb_temperature

# Planck 2018 I (arXiv:1807.06205), Table 4: 0.55 and 0.78 uK_CMB deg in temperature
PLANCK_NOISE_UK_ARCMIN = {143.0: 33.0, 217.0: 46.8}
ELL_EDGES = (20, 50, 100, 150, 200, 250, 300)
EDGE_DEG = 4.0  # of the mask's edge, drawn out inwards over about as much


@dataclass(frozen=True, eq=False)
class CleaningResult:
    """Dust left in one band by each template.

    Attributes
    ----------
    frequency_ghz, noise_uk_arcmin : float
    sky_fraction : float
        Of what the fit was made on: the mean of its squared weight.
    ell_edges : ndarray of int, shape (bin + 1,)
        A bin holds edges[k] <= ell < edges[k + 1].
    dust, background : ndarray, shape (bin,)
        Power of the dust before cleaning, and of CMB and noise, C_ell over the masked sky by its
        fraction [uK_CMB^2]: pseudo-spectra, multipoles mix over about 180 / (width of the sky).
    amplitude : mapping of name to ndarray, shape (realisation,)
        Fitted, uK_CMB per unit of the template.
    residual : mapping of name to ndarray, shape (realisation, bin)
        Power of the dust less the template with one amplitude for all scales [uK_CMB^2].
    residual_by_band : mapping of name to ndarray, shape (realisation, bin)
        The same with an amplitude for each bin, which forgives a template that is too smooth but
        fits more of the CMB away.
    """

    frequency_ghz: float
    noise_uk_arcmin: float
    sky_fraction: float
    ell_edges: NDArray[np.int64]
    dust: NDArray[np.float64]
    background: NDArray[np.float64]
    amplitude: Mapping[str, NDArray[np.float64]]
    residual: Mapping[str, NDArray[np.float64]]
    residual_by_band: Mapping[str, NDArray[np.float64]]

    @property
    def ell(self) -> NDArray[np.floating]:
        """Middle of each bin."""
        return 0.5 * (self.ell_edges[1:] + self.ell_edges[:-1] - 1)

    def share(self, name: str, by_band: bool = False) -> NDArray[np.float64]:
        """Residual over original dust power, shape (realisation, bin)."""
        return (self.residual_by_band if by_band else self.residual)[name] / self.dust

    def rows(self) -> list[dict[str, Any]]:
        """Flat records, one for each template and bin.

        Returns
        -------
        list of dict
            `method` ("cleaning"), `model`, `frequency_ghz`, `ell_low`, `ell_high`, `realisations`,
            `dust` [uK_CMB^2]; `residual` [uK_CMB^2], `share` (residual / dust) and
            `share_by_band`, means over realisations, and `share_std`, the scatter of `share` from
            one CMB and noise to another: the error for one sky.
        """
        records = []
        for name in self.residual:
            share, by_band = self.share(name), self.share(name, True)
            for k, low in enumerate(self.ell_edges[:-1]):
                row = {
                    "method": "cleaning",
                    "model": name,
                    "frequency_ghz": self.frequency_ghz,
                    "ell_low": int(low),
                    "ell_high": int(self.ell_edges[k + 1]),
                    "realisations": len(share),
                    "dust": float(self.dust[k]),
                    "residual": float(self.residual[name][:, k].mean()),
                    "share": float(share[:, k].mean()),
                    "share_std": float(share[:, k].std(ddof=1)) if len(share) > 1 else None,
                    "share_by_band": float(by_band[:, k].mean()),
                }
                records.append(row)
        return records


def clean(
    dust: NDArray,
    templates: Mapping[str, NDArray],
    weight: NDArray,
    window: NDArray,
    frequency_ghz: float = 143.0,
    noise_uk_arcmin: float | None = None,
    ell_edges: Sequence[int] = ELL_EDGES,
    realisations: int = 20,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    map_fn: MapFn = map,
    shared: Path | None = None,
) -> CleaningResult:
    """Fit each template to simulated skies of one band, and measure the dust that is left.

    Parameters
    ----------
    dust : ndarray, shape (n_pix,)
        The true dust at 353 GHz [uK_RJ], RING, smoothed by `window`; of the mock:
        `DustIntensity.galactic + .background`, filtered.
    templates : mapping of name to ndarray, shape (n_pix,)
        RING, any unit and offset; finite where `weight` is above zero.
    weight : ndarray, shape (n_pix,)
        Of the sky that is cleaned, from 0 to 1, its edge smooth; see `unseen_weight`.
    window : ndarray, shape (l_max + 1,)
        Amplitude of the filter by ell, for CMB and noise.
    frequency_ghz : float
    noise_uk_arcmin : float, optional
        White noise [uK_CMB arcmin]; by default Planck's at 143 or 217 GHz.
    ell_edges : sequence of int
        Bins; the fit uses the ell that they hold.
    realisations : int
        Of CMB and noise.
    seed : int
    progress : callable, optional
        Called with the realisations done and in all.
    map_fn : MapFn
        Where realisations are made, see `foreglow.compute.workers.open_workers`.
    shared : Path, optional
        Folder that workers see: `weight` is there for them as long as the work takes. By default
        that of temporary files.

    Returns
    -------
    CleaningResult

    Raises
    ------
    ShapeError
        If maps are of another Nside than the dust.
    MapError
        If a map is not finite where the weight is above zero, edges do not fit the window, or the
        band is not Planck's and no noise is given.
    """
    edges = _validate(dust, templates, weight, window, ell_edges)
    noise = _noise(frequency_ghz, noise_uk_arcmin)
    l_max = int(edges[-1]) - 1
    sky_fraction = float(np.mean(np.square(weight, dtype=np.float64)))

    def power(one: NDArray, other: NDArray) -> NDArray:
        return _binned(hp.alm2cl(one, other), edges) / sky_fraction

    alm = {name: _harmonics(values, weight, l_max) for name, values in templates.items()}
    true = _harmonics(np.asarray(dust) * dust_factor(frequency_ghz), weight, l_max)
    auto = {name: power(a, a) for name, a in alm.items()}
    common = {name: power(a, true) for name, a in alm.items()}
    before = power(true, true)
    ell_power = cmb_spectra(len(window) - 1)[0] + np.radians(noise / 60) ** 2
    background = _binned((ell_power * window**2)[: l_max + 1], edges)
    # modes of a bin over their variance; the same for every template
    certainty = _binned(np.ones(l_max + 1), edges, mean=False) / (background + before)
    amplitude: dict[str, list[float]] = {name: [] for name in templates}
    by_band: dict[str, list[NDArray]] = {name: [] for name in templates}
    with scratch_directory((shared or Path(tempfile.gettempdir())) / "cleaning") as folder:
        np.save(folder / "weight.npy", weight)
        path, keys = folder.absolute() / "weight.npy", (seed, round(frequency_ghz))
        work = partial(_realisation, path, window, noise, l_max, keys)
        for number, other in enumerate(map_fn(work, range(realisations))):
            for name, mine in alm.items():
                cross = common[name] + power(mine, other)
                amplitude[name].append(float(certainty @ cross / (certainty @ auto[name])))
                by_band[name].append(cross / auto[name])
            if progress is not None:
                progress(number + 1, realisations)

    def left(name: str, a: NDArray) -> NDArray:
        return before - 2 * a * common[name] + a**2 * auto[name]

    one = {name: np.array(a) for name, a in amplitude.items()}
    return CleaningResult(
        frequency_ghz,
        noise,
        sky_fraction,
        edges,
        before,
        background,
        one,
        {name: left(name, a[:, None]) for name, a in one.items()},
        {name: left(name, np.array(a)) for name, a in by_band.items()},
    )


def _realisation(
    weight: Path,
    window: NDArray,
    noise_uk_arcmin: float,
    l_max: int,
    keys: tuple[int, ...],
    number: int,
) -> NDArray[np.complex128]:
    """Harmonics of CMB and noise over the weighted sky, from a generator of their own."""
    values = _load(weight)
    rng = np.random.default_rng([*keys, number])
    sky = cmb_temperature(hp.get_nside(values), rng, window, noise_uk_arcmin)
    return _harmonics(sky, values, l_max)


@lru_cache(maxsize=1)
def _load(path: Path) -> NDArray:
    return np.load(path)


def _harmonics(values: NDArray, weight: NDArray, l_max: int) -> NDArray[np.complex128]:
    level = np.average(np.where(weight > 0, values, 0), weights=weight)
    masked = np.where(weight > 0, values - level, 0) * weight
    return hp.map2alm(masked, lmax=l_max, iter=1)


def dust_factor(frequency_ghz: float) -> float:
    """Dust of a band [uK_CMB] for each uK_RJ at 353 GHz."""
    frequency = torch.tensor(frequency_ghz, dtype=torch.float64)
    return float(seds.modified_blackbody(frequency) / seds.cmb(frequency))


def unseen_weight(
    mask: NDArray,
    trained: Region,
    grid: Grid,
    method: Method = "nearest",
    edge_deg: float = EDGE_DEG,
) -> NDArray[np.float64]:
    """Weight of the sky that a model has never seen, its edges smooth.

    Parameters
    ----------
    mask : ndarray, shape (n_pix,)
        RING; the sky counts where it is above zero.
    trained : Region
        Where the centres of training cutouts lay.
    grid : Grid
    method : str
        How cutouts were made.
    edge_deg : float
        Over about this many degrees inwards from an edge the weight rises from 0 to 1.

    Returns
    -------
    ndarray, shape (n_pix,)

    Raises
    ------
    MapError
        If nothing is left.
    """
    nside = hp.get_nside(mask)
    kept = (np.asarray(mask) > 0) & ~reached(trained, grid, nside, method)
    smooth = hp.smoothing(kept.astype(float), fwhm=np.radians(edge_deg), lmax=2 * nside)
    # a straight edge has one half there: rise from nought at the edge itself
    rising = np.clip(2 * smooth - 1, 0, 1) * kept
    weight = np.sin(0.5 * np.pi * rising) ** 2
    if not weight.any():
        raise MapError(
            f"expected sky that cutouts of the {trained.name} do not reach, got none; use a mask "
            "that leaves some on the other side"
        )
    return weight


def _binned(spectrum: NDArray, edges: NDArray[np.int64], mean: bool = True) -> NDArray[np.float64]:
    """Sum over the modes of each bin, or their mean."""
    modes = 2 * np.arange(len(spectrum)) + 1
    total = np.add.reduceat(spectrum * modes, edges[:-1])
    return total / np.add.reduceat(modes, edges[:-1]) if mean else total


def _noise(frequency_ghz: float, given: float | None) -> float:
    if given is not None:
        return given
    if frequency_ghz not in PLANCK_NOISE_UK_ARCMIN:
        known = ", ".join(f"{f:g}" for f in PLANCK_NOISE_UK_ARCMIN)
        raise MapError(
            f"expected a noise in uK_CMB arcmin for {frequency_ghz:g} GHz, got none; Planck's is "
            f"known at {known} GHz"
        )
    return PLANCK_NOISE_UK_ARCMIN[frequency_ghz]


def _validate(
    dust: NDArray,
    templates: Mapping[str, NDArray],
    weight: NDArray,
    window: NDArray,
    ell_edges: Sequence[int],
) -> NDArray[np.int64]:
    """The edges as an array."""
    for name, values in {"dust": dust, **templates, "weight": weight}.items():
        if np.shape(values) != np.shape(dust) or not hp.isnpixok(np.size(values)):
            raise ShapeError(
                f"expected maps of one Nside, shape {np.shape(dust)}, got {np.shape(values)} of "
                f"{name}; bring all to one Nside"
            )
        bad = ~np.isfinite(values) & (np.asarray(weight) > 0)
        if bad.any():
            raise MapError(
                f"expected finite values of {name} where the weight is above zero, got "
                f"{bad.sum()} that are not, the first at RING pixel {bad.argmax()}; lessen the mask"
            )
    edges = np.asarray(ell_edges, dtype=np.int64)
    if edges.size < 2 or edges[0] < 2 or (np.diff(edges) < 1).any() or edges[-1] > len(window):
        raise MapError(
            f"expected rising edges of ell from 2 to {len(window)}, where the window ends, got "
            f"{list(ell_edges)}"
        )
    return edges
