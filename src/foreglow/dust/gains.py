"""Amounts of gas by groups: channels times gains, added up in few passes."""

from typing import Any

import torch
from torch import Tensor


def amounts(log_gain: Tensor, brightness: Tensor) -> Tensor:
    """Sums over channels of exp(log_gain) times brightness.

    Parameters
    ----------
    log_gain : Tensor, shape (..., group, channel)
    brightness : Tensor, shape (..., channel)
        Has no gradient.

    Returns
    -------
    Tensor, shape (..., group)
    """
    return _Amounts.apply(log_gain, brightness)  # pyright: ignore[reportReturnType]


class _Amounts(torch.autograd.Function):
    """What is added up is its own derivative: kept, it is all that the way back needs."""

    @staticmethod
    def forward(ctx: Any, log_gain: Tensor, brightness: Tensor) -> Tensor:
        parts = log_gain.exp().mul_(brightness.unsqueeze(-2))
        ctx.save_for_backward(parts)
        return parts.sum(-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (parts,), (gradient,) = ctx.saved_tensors, gradients
        return gradient.unsqueeze(-1) * parts, None
