"""The power law of a pixel once all that has a fixed spectrum is projected out of its bands.

Networks take their features from it, and classification its chi-square. What is projected out is
the same for all pixels, so that the algebra is products of matrices; the pixel is the first axis.
"""

import torch
from torch import Tensor

from foreglow.recognition.models import BETA_MEAN, BETA_SCATTER
from foreglow.sky import seds
from foreglow.sky.bandpass import Bands

BETA_PRECISION = 1 / BETA_SCATTER**2
_LARGEST_STEP = 0.5
INDEX_RANGE = (-4.2, -1.8)


def complement(columns: Tensor) -> Tensor:
    """Orthonormal basis, (band, band - k), of what is orthogonal to k columns (band, k)."""
    basis, _ = torch.linalg.qr(columns, mode="complete")
    return basis[:, columns.shape[1] :]


def log_ratio_of(bands: Bands) -> Tensor:
    """ln(nu / 23 GHz) at the nodes of the bands, (node,)."""
    return torch.log(bands.node_ghz / seds.SYNCHROTRON_PIVOT_GHZ)


def modes_of_powers(bands: Bands, projection: Tensor) -> Tensor:
    """From spectra at nodes to modes, thrice: times 1, ln(nu / 23 GHz) and its square.

    Parameters
    ----------
    bands : Bands
    projection : Tensor, shape (n_mode, n_band)

    Returns
    -------
    Tensor, shape (n_node, 3 n_mode)
    """
    from_nodes = projection.T if bands.weight is None else bands.weight @ projection.T
    # a derivative by beta multiplies by one power more
    powers = log_ratio_of(bands)[:, None] ** torch.arange(3, device=projection.device)
    return (powers[:, :, None] * from_nodes[:, None]).flatten(1)


def derivatives(
    beta: Tensor, log_ratio: Tensor, from_nodes: Tensor, order: int, bend: Tensor | None = None
) -> tuple[Tensor, ...]:
    """The projected power law and its derivatives by the index, each (n, n_mode).

    Parameters
    ----------
    beta : Tensor, shape (n,)
        In the precision that is wanted.
    log_ratio, from_nodes : Tensor
        As the functions of this module make them.
    order : int
        Of the highest derivative, up to 2.
    bend : Tensor, shape (n_node,), optional
        What the logarithm of the spectrum has beside the power law.
    """
    n_mode = from_nodes.shape[1] // 3
    exponent = beta[:, None] * log_ratio.to(beta.dtype)
    if bend is not None:
        exponent += bend.to(beta.dtype)
    wanted = from_nodes[:, : (order + 1) * n_mode].to(beta.dtype)
    return (torch.exp(exponent) @ wanted).split(n_mode, 1)


def fit_index(
    z: Tensor, log_ratio: Tensor, from_nodes: Tensor, steps: int, bend: Tensor | None = None
) -> Tensor:
    """Index (n,) of a power law shared by Q and U, with its Gaussian prior, by Gauss and Newton.

    Parameters
    ----------
    z : Tensor, float64, shape (n, 2, n_mode)
        White.
    log_ratio, from_nodes, bend
        See `derivatives`.
    steps : int
    """
    beta = z.new_tensor([BETA_MEAN])  # of all pixels: the first step costs next to nothing
    rough = z.float()
    for seen in (*[rough] * (steps - 1), z):  # the last step brings all digits
        beta = beta.to(seen.dtype)
        fall, curve, _ = expansion(seen, beta, log_ratio, from_nodes, bend)
        step = fall / curve
        beta = (beta + step.clamp(-_LARGEST_STEP, _LARGEST_STEP)).clamp(*INDEX_RANGE)
    return beta


def expansion(
    z: Tensor, beta: Tensor, log_ratio: Tensor, from_nodes: Tensor, bend: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Half of chi-square with the prior around an index: how steeply it falls, how it bends.

    Parameters are those of `fit_index`, and `beta` (n or 1,).

    Returns
    -------
    fall, curve : Tensor, shape (n,)
        Minus its first derivative by the index, amplitudes free, and Gauss and Newton's second.
    explained : Tensor, shape (n,)
        By how much the power law lowers chi-square, the prior aside.
    """
    template, slope = derivatives(beta, log_ratio, from_nodes, 1, bend)
    power = dot(template, template)
    amplitude = along(z, template) / power[:, None]
    slope = slope - (dot(slope, template) / power)[:, None] * template
    fall = (amplitude * along(z, slope)).sum(1) + BETA_PRECISION * (BETA_MEAN - beta)
    square = (amplitude**2).sum(1)
    return fall, square * dot(slope, slope) + BETA_PRECISION, square * power


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Scalar products (n,) of vectors (n, n_mode)."""
    return (a * b).sum(1)


def along(z: Tensor, template: Tensor) -> Tensor:
    """(n, stokes) scalar products of (n, stokes, mode) with (n or 1, mode)."""
    return z @ template[0] if len(template) == 1 else (z @ template[:, :, None]).squeeze(2)
