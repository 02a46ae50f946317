"""One copy of the sky in memory, of which cutouts are made: channels of the HI cube, and the dust.

The cube lies in memory as (pixel, channel), NESTED: all channels of a pixel are neighbours, and so
are pixels that are neighbours on the sky, so that a cutout reads few pages, each a row at a time.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foreglow.errors import MapError, ShapeError
from foreglow.maps import healpix as hp
from foreglow.maps.spin2 import N_TENSOR, polarisation_tensors

_BLOCK = 16  # channels transposed at once: their float32 fill a line of the cache


@dataclass(frozen=True, eq=False)
class SkyCube:
    """Inputs, target and mask of the whole sky, ready for cutouts.

    Attributes
    ----------
    inputs : Tensor, shape (n_pix, channel)
        NESTED; zero where masked.
    target : Tensor, shape (n_pix, 2), or (n_pix, 8 or 9) of a polarised sky
        Target, zero where masked, mask (1 where the sky counts), and of a polarised target the
        tensor of Q and U (see `foreglow.maps.spin2`), perhaps with the variance of their noise,
        side by side so that one visit to memory brings all.
    """

    inputs: Tensor
    target: Tensor

    @classmethod
    def from_maps(
        cls,
        inputs: Iterable[np.ndarray],
        n_channel: int,
        target: np.ndarray,
        mask: np.ndarray,
        nest: bool = False,
        polarisation: np.ndarray | None = None,
        variance: np.ndarray | None = None,
    ) -> "SkyCube":
        """Read maps one at a time; only the cube itself and 16 channels are ever in memory.

        Parameters
        ----------
        inputs : iterable of ndarray, shape (n_pix,)
            The channels. Values where the mask is zero are not used and may be NaN.
        n_channel : int
        target : ndarray, shape (n_pix,)
        mask : ndarray, shape (n_pix,)
            The sky counts where it is above zero.
        nest : bool
            Maps are NESTED, else RING.
        polarisation : ndarray, shape (2, n_pix), optional
            Q and U of the target, COSMO.
        variance : ndarray, shape (n_pix,), optional
            Of their noise.

        Returns
        -------
        SkyCube, float32

        Raises
        ------
        ShapeError
            If a map has other pixels than the mask, or channels are missing.
        MapError
            If the pixels are not those of a HEALPix map whose Nside is a power of two, or a value
            where the mask is above zero is not finite.
        """
        mask = np.asarray(mask)
        n_pix = mask.size
        if mask.ndim != 1 or not hp.isnpixok(n_pix):
            raise MapError(f"expected a HEALPix mask of shape (n_pix,), got {mask.shape}")
        nside = hp.npix2nside(n_pix)
        if not hp.isnsideok(nside, nest=True):
            raise MapError(
                f"expected an Nside that is a power of two, as NESTED needs, got {nside}; bring "
                "maps and mask to one (healpy.ud_grade)"
            )
        order = np.arange(n_pix) if nest else hp.nest2ring(nside, np.arange(n_pix))
        keep = (mask > 0)[order]
        cube = np.empty((n_pix, n_channel), np.float32)
        filled = 0
        for block in _blocks(inputs, _BLOCK):
            end = filled + len(block)
            if end <= n_channel:
                rows = [_kept(m, f"channel {filled + k}", order, keep) for k, m in enumerate(block)]
                cube[:, filled:end] = np.stack(rows, 1)
            filled = end
        if filled != n_channel:
            raise ShapeError(f"expected {n_channel} channels, got {filled}; correct n_channel")
        aside = [_kept(target, "the target", order, keep), keep.astype(np.float32)]
        made = cls(torch.from_numpy(cube), torch.from_numpy(np.stack(aside, 1)))
        if polarisation is None:
            return made
        return made.with_polarisation(polarisation, nest, variance)

    def with_polarisation(
        self, polarisation: np.ndarray, nest: bool = False, variance: np.ndarray | None = None
    ) -> "SkyCube":
        """The same sky, whose target has these Q and U.

        Parameters
        ----------
        polarisation : ndarray, shape (2, n_pix)
            Q and U, COSMO.
        nest : bool
            Maps are NESTED, else RING.
        variance : ndarray, shape (n_pix,), optional
            Of their noise.

        Raises
        ------
        ShapeError, MapError
            As `from_maps`.
        """
        pixels, keep = np.arange(len(self.target)), self.target[:, 1].cpu().numpy() > 0
        order = pixels if nest else hp.nest2ring(self.nside, pixels)
        named = dict(zip("QU", polarisation, strict=True))
        if variance is not None:
            named["noise"] = variance
        q, u, *noise = (
            torch.from_numpy(_kept(m, f"the target's {name}", order, keep))
            for name, m in named.items()
        )
        vector = np.stack(hp.pix2vec(self.nside, pixels, nest=True), 1)
        tensors = polarisation_tensors(q, u, torch.from_numpy(vector)).to(self.target)
        aside = [one.to(self.target).unsqueeze(1) for one in noise]
        return SkyCube(self.inputs, torch.cat([self.target[:, :2], tensors, *aside], 1))

    @property
    def nside(self) -> int:
        """Nside of the maps."""
        return hp.npix2nside(len(self.inputs))

    @property
    def polarised(self) -> bool:
        """Whether the target has Q and U."""
        return self.target.shape[1] >= 2 + N_TENSOR

    @property
    def variance(self) -> Tensor | None:
        """That of the noise of Q and U, (n_pix,), where it is known."""
        return self.target[:, -1] if self.target.shape[1] > 2 + N_TENSOR else None

    def to(self, device: torch.device) -> "SkyCube":
        """The same sky on a device."""
        return SkyCube(self.inputs.to(device), self.target.to(device))


def _blocks(maps: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    block: list[np.ndarray] = []
    for values in maps:
        block.append(values)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


def _kept(values: np.ndarray, what: str, order: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """One map, NESTED float32, zero where masked."""
    if np.shape(values) != keep.shape:
        raise ShapeError(
            f"expected {what} on the pixels of the mask, shape {keep.shape}, got "
            f"{np.shape(values)}; bring maps and mask to one Nside"
        )
    # float32 before anything else: a square of a float16 column density overflows
    ordered = np.where(keep, np.asarray(values)[order].astype(np.float32), np.float32(0))
    bad = ~np.isfinite(ordered)
    if bad.any():
        raise MapError(
            f"expected finite values of {what} where the mask is above zero, got {bad.sum()} that "
            f"are not, the first at NESTED pixel {bad.argmax()}; mask those pixels"
        )
    return ordered
