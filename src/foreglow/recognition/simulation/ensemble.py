"""Many simulated skies in one Zarr store, a chunk a sky (of large skies, a chunk a band).

A realisation is there once its seed is: that is written last. Chunks are not compressed, so that
a block of pixels is read from a mapped file, without the rest of its sky.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from foreglow.compute.progress import Progress
from foreglow.compute.workers import MapFn
from foreglow.errors import RunError
from foreglow.files import new_directory, remove_half_written
from foreglow.maps import healpix as hp
from foreglow.maps.blocks import PixelBlock
from foreglow.maps.memory import release_pages
from foreglow.recognition.models import definitions_of
from foreglow.recognition.observation.band_noise import validate_noise_scale
from foreglow.recognition.observation.observations import Observation
from foreglow.recognition.observation.streaming import file_state
from foreglow.recognition.simulation.skies import SkyRecipe
from foreglow.recognition.simulation.systematics import NO_SYSTEMATICS
from foreglow.sky.instrument import instrument_of
from foreglow.sky.templates import Templates, load_templates

FORMAT = "foreglow ensemble of skies"
VERSION = 1
_LARGEST_CHUNK = 1 << 28  # bytes
_QUICK_NSIDE = 64  # of templates that are made, not read
_ABSENT = -1  # the seed of a realisation that is not there yet


def make_ensemble(
    path: str | Path,
    recipe: SkyRecipe,
    n: int,
    seed: int,
    *,
    resume: bool = False,
    map_fn: MapFn = map,
    progress: Progress | None = None,
) -> int:
    """Simulate many skies into one store: `qu`, `label` and `seed`, a realisation a row.

    Realisation k is the sky that `recognition.simulate.simulate_sky` makes with `seed` + k.

    Parameters
    ----------
    path : path
        Folder to make.
    recipe : SkyRecipe
    n : int
        Realisations.
    seed : int
        That of the first.
    resume : bool
        Go on with an interrupted run: realisations that are there are kept.
    map_fn : callable
        `map`, or that of `open_workers`: workers write into the store, which they must see.
    progress : callable, optional
        Called with realisations done and in all.

    Returns
    -------
    int
        Realisations made now.

    Raises
    ------
    RunError
        If `path` exists and `resume` is not set, or was begun with other settings.
    WriteError
        If `path` cannot be written.
    """
    path = Path(path)
    settings = _settings(recipe, n, seed)
    templates = _TemplateFiles.of(recipe)
    _validate_recipe(recipe, templates, seed)
    if path.exists():
        _validate_resume(path, settings, resume)
    else:
        _begin(path, recipe, n, settings)
    missing = np.flatnonzero(_seeds(path) == _ABSENT).tolist()
    work = partial(_make_realisation, str(path.absolute()), recipe, templates, seed)
    for done, _ in enumerate(map_fn(work, missing), n - len(missing) + 1):
        if progress is not None:
            progress(done, n)
    remove_half_written(path)
    return len(missing)


@dataclass(frozen=True)
class EnsembleSky:
    """One realisation of a store, as a source of maps; hashable, and small to send to a worker.

    Parameters
    ----------
    path : str
    realisation : int
        From 0.
    noise_scale : float or None
        Factor on the instrument's noise that is assumed; None: what the store was made with.
    state : tuple or None
        Size and time of the store's description, so that one that was replaced is opened anew.
    """

    path: str
    realisation: int
    noise_scale: float | None
    state: tuple[int, int] | None

    @classmethod
    def of(
        cls, path: str | Path, realisation: int, noise_scale: float | None = None
    ) -> "EnsembleSky":
        """With an absolute path, as a worker may be elsewhere."""
        path = Path(path).absolute()
        return cls(str(path), realisation, noise_scale, file_state(path / "zarr.json"))

    def open(self) -> Observation:
        """Open its bands.

        Raises
        ------
        RunError
            If there is no such store or realisation.
        """
        path = Path(self.path)
        settings = stored_settings(path)
        seeds = _seeds(path)
        if not 0 <= self.realisation < len(seeds):
            raise RunError(
                f"{path}: expected a realisation from 0 to {len(seeds) - 1}, got "
                f"{self.realisation}; give realisation= as one of them"
            )
        if seeds[self.realisation] == _ABSENT:
            raise RunError(
                f"{path}: realisation {self.realisation} has not been made yet; finish the store "
                "by recognize simulate with resume=True"
            )
        instrument, nside = instrument_of(settings["instrument"]), int(settings["nside"])
        scale = settings["noise_scale"] if self.noise_scale is None else self.noise_scale
        bands = _open_bands(path, self.realisation, nside)
        noise = tuple(float(rms) for rms in scale * instrument.noise_rms(nside))
        return Observation(instrument, tuple(bands), noise, nside, "G")


@dataclass(frozen=True, eq=False)
class EnsembleBand:
    """Q,U of one band of a realisation [uK_RJ], opened for streaming.

    Parameters
    ----------
    nside : int
    qu : ndarray, float32, shape (2, n_pix)
        Mapped from its chunk.
    """

    nside: int
    qu: np.ndarray = field(repr=False)
    frame: str = "G"
    unit: str = "uK_RJ"
    ordering: str = "RING"
    beam_arcmin: float | None = None

    def read(self, pixels: np.ndarray | PixelBlock) -> np.ndarray:
        """Q, U of some pixels, shape (2, n)."""
        numbers = pixels.numbers("RING") if isinstance(pixels, PixelBlock) else pixels
        found = np.array(self.qu[:, numbers])
        release_pages(self.qu)
        return found


def stored_settings(path: Path) -> dict[str, Any]:
    """What a store was made with.

    Raises
    ------
    RunError
        If it is no ensemble of ours.
    """
    try:
        table = json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"]
        if (table["format"], table["version"]) == (FORMAT, VERSION):
            return table["settings"]
        reason = f"format {table['format']} {table['version']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error)
    raise RunError(
        f"{path}: expected an ensemble of skies ({FORMAT} {VERSION}), got something else "
        f"({reason}); `foreglow recognize simulate --realisations` makes one"
    )


def _settings(recipe: SkyRecipe, n: int, seed: int) -> dict[str, Any]:
    table = {**asdict(recipe), "realisations": n, "seed": seed}
    if recipe.systematics == NO_SYSTEMATICS:
        del table["systematics"]
    if own := definitions_of(recipe.models):
        table["definitions"] = own
    return json.loads(json.dumps(table))


def _validate_recipe(recipe: SkyRecipe, templates: "_TemplateFiles", seed: int) -> None:
    """Let mistakes show before there is a store."""
    validate_noise_scale(recipe.noise_scale)
    recipe.label(seed)
    if templates.state is not None or recipe.nside <= _QUICK_NSIDE:
        _load(templates)
    else:
        load_templates(templates.sky, _QUICK_NSIDE)


def _validate_resume(path: Path, settings: dict[str, Any], resume: bool) -> None:
    if not resume:
        raise RunError(
            f"{path} exists; give another out=, or resume=True to go on with an interrupted run."
        )
    before = stored_settings(path)
    differ = [key for key in settings if before.get(key) != settings[key]]
    if differ:
        raise RunError(
            f"{path} was begun with another {', '.join(differ)}; resume with the same, or give "
            "another out=."
        )


def _begin(path: Path, recipe: SkyRecipe, n: int, settings: dict[str, Any]) -> None:
    """An empty store; it appears under its name with all that describes it."""
    n_band, n_pix = recipe.instrument.n_band, hp.nside2npix(recipe.nside)
    together = n_band if 8 * n_band * n_pix <= _LARGEST_CHUNK else 1
    with new_directory(path) as temporary:
        group = zarr.open_group(temporary, mode="w", zarr_format=3)
        _add_array(
            group, "qu", (n, 2, n_band, n_pix), (1, 2, together, n_pix), "float32",
            ("realisation", "stokes", "band", "pixel"), np.nan, {"units": "uK_RJ"},
        )  # fmt: skip
        _add_array(group, "label", (n, n_pix), (1, n_pix), "int16", ("realisation", "pixel"), -1)
        _add_array(group, "seed", (n,), (1,), "int64", ("realisation",), _ABSENT)
        group.attrs.update(
            {
                "format": FORMAT,
                "version": VERSION,
                "ordering": "RING",
                "frame": "G",
                "polarisation": "COSMO",
                "models": list(map(str, recipe.models)),
                "bands": list(recipe.instrument.band),
                "noise_rms_uk_rj": (
                    recipe.noise_scale * recipe.instrument.noise_rms(recipe.nside)
                ).tolist(),
                "made_by": f"foreglow {version('foreglow')}",
                "settings": settings,
            }
        )


def _add_array(
    group: Any,
    name: str,
    shape: Sequence[int],
    chunks: Sequence[int],
    dtype: str,
    dimensions: Sequence[str],
    fill: float,
    attributes: dict[str, str] | None = None,
) -> None:
    group.create_array(
        name, shape=shape, chunks=chunks, dtype=dtype, dimension_names=dimensions, fill_value=fill,
        compressors=None, attributes=attributes or {}, config={"write_empty_chunks": True},
    )  # fmt: skip


def _seeds(path: Path) -> np.ndarray:
    array: Any = zarr.open_group(path, mode="r")["seed"]
    return np.asarray(array[:])


@dataclass(frozen=True)
class _TemplateFiles:
    """Templates by their name, told so that a worker loads them once."""

    sky: str
    nside: int
    state: tuple[int, int] | None

    @classmethod
    def of(cls, recipe: SkyRecipe) -> "_TemplateFiles":
        folder = Path(recipe.sky).absolute()
        sky = str(folder) if folder.is_dir() else recipe.sky
        return cls(sky, recipe.nside, file_state(folder / "sky.toml"))


@lru_cache(maxsize=1)
def _load(templates: _TemplateFiles) -> Templates:
    return load_templates(templates.sky, templates.nside)


def _make_realisation(
    path: str, recipe: SkyRecipe, templates: _TemplateFiles, first_seed: int, k: int
) -> int:
    """Simulate and write one; its seed, last, says that it is whole."""
    seed = first_seed + k
    drawn = recipe.draw(_load(templates), recipe.label(seed), seed)
    group: Any = zarr.open_group(path, mode="r+")
    qu = group["qu"]
    if qu.chunks[2] == 1:
        for band, one in enumerate(drawn.bands()):
            qu[k, :, band] = one
    else:
        qu[k] = np.stack(list(drawn.bands()), 1)
    group["label"][k] = drawn.label.astype(np.int16)
    group["seed"][k] = seed
    return k


def _open_bands(path: Path, realisation: int, nside: int) -> list[EnsembleBand]:
    array: Any = zarr.open_group(path, mode="r")["qu"]
    _, _, n_band, n_pix = array.shape
    together = array.chunks[2]
    bands: list[EnsembleBand] = []
    try:
        for first in range(0, n_band, together):
            key = array.metadata.encode_chunk_key((realisation, 0, first // together, 0))
            shape = (2, together, n_pix)
            chunk = np.memmap(path / "qu" / key, "<f4", "r", shape=shape)
            bands += [EnsembleBand(nside, chunk[:, k]) for k in range(together)]
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: realisation {realisation} is damaged ({error}); make it again"
        ) from error
    return bands
