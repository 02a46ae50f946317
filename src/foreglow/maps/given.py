"""What a user says of a file: `FILE[COLUMNS] as KIND in UNIT`."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from foreglow.errors import MapError
from foreglow.maps.conventions import canonical_unit

_KIND = r"rms|inverse\s+(?:co)?variance|(?:co)?variance|hits(?:\s+of\s+(?P<sigma0>.+?))?"
_OF_KIND = re.compile(rf"(?P<files>.+?)\s+as\s+(?P<kind>{_KIND})")
_IN_UNIT = re.compile(r"(?P<rest>.+)\s+in\s+(?P<unit>.+?)")
_NUMBER_AND_UNIT = re.compile(r"([0-9.eE+-]+)\s*(.+)")


@dataclass(frozen=True)
class GivenFile:
    """A file, or one of Q and one of U, and what was said of it.

    Attributes
    ----------
    paths : tuple of Path
        One or two.
    columns : tuple of tuple of str
        Those named, of each file; empty where none is.
    kind : str
        Of noise: "rms", "variance", "inverse variance", "covariance", "inverse covariance", "hits";
        "" where it was not said.
    sigma0 : float or None
        Rms of one hit, in `unit`.
    unit : str or None
        That of the columns; of hits, that of `sigma0`.
    """

    paths: tuple[Path, ...]
    columns: tuple[tuple[str, ...], ...]
    kind: str = ""
    sigma0: float | None = None
    unit: str | None = None

    @classmethod
    def of(cls, text: "str | Path | GivenFile") -> "GivenFile":
        """Read what was given; a file that has the whole text as its name is that file.

        Raises
        ------
        MapError
            If hits come without the rms of one, or more than two files.

        Examples
        --------
        >>> GivenFile.of("m.fits[WEI_Q,WEI_U] as inverse variance in mK_CMB^-2").columns
        (('WEI_Q', 'WEI_U'),)
        >>> GivenFile.of("m.fits[NHITS] as hits of 1.2 mK_CMB").sigma0
        1.2
        """
        if isinstance(text, GivenFile):
            return text
        rest, unit = str(text).strip(), None
        if not Path(text).exists() and (said := _IN_UNIT.fullmatch(rest)):
            rest, unit = said["rest"], said["unit"]
        said = None if Path(rest).exists() else _OF_KIND.fullmatch(rest)
        paths, columns = _split(rest if said is None else said["files"])
        kind = "" if said is None else " ".join(said["kind"].split()[:2])
        if said is None or not kind.startswith("hits"):
            return cls(paths, columns, kind, None, unit)
        return cls(paths, columns, "hits", *_rms_of_a_hit(str(text), said["sigma0"]))

    def __str__(self) -> str:
        """The text that says the same."""
        files = (
            f"{path}[{','.join(names)}]" if names else str(path)
            for path, names in zip(self.paths, self.columns, strict=True)
        )
        kind = f" as {self.kind}" if self.kind else ""
        if self.kind == "hits":
            return f"{','.join(files)}{kind} of {self.sigma0!r} {self.unit}"
        return f"{','.join(files)}{kind}" + (f" in {self.unit}" if self.unit else "")

    def absolute(self) -> "GivenFile":
        """With paths that hold in any folder."""
        return replace(self, paths=tuple(path.absolute() for path in self.paths))

    @property
    def exists(self) -> bool:
        """Whether its files are there."""
        return all(path.exists() for path in self.paths)


def split_column(path: Path) -> tuple[Path, str | None]:
    """The file and the column of `file.fits[COLUMN]`; None where no column is named."""
    named = re.fullmatch(r"(.+)\[([^\[\]]+)\]", path.name)
    if named is None or path.exists():
        return path, None
    return path.with_name(named[1]), named[2]


def _split(text: str) -> tuple[tuple[Path, ...], tuple[tuple[str, ...], ...]]:
    """Files and the columns named of each."""
    alone = Path(text).exists()
    files = [text] if alone else re.split(r",(?![^\[]*\])", text)
    if len(files) > 2:
        raise MapError(
            f"expected one file, or one of Q and one of U, got {len(files)}: {text}; give two"
        )
    found = [split_column(Path(file.strip())) for file in files]
    columns = tuple(() if c is None else tuple(n.strip() for n in c.split(",")) for _, c in found)
    return tuple(path for path, _ in found), columns


def _rms_of_a_hit(text: str, said: str | None) -> tuple[float, str]:
    """Number and unit of what stands after `hits of`."""
    match = _NUMBER_AND_UNIT.fullmatch((said or "").strip())
    try:
        value = float(match[1]) if match else np.nan
    except ValueError:
        value = np.nan
    if match is None or not (np.isfinite(value) and value > 0):
        raise MapError(
            f"expected hits with the rms of one hit and its unit, as in 'FILE[NHITS] as hits of "
            f"1.2 mK_CMB', got {text!r}; the rms of a pixel is that over the root of its hits"
        )
    return value, canonical_unit(f"{text}: hits of {value:g}", match[2], None)
