"""Options that several commands share."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from foreglow import interrupt
from foreglow.cli import screen
from foreglow.errors import InstrumentError


def one_of(*names: str) -> Callable[[], list[str]]:
    """What the shell offers for a value, by the Tab key."""
    return lambda: list(names)


def instrument_presets() -> list[str]:
    """Names of the built-in instruments, for the shell; files are offered by it too."""
    folder = files("foreglow") / "presets" / "instruments"
    return sorted(f.name[: -len(".toml")] for f in folder.iterdir() if f.name.endswith(".toml"))


def _can_resume(asked: bool) -> bool:
    interrupt.say("what was done is kept: the same command with --resume goes on")
    return asked


Sky = Annotated[
    str,
    typer.Option(
        help="mock, pysm:s1,d1,a2, or a directory with sky.toml and amplitude maps.",
        autocompletion=one_of("mock", "pysm:s1,d1,a2"),
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of every random draw.", min=0)]
Device = Annotated[
    str, typer.Option(help="auto, cpu or cuda.", autocompletion=one_of("auto", "cpu", "cuda"))
]
Resume = Annotated[
    bool,
    typer.Option("--resume", callback=_can_resume, help="Go on with an interrupted run in --out."),
]
Workers = Annotated[
    str | None,
    typer.Option(
        "--workers",
        help="Workers for the job: local:N (processes here), tcp://HOST:PORT (a Dask scheduler) or "
        "slurm:FILE (jobs of SLURM by a TOML file).",
    ),
]
SystematicErrors = Annotated[
    list[str] | None,
    typer.Option(
        "--systematics",
        help="Error that no analyst knows, NAME=SIZE, rms by band; may be given often: gain=0.01, "
        "band_centre=0.005 and beam=0.02 (relative), angle_deg=0.5; knee_ell=30 of 1/f noise, and "
        "uneven_noise=0.3, rms of the logarithm of the noise over the sky.",
    ),
]
Models = Annotated[
    str,
    typer.Option(
        help="curvature, ame or four; or candidates separated by commas: power_law, curved, "
        "strongly_curved, power_law_ame, curved_ame, varying_beta_d, varying_dust, dust_moments, "
        "two_temperatures, or a TOML file of your own.",
        autocompletion=one_of("curvature", "ame", "four"),
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        callback=screen.leave_output_to_json,
        help="Print the table's records as JSON; all else goes to standard error.",
    ),
]
OutFile = Annotated[Path, typer.Option(help="FITS file to write.")]
NoiseOfBands = Annotated[
    list[str] | None,
    typer.Option(
        help="BAND=FILE, where needed with columns, and what they hold: BAND='FILE[WEI_Q,WEI_U] as "
        "inverse variance in mK_CMB^-2', '... as variance in mK_CMB^2', '... as rms in mK_CMB' or "
        "'... as hits of 1.2 mK_CMB' (the rms of one); the covariance of Q and U as "
        "BAND='FILE[QQ,QU,UU] as covariance in mK_CMB^2', '... as inverse covariance in mK_CMB^-2' "
        "or '... as hits of 1.4 mK_CMB' (WMAP's matrix); else BAND='36 uK_CMB arcmin' or "
        "BAND='0.5 uK_CMB' (a pixel); others: the instrument's."
    ),
]
CommonFwhm = Annotated[
    float | None,
    typer.Option(
        help="Bring all maps to this Gaussian beam (FWHM, arcmin) first, at the Nside that fits "
        "it; noise is propagated."
    ),
]
Unit = Annotated[str | None, typer.Option(help="Unit of maps without one: uK_CMB, ...")]
Overwrite = Annotated[bool, typer.Option(help="Replace --out.")]
ModelDirectory = Annotated[
    Path,
    typer.Option(
        help="Model directory of `recognize train`, or mock-four, which comes with foreglow.",
        autocompletion=one_of("mock-four"),
    ),
]
ContextDirectory = Annotated[
    Path | None,
    typer.Option(
        help="Context directory of `recognize context`, or mock-four-neighbours; else pixel by "
        "pixel.",
        autocompletion=one_of("mock-four-neighbours"),
    ),
]
DustModelDirectory = Annotated[
    Path,
    typer.Option(
        help="Model directory of `dust train`, or mock-dust, which comes with foreglow.",
        autocompletion=one_of("mock-dust"),
    ),
]


def systematics(given: list[str] | None) -> dict[str, float]:
    """What --systematics says, as `simulate_sky` takes it."""
    sizes = {}
    for text in given or []:
        name, _, size = text.partition("=")
        try:
            sizes[name] = float(size)
        except ValueError as error:
            raise InstrumentError(
                f"expected --systematics as NAME=SIZE, such as gain=0.01, got {text!r}."
            ) from error
    return sizes
