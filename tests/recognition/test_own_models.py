"""Candidates of the user's own: from a TOML file or a mapping, through every step."""

import copy
import json
import pickle

import healpy as hp
import numpy as np
import pytest
import torch
from astropy.io import fits

from foreglow.errors import ForeglowError, InstrumentError, ModelError
from foreglow.recognition.classify import classify
from foreglow.recognition.evaluation.ceiling import log_evidence
from foreglow.recognition.fit_maps import fit
from foreglow.recognition.fits.choice import choose
from foreglow.recognition.fits.goodness import goodness_of_fit
from foreglow.recognition.fits.optimise import fit as fit_pixels
from foreglow.recognition.fits.skymodel import candidate
from foreglow.recognition.models import (
    MODELS,
    ForegroundModel,
    OwnModel,
    definition_of,
    definitions_of,
    models_of,
)
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.recognition.separate import separate
from foreglow.recognition.simulate import simulate_sky
from foreglow.recognition.simulation import skies
from foreglow.recognition.simulation.systematics import Systematics
from foreglow.recognition.simulation.vectors import NoiseLaw, VectorSimulator
from foreglow.recognition.train import train_recogniser
from foreglow.sky import seds

OWN = """
[power_law]

[flattening]
curvature = 0.06
curvature_scatter = 0.02

[ame_25]
ame_fraction = 0.03
ame_peak_ghz = 22
"""
TABLES = {
    "power_law": {},
    "flattening": {"curvature": 0.06, "curvature_scatter": 0.02},
    "ame_25": ForegroundModel(ame_fraction=0.03, ame_peak_ghz=22),
}


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(OWN)
    return path


# ---- what is meant ---------------------------------------------------------------------------


def test_from_a_file_or_a_mapping(mine):
    names = models_of(mine)
    assert names == ("power_law", "flattening", "ame_25") == models_of(TABLES)
    assert models_of(str(mine)) == models_of([mine]) == names
    assert models_of(f"curved, {mine}") == ("curved", *names) == models_of(["curved", *names])
    for name, other in zip(names, models_of(TABLES), strict=True):
        assert definition_of(name) == definition_of(other)
    assert definition_of(names[1]) == ForegroundModel(0.06, 0.02)
    assert definition_of("curved") == MODELS["curved"]


def test_a_name_brings_along_what_it_stands_for(mine):
    names = models_of(mine)
    for again in (pickle.loads(pickle.dumps(names)), copy.deepcopy(names)):
        assert [definition_of(name) for name in again] == [definition_of(name) for name in names]
    written = json.loads(json.dumps(definitions_of(names)))
    assert written == {
        "power_law": {},
        "flattening": {"curvature": 0.06, "curvature_scatter": 0.02},
        "ame_25": {"ame_fraction": 0.03, "ame_peak_ghz": 22},
    }
    assert models_of(written) == names
    assert definitions_of(("power_law", "curved")) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a table for each model, as in .flattening. with curvature = 0.05"),
        ("curvature = 0.05", "model curvature: expected a ForegroundModel or a table of "),
        ("[a]\ncurvture = 1", "model a: expected fields among .* got .*curvture"),
        ("[a]\ncurvature = 'much'", "model a: expected curvature as a number, got 'much'"),
        ("[a]\ncurvature = -3", "model a: expected curvature from -1 to 1, got -3"),
        ("[a]\ncurvature = nan", "model a: expected curvature from -1 to 1, got nan"),
        ("[a]\ncurvature_scatter = -0.1", "expected curvature_scatter from 0 to 0.5, got -0.1"),
        ("[a]\ndust_temperature_scatter = 9", "dust_temperature_scatter from 0 to 3, got 9"),
        ("[a]\ndust_moments = true", "expected dust_moments as a number, got True"),
        ("[a]\name_fraction = 2", "expected ame_fraction from 0 to 1, got 2"),
        ("[a]\name_peak_ghz = 22", "expected ame_fraction > 0 beside ame_peak_ghz = 22, got 0"),
        ("[a]\name_fraction = 0.02\name_peak_ghz = 22e9", "ame_peak_ghz from 10 to 100, got 2.2e"),
        ("[a]\ntwo_temperatures = 1", "expected two_temperatures as true or false, got 1"),
        ("[a]\ntwo_temperatures = true\nbeta_d_scatter = 0.1", "one kind, got dust of a"),
        ("['a b']\n", "expected a model's name of letters, digits and underscores"),
        ("[curved]\ncurvature = 0.1", "curved is a model of foreglow, and not the one"),
        ("[a]\n", "or two or more of the models .* got 'a'"),
        ("[a]\n[b]\n", "expected models that differ, got a and b, which are the same"),
        ("[a]\ncurvature = 0.1\n[A]\ncurvature = 0.2", "each once, got 'a, A'"),
        ("[a\n", "mine.toml: expected a TOML file of models, got"),
    ],
)  # fmt: skip
def test_mistakes(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ForeglowError, match=message):
        models_of(path)


def test_no_file_and_no_name(tmp_path):
    with pytest.raises(
        ForeglowError, match=r"nowhere.toml: expected a TOML file of models, got no"
    ):
        models_of("power_law,nowhere.toml")
    with pytest.raises(ModelError, match=r"expected models among power_law.* got 'flattening'"):
        definition_of("flattening")
    with pytest.raises(ModelError, match="model x: expected a ForegroundModel or a table of"):
        models_of({"x": 0.05, "power_law": {}})


# ---- what they emit --------------------------------------------------------------------------


def test_emissivity_peaks_where_it_is_said():
    frequency = torch.linspace(10, 60, 5001, dtype=torch.float64)
    for peak in (22.0, 30.0, 40.0):
        emissivity = seds.spinning_dust(frequency, peak_ghz=peak) * frequency**2
        assert float(frequency[emissivity.argmax()]) == pytest.approx(peak, abs=0.02)
        assert float(seds.spinning_dust(torch.tensor(30.0), peak_ghz=peak)) == pytest.approx(1)
    plain = seds.spinning_dust(frequency)
    assert torch.equal(seds.spinning_dust(frequency, peak_ghz=seds.AME_PEAK_GHZ), plain)


def test_vectors_and_skies_agree_with_the_fits(templates, instrument):
    """Without noise each model fits its own vectors and pixels, and no other does."""
    names = models_of(TABLES)
    simulator = VectorSimulator(templates, instrument, names)
    vectors = simulator.draw(600, NoiseLaw.fixed(0.0), torch.Generator().manual_seed(0))
    sky = simulate_sky(instrument, models=TABLES, layout="blobs", nside=16, noise_scale=0.0, seed=1)
    pixels = torch.from_numpy(np.stack([np.asarray(sky.maps[b]) for b in instrument.band], 2))
    rms = torch.from_numpy(0.02 * instrument.noise_rms(16)).float()
    for data, label in (
        (vectors.data, vectors.label),
        (pixels.transpose(0, 1).float(), torch.from_numpy(sky.truth)),
    ):
        true = torch.log(0.1 + torch.nn.functional.one_hot(label, 3).double())
        sigma = rms.expand(len(data), -1)
        p_value, _ = goodness_of_fit(names, instrument, data, sigma, true)
        assert (p_value > 0.99).double().mean() > 0.97
        other = true.roll(1, 1)
        p_value, _ = goodness_of_fit(names, instrument, data, sigma, other)
        assert (p_value < 1e-3).double().mean() > 0.5


def test_curvature_scatters_as_said(templates, instrument):
    names = models_of({"power_law": {}, "wide": {"curvature_scatter": 0.1}})
    assert candidate(names[1], priors=True).free["curvature"].prior == (0.0, 0.1)
    simulator = VectorSimulator(templates, instrument, names)
    vectors = simulator.draw(2000, NoiseLaw.fixed(0.0), torch.Generator().manual_seed(0))
    wide = vectors.label == 1
    rms = torch.from_numpy(0.001 * instrument.noise_rms(16)).float()
    found = choose(names, instrument.bands, vectors.data[wide], rms.expand(int(wide.sum()), -1))
    curvature = found.fits[1].parameters[:, 1]
    bright = found.fits[1].covariance[:, 1, 1].sqrt() < 0.01
    assert bright.sum() > 300
    assert float(curvature[bright].std()) == pytest.approx(0.1, rel=0.15)
    assert abs(float(curvature[bright].mean())) < 0.02


def test_what_was_drawn_before_is_drawn_still(templates, instrument):
    """Own models that are foreglow's, under other names, change no number."""
    same = models_of({"one": {}, "two": MODELS["power_law_ame"]})
    draws = [
        VectorSimulator(templates, instrument, names).draw(
            50, NoiseLaw.fixed(1.0), torch.Generator().manual_seed(0)
        )
        for names in (same, ("power_law", "power_law_ame"))
    ]
    assert torch.equal(draws[0].data, draws[1].data)


def test_the_exact_evidence_says_what_it_is_for(templates, instrument):
    data, sigma = torch.zeros(1, 2, 17), torch.ones(17)
    with pytest.raises(ModelError, match="no factors on the spectra and AME that peaks at 30 GHz"):
        log_evidence(data, sigma, templates, instrument, models_of(TABLES))


# ---- from one step to the next ---------------------------------------------------------------


def test_through_every_step(mine, tmp_path, instrument):
    sky = simulate_sky(instrument, models=mine, layout="blobs", nside=16, noise_scale=0.05, seed=2)
    assert sky.models == models_of(mine)
    found = fit(sky.maps, instrument, models=mine, noise_scale=0.05)
    assert sky.accuracy(found) > 0.75
    plan = {"regime": "many_noise", "epochs": 1, "steps": 60, "batch": 512, "learning_rate": 4e-3}
    train_recogniser(instrument, mine, sky="mock", plan=plan, out=tmp_path / "model", seed=1)
    model = Recogniser.load(tmp_path / "model")
    assert definitions_of(model.models) == definitions_of(models_of(mine))
    said = classify(sky.maps, model=model, noise_scale=0.05)
    assert sky.accuracy(said) > 0.4
    said.to_fits(tmp_path / "said.fits")
    header = fits.getheader(tmp_path / "said.fits", 1)
    assert json.loads(header["DEFINE1"]) == {"curvature": 0.06, "curvature_scatter": 0.02}
    found.to_fits(tmp_path / "found.fits")
    by_file = separate(sky.maps, instrument, by=tmp_path / "found.fits", noise_scale=0.05)
    in_memory = separate(sky.maps, instrument, by=found, noise_scale=0.05)
    np.testing.assert_array_equal(by_file.cmb, in_memory.cmb)
    alone = separate(
        sky.maps, instrument, by={"flattening": TABLES["flattening"]}, noise_scale=0.05
    )
    true = separate(sky.maps, instrument, by="power_law", noise_scale=0.05)
    assert not np.array_equal(alone.cmb, true.cmb)
    with pytest.raises(ModelError, match="expected by= as one model, got power_law, flattening, a"):
        separate(sky.maps, instrument, by=mine, noise_scale=0.05)


def test_from_the_command_line(run, mine, tmp_path):
    folder = tmp_path / "maps"
    code, _, err = run(
        "recognize", "simulate", "--models", mine, "--nside", 16, "--noise-scale", 0.05,
        "--layout", "blobs", "--out", folder,
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(fits.getheader(folder / "truth.fits", 1)["DEFINE2"])["ame_peak_ghz"] == 22
    maps = [f"--maps={p.stem[5:]}={p}" for p in sorted(folder.glob("band_*.fits"))]
    code, out, err = run(
        "recognize", "fit", "--models", mine, "--noise-scale", 0.05, *maps,
        "--out", tmp_path / "fit.fits",
    )  # fmt: skip
    assert code == 0, err
    assert "flattening" in out
    truth = hp.read_map(folder / "truth.fits", field=0)
    names = fits.getdata(tmp_path / "fit.fits", 1).columns.names
    best = hp.read_map(tmp_path / "fit.fits", field=names.index("CLASS"))
    assert np.mean(truth == best) > 0.75
    code, _, err = run("recognize", "fit", "--models", "nope.toml", *maps, "--out", tmp_path / "x")
    assert code == 2
    assert "nope.toml: expected a TOML file of models, got no file" in err


def test_a_model_of_the_name_of_another_is_none():
    with pytest.raises(ModelError, match="Curved is a model of foreglow"):
        OwnModel("Curved", ForegroundModel(curvature=0.1))


# ---- factors on spectra ------------------------------------------------------------------------


BREAK = ((1, 1.0), (40, 1.0), (400, 10**-0.3))  # steeper by 0.3 above 40 GHz


def test_factors_are_power_laws_between_their_points():
    nu = torch.tensor([0.5, 23.0, 40.0, 80.0, 4000.0], dtype=torch.float64)
    found = seds.log_factor(BREAK, nu, 23.0)
    expected = -0.3 * torch.log((nu / 40).clamp_min(1))
    torch.testing.assert_close(found, expected)
    doubled = tuple((f, 7 * factor) for f, factor in BREAK)
    torch.testing.assert_close(seds.log_factor(doubled, nu, 23.0), found)
    assert not seds.log_factor((), nu, 23.0).any()


def test_a_function_is_tabulated():
    def bent(nu):
        return np.exp(-0.05 * np.log(nu / 23) ** 2)

    model = ForegroundModel(synchrotron_factor=bent)
    assert model == ForegroundModel(synchrotron_factor=model.synchrotron_factor)
    nu = np.array([11.0, 23.0, 97.0, 402.0])
    found = seds.log_factor(model.synchrotron_factor, torch.from_numpy(nu), 23.0)
    np.testing.assert_allclose(found, np.log(bent(nu)), atol=5e-5)
    own = models_of({"power_law": {}, "bent": model})
    assert pickle.loads(pickle.dumps(own[1])).definition == model
    written = json.loads(json.dumps(definitions_of(own)))["bent"]
    assert ForegroundModel(**written) == model


@pytest.mark.parametrize("name", ["synchrotron_factor", "dust_factor"])
def test_factors_through_skies_vectors_fits_and_evidence(templates, instrument, name):
    """What is simulated with a factor is fitted with it, and by no other model."""
    table = BREAK if name == "synchrotron_factor" else ((1, 1.0), (150, 1.0), (1000, 1.3))
    models = models_of({"power_law": {}, "other": {name: table}})
    label = np.ones(3072, int)
    sky = skies.simulate_sky(templates, instrument, models, label, 0.02, np.random.default_rng(1))
    data, sigma = (values[::16] for values in sky.vectors())
    choice = choose(models, instrument.bands, data, sigma)
    assert (choice.best() == 1).double().mean() > 0.9
    right, wrong = (fits_of(name, instrument, data, sigma) for name in models[::-1])
    dof = float(right.dof.double().mean())
    assert float(right.chi2.mean()) == pytest.approx(dof, rel=0.1)
    assert wrong.chi2.median() > 3 * dof
    simulator = VectorSimulator(templates, instrument, models)
    vectors = simulator.draw(2000, NoiseLaw.fixed(0.02), torch.Generator().manual_seed(2))
    mine = vectors.label == 1
    found = fits_of(models[1], instrument, vectors.data[mine], vectors.sigma[mine])
    assert float(found.chi2.mean()) == pytest.approx(dof, rel=0.1)
    said = torch.log_softmax(torch.eye(2)[vectors.label[mine]], 1)
    p_value, none_fits = goodness_of_fit(
        models, instrument, vectors.data[mine], vectors.sigma[mine], said
    )
    assert none_fits.double().mean() < 0.02
    assert 0.4 < p_value.mean() < 0.6


def fits_of(name, instrument, data, sigma):
    return fit_pixels(candidate(name), instrument.bands, data, sigma)


def test_factors_from_a_toml_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[broken]\nsynchrotron_factor = [[1, 1.0], [40, 1.0], [400, 0.5]]\n")
    (name,) = models_of(str(path), least=1)
    assert name.definition.synchrotron_factor == ((1, 1), (40, 1), (400, 0.5))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"synchrotron_factor": [[40, 1.0]]}, "two rising frequencies or more"),
        ({"synchrotron_factor": [[40, 1.0], [30, 1.0]]}, "two rising frequencies or more"),
        ({"dust_factor": [[40, 1.0], [80, -1.0]]}, "with factors above zero"),
        ({"dust_factor": [[0, 1.0], [80, 1.0]]}, "two rising frequencies"),
        ({"dust_factor": 3}, "pairs of a frequency in GHz and a factor"),
        ({"dust_factor": "steep"}, "pairs of a frequency in GHz and a factor"),
        ({"synchrotron_factor": lambda nu: nu - 5}, "with factors above zero"),
    ],
)
def test_factors_that_are_none(fields, message):
    with pytest.raises(ModelError, match=message):
        ForegroundModel(**fields)


def test_where_factors_cannot_go(templates, instrument):
    models = models_of({"power_law": {}, "broken": {"synchrotron_factor": BREAK}})
    with pytest.raises(InstrumentError, match=r"got band_centre = 0.01; leave it out"):
        VectorSimulator(templates, instrument, models, 16, Systematics(band_centre=0.01))
    with pytest.raises(ModelError, match="no factors on the spectra"):
        log_evidence(torch.zeros(1, 2, 17), torch.ones(17), templates, instrument, models)


def test_a_constant_factor_is_none():
    assert ForegroundModel(synchrotron_factor=[[1, 2], [100, 2]]) == ForegroundModel()
    with pytest.raises(ForeglowError, match="which are the same"):
        models_of({"power_law": {}, "same": {"dust_factor": [[1, 0.5], [100, 0.5]]}})


@pytest.mark.parametrize("models", [3, None])
def test_models_that_are_no_names(models):
    with pytest.raises(ForeglowError, match="expected models by their names"):
        models_of(models)
