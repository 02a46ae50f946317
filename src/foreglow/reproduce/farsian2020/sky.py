"""Figure 1: what the sky holds."""

import numpy as np

from foreglow.maps import healpix as hp
from foreglow.recognition.simulation.skies import component_maps
from foreglow.report.recognition import figures
from foreglow.reproduce.farsian2020.experiment import Captions, Experiment

SMOOTHING_DEG = 10.0


def components(experiment: Experiment) -> Captions:
    """Figure 1: rms of P by component at Nside 16, smoothed to 10 degrees."""
    nside = experiment.settings["test_nside"]
    rng = np.random.default_rng([experiment.seed, 6])
    parts = component_maps(experiment.templates.degraded(nside), experiment.instrument, rng)
    rms = {
        name: np.array([_smoothed_rms(qu) for qu in maps])  # maps (n_band, 2, n_pix)
        for name, maps in parts.items()
    }
    rms["noise"] = np.sqrt(2) * experiment.instrument.noise_rms(nside)
    return experiment.draw(
        figures.component_rms(experiment.instrument.frequency_ghz, rms),
        "component_rms",
        "The sky",
        "Figure 1: the components",
        "Rms of polarised intensity over the full sky at Nside 16, components smoothed to 10 "
        "degrees; noise of a pixel dashed.",
    )


def _smoothed_rms(qu: np.ndarray) -> float:
    zero = np.zeros_like(qu[0])
    _, q, u = hp.smoothing([zero, *qu], fwhm=np.radians(SMOOTHING_DEG))
    return np.sqrt(np.mean(q**2) + np.mean(u**2))
