"""Separation by the model of each pixel: against truth and fits, in files and frames."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import healpy as hp
import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.io import fits
from matplotlib import pyplot as plt
from typer.testing import CliRunner

import foreglow as fg
from foreglow import cli
from foreglow.errors import ForeglowError, MapError, ModelError
from foreglow.maps.io import open_plain_map
from foreglow.maps.table import Table
from foreglow.maps.write import write_polarisation_map
from foreglow.recognition import fit_maps as module
from foreglow.recognition import separate as separation
from foreglow.recognition.fits.optimise import fit as fit_pixels
from foreglow.recognition.fits.skymodel import candidate
from foreglow.recognition.separated import COMPONENTS

N_PIX = hp.nside2npix(16)
SCALE = {"noise_scale": 0.1}


@pytest.fixture(scope="module")
def known():
    return fg.simulate_sky(models="four", layout="quadrants", seed=3, **SCALE)


@pytest.fixture(scope="module")
def fitted(known):
    return fg.fit(known.maps, known.instrument, models="four", **SCALE)


@pytest.fixture(scope="module")
def averaged(known, fitted):
    return fg.separate(known.maps, known.instrument, by=fitted, average=True, **SCALE)


def pull(found, known):
    """The CMB found less that which is there, over its error."""
    return (found.cmb - known.cmb.value) / found.cmb_error


def test_one_model_is_the_fit_of_it(known):
    found = fg.separate(known.maps, known.instrument, by="curved_ame", **SCALE)
    maps = np.stack([m.value for m in known.maps.values()], -1).transpose(1, 0, 2)
    sigma = torch.tensor(0.1 * known.instrument.noise_rms(16)).expand(N_PIX, -1)
    bands = known.instrument.bands
    wanted = fit_pixels(candidate("curved_ame", priors=True), bands, torch.from_numpy(maps), sigma)
    for c, name in enumerate(wanted.model.components):
        place = COMPONENTS.index(name)
        np.testing.assert_allclose(
            found.amplitude[place].T, wanted.amplitudes[:, :, c], rtol=1e-4, atol=1e-3
        )
        variance = wanted.amplitude_covariance.diagonal(dim1=1, dim2=2)[:, [c, 4 + c]]
        np.testing.assert_allclose(found.error[place].T, variance.sqrt(), rtol=1e-3)
    np.testing.assert_allclose(found.beta_s, wanted.parameters[:, 0], atol=1e-5)
    error = wanted.covariance.diagonal(dim1=1, dim2=2).sqrt()
    np.testing.assert_allclose(found.curvature_error, error[:, 1], rtol=1e-3)
    # the richest holds all four
    assert np.std(pull(found, known)) == pytest.approx(1, abs=0.1)
    assert found.none_fits.mean() < 0.01
    assert found.converged.all()


def test_without_ame_its_map_is_empty(known):
    found = fg.separate(known.maps, known.instrument, by="power_law", **SCALE)
    assert not found.amplitude[3].any()
    assert not found.error[3].any()
    assert not found.curvature.any()
    assert np.std(pull(found, known)) > 5  # a wrong SED, and its error does not know
    assert found.none_fits.mean() > 0.3  # but the data do


def test_averaging_knows_what_it_does_not_know(known, fitted, averaged):
    """Errors hold what the models disagree on, and the CMB is nearer to the truth."""
    chosen = fg.separate(known.maps, known.instrument, by=fitted, **SCALE)
    richest = fg.separate(known.maps, known.instrument, by="curved_ame", **SCALE)
    np.testing.assert_array_equal(chosen.best, fitted.best)
    assert np.std(pull(averaged, known)) == pytest.approx(1, abs=0.1)
    assert np.std(pull(chosen, known)) > 1.1
    off = [np.std(found.cmb - known.cmb.value) for found in (averaged, chosen, richest)]
    assert off[0] < min(off[1:])
    assert 0 < np.nanmean(averaged.error[3]) < np.nanmean(richest.error[3])


def test_its_mean_and_error_are_those_of_the_mixture(known, fitted, averaged):
    each = [fg.separate(known.maps, known.instrument, by=name, **SCALE) for name in fitted.models]
    weight = np.where(fitted.probability < 1e-3, 0, fitted.probability)
    weight = weight / weight.sum(0)
    for component in range(4):
        values = np.stack([one.amplitude[component] for one in each]).astype(float)
        errors = np.stack([one.error[component] for one in each]).astype(float)
        mean = (weight[:, None] * values).sum(0)
        variance = (weight[:, None] * (errors**2 + (values - mean) ** 2)).sum(0)
        np.testing.assert_allclose(averaged.amplitude[component], mean, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(averaged.error[component], variance**0.5, rtol=0.02, atol=1e-4)


def test_files_give_what_memory_gives(known, fitted, averaged, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 1024)
    models, out = tmp_path / "fit.fits", tmp_path / "separated.fits"
    fitted.to_fits(models)
    with ThreadPoolExecutor(2) as pool:
        counts = fg.separate(
            known.maps, known.instrument, by=models, average=True, out=out, pool=pool, **SCALE
        )
    assert counts.summary() == averaged.summary()
    with fits.open(out) as file:
        table = file[1]
        assert (table.header["CLASS3"], table.header["AVERAGED"]) == ("curved_ame", True)
        assert table.header["SYNCGHZ"] == 23
        for name, (values, unit) in averaged.columns().items():
            np.testing.assert_allclose(
                table.data[name].ravel(), values, rtol=1e-4, atol=1e-6, equal_nan=True
            )
            place = table.columns.names.index(name) + 1
            assert table.header.get(f"TUNIT{place}", "") == unit


def test_what_is_in_memory_goes_to_workers_as_a_file(known, fitted, averaged, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 1024)
    with ThreadPoolExecutor(2) as pool:
        found = fg.separate(
            known.maps, known.instrument, by=fitted, average=True, pool=pool, **SCALE
        )
    np.testing.assert_allclose(found.amplitude, averaged.amplitude, rtol=1e-4, atol=1e-6)


def test_a_file_is_opened_once_and_let_go_after_each_block(known, fitted, tmp_path, monkeypatch):
    """Else every column would have the whole file in memory in the end."""
    monkeypatch.setattr(module, "BLOCK", 1024)
    fitted.to_fits(tmp_path / "fit.fits")
    opened, let_go = [], []
    monkeypatch.setattr(Table, "release", lambda one: let_go.append(one.path))
    monkeypatch.setattr(
        separation, "open_plain_map", lambda name: opened.append(name) or open_plain_map(name)
    )
    fg.separate(known.maps, known.instrument, by=tmp_path / "fit.fits", **SCALE)
    assert len(opened) == len(fitted.models)
    assert let_go.count(tmp_path / "fit.fits") >= len(opened) * 3  # of 3,072 pixels


def test_another_frame_turns_the_maps_and_their_errors(known, tmp_path):
    """A sky in celestial pixels: what comes out, turned back, is the Galactic one's."""
    rotator = hp.Rotator(coord=["C", "G"])
    theta, phi = hp.pix2ang(16, np.arange(N_PIX))
    there = hp.ang2pix(16, *rotator(theta, phi))  # the Galactic pixel of each celestial one
    turned, angle = {}, 2 * hp.Rotator(coord=["C", "G"]).angle_ref(theta, phi)
    for band, values in known.maps.items():
        q, u_ = values.value[:, there]
        cos, sin = np.cos(-angle), np.sin(-angle)
        turned[band] = np.stack([q * cos - u_ * sin, q * sin + u_ * cos]) * u.uK
    options = {"by": "curved", "unit": "uK_RJ", **SCALE}
    bare = {band: m.value for band, m in turned.items()}
    celestial = fg.separate(bare, known.instrument, frame="C", convention="COSMO", **options)
    galactic = fg.separate(known.maps, known.instrument, by="curved", **SCALE)
    q, u_ = celestial.cmb
    cos, sin = np.cos(angle), np.sin(angle)
    back = np.stack([q * cos - u_ * sin, q * sin + u_ * cos])
    np.testing.assert_allclose(back, galactic.cmb[:, there], atol=2e-4)
    total = [np.square(found.error[0]).sum(0) for found in (celestial, galactic)]
    np.testing.assert_allclose(total[0], total[1][there], rtol=1e-3)
    assert celestial.frame == "C"


def test_patches_share_beta(known):
    found = fg.separate(known.maps, known.instrument, by="curved", patches={"beta_s": 8}, **SCALE)
    parent = hp.ring2nest(16, np.arange(N_PIX)) // 4
    assert len(np.unique(found.beta_s[parent == 5])) == 1
    assert len(np.unique(found.curvature[parent == 5])) == 4
    with pytest.raises(ModelError, match="expected patches of beta_s, curvature, as these models"):
        fg.separate(known.maps, known.instrument, by="curved", patches={"model": 8}, **SCALE)


def test_where_nothing_was_said_nothing_is_separated(known, fitted):
    probability = fitted.probability.copy()
    probability[:, 5] = np.nan
    found = fg.separate(
        known.maps, known.instrument, by=replace(fitted, probability=probability), **SCALE
    )
    assert np.flatnonzero(~found.fitted).tolist() == [5]
    assert found.best[5] == -1
    assert not found.converged[5]


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # healpy's, of matplotlib
def test_what_notebooks_ask_of_it(averaged):
    assert "averaged by probability; rms error of the CMB's Q and U 0.00" in averaged.summary()
    assert repr(averaged).startswith("<SeparatedSky of Nside 16: 3072 of 3072 pixels separated")
    dataset = averaged.to_xarray()
    assert dataset["DUST_Q"].attrs["units"] == "uK_RJ"
    assert dataset.attrs["DUSTGHZ"] == 353
    axes = averaged.plot()
    assert axes.get_title() == "CMB_Q"
    plt.close(axes.figure)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"by": "power_lae"}, ModelError, r"a file of classify or fit, got 'power_lae \(do you"),
        (
            {"by": "power_law", "average": True},
            ModelError,
            "expected by= with probabilities to average",
        ),
        ({"by": "power_law", "curvature": -0.05}, ModelError, "none of the models power_law is"),
        ({"by": "curved", "level": 2.0}, ModelError, "a p-value between 0 and 1"),
    ],
)
def test_wrong_options(known, options, error, message):
    with pytest.raises(error, match=message):
        fg.separate(known.maps, known.instrument, **SCALE, **options)


def test_wrong_models_are_refused(known, fitted, tmp_path):
    path = tmp_path / "other.fits"
    write_polarisation_map(path, np.zeros((2, N_PIX)), "uK_RJ")
    with pytest.raises(MapError, match="expected a file of classify or fit, which names its mod"):
        fg.separate(known.maps, known.instrument, by=path, **SCALE)
    path.write_text("no FITS")
    with pytest.raises(MapError, match="expected FITS of classify or fit, got:"):
        fg.separate(known.maps, known.instrument, by=path, **SCALE)
    coarse = replace(fitted, nside=8, probability=fitted.probability[:, :768])
    with pytest.raises(MapError, match="expected models of maps of Nside 16 in frame G, got Nsi"):
        fg.separate(known.maps, known.instrument, by=coarse, **SCALE)
    with pytest.raises(MapError, match="got Nside 16, frame C"):
        fg.separate(known.maps, known.instrument, by=replace(fitted, frame="C"), **SCALE)


def test_by_the_command(known, fitted, averaged, tmp_path):
    models, out = tmp_path / "fit.fits", tmp_path / "separated.fits"
    fitted.to_fits(models)
    arguments = ["recognize", "separate", "--noise-scale", "0.1", "--out", str(out)]
    for band, values in known.maps.items():
        path = tmp_path / f"{band}.fits"
        write_polarisation_map(path, values.value, "uK_RJ")
        arguments += ["--maps", f"{band}={path}"]
    done = CliRunner().invoke(cli.app, [*arguments, "--by", str(models), "--average"])
    assert done.exit_code == 0, done.output
    assert "averaged by" in " ".join(done.output.split())
    with fits.open(out) as file:
        np.testing.assert_allclose(file[1].data["CMB_Q"].ravel(), averaged.cmb[0], atol=1e-3)
    done = CliRunner().invoke(cli.app, [*arguments, "--by", "power_lw"])
    assert isinstance(done.exception, ForeglowError)


# ---- dust that varies ------------------------------------------------------------------------


SOME = {**SCALE, "mask": np.arange(N_PIX) % 8 == 0}


@pytest.fixture(scope="module")
def dusty():
    return fg.simulate_sky(models="varying_dust,dust_moments", layout="halves", seed=2, **SCALE)


def test_dust_that_varies_by_pixel(dusty, tmp_path):
    found = fg.fit(dusty.maps, dusty.instrument, models=dusty.models, **SOME)
    seen = found.fitted
    assert (found.best == dusty.truth)[seen].mean() > 0.9
    clean = fg.separate(dusty.maps, dusty.instrument, by=found, **SOME)
    assert np.std(pull(clean, dusty)[:, seen]) == pytest.approx(1, abs=0.2)
    moments, others = seen & (clean.best == 1), seen & (clean.best == 0)
    place = COMPONENTS.index("dust_moment")
    assert (clean.error[place][:, moments] > 0).all()
    assert not clean.amplitude[place][:, others].any()
    columns = clean.columns()
    assert columns["DUST_MOMENT_Q"][1] == columns["DUST_MOMENT_U_ERR"][1] == "uK_RJ"
    for sky in (found, clean):
        assert sky.columns()["T_D"][1] == "K"
        assert (sky.dust_temperature[moments] == 20).all()
        assert 0.5 < sky.dust_temperature[others].std() < 3
        assert sky.beta_d[others].mean() == pytest.approx(1.54, abs=0.02)
        sky.to_fits(tmp_path / "sky.fits", overwrite=True)
        names = fits.getdata(tmp_path / "sky.fits").names
        assert {"BETA_D", "BETA_D_ERR", "T_D", "T_D_ERR"} <= set(names)


def test_dust_that_varies_by_patch(dusty):
    patch = hp.ud_grade(np.arange(12), 16).astype(int)
    for by in ("dust_moments", "varying_dust"):
        clean = fg.separate(dusty.maps, dusty.instrument, by=by, patches=1, **SOME)
        seen = clean.fitted
        assert seen.sum() == N_PIX / 8
        for values in (clean.beta_s, clean.dust_temperature):
            assert all(len(set(values[seen & (patch == k)])) == 1 for k in range(12))
    assert clean.dust_temperature[seen].std() > 0.05
    with pytest.raises(ModelError, match="patches, got a free beta_d and dust_temperature; leave"):
        fg.fit(dusty.maps, dusty.instrument, models=dusty.models, patches=1, **SOME)
    models = "power_law,dust_moments"
    both = fg.fit(dusty.maps, dusty.instrument, models=models, patches=1, **SOME)
    assert both.fitted.sum() == N_PIX / 8


def test_tables_have_what_some_model_has(averaged):
    assert not {"BETA_D", "T_D", "DUST_MOMENT_Q"} & set(averaged.columns())
