"""What a run keeps of a sky so that its report can show it pixel by pixel.

A `SkyView` lies in the run directory as ``maps/view_NAME.npz``: arrays, and a card in JSON that
says which array is what. Nothing in it is pickled, and none of it depends on the page that shows
it.
"""

import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from foreglow.errors import RunError, ShapeError
from foreglow.files import make_folder, new_file
from foreglow.maps import healpix as hp
from foreglow.report.page.mollweide import nside_of

MAX_NSIDE = 64
"""Finer maps are averaged to this Nside: what a page shows must not outgrow it."""

Stretch = Literal["linear", "log", "asinh"]


@dataclass(frozen=True, eq=False)
class Layer:
    """One map of a sky.

    Attributes
    ----------
    name, group, unit : str
        Layers of a group are listed together.
    values : ndarray, shape (n_pix,)
        RING, Galactic; NaN where there is none.
    stretch : {"linear", "log", "asinh"}
        Of the colours.
    is_error : bool
        Errors have colours of their own.
    angle_deg : ndarray, shape (n_pix,), optional
        Directions to draw on the map, from south towards east (COSMO); NaN where there is none.
    """

    name: str
    group: str
    unit: str
    values: NDArray
    stretch: Stretch = "linear"
    is_error: bool = False
    angle_deg: NDArray | None = None


@dataclass(frozen=True, eq=False)
class FittedModel:
    """A model fitted to every pixel.

    Attributes
    ----------
    name : str
    brightness : ndarray, shape (2, n_band, n_pix)
        Its Q, U [uK_RJ]; NaN where there is no fit.
    numbers : mapping of str to ndarray, shape (n_pix,)
        What to say of the fit, by name: chi-square, spectral parameters.
    """

    name: str
    brightness: NDArray
    numbers: Mapping[str, NDArray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class PolarisationSpectra:
    """Q and U of every pixel in all bands.

    Attributes
    ----------
    frequency_ghz : ndarray, shape (n_band,)
        Ascending.
    data : ndarray, shape (2, n_band, n_pix)
        Q, U [uK_RJ].
    sigma : ndarray, shape (n_band,)
        Noise rms of Q and of U [uK_RJ]; 0 where there is none.
    fits : tuple of FittedModel
    """

    frequency_ghz: NDArray
    data: NDArray
    sigma: NDArray
    fits: tuple[FittedModel, ...] = ()


@dataclass(frozen=True, eq=False)
class LineSpectra:
    """The 21 cm line of every pixel.

    Attributes
    ----------
    velocity_kms : ndarray, shape (n_channel,)
        LSRK, ascending.
    tb : ndarray, shape (n_channel, n_pix)
        K; NaN where masked.
    """

    velocity_kms: NDArray
    tb: NDArray


@dataclass(frozen=True, eq=False)
class SkyView:
    """A sky to look at pixel by pixel; RING, Galactic.

    Attributes
    ----------
    name : str
        Of its file; views are shown in the order of their names.
    title, note : str
    layers : tuple of Layer
        Maps that are neither data nor probabilities.
    spectra : PolarisationSpectra or LineSpectra
    classes : tuple of str
        Candidate models, if the sky was classified.
    truth : ndarray of int, shape (n_pix,), optional
        Place in `classes` of the true model.
    chances : mapping of str to ndarray, shape (n_class, n_pix)
        Probability of each class, by the method that gives it.
    shown_from : int, optional
        Nside of the maps before they were averaged.
    """

    name: str
    title: str
    note: str
    layers: tuple[Layer, ...]
    spectra: PolarisationSpectra | LineSpectra
    classes: tuple[str, ...] = ()
    truth: NDArray | None = None
    chances: Mapping[str, NDArray] = field(default_factory=dict)
    shown_from: int | None = None

    def __post_init__(self) -> None:
        n_pix = self._per_pixel.shape[-1]
        nside_of(n_pix)
        for name, array in self._arrays():
            if array.shape[-1] != n_pix:
                raise ShapeError(
                    f"Expected {n_pix} pixels in {name} of the view {self.name!r}, got "
                    f"{array.shape[-1]}. Bring all its maps to one Nside."
                )

    @property
    def nside(self) -> int:
        """Nside of its maps."""
        return nside_of(self._per_pixel.shape[-1])

    @property
    def _per_pixel(self) -> NDArray:
        spectra = self.spectra
        return spectra.data if isinstance(spectra, PolarisationSpectra) else spectra.tb

    def _arrays(self) -> Iterator[tuple[str, NDArray]]:
        """Everything with a value a pixel, by a name."""
        for layer in self.layers:
            yield f"layer {layer.name!r}", layer.values
            if layer.angle_deg is not None:
                yield f"angles of layer {layer.name!r}", layer.angle_deg
        for name, values in self.chances.items():
            yield f"chances {name!r}", values
        if self.truth is not None:
            yield "truth", self.truth
        if isinstance(self.spectra, PolarisationSpectra):
            for fit in self.spectra.fits:
                yield f"fit {fit.name!r}", fit.brightness
                for name, values in fit.numbers.items():
                    yield f"{name!r} of fit {fit.name!r}", values


def averaged(values: NDArray, nside: int = MAX_NSIDE) -> NDArray:
    """Maps at a lower Nside: the mean of the finite pixels in each; as they are if coarse already.

    Parameters
    ----------
    values : ndarray, shape (..., n_pix)
        RING; NaN where there is none.
    nside : int
        A power of two times below that of the maps, or above it.

    Returns
    -------
    ndarray, float32, shape (..., 12 nside^2)
        RING; NaN where no pixel is finite.
    """
    n_pix = values.shape[-1]
    fine = nside_of(n_pix)
    if fine <= nside:
        return np.asarray(values, np.float32)
    nested = np.asarray(values)[..., hp.nest2ring(fine, np.arange(n_pix))]
    nested = nested.reshape(*nested.shape[:-1], 12 * nside**2, -1)
    seen = np.isfinite(nested)
    total = np.where(seen, nested, 0.0).sum(-1, dtype=np.float64)
    count = seen.sum(-1)
    mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return mean[..., hp.ring2nest(nside, np.arange(12 * nside**2))].astype(np.float32)


def save_view(view: SkyView, folder: Path) -> Path:
    """Write a view as ``view_NAME.npz``, whole or not at all.

    Parameters
    ----------
    view : SkyView
    folder : Path
        Made if it is missing.
    """
    arrays: dict[str, NDArray] = {}
    card = _packed(view, arrays)
    make_folder(folder)
    path = folder / f"view_{view.name}.npz"
    with new_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, card=np.array(json.dumps(card)), **arrays)
    return path


def load_view(path: Path) -> SkyView:
    """Read what `save_view` wrote.

    Raises
    ------
    RunError
        If it is no such file, or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return _unpacked(json.loads(str(file["card"])), file)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(
            f"Expected a sky to show in {path}, got: {error}. Run the experiment again, or remove "
            "the file to go without it."
        ) from error


def saved_views(folder: Path) -> list[Path]:
    """The views of a folder in the order to show."""
    return sorted(folder.glob("view_*.npz"))


_KINDS = {
    kind.__name__: kind for kind in (SkyView, Layer, FittedModel, PolarisationSpectra, LineSpectra)
}


def _packed(value: Any, arrays: dict[str, NDArray]) -> Any:
    """A value in JSON; its arrays go into `arrays`, and their names into the JSON."""
    if isinstance(value, np.ndarray):
        name = f"a{len(arrays)}"
        arrays[name] = value.astype(np.float32) if value.dtype == np.float64 else value
        return {"array": name}
    if type(value).__name__ in _KINDS:
        parts = {f.name: _packed(getattr(value, f.name), arrays) for f in fields(value)}
        return {"kind": type(value).__name__, "parts": parts}
    if isinstance(value, Mapping):
        return {"mapping": {str(k): _packed(v, arrays) for k, v in value.items()}}
    if isinstance(value, tuple):
        return [_packed(item, arrays) for item in value]
    return value


def _unpacked(value: Any, arrays: Mapping[str, NDArray]) -> Any:
    if isinstance(value, list):
        return tuple(_unpacked(item, arrays) for item in value)
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]]
    if "mapping" in value:
        return {k: _unpacked(v, arrays) for k, v in value["mapping"].items()}
    parts = {k: _unpacked(v, arrays) for k, v in value["parts"].items()}
    return _KINDS[value["kind"]](**parts)
