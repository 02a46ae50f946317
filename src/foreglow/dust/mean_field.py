"""The simplest polarised model: all gas, polarised by one field that is the same everywhere."""

import numpy as np
import torch
from numpy.typing import NDArray

from foreglow.errors import ShapeError
from foreglow.maps import healpix as hp
from foreglow.maps.spin2 import N_TENSOR, polarisation_maps


def mean_field(
    column: NDArray, polarisation: NDArray, fitted: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Q and U of gas in a uniform magnetic field, whose direction is fitted.

    What a uniform field shows of itself at each direction is linear in the products of its
    components, of which five count: so they are fitted by least squares.

    Parameters
    ----------
    column : ndarray, shape (n_pix,)
        Gas, RING, any unit; finite where it is fitted.
    polarisation : ndarray, shape (2, n_pix)
        Q and U of the dust, COSMO; finite where it is fitted.
    fitted : ndarray of bool, shape (n_pix,)
        The sky that the fit may see.

    Returns
    -------
    ndarray, shape (2, n_pix)
        In the unit of `polarisation`, wherever `column` is finite, else NaN.

    Raises
    ------
    ShapeError
        If the maps are not of one Nside.

    References
    ----------
    Planck Collaboration Int. XLIV 2016 (arXiv:1604.01029): the mean direction of the local field.
    """
    shapes = np.shape(column), np.shape(polarisation), np.shape(fitted)
    if shapes != (shapes[0], (2, *shapes[0]), shapes[0]) or not hp.isnpixok(np.size(column)):
        raise ShapeError(
            "expected a column (n_pix,), Q and U (2, n_pix) and fitted (n_pix,) of one Nside, got "
            f"{shapes[0]}, {shapes[1]} and {shapes[2]}."
        )
    nside = hp.get_nside(column)
    vector = torch.from_numpy(np.stack(hp.pix2vec(nside, np.arange(np.size(column))), 1))
    patterns = [polarisation_maps(one.expand(len(vector), -1), vector) for one in torch.eye(6)]
    shapes = torch.stack(patterns).numpy() * column  # (6, 2, n_pix)
    # a field that points at random shows nothing: six products, five of which are told apart
    seen = shapes[..., fitted].reshape(N_TENSOR, -1)
    products = np.linalg.lstsq(seen @ seen.T, seen @ polarisation[:, fitted].ravel())[0]
    return np.tensordot(products, shapes, 1).astype(np.float32)
