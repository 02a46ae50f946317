"""A user's dust map, polarised or not, as trainings and predictions need it."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreglow.dust import target as targets
from foreglow.dust.beside import read_dust
from foreglow.dust.networks import Target
from foreglow.dust.polarised_questions import question_polarisation
from foreglow.dust.polarised_target import read_polarised
from foreglow.errors import MapError
from foreglow.hi_cube.cube import HICube
from foreglow.maps.arrays import stated_conventions
from foreglow.maps.harmonic import HarmonicFilter

log = logging.getLogger("foreglow")


@dataclass(frozen=True, eq=False)
class GivenDust:
    """A user's dust map on the pixels of a cube: RING, NaN where it holds nothing.

    Attributes
    ----------
    intensity : ndarray, shape (n_pix,)
    unit : str
    name : str or Path
        What messages call it.
    qu : ndarray, shape (2, n_pix), or None
        Of a polarised one.
    variance : ndarray, shape (n_pix,), or None
        Of the noise of Q and U, where it is stated.
    """

    intensity: NDArray[np.floating]
    unit: str
    name: str | Path
    qu: NDArray[np.floating] | None = None
    variance: NDArray[np.floating] | None = None

    @property
    def maps(self) -> NDArray[np.floating]:
        """The map (n_pix,), or I, Q and U (3, n_pix)."""
        return self.intensity if self.qu is None else np.stack([self.intensity, *self.qu])

    @property
    def known(self) -> NDArray[np.bool_]:
        """Where it holds all that it has elsewhere, its noise too."""
        known = np.isfinite(self.intensity)
        for more in (*(() if self.qu is None else self.qu), self.variance):
            known = known if more is None else known & np.isfinite(more)
        return known

    def filtered(self, low_pass: HarmonicFilter, observed: NDArray[np.bool_] | None) -> "GivenDust":
        """The map low-passed, of the whole sky or what is observed; its noise is taken as white."""
        (intensity,) = low_pass.stream([self.intensity], observed)
        if self.qu is None:
            return replace(self, intensity=intensity)
        qu, variance = low_pass.polarised(self.qu, observed), self.variance
        if variance is not None:
            variance = np.where(np.isfinite(qu[0]), low_pass.noise_left * variance, np.nan)
        return replace(self, intensity=intensity, qu=qu, variance=variance)

    def question(
        self, gas: NDArray | None, observed: NDArray[np.bool_], kept: NDArray[np.bool_]
    ) -> None:
        """Say what is unlikely about it, beside the gas summed over its channels if that is known.

        Raises
        ------
        MapError
            If it does not vary.

        Warns
        -----
        MapWarning
        """
        counts = observed & kept
        targets.validate_varies(self.name, self.intensity[counts], self.unit)
        if gas is not None:
            targets.question_target(self.name, self.intensity[counts], gas[counts])
            gas = np.where(observed, gas, np.nan)
        if self.qu is not None:
            question_polarisation(
                str(self.name), self.qu, gas, kept, unit=self.unit, intensity=self.intensity
            )


def read_given(
    dust: Any,
    cube: HICube,
    nest: bool,
    target: Target,
    *,
    unit: str | None,
    frame: str | None,
    convention: str | None,
    noise: Any,
) -> GivenDust:
    """A dust map, or one of I, Q and U.

    Parameters
    ----------
    dust
        As for `read_dust`, or `read_polarised`.
    cube : HICube
    nest : bool
    target : str
        "intensity" or "polarisation".
    unit, frame, convention, noise
        What the map does not state; the last three are of Q and U.

    Raises
    ------
    MapError
        As `read_dust` and `read_polarised`; or noise or convention is given of an intensity, or
        the intensity is missing beside Q and U.
    ShapeError
        If an array has other pixels than the cube.
    """
    if target == "intensity":
        for name, given in {"noise": noise, "convention": convention}.items():
            if given is not None:
                raise MapError(
                    f"expected {name}= of Q and U, got a target of intensity, which has no use for "
                    f"it; leave {name}= out, or take polarisation as the target"
                )
        return GivenDust(*read_dust(dust, unit, cube, nest))
    if isinstance(dust, str | Path) or "frame" in stated_conventions(dust):
        frame = None
    read = read_polarised(dust, unit, cube, nest, convention, frame, noise)
    if read.intensity is None:
        raise MapError(
            f"{read.name}: expected I, Q and U in one map and one unit, got {read.no_intensity}; "
            "give a map of the three, for the intensity is learned with them"
        )
    given = GivenDust(read.intensity, read.unit, read.name, read.qu, read.variance)
    if given.variance is not None:
        middle = np.sqrt(np.nanmedian(given.variance[np.isfinite(read.qu[0])]))
        log.info("noise of Q and U: %.3g %s a pixel (median)", middle, given.unit)
    return given
