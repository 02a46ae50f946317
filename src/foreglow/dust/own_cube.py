"""A user's cut-out of a survey, brought to the channels and pixels that a model knows."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foreglow.dust.model import DustModel
from foreglow.dust.predict import validate_output
from foreglow.errors import ModelError
from foreglow.files import scratch_directory
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
    given = [f"{name}=" for name in said if options.pop(name, None)]
    if given:
        raise ModelError(
            f"expected model= without {', '.join(given)}: it says channels and Nside, and a "
            "cut-out is made in one go; leave one or the other out"
        )
    loaded = model if isinstance(model, DustModel) else DustModel.load(model)
    return average_cube(cubes, out, velocity_kms=loaded.velocity_kms, nside=loaded.nside, **options)


@contextmanager
def ready_cube(
    cube: str | Path, model: str | Path, out: str | Path, memory: str, overwrite: bool
) -> Iterator[Path]:
    """Yield a cube as `predict_dust` takes it: of a survey's FITS one beside `out` that goes away.

    Parameters
    ----------
    cube : path
        One that is no file is yielded as it is.
    model, out, memory, overwrite
        As for `predict_dust`.
    """
    if not Path(cube).is_file():
        yield Path(cube)
        return
    validate_output(out, overwrite)
    with scratch_directory(Path(out).absolute()) as folder:
        made = folder / "cube.zarr"
        log.info(
            "%s", prepare_for_model(cube, made, model, memory=memory, progress=False).summary()
        )
        yield made
