"""What the pixels of a user's maps share: one patch map for all parameters, or one for some."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreglow.errors import MapError, ModelError, with_nearest
from foreglow.maps import healpix as hp
from foreglow.maps.blocks import PixelBlock, PixelBlocks
from foreglow.maps.patches import patch_numbers

_ALL = ""  # in the place of a name


@dataclass(frozen=True, eq=False)
class Patches:
    """Patches by the name of what is shared in them.

    Parameters
    ----------
    maps : mapping of str to int or ndarray
        An Nside, whose pixels are the patches; or the number of each pixel's patch, int64, shape
        (n_pix,), RING. Under the name "" those of all.
    """

    maps: Mapping[str, int | NDArray[np.int64]]

    @classmethod
    def of(cls, given: Any, names: Sequence[str], nside: int, frame: str, nest: bool) -> Self:
        """From what a user gives; see `foreglow.fit`.

        Parameters
        ----------
        given : None, int, path, array_like, or mapping of str to such
        names : sequence of str
            Of what there may be patches.
        nside : int
        frame : str
            Those of the maps.
        nest : bool
            Whether arrays are NESTED.

        Raises
        ------
        ModelError
            If there are patches of something else.
        MapError, ShapeError
            If an Nside is none, or coarser pixels than the maps', or as `patch_numbers`.
        """
        each = given if isinstance(given, Mapping) else {_ALL: given}
        found: dict[str, int | NDArray[np.int64]] = {}
        for name, value in each.items() if given is not None else ():
            if name not in (_ALL, *names):
                raise ModelError(
                    f"expected patches of {', '.join(names)}, as these models have them, got "
                    f"{with_nearest(str(name), names)!r}."
                )
            if not isinstance(value, int | np.integer):
                found[name] = patch_numbers(value, nside, frame, nest)
            elif value is not True and 1 <= value <= nside and hp.isnsideok(int(value), nest=True):
                found[name] = int(value)
            else:
                raise MapError(
                    "expected patches= as an Nside, a power of 2 from 1 to that of the maps, "
                    f"{nside}, got {value}; give one, or a map of the patches' numbers."
                )
        return cls(found)

    @property
    def told(self) -> str:
        """In the words of `FittedSky.patches`."""
        sizes = ((n, v if isinstance(v, int) else "map") for n, v in self.maps.items())
        return ",".join(f"{name}={size}" if name else str(size) for name, size in sizes)

    def blocks(self, usual: PixelBlocks) -> PixelBlocks:
        """The sky in blocks of whole patches: the usual ones, or NESTED ones."""
        if not self.maps:
            return usual
        nside = usual.nside
        coarsest = [v if isinstance(v, int) else None for v in self.maps.values()]
        if None in coarsest:  # a map's patches may lie anywhere
            return PixelBlocks(nside, "NESTED", hp.nside2npix(nside))
        largest = max((nside // v) ** 2 for v in coarsest if v)
        return PixelBlocks(nside, "NESTED", max(usual.size, largest))

    def labels(
        self, names: Sequence[str], block: PixelBlock, places: NDArray, device: torch.device
    ) -> dict[str, Tensor] | Tensor | None:
        """The patches of some pixels of a block, as `choose` takes them.

        Parameters
        ----------
        names : sequence of str
            The free parameters: of what has no patches, each pixel has its own.
        block : PixelBlock
        places : ndarray of int, shape (n,)
            In the block.
        device : torch.device
        """
        found = {}
        for name, value in self.maps.items():
            if isinstance(value, int):
                nested = hp.ring2nest(block.nside, block.ring[places])
                number = nested // (block.nside // value) ** 2
                number -= number.min(initial=hp.nside2npix(value))  # tables are as long as it
            else:
                number = value[block.ring[places]]
            found[name] = torch.from_numpy(number).to(device)
        if not found or _ALL in found:
            return found.get(_ALL)
        alone = torch.arange(len(places), device=device)
        return dict.fromkeys(names, alone) | found
