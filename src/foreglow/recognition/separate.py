"""Separate the components of a user's Q,U maps, with the model that holds in each pixel."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from astropy import units as u
from astropy.io import fits
from numpy.typing import NDArray

from foreglow.compute.device import pick_device
from foreglow.compute.progress import Shown
from foreglow.errors import MapError, ModelError, with_nearest
from foreglow.maps.blocks import PixelBlock
from foreglow.maps.conventions import angle_to_galactic, turn_covariance
from foreglow.maps.io import IntensityMap, open_plain_map
from foreglow.maps.write import Columns, write_maps
from foreglow.recognition.fit_maps import FitSetup, GivenSky, Output, fit_by_blocks
from foreglow.recognition.fits.optimise import Fit
from foreglow.recognition.fits.optimise import fit as fit_pixels
from foreglow.recognition.fits.patches import fit_patches
from foreglow.recognition.fits.skymodel import SkyModel, candidate
from foreglow.recognition.models import MODELS, OwnModel, defined, own_models
from foreglow.recognition.observation.band_noise import Noise
from foreglow.recognition.observation.given import Maps, Pixels, folder_of_workers
from foreglow.recognition.observation.levels import Levels
from foreglow.recognition.observation.observations import Observation
from foreglow.recognition.observation.patches import Patches
from foreglow.recognition.observation.streaming import Source, file_state
from foreglow.recognition.results import Classification, FittedSky, from_galactic
from foreglow.recognition.separated import COMPONENTS, SeparatedCounts, SeparatedSky
from foreglow.sky.instrument import Instrument

_PARAMETERS = ("beta_s", "curvature", "beta_d", "dust_temperature")
_LEAST_SHARE = 1e-3  # of a model that is averaged


@overload
def separate(
    maps: Maps | Source,
    instrument: Instrument | str | Path | None = None,
    *,
    out: None = None,
    **options: Any,
) -> SeparatedSky: ...
@overload
def separate(
    maps: Maps | Source,
    instrument: Instrument | str | Path | None = None,
    *,
    out: str | Path,
    **options: Any,
) -> SeparatedCounts: ...


def separate(  # pyright: ignore[reportInconsistentOverload]
    maps: Maps | Source,
    instrument: Instrument | str | Path | None = None,
    *,
    by: str | Path | Classification | FittedSky = "power_law",
    average: bool = False,
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
) -> SeparatedSky | SeparatedCounts:
    """Separate Q,U maps into CMB, dust, synchrotron and AME, by the model that holds in each pixel.

    What is free has the Gaussian prior of the evidence: else the faintest pixels take any beta_s.

    Parameters
    ----------
    maps : mapping of band to path or array, array, or Source
        As `classify` takes them, for any of the bands.
    instrument : Instrument, str, path or table
        Or what `load_instrument` takes; that of a `Source` is its own.
    by : str, path, mapping, Classification or FittedSky
        The model of every pixel, one of `MODELS`, or one of the user's own, in a TOML file or a
        mapping as `fit` takes them; or what `classify` or `fit` said of these maps, in memory or
        in its file: the most probable model of each pixel.
    average : bool
        Average the models by their probabilities in place of taking the most probable one; errors
        then hold what the models disagree on. The probabilities must mean what they say.
    curvature : float, optional
        C of the curved models; by default it is free.
    level : float
        The p-value under which the model of a pixel does not fit.
    patches, noise, noise_scale, mask, unit, nest, frame, convention, common_fwhm
        As `fit` takes them, patches of "beta_s" and "curvature".
    out, overwrite, memory, workers, pool, progress
        As `classify` takes them; the file is that of `SeparatedSky.to_fits`.
    device : torch.device or str
        Where the fits are made, in float64.

    Returns
    -------
    SeparatedSky, or SeparatedCounts if `out` is given

    Raises
    ------
    ModelError
        If there is no such model, models are to be averaged where there is one, or as `fit`.
    InstrumentError
        As `fit`.
    MapError
        If the file of `by` is not one of `classify` or `fit`, what it says is of another Nside or
        frame than the maps, or as `fit`.

    References
    ----------
    Stompor et al. 2009 (errors of the amplitudes, marginal over spectral parameters).
    """
    said = _Said.of(by, average)
    setup = FitSetup(said.models, "evidence", curvature, level, str(pick_device(device)))
    given = GivenSky(
        instrument, maps, noise, noise_scale, unit, Pixels(nest, frame, convention), common_fwhm,
        mask, patches,
    )  # fmt: skip
    output = Output(out, overwrite, memory, workers, pool, progress)
    with said.for_workers(out) if workers or pool else nullcontext(said) as said:
        work = partial(_separate_block, said)
        return fit_by_blocks(
            "separate", setup, given, output, work, SeparatedCounts, setup.free, said.validate
        )


@dataclass(frozen=True, eq=False)
class _Said:
    """What was said of the models: by an array (n_class, n_pix), RING, or a file, or one for all.

    name : of what said it, for messages.
    """

    models: tuple[str, ...]
    average: bool
    name: str = ""
    nside: int = 0
    frame: str = ""
    probability: NDArray | None = None
    path: Path | None = None

    @classmethod
    def of(cls, by: Any, average: bool) -> "_Said":
        if isinstance(by, Classification | FittedSky):
            return cls(by.models, average, "by", by.nside, by.frame, by.probability)
        if own := own_models(by):
            if len(own) > 1:
                raise ModelError(
                    f"expected by= as one model, got {', '.join(own)}; give one, or what fit said "
                    "of them."
                )
            by = own[0]
        if isinstance(by, OwnModel) or by in MODELS:
            if average:
                raise ModelError(
                    f"expected by= with probabilities to average models by, got {by} for all "
                    "pixels; give what classify or fit said, or leave average= out."
                )
            return cls((by,), average)
        path = Path(by) if isinstance(by, str | Path) else None
        if path is None or not path.is_file():
            raise ModelError(
                f"expected by= as a model ({', '.join(MODELS)}) or a file of classify or fit, got "
                f"{with_nearest(str(by), MODELS)!r}."
            )
        return cls(_models_in(path), average, str(path), path=path.absolute())

    def validate(self, opened: Observation) -> None:
        """Check that it was said of a sky like the maps."""
        if len(self.models) == 1 and not self.name:
            return
        told = self._stored()[0] if self.path else self
        if (told.nside, told.frame) != (opened.nside, opened.frame):
            raise MapError(
                f"{self.name}: expected models of maps of Nside {opened.nside} in frame "
                f"{opened.frame}, got Nside {told.nside}, frame {told.frame}; classify the maps "
                "that are to be separated."
            )

    def share(self, block: PixelBlock) -> NDArray[np.float64]:
        """Of each model in the pixels of a block, (n_class, n); NaN where nothing was said."""
        if not self.name:
            return np.ones((1, len(block)))
        if self.path:
            found = np.stack([one.read(block) for one in self._stored()]).astype(float)
        else:
            assert self.probability is not None
            found = self.probability[:, block.ring].astype(float)
        known = np.isfinite(found).all(0)
        filled = np.where(known, found, 0)
        if self.average:
            filled[filled < _LEAST_SHARE] = 0
            filled = filled / np.where(known, filled.sum(0), 1)
        else:
            filled = (np.arange(len(filled))[:, None] == filled.argmax(0)).astype(float)
        return np.where(known, filled, np.nan)

    @contextmanager
    def for_workers(self, out: str | Path | None) -> "Iterator[_Said]":
        """The same, in a file if it is in memory, as long as the context lasts.

        Else the whole sky would go to the workers with every block.
        """
        if self.probability is None:
            yield self
            return
        with folder_of_workers(out) as folder:
            path = folder / "models.fits"
            each = zip(self.models, self.probability, strict=True)
            columns: Columns = {f"P_{name.upper()}": (values, "") for name, values in each}
            write_maps(path, columns, frame=self.frame)
            yield replace(self, probability=None, path=path)

    def _stored(self) -> list[IntensityMap]:
        assert self.path is not None
        return _opened(self.path, self.models, file_state(self.path))


@lru_cache(maxsize=1)
def _opened(
    path: Path, models: tuple[str, ...], _state: tuple[int, int] | None
) -> list[IntensityMap]:
    """The probabilities in a file, opened once in a process for all blocks that follow."""
    return [open_plain_map(f"{path}[P_{name.upper()}]") for name in models]


def _models_in(path: Path) -> tuple[str, ...]:
    """The models that a file of `classify` or `fit` names."""
    try:
        header = fits.getheader(path, 1)
    except (OSError, IndexError) as error:
        raise MapError(f"{path}: expected FITS of classify or fit, got: {error}") from error
    names = []
    for k in range(len(header)):
        if f"CLASS{k}" in header:
            name, said = str(header[f"CLASS{k}"]), header.get(f"DEFINE{k}")
            names.append(defined(name, {name: json.loads(str(said))} if said else {}))
    columns = {str(value) for key, value in header.items() if key.startswith("TTYPE")}
    if not names or not {f"P_{name.upper()}" for name in names} <= columns:
        raise MapError(
            f"{path}: expected a file of classify or fit, which names its models (CLASS0, ...) and "
            "has their probabilities (P_...), got another table."
        )
    return tuple(names)


def _separate_block(
    said: _Said, setup: FitSetup, opened: Observation, shared: Patches, block: PixelBlock
) -> tuple[SeparatedSky, Levels]:
    data, sigma, noise = opened.read_all_noise(block)
    observed = np.isfinite(data).all(1) & np.isfinite(sigma)
    share = said.share(block)
    known = np.isfinite(share).all(0)
    enough = np.flatnonzero((observed.sum(1) >= setup.bands_needed) & known)
    mean = _Mean.nothing(len(block))
    for k, name in enumerate(setup.models):
        model = candidate(name, setup.curvature, priors=True)
        used = enough[share[k, enough] > 0]
        if not len(used):
            continue
        values, errors = (torch.from_numpy(a[used]).to(setup.device) for a in (data, noise))
        bands = opened.instrument.bands.to(setup.device)
        labels = shared.labels(tuple(model.free), block, used, values.device)
        if labels is None:
            found = fit_pixels(model, bands, values, errors)
        else:
            if isinstance(labels, dict):
                labels = {name: labels[name] for name in model.free}
            found = fit_patches(model, bands, values, errors, labels).pixels
        mean.add(used, found, share[k, used], share[k, used] >= share[:, used].max(0))
    return mean.sky(setup, said.average, opened, block, share), Levels.of(
        data[enough], sigma[enough]
    )


@dataclass(frozen=True, eq=False)
class _Mean:
    """Sums over models, by their shares: of values and of their squares.

    weight (n,); amplitude (5, 2, n); square (5, 3, n), QQ, QU and UU with their covariance;
    spectral (4, n), of `_PARAMETERS`; spectral_square (4, n).
    """

    weight: NDArray[np.float64]
    amplitude: NDArray[np.float64]
    square: NDArray[np.float64]
    spectral: NDArray[np.float64]
    spectral_square: NDArray[np.float64]
    p_value: NDArray[np.float64]
    converged: NDArray[np.bool_]

    @classmethod
    def nothing(cls, n: int) -> "_Mean":
        m, unknown = len(COMPONENTS), np.full(n, np.nan)
        return cls(
            np.zeros(n), np.zeros((m, 2, n)), np.zeros((m, 3, n)), np.zeros((4, n)),
            np.zeros((4, n)), unknown, np.ones(n, bool),
        )  # fmt: skip

    def add(self, at: NDArray, found: Fit, share: NDArray, first: NDArray) -> None:
        """Add the fit of a model to pixels at some places; `first` where it is the foremost."""
        model, m = found.model, len(found.model.components)
        amplitude = found.amplitudes.permute(2, 1, 0).cpu().numpy()  # (component, 2, n)
        covariance = found.amplitude_covariance.permute(1, 2, 0).cpu().numpy()
        self.weight[at] += share
        for c, name in enumerate(model.components):
            place, (q, u_) = COMPONENTS.index(name), amplitude[c]
            self.amplitude[place][:, at] += share * amplitude[c]
            squares = (
                covariance[c, c] + q * q, covariance[c, m + c] + q * u_,
                covariance[m + c, m + c] + u_ * u_,
            )  # fmt: skip
            self.square[place][:, at] += share * np.stack(squares)
        parameters = found.parameters.T.cpu().numpy()
        variance = found.covariance.diagonal(dim1=1, dim2=2).T.cpu().numpy()
        names = list(model.free)
        for k, name in enumerate(_PARAMETERS):
            value, spread = _free_or_fixed(model, names, name, parameters, variance)
            self.spectral[k, at] += share * value
            self.spectral_square[k, at] += share * (spread + value**2)
        p_value = torch.special.gammaincc(0.5 * found.dof.double(), 0.5 * found.chi2).cpu().numpy()
        self.p_value[at[first]] = p_value[first]
        self.converged[at] &= found.converged.cpu().numpy()

    def sky(
        self,
        setup: FitSetup,
        average: bool,
        opened: Observation,
        block: PixelBlock,
        share: NDArray,
    ) -> SeparatedSky:
        """The means, in the frame of the maps, and their errors."""
        with np.errstate(divide="ignore", invalid="ignore"):
            weight = np.where(self.weight > 0, self.weight, np.nan)
        amplitude, square = self.amplitude / weight, self.square / weight
        q, u_ = amplitude[:, 0], amplitude[:, 1]
        covariance = square - np.stack([q * q, q * u_, u_ * u_], 1)
        ring, nside, frame = block.ring, opened.nside, opened.frame
        if frame != "G":
            angle = -angle_to_galactic(ring, nside, frame)
            covariance = np.stack([turn_covariance(c, angle) for c in covariance])
            amplitude = np.stack([from_galactic(a, ring, nside, frame) for a in amplitude])
        spectral = self.spectral / weight
        spread = self.spectral_square / weight - spectral**2
        error = np.sqrt(covariance[:, [0, 2]].clip(0))
        maps = {"share": np.where(np.isfinite(weight), share, np.nan)}
        maps |= {"amplitude": amplitude, "error": error}
        for name, value, variance in zip(_PARAMETERS, spectral, spread, strict=True):
            maps |= {name: value, f"{name}_error": np.sqrt(variance.clip(0))}
        return SeparatedSky(
            setup.models, average, setup.level, nside, frame,
            **{name: values.astype(np.float32) for name, values in maps.items()},
            p_value=self.p_value, converged=self.converged & np.isfinite(weight),
            beam_arcmin=opened.beam_arcmin,
        )  # fmt: skip


def _free_or_fixed(
    model: SkyModel, names: Sequence[str], name: str, parameters: NDArray, variance: NDArray
) -> tuple[NDArray, NDArray]:
    """A spectral parameter of the pixels, and its variance."""
    if name in names:
        place = names.index(name)
        return parameters[place], variance[place]
    n = parameters.shape[1]
    return np.full(n, model.fixed.get(name, np.nan)), np.zeros(n)
