"""A polarised model, or a map that it made, judged on the sky that its training did not reach."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from foreglow.dust import stitch as stitching
from foreglow.dust.beside import read_mask
from foreglow.dust.cutouts import SkyCube
from foreglow.dust.model import DustModel
from foreglow.dust.polarised_questions import question_polarisation
from foreglow.dust.polarised_scores import gradient_predictor
from foreglow.dust.polarised_target import read_polarised
from foreglow.dust.predict import predict_map
from foreglow.dust.results import PolarisedDustMap
from foreglow.dust.sphere_scores import SphereScores, score_sphere
from foreglow.errors import MapError
from foreglow.maps import healpix as hp
from foreglow.maps.conventions import MapWarning
from foreglow.maps.gnomonic import Grid, Pointings
from foreglow.maps.hemispheres import REGIONS, reached
from foreglow.maps.io import open_polarisation_map
from foreglow.maps.regions import distance_to

CENTRES_NSIDE = 8  # of cutouts whose blend is judged


@dataclass(frozen=True)
class _Prediction:
    """What a dust map is to be like."""

    nside: int
    name: str = "of the prediction"


def compare_polarisation(
    predicted: PolarisedDustMap | str | Path | ArrayLike,
    dust: Any,
    mask: Any = None,
    *,
    trained: str | None = None,
    dust_unit: str | None = None,
    nest: bool = False,
    frame: str | None = None,
    convention: str | None = None,
    ell_edges: Sequence[int] | None = None,
) -> SphereScores:
    """Compare a predicted map of polarised dust with a map of the dust, on the sphere.

    Parameters
    ----------
    predicted : PolarisedDustMap, path or array_like, shape (2 or 3, n_pix)
        Of `predict_dust`, the FITS file of `foreglow dust predict`, or Q, U or I, Q, U, COSMO and
        Galactic; NaN where nothing is predicted.
    dust : path or array_like, shape (2 or 3, n_pix)
        As `foreglow.dust.polarised_target.read_polarised` takes it; of the same Nside.
    mask : path or array_like, shape (n_pix,), optional
        The sky counts where it is above zero.
    trained : str, optional
        Region in which the model was trained on this sky, one of `REGIONS`: what its cutouts
        reached does not count. Without it a model is judged by what it may know by heart.
    dust_unit, nest, frame, convention
        Of `dust` where it states none; `nest` also of an array as `predicted` or `mask`.
    ell_edges : sequence of int, optional
        See `foreglow.dust.sphere_scores.default_edges`.

    Returns
    -------
    SphereScores

    Raises
    ------
    MapError
        If a map cannot be read, says another thing than was said of it, or leaves too little sky;
        or the region is unknown.
    ShapeError
        If arrays are of another Nside.

    Warns
    -----
    MapWarning
        If signs, frame or ordering of the dust's Q and U do not look like those of dust.
    """
    maps = _predicted(predicted, nest)
    like = _Prediction(hp.npix2nside(maps.shape[1]))
    read = read_polarised(dust, dust_unit, like, nest, convention, frame)
    intensity = np.full(maps.shape[1], np.nan) if read.intensity is None else read.intensity
    kept = np.isfinite(maps[1:]).all(0) & np.isfinite(read.qu).all(0)
    for one in (maps[0], intensity):  # a map may have no I at all
        kept &= np.isfinite(one) | ~np.isfinite(one).any()
    if mask is not None:
        kept &= read_mask(mask, like, nest)
    kept &= ~trained_sky(trained, Grid(), like.nside)
    question_polarisation(
        read.name, read.qu, maps[0] if np.isfinite(maps[0]).any() else None, kept, unit=read.unit
    )
    target = np.stack([intensity, *read.qu])
    return score_sphere({"predicted": maps}, {"dust": target}, kept, ell_edges)["predicted", "dust"]


def trained_sky(region: str | None, grid: Grid, nside: int) -> NDArray[np.bool_]:
    """What cutouts of a region may have read, (n_pix,), RING: nothing, of None."""
    if region is None:
        return np.zeros(hp.nside2npix(nside), bool)
    if region not in REGIONS:
        raise MapError(f"expected trained= as one of {', '.join(REGIONS)}, got {region!r}.")
    return reached(REGIONS[region], grid, nside, "nearest")


def sphere_scores(
    models: Mapping[str, DustModel],
    skies: Mapping[str, SkyCube],
    kept: NDArray[np.bool_],
) -> dict[tuple[str, str], SphereScores]:
    """Blend what models, and gradients of the integrated map, say of a sky, and judge the maps.

    Parameters
    ----------
    models : mapping of str to DustModel
        Of one grid.
    skies : mapping of str to SkyCube
        The same channels beside dust by its name, with the models' channels, on their device.
    kept : ndarray of bool, shape (n_pix,)
        RING; where maps are judged, if the mask leaves it.

    Returns
    -------
    dict of (model, dust) to SphereScores
        "gradients" is the first model.

    Raises
    ------
    MapError
        If too little sky is left.
    """
    cube, first = next(iter(skies.values())), next(iter(models.values()))
    targets = {name: stitching.target_maps(sky) for name, sky in skies.items()}
    order = hp.ring2nest(cube.nside, np.arange(kept.size))
    kept = kept & (cube.target[:, 1].cpu().numpy()[order] > 0)
    where = centres_around(kept, first.grid, CENTRES_NSIDE)
    blend = stitching.stitch(
        gradient_predictor, cube, first.grid, where, fine=first.fine, polarised=True
    )
    maps = {"gradients": blend.mean}
    for name, model in models.items():
        found = predict_map(model, cube, where)
        assert isinstance(found, PolarisedDustMap)
        maps[name] = np.stack([found.mean, found.q, found.u])
    for one in maps.values():
        kept &= np.isfinite(one).all(0)
    return score_sphere(maps, targets, kept)


def centres_around(
    kept: NDArray[np.bool_], grid: Grid, nside: int, turn_deg: float = 0.0
) -> Pointings:
    """The centres of the cutouts that reach some sky, see `foreglow.dust.stitch.centres`."""
    where = stitching.centres(nside, turn_deg)
    coarse = np.zeros(hp.nside2npix(16), bool)
    coarse[hp.vec2pix(16, *hp.pix2vec(hp.npix2nside(kept.size), np.flatnonzero(kept)))] = True
    far = np.degrees(distance_to(coarse)) - 2 * hp.max_pixrad(16, degrees=True)
    vector = hp.dir2vec(where.lon_deg.numpy(), where.lat_deg.numpy(), lonlat=True)
    return where[torch.from_numpy(np.flatnonzero(far[hp.vec2pix(16, *vector)] < grid.reach_deg))]


def _predicted(predicted: Any, nest: bool) -> NDArray[np.floating]:
    """I, Q and U, (3, n_pix), RING, COSMO; I of NaN where there is none."""
    if isinstance(predicted, PolarisedDustMap):
        return np.stack([predicted.mean, predicted.q, predicted.u])
    if isinstance(predicted, str | Path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MapWarning)  # it is read in a moment
            nside = open_polarisation_map(predicted).nside
        read = read_polarised(predicted, None, _Prediction(nside), False)
        none = np.full(read.qu.shape[1], np.nan)
        return np.stack([none if read.intensity is None else read.intensity, *read.qu])
    maps = np.asarray(predicted, dtype=float)
    if maps.ndim != 2 or len(maps) not in (2, 3) or not hp.isnpixok(maps.shape[1]):
        raise MapError(
            f"predicted=: expected I, Q and U of shape (3, n_pix), or Q and U, got {maps.shape}; "
            "give a map of predict_dust, its file or such an array"
        )
    maps = np.where(np.isclose(maps, hp.UNSEEN, rtol=1e-4), np.nan, maps)
    if nest:
        nside = hp.npix2nside(maps.shape[1])
        maps = maps[:, hp.ring2nest(nside, np.arange(maps.shape[1]))]
    return maps if len(maps) == 3 else np.concatenate([np.full_like(maps[:1], np.nan), maps])
