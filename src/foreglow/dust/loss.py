"""The loss that the paper's network is trained with, and the same for polarisation."""

from torch import Tensor

from foreglow.dust.spectra import Bands, e_and_b, mode_correlation

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


def polarised_loss(
    predicted: Tensor, target: Tensor, bands: Bands, weight: float = PAPER_WEIGHT
) -> tuple[Tensor, dict[str, Tensor]]:
    """Eq. 2.3 for the intensity, and for E, B and the pixels of Q and U.

    Parameters
    ----------
    predicted, target : Tensor, shape (batch, 3, n, n)
        I, Q and U, mask applied to both, each in its unit as `correlation_loss` asks.
    bands, weight
        As in `correlation_loss`.

    Returns
    -------
    loss : Tensor, scalar
        That of the intensity, and half of weight times 1 - r of E and of B at both scales, and the
        mean |Q - Q~| and |U - U~|.
    parts : dict of Tensor
        "r50", "r150", "e50", "e150", "b50", "b150" and "difference", without gradient.
    """
    loss, parts = correlation_loss(predicted[:, 0], target[:, 0], bands, weight)
    made, known = (e_and_b(maps[:, 1:]).flatten(0, 1) for maps in (predicted, target))
    r = mode_correlation(made, known, bands).unflatten(0, (-1, 2)).mean(0)  # (E and B, band)
    difference = (predicted[:, 1:] - target[:, 1:]).abs().mean()
    loss = loss + 0.5 * weight * (1 - r).sum() + difference
    parts |= dict(zip(("e50", "e150", "b50", "b150"), r.detach().flatten(), strict=True))
    return loss, parts
