"""Cutouts a second beside healpy's projector, and filters beside healpy's and ducc0's transforms.

`python benchmarks/cutouts.py` prints these rows alone.
"""

import json
from collections.abc import Callable, Iterator

from foreglow.compute.cpu import tune

tune()  # as the command line does, before PyTorch is imported

import ducc0
import healpy as hp
import numpy as np
import torch

from foreglow.compute.random import make_generator
from foreglow.dust.baselines import NormalEquations
from foreglow.dust.cutouts import CutoutSampler
from foreglow.dust.sky_cube import SkyCube
from foreglow.maps.gnomonic import Grid, Pointings
from foreglow.maps.harmonic import HarmonicFilter, butterworth, low_pass_l_max
from foreglow.maps.hemispheres import METHODS, NORTH
from measure import OURS, devices, in_turn, median_and_range, rate_once, ratio, side_by_side, wait

NSIDE, FILTER_NSIDE = 512, 1024
N_CHANNEL = 64
BATCH = 64
HEALPY_CUTOUTS = 4  # a turn: it makes a few a second
REPEATS = 5
FILTER_TURNS = 16


def cutouts(device: torch.device) -> Iterator[dict]:
    """Cutouts of 64 channels, target and mask a second, in turn with healpy on the processor."""
    maps = _maps()
    sky = SkyCube.from_maps(maps[:-1], N_CHANNEL, maps[-1], np.ones(len(maps[0]))).to(device)
    row = {"benchmark": "cut", "device": device.type, "unit": "cutouts", "nside": NSIDE}
    row |= {"channels": N_CHANNEL, "batch": BATCH, "threads": torch.get_num_threads()}
    ours = {f"{OURS}, {m}": _ours(CutoutSampler(sky, NORTH, method=m)) for m in METHODS}
    works = dict(ours)
    if device.type == "cpu":
        works |= {"healpy projector": _healpy(maps), "gather from (channel, pixel)": _plain(maps)}
        sampler = CutoutSampler(sky, NORTH)
        cut = sampler.draw(2, make_generator(device, 1))
        same = np.array_equal(cut.inputs.numpy(), _projected(maps, cut.pointings)[:, :-1])
        yield {**row, "what": "pixel by pixel as healpy, nearest", "value": same}
    rates = in_turn(works, REPEATS)
    for name, values in rates.items():
        yield {**row, "what": name, **median_and_range(values)}
    for name in works:
        if name not in ours:
            for mine in ours:
                yield {**row, "what": mine, "beside": name, **ratio(rates[mine], rates[name])}
    yield {**row, "what": "normal equations of the linear models", **_equations(sky)}


def _maps() -> np.ndarray:
    """Channels and target, RING float32."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((N_CHANNEL + 1, hp.nside2npix(NSIDE)), dtype=np.float32)


def _ours(sampler: CutoutSampler) -> Callable[[], int]:
    generator, room = make_generator(torch.device("cpu"), 0), sampler.room(BATCH)

    def work() -> int:
        for _ in range(4):
            sampler.draw(BATCH, generator, out=room)
        wait(sampler.sky.inputs.device)
        return 4 * BATCH

    return work


def _healpy(maps: np.ndarray) -> Callable[[], int]:
    generator = make_generator(torch.device("cpu"), 0)

    def work() -> int:
        _projected(maps, NORTH.draw(HEALPY_CUTOUTS, generator))
        return HEALPY_CUTOUTS

    return work


def _projected(maps: np.ndarray, where: Pointings) -> np.ndarray:
    """Cutouts as an analyst makes them: (cutout, channel, n, n)."""
    grid, images = Grid(), []
    for k in range(len(where)):
        rot = [float(t[k]) for t in (where.lon_deg, where.lat_deg, where.rotation_deg)]
        projector = hp.projector.GnomonicProj(rot=rot, xsize=grid.n, reso=grid.pixel_arcmin)
        number = lambda x, y, z: hp.vec2pix(NSIDE, x, y, z)  # noqa: E731
        images.append(np.stack([projector.projmap(m, number) for m in maps]))
    return np.stack(images)


def _plain(maps: np.ndarray) -> Callable[[], int]:
    """Pixel numbers once a cutout, but maps one after the other in memory."""
    generator, grid = make_generator(torch.device("cpu"), 0), Grid()

    def work() -> int:
        where = NORTH.draw(16, generator)
        for k in range(16):
            rot = [float(t[k]) for t in (where.lon_deg, where.lat_deg, where.rotation_deg)]
            projector = hp.projector.GnomonicProj(rot=rot, xsize=grid.n, reso=grid.pixel_arcmin)
            pixel = hp.vec2pix(NSIDE, *projector.xy2vec(*projector.ij2xy()))
            np.ascontiguousarray(maps[:, pixel])
        return 16

    return work


def _equations(sky: SkyCube) -> dict[str, float]:
    sampler = CutoutSampler(sky, NORTH)
    cut = sampler.draw(BATCH, make_generator(torch.device("cpu"), 0))
    equations = NormalEquations(N_CHANNEL, sampler.grid)

    def work() -> int:
        equations.add(cut.inputs, cut.target)
        wait(sky.inputs.device)
        return BATCH

    work()
    return median_and_range([rate_once(work) for _ in range(REPEATS)])


def filtering() -> Iterator[dict]:
    """Channels filtered a second at Nside 1024, in turn with what a user would call instead."""
    l_max = low_pass_l_max(FILTER_NSIDE)
    window = butterworth(l_max)
    one = HarmonicFilter(FILTER_NSIDE, window, threads=torch.get_num_threads())
    rings = ducc0.healpix.Healpix_Base(FILTER_NSIDE, "RING").sht_info()
    options = {**rings, "spin": 0, "lmax": l_max, "nthreads": torch.get_num_threads()}
    rng = np.random.default_rng(0)
    values = rng.standard_normal((1, hp.nside2npix(FILTER_NSIDE)), dtype=np.float32)

    def ours() -> int:
        next(one.stream([values[0]]))
        return 1

    def bare() -> int:
        alm = ducc0.sht.adjoint_synthesis(map=values, **options)
        ducc0.sht.synthesis(alm=alm, **options)
        return 1

    def healpy() -> int:
        alm = hp.map2alm(values[0], lmax=l_max, iter=0)
        hp.alm2map(hp.almxfl(alm, window, inplace=True), FILTER_NSIDE, lmax=l_max)
        return 1

    works = {OURS: ours, "bare ducc0 transforms": bare, "healpy map2alm, alm2map": healpy}
    row = {"benchmark": "filter", "device": "cpu", "unit": "channels", "nside": FILTER_NSIDE}
    row |= {"l_max": l_max, "threads": torch.get_num_threads()}
    yield from side_by_side(row, in_turn(works, FILTER_TURNS))


if __name__ == "__main__":
    for device in devices():
        for found in cutouts(device):
            print(json.dumps(found), flush=True)
    for found in filtering():
        print(json.dumps(found), flush=True)
