"""Simulate a sky whose model is known in every pixel, in memory or as FITS."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from astropy import units as u

from foreglow.maps.arrays import state_conventions
from foreglow.recognition.models import models_of
from foreglow.recognition.simulation.skies import SkyRecipe, write_bands
from foreglow.recognition.simulation.systematics import Systematics, systematics_of
from foreglow.sky.instrument import Instrument
from foreglow.sky.instrument_files import load_instrument
from foreglow.sky.templates import load_templates

UK_RJ = u.def_unit("uK_RJ", u.uK)
"""Named as PySM3 names it, so that maps say their scale."""


@dataclass(frozen=True, eq=False, repr=False)
class KnownSky:
    """A simulated sky and the truth about it, RING, Galactic, COSMO.

    Attributes
    ----------
    maps : mapping of band to Quantity [uK_RJ], shape (2, n_pix)
        Q, U: what `classify` and `fit` take. They state their frame and convention.
    truth : ndarray, int64, shape (n_pix,)
        Place in `models` of the model that holds.
    cmb : Quantity [uK], shape (2, n_pix)
        Q, U of the CMB in it, thermodynamic.
    models : tuple of str
    instrument : Instrument
    """

    maps: Mapping[str, u.Quantity]
    truth: np.ndarray
    cmb: u.Quantity
    models: tuple[str, ...]
    instrument: Instrument

    def __repr__(self) -> str:
        """A line for the end of a notebook's cell."""
        return (
            f"<KnownSky of {len(self.truth)} pixels: {', '.join(self.models)}; "
            f"{len(self.maps)} bands of {self.instrument.name}>"
        )

    def accuracy(self, found: Any) -> float:
        """Share of the pixels that were classified or fitted in which the best model is true.

        Parameters
        ----------
        found : what `classify` or `fit` returned
            Its models may stand in another order.
        """
        true = [self.models.index(name) if name in self.models else -2 for name in found.models]
        best = np.asarray([*true, -1])[found.best]  # the last one where nothing was found
        return float(np.mean((best == self.truth)[found.best >= 0]))


@overload
def simulate_sky(instrument: Any = ..., *, out: None = None, **options: Any) -> KnownSky: ...
@overload
def simulate_sky(instrument: Any = ..., *, out: str | Path, **options: Any) -> dict[str, Path]: ...


def simulate_sky(  # pyright: ignore[reportInconsistentOverload]
    instrument: Any = "quijote+litebird",
    *,
    models: str | Path | Sequence[str] | Mapping[str, Any] = "four",
    sky: Any = "mock",
    layout: str = "blobs",
    blob_deg: float = 30.0,
    noise_scale: float = 1.0,
    systematics: Systematics | Mapping[str, Any] | None = None,
    nside: int = 16,
    seed: int = 0,
    out: str | Path | None = None,
) -> KnownSky | dict[str, Path]:
    """Simulate Q,U maps of a sky with known models.

    Parameters
    ----------
    instrument : Instrument, or what `load_instrument` takes
        A preset, a TOML file, a table, or several presets joined by plus signs.
    models : str, path, sequence of str or mapping
        A problem (curvature, ame, four), names of `MODELS`, or the user's own: a TOML file, or a
        mapping of name to `ForegroundModel`; as `models_of` takes them.
    sky : str, path, pysm3.Sky or Templates
        As `load_templates` takes it: "mock", "pysm:s1,d1,a2", a sky directory, ...
    layout : str
        Where each model holds: "halves", "quadrants", "blobs" or "single:K".
    blob_deg : float
        Size of blobs [deg].
    noise_scale : float
        Factor on the instrument's noise; 0 for none.
    systematics : Systematics or mapping of its fields, optional
        Sizes of errors in calibration, band centres, polarisation angles and beams, of 1/f noise,
        and of noise that varies over the sky; see `Systematics`.
    nside : int
    seed : int
    out : path, optional
        An empty or new folder for `band_NAME.fits` and `truth.fits`.

    Returns
    -------
    KnownSky, or the map of each band by its name if `out` is given

    Raises
    ------
    InstrumentError, SkyError, MapError
        If there is no such instrument, sky or layout, or `out` cannot be written.
    """
    bands = load_instrument(instrument)
    chosen = models_of(models)
    wrong = systematics_of(systematics)
    recipe = SkyRecipe(sky, chosen, layout, blob_deg, nside, noise_scale, bands, wrong)
    label = recipe.label(seed)
    drawn = recipe.draw(load_templates(sky, nside), label, seed)
    if out is not None:
        return write_bands(drawn.bands(), label, bands, chosen, Path(out))
    maps = {
        name: state_conventions(u.Quantity(qu, UK_RJ, copy=False), "G", "COSMO")
        for name, qu in zip(bands.band, drawn.bands(), strict=True)
    }
    return KnownSky(maps, label, u.Quantity(drawn.cmb, u.uK), chosen, bands)
