"""Predicted polarised dust beside the dust on the masked sphere: spectra, r by ell, alignment.

Spectra are those of `foreglow.maps.cut_sky`, B purified, freed of what the cut mixes. Errors are by
jackknife: 16 regions of equal weight are left out in turn, each with a smooth edge, so that what is
left has no new edges to speak of. They hold what differs from one part of the sky to another.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreglow.dust.cleaning import ELL_EDGES
from foreglow.errors import MapError, ShapeError
from foreglow.maps import healpix as hp
from foreglow.maps.cut_sky import CutSky, apodised
from foreglow.maps.harmonic import HarmonicFilter
from foreglow.maps.regions import equal_parts
from foreglow.maps.weighted_sky import WeightedSky

EDGE_DEG = 5.0  # of the sky, and of the regions that are left out
LATITUDE_EDGES = (0.0, 20.0, 30.0, 45.0, 60.0, 90.0)
_PARTS = 5  # of equal area, by predicted polarised intensity
_HALVINGS = 4
_GUARD = 1.2  # of the last edge: how far spectra are looked at
_WIDTH = 2.7  # of narrow bins, of the whole sky; a part of it tells wider ones apart
_FEWEST = 100  # pixels that are compared

Values = dict[str, NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class SphereScores:
    """How a prediction of I, Q and U compares with the dust on a part of the sphere.

    Attributes
    ----------
    sky_fraction : float
        Effective, in the number of modes.
    ell_edges : ndarray of int, shape (bin + 1,)
        A bin holds edges[k] <= ell < edges[k + 1].
    latitude_edges : ndarray, shape (latitude + 1,)
        Of |b| [deg].
    polarised_edges : ndarray, shape (part + 1,)
        Of the predicted polarised intensity, which has no noise of the dust map.
    values, errors : dict of str to ndarray
        By bin of ell: `r_t`, `r_e`, `r_b`, cross over the root of both autos; `bb_over_ee` and
        `target_bb_over_ee`; spectra `predicted_tt`, `target_tt`, `cross_tt`, and so on for ee, bb,
        te, tb, eb, and for the cross et, bt, be (first the letter of the prediction), in the
        product of units, means over modes. Mean of cos 2 (angle between the directions):
        `alignment`, shape (1,), `alignment_latitude`, `alignment_polarised`. NaN where a bin has
        no pixels or a spectrum is below zero. Errors are standard deviations.
    """

    sky_fraction: float
    ell_edges: NDArray[np.int64]
    latitude_edges: NDArray[np.float64]
    polarised_edges: NDArray[np.float64]
    values: Values
    errors: Values

    @property
    def ell(self) -> NDArray[np.floating]:
        """Mean multipole of each bin."""
        return 0.5 * (self.ell_edges[1:] + self.ell_edges[:-1] - 1)

    def records(self) -> list[dict[str, Any]]:
        """Flat records: one a bin of ell, of latitude and of polarised intensity, one of all.

        Each has `by`: "ell", "latitude", "polarised_intensity" or "sphere"; the edges `low` and
        `high`; its numbers, and their errors as `..._sem`; None where one is no number.
        """
        rows: list[dict[str, Any]] = [
            {"by": "sphere", "sky_fraction": self.sky_fraction, **self._row(["alignment"], 0)}
        ]
        keys = [key for key in self.values if not key.startswith("alignment")]
        for by, edges, names in (
            ("ell", self.ell_edges, keys),
            ("latitude", self.latitude_edges, ["alignment_latitude"]),
            ("polarised_intensity", self.polarised_edges, ["alignment_polarised"]),
        ):
            for k, (low, high) in enumerate(pairwise(edges.tolist())):
                rows.append({"by": by, "low": low, "high": high, **self._row(names, k)})
        return rows

    def _row(self, names: Sequence[str], k: int) -> dict[str, float | None]:
        row = {}
        for name in names:
            plain = "alignment" if name.startswith("alignment") else name
            for key, found in ((plain, self.values), (f"{plain}_sem", self.errors)):
                value = float(found[name][k])
                row[key] = value if np.isfinite(value) else None
        return row


def default_edges(nside: int) -> tuple[int, ...]:
    """Edges of ell up to 300 or 2 Nside, beyond which pixels mix multipoles; (20,) below 16."""
    return tuple(edge for edge in ELL_EDGES if edge <= 2 * nside) or ELL_EDGES[:1]


def score_sphere(
    predicted: Mapping[str, NDArray],
    targets: Mapping[str, NDArray],
    kept: NDArray[np.bool_],
    ell_edges: Sequence[int] | None = None,
) -> dict[tuple[str, str], SphereScores]:
    """Compare predictions of I, Q and U with maps of the dust on a part of the sphere.

    Parameters
    ----------
    predicted, targets : mapping of str to ndarray, shape (3, n_pix)
        I, Q and U, RING, COSMO, any units; by the name of the model, and of the dust. I may be NaN
        everywhere. Noise of a target counts in its own spectra, and so lowers r.
    kept : ndarray of bool, shape (n_pix,)
        Where they are compared; see `foreglow.dust.polarised_sphere` for what a model has seen.
    ell_edges : sequence of int, optional
        By default `default_edges`.

    Returns
    -------
    dict of (model, target) to SphereScores

    Raises
    ------
    MapError
        If too little of the sky is kept for the bins, edges do not fit the pixels, or a map is not
        finite where it is kept.
    ShapeError
        If a map has another shape.
    """
    maps = {f"model {name}": one for name, one in predicted.items()}
    maps |= {f"target {name}": one for name, one in targets.items()}
    _validate(maps, kept)
    edges = np.array(default_edges(hp.npix2nside(kept.size)) if ell_edges is None else ell_edges)
    weight = apodised(kept, EDGE_DEG)
    cut, mean = _cut(weight, edges)
    maps = {name: _levelled(one, weight) for name, one in maps.items()}
    pairs = {(a, b): (f"model {a}", f"target {b}") for b in targets for a in predicted}
    polarised = {a: _polarised_edges(one[1:], kept) for a, one in predicted.items()}
    found: dict[tuple[str, str], list[Values]] = {pair: [] for pair in pairs}
    for share, multipoles in _weightings(cut, weight):
        alm = {name: multipoles(one) for name, one in maps.items()}
        for (a, b), (mine, other) in pairs.items():
            spectra = _by_ell(cut, mean, alm[mine], alm[other])
            angles = _alignments(maps[mine][1:], maps[other][1:], share * kept, polarised[a])
            found[a, b].append(spectra | angles)
    return {
        (a, b): SphereScores(
            cut.sky_fraction, edges, np.array(LATITUDE_EDGES), polarised[a], *_jackknife(rows)
        )
        for (a, b), rows in found.items()
    }


def _cut(weight: NDArray, edges: NDArray) -> tuple[CutSky, NDArray]:
    """The cut sky in narrow bins, and shares of their modes in the bins that are wanted.

    In a bin a spectrum is taken for flat, and that of dust is steep: narrow ones are, and they go
    on below and above what is wanted, for power there leaks in.
    """
    nside = hp.npix2nside(weight.size)
    ends = [2, *edges.tolist(), min(int(_GUARD * edges[-1]), 3 * nside)]
    width = _WIDTH / np.sqrt(weight.mean())
    narrow = [ends[-1]]
    for low, high in reversed(list(pairwise(sorted(set(ends))))):
        narrow += np.linspace(high, low, max(1, int((high - low) / width)) + 1).round().tolist()[1:]
    bins = np.array(narrow[::-1], dtype=int)
    cut = CutSky(weight, bins.tolist(), pure=bool((weight < 1).any()))
    inside = (bins[:-1] >= edges[:-1, None]) & (bins[1:] <= edges[1:, None])
    modes = inside * (bins[1:] ** 2 - bins[:-1] ** 2)
    return cut, modes / modes.sum(1, keepdims=True)


def _weightings(
    cut: CutSky, weight: NDArray
) -> Iterator[tuple[NDArray | float, Callable[[NDArray], NDArray]]]:
    """Of all the sky, then of what each region leaves: share of the weight, what gives multipoles.

    What a region leaves is scaled, so that the matrices of the whole cut free its spectra, too.
    """
    yield 1.0, cut.multipoles
    label, nside = equal_parts(weight, _HALVINGS), cut.nside
    beam = hp.gauss_beam(np.radians(EDGE_DEG), lmax=2 * nside)
    smooth = HarmonicFilter(nside, beam)
    total = smooth.full_sky((label >= 0).astype(float)).clip(1e-6)
    power = np.mean(weight**2)
    for part in range(label.max() + 1):
        share = (1 - smooth.full_sky((label == part).astype(float)) / total).clip(0, 1)
        left = share * weight
        left *= np.sqrt(power / np.mean(left**2))
        # errors need no better analysis: what it lacks all regions lack alike
        yield share, WeightedSky(left, cut.pure, iterations=0).multipoles


def _by_ell(cut: CutSky, mean: NDArray, mine: NDArray, other: NDArray) -> Values:
    """Spectra and correlations of the multipoles T, E, B of two maps."""
    found = {}
    for name, pair in (
        ("predicted", (mine, mine)), ("target", (other, other)), ("cross", (mine, other)),
    ):  # fmt: skip
        powers = cut.cross_powers(*pair)
        wanted = powers if name == "cross" else ("TT", "EE", "BB", "TE", "TB", "EB")
        for key in wanted:  # exactly zero is a spectrum of no map
            power = np.where(powers[key] == 0, np.nan, powers[key])
            found[f"{name}_{key.lower()}"] = mean @ power
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = {
            f"r_{letter}": found[f"cross_{letter * 2}"]
            / np.sqrt(found[f"predicted_{letter * 2}"] * found[f"target_{letter * 2}"])
            for letter in "teb"
        }
        ratios["bb_over_ee"] = found["predicted_bb"] / found["predicted_ee"]
        ratios["target_bb_over_ee"] = found["target_bb"] / found["target_ee"]
    return ratios | found


def _alignments(mine: NDArray, other: NDArray, weight: NDArray, edges: NDArray) -> Values:
    """Weighted means of cos 2 (angle between the directions), of all and in bins."""
    size = np.hypot(*mine) * np.hypot(*other)
    cosine = np.divide((mine * other).sum(0), size, out=np.zeros_like(size), where=size > 0)
    nside = hp.npix2nside(weight.size)
    latitude = np.abs(hp.pix2ang(nside, np.arange(weight.size), lonlat=True)[1])
    mean = partial(_means, cosine, weight)
    return {
        "alignment": mean(np.zeros(weight.size), (0, 1)),
        "alignment_latitude": mean(latitude, LATITUDE_EDGES),
        "alignment_polarised": mean(np.hypot(*mine), edges),
    }


def _means(values: NDArray, weight: NDArray, by: NDArray, edges: ArrayLike) -> NDArray:
    """Weighted means in bins; the last one holds its upper edge too."""
    edges = np.asarray(edges)
    n = edges.size - 1
    place = np.clip(np.searchsorted(edges, by, side="right") - 1, 0, n - 1)
    total = np.bincount(place, weights=weight, minlength=n)
    summed = np.bincount(place, weights=weight * values, minlength=n)
    return np.divide(summed, total, out=np.full(n, np.nan), where=total > 0)


def _polarised_edges(qu: NDArray, kept: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.quantile(np.hypot(*qu)[kept].astype(float), np.linspace(0, 1, _PARTS + 1))


def _levelled(maps: NDArray, weight: NDArray) -> NDArray[np.float64]:
    """I, Q and U, zero where nothing is kept, I less its mean: a mean leaks into every ell."""
    found = np.where((weight > 0) & np.isfinite(maps), maps, 0.0)
    found[0] -= np.average(found[0], weights=weight**2)
    return found


def _jackknife(rows: list[Values]) -> tuple[Values, Values]:
    """Values of all the sky, and their errors by what each region leaves."""
    whole, *left = rows
    errors = {}
    for key in whole:
        each = np.stack([row[key] for row in left])
        spread = ((each - each.mean(0)) ** 2).sum(0)
        errors[key] = np.sqrt((len(left) - 1) / len(left) * spread)
    return whole, errors


def _validate(maps: Mapping[str, NDArray], kept: NDArray[np.bool_]) -> None:
    for name, one in maps.items():
        if np.shape(one) != (3, kept.size):
            raise ShapeError(
                f"{name}: expected I, Q and U of shape (3, {kept.size}), got {np.shape(one)}; "
                "bring maps and mask to one Nside"
            )
        some = one if np.isfinite(one[0]).any() else one[1:]
        bad = ~np.isfinite(some).all(0) & kept
        if bad.any():
            raise MapError(
                f"{name}: expected I, Q and U where the sky is kept, got {bad.sum()} pixels "
                f"without, the first at RING pixel {bad.argmax()}; mask them"
            )
    if kept.sum() < _FEWEST:
        raise MapError(
            f"expected {_FEWEST} pixels or more to compare, got {kept.sum()}; use a mask that "
            "leaves more of the sky"
        )
