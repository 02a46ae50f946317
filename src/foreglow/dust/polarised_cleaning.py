"""What a template of Q and U is for: B modes of the CMB with the dust fitted away, and their r.

The sky of a band is CMB without tensors, dust and white noise. The amplitude of a template, or of
several at once, is fitted to the purified B modes of the masked sky, each bin of ell weighted by
the inverse of its variance. What is left of the dust is known here exactly, realisation by
realisation, and so is the r that would be measured in its place.

As in `foreglow.dust.cleaning`, all maps have the resolution of the filter that the templates went
through, and the dust of a band is that of 353 GHz times one modified blackbody. Each band is
cleaned by itself, so their noise may be one draw, scaled.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreglow.compute.progress import Progress
from foreglow.compute.workers import MapFn
from foreglow.dust.cleaning import dust_factor
from foreglow.dust.scores import standard_error
from foreglow.errors import MapError, ShapeError
from foreglow.files import scratch_directory
from foreglow.maps.cut_sky import CutSky
from foreglow.sky.cmb import cmb_spectra, polarisation_map, tensor_bb

# Ade et al. 2019 (arXiv:1808.07445), Table 1: the baseline of the Small Aperture Telescopes at 93,
# 145 and 225 GHz, 2.6, 3.3 and 6.3 uK_CMB arcmin in temperature, times sqrt 2
NOISE_UK_ARCMIN = {95.0: 3.7, 150.0: 4.7, 220.0: 8.9}
ELL_EDGES = tuple(range(30, 301, 30))
_LARGEST_ELL = 600  # of tensors: there is nothing above
_NOISE, _DUST = 1, 2  # places among the maps whose products are kept: CMB, noise, dust, templates
DUST_SLOPE = -2.54  # of BB: Planck 2018 XI (arXiv:1801.04945)


@dataclass(frozen=True, eq=False)
class PolarisedCleaning:
    """B modes of the dust left in one band by each template, and what they do to r.

    Attributes
    ----------
    frequency_ghz, noise_uk_arcmin : float
    sky_fraction : float
        Effective, of the weight.
    ell_edges : ndarray of int, shape (bin + 1,)
        A bin holds edges[k] <= ell < edges[k + 1].
    dust, background : ndarray, shape (bin,)
        BB of the dust before cleaning, and of CMB and noise, decoupled [uK_CMB^2].
    amplitude : mapping of name to ndarray, shape (realisation, map)
        Fitted, of each map of a template, uK_CMB per its unit.
    residual : mapping of name to ndarray, shape (realisation, bin)
        BB of the dust less the fitted template [uK_CMB^2].
    r, r_dust_free : mapping of name to ndarray, shape (realisation,)
        The r of each cleaned sky, which has none; `r_dust_free` where the amplitude of a dust
        spectrum ell^-2.54 is fitted with it. The name "none" is the sky as it is.
    r_bias, r_bias_dust_free : mapping of name to ndarray, shape (realisation,)
        By how much it differs from that of the same CMB and noise without dust.
    """

    frequency_ghz: float
    noise_uk_arcmin: float
    sky_fraction: float
    ell_edges: NDArray[np.int64]
    dust: NDArray[np.float64]
    background: NDArray[np.float64]
    amplitude: Mapping[str, NDArray[np.float64]]
    residual: Mapping[str, NDArray[np.float64]]
    r: Mapping[str, NDArray[np.float64]]
    r_bias: Mapping[str, NDArray[np.float64]]
    r_dust_free: Mapping[str, NDArray[np.float64]]
    r_bias_dust_free: Mapping[str, NDArray[np.float64]]

    @property
    def ell(self) -> NDArray[np.floating]:
        """Middle of each bin."""
        return 0.5 * (self.ell_edges[1:] + self.ell_edges[:-1] - 1)

    def rows(self) -> list[dict[str, Any]]:
        """Flat records, one for each template over all bins, then one for each of its bins.

        Returns
        -------
        list of dict
            `method` ("polarised_cleaning"), `model`, `frequency_ghz`, `ell_low`, `ell_high`,
            `realisations`; `dust` and `residual`, BB [uK_CMB^2], and `share`, its part of the
            dust's, means over bins. Over all bins also `noise_uk_arcmin`, `sky_fraction`;
            `r_bias`, a mean, with its standard error `r_bias_sem`, and `r_error`, the scatter of r
            from one sky to another; the same with `_dust_free`.
        """
        n_bin = len(self.dust)
        found = []
        for name in self.residual:
            found.append(self._row(name, slice(n_bin)) | self._r(name))
            found += [self._row(name, slice(k, k + 1)) for k in range(n_bin)]
        return found

    def _row(self, name: str, bins: slice) -> dict[str, Any]:
        residual, dust = self.residual[name].mean(0)[bins], self.dust[bins]
        return {
            "method": "polarised_cleaning",
            "model": name,
            "frequency_ghz": self.frequency_ghz,
            "ell_low": int(self.ell_edges[bins.start or 0]),
            "ell_high": int(self.ell_edges[bins.stop]),
            "realisations": len(self.r[name]),
            "dust": float(dust.mean()),
            "residual": float(residual.mean()),
            "share": float((residual / dust).mean()),
        }

    def _r(self, name: str) -> dict[str, Any]:
        row: dict[str, Any] = {
            "noise_uk_arcmin": self.noise_uk_arcmin,
            "sky_fraction": self.sky_fraction,
        }
        free = self.r_dust_free[name], self.r_bias_dust_free[name]
        for end, r, bias in (("", self.r[name], self.r_bias[name]), ("_dust_free", *free)):
            row[f"r_bias{end}"] = float(bias.mean())
            row[f"r_bias{end}_sem"] = standard_error(bias)
            row[f"r_error{end}"] = float(r.std(ddof=1)) if len(r) > 1 else None
        return row


def clean_polarisation(
    dust: NDArray,
    templates: Mapping[str, NDArray],
    weight: NDArray,
    window: NDArray,
    bands: Mapping[float, float] = NOISE_UK_ARCMIN,
    ell_edges: Sequence[int] = ELL_EDGES,
    realisations: int = 20,
    seed: int = 0,
    template_noise: Mapping[str, Sequence[float]] | None = None,
    progress: Progress | None = None,
    map_fn: MapFn = map,
    shared: Path | None = None,
) -> list[PolarisedCleaning]:
    """Fit templates to the B modes of simulated skies, and measure dust and r that are left.

    Parameters
    ----------
    dust : ndarray, shape (2, n_pix)
        Q and U of the true dust at 353 GHz [uK_RJ], RING, COSMO, smoothed by `window`.
    templates : mapping of name to ndarray, shape (2, n_pix) or (map, 2, n_pix)
        Q and U, any unit, smoothed by `window`; several maps are fitted at once. Finite where
        `weight` is above zero.
    weight : ndarray, shape (n_pix,)
        Of the sky that is cleaned, from 0 to 1, see `foreglow.maps.cut_sky.apodised`.
    window : ndarray, shape (l_max + 1,)
        Amplitude of the filter by ell.
    bands : mapping of float to float
        White noise of Q and U [uK_CMB arcmin] by frequency [GHz].
    ell_edges : sequence of int
        Bins of the fits.
    realisations : int
        Of CMB and noise.
    seed : int
    template_noise : mapping of str to sequence of float, optional
        White noise in the maps of a template [its unit arcmin], one number a map: what it adds to
        BB on average is known to an analyst, and is taken away before r is fitted. The residual,
        and the scatter of r, keep it.
    progress, map_fn, shared
        As for `foreglow.dust.cleaning.clean`.

    Returns
    -------
    list of PolarisedCleaning
        One for each band.

    Raises
    ------
    ShapeError
        If maps are of another Nside than the weight.
    MapError
        If a map is not finite where the weight is above zero, or edges do not fit the window or
        the sky.
    """
    cut = CutSky(weight, ell_edges)
    if cut.edges[-1] > len(window):
        raise MapError(
            f"expected edges of ell up to {len(window)}, where the window ends, got "
            f"{list(ell_edges)}."
        )
    for name, depths in (template_noise or {}).items():
        if name not in templates or len(depths) != np.size(templates[name]) // np.size(dust):
            raise ShapeError(
                f"expected template_noise= of {', '.join(templates) or 'no template'}, a number a "
                f"map, got {len(depths)} of {name}."
            )
    maps = {name: np.reshape(one, (-1, *np.shape(one)[-2:])) for name, one in templates.items()}
    alm = [_multipoles(cut, "dust", dust)]
    alm += [_multipoles(cut, name, one) for name, several in maps.items() for one in several]
    beam = np.zeros(cut.l_max + 1)
    beam[: len(window)] = window[: cut.l_max + 1]
    n_map = _DUST + len(alm)
    products = np.empty((realisations, len(cut.ell), n_map, n_map))
    for k, one in enumerate(alm, _DUST):
        rows = _products(cut, [one], alm[k - _DUST :])[:, 0]  # the same the other way round
        products[:, :, k, k:] = products[:, :, k:, k] = rows
    with scratch_directory((shared or Path(tempfile.gettempdir())) / "cleaning") as folder:
        np.savez(folder / "sky.npz", weight=cut.weight, edges=cut.edges, beam=beam)
        work = partial(_simulated, folder.absolute() / "sky.npz", seed)
        for number, drawn in enumerate(map_fn(work, range(realisations))):
            rows = _products(cut, drawn, [*drawn, *alm])  # (bin, 2, 2 + map)
            products[number, :, :_DUST] = rows
            products[number, :, :, :_DUST] = rows.swapaxes(1, 2)
            if progress is not None:
                progress(number + 1, realisations)
    ends = _DUST + 1 + np.cumsum([len(several) for several in maps.values()])
    places = {
        name: slice(end - len(several), end)
        for (name, several), end in zip(maps.items(), ends.tolist(), strict=True)
    }
    places = {"none": slice(0, 0)} | places
    ell, most = np.arange(cut.l_max + 1), min(cut.l_max, _LARGEST_ELL)
    shapes = np.zeros((2, ell.size))  # what is fitted: tensors, and the dust that is left
    shapes[0, : most + 1] = tensor_bb(most)
    shapes[1, 2:] = (ell[2:] / 80) ** DUST_SLOPE
    expected = np.stack([cut.expected(0 * beam, shape * beam**2)[1] for shape in shapes], 1)
    noise = np.zeros(n_map)
    for name, depths in (template_noise or {}).items():
        noise[places[name]] = depths
    return [_cleaned(cut, products, places, noise, expected, *band) for band in bands.items()]


def _cleaned(
    cut: CutSky,
    products: NDArray,
    places: Mapping[str, slice],
    noise: NDArray,
    expected: NDArray,
    frequency_ghz: float,
    noise_uk_arcmin: float,
) -> PolarisedCleaning:
    """One band, from the band powers of all pairs of maps, (realisation, bin, map, map)."""
    n, n_map = len(products), products.shape[-1]
    quiet = np.zeros(n_map)  # the sky without dust, as a sum of maps
    quiet[:_DUST] = 1.0, noise_uk_arcmin
    dust = np.zeros(n_map)
    dust[_DUST] = dust_factor(frequency_ghz)
    alone = _power(products, np.broadcast_to(quiet, (n, n_map)))  # (realisation, bin)
    white = products[:, :, _NOISE, _NOISE].mean(0)
    background, before = alone.mean(0), dust @ products[0] @ dust
    certainty = cut.modes / (background + before)
    weighed = np.tensordot(products, certainty, (1, 0))  # (realisation, map, map)
    found: dict[str, list[NDArray]] = {}
    for name, place in places.items():
        towards = weighed[:, place] @ (quiet + dust)
        amplitude = np.linalg.solve(weighed[:, place, place], towards[..., None])[..., 0]
        left = np.tile(dust, (n, 1))
        left[:, place] -= amplitude
        residual = _power(products, left)
        known = np.square(left * noise).sum(1, keepdims=True) * white
        power = _power(products, quiet + left) - known
        variance = 2 / cut.modes * (background + residual.mean(0)) ** 2
        r = [_fitted(expected[:, :k], variance) for k in (1, 2)]
        found[name] = [amplitude, residual]
        found[name] += [w @ x for w in r for x in ((power - background).T, (power - alone).T)]
    columns = [dict(zip(found, one, strict=True)) for one in zip(*found.values(), strict=True)]
    return PolarisedCleaning(
        frequency_ghz, noise_uk_arcmin, cut.sky_fraction, cut.edges, before, background, *columns
    )


def _power(products: NDArray, sums: NDArray) -> NDArray[np.float64]:
    """Band powers (realisation, bin) of sums of maps, by their coefficients (realisation, map)."""
    return np.einsum("ni,nbij,nj->nb", sums, products, sums, optimize=True)


def _fitted(shapes: NDArray, variance: NDArray) -> NDArray[np.float64]:
    """Weights (bin,) that give the amplitude of the first of some spectra (bin, n), all fitted."""
    weighed = shapes.T / variance
    return np.linalg.solve(weighed @ shapes, weighed)[0]


def _simulated(path: Path, seed: int, number: int) -> list[NDArray[np.complex128]]:
    """E and B of a CMB without tensors, and of white noise of 1 uK_CMB arcmin."""
    cut, beam = _opened(path)
    rng = np.random.default_rng([seed, 31, number])
    _, ee, bb, _ = cmb_spectra(cut.l_max) * beam**2
    white = np.radians(1 / 60) ** 2 * beam**2
    white[:2] = 0
    skies = (polarisation_map(*spectra, cut.nside, rng) for spectra in ((ee, bb), (white, white)))
    return [cut.multipoles(sky) for sky in skies]


@lru_cache(maxsize=1)
def _opened(path: Path) -> tuple[CutSky, NDArray]:
    with np.load(path) as stored:
        return CutSky(stored["weight"], stored["edges"].tolist()), stored["beam"]


def _multipoles(cut: CutSky, name: str, maps: NDArray) -> NDArray[np.complex128]:
    try:
        return cut.multipoles(maps)
    except (ShapeError, MapError) as error:
        raise type(error)(f"{name}: {error}") from None


def _products(cut: CutSky, one: Sequence[NDArray], other: Sequence[NDArray]) -> NDArray:
    """Band powers of B of all pairs, (bin, one, other)."""
    rows = [[cut.band_powers(a, b)[1] for b in other] for a in one]
    return np.moveaxis(np.array(rows), 2, 0)
