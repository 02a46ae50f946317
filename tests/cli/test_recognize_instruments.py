"""The command line with an instrument, candidates and beams of one's own."""

from astropy.io import fits

from foreglow.recognition.fit_maps import fit
from foreglow.recognition.network import train as training
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.sky.instrument_files import load_instrument

MODELS = "power_law,dust_moments,two_temperatures"


def test_own_bands_and_candidates_from_simulation_to_fit(run, tmp_path, monkeypatch):
    for sample in ("_STANDARDISATION_SAMPLE", "_CALIBRATION_SAMPLE"):
        monkeypatch.setattr(training, sample, 1024)
    sky, model, found = tmp_path / "sky", tmp_path / "model", tmp_path / "found.fits"
    bands = ("--instrument", "so-sat+wmap", "--models", MODELS)
    assert run("-q", "recognize", "simulate", "--out", sky, *bands, "--nside", 16)[0] == 0
    code, _, err = run(
        "-q", "recognize", "train", "--out", model, *bands, "--epochs", 1, "--steps", 2,
        "--batch", 64, "--device", "cpu",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert Recogniser.load(model).models == tuple(MODELS.split(","))
    maps = []
    for name in load_instrument("so-sat+wmap").band:
        maps += ["--maps", f"{name}={sky / f'band_{name}.fits'}"]
    code, _, err = run("-q", "recognize", "classify", "--model", model, *maps, "--out", found)
    assert (code, err) == (0, "")
    assert "P_DUST_MOMENTS" in fits.getdata(found).names
    code, _, err = run(
        "-q", "recognize", "fit", *bands, *maps, "--out", found, "--overwrite",
        "--common-fwhm", 600,
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert fits.getheader(found, 1)["NSIDE"] == 8
    assert {p.name for p in tmp_path.iterdir()} == {"sky", "model", "found.fits"}
    paths = {name: sky / f"band_{name}.fits" for name in load_instrument("so-sat+wmap").band}
    fit(
        paths, "so-sat+wmap", models=MODELS.split(","), common_fwhm="10 deg",
        out=tmp_path / "python.fits",
    )  # fmt: skip
    assert (tmp_path / "python.fits").read_bytes() == found.read_bytes()


def test_mistakes(run, tmp_path):
    code, _, err = run("recognize", "train", "--out", tmp_path / "m", "--models", "power_law,bent")
    assert code == 2
    assert "two or more of the models power_law, curved" in err
    code, _, err = run("recognize", "train", "--out", tmp_path / "m", "--instrument", "s-pass")
    assert code == 2
    assert "'s-pass' has 1 and 0" in err
    assert not (tmp_path / "m").exists()
