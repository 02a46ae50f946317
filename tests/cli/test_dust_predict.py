"""`foreglow dust predict` and `evaluate`: a map and a table come out, mistakes in one paragraph."""

import healpy as hp
import numpy as np
import pytest
import torch

from foreglow.dust import stitch
from foreglow.dust.model import DustModel
from foreglow.hi_cube.cube import write_cube
from foreglow.maps.gnomonic import Grid
from foreglow.maps.write import write_maps
from words import is_one_paragraph

NSIDE = 16
VELOCITY = np.arange(-66.0, 19.0, 12.0)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    few = stitch.centres(4)
    monkeypatch.setattr(stitch, "centres", lambda: few)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A model, and a user's cube, dust map and mask."""
    folder, n_pix = tmp_path_factory.mktemp("own"), hp.nside2npix(NSIDE)
    model = DustModel.untrained(
        "unet", "channels", 2, VELOCITY, Grid(32, 46.8), NSIDE, "MJy/sr", (0, 1)
    )
    model.save(folder / "model")
    rng = np.random.default_rng(0)
    maps = rng.lognormal(size=(VELOCITY.size, n_pix)).astype(np.float32)
    write_cube(folder / "hi.zarr", VELOCITY, maps, NSIDE, 16.2, "made up")
    write_maps(folder / "dust.fits", {"DUST": (maps.sum(0), "MJy/sr")}, frame="G")
    latitude = hp.pix2ang(NSIDE, np.arange(n_pix), lonlat=True)[1]
    mask = (np.abs(latitude) > 20).astype(np.float32)
    write_maps(folder / "mask.fits", {"MASK": (mask, "")}, frame="G")
    return folder


def predict(own, out, *more):
    given = ("--model", own / "model", "--cube", own / "hi.zarr", "--mask", own / "mask.fits")
    return ("dust", "predict", *given, "--out", out, "--device", "cpu", *more)


def test_a_map_comes_out(run, own, tmp_path):
    code, said, err = run(*predict(own, tmp_path / "out.fits"))
    assert code == 0, err
    assert "1984 of 3072 pixels predicted (64.6% of the sky)" in said
    assert f"written: {tmp_path / 'out.fits'}" in said
    mean = hp.read_map(tmp_path / "out.fits")
    assert 0.6 < np.mean(mean != hp.UNSEEN) < 0.7
    code, _, err = run(*predict(own, tmp_path / "out.fits"))
    assert code == 2
    assert "give another --out, or --overwrite to replace it" in err
    assert is_one_paragraph(err)
    again = predict(own, tmp_path / "out.fits", "--overwrite", "--dust", own / "dust.fits")
    assert run(*again)[0] == 0


def evaluate(own, *more):
    given = ("--model", own / "model", "--cutouts", 4, "--device", "cpu")
    return ("dust", "evaluate", *given, *more)


def files(own):
    names = {"--cube": "hi.zarr", "--dust": "dust.fits", "--mask": "mask.fits"}
    return [part for option, name in names.items() for part in (option, own / name)]


def test_a_table_comes_out(run, own):
    code, said, err = run(*evaluate(own, *files(own)))
    assert code == 0, err
    for word in ("integrated", "unet", "by mode", "spectra", "wins, r150", "4 cutouts"):
        assert word in said
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "expected --sky 'mock', or both --cube and --dust"),
        (("--sky", "mock"), "expected a dust map in MJy/sr, as the model was trained with, got"),
        (("--sky", "mock", "--region", "up"), "expected region north, south, east, west"),
        (("--sky", "mock", "--model", "nowhere"), "expected a model directory"),
    ],
)
def test_mistakes(run, own, options, message):
    code, _, err = run(*evaluate(own, *options, *(("--nside", 16) if options else ())))
    assert code == 2
    assert message in err
    assert is_one_paragraph(err)
