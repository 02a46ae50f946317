"""Warnings: each public door warns at the line that called it."""

import contextlib
import warnings

import astropy.units as u
import numpy as np
import pytest

import foreglow as fg
from foreglow.dust import predict, train
from foreglow.dust.model import DustModel
from foreglow.errors import warn
from foreglow.recognition import train as training
from foreglow.sky.gas import mock_gas

NSIDE = 16
TABLE = {"frequency": [11.0, 40.0], "fwhm": [9e3, 30.0], "depth_p": [5.0, 2.0]}  # a wide beam


class Enough(Exception):
    """The warning was given; what follows would take long."""


def enough(*_, **__):
    raise Enough


@pytest.fixture(scope="module")
def maps():
    sky = fg.simulate_sky(nside=NSIDE)
    return {band: np.asarray(qu) for band, qu in sky.maps.items()}


@pytest.fixture(scope="module")
def gas():
    return mock_gas(NSIDE)


@pytest.fixture(scope="module")
def cube(gas):
    kms = np.arange(-60.0, 11.0, 10.0)
    tb = np.stack(list(gas.hydrogen.cube(kms))).astype(np.float32)
    return {"cube": tb * u.K, "velocity": kms * u.km / u.s}


def files_warned_of(door, *arguments, **options):
    """The files of the lines that a door warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with contextlib.suppress(Enough):
            door(*arguments, **options)
    return {warning.filename for warning in caught}


def test_instruments_and_skies(monkeypatch):
    assert files_warned_of(fg.load_instrument, TABLE) == {__file__}
    assert files_warned_of(fg.simulate_sky, TABLE, nside=NSIDE) == {__file__}
    monkeypatch.setattr(training, "load_templates", enough)
    assert files_warned_of(fg.train_recogniser, TABLE, network="farsian2020") == {__file__}


def test_maps_of_a_wrong_unit(maps):
    assert files_warned_of(fg.classify, maps, unit="K_RJ") == {__file__}
    some = {band: maps[band] for band in list(maps)[:6]}
    options = {"models": "curvature", "unit": "K_RJ"}
    assert files_warned_of(fg.fit, some, "quijote+litebird", **options) == {__file__}


def test_cubes(cube, gas, monkeypatch):
    monkeypatch.setattr(DustModel, "find_channels", lambda *_: np.arange(8))
    monkeypatch.setattr(predict, "_validate_nside", lambda *_: None)
    monkeypatch.setattr(predict, "_warn_of_small", enough)
    assert files_warned_of(fg.predict_dust, **cube) == {__file__}
    monkeypatch.setattr(train, "train", enough)
    upside_down = {"dust": -gas.dust.total, "dust_unit": "uK_RJ", "low_kms": -60, "high_kms": 10}
    assert files_warned_of(fg.train_dust, **cube, **upside_down) == {__file__}


def test_a_context_manager_of_ours_stands_between():
    """It is the user's `with` that led to what is done on entering."""

    ours = {
        "__name__": "foreglow.made_up",
        "warn": warn,
        "contextmanager": contextlib.contextmanager,
    }
    exec("@contextmanager\ndef entered():\n    yield warn('told', UserWarning)", ours)
    with pytest.warns(UserWarning, match="told") as caught, ours["entered"]():
        pass
    assert [warning.filename for warning in caught] == [__file__]
