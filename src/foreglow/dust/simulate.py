"""The mock Galaxy's HI cube and dust as files, to try the whole way on before real maps come."""

from pathlib import Path

import numpy as np
import tomli_w

from foreglow.dust.inputs import MOCK_UNIT, faint_sky
from foreglow.errors import SkyError
from foreglow.files import new_directory, scratch_directory, write_text
from foreglow.hi_cube.cube import write_cube
from foreglow.maps.write import write_maps
from foreglow.sky.gas import MockGas, mock_gas
from foreglow.sky.hydrogen import HI4PI_BEAM_ARCMIN, velocity_channels

CUBE, DUST, MASK, CARD = "cube.zarr", "dust.fits", "mask.fits", "sky.toml"


def make_sky_files(out: Path, nside: int, low_kms: float, high_kms: float, seed: int) -> Path:
    """Write cube, dust maps and mask of the mock Galaxy; the body of `foreglow dust simulate`.

    Parameters
    ----------
    out : Path
        Folder for `cube.zarr` [K], `dust.fits` [I, Q, U; uK_RJ at 353 GHz] and `mask.fits`, none
        of them filtered, and `sky.toml`, which names them for `foreglow reproduce zhang2019 --sky`.
    nside : int
        A power of two.
    low_kms, high_kms : float
        Centres of the first channel and the last, LSR.
    seed : int

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    SkyError
        If the folder holds something already, or the Nside or the velocities are none.
    """
    velocity = velocity_channels(low_kms, high_kms)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SkyError(f"{out} is not empty; give another out=.")
    source = f"foreglow's mock Galaxy, seed {seed}: a stand-in, not the sky"
    card = {
        "hydrogen": {"file": CUBE},
        "dust_intensity": {"file": DUST},
        "mask": {"file": MASK},
    }
    with new_directory(out) as new, scratch_directory(new / "hydrogen") as folder:
        gas = mock_gas(nside, seed, folder=folder)
        _write_dust(new, gas, seed)
        hydrogen = gas.hydrogen
        del gas  # the cube takes its room
        channels = hydrogen.cube(velocity, noise=True)
        write_cube(new / CUBE, velocity, channels, nside, HI4PI_BEAM_ARCMIN, source)
        write_text(new / CARD, tomli_w.dumps(card))
    return out


def _write_dust(new: Path, gas: MockGas, seed: int) -> None:
    """Write the dust of a mock Galaxy and the mask of its faint sky."""
    header = {"FREQGHZ": 353.0, "ORIGIN": "foreglow mock Galaxy", "SEED": seed}
    dust, (q, u) = gas.dust.total, gas.observed_polarisation
    stokes = {"I": (dust, MOCK_UNIT), "Q": (q, MOCK_UNIT), "U": (u, MOCK_UNIT)}
    write_maps(new / DUST, stokes, frame="G", header=header)
    write_maps(new / MASK, {"MASK": (faint_sky(dust).astype(np.float32), "")}, frame="G")
