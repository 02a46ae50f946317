"""A band at the common beam: what was observed of it, its maps, and the noise that is left.

One band is in memory at a time, and of it one quantity; files are read a block of pixels at a time.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foreglow.errors import MapError
from foreglow.files import new_file
from foreglow.maps import healpix as hp
from foreglow.maps.blocks import PixelBlock, PixelBlocks
from foreglow.maps.io import PolarisationMap
from foreglow.maps.noise_map import NoiseMap
from foreglow.maps.write import write_maps, write_polarisation_map
from foreglow.recognition.observation.smoothing import (
    Resolution,
    cover,
    filled,
    noise_end,
    smooth_difference,
    smooth_polarisation,
    smooth_variance,
    to_common_beam,
)

_BLOCK = 1 << 18  # pixels read at a time
_LEAST_COVER = 0.99  # of the common beam that observed, else a pixel is left out
_MOST_APART = 0.999  # of the mean variance: the difference that a covariance is made of
_SUMS_EVERY = 60.0  # seconds after which the sums over draws are written

log = logging.getLogger("foreglow")


@dataclass(frozen=True, eq=False)
class Region:
    """Pixels that the same bands observed, and all that these bands observed together.

    Parameters
    ----------
    pixels, area : ndarray of bool, shape (n_pix,) of the aim
    """

    pixels: np.ndarray
    area: np.ndarray


@dataclass(frozen=True, eq=False)
class Regions:
    """Regions of all bands: bands meet in a pixel only if they were cut alike.

    Parameters
    ----------
    which : ndarray of int, shape (n_pix,) of the aim
        Number of the region of each pixel.
    bands : tuple of frozenset of str
        Bands that observed each region.
    whole : bool
        All bands observed all of the sky.
    """

    which: np.ndarray
    bands: tuple[frozenset[str], ...]
    whole: bool

    @classmethod
    def of(
        cls, maps: Mapping[str, tuple[PolarisationMap, NoiseMap | float]], aim: Resolution
    ) -> "Regions":
        """Of maps and their noise by band."""
        which = np.zeros(hp.nside2npix(aim.nside), np.int32)
        bands: list[frozenset[str]] = [frozenset()]
        whole = True
        for name, (one, rms) in maps.items():
            seen = _seen(one, rms)
            whole &= bool(seen.all())
            which = 2 * which + _observed(seen, aim)
            found = np.flatnonzero(np.bincount(which))  # numbered anew, so they stay small
            number = np.zeros(2 * len(bands), np.int32)
            number[found] = np.arange(len(found))
            which = number[which]
            bands = [bands[k // 2] | ({name} if k % 2 else frozenset()) for k in found]
        return cls(which, tuple(bands), whole)

    def of_band(self, name: str) -> Iterator[Region]:
        """Those that a band observed, one in memory at a time."""
        for k, bands in enumerate(self.bands):
            if name in bands:
                together = np.array([bands <= others for others in self.bands])
                yield Region(self.which == k, together[self.which])


@dataclass(frozen=True, eq=False)
class Band:
    """A map, its noise, and where both go.

    Parameters
    ----------
    name : str
    map : PolarisationMap
    rms : NoiseMap or float
        A map, or the rms of each pixel [uK_RJ].
    beam_arcmin : float
    aim : Resolution
    regions : Regions
    """

    name: str
    map: PolarisationMap
    rms: NoiseMap | float
    beam_arcmin: float
    aim: Resolution
    regions: Regions

    @property
    def unlike(self) -> bool:
        """Whether the noise of Q and U may differ."""
        return isinstance(self.rms, NoiseMap) and not self.rms.alike


def bytes_for(one: PolarisationMap, beam_arcmin: float, aim: Resolution, whole: bool) -> int:
    """Memory that bringing a band to the common beam takes, beside what was loaded before.

    Of a part of the sky there are copies with gaps filled and edges cut, and the harmonics of the
    kernels that do both.
    """
    n_pix, n_out, l_max = hp.nside2npix(one.nside), hp.nside2npix(aim.nside), 2 * aim.nside
    kernels = [] if whole else [aim.kernel(beam, one.nside) for beam in (0.0, beam_arcmin)]
    most = max([noise_end(l_max, one.nside), *map(len, kernels)])
    # E and B twice, complex; what ducc0 keeps of each m on each ring
    there = 32 * most**2 + 128 * one.nside * most
    back = 32 * most**2 + 128 * aim.nside * most
    reading = (28 if whole else 54) * n_pix + there
    return int(max(reading, (12 if whole else 28) * n_pix + 40 * n_out + back))


def write_maps_of(band: Band, path: Path) -> None:
    """Smooth the Q,U of a band, and write them."""
    qu, seen = _read(band.map, band.rms)
    smooth = at_common_beam(band, qu, seen)
    unit, frame = band.map.unit, band.map.frame
    write_polarisation_map(path, smooth, unit, frame, header=_header(band.aim), overwrite=True)


def at_common_beam(band: Band, qu: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Q,U (2, n_pix) as a band has them at the common beam, float32; NaN where nothing is left.

    Parameters
    ----------
    band : Band
    qu : ndarray, float32, shape (2, n_pix)
        In the unit and pixels of its map, RING.
    seen : ndarray of bool, shape (n_pix,)
        Where the band observed.
    """
    one, aim = band.map, band.aim
    smooth = np.full((2, hp.nside2npix(aim.nside)), np.nan, np.float32)
    common = qu
    if not band.regions.whole:
        qu = filled(qu, seen, aim)
        common = to_common_beam(qu, aim, band.beam_arcmin).astype(np.float32)
    for region in band.regions.of_band(band.name):
        kept, weight = _kept(region, seen, one.nside), cover(region.area, aim)
        if kept.all():
            found = smooth_polarisation(qu, aim.transfer(band.beam_arcmin), aim.nside)
        else:
            end = aim.transfer(aim.fwhm_arcmin)
            found = smooth_polarisation(common * _refined(region.area, one.nside), end, aim.nside)
        found /= weight
        np.copyto(smooth, found, where=region.pixels, casting="same_kind")
    return smooth


def write_noise_of(band: Band, path: Path) -> None:
    """Write what noise is left: its rms and, where Q and U may differ, QQ, QU and UU."""
    aim = band.aim
    mean = np.full(hp.nside2npix(aim.nside), np.nan)
    apart = np.full((2, mean.size if band.unlike else 0), np.nan)
    transfer, seen = aim.transfer(band.beam_arcmin), _seen(band.map, band.rms)
    for region in band.regions.of_band(band.name):
        kept, at = _kept(region, seen, band.map.nside), region.pixels
        squared = cover(region.area, aim)[at] ** 2
        variance = _read_variance(band, kept)
        mean[at] = smooth_variance(variance, transfer, aim.nside)[at] / squared
        del variance
        if band.unlike:
            left = smooth_difference(_read_apart(band, kept), transfer, aim.nside)
            apart[:, at] = left[:, at] / squared
    _write_noise(band, mean, apart, path)


def write_drawn_noise_of(
    band: Band, path: Path, draws: int, seed: Sequence[int], keep: bool = False
) -> None:
    """Write what noise is left, of as many maps of it, each brought to the common beam as the data.

    The files are those of `write_noise_of`. Of n draws the rms is known to 1 / sqrt(2 n), and
    where Q and U are alike to 1 / sqrt(4 n). With `keep` the draws of an interrupted call are not
    made again: their sums lie beside the file.
    """
    seen = _seen(band.map, band.rms)
    sums = path.with_suffix(".sums.npz")
    shape = (3, hp.nside2npix(band.aim.nside))
    total, first = _read_sums(sums, shape, seed, draws) if keep else (np.zeros(shape), 0)
    written = time.monotonic()
    for number in range(first, draws):
        drawn = _drawn(band, seen, np.random.default_rng([*seed, number]))
        q, u = at_common_beam(band, drawn, seen).astype(np.float64)
        total += [q * q, q * u, u * u]
        if keep and time.monotonic() - written >= _SUMS_EVERY:
            with new_file(sums) as new, new.open("wb") as stream:
                np.savez(stream, total=total, drawn=number + 1, seed=seed)
            written = time.monotonic()
    qq, qu, uu = total / draws
    apart = np.stack([0.5 * (qq - uu), qu]) if band.unlike else np.empty((2, 0))
    _write_noise(band, 0.5 * (qq + uu), apart, path)
    sums.unlink(missing_ok=True)


def _read_sums(
    path: Path, shape: tuple[int, int], seed: Sequence[int], draws: int
) -> tuple[np.ndarray, int]:
    """Sums over the first draws, and how many; none where there are none of this seed."""
    if path.is_file():
        with np.load(path, allow_pickle=False) as kept:
            total, drawn = kept["total"], int(kept["drawn"])
            if total.shape == shape and kept["seed"].tolist() == list(seed) and drawn <= draws:
                log.info("%s: goes on after %d of %d maps of noise", path.name, drawn, draws)
                return total, drawn
    return np.zeros(shape), 0


def _drawn(band: Band, seen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A map of the noise (2, n_pix), float32, as its covariance says pixel by pixel."""
    if not isinstance(band.rms, NoiseMap):
        return band.rms * rng.standard_normal((2, len(seen)), np.float32)
    noise = np.zeros((2, len(seen)), np.float32)
    for block in _blocks(band.map):
        at = block.numbers("RING")
        qq, qu, uu = np.where(seen[at], band.rms.read_covariance(block, seen[at]), 1.0)
        one, other = rng.standard_normal((2, *qq.shape))
        along = np.sqrt(qq)
        across = np.sqrt(np.maximum(uu - (qu / along) ** 2, 0))
        noise[:, at] = np.where(seen[at], [along * one, qu / along * one + across * other], 0.0)
    return noise


def _write_noise(band: Band, mean: np.ndarray, apart: np.ndarray, path: Path) -> None:
    """Write the mean variance (n,), and half of QQ less UU and QU (2, n) if they may differ."""
    # quadrature may leave less than nothing far from where anything was observed
    np.maximum(mean, np.finfo(np.float32).tiny, out=mean)
    unit = band.rms.unit if isinstance(band.rms, NoiseMap) else "uK_RJ"
    columns = {"RMS": (np.sqrt(mean).astype(np.float32), unit)}
    if band.unlike:
        columns = {
            name: (row, f"({unit})^2")
            for name, row in zip(("QQ", "QU", "UU"), _covariance(mean, apart), strict=True)
        }
    write_maps(path, columns, frame=band.map.frame, header=_header(band.aim), overwrite=True)


def _header(aim: Resolution) -> dict[str, tuple[float, str]]:
    return {"FWHM": (aim.fwhm_arcmin, "[arcmin] common beam")}


def _blocks(one: PolarisationMap) -> PixelBlocks:
    return PixelBlocks(one.nside, one.ordering, _BLOCK)


def _seen_in(block: PixelBlock, qu: np.ndarray, rms: NoiseMap | float) -> np.ndarray:
    """Where Q,U (2, n) and their noise are known."""
    seen = np.isfinite(qu[0]) & np.isfinite(qu[1])
    if isinstance(rms, NoiseMap):
        seen &= np.isfinite(rms.read_covariance(block, seen)[[0, 2]].mean(0))
    return seen


def _seen(one: PolarisationMap, rms: NoiseMap | float) -> np.ndarray:
    """Where both map and noise are known, shape (n_pix,)."""
    seen = np.empty(hp.nside2npix(one.nside), bool)
    for block in _blocks(one):
        seen[block.numbers("RING")] = _seen_in(block, one.read(block), rms)
    if not seen.any():
        raise MapError(f"{one.path}: no pixel is observed; check its mask and that of the noise.")
    return seen


def _read(one: PolarisationMap, rms: NoiseMap | float) -> tuple[np.ndarray, np.ndarray]:
    """Q,U (2, n_pix), float32, and where they and their noise are known (n_pix,)."""
    qu = np.empty((2, hp.nside2npix(one.nside)), np.float32)
    for block in _blocks(one):
        qu[:, block.numbers("RING")] = one.read(block)
    return qu, _seen(one, rms)


def _read_variance(band: Band, kept: np.ndarray) -> np.ndarray:
    """Mean variance of Q and of U (n_pix,), nothing where it is not kept."""
    if not isinstance(band.rms, NoiseMap):
        return np.where(kept, band.rms**2, 0.0)
    variance = np.zeros(len(kept))
    for block in _blocks(band.map):
        at = block.numbers("RING")
        found = band.rms.read_covariance(block, kept[at])[[0, 2]].mean(0)
        variance[at] = np.where(kept[at], found, 0.0)
    return variance


def _read_apart(band: Band, kept: np.ndarray) -> np.ndarray:
    """Half of QQ less UU, and QU (2, n_pix), float32, nothing where it is not kept."""
    assert isinstance(band.rms, NoiseMap)
    apart = np.zeros((2, len(kept)), np.float32)
    for block in _blocks(band.map):
        at = block.numbers("RING")
        qq, qu, uu = band.rms.read_covariance(block, kept[at])
        apart[:, at] = np.where(kept[at], [0.5 * (qq - uu), qu], 0.0)
    return apart


def _observed(seen: np.ndarray, aim: Resolution) -> np.ndarray:
    """Pixels of the aim all over which the common beam observed, shape (n_pix,)."""
    if seen.all():
        return np.ones(hp.nside2npix(aim.nside), bool)
    good = to_common_beam(seen, aim, 0.0) >= _LEAST_COVER
    nside = hp.npix2nside(len(good))
    if nside == aim.nside:
        return good
    observed, each = np.empty(hp.nside2npix(aim.nside), bool), (nside // aim.nside) ** 2
    for block in PixelBlocks(aim.nside, "NESTED", max(1, _BLOCK // each)):
        inside = np.arange(block.start * each, block.stop * each)
        observed[block.ring] = good[hp.nest2ring(nside, inside)].reshape(-1, each).all(1)
    return observed


def _refined(area: np.ndarray, nside: int) -> np.ndarray:
    """The same area in smaller pixels."""
    coarse = hp.npix2nside(len(area))
    if coarse == nside:
        return area
    refined, each = np.empty(hp.nside2npix(nside), bool), (nside // coarse) ** 2
    for block in PixelBlocks(nside, "NESTED", _BLOCK):
        inside = np.arange(block.start, block.stop) // each
        refined[block.ring] = area[hp.nest2ring(coarse, inside)]
    return refined


def _kept(region: Region, seen: np.ndarray, nside: int) -> np.ndarray:
    """What a region keeps of a map, in the map's pixels."""
    return seen & _refined(region.area, nside)


def _covariance(mean: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """QQ, QU, UU (3, n) of the mean variance (n,), and half of QQ less UU and QU (2, n)."""
    # quadrature may leave them a little more apart than a covariance can be
    apart = apart * np.minimum(1, _MOST_APART * mean / np.maximum(np.hypot(*apart), mean * 1e-9))
    return np.stack([mean + apart[0], apart[1], mean - apart[0]])
