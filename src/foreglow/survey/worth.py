"""What the answers are worth: pixels whose model is known, with the noise of the survey's own.

On the real sky nobody knows the truth. So pixels are drawn from the training law, get the noise of
a few pixels of the survey, and are asked of the network and of the fits, beside the evidence that
knows the law itself: no answer by single pixels can be right more often than that.
"""

import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreglow.compute.random import make_generator
from foreglow.errors import ModelError
from foreglow.recognition.answers import SURE
from foreglow.recognition.evaluation.ceiling import log_evidence
from foreglow.recognition.fits.choice import choose
from foreglow.recognition.models import REFERENCE_NSIDE
from foreglow.recognition.network.calibration import expected_calibration_error
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.recognition.simulation.vectors import NoiseLaw, Vectors, VectorSimulator
from foreglow.sky.instrument import Instrument
from foreglow.sky.templates import Templates, load_templates

log = logging.getLogger("foreglow")

CEILING = "best possible"
_DEPTHS = 8  # pixels of the survey whose noise is taken, from the deepest to the shallowest
_EACH = 128  # vectors of each
_KEY = 12  # of the generator


def worth(
    instrument: Instrument,
    models: tuple[str, ...],
    sigma: NDArray,
    seed: int,
    network: Recogniser | None = None,
    names: tuple[str, str] = ("network", "fits"),
    ame_scatter: float = 0.0,
) -> list[dict[str, Any]]:
    """How often the answers are right in simulated pixels with the survey's noise.

    Parameters
    ----------
    instrument : Instrument
        Bands of the survey.
    models : tuple of str
    sigma : ndarray, shape (n, n_band)
        Noise rms of the pixels that are observed in all bands [uK_RJ].
    seed : int
    network : Recogniser, optional
        On the CPU.
    names : tuple of str
        What network and fits are called.
    ame_scatter : float
        Of the AME about the dust, as `VectorSimulator` takes it.

    Returns
    -------
    list of dict
        A record for each method over all vectors (`model` "all") and for each true model:
        `accuracy`, the share `sure` with more than 0.9 of the probability, `sure_right` of these,
        and `calibration_error`. The method "best possible" is the evidence that knows the law.
    """
    templates = load_templates("mock", REFERENCE_NSIDE)
    simulator = VectorSimulator(templates, instrument, models, ame_scatter=ame_scatter)
    vectors = _with_noise(simulator, _depths(sigma), seed)
    found: dict[str, Tensor] = {}
    if network is not None:
        with torch.no_grad():
            said = network.log_probability(vectors.data, vectors.sigma)
        found[names[0]] = said.double().exp()
    fitted = choose(models, instrument.bands, vectors.data.double(), vectors.sigma.double())
    found[names[1]] = fitted.probability()
    try:
        found[CEILING] = _ceiling(vectors, simulator, templates, instrument)
    except ModelError as error:
        log.info("no ceiling is known: %s", error)
    records = []
    for method, probability in found.items():
        records += _records(method, models, probability.numpy(), vectors.label.numpy())
    return records


def _depths(sigma: NDArray) -> Tensor:
    """Rows of a few pixels, from the deepest to the shallowest."""
    order = np.argsort(np.log(sigma).mean(1), kind="stable")
    places = ((np.arange(_DEPTHS) + 0.5) / _DEPTHS * len(order)).astype(int)
    return torch.from_numpy(sigma[order[places]]).float()


def _with_noise(simulator: VectorSimulator, sigma: Tensor, seed: int) -> Vectors:
    """Vectors of the law, as many for each row (row, band) of noise, in its order."""
    generator = make_generator(torch.device("cpu"), seed, _KEY)
    drawn = simulator.draw(len(sigma) * _EACH, NoiseLaw.fixed(0.0), generator)
    rms = sigma.repeat_interleave(_EACH, 0)
    white = torch.randn(drawn.data.shape, generator=generator)
    return Vectors(drawn.data + rms[:, None] * white, rms, drawn.label)


def _ceiling(
    vectors: Vectors, law: VectorSimulator, templates: Templates, instrument: Instrument
) -> Tensor:
    """Probability of each model by one who knows the law, (n, n_class)."""
    parts = []
    for start in range(0, len(vectors.data), _EACH):
        some = vectors[start : start + _EACH]
        given = (some.data, some.sigma[0], templates, instrument, law.models, law.ame_scatter)
        parts.append(log_evidence(*given))
    return torch.softmax(torch.cat(parts), 1)


def _records(
    method: str, models: tuple[str, ...], probability: NDArray, label: NDArray
) -> list[dict[str, Any]]:
    """Of all vectors, and of those of each model; probability (n, n_class)."""
    records = []
    for k, model in enumerate(("all", *models)):
        mine = slice(None) if k == 0 else label == k - 1
        said, true = np.nan_to_num(probability[mine]), label[mine]
        if not len(true):
            continue
        right = said.argmax(1) == true
        sure = said.max(1) > SURE
        records.append(
            {
                "step": "worth", "method": method, "model": model, "n_vectors": len(true),
                "accuracy": float(right.mean()), "sure": float(sure.mean()),
                "sure_right": float(right[sure].mean()) if sure.any() else None,
                "calibration_error": expected_calibration_error(said.T, true)
                if k == 0 else None,
            }
        )  # fmt: skip
    return records
