"""Many skies in one store: those of the single way, whoever makes them, as often as interrupted."""

import shutil
from dataclasses import replace
from functools import partial

import healpy as hp
import numpy as np
import pytest
import xarray as xr
import zarr

from foreglow.errors import ForeglowError, InstrumentError, RunError, WriteError
from foreglow.recognition.classify import classify
from foreglow.recognition.fit_maps import fit
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.observation.streaming import MapFiles
from foreglow.recognition.simulate import simulate_sky
from foreglow.recognition.simulation import ensemble as module
from foreglow.recognition.simulation.ensemble import EnsembleSky, make_ensemble
from foreglow.recognition.simulation.skies import SkyRecipe
from foreglow.sky.instrument_files import load_instrument
from pieces import die_first

N_PIX = hp.nside2npix(16)


@pytest.fixture(scope="module")
def recipe():
    instrument = load_instrument("quijote+litebird")
    return SkyRecipe("mock", PROBLEMS["four"], "blobs", 40.0, 16, 0.1, instrument)


@pytest.fixture(scope="module")
def store(recipe, tmp_path_factory):
    """Three skies."""
    path = tmp_path_factory.mktemp("ensemble") / "skies.zarr"
    assert make_ensemble(path, recipe, 3, 5) == 3
    return path


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The last of them, as a folder of FITS files."""
    folder = tmp_path_factory.mktemp("single") / "sky"
    return simulate_sky(blob_deg=40.0, noise_scale=0.1, seed=7, out=folder)


def content(path):
    return {
        str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }


def test_a_realisation_is_the_sky_of_its_seed(store, recipe, single):
    opened = EnsembleSky.of(store, 2).open()
    data, sigma = opened.read(np.arange(N_PIX))
    for k, path in enumerate(single.values()):
        q_and_u = np.array(hp.read_map(path, field=None))
        np.testing.assert_array_equal(data[:, :, k].T, q_and_u)
    rms = 0.1 * recipe.instrument.noise_rms(16)
    np.testing.assert_allclose(sigma, np.tile(rms, (N_PIX, 1)), rtol=1e-6)
    assert (opened.nside, opened.frame, opened.ordering) == (16, "G", "RING")
    truth = hp.read_map(next(iter(single.values())).with_name("truth.fits"))
    np.testing.assert_array_equal(zarr.open_group(store)["label"][2], truth)


def test_the_store_says_what_it_is(store):
    with xr.open_zarr(store, consolidated=False, mask_and_scale=False) as data:
        assert data.qu.dims == ("realisation", "stokes", "band", "pixel")
        assert data.qu.shape == (3, 2, 17, N_PIX)
        assert data.qu.dtype == np.float32
        assert data.seed.values.tolist() == [5, 6, 7]
        assert data.qu.attrs["units"] == "uK_RJ"
        assert data.attrs["models"] == list(PROBLEMS["four"])
        assert data.attrs["bands"][0] == "11"
        assert len(data.attrs["noise_rms_uk_rj"]) == 17
        assert np.isfinite(data.qu).all()
        assert not np.array_equal(data.qu[0], data.qu[1])
    assert len(list((store / "qu" / "c").iterdir())) == 3  # a chunk a realisation


def test_an_interrupted_run_goes_on(store, recipe, tmp_path):
    path = tmp_path / "skies.zarr"
    shutil.copytree(store, path)
    for part in ("seed/c/1", "qu/c/1", "seed/c/2"):  # the second lost its maps, too
        target = path / part
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    kept = (path / "qu/c/0/0/0/0").stat().st_mtime_ns
    calls = []
    made = make_ensemble(path, recipe, 3, 5, resume=True, progress=lambda *done: calls.append(done))
    assert made == 2
    assert calls == [(2, 3), (3, 3)]
    assert (path / "qu/c/0/0/0/0").stat().st_mtime_ns == kept
    assert content(path) == content(store)
    assert make_ensemble(path, recipe, 3, 5, resume=True) == 0


def test_workers_make_the_same_store(store, recipe, map_fn, tmp_path):
    """Also if one of them is lost."""
    make_ensemble(
        tmp_path / "skies.zarr", recipe, 3, 5,
        map_fn=lambda work, items: map_fn(partial(die_first, work, str(tmp_path)), items),
    )  # fmt: skip
    assert (tmp_path / "died").exists()
    assert content(tmp_path / "skies.zarr") == content(store)


def test_a_chunk_a_band_where_skies_are_large(store, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LARGEST_CHUNK", 1 << 18)
    path = tmp_path / "skies.zarr"
    make_ensemble(path, recipe, 1, 5)
    assert len(list((path / "qu" / "c" / "0" / "0").iterdir())) == 17
    pixels = np.array([3000, 5, 17])
    for one, other in zip(
        EnsembleSky.of(path, 0).open().read(pixels),
        EnsembleSky.of(store, 0).open().read(pixels),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_classify_and_fit_as_files(store, single, recipe, model, tmp_path):
    model.save(tmp_path / "model")
    setup = PROBLEMS["curvature"]
    sources = {
        "store": EnsembleSky.of(store, 2),
        "files": MapFiles.of(recipe.instrument, single, noise_scale=0.1),
    }
    for name, source in sources.items():
        classify(source, model=tmp_path / "model", out=tmp_path / f"{name}.fits")
        fit(source, models=setup, out=tmp_path / f"fit_{name}.fits")
    for name in ("", "fit_"):
        one, other = (tmp_path / f"{name}{kind}.fits" for kind in sources)
        assert one.read_bytes() == other.read_bytes()


def test_noise_of_a_noiseless_store(recipe, tmp_path):
    path = tmp_path / "quiet.zarr"
    make_ensemble(path, replace(recipe, noise_scale=0.0), 1, 0)
    with pytest.raises(InstrumentError, match="noise above zero"):
        fit(EnsembleSky.of(path, 0), models=PROBLEMS["four"], out=tmp_path / "o.fits")
    _, sigma = EnsembleSky.of(path, 0, 0.5).open().read(np.arange(3))
    np.testing.assert_allclose(sigma[0], 0.5 * recipe.instrument.noise_rms(16), rtol=1e-6)


# ---- mistakes --------------------------------------------------------------------------------


def test_a_store_that_is_there(store, recipe):
    with pytest.raises(RunError, match="exists; give another out=, or resume=True"):
        make_ensemble(store, recipe, 3, 5)
    with pytest.raises(RunError, match="begun with another nside, seed"):
        make_ensemble(store, replace(recipe, nside=32), 3, 6, resume=True)


def test_what_is_no_store(recipe, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for name in ("file", "folder"):
        with pytest.raises(RunError, match="expected an ensemble of skies"):
            make_ensemble(tmp_path / name, recipe, 3, 5, resume=True)
    for name in ("file", "folder", "nowhere"):
        with pytest.raises(RunError, match="expected an ensemble of skies"):
            EnsembleSky.of(tmp_path / name, 0).open()
    with pytest.raises(WriteError, match="cannot be written"):
        make_ensemble(tmp_path / "file" / "x.zarr", recipe, 1, 0)


def test_realisations_that_are_not_there(store, tmp_path):
    with pytest.raises(RunError, match="a realisation from 0 to 2, got 3"):
        EnsembleSky.of(store, 3).open()
    path = tmp_path / "skies.zarr"
    shutil.copytree(store, path)
    (path / "seed/c/1").unlink()
    with pytest.raises(RunError, match="realisation 1 has not been made yet"):
        EnsembleSky.of(path, 1).open()
    (path / "qu/c/2/0/0/0").write_bytes(b"short")
    with pytest.raises(RunError, match="realisation 2 is damaged"):
        EnsembleSky.of(path, 2).open()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"regions": "halves"}, "holds 2 classes, got 4"),
        ({"noise_scale": -1.0}, "expected noise_scale >= 0"),
        ({"sky": "nowhere"}, "sky.toml does not exist"),
        ({"nside": 17}, "power of two"),
    ],
)
def test_mistakes_leave_nothing(recipe, tmp_path, change, message):
    with pytest.raises(ForeglowError, match=message):
        make_ensemble(tmp_path / "skies.zarr", replace(recipe, **change), 2, 0)
    assert not list(tmp_path.iterdir())


def test_a_model_of_other_bands(store, model, tmp_path):
    other = replace(model, instrument=replace(model.instrument, name="another"))
    other.save(tmp_path / "model")
    with pytest.raises(InstrumentError, match="trained for 'another', but the maps are of"):
        classify(EnsembleSky.of(store, 0), model=tmp_path / "model", out=tmp_path / "o.fits")
