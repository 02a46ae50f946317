"""A user's cut-out of a survey, brought to the channels and pixels that a model knows."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foreglow.dust.model import DustModel
from foreglow.errors import MapError, ModelError
from foreglow.files import scratch_directory
from foreglow.hi_cube.arrays import as_cube
from foreglow.hi_cube.averaged import average_cube
from foreglow.hi_cube.cube import HICube

log = logging.getLogger("foreglow")


def prepare_for_model(
    cubes: str | Path | Sequence[str | Path],
    out: str | Path,
    model: DustModel | str | Path,
    **options: Any,
) -> HICube:
    """Make the cube that a dust model takes from a survey's, of any finer pixels and channels.

    Parameters
    ----------
    cubes, out
        As for `foreglow.hi_cube.prepare.prepare`.
    model : DustModel, path or str
        Whose channels and Nside the cube has then, each a mean over what is finer.
    options
        `memory`, `unit`, `beam_arcmin`, `velocity_table`, `overwrite` and `progress` as for
        `foreglow.hi_cube.averaged.average_cube`. Others make no sense, as the model says them.

    Returns
    -------
    HICube

    Raises
    ------
    ModelError
        If the model cannot be read, or an option is given that the model says.
    MapError
        As `average_cube`.
    """
    said = ("nside", "low_kms", "high_kms", "workers", "resume")
    values = {name: options.pop(name, None) for name in said}
    given = [f"{name}=" for name, value in values.items() if not (value is None or value is False)]
    if given:
        raise ModelError(
            f"expected model= without {', '.join(given)}: it says channels and Nside, and a "
            "cut-out is made in one go; leave one or the other out"
        )
    loaded = model if isinstance(model, DustModel) else DustModel.load(model)
    return average_cube(cubes, out, velocity_kms=loaded.velocity_kms, nside=loaded.nside, **options)


@contextmanager
def ready_cube(
    cube: Any,
    model: DustModel,
    beside: Path,
    memory: str,
    velocity: Any = None,
    unit: Any = None,
    nest: bool | None = None,
    frame: str | None = None,
) -> Iterator[HICube]:
    """Open a cube; of a survey's FITS file one that is made for the model, and goes away.

    Parameters
    ----------
    cube : any
        As `foreglow.dust.predict.predict_dust` takes it.
    model : DustModel
    beside : Path
        The cube made lies beside it.
    memory : str
    velocity, unit, nest, frame
        As `foreglow.hi_cube.arrays.as_cube` takes them; a file states its own velocities.

    Raises
    ------
    MapError, ShapeError
        As `as_cube` and `prepare_for_model`.
    """
    if not (isinstance(cube, str | Path) and Path(cube).is_file()):
        yield as_cube(cube, velocity, unit, nest, frame)
        return
    if velocity is not None:
        raise MapError(
            f"velocity: expected it with an array alone, got it beside {cube}, whose header states "
            "its own; leave it out, or make the cube by `foreglow dust prepare --velocity-table`"
        )
    with scratch_directory(beside) as folder:
        made = prepare_for_model(
            cube, folder / "cube.zarr", model, memory=memory, progress=False,
            unit=None if unit is None else str(unit),
        )  # fmt: skip
        log.info("%s", made.summary())
        yield as_cube(made, frame=frame)
