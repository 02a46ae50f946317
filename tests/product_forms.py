"""Small files in the exact form of the registry's products: columns, formats, units, header cards.

Each takes the folder it is written to and returns the file; what the archives have at Nside 2048 is
here at 8. Sources of the forms: `sources` and `unverified` of registry.toml.
"""

import healpy as hp
import numpy as np
from astropy.io import fits

from hi_cubes import hi4pi_header, raw_fits, smooth_data, write_fits

NSIDE = 8
N_PIX = hp.nside2npix(NSIDE)
GAL = ["GAL020", "GAL040", "GAL060", "GAL070", "GAL080", "GAL090", "GAL097", "GAL099"]
GALFA = "GALFA_HI_RA+DEC_004.00+02.35_N.fits"
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


def gass_header(shape, pixel_deg=0.08, centre=(295.0, -41.0), first_kms=-494.7):
    """Cards as the server of GASS III writes them, less comments; 13 x 13 x 1201 of them there."""
    rows, columns = shape[1:]
    cards = {
        "CTYPE1": "GLON-CAR", "CRVAL1": centre[0], "CRPIX1": (columns + 1) / 2,
        "CDELT1": -pixel_deg / np.cos(np.radians(centre[1])), "CROTA1": 0.0, "CUNIT1": "DEG",
        "CTYPE2": "GLAT-CAR", "CRVAL2": 0.0, "CRPIX2": (rows + 1) / 2 - centre[1] / pixel_deg,
        "CDELT2": pixel_deg, "CROTA2": 0.0, "CUNIT2": "DEG",
        "CTYPE3": "VELO-LSRK", "CRVAL3": 1000 * first_kms, "CRPIX3": 1, "CDELT3": 824.5000243187,
        "CROTA3": 0.0, "CUNIT3": "M/S", "PROJ": "FLAT", "SYSTEM": "GALACTIC", "BUNIT": "K",
        "OBSTYP": "LINE", "FREQ0": 1.420405752e9, "RESTFREQ": 1.420405752e9,
        "BMMIN": 0.24, "BMMAX": 0.24, "RESOL": 0.2649166613817,
        "BZERO": 70.0, "BSCALE": 0.0025, "BLANK": -32768,
        "OBJECT": "GASS_III Galactic HI Survey", "TELESCOP": "ATNF Parkes 64-m",
        "ORIGIN": "http://www.astro.uni-bonn.de/hisurvey/gass", "OBSERVER": "Kalberla & Haud",
    }  # fmt: skip
    return fits.Header(list(cards.items()))


def galfa_header(shape, pixel_arcmin=1.0, centre=(4.0, 2.35), step_ms=184.0307099):
    """Cards as GALFA-HI's own software writes them: its cubes are 512 x 512 x 2048."""
    n, rows, columns = shape
    scale = 60 / pixel_arcmin
    cards = {
        "BUNIT": "K", "EQUINOX": 2000.0, "TELESCOP": "Arecibo 305-m", "INSTRUME": "ALFA",
        "OBSERVER": "unknown",
        "CTYPE1": "RA---CAR", "CRVAL1": 180.0, "CDELT1": -1 / scale, "CROTA1": 0.0,
        "CRPIX1": (columns + 1) / 2 - scale * (180 - centre[0]),
        "CTYPE2": "DEC--CAR", "CRVAL2": 0.0, "CDELT2": 1 / scale, "CROTA2": 0.0,
        "CRPIX2": (rows + 1) / 2 - scale * centre[1],
        "CTYPE3": "VELO-LSR", "CRVAL3": 0.0, "CRPIX3": (n + 1) / 2, "CDELT3": step_ms,
        "CROTA3": 0.0, "BMIN": 4 / 60, "BMAJ": 4 / 60, "RESTFREQ": 1420.40576e6,
        "BSCALE": 400 / 65535, "BZERO": 0.0,
        "OBJECT": f"GALFA-HI RA+DEC Tile {centre[0]:06.2f}+{centre[1]:05.2f}",
    }  # fmt: skip
    return fits.Header(list(cards.items()))


def stored(values, header, path):
    """A cube of K as 16-bit integers; NaN as -32768."""
    counts = np.round((values - header["BZERO"]) / header["BSCALE"])
    path.write_bytes(raw_fits(np.where(np.isfinite(counts), counts, -32768).astype("i2"), header))
    return path


def gass_cutout(folder):
    shape = (40, 13, 13)
    header = gass_header(shape, first_kms=-20.0)
    return stored(smooth_data(shape), header, folder / "gass_295_-41.fits")


def galfa_narrow(folder):
    shape = (41, 16, 16)
    return stored(smooth_data(shape), galfa_header(shape), folder / GALFA)


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


def quijote_mask(folder):
    """One column; of its header nothing is known but its order."""
    glat = hp.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)[1]
    path = folder / "mask_quijote_ncp_lowdec_satband_nside512.fits"
    return healpix(path, [("MASK", "E", None, (glat > 10).astype("f4"))], "RING", COORDSYS=None)


def rimo(path, bandpasses, unit, **other):
    """A RIMO of Planck: tables of channels, then an extension for each bandpass."""
    channels = fits.BinTableHDU.from_columns(
        [fits.Column("DETECTOR", "8A", array=np.array(["100-1a"]))], name="CHANNEL_PARAMETERS"
    )
    hdus = [fits.PrimaryHDU(), channels]
    for name, (nu, gain) in bandpasses.items():
        columns = [
            fits.Column("WAVENUMBER", "D", unit=unit, array=nu),
            fits.Column("TRANSMISSION", "D", array=gain),
            fits.Column("ERROR", "D", array=0 * gain),
            fits.Column("FLAG", "L", array=np.zeros(len(nu), bool)),
        ]
        hdus.append(fits.BinTableHDU.from_columns(columns, name=name, **other))
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def planck_rimo(folder):
    """HFI's, in 1/cm: flat within 3% of the nominal frequencies."""
    light = 29.9792458  # GHz cm
    bandpasses = {
        f"BANDPASS_F{ghz}": (np.linspace(0.96, 1.04, 81) * ghz / light, np.ones(81))
        for ghz in (100, 143, 217, 353)
    }
    for _, gain in bandpasses.values():
        gain[:10] = gain[-10:] = 0
    return rimo(folder / "HFI_RIMO_R3.00.fits", bandpasses, "1/cm")


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
    "gass-cutouts": gass_cutout,
    "galfa-hi-narrow": galfa_narrow,
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
    "planck-rimo": planck_rimo,
    "quijote-mfi-mask": quijote_mask,
    "pysm-templates": pysm_templates,
}
