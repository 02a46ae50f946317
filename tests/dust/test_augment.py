"""Changes of training cutouts."""

import pytest
import torch

from foreglow.dust.augment import shift_velocity
from foreglow.dust.plan import DustPlan


def test_lines_are_moved_each_by_its_own_step():
    inputs = torch.arange(24.0).reshape(3, 4, 1, 2).to(memory_format=torch.channels_last)
    before = inputs.clone()
    shift_velocity(inputs, torch.tensor([1, 0, -2]))
    assert torch.equal(inputs[0, 1:], before[0, :-1])
    assert torch.equal(inputs[0, 0], before[0, -1])  # what leaves comes in at the other end
    assert torch.equal(inputs[1], before[1])
    assert torch.equal(inputs[2, :2], before[2, 2:])


@pytest.mark.parametrize(
    ("plan", "shift"),
    [
        (DustPlan(), 5.0),
        (DustPlan("unet_zhang2019"), 0.0),
        (DustPlan(shift_kms=0.0), 0.0),
        (DustPlan("unet_zhang2019", shift_kms=2.0), 2.0),
    ],
)
def test_which_networks_have_them_moved(plan, shift):
    assert plan.shift == shift
