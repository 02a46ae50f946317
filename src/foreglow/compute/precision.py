"""Arithmetic of the layers in training: float32, or shorter numbers where a card is quicker so.

Only layers of networks change. Simulators, features, gains and losses are float32 always, and so
are the weights, their gradients and predictions.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch

from foreglow.errors import RunError

PRECISIONS = ("tf32", "float32", "bf16")

_bf16: ContextVar[bool] = ContextVar("bf16", default=False)


def validate_precision(precision: str) -> None:
    """Raise a RunError unless it is one of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise RunError(f"expected precision {', '.join(PRECISIONS)}, got {precision!r}.")


@contextlib.contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """The arithmetic of layers for as long as the context lasts.

    Parameters
    ----------
    precision : str
        "tf32": as PyTorch has it, float32 but for the products of convolutions on NVIDIA cards,
        of 10 bits. "float32": there too. "bf16": products of layers of 8 bits, on any device.

    Raises
    ------
    RunError
        If there is no such precision.
    """
    validate_precision(precision)
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = precision != "float32"
    token = _bf16.set(precision == "bf16")
    try:
        yield
    finally:
        _bf16.reset(token)
        torch.backends.cudnn.allow_tf32 = before


def layers(device: torch.device) -> torch.autocast:
    """The context of a network's layers; what comes out may be bfloat16."""
    return torch.autocast(device.type, torch.bfloat16, enabled=_bf16.get())
