"""`foreglow recognize forecast`: what recognition does to r."""

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
        float, typer.Option(help="Galactic latitudes up to this are left out (deg).", min=0, max=80)
    ] = 20.0,
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
            patch_nside=patch_nside, cut_deg=cut_deg, seed=seed, workers=workers, progress=show,
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
