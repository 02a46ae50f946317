"""Whether to believe a map of models: halves of the data, and each band left out in turn."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreglow.recognition.answers import Answer
from foreglow.survey.sky import SurveySky

Records = list[dict[str, Any]]


def differences(halves: tuple[SurveySky, SurveySky], mask: NDArray | None) -> Records:
    """The difference of two halves in each band, over the white noise that is stated for it.

    Its rms is 1 where the noise is white and as stated; what white noise leaves out makes it more.
    Bands of which both halves hold the same data are left out.

    Returns
    -------
    list of dict
        A record a band: `rms`, its `error` were all pixels independent, `n_pixels`.
    """
    (first, _, one), (second, _, other) = (half.read(white=True) for half in halves)
    records = []
    for k, band in enumerate(halves[0].instrument.band):
        apart = first[:, :, k] - second[:, :, k]
        noise = one[:, ::2, k] + other[:, ::2, k]  # of Q and of U
        seen = np.isfinite(apart).all(1) & np.isfinite(noise).all(1)
        seen &= True if mask is None else mask
        if not seen.any() or not apart[seen].any():
            continue
        square = (apart[seen].astype(np.float64) ** 2 / noise[seen]).ravel()
        rms = float(np.sqrt(square.mean()))
        records.append(
            {
                "step": "halves", "band": band, "rms": rms,
                "error": float(rms / np.sqrt(2 * len(square))), "n_pixels": int(seen.sum()),
            }
        )  # fmt: skip
    return records


def agreement(one: Answer, other: Answer) -> dict[str, Any]:
    """How often two answers name one model, beside what their own probabilities let expect.

    If both are as sure as they may be and err independently, two that are sure of a model by p and
    q agree in p q of such pixels or more: in the rest at least one is wrong.

    Returns
    -------
    dict
        `agree` of all pixels; of those where both are sure `sure_agree`, `sure_expected` (at
        least) and `n_sure`; None where there is none.
    """
    both = one.seen & other.seen
    same = one.best == other.best
    sure = both & one.sure & other.sure
    expected = (one.chance * other.chance)[sure]
    return {
        "agree": float(same[both].mean()) if both.any() else None,
        "n_pixels": int(both.sum()),
        "sure_agree": float(same[sure].mean()) if sure.any() else None,
        "sure_expected": float(expected.mean()) if sure.any() else None,
        "n_sure": int(sure.sum()),
    }


def shares(method: str, answer: Answer) -> Records:
    """How the models share the sky: a record a model, and one of what none fits."""
    seen = int(answer.seen.sum())
    records: Records = [
        {
            "step": "models", "method": method, "model": str(name), "n_pixels": int(mine.sum()),
            "share": float(mine.sum() / max(seen, 1)),
            "n_sure": int((mine & answer.sure).sum()),
        }
        for k, name in enumerate(answer.models)
        for mine in [answer.best == k]
    ]  # fmt: skip
    none = int((answer.none_fits & answer.seen).sum())
    right = float(np.nanmean(answer.chance[answer.seen])) if seen else None
    return [
        *records,
        {
            "step": "none_fits", "method": method, "n_pixels": none, "of": seen,
            "share": none / max(seen, 1), "right_by_itself": right,
        },
    ]  # fmt: skip
