"""What is said of the models in each pixel, by fits and by a network, kept in files."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreglow.maps import healpix as hp
from foreglow.recognition.answers import Answer, read_answer
from foreglow.recognition.classify import classify
from foreglow.recognition.fit_maps import fit
from foreglow.recognition.models import REFERENCE_NSIDE
from foreglow.recognition.network.train import TrainingPlan
from foreglow.recognition.observation.smoothing import Resolution, smooth_polarisation
from foreglow.recognition.simulation.skies import ame_polarisation
from foreglow.sky.instrument import Instrument
from foreglow.sky.templates import load_templates
from foreglow.survey.sky import SurveySky, what_is_known_unsaid

# of the mock, to learn how AME and dust are averaged: the result, and the pixels that go into it
_LEAST_FWHM, _MOST_NSIDE = 60.0, 64
_FINER, _FINEST = 4, 128
_WIDER = 1.5  # the range of noise that a network sees, over that of the pixels


def kept(path: Path, models: tuple[str, ...], make: Callable[[], Any]) -> Answer:
    """An answer that lies in a file, made now if it does not."""
    if not path.is_file():
        make().to_fits(path)
    return read_answer(path, models)


def fitted(
    sky: SurveySky, models: tuple[str, ...], mask: NDArray | None, device: str, path: Path
) -> Answer:
    """Fit all models to all pixels, and choose by evidence."""

    def make() -> Any:
        with what_is_known_unsaid():
            return fit(
                sky.maps, sky.instrument, models=models, noise=sky.noise, mask=mask, device=device
            )

    return kept(path, models, make)


def own_instrument(
    bands: Instrument, sigma: NDArray, mask: NDArray | None, ame_scatter: float = 0.0
) -> tuple[Instrument, TrainingPlan]:
    """The instrument that a network is trained for: the noise of these very maps, pixel by pixel.

    `sigma`, (n_pix, n_band), is their rms [uK_RJ].

    Its sensitivities are the median noise of each band, as if the pixels were of Nside 16, where
    the training law counts noise: only that of a pixel matters to a network. The plan draws noise
    over the range that the pixels have, with the scatter between bands that they have beside it,
    and AME about the dust as `ame_about_dust` says.
    """
    seen = np.isfinite(sigma).all(1)
    seen &= True if mask is None else mask
    pixel_arcmin = hp.nside2resol(REFERENCE_NSIDE, arcmin=True)
    median = np.nanmedian(sigma[seen] if seen.any() else sigma, 0)
    depth = median / bands.uk_rj_per_uk_cmb * pixel_arcmin
    measured = replace(bands, sensitivity_uk_arcmin=tuple(map(float, depth)))
    relative = np.log(sigma[seen] / measured.noise_rms(REFERENCE_NSIDE))
    if not len(relative):
        return measured, TrainingPlan(ame_scatter=ame_scatter)
    scale = relative.mean(1)
    scatter = float(np.sqrt(np.mean((relative - scale[:, None]) ** 2)))
    low, high = np.exp([scale.min(), scale.max()]) * [1 / _WIDER, _WIDER]
    plan = TrainingPlan(
        noise_range=(float(low), float(high)), band_scatter=max(scatter, 0.05),
        ame_scatter=ame_scatter,
    )  # fmt: skip
    return measured, plan


def ame_about_dust(fwhm_arcmin: float, nside: int) -> float:
    """How far the AME is from the direction of the dust in a beam, though along it in each pixel.

    Where their ratio varies within the beam, their directions there are averaged unlike. Of the
    mock Galaxy, the size of Q, U of the AME across the dust over all of it, below which 68% of the
    pixels lie. Beams below a degree are taken for one of a degree.
    """
    aim = Resolution(max(fwhm_arcmin, _LEAST_FWHM), min(nside, _MOST_NSIDE))
    sky = load_templates("mock", min(_FINER * aim.nside, _FINEST))
    ame, dust = (
        smooth_polarisation(qu, aim.transfer(0.0), aim.nside)
        for qu in (ame_polarisation(sky.dust, sky.ame), sky.dust)
    )
    across = (ame[1] * dust[0] - ame[0] * dust[1]) / np.hypot(*dust)
    return float(np.quantile(np.abs(across) / np.hypot(*ame), 0.68))


def classified(
    sky: SurveySky,
    models: tuple[str, ...],
    model: Path,
    context: Path | None,
    mask: NDArray | None,
    device: str,
    path: Path,
) -> Answer:
    """What a network says, which wants all bands; with a context its neighbours have their say."""

    def make() -> Any:
        with what_is_known_unsaid():
            return classify(
                sky.maps, model=model, noise=sky.noise, context=context, mask=mask, device=device
            )

    return kept(path, models, make)
