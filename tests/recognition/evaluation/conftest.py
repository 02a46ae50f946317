"""A sky small enough for exact sums."""

import numpy as np
import pytest

from foreglow.sky.templates import Templates


@pytest.fixture(scope="module")
def few():
    """A sky of 12 pixels, faint and bright."""
    rng = np.random.default_rng(1)
    bright = np.geomspace(2, 100, 12).astype(np.float32)
    synchrotron = bright * rng.standard_normal((2, 12)).astype(np.float32)
    dust = bright * (1 + rng.random((2, 12), dtype=np.float32))
    return Templates("few", 1, synchrotron, dust, 20 * bright)
