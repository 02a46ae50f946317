"""The sky of the paper, section 2: HI4PI, Planck's dust, and the mask LR72 or its nearest.

Products of the registry (`foreglow data list`) become `SkyFiles`. Commander's dust is uK_RJ at 545
GHz, GNILC's MJy/sr at 353; both become uK_RJ at 353 GHz, by one modified blackbody for the sky.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from foreglow.data.cache import cache_folder, local_path
from foreglow.data.check import validate_product
from foreglow.data.gather import gather, missing_files
from foreglow.data.registry import RemoteFile, find_product
from foreglow.errors import SkyError, warn, with_nearest
from foreglow.hi_cube.store import is_cube
from foreglow.maps.conventions import MapWarning, to_uk_rj_factor
from foreglow.reproduce.zhang2019.sky_files import SkyFiles
from foreglow.sky import seds

log = logging.getLogger("foreglow")

NAME = "hi4pi"
UNIT = "uK_RJ"
_TILES = [f"CAR_{row}{column:02d}.fits" for row in "ABCDEFGHI" for column in range(1, 19)]
_CUBES = {"cube": "hi4pi-cube", "tiles": "hi4pi-tiles"}


@dataclass(frozen=True)
class DustProduct:
    """A dust map of the registry: what its headers do not state well enough to be read."""

    product: str
    column: str | None
    frequency_ghz: float
    sources: str | None  # column of the mask of point sources; None where its Nside is another


_DUSTS = {
    "commander": DustProduct("planck-commander-dust", "I_ML_FULL", 545.0, "F545"),
    "commander-256": DustProduct("planck-commander-dust-256", "I_ML", 545.0, None),
    "gnilc": DustProduct("planck-gnilc-dust", None, 353.0, "F353"),
}
_SOURCES, _MASKS, _LR72 = "planck-mask-sources", "planck-mask-apo0", "planck-mask-lr72"
_NEAREST = "GAL070"  # 70% of the sky is open, of LR72 72%


@dataclass(frozen=True)
class PaperSky:
    """Which products make the sky.

    Attributes
    ----------
    cube : str
        "cube", the whole sky in one file, or "tiles".
    dust : str
        "commander", as in the paper; "commander-256", of 1 degree and 27 MiB; or "gnilc".
    mask : str
        "" for LR72, or GAL070 where that is not there; else a column of Planck's masks.
    sources : bool
        Leave Planck's point sources out of the means of the dust map.
    folder : Path
        Of the cache.
    """

    cube: str = "cube"
    dust: str = "commander"
    mask: str = ""
    sources: bool = True
    folder: Path = Path()

    @classmethod
    def of(cls, words: str) -> "PaperSky":
        """What `hi4pi` or `hi4pi:gnilc,tiles,GAL060,no-sources` says.

        Raises
        ------
        SkyError
            If a word is none of these.
        """
        found = cls(folder=cache_folder())
        name, _, rest = words.partition(":")
        columns = find_product(_MASKS).columns
        for word in filter(None, (part.strip() for part in rest.split(","))):
            if word in _CUBES:
                found = replace(found, cube=word)
            elif word in _DUSTS:
                found = replace(found, dust=word)
            elif word.upper() in columns:
                found = replace(found, mask=word.upper())
            elif word == "no-sources":
                found = replace(found, sources=False)
            else:
                known = [*_CUBES, *_DUSTS, *columns, "no-sources"]
                raise SkyError(
                    f"sky='{words}': expected words among {', '.join(known)} after {name}:, got "
                    f"{with_nearest(word, known)}."
                )
        return found

    @property
    def files(self) -> list[RemoteFile]:
        """All that it needs: dust, mask and point sources, and the cube unless it is prepared."""
        return self.map_files + ([] if self.cubes == (self.fine,) else self.cube_files)

    @property
    def map_files(self) -> list[RemoteFile]:
        """Dust, mask and point sources."""
        dust = _DUSTS[self.dust]
        products = [dust.product]
        products += [] if self._has_lr72 else [_MASKS]
        products += [_SOURCES] if self.sources and dust.sources else []
        return [file for name in products for file in find_product(name).all_files()]

    @property
    def cubes(self) -> tuple[Path, ...]:
        """Where the cube or its tiles lie; of one that was prepared and removed, what was made."""
        if is_cube(self.fine) and missing_files(self.cube_files, self.folder):
            return (self.fine,)
        return tuple(local_path(file, self.folder) for file in self.cube_files)

    @property
    def cube_files(self) -> list[RemoteFile]:
        """The cube, or its tiles."""
        product = find_product(_CUBES[self.cube])
        names = product.files or [name for name in _TILES if product.has_file(name)]
        return [RemoteFile(product, name) for name in names]

    @property
    def fine(self) -> Path:
        """Where the cube is prepared at its own Nside, for all runs."""
        return self.folder / "hi4pi" / f"prepared-{self.cube}.zarr"

    @property
    def _has_lr72(self) -> bool:
        return not self.mask and local_path(self._file(_LR72), self.folder).is_file()

    def _file(self, product: str) -> RemoteFile:
        return find_product(product).all_files()[0]

    def gathered(self, download: bool, nside: int) -> SkyFiles:
        """Its files, fetched if need be and asked for, and checked.

        Raises
        ------
        DataError
            If one is missing, cannot be had or is not what the registry says.
        """
        gather(self.files, self.folder, download)
        for file in self.map_files:
            validate_product(file.product, local_path(file, self.folder))
        dust = _DUSTS[self.dust]
        path = local_path(self._file(dust.product), self.folder)
        mask, mask_name = self._mask()
        sources = None
        if self.sources and dust.sources:
            sources = f"{local_path(self._file(_SOURCES), self.folder)}[{dust.sources}]"
        unit = find_product(dust.product).unit or UNIT
        return SkyFiles(
            self.cubes,
            f"{path}[{dust.column}]" if dust.column else str(path),
            None,
            (mask,),
            sources,
            nside,
            (to_353_ghz(unit, dust.frequency_ghz), UNIT),
            self._about(mask_name),
        )

    def _mask(self) -> tuple[str, str]:
        """File and column of the mask, and its name; says where it is not the paper's."""
        if self._has_lr72:
            return str(local_path(self._file(_LR72), self.folder)), "LR72"
        if not self.mask:
            warn(
                f"LR72, the paper's mask, is not at {self.folder / self._file(_LR72).place} and no "
                f"public address of it is known: {_NEAREST} of Planck's masks stands for it, 70% of"
                " the sky for 72%",
                MapWarning,
            )
        column = self.mask or _NEAREST
        return f"{local_path(self._file(_MASKS), self.folder)}[{column}]", column

    def _about(self, mask: str) -> str:
        dust = _DUSTS[self.dust]
        left_out = ", without its point sources" if self.sources and dust.sources else ""
        return (
            f"HI4PI; {find_product(dust.product).title}{left_out}, as uK_RJ at 353 GHz; mask {mask}"
        )


def to_353_ghz(unit: str, frequency_ghz: float) -> float:
    """Factor from dust at a frequency to uK_RJ at 353 GHz, by the modified blackbody of `seds`.

    One spectrum (beta 1.54, 20 K) holds for the whole sky: a factor changes no correlation.
    """
    spectrum = seds.modified_blackbody(torch.tensor(frequency_ghz, dtype=torch.float64))
    return to_uk_rj_factor(unit, frequency_ghz) / float(spectrum)
