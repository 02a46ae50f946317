"""What recognition does to r with an instrument: simulated skies, fitted, recognised, separated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreglow.compute.progress import Shown, shown
from foreglow.compute.workers import map_over
from foreglow.errors import InstrumentError, RunError
from foreglow.maps import healpix as hp
from foreglow.maps.arrays import is_array
from foreglow.maps.mask import mask_array, open_mask
from foreglow.maps.regions import layout as lay_out
from foreglow.recognition.evaluation.evaluate import choose_on_sky
from foreglow.recognition.evaluation.separation import (
    CUT_DEG,
    FULL_SKY,
    Residuals,
    galactic_cuts,
    join_residuals,
    residuals_of_sky,
    summarise_residuals,
)
from foreglow.recognition.fits.skymodel import bands_needed, candidate
from foreglow.recognition.models import definition_of, models_of
from foreglow.recognition.simulation.law import SkyLaw
from foreglow.recognition.simulation.skies import SimulatedSky, simulate_sky
from foreglow.recognition.simulation.systematics import Systematics, systematics_of
from foreglow.sky.instrument import Instrument
from foreglow.sky.instrument_files import load_instrument
from foreglow.sky.templates import Templates, load_templates

_FEWEST_SKIES = 2  # for an error of the mean
_LARGEST_CUT_DEG = 80.0
_LEAST_SKY = 0.01


@dataclass(frozen=True)
class Forecast:
    """What each way to choose foreground models leaves in the CMB, and does to r.

    Parameters
    ----------
    instrument : Instrument
    models : tuple of str
        That the skies are made of.
    noise_scale : float
    region : str
        Where it is measured.
    ell : tuple of int
        First and last multipole.
    records : list of dict
        One for each option, of `summarise_residuals`: among others `option`, `rms` and `expected`
        [uK_CMB], `r_bias`, `r_bias_sem` and `r_error`.
    """

    instrument: Instrument
    models: tuple[str, ...]
    noise_scale: float
    region: str
    ell: tuple[int, int]
    records: list[dict[str, Any]]

    def summary(self) -> str:
        """A line for each option."""
        rows = [f"{'':36}{'CMB, uK':>10}{'bias of r':>22}{'sigma(r)':>10}"]
        for record in self.records:
            bias = f"{record['r_bias']:.2e} ± {record['r_bias_sem']:.1e}"
            rows.append(
                f"{record['option']:36}{record['rms']:10.4f}{bias:>22}{record['r_error']:10.2e}"
            )
        return "\n".join(rows)


def forecast(
    instrument: Any = "quijote+litebird",
    models: str | Path | Sequence[str] | Mapping[str, Any] = "four",
    *,
    sky: Any = "mock",
    layout: str = "blobs",
    blob_deg: float = 30.0,
    noise_scale: float = 1.0,
    systematics: Systematics | Mapping[str, Any] | None = None,
    nside: int = 16,
    skies: int = 20,
    patch_nside: int = 4,
    cut_deg: float | None = None,
    mask: Any = None,
    seed: int = 0,
    workers: str | None = None,
    pool: Any = None,
    progress: Shown = None,
) -> Forecast:
    """Forecast the bias and the error of r by the way in which foreground models are chosen.

    Skies of the instrument with known models are separated with one model everywhere (the
    simplest, the richest, ...), with the models that the evidence of the fits recognises pixel by
    pixel and patch by patch, averaged by these probabilities, and with the true models. No
    network is needed.

    Parameters
    ----------
    instrument : Instrument, or what `load_instrument` takes
    models : str, path, sequence of str or mapping
        That the skies are made of, as `models_of` takes them.
    sky : str, path, Templates or pysm3.Sky
        Amplitudes, as `load_templates` takes it.
    layout, blob_deg
        How the models lie on the sky, as `simulate_sky` takes it.
    noise_scale : float
        Factor on the instrument's noise, above zero.
    systematics : Systematics or mapping of its fields, optional
        Errors of the instrument that no fit knows of, drawn for every sky.
    nside : int
        Of the maps: multipoles from 2 to 3 Nside - 1 count.
    skies : int
        2 at least, each with its own CMB, beta_s, noise and places of the models.
    patch_nside : int
        In each pixel of this Nside one model is recognised by patch.
    cut_deg : float, optional
        Galactic latitudes up to this are left out of the spectra [deg]; by default 20.
    mask : path or array, shape (n_pix,), optional
        In place of that: the sky counts where it is above zero, a hundredth of it at least. Of
        the Nside of the skies, in the Galactic frame; an array is RING.
    seed : int
    workers, pool, progress
        As `classify` takes them; a sky is a piece of work.

    Returns
    -------
    Forecast

    Raises
    ------
    InstrumentError
        If the instrument has too few bands to fit the models, or the noise is not above zero.
    ForeglowError
        If there is no such instrument, model, sky or layout, or too few skies.

    References
    ----------
    `tensor_ratio`, for what bias and error mean here: lensing is not removed, and every multipole
    of a cut sky is measured as well as its modes allow. `measure_r` on a map of a cut sky does not
    reach that at the lowest ones.
    """
    bands, names = load_instrument(instrument), models_of(models)
    _validate_bands(bands, names, noise_scale)
    _validate_skies(nside, skies, patch_nside)
    templates = load_templates(sky, nside)
    law = SkyLaw(systematics=systematics_of(systematics))
    regions = _regions(mask, cut_deg, nside)
    one = partial(
        _one_sky, templates, bands, names, layout, blob_deg, noise_scale, law, patch_nside, regions,
        seed,
    )  # fmt: skip
    found: list[list[Residuals]] = []
    with shown("forecast", progress) as say, map_over(workers, pool) as map_fn:
        for residuals in map_fn(one, range(skies)):
            found.append(residuals)
            say(len(found), skies)
    region = found[0][-1].region
    records = [r for r in summarise_residuals(join_residuals(found)) if r["region"] == region]
    return Forecast(bands, names, noise_scale, region, (2, 3 * nside - 1), records)


def _validate_bands(bands: Instrument, models: tuple[str, ...], noise_scale: float) -> None:
    needed = bands_needed(map(candidate, models))
    if bands.n_band < needed:
        raise InstrumentError(
            f"expected {needed} bands or more to fit {', '.join(models)}, got {bands.n_band} of "
            f"{bands.name}; add the bands of another survey, or take simpler models."
        )
    if not noise_scale > 0:
        raise InstrumentError(
            f"expected noise_scale > 0, for fits weigh bands by their noise, got {noise_scale:g}."
        )


def _validate_skies(nside: int, skies: int, patch_nside: int) -> None:
    if not isinstance(skies, int | np.integer) or skies < _FEWEST_SKIES:
        raise RunError(f"expected {_FEWEST_SKIES} skies or more, for the errors, got {skies!r}.")
    if not (1 <= patch_nside <= nside and patch_nside & (patch_nside - 1) == 0):
        raise RunError(
            f"expected patch_nside, a power of 2 from 1 to that of the maps, {nside}, got "
            f"{patch_nside}."
        )


def _regions(mask: Any, cut_deg: float | None, nside: int) -> dict[str, NDArray[np.bool_]]:
    """The full sky, and what a mask or a cut keeps of it."""
    if mask is None:
        cut = CUT_DEG if cut_deg is None else cut_deg
        if not 0 <= cut <= _LARGEST_CUT_DEG:
            raise RunError(f"expected cut_deg from 0 to {_LARGEST_CUT_DEG:g}, got {cut:g}.")
        return galactic_cuts(nside, cut)
    if cut_deg is not None:
        raise RunError(f"expected a mask or cut_deg, got both, {cut_deg:g} deg; leave one out.")
    given = mask_array(mask, nest=False) if is_array(mask) else mask
    inside = open_mask(given, nside, "G", "the skies").read(np.arange(hp.nside2npix(nside)))
    if inside.mean() < _LEAST_SKY:
        raise RunError(
            f"expected a mask that keeps {_LEAST_SKY:.0%} of the sky or more, got "
            f"{inside.mean():.2%}; in less, multipoles cannot be told apart."
        )
    return {FULL_SKY: np.ones_like(inside), f"mask, {inside.mean():.1%} of the sky": inside}


def _one_sky(
    templates: Templates,
    bands: Instrument,
    models: tuple[str, ...],
    arrangement: str,
    blob_deg: float,
    noise_scale: float,
    law: SkyLaw,
    patch_nside: int,
    regions: Mapping[str, NDArray[np.bool_]],
    seed: int,
    number: int,
) -> list[Residuals]:
    """Simulate a sky, recognise its models, and separate it in every way."""
    n_class = len(models)
    label = lay_out(arrangement, templates.nside, n_class, seed + number, blob_deg)
    label = (label + number) % n_class  # every model on every part of the sky

    def make(scale: float) -> SimulatedSky:  # of one CMB and beta_s, whatever the noise
        rng = np.random.default_rng([seed, 14, number])
        return simulate_sky(templates, bands, models, label, scale, rng, law)

    sky = make(noise_scale)
    maps = {}
    for where, patch in (("pixel", None), ("patch", patch_nside)):
        choice = choose_on_sky(sky, bands, models, _one_curvature(models), patch_nside=patch)
        maps[f"recognised by {where}"] = choice.best().numpy()
        maps[f"averaged by {where}"] = choice.probability().T.numpy()
    return residuals_of_sky(sky, make(0.0), bands, models, maps, regions=regions)


def _one_curvature(models: tuple[str, ...]) -> float | None:
    """C of the curved models, if they have one and the same; else it is left free."""
    curved = {definition_of(name) for name in models if definition_of(name).curved}
    values = {model.curvature for model in curved}
    scattered = any(model.curvature_scatter for model in curved)
    return values.pop() if len(values) == 1 and not scattered else None
