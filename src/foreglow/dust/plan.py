"""What network of the dust is trained, and how long."""

from dataclasses import dataclass
from typing import Literal

from foreglow.dust.loss import PAPER_WEIGHT
from foreglow.plans import Count, NotNegative, Positive

_SHIFT_KMS = 5.0


@dataclass(frozen=True)
class DustPlan:
    """What network is trained, and how long.

    Parameters
    ----------
    network : str
        "unet" or "unet_zhang2019".
    inputs : str
        "channels", "moments" or "integrated".
    width : int
        Channels of the first level: 64 in the paper.
    weight : float
        The paper's lambda, of the correlations in the loss.
    epochs, steps, batch : int
        `steps` batches each epoch, every cutout drawn anew. The paper's are 40, 782 and 64.
    schedule : str, optional
        "annealed": the learning rate rises, then falls as a cosine to zero. "published": Adam as
        in the paper, with a tenth of the rate after each quarter of the training. By default
        "annealed" for "unet", by AdamW, and "published" for "unet_zhang2019", which is annealed
        by Adam.
    learning_rate : float, optional
        The highest; by default 5e-3 for "unet", and the paper's 1e-3 for "unet_zhang2019".
    shift_kms : float, optional
        Each training cutout has its lines moved along velocity by up to so much either way, see
        `foreglow.dust.augment.shift_velocity`; by default 5 km/s for "unet", and not at all for
        "unet_zhang2019".
    members : int
        Networks trained from different seeds.
    precision : str
        Arithmetic of the layers in training; see `foreglow.compute.precision.arithmetic`.
    """

    network: str = "unet"
    inputs: str = "channels"
    width: Count = 8
    weight: NotNegative = PAPER_WEIGHT
    epochs: Count = 10
    steps: Count = 40
    batch: Count = 16
    schedule: Literal["annealed", "published"] | None = None
    learning_rate: Positive | None = None
    shift_kms: NotNegative | None = None
    members: Count = 1
    precision: str = "tf32"

    @property
    def ours(self) -> bool:
        """Whether it is our network, trained in our way."""
        return self.network != "unet_zhang2019"

    @property
    def rate(self) -> float:
        """The learning rate, if need be by default."""
        return self.learning_rate or (5e-3 if self.ours else 1e-3)

    @property
    def shift(self) -> float:
        """By how much lines are moved at most [km/s], if need be by default."""
        if self.shift_kms is not None:
            return self.shift_kms
        return _SHIFT_KMS if self.ours else 0.0

    @property
    def annealed(self) -> bool:
        """Whether the learning rate falls as a cosine, if need be by default."""
        return self.ours if self.schedule is None else self.schedule == "annealed"
