"""The paper's products in their exact form, made from the mock Galaxy: the truth is known.

Coarse: what HI4PI has in pixels of 5 arcmin is here in pixels of a degree, what Planck has at Nside
2048 is here at 128, each pixel of the mock's 64 four times. A server on this machine stands for the
archives, and the registry is told so.
"""

from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import healpy as hp
import numpy as np
import torch

from drawing import draw_small
from file_server import serve
from foreglow.data import registry
from foreglow.dust.inputs import faint_sky
from foreglow.maps.conventions import to_uk_rj_factor
from foreglow.sky import seds
from foreglow.sky.gas import MockGas, mock_gas
from hi_cubes import HI4PI_STEP, hi4pi_header, raw_fits
from product_forms import GAL, SPLITS, gass_header, healpix, stored

NSIDE, PLANCK = 64, 128  # of the mock, and of what stands for Nside 2048
PIXEL_DEG = 1.0  # of what stands for 5 arcmin
TUTORIAL_DEG = 0.5  # of the cube of the tutorial, which is run at Nside 128
FIRST_KMS, N_CHANNEL = -67.0, 70
SOURCES = (4000, 80000, 160000)  # pixels, NESTED, in which a source shines in the dust map
CUBE, COMMANDER = "CAR.fits", "COM_CompMap_ThermalDust-commander_2048_R2.00.fits"
GNILC, MASKS = (
    "COM_CompMap_Dust-GNILC-F353_2048_R2.00.fits",
    "HFI_Mask_GalPlane-apo0_2048_R2.00.fits",
)
SOURCE_MASK = "HFI_Mask_PointSrc_2048_R2.00.fits"


@cache
def gas(seed: int = 0) -> MockGas:
    """The mock Galaxy that all products show."""
    return mock_gas(NSIDE, seed)


def velocity_kms() -> np.ndarray:
    """Centres of the channels, on HI4PI's grid."""
    return FIRST_KMS + HI4PI_STEP / 1000 * np.arange(N_CHANNEL)


def cube_on(
    path: Path, shape: tuple[int, int], lon=0.0, lat=0.0, pixel_deg=PIXEL_DEG, **cards
) -> Path:
    """A CAR cube about a longitude and latitude: rows, columns; m/s, VRAD, K, BLANK as HI4PI's."""
    rows, columns = shape
    x, y = (columns + 1) / 2, (rows + 1) / 2
    header = hi4pi_header(
        (N_CHANNEL, *shape), pixel_deg, lon=lon, crpix=(x, y - lat / pixel_deg),
        first_kms=FIRST_KMS, BLANK=-32768, **cards,
    )  # fmt: skip
    glat = lat + pixel_deg * (np.arange(1, rows + 1) - y)[:, None]
    glon = lon - pixel_deg * (np.arange(1, columns + 1) - x)[None, :]
    data = shown(glon, glat, velocity_kms())
    path.write_bytes(raw_fits(data, header))  # astropy would warn of BLANK among floats
    return path


def shown(glon: np.ndarray, glat: np.ndarray, kms: np.ndarray) -> np.ndarray:
    """The mock's line (K) on a plate carree; NaN beyond the poles."""
    glat, glon = np.broadcast_arrays(glat, glon)
    there = np.abs(glat) <= 90
    theta, phi = np.radians(90 - np.clip(glat, -90, 90)), np.radians(glon)
    pixel, weight = hp.get_interp_weights(NSIDE, theta, phi)
    data = np.empty((len(kms), *glat.shape), np.float32)
    for k, channel in enumerate(gas().hydrogen.cube(kms, noise=True)):
        data[k] = np.where(there, (channel[pixel] * weight).sum(0), np.nan)
    return data


def gass_cutout(path: Path | str, side=80, pixel_deg=0.5, centre=(120.0, 40.0)) -> Path:
    """A cut-out in the form of GASS III's server, 40 degrees high."""
    shape = (106, side, side)
    header = gass_header(shape, pixel_deg, centre, first_kms=-68.0)
    pixels = np.arange(1, side + 1)
    lon, lat = (
        header[f"CRVAL{i}"] + header[f"CDELT{i}"] * (pixels - header[f"CRPIX{i}"]) for i in (1, 2)
    )
    kms = (header["CRVAL3"] + header["CDELT3"] * np.arange(shape[0])) / 1000
    return stored(shown(lon[None, :], lat[:, None], kms), header, Path(path))


def finer(values: np.ndarray) -> np.ndarray:
    """A RING map of the mock on Planck's pixels, NESTED."""
    return np.repeat(hp.reorder(values, r2n=True), (PLANCK // NSIDE) ** 2)


def car_cube(folder: Path, **cards) -> Path:
    """The whole sky, with a column more than a turn has, as HI4PI's."""
    return cube_on(folder / CUBE, (181, 361), **cards)


def fill_cache(folder: Path | str) -> None:
    """What a reader of the tutorial has fetched: a cache of coarse products."""
    folder = Path(folder)
    for name in ("hi4pi", "planck"):
        (folder / name).mkdir(parents=True)
    rows, columns = round(180 / TUTORIAL_DEG) + 1, round(360 / TUTORIAL_DEG) + 1
    cube_on(folder / "hi4pi" / CUBE, (rows, columns), pixel_deg=TUTORIAL_DEG)
    for make in (commander, masks, source_mask):
        make(folder / "planck")


def commander(folder: Path, name=COMMANDER, factor=1.0, **cards) -> Path:
    """Dust at 545 GHz [uK_RJ], NESTED, seven splits of the data; sources shine in it."""
    spectrum = float(seds.modified_blackbody(torch.tensor(545.0, dtype=torch.float64)))
    dust = finer(gas().dust.total) * spectrum * factor
    dust[list(SOURCES)] += 1e4 * factor
    columns = [(f"I_ML_{split}", "E", "uK_RJ", dust) for split in SPLITS]
    return healpix(
        folder / name, columns, nside=PLANCK, METHOD="COMMANDER", NU_REF="545.0 GHz", **cards
    )


def gnilc(folder: Path, **cards) -> Path:
    """Dust at 353 GHz [MJy/sr]."""
    dust = finer(gas().dust.total) / to_uk_rj_factor("MJy/sr", 353.0)
    return healpix(folder / GNILC, [("I", "E", "MJy/sr", dust)], nside=PLANCK, **cards)


def masks(folder: Path, **cards) -> Path:
    """Columns of bytes, open in the faintest 20 to 99% of the sky, NESTED."""
    dust = gas().dust.total
    columns = [
        (name, "B", None, finer(faint_sky(dust, int(name[3:]) / 100)).astype("u1")) for name in GAL
    ]
    return healpix(
        folder / MASKS, columns, nside=PLANCK, EXTNAME="GAL-MASK", BAD_DATA=None, **cards
    )


def source_mask(folder: Path) -> Path:
    """Bytes, 0 at the sources, NESTED; one extension here."""
    kept = np.ones(hp.nside2npix(PLANCK), "u1")
    kept[list(SOURCES)] = 0
    names = ["F100", "F143", "F217", "F353", "F545", "F857"]
    columns = [(name, "B", None, kept) for name in names]
    return healpix(folder / SOURCE_MASK, columns, nside=PLANCK, BAD_DATA=None)


def make_products(folder: Path) -> dict[str, bytes]:
    """All of the paper's products, by name."""
    made = [make(folder) for make in (car_cube, commander, gnilc, masks, source_mask)]
    return {path.name: path.read_bytes() for path in made}


@contextmanager
def archives(files, patch):
    """Serve some files, and tell the registry that all products live there.

    Parameters
    ----------
    files : dict of str to bytes
        By name.
    patch : MonkeyPatch

    Yields
    ------
    Archive
    """
    with serve(files=dict(files)) as running:
        point_registry(running.url, {name: len(content) for name, content in files.items()}, patch)
        yield running


def point_registry(url, sizes, patch):
    """Let all products of the registry live at an address, with the sizes of these files."""

    def here(product):
        name = product.files[0] if product.files else product.example
        return replace(
            product, base=url if product.base else "", bytes=sizes.get(name, product.bytes),
            bytes_exact=False, md5=None, md5_source=None,
        )  # fmt: skip

    products = tuple(here(product) for product in registry.load_registry())
    patch.setattr(registry, "load_registry", lambda: products)


def make_small(patch, settings):
    """The reproduction in a few steps, with settings of one's own and figures that are small."""
    from foreglow.reproduce import zhang2019
    from foreglow.reproduce.zhang2019 import experiment

    steps = ("what_the_sky_holds", "train_networks", "compare_models", "predicted_map")
    patch.setattr(zhang2019, "read_settings", lambda *_: dict(settings))
    patch.setattr(zhang2019, "STEPS", tuple(getattr(zhang2019, name) for name in steps))
    patch.setattr(experiment.figures, "save", draw_small)
    patch.setattr("foreglow.dust.train._CALIBRATION_CUTOUTS", 16)
    patch.setattr("foreglow.dust.train.VALIDATION_CUTOUTS", 8)
    patch.setattr("foreglow.dust.train._STANDARDISATION_CUTOUTS", 16)
    patch.setattr("foreglow.dust.validation._CENTRES", 100)
    patch.setattr("foreglow.dust.cutouts._MAX_ROUNDS", 30)
    patch.setattr("foreglow.reproduce.zhang2019.sky.PROFILE_KMS", settings["wide_kms"])
