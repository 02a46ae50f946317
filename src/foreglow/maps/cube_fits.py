"""FITS image cubes, opened and checked; channels are read one by one, never the whole.

A file is read, not mapped: mapped pages would count as memory of the process.
"""

import contextlib
import gzip
import re
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_area
from numpy.typing import NDArray

from foreglow.errors import MapError
from foreglow.maps.projection import sky_wcs
from foreglow.maps.velocity import VelocityAxis, find_velocity_axis, velocity_axis

_UNREADABLE = (OSError, EOFError, zlib.error, fits.VerifyError, ValueError, KeyError, TypeError)
_PIECE = 1 << 18  # values that are read and converted at a time
_STORED = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}


@dataclass(frozen=True, eq=False)
class ImageCube:
    """A cube on a projected grid, opened for reading channel by channel.

    Attributes
    ----------
    path : Path
    wcs : WCS
        Of the sky alone; pixels count from 0 in what `read` returns.
    shape : (int, int)
        Rows and columns of what `read` returns.
    velocity : VelocityAxis
    beam_arcmin : float or None
    """

    path: Path
    wcs: WCS
    shape: tuple[int, int]
    velocity: VelocityAxis
    beam_arcmin: float | None
    header: Any = field(repr=False)
    factor: float
    around: bool
    stream: IO[bytes] = field(repr=False)
    offset: int

    @property
    def pixel_arcmin(self) -> float:
        """Side of a pixel at the reference point."""
        return 60 * float(np.sqrt(proj_plane_pixel_area(self.wcs)))

    @property
    def bytes_to_read(self) -> int:
        """What `read` holds besides its result."""
        rows, columns = self._stored_shape
        return 32 * self._rows_at_a_time * columns + rows * columns

    def record(self) -> dict[str, Any]:
        """What the file said, for the attributes of the cube made from it."""
        lon, lat = self.wcs.wcs.ctype
        return {
            "file": self.path.name,
            "velocity": self.velocity.stated + (", flipped" if self.velocity.flipped else ""),
            "unit": str(self.header.get("BUNIT", "none")).strip(),
            "projection": f"{lon} {lat}",
            "pixel_arcmin": round(self.pixel_arcmin, 4),
        }

    def read(self, first: int, last: int) -> NDArray[np.float32]:
        """Channels `first` to `last` - 1, in ascending velocity.

        Returns
        -------
        ndarray of float32, shape (channel, *shape)
            K, NaN where not observed.

        Raises
        ------
        MapError
            If the file ends too soon or holds Inf.
        """
        block = np.empty((last - first, *self.shape), np.float32)
        inside = block[..., 1:-1] if self.around else block
        n_channel = len(self.velocity.kms)
        # in the order of the file: a gzipped one can only be read forward
        for k in range(last - 1, first - 1, -1) if self.velocity.flipped else range(first, last):
            self._read_plane(n_channel - 1 - k if self.velocity.flipped else k, inside[k - first])
        if self.around:
            block[..., 0], block[..., -1] = inside[..., -1], inside[..., 0]
        return block

    @property
    def _dtype(self) -> np.dtype:
        return np.dtype(_STORED[self.header["BITPIX"]])

    @property
    def _stored_shape(self) -> tuple[int, int]:
        return self.header["NAXIS2"], self.header["NAXIS1"]

    def _read_plane(self, plane: int, out: NDArray[np.float32]) -> None:
        """Fill (row, column) with a plane of the file, some rows at a time."""
        rows, columns = self._stored_shape
        size = columns * self._dtype.itemsize
        for first in range(0, rows, self._rows_at_a_time):
            part = out[first : first + self._rows_at_a_time]
            try:
                self.stream.seek(self.offset + (plane * rows + first) * size)
                content = self.stream.read(len(part) * size)
            except _UNREADABLE as error:
                raise _truncated(self.path, f"{error}, at plane {plane + 1}") from error
            if len(content) < len(part) * size:
                raise _truncated(self.path, f"the end of the file at plane {plane + 1}")
            self._convert(np.frombuffer(content, self._dtype).reshape(part.shape), part)
        if np.isinf(out).any():
            raise MapError(
                f"{self.path}: expected finite values or NaN (not observed), got Inf in plane "
                f"{plane + 1}; set such pixels to NaN"
            )

    def _convert(self, stored: NDArray, out: NDArray[np.float32]) -> None:
        scale, zero = self.header.get("BSCALE", 1.0), self.header.get("BZERO", 0.0)
        if (scale * self.factor, zero) == (1.0, 0.0):
            out[:] = stored
        else:
            out[:] = (scale * self.factor) * stored + zero * self.factor
        if stored.dtype.kind in "iu" and "BLANK" in self.header:
            out[stored == self.header["BLANK"]] = np.nan

    @property
    def _rows_at_a_time(self) -> int:
        return min(self._stored_shape[0], max(1, _PIECE // self._stored_shape[1]))


@contextlib.contextmanager
def open_image_cube(
    path: Path, unit: str | None = None, beam_arcmin: float | None = None
) -> Iterator[ImageCube]:
    """Open the first image of three axes or more of a FITS file.

    Parameters
    ----------
    path : Path
        Plain or gzipped. A gzipped file is decompressed as it is read, once if its velocities
        ascend; else anew for every block of channels.
    unit : str, optional
        Of the brightness temperature, where BUNIT is absent or cannot be read.
    beam_arcmin : float, optional
        FWHM, where BMAJ (or RESOL) is absent.

    Yields
    ------
    ImageCube

    Raises
    ------
    MapError
        If the file cannot be read or is truncated, or its axes, unit or beam are not those of a
        cube of brightness temperature on the sky by radio velocity from the LSRK.
    """
    header, offset = _find_image(path)
    axes = list(range(3, header["NAXIS"] + 1))
    axis = find_velocity_axis(path, header, axes)
    velocity = velocity_axis(path, header, axis, header[f"NAXIS{axis}"])
    sky, around = sky_wcs(path, header)
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(path.open("rb"))
        stream: Any = stack.enter_context(gzip.open(raw)) if is_gzipped(path) else raw
        yield ImageCube(
            path=path,
            wcs=sky,
            shape=(header["NAXIS2"], header["NAXIS1"] + 2 * around),
            velocity=velocity,
            beam_arcmin=_beam(path, header, beam_arcmin),
            header=header,
            factor=kelvin_factor(path, "BUNIT", str(header.get("BUNIT", "")), unit),
            around=around,
            stream=stream,
            offset=offset,
        )


def kelvin_factor(path: Path, card: str, stated: str, unit: str | None) -> float:
    """Factor to K from the unit of a header card, or from `unit` where the card says none.

    Raises
    ------
    MapError
        If neither is a temperature, or they disagree.
    """
    found = _kelvin(stated)
    if unit is not None:
        given = _kelvin(unit)
        if given is None:
            raise MapError(f"{path}: expected --unit K or mK, got {unit!r}; name one of them")
        if found not in (None, given):
            raise MapError(
                f"{path}: expected --unit to agree with {card} = {stated!r}, got {unit!r}; leave "
                "--unit out, or correct the header"
            )
        return given
    if found is None:
        raise MapError(
            f"{path}: expected brightness temperature ({card} = K), got {stated.strip() or 'none'};"
            " convert Jy/beam with astropy.units.brightness_temperature, or name what has no unit "
            "with unit= (command line: --unit K)"
        )
    return found


def _kelvin(text: str) -> float | None:
    """Factor to K of a unit, None if it is not a temperature."""
    text = re.sub(r"[\s_({]*T_?(B|MB|A\*?)[)}]*\s*$", "", text.strip(), flags=re.IGNORECASE)
    text = {"k": "K", "kelvin": "K", "mk": "mK"}.get(text.lower(), text) if text != "MK" else text
    try:
        scale: Any = u.Unit(text).to(u.K) if text else None
        return None if scale is None else float(scale)
    except (ValueError, TypeError, u.UnitConversionError):
        return None


def _find_image(path: Path) -> tuple[Any, int]:
    """Header of the cube, and where its data begin."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            with fits.open(path, memmap=False, do_not_scale_image_data=True) as hdus:
                for hdu in hdus:
                    image: Any = hdu
                    if isinstance(image, fits.CompImageHDU):
                        raise MapError(
                            f"{path}: expected a plain image, got one in compressed tiles; unpack "
                            "it with funpack"
                        )
                    if image.is_image and image.header["NAXIS"] >= 3:
                        offset, size = image.fileinfo()["datLoc"], image.size
                        _validate_size(path, offset, size)
                        return image.header.copy(), offset
                shapes = ", ".join(str(getattr(hdu, "shape", ())) for hdu in hdus)
    except FileNotFoundError as error:
        raise MapError(f"{path}: expected a FITS cube, got no such file; check the path") from error
    except _UNREADABLE as error:
        raise MapError(
            f"{path}: expected a FITS cube, got a file that cannot be read ({error}); check that "
            "it is FITS and complete"
        ) from error
    raise MapError(
        f"{path}: expected an image of three axes (two of the sky, one of velocity), got {shapes}; "
        "give the cube, not a map made from it"
    )


def _validate_size(path: Path, offset: int, size: int) -> None:
    """Check that a plain file holds all that its header promises."""
    there = path.stat().st_size - offset
    if not is_gzipped(path) and there < size:
        raise _truncated(path, f"{there} bytes of data where the header promises {size}")


def _truncated(path: Path, what: str) -> MapError:
    return MapError(
        f"{path}: expected the whole cube, got {what}: the file is truncated or damaged; copy or "
        "download it again"
    )


def is_gzipped(path: Path) -> bool:
    """Whether a file begins as gzip does."""
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _beam(path: Path, header: Any, given: float | None) -> float | None:
    """FWHM (arcmin) by BMAJ and BMIN, else RESOL (both deg), else as given."""
    major = header.get("BMAJ", header.get("RESOL"))
    if not major:
        return given
    stated = 60 * float(np.sqrt(major * (header.get("BMIN") or major)))
    if given is not None and abs(given - stated) > 0.01 * stated:
        raise MapError(
            f"{path}: expected --beam to agree with the header, which says {stated:.4g} arcmin, "
            f"got {given:g}; leave --beam out, or correct the header"
        )
    return round(stated, 4)
