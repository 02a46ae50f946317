"""A model and maps for commands to work on."""

import numpy as np
import pytest

from foreglow.maps.write import write_polarisation_map
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.sky.instrument_files import load_instrument


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A recogniser that has not learned: what it says differs from pixel to pixel all the same."""
    folder = tmp_path_factory.mktemp("cli") / "model"
    instrument = load_instrument("quijote+litebird")
    Recogniser.untrained("foreglow", instrument, PROBLEMS["four"], 0).save(folder)
    return folder


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    """A file a band, Nside 4."""
    folder = tmp_path_factory.mktemp("maps")
    rng = np.random.default_rng(0)
    for band in load_instrument("quijote+litebird").band:
        write_polarisation_map(folder / f"{band}.fits", rng.normal(size=(2, 192)), "uK_RJ")
    return {p.stem: p for p in folder.iterdir()}
