"""Whether to believe a map of models: halves of the data, each band left out in turn, and whether
the AME lies along the dust.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import erfc

from foreglow.recognition.answers import Answer
from foreglow.recognition.fits.optimise import Fit, fit
from foreglow.recognition.fits.skymodel import candidate
from foreglow.recognition.models import definition_of
from foreglow.survey.sky import SurveySky

Records = list[dict[str, Any]]

_MOST = 4096  # pixels of a model whose AME is looked at


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


def ame_off_dust(
    sky: SurveySky, answer: Answer, complete: NDArray[np.bool_], scatter: float
) -> Records:
    """How often the AME is off the direction of the dust, beside what the training law has.

    Fits leave Q and U of the AME free; networks and contexts are taught that it lies about the
    dust, and take what is across it for curvature of the synchrotron.

    Parameters
    ----------
    sky : SurveySky
    answer : Answer
        Of the fits; pixels of which the most probable model has AME are asked.
    complete : ndarray of bool, shape (n_pix,)
        Observed in all bands.
    scatter : float
        Of the training law, as `VectorSimulator` takes it.

    Returns
    -------
    list of dict
        One record, or none if no pixel has AME: the share `off` of the pixels with AME across the
        dust of more than two errors (that of the dust's own direction left out), `expected` by the
        law with that `scatter`, the median angle `angle_deg`, and `n_pixels`.
    """
    data, _, noise = sky.read()
    found = []
    for k, name in enumerate(answer.models):
        pixels = np.flatnonzero(complete & (answer.best == k))
        pixels = pixels[:: max(1, -(-len(pixels) // _MOST))]
        if definition_of(name).ame_fraction and len(pixels):
            given = (torch.from_numpy(v[pixels]).double() for v in (data, noise))
            found.append(_about_dust(fit(candidate(name), sky.instrument.bands, *given)))
    if not found:
        return []
    along, across, error = np.concatenate(found, 1)
    size = np.hypot(1, scatter * along / error)  # rms of what is across, over its error
    return [
        {
            "step": "ame", "off": float((np.abs(across) > 2 * error).mean()),
            "expected": float(erfc(np.sqrt(2) / size).mean()), "scatter": scatter,
            "angle_deg": float(np.median(0.5 * np.degrees(np.arctan2(np.abs(across), along)))),
            "n_pixels": len(along),
        }
    ]  # fmt: skip


def _about_dust(found: Fit) -> NDArray:
    """AME along the dust and across it, and the error of that: (3, n)."""
    names = found.model.components
    place, n = names.index("ame"), len(names)
    q, u = found.amplitudes[:, :, names.index("dust")].numpy().T
    q, u = (q, u) / np.hypot(q, u)
    ame_q, ame_u = found.amplitudes[:, :, place].numpy().T
    of = found.amplitude_covariance.numpy()
    qq, qu, uu = of[:, place, place], of[:, place, n + place], of[:, n + place, n + place]
    variance = u * u * qq - 2 * q * u * qu + q * q * uu
    return np.stack([q * ame_q + u * ame_u, q * ame_u - u * ame_q, np.sqrt(variance)])


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
