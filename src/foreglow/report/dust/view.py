"""Predicted dust, polarised or not, to look at pixel by pixel, and the 21 cm line behind it."""

import numpy as np
import torch
from numpy.typing import NDArray

from foreglow.dust.inputs import DustSky
from foreglow.dust.results import DustMap, PolarisedDustMap
from foreglow.dust.target import NO_UNIT
from foreglow.maps import healpix as hp
from foreglow.report.page.skyview import MAX_NSIDE, Layer, LineSpectra, SkyView, averaged
from foreglow.sky.hydrogen import COLUMN_PER_K_KMS

_UNITS = {"uK_RJ": "µK_RJ", NO_UNIT: ""}
_TOGETHER = 4  # channels of the lines of a polarised view
_POLARISED = "Polarised dust"


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
    layers = (
        Layer("Predicted dust", "Dust", unit, found, "log"),
        Layer("Error of the prediction", "Dust", unit, error, "log", is_error=True),
        Layer("Dust, the target", "Dust", unit, there, "log"),
        Layer("Target less prediction", "Dust", unit, there - found, "asinh"),
        Layer("Target less prediction, in errors", "Dust", "", (there - found) / error, "linear"),
        _hydrogen(sky, line),
    )
    return SkyView(
        name, title, note, layers, LineSpectra(sky.velocity_kms, line),
        shown_from=sky.nside if sky.nside > MAX_NSIDE else None,
    )  # fmt: skip


def polarised_view(
    name: str,
    title: str,
    note: str,
    dust: PolarisedDustMap,
    truth: NDArray,
    sky: DustSky,
) -> SkyView:
    """Predicted Q and U with their errors beside those that are there.

    Parameters
    ----------
    name, title, note : str
        As in `SkyView`.
    dust : PolarisedDustMap
    truth : ndarray, shape (2, n_pix)
        Q and U of the dust, in the unit of the map: RING, COSMO, NaN where masked.
    sky : DustSky
        What it was predicted from, of the same Nside.

    Returns
    -------
    SkyView
        At Nside 64 if the maps are finer, as `dust_view`: Q and U are averaged, and polarised
        intensity and direction are those of the averages. Lines are in channels of four.
    """
    unit = _UNITS.get(dust.unit, dust.unit)
    seen = np.isfinite(dust.q) & np.isfinite(truth).all(0)
    there, found = (
        averaged(np.where(seen, m, np.nan)) for m in (truth, np.stack([dust.q, dust.u]))
    )
    errors = np.where(seen, np.stack([dust.q_std, dust.u_std]), np.nan).astype(np.float64)
    error = np.sqrt(averaged(errors**2))
    layers = []
    for what, (q, u) in (("Predicted", found), ("True", there)):
        name_of, angle = f"{what} polarised intensity", np.degrees(0.5 * np.arctan2(u, q))
        layers.append(Layer(name_of, _POLARISED, unit, np.hypot(q, u), "log", angle_deg=angle))
    for k, letter in enumerate("QU"):
        less = there[k] - found[k]
        layers += [
            Layer(f"Predicted {letter}", letter, unit, found[k], "asinh"),
            Layer(f"Error of {letter}", letter, unit, error[k], "log", is_error=True),
            Layer(f"True {letter}", letter, unit, there[k], "asinh"),
            Layer(f"True {letter} less predicted", letter, unit, less, "asinh"),
            Layer(f"True {letter} less predicted, in errors", letter, "", less / error[k]),
        ]
    line, velocity = mean_line(sky), sky.velocity_kms
    layers.append(_hydrogen(sky, line))
    if len(velocity) % _TOGETHER == 0:  # a page holds two of these skies
        line = line.reshape(-1, _TOGETHER, line.shape[1]).mean(1)
        velocity = velocity.reshape(-1, _TOGETHER).mean(1)
    return SkyView(
        name, title, note, tuple(layers), LineSpectra(velocity, line),
        shown_from=sky.nside if sky.nside > MAX_NSIDE else None,
    )  # fmt: skip


def _hydrogen(sky: DustSky, line: NDArray) -> Layer:
    """The column of all channels."""
    width = np.gradient(sky.velocity_kms) if len(sky.velocity_kms) > 1 else np.ones(1)
    column = COLUMN_PER_K_KMS * np.tensordot(width, line, 1)
    return Layer("Integrated hydrogen", "Hydrogen", "10²⁰ cm⁻²", column.astype(np.float32), "log")


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
