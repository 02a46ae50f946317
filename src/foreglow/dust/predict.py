"""A map of the dust from a user's HI cube: mean and error in each pixel, from files to a file."""

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import healpy as hp
import numpy as np
from numpy.typing import NDArray

from foreglow.dust.cutouts import SkyCube
from foreglow.dust.model import DustModel
from foreglow.dust.stitch import Stitched, stitch
from foreglow.dust.uncertainty import Calibration, ResidualLaw, from_card
from foreglow.errors import MapError
from foreglow.maps.conventions import MapWarning
from foreglow.maps.cube import HICube, open_cube
from foreglow.maps.gnomonic import Pointings
from foreglow.maps.harmonic import (
    PAPER_CUT,
    PAPER_ORDER,
    HarmonicFilter,
    butterworth,
    low_pass_l_max,
)
from foreglow.maps.write import write_maps

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class DustMap:
    """Predicted dust.

    Attributes
    ----------
    mean, std : ndarray of float32, shape (n_pix,)
        RING, in `unit`; NaN outside the footprint. The error is that of the target map about the
        prediction, what no gas tells of included; neighbouring pixels have theirs in common.
    cover : ndarray of float32, shape (n_pix,)
        Sum of the weights of the cutouts that speak of a pixel, see `Stitched`.
    unit : str
        Of the target that the model was trained to, or that it was calibrated to anew.
    calibration : Calibration
    sigma : str
        What the error is.
    n_member : int
    model, cube : str
        The model's hash and where the cube came from.
    frame : str
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    cover: NDArray[np.float32]
    unit: str
    calibration: Calibration
    sigma: str
    n_member: int
    model: str
    cube: str
    frame: str = "G"

    def summary(self) -> str:
        """A sentence: how much of the sky, how bright, how sure."""
        seen = np.isfinite(self.mean)
        low, middle, high = np.nanpercentile(self.mean, [16, 50, 84])
        return (
            f"{seen.sum()} of {seen.size} pixels predicted ({seen.mean():.1%} of the sky): dust "
            f"{middle:.4g} {self.unit} (16-84%: {low:.4g} to {high:.4g}), error "
            f"{np.nanmedian(self.std):.4g} {self.unit} (median)"
        )

    def write(self, path: str | Path, overwrite: bool = False) -> None:
        """Write one FITS table: DUST, DUST_STD and COVER, and how they were made."""
        columns = {
            "DUST": (self.mean, self.unit),
            "DUST_STD": (self.std, self.unit),
            "COVER": (self.cover, ""),
        }
        header = {
            "SLOPE": self.calibration.slope,
            "OFFSET": self.calibration.offset,
            "CALIB_TO": self.calibration.to,
            "SIGMA": self.sigma,
            "NMEMBER": self.n_member,
            "MODEL": self.model,
            "HICUBE": self.cube,
        }
        write_maps(path, columns, frame=self.frame, header=header, overwrite=overwrite)


def predict_map(
    model: DustModel,
    sky: SkyCube,
    where: Pointings | None = None,
    target: NDArray | None = None,
    source: str = "",
    batch: int = 16,
    progress: Progress | None = None,
) -> DustMap:
    """Blend a model's predictions of overlapping cutouts into a map with errors.

    Parameters
    ----------
    model : DustModel
        Its card may hold `calibration` and `residual`, see `foreglow.dust.uncertainty`.
    sky : SkyCube
        Filtered channels, K, those of the model; its mask is the footprint. Its target is not
        looked at.
    where : Pointings, optional
        Centres of the cutouts, by default `stitch.centres()`.
    target : ndarray, shape (n_pix,), optional
        RING, in the model's unit: calibration and error are measured on it over the footprint,
        instead of taken from the card. NaN where it is not to be used.
    source : str
        Where the cube came from.
    batch : int
        Cutouts at a time.
    progress : callable, optional
        Called with the centres done and the centres in all.

    Returns
    -------
    DustMap
    """
    stitched = stitched_members(model, sky, where, batch, progress)
    calibration, law = from_card(model.card)
    if target is not None:
        calibration, law = measure(stitched, target, "--dust over the footprint")
    calibration = calibration or Calibration()
    mean = calibration(stitched.mean)
    spread = abs(calibration.slope) * stitched.spread
    std = spread if law is None else law.std(mean, spread)
    return DustMap(
        mean.astype(np.float32),
        std.astype(np.float32),
        stitched.cover,
        model.target_unit,
        calibration,
        _sigma(law, len(stitched.members)),
        len(stitched.members),
        model_hash(model),
        source,
    )


def stitched_members(
    model: DustModel,
    sky: SkyCube,
    where: Pointings | None = None,
    batch: int = 16,
    progress: Progress | None = None,
) -> Stitched:
    """What each network of a model says of a sky, uncalibrated, blended; see `predict_map`."""
    return stitch(
        lambda cutouts: model.each(cutouts.inputs, cutouts.mask),
        sky,
        model.grid,
        where,
        model.card.get("cutouts", {}).get("method", "nearest"),
        batch=batch,
        progress=progress,
    )


def measure(stitched: Stitched, target: NDArray, to: str) -> tuple[Calibration, ResidualLaw]:
    """Calibration and law of the residuals of a stitched map, where a target is known.

    Parameters
    ----------
    stitched : Stitched
    target : ndarray, shape (n_pix,)
        RING; NaN where it is not to be used.
    to : str
        What the target is, for the header of maps.
    """
    known = np.isfinite(target) & np.isfinite(stitched.mean)
    predicted, wanted = stitched.mean[known], np.asarray(target)[known]
    calibration = Calibration.fit(predicted, wanted, to)
    spread = abs(calibration.slope) * stitched.spread[known]
    return calibration, ResidualLaw.fit(calibration(predicted), spread, wanted)


def predict(
    model: DustModel,
    cube: str | Path,
    mask: NDArray | None = None,
    target: NDArray | None = None,
    progress: Progress | None = None,
) -> DustMap:
    """Predict the dust of a cube on disk.

    Parameters
    ----------
    model : DustModel
    cube : path
        As `foreglow dust prepare` writes it.
    mask : ndarray, shape (n_pix,), optional
        RING, Nside of the cube: dust is predicted where it is above zero. By default wherever the
        cube has observed, the Galactic plane too, where models are not trained.
    target : ndarray, shape (n_pix,), optional
        As in `predict_map`.
    progress : callable, optional

    Returns
    -------
    DustMap

    Raises
    ------
    MapError
        If the cube lacks channels of the model, has larger pixels than the model was trained
        with, or has not observed what the mask asks for.
    """
    opened = open_cube(cube)
    _validate_nside(model, opened)
    number = model.find_channels(opened.velocity_kms).tolist()
    footprint = _footprint(opened, number, mask)
    sky = _sky(model, opened, number, footprint)
    device = next(model.members.parameters()).device
    return predict_map(
        model, sky.to(device), target=target, source=opened.source, progress=progress
    )


def model_hash(model: DustModel) -> str:
    """SHA-256 of a model's weights, its first 16 digits."""
    digest = hashlib.sha256()
    for name, values in sorted(model.members.state_dict().items()):
        digest.update(name.encode())
        digest.update(values.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _sigma(law: ResidualLaw | None, n_member: int) -> str:
    spread = f"spread of {n_member}" if n_member > 1 else ""
    law_text = "residual rms by brightness" if law is not None else ""
    return " and ".join(filter(None, [law_text, spread])) or "none: one network, no law"


def _validate_nside(model: DustModel, cube: HICube) -> None:
    if cube.nside < model.nside:
        raise MapError(
            f"expected a cube of Nside {model.nside} or more, as the model was trained with, got "
            f"Nside {cube.nside} of {cube.path}: its pixels are wider than any that the model has "
            "seen; prepare it again at that Nside"
        )


def _footprint(cube: HICube, number: list[int], mask: NDArray | None) -> NDArray[np.bool_]:
    """Where to predict (n_pix,), RING: what all channels observed, and the mask leaves."""
    n_pix = hp.nside2npix(cube.nside)
    if mask is None:
        warnings.warn(
            "no mask: dust is predicted wherever the cube has observed, the Galactic plane too, "
            "where models are not trained; give --mask",
            MapWarning,
            stacklevel=3,
        )
        wanted = None
    else:
        if np.shape(mask) != (n_pix,):
            raise MapError(
                f"expected a mask of Nside {cube.nside}, as the cube, got shape {np.shape(mask)}; "
                "bring it to that Nside (healpy.ud_grade of float values)"
            )
        wanted = np.asarray(mask) > 0
        if not wanted.any():
            raise MapError("expected a mask that is above zero somewhere, got none such pixel")
    for k, values in zip(number, cube.channels(number), strict=True):
        observed = np.isfinite(values)
        if wanted is None:
            wanted = observed
        if not observed[wanted].all():
            missing = wanted & ~observed
            raise MapError(
                f"{cube.path}: expected values wherever the mask is above zero, or else in all "
                f"channels alike, got NaN in {missing.sum()} of {wanted.sum()} such pixels in the "
                f"channel at {cube.velocity_kms[k]:.4g} km/s, the first at RING pixel "
                f"{missing.argmax()}; mask those pixels"
            )
    if wanted is None or not wanted.any():
        raise MapError(f"{cube.path}: expected observed pixels, got none; prepare it again")
    return wanted


def _sky(
    model: DustModel, cube: HICube, number: list[int], footprint: NDArray[np.bool_]
) -> SkyCube:
    """The filtered channels of the footprint in memory."""
    made = model.card.get("cutouts", {})
    cut = float(made.get("filter_cut", PAPER_CUT))
    order = int(made.get("filter_order", PAPER_ORDER))
    window = butterworth(low_pass_l_max(cube.nside, cut, order), cut, order)
    harmonic = HarmonicFilter(cube.nside, window)
    observed = np.ones(footprint.size, bool)
    for values in cube.channels(number):
        observed &= np.isfinite(values)
    partial = None if observed.all() else observed
    kept = footprint
    if partial is not None:
        # pixels beside which too little is observed to filter
        first = harmonic.partial_sky(np.ones(footprint.size, np.float32), partial)
        kept = footprint & np.isfinite(first)
    maps = harmonic.stream(cube.channels(number), partial)
    return SkyCube.from_maps(maps, len(number), np.zeros(kept.size, np.float32), kept)
