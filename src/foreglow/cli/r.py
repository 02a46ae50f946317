"""`foreglow recognize forecast` and `measure-r`: what recognition does to r, and r of a map."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from foreglow.cli import screen
from foreglow.cli.options import (
    Json,
    Models,
    Seed,
    Sky,
    SystematicErrors,
    Unit,
    Workers,
    instrument_presets,
    systematics,
)
from foreglow.errors import ForeglowError


def recognize_forecast(
    instrument: Annotated[
        str, typer.Option(help="Preset or TOML file.", autocompletion=instrument_presets)
    ] = "quijote+litebird",
    models: Models = "four",
    sky: Sky = "mock",
    layout: Annotated[str, typer.Option(help="halves, quadrants, blobs or single:K.")] = "blobs",
    blob_deg: Annotated[float, typer.Option(help="Size of the blobs (deg).")] = 30.0,
    noise_scale: Annotated[float, typer.Option(help="Factor on the instrument's noise.")] = 1.0,
    wrong: SystematicErrors = None,
    nside: Annotated[int, typer.Option(help="HEALPix Nside: ell from 2 to 3 Nside - 1.")] = 16,
    skies: Annotated[int, typer.Option(help="Simulated skies.", min=2)] = 20,
    patch_nside: Annotated[
        int, typer.Option(help="Nside of the patches in which one model is recognised.")
    ] = 4,
    cut_deg: Annotated[
        float | None,
        typer.Option(
            help="Galactic latitudes up to this are left out (deg).",
            min=0,
            max=80,
            show_default="20",
        ),
    ] = None,
    mask: Annotated[
        str | None, typer.Option(help="In place of --cut-deg: FITS mask, Galactic, of --nside.")
    ] = None,
    seed: Seed = 0,
    workers: Workers = None,
    out: Annotated[
        Path | None, typer.Option(help="New folder for r_forecast.png, .pdf and forecast.json.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Bias and error of r by one model everywhere, by recognised models and by the true ones."""
    from rich.table import Table

    from foreglow.files import new_directory
    from foreglow.recognition.evaluation.forecast import forecast

    if out is not None and out.exists():
        raise ForeglowError(f"{out} exists; give another --out.")
    with screen.progress("forecast") as show:
        found = forecast(
            instrument, models, sky=sky, layout=layout, blob_deg=blob_deg,
            noise_scale=noise_scale, systematics=systematics(wrong), nside=nside, skies=skies,
            patch_nside=patch_nside, cut_deg=cut_deg, mask=mask, seed=seed, workers=workers,
            progress=show,
        )  # fmt: skip
    title = f"{found.instrument.name}, {found.region}, ell {found.ell[0]} to {found.ell[1]}"
    table = Table("models", "CMB off (uK)", "bias of r", "sigma(r)", title=escape(title))
    for record in found.records:
        table.add_row(
            record["option"], f"{record['rms']:.4f}",
            f"{record['r_bias']:.2e} ± {record['r_bias_sem']:.1e}", f"{record['r_error']:.2e}",
        )  # fmt: skip
    screen.show([table], found.records, as_json)
    if out is not None:
        from foreglow.report.recognition.curves import r_forecast
        from foreglow.report.recognition.figures import save

        with new_directory(out) as folder:
            (folder / "forecast.json").write_text(json.dumps(found.records, indent=1))
            save(r_forecast(found), folder, "r_forecast")
        if not as_json:
            screen.say(f"written: {out}")


def recognize_measure_r(
    cmb: Annotated[
        str,
        typer.Argument(help="File of `recognize separate`, or of Q,U of the CMB: 'cmb.fits[Q,U]'."),
    ],
    mask: Annotated[
        str | None, typer.Option(help="FITS: above zero counts; numbers below 1 are a weight.")
    ] = None,
    fwhm_arcmin: Annotated[
        float | None,
        typer.Option(help="Beam of the map (FWHM, arcmin), 0 for none; or its header's."),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(help="FITS: 'FILE as rms in uK_CMB', ...; else the errors of `separate`."),
    ] = None,
    apodise_deg: Annotated[
        float | None, typer.Option(help="Width of the edge of the mask (deg); else 10 or more.")
    ] = None,
    ell_edges: Annotated[
        str | None, typer.Option(help="Bins of ell, such as 2,10,20,30; else up to 2 Nside.")
    ] = None,
    free_lensing: Annotated[
        bool, typer.Option("--free-lensing", help="Fit the amplitude of lensing, too.")
    ] = False,
    skies: Annotated[int, typer.Option(help="Simulated skies, for the covariance.")] = 200,
    unit: Unit = None,
    seed: Seed = 0,
    workers: Workers = None,
    out: Annotated[
        Path | None, typer.Option(help="New folder for bb.png, .pdf and r.json.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tensor-to-scalar ratio r of a CMB map, by purified B modes of a mask."""
    from rich.table import Table

    from foreglow.files import new_directory
    from foreglow.recognition.evaluation.measure_r import measure_r

    if out is not None and out.exists():
        raise ForeglowError(f"{out} exists; give another --out.")
    with screen.progress("measure r") as show:
        found = measure_r(
            cmb, mask, fwhm_arcmin=fwhm_arcmin, noise=noise, apodise_deg=apodise_deg,
            ell_edges=_numbers(ell_edges), free_lensing=free_lensing, skies=skies, seed=seed,
            unit=unit, workers=workers, progress=show,
        )  # fmt: skip
    table = Table("ell", "BB less noise (uK_CMB^2)", "lensing", "tensors of r = 1")
    bins = zip(found.edges, found.edges[1:] - 1, strict=False)
    for k, (low, high) in enumerate(bins):
        table.add_row(
            f"{low} to {high}", f"{found.bb[k]:.3e} ± {found.bb_error[k]:.1e}",
            f"{found.bb_lensing[k]:.3e}", f"{found.bb_tensor[k]:.3e}",
        )  # fmt: skip
    screen.show([table], [found.record()], as_json)
    if not as_json:
        screen.say(found.summary())
    if out is not None:
        from foreglow.report.recognition.curves import bb_of_a_map
        from foreglow.report.recognition.figures import save

        with new_directory(out) as folder:
            (folder / "r.json").write_text(json.dumps(found.record(), indent=1))
            save(bb_of_a_map(found), folder, "bb")
        if not as_json:
            screen.say(f"written: {out}")


def _numbers(text: str | None) -> list[int] | None:
    """What --ell-edges says."""
    if text is None:
        return None
    try:
        return [int(one) for one in text.split(",")]
    except ValueError as error:
        raise ForeglowError(
            f"expected --ell-edges as whole numbers, such as 2,10,20,30, got {text!r}."
        ) from error
