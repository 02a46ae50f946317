"""What a user has in hand, files or arrays, brought into one form."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from astropy import units as u

from foreglow.errors import InstrumentError, MapError
from foreglow.files import scratch_directory
from foreglow.maps.arrays import GivenArray, given_array, is_array
from foreglow.maps.conventions import canonical_convention, canonical_frame
from foreglow.maps.given import split_column
from foreglow.maps.mask import MASK, mask_array, open_mask
from foreglow.maps.noise_map import NoiseMap
from foreglow.recognition.observation.band_noise import Noise
from foreglow.recognition.observation.bands import by_band
from foreglow.recognition.observation.beams import at_one_resolution
from foreglow.recognition.observation.observations import Observation, open_observation
from foreglow.recognition.observation.streaming import MapFiles, Source, file_state, open_source
from foreglow.sky.instrument import Instrument

Maps = Mapping[Any, str | Path | np.ndarray | u.Quantity] | np.ndarray | u.Quantity
"""A map for each band, by its name or frequency, or one array of all bands."""


@dataclass(frozen=True)
class Pixels:
    """What arrays cannot say of their pixels.

    Parameters
    ----------
    nest : bool
        Whether they are NESTED.
    frame : str, optional
        "G", "C" or "E".
    convention : str, optional
        Of the polarisation: "COSMO" or "IAU".

    Raises
    ------
    MapError
        If there is no such frame or convention.
    """

    nest: bool = False
    frame: str | None = None
    convention: str | None = None

    def __post_init__(self) -> None:
        if self.frame is not None:
            canonical_frame("frame", str(self.frame))
        if self.convention is not None:
            canonical_convention("convention", str(self.convention))

    def array(self, name: str, values: Any, beside: Any = None) -> GivenArray:
        """An array with what was said of its pixels; what was not is as in the array `beside`."""
        frame, convention = self.frame, self.convention
        if isinstance(beside, GivenArray):
            frame, convention = beside.frame, beside.convention
        return given_array(name, values, self.nest, frame, convention)


@dataclass(frozen=True, eq=False)
class OpenedMaps:
    """Maps some of which are arrays: they are of this process alone.

    Attributes
    ----------
    observation : Observation
    maps, noise : mapping of band to GivenArray or what `open_observation` takes
    noise_scale, unit
        As `open_observation` takes them.
    """

    observation: Observation
    maps: Mapping[str, Any]
    noise: Mapping[str, Any]
    noise_scale: float
    unit: str | None

    def open(self) -> Observation:
        """They are open."""
        return self.observation


@dataclass(frozen=True)
class MaskedMaps:
    """A source of which a part of the sky counts; hashable, as it is.

    Attributes
    ----------
    source : Source
    mask : str or GivenArray
        An absolute path, or an array of this process alone.
    state : tuple or None
        Size and time of the file.
    beside : str
        What the mask must have the Nside and frame of, for the message.
    """

    source: Source
    mask: str | GivenArray
    state: tuple[int, int] | None = None
    beside: str = "the maps"

    @classmethod
    def of(cls, source: Source, mask: Any, nest: bool, beside: str = "the maps") -> "MaskedMaps":
        """From what a user gives; a path becomes absolute, as a worker may be elsewhere."""
        if isinstance(mask, str | Path):
            path = Path(mask).absolute()
            return cls(source, str(path), file_state(split_column(path)[0]), beside)
        return cls(source, mask_array(mask, nest), beside=beside)

    def open(self) -> Observation:
        """Open both, with the errors of `open_mask`."""
        opened = self.source.open()
        mask = open_mask(self.mask, opened.nside, opened.frame, self.beside)
        return replace(opened, mask=mask)


def is_source(maps: Maps | Source) -> TypeGuard[Source]:
    """Whether something opens by itself, such as a sky of an ensemble."""
    return hasattr(maps, "open")


@contextmanager
def source_of(
    instrument: Instrument | None,
    maps: Maps | Source,
    noise: Noise | u.Quantity | None,
    noise_scale: float,
    unit: str | None,
    pixels: Pixels,
    common_fwhm: str | u.Quantity | None = None,
    out: str | Path | None = None,
    mask: Any = None,
    memory: str | None = None,
) -> Iterator[Source]:
    """Maps and noise of a user as something to open, here or, if all are files, on a worker.

    It can be opened as long as the context lasts.

    Parameters
    ----------
    instrument : Instrument or None
        None only for a `Source`.
    maps : mapping of band to path or array, array, or Source
        For each band a FITS file, or an array, masked array or Quantity of shape (2, n_pix) or
        (3, n_pix); or one array of shape (n_band, 2 or 3, n_pix), in the order of the instrument.
    noise : mapping of band to path, Quantity or text, or Quantity, optional
        As `open_observation` takes it; besides, arrays of shape (n_pix,) or (2, n_pix) as
        Quantities, of which the unit says whether they are rms, variances or inverse variances,
        or of shape (3, n_pix), the covariance QQ, QU, UU or its inverse; or one Quantity for all
        bands, of shape (n_band, n_pix), (n_band, 2, n_pix) or (n_band, 3, n_pix).
        What numbers without such a unit are is said in words beside them: `(array, "hits of 1.2
        mK_CMB")`, `(array, "variance in uK_CMB^2")`.
    noise_scale, unit
        As `open_observation` takes them.
    pixels : Pixels
        What is to be said of arrays.
    common_fwhm : str or Quantity [angle], optional
        Bring all to this beam, in files beside `out` or in the system's temporary folder.
    out : path, optional
        Where the result goes.
    mask : path or array_like, shape (n_pix,), optional
        Pixels count where it is above zero; an array has the frame of the maps. It has the Nside
        that the maps have after `common_fwhm`.
    memory : str, optional
        Bound of the process while maps are brought to a beam; only with `out`.

    Raises
    ------
    InstrumentError
        If an array has another number of bands than the instrument.
    MapError
        If an array is no map, the common beam cannot be, or what opens by itself is to have one.
    """
    if is_source(maps):
        if common_fwhm is not None:
            raise MapError(
                "expected maps in files or arrays with common_fwhm=, got a sky that opens by "
                "itself and has no beam; leave common_fwhm= out."
            )
        yield _masked(maps, mask, pixels)
        return
    assert instrument is not None
    unit = None if unit is None else str(unit)
    given = _each(instrument, maps, pixels, "map", {})
    said = None if noise is None else _each(instrument, noise, pixels, "noise", given)
    if common_fwhm is not None:
        near = Path(tempfile.gettempdir() if out is None else Path(out).parent)
        with at_one_resolution(
            instrument,
            given,
            said,
            noise_scale,
            unit,
            common_fwhm,
            near,
            None if out is None else memory,
        ) as files:
            try:
                smooth = MapFiles.of(instrument, *files, noise_scale)
                yield _masked(smooth, mask, pixels, "the maps after common_fwhm=")
            finally:
                open_source.cache_clear()  # what is open would keep the space of the files
    elif any(isinstance(one, GivenArray) for one in (*given.values(), *(said or {}).values())):
        opened = open_observation(instrument, given, said, noise_scale, unit)
        source = OpenedMaps(opened, given, said or {}, noise_scale, unit)
        yield _masked(source, mask, pixels)
    else:
        yield _masked(MapFiles.of(instrument, given, said, noise_scale, unit), mask, pixels)


def _masked(source: Source, mask: Any, pixels: Pixels, beside: str = "the maps") -> Source:
    return source if mask is None else MaskedMaps.of(source, mask, pixels.nest, beside)


@contextmanager
def for_workers(source: Source, out: str | Path | None) -> Iterator[Source]:
    """A source that workers can open, for as long as the context lasts.

    Arrays are written beside `out`, or without it in the folder of temporary files (TMPDIR); both
    must be seen by the workers.

    Raises
    ------
    WriteError
        If they cannot be written.
    """
    if not _has_arrays(source):
        yield source
        return
    with folder_of_workers(out) as folder:
        yield _in_files(source, folder)


@contextmanager
def folder_of_workers(out: str | Path | None) -> Iterator[Path]:
    """A folder that workers see, for as long as the context lasts; see `for_workers`."""
    beside = Path(tempfile.gettempdir(), "foreglow-maps") if out is None else Path(out).absolute()
    with scratch_directory(beside) as folder:
        yield folder


def _has_arrays(source: Source) -> bool:
    if isinstance(source, MaskedMaps):
        return isinstance(source.mask, GivenArray) or _has_arrays(source.source)
    return isinstance(source, OpenedMaps)


def _in_files(source: Source, folder: Path) -> Source:
    """The same maps, of which those that are arrays are written to a folder."""
    if isinstance(source, MaskedMaps):
        return _mask_in_file(source, folder)
    if not isinstance(source, OpenedMaps):
        return source
    opened, maps, noise = source.observation, dict(source.maps), dict(source.noise)
    for k, band in enumerate(opened.instrument.band):
        if isinstance(array := maps.get(band), GivenArray):
            array.write(folder / f"map_{k}.fits", "QU")
            one = opened.maps[k]
            assert one is not None
            maps[band] = f"{folder / f'map_{k}.fits'} in {one.unit}"
        if isinstance(array := noise.get(band), GivenArray):
            rms = opened.noise[k]
            assert isinstance(rms, NoiseMap)
            array.write(folder / f"noise_{k}.fits", rms.names)
            noise[band] = f"{folder / f'noise_{k}.fits'}[{','.join(rms.names)}] {rms.words}"
    return MapFiles.of(opened.instrument, maps, noise, source.noise_scale, source.unit)


def _mask_in_file(source: MaskedMaps, folder: Path) -> MaskedMaps:
    mask, frame = source.mask, open_source(source).frame
    if isinstance(mask, GivenArray):
        path = folder / "mask.fits"
        replace(mask, frame=frame).write(path, MASK)
        mask = str(path)
    return MaskedMaps(_in_files(source.source, folder), mask, file_state(mask))


def _each(
    instrument: Instrument, values: Any, pixels: Pixels, what: str, beside: Mapping[str, Any]
) -> dict[str, Any]:
    """What was given for each band, by its name; arrays with what was said of them.

    Of noise that is an array, what was not said is as in the map `beside` it.
    """
    if isinstance(values, str | Path):
        raise InstrumentError(
            f"expected a {what} for each band, as a mapping of band to file or array, got "
            f"{str(values)!r}; give {{band: {str(values)!r}, ...}}."
        )
    if not isinstance(values, Mapping):
        if getattr(values, "ndim", None) == 0 or not hasattr(values, "__len__"):
            raise InstrumentError(
                f"expected a {what} for each band, as a mapping of band to {what} or one array of "
                f"all bands, got {values!r}; give {{band: {what}, ...}}."
            )
        if len(values) != instrument.n_band:
            raise InstrumentError(
                f"expected one {what} for each of the {instrument.n_band} bands of "
                f"{instrument.name!r}, got an array of {len(values)}; give a mapping of band to "
                f"{what} if some are missing."
            )
        values = dict(zip(instrument.band, values, strict=True))
    named = {instrument.band[k]: v for k, v in by_band(instrument, values, what).items()}
    return {
        band: pixels.array(f"{what} of {band}", value, beside.get(band))
        if is_array(value)
        else value
        for band, value in named.items()
    }
