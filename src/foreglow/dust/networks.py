"""Networks from cutouts of the HI cube to the dust: the paper's U-Net, ours, and ours with Q and U.

All take inputs in K and give the dust in the unit of their target: what they need to know of the
scales of either they measure once, in `standardise`, and keep with their weights.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from foreglow.compute.precision import layers
from foreglow.dust.gains import amounts
from foreglow.dust.loss import PAPER_WEIGHT
from foreglow.dust.orientation import SCALES, WINDOWS, observed, orientations, windows
from foreglow.dust.spectra import Bands, e_and_b, mode_correlation
from foreglow.dust.unet import LEVELS, UNet, gelu_step, paper_step
from foreglow.errors import ModelError, ShapeError

Inputs = Literal["channels", "moments", "integrated"]
INPUTS: tuple[Inputs, ...] = ("channels", "moments", "integrated")
Target = Literal["intensity", "polarisation"]
TARGETS: tuple[Target, ...] = ("intensity", "polarisation")
MOMENTS = 4  # sums of v^m I for m below this
_STEM = 64  # numbers that ours makes of each pixel's spectrum
_FLOOR = 0.02  # of the mean of each: what is added before its logarithm is taken
_GROUPS = 2  # of gas, of a direction each: slower and faster
_SPLIT_KMS = 5.0  # within which one group passes into the other
_AT_ONCE = 16  # cutouts of many that are standardised with


class DustNetwork(nn.Module):
    """What all networks share: the inputs that they see, and the scale of the target.

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
    rms: Tensor
    step_kms: float  # from channel to channel
    fine = 1  # pixels of the inputs along a side of each pixel that is predicted

    def __init__(self, inputs: Inputs, velocity_kms: Sequence[float] | np.ndarray):
        super().__init__()
        self.inputs: Inputs = inputs
        velocity = torch.as_tensor(np.asarray(velocity_kms), dtype=torch.float32)
        self.step_kms = float(velocity[-1] - velocity[0]) / (len(velocity) - 1)
        middle, half = (velocity[-1] + velocity[0]) / 2, (velocity[-1] - velocity[0]) / 2
        self.register_buffer("velocity", (velocity - middle) / half, persistent=False)
        self.register_buffer("unit", torch.ones(()))
        self.register_buffer("rms", torch.ones(()))

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

        One factor brings all inputs to an rms of 1. Were each channel brought to it, or seen by its
        logarithm, a network would know a part of the sky again by its faintest gas.

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
        self.rms.copy_(_at(mask, self.see(inputs)).square().mean().sqrt())

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
    here `standardise` does the one, and a 1 x 1 convolution the other, whose output is in units of
    the target's mean.

    Parameters
    ----------
    width : int
        Channels of the first level, 64 in the paper; each level below has twice as many.

    References
    ----------
    Zhang et al. 2019, section 2.3 and figure 2.
    """

    typical: Tensor

    def __init__(self, inputs: Inputs, velocity_kms: Sequence[float] | np.ndarray, width: int = 64):
        super().__init__(inputs, velocity_kms)
        self.register_buffer("typical", torch.ones(()))
        self.unet = UNet(self.n_input, width, paper_step)
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

    per_kelvin: Tensor

    def __init__(self, inputs: Inputs, velocity_kms: Sequence[float] | np.ndarray, width: int = 8):
        super().__init__(inputs, velocity_kms)
        self.register_buffer("per_kelvin", torch.ones(()))
        self.stem = nn.Sequential(
            nn.Conv2d(self.n_input, _STEM, 1), nn.GELU(), nn.Conv2d(_STEM, _STEM, 1), nn.GELU()
        )
        self.unet = UNet(_STEM, width, gelu_step)
        n_gain = self.n_input if inputs == "channels" else 1
        self.pixel_gain = nn.Conv2d(_STEM, n_gain, 1)
        self.unet_gain = nn.Conv2d(width, n_gain, 1, bias=False)
        for parameter in (*self.pixel_gain.parameters(), *self.unet_gain.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """The dust, as `DustNetwork.forward` says."""
        seen = self.see(inputs)
        with layers(seen.device):
            pixel = self.stem(seen / self.rms) * mask.unsqueeze(1)
            log_gain = self.pixel_gain(pixel) + self.unet_gain(self.unet(pixel))
        gain = log_gain.float().exp()
        brightness = seen if self.inputs == "channels" else inputs.sum(1, keepdim=True)
        return (gain * brightness).sum(1) * self.per_kelvin

    def standardise(self, inputs: Tensor, target: Tensor, mask: Tensor, bands: Bands) -> None:
        """Measure the scales, as `DustNetwork.standardise` says."""
        super().standardise(inputs, target, mask, bands)
        self.per_kelvin.copy_(_least_absolute(inputs.sum(1)[mask], target[mask]))


class PolarisedUNet(DustNetwork):
    """Ours for I, Q and U: gains of channels, and directions in which gradients of the gas point.

    Intensity is made as by `ForeglowUNet`. Polarisation is that of two groups of gas: each has
    gains of its own, and a direction that is a sum of `orientations` of the gas at several
    velocities and scales, with weights that depend on all around. The U-Net sees of them only how
    clear they are: were the cutout turned, Q and U would turn as it does. At the start gains split
    the spectrum into slower and faster gas, and the direction is that of all gas.

    Parameters
    ----------
    width : int
        Channels of the first level of the U-Net; each level below has twice as many.
    """

    scale: Tensor
    windows: Tensor
    floor: Tensor
    fine = 2

    def __init__(self, inputs: Inputs, velocity_kms: Sequence[float] | np.ndarray, width: int = 8):
        super().__init__(inputs, velocity_kms)
        n, n_direction = self.n_input, WINDOWS * SCALES
        self.register_buffer("scale", torch.ones(2))  # of I and of Q and U
        self.register_buffer("unit", torch.ones(3, 1, 1))  # of I, Q and U
        self.register_buffer("windows", windows(self.velocity), persistent=False)
        self.register_buffer("floor", torch.ones(WINDOWS))
        self.stem = nn.Sequential(
            nn.Conv2d(n, _STEM, 1), nn.GELU(), nn.Conv2d(_STEM, _STEM, 1), nn.GELU()
        )
        self.unet = UNet(_STEM + n_direction, width, gelu_step)
        self.sizes = ((1 + _GROUPS) * n, _GROUPS * n_direction)
        self.pixel_gain = nn.Conv2d(_STEM, sum(self.sizes), 1)
        self.unet_gain = nn.Conv2d(width, sum(self.sizes), 1, bias=False)
        for parameter in (*self.pixel_gain.parameters(), *self.unet_gain.parameters()):
            nn.init.zeros_(parameter)
        with torch.no_grad():  # the direction of all gas, at the widest scale
            first = self.sizes[0] + SCALES - 1
            self.pixel_gain.bias[first::n_direction] = 1.0  # pyright: ignore[reportOptionalSubscript]

    def forward(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """I, Q and U (batch, 3, n, n), of inputs (batch, channel, 2 n, 2 n); see `DustNetwork`."""
        with torch.no_grad():
            seen, direction = self._look(inputs, mask)
            clear = direction.square().sum(3).sqrt().permute(0, 3, 1, 2)
        with layers(seen.device):
            pixel = self.stem(seen / self.rms) * mask.unsqueeze(1)
            around = self.unet(torch.cat([pixel, clear.to(pixel.dtype)], 1))
            log_gain, weight = self._gains(pixel, around)
        gain = log_gain.float().unflatten(-1, (1 + _GROUPS, -1))
        amount = amounts(gain, seen.permute(0, 2, 3, 1))  # (batch, n, n, group)
        weight = weight.float().unflatten(-1, (_GROUPS, -1))
        along = (amount[..., 1:, None] * weight).sum(3)  # (batch, n, n, window scale)
        polarised = (along.unsqueeze(3) * direction).sum(-1) * self.scale[1]
        return torch.cat([amount[..., :1] * self.scale[0], polarised], -1).permute(0, 3, 1, 2)

    def _gains(self, pixel: Tensor, around: Tensor) -> list[Tensor]:
        """Logarithms of gains, and weights of directions, (batch, n, n, number).

        The sum of both layers, by one product for each of the two: a third less time than two sums.
        """
        both = torch.cat([pixel, around], 1).permute(0, 2, 3, 1)
        matrix = torch.cat([self.pixel_gain.weight, self.unet_gain.weight], 1).flatten(1)
        bias = self.pixel_gain.bias
        assert bias is not None
        rows = zip(matrix.split(self.sizes), bias.split(self.sizes), strict=True)
        return [nn.functional.linear(both, *one) for one in rows]

    def _look(self, inputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Channels (batch, channel, n, n); `orientations` (batch, n, n, 2, window scale)."""
        fine, share, _ = observed(inputs, mask)
        bright = (inputs.permute(0, 2, 3, 1) @ self.windows.T).clamp(min=0) + self.floor
        logarithms = bright.log().permute(0, 3, 1, 2).contiguous()
        direction = orientations(logarithms, fine, self.fine).flatten(2, 3).permute(0, 3, 4, 1, 2)
        return self._pooled(inputs, share), direction.contiguous()

    def _pooled(self, inputs: Tensor, share: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(self.see(inputs), self.fine) / share

    def standardise(self, inputs: Tensor, target: Tensor, mask: Tensor, bands: Bands) -> None:
        """Measure the scales, as `DustNetwork.standardise` says; the target is (batch, 3, n, n)."""
        seen = self._pooled(inputs, observed(inputs, mask)[1])
        super().standardise(seen, target[:, 0], mask, bands)
        spectrum = _at(mask, seen).mean(0)
        self.floor.copy_(
            _FLOOR * (self.windows @ spectrum).clamp(min=0) + 1e-6 * spectrum.abs().sum()
        )
        split = self._split(spectrum)
        with torch.no_grad():
            bias = self.pixel_gain.bias[: self.sizes[0]].view(1 + _GROUPS, -1)  # pyright: ignore[reportOptionalSubscript]
            bias[1:] = nn.functional.logsigmoid(torch.stack([split, -split]))
            self.scale[0] = _least_absolute(seen.sum(1)[mask], target[:, 0][mask])
            self.scale[1] = 1.0
            few = zip(inputs.split(_AT_ONCE), mask.split(_AT_ONCE), strict=True)
            made = torch.cat([self(*some) for some in few])
            known, start = (maps[:, 1:] * mask.unsqueeze(1) for maps in (target, made))
            self.scale[1] = (start * known).sum() / start.square().sum()
            start = start * self.scale[1]
        modes = e_and_b(start).flatten(0, 1), e_and_b(known).flatten(0, 1)
        lacking = (1 - mode_correlation(*modes, bands).mean(0)).sum()
        self.unit[1:] = (start - known).abs().mean() / (PAPER_WEIGHT * lacking)

    def _split(self, spectrum: Tensor) -> Tensor:
        """Logits of the slower group, by channel: half of all gas is slower."""
        passed = spectrum.clamp(min=0).cumsum(0)
        middle = int(torch.searchsorted(passed, passed[-1] / 2))
        channels = torch.arange(len(spectrum), device=spectrum.device)
        return (channels - middle) * (self.step_kms / _SPLIT_KMS)


NETWORKS: dict[str, type[Zhang2019] | type[ForeglowUNet]] = {
    "unet": ForeglowUNet,
    "unet_zhang2019": Zhang2019,
}


def make_network(
    network: str,
    inputs: str,
    velocity_kms: Sequence[float] | np.ndarray,
    width: int,
    target: str = "intensity",
) -> DustNetwork:
    """A network by name, with weights from the global generator.

    Raises
    ------
    ModelError
        If a name is unknown, the width or the number of channels is too small, or the network is
        not one for the target.
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
    if target not in TARGETS:
        raise ModelError(f"expected target {' or '.join(TARGETS)}, got {target!r}.")
    if target == "intensity":
        return NETWORKS[network](inputs, velocity_kms, width)
    if (network, inputs) != ("unet", "channels"):
        raise ModelError(
            f"expected network unet of inputs channels for target polarisation, got {network} of "
            f"{inputs}; only it knows of directions"
        )
    return PolarisedUNet(inputs, velocity_kms, width)


def _at(mask: Tensor, maps: Tensor) -> Tensor:
    """Values (pixel, map) where the sky counts."""
    return maps.permute(0, 2, 3, 1)[mask]


def _least_absolute(x: Tensor, y: Tensor) -> Tensor:
    """The factor of least mean |factor x - y|: the median of y / x, each weighing |x|."""
    order = torch.argsort(y / x)
    weight = x.abs()[order].double().cumsum(0)
    return (y / x)[order][torch.searchsorted(weight, weight[-1] / 2)]
