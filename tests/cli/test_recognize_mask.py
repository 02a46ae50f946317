"""`--mask` of the commands that look at maps: the sky counts where it is above zero."""

import numpy as np
import pytest
from astropy.io import fits

from foreglow.maps.write import write_maps
from words import is_one_paragraph, pairs

KEEP = np.arange(192) > 150


@pytest.fixture
def masks(tmp_path):
    """One of the Nside of the maps, one of another."""
    for name, keep in {"mask": KEEP, "fine": np.ones(768)}.items():
        write_maps(tmp_path / f"{name}.fits", {"M": (keep.astype(np.float32), "")}, frame="G")
    return {"mask": tmp_path / "mask.fits", "fine": tmp_path / "fine.fits"}


@pytest.mark.filterwarnings("ignore")  # of levels: the maps are noise
@pytest.mark.parametrize("command", ["classify", "fit"])
def test_what_counts(run, model_folder, maps, masks, tmp_path, command):
    out = tmp_path / "out.fits"
    options = {"classify": ("--model", model_folder), "fit": ("--models", "curvature")}[command]
    arguments = ("-q", "recognize", command, *options, *pairs(maps), "--out", out)
    code, _, err = run(*arguments, "--mask", masks["mask"])
    assert code == 0, err
    np.testing.assert_array_equal(fits.getdata(out)["CLASS"] >= 0, KEEP)
    code, _, err = run(*arguments, "--mask", masks["fine"], "--overwrite")
    assert code == 2
    assert "fine.fits: expected a mask of Nside 4 in frame G, as the maps, got Nside 8" in err
    assert is_one_paragraph(err)
