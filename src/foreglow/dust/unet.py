"""The U-Net inside the dust networks, and the steps that it is made of."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from foreglow.compute.random import random_bytes

LEVELS = 4  # times that the U-Nets halve a map


class Dropout(nn.Dropout):
    """PyTorch's dropout, faster on the processor.

    There PyTorch draws a double for each number, which took a fifth of a step of the paper's
    network; 16 bits decide as well, and are drawn four at a time.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The same tensor, in training with some of it zero and the rest made larger."""
        if not self.training or input.device.type != "cpu":
            return super().forward(input)
        drawn = random_bytes(2 * input.numel(), input.device).view(torch.int16)
        strides = torch.empty_like(input, device="meta").stride()  # channels last stay last
        kept = drawn.as_strided(input.shape, strides) >= round(self.p * 65536) - 32768
        return input * kept.to(input.dtype).div_(1 - self.p)


class UNet(nn.Module):
    """Four levels down and up again, each with two steps, joined by what was there on the way down.

    Parameters
    ----------
    n_in : int
    width : int
        Channels of the first level and of the output.
    step : callable
        `step(n_in, n_out)` -> Module, a 3 x 3 convolution and what goes with it.
    """

    def __init__(self, n_in: int, width: int, step: Callable[[int, int], nn.Module]):
        super().__init__()
        widths = [width * 2**level for level in range(LEVELS + 1)]
        sizes = list(zip([n_in, *widths[:-1]], widths, strict=True))
        self.down = nn.ModuleList(nn.Sequential(step(a, b), step(b, b)) for a, b in sizes)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in sizes[:0:-1])
        self.up = nn.ModuleList(nn.Sequential(step(2 * a, a), step(a, a)) for a, _ in sizes[:0:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Maps (batch, width, n, n) from maps (batch, n_in, n, n), n a multiple of 16."""
        passed = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else nn.functional.max_pool2d(x, 2))
            passed.append(x)
        passed.pop()  # the lowest goes up itself
        for grow, block in zip(self.grow, self.up, strict=True):
            x = block(torch.cat([passed.pop(), grow(x)], 1))
        return x


def paper_step(n_in: int, n_out: int) -> nn.Module:
    """That of Zhang et al. 2019: convolution, batch norm, ReLU, dropout."""
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, padding=1),
        nn.BatchNorm2d(n_out),
        nn.ReLU(),
        Dropout(0.3),
    )


def gelu_step(n_in: int, n_out: int) -> nn.Module:
    """Ours: convolution, group norm, GELU."""
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, padding=1, bias=False),
        nn.GroupNorm(max(1, n_out // 8), n_out),
        nn.GELU(),
    )
