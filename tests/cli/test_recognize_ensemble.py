"""Many skies from the command line: made, gone on with, classified and fitted like maps."""

import healpy as hp
import numpy as np
import pytest


@pytest.fixture(scope="module")
def make():
    return ["recognize", "simulate", "--realisations", 2, "--nside", 16, "--noise-scale", 0.1]


def test_simulate_classify_fit(run, make, model_folder, tmp_path):
    store = tmp_path / "skies.zarr"
    code, out, err = run(*make, "--out", store)
    assert (code, err) == (0, "")
    assert f"2 skies in {store}, 2 of them made now" in out
    code, _, err = run(*make, "--out", store)
    assert code == 2
    assert "exists; give another --out, or --resume" in err
    code, out, _ = run(*make, "--out", store, "--resume")
    assert "2 skies in" in out
    assert "0 of them made now" in out
    chosen = ["--ensemble", store, "--realisation", 1, "--memory", "3 GiB", "--device", "cpu"]
    for number, command in enumerate((["classify", "--model", model_folder], ["fit"])):
        path = tmp_path / f"{number}.fits"
        code, out, err = run("recognize", *command, *chosen, "--out", path)
        assert (code, err) == (0, "")
        assert "3072 of 3072 pixels" in out
        probability = np.array(hp.read_map(path, field=(0, 1, 2, 3)))
        np.testing.assert_allclose(probability.sum(0), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["simulate", "--resume"], "expected --resume and --workers with --realisations"),
        (
            ["simulate", "--workers", "local:2"],
            "expected --resume and --workers with --realisations",
        ),
        (["fit"], "expected --maps BAND=FILE, once a band, or --ensemble STORE, got neither"),
        (["fit", "--maps", "11=a.fits", "--ensemble", "s.zarr"], "got both"),
        (["fit", "--ensemble", "s.zarr", "--unit", "uK_CMB"], "expected an ensemble alone"),
        (["fit", "--ensemble", "s.zarr"], "s.zarr: expected an ensemble of skies"),
        (["classify", "--model", "mock-four", "--ensemble", "s.zarr"], "an ensemble of skies"),
        (
            ["fit", "--maps", "11=a.fits", "--workers", "nowhere"],
            "expected --workers as tcp://",
        ),
        (["fit", "--maps", "11=a.fits", "--memory", "lots"], "no such file"),
    ],
)
def test_mistakes(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("recognize", *arguments, "--out", "out")
    assert code == 2
    assert message in " ".join(err.split())
    assert not list(tmp_path.iterdir())


def test_memory_too_small(run, make, maps, tmp_path):
    files = [word for band, path in maps.items() for word in ("--maps", f"{band}={path}")]
    out = tmp_path / "fit.fits"
    code, _, err = run("recognize", "fit", *files, "--out", out, "--memory", "100 MiB")
    assert code == 2
    assert "MiB or more, got 100.00 MiB; give more --memory" in err
    assert not list(tmp_path.iterdir())
