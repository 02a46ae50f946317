"""FITS image cubes, opened and checked; channels are read one by one, never the whole.

A file is read, not mapped: mapped pages would count as memory of the process.
"""

import contextlib
import gzip
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_area
from numpy.typing import NDArray

from foreglow.errors import MapError
from foreglow.hi_cube.brightness import PLACEHOLDERS, OddValues, take_out_odd
from foreglow.hi_cube.cards import Cards, kelvin_factor, read_beam, read_cards
from foreglow.hi_cube.projection import sky_wcs
from foreglow.hi_cube.velocity import VelocityAxis, find_velocity_axis, stated_velocity

_UNREADABLE = (OSError, EOFError, zlib.error, fits.VerifyError, ValueError, KeyError, TypeError)
_PIECE = 1 << 18  # values that are read and converted at a time
_STORED = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}


@dataclass(frozen=True)
class Stored:
    """How the values of an image are stored.

    Attributes
    ----------
    dtype : dtype
    scale, zero : float
        To K.
    blank : float or None
        What the card BLANK declares as not observed.
    placeholders : tuple of float
        Other numbers that stand for no value.
    """

    dtype: np.dtype
    scale: float
    zero: float
    blank: float | None
    placeholders: tuple[float, ...]


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
    no_beam : str
        Why there is none, "" if there is one.
    """

    path: Path
    wcs: WCS
    shape: tuple[int, int]
    velocity: VelocityAxis
    beam_arcmin: float | None
    no_beam: str
    header: Any = field(repr=False)
    stored: Stored = field(repr=False)
    around: bool
    stream: IO[bytes] = field(repr=False)
    offset: int

    @property
    def pixel_arcmin(self) -> float:
        """Side of a pixel at the reference point."""
        return _pixel_arcmin(self.wcs)

    @property
    def gzipped(self) -> bool:
        """Whether it can be read forward only."""
        return isinstance(self.stream, gzip.GzipFile)

    @property
    def bytes_to_read(self) -> int:
        """What `read` holds besides its result."""
        rows, columns = self.stored_shape
        return 40 * self._rows_at_a_time * columns + rows * columns

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
        # in the order of the file: a gzipped one can only be read forward
        for k in self.in_file_order(first, last):
            self.read_channel(k, inside[k - first])
        if self.around:
            block[..., 0], block[..., -1] = inside[..., -1], inside[..., 0]
        return block

    def in_file_order(self, first: int, last: int) -> range:
        """Channels `first` to `last` - 1 as the file has them, one after the other."""
        return range(last - 1, first - 1, -1) if self.velocity.flipped else range(first, last)

    def read_channel(self, k: int, out: NDArray[np.float32]) -> OddValues:
        """Fill (row, column) of the file with a channel, some rows at a time.

        Returns
        -------
        OddValues
            Those that were set to NaN.
        """
        found, rows = OddValues(), self.stored_shape[0]
        for first in range(0, rows, self._rows_at_a_time):
            last = min(first + self._rows_at_a_time, rows)
            found.add(self.read_rows(k, first, out[first:last]))
        found.validate(f"{self.path}: plane {self.plane(k) + 1}")
        return found

    def read_rows(self, k: int, first: int, out: NDArray[np.float32]) -> OddValues:
        """Fill (row, column) with rows of a channel, from `first` of the file on."""
        (rows, columns), plane, dtype = self.stored_shape, self.plane(k), self.stored.dtype
        size = columns * dtype.itemsize
        try:
            self.stream.seek(self.offset + (plane * rows + first) * size)
            content = self.stream.read(len(out) * size)
        except _UNREADABLE as error:
            raise _truncated(self.path, f"{error}, at plane {plane + 1}") from error
        if len(content) < len(out) * size:
            raise _truncated(self.path, f"the end of the file at plane {plane + 1}")
        found = _convert(np.frombuffer(content, dtype).reshape(out.shape), self.stored, out)
        if np.isinf(out).any():
            raise MapError(
                f"{self.path}: expected finite values or NaN (not observed), got Inf in plane "
                f"{plane + 1}; set such pixels to NaN"
            )
        return found

    def plane(self, k: int) -> int:
        """Which plane of the file a channel is, from 0."""
        return len(self.velocity.kms) - 1 - k if self.velocity.flipped else k

    @property
    def stored_shape(self) -> tuple[int, int]:
        """Rows and columns of the file."""
        return self.header["NAXIS2"], self.header["NAXIS1"]

    @property
    def _rows_at_a_time(self) -> int:
        return min(self.stored_shape[0], max(1, _PIECE // self.stored_shape[1]))


@contextlib.contextmanager
def open_image_cube(
    path: Path,
    unit: str | None = None,
    beam_arcmin: float | None = None,
    velocity_table: Path | None = None,
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
        FWHM, where BMAJ (or RESOL) is absent or not likely.
    velocity_table : Path, optional
        Velocities of the planes, see `read_velocity_table`, in place of those of the header.

    Yields
    ------
    ImageCube

    Raises
    ------
    MapError
        If the file cannot be read or is truncated, or its axes, unit or beam are not those of a
        cube of brightness temperature on the sky by radio velocity from the LSRK.
    """
    cards, offset = _find_image(path)
    header = cards.header
    axis = find_velocity_axis(path, header, list(range(3, header["NAXIS"] + 1)))
    velocity = stated_velocity(cards, axis, header[f"NAXIS{axis}"], velocity_table)
    sky, around = sky_wcs(cards)
    beam, no_beam = read_beam(cards, beam_arcmin, _pixel_arcmin(sky))
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(path.open("rb"))
        stream: Any = stack.enter_context(gzip.open(raw)) if is_gzipped(path) else raw
        yield ImageCube(
            path=path,
            wcs=sky,
            shape=(header["NAXIS2"], header["NAXIS1"] + 2 * around),
            velocity=velocity,
            beam_arcmin=beam,
            no_beam=no_beam,
            header=header,
            stored=_how_stored(cards, kelvin_factor(path, "BUNIT", cards.text("BUNIT"), unit)),
            around=around,
            stream=stream,
            offset=offset,
        )


def _how_stored(cards: Cards, factor: float) -> Stored:
    """How values are stored, and which of them are none, of the header and its factor to K."""
    dtype = np.dtype(_STORED[cards.header["BITPIX"]])
    zero = cards.number("BZERO")
    blank = cards.number("BLANK") if cards.text("BLANK") else None
    placeholders: tuple[float, ...] = PLACEHOLDERS
    if dtype.kind in "iu":
        least = float(np.iinfo(dtype).min)
        # BZERO = -least stores unsigned integers, of which this is the zero
        unused = dtype.kind == "i" and blank is None and zero != -least
        placeholders = (least,) if unused else ()
    return Stored(dtype, cards.number("BSCALE", 1.0) * factor, zero * factor, blank, placeholders)


def _convert(raw: NDArray, how: Stored, out: NDArray[np.float32]) -> OddValues:
    """Fill an array with values of the file in K; what is no value becomes NaN."""
    stored = raw.astype(raw.dtype.newbyteorder("="))
    unscaled = (how.scale, how.zero) == (1.0, 0.0)
    floats = stored if stored.dtype.kind == "f" else stored.astype(np.float64)
    values = floats.copy() if unscaled else how.scale * floats + how.zero
    if how.blank is not None:
        values[stored == how.blank] = np.nan
    found = take_out_odd(values, stored, how.placeholders)
    out[:] = values
    return found


def _pixel_arcmin(wcs: WCS) -> float:
    return 60 * float(np.sqrt(proj_plane_pixel_area(wcs)))


def _find_image(path: Path) -> tuple[Cards, int]:
    """Header of the cube, and where its data begin."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            with fits.open(path, memmap=False, do_not_scale_image_data=True) as hdus:
                for ext, hdu in enumerate(hdus):
                    image: Any = hdu
                    if isinstance(image, fits.CompImageHDU):
                        raise MapError(
                            f"{path}: expected a plain image, got one in compressed tiles; unpack "
                            "it with funpack"
                        )
                    if image.is_image and image.header["NAXIS"] >= 3:
                        offset, size = image.fileinfo()["datLoc"], image.size
                        _validate_size(path, offset, size)
                        return read_cards(path, image.header, ext), offset
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
