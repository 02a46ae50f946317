"""From file to file, block by block: what memory gives, whoever does the work."""

import gzip
from functools import partial
from io import BytesIO
from types import SimpleNamespace as Pool

import astropy.units as u
import healpy as hp
import numpy as np
import pysm3.units as pysm_units
import pytest
from astropy.io import fits

from foreglow.errors import InstrumentError, MapError
from foreglow.maps.memory import parse_memory
from foreglow.maps.write import write_maps, write_polarisation_map
from foreglow.recognition import classify as classifying
from foreglow.recognition import fit_maps as fitting
from foreglow.recognition.classify import classify
from foreglow.recognition.context.model import ContextModel
from foreglow.recognition.fit_maps import fit
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.observation.streaming import MapFiles
from pieces import die_first

N_PIX = hp.nside2npix(16)
CURVATURE = PROBLEMS["curvature"]


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    """Three blocks in a sky of Nside 16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifying, "BLOCK", 1024)
        patch.setattr(fitting, "BLOCK", 1024)
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory, sky, instrument):
    folder = tmp_path_factory.mktemp("maps")
    return write_all(folder, sky.data, instrument)


def write_all(folder, data, instrument, **options):
    paths = {band: folder / f"{band}.fits" for band in instrument.band}
    for k, path in enumerate(paths.values()):
        write_polarisation_map(path, data[:, k], "uK_RJ", **options)
    return paths


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """The model, on disk."""
    path = tmp_path_factory.mktemp("model") / "model"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def source(instrument, files):
    return MapFiles.of(instrument, files, noise_scale=0.1)


@pytest.fixture(scope="module")
def classified(model, files, tmp_path_factory):
    """Bytes of the file that the way by memory writes."""
    path = tmp_path_factory.mktemp("memory") / "found.fits"
    classify(files, model=model, noise_scale=0.1).to_fits(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def fitted(instrument, files, tmp_path_factory):
    path = tmp_path_factory.mktemp("memory") / "fit.fits"
    fit(files, instrument, models=CURVATURE, noise_scale=0.1).to_fits(path)
    return path.read_bytes()


# ---- the same as in memory -------------------------------------------------------------------


def test_classification(model, folder, files, source, classified, tmp_path):
    calls = []
    path = tmp_path / "found.fits"
    shares = classify(source, model=folder, out=path, progress=lambda *done: calls.append(done))
    assert path.read_bytes() == classified
    assert calls == [(1024, N_PIX), (2048, N_PIX), (N_PIX, N_PIX)]
    assert shares.summary() == classify(files, model=model, noise_scale=0.1).summary()
    assert [p.name for p in tmp_path.iterdir()] == ["found.fits"]


def test_fits(instrument, files, source, fitted, tmp_path):
    calls = []
    path = tmp_path / "fit.fits"
    shares = fit(source, models=CURVATURE, out=path, progress=lambda *done: calls.append(done))
    assert path.read_bytes() == fitted
    assert calls[-1] == (N_PIX, N_PIX)
    found = fit(files, instrument, models=CURVATURE, noise_scale=0.1)
    assert shares.summary() == found.summary()


def test_context(folder, model, files, source, tmp_path):
    context = ContextModel.untrained("potts", 0)
    shares = classify(source, model=folder, out=tmp_path / "a.fits", context=context)
    found = classify(files, model=model, noise_scale=0.1, context=context)
    found.to_fits(tmp_path / "b.fits")
    assert (tmp_path / "a.fits").read_bytes() == (tmp_path / "b.fits").read_bytes()
    assert shares == found.counts


def test_noise_of_every_kind(folder, model, files, instrument, tmp_path):
    rms = np.linspace(0.1, 1, N_PIX)
    write_maps(tmp_path / "rms.fits", {"RMS": (rms, "uK_RJ")}, frame="G")
    noise = {
        "50": tmp_path / "rms.fits",
        "11": "2 uK_RJ",
        "40": 36.0 * pysm_units.uK_CMB * u.arcmin,
    }
    source = MapFiles.of(instrument, files, noise)
    classify(source, model=folder, out=tmp_path / "a.fits")
    classify(files, model=model, noise=noise).to_fits(tmp_path / "b.fits")
    assert (tmp_path / "a.fits").read_bytes() == (tmp_path / "b.fits").read_bytes()


# ---- orderings and coverage ------------------------------------------------------------------


def test_nested_maps_give_a_nested_file(model, folder, files, sky, instrument, tmp_path):
    nested = sky.data[:, :, hp.nest2ring(16, np.arange(N_PIX))]
    paths = write_all(tmp_path, nested, instrument, ordering="NESTED")
    wanted = classify(files, model=model, noise_scale=0.1).probability
    source = MapFiles.of(instrument, paths, noise_scale=0.1)
    classify(source, model=folder, out=tmp_path / "found.fits")
    found, header = hp.read_map(tmp_path / "found.fits", field=(0, 1, 2, 3), h=True)
    assert dict(header)["ORDERING"] == "NESTED"
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(
        classify(paths, model=model, noise_scale=0.1).probability, wanted, atol=1e-5
    )
    fit(source, models=CURVATURE, out=tmp_path / "fit.fits")
    cmb = hp.read_map(tmp_path / "fit.fits", field=("CMB_Q", "CMB_U"))
    assert dict(hp.read_map(tmp_path / "fit.fits", h=True)[1])["ORDERING"] == "NESTED"
    by_memory = fit(files, instrument, models=CURVATURE, noise_scale=0.1)
    np.testing.assert_allclose(cmb, by_memory.cmb, rtol=1e-3, atol=1e-4)
    mixed = {**paths, "50": files["50"]}
    classify(
        MapFiles.of(instrument, mixed, noise_scale=0.1), model=folder, out=tmp_path / "mixed.fits"
    )
    found, header = hp.read_map(tmp_path / "mixed.fits", field=(0, 1, 2, 3), h=True)
    assert dict(header)["ORDERING"] == "RING"
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("shuffled", [False, True])
def test_partial_sky(model, folder, files, sky, instrument, tmp_path, shuffled):
    """Of some pixels alone, in the order of their numbers or not; one coverage is held once."""
    rng = np.random.default_rng(0)
    here = rng.permutation(N_PIX)[:2000]
    pixels = here if shuffled else np.sort(here)
    paths = dict(files)
    for k in (2, 9):
        paths[instrument.band[k]] = tmp_path / f"{k}.fits"
        part = np.full((3, N_PIX), hp.UNSEEN, np.float32)
        part[1:, pixels] = sky.data[:, k, pixels]
        part[0] = part[1]
        hp.write_map(
            paths[instrument.band[k]], part, coord="G", column_units="uK_RJ", partial=True,
            extra_header=[("POLCCONV", "COSMO")], dtype=np.float32,
        )  # fmt: skip
        if shuffled:
            shuffle_rows(paths[instrument.band[k]])
    source = MapFiles.of(instrument, paths, noise_scale=0.1)
    opened = source.open()
    first, second = (opened.maps[k].parts[0].index for k in (2, 9))
    assert first is second
    assert opened.bytes_loaded == 2000 * (4 + 8 * shuffled)
    shares = classify(source, model=folder, out=tmp_path / "found.fits")
    found = np.array(hp.read_map(tmp_path / "found.fits", field=(0, 1, 2, 3)))
    wanted = classify(files, model=model, noise_scale=0.1).probability
    np.testing.assert_allclose(found[:, pixels], wanted[:, pixels], atol=1e-5)
    assert (np.delete(found, pixels, axis=1) == hp.UNSEEN).all()
    assert shares.summary().startswith("2000 of 3072 pixels classified")


def shuffle_rows(path):
    with fits.open(path, mode="update") as hdus:
        hdus[1].data = hdus[1].data[np.random.default_rng(1).permutation(len(hdus[1].data))]


# ---- workers ---------------------------------------------------------------------------------


def assert_same_table(path, content):
    """But for the last digits: workers have threads of their own number, which share sums."""
    with fits.open(path) as found, fits.open(BytesIO(content)) as wanted:
        assert found[1].columns.names == wanted[1].columns.names
        for name in found[1].columns.names:
            one, other = found[1].data[name], wanted[1].data[name]
            if np.issubdtype(one.dtype, np.integer):  # a tie, or the last step, may fall elsewhere
                assert np.mean(one == other) > 0.999
            else:
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_workers_classify_alike(map_fn, folder, source, classified, tmp_path):
    classify(source, model=folder, out=tmp_path / "found.fits", pool=Pool(map=map_fn))
    assert_same_table(tmp_path / "found.fits", classified)


@pytest.fixture
def lossy(map_fn, tmp_path):
    """Two workers, of which one is killed at the second block."""
    return lambda work, items: map_fn(partial(die_first, work, str(tmp_path)), items)


def test_a_worker_lost_in_classification_costs_time_only(
    lossy, folder, source, classified, tmp_path
):
    classify(source, model=folder, out=tmp_path / "found.fits", pool=Pool(map=lossy))
    assert_same_table(tmp_path / "found.fits", classified)
    assert (tmp_path / "died").exists()


def test_a_worker_lost_in_fits_costs_time_only(lossy, source, fitted, tmp_path):
    fit(source, models=CURVATURE, out=tmp_path / "fit.fits", pool=Pool(map=lossy))
    assert_same_table(tmp_path / "fit.fits", fitted)
    assert (tmp_path / "died").exists()


# ---- bounds and mistakes ---------------------------------------------------------------------


def test_memory_that_cannot_hold(folder, source, tmp_path):
    for work in (
        lambda: classify(source, model=folder, out=tmp_path / "o.fits", memory="300 MiB"),
        lambda: fit(source, models=CURVATURE, out=tmp_path / "o.fits", memory="300 MiB"),
    ):
        with pytest.raises(MapError, match=r"expected memory of .* MiB or more, got 300\.00 MiB"):
            work()
    assert not list(tmp_path.iterdir())


def test_context_needs_more_memory(folder, source, tmp_path):
    bound = "516 MiB"
    classify(source, model=folder, out=tmp_path / "o.fits", memory=bound)
    with pytest.raises(MapError, match="or more, got 516"):
        classify(source, model=
            folder, out=tmp_path / "c.fits", memory=bound,
            context=ContextModel.untrained("potts", 0),
        )  # fmt: skip


def test_gzipped_maps_count(folder, files, instrument, tmp_path):
    packed = tmp_path / "50.fits.gz"
    packed.write_bytes(gzip.compress(files["50"].read_bytes()))
    source = MapFiles.of(instrument, files | {"50": packed}, noise_scale=0.1)
    assert source.open().bytes_loaded == 8 * N_PIX
    with pytest.raises(
        MapError, match=r"of which 24\.00 kiB are gzipped maps .*or gunzip the maps"
    ):
        classify(source, model=folder, out=tmp_path / "o.fits", memory="100 MB")


@pytest.mark.parametrize("text", ["much", "4 GiBs"])
def test_memory_that_is_none(text):
    with pytest.raises(MapError, match="expected memory as '2 GiB'"):
        parse_memory(text)


def test_a_mistake_in_the_last_block_leaves_nothing(folder, files, instrument, tmp_path):
    content = bytearray(files["50"].read_bytes())
    data_end = len(content) - (-(2 * 4 * N_PIX) % 2880)
    content[data_end - 4 : data_end] = np.array([np.nan], ">f4").tobytes()
    (tmp_path / "50.fits").write_bytes(content)
    source = MapFiles.of(instrument, files | {"50": tmp_path / "50.fits"}, noise_scale=0.1)
    with pytest.raises(MapError, match=r"NaN or Inf in 1 of 1024 .* RING pixel 3071"):
        classify(source, model=folder, out=tmp_path / "o.fits")
    assert [p.name for p in tmp_path.iterdir()] == ["50.fits"]


def test_nothing_observed(folder, instrument, tmp_path):
    paths = write_all(tmp_path, np.full((2, 17, N_PIX), np.nan, np.float32), instrument)
    source = MapFiles.of(instrument, paths, noise_scale=0.1)
    with pytest.raises(MapError, match="nothing can be classified"):
        classify(source, model=folder, out=tmp_path / "o.fits")
    with pytest.raises(MapError, match="no pixel is observed in"):
        fit(source, models=CURVATURE, out=tmp_path / "o.fits")
    assert not (tmp_path / "o.fits").exists()


def test_a_file_that_was_replaced_is_read_anew(folder, files, sky, instrument, tmp_path):
    paths = write_all(tmp_path, sky.data, instrument)
    classify(MapFiles.of(instrument, paths, noise_scale=0.1), model=folder, out=tmp_path / "a.fits")
    paths = write_all(tmp_path, 2 * sky.data, instrument, overwrite=True)
    classify(MapFiles.of(instrument, paths, noise_scale=0.1), model=folder, out=tmp_path / "b.fits")
    assert (tmp_path / "a.fits").read_bytes() != (tmp_path / "b.fits").read_bytes()


def test_maps_of_another_instrument(folder, files, instrument, tmp_path):
    fewer = {band: path for band, path in files.items() if band != "50"}
    with pytest.raises(InstrumentError, match="maps came for 16, and none for 50"):
        classify(MapFiles.of(instrument, fewer), model=folder, out=tmp_path / "o.fits")
