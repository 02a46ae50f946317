"""Sectors of a region of which each member of an ensemble has not seen one: honest errors.

A network knows the sky that it was trained on, the slow changes of dust per gas across it too, and
its residuals there are too small by half for any other sky. So each member is trained with another
sector masked, and errors are measured where its member is a stranger.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from foreglow.dust.cutouts import SkyCube
from foreglow.maps import healpix as hp
from foreglow.maps.hemispheres import Region

LEAST_FOLDS = 4  # so that a member of a pair still sees three quarters of the region


def held_out(sky: SkyCube, region: Region, member: int, n_member: int) -> SkyCube:
    """The sky that a member is trained on: its own sector of the region is masked.

    Parameters
    ----------
    sky : SkyCube
    region : Region
        Of the training.
    member, n_member : int
        A single network sees all.

    Returns
    -------
    SkyCube
        Inputs are shared with `sky` and are not zero in the sector; target and mask are.
    """
    if n_member == 1:
        return sky
    out = torch.from_numpy(held_out_member(sky.nside, region, n_member, nest=True) == member)
    kept = torch.where(out.to(sky.target.device).unsqueeze(1), 0.0, sky.target)
    return SkyCube(sky.inputs, kept)


def held_out_member(
    nside: int, region: Region, n_member: int, nest: bool = False
) -> NDArray[np.int64]:
    """Which member has not seen a pixel, -1 where each has: shape (n_pix,).

    Sectors are equal angles about the region's axis, one a member or four if those are more. A
    single network has no sector.
    """
    n_pix = hp.nside2npix(nside)
    if n_member == 1:
        return np.full(n_pix, -1)
    vector = np.stack(hp.pix2vec(nside, np.arange(n_pix), nest=nest), -1)
    axis = np.array(region.axis)
    # any direction off the axis will do to count angles from: the pole, or else the centre
    aside = np.array([0.0, 0.0, 1.0]) if abs(axis[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
    first = np.cross(axis, aside)
    angle = np.arctan2(vector @ np.cross(axis, first), vector @ first) / (2 * math.pi) % 1.0
    n_sector = max(n_member, LEAST_FOLDS)
    # a hair below zero rounds to a whole turn
    sector = np.floor(angle * n_sector).astype(np.int64) % n_sector
    return np.where(sector < n_member, sector, -1)
