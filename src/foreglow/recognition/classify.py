"""Classify the pixels of a user's maps: files or arrays, in memory or to a file."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from astropy import units as u
from torch import Tensor

from foreglow.compute.device import pick_device
from foreglow.compute.progress import Progress, Shown, shown
from foreglow.compute.workers import map_over
from foreglow.errors import InstrumentError, MapError, RunError, warn
from foreglow.maps import healpix as hp
from foreglow.maps.blocks import PixelBlock
from foreglow.maps.noise import warn_of_one_rms
from foreglow.maps.noise_map import NoiseMap
from foreglow.maps.write import write_map_blocks
from foreglow.recognition.context.model import ContextModel, validate_nside
from foreglow.recognition.fits.goodness import goodness_of_fit
from foreglow.recognition.models import REFERENCE_NSIDE
from foreglow.recognition.network.features import NOISE_FLOOR
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.recognition.observation.band_noise import Noise
from foreglow.recognition.observation.bands import by_band
from foreglow.recognition.observation.given import Maps, Pixels, for_workers, source_of
from foreglow.recognition.observation.levels import Levels, warn_of_levels
from foreglow.recognition.observation.observations import Observation, validate_output
from foreglow.recognition.observation.streaming import (
    BLOCK,
    LIBRARIES,
    Source,
    counted,
    file_state,
    gather,
    open_quietly,
    open_source,
    validate_memory,
    with_progress,
)
from foreglow.recognition.results import (
    Classification,
    ModelCounts,
    classification_header,
    unclassified,
)
from foreglow.shipped import find_model
from foreglow.sky.instrument import Instrument

_BYTES_A_VALUE = 384  # of a block: data, features and layers for each Stokes and band, measured
_WRITING = 20  # bytes a pixel, where the whole sky is written at once


# what is found in a block, the greatest depth of its noise (0: nothing observed), and its levels
_TRAINING = "fg.train_recogniser, `foreglow recognize train --instrument`"
_Part = tuple[Classification, float, Levels]


@overload
def classify(maps: Maps | Source, *, out: None = None, **options: Any) -> Classification: ...
@overload
def classify(maps: Maps | Source, *, out: str | Path, **options: Any) -> ModelCounts: ...


def classify(  # pyright: ignore[reportInconsistentOverload]
    maps: Maps | Source,
    *,
    model: Recogniser | str | Path = "mock-four",
    noise: Noise | u.Quantity | None = None,
    noise_scale: float = 1.0,
    mask: Any = None,
    unit: str | None = None,
    nest: bool = False,
    frame: str | None = None,
    convention: str | None = None,
    common_fwhm: str | u.Quantity | None = None,
    context: ContextModel | str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    memory: str = "4 GiB",
    device: torch.device | str = "auto",
    workers: str | None = None,
    pool: Any = None,
    progress: Shown = None,
) -> Classification | ModelCounts:
    """Find the probability of each candidate model in each pixel of Q,U maps.

    Parameters
    ----------
    maps : mapping of band to path or array, array, or Source
        For every band of the model's instrument, named as the instrument does or by frequency in
        GHz, a Q,U FITS map, or an array, masked array or Quantity of shape (2, n_pix), or
        (3, n_pix) with I; or one array of shape (n_band, 2 or 3, n_pix). One Nside and frame for
        all; any ordering, unit and sky coverage. The maps must have one common resolution, or
        `common_fwhm` brings them to one.
        Pixels that are NaN, `healpy.UNSEEN` or masked are not observed.
    model : Recogniser, path or str
        A model, its directory, or the name of one that comes with foreglow.
    noise : mapping of band to path, text or Quantity, or Quantity, optional
        Of the bands whose noise is not the instrument's: a FITS map (as `open_noise_map` takes
        it), a sensitivity ("36 uK_CMB arcmin"), the rms in a pixel ("0.5 uK_CMB"), or Quantities
        of shape (n_pix,) or (2, n_pix): rms, variances or inverse variances by their unit; or of
        shape (3, n_pix), the covariance QQ, QU, UU or its inverse. An array that is no Quantity
        comes with words: `(array, "rms in uK_CMB")`, `(array, "hits of 1.2 mK_CMB")`.
    noise_scale : float
        Factor on the instrument's noise, for bands that `noise` leaves out.
    mask : path or array_like, shape (n_pix,), optional
        The pixels that count, of the Nside and frame of the maps: where it is True, or above zero.
        With `common_fwhm` the Nside is that which comes out. The others are taken as not observed.
        An array is in the ordering that `nest` says.
    unit : str, optional
        Of all maps that state none: of arrays that are no Quantities, of files without TUNIT.
    nest, frame, convention
        What arrays cannot say: whether pixels are NESTED; "G", "C" or "E"; "COSMO" or "IAU".
        A Quantity may state the last two in its `info.meta`, as those of `simulate_sky` do; noise
        that is an array has them of its map.
    common_fwhm : str or Quantity, optional
        Bring the maps, whose Nside and beams may differ, to one Gaussian beam ("70 arcmin", FWHM)
        first, at the Nside that fits it; noise is propagated. Until the end they lie in the folder
        of `out`, else in the system's temporary one, where `workers` must find them. `memory` does
        not bound this.
    context : ContextModel, path or str, optional
        Let the neighbours of a pixel have their say: for maps of regions wider than some pixels.
        That is done in this process, with the probabilities of the whole sky in memory; above Nside
        64 its features lie in files beside `out`, else in the folder of temporary files (TMPDIR).
    out : path, optional
        Write the table of `Classification.to_fits` there, a block of pixels at a time: maps
        larger than memory. It appears whole or not at all, NESTED if all maps are.
    overwrite : bool
        Replace `out` if it exists.
    memory : str
        With `out`, each process stays below it, Python and libraries (500 MiB) included.
    device : torch.device or str
        "auto", "cpu" or "cuda"; of a `Recogniser`, that on which it is.
    workers : str, optional
        "local:N", "slurm:FILE" or "tcp://HOST:PORT", see `open_workers`. They load the model from
        its directory. Maps, noise and mask that are arrays are written for them beside `out`,
        without it in the folder of temporary files (TMPDIR), as long as the work takes.
    pool : object with a method `map`, optional
        In the place of `workers`: of multiprocessing, mpi4py.futures, a client of Dask, ...
    progress : callable or bool, optional
        Called with pixels done and pixels in all; by default a bar shows them on a terminal or in a
        notebook, with False nothing does.

    Returns
    -------
    Classification, or ModelCounts if `out` is given

    Warns
    -----
    MapWarning
        If the noise of Q and U differs or correlates much: the network knows one rms for both.

    Raises
    ------
    InstrumentError
        If the bands are not those of the model.
    MapError
        If a map or the mask cannot be used, the memory does not suffice or `out` cannot be written.
    RunError
        If workers are asked for with a model of this process alone.
    """
    if out is not None:
        validate_output(out, overwrite)
    recogniser, file = _chosen(model, device)
    bands, pixels = recogniser.instrument, Pixels(nest, frame, convention)
    if isinstance(maps, Mapping):
        _validate_names(bands, maps)
    with (
        shown("classify", progress) as progress,
        map_over(workers, pool) as map_fn,
        source_of(
            bands, maps, noise, noise_scale, unit, pixels, common_fwhm, out, mask, memory
        ) as source,
        ExitStack() as work,
    ):
        opened = open_source(source)
        _validate_instrument(recogniser.instrument, opened)
        _warn_of_one_rms(opened)
        if isinstance(context, str | Path):
            context = ContextModel.load(context, next(recogniser.network.parameters()).device)
        if context is not None:
            validate_nside(opened.nside)
        if out is not None:
            validate_memory(memory, _bytes_needed(recogniser, opened, context), opened.bytes_loaded)
        blocks = opened.blocks(BLOCK)
        if map_fn is map:
            parts = _classify_here(recogniser, opened, blocks)
        else:
            loaded, there = _required(file), work.enter_context(for_workers(source, out))
            parts = map_fn(partial(_classify_elsewhere, loaded, there), blocks)
        found = _watched(recogniser, context, parts, blocks, progress)
        if out is None or context is not None:
            whole = gather(found, blocks)
            if context is not None:
                whole = replace(whole, probability=context.refine(whole.probability, out))
            if out is None:
                return whole
            whole.to_fits(out, overwrite)
            return whole.counts
        counts: list[ModelCounts] = []
        write_map_blocks(
            out, counted(found, counts), opened.nside, frame=opened.frame,
            ordering=opened.ordering, header=classification_header(recogniser.models),
            overwrite=overwrite,
        )  # fmt: skip
        return ModelCounts.of(counts)


def _chosen(
    model: Recogniser | str | Path, device: torch.device | str
) -> "tuple[Recogniser, _ModelFile | None]":
    """The model, and its file if it has one."""
    if isinstance(model, Recogniser):
        return model, None
    file = _ModelFile.at(model, pick_device(device))
    return _load(file), file


def _required(file: "_ModelFile | None") -> "_ModelFile":
    if file is None:
        raise RunError(
            "expected the directory or name of a model, which workers load by themselves, got a "
            "Recogniser; save it, and give its directory."
        )
    return file


@dataclass(frozen=True)
class _ModelFile:
    """A model and where it works, told so that a worker can load it."""

    name: str
    state: tuple[int, int] | None
    device: str

    @classmethod
    def at(cls, model: str | Path, device: torch.device | str) -> "_ModelFile":
        state = file_state(find_model(model) / "weights.safetensors")
        name = Path(model).absolute() if Path(model).exists() else model
        return cls(str(name), state, str(device))


@lru_cache(maxsize=1)
def _load(file: _ModelFile) -> Recogniser:
    return Recogniser.load(file.name, file.device)


def _classify_elsewhere(file: _ModelFile, source: Source, block: PixelBlock) -> _Part:
    """What a worker does: it opens for itself what it has not opened yet."""
    opened = open_quietly(source)
    return _classify_block(_load(file), opened, *opened.read(block))


def _classify_here(
    model: Recogniser, opened: Observation, blocks: Sequence[PixelBlock]
) -> Iterator[_Part]:
    # without a thread that reads ahead: it would take a core from those of the network
    for block in blocks:
        yield _classify_block(model, opened, *opened.read(block))


def _classify_block(
    model: Recogniser, opened: Observation, data: np.ndarray, sigma: np.ndarray
) -> _Part:
    n, depth = len(data), 0.0
    found = unclassified(model.models, opened.nside, opened.frame, n)
    seen = np.isfinite(data).all((1, 2)) & np.isfinite(sigma).all(1)
    if seen.any():
        if not seen.all():
            data, sigma = data[seen], sigma[seen]
        log_probability, p_value, none_fits = _answers(model, data, sigma)
        found.probability[:, seen] = log_probability.exp().T.cpu().numpy()
        found.p_value[seen] = p_value.cpu().numpy()
        found.none_fits[seen] = none_fits.cpu().numpy()
        depth = _depth(model, sigma)
    return found, depth, Levels.of(data, sigma)


def _watched(
    model: Recogniser,
    context: ContextModel | None,
    parts: Iterable[_Part],
    blocks: Sequence[PixelBlock],
    progress: Progress,
) -> Iterator[Classification]:
    """The parts of a sky as they come, and in the end what is to be said of them."""
    depth, levels = 0.0, Levels.none(model.instrument.n_band)
    for part, one, level in with_progress(parts, blocks, progress):
        depth, levels = max(depth, one), levels + level
        yield part
    if depth == 0.0:
        raise MapError(
            "no pixel is observed in every band, so nothing can be classified; check the masks and "
            "frames of the maps."
        )
    warn_of_levels(levels, model.instrument)
    _warn_beyond_training(model, depth)
    if context is not None and depth > context.noisiest:
        warn(
            f"the noise reaches {depth:.3g} times the instrument's at Nside {REFERENCE_NSIDE}; "
            f"what neighbours say beyond {context.noisiest:g} times, up to which they were taught, "
            "is surer than it should be. Lower the Nside of the maps.", NoiseRangeWarning,
        )  # fmt: skip


def _bytes_needed(model: Recogniser, opened: Observation, context: ContextModel | None) -> int:
    needed = LIBRARIES + opened.bytes_loaded + _BYTES_A_VALUE * 2 * model.instrument.n_band * BLOCK
    if context is not None:
        n_model, n_pix = len(model.models), hp.nside2npix(opened.nside)
        needed += (4 * n_model + 5) * n_pix  # a classification
        needed += max(context.bytes_for(opened.nside, n_model), _WRITING * n_pix)
    return needed


def _validate_names(instrument: Instrument, maps: Mapping[Any, Any]) -> None:
    for band in maps:
        try:
            by_band(instrument, {band: None}, "map")
        except InstrumentError as error:
            raise InstrumentError(
                f"{error} The model knows these bands only; train one for others ({_TRAINING})."
            ) from error


def _validate_instrument(instrument: Instrument, opened: Observation) -> None:
    if opened.instrument != instrument:
        raise InstrumentError(
            f"the model was trained for {instrument.name!r}, but the maps are of "
            f"{opened.instrument.name!r}, with other bands; train a model for them "
            f"({_TRAINING})."
        )
    given = {b: "" for b, one in zip(instrument.band, opened.maps, strict=True) if one is not None}
    _require_every_band(instrument, given)


def _warn_of_one_rms(opened: Observation) -> None:
    for one in opened.noise:
        if isinstance(one, NoiseMap) and not one.alike:
            warn_of_one_rms(
                one,
                "the network knows one rms for both, the root of their mean square (the fits use "
                "it all)",
            )


def _require_every_band(instrument: Instrument, maps: Mapping[str, str | Path]) -> None:
    given = by_band(instrument, maps, "map")
    missing = [name for k, name in enumerate(instrument.band) if k not in given]
    if missing:
        raise InstrumentError(
            f"the model was trained for the {instrument.n_band} bands of {instrument.name!r}; maps "
            f"came for {len(given)}, and none for {', '.join(missing)}. Give a map for every band, "
            f"or train a model for the bands you have ({_TRAINING})."
        )


def _answers(
    model: Recogniser, data: np.ndarray, sigma: np.ndarray
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities (n, n_class), p-values (n,) and where none fits (n,)."""
    device = next(model.network.parameters()).device
    vectors, rms = torch.from_numpy(data).to(device), torch.from_numpy(sigma).to(device)
    log_probability = model.log_probability(vectors, rms)
    floor = NOISE_FLOOR * model.instrument.noise_rms(REFERENCE_NSIDE)
    rms = torch.maximum(rms, torch.from_numpy(floor).to(rms))
    goodness = goodness_of_fit(model.models, model.instrument, vectors, rms, log_probability)
    return log_probability, *goodness


def _depth(model: Recogniser, sigma: np.ndarray) -> float:
    """The noisiest vector, in units of the instrument at Nside 16, over the bands' mean log."""
    reference = model.instrument.noise_rms(REFERENCE_NSIDE)
    floor = np.finfo(np.float32).tiny
    if (sigma == sigma[0]).all():  # no map of the noise
        sigma = sigma[:1]
    return float(np.exp(np.log(np.maximum(sigma, floor) / reference).mean(1)).max())


def _warn_beyond_training(model: Recogniser, depth: float) -> None:
    training = model.card.get("training", {})
    if training.get("regime") != "conditioned":
        return
    high = training["noise_range"][1]
    if depth > high:
        warn(
            f"the noise reaches {depth:.3g} times the instrument's at Nside {REFERENCE_NSIDE}, but "
            f"the model was trained up to {high:g} times; probabilities there are extrapolated. "
            "Lower the Nside of the maps, or train with a wider noise range.",
            NoiseRangeWarning,
        )


class NoiseRangeWarning(UserWarning):
    """The noise of the maps lies beyond what the model was trained for."""
