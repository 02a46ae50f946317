"""A user's map of polarised dust, Q and U, as the target of a training."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from numpy.typing import NDArray

from foreglow.dust.beside import OnPixels
from foreglow.errors import MapError, ShapeError, warn
from foreglow.maps import healpix as hp
from foreglow.maps.arrays import GivenArray, given_array, is_array, stated_conventions
from foreglow.maps.columns import find_intensity
from foreglow.maps.conventions import MapWarning, canonical_convention, canonical_frame
from foreglow.maps.given import GivenFile
from foreglow.maps.io import PolarisationMap, open_polarisation_map
from foreglow.maps.rotated import polarisation_to_galactic, scalar_to_galactic
from foreglow.maps.stored import FilePart
from foreglow.maps.table import open_table

_SAMPLE = 1 << 16  # pixels looked at to say what a map is like
_TO_NSIDE = (
    "the plain way is healpy.ud_grade of Q and of U, with NaN as healpy.UNSEEN: it averages both "
    "in pixels whose meridians differ, which is wrong within a few pixels of the poles and blurs "
    "by the larger pixel; of a full sky the exact way is healpy.map2alm (pol=True) and "
    "healpy.alm2map at the other Nside; or prepare the cube at Nside {nside}"
)


@dataclass(frozen=True, eq=False)
class PolarisedTarget:
    """Polarised dust on the pixels of a cube.

    Attributes
    ----------
    qu : ndarray, shape (2, n_pix), float32 or float64
        RING, COSMO, Galactic, in `unit`; both NaN where the map holds nothing.
    unit : str
        One of `foreglow.maps.conventions.UNITS`: that in which the dust is predicted.
    name : str
        What messages call it: the file, or "dust".
    intensity : ndarray, shape (n_pix,), or None
        Of the same map, if it has one in the same unit; NaN where it holds nothing.
    no_intensity : str
        What the map has in its place, for a message; empty where there is one.
    """

    qu: NDArray[np.floating]
    unit: str
    name: str
    intensity: NDArray[np.floating] | None = None
    no_intensity: str = ""


def read_polarised(
    dust: Any,
    unit: str | None,
    cube: OnPixels,
    nest: bool,
    convention: str | None = None,
    frame: str | None = None,
) -> PolarisedTarget:
    """Read a map of polarised dust.

    Parameters
    ----------
    dust : path, text or array_like, shape (2 or 3, n_pix)
        FITS of Q and U, as `foreglow.maps.io.open_polarisation_map` takes it: `"FILE"`,
        `"FILE[Q_COLUMN,U_COLUMN]"`, `"q.fits,u.fits"`, `"FILE in K_CMB"`, in any ordering, full
        sky or partial. Or Q, U or I, Q, U as an array, masked array, Quantity or sequence of
        these, NaN or UNSEEN where not observed.
    unit : str, optional
        Where it states none, or a bare kelvin; one of `foreglow.maps.conventions.UNITS`.
    cube : HICube, or what was made of one
        Of its Nside; Galactic.
    nest : bool
        An array is NESTED.
    convention : str, optional
        "COSMO" or "IAU", where the map states none.
    frame : str, optional
        "G", "C" or "E", where the map states none. What is not Galactic is turned, see
        `foreglow.maps.rotated`.

    Raises
    ------
    MapError
        If the file cannot be read, is no map of Q and U or of another Nside, no unit is stated, or
        what is stated contradicts what was given.
    ShapeError
        If an array is no map of Q and U, or has other pixels than the cube.

    Warns
    -----
    MapWarning
        If a frame (taken as Galactic) or convention (taken as COSMO) is stated nowhere, pixels
        are 0 in both (taken as unobserved) or observed in one of them alone.
    """
    frame = None if frame is None else canonical_frame("frame=", str(frame))
    if convention is not None:
        convention = canonical_convention("convention=", str(convention))
    unit = None if unit is None else str(unit)
    given = _given(dust, cube, nest, frame, convention)
    if isinstance(given, GivenArray):
        stored = open_polarisation_map(given, unit, argument="dust_unit")
    else:
        words = {"frame": frame, "convention": convention, "argument": "dust_unit"}
        stored = open_polarisation_map(given, unit, **words)
    name = given.name if isinstance(given, GivenArray) else ",".join(map(str, given.paths))
    if stored.nside != cube.nside:
        raise MapError(
            f"{name}: expected a map of Nside {cube.nside}, as the cube {cube.name}, got Nside "
            f"{stored.nside}; bring it there: {_TO_NSIDE.format(nside=stored.nside)}"
        )
    _say_gaps(name, stored)
    pixels = np.arange(hp.nside2npix(cube.nside))
    qu = replace(stored, zero_is_unobserved=True).read(pixels)
    if not np.isfinite(qu[0]).any():
        raise MapError(
            f"{name}: expected Q and U in some pixels, got none that holds both and is not 0 in "
            "both; check the columns, and that the file was written whole"
        )
    intensity, without = _intensity(given, stored, pixels)
    target = PolarisedTarget(qu, stored.unit, name, intensity, without)
    return target if stored.frame == "G" else _turned(target, stored.frame)


def _turned(target: PolarisedTarget, frame: str) -> PolarisedTarget:
    """A target of another frame on Galactic pixels."""
    qu = polarisation_to_galactic(target.qu, frame)
    intensity = target.intensity
    if intensity is not None:
        intensity = scalar_to_galactic(intensity, frame)
    return replace(target, qu=qu, intensity=intensity)


def _given(
    dust: Any, cube: OnPixels, nest: bool, frame: str | None, convention: str | None
) -> GivenFile | GivenArray:
    """The file, or the array with what was said of it."""
    if isinstance(dust, str | Path):
        given = GivenFile.of(dust)
        if given.kind:
            raise MapError(
                f"dust=: expected a map of Q and U, got {str(dust)!r}; leave out `as "
                f"{given.kind}`, which is for noise"
            )
        _validate_not_one(given)
        return given
    if not isinstance(dust, list | tuple) and not is_array(dust):
        raise MapError(
            f"dust=: expected a file of Q and U, or an array of shape (2, n_pix) or (3, n_pix), "
            f"got {type(dust).__name__}; give one of these"
        )
    dust = _stacked(dust)
    shape = np.shape(dust)
    if len(shape) == 1:
        raise ShapeError(
            f"dust=: expected I, Q and U of shape (3, n_pix), got one map of shape {shape}; give "
            "the three, or learn the intensity (target='intensity')"
        )
    if len(shape) == 2 and shape[0] in (2, 3) and shape[1] != hp.nside2npix(cube.nside):
        got, how = f"shape {shape}", "fill a partial map up with healpy.UNSEEN"
        if hp.isnpixok(shape[1]):
            nside = hp.npix2nside(shape[1])
            got, how = f"Nside {nside}", f"bring it there: {_TO_NSIDE.format(nside=nside)}"
        raise ShapeError(
            f"dust=: expected {hp.nside2npix(cube.nside)} pixels, Nside {cube.nside} as the cube "
            f"{cube.name}, got {got}; {how}"
        )
    _validate_words(dust, frame, convention)
    return given_array("dust", dust, nest, frame, convention)


def _validate_not_one(given: GivenFile) -> None:
    """Check that a file which is given alone does not hold a single map."""
    path, *others = given.paths
    if others or any(given.columns):
        return
    table = open_table(path)
    if len(table.sky_columns) == 1:
        raise MapError(
            f"{table.path}: expected columns of I, Q and U, got columns {table.listing}; give a "
            "file of the three, or learn the intensity (target='intensity')"
        )


def _validate_words(dust: Any, frame: str | None, convention: str | None) -> None:
    """Check that nothing is said of a Quantity which states another frame or convention."""
    stated = stated_conventions(dust)
    for key, said, spelled in (
        ("frame", frame, canonical_frame),
        ("convention", convention, canonical_convention),
    ):
        if said is not None and key in stated:
            own = spelled(f"dust: {key} of its info.meta", str(stated[key]))
            if own != said:
                raise MapError(
                    f"dust=: expected an array of {key}={said!r}, as given, got {own!r} in its "
                    "info.meta; correct the one that is wrong, or leave the argument out"
                )


def _stacked(dust: Any) -> Any:
    """Maps in a list or tuple as one array, which keeps masks and units."""
    if not isinstance(dust, list | tuple):
        return dust
    try:
        if any(isinstance(row, u.Quantity) for row in dust):
            return u.Quantity(list(dust))
        if any(isinstance(row, np.ma.MaskedArray) for row in dust):
            return np.ma.stack([np.ma.asarray(row) for row in dust])
        return np.asarray(dust)
    except (u.UnitsError, TypeError, ValueError) as error:
        raise MapError(
            f"dust=: expected maps of Q and U of one length and one unit, got "
            f"{', '.join(_told(row) for row in dust)} ({error}); bring them to one"
        ) from error


def _told(row: Any) -> str:
    unit = f" in {row.unit}" if isinstance(row, u.Quantity) else ""
    return f"shape {np.shape(row)}{unit}"


def _say_gaps(name: str, stored: PolarisationMap) -> None:
    """Say so where pixels hold one of Q and U alone, or 0 in both."""
    samples = [part.sample(_SAMPLE) for part in stored.parts]
    if len({one.shape[1] for one in samples}) > 1:
        return  # partial maps that differ in their pixels
    q, v = np.concatenate(samples)
    alone = (np.isnan(q) != np.isnan(v)).mean()
    if alone:
        warn(
            f"{name}: {alone:.2g} of its pixels hold one of Q and U and not the other; neither is "
            "taken there (mask both to silence this)",
            MapWarning,
        )
    if zeros := stored.share_of_zeros(_SAMPLE):
        warn(
            f"{name}: Q and U are both exactly 0 in {zeros:.2g} of its pixels; these are taken as "
            "unobserved (write UNSEEN there to silence this)",
            MapWarning,
        )


def _intensity(
    given: GivenFile | GivenArray, stored: PolarisationMap, pixels: NDArray
) -> tuple[NDArray[np.floating] | None, str]:
    """The intensity beside Q and U, NaN where it is none; or None and what stands there."""
    part = stored.parts[0]
    if isinstance(given, GivenArray):
        if len(given.values) != 3:
            return None, "Q and U alone"
        table = replace(given, values=given.values[0]).table("I")
        part = replace(part, table=table, columns=(table.column(0),))
    else:
        if len(stored.parts) > 1:
            return None, "Q and U in files of their own"
        if (found := _column_of_intensity(part)) is None:
            return None, "Q and U alone"
        if found.unit != part.columns[0].unit:
            two = (f"{c.unit or 'no unit'} of {c.name}" for c in (found, part.columns[0]))
            return None, " and ".join(two)
        part = replace(part, columns=(found,))
    try:
        return part.read(pixels)[0], ""
    except MapError as error:  # only who needs the intensity is to hear of it
        return None, f"an intensity that cannot be read ({error})"


def _column_of_intensity(part: FilePart) -> Any:
    """The column of intensity, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MapWarning)  # Q and U have said it
            column = part.table.column(find_intensity(part.table))
    except MapError:
        return None
    return column if column.cells.size == part.columns[0].cells.size else None
