"""Each stage of both jobs as work of a given size, made ready outside the clock.

A stage's `make(device, size)` gives a function that does it once and returns the seconds it took.
"""

import shutil
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import healpy as hp
import numpy as np
import torch
from astropy.io import fits

from foreglow.compute.random import make_generator
from foreglow.dust.cutouts import CutoutSampler
from foreglow.dust.model import DustModel
from foreglow.dust.predict import predict_map
from foreglow.dust.stitch import centres
from foreglow.hi_cube.prepare import prepare
from foreglow.maps.conventions import MapWarning
from foreglow.maps.harmonic import HarmonicFilter, butterworth
from foreglow.maps.hemispheres import NORTH
from foreglow.maps.write import write_polarisation_map
from foreglow.recognition.classify import classify
from foreglow.recognition.fits.optimise import fit
from foreglow.recognition.fits.skymodel import candidate
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.recognition.observation.streaming import BLOCK
from foreglow.recognition.simulation.vectors import NoiseLaw, VectorSimulator
from foreglow.sky.instrument_files import load_instrument
from foreglow.sky.templates import load_templates
from measure import wait
from steps import dust_steps, noise_sky, recognition_steps

INSTRUMENT = load_instrument("quijote+litebird")
BATCH = 8192  # vectors drawn at once
TRAIN_BATCH = 4096
CHANNELS = 64
CUTOUTS = 64  # drawn at once
STEP_CUTOUTS = 16  # a training step's
CAR_SHAPE = (721, 1441)  # an all-sky image of 15 arcmin
PREPARE_NSIDE, CUT_NSIDE, PREDICT_NSIDE = 256, 512, 256

NO_BEAM = {"FWHM": (0.0, "[arcmin] no beam")}

Clocked = Callable[[], float]


@dataclass(frozen=True)
class Stage:
    """What is timed at several sizes.

    Parameters
    ----------
    name, job : str
    unit : str
        What a size counts.
    sizes : tuple of int
        Four, ascending.
    make : callable
        (device, size) -> a function that does the work and returns its seconds.
    clock : str
        What the seconds leave out.
    exponent : float
        Expected of the cost.
    cuda : bool
        Whether it can run on a graphics card.
    """

    name: str
    job: str
    unit: str
    sizes: tuple[int, int, int, int]
    make: Callable[[torch.device, int], Clocked]
    clock: str
    exponent: float = 1.0
    cuda: bool = False


def clocked(
    work: Callable[[], object], device: torch.device, folder: Path | None = None
) -> Clocked:
    """Seconds of a work; the folder that it needs goes with it."""

    def timed() -> float:
        start = time.perf_counter()
        work()
        wait(device)
        return time.perf_counter() - start

    if folder is not None:
        weakref.finalize(timed, shutil.rmtree, folder, ignore_errors=True)
    return timed


def simulate(device: torch.device, size: int) -> Clocked:
    """Noisy vectors of the law of training."""
    simulator = _simulator().to(device)
    generator = make_generator(device, 0)

    def work() -> None:
        for _ in range(size // BATCH):
            simulator.draw(BATCH, NoiseLaw.fixed(1.0), generator)

    return clocked(work, device)


def fits_of_pixels(device: torch.device, size: int) -> Clocked:
    """Fits of curved synchrotron, data in memory."""
    frequency = torch.tensor(INSTRUMENT.frequency_ghz, dtype=torch.float64)
    data, sigma = (t.to(device) for t in vectors(size))
    return clocked(lambda: fit(candidate("curved"), frequency, data, sigma), device)


def train_recogniser(device: torch.device, size: int) -> Clocked:
    """Steps of the network `foreglow`."""
    return lambda: sum(recognition_steps("foreglow", "four", TRAIN_BATCH, size, device))


def classify_memory(device: torch.device, size: int) -> Clocked:
    """Features and network, data in memory."""
    model = Recogniser.load("mock-four", device)
    data, sigma = (t.to(device) for t in vectors(BLOCK))

    def work() -> None:
        for _ in range(size // BLOCK):
            model.log_probability(data, sigma)

    return clocked(work, device)


def classify_files(device: torch.device, size: int) -> Clocked:
    """From 17 FITS maps to one."""
    model = Recogniser.load("mock-four", device)
    folder = Path(tempfile.mkdtemp())
    paths = _band_maps(folder, hp.npix2nside(size))

    def work() -> None:
        found = classify(paths, model=model, noise_scale=0.01)
        found.to_fits(folder / "out.fits", overwrite=True)

    return clocked(work, device, folder)


def prepare_cube(device: torch.device, size: int) -> Clocked:
    """Channels of an all-sky image cube, FITS to Zarr."""
    folder = Path(tempfile.mkdtemp())
    source = folder / "cube.fits"
    _image_cube(source, size)

    def work() -> None:
        with warnings.catch_warnings():  # pixels wider than the beam: so they are
            warnings.simplefilter("ignore", MapWarning)
            prepare(
                [source], folder / "cube.zarr", nside=PREPARE_NSIDE, overwrite=True,
                memory="4 GiB",
            )  # fmt: skip

    return clocked(work, device, folder)


def filter_channels(device: torch.device, size: int) -> Clocked:
    """Channels of Nside 512 low-passed."""
    maps = np.random.default_rng(0).standard_normal((1, hp.nside2npix(512)), dtype=np.float32)
    one = HarmonicFilter(512, butterworth(1024), threads=torch.get_num_threads())
    return clocked(lambda: [one.full_sky(maps[0]) for _ in range(size)], device)


def filter_pixels(device: torch.device, size: int) -> Clocked:
    """A map low-passed at growing Nside, harmonics up to twice that."""
    nside = hp.npix2nside(size)
    values = np.random.default_rng(0).standard_normal(size, dtype=np.float32)
    one = HarmonicFilter(nside, butterworth(2 * nside), threads=torch.get_num_threads())
    return clocked(lambda: one.full_sky(values), device)


def cut(device: torch.device, size: int) -> Clocked:
    """Cutouts of 64 channels, nearest pixels."""
    sampler = CutoutSampler(_noise_cube(CUT_NSIDE).cube.to(device), NORTH)
    generator, room = make_generator(device, 0), sampler.room(CUTOUTS)

    def work() -> None:
        for _ in range(size // CUTOUTS):
            sampler.draw(CUTOUTS, generator, room)

    return clocked(work, device)


def train_dust(device: torch.device, size: int) -> Clocked:
    """Steps of our U-Net."""
    sky = _noise_cube(PREDICT_NSIDE)
    return lambda: sum(dust_steps(sky, "unet", 8, STEP_CUTOUTS, size, device))


def predict_centres(device: torch.device, size: int) -> Clocked:
    """Cutouts cut, seen by the networks of `mock-dust`, and blended into a map."""
    model = DustModel.load("mock-dust", device)
    sky = _noise_cube(PREDICT_NSIDE).cube.to(device)
    where = centres(16)
    # spread over the sky, as those of a whole map are
    chosen = where[torch.linspace(0, len(where) - 1, size).long()]
    return clocked(lambda: predict_map(model, sky, chosen), device)


STAGES = (
    Stage(
        "simulate", "recognition", "vectors", (2**17, 2**19, 2**21, 2**23), simulate,
        "templates and simulator made", cuda=True,
    ),
    Stage(
        "fit, curved", "recognition", "pixels", tuple(2**16 * k for k in (1, 3, 6, 16)),
        fits_of_pixels, "data in memory", cuda=True,
    ),
    Stage(
        "train, `foreglow`", "recognition", "steps", (4, 12, 32, 96), train_recogniser,
        "begin and end of a training", cuda=True,
    ),
    Stage(
        "classify", "recognition", "pixels", tuple(2**16 * k for k in (1, 3, 8, 16)),
        classify_memory, "model loaded, data in memory", cuda=True,
    ),
    Stage(
        "classify, FITS to FITS", "recognition", "pixels",
        tuple(hp.nside2npix(n) for n in (128, 256, 512, 1024)), classify_files, "model loaded",
        cuda=True,
    ),
    Stage("prepare", "dust", "channels", (8, 24, 64, 128), prepare_cube, "nothing"),
    Stage("filter", "dust", "channels", (2, 6, 16, 32), filter_channels, "maps in memory"),
    Stage(
        "filter, one channel", "dust", "pixels",
        tuple(hp.nside2npix(n) for n in (256, 512, 1024, 2048)), filter_pixels, "map in memory",
        exponent=1.5,
    ),
    Stage("cut", "dust", "cutouts", (256, 1024, 4096, 16384), cut, "sky in memory", cuda=True),
    Stage(
        "train, our U-Net", "dust", "steps", (3, 8, 20, 48), train_dust,
        "begin and end of a training", cuda=True,
    ),
    Stage(
        "predict", "dust", "centres", (32, 96, 256, 512), predict_centres,
        "model loaded, filtered sky in memory", cuda=True,
    ),
)  # fmt: skip


@cache
def _simulator() -> VectorSimulator:
    return VectorSimulator(load_templates("mock"), INSTRUMENT, PROBLEMS["four"], 16)


@cache
def vectors(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Data and noise of n vectors, Table 1 noise."""
    drawn = _simulator().cpu().draw(n, NoiseLaw.fixed(1.0), make_generator(torch.device("cpu"), 1))
    return drawn.data, drawn.sigma.contiguous()


@cache
def _noise_cube(nside: int):
    return noise_sky(nside, CHANNELS)


def _band_maps(folder: Path, nside: int) -> dict[str, Path]:
    """A map a band, of Galactic brightness enough that no pixel is odd."""
    data, _ = vectors(min(BLOCK, hp.nside2npix(nside)))
    order = np.resize(np.arange(len(data)), hp.nside2npix(nside))
    paths = {}
    for k, name in enumerate(INSTRUMENT.band):
        paths[name] = folder / f"{name}.fits"
        qu = data[:, :, k].numpy().T[:, order]
        write_polarisation_map(paths[name], qu, "uK_RJ", header=NO_BEAM)
    return paths


def _image_cube(path: Path, n_channel: int) -> None:
    """An image cube in the form of HI4PI's, with 15 arcmin a pixel."""
    ny, nx = CAR_SHAPE
    header = fits.Header()
    cards = {
        "CTYPE1": "GLON-CAR", "CRPIX1": (nx + 1) / 2, "CRVAL1": 0.0, "CDELT1": -0.25,
        "CUNIT1": "deg", "CTYPE2": "GLAT-CAR", "CRPIX2": (ny + 1) / 2, "CRVAL2": 0.0,
        "CDELT2": 0.25, "CUNIT2": "deg", "CTYPE3": "VRAD", "CRPIX3": 1.0, "CRVAL3": -60000.0,
        "CDELT3": 1288.23448620083, "CUNIT3": "m/s", "SPECSYS": "LSRK", "BUNIT": "K",
        "RESTFRQ": 1420405751.77, "BMAJ": 0.2706, "BMIN": 0.2706, "BPA": 0.0,
    }  # fmt: skip
    header.update(cards)
    rng = np.random.default_rng(0)
    data = np.empty((n_channel, ny, nx), ">f4")
    for channel in data:
        channel[:] = rng.random((ny, nx), dtype=np.float32)
    fits.PrimaryHDU(data, header).writeto(path)
