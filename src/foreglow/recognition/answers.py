"""Answers that lie in files of `fit` and of `classify`, read alike."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foreglow.maps.table import open_table

SURE = 0.9
"""A probability above which an answer is called sure."""


@dataclass(frozen=True, eq=False)
class Answer:
    """The models' probabilities in all pixels of a sky.

    Attributes
    ----------
    models : tuple of str
    probability : ndarray, shape (n_class, n_pix)
        RING, Galactic; NaN where not observed.
    none_fits : ndarray of bool, shape (n_pix,)
        Where no model fits.
    """

    models: tuple[str, ...]
    probability: NDArray
    none_fits: NDArray[np.bool_]

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Pixels with an answer."""
        return np.isfinite(self.probability[0])

    @cached_property
    def best(self) -> NDArray[np.int64]:
        """Place of the most probable model; -1 where there is no answer."""
        return np.where(self.seen, np.nan_to_num(self.probability).argmax(0), -1)

    @cached_property
    def chance(self) -> NDArray:
        """Probability of that model; NaN where there is no answer."""
        return np.where(self.seen, np.nan_to_num(self.probability).max(0), np.nan)

    @property
    def sure(self) -> NDArray[np.bool_]:
        """Where some model fits, and one has nearly all the probability."""
        return self.seen & ~self.none_fits & (np.nan_to_num(self.chance) > SURE)


def read_answer(path: Path, models: tuple[str, ...]) -> Answer:
    """An answer from a file of `fit` or `classify`, RING."""
    table = open_table(path)
    places = {column.name: k for k, column in enumerate(table.columns)}

    def column(name: str) -> NDArray:
        stored = table.column(places[name])
        return stored.take(np.arange(stored.cells.size))

    probability = np.stack([column(f"P_{name.upper()}") for name in models])
    return Answer(models, probability, column("NONE_FITS") == 1)
