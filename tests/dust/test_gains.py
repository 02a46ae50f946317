"""Channels times gains, added up: values and gradients."""

import torch

from foreglow.dust.gains import amounts
from foreglow.dust.orientation import observed

GENERATOR = torch.Generator().manual_seed(0)


def test_amounts_and_their_gradients():
    log_gain = torch.randn(2, 3, 4, 5, generator=GENERATOR, dtype=torch.float64, requires_grad=True)
    brightness = torch.randn(2, 3, 5, generator=GENERATOR, dtype=torch.float64)
    expected = (log_gain.exp() * brightness.unsqueeze(-2)).sum(-1)
    torch.testing.assert_close(amounts(log_gain, brightness), expected)
    assert torch.autograd.gradcheck(lambda one: amounts(one, brightness), (log_gain,))


def test_a_pixel_counts_as_seen_by_its_channels_and_not_by_their_sum():
    inputs = torch.zeros(1, 3, 4, 4)
    inputs[0, :, 0, 0] = torch.tensor([1.0, -1.0, 0.0])
    inputs[0, :, 3, 2] = 2.0
    inputs[0, :, 1, 3] = 2.0  # where the mask has nothing
    mask = torch.tensor([[[True, False], [True, True]]])
    seen, share, fine = observed(inputs, mask)
    assert seen.nonzero().tolist() == [[0, 0, 0], [0, 3, 2]]
    assert share.flatten().tolist() == [0.25, 1, 1, 0.25]
    assert fine == 2
