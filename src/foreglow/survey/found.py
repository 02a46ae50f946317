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
from foreglow.sky.instrument import Instrument
from foreglow.survey.sky import SurveySky, what_is_known_unsaid

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
    bands: Instrument, sigma: NDArray, mask: NDArray | None
) -> tuple[Instrument, TrainingPlan]:
    """The instrument that a network is trained for: the noise of these very maps, pixel by pixel.

    `sigma`, (n_pix, n_band), is their rms [uK_RJ].

    Its sensitivities are the median noise of each band, as if the pixels were of Nside 16, where
    the training law counts noise: only that of a pixel matters to a network. The plan draws noise
    over the range that the pixels have, with the scatter between bands that they have beside it.
    """
    seen = np.isfinite(sigma).all(1)
    seen &= True if mask is None else mask
    pixel_arcmin = hp.nside2resol(REFERENCE_NSIDE, arcmin=True)
    median = np.nanmedian(sigma[seen] if seen.any() else sigma, 0)
    depth = median / bands.uk_rj_per_uk_cmb * pixel_arcmin
    measured = replace(bands, sensitivity_uk_arcmin=tuple(map(float, depth)))
    relative = np.log(sigma[seen] / measured.noise_rms(REFERENCE_NSIDE))
    if not len(relative):
        return measured, TrainingPlan()
    scale = relative.mean(1)
    scatter = float(np.sqrt(np.mean((relative - scale[:, None]) ** 2)))
    low, high = np.exp([scale.min(), scale.max()]) * [1 / _WIDER, _WIDER]
    plan = TrainingPlan(noise_range=(float(low), float(high)), band_scatter=max(scatter, 0.05))
    return measured, plan


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
