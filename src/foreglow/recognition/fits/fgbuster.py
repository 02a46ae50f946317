"""Candidate models as components of FGBuster, to go on there with what was recognised here."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from foreglow.errors import ForeglowError, ModelError
from foreglow.recognition.fits.skymodel import candidate, dust_spectrum, fixed_spectrum
from foreglow.sky import seds


def fgbuster_components(
    model: str, curvature: float | None = None, units: str = "K_CMB"
) -> list[Any]:
    """Components of FGBuster with the spectra that `fit` gives a candidate model.

    Parameters
    ----------
    model : str
        One of `MODELS`.
    curvature : float, optional
        C of the curved models; by default it is free, FGBuster's `running`.
    units : str
        "K_CMB" or "K_RJ", of the maps, as FGBuster's components take it.

    Returns
    -------
    list of fgbuster.component_model.Component
        CMB, dust (1 at 353 GHz), synchrotron (1 at 23 GHz), and, where the model has them, the
        moment of the dust and AME (1 at 30 GHz), for `fgbuster.basic_comp_sep`.

    Raises
    ------
    ForeglowError
        If FGBuster is not installed, or the units are none of these.
    ModelError
        If there is no such model.
    """
    try:
        from fgbuster import component_model  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ForeglowError(
            "fgbuster_components needs FGBuster, which is not on the package index; install it by "
            "pip from github.com/fgbuster/fgbuster (and github.com/dpole/cmbdb)."
        ) from error
    if units not in ("K_CMB", "K_RJ"):
        raise ForeglowError(f"expected units='K_CMB' or 'K_RJ', got {units!r}; give one of them.")
    sky = candidate(model, curvature)
    if sky.synchrotron_factor or (sky.dust_factor and "dust" in sky.bent):
        raise ModelError(
            f"expected a model whose components FGBuster has, got {model}, with a factor on a "
            "spectrum that is free; fit it by foreglow."
        )
    if sky.two_temperatures or sky.dust_factor:
        dust = _fixed(component_model, lambda nu: dust_spectrum(sky, nu), 353.0, units)
    else:
        dust = component_model.Dust(
            seds.DUST_REFERENCE_GHZ, temp=sky.fixed.get("dust_temperature"),
            beta_d=sky.fixed.get("beta_d"), units=units,
        )  # fmt: skip
    pivot = seds.SYNCHROTRON_PIVOT_GHZ
    synchrotron = component_model.Synchrotron(
        pivot, nu_pivot=pivot, running=sky.fixed.get("curvature"), units=units
    )
    found = [component_model.CMB(units=units), dust, synchrotron]
    references = {"dust_moment": seds.DUST_REFERENCE_GHZ, "ame": seds.AME_REFERENCE_GHZ}
    for name in sky.components:
        if name in references:
            spectrum = partial(fixed_spectrum, sky, name)
            found.append(_fixed(component_model, spectrum, references[name], units))
    return found


def _fixed(
    component_model: Any,
    sed: Callable[[torch.Tensor], torch.Tensor],
    reference_ghz: float,
    units: str,
) -> Any:
    """A component of a fixed spectrum of ours, 1 at its reference frequency in these units."""

    def spectrum(nu: np.ndarray) -> np.ndarray:
        frequency = torch.as_tensor(np.asarray(nu, float))
        values = sed(frequency)
        if units == "K_CMB":
            at = torch.tensor(reference_ghz, dtype=torch.float64)
            values = values * seds.cmb(at) / seds.cmb(frequency)
        return values.numpy()

    component = component_model.Component()
    component._params, component._lambda = [], component_model.bandpass_integration(spectrum)
    component.defaults = []
    return component
