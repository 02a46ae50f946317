"""Whole multi-band maps with a known model in every pixel, in memory or as FITS files."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from foreglow.compute.device import each_on_a_thread, one_ahead
from foreglow.errors import InstrumentError, MapError, ShapeError
from foreglow.files import new_directory
from foreglow.maps import healpix as hp
from foreglow.maps.regions import layout
from foreglow.maps.write import write_maps, write_polarisation_map
from foreglow.recognition.models import BETA_MEAN, class_cards, definition_of
from foreglow.recognition.simulation.law import PAPER_LAW, SkyLaw
from foreglow.recognition.simulation.systematics import NO_SYSTEMATICS, BandErrors, Systematics
from foreglow.sky import seds
from foreglow.sky.cmb import cmb_map
from foreglow.sky.instrument import Instrument
from foreglow.sky.templates import Templates

_PIVOTS = (seds.SYNCHROTRON_PIVOT_GHZ, seds.DUST_REFERENCE_GHZ)
_STEP = 1 << 16  # pixels whose emission is made at a time: the cache of a core holds them


@dataclass(frozen=True)
class SimulatedSky:
    """Whole maps with a known model in every pixel.

    Parameters
    ----------
    data : ndarray, float32, shape (2, n_band, n_pix)
        Q, U [uK_RJ], RING, Galactic.
    sigma : ndarray, shape (n_band,)
        Noise rms of Q and of U [uK_RJ].
    label : ndarray, int64, shape (n_pix,)
    cmb : ndarray, shape (2, n_pix)
        Q, U of the CMB in it [uK_CMB].
    """

    data: np.ndarray
    sigma: np.ndarray
    label: np.ndarray
    cmb: np.ndarray

    def vectors(self, device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
        """Data (n_pix, 2, n_band) and noise (n_pix, n_band) [uK_RJ], as fits take them."""
        data = torch.from_numpy(np.ascontiguousarray(np.moveaxis(self.data, 2, 0))).to(device)
        return data, torch.from_numpy(self.sigma).to(device).expand(len(data), -1)


@dataclass(frozen=True, eq=False)
class SkyDraw:
    """What was drawn of a sky; its maps are made from it a band at a time, to spare memory.

    Parameters
    ----------
    templates : Templates
    instrument : Instrument
    label : ndarray, int, shape (n_pix,)
    sigma : ndarray, shape (n_band,)
        Noise rms of Q and of U [uK_RJ].
    candidates : ndarray, shape (n_class, 2)
        C and polarised fraction of each model.
    ame_peak_ghz : ndarray, shape (n_class,)
    curvature_offset : ndarray, shape (n_pix,)
        Of C in a pixel from that of its model.
    two_temperatures : ndarray, bool, shape (n_class,)
    factors : tuple of tuple of (GHz, factor)
        On the spectra of synchrotron and of dust, of each model.
    beta, dust_beta, dust_temperature : ndarray, shape (n_pix,)
    dust_moment : ndarray, shape (2, n_pix)
        Q, U of the first moment of the dust's index, over the polarised dust.
    ame_beside : ndarray, shape (2, n_pix)
        Q, U of the AME beside the direction of the dust, over its polarised intensity there.
    cmb : ndarray, shape (2, n_pix)
        Q, U [uK_CMB].
    errors : BandErrors
    rng : numpy.random.Generator
        Of the noise.
    """

    templates: Templates
    instrument: Instrument
    label: np.ndarray
    sigma: np.ndarray
    candidates: np.ndarray
    ame_peak_ghz: np.ndarray
    curvature_offset: np.ndarray
    two_temperatures: np.ndarray
    factors: tuple[tuple[seds.Factor, ...], tuple[seds.Factor, ...]]
    beta: np.ndarray
    dust_beta: np.ndarray
    dust_temperature: np.ndarray
    dust_moment: np.ndarray
    ame_beside: np.ndarray
    cmb: np.ndarray
    errors: BandErrors
    rng: np.random.Generator

    def bands(self) -> Iterator[np.ndarray]:
        """Q, U [uK_RJ] of each band in turn, float32, shape (2, n_pix); to be gone through once."""
        n_pix = len(self.label)
        uneven = self.errors.noise_factor(self.templates.nside)
        uneven = None if uneven is None else uneven.astype(np.float32)
        for k in range(self.instrument.n_band):
            qu = np.zeros((2, n_pix), np.float32)
            if self.sigma[k] > 0:
                self.rng.standard_normal(out=qu, dtype=np.float32)
            if uneven is not None:
                qu *= uneven
            red = self.errors.red_noise(self.templates.nside, self.sigma[k], self.rng)
            self._add_emission(k, qu)
            if red is not None:
                qu += red.astype(np.float32)
            yield qu

    def _add_emission(self, band: int, qu: np.ndarray) -> None:
        """Add what a band sees of the sky to white noise of unit rms, (2, n_pix), in place."""
        n_pix = len(self.label)
        parts = [slice(start, min(start + _STEP, n_pix)) for start in range(0, n_pix, _STEP)]
        whole = np.zeros((2, n_pix if self.errors.beam[band] != 1 else 0))

        def see(part: slice) -> None:
            whole[:, part] = self.errors.distort(band, self._emission(band, part))

        def add(part: slice) -> None:
            seen = whole[:, part]
            if not whole.size:
                seen = self.errors.distort(band, self._emission(band, part))
            qu[:, part] = seen.astype(np.float32) + self.sigma[band] * qu[:, part]

        if whole.size:
            each_on_a_thread(see, parts, torch.device("cpu"))
            whole = self.errors.blur(band, whole, self.instrument.fwhm_arcmin[band])
        each_on_a_thread(add, parts, torch.device("cpu"))

    def _emission(self, band: int, part: slice) -> np.ndarray:
        """Of all components, shape (2, n), float64."""
        label, templates = self.label[part], self.templates
        curvature, fraction = self.candidates[label].T
        curvature = curvature + self.curvature_offset[part]
        peak = torch.from_numpy(self.ame_peak_ghz)
        ame = ame_polarisation(templates.dust[:, part], templates.ame[part])
        ame = fraction * (ame + templates.ame[part] * self.ame_beside[:, part])
        moment = self.dust_moment[:, part] * np.hypot(*templates.dust[:, part])
        two = torch.from_numpy(self.two_temperatures[label])
        beta, curvature, dust_beta, temperature = (
            torch.from_numpy(np.array(_once(values)))
            for values in (
                self.beta[part], curvature, self.dust_beta[part], self.dust_temperature[part]
            )
        )  # fmt: skip
        total = np.zeros(())
        stretch = float(self.errors.stretch[band])
        for frequency, weight in self.instrument.nodes(band):
            nu = torch.tensor(frequency, dtype=torch.float64)
            if stretch != 1:  # calibrated on the CMB, at the frequency that is believed in
                weight = weight * float(seds.cmb(nu) / seds.cmb(stretch * nu))
                nu = stretch * nu
            log_dust_ratio = float(torch.log(nu / seds.DUST_REFERENCE_GHZ))
            synchrotron = seds.synchrotron(nu, beta, curvature)
            dust = seds.modified_blackbody(nu, dust_beta, temperature)
            if two.any():
                dust = torch.where(two, seds.two_temperature_dust(nu), dust)
            if any(map(any, self.factors)):
                of_synchrotron, of_dust = (
                    torch.stack([seds.log_factor(table, nu, at) for table in tables]).exp()[label]
                    for at, tables in zip(_PIVOTS, self.factors, strict=True)
                )
                synchrotron, dust = synchrotron * of_synchrotron, dust * of_dust
            total = total + weight * (
                synchrotron.numpy() * templates.synchrotron[:, part]
                + dust.numpy() * (templates.dust[:, part] + log_dust_ratio * moment)
                + float(seds.cmb(nu)) * self.cmb[:, part]
                + seds.spinning_dust(nu, peak_ghz=peak).numpy()[label] * ame
            )
        return total


def draw_sky(
    templates: Templates,
    instrument: Instrument,
    models: tuple[str, ...],
    label: np.ndarray,
    noise_scale: float,
    rng: np.random.Generator,
    law: SkyLaw = PAPER_LAW,
) -> SkyDraw:
    """Draw what a test sky has beyond its templates, but for the noise.

    Parameters and errors are those of `simulate_sky`.
    """
    if not np.isfinite(noise_scale) or noise_scale < 0:
        raise InstrumentError(f"expected noise_scale >= 0, got {noise_scale}.")
    n_pix = hp.nside2npix(templates.nside)
    if label.shape != (n_pix,):
        raise ShapeError(f"expected label of shape ({n_pix},), got {label.shape}.")
    beta = law.draw_beta(templates.nside, rng)
    cmb = cmb_map(templates.nside, rng)
    dust_beta, temperature = law.draw_dust(templates.nside, rng)
    known = [definition_of(name) for name in models]

    def scattered(mean: np.ndarray, name: str) -> np.ndarray:  # by the rms that each model has
        rms = np.array([getattr(model, name) for model in known])[label]
        return mean + rms * rng.standard_normal(mean.shape) if rms.any() else mean

    nothing = np.broadcast_to(np.float64(0), (2, n_pix))  # takes no memory
    dust_beta = scattered(dust_beta, "beta_d_scatter")
    temperature = scattered(temperature, "dust_temperature_scatter")
    moment = scattered(nothing, "dust_moments")
    offset = scattered(nothing[0], "curvature_scatter")
    beside = rng.normal(0, law.ame_scatter, (2, n_pix)) if law.ame_scatter else nothing
    two = np.array([model.two_temperatures for model in known])
    factors = (
        tuple(model.synchrotron_factor for model in known),
        tuple(model.dust_factor for model in known),
    )
    peak = np.array([model.ame_peak_ghz for model in known])
    sigma = noise_scale * instrument.noise_rms(templates.nside)
    errors = law.systematics.draw(instrument.n_band, rng)
    return SkyDraw(
        templates, instrument, label, sigma, law.candidates(models), peak, offset, two, factors,
        beta, dust_beta, temperature, moment, beside, cmb, errors, rng,
    )  # fmt: skip


def simulate_sky(
    templates: Templates,
    instrument: Instrument,
    models: tuple[str, ...],
    label: np.ndarray,
    noise_scale: float,
    rng: np.random.Generator,
    law: SkyLaw = PAPER_LAW,
) -> SimulatedSky:
    """A test sky: templates as they are, fresh CMB, beta_s and noise.

    Parameters
    ----------
    templates : Templates
        At the Nside of the sky.
    instrument : Instrument
    models : tuple of str
    label : ndarray, int, shape (n_pix,)
        Place in `models` of the model that holds in each pixel.
    noise_scale : float
        Factor on the instrument's noise; 0 for none.
    rng : numpy.random.Generator

    Raises
    ------
    InstrumentError
        If `noise_scale` is not a number >= 0.
    ShapeError
        If `label` does not have a value a pixel.
    """
    drawn = draw_sky(templates, instrument, models, label, noise_scale, rng, law)
    data = np.empty((2, instrument.n_band, len(label)), np.float32)
    for k, qu in enumerate(drawn.bands()):
        data[:, k] = qu
    return SimulatedSky(data, drawn.sigma, label, drawn.cmb)


def component_maps(
    templates: Templates, instrument: Instrument, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Each component alone in every band, for a look at the sky.

    Returns
    -------
    dict of ndarray, shape (n_band, 2, n_pix)
        Q, U [uK_RJ] of `CMB`, `synchrotron power law`, `synchrotron curved`, `thermal dust`, `AME`.
    """
    frequency = instrument.bands.node_ghz
    ame = seds.AME_POLARISATION_FRACTION * ame_polarisation(templates.dust, templates.ame)
    parts = {
        "CMB": (seds.cmb(frequency), cmb_map(templates.nside, rng)),
        "synchrotron power law": (seds.synchrotron(frequency, BETA_MEAN), templates.synchrotron),
        "synchrotron curved": (
            seds.synchrotron(frequency, BETA_MEAN, seds.KOGUT_CURVATURE),
            templates.synchrotron,
        ),
        "thermal dust": (seds.modified_blackbody(frequency), templates.dust),
        "AME": (seds.spinning_dust(frequency), ame),
    }
    return {
        name: instrument.bands.average(sed).numpy()[:, None, None] * qu
        for name, (sed, qu) in parts.items()
    }


def _once(values: np.ndarray) -> np.ndarray:
    """Values (n,), or (1,) of what is the same everywhere and takes no memory."""
    return values[:1] if values.strides == (0,) else values


def ame_polarisation(dust: np.ndarray, ame: np.ndarray) -> np.ndarray:
    """Q, U (2, n) of fully polarised AME along the dust, of Q, U of the dust and I of the AME."""
    modulus = np.hypot(*dust)
    return ame * dust / np.maximum(modulus, np.finfo(np.float32).tiny)


def write_sky(
    sky: SimulatedSky, instrument: Instrument, models: tuple[str, ...], folder: Path
) -> dict[str, Path]:
    """Write a sky as a user would bring it: `band_NAME.fits` a band, and `truth.fits`.

    Parameters
    ----------
    sky : SimulatedSky
    instrument : Instrument
    models : tuple of str
    folder : Path

    Returns
    -------
    dict of Path
        The map of each band, by its name.

    Raises
    ------
    MapError
        If the folder is a file, or holds something already.
    """
    bands = (sky.data[:, k] for k in range(instrument.n_band))
    return write_bands(bands, sky.label, instrument, models, folder)


def write_bands(
    bands: Iterable[np.ndarray],
    label: np.ndarray,
    instrument: Instrument,
    models: tuple[str, ...],
    folder: Path,
) -> dict[str, Path]:
    """Write Q,U [uK_RJ] of each band in turn, (2, n_pix), and the truth; see `write_sky`."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MapError(
            f"{folder}: expected an empty folder or none, got a file or a folder that holds "
            "something; give another out=."
        )
    with new_directory(folder) as new:
        for k, (name, qu) in enumerate(zip(instrument.band, one_ahead(bands), strict=True)):
            header = {
                "FREQ": instrument.frequency_ghz[k],
                "INSTRUME": instrument.name,
                "FWHM": (0.0, "[arcmin] no beam"),
            }
            write_polarisation_map(new / _map_of(name), qu, "uK_RJ", header=header)
        header = class_cards(models)
        columns = {"CLASS": (label.astype(np.int16), "")}
        write_maps(new / "truth.fits", columns, frame="G", header=header)
    return {name: folder / _map_of(name) for name in instrument.band}


def _map_of(band: str) -> str:
    return f"band_{band}.fits"


@dataclass(frozen=True)
class SkyRecipe:
    """All that a simulated sky comes from, but for the seed; small to send to a worker.

    Parameters
    ----------
    sky : str
        As `load_templates` takes it.
    models : tuple of str
    regions : str
    blob_deg : float
        As `layout` takes them.
    nside : int
    noise_scale : float
        Factor on the instrument's noise.
    instrument : Instrument
    systematics : Systematics
    """

    sky: str
    models: tuple[str, ...]
    regions: str
    blob_deg: float
    nside: int
    noise_scale: float
    instrument: Instrument
    systematics: Systematics = NO_SYSTEMATICS

    def label(self, seed: int) -> np.ndarray:
        """Place in `models` of the model that holds in each pixel, int64, shape (n_pix,)."""
        return layout(self.regions, self.nside, len(self.models), seed, self.blob_deg)

    def draw(self, templates: Templates, label: np.ndarray, seed: int) -> SkyDraw:
        """Everything random in a sky follows from its seed; templates are those of `sky`."""
        rng = np.random.default_rng([seed, 7])
        law = SkyLaw(systematics=self.systematics)
        return draw_sky(templates, self.instrument, self.models, label, self.noise_scale, rng, law)
