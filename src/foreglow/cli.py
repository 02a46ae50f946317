"""The command line: one thin function a command; the work is done by the library."""

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

# threads that wait without spinning: on a shared node spinning costs several times the work
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from foreglow.errors import ForeglowError

app = typer.Typer(
    name="foreglow",
    help="Learn CMB foregrounds: recognise which foreground model holds in each sky pixel.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
recognize = typer.Typer(
    no_args_is_help=True, help="Recognise foreground models in Q,U maps (Farsian et al. 2020)."
)
app.add_typer(recognize, name="recognize")

console = Console()
_state = {"debug": False}

Sky = Annotated[
    str, typer.Option(help="mock, pysm:s1,d1,a2, or a directory with sky.toml and amplitude maps.")
]
Seed = Annotated[int, typer.Option(help="Seed of every random draw.", min=0)]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run in --out.")]
Maps = Annotated[list[str], typer.Option(help="BAND=FILE, once a band; BAND by name or in GHz.")]
OutFile = Annotated[Path, typer.Option(help="FITS file to write.")]
NoiseOfBands = Annotated[
    list[str] | None,
    typer.Option(
        help="BAND=FILE (rms map), BAND='36 uK_CMB arcmin' or BAND='0.5 uK_CMB' (a pixel); "
        "others: the instrument's."
    ),
]
NoiseScale = Annotated[float, typer.Option(help="Factor on the instrument's noise.", min=0)]
Unit = Annotated[str | None, typer.Option(help="Unit of maps without one: uK_CMB, ...")]
Overwrite = Annotated[bool, typer.Option(help="Replace --out.")]
ModelDirectory = Annotated[Path, typer.Option(help="Model directory of `recognize train`.")]
ContextDirectory = Annotated[
    Path | None, typer.Option(help="Context directory of `recognize context`; else pixel by pixel.")
]


@app.callback()
def main_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results only.")] = False,
) -> None:
    """Options before the command."""
    _state["debug"] = debug
    _start_logging(logging.WARNING if quiet else logging.INFO)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run directory.")] = Path("foreglow-demo"),
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier demo in --out.")] = False,
) -> None:
    """Train on the mock Galaxy, classify a test sky from FITS to FITS, and write a report."""
    from foreglow.demo import run_demo

    run_demo(out, seed, device, overwrite, console)


@app.command()
def reproduce(
    paper: Annotated[str, typer.Argument(help="farsian2020")],
    out: Annotated[
        Path | None, typer.Option(help="Run directory (runs/PAPER-SCALE by default).")
    ] = None,
    scale: Annotated[
        str, typer.Option(help="smoke, laptop (15 min, 2 cores) or paper.")
    ] = "laptop",
    sky: Sky = "mock",
    seed: Seed = 0,
    device: Device = "auto",
    resume: Resume = False,
) -> None:
    """Every table and figure of a paper, beside its own numbers."""
    from foreglow.report.tables import accuracy_rows, rich_table
    from foreglow.reproduce import farsian2020

    if paper != "farsian2020":
        raise ForeglowError(f"expected the paper farsian2020, but {paper!r} came.")
    folder = out or Path("runs") / f"{paper}-{scale}"
    report = farsian2020.reproduce(folder, scale, sky, seed, device, resume)
    records = farsian2020.read_records(folder)
    for table in (2, 3):
        console.print(rich_table(accuracy_rows(records, table)))
    _say(f"report: {report}")


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(help="A run directory with metrics.json.")],
) -> None:
    """Write report.html anew from what a run directory holds."""
    from foreglow.report.html import write_report

    _say(f"report: {write_report(run_dir)}")


@recognize.command("simulate")
def recognize_simulate(
    out: Annotated[Path, typer.Option(help="Folder for band_NAME.fits and truth.fits.")],
    sky: Sky = "mock",
    problem: Annotated[str, typer.Option(help="Models: curvature, ame or four.")] = "four",
    regions: Annotated[str, typer.Option(help="halves, quadrants, blobs or single:K.")] = "blobs",
    blob_deg: Annotated[float, typer.Option(help="Size of the blobs (deg).")] = 30.0,
    nside: Annotated[int, typer.Option(help="HEALPix Nside of the maps.")] = 16,
    noise_scale: Annotated[
        float, typer.Option(help="Factor on the instrument's noise; 0 for none.", min=0)
    ] = 1.0,
    instrument: Annotated[str, typer.Option(help="Preset or TOML file.")] = "quijote+litebird",
    seed: Seed = 0,
) -> None:
    """Make Q,U maps (uK_RJ) of a sky with known models, a FITS file a band."""
    from foreglow.recognition.skies import make_sky_files

    paths = make_sky_files(
        out, sky, problem, regions, blob_deg, nside, noise_scale, instrument, seed
    )
    _say(f"{len(paths)} maps and truth.fits in {out}")


@recognize.command("train")
def recognize_train(
    out: Annotated[Path, typer.Option(help="Model directory to write.")],
    sky: Sky = "mock",
    problem: Annotated[str, typer.Option(help="Models: curvature, ame or four.")] = "four",
    network: Annotated[
        str, typer.Option(help="foreglow, foreglow_memory or farsian2020.")
    ] = "foreglow",
    regime: Annotated[
        str, typer.Option(help="conditioned (any noise), noiseless, one_noise or many_noise.")
    ] = "conditioned",
    noise_scale: Annotated[
        float, typer.Option(help="Factor on the noise, for one_noise and many_noise.", min=0)
    ] = 1.0,
    epochs: Annotated[int, typer.Option(help="Epochs.", min=1)] = 20,
    steps: Annotated[int, typer.Option(help="Steps an epoch.", min=1)] = 100,
    batch: Annotated[int, typer.Option(help="Vectors a step.", min=2)] = 4096,
    instrument: Annotated[str, typer.Option(help="Preset or TOML file.")] = "quijote+litebird",
    seed: Seed = 0,
    device: Device = "auto",
    resume: Resume = False,
) -> None:
    """Train a network on vectors drawn fresh from the training law."""
    from foreglow.recognition.train import train_model

    accuracy = train_model(
        out, sky, problem, network, regime, noise_scale, epochs, steps, batch, instrument, seed,
        device, resume,
    )  # fmt: skip
    _say(f"model: {out} (validation accuracy {accuracy:.4f})")


@recognize.command("context")
def recognize_context(
    model: ModelDirectory,
    out: Annotated[Path, typer.Option(help="Context directory to write.")],
    sky: Sky = "mock",
    network: Annotated[str, typer.Option(help="unet or potts.")] = "unet",
    epochs: Annotated[int, typer.Option(help="Epochs.", min=1)] = 10,
    steps: Annotated[int, typer.Option(help="Steps of 16 skies an epoch.", min=1)] = 50,
    seed: Seed = 0,
    device: Device = "auto",
    resume: Resume = False,
) -> None:
    """Teach a spatial context, on random patches, what neighbours say of a pixel."""
    from foreglow.recognition.context.train import train_context_model

    accuracy = train_context_model(out, model, sky, network, epochs, steps, seed, device, resume)
    _say(f"context: {out} (validation accuracy {accuracy:.4f})")


@recognize.command("classify")
def recognize_classify(
    model: ModelDirectory,
    maps: Maps,
    out: OutFile,
    context: ContextDirectory = None,
    noise: NoiseOfBands = None,
    noise_scale: NoiseScale = 1.0,
    unit: Unit = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Probability of each model in each pixel of your own Q,U maps, FITS to FITS."""
    from foreglow.recognition.classify import classify
    from foreglow.recognition.context.model import ContextModel
    from foreglow.recognition.model import Recogniser
    from foreglow.recognition.observations import validate_output
    from foreglow.training import pick_device

    validate_output(out, overwrite)
    chosen = pick_device(device)
    recogniser = Recogniser.load(model, chosen)
    neighbours = ContextModel.load(context, chosen) if context else None
    files, rms = _pairs(maps, "--maps"), _pairs(noise or [], "--noise")
    with _progress("classify") as show:
        found = classify(recogniser, files, rms, noise_scale, unit, show, neighbours)
    found.write(out, overwrite)
    _say(found.summary())
    _say(f"written: {out}")


@recognize.command("fit")
def recognize_fit(
    maps: Maps,
    out: OutFile,
    instrument: Annotated[
        str, typer.Option(help="Preset or TOML file; maps may lack some of its bands.")
    ] = "quijote+litebird",
    problem: Annotated[str, typer.Option(help="Models: curvature, ame or four.")] = "four",
    criterion: Annotated[
        str, typer.Option(help="Choose by evidence, bic, aic or chi2 (reduced, the paper's).")
    ] = "evidence",
    curvature: Annotated[
        float | None, typer.Option(help="C of the curved models, -0.052 for Kogut's; else free.")
    ] = None,
    level: Annotated[float, typer.Option(help="A model of smaller p-value does not fit.")] = 1e-3,
    noise: NoiseOfBands = None,
    noise_scale: NoiseScale = 1.0,
    unit: Unit = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Fit each model to each pixel of your own Q,U maps and choose, FITS to FITS."""
    from foreglow.recognition.fitted import fit_maps
    from foreglow.recognition.observations import validate_output
    from foreglow.recognition.skies import models_of
    from foreglow.sky.instrument import load_instrument
    from foreglow.training import pick_device

    validate_output(out, overwrite)
    models, bands, where = models_of(problem), load_instrument(instrument), pick_device(device)
    files, rms = _pairs(maps, "--maps"), _pairs(noise or [], "--noise")
    with _progress("fit") as show:
        found = fit_maps(
            bands, models, files, rms, noise_scale, unit, criterion, curvature, level, where, show
        )
    found.write(out, overwrite)
    _say(found.summary())
    _say(f"written: {out}")


@recognize.command("evaluate")
def recognize_evaluate(
    model: ModelDirectory,
    context: ContextDirectory = None,
    sky: Sky = "mock",
    problem: Annotated[
        str | None, typer.Option(help="curvature, ame or four (all the model's by default).")
    ] = None,
    regions: Annotated[str, typer.Option(help="halves, quadrants, blobs or single:K.")] = "blobs",
    nside: Annotated[int, typer.Option(help="HEALPix Nside of the test skies.")] = 16,
    noise_scale: Annotated[
        list[float] | None, typer.Option(help="Factor on the noise; may be given often.")
    ] = None,
    skies: Annotated[int, typer.Option(help="Test skies a noise scale.", min=1)] = 8,
    seed: Seed = 1,
    device: Device = "auto",
) -> None:
    """Accuracy of a model on fresh test skies with known models."""
    from rich.table import Table

    from foreglow.recognition.context.model import ContextModel
    from foreglow.recognition.evaluate import accuracy_on_skies
    from foreglow.recognition.model import Recogniser
    from foreglow.training import pick_device

    chosen = pick_device(device)
    recogniser = Recogniser.load(model, chosen)
    neighbours = ContextModel.load(context, chosen) if context else None
    scales = noise_scale or [0.0, 0.01, 0.1, 1.0]
    rows = accuracy_on_skies(
        recogniser, sky, problem, regions, nside, scales, skies, seed, neighbours
    )
    table = Table("noise scale", "accuracy", "error", "pixels", title=escape(f"{model} on {sky}"))
    for row in rows:
        table.add_row(
            f"{row.noise_scale:g}", f"{row.accuracy:.4f}", f"{row.error:.4f}", str(row.n_pixels)
        )
    console.print(table)


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; yields what to call with pixels done and pixels in all."""
    from rich.progress import Progress

    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _say(text: str) -> None:
    # a path is neither markup nor to be broken
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _pairs(texts: list[str], option: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        band, equals, value = text.partition("=")
        if not (equals and band and value):
            raise ForeglowError(f"expected {option} BAND=VALUE, but {text!r} came.")
        if band in pairs:
            raise ForeglowError(f"{option} names band {band} twice; give it once.")
        pairs[band] = value
    return pairs


def _start_logging(level: int) -> None:
    logger = logging.getLogger("foreglow")
    logger.setLevel(logging.INFO)
    handler = RichHandler(console=console, show_path=False, show_level=False)
    if not console.is_terminal:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.setLevel(level)
    logger.handlers[:] = [handler]
    logger.propagate = False


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:  # noqa: ARG001
    Console(stderr=True).print(f"[yellow]warning:[/] {escape(str(message))}", highlight=False)


def main() -> None:
    """Run the command line: 0 on success, 2 on a user's mistake, 1 on our own failure."""
    warnings.showwarning = _show_warning
    try:
        app()
    except ForeglowError as error:
        if _state["debug"]:
            traceback.print_exc()
        text = f"[red]error:[/] {escape(str(error))}"
        Console(stderr=True).print(text, highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; go on with --resume.")
        sys.exit(130)
    except Exception as error:
        if _state["debug"]:
            raise
        Console(stderr=True).print(
            f"[red]failure in foreglow:[/] {type(error).__name__}: {escape(str(error))} "
            "(a bug: please report it with the output of --debug).",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
        sys.exit(1)
