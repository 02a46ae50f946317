"""Classify the pixels of a user's maps, streamed from FITS to FITS."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import healpy as hp
import numpy as np
import torch

from foreglow.errors import InstrumentError, MapError
from foreglow.maps.write import write_maps
from foreglow.recognition.context.model import ContextModel, validate_nside
from foreglow.recognition.model import Recogniser
from foreglow.recognition.observations import Noise, by_band, open_observation
from foreglow.recognition.train import REFERENCE_NSIDE
from foreglow.sky.instrument import Instrument

BLOCK = 1 << 16  # pixels read and classified at a time


@dataclass(frozen=True)
class Classification:
    """What was found on a sky.

    Parameters
    ----------
    models : tuple of str
    nside : int
    frame : str
        G, C or E, as in the maps.
    probability : ndarray, float32, shape (n_class, n_pix)
        RING; NaN where a band did not observe.
    """

    models: tuple[str, ...]
    nside: int
    frame: str
    probability: np.ndarray

    @property
    def observed(self) -> np.ndarray:
        """Which pixels were classified, bool, shape (n_pix,)."""
        return np.isfinite(self.probability[0])

    @property
    def best(self) -> np.ndarray:
        """Place of the most probable model, int16, shape (n_pix,); -1 where not observed."""
        best = np.full(self.probability.shape[1], -1, np.int16)
        seen = self.observed
        best[seen] = self.probability[:, seen].argmax(0)
        return best

    def summary(self) -> str:
        """A sentence: how much was classified, and how the models share it."""
        seen = int(self.observed.sum())
        shares = np.bincount(self.best[self.observed], minlength=len(self.models)) / seen
        text = ", ".join(
            f"{name} {part:.1%}" for name, part in zip(self.models, shares, strict=True)
        )
        return f"{seen} of {self.probability.shape[1]} pixels classified: {text}"

    def write(self, path: str | Path, overwrite: bool = False) -> None:
        """Write one FITS table: `P_<MODEL>` for each model, and `CLASS`."""
        columns = {
            f"P_{name.upper()}": (self.probability[k], "") for k, name in enumerate(self.models)
        }
        columns["CLASS"] = (self.best, "")
        header = {f"CLASS{k}": name for k, name in enumerate(self.models)}
        write_maps(path, columns, frame=self.frame, header=header, overwrite=overwrite)


def classify(
    model: Recogniser,
    maps: Mapping[str, str | Path],
    noise: Noise | None = None,
    noise_scale: float = 1.0,
    unit: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    context: ContextModel | None = None,
) -> Classification:
    """Probability of each candidate model in each pixel of Q,U maps.

    Parameters
    ----------
    model : Recogniser
    maps : mapping of band to path
        A Q,U FITS map for every band of the model's instrument, named as the instrument does or by
        frequency in GHz. One Nside and frame for all; any ordering, unit and sky coverage that the
        headers state. The maps must have one common resolution.
    noise, noise_scale, unit
        As `open_observation` takes them.
    progress : callable, optional
        Called with pixels done and pixels in all.
    context : ContextModel, optional
        Let the neighbours of a pixel have their say: for maps of regions wider than some pixels.

    Raises
    ------
    InstrumentError
        If the bands are not those of the model.
    MapError
        If a map cannot be used.
    """
    _require_every_band(model.instrument, maps)
    opened = open_observation(model.instrument, maps, noise, noise_scale, unit)
    if context is not None:
        validate_nside(opened.nside)
    n_pix = hp.nside2npix(opened.nside)
    probability = np.full((len(model.models), n_pix), np.nan, np.float32)
    depth = 0.0
    for start in range(0, n_pix, BLOCK):
        pixels = np.arange(start, min(start + BLOCK, n_pix))
        data, sigma = opened.read(pixels)
        seen = np.flatnonzero(np.isfinite(data).all((1, 2)) & np.isfinite(sigma).all(1))
        if len(seen):
            probability[:, pixels[seen]] = _probabilities(model, data[seen], sigma[seen])
            depth = max(depth, _depth(model, sigma[seen]))
        if progress is not None:
            progress(int(pixels[-1]) + 1, n_pix)
    if depth == 0.0:
        raise MapError(
            "no pixel is observed in every band, so nothing can be classified; check the masks and "
            "frames of the maps."
        )
    _warn_beyond_training(model, depth)
    if context is not None:
        probability = context.refine(probability)
    return Classification(model.models, opened.nside, opened.frame, probability)


def _require_every_band(instrument: Instrument, maps: Mapping[str, str | Path]) -> None:
    given = by_band(instrument, maps, "map")
    missing = [name for k, name in enumerate(instrument.band) if k not in given]
    if missing:
        raise InstrumentError(
            f"the model was trained for the {instrument.n_band} bands of {instrument.name!r}; maps "
            f"came for {len(given)}, and none for {', '.join(missing)}. Give a map for every band, "
            "or train a model for the bands you have."
        )


def _probabilities(model: Recogniser, data: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    device = next(model.network.parameters()).device
    log_probability = model.log_probability(
        torch.from_numpy(data).to(device), torch.from_numpy(sigma).to(device)
    )
    return log_probability.exp().T.cpu().numpy()


def _depth(model: Recogniser, sigma: np.ndarray) -> float:
    """The noisiest vector, in units of the instrument at Nside 16, over the bands' mean log."""
    reference = model.instrument.noise_rms(REFERENCE_NSIDE)
    floor = np.finfo(np.float32).tiny
    return float(np.exp(np.log(np.maximum(sigma, floor) / reference).mean(1)).max())


def _warn_beyond_training(model: Recogniser, depth: float) -> None:
    training = model.card.get("training", {})
    if training.get("regime") != "conditioned":
        return
    high = training["noise_range"][1]
    if depth > high:
        warnings.warn(
            f"the noise reaches {depth:.3g} times the instrument's at Nside {REFERENCE_NSIDE}, but "
            f"the model was trained up to {high:g} times; probabilities there are extrapolated. "
            "Lower the Nside of the maps, or train with a wider noise range.",
            NoiseRangeWarning,
            stacklevel=3,
        )


class NoiseRangeWarning(UserWarning):
    """The noise of the maps lies beyond what the model was trained for."""
