"""Changes of training cutouts after which the dust is as it was."""

import torch
from torch import Tensor


def shift_velocity(inputs: Tensor, channels: Tensor) -> None:
    """Move the lines of each cutout along velocity by a number of channels, in place.

    Dust shines by how much gas there is and how opaque its lines are, hardly by how fast it moves:
    a network that meets each line at several velocities cannot know a part of the sky again by
    them. What leaves at one end of the range comes in at the other, mostly noise.

    Parameters
    ----------
    inputs : Tensor, shape (batch, channel, n, n)
    channels : Tensor of int, shape (batch,)
        Of either sign.
    """
    # as they lie in memory, the channels of a pixel side by side: along another axis of it a roll
    # takes six times as long
    spectra = inputs.permute(0, 2, 3, 1)
    for cutout, step in zip(spectra, channels.tolist(), strict=True):
        if step:
            cutout.copy_(torch.cat([cutout[..., -step:], cutout[..., :-step]], -1))
