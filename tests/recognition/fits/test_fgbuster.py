"""Candidates as FGBuster's components; `benchmarks/fgbuster_components.py` asks FGBuster itself."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from foreglow.errors import ForeglowError, ModelError
from foreglow.recognition.fits.fgbuster import fgbuster_components
from foreglow.recognition.results import Classification
from foreglow.sky import seds


class Component:
    """As FGBuster's: subclasses or users set its spectrum."""

    def __init__(self, *arguments, **named):
        self.made_with = (*arguments, named)


@pytest.fixture
def fgbuster(monkeypatch):
    """What `fgbuster_components` uses of FGBuster."""
    module = ModuleType("fgbuster")
    kinds = {name: type(name, (Component,), {}) for name in ("CMB", "Dust", "Synchrotron")}
    module.component_model = SimpleNamespace(
        **kinds, Component=Component, bandpass_integration=lambda f: f
    )
    monkeypatch.setitem(sys.modules, "fgbuster", module)


@pytest.mark.usefixtures("fgbuster")
def test_what_is_fixed_and_what_is_free():
    cmb, dust, synchrotron = fgbuster_components("power_law", units="K_RJ")
    assert cmb.made_with == ({"units": "K_RJ"},)
    assert dust.made_with == (353.0, {"temp": 20.0, "beta_d": 1.54, "units": "K_RJ"})
    assert synchrotron.made_with == (23.0, {"nu_pivot": 23.0, "running": 0.0, "units": "K_RJ"})
    (*_, named) = fgbuster_components("curved")[2].made_with
    assert named["running"] is None
    (*_, named) = fgbuster_components("curved", curvature=-0.052)[2].made_with
    assert named["running"] == -0.052
    (*_, named) = fgbuster_components("varying_beta_d")[1].made_with
    assert named["beta_d"] is None
    (*_, named) = fgbuster_components("varying_dust")[1].made_with
    assert (named["beta_d"], named["temp"]) == (None, None)


@pytest.mark.usefixtures("fgbuster")
@pytest.mark.parametrize("units", ["K_CMB", "K_RJ"])
def test_our_own_spectra(units):
    """AME and dust of two temperatures are 1 at their reference, and ours elsewhere."""
    nu = np.array([30.0, 40.0, 353.0, 217.0])
    to_cmb = 1 / seds.cmb(torch.tensor(nu)).numpy() if units == "K_CMB" else np.ones(4)
    ame = fgbuster_components("power_law_ame", units=units)[3]._lambda(nu)
    expected = seds.spinning_dust(torch.tensor(nu)).numpy() * to_cmb / to_cmb[0]
    np.testing.assert_allclose(ame, expected, rtol=1e-12)
    dust = fgbuster_components("two_temperatures", units=units)[1]._lambda(nu)
    expected = seds.two_temperature_dust(torch.tensor(nu)).numpy() * to_cmb / to_cmb[2]
    np.testing.assert_allclose(dust, expected, rtol=1e-12)
    moment = fgbuster_components("dust_moments", units=units)[3]._lambda(nu)
    expected = np.log(nu / 353) * seds.modified_blackbody(torch.tensor(nu)).numpy()
    np.testing.assert_allclose(moment, expected * to_cmb / to_cmb[2], rtol=1e-12)


@pytest.mark.usefixtures("fgbuster")
def test_of_the_models_that_hold_somewhere():
    probability = np.zeros((3, 12), np.float32)
    probability[0, :6] = probability[2, 6:] = 1
    found = Classification(
        ("power_law", "curved", "power_law_ame"),
        1,
        "G",
        probability,
        np.ones(12),
        np.zeros(12, bool),
    )
    components = found.fgbuster_components(curvature=-0.052)
    assert {name: len(of) for name, of in components.items()} == {
        "power_law": 3, "power_law_ame": 4,
    }  # fmt: skip


def test_wrong_arguments(fgbuster, monkeypatch):
    with pytest.raises(ForeglowError, match="expected units='K_CMB' or 'K_RJ', got 'uK_CMB'"):
        fgbuster_components("curved", units="uK_CMB")
    with pytest.raises(ModelError, match="expected models among"):
        fgbuster_components("free_free")
    monkeypatch.setitem(sys.modules, "fgbuster", None)
    with pytest.raises(ForeglowError, match="needs FGBuster, which is not on the package index"):
        fgbuster_components("curved")
