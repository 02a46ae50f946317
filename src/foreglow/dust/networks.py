"""Networks from cutouts of the HI cube to the dust: the paper's U-Net, and ours.

Both take inputs in K and give the dust in the unit of their target: what they need to know of the
scales of either they measure once, in `standardise`, and keep with their weights.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from foreglow.compute.precision import layers
from foreglow.dust.loss import PAPER_WEIGHT
from foreglow.dust.spectra import Bands, mode_correlation
from foreglow.errors import ModelError, ShapeError

Inputs = Literal["channels", "moments", "integrated"]
INPUTS: tuple[Inputs, ...] = ("channels", "moments", "integrated")
MOMENTS = 4  # sums of v^m I for m below this
LEVELS = 4  # times that the U-Nets halve a map
_SOFT = 0.02  # of the rms of the inputs: fainter ones are seen as they are, brighter ones by log
_STEM = 64  # numbers that ours makes of each pixel's spectrum


class DustNetwork(nn.Module):
    """What both networks share: the inputs that they see, and the scale of the target.

    Parameters
    ----------
    inputs : str
        "channels": as they are; "moments": sums of v^m I_v with v from -1 to 1 over the range, m
        from 0 to 3; "integrated": their sum.
    velocity_kms : sequence of float
        Centres of the channels.
    """

    velocity: Tensor
    unit: Tensor
    step_kms: float  # from channel to channel

    def __init__(self, inputs: Inputs, velocity_kms: Sequence[float] | np.ndarray):
        super().__init__()
        self.inputs: Inputs = inputs
        velocity = torch.as_tensor(np.asarray(velocity_kms), dtype=torch.float32)
        self.step_kms = float(velocity[-1] - velocity[0]) / (len(velocity) - 1)
        middle, half = (velocity[-1] + velocity[0]) / 2, (velocity[-1] - velocity[0]) / 2
        self.register_buffer("velocity", (velocity - middle) / half, persistent=False)
        self.register_buffer("unit", torch.ones(()))

    @property
    def n_input(self) -> int:
        """Maps that the network sees."""
        return {"channels": len(self.velocity), "moments": MOMENTS, "integrated": 1}[self.inputs]

    def forward(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """The dust; what stands where the mask is False means nothing.

        Parameters
        ----------
        inputs : Tensor, shape (batch, channel, n, n)
            K, finite; what is masked is not looked at. n is a multiple of 16.
        mask : Tensor of bool, shape (batch, n, n)
            True where the sky counts.

        Returns
        -------
        Tensor, shape (batch, n, n), unit of the target
        """
        raise NotImplementedError

    def standardise(self, inputs: Tensor, target: Tensor, mask: Tensor, bands: Bands) -> None:
        """Measure the scales of inputs and target, and start from them.

        The loss counts absolute differences in `unit`: the one in which the integrated map, once
        scaled as well as it can be, differs from the target by as much as the paper's weight times
        what its correlations lack. So both terms of eq. 2.3 start alike.

        Parameters are those of `forward`, with the target (batch, n, n) and the bands of r.
        """
        total = inputs.sum(1) * mask  # (batch, n, n)
        factor = _least_absolute(total[mask], target[mask])
        difference = (factor * total - target).abs().mean()
        lacking = (1 - mode_correlation(total, target, bands).mean(0)).sum()
        self.unit.copy_(difference / (PAPER_WEIGHT * lacking))

    def see(self, inputs: Tensor) -> Tensor:
        """The maps (batch, n_input, n, n) that the network sees of the channels."""
        if inputs.ndim != 4 or inputs.shape[1] != len(self.velocity):
            raise ShapeError(
                f"expected inputs (batch, {len(self.velocity)}, n, n), got {tuple(inputs.shape)}; "
                "use the channels that the model was made for"
            )
        if inputs.shape[-1] % 2**LEVELS or inputs.shape[-2] % 2**LEVELS:
            raise ShapeError(
                f"expected cutouts of a multiple of {2**LEVELS} pixels a side, got "
                f"{tuple(inputs.shape[-2:])}; choose another grid"
            )
        if self.inputs == "channels":
            return inputs
        if self.inputs == "integrated":
            return inputs.sum(1, keepdim=True)
        powers = self.velocity ** torch.arange(MOMENTS, device=inputs.device).unsqueeze(1)
        return torch.einsum("bcyx,mc->bmyx", inputs, powers)


class Zhang2019(DustNetwork):
    """The paper's U-Net: double convolutions with batch norm, ReLU and dropout, four levels deep.

    The paper states neither how inputs are scaled nor what makes a map of the last 64 channels:
    here one factor brings all inputs to an rms of 1, and a 1 x 1 convolution ends it, whose output
    is in units of the target's mean.

    Parameters
    ----------
    width : int
        Channels of the first level, 64 in the paper; each level below has twice as many.

    References
    ----------
    Zhang et al. 2019, section 2.3 and figure 2.
    """

    rms: Tensor
    typical: Tensor

    def __init__(self, inputs: Inputs, velocity_kms: Sequence[float] | np.ndarray, width: int = 64):
        super().__init__(inputs, velocity_kms)
        self.register_buffer("rms", torch.ones(()))
        self.register_buffer("typical", torch.ones(()))
        self.unet = UNet(self.n_input, width, _paper_step)
        self.output = nn.Conv2d(width, 1, 1)

    def forward(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """The dust, as `DustNetwork.forward` says."""
        seen = self.see(inputs) / self.rms * mask.unsqueeze(1)
        with layers(seen.device):
            made = self.output(self.unet(seen))
        return made.float().squeeze(1) * self.typical

    def standardise(self, inputs: Tensor, target: Tensor, mask: Tensor, bands: Bands) -> None:
        """Measure the scales, as `DustNetwork.standardise` says."""
        super().standardise(inputs, target, mask, bands)
        self.rms.copy_(_at(mask, self.see(inputs)).square().mean().sqrt())
        self.typical.copy_(target[mask].abs().mean())


class ForeglowUNet(DustNetwork):
    """Ours: each channel times a gain that depends on the pixel's spectrum and its neighbours.

    A stem looks at the spectrum of each pixel by itself, which tells saturated lines from thin
    ones and slow gas from fast; a U-Net then looks around. Gains are exp(output), zero at the
    start: training starts from the integrated map.

    Parameters
    ----------
    width : int
        Channels of the first level of the U-Net; each level below has twice as many.
    """

    soft: Tensor
    mean: Tensor
    std: Tensor
    per_kelvin: Tensor

    def __init__(self, inputs: Inputs, velocity_kms: Sequence[float] | np.ndarray, width: int = 8):
        super().__init__(inputs, velocity_kms)
        self.register_buffer("soft", torch.ones(()))
        self.register_buffer("mean", torch.zeros(self.n_input, 1, 1))
        self.register_buffer("std", torch.ones(self.n_input, 1, 1))
        self.register_buffer("per_kelvin", torch.ones(()))
        self.stem = nn.Sequential(
            nn.Conv2d(self.n_input, _STEM, 1), nn.GELU(), nn.Conv2d(_STEM, _STEM, 1), nn.GELU()
        )
        self.unet = UNet(_STEM, width, _step)
        n_gain = self.n_input if inputs == "channels" else 1
        self.pixel_gain = nn.Conv2d(_STEM, n_gain, 1)
        self.unet_gain = nn.Conv2d(width, n_gain, 1, bias=False)
        for parameter in (*self.pixel_gain.parameters(), *self.unet_gain.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """The dust, as `DustNetwork.forward` says."""
        seen = self.see(inputs)
        scaled = (self._logarithms(seen) - self.mean) / self.std
        with layers(seen.device):
            pixel = self.stem(scaled) * mask.unsqueeze(1)
            log_gain = self.pixel_gain(pixel) + self.unet_gain(self.unet(pixel))
        gain = log_gain.float().exp()
        brightness = seen if self.inputs == "channels" else inputs.sum(1, keepdim=True)
        return (gain * brightness).sum(1) * self.per_kelvin

    def standardise(self, inputs: Tensor, target: Tensor, mask: Tensor, bands: Bands) -> None:
        """Measure the scales, as `DustNetwork.standardise` says."""
        super().standardise(inputs, target, mask, bands)
        seen = self.see(inputs)
        self.soft.copy_(_SOFT * _at(mask, seen).square().mean().sqrt())
        logarithms = _at(mask, self._logarithms(seen))
        self.mean.copy_(logarithms.mean(0)[:, None, None])
        self.std.copy_(logarithms.std(0)[:, None, None])
        self.per_kelvin.copy_(_least_absolute(inputs.sum(1)[mask], target[mask]))

    def _logarithms(self, seen: Tensor) -> Tensor:
        """Logarithms of either sign that survive noise: ratios of channels become differences."""
        scaled = seen / self.soft
        return torch.copysign(scaled.abs().log1p(), scaled)  # torch.asinh takes 30 times as long


class Dropout(nn.Dropout):
    """PyTorch's dropout, faster on the processor.

    There PyTorch draws a double for each number, which took a fifth of a step of the paper's
    network; 15 bits decide as well.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The same tensor, in training with some of it zero and the rest made larger."""
        if not self.training or input.device.type != "cpu":
            return super().forward(input)
        drawn = torch.empty_like(input, dtype=torch.int16).random_()  # 0 to 32767, all alike
        return input * (drawn >= round(self.p * 32768)).to(input.dtype).div_(1 - self.p)


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


NETWORKS: dict[str, type[Zhang2019] | type[ForeglowUNet]] = {
    "unet": ForeglowUNet,
    "unet_zhang2019": Zhang2019,
}


def make_network(
    network: str, inputs: str, velocity_kms: Sequence[float] | np.ndarray, width: int
) -> DustNetwork:
    """A network by name, with weights from the global generator.

    Raises
    ------
    ModelError
        If a name is unknown, or the width or the number of channels is too small.
    """
    if network not in NETWORKS:
        raise ModelError(f"expected network {' or '.join(NETWORKS)}, got {network!r}.")
    if inputs not in INPUTS:
        raise ModelError(f"expected inputs {', '.join(INPUTS)}, got {inputs!r}.")
    if len(velocity_kms) < 2 or width < 1:
        raise ModelError(
            f"expected two or more channels and a width of 1 or more, got {len(velocity_kms)} "
            f"channels and width {width}; widen the velocity range or the network"
        )
    return NETWORKS[network](inputs, velocity_kms, width)


def _paper_step(n_in: int, n_out: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, padding=1),
        nn.BatchNorm2d(n_out),
        nn.ReLU(),
        Dropout(0.3),
    )


def _step(n_in: int, n_out: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, padding=1, bias=False),
        nn.GroupNorm(max(1, n_out // 8), n_out),
        nn.GELU(),
    )


def _at(mask: Tensor, maps: Tensor) -> Tensor:
    """Values (pixel, map) where the sky counts."""
    return maps.permute(0, 2, 3, 1)[mask]


def _least_absolute(x: Tensor, y: Tensor) -> Tensor:
    """The factor of least mean |factor x - y|: the median of y / x, each weighing |x|."""
    order = torch.argsort(y / x)
    weight = x.abs()[order].double().cumsum(0)
    return (y / x)[order][torch.searchsorted(weight, weight[-1] / 2)]
