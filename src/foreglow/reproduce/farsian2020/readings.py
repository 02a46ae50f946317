"""Which reading of Table 1, if any, gives the paper's accuracies with noise to a single pixel."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from foreglow.maps import healpix as hp
from foreglow.recognition.evaluation.ceiling import draw_vectors, log_evidence
from foreglow.recognition.evaluation.scaled import log_evidence_of_scaled
from foreglow.recognition.models import PROBLEMS
from foreglow.reproduce.farsian2020.experiment import Captions, Experiment
from foreglow.reproduce.farsian2020.noise import accuracies
from foreglow.reproduce.farsian2020.paper import PAPER_NOISY
from foreglow.reproduce.farsian2020.sky import SMOOTHING_DEG
from foreglow.sky.instrument import Instrument
from foreglow.sky.templates import Templates

log = logging.getLogger("foreglow")

_FOUR = PROBLEMS["four"]
_PARTS = 4  # of the vectors of the scaled ceiling, so that workers share them


@dataclass(frozen=True)
class Reading:
    """What the noise of the paper's maps may have been.

    Parameters
    ----------
    name : str
        In words, as in the records.
    templates : Templates
        At the Nside of the test.
    instrument : Instrument
    noise_scale : float
        Factor on the instrument's noise.
    """

    name: str
    templates: Templates
    instrument: Instrument
    noise_scale: float = 1.0


def noise_readings(experiment: Experiment) -> Captions:
    """Record the ceiling of single pixels under each reading, and under the scaling to [0, 1]."""
    number = experiment.settings.get("reading_vectors", 0)
    if number:
        with experiment.run.stage("readings of Table 1"):
            every = list(readings(experiment))
            work = partial(_ceilings, number, experiment.seed)
            for reading, found in zip(every, experiment.map_fn(work, every), strict=True):
                _record(experiment, *found, method="ceiling", reading=reading.name)
    number = experiment.settings.get("scaled_ceiling_vectors", 0)
    if number:
        with experiment.run.stage("ceiling of scaled vectors"):
            worker = experiment.worker
            parts = [(k, n) for k in range(_PARTS) if (n := (number + k) // _PARTS)]
            work = partial(_scaled_scores, worker.templates, experiment.instrument, worker.seed)
            _record_scaled(experiment, list(experiment.map_fn(work, parts)))
    return {}


def readings(experiment: Experiment) -> Iterator[Reading]:
    """Every reading that can be simulated."""
    templates, instrument = experiment.worker.templates, experiment.instrument
    yield Reading("Table 1 in uK_CMB arcmin, pixels of the test's Nside", templates, instrument)
    in_rj = np.array(instrument.sensitivity_uk_arcmin) / instrument.uk_rj_per_uk_cmb
    yield Reading(
        "Table 1 in uK_RJ arcmin", templates,
        replace(instrument, sensitivity_uk_arcmin=tuple(in_rj.tolist())),
    )  # fmt: skip
    yield Reading("Table 1 for intensity, sqrt(2) more for Q, U", templates, instrument, 2**0.5)
    yield Reading(
        "sky and noise smoothed to 10 degrees, as in Figure 1", _smoothed(experiment), instrument,
        _noise_left(templates.nside),
    )  # fmt: skip
    yield Reading("the mean of the 100 realisations of the training", templates, instrument, 0.1)
    for scale in experiment.settings["reading_noise_scales"]:
        yield Reading(f"{scale:g} of Table 1", templates, instrument, scale)


def _smoothed(experiment: Experiment) -> Templates:
    """The templates at the resolution of Figure 1; the CMB stays as it is."""
    fine, width = experiment.templates, np.radians(SMOOTHING_DEG)
    ame, *dust = hp.smoothing([fine.ame, *fine.dust], fwhm=width)
    _, *synchrotron = hp.smoothing([np.zeros_like(fine.ame), *fine.synchrotron], fwhm=width)
    smooth = replace(
        fine,
        synchrotron=np.array(synchrotron, np.float32),
        dust=np.array(dust, np.float32),
        ame=ame.clip(min=0).astype(np.float32),
    )
    return smooth.degraded(experiment.settings["test_nside"])


def _noise_left(nside: int) -> float:
    """Rms of white noise after the smoothing, over that before."""
    window = hp.gauss_beam(np.deg2rad(SMOOTHING_DEG), 3 * nside - 1)
    ell = np.arange(len(window))
    return float(np.sqrt(np.sum((2 * ell + 1) * window**2) / hp.nside2npix(nside)))


def _ceilings(number: int, seed: int, reading: Reading) -> tuple[np.ndarray, np.ndarray]:
    """Evidence of vectors of a reading, and their true models."""
    vectors = draw_vectors(
        reading.templates, reading.instrument, _FOUR, reading.noise_scale, number, seed
    )
    evidence = log_evidence(
        vectors.data, vectors.sigma[0], reading.templates, reading.instrument, _FOUR
    )
    return evidence.numpy(), vectors.label.numpy()


def _scaled_scores(
    templates: Templates, instrument: Instrument, seed: int, part: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Evidence of whole vectors at Table 1 noise, and of the same scaled to [0, 1]; true models."""
    place, number = part
    vectors = draw_vectors(templates, instrument, _FOUR, 1.0, number, seed + place)
    given = (vectors.data, vectors.sigma[0], templates, instrument, _FOUR)
    return (
        log_evidence(*given).numpy(), log_evidence_of_scaled(*given).numpy(),
        vectors.label.numpy(),
    )  # fmt: skip


def _record_scaled(experiment: Experiment, parts: list[tuple[np.ndarray, ...]]) -> None:
    whole, scaled, label = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    for evidence, seen in ((whole, "the vector"), (scaled, "the vector scaled to [0, 1]")):
        _record(experiment, evidence, label, method="ceiling_scaled", reading=seen)


def _record(
    experiment: Experiment, evidence: np.ndarray, label: np.ndarray, method: str, reading: str
) -> None:
    for problem in experiment.settings["problems"]:
        found, number = accuracies({method: evidence}, label, problem)
        log.info("%s, %s, %s: %.4f", problem, method, reading, found[method])
        experiment.run.records.append(
            {
                "problem": problem, "network": None, "training": None, "noise": "table1",
                "noise_scale": None, "context": "pixel", "class": None, "method": method,
                "reading": reading, "set": "validation", "nside": experiment.settings["test_nside"],
                "n_pixels": number, "accuracy": found[method],
                "paper": PAPER_NOISY[problem]["many_noise"],
            }
        )  # fmt: skip
