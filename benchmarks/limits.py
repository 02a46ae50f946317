"""How near each stage is to what the machine can do at best.

A stage must at least move its input and output through memory (or files) once, and make the
operations of its algorithm; each takes the time that the machine, as `machine.py` found it in the
same run, needs for that alone. The limit is the longest of these times. Not counted, so that the
limit is never too low: what operations hand on to each other, start-up, functions of no name here.

`python benchmarks/limits.py` counts without timing anything.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from unittest.mock import patch

from foreglow.compute.cpu import tune

tune()  # as the command line does, before PyTorch is imported

import healpy as hp
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from foreglow.compute.random import make_generator
from foreglow.dust.cutouts import CutoutSampler
from foreglow.dust.loss import correlation_loss
from foreglow.dust.model import DustModel
from foreglow.dust.networks import make_network
from foreglow.dust.spectra import paper_bands
from foreglow.maps.hemispheres import NORTH
from foreglow.recognition.fits import likelihood, optimise, starts
from foreglow.recognition.fits.skymodel import candidate
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network.networks import ForeglowNetwork
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.sky.hydrogen import velocity_channels
from measure import OURS
from stages import (
    CAR_SHAPE,
    CHANNELS,
    INSTRUMENT,
    PREPARE_NSIDE,
    STEP_CUTOUTS,
    TRAIN_BATCH,
    vectors,
)
from steps import noise_sky

BAND, STOKES, FLOAT, DOUBLE = INSTRUMENT.n_band, 2, 4, 8  # counts, and bytes of a number
FUNCTION = 20  # operations of an exponential, logarithm, sine: assumed, polynomials of degree ~8
PIXELS_OF_CUTOUT = 64 * 64
COUNTED = 2048  # pixels or vectors on which operations are counted


@dataclass(frozen=True)
class Need:
    """What one item of a stage needs at least, by what of `machine.py` provides it.

    Parameters
    ----------
    amount : mapping of str to float
        Bytes or operations.
    left : str
        What the rest of the time goes to.
    """

    amount: Mapping[str, float]
    left: str


MEMORY, FLOAT32, FLOAT64 = "memory, triad", "float32 arithmetic", "float64 arithmetic"
READ, WRITE, NORMAL = (
    "file read, from the page cache", "file written, to the page cache", "normal deviates",
)  # fmt: skip


def simulate() -> Need:
    """A vector: its template pixel read, its data and label written."""
    normals = STOKES * BAND + 7  # white noise; four amplitudes, two of the CMB, an index
    per_band = FUNCTION + 4  # exp of a parabola in ln frequency
    per_value = 3 * 2 + 2 + 2  # three fixed spectra, synchrotron, noise: multiply and add
    operations = BAND * per_band + STOKES * BAND * per_value
    return Need(
        {MEMORY: FLOAT * (5 + STOKES * BAND + 2), FLOAT32: operations, NORMAL: normals},
        "PyTorch draws normal deviates of a processor on one thread, which is most of the limit "
        "and half of the time; then sums over 17 bands, too short for wide instructions",
    )


def fits_of_pixels() -> Need:
    """A pixel's data and noise read, its results written; descents as they were, in float64."""
    model = candidate("curved")
    p, fixed = len(model.free), 2
    rows, powers = STOKES + fixed, 2 * p + 1
    # a step: the spectrum; moments of each row, and of the spectrum's square, by power
    step = BAND * (FUNCTION + 2 * p + 3) + BAND * (rows + 1) * (1 + 2 * powers)
    nodes = math.prod(starts._CURVED[0])  # the second grid is for few pixels
    grid = nodes * BAND * 2 * (rows + 1)
    projection = BAND * 4 * fixed * (STOKES + 1)
    steps = _steps_of_fits()
    out = p + p * p + STOKES * 3 + (STOKES * 3) ** 2 + 1
    return Need(
        {
            MEMORY: FLOAT * BAND * (STOKES + 1) + DOUBLE * out,
            FLOAT64: steps * step + grid + projection,
        },
        f"{steps:.1f} steps of descent a pixel, each a hundred small operations on arrays of some "
        "thousands of pixels: most of the time is moving these through the cache",
    )


@cache
def _steps_of_fits() -> float:
    """Points at which the likelihood was taken, a pixel."""
    taken = []
    linearise = likelihood.linearise

    def counted(*arguments):
        point = linearise(*arguments)
        taken.append(point.cost.numel())
        return point

    data, sigma = vectors(COUNTED)
    frequency = torch.tensor(INSTRUMENT.frequency_ghz, dtype=torch.float64)
    with patch.object(likelihood, "linearise", counted):
        optimise.fit(candidate("curved"), frequency, data, sigma)
    return sum(taken) / COUNTED


def classify() -> Need:
    """A pixel's data and noise read, its probabilities written; products of matrices."""
    model = Recogniser.load("mock-four")
    data, sigma = vectors(COUNTED)
    with FlopCounterMode(display=False) as counter:
        model.log_probability(data, sigma)
    return Need(
        {
            MEMORY: FLOAT * (BAND * (STOKES + 1) + len(model.models)),
            FLOAT32: counter.get_total_flops() / COUNTED,
        },
        "a third the matrices themselves, a third the features (some 400 small operations), the "
        "rest GELU and normalisation",
    )


def classify_files() -> Need:
    """The same, maps read from files and probabilities and class written to one."""
    need, n_class = classify(), len(PROBLEMS["four"])
    files = {READ: FLOAT * BAND * STOKES, WRITE: FLOAT * n_class + 2}
    return Need(
        {**need.amount, **files},
        "the network as above; reading and turning maps around is the rest",
    )


def train_recogniser() -> Need:
    """A step: forward and backward products of matrices, and AdamW's passes over the weights."""
    network = ForeglowNetwork(INSTRUMENT, len(PROBLEMS["four"])).train()
    data, sigma = vectors(COUNTED)
    with FlopCounterMode(display=False) as counter:
        network(data, sigma).sum().backward()
    weights = sum(p.numel() for p in network.parameters())
    drawing = {k: v * TRAIN_BATCH for k, v in simulate().amount.items() if k == NORMAL}
    return Need(
        {
            FLOAT32: counter.get_total_flops() * TRAIN_BATCH / COUNTED,
            MEMORY: _adam_bytes(weights) + FLOAT * TRAIN_BATCH * BAND * (STOKES + 1),
            **drawing,
        },
        "as for classification, and what GELU, normalisation and features leave for the way back",
    )


def prepare() -> Need:
    """A channel: an image read, all HEALPix pixels written."""
    n_pix = hp.nside2npix(PREPARE_NSIDE)
    image = CAR_SHAPE[0] * CAR_SHAPE[1]
    return Need(
        {
            READ: FLOAT * image,
            WRITE: FLOAT * n_pix,
            MEMORY: FLOAT * (image + n_pix),
            FLOAT64: 8 * n_pix,  # three interpolations: a difference, and a multiply and add
        },
        "scipy's interpolation, under reproject, is a third of the time and on one thread; then "
        "places of pixels in the image, and Zarr's chunks; workers share the channels "
        "(`--workers local:2`)",
    )


def _filter(nside: int, l_max: int) -> float:
    """Float64 operations of two transforms of a map.

    ducc0's inner loop (src/ducc0/sht/sht_inner_loop.h, `alm2map_kernel`) makes six multiply-adds
    a pair of ell for each m and each pair of rings north and south.
    """
    n_alm = (l_max + 1) * (l_max + 2) / 2
    return 2 * (2 * nside) * n_alm * 3 * 2


def filter_channels() -> Need:
    """A map of Nside 512, twice ell 1024."""
    n_pix = hp.nside2npix(512)
    return Need(
        {FLOAT64: _filter(512, 1024), MEMORY: 2 * FLOAT * n_pix},
        "the transforms are ducc0's; its wheels on PyPI are made for any x86-64 processor: see "
        "below for one made for this machine",
    )


def cut() -> Need:
    """A cutout: its pixels of 64 channels read and written; target and mask too."""
    values = PIXELS_OF_CUTOUT * (CHANNELS + 2) * FLOAT
    return Need(
        {MEMORY: 2 * values, FLOAT64: PIXELS_OF_CUTOUT * (3 * 6 + 3 * FUNCTION)},
        "rows of 256 bytes out of a cube far larger than the caches, and the pixel numbers of 4096 "
        "directions",
    )


def train_paper_unet() -> Need:
    """A cutout in a step of the paper's U-Net, 64 channels wide."""
    left = (
        "batch norm, ReLU, dropout and pooling, each a pass over all maps, and Adam's passes over "
        "31 million weights"
    )
    return _train_unet("unet_zhang2019", 64, 16, left)


def train_our_unet() -> Need:
    """A step of our U-Net."""
    left = (
        "gains of 64 channels, GELU and group norm: passes over maps with so few channels that "
        "convolutions have little to do"
    )
    need = _train_unet("unet", 8, STEP_CUTOUTS, left)
    return Need({k: v * STEP_CUTOUTS for k, v in need.amount.items()}, need.left)


def _train_unet(network: str, width: int, batch: int, left: str) -> Need:
    """A cutout: operations of a step on two, and the passes of Adam over the weights."""
    made = make_network(network, "channels", velocity_channels()[:CHANNELS], width).train()
    sampler = CutoutSampler(noise_sky(32, CHANNELS).cube, NORTH)
    cutouts = sampler.draw(2, make_generator(torch.device("cpu"), 0))
    bands = paper_bands(sampler.grid)
    made.standardise(cutouts.inputs, cutouts.target, cutouts.mask, bands)
    with FlopCounterMode(display=False) as counter:
        predicted = made(cutouts.inputs, cutouts.mask) / made.unit
        correlation_loss(predicted, cutouts.target, bands)[0].backward()
    weights = sum(p.numel() for p in made.parameters())
    moved = 2 * PIXELS_OF_CUTOUT * CHANNELS * FLOAT + _adam_bytes(weights) / batch
    return Need({FLOAT32: counter.get_total_flops() / 2, MEMORY: moved}, left)


def _adam_bytes(weights: int) -> float:
    """Gradient, weight and two moments read, all but the gradient written."""
    return 7 * FLOAT * weights


def predict() -> Need:
    """A cutout: bilinear from four pixels each, seen by every network, added to a map."""
    model = DustModel.load("mock-dust")
    sampler = CutoutSampler(noise_sky(32, len(model.velocity_kms)).cube, NORTH)
    cutouts = sampler.draw(2, make_generator(torch.device("cpu"), 0))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.each(cutouts.inputs, cutouts.mask)
    values = PIXELS_OF_CUTOUT * CHANNELS
    return Need(
        {FLOAT32: counter.get_total_flops() / 2 + values * 8, MEMORY: 2 * FLOAT * values},
        "gains of 64 channels as in training, bilinear cutouts, and splines on one thread that "
        "take the cutouts back to the sphere",
    )


# stage, what its rows count, and what it needs
NEEDS: tuple[tuple[str, str, Callable[[], Need]], ...] = (
    ("simulate", "vectors", simulate),
    ("fit, curved", "pixels", fits_of_pixels),
    ("train, `foreglow`", "steps", train_recogniser),
    ("classify", "pixels", classify),
    ("classify, FITS to FITS", "pixels", classify_files),
    ("prepare", "channels", prepare),
    ("filter", "channels", filter_channels),
    ("cut", "cutouts", cut),
    ("train, our U-Net", "steps", train_our_unet),
    ("train, paper's U-Net", "cutouts", train_paper_unet),
    ("predict", "centres", predict),
)


def limits(rows: Iterable[dict]) -> Iterator[dict]:
    """Measured and attainable rates of every stage, of rows of `machine`, `scaling` and `unet`."""
    rows = list(rows)
    for device in ("cpu", "cuda"):
        power = abilities(rows, device)
        for stage, unit, count in NEEDS:
            measured = _measured(rows, stage, device)
            if power and measured:
                yield _limit(stage, unit, _counted(count), measured, power, device)


@cache
def _counted(count: Callable[[], Need]) -> Need:
    return count()


def _limit(
    stage: str, unit: str, need: Need, measured: float, power: Mapping[str, float], device: str
) -> dict:
    seconds = {k: v / power[k] for k, v in need.amount.items()}
    binding = max(seconds, key=lambda k: seconds[k])
    best = 1 / seconds[binding]
    return {
        "benchmark": "limit", "device": device, "stage": stage, "unit": unit,
        "bound": binding, "need": dict(need.amount), "limit_per_s": best, "per_s": measured,
        "share": measured / best, "left": need.left,
    }  # fmt: skip


def abilities(rows: list[dict], device: str) -> dict[str, float]:
    """What a machine can do a second: the best library's arithmetic, whatever ours calls."""
    found = {
        r["what"]: r["fastest"]
        for r in rows
        if r["benchmark"] == "machine" and r["device"] == device
    }
    if not found:
        return {}
    files = {
        r["what"]: r["fastest"]
        for r in rows
        if r["benchmark"] == "machine" and r["device"] == "cpu"
    }
    found[FLOAT32] = max(found["float32 matrices"], found["float32 convolutions"])
    # of AVX and of most processors: half as many doubles as floats at once
    found[FLOAT64] = max(found["float64 matrices"], found[FLOAT32] / 2 if device == "cpu" else 0)
    return files | found


def _measured(rows: list[dict], stage: str, device: str) -> float | None:
    """Items a second at the largest size timed."""
    here = [r for r in rows if r["device"] == device]
    costs = [r for r in here if r["benchmark"] == "cost" and r["stage"] == stage and "size" in r]
    if costs:
        largest = max(costs, key=lambda r: r["size"])
        return largest["size"] / largest["seconds"]
    rates = [r["per_s"] for r in here if r["benchmark"] == stage and r.get("what") == OURS]
    return rates[0] if rates else None


if __name__ == "__main__":
    for stage, unit, count in NEEDS:
        amounts = {k: float(np.format_float_scientific(v, 3)) for k, v in count().amount.items()}
        print(f"{stage} ({unit}): {amounts}")
