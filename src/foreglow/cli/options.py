"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

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
