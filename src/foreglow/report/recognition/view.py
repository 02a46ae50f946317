"""A classified sky to look at pixel by pixel: data, probabilities, fits."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from foreglow.recognition.fits.choice import Choice
from foreglow.recognition.fits.optimise import Fit
from foreglow.recognition.fits.skymodel import bent_spectra, fixed_spectra
from foreglow.recognition.simulation.skies import SimulatedSky
from foreglow.report.page.skyview import FittedModel, Layer, PolarisationSpectra, SkyView
from foreglow.sky.bandpass import Bands
from foreglow.sky.instrument import Instrument

_SYMBOLS = {"beta_s": "β_s", "curvature": "C", "beta_d": "β_d", "dust_temperature": "T_d [K]"}


def recognition_view(
    name: str,
    title: str,
    note: str,
    sky: SimulatedSky,
    instrument: Instrument,
    models: tuple[str, ...],
    chances: Mapping[str, NDArray],
    choice: Choice | None = None,
) -> SkyView:
    """A sky whose models are known, with what was said of it.

    Parameters
    ----------
    name, title, note : str
        As in `SkyView`.
    sky : SimulatedSky
        RING, Galactic.
    instrument : Instrument
    models : tuple of str
    chances : mapping of str to ndarray, shape (n_class, n_pix)
        Probability of each model, by the method that gives it.
    choice : Choice, optional
        Fits of the same models to the same pixels, in order.
    """
    words = tuple(model.replace("_ame", " + AME").replace("_", " ") for model in models)
    layers: list[Layer] = []
    fits: tuple[FittedModel, ...] = ()
    given = {method: np.asarray(values, np.float32) for method, values in chances.items()}
    if choice is not None:
        given["fits, evidence"] = choice.probability("evidence").T.cpu().numpy().astype(np.float32)
        reduced = choice.reduced_chi2.T.cpu().numpy()
        layers = [
            Layer(f"χ² per degree of freedom, {word}", "Fits", "", chi2, "log")
            for word, chi2 in zip(words, reduced, strict=True)
        ]
        fits = tuple(
            _fitted_model(word, fit, instrument)
            for word, fit in zip(words, choice.fits, strict=True)
        )
    frequency = np.array(instrument.frequency_ghz)
    spectra = PolarisationSpectra(frequency, sky.data, np.asarray(sky.sigma), fits)
    return SkyView(
        name, title, note, tuple(layers), spectra, words, sky.label.astype(np.int8), given
    )


def fitted_brightness(fit: Fit, bands: Bands) -> torch.Tensor:
    """Q and U of a fit in bands.

    Parameters
    ----------
    fit : Fit
    bands : Bands

    Returns
    -------
    Tensor, shape (n_pix, 2, n_band)
        [uK_RJ]; NaN where there is no fit.
    """
    bands = bands.to(fit.parameters.device)
    fixed = fixed_spectra(fit.model, bands)  # (band, fixed)
    bent, _ = bent_spectra(fit.model, bands.node_ghz, fit.parameters)  # (pix, node, bent)
    bent = bands.average(bent, 1)  # (pix, band, bent)
    spectra = torch.cat([fixed.expand(len(bent), -1, -1), bent], -1)  # (pix, band, component)
    return fit.amplitudes @ spectra.transpose(1, 2)


def _fitted_model(word: str, fit: Fit, instrument: Instrument) -> FittedModel:
    brightness = fitted_brightness(fit, instrument.bands).permute(1, 2, 0)  # (stokes, band, pix)
    numbers = {"χ²/dof": (fit.chi2 / fit.dof).float().cpu().numpy()}
    for k, name in enumerate(fit.model.free):
        numbers[_SYMBOLS.get(name, name)] = fit.parameters[:, k].float().cpu().numpy()
    return FittedModel(word, brightness.float().cpu().numpy(), numbers)
