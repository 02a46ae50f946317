"""Fit and choose among models in every pixel of a user's maps: files or arrays."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from astropy import units as u

from foreglow.compute.device import pick_device
from foreglow.compute.progress import Progress, Shown, shown
from foreglow.compute.workers import map_over
from foreglow.errors import InstrumentError, MapError, ModelError
from foreglow.maps.blocks import PixelBlock
from foreglow.maps.noise_map import NoiseMap
from foreglow.maps.write import write_map_blocks
from foreglow.recognition.fits.choice import CRITERIA, MODEL, choose
from foreglow.recognition.fits.skymodel import SkyModel, bands_needed, candidate
from foreglow.recognition.models import MODELS, models_of
from foreglow.recognition.observation.band_noise import Noise
from foreglow.recognition.observation.given import (
    Maps,
    Pixels,
    for_workers,
    is_source,
    source_of,
)
from foreglow.recognition.observation.levels import Levels, warn_of_empty_maps, warn_of_levels
from foreglow.recognition.observation.observations import Observation, validate_output
from foreglow.recognition.observation.patches import Patches
from foreglow.recognition.observation.streaming import (
    BLOCK,
    LIBRARIES,
    Source,
    counted,
    gather,
    open_quietly,
    open_source,
    validate_memory,
    with_progress,
)
from foreglow.recognition.results import FitCounts, FittedSky, put, unfitted
from foreglow.sky.instrument import Instrument
from foreglow.sky.instrument_files import load_instrument

# of a block, for each Stokes and band: what a fit holds, what is kept of each, and what a fit holds
# besides where the noise of Q and U differs; measured
_BYTES_A_VALUE, _BYTES_A_MODEL, _BYTES_UNLIKE = 500, 60, 600


@dataclass(frozen=True)
class FitSetup:
    """What is fitted, and by what a model is chosen; hashable, and small to send to a worker.

    Parameters are those of `fit`; the device by its name.
    """

    models: tuple[str, ...]
    criterion: str = "evidence"
    curvature: float | None = None
    level: float = 1e-3
    device: str = "cpu"

    def __post_init__(self):
        _validate(self.models, self.criterion, self.curvature, self.level)

    @property
    def candidates(self) -> tuple[SkyModel, ...]:
        """What is fitted."""
        return tuple(candidate(name, self.curvature) for name in self.models)

    @property
    def free(self) -> tuple[str, ...]:
        """What is free in any model."""
        return tuple(dict.fromkeys(name for model in self.candidates for name in model.free))

    @property
    def bands_needed(self) -> int:
        """Bands that leave every model a degree of freedom."""
        return bands_needed(self.candidates)


@overload
def fit(
    maps: Maps | Source,
    instrument: Instrument | str | Path | None = None,
    *,
    out: None = None,
    **options: Any,
) -> FittedSky: ...
@overload
def fit(
    maps: Maps | Source,
    instrument: Instrument | str | Path | None = None,
    *,
    out: str | Path,
    **options: Any,
) -> FitCounts: ...


def fit(  # pyright: ignore[reportInconsistentOverload]
    maps: Maps | Source,
    instrument: Instrument | str | Path | None = None,
    *,
    models: str | Path | Sequence[str] | Mapping[str, Any] = "four",
    criterion: str = "evidence",
    curvature: float | None = None,
    level: float = 1e-3,
    patches: Any = None,
    noise: Noise | u.Quantity | None = None,
    noise_scale: float = 1.0,
    mask: Any = None,
    unit: str | None = None,
    nest: bool = False,
    frame: str | None = None,
    convention: str | None = None,
    common_fwhm: str | u.Quantity | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    memory: str = "4 GiB",
    device: torch.device | str = "auto",
    workers: str | None = None,
    pool: Any = None,
    progress: Shown = None,
) -> FittedSky | FitCounts:
    """Fit each candidate model to each pixel or patch of Q,U maps, and choose.

    No training is needed, and not every band: a pixel is fitted with the bands that observed it.

    Parameters
    ----------
    maps : mapping of band to path or array, array, or Source
        As `classify` takes them, for any of the bands.
    instrument : Instrument, str, path or table
        Or what `load_instrument` takes; that of a `Source` is its own.
    models : str, path, sequence of str or mapping
        A problem (curvature, ame, four), names of `MODELS`, or the user's own: a TOML file, or a
        mapping of name to `ForegroundModel`; as `models_of` takes them.
    criterion : str
        By which the best model is chosen: "evidence", "bic", "aic" or "chi2" (reduced).
    curvature : float, optional
        C of the curved models; by default it is free.
    level : float
        The p-value under which a model does not fit.
    patches : int, path, array_like of shape (n_pix,), or mapping of str to such, optional
        Pixels of a patch share their spectral parameters, and so their model, with amplitudes of
        their own: the pixels of this Nside; or the number of each pixel's patch from 0, a map of
        the Nside and frame of the maps, an array in the ordering that `nest` says, negative, NaN or
        masked where a pixel is left out. A mapping has patches of "beta_s", "curvature" and
        "model" (where one model holds, whatever is shared) each; what it lacks each pixel has for
        itself: {"curvature": 4} seeks one C and one model in a pixel of Nside 4, with a beta_s
        for each pixel. By default every pixel is by itself.
    noise, noise_scale, mask, unit, nest, frame, convention, common_fwhm
        As `classify` takes them.
    out, overwrite, memory, workers, pool, progress
        As `classify` takes them; the file is that of `FittedSky.to_fits`.
    device : torch.device or str
        Where the fits are made, in float64.

    Returns
    -------
    FittedSky, or FitCounts if `out` is given

    Raises
    ------
    ModelError
        If a model or the criterion does not exist, `curvature` or `level` make no sense, or patches
        are of what no model has free, or those of a model with free dust.
    InstrumentError
        If the bands are not the instrument's or too few, or the noise of one is zero.
    MapError
        If a map, the mask or the patches cannot be used, no pixel is observed in bands enough, the
        memory does not suffice or `out` cannot be written.
    """
    chosen = models_of(models, least=1)
    setup = FitSetup(chosen, criterion, curvature, level, str(pick_device(device)))
    given = GivenSky(
        instrument, maps, noise, noise_scale, unit, Pixels(nest, frame, convention), common_fwhm,
        mask, patches,
    )  # fmt: skip
    output = Output(out, overwrite, memory, workers, pool, progress)
    names = (MODEL, *setup.free)
    return fit_by_blocks("fit", setup, given, output, _fit_block, FitCounts, names)


@dataclass(frozen=True)
class GivenSky:
    """Maps and what is said of them, as `fit` takes it."""

    instrument: Any
    maps: Any
    noise: Any
    noise_scale: float
    unit: str | None
    pixels: Pixels
    common_fwhm: Any
    mask: Any
    patches: Any


@dataclass(frozen=True)
class Output:
    """Where results go, and who works, as `fit` takes it."""

    out: str | Path | None
    overwrite: bool
    memory: str
    workers: str | None
    pool: Any
    progress: Shown


def fit_by_blocks(
    title: str,
    setup: FitSetup,
    given: GivenSky,
    output: Output,
    work: Callable[[FitSetup, Observation, Patches, PixelBlock], tuple[Any, Levels]],
    counts: Any,
    names: Sequence[str],
    check: Callable[[Observation], None] = lambda _: None,
) -> Any:
    """What `work` finds in all blocks of a sky: in memory, or its counts if it goes to a file.

    Parameters
    ----------
    title : str
        Of the progress.
    setup : FitSetup
    given : GivenSky
    output : Output
    work : callable
        Of the setup, the open sky, its patches and a block: a table of maps and the levels.
    counts : type
        Of the table's `counts`: its `of` combines those of several blocks.
    names : sequence of str
        Of what there may be patches.
    check : callable, optional
        Of the open sky, before the work.
    """
    bands, out = _instrument(given.instrument, given.maps), output.out
    if out is not None:
        validate_output(out, output.overwrite)
    with (
        shown(title, output.progress) as progress,
        map_over(output.workers, output.pool) as map_fn,
        source_of(
            bands, given.maps, given.noise, given.noise_scale, given.unit, given.pixels,
            given.common_fwhm, out, given.mask, output.memory,
        ) as source,
        ExitStack() as stack,
    ):  # fmt: skip
        opened = open_source(source)
        _validate_bands(setup, opened)
        check(opened)
        shared = Patches.of(given.patches, names, opened.nside, opened.frame, given.pixels.nest)
        blocks = shared.blocks(opened.blocks(BLOCK))
        if out is not None:
            needed = _bytes_needed(setup, opened, blocks.size)
            validate_memory(output.memory, needed, opened.bytes_loaded)
        if map_fn is map:
            parts = map(partial(work, setup, opened, shared), blocks)
        else:
            there = stack.enter_context(for_workers(source, out))
            parts = map_fn(partial(_elsewhere, work, setup, there, shared), blocks)
        found = _watched(setup, opened, parts, blocks, progress)
        if out is None:
            return gather(found, blocks)
        first = next(found)
        kept: list[Any] = []
        write_map_blocks(
            out, counted(chain([first], found), kept), opened.nside, frame=opened.frame,
            ordering=blocks.ordering, header=first.header(), overwrite=output.overwrite,
        )  # fmt: skip
        return counts.of(kept)


def _bytes_needed(setup: FitSetup, opened: Observation, size: int) -> int:
    a_value = _BYTES_A_VALUE + _BYTES_A_MODEL * len(setup.models)
    if opened.bands_of_unlike_noise:
        a_value += _BYTES_UNLIKE
    return LIBRARIES + opened.bytes_loaded + a_value * 2 * opened.instrument.n_band * size


def _instrument(given: Instrument | str | Path | None, maps: Maps | Source) -> Instrument | None:
    """The instrument that was given; what is opened by itself brings its own."""
    if given is not None:
        return given if isinstance(given, Instrument) else load_instrument(given)
    if not is_source(maps):
        raise InstrumentError(
            "expected the instrument of the maps, got none; give a preset such as 'wmap+planck', a "
            "TOML file or an Instrument."
        )
    return None


def _elsewhere(
    work: Callable[[FitSetup, Observation, Patches, PixelBlock], Any],
    setup: FitSetup,
    source: Source,
    shared: Patches,
    block: PixelBlock,
) -> Any:
    """What a worker does: it opens for itself what it has not opened yet."""
    return work(setup, open_quietly(source), shared, block)


def _fit_block(
    setup: FitSetup, opened: Observation, shared: Patches, block: PixelBlock
) -> tuple[FittedSky, Levels]:
    data, sigma, noise = opened.read_all_noise(block)
    observed = np.isfinite(data).all(1) & np.isfinite(sigma)
    enough = np.flatnonzero(observed.sum(1) >= setup.bands_needed)
    found = unfitted(
        setup.models, setup.criterion, setup.level, opened.nside, opened.frame, len(block),
        shared.told,
    )  # fmt: skip
    if len(enough):
        values, errors = (torch.from_numpy(a[enough]).to(setup.device) for a in (data, noise))
        bands = opened.instrument.bands.to(setup.device)
        patches = shared.labels(setup.free, block, enough, values.device)
        choice = choose(setup.models, bands, values, errors, setup.curvature, patches)
        put(found, enough, choice, block.ring[enough])
    return found, Levels.of(data[enough], sigma[enough])


def _watched(
    setup: FitSetup,
    opened: Observation,
    parts: Iterable[tuple[Any, Levels]],
    blocks: Sequence[PixelBlock],
    progress: Progress,
) -> Iterator[Any]:
    """The parts of a sky as they come, and in the end what is to be said of them."""
    fitted, levels = False, Levels.none(opened.instrument.n_band)
    for part, level in with_progress(parts, blocks, progress):
        fitted, levels = fitted or bool(part.fitted.any()), levels + level
        yield part
    if not fitted:
        raise MapError(
            f"no pixel is observed in {setup.bands_needed} bands, as the fit of "
            f"{setup.models[-1]} needs; check the masks and frames of the maps."
        )
    warn_of_levels(levels, opened.instrument)
    warn_of_empty_maps(levels, opened.instrument, [one is not None for one in opened.maps])


def _validate_bands(setup: FitSetup, opened: Observation) -> None:
    needed = setup.bands_needed
    band = opened.instrument.band
    given = [k for k, one in enumerate(opened.maps) if one is not None]
    if len(given) < needed:
        raise InstrumentError(
            f"expected maps of {needed} bands at least, to fit these models, got {len(given)} "
            f"({', '.join(band[k] for k in given)}); give more bands, or fewer models."
        )
    silent = [
        band[k] for k in given
        if not isinstance(rms := opened.noise[k], NoiseMap) and not rms > 0
    ]  # fmt: skip
    if silent:
        raise InstrumentError(
            f"expected noise above zero, but that of {', '.join(silent)} is 0; a fit weighs the "
            "bands by their noise: state it, or a noise scale above 0."
        )


def _validate(
    models: tuple[str, ...], criterion: str, curvature: float | None, level: float
) -> None:
    curved = any(candidate(name).free.keys() >= {"curvature"} for name in models)
    if criterion not in CRITERIA:
        raise ModelError(f"expected a criterion among {', '.join(CRITERIA)}, got {criterion!r}.")
    if not 0 < level < 1:
        raise ModelError(f"expected a p-value between 0 and 1 as level, got {level:g}.")
    if curvature is None:
        return
    if not (np.isfinite(curvature) and curvature != 0):
        raise ModelError(
            f"expected a curvature other than 0, such as {MODELS['curved'].curvature}, got "
            f"{curvature:g}; leave it out to fit it."
        )
    if not curved:
        raise ModelError(
            f"a curvature came, but none of the models {', '.join(models)} is curved; leave it out."
        )
