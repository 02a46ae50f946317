"""What a test sky draws beyond its templates."""

from dataclasses import dataclass

import numpy as np

from foreglow.maps import healpix as hp
from foreglow.recognition.models import BETA_MEAN, BETA_SCATTER, definition_of
from foreglow.recognition.simulation.systematics import NO_SYSTEMATICS, Systematics
from foreglow.sky import seds


@dataclass(frozen=True)
class SkyLaw:
    """What a test sky draws beyond its templates; by default the paper's.

    Parameters
    ----------
    beta_scatter : float
        Rms of beta_s around -3.
    beta_smoothing_deg : float, optional
        Beta_s as a smooth field of this FWHM; by default it is drawn pixel by pixel.
    dust_beta_scatter : float
        Rms of beta_d around 1.54, pixel by pixel.
    dust_temperature_scatter : float
        Rms of T_d around 20 K [K], pixel by pixel.
    curvature : float, optional
        C of the curved models; by default that of `MODELS`.
    ame_fraction : float, optional
        Polarised fraction of the models with AME; by default that of `MODELS`.
    ame_scatter : float
        Rms of Q and of U of the AME beside the direction of the dust, over its polarised intensity
        there, pixel by pixel, as a beam leaves it within which their ratio varies.
    systematics : Systematics
        What the instrument does beside white noise.
    """

    beta_scatter: float = BETA_SCATTER
    beta_smoothing_deg: float | None = None
    dust_beta_scatter: float = 0.0
    dust_temperature_scatter: float = 0.0
    curvature: float | None = None
    ame_fraction: float | None = None
    ame_scatter: float = 0.0
    systematics: Systematics = NO_SYSTEMATICS

    def draw_beta(self, nside: int, rng: np.random.Generator) -> np.ndarray:
        """A beta_s map, shape (n_pix,)."""
        white = rng.standard_normal(hp.nside2npix(nside))
        if self.beta_smoothing_deg is not None:
            white = hp.smoothing(white, fwhm=np.radians(self.beta_smoothing_deg))
            white = (white - white.mean()) / white.std()
        return BETA_MEAN + self.beta_scatter * white

    def draw_dust(self, nside: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Maps of beta_d and T_d [K], shape (n_pix,)."""
        n_pix = hp.nside2npix(nside)
        maps = []
        for mean, scatter in (
            (seds.DUST_BETA, self.dust_beta_scatter),
            (seds.DUST_TEMPERATURE, self.dust_temperature_scatter),
        ):
            constant = np.broadcast_to(np.float64(mean), n_pix)  # takes no memory
            maps.append(rng.normal(mean, scatter, n_pix) if scatter else constant)
        return maps[0], maps[1]

    def candidates(self, models: tuple[str, ...]) -> np.ndarray:
        """C and polarised fraction of each model, shape (n_class, 2)."""
        known = [definition_of(name) for name in models]
        table = np.array([(model.curvature, model.ame_fraction) for model in known])
        for column, value in enumerate((self.curvature, self.ame_fraction)):
            if value is not None:
                table[table[:, column] != 0, column] = value
        return table


PAPER_LAW = SkyLaw()
