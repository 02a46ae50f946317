"""`foreglow recognize ...`: which foreground model holds in each pixel."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from foreglow.cli import screen
from foreglow.cli.options import (
    CommonFwhm,
    ContextDirectory,
    Device,
    Json,
    ModelDirectory,
    Models,
    NoiseOfBands,
    OutFile,
    Overwrite,
    Resume,
    Seed,
    Sky,
    SystematicErrors,
    Unit,
    Workers,
    instrument_presets,
    systematics,
)
from foreglow.cli.sky_maps import Ensemble, Maps, Mask, Memory, NoiseScale, Realisation, given_sky
from foreglow.cli.training import Devices, NumNodes, PlanFile, several_processes
from foreglow.errors import ForeglowError, MapError

app = typer.Typer(
    no_args_is_help=True, help="Recognise foreground models in Q,U maps (Farsian et al. 2020)."
)


@app.command("simulate")
def recognize_simulate(
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for band_NAME.fits and truth.fits; with --realisations, Zarr store."
        ),
    ],
    sky: Sky = "mock",
    models: Models = "four",
    layout: Annotated[str, typer.Option(help="halves, quadrants, blobs or single:K.")] = "blobs",
    blob_deg: Annotated[float, typer.Option(help="Size of the blobs (deg).")] = 30.0,
    nside: Annotated[int, typer.Option(help="HEALPix Nside of the maps.")] = 16,
    noise_scale: Annotated[
        float, typer.Option(help="Factor on the instrument's noise; 0 for none.", min=0)
    ] = 1.0,
    instrument: Annotated[
        str, typer.Option(help="Preset or TOML file.", autocompletion=instrument_presets)
    ] = "quijote+litebird",
    wrong: SystematicErrors = None,
    seed: Seed = 0,
    realisations: Annotated[
        int | None,
        typer.Option(help="So many skies in one store, with seeds from --seed on.", min=1),
    ] = None,
    resume: Resume = False,
    workers: Workers = None,
) -> None:
    """Make Q,U maps (uK_RJ) of a sky with known models, a FITS file a band; or many skies."""
    from foreglow.compute.workers import open_workers
    from foreglow.recognition.models import models_of
    from foreglow.recognition.simulate import simulate_sky
    from foreglow.recognition.simulation.ensemble import make_ensemble
    from foreglow.recognition.simulation.skies import SkyRecipe
    from foreglow.recognition.simulation.systematics import systematics_of
    from foreglow.sky.instrument_files import load_instrument

    if realisations is None:
        if resume or workers:
            raise ForeglowError(
                "expected --resume and --workers with --realisations: a single sky is one piece of "
                "work; leave them out, or say how many skies to make."
            )
        paths = simulate_sky(
            instrument, models=models, sky=sky, layout=layout, blob_deg=blob_deg,
            noise_scale=noise_scale, systematics=systematics(wrong), nside=nside, seed=seed,
            out=out,
        )  # fmt: skip
        screen.say(f"{len(paths)} maps and truth.fits in {out}")
        return
    recipe = SkyRecipe(
        sky, models_of(models), layout, blob_deg, nside, noise_scale,
        load_instrument(instrument), systematics_of(systematics(wrong)),
    )  # fmt: skip
    with open_workers(workers) as map_fn, screen.progress("simulate") as show:
        made = make_ensemble(
            out, recipe, realisations, seed, resume=resume, map_fn=map_fn, progress=show
        )
    screen.say(f"{realisations} skies in {out}, {made} of them made now")


@app.command("train")
def recognize_train(
    out: Annotated[Path, typer.Option(help="Model directory to write.")],
    sky: Sky = "mock",
    models: Models = "four",
    network: Annotated[
        str, typer.Option(help="foreglow, foreglow_template or farsian2020.")
    ] = "foreglow",
    regime: Annotated[
        str | None,
        typer.Option(
            help="conditioned (any noise), noiseless, one_noise or many_noise.",
            show_default="conditioned",
        ),
    ] = None,
    noise_scale: Annotated[
        float | None,
        typer.Option(
            help="Factor on the noise, for one_noise and many_noise.", min=0, show_default="1"
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs.", min=1, show_default="20")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps an epoch.", min=1, show_default="100")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Vectors a step, over all processes.", min=2, show_default="4096"),
    ] = None,
    plan: PlanFile = None,
    instrument: Annotated[
        str, typer.Option(help="Preset or TOML file.", autocompletion=instrument_presets)
    ] = "quijote+litebird",
    seed: Seed = 0,
    device: Device = "auto",
    devices: Devices = 1,
    num_nodes: NumNodes = 1,
    resume: Resume = False,
) -> None:
    """Train a network on vectors drawn fresh from the training law."""
    from foreglow.plans import read_plan
    from foreglow.recognition.network.train import TrainingPlan
    from foreglow.recognition.train import train_recogniser

    chosen = read_plan(
        plan, TrainingPlan.usual(network), regime=regime, noise_scale=noise_scale, epochs=epochs,
        steps=steps, batch=batch,
    )  # fmt: skip
    with several_processes(devices, num_nodes, device) as processes:
        made = train_recogniser(
            instrument, models, sky=sky, network=network, plan=chosen, out=out, seed=seed,
            device=device, resume=resume, processes=processes,
        )  # fmt: skip
        accuracy = made.card["history"]["validation_accuracy"][-1]
        screen.say(f"model: {out} (validation accuracy {accuracy:.4f})")


@app.command("context")
def recognize_context(
    model: ModelDirectory,
    out: Annotated[Path, typer.Option(help="Context directory to write.")],
    sky: Sky = "mock",
    network: Annotated[str, typer.Option(help="unet or potts.")] = "unet",
    epochs: Annotated[int | None, typer.Option(help="Epochs.", min=1, show_default="14")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps of 12 skies an epoch.", min=1, show_default="75")
    ] = None,
    plan: PlanFile = None,
    seed: Seed = 0,
    device: Device = "auto",
    devices: Devices = 1,
    num_nodes: NumNodes = 1,
    resume: Resume = False,
) -> None:
    """Teach a spatial context, on random layouts, what neighbours say of a pixel."""
    from foreglow.plans import read_plan
    from foreglow.recognition.context.train import ContextPlan
    from foreglow.recognition.train import train_context

    chosen = read_plan(plan, ContextPlan(), epochs=epochs, steps=steps)
    with several_processes(devices, num_nodes, device) as processes:
        made = train_context(
            model, sky=sky, network=network, plan=chosen, out=out, seed=seed, device=device,
            resume=resume, processes=processes,
        )  # fmt: skip
        accuracy = made.card["history"]["validation_accuracy"][-1]
        screen.say(f"context: {out} (validation accuracy {accuracy:.4f})")


@app.command("classify")
def recognize_classify(
    model: ModelDirectory,
    out: OutFile,
    maps: Maps = None,
    ensemble: Ensemble = None,
    realisation: Realisation = 0,
    context: ContextDirectory = None,
    noise: NoiseOfBands = None,
    noise_scale: NoiseScale = None,
    mask: Mask = None,
    unit: Unit = None,
    common_fwhm: CommonFwhm = None,
    memory: Memory = "4 GiB",
    workers: Workers = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Probability of each model in each pixel of your own Q,U maps, a block at a time to FITS."""
    from foreglow.recognition.classify import classify

    sky = given_sky(maps, noise, noise_scale, unit, common_fwhm, ensemble, realisation)
    with screen.progress("classify") as show:
        found = classify(
            **sky, model=model, mask=mask, context=context, out=out, overwrite=overwrite,
            memory=memory, device=device, workers=workers, progress=show,
        )  # fmt: skip
    screen.say(found.summary())
    screen.say(f"written: {out}")


PatchesOfMaps = Annotated[
    list[str] | None,
    typer.Option(
        help="Pixels of a patch share the spectral parameters, and the model: Nside of the "
        "patches, or FILE[COLUMN] with the number of each pixel's patch. Or NAME=PATCHES, may be "
        "given often: of beta_s, of curvature and, in `fit`, of model alone."
    ),
]


def _patches(given: list[str] | None) -> Any:
    """What --patches say, as `fit` takes them."""

    def size(text: str) -> int | str:
        return int(text) if text.lstrip("+-").isdigit() else text

    if not given:
        return None
    pairs = [re.fullmatch(r"(\w+)=(.*)", text) for text in given]
    if not any(pairs) and len(given) == 1:
        return size(given[0])
    if not all(pairs) or len({pair[1] for pair in pairs if pair}) < len(pairs):
        raise MapError(
            f"expected --patches once, or as NAME=PATCHES for different names, got {given}; give "
            "them as in `--patches curvature=4 --patches beta_s=16`."
        )
    return {pair[1]: size(pair[2]) for pair in pairs if pair}


@app.command("fit")
def recognize_fit(
    out: OutFile,
    maps: Maps = None,
    ensemble: Ensemble = None,
    realisation: Realisation = 0,
    instrument: Annotated[
        str,
        typer.Option(help="Preset or TOML file; --maps may lack some of its bands."),
    ] = "quijote+litebird",
    models: Models = "four",
    criterion: Annotated[
        str, typer.Option(help="Choose by evidence, bic, aic or chi2 (reduced, the paper's).")
    ] = "evidence",
    curvature: Annotated[
        float | None, typer.Option(help="C of the curved models, -0.052 for Kogut's; else free.")
    ] = None,
    level: Annotated[float, typer.Option(help="A model of smaller p-value does not fit.")] = 1e-3,
    patches: PatchesOfMaps = None,
    noise: NoiseOfBands = None,
    noise_scale: NoiseScale = None,
    mask: Mask = None,
    unit: Unit = None,
    common_fwhm: CommonFwhm = None,
    memory: Memory = "4 GiB",
    workers: Workers = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Fit each model to each pixel or patch of your own Q,U maps and choose, by blocks to FITS."""
    from foreglow.recognition.fit_maps import fit

    sky = given_sky(maps, noise, noise_scale, unit, common_fwhm, ensemble, realisation)
    with screen.progress("fit") as show:
        found = fit(
            **sky, instrument=instrument, models=models, criterion=criterion,
            curvature=curvature, level=level, patches=_patches(patches), mask=mask, out=out,
            overwrite=overwrite, memory=memory, device=device, workers=workers, progress=show,
        )  # fmt: skip
    screen.say(found.summary())
    screen.say(f"written: {out}")


@app.command("separate")
def recognize_separate(
    out: OutFile,
    maps: Maps = None,
    ensemble: Ensemble = None,
    realisation: Realisation = 0,
    instrument: Annotated[
        str,
        typer.Option(help="Preset or TOML file; --maps may lack some of its bands."),
    ] = "quijote+litebird",
    by: Annotated[
        str,
        typer.Option(
            help="Model of every pixel, such as power_law; or a file of `recognize classify` or "
            "`fit`: the most probable model of each pixel."
        ),
    ] = "power_law",
    average: Annotated[
        bool, typer.Option("--average", help="Average the models by their probabilities.")
    ] = False,
    curvature: Annotated[
        float | None, typer.Option(help="C of the curved models, -0.052 for Kogut's; else free.")
    ] = None,
    level: Annotated[float, typer.Option(help="A model of smaller p-value does not fit.")] = 1e-3,
    patches: PatchesOfMaps = None,
    noise: NoiseOfBands = None,
    noise_scale: NoiseScale = None,
    mask: Mask = None,
    unit: Unit = None,
    common_fwhm: CommonFwhm = None,
    memory: Memory = "4 GiB",
    workers: Workers = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """CMB, dust, synchrotron and AME from your own Q,U maps, with errors, by the right model."""
    from foreglow.recognition.separate import separate

    sky = given_sky(maps, noise, noise_scale, unit, common_fwhm, ensemble, realisation)
    with screen.progress("separate") as show:
        found = separate(
            **sky, instrument=instrument, by=by, average=average, curvature=curvature,
            level=level, patches=_patches(patches), mask=mask, out=out, overwrite=overwrite,
            memory=memory, device=device, workers=workers, progress=show,
        )  # fmt: skip
    screen.say(found.summary())
    screen.say(f"written: {out}")


@app.command("evaluate")
def recognize_evaluate(
    model: ModelDirectory,
    context: ContextDirectory = None,
    sky: Sky = "mock",
    models: Annotated[
        str | None,
        typer.Option(
            help="Of the test skies, as in `recognize train`; all the model's by default."
        ),
    ] = None,
    layout: Annotated[str, typer.Option(help="halves, quadrants, blobs or single:K.")] = "blobs",
    nside: Annotated[int, typer.Option(help="HEALPix Nside of the test skies.")] = 16,
    noise_scale: Annotated[
        list[float] | None, typer.Option(help="Factor on the noise; may be given often.")
    ] = None,
    skies: Annotated[int, typer.Option(help="Test skies a noise scale.", min=1)] = 8,
    seed: Seed = 1,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Accuracy of a model on fresh test skies with known models."""
    from dataclasses import asdict

    from rich.table import Table

    from foreglow.compute.device import pick_device
    from foreglow.recognition.context.model import ContextModel
    from foreglow.recognition.evaluation.evaluate import accuracy_on_skies
    from foreglow.recognition.network.recogniser import Recogniser

    chosen = pick_device(device)
    recogniser = Recogniser.load(model, chosen)
    neighbours = ContextModel.load(context, chosen) if context else None
    scales = noise_scale or [0.0, 0.01, 0.1, 1.0]
    rows = accuracy_on_skies(
        recogniser, sky, models, layout, nside, scales, skies, seed, neighbours
    )
    table = Table("noise scale", "accuracy", "error", "pixels", title=escape(f"{model} on {sky}"))
    for row in rows:
        table.add_row(
            f"{row.noise_scale:g}", f"{row.accuracy:.4f}", f"{row.error:.4f}", str(row.n_pixels)
        )
    screen.show([table], [asdict(row) for row in rows], as_json)
