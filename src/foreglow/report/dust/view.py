"""Predicted dust to look at pixel by pixel: the map, its error, and the 21 cm line behind it."""

import numpy as np
import torch
from numpy.typing import NDArray

from foreglow.dust.inputs import DustSky
from foreglow.dust.results import DustMap
from foreglow.dust.target import NO_UNIT
from foreglow.maps import healpix as hp
from foreglow.report.page.skyview import MAX_NSIDE, Layer, LineSpectra, SkyView, averaged
from foreglow.sky.hydrogen import COLUMN_PER_K_KMS

_UNITS = {"uK_RJ": "µK_RJ", NO_UNIT: ""}


def dust_view(
    name: str, title: str, note: str, dust: DustMap, target: NDArray, sky: DustSky
) -> SkyView:
    """A map of predicted dust beside the dust that is there.

    Parameters
    ----------
    name, title, note : str
        As in `SkyView`.
    dust : DustMap
    target : ndarray, shape (n_pix,)
        The dust, in the unit of the map: RING, NaN where masked.
    sky : DustSky
        What it was predicted from, of the same Nside.

    Returns
    -------
    SkyView
        At Nside 64 if the maps are finer: means over their pixels. The error is the rms of theirs:
        neighbours have their errors in common, so that it does not fall with their number.
    """
    unit = _UNITS.get(dust.unit, dust.unit)
    seen = np.isfinite(dust.mean) & np.isfinite(target)
    there, found = (averaged(np.where(seen, m, np.nan)) for m in (target, dust.mean))
    error = np.sqrt(averaged(np.where(seen, dust.std, np.nan).astype(np.float64) ** 2))
    line = mean_line(sky)
    width = np.gradient(sky.velocity_kms) if len(sky.velocity_kms) > 1 else np.ones(1)
    column = COLUMN_PER_K_KMS * np.tensordot(width, line, 1)
    layers = (
        Layer("Predicted dust", "Dust", unit, found, "log"),
        Layer("Error of the prediction", "Dust", unit, error, "log", is_error=True),
        Layer("Dust, the target", "Dust", unit, there, "log"),
        Layer("Target less prediction", "Dust", unit, there - found, "asinh"),
        Layer("Target less prediction, in errors", "Dust", "", (there - found) / error, "linear"),
        Layer("Integrated hydrogen", "Hydrogen", "10²⁰ cm⁻²", column.astype(np.float32), "log"),
    )
    return SkyView(
        name, title, note, layers, LineSpectra(sky.velocity_kms, line),
        shown_from=sky.nside if sky.nside > MAX_NSIDE else None,
    )  # fmt: skip


def mean_line(sky: DustSky, nside: int = MAX_NSIDE) -> NDArray[np.float16]:
    """The 21 cm line, averaged over the open pixels of a coarser map.

    Returns
    -------
    ndarray, float16, shape (n_channel, n_pix)
        K, RING; NaN where all is masked. As it is if it is that coarse already.
    """
    shown = min(nside, sky.nside)
    inputs, seen = sky.cube.inputs, sky.cube.target[:, 1]
    groups = 12 * shown**2
    # NESTED: the pixels of a coarser one follow each other, and masked ones are zero
    total = inputs.reshape(groups, -1, inputs.shape[1]).sum(1)
    count = seen.reshape(groups, -1).sum(1)
    mean = torch.where(count[:, None] > 0, total / count[:, None], torch.nan)
    return np.ascontiguousarray(mean.half().cpu().numpy()[hp.ring2nest(shown, np.arange(groups))].T)
