"""Small files in the exact form of the registry's products: columns, formats, units, header cards.

Each takes the folder it is written to and returns the file; what the archives have at Nside 2048 is
here at 8. Sources of the forms: `sources` and `unverified` of registry.toml.
"""

import healpy as hp
import numpy as np
from astropy.io import fits

from hi_cubes import hi4pi_header, smooth_data, write_fits

NSIDE = 8
N_PIX = hp.nside2npix(NSIDE)
GAL = ["GAL020", "GAL040", "GAL060", "GAL070", "GAL080", "GAL090", "GAL097", "GAL099"]
SPLITS = ("FULL", "HM1", "HM2", "HR1", "HR2", "YR1", "YR2")


def healpix(path, columns, ordering="NESTED", nside=NSIDE, **cards):
    """Write a table, a pixel a row, as Planck's are; columns: (name, TFORM, TUNIT, values)."""
    definitions = [
        fits.Column(name=name, format=form, unit=unit, array=values)
        for name, form, unit, values in columns
    ]
    table = fits.BinTableHDU.from_columns(definitions)
    planck = {
        "PIXTYPE": "HEALPIX",
        "ORDERING": ordering,
        "COORDSYS": "GALACTIC",
        "NSIDE": nside,
        "FIRSTPIX": 0,
        "LASTPIX": 12 * nside**2 - 1,
        "BAD_DATA": hp.UNSEEN,
    }
    for key, value in (planck | cards).items():
        if value is None:
            table.header.remove(key, ignore_missing=True)
        else:
            table.header[key] = value
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path, overwrite=True)
    return path


def sky(seed=0, scale=1.0):
    """Values with some pixels unobserved."""
    values = scale * np.random.default_rng(seed).lognormal(size=N_PIX)
    values[[0, 77]] = hp.UNSEEN
    return values


def hi4pi_cube(folder, name="CAR.fits", lon=0.0):
    shape = (40, 19, 37)
    header = hi4pi_header(shape, 10.0, lon=lon, first_kms=-20.0)
    return write_fits(folder / name, smooth_data(shape, 10.0, lon), header)


def hi4pi_tile(folder):
    return hi4pi_cube(folder, "CAR_E01.fits", lon=10.0)


def hi4pi_nhi(folder, nside=NSIDE):
    """HPXINDEX first and NHI last, RING, EXPLICIT."""
    pixels = np.arange(hp.nside2npix(nside))
    glon, glat = hp.pix2ang(nside, pixels, lonlat=True)
    columns = [
        ("HPXINDEX", "K", None, pixels),
        ("RA2000", "D", "deg", glon),
        ("DEC2000", "D", "deg", glat),
        ("GLON", "D", "deg", glon),
        ("GLAT", "D", "deg", glat),
        ("NHI", "D", "cm-2", 1e20 * np.abs(glat)),
    ]
    path = folder / "NHI_HPX.fits"
    return healpix(path, columns, "RING", nside, INDXSCHM="EXPLICIT", COORDSYS="G", BAD_DATA=None)


def commander_dust(folder):
    path = folder / "COM_CompMap_ThermalDust-commander_2048_R2.00.fits"
    columns = [(f"I_ML_{split}", "E", "uK_RJ", sky(k)) for k, split in enumerate(SPLITS)]
    return healpix(path, columns, METHOD="COMMANDER", NU_REF="545.0 GHz")


def commander_dust_256(folder):
    path = folder / "COM_CompMap_dust-commander_0256_R2.00.fits"
    units = {"I": "uK_RJ", "TEMP": "K", "BETA": None}
    columns = [
        (f"{name}_{kind}", "E", unit, sky(k))
        for name, unit in units.items()
        for k, kind in enumerate(("ML", "MEAN", "RMS"))
    ]
    return healpix(path, columns, METHOD="COMMANDER", NU_REF="545.0 GHz")


def commander_qu(folder):
    path = folder / "COM_CompMap_DustPol-commander_1024_R2.00.fits"
    columns = [
        (f"{letter}_ML_{split}", "E", "uK_RJ", sky(k))
        for k, split in enumerate(SPLITS)
        for letter in "QU"
    ]
    cards = {"POLCCONV": "COSMO", "POLAR": True, "FWHM": 10.0, "NU_REF": "353.0 GHz"}
    return healpix(path, columns, EXTNAME="COMP-MAP-DustPol", METHOD="COMMANDER", **cards)


def gnilc_dust(folder):
    path = folder / "COM_CompMap_Dust-GNILC-F353_2048_R2.00.fits"
    return healpix(path, [("I", "E", "MJy/sr", sky())])


def gnilc_iqu(folder, kind="varres", last=("RESOLUTION",)):
    path = folder / f"COM_CompMap_IQU-thermaldust-gnilc-{kind}_2048_R3.00.fits"
    stokes = [(f"{letter}_STOKES", "E", "K_CMB", sky(k, 1e-6)) for k, letter in enumerate("IQU")]
    pairs = ("II", "IQ", "IU", "QQ", "QU", "UU")
    rest = [(f"{pair}_COV", "E", "K_CMB^2", sky()) for pair in pairs]
    rest += [(name, "E", "arcmin", sky()) for name in last]
    return healpix(path, [*stokes, *rest], POLCCONV="COSMO")


def gnilc_iqu_80(folder):
    return gnilc_iqu(folder, "unires", ())


def galactic_mask(folder, apodised=0, form="B"):
    """One column a fraction of the sky, no unit."""
    glat = hp.pix2ang(NSIDE, np.arange(N_PIX), nest=True, lonlat=True)[1]
    columns = [
        (name, form, None, (np.abs(glat) > cut).astype("f4" if form == "E" else "u1"))
        for name, cut in zip(GAL, (53, 37, 24, 17, 12, 6, 2, 1), strict=True)
    ]
    path = folder / f"HFI_Mask_GalPlane-apo{apodised}_2048_R2.00.fits"
    return healpix(path, columns, EXTNAME="GAL-MASK", BAD_DATA=None)


def mask_apo2(folder):
    return galactic_mask(folder, 2, "E")


def mask_apo5(folder):
    return galactic_mask(folder, 5, "E")


def source_mask(folder):
    """Two extensions, of intensity and of polarisation; a few pixels are masked in each column."""
    path = folder / "HFI_Mask_PointSrc_2048_R2.00.fits"
    kept = np.ones(N_PIX, "u1")
    kept[[5, 300]] = 0
    names = ["F100", "F143", "F217", "F353", "F545", "F857"]
    healpix(path, [(name, "B", None, kept) for name in names], EXTNAME="SRC-INT", BAD_DATA=None)
    with fits.open(path, mode="append") as hdus:
        second = fits.BinTableHDU.from_columns(hdus[1].columns[:4])
        second.header["EXTNAME"] = "SRC-POL"
        hdus.append(second)
    return path


def mask_lr72(folder):
    """Of no known form: one column, as healpy writes it."""
    glat = hp.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)[1]
    values = (np.abs(glat) > 16).astype("f4")
    return healpix(folder / "LR72.fits", [("TEMPERATURE", "E", None, values)], "RING")


def pysm_templates(folder):
    """A template, as PySM's: one column, unit perhaps not stated."""
    path = folder / "dust_t_new.fits"
    return healpix(path, [("TEMPERATURE", "E", "uK_RJ", sky())], "RING", COORDSYS=None)


def pysm_emissivity(folder):
    path = folder / "emissivity.txt"
    np.savetxt(path, np.stack([np.geomspace(1, 100, 30), np.linspace(1, 2, 30)], axis=1))
    return path


FORMS = {
    "hi4pi-cube": hi4pi_cube,
    "hi4pi-tiles": hi4pi_tile,
    "hi4pi-nhi": hi4pi_nhi,
    "planck-commander-dust": commander_dust,
    "planck-commander-dust-256": commander_dust_256,
    "planck-commander-qu": commander_qu,
    "planck-gnilc-dust": gnilc_dust,
    "planck-gnilc-iqu": gnilc_iqu,
    "planck-gnilc-iqu-80": gnilc_iqu_80,
    "planck-mask-apo0": galactic_mask,
    "planck-mask-apo2": mask_apo2,
    "planck-mask-apo5": mask_apo5,
    "planck-mask-sources": source_mask,
    "planck-mask-lr72": mask_lr72,
    "pysm-templates": pysm_templates,
}
