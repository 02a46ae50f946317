"""What a look at a file finds."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ColumnFound:
    """A column whose values were read: all of them.

    Attributes
    ----------
    name, unit : str
    unobserved, bad : int
        Pixels that are UNSEEN; pixels that are NaN or Inf.
    least, greatest : float or None
        Of the others, None where there is none.
    above_zero : float
        Fraction of all pixels.
    """

    name: str
    unit: str
    unobserved: int
    bad: int
    least: float | None
    greatest: float | None
    above_zero: float

    def line(self) -> str:
        """In a line."""
        values = "nothing observed"
        if self.least is not None:
            values = f"{self.least:.4g} to {self.greatest:.4g} {self.unit or '(no unit)'}"
        unseen = f", {self.unobserved} pixels not observed" if self.unobserved else ""
        return f"column {self.name}: {values}{unseen}"


@dataclass(frozen=True)
class Report:
    """What a file is.

    Attributes
    ----------
    path : str
    what : str
        In a line.
    product : str or None
        Name in the registry.
    columns : tuple of ColumnFound
    fits : tuple of str
        Commands and options that take it.
    notes : tuple of str
        What to know.
    problems : tuple of str
        What is wrong; empty for a file that fits or needs nothing.
    """

    path: str
    what: str
    product: str | None = None
    columns: tuple[ColumnFound, ...] = ()
    fits: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Nothing is wrong with it."""
        return not self.problems

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"sound": self.sound}

    def lines(self) -> list[str]:
        """For the screen."""
        marked = [("", c.line()) for c in self.columns]
        marked += [("fits: ", text) for text in self.fits]
        marked += [("note: ", text) for text in self.notes]
        marked += [("wrong: ", text) for text in self.problems]
        return [f"{self.path}: {self.what}", *(f"  {mark}{text}" for mark, text in marked)]
