"""Optimisers and how their learning rates go, as Lightning takes them."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from foreglow.errors import RunError


def adamw(parameters: Any, learning_rate: float, total_steps: int) -> dict[str, Any]:
    """AdamW; the learning rate rises over a tenth of the steps, then falls as a cosine."""
    optimiser = torch.optim.AdamW(
        parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=1e-3
    )
    return _annealed(optimiser, total_steps, rise=0.1)


def annealed_adam(parameters: Any, learning_rate: float, total_steps: int) -> dict[str, Any]:
    """Adam; the learning rate rises over a twentieth of the steps, then falls as a cosine."""
    return _annealed(torch.optim.Adam(parameters, lr=learning_rate), total_steps, rise=0.05)


def dropping_adam(
    parameters: Any, learning_rate: float, total_steps: int, parts: int
) -> dict[str, Any]:
    """Adam; each of so many parts of the steps has a tenth of the rate of the one before."""
    adam = torch.optim.Adam(parameters, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.StepLR(adam, max(1, total_steps // parts), 0.1)
    return {"optimizer": adam, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def muon(network: nn.Module, learning_rate: float, total_steps: int) -> dict[str, Any]:
    """Muon on the weights of hidden layers, Adam at a tenth of its rate on all other parameters.

    The rates rise over a twentieth of the steps, then fall as a cosine. For dense networks whose
    last layer is `output`.

    Raises
    ------
    RunError
        If PyTorch has no Muon, as before 2.9.

    References
    ----------
    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon.
    """
    if not hasattr(torch.optim, "Muon"):
        raise RunError(
            f"expected PyTorch 2.9 or later, which has Muon, got {torch.__version__}; install it, "
            "or give another optimiser in the plan."
        )
    hidden, others = [], []
    for name, parameter in network.named_parameters():
        of_hidden = parameter.ndim == 2 and not name.startswith("output.")
        (hidden if of_hidden else others).append(parameter)
    optimiser = MuonAndAdam(hidden, others, learning_rate, 0.1 * learning_rate)
    return _annealed(optimiser, total_steps, rise=0.05)


class MuonAndAdam(torch.optim.Optimizer):
    """Muon on matrices and Adam on other parameters, as one optimiser of two groups.

    Parameters
    ----------
    matrices, others : iterable of Parameter
    learning_rate, learning_rate_of_others : float
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        others: Iterable[Tensor],
        learning_rate: float,
        learning_rate_of_others: float,
    ):
        self.parts = (
            torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.0),
            torch.optim.Adam(others, lr=learning_rate_of_others),
        )
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Both see the groups and the state of this one."""
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        super().load_state_dict(state_dict)
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss


def _annealed(optimiser: torch.optim.Optimizer, total_steps: int, rise: float) -> dict[str, Any]:
    """A linear rise over a part of the steps, and a cosine to zero."""
    rising = max(1.0, rise * total_steps)

    def factor(step: int) -> float:
        fall = 0.5 * (1 + math.cos(math.pi * min(step / total_steps, 1.0)))
        return min((step + 1) / rising, 1.0) * fall

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
