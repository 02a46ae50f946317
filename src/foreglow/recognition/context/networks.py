"""Networks from per-pixel log-probabilities to log-probabilities that know the neighbours.

Both treat all classes alike and carry no place on the sky, so weights learned on some models and
one part of the sky serve any number of models anywhere.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from foreglow.maps.faces import double, halve, with_borders, without_borders

WIDTHS = (16, 24, 32, 32, 32)  # channels by level, each level half the Nside of the one before
_CLIP = 8.0  # of a log-probability ratio: no single pixel is trusted beyond e^8
_ITERATIONS = 8


class SphereUNet(nn.Module):
    """U-Net on the faces of HEALPix with isotropic kernels, shared by the classes.

    At each level it sees the log-probability ratios summed over the pixel, which is what the data
    say if one model holds there; classes talk through their mean. On the way up every level hears
    the mean over the sky, for what the layout is like is seen in the map as a whole. The output is
    added to the ratios of the pixel itself, from zero at the start, and the sum has a gain, one
    number a map: how far neighbours are to be trusted.
    """

    def __init__(self):
        super().__init__()
        below = (0, *WIDTHS)
        self.down = nn.ModuleList(
            nn.ModuleList([_Block(before + 2, width), _Block(width, width)])
            for before, width in zip(below, WIDTHS, strict=False)
        )
        self.everywhere = nn.ModuleList(nn.Linear(width, width) for width in WIDTHS)
        self.up = nn.ModuleList(
            nn.ModuleList([_Block(width + deeper, width), _Block(width, width)])
            for width, deeper in pairwise(WIDTHS)
        )
        self.trust = nn.Parameter(torch.ones(()))
        self.output = nn.Linear(WIDTHS[0], 1)
        self.gain = nn.Linear(WIDTHS[0], 1)
        for layer in (*self.everywhere[:-1], self.output, self.gain):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, log_probability: Tensor, observed: Tensor) -> Tensor:
        """Logits of every pixel.

        Parameters
        ----------
        log_probability : Tensor, shape (n, n_class, n_pix)
            In face order.
        observed : Tensor, bool, shape (n, n_pix)
            Elsewhere the log-probabilities are not looked at.

        Returns
        -------
        Tensor, shape (n, n_class, n_pix)
        """
        ratio = ratios(log_probability, observed)
        n, n_class, n_pix = ratio.shape
        total = ratio.reshape(n * n_class, n_pix, 1)
        seen = observed[:, None].expand(-1, n_class, -1).reshape(n * n_class, n_pix, 1).float()
        n_level = n_level_of(round((n_pix / 12) ** 0.5))
        x = self.from_level(0, n_level, total[..., :0], total, seen, n_class)
        gain = self.gain(x.reshape(n, n_class * n_pix, -1).mean(1)).exp()
        return gain[:, None] * (self.trust * ratio + self.output(x).view(n, n_class, n_pix))

    def from_level(
        self, level: int, n_level: int, x: Tensor, total: Tensor, seen: Tensor, n_class: int
    ) -> Tensor:
        """Go down from a level to the coarsest, and up again to it.

        Parameters
        ----------
        level : int
            From 0, the finest.
        n_level : int
            In all.
        x : Tensor, shape (n * n_class, n_pix, channel)
            What the level before found, face order.
        total, seen : Tensor, shape (n * n_class, n_pix, 1)
            The ratios summed over each pixel, and the part of it that is observed.
        n_class : int

        Returns
        -------
        Tensor, shape (n * n_class, n_pix, width)
        """
        x = torch.cat([x, torch.asinh(total), seen], 2)
        for block in self.down[level]:  # pyright: ignore[reportGeneralTypeIssues]
            x = block(x, n_class)
        if level < n_level - 1:
            deeper = halve(x), 4 * halve(total), halve(seen)
            coarse = self.from_level(level + 1, n_level, *deeper, n_class)
            first, second = self.up[level]  # pyright: ignore[reportGeneralTypeIssues]
            x = second(first.step(_joined(first.input, x, coarse), n_class), n_class)
        return x + self.everywhere[level](x.mean(1, keepdim=True))


class _Block(nn.Module):
    """A residual step: isotropic 3 x 3 kernel in space, mean over classes, pixel by pixel."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.input = nn.Identity() if n_in == n_out else nn.Linear(n_in, n_out)
        self.norm = nn.LayerNorm(n_out)
        self.space = _IsotropicConvolution(n_out)
        self.classes = nn.Linear(n_out, n_out, bias=False)
        self.output = nn.Linear(n_out, n_out)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor, n_class: int) -> Tensor:
        return self.step(self.input(x), n_class)

    def step(self, x: Tensor, n_class: int) -> Tensor:
        """Of what the input layer made, shape (n * n_class, n_pix, channel)."""
        y = self.norm(x)
        mean = self.classes(y.view(-1, n_class, *y.shape[1:]).mean(1, keepdim=True))
        mean = mean.expand(-1, n_class, -1, -1).reshape(y.shape)
        return x + self.output(nn.functional.gelu(self.space(y) + mean))


def _joined(layer: nn.Linear, fine: Tensor, coarse: Tensor) -> Tensor:
    """A layer on channels of a level and of the coarser one side by side, each at its own Nside."""
    of_fine, of_coarse = layer.weight.tensor_split([fine.shape[2]], 1)
    fine = nn.functional.linear(fine, of_fine, layer.bias)
    return fine + double(nn.functional.linear(coarse, of_coarse))


class _IsotropicConvolution(nn.Module):
    """3 x 3 kernel of three weights: the pixel, its four sides, its four corners."""

    rings: Tensor

    def __init__(self, width: int):
        super().__init__()
        gain = torch.tensor([1.0, 0.7, 0.5])[:, None, None] / (3 * width) ** 0.5
        self.weight = nn.Parameter(gain * torch.randn(3, width, width))
        self.bias = nn.Parameter(torch.zeros(width))
        side, corner = torch.zeros(3, 3), torch.zeros(3, 3)
        side[[0, 1, 1, 2], [1, 0, 2, 1]] = 0.5
        corner[[0, 0, 2, 2], [0, 2, 0, 2]] = 0.5
        centre = torch.zeros(3, 3)
        centre[1, 1] = 1.0
        self.register_buffer("rings", torch.stack([centre, side, corner]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel = torch.einsum("tij,toc->ocij", self.rings, self.weight)
        return without_borders(nn.functional.conv2d(with_borders(x), kernel, self.bias))


class PottsField(nn.Module):
    """Potts random field solved by mean-field iterations, one learned coupling a scale.

    A pixel leans to what the pixels around it lean to, at every scale from its neighbours to the
    whole sky: logits = ratios + sum over scales of coupling * mean probability there.

    References
    ----------
    Zheng et al. 2015 (mean field as a recurrent network).
    """

    def __init__(self):
        super().__init__()
        self.trust = nn.Parameter(torch.ones(()))
        self.coupling = nn.Parameter(torch.full((len(WIDTHS) + 1,), 0.5))

    def forward(self, log_probability: Tensor, observed: Tensor) -> Tensor:
        """Logits of every pixel; see `SphereUNet.forward`."""
        ratio = self.trust * ratios(log_probability, observed)
        n, n_class, n_pix = ratio.shape
        n_level = n_level_of(round((n_pix / 12) ** 0.5))
        logits = ratio
        for _ in range(_ITERATIONS):
            lean = torch.softmax(logits, 1).reshape(n * n_class, n_pix, 1) * n_class - 1
            pull = torch.zeros_like(lean)
            for level in range(n_level):
                mean = nn.functional.avg_pool2d(with_borders(lean), 3, stride=1)
                map_fn = without_borders(mean)
                for _ in range(level):
                    map_fn = double(map_fn)
                pull = pull + self.coupling[level] * map_fn
                lean = halve(lean) if level < n_level - 1 else lean.mean(1, keepdim=True)
            pull = pull + self.coupling[-1] * lean
            logits = ratio + pull.view(n, n_class, n_pix)
        return logits


def ratios(log_probability: Tensor, observed: Tensor) -> Tensor:
    """Log-probabilities less their mean over classes, clipped; 0 where not observed."""
    finite = log_probability.clamp_min(-4 * _CLIP)
    ratio = finite - finite.mean(1, keepdim=True)
    return torch.where(observed[:, None], ratio.clamp(-_CLIP, _CLIP), 0.0)


def n_level_of(nside: int) -> int:
    """Levels of a network at a Nside: as often as it can be halved, plus one, five at most."""
    return min(len(WIDTHS), nside.bit_length())


CONTEXT_NETWORKS = {"unet": SphereUNet, "potts": PottsField}
