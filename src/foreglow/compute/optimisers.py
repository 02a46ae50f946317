"""Optimisers and how their learning rates go, as Lightning takes them."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_MOMENTUM = 0.95  # of Muon
_LEAST_MOMENT = 1e-8  # of the largest, of inputs; below, float32 has only rounding


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


def muon(
    network: nn.Module, learning_rate: float, total_steps: int, inputs: Tensor | None = None
) -> dict[str, Any]:
    """Muon on the matrices of hidden layers, Adam at a tenth of its rate on all other parameters.

    The rates rise over a twentieth of the steps, then fall as a cosine. The last layer is
    `output`. Where the first layer sees `inputs`, a sample of shape (n, n_input), it learns as if
    they were white.
    """
    hidden, others = [], []
    for name, parameter in network.named_parameters():
        of_hidden = parameter.ndim == 2 and not name.startswith("output.")
        (hidden if of_hidden else others).append(parameter)
    rates = learning_rate, 0.1 * learning_rate
    white = None if inputs is None else whitening(inputs)
    optimiser = MuonAndAdam(hidden, others, *rates, white)
    return _annealed(optimiser, total_steps, rise=0.05)


class MuonAndAdam(torch.optim.Optimizer):
    """Muon on matrices and Adam on other parameters.

    The orthogonal steps are found in float32: PyTorch's own Muon does it in bfloat16, which on
    processors takes three times as long for matrices of these sizes. The steps of the first
    matrix are orthogonal as weights of its inputs made white, so that it learns from what hardly
    varies as soon as from what varies most.

    Parameters
    ----------
    matrices, others : list of Parameter
    learning_rate, learning_rate_of_others : float
    whitening : Tensor, optional
        Of the inputs of the first matrix, shape (n_input, n_input), see `whitening`.

    References
    ----------
    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        others: list[nn.Parameter],
        learning_rate: float,
        learning_rate_of_others: float,
        whitening: Tensor | None = None,
    ):
        self.whitening = whitening
        self.adam = torch.optim.Adam(others, lr=learning_rate_of_others, fused=True)
        groups = [*self.adam.param_groups, {"params": matrices, "lr": learning_rate}]
        super().__init__(groups, {})
        self._share()

    def _share(self) -> None:
        """Adam sees its group and the state of this one."""
        self.adam.param_groups, self.adam.state = self.param_groups[:1], self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.adam.step()
        matrices = self.param_groups[1]
        for place, matrix in enumerate(matrices["params"]):
            state = self.state[matrix]
            if not state:
                state["momentum"] = torch.zeros_like(matrix)
            white = None if place else self.whitening
            gradient = matrix.grad if white is None else matrix.grad @ white
            momentum = state["momentum"].lerp_(gradient, 1 - _MOMENTUM)
            step = orthogonal(gradient.lerp(momentum, _MOMENTUM))  # Nesterov's
            step = step if white is None else step @ white
            rows_by_columns = matrix.shape[0] / matrix.shape[1]
            matrix.add_(step, alpha=-matrices["lr"] * max(1.0, rows_by_columns) ** 0.5)
        return loss


def whitening(inputs: Tensor) -> Tensor:
    """The inverse square root of the second moments of inputs of shape (n, n_input), symmetric."""
    x = inputs.double()
    moment, directions = torch.linalg.eigh(x.mT @ x / len(x))
    root = moment.clamp_min(_LEAST_MOMENT * moment.max()).rsqrt()
    return ((directions * root) @ directions.mT).to(inputs.dtype)


def orthogonal(matrix: Tensor) -> Tensor:
    """Nearly U V of a matrix U S V, by five steps of a quintic Newton-Schulz iteration.

    Singular values come to lie between 0.7 and 1.2, which serves as well as 1.
    """
    x = matrix / matrix.norm().clamp_min(1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.mT if tall else x
    for _ in range(5):
        square = x @ x.mT
        x = torch.addmm(
            x, torch.addmm(square, square, square, beta=-4.7750, alpha=2.0315), x, beta=3.4445
        )
    return x.mT if tall else x


def _annealed(optimiser: torch.optim.Optimizer, total_steps: int, rise: float) -> dict[str, Any]:
    """A linear rise over a part of the steps, and a cosine to zero."""
    rising = max(1.0, rise * total_steps)

    def factor(step: int) -> float:
        fall = 0.5 * (1 + math.cos(math.pi * min(step / total_steps, 1.0)))
        return min((step + 1) / rising, 1.0) * fall

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
