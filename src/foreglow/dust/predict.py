"""A map of the dust from a user's HI cube: mean and error in each pixel, from files to a file."""

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foreglow.compute.device import pick_device
from foreglow.compute.workers import Spread
from foreglow.dust import stitch as stitching
from foreglow.dust import target as targets
from foreglow.dust.cutouts import SkyCube
from foreglow.dust.filtered import Filtered, observed_sky
from foreglow.dust.inputs import read_on_grid
from foreglow.dust.model import DustModel
from foreglow.dust.parts import Job, blend, in_order, make_plan, weights_hash
from foreglow.dust.stitch import Stitched
from foreglow.dust.uncertainty import Calibration, ResidualLaw, from_card
from foreglow.errors import MapError
from foreglow.files import scratch_directory
from foreglow.hi_cube.cube import HICube, open_cube
from foreglow.maps.conventions import MapWarning
from foreglow.maps.gnomonic import Pointings
from foreglow.maps.harmonic import PAPER_CUT, PAPER_ORDER
from foreglow.maps.io import open_plain_map
from foreglow.maps.memory import parse_memory
from foreglow.maps.write import write_maps

log = logging.getLogger("foreglow")

_GIVEN = "the dust map given, over the footprint"

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
        dust, error = (
            targets.with_unit(f"{x:.4g}", self.unit) for x in (middle, np.nanmedian(self.std))
        )
        return (
            f"{seen.sum()} of {seen.size} pixels predicted ({100 * seen.mean():.3g}% of the sky), "
            f"mean |b| {targets.mean_latitude(np.flatnonzero(seen), seen.size):.0f} deg: dust "
            f"{dust} (16-84%: {low:.4g} to {high:.4g}), error {error} (median)"
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
        calibration, law = measure(stitched, target, _GIVEN)
    return from_stitched(model, stitched, calibration, law, source)


def from_stitched(
    model: DustModel,
    stitched: Stitched,
    calibration: Calibration | None,
    law: ResidualLaw | None,
    source: str = "",
) -> DustMap:
    """The map of members that are blended already, calibrated and with its error."""
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
        weights_hash(model),
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
    return stitching.stitch(
        lambda cutouts: model.each(cutouts.inputs, cutouts.mask),
        sky,
        model.grid,
        where,
        batch=batch,
        progress=progress,
    )


def measure(
    stitched: Stitched, target: NDArray, to: str, stranger: NDArray[np.integer] | None = None
) -> tuple[Calibration, ResidualLaw]:
    """Calibration and law of the residuals of a stitched map, where a target is known.

    Parameters
    ----------
    stitched : Stitched
    target : ndarray, shape (n_pix,)
        RING; NaN where it is not to be used.
    to : str
        What the target is, for the header of maps.
    stranger : ndarray of int, shape (n_pix,), optional
        RING; the member that has not seen a pixel, as `foreglow.dust.folds.strangers` has it: the
        law is that of what it says there, calibrated as the ensemble, and pixels that have none
        (-1) have no part in it. By default, and where no pixel has one, the law is of the mean of
        all members, which is honest only on a sky that none was trained on.
    """
    mean, target = stitched.mean, np.asarray(target)
    known = np.isfinite(target) & np.isfinite(mean)
    calibration = Calibration.fit(mean[known], target[known], to)
    if stranger is not None and (stranger >= 0).any():
        mean = np.take_along_axis(stitched.members, np.maximum(stranger, 0)[None], 0)[0]
        known &= stranger >= 0
    spread = abs(calibration.slope) * stitched.spread[known]
    return calibration, ResidualLaw.fit(calibration(mean[known]), spread, target[known])


def predict(
    model: str | Path,
    cube: str | Path,
    out: str | Path,
    mask: str | Path | None = None,
    dust: str | Path | None = None,
    unit: str | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
    memory: str = "4 GiB",
    spread: Spread = map,
) -> DustMap:
    """Predict the dust of a cube on disk; the body of `foreglow dust predict`.

    Parameters
    ----------
    model : path
        Model directory of `foreglow dust train`.
    cube : path
        HI cube of `foreglow dust prepare`. Of its Nside the map will be.
    out : path
        FITS file to write, see `DustMap.write`.
    mask : path, optional
        FITS map: dust is predicted where it is above zero. By default wherever the cube has
        observed, the Galactic plane too, where models are not trained.
    dust : path, optional
        FITS dust map in the model's unit: scale and error of the prediction are measured on it,
        instead of taken from the model.
    unit : str, optional
        Of `dust`, if its header states none; any text, "1" for a number without unit.
    device : str
    overwrite : bool
    progress : callable, optional
        Called with the centres of cutouts done and in all.
    memory : str
        The process stays below it on the processor, and so does each worker. All filtered channels
        are kept where they fit, else what neighbouring cutouts see.
    spread : Spread
        Where channels are filtered and cutouts predicted, see
        `foreglow.compute.workers.open_workers`. Filtered channels lie beside `out` as long as
        the work takes, as large as the cube's.

    Returns
    -------
    DustMap
        From workers the same but for the last digits, where threads share sums in another way.

    Raises
    ------
    MapError
        If `out` cannot be written; the cube has larger pixels than the model was trained with, or
        has not observed what the mask asks for; a map is of another Nside, frame or unit; or the
        memory does not suffice.
    ModelError
        If the model is none of dust, or the cube lacks its channels.

    Warns
    -----
    MapWarning
        If there is no mask, or less sky than one cutout.
    """
    _validate_output(Path(out), overwrite)
    chosen = pick_device(device)
    loaded = DustModel.load(model, chosen)
    opened = open_cube(cube)
    _validate_nside(loaded, opened)
    channels = loaded.find_channels(opened.velocity_kms)
    where = in_order(stitching.centres())
    plan = make_plan(loaded, opened.nside, where, parse_memory(memory), chosen)
    wanted = None if mask is None else _read_mask(Path(mask), opened)
    target = None if dust is None else _read_target(Path(dust), unit, loaded, opened)
    wanted, observed = observed_sky(opened, channels, wanted, spread)
    _warn_of_small(observed, loaded)
    with scratch_directory(Path(out).absolute()) as folder:  # workers may be elsewhere
        sky = Filtered(
            folder,
            opened.path.absolute(),
            tuple(channels.tolist()),
            opened.nside,
            *_low_pass(loaded),
            plan.channels_at_a_time,
        )
        if target is not None:
            known = np.isfinite(target)
            target = next(sky.smoothing.stream([target], None if known.all() else known))
        log.info("predict: filtering %d channels, %d at a time", channels.size, sky.at_a_time)
        sky.write(wanted, observed, spread)
        del wanted, observed
        named = Path(model).absolute() if Path(model).exists() else model
        job = Job(str(named), weights_hash(loaded), str(chosen), sky, plan.sky_bytes)
        stitched = blend(job, where, plan.batch, progress, spread)
    calibration, law = from_card(loaded.card)
    if target is not None:
        calibration, law = measure(stitched, target, _GIVEN)
        targets.question_slope(str(dust), calibration.slope)
    found = from_stitched(loaded, stitched, calibration, law, opened.source)
    found.write(out, overwrite)
    return found


def _low_pass(model: DustModel) -> tuple[float, int]:
    """Cut and order of the low-pass of the training."""
    made = model.card.get("cutouts", {})
    return made.get("filter_cut", PAPER_CUT), made.get("filter_order", PAPER_ORDER)


def _sigma(law: ResidualLaw | None, n_member: int) -> str:
    spread = f"spread of {n_member}" if n_member > 1 else ""
    law_text = "residual rms by brightness" if law is not None else ""
    return " and ".join(filter(None, [law_text, spread])) or "none: one network, no law"


def _validate_output(out: Path, overwrite: bool) -> None:
    """Refuse what cannot be written before the work is done."""
    if not out.parent.is_dir():
        raise MapError(f"{out}: its folder does not exist; make it, or give another --out.")
    if out.exists() and not overwrite:
        raise MapError(f"{out} exists; give another --out, or --overwrite to replace it.")


def _validate_nside(model: DustModel, cube: HICube) -> None:
    if cube.nside < model.nside:
        raise MapError(
            f"expected a cube of Nside {model.nside} or more, as the model was trained with, got "
            f"Nside {cube.nside} of {cube.path}: its pixels are wider than any that the model has "
            "seen; prepare it again at that Nside"
        )


def _warn_of_small(observed: NDArray[np.bool_], model: DustModel) -> None:
    """Say so where no cutout can be seen as a whole."""
    degrees2 = observed.mean() * 41252.96
    if degrees2 < model.grid.side_deg**2:
        warnings.warn(
            f"the cube has observed {degrees2:.4g} square degrees, less than one cutout of "
            f"{model.grid.side_deg:.3g} degrees a side: the model has never seen so little sky, "
            "and its stated error does not hold",
            MapWarning,
            stacklevel=3,
        )


def _read_mask(path: Path, cube: HICube) -> NDArray[np.bool_]:
    values = read_on_grid(path, open_plain_map(path), cube)
    wanted = np.nan_to_num(values) > 0
    if not wanted.any():
        raise MapError(f"{path}: expected a mask that is above zero somewhere, got none such pixel")
    return wanted


def _read_target(path: Path, unit: str | None, model: DustModel, cube: HICube) -> NDArray:
    stored, found = targets.open_target(path, unit)
    if not targets.same_unit(found, model.target_unit):
        raise MapError(
            f"expected a dust map in {model.target_unit}, as the model was trained with, got "
            f"{found} of {path}; convert it, or leave --dust out for the model's own scale"
        )
    target = read_on_grid(path, stored, cube)
    targets.validate_varies(path, target, found)
    return target
