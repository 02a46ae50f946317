"""The recognition networks: the paper's and ours."""

import math
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from foreglow.compute.precision import layers
from foreglow.compute.random import random_bytes
from foreglow.maps import healpix as hp
from foreglow.recognition.network.features import CleanedLogFeatures, TemplatePrior
from foreglow.sky.instrument import Instrument

if TYPE_CHECKING:
    from foreglow.sky.templates import Templates

MEMORY_NSIDE = 16
WIDTH = 128
DEPTH = 3
_CLIP = 10.0  # standard deviations
_ROWS = 256  # of a batch that make an image of 4 x 64 pixels


class FarsianNetwork(nn.Module):
    """The networks of Farsian et al. 2020: each vector scaled to [0, 1], then tanh layers.

    Two classes: 68, 34, 17 neurons and one sigmoid output, the probability of the first class.
    More: 272, 136, 68, 34, 17 and a softmax. Dropout of one half on the widest layer. Glorot
    uniform weights and zero biases, Keras's defaults. It does not look at `sigma`, and makes no
    tests of its own.

    References
    ----------
    Farsian et al. 2020, section 3.
    """

    def __init__(self, instrument: Instrument, n_class: int, _dust_tests: tuple[str, ...] = ()):
        super().__init__()
        hidden = (68, 34, 17) if n_class == 2 else (272, 136, 68, 34, 17)
        widths = (2 * instrument.n_band, *hidden)
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.output = nn.Linear(hidden[-1], 1 if n_class == 2 else n_class)
        for layer in [*self.hidden, self.output]:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        data: Tensor,
        sigma: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Logits, shape (n, n_class); `generator` draws the dropout in training."""
        x = self.inputs(data, sigma)
        with layers(x.device):
            for place, layer in enumerate(self.hidden):
                x = _Tanh.apply(layer(x))
                if place == 0 and self.training:
                    x = x * _twice_or_nothing(x.shape, generator, x.device)
            logits = self.output(x).float()
        if logits.shape[1] == 1:  # a sigmoid is the softmax of (z, 0)
            logits = nn.functional.pad(logits, (0, 1))
        return logits

    def inputs(self, data: Tensor, _sigma: Tensor) -> Tensor:
        """What the first layer sees: vectors scaled to [0, 1], shape (n, 2 * n_band)."""
        x = data.flatten(1)
        low, high = x.aminmax(dim=1, keepdim=True)
        return (x - low) / (high - low).clamp_min(torch.finfo(x.dtype).tiny)


class _Tanh(torch.autograd.Function):
    """Tanh by way of the sigmoid: a third of the time of PyTorch's on processors, right to 2e-7."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        exact = x.dtype == torch.float32  # what is next to zero needs more than bf16's eight bits
        y = torch.sigmoid_(x + x).mul_(2).sub_(1) if exact else torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return torch.ops.aten.tanh_backward(gradients[0], *ctx.saved_tensors)


def _twice_or_nothing(
    shape: torch.Size, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Dropout of one half: 0 or 2 by a random bit each, eight of which are looked up at a time."""
    n = math.prod(shape)
    drawn = random_bytes(-(-n // 8), device, generator)
    chosen = _patterns(device).index_select(0, drawn.int())
    return chosen.view(-1)[:n].view(shape)


@cache
def _patterns(device: torch.device) -> Tensor:
    """Twice the bits of every byte, shape (256, 8)."""
    bytes_, bits = torch.arange(256, device=device), torch.arange(8, device=device)
    return 2.0 * (bytes_[:, None] >> bits & 1)


class ForeglowNetwork(nn.Module):
    """Residual perceptron on standardised `CleanedLogFeatures`.

    Its statistics are part of it: call `standardise` once on vectors of the training law.

    Parameters
    ----------
    instrument : Instrument
    n_class : int
    dust_tests : tuple of str
        As `CleanedLogFeatures` takes them.
    memory : TemplatePrior, optional
        Then turning Q and U changes the answer: a direction of polarisation says where on the
        training sky a pixel may lie, and so how much AME to expect. Call `remember` first.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        instrument: Instrument,
        n_class: int,
        dust_tests: tuple[str, ...] = (),
        memory: TemplatePrior | None = None,
    ):
        super().__init__()
        self.features = CleanedLogFeatures(instrument, dust_tests)
        self.memory = memory
        n_feature = self._features(*_any_vector(instrument)).shape[1]
        self.register_buffer("mean", torch.zeros(n_feature))
        self.register_buffer("scale", torch.ones(n_feature))
        self.input = nn.Linear(n_feature, WIDTH)
        self.blocks = nn.ModuleList(_Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.output = nn.Linear(WIDTH, n_class)

    def forward(
        self,
        data: Tensor,
        sigma: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Logits, shape (n, n_class), of data (n, 2, n_band) with noise (n, n_band), uK_RJ."""
        x = self.inputs(data, sigma)
        with layers(x.device):
            x = _affine(self.input, x)
            for block in self.blocks:
                x = block(x)
            return self.output(self.norm(x)).float()

    def inputs(self, data: Tensor, sigma: Tensor) -> Tensor:
        """What the first layer sees: standardised features, shape (n, n_feature)."""
        x = (self._features(data, sigma) - self.mean) / self.scale
        return x.clamp(-_CLIP, _CLIP)

    def remember(self, templates: "Templates") -> None:
        """Keep the sky of the training, where there is a memory."""
        if self.memory is not None:
            self.memory.remember(templates.degraded(MEMORY_NSIDE))

    @torch.no_grad()
    def standardise(self, data: Tensor, sigma: Tensor) -> None:
        """Take the mean and standard deviation of the features from a sample.

        A feature that does not vary there (the depth of noiseless vectors) is ignored from then on.
        """
        features = self._features(data, sigma)
        map_fn = features.std(0)
        self.mean.copy_(features.mean(0))
        self.scale.copy_(torch.where(map_fn > 1e-3, map_fn, torch.inf))

    def _features(self, data: Tensor, sigma: Tensor) -> Tensor:
        """What it sees of vectors, shape (n, n_feature)."""
        if self.memory is None:
            return self.features(data, sigma)
        amplitude = self.features.amplitudes(data)
        ame, expectation = self.memory(amplitude[..., 2], amplitude[..., 1])
        return torch.cat([self.features(data, sigma, ame), expectation], 1)


def _any_vector(instrument: Instrument) -> tuple[Tensor, Tensor]:
    """Data and noise of one vector, to count the features."""
    return torch.ones(1, 2, instrument.n_band), torch.ones(1, instrument.n_band)


class _Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.expand = nn.Linear(WIDTH, WIDTH)
        self.contract = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        inside = nn.functional.gelu(_affine(self.expand, self.norm(x)))
        return x + _affine(self.contract, inside)


def _affine(layer: nn.Linear, x: Tensor) -> Tensor:
    """`layer(x)` of rows (n, n_in); large batches on a processor as a 1 x 1 convolution.

    PyTorch leaves convolutions to oneDNN, which knows the widest instructions of every processor,
    and products of matrices to MKL, which on those of AMD takes two to three times as long.
    """
    whole = len(x) - len(x) % _ROWS
    if x.device.type != "cpu" or whole < 2 * _ROWS or not torch.backends.mkldnn.is_available():
        return layer(x)
    images = x[:whole].view(-1, _ROWS // 64, 64, x.shape[1]).permute(0, 3, 1, 2)  # channels last
    made = nn.functional.conv2d(images, layer.weight[:, :, None, None], layer.bias)
    rows = made.permute(0, 2, 3, 1).reshape(whole, -1)
    return rows if whole == len(x) else torch.cat([rows, layer(x[whole:])])


def foreglow_with_memory(
    instrument: Instrument, n_class: int, dust_tests: tuple[str, ...] = ()
) -> ForeglowNetwork:
    """`foreglow` for maps of the very sky of the templates."""
    memory = TemplatePrior(hp.nside2npix(MEMORY_NSIDE))
    return ForeglowNetwork(instrument, n_class, dust_tests, memory)


NETWORKS = {
    "farsian2020": FarsianNetwork,
    "foreglow": ForeglowNetwork,
    "foreglow_template": foreglow_with_memory,
}
