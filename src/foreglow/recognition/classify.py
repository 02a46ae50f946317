"""Classify the pixels of a user's maps, streamed from FITS to FITS."""

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import healpy as hp
import numpy as np
import torch
from astropy import units as u

from foreglow.errors import InstrumentError, MapError
from foreglow.maps.conventions import rotate_to_galactic, to_uk_rj_factor, unit_agrees
from foreglow.maps.io import (
    NoiseMap,
    PolarisationMap,
    StoredMap,
    check_same_sky,
    open_noise_map,
    open_polarisation_map,
)
from foreglow.maps.write import write_maps
from foreglow.recognition.model import Recogniser
from foreglow.recognition.train import REFERENCE_NSIDE
from foreglow.sky.instrument import Instrument

BLOCK = 1 << 16  # pixels read and classified at a time

Noise = Mapping[str, str | Path | u.Quantity]


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
) -> Classification:
    """Probability of each candidate model in each pixel of Q,U maps.

    Parameters
    ----------
    model : Recogniser
    maps : mapping of band to path
        A Q,U FITS map for every band of the model's instrument, named as the instrument does or by
        frequency in GHz. One Nside and frame for all; any ordering, unit and sky coverage that the
        headers state. The maps must have one common resolution.
    noise : mapping of band to path or quantity, optional
        A FITS map of the noise rms of Q and U; or a sensitivity (`"36.1 uK_CMB arcmin"`); or the
        rms in a pixel (`"0.5 uK_CMB"`, `"0.5 uK_RJ"`). Bands left out have the instrument's
        sensitivity.
    noise_scale : float
        Factor on the instrument's sensitivity, for bands that `noise` leaves out.
    unit : str, optional
        Unit of all maps, where the headers do not state one.
    progress : callable, optional
        Called with pixels done and pixels in all.

    Raises
    ------
    InstrumentError
        If the bands are not those of the model.
    MapError
        If a map cannot be used.
    """
    if not np.isfinite(noise_scale) or noise_scale < 0:
        raise InstrumentError(f"expected noise_scale >= 0, but {noise_scale} came.")
    opened = _open_bands(model.instrument, maps, unit)
    first = opened[0]
    rms = _open_noise(model.instrument, noise or {}, noise_scale, first, unit)
    n_pix = hp.nside2npix(first.nside)
    probability = np.full((len(model.models), n_pix), np.nan, np.float32)
    depth = 0.0
    for start in range(0, n_pix, BLOCK):
        pixels = np.arange(start, min(start + BLOCK, n_pix))
        data, sigma = _read_block(model.instrument, opened, rms, pixels)
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
    return Classification(model.models, first.nside, first.frame, probability)


def validate_output(path: str | Path, overwrite: bool) -> None:
    """Refuse a file that is there already or cannot be, before the work is done.

    Raises
    ------
    MapError
        If `path` exists and `overwrite` is not set, or its folder does not exist.
    """
    if not Path(path).parent.is_dir():
        raise MapError(f"{path}: its folder does not exist; make it, or give another --out.")
    if Path(path).exists() and not overwrite:
        raise MapError(f"{path} exists; give another --out, or --overwrite to replace it.")


def _open_bands(
    instrument: Instrument, maps: Mapping[str, str | Path], unit: str | None
) -> list[PolarisationMap]:
    """The maps in the order of the instrument's bands."""
    paths = _by_band(instrument, maps, "map")
    missing = [name for k, name in enumerate(instrument.band) if k not in paths]
    if missing:
        raise InstrumentError(
            f"the model was trained for the {instrument.n_band} bands of {instrument.name!r}; maps "
            f"came for {len(paths)}, and none for {', '.join(missing)}. Give a map for every band, "
            "or train a model for the bands you have."
        )
    opened = {
        name: _open(open_polarisation_map, paths[k], unit) for k, name in enumerate(instrument.band)
    }
    check_same_sky(opened)
    return list(opened.values())


_Map = TypeVar("_Map", bound=StoredMap)


def _open(
    open_map: Callable[[str | Path, str | None], _Map], path: str | Path, unit: str | None
) -> _Map:
    """Open a map; `unit` counts where its header states none, or a bare kelvin."""
    opened = open_map(path, unit)
    agrees = unit is None or all(unit_agrees(c.unit, opened.unit) for c in opened.columns)
    return opened if agrees else open_map(path, None)


def _by_band(instrument: Instrument, values: Mapping, what: str) -> dict:
    placed = {}
    for band, value in values.items():
        k = instrument.index(str(band))
        if k in placed:
            raise InstrumentError(f"band {instrument.band[k]} has two {what}s; give one.")
        placed[k] = value
    return placed


def _open_noise(
    instrument: Instrument,
    noise: Noise,
    noise_scale: float,
    reference: PolarisationMap,
    unit: str | None,
) -> list[NoiseMap | float]:
    """For each band a map of the rms, or its value in uK_RJ."""
    given = _by_band(instrument, noise, "noise")
    table = noise_scale * instrument.noise_rms(reference.nside)
    result: list[NoiseMap | float] = []
    for k, name in enumerate(instrument.band):
        value = given.get(k)
        if value is None:
            result.append(float(table[k]))
        elif isinstance(value, u.Quantity) or not Path(value).exists():
            result.append(_parse_noise(str(value), instrument.frequency_ghz[k], reference.nside))
        else:
            opened = _open(open_noise_map, value, unit)
            check_same_sky({f"map of {name}": reference, f"noise of {name}": opened})
            result.append(opened)
    return result


# astropy writes a Quantity of 36 uK_CMB arcmin as "36 arcmin uK_CMB"
_NOISE_TEXT = re.compile(r"\s*([0-9.eE+-]+)\s*(?:(arcmin)\s+)?([A-Za-z/_]+)(?:\s+(arcmin))?\s*")


def _parse_noise(text: str, frequency_ghz: float, nside: int) -> float:
    """The rms in a pixel [uK_RJ] of a sensitivity or an rms in a pixel."""
    match = _NOISE_TEXT.fullmatch(text.replace(" / ", "/"))
    try:
        if match is None or (match[2] and match[4]):
            raise ValueError(text)
        number = float(match[1])
    except ValueError:
        raise MapError(
            f"expected noise as an existing FITS file, a sensitivity such as '36 uK_CMB arcmin' or "
            f"an rms in a pixel such as '0.5 uK_CMB', but {text!r} came."
        ) from None
    if not (np.isfinite(number) and number >= 0):
        raise MapError(f"noise must be a number >= 0, but {text!r} came.")
    if match[2] or match[4]:
        number /= hp.nside2resol(nside, arcmin=True)
    return number * to_uk_rj_factor(match[3], frequency_ghz)


def _read_block(
    instrument: Instrument,
    maps: list[PolarisationMap],
    noise: list[NoiseMap | float],
    pixels: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Data (n, 2, n_band) and noise rms (n, n_band), uK_RJ, float32, Galactic basis."""
    data = np.empty((len(pixels), 2, len(maps)), np.float32)
    sigma = np.empty((len(pixels), len(maps)), np.float32)
    for k, (one, rms) in enumerate(zip(maps, noise, strict=True)):
        frequency = instrument.frequency_ghz[k]
        qu = rotate_to_galactic(one.read(pixels), pixels, one.nside, one.frame)
        data[:, :, k] = to_uk_rj_factor(one.unit, frequency) * qu.T
        if isinstance(rms, NoiseMap):  # Q and U may differ; the network takes one rms for both
            mean_square = (rms.read(pixels).astype(np.float64) ** 2).mean(0)
            sigma[:, k] = to_uk_rj_factor(rms.unit, frequency) * np.sqrt(mean_square)
        else:
            sigma[:, k] = rms
    return data, sigma


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
