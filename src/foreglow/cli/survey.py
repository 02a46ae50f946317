"""`foreglow recognize survey`: the real sky by one command."""

from pathlib import Path
from typing import Annotated

import typer

from foreglow.cli import screen
from foreglow.cli.options import Device, Json, Models, Resume, Seed, one_of
from foreglow.cli.training import PlanFile


def recognize_survey(
    survey: Annotated[
        str,
        typer.Argument(
            help="wmap, planck (PR3), npipe, quijote, s-pass, or a TOML file of your own; joined "
            "by plus signs.",
            autocompletion=one_of("wmap+planck", "wmap", "planck", "npipe", "quijote", "s-pass"),
        ),
    ] = "wmap+planck",
    out: Annotated[
        Path | None, typer.Option(help="Run directory (runs/survey by default).")
    ] = None,
    common_fwhm: Annotated[
        float, typer.Option(help="Bring all maps to this Gaussian beam (FWHM, arcmin).")
    ] = 60.0,
    nside: Annotated[
        int | None,
        typer.Option(
            help="HEALPix Nside of the result.",
            show_default="the finest whose pixels are half a beam wide",
        ),
    ] = None,
    models: Models = "four",
    mask: Annotated[
        str | None,
        typer.Option(
            help="Galactic FITS mask of any finer Nside, FILE or FILE[COLUMN]: pixels above zero "
            "count."
        ),
    ] = None,
    systematic: Annotated[
        float | None,
        typer.Option(
            help="Error of every band beside white noise, over its polarised brightness.",
            show_default="of each band as the survey has it",
        ),
    ] = None,
    noise_accuracy: Annotated[
        float | None,
        typer.Option(
            help="Draw maps of the noise and smooth them as the data are, as many as give its rms "
            "to this accuracy (0.05: 200 a band).",
            show_default="propagated by a formula",
        ),
    ] = None,
    bandpass: Annotated[
        list[str] | None,
        typer.Option(
            help="Measured bandpass of a band, may be given often: "
            "BAND='HFI_RIMO.fits[BANDPASS_F353] as power', BAND='LFI_RIMO.fits[BANDPASS_030] as "
            "temperature in GHz', BAND='K11.cbp[2,3],K12.cbp[2,3] as temperature'.",
            show_default="the effective frequencies of the bands",
        ),
    ] = None,
    halves: Annotated[
        bool, typer.Option("--halves", help="Null tests: halves of the data by the same steps.")
    ] = False,
    network: Annotated[
        bool, typer.Option(help="Train a network for these bands and their noise.")
    ] = True,
    context: Annotated[
        bool, typer.Option("--context", help="Train a context, too: what neighbours say.")
    ] = False,
    plan: PlanFile = None,
    download: Annotated[
        bool,
        typer.Option("--download", help="Fetch what is not there; without it, that is listed."),
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Which models hold on the real sky: public maps, from the archive to a report."""
    from foreglow.report.recognition.survey import printed_survey
    from foreglow.survey import recognize_survey as recognise

    found = recognise(
        survey, out=out or Path("runs") / "survey", common_fwhm=f"{common_fwhm} arcmin",
        nside=nside, models=models, mask=mask, systematic=systematic,
        noise_accuracy=noise_accuracy, bandpass=screen.pairs(bandpass or [], "--bandpass"),
        halves=halves, network=network, context=context, plan=plan, download=download, seed=seed,
        device=device, resume=resume,
    )  # fmt: skip
    screen.show(printed_survey(found.records), found.records, as_json)
    screen.say(f"report: {found.report}")
