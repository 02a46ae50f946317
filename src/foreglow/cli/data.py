"""`foreglow data ...`: public data, listed, fetched when asked, and checked."""

from pathlib import Path
from typing import Annotated

import typer

from foreglow import interrupt
from foreglow.cli import screen
from foreglow.cli.options import Json

app = typer.Typer(
    no_args_is_help=True,
    help="Public data: what there is, fetch it, check a file. Nothing is downloaded unasked.",
)

Cache = Annotated[
    Path | None,
    typer.Option(help="Folder of the data (else FOREGLOW_DATA, else ~/.cache/foreglow/data)."),
]


@app.command("list")
def data_list(
    names: Annotated[
        list[str] | None, typer.Argument(help="Products to tell all of; by default two lines each.")
    ] = None,
    cache: Cache = None,
    as_json: Json = False,
) -> None:
    """Products that foreglow knows: where they live, units, columns, how to cite, what for."""
    from foreglow.data.cache import cache_folder
    from foreglow.data.listing import details, listing, product_record
    from foreglow.data.registry import find_product, load_registry

    folder = cache_folder(cache)
    products = [find_product(name) for name in names] if names else list(load_registry())
    records = [product_record(product, folder) for product in products]
    tables = [details(p, folder) for p in products] if names else [listing(products, folder)]
    screen.show(tables, records, as_json)


@app.command("fetch")
def data_fetch(
    names: Annotated[
        list[str], typer.Argument(help="PRODUCT, or PRODUCT/FILE for one of several.")
    ],
    cache: Cache = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be fetched, and fetch nothing.")
    ] = False,
    stall: Annotated[
        float, typer.Option(help="Seconds without a byte after which to try again.", min=0.1)
    ] = 60.0,
    attempts: Annotated[
        int, typer.Option(help="Attempts in a row that bring nothing new.", min=1)
    ] = 5,
    as_json: Json = False,
) -> None:
    """Download into the cache, or go on with a download; a file put there by hand is taken."""
    from foreglow.data.cache import cache_folder
    from foreglow.data.download import Patience
    from foreglow.data.fetch import fetch, plan
    from foreglow.data.listing import unverified
    from foreglow.data.registry import find_files

    folder = cache_folder(cache)
    files = [file for name in names for file in find_files(name)]
    if dry_run:
        plans = [plan(file, folder) for file in files]
        lines = [f"  not verified: {text}" for text in unverified(files)]
        screen.show([*(p.summary() for p in plans), *lines], [p.record() for p in plans], as_json)
        return
    interrupt.say("what has come is kept: the same command goes on from here")
    patience, found = Patience(attempts=attempts, stall_s=stall), []
    for file in files:
        with screen.progress(file.name) as show:
            found.append(fetch(file, folder, patience, show))
    screen.show([f.summary() for f in found], [f.record() for f in found], as_json)


@app.command("check")
def data_check(
    files: Annotated[
        list[Path], typer.Argument(help="FITS file, HI cube (.zarr), sky directory or PySM table.")
    ],
    as_json: Json = False,
) -> None:
    """Open files, read them, say what they are and which commands take them, or what is wrong.

    Exit code 2 if something is wrong with one of them.
    """
    from foreglow.data.check import check_file

    reports = [check_file(file) for file in files]
    lines = [line for report in reports for line in report.lines()]
    screen.show(lines, [report.record() for report in reports], as_json)
    if not all(report.sound for report in reports):
        raise typer.Exit(2)
