"""HI cubes that a user holds in memory, opened as those on disk are.

An array, a masked array, a Quantity or xarray's `tb(velocity, pixel)` stays as it is, in its own
unit and order; channels are brought to K, NESTED, where they are read.
"""

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from numpy.typing import NDArray

from foreglow.errors import MapError, ShapeError
from foreglow.hi_cube.brightness import validate_brightness
from foreglow.hi_cube.cards import kelvin_or_none, unit_factor
from foreglow.hi_cube.cube import HICube, open_cube, validate_nside
from foreglow.hi_cube.resaved import pixels_in_order
from foreglow.hi_cube.store import CHANNELS_A_CHUNK, pixels_a_chunk
from foreglow.maps import healpix as hp
from foreglow.maps.conventions import canonical_frame, warn_assumed

_AXES = "(n_velocity, n_pix)"
_LABELLED = "tb(velocity, pixel)"


@dataclass(frozen=True, eq=False)
class ArrayChannels:
    """(velocity, pixel) in K, NESTED, of an array; as much of `zarr.Array` as cubes need.

    Attributes
    ----------
    read : callable
        Channels (a slice) and pixels (a slice or an array) of the array, as it has them.
    shape, chunks : tuple of int
    nest : bool
        The array is NESTED.
    to_kelvin : float
    """

    read: Callable[[Any, Any], Any] = field(repr=False)
    shape: tuple[int, int]
    chunks: tuple[int, int]
    nest: bool
    to_kelvin: float

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        """Channels, or channels and pixels, as slices; always a copy.

        Raises
        ------
        MapError
            If a value is no brightness temperature of the 21 cm line.
        """
        channels, pixels = key if isinstance(key, tuple) else (key, slice(None))
        n_channel, n_pix = self.shape
        if not self.nest:
            pixels = hp.nest2ring(hp.npix2nside(n_pix), np.arange(n_pix)[pixels])
        values = _to_kelvin(self.read(channels, pixels), self.to_kelvin)
        read = range(n_channel)[channels]
        named = f"channel {read[0]}" if len(read) == 1 else f"channels {read[0]} to {read[-1]}"
        validate_brightness("cube", values, named)
        return values


def as_cube(
    cube: Any,
    velocity: u.Quantity | None = None,
    unit: str | u.UnitBase | None = None,
    nest: bool | None = None,
    frame: str | None = None,
) -> HICube:
    """Open what a user calls a cube.

    Parameters
    ----------
    cube : path, HICube, xarray.Dataset, xarray.DataArray or array_like
        A folder as `open_cube` takes it; `tb(velocity, pixel)`, which may be read lazily; or an
        array (n_velocity, n_pix) of the whole sky, NaN, UNSEEN or masked where not observed.
    velocity : Quantity, shape (n_velocity,), optional
        Centres of the channels, LSRK, radio convention, ascending or descending; for what does not
        state them.
    unit : str or Unit, optional
        K or mK, for what does not state it.
    nest : bool, optional
        Of what does not state its ordering; RING by default, as in healpy.
    frame : str, optional
        Of what does not state it; it has to be Galactic, "G".

    Returns
    -------
    HICube
        Without a path if it lies in memory.

    Raises
    ------
    MapError
        If it is no cube, does not say what it must, or an argument contradicts what it says.
    ShapeError
        If shapes do not agree.

    Warns
    -----
    MapWarning
        If the frame is stated nowhere: it is taken as Galactic.
    """
    if isinstance(cube, str | Path | HICube):
        _validate_spoken_for(velocity, unit, frame)
        return cube if isinstance(cube, HICube) else open_cube(cube)
    xarray = sys.modules.get("xarray")  # whoever has such a cube has imported it
    if xarray is not None and isinstance(cube, xarray.Dataset | xarray.DataArray):
        return _from_xarray(cube, velocity, unit, nest, frame)
    stated, values = (cube.unit, cube.value) if isinstance(cube, u.Quantity) else (None, cube)
    values = np.asanyarray(values)
    if values.ndim != 2:
        raise ShapeError(f"cube: expected an array {_AXES}, got shape {values.shape}; {_GIVE_ALL}")
    if values.dtype.kind not in "fiu":
        raise MapError(f"cube: expected real numbers, got {values.dtype}; convert them")
    kms = _kms(velocity)
    _validate_shape(values.shape, kms.size)
    flipped = bool(kms[0] > kms[-1])
    if flipped:
        kms, values = kms[::-1].copy(), values[::-1]
    return _opened(
        lambda channels, pixels: values[channels][:, pixels],
        kms,
        values.shape[1],
        nest=bool(nest),
        to_kelvin=_kelvin_of(stated, unit),
        frame=frame,
    )


_GIVE_ALL = "give a spectrum for each pixel of the sky, NaN where nothing was observed"


def _from_xarray(
    cube: Any,
    velocity: u.Quantity | None,
    unit: str | u.UnitBase | None,
    nest: bool | None,
    frame: str | None,
) -> HICube:
    """A cube of xarray's, which states what foreglow's stores do."""
    data, stated = cube, dict(cube.attrs)
    if hasattr(cube, "data_vars"):
        if "tb" not in cube.data_vars:
            names = ", ".join(map(str, cube.data_vars)) or "none"
            raise MapError(f"cube: expected the variable {_LABELLED}, got {names}; rename it to tb")
        data = cube["tb"]
        stated |= data.attrs
    if set(data.dims) != {"velocity", "pixel"}:
        raise ShapeError(f"cube: expected {_LABELLED}, got axes {data.dims}; rename them")
    data = data.transpose("velocity", "pixel")
    kms = _agreed_kms(data, velocity)
    _validate_shape(data.shape, kms.size)
    nside = hp.npix2nside(data.shape[1])
    if stated.get("nside", nside) != nside:
        raise ShapeError(
            f"cube: expected the pixels of Nside {stated['nside']}, as its attribute nside states, "
            f"got those of Nside {nside}; correct the attribute"
        )
    if "pixel" in data.coords:
        numbers = data["pixel"].to_numpy()
        if not (numbers == np.arange(len(numbers))).all():
            data = data.isel(pixel=pixels_in_order("cube", numbers))
    if kms[0] > kms[-1]:
        kms, data = kms[::-1].copy(), data.isel(velocity=slice(None, None, -1))
    return _opened(
        lambda channels, pixels: data.isel(velocity=channels, pixel=pixels).to_numpy(),
        kms,
        data.shape[1],
        nest=_ordering(stated, nest),
        to_kelvin=_kelvin_of(_stated_unit(stated), unit),
        frame=_stated_frame(stated, frame),
        beam_arcmin=stated.get("beam_arcmin"),
        source=str(stated.get("source", "")),
    )


def _opened(
    read: Callable[[Any, Any], Any],
    kms: NDArray[np.float64],
    n_pix: int,
    *,
    nest: bool,
    to_kelvin: float,
    frame: str | None,
    beam_arcmin: float | None = None,
    source: str = "",
) -> HICube:
    nside = hp.npix2nside(n_pix)
    if frame is None:
        warn_assumed('cube: its frame is not stated, taken as Galactic; pass frame="G" if it is')
    else:
        _validate_galactic(frame)
    shape = (kms.size, n_pix)
    chunks = (min(CHANNELS_A_CHUNK, kms.size), pixels_a_chunk(nside))
    tb = ArrayChannels(read, shape, chunks, nest, to_kelvin)
    return HICube(None, nside, kms, beam_arcmin, source or "an array", None, tb)


def _to_kelvin(block: Any, factor: float) -> NDArray[np.float32]:
    """A block of an array as new float32 in K, NaN where it was not observed."""
    mask = getattr(block, "mask", None)  # of numpy's masked arrays, and astropy's
    plain = np.asarray(getattr(block, "unmasked", np.ma.getdata(block)))
    # as if in double precision and rounded once, whatever the unit
    with np.errstate(over="ignore"):  # beyond float32 is Inf, which is told of
        values = np.array(plain, np.float32 if factor == 1 else np.float64)
        values[(values > 1.0001 * hp.UNSEEN) & (values < 0.9999 * hp.UNSEEN)] = np.nan
        if mask is not None:
            values[np.broadcast_to(mask, values.shape)] = np.nan
        if factor != 1:
            values *= factor
        return np.asarray(values, np.float32)


def _kms(velocity: Any) -> NDArray[np.float64]:
    """Velocities in km/s, strictly ascending or descending."""
    if velocity is None:
        raise MapError(
            "velocity: expected the velocity of each channel, got none; pass a Quantity in km/s, "
            "from the local standard of rest (LSRK)"
        )
    if not isinstance(velocity, u.Quantity) or velocity.unit == u.dimensionless_unscaled:
        raise MapError(
            "velocity: expected a Quantity in km/s, LSRK, got numbers without a unit; if they are "
            "velocities and not numbers of channels, multiply them by astropy.units.Unit('km/s')"
        )
    if velocity.unit is None or not velocity.unit.is_equivalent("km/s"):
        raise MapError(
            f"velocity: expected a Quantity in km/s, LSRK, got one in {velocity.unit}; bring it to "
            "radio velocities, as with astropy.units.doppler_radio"
        )
    kms = np.atleast_1d(np.asarray(velocity.to_value("km/s"), np.float64))
    steps = np.diff(kms)
    good = kms.ndim == 1 and np.isfinite(kms).all() and ((steps > 0).all() or (steps < 0).all())
    if not (good and kms.size):
        raise MapError(
            "velocity: expected one velocity a channel, ascending or descending, got "
            f"{np.array2string(kms, threshold=8, precision=6)} km/s; sort the channels"
        )
    return kms


def _coordinate(data: Any) -> u.Quantity | None:
    """The coordinate of velocity of xarray's cube, None if there is none."""
    if "velocity" not in data.coords:
        return None
    text = str(data["velocity"].attrs.get("units", ""))
    factor = unit_factor(text, "km/s")
    if factor is None:
        raise MapError(
            "cube: expected the coordinate velocity in km/s, as its attribute units states, got "
            f"{text or 'no unit'!r}; state it, or pass velocity= as a Quantity"
        )
    return u.Quantity(factor * np.asarray(data["velocity"], np.float64), "km/s")


def _agreed_kms(data: Any, velocity: u.Quantity | None) -> NDArray[np.float64]:
    """Velocities of xarray's cube, as it states them or as they were given."""
    if velocity is None:
        return _kms(_coordinate(data))
    given = _kms(velocity)
    if "velocity" in data.coords and unit_factor(
        str(data["velocity"].attrs.get("units", "")), "km/s"
    ):
        stated = _kms(_coordinate(data))
        if stated.shape != given.shape or not np.allclose(stated, given, rtol=0, atol=1e-3):
            raise MapError(
                f"velocity: expected {stated[0]:g} to {stated[-1]:g} km/s, as the cube says, got "
                f"{given[0]:g} to {given[-1]:g}; leave velocity= out, or correct the coordinate"
            )
    return given


def _validate_shape(shape: tuple[int, ...], n_velocity: int) -> None:
    n_channel, n_pix = shape
    other = hp.isnpixok(n_channel) and n_channel != n_velocity
    if other and (n_pix == n_velocity or not hp.isnpixok(n_pix)):
        raise ShapeError(
            f"cube: expected an array {_AXES}, got shape {shape}, which is the other way round; "
            "pass cube.T"
        )
    if not hp.isnpixok(n_pix):
        raise ShapeError(
            f"cube: expected 12 nside^2 HEALPix pixels along its second axis, got {n_pix}; "
            f"{_GIVE_ALL}"
        )
    validate_nside("cube", hp.npix2nside(n_pix))
    if n_channel != n_velocity:
        raise ShapeError(
            f"velocity: expected {n_channel} velocities, one a channel of the cube {shape}, got "
            f"{n_velocity}; give the centre of each channel"
        )


def _kelvin_of(stated: Any, unit: str | u.UnitBase | None) -> float:
    """Factor to K of the unit that a cube or `unit` states."""
    texts = {"unit": unit, "cube": stated}
    factors = {}
    for name, text in texts.items():
        if text is None or not str(text).strip():
            continue
        # of the line, brightness temperature is Rayleigh-Jeans
        factors[name] = kelvin_or_none(re.sub(r"_?RJ$", "", str(text)))
        if factors[name] is None:
            raise MapError(
                f"{name}: expected brightness temperature, K or mK, got {str(text)!r}; convert it, "
                "as with astropy.units.brightness_temperature"
            )
    if not factors:
        raise MapError(
            "unit: expected K or mK, got none, and the cube does not say; pass unit=, or a Quantity"
        )
    if len(set(factors.values())) > 1:
        raise MapError(
            f"unit: expected {str(stated)!r}, as the cube says, got {str(unit)!r}; leave unit= out"
        )
    return next(iter(factors.values()))


def _stated_unit(stated: Mapping[str, Any]) -> Any:
    """The unit that the attributes of xarray's cube state, by the names that programs give it."""
    return next((stated[name] for name in ("units", "unit", "BUNIT") if name in stated), None)


def _ordering(stated: Mapping[str, Any], nest: bool | None) -> bool:
    """Whether xarray's cube is NESTED, by its attribute `ordering`, else by `nest`."""
    text = str(stated.get("ordering", "")).upper()
    if not text:
        return bool(nest)
    if text not in ("RING", "NEST", "NESTED"):
        raise MapError(f"cube: expected ordering RING or NESTED, got {text!r}; correct it")
    found = text != "RING"
    if nest not in (None, found):
        raise MapError(
            f"nest: expected {found}, as the cube says (ordering {text}), got {nest}; leave nest= "
            "out, or bring all arrays to one ordering"
        )
    return found


def _stated_frame(stated: Mapping[str, Any], frame: str | None) -> str | None:
    """The frame that `frame` or else the attribute of xarray's cube states."""
    if frame is not None:
        _validate_galactic(frame)
    return stated.get("frame", frame)


def _validate_galactic(frame: str) -> None:
    found = canonical_frame("frame", str(frame))
    if found != "G":
        raise MapError(
            f"frame: expected a cube in the Galactic frame (G), got {found}; rotate each channel, "
            f"as with healpy.Rotator(coord=['{found}', 'G']).rotate_map_pixel"
        )


def _validate_spoken_for(velocity: Any, unit: Any, frame: str | None) -> None:
    """Check that nothing is said of a cube of foreglow, which says it itself."""
    for name, given in {"velocity": velocity, "unit": unit}.items():
        if given is not None:
            raise MapError(
                f"{name}: expected it with an array alone, got it beside an HI cube of foreglow, "
                "which states its own; leave it out"
            )
    if frame is not None:
        _validate_galactic(frame)
