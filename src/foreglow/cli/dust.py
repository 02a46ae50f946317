"""`foreglow dust ...`: dust from the velocity cube of neutral hydrogen."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from foreglow.cli import screen
from foreglow.cli.options import (
    Device,
    DustModelDirectory,
    Json,
    OutFile,
    Overwrite,
    Resume,
    Seed,
    Workers,
    one_of,
)
from foreglow.cli.training import Devices, NumNodes, PlanFile, several_processes

if TYPE_CHECKING:
    from foreglow.dust.networks import Target

REGIONS = one_of("north", "south", "east", "west")

MockSky = Annotated[
    str | None, typer.Option(help="mock: the mock Galaxy instead of --cube and --dust.")
]
Cube = Annotated[Path | None, typer.Option(help="HI cube of `dust prepare`.")]
Dust = Annotated[
    Path | None, typer.Option(help="FITS dust map of the cube's Nside or a higher one.")
]
Mask = Annotated[
    Path | None, typer.Option(help="FITS mask: the sky counts where it is above zero.")
]
Noise = Annotated[
    str | None,
    typer.Option(
        help="Of Q and U of --dust, where no columns beside them say it: FITS, with what it holds "
        "in words, such as 'noise.fits as rms in uK_RJ'."
    ),
]
DustUnit = Annotated[
    str | None,
    typer.Option(
        "--unit",
        help="Unit of --dust where its header states none: any text, 1 for a number without unit.",
    ),
]
Convention = Annotated[
    str | None,
    typer.Option(
        help="Sign of U of a polarised --dust whose header states none: COSMO or IAU.",
        show_default="COSMO, with a warning",
        autocompletion=one_of("COSMO", "IAU"),
    ),
]
Low = Annotated[float, typer.Option("--low", help="Lowest velocity (km/s, LSR).")]
High = Annotated[float, typer.Option("--high", help="Highest velocity (km/s, LSR).")]
MockNside = Annotated[int, typer.Option(help="HEALPix Nside of the mock Galaxy.")]
HalfSky = Annotated[
    str,
    typer.Option(
        help="Where cutouts lie: north, south, east or west (Galactic).", autocompletion=REGIONS
    ),
]

app = typer.Typer(
    no_args_is_help=True, help="Predict dust from the 21 cm velocity cube (Zhang et al. 2019)."
)


@app.command("prepare")
def dust_prepare(
    cube: Annotated[
        list[Path],
        typer.Option(
            help="FITS cube (any projection) or HEALPix table, plain or gzipped; once a tile, or "
            "once a channel of HEALPix maps."
        ),
    ],
    out: Annotated[Path, typer.Option(help="HI cube to write, a folder NAME.zarr.")],
    nside: Annotated[
        int | None,
        typer.Option(
            help="HEALPix Nside; by default the smallest whose pixels are not larger than the "
            "cube's (1024 for HI4PI)."
        ),
    ] = None,
    low_kms: Annotated[
        float | None, typer.Option("--low", help="Lowest velocity (km/s, LSR); the paper's: -64.5.")
    ] = None,
    high_kms: Annotated[
        float | None, typer.Option("--high", help="Highest velocity (km/s, LSR); the paper's: 17.")
    ] = None,
    memory: Annotated[
        str,
        typer.Option(help="Memory that the process, and each worker, may take: 500 MiB or 8 GiB."),
    ] = "2 GiB",
    unit: Annotated[
        str | None, typer.Option(help="K or mK, where the header states no unit (BUNIT).")
    ] = None,
    beam_arcmin: Annotated[
        float | None,
        typer.Option(
            "--beam",
            help="FWHM of the beam (arcmin), where the header states no likely one (BMAJ).",
        ),
    ] = None,
    velocity_table: Annotated[
        Path | None,
        typer.Option(
            help="Velocities of the channels in the order of the file, in place of the header's: "
            "text, km/s LSR, one a line."
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Instead of --nside, --low and --high: channels and Nside of this dust model, "
            "means over what is finer; of a cut-out of GASS, GALFA, ...",
            autocompletion=one_of("mock-dust"),
        ),
    ] = None,
    workers: Workers = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Put an HI cube (K by radio velocity, LSRK) on HEALPix pixels, as the other commands read it.

    Tiles become one cube: a pixel in several has the value of the tile whose edge is farthest.
    """
    from functools import partial

    from foreglow.dust.own_cube import prepare_for_model
    from foreglow.hi_cube.prepare import prepare

    make = prepare if model is None else partial(prepare_for_model, model=model)
    with screen.progress("prepare") as show:
        made = make(
            cube,
            out,
            nside=nside,
            low_kms=low_kms,
            high_kms=high_kms,
            memory=memory,
            unit=unit,
            beam_arcmin=beam_arcmin,
            velocity_table=velocity_table,
            resume=resume,
            overwrite=overwrite,
            progress=show,
            workers=workers,
        )
    screen.say(made.summary())


@app.command("simulate")
def dust_simulate(
    out: Annotated[Path, typer.Option(help="Folder for cube.zarr, dust.fits and mask.fits.")],
    nside: Annotated[int, typer.Option(help="HEALPix Nside.")] = 256,
    low_kms: Low = -64.5,
    high_kms: High = 17.0,
    seed: Seed = 0,
) -> None:
    """Make an HI cube (K), a map of dust (I, Q, U; uK_RJ) and a mask of the mock Galaxy."""
    from foreglow.dust.simulate import make_sky_files

    screen.say(
        f"cube.zarr, dust.fits, mask.fits: {make_sky_files(out, nside, low_kms, high_kms, seed)}"
    )


@app.command("train")
def dust_train(
    out: Annotated[Path, typer.Option(help="Model directory to write.")],
    sky: MockSky = None,
    cube: Cube = None,
    dust: Dust = None,
    mask: Mask = None,
    dust_unit: DustUnit = None,
    noise: Noise = None,
    convention: Convention = None,
    low_kms: Low = -64.5,
    high_kms: High = 17.0,
    nside: MockNside = 256,
    skies: Annotated[
        int,
        typer.Option(help="Skies of the mock, of seeds from --seed on.", min=1),
    ] = 1,
    region: HalfSky = "north",
    target: Annotated[
        str,
        typer.Option(
            help="intensity; or polarisation: I, Q and U, of which --dust is a map.",
            autocompletion=one_of("intensity", "polarisation"),
        ),
    ] = "intensity",
    network: Annotated[
        str | None, typer.Option(help="unet or unet_zhang2019.", show_default="unet")
    ] = None,
    members: Annotated[
        int | None, typer.Option(help="Networks from different seeds.", min=1, show_default="1")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs.", min=1, show_default="10")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps an epoch.", min=1, show_default="40")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Cutouts a step, over all processes.", min=1, show_default="16"),
    ] = None,
    plan: PlanFile = None,
    seed: Seed = 0,
    device: Device = "auto",
    devices: Devices = 1,
    num_nodes: NumNodes = 1,
    resume: Resume = False,
) -> None:
    """Train a network on cutouts of an HI cube and a dust map, drawn fresh at every step.

    A wedge of the region, between two longitudes, is kept out of it for validation.
    """
    from foreglow.dust.plan import DustPlan
    from foreglow.dust.train import train_dust
    from foreglow.plans import read_plan

    chosen = read_plan(
        plan, DustPlan(), network=network, members=members, epochs=epochs, steps=steps, batch=batch
    )
    with several_processes(devices, num_nodes, device) as processes:
        made = train_dust(
            cube, dust, mask, sky=sky, region=region, target=cast("Target", target),
            plan=chosen, out=out, low_kms=low_kms, high_kms=high_kms, dust_unit=dust_unit,
            nside=nside, skies=skies, seed=seed, noise=noise, convention=convention, device=device,
            resume=resume, processes=processes,
        )  # fmt: skip
        judged = made.card["validation"]
        keys = ("r50", "r150") if made.target == "intensity" else ("e50", "e150", "b50", "b150")
        told = ", ".join(f"{key} {judged[key]:.3f}" for key in keys)
        screen.say(f"model: {out} (validation cutouts, {judged['region']}: {told})")


@app.command("predict")
def dust_predict(
    model: DustModelDirectory,
    cube: Annotated[
        Path,
        typer.Option(
            help="HI cube of `dust prepare`, with the model's channels; or a survey's FITS cut-out,"
            " which is brought to the channels and Nside of the model."
        ),
    ],
    out: OutFile,
    mask: Annotated[
        Path | None, typer.Option(help="FITS mask: dust is predicted where it is above zero.")
    ] = None,
    dust: Annotated[
        Path | None,
        typer.Option(
            help="FITS dust map (of a model of polarisation I, Q and U) to measure scale and error "
            "on, instead of the model's."
        ),
    ] = None,
    dust_unit: DustUnit = None,
    noise: Noise = None,
    convention: Convention = None,
    memory: Annotated[
        str,
        typer.Option(help="Memory that the process, and each worker, may take: 500 MiB or 8 GiB."),
    ] = "4 GiB",
    workers: Workers = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """A map of the dust and its error, DUST and DUST_STD in the unit of the model's target.

    Of a model of polarisation I, Q, U (COSMO) and I_STD, Q_STD, U_STD.
    """
    from foreglow.dust.predict import predict_dust

    with screen.progress("predict") as show:
        found = predict_dust(
            cube,
            model=model,
            mask=mask,
            dust=dust,
            noise=noise,
            out=out,
            dust_unit=dust_unit,
            convention=convention,
            device=device,
            memory=memory,
            workers=workers,
            overwrite=overwrite,
            progress=show,
        )
    screen.say(found.summary())
    screen.say(f"written: {out}")


@app.command("evaluate")
def dust_evaluate(
    model: DustModelDirectory,
    sky: MockSky = None,
    cube: Cube = None,
    dust: Dust = None,
    mask: Mask = None,
    dust_unit: DustUnit = None,
    convention: Convention = None,
    nside: MockNside = 256,
    region: HalfSky = "south",
    cutouts: Annotated[int, typer.Option(help="Cutouts, the same for each model.", min=1)] = 1000,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Correlation of a model's predictions with the dust, beside the integrated HI map."""
    from foreglow.dust.evaluate import evaluate_model, polarised_table, score_table, sphere_tables
    from foreglow.dust.load import SkySource

    # the range of velocities is the model's
    given = SkySource(
        sky, cube, dust, mask, dust_unit=dust_unit, nside=nside, seed=seed, convention=convention
    )
    with screen.progress("evaluate") as show:
        records = evaluate_model(model, given, region, cutouts, seed, device, show)
    as_table = polarised_table if "e50" in records[0] else score_table
    title = f"{model} on {sky or cube}, {region}"
    tables = [as_table(records, title), *sphere_tables(records, title)]
    screen.show(tables, records, as_json)
