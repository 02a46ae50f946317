"""What the commands that look at a sky share: which maps, with what noise, in how much memory."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foreglow.cli import screen
from foreglow.errors import ForeglowError

if TYPE_CHECKING:
    from foreglow.recognition.observation.streaming import Source
    from foreglow.sky.instrument import Instrument

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


@dataclass(frozen=True)
class GivenSky:
    """The maps of a command line, or a sky of an ensemble."""

    maps: Mapping[str, str]
    noise: Mapping[str, str]
    noise_scale: float | None
    unit: str | None
    common_fwhm: float | None
    ensemble: Path | None
    realisation: int

    @classmethod
    def of(
        cls,
        maps: list[str] | None,
        noise: list[str] | None,
        noise_scale: float | None,
        unit: str | None,
        common_fwhm: float | None,
        ensemble: Path | None,
        realisation: int,
    ) -> "GivenSky":
        """From the options, checked to go together."""
        if bool(maps) == bool(ensemble):
            raise ForeglowError(
                "expected --maps BAND=FILE, once a band, or --ensemble STORE, got "
                f"{'both; leave one out' if maps else 'neither; give one'}."
            )
        if ensemble and (noise or unit or common_fwhm):
            raise ForeglowError(
                "expected an ensemble alone, which states its noise and unit and has no beam, got "
                "--noise, --unit or --common-fwhm with it; leave them out."
            )
        files, said = screen.pairs(maps or [], "--maps"), screen.pairs(noise or [], "--noise")
        return cls(files, said, noise_scale, unit, common_fwhm, ensemble, realisation)

    @contextmanager
    def source(self, instrument: "Instrument", near: Path) -> Iterator["Source"]:
        """What to open, for as long as the context lasts; maps of a common beam lie in `near`."""
        from foreglow.recognition.observation.beams import at_one_resolution
        from foreglow.recognition.observation.streaming import MapFiles
        from foreglow.recognition.simulation.ensemble import EnsembleSky

        if self.ensemble is not None:
            yield EnsembleSky.of(self.ensemble, self.realisation, self.noise_scale)
            return
        scale = 1.0 if self.noise_scale is None else self.noise_scale
        with at_one_resolution(
            instrument, self.maps, self.noise, scale, self.unit, self.common_fwhm, near
        ) as (files, rms):
            yield MapFiles.of(instrument, files, rms, scale, self.unit)
