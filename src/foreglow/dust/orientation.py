"""Which way structures of the gas run: structure tensors of cutouts, as spin 2.

Filaments of hydrogen lie along the magnetic field, and grains emit across it: so brightness
changes fastest in the direction in which the dust is polarised. The square of a gradient,
(d_row + i d_column)^2, is of spin 2 and points there; averaged over some degrees and divided by the
average of its size it is a direction and how clear it is, from 0 to 1.

References
----------
Bigun & Granlund 1987 for the structure tensor; Hu, Yuen & Lazarian 2019 (arXiv:1910.05637) and
Clark & Hensley 2019 (arXiv:1909.11673) for gradients and filaments of HI along the field.
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d, pad

SCALES = 3  # each twice as wide as the one before
WINDOWS = 6  # maps of which gradients are taken: all gas, and five ranges of velocity
_FAINT = 1e-4  # of gradients of logarithms, squared: less is noise


def windows(velocity: Tensor) -> Tensor:
    """Weights (window, channel) of maps of the gas: all of it, then ranges of velocity.

    Parameters
    ----------
    velocity : Tensor, shape (channel,)
        From -1 to 1.
    """
    wide = 2 / (WINDOWS - 1)
    middles = -1 + wide * (torch.arange(WINDOWS - 1) + 0.5)
    ranges = torch.exp(-0.5 * ((velocity - middles.unsqueeze(1)) / (0.5 * wide)) ** 2)
    return torch.cat([torch.ones_like(velocity).unsqueeze(0), ranges])


def orientations(logarithms: Tensor, seen: Tensor, fine: int) -> Tensor:
    """Directions of the steepest change, and how clear they are, at several scales.

    Parameters
    ----------
    logarithms : Tensor, shape (batch, map, fine n, fine n)
        Of the brightness: contrasts count, not how bright the sky is.
    seen : Tensor of bool, shape (batch, fine n, fine n)
        Where it is False, and on its border, nothing is looked at.
    fine : int
        So many pixels a side become one.

    Returns
    -------
    Tensor, shape (batch, 2, map, scale, n, n)
        As Q and U in the frame of the cutout, of size 0 to 1. Averages are over about 3, 6 and 12
        of n pixels.
    """
    tensor = avg_pool2d(_squared_gradients(logarithms, seen), fine)
    tensor = tensor.contiguous(memory_format=torch.channels_last)  # averages take a sixth of it so
    size = tensor.shape[2:]
    n_map, found = logarithms.shape[1], []
    for scale in range(SCALES):
        if scale:
            tensor = avg_pool2d(tensor, 2)
        tensor = avg_pool2d(avg_pool2d(tensor, 3, 1, 1), 3, 1, 1)
        q, u, trace = tensor.split(n_map, 1)
        here = torch.cat([q, u], 1) / (trace + _FAINT).repeat(1, 2, 1, 1)
        if scale:
            here = interpolate(here, size=size, mode="bilinear")
        found.append(here.unflatten(1, (2, n_map)))
    return torch.stack(found, 3)


def gradient_polarisation(inputs: Tensor, mask: Tensor) -> Tensor:
    """The integrated map, polarised as its gradients point: the model by which others are judged.

    Parameters
    ----------
    inputs : Tensor, shape (batch, channel, fine n, fine n)
    mask : Tensor of bool, shape (batch, n, n)

    Returns
    -------
    Tensor, shape (batch, 2, n, n)
        Q and U in the unit of the inputs, directions averaged over about 12 pixels; correlations
        do not see its scale.

    References
    ----------
    Hu, Yuen & Lazarian 2019, by pixel in place of blocks, and of the integrated map in place of
    each channel, which on the mock follows the dust better.
    """
    seen, share, fine = observed(inputs, mask)
    total = inputs.sum(1, keepdim=True)
    inside = seen.unsqueeze(1)  # each cutout has a floor of its own, whatever stands beside it
    floor = (total * inside).sum((2, 3), keepdim=True) / inside.sum((2, 3), keepdim=True).clamp(1)
    floor = (0.02 * floor).clamp(min=torch.finfo(floor.dtype).tiny)
    pointing = orientations((total.clamp(min=0) + floor).log(), seen, fine)[:, :, 0, -1]
    return pointing * avg_pool2d(total, fine) / share


def observed(inputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, int]:
    """Where inputs count: they are zero where masked, on finer pixels than the mask's, too.

    Parameters
    ----------
    inputs : Tensor, shape (batch, channel, fine n, fine n)
    mask : Tensor of bool, shape (batch, n, n)

    Returns
    -------
    seen : Tensor of bool, shape (batch, fine n, fine n)
    share : Tensor, shape (batch, 1, n, n)
        How much of each pixel of the mask is seen; 1 where that is nothing.
    fine : int
    """
    fine = inputs.shape[-1] // mask.shape[-1]
    seen = finer(mask, fine)
    # a sum takes a thirtieth of the time of looking at each channel; one of zero is looked into
    dark = (inputs.sum(1) == 0) & seen
    where = dark.nonzero(as_tuple=True)
    spectra = inputs.permute(0, 2, 3, 1)
    seen[where] = (spectra[where] != 0).any(-1)
    share = avg_pool2d(seen.unsqueeze(1).to(inputs.dtype), fine)
    return seen, torch.where(share > 0, share, 1.0), fine


def finer(mask: Tensor, fine: int) -> Tensor:
    """A mask (batch, n, n) on pixels of which so many lie along a side of each of its own."""
    return mask.repeat_interleave(fine, 1).repeat_interleave(fine, 2) if fine > 1 else mask


def _squared_gradients(maps: Tensor, mask: Tensor) -> Tensor:
    """The square of the gradient as Q and U, and its size, (batch, 3 map, n, n); 0 at borders."""
    row = maps[:, :, 2:, 1:-1] - maps[:, :, :-2, 1:-1]
    column = maps[:, :, 1:-1, 2:] - maps[:, :, 1:-1, :-2]
    inside = 1 - max_pool2d(1 - mask.unsqueeze(1).to(maps.dtype), 3, 1)
    squares = torch.cat([row**2 - column**2, 2 * row * column, row**2 + column**2], 1)
    return pad(squares * inside, (1, 1, 1, 1))
