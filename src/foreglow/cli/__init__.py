"""The command line: one thin function a command; the work is done by the library."""

import errno
import logging
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from foreglow import interrupt
from foreglow.cli import data, dust, r, recognize, screen, survey
from foreglow.cli.messages import command_of, in_options
from foreglow.cli.options import Device, Json, Resume, Seed, Workers, one_of
from foreglow.compute.cpu import tune
from foreglow.errors import ForeglowError
from foreglow.files import REFUSED

app = typer.Typer(
    name="foreglow",
    help="Learn CMB foregrounds: recognise foreground models pixel by pixel, and predict dust "
    "from the 21 cm line.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
recognize.app.command("forecast")(r.recognize_forecast)
recognize.app.command("survey")(survey.recognize_survey)
recognize.app.command("measure-r")(r.recognize_measure_r)
app.add_typer(recognize.app, name="recognize")
app.add_typer(dust.app, name="dust")
app.add_typer(data.app, name="data")

_OF_THE_DISK = (*REFUSED, errno.EACCES, errno.EPERM, errno.EIO)
_state = {"debug": False}


def _print_versions(asked: bool) -> None:
    if not asked:
        return
    import platform

    from foreglow.runs import package_versions

    versions = package_versions()
    screen.say(f"foreglow {versions.pop('foreglow')}")
    screen.say(f"python {platform.python_version()}")
    for name, version in versions.items():
        screen.say(f"{name} {version}")
    raise typer.Exit


@app.callback()
def main_options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_versions,
            is_eager=True,
            help="Print the versions of foreglow and of what shapes its results.",
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results only.")] = False,
) -> None:
    """Options before the command."""
    _state["debug"] = debug
    screen.start_logging(logging.WARNING if quiet else logging.INFO)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run directory.")] = Path("foreglow-demo"),
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier demo in --out.")] = False,
    as_json: Json = False,
) -> None:
    """Both jobs on the mock Galaxy in some minutes: models recognised, dust predicted, a report."""
    from foreglow.extras import require

    require("train", "report")
    from foreglow.demo import printed, run_demo
    from foreglow.reproduce import read_records

    run_demo(out, seed, device, overwrite)
    screen.show(printed(out), read_records(out), as_json)


@app.command()
def reproduce(
    paper: Annotated[
        str,
        typer.Argument(
            help="farsian2020 or zhang2019", autocompletion=one_of("farsian2020", "zhang2019")
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Run directory (runs/PAPER-SCALE by default).")
    ] = None,
    scale: Annotated[
        str,
        typer.Option(
            help="smoke, laptop (25 min, 2 cores), evening (some hours) or paper.",
            autocompletion=one_of("smoke", "laptop", "evening", "paper"),
        ),
    ] = "laptop",
    sky: Annotated[
        str,
        typer.Option(
            help="mock, or a directory with sky.toml and its maps; of farsian2020 also "
            "pysm:s1,d1,a2; of zhang2019 also hi4pi, the real sky of the paper: HI4PI, Planck's "
            "dust and mask (hi4pi:gnilc,tiles,GAL060,no-sources choose others)."
        ),
    ] = "mock",
    download: Annotated[
        bool,
        typer.Option(
            "--download",
            help="Fetch what --sky hi4pi needs and is not there; without it, that is listed.",
        ),
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
    workers: Workers = None,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Every table and figure of a paper, beside its own numbers."""
    from math import inf

    from foreglow import reproduce as papers
    from foreglow.compute.workers import open_workers

    folder = out or Path("runs") / f"{paper}-{scale}"
    with open_workers(workers, ahead=inf) as map_fn:
        report = papers.reproduce(paper, folder, scale, sky, seed, device, resume, map_fn, download)
    screen.show(papers.printed_tables(paper, folder), papers.read_records(folder), as_json)
    screen.say(f"report: {report}")


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(help="A run directory with metrics.json.")],
) -> None:
    """Write report.html anew from what a run directory holds."""
    from foreglow.report.html import write_report

    screen.say(f"report: {write_report(run_dir)}")


@app.command()
def models(as_json: Json = False) -> None:
    """Trained models that come with foreglow, and how far to trust them."""
    from dataclasses import asdict

    from foreglow.shipped import shipped_models

    found = shipped_models()
    texts = [
        f"{model.name}: for `{model.use} {model.name}`\n{model.trust}\n"
        f"Made by `foreglow {model.command}`.\n"
        for model in found
    ]
    screen.show(texts, [asdict(model) for model in found], as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """What works on this machine: packages, cores, memory, device, folders, templates."""
    from foreglow.doctor import examine, findings_table

    found = examine()
    screen.show([findings_table(found)], [finding.record() for finding in found], as_json)
    if any(finding.state == "fails" for finding in found):
        raise typer.Exit(1)


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:  # noqa: ARG001
    text = in_options(str(message), app)
    Console(stderr=True).print(f"[yellow]warning:[/] {escape(text)}", highlight=False)


def _print_error(text: str) -> None:
    Console(stderr=True).print(f"[red]error:[/] {escape(text)}", highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line: 0 on success, 2 on a user's mistake, 1 on our own failure."""
    tune()
    interrupt.say(interrupt.NOTHING_KEPT)
    warnings.showwarning = _show_warning
    try:
        command_of(app)(prog_name="foreglow")
    except ForeglowError as error:
        if _state["debug"]:
            traceback.print_exc()
        _print_error(in_options(str(error), app))
        sys.exit(2)
    except SystemExit as end:  # what Typer makes of a KeyboardInterrupt
        if end.code == interrupt.CODE and not interrupt.is_spoken_for():
            Console(stderr=True).print(interrupt.message(), highlight=False, soft_wrap=True)
        raise
    except Exception as error:
        if _state["debug"]:
            raise
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            _print_error(f"{error}: check the file and its folder, their permissions and room.")
            sys.exit(2)
        Console(stderr=True).print(
            f"[red]failure in foreglow:[/] {type(error).__name__}: {escape(str(error))} "
            "(a bug: please report it with the output of --debug).",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
        sys.exit(1)
