"""`foreglow dust ...`: dust from the velocity cube of neutral hydrogen."""

import typer

app = typer.Typer(
    no_args_is_help=True, help="Predict dust from the 21 cm velocity cube (Zhang et al. 2019)."
)
