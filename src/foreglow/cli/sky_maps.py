"""What the commands that look at a sky share: which maps, with what noise, in how much memory."""

from pathlib import Path
from typing import Annotated, Any

import typer

from foreglow.cli import screen
from foreglow.errors import ForeglowError

Maps = Annotated[
    list[str] | None,
    typer.Option(
        help="BAND=FILE, once a band; BAND by name or in GHz; where needed "
        "BAND='FILE[Q,U] in mK_CMB' (columns, unit) or BAND=Q.fits,U.fits."
    ),
]
Ensemble = Annotated[
    Path | None,
    typer.Option(help="Instead of --maps: a store of `recognize simulate --realisations`."),
]
Realisation = Annotated[int, typer.Option(help="Which sky of --ensemble, from 0.", min=0)]
NoiseScale = Annotated[
    float | None,
    typer.Option(
        help="Factor on the instrument's noise: 1, or that which --ensemble was made with.", min=0
    ),
]
Mask = Annotated[
    Path | None,
    typer.Option(
        help="FITS mask, of the Nside and frame of the maps as --common-fwhm leaves them: the sky "
        "counts where it is above zero."
    ),
]
Memory = Annotated[
    str, typer.Option(help="Each process stays below it; at least what is said if it is too small.")
]


def given_sky(
    maps: list[str] | None,
    noise: list[str] | None,
    noise_scale: float | None,
    unit: str | None,
    common_fwhm: float | None,
    ensemble: Path | None,
    realisation: int,
) -> dict[str, Any]:
    """What `classify` and `fit` are told of the sky: the options, checked to go together."""
    if bool(maps) == bool(ensemble):
        raise ForeglowError(
            "expected --maps BAND=FILE, once a band, or --ensemble STORE, got "
            f"{'both; leave one out' if maps else 'neither; give one'}."
        )
    if ensemble is not None:
        from foreglow.recognition.simulation.ensemble import EnsembleSky

        if noise or unit or common_fwhm:
            raise ForeglowError(
                "expected an ensemble alone, which states its noise and unit and has no beam, got "
                "--noise, --unit or --common-fwhm with it; leave them out."
            )
        return {"maps": EnsembleSky.of(ensemble, realisation, noise_scale)}
    return {
        "maps": screen.pairs(maps or [], "--maps"),
        "noise": screen.pairs(noise or [], "--noise"),
        "noise_scale": 1.0 if noise_scale is None else noise_scale,
        "unit": unit,
        "common_fwhm": None if common_fwhm is None else f"{common_fwhm} arcmin",
    }
