"""A user's maps to fits: FITS gives what the arrays give, in every convention and coverage."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import healpy as hp
import numpy as np
import pytest
import torch
from astropy.io import fits
from pysm3 import units as pysm_units
from typer.testing import CliRunner

from foreglow import cli
from foreglow.errors import ForeglowError, InstrumentError, MapError, ModelError
from foreglow.maps.write import write_maps, write_polarisation_map
from foreglow.recognition import fit_maps as module
from foreglow.recognition.fit_maps import fit
from foreglow.recognition.fits.choice import choose
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.simulate import simulate_sky

N_PIX = hp.nside2npix(16)
CURVATURE = PROBLEMS["curvature"]


@pytest.fixture(scope="module")
def files(tmp_path_factory, sky, instrument):
    folder = tmp_path_factory.mktemp("maps")
    return {
        band: write(folder / f"{band}.fits", sky.data[:, k])
        for k, band in enumerate(instrument.band)
    }


def write(path, qu, unit="uK_RJ", **options):
    write_polarisation_map(path, np.asarray(qu, np.float64), unit, **options)
    return path


def of_arrays(instrument, sky, models):
    frequency = torch.tensor(instrument.frequency_ghz, dtype=torch.float64)
    data = torch.from_numpy(np.ascontiguousarray(np.moveaxis(sky.data, 2, 0)))
    return choose(models, frequency, data, torch.from_numpy(sky.sigma).float().expand(N_PIX, -1))


@pytest.fixture(scope="module")
def expected(instrument, sky):
    return of_arrays(instrument, sky, PROBLEMS["four"])


@pytest.fixture(scope="module")
def found(instrument, files):
    return fit(files, instrument, models=PROBLEMS["four"], noise_scale=0.1)


def test_fits_gives_what_the_arrays_give(found, expected):
    np.testing.assert_allclose(found.probability.T, expected.probability(), atol=1e-5)
    np.testing.assert_allclose(found.chi2.T, expected.chi2, rtol=1e-5)
    np.testing.assert_allclose(found.p_value, expected.p_value.amax(1), atol=1e-6)
    np.testing.assert_array_equal(found.none_fits, expected.none_fits())
    np.testing.assert_array_equal(found.converged, expected.converged)
    np.testing.assert_array_equal(found.best, found.probability.argmax(0))
    for pixel in range(0, N_PIX, 97):
        fit = expected.fits[found.best[pixel]]
        error = fit.covariance[pixel].diagonal().sqrt()
        curved = "curvature" in fit.model.free
        wanted = [fit.parameters[pixel, 0], error[0], fit.parameters[pixel, 1] if curved else 0.0]
        got = [m[pixel] for m in (found.beta_s, found.beta_s_error, found.curvature)]
        assert got == pytest.approx([float(x) for x in wanted], rel=1e-4, abs=1e-6)
        assert np.isnan(found.curvature_error[pixel]) == (not curved)
        cmb = fit.amplitudes[pixel, :, fit.model.components.index("cmb")]
        np.testing.assert_allclose(found.cmb[:, pixel], cmb, rtol=1e-4, atol=1e-5)


def test_it_is_right_about_model_and_cmb(found, sky):
    assert np.mean(found.best == sky.label) > 0.8
    assert found.none_fits.mean() < 0.01
    right = found.best == sky.label
    assert np.std(found.cmb[:, right] - sky.cmb[:, right]) < 0.2 * np.std(sky.cmb)


@pytest.mark.parametrize("block", [1000, N_PIX])
def test_blocks_do_not_matter(instrument, files, monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK", 700)
    one = fit(files, instrument, models=CURVATURE, curvature=-0.052, noise_scale=0.1)
    monkeypatch.setattr(module, "BLOCK", block)
    calls = []
    progress = lambda *done: calls.append(done)  # noqa: E731
    other = fit(
        files, instrument, models=CURVATURE, curvature=-0.052, noise_scale=0.1, progress=progress
    )
    np.testing.assert_allclose(one.probability, other.probability, atol=1e-4)
    assert calls == [(min(b + block, N_PIX), N_PIX) for b in range(0, N_PIX, block)]


# ---- coverage --------------------------------------------------------------------------------


def test_bands_left_out_are_nan(instrument, sky, files):
    holed = sky.data.copy()
    holed[:, [1, 5, 16]] = np.nan
    wanted = of_arrays(instrument, replace(sky, data=holed), CURVATURE)
    some = {band: files[band] for k, band in enumerate(instrument.band) if k not in (1, 5, 16)}
    got = fit(some, instrument, models=CURVATURE, noise_scale=0.1)
    np.testing.assert_allclose(got.probability.T, wanted.probability(), atol=1e-5)
    np.testing.assert_allclose(got.chi2.T, wanted.chi2, rtol=1e-5)


def test_partial_sky(instrument, sky, files, tmp_path):
    """A hole in one band costs that band; where bands are too few there is nothing."""
    one, absent = np.arange(N_PIX) < 500, np.arange(N_PIX) >= 3000
    holed = sky.data.copy()
    holed[:, 3, one] = np.nan
    holed[:, :, absent] = np.nan
    paths = {
        band: write(tmp_path / f"{band}.fits", holed[:, k])
        for k, band in enumerate(instrument.band)
    }
    got = fit(paths, instrument, models=CURVATURE, noise_scale=0.1)
    wanted = of_arrays(instrument, replace(sky, data=holed), CURVATURE)
    np.testing.assert_array_equal(got.fitted, ~absent)
    np.testing.assert_allclose(got.probability.T, wanted.probability(), atol=1e-5)
    assert (got.best[absent] == -1).all()
    assert got.summary().startswith("3000 of 3072 pixels fitted: power_law ")
    got.to_fits(tmp_path / "out.fits")
    stored = np.asarray(fits.getdata(tmp_path / "out.fits", 1))
    table = {name: stored[name].ravel() for name in stored.dtype.names or ()}
    assert len(table) == 14
    for name, values in table.items():
        masked = -1 if values.dtype.kind == "i" else hp.UNSEEN
        assert (values[absent] == np.float32(masked)).all() or (values[absent] == masked).all()
        if name != "C_ERR":
            assert (values[~absent] != masked).all(), name
    np.testing.assert_array_equal(table["CLASS"], got.best)
    assert set(table["NONE_FITS"][~absent]) <= {0, 1}


def test_a_noise_map_of_part_of_the_sky(instrument, files, tmp_path):
    rms = np.full(N_PIX, 0.1)
    rms[:100] = np.nan
    write_maps(tmp_path / "noise.fits", {"RMS": (rms, "uK_RJ")}, frame="G")
    some = {band: files[band] for band in instrument.band[:5]}
    got = fit(
        some, instrument, models=CURVATURE, noise={"40": tmp_path / "noise.fits"}, noise_scale=0.1
    )
    np.testing.assert_array_equal(got.fitted, np.arange(N_PIX) >= 100)


def test_the_noise_of_q_and_u_is_used_as_it_comes(instrument, sky, files, tmp_path):
    """Covariances in files, in arrays and on workers: what the fits of arrays make of them."""
    rng = np.random.default_rng(0)
    q, u = 0.3 * sky.sigma[4] * rng.uniform(0.5, 2, (2, N_PIX))
    covariance = np.stack([q**2, rng.uniform(-0.9, 0.9, N_PIX) * q * u, u**2])
    columns = {name: (row, "uK_RJ^2") for name, row in zip("ABC", covariance, strict=True)}
    write_maps(tmp_path / "n.fits", columns, frame="G")
    few = slice(0, 768)  # of the pixels
    mask = np.arange(N_PIX) < few.stop
    options = {"models": CURVATURE, "curvature": -0.052, "noise_scale": 0.1, "mask": mask}
    said = {"60": f"{tmp_path / 'n.fits'}[A,B,C] as covariance"}
    found = fit(files, instrument, noise=said, **options)
    whole = np.zeros((N_PIX, 3, 17))
    whole[:, ::2] = np.float32(sky.sigma).astype(float) ** 2
    whole[:, :, 4] = covariance.T
    frequency = torch.tensor(instrument.frequency_ghz, dtype=torch.float64)
    data = torch.from_numpy(np.ascontiguousarray(np.moveaxis(sky.data, 2, 0)))
    wanted = choose(CURVATURE, frequency, data[few], torch.from_numpy(whole)[few], -0.052)
    np.testing.assert_array_equal(found.fitted, mask)
    np.testing.assert_allclose(found.probability.T[few], wanted.probability(), atol=1e-5)
    np.testing.assert_allclose(found.chi2.T[few], wanted.chi2, rtol=1e-5)
    for noise, more in (
        ({"60": covariance * pysm_units.uK_RJ**2}, {"frame": "G", "convention": "COSMO"}),
        (said, {"pool": ThreadPoolExecutor(1)}),
    ):
        again = fit(files, instrument, noise=noise, **options, **more)
        np.testing.assert_array_equal(again.probability, found.probability)
        np.testing.assert_array_equal(again.chi2, found.chi2)
    fit(files, instrument, noise=said, out=tmp_path / "out.fits", memory="2 GiB", **options)
    stored = fits.getdata(tmp_path / "out.fits", 1)["CHI2_CURVED"].ravel()
    np.testing.assert_array_equal(stored[few], found.chi2[1, few])


def test_memory_counts_covariances(instrument, files, tmp_path):
    columns = {"A": (np.full(N_PIX, 1.0), "uK_RJ^2"), "B": (np.full(N_PIX, 2.0), "uK_RJ^2")}
    write_maps(tmp_path / "n.fits", columns, frame="G")
    alike, unlike = (f"{tmp_path / 'n.fits'}[{names}] as variance" for names in ("A", "A,B"))
    options = {"models": CURVATURE, "out": tmp_path / "out.fits", "memory": "1000 MiB"}
    with pytest.raises(MapError, match=r"expected memory of 1.12 GiB or more, got 0.98 GiB"):
        fit(files, instrument, noise={"60": unlike}, noise_scale=0.1, **options)
    fit(files, instrument, noise={"60": alike}, noise_scale=0.1, **options)


def test_cmb_comes_back_in_the_frame_of_the_maps(instrument, sky, files, found, tmp_path):
    """Celestial maps: turned to the Galactic basis to be fitted, and the CMB back again."""
    theta, phi = hp.pix2ang(16, np.arange(N_PIX))
    angle = 2 * hp.Rotator(coord=["C", "G"]).angle_ref(theta, phi)
    turned = np.exp(-1j * angle) * (sky.data[0] + 1j * sky.data[1])
    paths = {
        band: write(tmp_path / f"{band}.fits", [turned[k].real, turned[k].imag], frame="C")
        for k, band in enumerate(instrument.band)
    }
    got = fit(paths, instrument, models=PROBLEMS["four"], noise_scale=0.1)
    assert got.frame == "C"
    np.testing.assert_allclose(got.probability, found.probability, atol=2e-3)
    cmb = np.exp(-1j * angle) * (found.cmb[0] + 1j * found.cmb[1])
    same = got.best == found.best
    assert same.mean() > 0.999
    np.testing.assert_allclose(got.cmb[:, same], [cmb.real[same], cmb.imag[same]], atol=1e-3)


# ---- output ----------------------------------------------------------------------------------


def test_output(found, tmp_path):
    path = tmp_path / "found.fits"
    found.to_fits(path)
    header = fits.getheader(path, 1)
    names = [header[f"TTYPE{k + 1}"] for k in range(header["TFIELDS"])]
    upper = [name.upper() for name in PROBLEMS["four"]]
    assert names == [
        *(f"P_{name}" for name in upper), "CLASS", "NONE_FITS", "CONVERGED", "P_VALUE",
        *(f"CHI2_{name}" for name in upper), "BETA_S", "BETA_S_ERR", "C", "C_ERR", "CMB_Q", "CMB_U",
    ]  # fmt: skip
    assert [header[f"CLASS{k}"] for k in range(4)] == list(PROBLEMS["four"])
    assert (header["CRITERIO"], header["LEVEL"], header["TUNIT18"]) == ("evidence", 1e-3, "uK_CMB")
    with pytest.raises(MapError, match="exists already"):
        found.to_fits(path)


def test_summary(found):
    text = found.summary()
    assert "by evidence; none of these models fits 0." in text
    shares = [
        float(word.rstrip("%,")) for word in text.split("by evidence")[0].split() if "%" in word
    ]
    assert sum(shares) == pytest.approx(100, abs=0.3)
    assert text.endswith("0.0% did not converge")


@pytest.mark.parametrize("criterion", ["chi2", "aic", "bic"])
def test_criterion_and_fixed_curvature(instrument, sky, files, criterion):
    got = fit(
        files, instrument, models=CURVATURE, noise_scale=0.1, criterion=criterion, curvature=-0.052
    )
    np.testing.assert_array_equal(got.best, got.chi2.argmin(0))
    np.testing.assert_allclose(got.curvature, np.where(got.best == 1, np.float32(-0.052), 0))
    assert np.isnan(got.curvature_error).all()


# ---- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"criterion": "dic"}, ModelError, "expected a criterion among chi2, aic, bic, evidence"),
        ({"level": 0.0}, ModelError, "expected a p-value between 0 and 1 as level, got 0"),
        ({"level": np.nan}, ModelError, "as level, got nan"),
        ({"curvature": 0.0}, ModelError, "other than 0, such as -0.052, got 0; leave it out"),
        ({"curvature": np.inf}, ModelError, "other than 0, such as -0.052, got inf"),
        ({"noise_scale": 0.0}, InstrumentError, "above zero, but that of 11, 13, .*, 402 is 0; a"),
        ({"noise_scale": -1.0}, InstrumentError, "expected noise_scale >= 0, got -1.0"),
        ({"noise": {"50": "0 uK_CMB"}}, InstrumentError, "above zero, but that of 50 is 0; a fit"),
        ({"noise": {"50": "loud"}}, MapError, "expected noise as an existing FITS file"),
        ({"unit": "parsec"}, MapError, "got unit 'parsec'"),
        ({"models": ("straight",)}, ForeglowError, "models curvature.* some of .*'straight'"),
        (
            {"models": PROBLEMS["ame"], "curvature": -0.05}, ModelError,
            "a curvature came, but none of the models power_law, power_law_ame is curved; leave",
        ),
    ],
)  # fmt: skip
def test_bad_input(instrument, files, options, error, message):
    arguments = {"models": CURVATURE, "noise_scale": 0.1} | options
    with pytest.raises(error, match=message):
        fit(files, instrument, **arguments)


@pytest.mark.parametrize(
    ("problem", "curvature", "needed"),
    [("curvature", None, 5), ("curvature", -0.052, 4), ("ame", None, 5), ("four", None, 6)],
)
def test_too_few_bands(instrument, files, problem, curvature, needed):
    few = {band: files[band] for band in instrument.band[: needed - 1]}
    message = f"expected maps of {needed} bands at least.* got {needed - 1} \\(11, 13, 40"
    with pytest.raises(InstrumentError, match=message):
        fit(few, instrument, models=PROBLEMS[problem], curvature=curvature)
    enough = {band: files[band] for band in instrument.band[:needed]}
    mask = np.arange(N_PIX) < 300
    found = fit(enough, instrument, models=PROBLEMS[problem], curvature=curvature, mask=mask)
    np.testing.assert_array_equal(found.fitted, mask)


def test_no_pixel_in_bands_enough(instrument, sky, files, tmp_path):
    halves = {}
    for k, band in enumerate(instrument.band[:8]):
        part = np.where(np.arange(N_PIX) % 2 == k % 2, sky.data[:, k], np.nan)
        halves[band] = write(tmp_path / f"{band}.fits", part)
    with pytest.raises(MapError, match="no pixel is observed in 5 bands, as the fit of curved"):
        fit(halves, instrument, models=CURVATURE)


# ---- command line ----------------------------------------------------------------------------


def test_simulate_and_fit(tmp_path):
    def call(*words):
        return CliRunner().invoke(cli.app, [str(w) for w in words])

    folder, out = tmp_path / "sky", tmp_path / "out.fits"
    made = call("recognize", "simulate", "--out", folder, "--nside", 16, "--noise-scale", 0.05)
    assert made.exit_code == 0
    bands = [p for p in sorted(folder.glob("band_*.fits")) if p.stem != "band_60"]
    words = [w for p in bands for w in ("--maps", f"{p.stem.removeprefix('band_')}={p}")]
    words = ["recognize", "fit", *words, "--noise-scale", 0.05, "--device", "cpu", "--out", out]
    assert call(*words).exit_code == 0
    best, truth = hp.read_map(out, field=4), hp.read_map(folder / "truth.fits")
    assert np.mean(best == truth) > 0.88
    again = call(*words)
    assert isinstance(again.exception, ForeglowError)
    assert "exists; give another out=, or overwrite=True" in str(again.exception)
    assert (
        call(*words, "--overwrite", "--models", "curvature", "--criterion", "chi2").exit_code == 0
    )
    assert hp.read_map(out, field=2).max() == 1


def test_help_names_defaults_and_units():
    out = CliRunner().invoke(cli.app, ["recognize", "fit", "--help"], env={"COLUMNS": "200"}).output
    for word in ("BAND=FILE", "quijote+litebird", "default: evidence", "default: 0.001", "chi2"):
        assert word in out


# ---- patches ---------------------------------------------------------------------------------

PARENT = hp.ring2nest(16, np.arange(N_PIX)) // 16
"""The pixel of Nside 4 of each pixel, RING."""


def beta_s_of(path):
    """The column, RING."""
    with fits.open(path) as table:
        values = np.array(table[1].data["BETA_S"], np.float32).ravel()
        return hp.reorder(values, n2r=True) if table[1].header["ORDERING"] == "NESTED" else values


@pytest.fixture(scope="module")
def by_patches(instrument, files):
    return fit(files, instrument, models=CURVATURE, noise_scale=0.1, patches=4)


def test_patches_share_what_they_should(by_patches, instrument, sky):
    frequency = torch.tensor(instrument.frequency_ghz, dtype=torch.float64)
    data = torch.from_numpy(np.ascontiguousarray(np.moveaxis(sky.data, 2, 0)))
    noise = torch.from_numpy(sky.sigma).float().expand(N_PIX, -1)
    wanted = choose(CURVATURE, frequency, data, noise, patches=torch.from_numpy(PARENT))
    np.testing.assert_allclose(by_patches.probability.T, wanted.probability(), atol=1e-5)
    np.testing.assert_allclose(by_patches.chi2.T, wanted.chi2, rtol=1e-5)
    for values in (by_patches.beta_s, by_patches.beta_s_error, by_patches.best):
        for patch in range(0, 192, 31):
            assert len(np.unique(values[patch == PARENT])) == 1
    assert np.unique(by_patches.cmb[0]).size > 0.99 * N_PIX
    assert by_patches.header()["PATCHES"] == "4"


def test_any_map_of_the_same_patches_gives_the_same(
    by_patches, instrument, files, tmp_path, monkeypatch
):
    names = np.random.default_rng(0).permutation(1000)[:192][PARENT]
    path = tmp_path / "patches.fits"
    hp.write_map(path, names.astype(float), dtype=np.float64, coord="G", column_names=["PATCH"])
    nested = hp.reorder(names.astype(float), r2n=True).astype(int)
    monkeypatch.setattr(module, "BLOCK", 1024)  # three blocks of whole patches
    options = {"models": CURVATURE, "noise_scale": 0.1}
    out = tmp_path / "fit.fits"
    for given in (names, f"{path}[PATCH]", 4):
        found = fit(files, instrument, patches=given, **options)
        np.testing.assert_allclose(found.chi2, by_patches.chi2, rtol=1e-6)
        np.testing.assert_array_equal(found.best, by_patches.best)
    fit(files, instrument, patches=nested, nest=True, out=out, **options)
    with fits.open(out) as table:
        assert table[1].header["PATCHES"] == "map"
    np.testing.assert_allclose(beta_s_of(out), by_patches.beta_s, atol=1e-5)
    fit(files, instrument, patches=4, out=out, overwrite=True, **options)
    with fits.open(out) as table:
        assert (table[1].header["PATCHES"], table[1].header["ORDERING"]) == ("4", "NESTED")
    np.testing.assert_allclose(beta_s_of(out), by_patches.beta_s, atol=1e-5)


def test_patches_go_to_workers(by_patches, instrument, files, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        for given in (4, PARENT):
            found = fit(
                files, instrument, models=CURVATURE, noise_scale=0.1, patches=given, pool=pool
            )
            np.testing.assert_allclose(found.chi2, by_patches.chi2, rtol=1e-6)


def test_one_curvature_and_model_a_patch(monkeypatch):
    """Where beta varies from pixel to pixel, it is C and the model that a patch tells."""
    monkeypatch.setattr(module, "BLOCK", 1024)
    sky = simulate_sky(models="curvature", layout="halves", noise_scale=0.3, seed=5)
    options = {"models": CURVATURE, "noise_scale": 0.3}
    alone = fit(sky.maps, sky.instrument, **options)
    shared = fit(sky.maps, sky.instrument, patches={"curvature": 8}, **options)
    grand = hp.ring2nest(16, np.arange(N_PIX)) // 4
    same = [len(np.unique(shared.best[grand == k])) for k in range(0, 768, 17)]
    assert same == [1] * len(same)
    assert np.unique(shared.beta_s).size > 0.9 * N_PIX
    assert shared.patches == "curvature=8"
    assert sky.accuracy(shared) > sky.accuracy(alone) + 0.05
    apart = fit(sky.maps, sky.instrument, patches={"model": 8}, **options)
    np.testing.assert_allclose(
        np.bincount(grand, apart.chi2[1]) / 4, np.bincount(grand, alone.chi2[1]), rtol=1e-4
    )
    assert sky.accuracy(alone) < sky.accuracy(apart) < sky.accuracy(shared)


def test_a_pixel_without_a_patch_is_left_out(instrument, files):
    patches = np.ma.masked_where(PARENT == 7, PARENT.astype(float))
    patches[PARENT == 9], patches[PARENT == 11] = np.nan, hp.UNSEEN
    found = fit(files, instrument, models=CURVATURE, noise_scale=0.1, patches=patches)
    np.testing.assert_array_equal(found.fitted, ~np.isin(PARENT, (7, 9, 11)))


@pytest.mark.parametrize(
    ("patches", "message"),
    [
        (3, "an Nside, a power of 2 from 1 to that of the maps, 16, got 3"),
        (32, "to that of the maps, 16, got 32"),
        (0, "to that of the maps, 16, got 0"),
        (True, "to that of the maps, 16, got True"),
        (
            {"curvatur": 4},
            r"patches of model, beta_s, curvature, .* 'curvatur \(do you mean curvature",
        ),
        ({"beta_d": 4}, "expected patches of model, beta_s, curvature, as these models have them"),
        (PARENT[:-1], r"patches of shape \(3072,\), a number for each pixel of Nside 16, got"),
        (PARENT + 0.5, r"patches: expected whole numbers, got [0-9]+\.5"),
        (np.full(N_PIX, -1), "patches: expected patches numbered from 0, got none such pixel"),
    ],
)
def test_wrong_patches(instrument, files, patches, message):
    with pytest.raises(ForeglowError, match=message):
        fit(files, instrument, models=CURVATURE, noise_scale=0.1, patches=patches)


def test_patches_in_a_file_must_be_those_of_the_maps(instrument, files, tmp_path):
    path = tmp_path / "patches.fits"
    hp.write_map(path, np.zeros(192), dtype=np.float64, coord="G")
    with pytest.raises(MapError, match="expected patches of Nside 16 in frame G, as the maps"):
        fit(files, instrument, models=CURVATURE, noise_scale=0.1, patches=path)
    hp.write_map(path, np.full(N_PIX, 2.0**24), dtype=np.float64, coord="G", overwrite=True)
    with pytest.raises(MapError, match="numbered below 16777216, got one of 16777216"):
        fit(files, instrument, models=CURVATURE, noise_scale=0.1, patches=path)


def test_patches_by_the_command(by_patches, files, tmp_path):
    out = tmp_path / "fit.fits"
    maps = [part for band, path in files.items() for part in ("--maps", f"{band}={path}")]
    arguments = [*maps, "--models", "curvature", "--noise-scale", "0.1", "--out", str(out)]
    done = CliRunner().invoke(cli.app, ["recognize", "fit", *arguments, "--patches", "4"])
    assert done.exit_code == 0, done.output
    np.testing.assert_allclose(beta_s_of(out), by_patches.beta_s, atol=1e-5)
    both = ["--patches", "curvature=4", "--patches", "beta_s=4", "--overwrite"]
    done = CliRunner().invoke(cli.app, ["recognize", "fit", *arguments, *both])
    assert done.exit_code == 0, done.output
    np.testing.assert_allclose(beta_s_of(out), by_patches.beta_s, atol=1e-5)
    for wrong in (["4", "8"], ["curvature=4", "curvature=8"], ["4", "curvature=8"]):
        options = [part for text in wrong for part in ("--patches", text)]
        done = CliRunner().invoke(cli.app, ["recognize", "fit", *arguments, *options])
        assert done.exit_code != 0
        assert "expected --patches once, or as NAME=PATCHES" in str(done.exception)
