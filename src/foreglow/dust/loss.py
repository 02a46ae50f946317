"""The loss that the paper's network is trained with."""

from torch import Tensor

from foreglow.dust.spectra import Bands, mode_correlation

PAPER_WEIGHT = 30.0  # lambda of eq. 2.3


def correlation_loss(
    predicted: Tensor, target: Tensor, bands: Bands, weight: float = PAPER_WEIGHT
) -> tuple[Tensor, dict[str, Tensor]]:
    """Correlation by scale and absolute difference of pixels, eq. 2.3.

    Parameters
    ----------
    predicted, target : Tensor, shape (batch, n, n)
        Mask applied to both. The second term has the unit of the maps: scale the target so that
        both terms are alike, which the paper says of its own but does not state how.
    bands : Bands
        Those of r50 and r150, `paper_bands`.
    weight : float
        The paper's lambda, of the correlations.

    Returns
    -------
    loss : Tensor, scalar
        weight [(1 - r50) + (1 - r150)] + mean |T - T~|, averaged over the batch.
    parts : dict of Tensor
        "r50", "r150" and "difference", without gradient.

    References
    ----------
    Zhang et al. 2019, eq. 2.3.
    """
    r = mode_correlation(predicted, target, bands).mean(0)
    difference = (predicted - target).abs().mean()
    loss = weight * (1 - r).sum() + difference
    parts = dict(zip(("r50", "r150"), r.detach(), strict=True))
    return loss, {**parts, "difference": difference.detach()}
