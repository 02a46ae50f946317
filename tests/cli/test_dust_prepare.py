"""`foreglow dust prepare` as a user runs it: killed and resumed, in its memory."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from astropy.io import fits

from foreglow.hi_cube.cube import open_cube
from forked import run_script
from hi_cubes import hi4pi_header, smooth_data, write_fits
from words import is_one_paragraph

pytestmark = pytest.mark.filterwarnings("ignore:Nside .* do not sample a beam")

SHAPE = (120, 46, 91)


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    path = tmp_path_factory.mktemp("survey") / "CAR [all sky].fits"
    return write_fits(path, smooth_data(SHAPE, 4.0), hi4pi_header(SHAPE, 4.0, first_kms=-64.5))


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_from_fits_to_a_cube(run, survey, tmp_path):
    out = tmp_path / "hi [mine].zarr"
    code, text, err = run(
        "dust", "prepare", "--cube", survey, "--out", out, "--nside", 16, "--low", -10, "--high", 17
    )
    assert code == 0
    assert err == ""
    assert "prepare: 21 channels, 8 at a time, Nside 16" in text
    assert "hi [mine].zarr: 21 channels from -9.11 to 16.66 km/s (LSRK), Nside 16, beam" in text
    assert open_cube(out).n_channel == 21
    arguments = ("dust", "prepare", "--cube", survey, "--out", out, "--nside", 16)
    code, _, err = run(*arguments)
    assert (code, is_one_paragraph(err)) == (2, True)
    assert "a name that is free" in err
    assert run(*arguments, "--overwrite")[0] == 0
    assert open_cube(out).n_channel == 120


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--nside", "100"], "an Nside that is a power of two, got 100"),
        (["--nside", "16", "--memory", "1 MiB"], "give more --memory"),
        (["--nside", "16", "--low", "500"], "choose another range (--low, --high)"),
        (["--nside", "16", "--unit", "Jy"], "expected --unit 'K' or 'mK'"),
        (["--nside", "16", "--beam", "1"], "expected --beam to agree with the header"),
        (["--velocity-table", "v.txt"], "v.txt: expected a text file of velocities, got none"),
    ],
)
def test_mistakes(run, survey, tmp_path, options, message):
    out = tmp_path / "out.zarr"
    code, _, err = run("-q", "dust", "prepare", "--cube", survey, "--out", out, *options)
    assert code == 2
    assert is_one_paragraph(err)
    assert message in err
    assert not out.exists()


# the process sends itself a signal once 16 channels are noted as written
STRUCK = """
import json, os, signal, sys
replace = os.replace
def strike(new, path, **options):
    replace(new, path, **options)
    if os.path.basename(path) == "progress.json":
        with open(path) as file:
            done = len(json.load(file)["observed"])
        if done >= 16:
            os.kill(os.getpid(), signal.{signal})
os.replace = strike
sys.argv = {argv!r}
from foreglow.__main__ import main
main()
"""


def struck(name, *words):
    """`foreglow dust prepare` that a signal meets on its way."""
    argv = ["foreglow", "dust", "prepare", *map(str, words)]
    return run_script(STRUCK.format(signal=name, argv=argv))


def channels_done(folder):
    return len(json.loads((folder / "progress.json").read_text())["observed"])


def test_killed_and_resumed(run, survey, tmp_path):
    """Killed without a word it goes on, and gives the same bytes."""
    words = ["--cube", survey, "--nside", 32]
    whole, out = tmp_path / "whole.zarr", tmp_path / "c.zarr"
    assert run("-q", "dust", "prepare", *words, "--out", whole)[0] == 0
    assert struck("SIGKILL", *words, "--out", out).code == -signal.SIGKILL
    assert not out.exists()
    assert channels_done(tmp_path / "c.zarr.partial") == 16
    code, text, _ = run("dust", "prepare", *words, "--out", out, "--resume")
    assert code == 0
    assert "going on at channel 16 of 120" in text
    assert files_of(out) == files_of(whole)


def test_ctrl_c_says_how_to_go_on(survey, tmp_path):
    ended = struck("SIGINT", "--cube", survey, "--nside", 32, "--out", tmp_path / "c.zarr")
    assert ended.code == 130
    said = "interrupted; what was done is kept: the same command with --resume goes on."
    assert ended.err.endswith(f"\n{said}\n")
    assert "Traceback" not in ended.err
    assert channels_done(tmp_path / "c.zarr.partial") == 16


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_stays_below_the_bound(tmp_path):
    """The whole process, Python and libraries included, on a cube larger than the bound."""
    bound, shape = 420 << 20, (110, 723, 1443)
    path = tmp_path / "large.fits"
    write_zeros(path, shape)
    assert path.stat().st_size > bound
    # not getrusage: its maximum outlives exec, so it would count the process that runs the tests
    program = (
        "import pathlib, sys; from foreglow.hi_cube.prepare import prepare; "
        "prepare([sys.argv[1]], sys.argv[2], nside=64, memory='420 MiB'); "
        "print(pathlib.Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    measured = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, path, tmp_path / "c.zarr"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(measured.stdout) << 10 < bound
    assert open_cube(tmp_path / "c.zarr").n_channel == 110


def write_zeros(path, shape):
    """A cube whose data the file system need not keep."""
    full = fits.Header([("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 3)])
    full.update({f"NAXIS{i + 1}": n for i, n in enumerate(shape[::-1])})
    full.extend(hi4pi_header(shape, 0.25), strip=False)
    with path.open("wb") as stream:
        stream.write(full.tostring().encode())
        size = 4 * int(np.prod(shape))
        stream.truncate(stream.tell() + size + -size % 2880)
