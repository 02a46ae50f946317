"""A map of the dust from a user's HI cube, file or array: mean and error in each pixel."""

import logging
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from numpy.typing import NDArray

from foreglow.compute.device import pick_device
from foreglow.compute.progress import Progress, Shown, shown
from foreglow.compute.workers import MapFn, map_over
from foreglow.dust import stitch as stitching
from foreglow.dust import target as targets
from foreglow.dust.beside import read_mask
from foreglow.dust.filtered import Filtered, observed_sky, where_it_lies
from foreglow.dust.given_dust import GivenDust, read_given
from foreglow.dust.model import DustModel
from foreglow.dust.own_cube import ready_cube
from foreglow.dust.parts import Job, Plan, blend, in_order, make_plan, weights_hash
from foreglow.dust.results import DustMap, PolarisedDustMap
from foreglow.dust.sky_cube import SkyCube
from foreglow.dust.stitch import Stitched
from foreglow.dust.uncertainty import Calibration, ResidualLaw, from_card, measure
from foreglow.errors import MapError, warn
from foreglow.files import scratch_directory
from foreglow.hi_cube.cube import HICube, write_cube
from foreglow.maps.conventions import MapWarning
from foreglow.maps.gnomonic import Pointings
from foreglow.maps.harmonic import PAPER_CUT, PAPER_ORDER, HarmonicFilter, low_pass
from foreglow.maps.memory import parse_memory

log = logging.getLogger("foreglow")

_GIVEN = "the dust map given, over the footprint"


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
        Its card may hold `calibration` and `residual`, and those of Q and U under `polarisation`,
        see `foreglow.dust.uncertainty`.
    sky : SkyCube
        Filtered channels, K, those of the model; its mask is the footprint. Its target is not
        looked at.
    where : Pointings, optional
        Centres of the cutouts, by default `stitch.centres()`.
    target : ndarray, shape (n_pix,), or (3, n_pix) of a polarised model, optional
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
        A `PolarisedDustMap` of a polarised model.
    """
    stitched = stitched_members(model, sky, where, batch, progress)
    card = model.card if target is None else measure(stitched, target, _GIVEN)
    return from_stitched(model, stitched, card, source)


def from_stitched(
    model: DustModel, stitched: Stitched, card: Mapping[str, Any], source: str = ""
) -> DustMap:
    """The map of members that are blended already, calibrated and with its error by a card."""
    polarised = model.target == "polarisation"
    first = 0 if polarised else slice(None)
    mean, scatter = stitched.mean, stitched.scatter
    calibration, law = from_card(card)
    n_member = len(stitched.members)
    of_both = (
        stitched.cover, model.target_unit, calibration or Calibration(), _sigma(law, n_member),
        n_member, weights_hash(model), source,
    )  # fmt: skip
    intensity = _with_error(mean[first], scatter[first], calibration, law)
    if not polarised:
        return DustMap(*intensity, *of_both)
    calibration, law = from_card(card.get("polarisation", {}))
    (q, u), (q_std, u_std) = _with_error(mean[1:], scatter[1:], calibration, law)
    return PolarisedDustMap(
        *intensity, *of_both, q=q, u=u, q_std=q_std, u_std=u_std,
        qu_calibration=calibration or Calibration(), qu_sigma=_sigma(law, n_member, polarised),
    )  # fmt: skip


def _with_error(
    mean: NDArray, scatter: NDArray, calibration: Calibration | None, law: ResidualLaw | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Calibrated maps and their errors."""
    if calibration is not None:
        mean, scatter = calibration(mean), abs(calibration.slope) * scatter
    std = scatter if law is None else law.std(mean, scatter)
    return mean.astype(np.float32), std.astype(np.float32)


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
        fine=model.fine,
        polarised=model.target == "polarisation",
    )


def predict_dust(
    cube: Any,
    *,
    model: str | Path | DustModel = "mock-dust",
    mask: Any = None,
    dust: Any = None,
    noise: Any = None,
    out: str | Path | None = None,
    velocity: u.Quantity | None = None,
    unit: str | u.UnitBase | None = None,
    nest: bool | None = None,
    frame: str | None = None,
    dust_unit: str | None = None,
    convention: str | None = None,
    device: str = "auto",
    memory: str = "4 GiB",
    workers: str | None = None,
    pool: Any = None,
    overwrite: bool = False,
    progress: Shown = None,
) -> DustMap:
    """Predict the dust, mean and error in each pixel, from the HI cube of a sky.

    Parameters
    ----------
    cube : path, HICube, xarray.Dataset, xarray.DataArray or array_like
        HI cube of `foreglow dust prepare`; a survey's FITS cut-out, of which the mean is taken over
        the channels and pixels of the model; xarray's `tb(velocity, pixel)`, with the attributes
        ordering and frame; or an array (n_velocity, n_pix) of brightness temperature, also as a
        Quantity or a masked array. NaN, UNSEEN or masked where not observed. Of its Nside the map
        will be.
    model : str, path or DustModel
        A model that comes with foreglow, a directory of `foreglow dust train`, or one at hand.
    mask : path or array_like, shape (n_pix,), optional
        Dust is predicted where it is above zero. By default wherever the cube has observed, the
        Galactic plane too, where models are not trained.
    dust : path or array_like, shape (n_pix,), optional
        Dust map in the model's unit: scale and error of the prediction are measured on it, instead
        of taken from the model. Of a polarised model I, Q and U, (3, n_pix), as for `train_dust`.
    noise : path, text, array_like or (array_like, str), optional
        Of the Q and U of `dust`: an rms of both, (n_pix,), or of each, or QQ, QU and UU, as for
        `classify`. By default that of columns beside them. With noise known, errors of Q and U are
        those of the dust; without, of the map, its noise included.
    out : path, optional
        FITS file to write the map to as well, see `DustMap.to_fits`.
    velocity : Quantity [km/s], shape (n_velocity,), optional
        Centres of the channels of an array, LSRK, radio convention, ascending or descending.
    unit : str or Unit, optional
        Of a cube or a cut-out that does not state it: K or mK.
    nest : bool, optional
        Ordering of arrays that do not state theirs, cube, mask and dust; RING by default, as in
        healpy.
    frame : str, optional
        Of an array: "G", Galactic, the only one that is taken. Mask and dust have that of the cube.
    dust_unit : str, optional
        Of `dust`, if it states none; any text, "1" for a number without unit.
    convention : str, optional
        Of Q and U of `dust`, if they state none: "COSMO" or "IAU".
    device : str
        "auto", "cpu" or "cuda".
    memory : str
        The process stays below it on the processor, beside the arrays that it was given, and so
        does each worker. All filtered channels are kept where they fit, else what neighbouring
        cutouts see.
    workers : str, optional
        Where channels are filtered and cutouts predicted: "local:N", "slurm:FILE" or
        "tcp://HOST:PORT", see `open_workers`.
    pool : object with a method `map`, optional
        In the place of `workers`: of multiprocessing, mpi4py.futures, a client of Dask, ...
    overwrite : bool
        Replace `out`.
    progress : callable or bool, optional
        Called with the centres of cutouts done and in all; by default a bar shows them on a
        terminal or in a notebook, with False nothing does.

    Returns
    -------
    DustMap
        RING; of a polarised model a `PolarisedDustMap`. An array and a file of the same cube give
        the same bits; workers the same but for the last digits, where threads share sums in
        another way.

    Raises
    ------
    MapError
        If `out` cannot be written; the cube does not say what it must, holds what the line cannot
        be, has larger pixels than the model was trained with, or has not observed what the mask
        asks for; a map is of another Nside, frame or unit; noise is given of no Q and U; or the
        memory does not suffice.
    ShapeError
        If arrays do not have the shapes above.
    ModelError
        If the model is none of dust, or the cube lacks its channels.

    Warns
    -----
    MapWarning
        If there is no mask, less sky than one cutout, a cube that is brighter than the line, or an
        array whose frame is not stated.

    Notes
    -----
    Filtered channels lie beside `out` as long as the work takes, as large as the cube's; without
    `out`, in the folder of temporary files (TMPDIR), which workers must see.
    """
    _validate_output(out, overwrite)
    chosen = pick_device(device)
    loaded = model if isinstance(model, DustModel) else DustModel.load(model, chosen)
    polarised = loaded.target == "polarisation"
    if noise is not None and (dust is None or not polarised):
        raise MapError(
            "expected noise= of the Q and U of dust=, and a model of polarisation, got "
            f"{'no dust=' if dust is None else 'a model of intensity'}; leave noise= out"
        )
    with ExitStack() as meanwhile:
        opened = meanwhile.enter_context(
            ready_cube(cube, loaded, _beside(out), memory, velocity, unit, nest, frame)
        )
        _validate_nside(loaded, opened)
        channels = loaded.find_channels(opened.velocity_kms)
        where = in_order(stitching.centres())
        plan = make_plan(loaded, opened.nside, where, parse_memory(memory), chosen)
        wanted = None if mask is None else read_mask(mask, opened, bool(nest))
        target = None
        if dust is not None:
            words = {"unit": dust_unit, "frame": frame, "convention": convention, "noise": noise}
            target = read_given(dust, opened, bool(nest), loaded.target, **words)
            _question_target(target, loaded, wanted)
        show = meanwhile.enter_context(shown("predict", progress))
        map_fn = meanwhile.enter_context(map_over(workers, pool))
        # what lies in this process is looked at here
        looking = map if opened.path is None else map_fn
        wanted, observed = observed_sky(opened, channels, wanted, looking)
        _warn_of_small(observed, loaded)
        folder = meanwhile.enter_context(
            scratch_directory(_beside(out))
        )  # workers may be elsewhere
        sky = _to_filter(folder, opened, channels, loaded, plan, map_fn)
        if target is not None:
            target = _low_passed(target, sky)
        log.info("predict: filtering %d channels, %d at a time", channels.size, sky.at_a_time)
        sky.write(wanted, observed, map_fn)
        del wanted, observed
        job = Job(
            _model_in(folder, model), weights_hash(loaded), str(chosen), sky, plan.sky_bytes,
            polarised,
        )  # fmt: skip
        stitched = blend(job, where, plan.batch, show, map_fn)
    card = loaded.card
    if target is not None:
        card = measure(stitched, target.maps, _GIVEN, target.variance)
    found = from_stitched(loaded, stitched, card, opened.source)
    if target is not None:
        targets.question_slope(str(target.name), found.calibration.slope)
        if isinstance(found, PolarisedDustMap):
            targets.question_slope(f"the Q and U of {target.name}", found.qu_calibration.slope)
    if out is not None:
        found.to_fits(out, overwrite)
    return found


def _question_target(given: GivenDust, model: DustModel, wanted: NDArray[np.bool_] | None) -> None:
    """Refuse a dust map of another unit, or of nothing; say what is unlikely about one."""
    if not targets.same_unit(given.unit, model.target_unit):
        raise MapError(
            f"expected a dust map in {model.target_unit}, as the model was trained with, got "
            f"{given.unit} of {given.name}; convert it, or leave dust= out for the model's own "
            "scale"
        )
    known = given.known
    given.question(None, known, known if wanted is None else wanted)


def _low_passed(given: GivenDust, sky: Filtered) -> GivenDust:
    """A dust map filtered as in training: Q and U by the paper's, whatever channels are."""
    chosen = sky.smoothing
    if given.qu is not None:
        chosen = HarmonicFilter(sky.nside, low_pass(sky.nside))
    known = given.known
    return given.filtered(chosen, None if known.all() else known)


def _beside(out: str | Path | None) -> Path:
    """A path beside which filtered channels lie."""
    return Path(tempfile.gettempdir(), "foreglow-dust") if out is None else Path(out).absolute()


def _to_filter(
    folder: Path,
    cube: HICube,
    channels: NDArray[np.integer],
    model: DustModel,
    plan: Plan,
    map_fn: MapFn,
) -> Filtered:
    """Channels to be filtered in a folder; what workers cannot see is written there for them."""
    which, source = channels.tolist(), where_it_lies(cube)
    if cube.path is None and map_fn is not map:
        source = folder / "cube.zarr"
        maps = cube.channels(channels)
        write_cube(source, cube.velocity_kms[channels], maps, cube.nside, None, cube.source)
        which = range(len(which))
    return Filtered(
        folder, source, tuple(which), cube.nside, *_low_pass(model), plan.channels_at_a_time
    )


def _model_in(folder: Path, model: str | Path | DustModel) -> str:
    """Where a model is loaded from, here and by workers: one at hand is saved in a folder."""
    if isinstance(model, DustModel):
        model.save(folder / "model")
        return str(folder / "model")
    return str(Path(model).absolute() if Path(model).exists() else model)


def _low_pass(model: DustModel) -> tuple[float, int]:
    """Cut and order of the low-pass of the training."""
    made = model.card.get("cutouts", {})
    return made.get("filter_cut", PAPER_CUT), made.get("filter_order", PAPER_ORDER)


def _sigma(law: ResidualLaw | None, n_member: int, polarised: bool = False) -> str:
    members = f"spread of {n_member}" if n_member > 1 else ""
    law_text = "residual rms by brightness" if law is not None else ""
    if law is not None and polarised:
        of = {"map": "of the map with its noise", "dust": "of the dust, without noise of a map"}
        law_text = f"residual rms by polarised intensity, {of[law.of]}"
    return " and ".join(filter(None, [law_text, members])) or "none: one network, no law"


def _validate_output(out: str | Path | None, overwrite: bool) -> None:
    """Refuse what cannot be written before the work is done."""
    if out is None:
        return
    out = Path(out)
    if not out.parent.is_dir():
        raise MapError(f"{out}: its folder does not exist; make it, or give another out=")
    if out.exists() and not overwrite:
        raise MapError(f"{out} exists; give another out=, or overwrite=True to replace it")


def _validate_nside(model: DustModel, cube: HICube) -> None:
    if cube.nside < model.nside:
        raise MapError(
            f"expected a cube of Nside {model.nside} or more, as the model was trained with, got "
            f"Nside {cube.nside} of {cube.name}: its pixels are wider than any that the model has "
            "seen; prepare it again at that Nside"
        )


def _warn_of_small(observed: NDArray[np.bool_], model: DustModel) -> None:
    """Say so where no cutout can be seen as a whole."""
    degrees2 = observed.mean() * 41252.96
    if degrees2 < model.grid.side_deg**2:
        warn(
            f"the cube has observed {degrees2:.4g} square degrees, less than one cutout of "
            f"{model.grid.side_deg:.3g} degrees a side: the model has never seen so little sky, "
            "and its stated error does not hold",
            MapWarning,
        )
